"""Label maps as people really draw and save them: segments, masks, palettes, numbers that differ from file to file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from checked_scans import ERROR, SHAPE, WARNING, find, kinds, label, only, scan, write
from lemis.checking import check
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.datasets.scans import read_image, read_label


def segmentation(path: Path, array: np.ndarray, names: list[tuple[str, int]]) -> None:
    """A ``.seg.nrrd`` on the grid of ``write``."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing((1.5, 1.5, 8.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, (name, value) in enumerate(names):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(path))


def test_a_label_without_names_among_others_that_have_them(pair: Path) -> None:
    segmentation(pair / "b.seg.nrrd", label(1, 2), [("tumour", 1), ("liver", 2)])
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (WARNING, "a_seg.nii.gz", "structures without names")
    assert "1 is taken as tumour, 2 is taken as liver, as in b.seg.nrrd" in fault.seen


def test_segments_are_matched_by_their_names(tmp_path: Path) -> None:
    for name, (liver, spleen) in {"a": (1, 2), "b": (2, 1), "c": (1, 2)}.items():
        write(tmp_path / f"{name}.nii.gz", scan(ord(name)))
        segmentation(
            tmp_path / f"{name}.seg.nrrd",
            label(*[liver] * 5, *[spleen] * 3),
            sorted([("liver", liver), ("spleen", spleen)], key=lambda item: item[1]),
        )
    findings = check.examine(recognise(tmp_path).index)
    (fault,) = findings.faults
    assert (fault.severity, fault.file, fault.kind) == (WARNING, "b.seg.nrrd", "structures numbered differently")
    assert "the file has 1 spleen, 2 liver; matched by name, they become" in fault.seen
    assert findings.index.labels == {"background": 0, "liver": 1, "spleen": 2}
    assert findings.index == scan_folder(tmp_path)
    for one in findings.index.scans:
        voxels = read_label(findings.index, one, read_image(findings.index, one))
        np.testing.assert_array_equal(np.bincount(voxels.ravel())[1:], [5, 3])


def test_segments_of_one_name_are_both_shown(pair: Path) -> None:
    (pair / "a_seg.nii.gz").unlink()
    segmentation(pair / "a.seg.nrrd", label(1, 2), [("tumour", 1), ("tumour", 2)])
    findings = check.examine(recognise(pair).index)
    assert findings.index.labels == {"background": 0, "tumour": 1, "tumour (2)": 2}
    (fault,) = findings.faults
    assert (fault.severity, fault.kind) == (WARNING, "segments with the same name")
    assert "1 (tumour), 2 (tumour (2))" in fault.seen


def test_a_cropped_segmentation_is_no_fault(pair: Path) -> None:
    (pair / "a_seg.nii.gz").unlink()
    segmentation(pair / "a.seg.nrrd", label(1, 2)[:3, :4, :2], [("liver", 1), ("spleen", 2)])
    findings = check.examine(recognise(pair).index)
    assert findings.faults == ()
    voxels = read_label(findings.index, findings.index.scans[0], read_image(findings.index, findings.index.scans[0]))
    assert voxels.shape == SHAPE
    np.testing.assert_array_equal(np.argwhere(voxels), [[0, 0, 0], [0, 0, 1]])


def test_a_value_that_no_segment_names(pair: Path) -> None:
    (pair / "a_seg.nii.gz").unlink()
    segmentation(pair / "a.seg.nrrd", label(1, 2), [("liver", 1), ("spleen", 2)])
    segmentation(pair / "b.seg.nrrd", label(1, 2), [("spleen", 1)])
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "b.seg.nrrd", "label value without a known name")


def test_declared_names_decide_too(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "a_0000.nrrd.nii.gz", scan(1))
    facts = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nrrd"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    (tmp_path / "imagesTr" / "a_0000.nrrd.nii.gz").unlink()
    segmentation(tmp_path / "imagesTr" / "a_0000.nrrd", scan(1), [])
    (tmp_path / "labelsTr").mkdir()
    segmentation(tmp_path / "labelsTr" / "a.nrrd", label(1, 1, 2), [("spleen", 1), ("liver", 2)])
    assert kinds(tmp_path) == [(WARNING, "labelsTr/a.nrrd", "structures numbered differently")]
    segmentation(tmp_path / "labelsTr" / "a.nrrd", label(1, 1, 2), [("Segment_1", 1), ("Segment_2", 2)])
    assert kinds(tmp_path) == [(WARNING, "labelsTr/a.nrrd", "structures named differently")]


@pytest.mark.parametrize("value", [1e300, 2.0**33])
def test_labels_that_no_label_map_can_hold(pair: Path, value: float) -> None:
    write(pair / "a_seg.nii.gz", label(1, value, dtype=np.float64))
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "a_seg.nii.gz", "label values beyond 32 bits")


def test_labels_below_zero_are_no_structure(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, -1, dtype=np.int16))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "negative label values")
    assert "-1" in fault.seen


