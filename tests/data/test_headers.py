"""Thirty awkward files of other people: each round-trips, or is refused with a clear reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lemis.data import volume
from lemis.errors import DataFault

HEADERS = Path(__file__).parents[2] / "../shared/data/headers"
MANIFEST = HEADERS / "manifest.json"
FILES: dict[str, Any] = (
    {entry["file"]: entry for entry in json.loads(MANIFEST.read_text(encoding="utf-8"))} if MANIFEST.is_file() else {}
)
REFUSED = {
    "complex64.nii.gz": "complex numbers",
    "ct_dicom_missing_slice": r"gap of 4\.00 mm between the slices at -776\.50 mm",
    "dicomseg_binary.dcm": "DICOM SEG object",
}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

pytestmark = pytest.mark.skipif(not FILES, reason="the shared header files are not here (../shared/data/headers)")
LARGE = {"freesurfer_wm.mgz", "ct_dicom", "ct_dicom_seg.nii.gz", "shear.nii.gz"}
readable = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in sorted(set(FILES) - set(REFUSED))],
)


def stored(scan: volume.Volume) -> tuple[np.ndarray, tuple[int, ...]]:
    """Values and shape in the words of the manifest."""
    source = scan.source
    return scan.array, source.shape if source.channels == 1 else (*source.shape, source.channels)


@readable
def test_header_and_values_are_those_of_the_manifest(name: str) -> None:
    scan, entry = volume.read(HEADERS / name), FILES[name]
    array, shape = stored(scan)
    reference = entry.get("nibabel") or entry["itk"]
    if entry.get("nibabel"):
        wanted_shape = reference["shape"] if name != "rgb24.nii.gz" else [*reference["shape"], 3]
        np.testing.assert_allclose(scan.source.affine, reference["affine"], atol=1e-5)
        if "qform_code" in reference:
            assert scan.source.codes == (reference["qform_code"], reference["sform_code"])
        assert scan.source.axis_codes == reference["axcodes"]
        assert volume.is_sheared(scan.source.affine) == reference["shear"]
    else:
        wanted_shape = reference["size"]
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(reference["direction"], (3, 3)) * reference["spacing"]
        affine[:3, 3] = reference["origin"]
        np.testing.assert_allclose(scan.source.affine, LPS @ affine, atol=2e-4)
    assert list(shape) == wanted_shape
    limits = reference if "min" in reference else entry["itk"]
    assert float(array.min()) == pytest.approx(limits["min"], rel=1e-6)
    assert float(array.max()) == pytest.approx(limits["max"], rel=1e-6)
    if "mean" in limits:
        assert float(array.mean(dtype=np.float64)) == pytest.approx(limits["mean"], rel=1e-4)


@readable
def test_labels_go_back_on_the_same_grid(name: str, tmp_path: Path) -> None:
    file = HEADERS / name
    source = volume.read_header(file)
    shape = source.canonical_shape
    labels = np.arange(np.prod(shape)).reshape(shape) % 251
    written = volume.write_labels(labels, source, tmp_path / f"label{volume.label_suffix(file)}")
    back = volume.read(written)
    np.testing.assert_array_equal(back.array, labels)
    assert back.source.shape == source.shape
    assert volume.corner_distance_mm(back.source.affine, source.affine, source.shape) < 1e-3
    if source.codes is not None:
        assert back.source.codes == source.codes


@readable
def test_header_alone_says_what_the_whole_file_says(name: str) -> None:
    header, scan = volume.read_header(HEADERS / name), volume.read(HEADERS / name)
    assert header.canonical_shape == scan.array.shape[:3]
    assert header.channels == (scan.array.shape[3] if scan.array.ndim == 4 else 1)
    np.testing.assert_array_equal(header.canonical_affine, scan.affine)


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_with_a_reason(name: str) -> None:
    for read in (volume.read, volume.read_header):
        with pytest.raises(DataFault, match=REFUSED[name]):
            read(HEADERS / name)


def test_one_head_in_eight_orientations_is_one_array() -> None:
    first, *others = [volume.read(file) for file in sorted(HEADERS.glob("space_*.nii.gz"))]
    assert len(others) == 7
    for other in others:
        np.testing.assert_array_equal(first.array, other.array)
        np.testing.assert_allclose(first.affine, other.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("ct_dicom", "ct_dicom_seg.nii.gz"),
        ("ct_small.nii.gz", "ct_small_seg.nii.gz"),
        ("dcm_23x38x3", "dcm_23x38x3_label.nrrd"),
    ],
)
def test_a_label_of_another_format_or_orientation_lies_on_its_image(image: str, label: str) -> None:
    one, other = volume.read_header(HEADERS / image), volume.read_header(HEADERS / label)
    assert one.canonical_shape == other.canonical_shape
    assert volume.corner_distance_mm(one.canonical_affine, other.canonical_affine, one.canonical_shape) < 1e-3
