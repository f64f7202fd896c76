"""Who a scan is of: what is certain is applied, what is likely is said, and neighbours are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.datasets.identity import doubts, subject_of


@pytest.mark.parametrize(
    ("name", "picture", "subject"),
    [
        ("acdc001_ED", False, "acdc001"),
        ("acdc001_ES", False, "acdc001"),
        ("patient001_frame01", False, "patient001"),
        ("scd_HF-I-01_ED", False, "scd_HF-I-01"),
        ("hippocampus_001", False, "hippocampus_001"),
        ("brats13_0001", False, "brats13_0001"),
        ("a7_ses-02_run-1", False, "a7"),
        ("x_tp2", False, "x"),
        ("ES", False, "ES"),
        ("redes", False, "redes"),
        ("curvas10001_0394", True, "curvas10001"),
        ("chd1001_0063", True, "chd1001"),
        ("chd1001_0063", False, "chd1001_0063"),
        ("lungct_002", True, "lungct_002"),
        ("isbi_z00", True, "isbi_z00"),
        ("ham_ISIC_0024311", True, "ham_ISIC_0024311"),
        ("dsb_05040e2e959c", True, "dsb_05040e2e959c"),
        ("2019_0001", True, "2019_0001"),
        # follow-ups
        ("BraTS-GLI-00006-000", False, "BraTS-GLI-00006"),
        ("BraTS-GLI-00006-001", False, "BraTS-GLI-00006"),
        ("BraTS-MEN-RT-0001-1", False, "BraTS-MEN-RT-0001"),
        ("BraTS20_Training_001", False, "BraTS20_Training_001"),
        ("case2_day1", False, "case2"),
        ("case2_day1_slice_0001", True, "case2"),
        ("p01_pre", False, "p01"),
        ("p01-post", False, "p01"),
        ("p01_preop", False, "p01"),
        ("p01_post-op", False, "p01"),
        ("p01_baseline", False, "p01"),
        ("p01_followup", False, "p01"),
        ("p01_follow-up2", False, "p01"),
        ("p01_t0", False, "p01"),
        ("p01_T1", False, "p01"),
        ("p01_week-12", False, "p01"),
        ("PatientID_0003_Timepoint_1", False, "PatientID_0003"),
        ("UCSF-PDGM-0431_FU001d", False, "UCSF-PDGM-0431"),
        ("p01_inhale", False, "p01"),
        ("p01_end-systole", False, "p01"),
        ("sub-01_ses-1_T1w", False, "sub-01"),
        ("sub-A7_run-2_bold", True, "sub-A7"),
        # who, not when
        ("sub-01", False, "sub-01"),
        ("subject_01", False, "subject_01"),
        ("LIDC-IDRI-0001", False, "LIDC-IDRI-0001"),
        ("TCGA-06-0119", False, "TCGA-06-0119"),
        ("p01_L", False, "p01_L"),
        ("hippo_t", False, "hippo_t"),
        ("compost", False, "compost"),
        ("site_fu", False, "site_fu"),
        ("monday3", False, "monday3"),
        ("pre", False, "pre"),
    ],
)
def test_subject_of(name: str, picture: bool, subject: str) -> None:
    assert subject_of(name, picture=picture) == subject


@pytest.mark.parametrize(
    "names",
    [
        ["p01", "P01"],
        ["p01", "p1"],
        ["p-01", "p_01"],
        ["p03", "p03_2"],
        ["p03", "p03b"],
        ["p01_L", "p01_R"],
        ["p01_scan1", "p01_scan2"],
        ["p01_m06", "p01_m12"],
        ["P01_ses1_img", "P01_ses2_img"],
        ["p01_2019-03-04", "p01_2021-12-31"],
        ["p01_20190304", "p01_20211231"],
        ["10005_1000005", "10005_1000006"],
        ["training01_01", "training01_02"],
        ["anna_left", "anna_right"],
        ["L_9001104", "R_9001104"],
        ["left_0815", "right_815"],
        ["pre_007", "post_007"],
        ["ED_007", "ES_007"],
        ["20200101_Patient01", "20210131_Patient01"],
        ["2020-01-01_4711", "2021-01-31_4711"],
    ],
    ids=" ".join,
)
def test_what_may_be_one_person_is_said(names: list[str]) -> None:
    others = ["p02_L", "p02_R", "q7", "10006_1000007", "training02_01", "bob_left", "bob_right"]
    (found,) = [group for group in doubts([*names, *others]) if set(group) & set(names)]
    assert found == tuple(sorted(names))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["p01"],
        [f"hippocampus_{number:03d}" for number in range(1, 60)],
        [f"brats13_{number:04d}" for number in range(3)],
        [f"{year}_{number:04d}" for year in (2019, 2020) for number in range(1, 50)],
        [f"TCGA-{site:02d}-{site * 100 + number:04d}" for site in (2, 6, 8) for number in range(20)],
        [f"{site}_{number:03d}" for site in ("berlin", "paris") for number in range(4)],
        ["scd_HF-I-01", "scd_HF-I-02", "scd_HF-NI-01", "scd_N-40", "scd_HYP-01"],
        ["ham_ISIC_0024311", "ham_ISIC_0027001", "isic17_ISIC_0013948"],
        ["dsb_05040e2e959c", "dsb_05a8f65ebd0b", "dsb_06c779330d6d"],
        ["BraTS-GLI-00005", "BraTS-GLI-00006"],
        ["liver", "liver_001", "liver_002"],
        ["volume-0", "volume-1", "volume-10"],
        ["20200101_Patient01", "20200101_Patient02"],
        ["20200101_001", "20200101_002", "20200102_001"],
        ["L_0815", "R_4711"],
        ["left_atrium", "right_atrium"],
        [f"s{number:04d}" for number in range(30)],
    ],
    ids=lambda names: " ".join(names[:2]) or "none",
)
def test_people_are_not_suspected(names: list[str]) -> None:
    assert doubts(names) == []


names = st.text("ab01_-. ", min_size=1, max_size=6)


@given(st.lists(names, max_size=8))
def test_groups_are_apart_and_of_the_names(names: list[str]) -> None:
    groups = doubts(names)
    together = [name for group in groups for name in group]
    assert len(together) == len(set(together))
    assert set(together) <= set(names)
    assert all(len(group) > 1 for group in groups)
    assert groups == doubts(reversed(names))


@given(st.text(max_size=30), st.booleans())
def test_a_subject_is_the_beginning_of_its_name(name: str, picture: bool) -> None:
    subject = subject_of(name, picture=picture)
    assert name.startswith(subject)
    assert bool(subject) == bool(name)


def test_names_of_many_parts_take_no_longer() -> None:
    assert doubts(["_".join(["1a"] * 60), "_".join(["1a"] * 61)])