def masks(root: Path, of: dict[str, Image.Image]) -> Path:
    for number, (name, mask) in enumerate(of.items()):
        grey = np.random.default_rng(number).integers(0, 255, mask.size[::-1]).astype(np.uint8)
        for folder in ("images", "masks"):
            (root / folder).mkdir(exist_ok=True)
        Image.fromarray(grey).save(root / "images" / f"{name}.png")
        mask.save(root / "masks" / f"{name}.png")
    return root


DISC = (np.hypot(*(np.mgrid[:40, :40] - 19.5)) < 12).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "severity", "kind"),
    [
        ((1, 65535), ERROR, "masks with different foreground values"),
        ((255, 65535), ERROR, "masks with different foreground values"),
        ((255, 254), WARNING, "masks with different values"),
        ((255, 128), WARNING, "masks with different values"),
    ],
)
def test_masks_of_one_structure_that_mark_it_by_different_numbers(
    tmp_path: Path, values: tuple[int, int], severity: str, kind: str
) -> None:
    for number, value in enumerate(values):
        write(tmp_path / f"p{number}.nii.gz", scan(number))
        write(tmp_path / f"p{number}_seg.nii.gz", label(value, value, dtype=np.uint16))
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (severity, kind)
    assert all(str(value) in fault.seen for value in values)


def test_slices_with_one_structure_each_are_fine(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        write(tmp_path / f"p{value}.nii.gz", scan(value))
        write(tmp_path / f"p{value}_seg.nii.gz", label(value))
    assert find(tmp_path) == []


@pytest.mark.parametrize(("values", "warned"), [((1, 255), True), ((1, 2, 255), True), ((1, 128, 255), False)])
def test_255_beside_small_numbers_may_be_no_structure(pair: Path, values: tuple[int, ...], warned: bool) -> None:
    write(pair / "a_seg.nii.gz", label(*values))
    assert [fault.kind for fault in find(pair)] == ["255 beside small numbers"] * warned


def test_labels_without_background(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, 1) + 1)
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (WARNING, "a_seg.nii.gz", "no background")
    assert "the lowest value is 1" in fault.seen
    assert fault.repair.endswith("set 1 to 0")
    write(pair / "a_seg.nii.gz", np.full(SHAPE, 255, np.uint8))
    assert "these mark every voxel of every scan" in only(pair).repair


def test_one_label_without_background_among_others_with_one(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write(tmp_path / f"{name}.nii.gz", scan(number))
        write(tmp_path / f"{name}_seg.nii.gz", label(1, 1, 2) + (number == 1))
    (tmp_path / "dataset.json").write_text('{"labels": {"x": 1, "y": 2, "z": 3}}')
    (fault,) = [fault for fault in find(tmp_path) if fault.kind == "no background"]
    assert (fault.severity, fault.file) == (WARNING, "b_seg.nii.gz")
    assert fault.seen == "holds no 0, the value of the background, as 2 of 3 labels do; it holds 1, 2, 3"
    assert "subtract what was added" in fault.repair


def test_a_picture_may_lie_inside_of_a_structure(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        Image.fromarray(scan(number, (20, 20)).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(label(1, 1, shape=(20, 20)) | np.uint8(number)).save(tmp_path / f"{name}_seg.png")
    assert find(tmp_path) == []


def test_a_label_that_is_its_scan(pair: Path) -> None:
    values = scan(1) - scan(1).min()
    write(pair / "a.nii.gz", values)
    write(pair / "a_seg.nii.gz", values.astype(np.int32))
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "a_seg.nii.gz", "label identical to its scan")


def test_scans_and_labels_that_were_swapped(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}_seg.nii.gz", scan(ord(name), (20, 20, 6)))
        write(tmp_path / f"{name}.nii.gz", label(*[1] * ord(name), shape=(20, 20, 6)))
    found = find(tmp_path)
    assert [(fault.severity, fault.kind) for fault in found] == [
        (ERROR, "label with too many values"),
        (ERROR, "label with too many values"),
        (WARNING, "scan that looks like a label map"),
        (WARNING, "scan that looks like a label map"),
    ]


@pytest.mark.parametrize("name", ["a_roi", "a_mask_liver", "tumour of a"])
def test_masks_that_their_names_do_not_give_away(pair: Path, name: str) -> None:
    write(pair / f"{name}.nii.gz", label(1, 3))
    fault = only(pair)
    assert (fault.severity, fault.scan, fault.kind) == (WARNING, name, "scan that looks like a label map")
    assert "holds only 3 values: 0, 1, 3" in fault.seen


@pytest.mark.parametrize("values", [np.arange(16.0), np.array([0.0, 0.25, 1.0])])
def test_scans_of_few_greys_are_scans(pair: Path, values: np.ndarray) -> None:
    write(pair / "b.nii.gz", np.resize(values, SHAPE))
    assert find(pair) == []


def test_two_kinds_of_black_and_white(tmp_path: Path) -> None:
    white = Image.fromarray(DISC * 255)
    masks(tmp_path, {"a": white.convert("1"), "b": white, "c": Image.fromarray(DISC), "d": white.convert("RGB")})
    fault = only(tmp_path)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "masks/b.png", "masks with different foreground values")
    assert "255 in 2 labels, this one included, and 1 in 2 labels (masks/a.png)" in fault.seen
    assert kinds(masks(tmp_path, dict.fromkeys("abcd", white))) == []


def test_masks_with_soft_edges(tmp_path: Path) -> None:
    soft = Image.fromarray(DISC * 255).resize((80, 80), Image.Resampling.BILINEAR)
    masks(tmp_path, {"a": soft, "b": Image.fromarray(DISC * 255)})
    fault = only(tmp_path)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "masks/a.png", "mask with soft edges")
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.kron(DISC, np.ones((2, 2), np.uint8)) * 255).save(tmp_path / "masks" / "a.jpg", quality=80)
    fault = only(tmp_path)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "masks/a.jpg", "mask with soft edges")
    assert "JPEG changes values" in fault.seen


