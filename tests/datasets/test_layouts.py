"""Every layout is recognised from its file names, with all ids, labels and subjects."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemis.datasets.index import Scan
from lemis.datasets.listing import LeftOut, Tree
from lemis.datasets.recognition import Listing, recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import DataFault, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data"
Normal = Literal["NFC", "NFD"]
QUICK = settings(max_examples=25, deadline=None)
SUFFIXES = st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha", ".png"])

# Ids as people choose them, some with times of one person; never ending in what marks a channel or a label.
people = st.from_regex(r"[a-z]{2,6}[A-Z]?-?[0-9]{2,3}", fullmatch=True)
moments = st.sampled_from(["", "_ED", "_ES", "_frame03", "_ses-2", "_ses-pre_run-1", "-phase1"])
cohorts = st.dictionaries(people, st.lists(moments, min_size=1, max_size=2, unique=True), min_size=1, max_size=5)
# For every scan whether it has a label; the first one always has: so the folder shows how labels are named.
flags = st.lists(st.booleans(), min_size=10, max_size=10)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def wanted(cohort: dict[str, list[str]], labelled: list[bool]) -> dict[str, tuple[str, bool]]:
    """Id -> (subject, labelled)."""
    ids = [(person + moment, person) for person, moments in sorted(cohort.items()) for moment in moments]
    flags = [True, *labelled[1:]]
    return {name: (person, flag) for (name, person), flag in zip(ids, flags, strict=False)}


def found(root: Path, layout: str) -> tuple[Listing, dict[str, tuple[str, bool]]]:
    listing = recognise(root)
    assert listing.index.layout == layout
    for scan in listing.index.scans:
        for file in [*scan.images, *([scan.label] if scan.label else [])]:
            assert (root / file).exists()
    return listing, {scan.id: (scan.subject, scan.label is not None) for scan in listing.index.scans}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return lambda: tmp_path_factory.mktemp("scans")


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


# ---------------------------------------------------------------- the reference of Gibson et al.


@pytest.fixture
def abdomen(tmp_path: Path, write_series) -> Path:
    """Two scans of each cohort, one of them labelled, as they lie after unpacking."""
    touch(
        tmp_path / "cropping.csv",
        tmp_path / "label_btcv_multiorgan" / "label0001.nii.gz",
        tmp_path / "label_tciapancreasct_multiorgan" / "label_tcia_multiorgan" / "label0002.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Training" / "img" / "img0001.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Training" / "label" / "label0001.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Testing" / "img" / "img0061.nii.gz",
        tmp_path / "Abdomen" / "RegData" / "img" / "img0001-0061.nii.gz",
        tmp_path / "nii" / "Pancreas_0001.nii.gz",
    )
    write_series(tmp_path / "Pancreas-CT" / "PANCREAS_0002" / "11-24-2015" / "1.2.3", np.zeros((3, 4, 2), np.int16))
    return tmp_path


def test_gibson(abdomen: Path) -> None:
    listing, seen = found(abdomen, "gibson")
    assert seen == {
        "btcv_0001": ("btcv_0001", True),
        "btcv_0061": ("btcv_0061", False),
        "pancreas_0001": ("pancreas_0001", False),
        "pancreas_0002": ("pancreas_0002", True),
    }
    assert [scan.images for scan in listing.index.scans] == [
        ("Abdomen/RawData/Training/img/img0001.nii.gz",),
        ("Abdomen/RawData/Testing/img/img0061.nii.gz",),
        ("nii/Pancreas_0001.nii.gz",),
        ("Pancreas-CT/PANCREAS_0002/11-24-2015/1.2.3",),
    ]
    index = listing.index
    assert index.scans[3].label == "label_tciapancreasct_multiorgan/label_tcia_multiorgan/label0002.nii.gz"
    assert index.channels == ("CT",)
    assert list(index.labels.values()) == [0, 1, 3, 4, 5, 6, 7, 11, 14]
    assert sorted({*index.labels.values(), *index.ignored}) == list(range(15))
    assert listing.left_out == (
        LeftOut("Abdomen/RawData/Training/label/label0001.nii.gz", "a label of the cohort's own"),
    )


def test_gibson_with_scans_that_are_missing(abdomen: Path) -> None:
    touch(*[abdomen / "label_tciapancreasct_multiorgan" / f"label{n:04d}.nii.gz" for n in (3, 25)])
    touch(abdomen / "label_btcv_multiorgan" / "label0007.nii.gz")
    listing = recognise(abdomen)
    files = {scan.id: (abdomen / scan.images[0]).exists() for scan in listing.index.scans}
    assert [name for name, there in files.items() if not there] == ["btcv_0007", "pancreas_0003"]
    assert "pancreas_0025" not in files
    assert "withdrawn from Pancreas-CT" in listing.left_out[-1].reason
    touch(abdomen / "PANCREAS_0025.nii.gz")
    assert found(abdomen / "nii", "flat")
    assert "pancreas_0025" in {scan.id for scan in recognise(abdomen).index.scans if scan.label}


def test_gibson_with_one_scan_twice(abdomen: Path) -> None:
    touch(abdomen / "nii" / "PANCREAS_0002.nii.gz")
    with pytest.raises(UsageError, match=r"pancreas_0002 has 2 images: Pancreas-CT/PANCREAS_0002/\S+, nii/PANCREAS"):
        recognise(abdomen)


def test_gibson_has_axial_slices_however_thin(tmp_path: Path) -> None:
    thin, zeros = np.diag([0.8, 0.8, 0.5, 1.0]), np.zeros((5, 6, 4), np.int16)
    for file in ("img0001.nii.gz", "label_btcv_multiorgan/label0001.nii.gz", "flat/a.nii.gz"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(zeros, thin), tmp_path / file)
    assert scan_folder(tmp_path).scans[0].slice_axis == 2
    assert scan_folder(tmp_path / "flat").scans[0].slice_axis == 1


# ---------------------------------------------------------------- CSV


@QUICK
@given(
    cohort=cohorts,
    labelled=flags,
    named=st.booleans(),
    columns=st.sampled_from([["image"], ["image_t1", "image_t2"]]),
)
def test_csv(folder, cohort, labelled, named, columns) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    rows = [[*columns, "Label", "subject" if named else "sex"]]
    for number, (name, (_, has_label)) in enumerate(scans.items()):
        files = [f"deep/{name}.nii.gz", *[f"more/{name}_{c}.nii.gz" for c in columns[1:]]]
        label = f"other/{number}.nrrd" if has_label else ""
        touch(*[root / file for file in files], *([root / label] if label else []))
        rows.append([*files, label, f"person {number}" if named else "f"])
    (root / "list.csv").write_text("\n".join(",".join(row) for row in rows) + "\n,,\n", encoding="utf-8-sig")
    for path in (root, root / "list.csv"):
        listing = recognise(path)
        assert listing.index.layout == "csv"
        assert listing.index.root == str(root)
        seen = {scan.id: (scan.subject, scan.label is not None) for scan in listing.index.scans}
        if named:
            assert sorted(subject for subject, _ in seen.values()) == sorted(f"person {n}" for n in range(len(scans)))
        else:
            assert seen == scans
        assert listing.index.channels == (("t1", "t2") if len(columns) == 2 else ())


def test_csv_with_one_name_in_many_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a/scan.nii.gz", tmp_path / "b/scan.nii.gz")
    (tmp_path / "list.csv").write_text("image\na/scan.nii.gz\nb/scan.nii.gz\n")
    assert [scan.id for scan in recognise(tmp_path).index.scans] == ["a_scan", "b_scan"]


def test_csv_that_is_wrong(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,label\nnothing.nii.gz,\n")
    with pytest.raises(DataFault, match=r"list\.csv, line 2: image nothing\.nii\.gz"):
        recognise(tmp_path)
    table.write_text("image,label\n,\n,a\n")
    with pytest.raises(DataFault, match="line 3: image is empty"):
        recognise(tmp_path)
    table.write_text("scan,label\na,b\n")
    with pytest.raises(UsageError, match=r"columns scan, label(.|\n)*rename the column 'scan' to `image`"):
        recognise(table)
    table.write_text("image\n")
    (tmp_path / "again.csv").write_text("image\n")
    with pytest.raises(UsageError, match=r"2 lists of images: again\.csv, list\.csv"):
        recognise(tmp_path)


def test_a_table_of_patients_is_no_list_of_scans(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("image_name,age\nISIC_1,55\n")
    touch(tmp_path / "ISIC_1.png")
    found(tmp_path, "flat")


# ---------------------------------------------------------------- subjects


def test_a_table_of_subjects_is_obeyed(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b_ED.nii.gz", tmp_path / "c.nii.gz")
    (tmp_path / "subjects.csv").write_text("id,subject\na,ann\nc,ann\n")
    assert [scan.subject for scan in recognise(tmp_path).index.scans] == ["ann", "b", "ann"]
    (tmp_path / "subjects.csv").write_text("scan,person\na,ann\n")
    with pytest.raises(UsageError, match=r"columns scan, person(.|\n)*id, subject"):
        recognise(tmp_path)


# ---------------------------------------------------------------- what is refused


def test_nothing_that_we_know(tmp_path: Path) -> None:
    touch(*[tmp_path / f"page{n}.txt" for n in range(9)])
    with pytest.raises(UsageError, match=r"page0\.txt(.|\n)*and 1 more(.|\n)*imagesTr(.|\n)*CSV") as caught:
        recognise(tmp_path)
    assert "page8.txt" not in str(caught.value)
    with pytest.raises(UsageError, match=r"page0\.txt is a file"):
        recognise(tmp_path / "page0.txt")
    with pytest.raises(UsageError, match="does not exist"):
        recognise(tmp_path / "nowhere")


def test_a_folder_of_data_sets(tmp_path: Path) -> None:
    touch(tmp_path / "one/imagesTr/a_0000.nii.gz", tmp_path / "two/imagesTr/a_0000.nii.gz")
    with pytest.raises(UsageError, match=r"holds 2 data set\(s\): one, two(.|\n)*give .*one"):
        recognise(tmp_path)


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path / "a_ED.nii.gz", tmp_path / "b.nii.gz")
    listing = recognise(tmp_path / "a_ED.nii.gz")
    assert [(scan.id, scan.subject, scan.images) for scan in listing.index.scans] == [("a_ED", "a", ("a_ED.nii.gz",))]


def test_a_layout_that_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match=r"not the layout BIDS"):
        recognise(tmp_path, "bids")
    with pytest.raises(UsageError, match=r"'nnunett'(.|\n)*--layout nnunet"):
        recognise(tmp_path, "nnunett")
    assert recognise(tmp_path, "flat").index.layout == "flat"


def test_two_labels_for_one_scan(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", tmp_path / "a_mask.nii.gz")
    with pytest.raises(UsageError, match=r"a has 2 labels: a_mask\.nii\.gz, a_seg\.nii\.gz"):
        recognise(tmp_path)


def test_channels_that_differ(tmp_path: Path) -> None:
    for person in ("p1", "p2", "p3"):
        touch(tmp_path / person / "t1.nii.gz", tmp_path / person / "t2.nii.gz")
    touch(tmp_path / "p3" / "dwi.nii.gz")
    with pytest.raises(UsageError, match=r"p3 has the files dwi, t1, t2; most others have t1, t2"):
        recognise(tmp_path)


def test_one_id_twice(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "imagesTs" / "a_0000.nii.gz")
    with pytest.raises(UsageError, match="ids that occur twice: a"):
        recognise(tmp_path)


def test_an_id_that_is_no_file_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "list.csv").write_text("id,image\np1/a,a.nii.gz\n")
    with pytest.raises(UsageError, match=r"ids that cannot be used: p1/a \(holds /\)"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"holds \[\]"),
        ('{"labels": {"whole": [1, 2]}}', r'declares the label "whole": \[1, 2\](.|\n)*regions'),
        ('{"labels": {"background": 0, "ignore": 2}}', r'"ignore": 2(.|\n)*ignore label'),
    ],
)
def test_a_dataset_json_that_we_cannot_use(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        recognise(tmp_path)


# ---------------------------------------------------------------- reading


RAS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def test_scan_folder_reads_grids_and_values(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 1.5, 8.0, 1.0])
    image = np.zeros((5, 6, 4), np.int16)
    label = np.zeros((5, 6, 4), np.uint8)
    label[0], label[1] = 3, 7
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / "a_seg.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image, affine[[0, 2, 1, 3]]), tmp_path / "b.nii.gz")
    index = scan_folder(tmp_path, jobs=2)
    assert index.scans == (
        Scan(
            id="a",
            subject="a",
            images=("a.nii.gz",),
            label="a_seg.nii.gz",
            shape=(5, 6, 4),
            spacing_mm=(1.5, 1.5, 8.0),
            slice_axis=2,
            label_values=(0, 3, 7),
            axes=RAS,
        ),
        Scan(
            id="b",
            subject="b",
            images=("b.nii.gz",),
            shape=(5, 4, 6),
            spacing_mm=(1.5, 8.0, 1.5),
            slice_axis=1,
            axes=RAS,
        ),
    )
    assert index.frame == RAS
    assert index.channels == ("image",)
    assert index.labels == {"background": 0, "label 3": 3, "label 7": 7}


def test_channels_inside_the_files_are_counted(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 4, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert scan_folder(tmp_path).channels == ("channel 0", "channel 1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here (../shared/data)")
@pytest.mark.parametrize("split", sorted(SHARED.glob("Dataset*/splits_final.json")), ids=lambda file: file.parent.name)
def test_ids_and_subjects_fit_the_splits_that_come_with_a_data_set(split: Path) -> None:
    subjects = {scan.id: scan.subject for scan in recognise(split.parent).index.scans}
    folds = json.loads(split.read_text(encoding="utf-8"))
    assert set(subjects) == {name for fold in folds for part in fold.values() for name in part}
    for fold in folds:
        assert not {subjects[name] for name in fold["train"]} & {subjects[name] for name in fold["val"]}


# ---------------------------------------------------------------- what people's folders hold


def test_labels_with_the_number_of_a_channel(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.nii.gz" for n in range(3) for channel in range(2)])
    touch(*[tmp_path / "labelsTr" / f"c{n}_0000.nii.gz" for n in range(2)])
    listing, seen = found(tmp_path, "nnunet")
    assert seen == {"c0": ("c0", True), "c1": ("c1", True), "c2": ("c2", False)}
    assert all(len(scan.images) == 2 for scan in listing.index.scans)


def test_a_channel_that_is_missing_keeps_its_place(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.NII.GZ" for n in range(3) for channel in range(2)])
    (tmp_path / "imagesTr" / "c1_0000.NII.GZ").unlink()
    touch(*[tmp_path / "labelsTr" / f"c{n}.nii.gz" for n in range(3)])
    scans = recognise(tmp_path).index.scans
    assert scans[1].images == ("imagesTr/c1_0000.NII.GZ", "imagesTr/c1_0001.NII.GZ")


def test_a_stray_image_does_not_turn_channels_into_patients(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.nii.gz" for n in range(3) for channel in range(2)])
    touch(tmp_path / "imagesTr" / "atlas.nii.gz", *[tmp_path / "labelsTr" / f"c{n}.nii.gz" for n in range(3)])
    listing, seen = found(tmp_path, "nnunet")
    assert set(seen) == {"c0", "c1", "c2"}
    assert [part.file for part in listing.left_out] == ["imagesTr/atlas.nii.gz"]


@pytest.mark.parametrize("ending", [".nii.gz", ".NII.GZ", "nii.gz", None])
def test_file_ending(ending: str | None, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.NII.GZ", tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ending}))
    assert found(tmp_path, "nnunet")[1] == {"a": ("a", True)}


def test_a_file_ending_that_no_file_has(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii"}')
    with pytest.raises(UsageError, match=r'"file_ending" is "\.nii", but no image ends so(.|\n)*\.nii\.gz'):
        recognise(tmp_path)
    touch(tmp_path / "imagesTr" / "b_0000.nii")
    (left,) = recognise(tmp_path).left_out
    assert left == ("imagesTr/a_0000.nii.gz", "does not end in .nii, the file_ending of dataset.json")


@pytest.mark.parametrize(
    "label", ["a-label.seg.nrrd", "a.seg.nrrd", "a_seg_label.nii.gz", "a_SEG.nii", "a-labelmap.nrrd"]
)
def test_names_of_labels(label: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / label)
    assert found(tmp_path, "flat")[1] == {"a": ("a", True)}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("volume-{}", "segmentation-{}"),
        ("img{:04d}", "label{:04d}"),
        ("img_{:04d}", "label_{:04d}"),
        ("image_{}", "mask_{}"),
        ("p{:02d}", "seg_p{:02d}"),
        ("ct_{}", "gt_{}"),
    ],
)
@pytest.mark.parametrize("folders", [("", ""), ("images", "labels"), ("imagesTr", "labelsTr")])
def test_a_word_for_a_label_may_begin_its_name(
    image: str, label: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    touch(*[tmp_path / folders[0] / f"{image.format(number)}.nii" for number in range(3)])
    touch(*[tmp_path / folders[1] / f"{label.format(number)}.nii" for number in range(2)])
    scans = recognise(tmp_path).index.scans
    assert [scan.id for scan in scans] == [image.format(number) for number in range(3)]
    assert [scan.label is not None for scan in scans] == [True, True, False]


def test_names_that_begin_with_a_word_for_a_label_are_images_where_nothing_else_is(tmp_path: Path) -> None:
    touch(tmp_path / "mask_a.nii.gz", tmp_path / "seg_7.nii.gz")
    assert set(found(tmp_path, "flat")[1]) == {"mask_a", "seg_7"}


def test_masks_of_single_structures_are_named(tmp_path: Path) -> None:
    for person in ("s0000", "s0001"):
        touch(tmp_path / person / "ct.nii.gz")
        touch(*[tmp_path / person / "segmentations" / f"{organ}.nii.gz" for organ in ("liver", "spleen")])
    listing, seen = found(tmp_path, "subjects")
    assert seen == {"s0000": ("s0000", False), "s0001": ("s0001", False)}
    assert [part.file for part in listing.left_out] == [f"s000{n}/segmentations/ (2 images)" for n in range(2)]
    assert all("into one label map" in part.reason for part in listing.left_out)


def test_images_that_no_scan_uses_are_named_once_per_folder(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz", tmp_path / "labelsTs/b.nii.gz")
    touch(tmp_path / "extra.nii.gz", *[tmp_path / "scribblesTr" / f"{n}.nii.gz" for n in range(3)])
    touch(tmp_path / "old" / "deep" / "c.nii.gz", tmp_path / "old" / "d.hdr", tmp_path / "old" / "notes.txt")
    touch(tmp_path / "__MACOSX" / "a.nii.gz", tmp_path / ".hidden" / "a.nii.gz")
    assert recognise(tmp_path).left_out == (
        ("extra.nii.gz", "an image that belongs to no scan"),
        ("labelsTs/ (1 image)", "labels of the test set are left alone"),
        ("old/ (2 images)", "images that belong to no scan"),
        ("scribblesTr/ (3 images)", "images that belong to no scan"),
    )


def test_links_to_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "imagesTr/b_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "labelsTr/b.nii.gz").symlink_to("../.git/annex/objects/b")
    (tmp_path / "README").symlink_to("nowhere")
    listing = recognise(tmp_path)
    ((file, kind, seen, repair),) = listing.doubts
    assert (file, kind) == ("labelsTr/b.nii.gz", "broken link")
    assert seen == "points to ../.git/annex/objects/b, which is not there"
    assert "git annex get" in repair


def test_links_that_lead_back_are_not_followed_and_others_are(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.nii.gz", tmp_path / "set" / "deep" / "b.nii.gz")
    (tmp_path / "set" / "there").symlink_to(tmp_path / "elsewhere")
    for place in ("set/loop", "set/deep/loop", "elsewhere/up"):
        (tmp_path / place).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "set" / "itself").symlink_to("itself")
    assert Tree(tmp_path / "set").files == ("deep/b.nii.gz", "itself", "there/a.nii.gz")


def test_only_links_to_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to("../annex/a")
    with pytest.raises(UsageError, match=r"a\.nii\.gz, one of 1 links, points to \.\./annex/a(.|\n)*git annex get"):
        recognise(tmp_path)


@pytest.mark.parametrize("name", ["labelsTr", "IM0001", "sub-03"])
def test_a_folder_that_is_a_link_to_nothing_is_named(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz")
    (tmp_path / name).symlink_to("../annex/x")
    (doubt,) = recognise(tmp_path).doubts
    assert (doubt.file, doubt.kind) == (name, "broken link")


@pytest.mark.parametrize(
    ("name", "ours"),
    [("labelstr/a.nii.gz", "labelsTr"), ("Dataset.JSON", "dataset.json"), ("subject.csv", "subjects.csv")]
    + [(name, "subjects.csv") for name in ("subjects.xlsx", "Subjects.tsv", "SUBJECTS.CSV")],
)
def test_names_that_are_nearly_ours_are_told(name: str, ours: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / name)
    (doubt,) = recognise(tmp_path).doubts
    assert doubt == (
        name.split("/")[0],
        "misspelt name",
        f"is not read; did you mean {ours}?",
        f"rename it to {ours}",
    )
    assert recognise(tmp_path / "imagesTr" / "a_0000.nii.gz").doubts == ()


@pytest.mark.parametrize(("name", "told"), [("liver", 1), ("Background", 0), ("unlabelled", 0), ("0", 0), ("BG", 0)])
def test_a_structure_with_the_value_of_the_background_is_told(name: str, told: int, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {name: 0, "b": 1}}))
    assert [doubt.kind for doubt in recognise(tmp_path).doubts] == ["structure with value 0"] * told


def test_one_file_says_itself_what_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "others" / "c.nii.gz")
    listing = recognise(tmp_path / "a.nii.gz")
    assert (listing.left_out, listing.doubts) == ((), ())


def test_formats_that_are_not_read_are_called_by_their_name(tmp_path: Path) -> None:
    touch(*[tmp_path / f"s{n}.{end}" for n in range(2) for end in ("hdr", "img")])
    with pytest.raises(UsageError, match=r"NIfTI or Analyze pairs \(\.hdr and \.img\) are not read(.|\n)*nibabel"):
        recognise(tmp_path)
    touch(tmp_path / "a.nii.gz")
    assert {part.reason for part in recognise(tmp_path).left_out} == {
        "NIfTI or Analyze pairs (.hdr and .img) are not read"
    }


def test_bids_leaves_out_what_is_no_label_of_the_scan(tmp_path: Path) -> None:
    for person in ("sub-1", "sub-2"):
        anatomy, derived = tmp_path / person / "anat", tmp_path / "derivatives/x" / person / "anat"
        touch(anatomy / f"{person}_T1w.nii.gz", anatomy / f"{person}_mod-T1w_defacemask.nii.gz")
        touch(derived / f"{person}_dseg.nii.gz", derived / f"{person}_desc-brain_mask.nii.gz")
        touch(derived / f"{person}_label-GM_probseg.nii.gz", derived / f"{person}_space-MNI152NLin6Asym_dseg.nii.gz")
    listing, seen = found(tmp_path, "bids")
    assert seen == {"sub-1": ("sub-1", True), "sub-2": ("sub-2", True)}
    assert [scan.label for scan in listing.index.scans] == [
        f"derivatives/x/{person}/anat/{person}_dseg.nii.gz" for person in seen
    ]
    assert {part.reason for part in listing.left_out} == {
        "a mask of what defacing removed",
        "probabilities, no label map",
        "in the space of a template",
        *[f"a mask beside {person}_dseg.nii.gz" for person in seen],
    }


@pytest.mark.parametrize("row", ["1.5\tcsf", "x\tcsf", "1\t", "1\tcsf\n1\tgrey", "1\tcsf\n2\tcsf", "1"])
def test_a_table_of_structures_that_is_wrong(row: str, tmp_path: Path) -> None:
    touch(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "dseg.tsv").write_text(f"index\tname\n{row}\n")
    with pytest.raises(UsageError, match=r"dseg\.tsv, line [23]: index "):
        recognise(tmp_path)


# ---------------------------------------------------------------- lists and tables


def listed(folder: Path, text: str) -> Listing:
    touch(*[folder / f"{name}.nii.gz" for name in ("a", "b", "a_seg")], folder / "deep" / "a.nii.gz")
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return recognise(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,mask\na.nii.gz,a_seg.nii.gz\n", r"'mask' is not understood(.|\n)*rename the column 'mask' to `label`"),
        ("image,patient_id\na.nii.gz,p\n", r"'patient_id' is not understood(.|\n)*to `subject`"),
        ("image,Patient\na.nii.gz,p\n", "'patient' is not understood"),
        ("image,mask_path\na.nii.gz,a_seg.nii.gz\n", r"'mask_path' is not understood(.|\n)*to `label`"),
        ("image,Subject No.\na.nii.gz,p\n", r"'subject no.' is not understood(.|\n)*to `subject`"),
        ("image,label\na.nii.gz,nan\n", "leave the cell empty where there is no label"),
        ("image,case\na.nii.gz,p\n", "'case' is not understood"),
        ("filename,label\na.nii.gz,\n", r"'filename' is not understood(.|\n)*to `image`"),
        ("image,image\na.nii.gz,b.nii.gz\n", "2 columns 'image'"),
        ("image,image_t2\na.nii.gz,b.nii.gz\n", "the columns image and image_t2, all of files"),
        ("image,subject\na.nii.gz,p,q\n", "line 2: a value without a column"),
        ("image\n", "lists no scan"),
        ("image,id\na.nii.gz,../../x\n", r"ids that cannot be used: ../../x \(holds /\)"),
        ("image,id\na.nii.gz,meta\n", "is the name of a file of ours"),
        (f"image,id\na.nii.gz,{'x' * 300}\n", "has 300 bytes, more than 200"),
        ("image,subject\na.nii.gz,p\x1b[31m\n", r"subjects that cannot be used: p\\x1b\[31m"),
        ("image\ndeep\\a.nii.gz\n", r"line 2: image deep\\a\.nii\.gz(.|\n)*write deep/a\.nii\.gz"),
        (f"image\n{'x' * 5000}\n", "line 2: image xxx"),
    ],
)
def test_a_list_that_would_be_guessed_at_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        listed(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("image,subject\na.nii.gz,NA\nb.nii.gz,NA\n", ["placeholder as subject"]),
        ("image,subject\na.nii.gz,p\nb.nii.gz,\n", ["missing subjects"]),
        ("image,label\na.nii.gz,a_seg.nii.gz\nb.nii.gz,a_seg.nii.gz\n", ["label of several subjects"]),
        ("image,label,subject\na.nii.gz,a_seg.nii.gz,p\nb.nii.gz,a_seg.nii.gz,p\n", []),
        ("image,subject\na.nii.gz,NA\nb.nii.gz,q\n", []),
    ],
)
def test_a_list_with_what_may_be_a_slip(text: str, kinds: list[str], tmp_path: Path) -> None:
    assert [doubt.kind for doubt in listed(tmp_path, text).doubts] == kinds


@pytest.mark.parametrize(("image", "label"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_accents_that_are_one_letter_or_two_are_one_name(image: Normal, label: Normal, tmp_path: Path) -> None:
    """macOS and archives write them as two, Windows and people as one."""
    name = "Müller"
    scan, mask = unicodedata.normalize(image, name), unicodedata.normalize(label, name)
    touch(tmp_path / "flat" / f"{scan}.nii.gz", tmp_path / "flat" / f"{mask}_seg.nii.gz")
    touch(*[tmp_path / "raw" / "imagesTr" / f"{scan}_000{number}.nii.gz" for number in (0, 1)])
    touch(tmp_path / "raw" / "labelsTr" / f"{mask}.nii.gz")
    lists = tmp_path / "list.csv"
    lists.write_text(f"image,label\nflat/{mask}.nii.gz,flat/{scan}_seg.nii.gz\n", encoding="utf-8")
    (tmp_path / "flat" / "subjects.csv").write_text(f"id,subject\n{mask},Anna\n", encoding="utf-8")
    for root in (tmp_path / "flat", tmp_path / "raw", lists):
        (one,) = recognise(root).index.scans
        assert one.id == unicodedata.normalize("NFC", name)
        assert one.label is not None
        assert all(
            (root.parent if root.is_file() else root).joinpath(file).exists() for file in (*one.images, one.label)
        )
    assert recognise(tmp_path / "flat").index.scans[0].subject == "Anna"


def test_a_folder_of_labels_under_another_usual_name(tmp_path: Path) -> None:
    touch(*[tmp_path / folder / f"p{number}.nii.gz" for folder in ("Images", "Ground Truth") for number in range(3)])
    scans = recognise(tmp_path).index.scans
    assert [(scan.id, scan.label) for scan in scans] == [(f"p{n}", f"Ground Truth/p{n}.nii.gz") for n in range(3)]


def test_other_folders_beside_images_and_labels_are_no_subjects(tmp_path: Path) -> None:
    folders = ("images", "labels", "predictions")
    touch(*[tmp_path / folder / f"p{number}.nii.gz" for folder in folders for number in range(3)])
    listing, scans = found(tmp_path, "flat")
    assert scans == {f"p{number}": (f"p{number}", True) for number in range(3)}
    assert [part.file for part in listing.left_out] == ["predictions/ (3 images)"]


def lists(*names: str) -> dict[str, list[dict[str, str]]]:
    return {"training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]}


ELSEWHERE = {"dataset": {"a": {"images": ["../raw/a.nii.gz"], "label": "../raw/a_seg.nii.gz"}}}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"numTraining": 2}, []),
        ({"numTraining": 1}, []),  # of two scans, one has a label
        ({"numTraining": "many"}, []),
        (lists("a.nii.gz", "b.nii.gz"), []),
        (lists("a.nii.gz"), []),
        ({"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}}, []),
        ({"training": [1, None, {"image": None}, {"image": [3]}], "dataset": [1]}, []),
        ({"numTraining": 30}, ['"numTraining" is 30, but imagesTr holds 2']),
        (lists("a.nii.gz", "c.nii.gz"), ["./imagesTr/c.nii.gz is not there (1 of 2 listed files)"]),
        (ELSEWHERE, ["../raw/a.nii.gz is not there (1 of 1 listed files)"]),
    ],
)
def test_what_a_dataset_json_lists_is_held_against_what_is_there(
    facts: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    touch(*[tmp_path / "imagesTr" / f"{name}_0000.nii.gz" for name in "ab"], tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    assert [doubt.seen for doubt in recognise(tmp_path).doubts] == words


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    text = "image;label;subject;case;age;image_name\na.nii.gz;a_seg.nii.gz;p;1;50,5;Anna\nb.nii.gz;;q;2;60,0;Bert\n"
    listing = listed(tmp_path, text)
    assert [(scan.subject, scan.label) for scan in listing.index.scans] == [("p", "a_seg.nii.gz"), ("q", None)]
    assert [part.file for part in listing.left_out] == ["list.csv: case", "list.csv: age", "list.csv: image_name"]


@pytest.mark.parametrize(
    "content", ["name,Größe\na,1\n".encode("latin-1"), b"\xff\xfe\x00", b'image_name\n"', b"\x00" * 9]
)
def test_a_table_of_other_things_is_no_concern(content: bytes, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "clinical.csv").write_bytes(content)
    found(tmp_path, "nnunet")


def test_a_list_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "list.csv").write_bytes("image,subject\na.nii.gz,Müller\n".encode("cp1252"))
    with pytest.raises(UsageError, match=r"list\.csv is not UTF-8: the byte 0xfc in line 2(.|\n)*CSV UTF-8"):
        recognise(tmp_path)
    (tmp_path / "list.csv").write_bytes("image\tsubject\na.nii.gz\tMüller\n".encode("utf-16"))
    assert [scan.subject for scan in recognise(tmp_path).index.scans] == ["Müller"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject,id\np1\n", "line 2: no id"),
        ("id,subject\na,p\na,q\n", "line 3: the subject 'q' for 'a', which had 'p' before"),
        ("id,id\na,p\n", "2 columns 'id'"),
        ("id;person\na;p\n", "columns id, person"),
    ],
)
def test_a_table_of_subjects_that_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "subjects.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"subjects\.csv(.|\n)*{words}"):
        recognise(tmp_path)


def test_ids_in_the_table_of_subjects_that_nobody_has_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "a1.nii.gz", tmp_path / "b1.nii.gz")
    (tmp_path / "subjects.csv").write_text("id,subject\na1.nii,p\nb1,p\n")
    (doubt,) = recognise(tmp_path).doubts
    assert (doubt.kind, doubt.seen) == ("unknown ids", "a1.nii: no scan has this id (1 of 2 ids)")


# ---------------------------------------------------------------- one person


def test_time_points_in_names_of_folders_are_of_one_person(tmp_path: Path) -> None:
    for name in ("BraTS-GLI-00006-000", "BraTS-GLI-00006-001", "BraTS-GLI-00007-000"):
        touch(*[tmp_path / name / f"{name}-{part}.nii.gz" for part in ("t1n", "t2w", "seg")])
    listing, seen = found(tmp_path, "subjects")
    assert sorted(subject for subject, _ in seen.values()) == ["BraTS-GLI-00006"] * 2 + ["BraTS-GLI-00007"]
    assert listing.doubts == ()


def test_who_may_be_one_person_is_said_until_a_table_decides(tmp_path: Path) -> None:
    touch(*[tmp_path / f"{name}.nii.gz" for name in ("p01_L", "p01_R", "P02", "p02", "p03")])
    (doubt,) = recognise(tmp_path).doubts
    assert doubt.kind == "subjects that may be one person"
    assert "P02, p02; p01_L, p01_R: taken for different people" in doubt.seen
    (tmp_path / "subjects.csv").write_text("id,subject\np01_L,p01\np01_R,p01\nP02,P02\np02,p02\n")
    listing = recognise(tmp_path)
    assert listing.doubts == ()
    assert [scan.subject for scan in listing.index.scans] == ["P02", "p01", "p01", "p02", "p03"]


# ---------------------------------------------------------------- names


def test_a_name_that_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"caf\xe9.nii.gz"))
    with pytest.raises(UsageError, match=r"ids that cannot be used: caf\\udce9 \(is not UTF-8\)"):
        recognise(tmp_path)


def test_what_is_left_out_is_named_readably(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / os.fsdecode(b"caf\xe9_seg.nii.gz"))
    assert [part.file for part in recognise(tmp_path).left_out] == [r"caf\udce9_seg.nii.gz"]


def test_a_folder_whose_path_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    touch(folder / "a.nii.gz")
    with pytest.raises(UsageError, match=r"caf\\udce9 is not UTF-8"):
        recognise(folder)


def test_a_pipe_beside_the_scans_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    for name in ("list.csv", "subjects.csv", "b.nii.gz"):
        os.mkfifo(tmp_path / name)
    assert set(found(tmp_path, "flat")[1]) == {"a"}


@pytest.mark.parametrize("name", ["meta", "keypoints", "x.keypoints", "a\nb", "a\x1b[31mb", " a", "a*b"])
def test_names_that_later_steps_cannot_use_are_refused_at_once(name: str, tmp_path: Path) -> None:
    touch(tmp_path / f"{name}.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(UsageError, match="ids that cannot be used"):
        recognise(tmp_path)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(DataFault, match=r"pipe\.nii is a named pipe"):
        recognise(tmp_path / "pipe.nii")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match="circle does not exist"):
        recognise(tmp_path / "circle")
