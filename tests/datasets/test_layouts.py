"""Every layout is recognised from its file names, with all ids, labels and subjects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from folders_made import QUICK, SUFFIXES, cohorts, flags, found, people, touch, wanted
from lemis.datasets.listing import LeftOut
from lemis.datasets.recognition import recognise


@QUICK
@given(cohort=cohorts, labelled=flags, suffix=SUFFIXES, channels=st.integers(1, 3), declared=st.booleans())
def test_nnunet(folder, cohort, labelled, suffix, channels, declared) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    for name, (_, has_label) in scans.items():
        touch(*[root / "imagesTr" / f"{name}_{channel:04d}{suffix}" for channel in range(channels)])
        touch(root / "imagesTr" / f"._{name}_0000{suffix}")
        if has_label:
            touch(root / "labelsTr" / f"{name}{suffix}")
    touch(*[root / "imagesTs" / f"test1_{channel:04d}{suffix}" for channel in range(channels)])
    touch(root / "labelsTs" / f"test1{suffix}")
    names = [f"mr{channel}" for channel in range(channels)]
    if declared:
        facts = {
            "channel_names": dict(enumerate(names)),
            "labels": {"background": 0, "RV": 1},
            "file_ending": suffix,
        }
        (root / "dataset.json").write_text(json.dumps(facts))
    listing, seen = found(root, "nnunet")
    assert seen == {**scans, "test1": ("test1", False)}
    assert all(len(scan.images) == channels for scan in listing.index.scans)
    assert all(
        [f"{c:04d}" in image for c, image in enumerate(s.images)] == [True] * channels for s in listing.index.scans
    )
    assert listing.index.channels == (tuple(names) if declared else ())
    assert listing.index.labels == ({"background": 0, "RV": 1} if declared else {})


@QUICK
@given(cohort=cohorts, labelled=flags)
def test_decathlon(folder, cohort, labelled) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    for name, (_, has_label) in scans.items():
        touch(root / "imagesTr" / f"{name}.nii.gz", root / "imagesTr" / f"._{name}.nii.gz")
        if has_label:
            touch(root / "labelsTr" / f"{name}.nii.gz")
    touch(root / "imagesTs" / "test1.nii.gz")
    facts = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    listing, seen = found(root, "msd")
    assert seen == {**scans, "test1": ("test1", False)}
    assert listing.index.channels == ("FLAIR", "T1w")
    assert listing.index.labels == {"background": 0, "edema": 1, "tumour": 2}


def test_decathlon_ids_with_four_digits_are_no_channels(tmp_path: Path) -> None:
    touch(*[tmp_path / f"{part}Tr" / f"case_{n:04d}.nii.gz" for part in ("images", "labels") for n in range(3)])
    _, seen = found(tmp_path, "msd")
    assert set(seen) == {"case_0000", "case_0001", "case_0002"}


@QUICK
@given(
    people=st.dictionaries(st.from_regex(r"[a-zA-Z0-9]{2,5}", fullmatch=True), st.booleans(), min_size=1, max_size=4),
    sessions=st.sampled_from([[""], ["01", "02"]]),
    modalities=st.sampled_from([["T1w"], ["FLAIR", "T1w"]]),
    mark=st.sampled_from(["dseg", "label-lesion_mask", "desc-manual_dseg", "space-orig_label-GM_roi"]),
    derived=st.booleans(),
)
def test_bids(folder, people, sessions, modalities, mark, derived) -> None:
    root, scans = folder(), {}
    people = {name.lower(): flag for name, flag in people.items()}
    for person, has_label in people.items():
        for session in sessions:
            where = Path(f"sub-{person}") / (f"ses-{session}" if session else "") / "anat"
            name = f"sub-{person}" + (f"_ses-{session}" if session else "")
            touch(*[root / where / f"{name}_{modality}.nii.gz" for modality in modalities])
            touch(root / where.parent / "func" / f"{name}_task-rest_bold.txt")
            if has_label:
                touch(root / ("derivatives/manual" if derived else "") / where / f"{name}_{mark}.nii.gz")
            scans[name] = (f"sub-{person}", has_label)
    listing, seen = found(root, "bids")
    assert seen == scans
    assert listing.index.channels == (tuple(modalities) if len(modalities) > 1 else ())
    assert all(len(scan.images) == len(modalities) for scan in listing.index.scans)
    assert not listing.left_out


def test_bids_names_its_structures_in_a_table(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    touch(
        tmp_path / "derivatives/x/sub-1/anat/sub-1_dseg.nii.gz",
        tmp_path / "derivatives/x/sub-2/anat/sub-2_dseg.nii.gz",
    )
    (tmp_path / "derivatives/x/dseg.tsv").write_text("index\tname\n1\tcsf\n2\tgrey\n")
    listing = recognise(tmp_path)
    assert listing.index.labels == {"background": 0, "csf": 1, "grey": 2}
    assert [part.file for part in listing.left_out] == ["derivatives/x/sub-2/anat/sub-2_dseg.nii.gz"]


@QUICK
@given(
    people=st.dictionaries(people, st.booleans(), min_size=2, max_size=5),
    images=st.sampled_from([["image"], ["{}_image"], ["flair", "t1"], ["{}_t1", "{}_t1ce", "{}_t2"]]),
    label=st.sampled_from(["label", "seg", "mask", "{}_seg", "{}-label", "Segmentation", "manual.mask"]),
    suffix=SUFFIXES,
)
def test_one_folder_per_subject(folder, people, images, label, suffix) -> None:
    root = folder()
    for person, has_label in people.items():
        touch(*[root / person / (image.format(person) + suffix) for image in images])
        if has_label:
            touch(root / person / (label.format(person) + suffix))
    touch(root / "README.md")
    listing, seen = found(root, "subjects")
    assert seen == {person: (person, has_label) for person, has_label in people.items()}
    assert all(len(scan.images) == len(images) for scan in listing.index.scans)
    assert len(listing.index.channels) == (len(images) if len(images) > 1 else 0)


def test_several_labelled_times_in_a_subjects_folder_are_scans_of_their_own(tmp_path: Path) -> None:
    for person in ("patient001", "patient002"):
        touch(*[tmp_path / person / f"{person}_{part}.nii.gz" for part in ("4d", "frame01", "frame01_gt", "frame12")])
        touch(tmp_path / person / f"{person}_frame12_gt.nii.gz", tmp_path / person / "Info.cfg")
    listing, seen = found(tmp_path, "subjects")
    assert seen == {f"{p}_{f}": (p, True) for p in ("patient001", "patient002") for f in ("frame01", "frame12")}
    assert {part.reason for part in listing.left_out} == {"a time series (_4d)"}


def test_names_that_repeat_in_every_folder_are_made_different(tmp_path: Path) -> None:
    for person in ("p1", "p2"):
        touch(*[tmp_path / person / f"{name}.nii.gz" for name in ("early", "early_seg", "late", "old_mask")])
    listing, seen = found(tmp_path, "subjects")
    assert seen == {f"{p}_{t}": (p, t == "early") for p in ("p1", "p2") for t in ("early", "late")}
    assert [part.file for part in listing.left_out] == ["p1/old_mask.nii.gz", "p2/old_mask.nii.gz"]


@QUICK
@given(
    cohort=cohorts,
    labelled=flags,
    suffix=SUFFIXES,
    mark=st.sampled_from(["_seg", "_label", "-label", "_mask", "_gt", ".seg", " labels"]),
)
def test_flat_folder(folder, cohort, labelled, suffix, mark) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    for name, (_, has_label) in scans.items():
        touch(root / f"{name}{suffix}")
        if has_label:
            touch(root / f"{name}{mark}{suffix}")
    touch(root / "notes.txt")
    assert found(root, "flat")[1] == scans


@QUICK
@given(
    cohort=cohorts,
    labelled=flags,
    suffix=SUFFIXES,
    images=st.sampled_from(["images", "image", "imgs", ""]),
    labels=st.sampled_from(["labels", "masks", "label", "segmentations"]),
    mark=st.sampled_from(["", "_seg", "_mask"]),
    channels=st.sampled_from([0, 2]),
)
def test_images_and_labels_side_by_side(folder, cohort, labelled, suffix, images, labels, mark, channels) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    for name, (_, has_label) in scans.items():
        ends = [f"_{channel:04d}" for channel in range(channels)] or [""]
        touch(*[root / images / f"{name}{end}{suffix}" for end in ends])
        if has_label:
            touch(root / labels / f"{name}{mark}{suffix}")
    listing, seen = found(root, "flat")
    assert seen == scans
    assert all(len(scan.images) == max(channels, 1) for scan in listing.index.scans)


def test_a_label_without_an_image_is_named(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"a_{c:04d}.nii.gz" for c in range(2)], tmp_path / "labelsTr" / "a.nii.gz")
    touch(tmp_path / "labelsTr" / "b.nii.gz")
    assert recognise(tmp_path).left_out == (LeftOut("labelsTr/b.nii.gz", "a label without an image of the same name"),)


def test_dicom_series_as_images(tmp_path: Path, write_series) -> None:
    pixels = np.zeros((3, 4, 2), np.int16)
    write_series(tmp_path / "one" / "p1", pixels)
    touch(tmp_path / "one" / "p1" / "label.nii.gz")
    write_series(tmp_path / "one" / "p2" / "series", pixels)
    listing, seen = found(tmp_path / "one", "subjects")
    assert seen == {"p1": ("p1", True), "p2": ("p2", False)}
    assert [scan.images for scan in listing.index.scans] == [("p1",), ("p2/series",)]

    write_series(tmp_path / "two" / "images" / "p1", pixels)
    touch(tmp_path / "two" / "labels" / "p1.nii.gz")
    assert found(tmp_path / "two", "flat")[1] == {"p1": ("p1", True)}
    assert found(tmp_path / "one" / "p2" / "series", "flat")[1] == {"series": ("series", False)}