def test_a_contour_of_its_own_value_may_be_meant(tmp_path: Path) -> None:
    grown = np.zeros_like(DISC)
    grown[1:, 1:] |= DISC[:-1, :-1]
    mask = DISC * 255
    mask[(grown == 1) & (DISC == 0)] = 128
    masks(tmp_path, {"a": Image.fromarray(mask)})
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "values at edges only")
    assert fault.seen.startswith("128:")


def test_masks_in_colour_and_in_transparency(tmp_path: Path) -> None:
    seen_through = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    seen_through.putalpha(Image.fromarray(DISC * 255))
    colours = Image.fromarray(np.stack([DISC * 255, DISC * 0, DISC], axis=2))
    masks(tmp_path, {"a": Image.fromarray(DISC * 255).convert("RGBA"), "b": seen_through, "c": colours})
    assert kinds(tmp_path) == [
        (ERROR, "masks/b.png", "mask with transparency"),
        (ERROR, "masks/c.png", "label with several channels"),
    ]


def test_palettes_that_differ(tmp_path: Path) -> None:
    def coloured(*palette: int) -> Image.Image:
        picture = Image.fromarray(DISC).convert("P")
        picture.putpalette([*palette, *[0] * (768 - len(palette))])
        return picture

    masks(tmp_path, {"a": coloured(0, 0, 0, 255, 0, 0), "b": coloured(0, 0, 0, 255, 0, 0)})
    assert kinds(tmp_path) == []
    masks(tmp_path, {"a": coloured(0, 0, 0, 255, 0, 0), "b": coloured(0, 0, 0, 0, 255, 0)})
    fault = only(tmp_path)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "masks/b.png", "different palettes")
    assert fault.seen == "index 1 is #00ff00, but #ff0000 in masks/a.png"
    masks(tmp_path, {"a": coloured(255, 255, 255, 0, 0, 0), "b": coloured(255, 255, 255, 0, 0, 0)})
    assert kinds(tmp_path) == [(WARNING, f"masks/{name}.png", "palette picture as label") for name in "ab"]


def test_a_turned_picture_and_its_turned_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder, top in (("images", 200), ("masks", 1)):
        (tmp_path / folder).mkdir()
        array = np.random.default_rng(0).integers(0, top + 1, (30, 20)).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / folder / "a.png", exif=exif)
    assert kinds(tmp_path) == [(WARNING, f"{part}/a.png", "turned by its camera") for part in ("images", "masks")]
    Image.fromarray(array).save(tmp_path / "masks" / "a.png")  # as stored, without the camera's note
    assert (ERROR, "masks/a.png", "label on a different grid") in kinds(tmp_path)


def test_lengths_that_are_hardly_meant(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", scan(1), np.diag([1e-4, 1e-4, 1e-4, 1]))
    assert kinds(tmp_path) == [(WARNING, "a.nii.gz", "implausible spacing")]
    write(tmp_path / "a.nii.gz", scan(1), np.diag([1e20, 1e20, 1e20, 1]))
    assert kinds(tmp_path) == [(ERROR, "a.nii.gz", "unreadable file")]


@pytest.mark.parametrize("error", [ValueError("w2"), IndexError("tuple"), TypeError("SWIG"), ZeroDivisionError()])
def test_whatever_a_library_raises_is_a_fault_of_that_file(
    pair: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = nibabel.load

    def broken(path: Path, **options: Any) -> Any:
        if path.name == "b.nii.gz":
            raise error
        return load(path, **options)

    monkeypatch.setattr(nibabel, "load", broken)
    findings = check.examine(recognise(pair).index)
    assert [(fault.severity, fault.file, fault.kind) for fault in findings.faults] == [
        (ERROR, "b.nii.gz", "unreadable file")
    ]
    assert findings.seen[0].channels == 1  # the other scan was examined
