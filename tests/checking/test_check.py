"""Each fault is made on purpose and found by name, with file, values and repair; a sound folder has none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lemis.checking import check
from lemis.checking.faults import Fault
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.datasets.scans import read_image, read_label
from lemis.errors import DataFault

SHARED = Path(__file__).parents[2] / "../shared/data"
SHAPE = (6, 5, 4)
AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])
ERROR, WARNING = "error", "warning"


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)


def label(*values: float, dtype: Any = np.uint8, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, dtype)
    array.ravel()[: len(values)] = values
    return array


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def find(root: Path) -> list[Fault]:
    return check.faults(recognise(root).index, jobs=2)


def only(root: Path) -> Fault:
    found = find(root)
    assert len(found) == 1, found
    assert found[0].seen
    assert found[0].repair
    return found[0]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A sound folder: two scans, one label."""
    write(tmp_path / "a.nii.gz", scan(1))
    write(tmp_path / "a_seg.nii.gz", label(1, 2))
    write(tmp_path / "b.nii.gz", scan(2))
    return tmp_path


def test_a_sound_folder_has_no_faults_and_a_complete_index(pair: Path) -> None:
    ticks: list[None] = []
    findings = check.examine(recognise(pair).index, done=lambda: ticks.append(None))
    assert findings.faults == ()
    assert findings.errors == 0
    assert findings.index == scan_folder(pair)
    assert len(ticks) == 2
    assert findings.seen[0].intensities == ((float(scan(1).min()), float(scan(1).max())),)


# ---------------------------------------------------------------- geometry


def test_a_label_on_another_grid(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, shape=(6, 5, 5)))
    fault = only(pair)
    assert (fault.severity, fault.scan, fault.file, fault.kind) == (
        ERROR,
        "a",
        "a_seg.nii.gz",
        "label on a different grid",
    )
    assert fault.seen == "shape (6, 5, 5), but a.nii.gz has (6, 5, 4) (both in RAS+ order)"
    assert "nearest neighbour" in fault.repair


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda affine: affine + np.array([[0, 0, 0, 3.0], [0] * 4, [0] * 4, [0] * 4]),
            "corners are 3 mm apart",
        ),
        (lambda affine: affine @ np.diag([1, 1, 1.25, 1]), "spacing (1.5, 1.5, 10)"),
    ],
)
def test_a_label_in_another_place(pair: Path, change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    write(pair / "a_seg.nii.gz", label(1), change(AFFINE))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "label in a different place")
    assert words in fault.seen
    assert "copy the image's affine" in fault.repair


def test_a_label_that_lost_its_orientation(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1), AFFINE @ np.diag([-1, 1, 1, 1]))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "label in a different orientation")
    assert "axes LAS, but a.nii.gz has RAS" in fault.seen


@given(flip=st.tuples(*[st.booleans()] * 3), order=st.permutations([0, 1, 2]))
@settings(max_examples=15, deadline=None)
def test_a_label_stored_in_another_order_is_fine(
    flip: tuple[bool, ...], order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("scans")
    image, truth = scan(1), label(1, 2, 3)
    write(root / "a.nii", image)
    stored = nibabel.Nifti1Image(truth, AFFINE).as_reoriented(
        np.array([[axis, -1 if turned else 1] for axis, turned in zip(order, flip, strict=True)])
    )
    nibabel.save(stored, root / "a_seg.nii")
    assert find(root) == []


def test_a_rounded_affine_is_fine(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, 2), AFFINE + 0.002 * np.eye(4, k=1)[[0, 1, 2, 3]])
    assert find(pair) == []


