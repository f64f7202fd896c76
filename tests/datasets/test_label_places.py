"""Where the label of a scan goes: put there, its folder is recognised with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemis.datasets import label_places
from lemis.datasets.recognition import recognise

FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "nnunet": (("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"), "b"),
    "nnunet, two channels": (
        ("imagesTr/a_0000.nrrd", "imagesTr/a_0001.nrrd", "imagesTr/b_0000.nrrd", "imagesTr/b_0001.nrrd",
         "labelsTr/a.nrrd"),
        "b",
    ),
    "decathlon": (("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz"), "b"),
    "beside": (("a.nii.gz", "b.nii.gz", "a_seg.nii.gz"), "b"),
    "beside, none labelled": (("a.nii.gz", "b.nii.gz"), "b"),
    "pictures": (("images/a.png", "images/b.png", "masks/a.png"), "b"),
    "images/": (("images/a.mha", "images/b.mha"), "b"),
    "a folder for labels": (("a.nii", "b.nii", "labels/a.nii"), "b"),
    "subjects": (("p1/scan.nii.gz", "p1/scan_label.nii.gz", "p2/scan.nii.gz"), "p2"),
    "subjects, a name of its own": (("p1/scan.nii.gz", "p1/mask.nii.gz", "p2/scan.nii.gz"), "p2"),
    "subjects, none labelled": (("p1/t1.nii.gz", "p2/t1.nii.gz"), "p2"),
    "subjects, two channels": (("p1/t1.nii.gz", "p1/t2.nii.gz", "p2/t1.nii.gz", "p2/t2.nii.gz"), "p2"),
    "bids": (("sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz"), "sub-2"),
}  # fmt: skip


def made(root: Path, files: tuple[str, ...]) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize("slicer", [False, True])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_label_that_is_put_there_is_found(tmp_path: Path, kind: str, slicer: bool) -> None:
    files, id = FOLDERS[kind]
    root = made(tmp_path / "scans", files)
    index = recognise(root).index
    (scan,) = (scan for scan in index.scans if scan.id == id)
    assert scan.label is None
    place = label_places.of(index, scan)
    path = place.slicer if slicer else place.label
    assert path is not None
    assert not place.then
    assert not path.exists()
    if slicer and kind == "pictures":
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    after = {scan.id: scan for scan in recognise(root).index.scans}
    assert after.keys() == {scan.id for scan in index.scans}
    assert after[id].label is not None
    assert root.resolve() / after[id].label == path


def test_nnu_net_s_own_ending_is_kept_and_a_segmentation_of_slicer_read_beside_it(tmp_path: Path) -> None:
    root = made(tmp_path / "scans", ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"))
    facts = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "RV": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    index = recognise(root).index
    place = label_places.of(index, index.scans[1])
    assert place.label == root.resolve() / "labelsTr" / "b.nii.gz"
    assert place.slicer is not None
    place.slicer.touch()
    found = recognise(root)
    assert found.index.scans[1].label == "labelsTr/b.seg.nrrd"
    assert not found.left_out
    (root / "labelsTr" / "b.mha").touch()
    assert [one.file for one in recognise(root).left_out] == ["labelsTr/b.mha"]


def test_a_test_scan_is_to_be_moved_first(tmp_path: Path) -> None:
    root = made(tmp_path / "scans", ("imagesTr/a_0000.nii.gz", "imagesTs/b_0000.nii.gz", "labelsTr/a.nii.gz"))
    index = recognise(root).index
    place = label_places.of(index, index.scans[1])
    assert "imagesTs" in place.then
    assert str(root.resolve() / "imagesTr") in place.then


def test_a_list_has_a_column_for_it(tmp_path: Path) -> None:
    root = made(tmp_path / "scans", ("x/a.nii.gz", "x/b.nii.gz"))
    (root / "list.csv").write_text("image,label\nx/a.nii.gz,\nx/b.nii.gz,\n")
    index = recognise(root).index
    assert index.layout == "csv"
    place = label_places.of(index, index.scans[0])
    assert (place.label, place.slicer) == (None, None)
    assert "column label" in place.then
