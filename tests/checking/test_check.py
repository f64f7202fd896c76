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
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from checked_scans import AFFINE, ERROR, SHAPE, SHARED, WARNING, find, kinds, label, only, scan, write
from how_many import examples
from lemis.checking import check
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.datasets.scans import read_image, read_label
from lemis.errors import DataFault


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
@examples(15)
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


def test_forms_of_a_label_that_disagree(tmp_path: Path) -> None:
    """Programs that take the qform see the label elsewhere, and so did whoever drew it in one."""
    header_file(tmp_path / "a.nii")
    image = nibabel.Nifti1Image(label(0, 1, 1), None)
    image.header.set_sform(AFFINE, code=1)
    image.header.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE, code=1)
    nibabel.save(image, tmp_path / "a_seg.nii")
    assert kinds(tmp_path) == [(WARNING, "a_seg.nii", "qform and sform disagree")]


def test_pixdim_and_sform_that_disagree(tmp_path: Path) -> None:
    header_file(tmp_path / "a.nii", pixdim=(1, 0.5, 0.5, 5, 0, 0, 0, 0), qform_code=0)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "pixdim and sform disagree")
    assert "0.5 x 0.5 x 5 mm" in fault.seen
    header_file(tmp_path / "a.nii", pixdim=(1, 0.5, 0.5, 5, 0, 0, 0, 0), qform_code=1)
    fault = only(tmp_path)
    assert (fault.severity, fault.kind) == (WARNING, "qform and sform disagree")
    assert "(0.5, 0.5, 5)" in fault.seen


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
    (fault,) = check.examine(index).faults
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