def test_channels_on_different_grids(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", scan(1))
    write(tmp_path / "imagesTr" / "a_0001.nii.gz", scan(2, (6, 5, 3)))
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (ERROR, "channel on a different grid")
    assert fault.file == "imagesTr/a_0001.nii.gz"
    assert "imagesTr/a_0000.nii.gz has (6, 5, 4)" in fault.seen


def test_dicom_with_a_missing_slice(tmp_path: Path, write_series) -> None:
    write_series(tmp_path / "p1", scan(1, (6, 5, 6)))
    write_series(tmp_path / "p2", scan(2, (6, 5, 6)))
    (tmp_path / "p2" / "3.dcm").unlink()
    fault = only(tmp_path)
    assert (fault.severity, fault.scan, fault.kind) == (ERROR, "p2", "unreadable DICOM series")
    assert "gap of 4.00 mm between the slices at 9.00 mm" in fault.seen
    assert "missing slice" in fault.repair


def test_slices_in_another_direction(pair: Path) -> None:
    write(pair / "c.nii.gz", scan(3), np.diag([8.0, 1.5, 1.5, 1.0]))
    fault = only(pair)
    assert (fault.severity, fault.scan, fault.kind) == (WARNING, "c", "different slice direction")
    assert "sagittal slices (axis 0), 90 degrees from those of most scans, axial (axis 2)" in fault.seen


def tilted(degrees: float) -> np.ndarray:
    """Slices turned about the axis from right to left."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1.0]]) @ AFFINE


@pytest.mark.parametrize(("degrees", "seen"), [(20, None), (40, None), (50, 50), (140, None), (100, 80)])
def test_slices_in_another_direction_are_told_by_their_angle(pair: Path, degrees: float, seen: int | None) -> None:
    write(pair / "c.nii.gz", scan(3), tilted(degrees))
    if seen is None:
        assert find(pair) == []
        return
    fault = only(pair)
    assert (fault.severity, fault.scan, fault.kind) == (WARNING, "c", "different slice direction")
    assert f", {seen} degrees from those of most scans, axial (axis 2)" in fault.seen


def test_stacks_halfway_between_two_axes_have_no_other_direction(tmp_path: Path) -> None:
    for number, degrees in enumerate((38, 41, 44, 46, 49, 52)):
        write(tmp_path / f"s{number}.nii.gz", scan(number), tilted(degrees))
    assert find(tmp_path) == []


def test_a_round_of_directions_cannot_all_be_stored_alike(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"s{number:02d}.nii.gz", scan(number), tilted(15 * number))
    found = [fault for fault in find(tmp_path) if fault.kind == "similar scans stored differently"]
    assert len(found) == 1
    assert found[0].severity == WARNING
    assert "lie within 30 degrees of others, but no common orientation suits them all" in found[0].seen


# ---------------------------------------------------------------- headers


def header_file(path: Path, **fields: Any) -> None:
    image = nibabel.Nifti1Image(scan(1), None)
    image.header.set_qform(AFFINE, code=1)
    image.header.set_sform(AFFINE, code=1)
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, path)


def test_unknown_orientation(tmp_path: Path) -> None:
    header_file(tmp_path / "a.nii", qform_code=0, sform_code=0)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "unknown orientation")


def test_forms_that_disagree(tmp_path: Path) -> None:
    header_file(tmp_path / "a.nii", qoffset_x=5)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "qform and sform disagree")
    assert "5 mm apart" in fault.seen
    header_file(tmp_path / "a.nii", qoffset_x=5, qform_code=0)
    assert find(tmp_path) == []


def test_a_sheared_grid(tmp_path: Path) -> None:
    header_file(tmp_path / "a.nii", srow_y=(0, 1.5, 2, 0))
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "sheared grid")


def test_a_time_series(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", scan(1, (*SHAPE, 20)))
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "time series")
    assert "20 volumes" in fault.seen


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_numbers(pair: Path, value: float) -> None:
    array = scan(2, dtype=np.float32)
    array[0, 0, :2] = value
    write(pair / "b.nii.gz", array)
    fault = only(pair)
    assert (fault.severity, fault.scan, fault.kind) == (ERROR, "b", "invalid voxel values")
    assert fault.seen.startswith("2 of 120 voxels")


def test_a_constant_scan(pair: Path) -> None:
    write(pair / "b.nii.gz", np.full(SHAPE, 3, np.int16))
    write(pair / "c.nii.gz", np.full(SHAPE, 3, np.int16))
    kinds = [(fault.severity, fault.scan, fault.kind, fault.seen) for fault in find(pair)]
    assert kinds == [(ERROR, name, "constant scan", "the scan is 3 everywhere") for name in "bc"]


def test_a_constant_channel(tmp_path: Path) -> None:
    array = scan(1, (*SHAPE, 2))
    array[..., 1] = 0
    write(tmp_path / "a.nii", array)
    assert only(tmp_path).seen == "channel 1 of the file is 0 everywhere"


def test_unreadable_files(pair: Path) -> None:
    (pair / "b.nii.gz").write_bytes(b"no scan")
    (pair / "a_seg.nii.gz").write_bytes(b"no label")
    found = find(pair)
    assert [(fault.severity, fault.file, fault.kind) for fault in found] == [
        (ERROR, "a_seg.nii.gz", "unreadable file"),
        (ERROR, "b.nii.gz", "unreadable file"),
    ]
    assert all("cannot be read" in fault.seen for fault in found)


def test_a_label_without_its_image(pair: Path) -> None:
    index = recognise(pair).index
    (pair / "a.nii.gz").unlink()
    (fault,) = check.faults(index)
    assert (fault.severity, fault.scan, fault.file, fault.kind) == (ERROR, "a", "a.nii.gz", "label without its image")
    assert fault.seen == "is missing, but its label a_seg.nii.gz is there"


def test_a_palette_picture_as_image(tmp_path: Path) -> None:
    for name in ("a", "a_mask"):
        picture = Image.new("P", (6, 5))
        picture.putpixel((1, 1), 1)
        picture.save(tmp_path / f"{name}.png")
    fault = only(tmp_path)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, "a.png", "palette picture")


def test_scans_with_other_channels(tmp_path: Path) -> None:
    for name, mode in {"a": "L", "b": "L", "c": "RGB"}.items():
        picture = Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (5, 6, 3)).astype(np.uint8))
        picture.convert(mode).save(tmp_path / f"{name}.png")
    fault = only(tmp_path)
    assert (fault.severity, fault.scan, fault.kind) == (ERROR, "c", "number of channels")
    assert fault.seen == "3 channels in 1 file, but the data set has 1 (image)"


@pytest.mark.parametrize(("other", "severity"), [("a_ES", WARNING), ("b", ERROR)])
def test_the_same_voxels_twice(tmp_path: Path, other: str, severity: str) -> None:
    write(tmp_path / "a_ED.nii.gz", scan(1))
    write(tmp_path / f"{other}.nii.gz", scan(1, dtype=np.float32))
    write(tmp_path / "c.nii.gz", scan(2))
    fault = only(tmp_path)
    assert (fault.severity, fault.scan, fault.kind) == (severity, other, "same voxels twice")
    assert "a_ED.nii.gz" in fault.seen
    assert ("leak" in fault.seen) == (severity == ERROR)


def test_the_same_voxels_mirrored(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", scan(1))
    write(tmp_path / "b.nii.gz", scan(1)[::-1])
    assert (only(tmp_path).scan, only(tmp_path).kind) == ("b", "same voxels twice")


# ---------------------------------------------------------------- labels


def test_label_values_between_integers(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, 0.5, 1.25, dtype=np.float32))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "label values that are not whole numbers")
    assert "(0.5, 1.25)" in fault.seen


def test_label_values_near_integers(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, 2.000001, dtype=np.float64))
    findings = check.examine(recognise(pair).index)
    assert [(fault.severity, fault.kind) for fault in findings.faults] == [
        (WARNING, "label values close to whole numbers")
    ]
    assert findings.index.scans[0].label_values == (0, 1, 2)


def test_float_labels_of_whole_numbers_are_fine(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, 2, dtype=np.float32))
    assert find(pair) == []


def test_label_values_that_are_not_numbers(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, np.nan, dtype=np.float32))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "invalid label values")


def test_a_label_with_channels(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(1, shape=(*SHAPE, 2)))
    fault = only(pair)
    assert (fault.severity, fault.kind) == (ERROR, "label with several channels")


def test_an_empty_label(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label())
    fault = only(pair)
    assert (fault.severity, fault.kind) == (WARNING, "empty label")


def test_values_that_nobody_declared_and_structures_that_never_occur(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", scan(1))
    write(tmp_path / "labelsTr" / "a.nii.gz", label(1, 7))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "RV": 1, "LV": 2}}')
    unknown, missing = find(tmp_path)
    assert (unknown.severity, unknown.kind) == (ERROR, "undeclared label values")
    assert unknown.seen == "holds 7; declared are 0 background, 1 RV, 2 LV"
    assert (missing.severity, missing.kind) == (WARNING, "structure never labelled")
    assert missing.seen.startswith("2 LV")


def test_ignored_values_are_neither_named_nor_wrong(tmp_path: Path) -> None:
    write(tmp_path / "label_btcv_multiorgan" / "label0001.nii.gz", label(*range(15)))
    write(tmp_path / "img0001.nii.gz", scan(1), np.diag([1.5, 1.5, 0.5, 1.0]))
    fault = only(tmp_path)  # the affines differ; the values are fine
    assert fault.kind == "label in a different place"
    write(tmp_path / "label_btcv_multiorgan" / "label0001.nii.gz", label(15, *range(15)))
    write(tmp_path / "img0001.nii.gz", scan(1))
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (ERROR, "undeclared label values")
    assert fault.seen.startswith("holds 15; declared are 0 background, 1 spleen, 3 left kidney")


def test_any_integers_are_fine_where_nothing_is_declared(pair: Path) -> None:
    write(pair / "a_seg.nii.gz", label(500, 205, 420, dtype=np.int16))
    findings = check.examine(recognise(pair).index)
    assert findings.faults == ()
    assert findings.index.labels == {"background": 0, "label 205": 205, "label 420": 420, "label 500": 500}


# ---------------------------------------------------------------- real scans


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here (../shared/data)")
@pytest.mark.parametrize("name", ["Dataset102_Hippocampus", "Dataset104_BraTSmini", "Dataset110_Dermoscopy2D"])
def test_real_data_sets_are_sound(name: str) -> None:
    assert find(SHARED / name) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared header files are not here (../shared/data)")
def test_awkward_headers_are_named(tmp_path: Path) -> None:
    names = ["codes_zero.nii.gz", "complex64.nii.gz", "dicomseg_binary.dcm", "ct_small.nii.gz"]
    table = "image,id\n" + "\n".join(f"{SHARED / 'headers' / name},{name.split('.')[0]}" for name in names)
    (tmp_path / "list.csv").write_text(table)
    found = {(fault.scan, fault.kind) for fault in find(tmp_path) if fault.kind != "different slice direction"}
    assert found == {
        ("codes_zero", "unknown orientation"),
        ("complex64", "unreadable file"),
        ("dicomseg_binary", "unreadable DICOM series"),
    }


# ---------------------------------------------------------------- what people's files really hold


def kinds(root: Path) -> list[tuple[str, str, str]]:
    return [(fault.severity, fault.file, fault.kind) for fault in find(root)]


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


def test_pixdim_and_sform_that_disagree(tmp_path: Path) -> None:
    header_file(tmp_path / "a.nii", pixdim=(1, 0.5, 0.5, 5, 0, 0, 0, 0), qform_code=0)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "pixdim and sform disagree")
    assert "0.5 x 0.5 x 5 mm" in fault.seen
    header_file(tmp_path / "a.nii", pixdim=(1, 0.5, 0.5, 5, 0, 0, 0, 0), qform_code=1)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "qform and sform disagree")
    assert "(0.5, 0.5, 5)" in fault.seen


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


# ---------------------------------------------------------------- channels and splits of a folder


def test_a_channel_that_is_missing_is_an_error_of_its_scan(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        for channel in range(2):
            write(tmp_path / "imagesTr" / f"{name}_{channel:04d}.nii.gz", scan(2 * number + channel))
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", label(1))
    (tmp_path / "imagesTr" / "b_0000.nii.gz").unlink()
    fault = only(tmp_path)
    assert (fault.severity, fault.scan, fault.kind) == (ERROR, "b", "missing channel")
    assert (fault.file, fault.seen) == ("imagesTr/b_0000.nii.gz", "is missing, but imagesTr/b_0001.nii.gz is there")


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """Four labelled scans, two of them the same, and folds that keep the two apart."""
    for name, seed in {"a": 1, "b": 2, "c": 3, "d": 1}.items():
        write(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", scan(seed))
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", label(1))
    write_splits(tmp_path, [(["a", "b"], ["c", "d"]), (["c", "d"], ["a", "b"])])
    return tmp_path


def write_splits(folder: Path, folds: list[tuple[list[str], list[str]]]) -> None:
    (folder / "splits_final.json").write_text(json.dumps([{"train": train, "val": val} for train, val in folds]))


def test_check_says_of_the_repair_of_a_duplicate_what_the_splits_will_say(doubled: Path) -> None:
    fault = only(doubled)
    assert fault.kind == "same voxels twice"
    assert "remove one of them (from splits_final.json too)" in fault.repair
    assert "subjects.csv (id,subject) and put both on one side in splits_final.json" in fault.repair


def test_a_removed_scan_has_to_leave_the_splits_too(doubled: Path) -> None:
    for file in ("imagesTr/d_0000.nii.gz", "labelsTr/d.nii.gz"):
        (doubled / file).unlink()
    found = find(doubled)
    assert [(one.severity, one.file, one.kind) for one in found] == [
        (ERROR, "splits_final.json", "unusable splits")
    ] * 2
    assert "names 'd', which has no label here" in found[0].seen
    write_splits(doubled, [(["a", "b"], ["c"]), (["c"], ["a", "b"])])
    assert find(doubled) == []


def test_scans_of_one_subject_have_to_be_on_one_side_of_the_splits(doubled: Path) -> None:
    (doubled / "subjects.csv").write_text("id,subject\na,ann\nd,ann\n")
    leaks = [one for one in find(doubled) if one.severity == ERROR]
    assert len(leaks) == 2
    assert all("trains and tests on subject 'ann': a leak" in one.seen for one in leaks)
    write_splits(doubled, [(["a", "d"], ["b"]), (["b"], ["a", "d"])])
    kinds = {one.kind: one for one in find(doubled)}
    assert set(kinds) == {"same voxels twice", "labels that no fold uses"}
    assert kinds["labels that no fold uses"].seen == "1 of 3 labelled subjects are in no fold: c"


@pytest.mark.parametrize("file", ["a.nii.gz", "a_seg.nii.gz"])
def test_one_flipped_bit_in_a_scan_or_its_label(pair: Path, file: str) -> None:
    index = recognise(pair).index
    damaged = bytearray((pair / file).read_bytes())
    damaged[-6] ^= 1
    (pair / file).write_bytes(damaged)
    fault = only(pair)
    assert (fault.severity, fault.file, fault.kind) == (ERROR, file, "unreadable file")
    assert "CRC" in fault.seen
    with pytest.raises(DataFault, match=f"{file} cannot be read"):  # as prepare and predict read them
        read_label(index, index.scans[0], read_image(dataclasses.replace(index, channels=("image",)), index.scans[0]))
