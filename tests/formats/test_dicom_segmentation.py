"""DICOM SEG objects as labels: those of other programs, sparse, fractional, overlapping and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import segs
from lemis.errors import DataFault
from lemis.formats import labels, volume

pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")
SHAPE = (8, 5, 6)  # columns, rows, slices


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return segs.write_series(tmp_path / "ct")


def masks(*boxes: tuple[slice, slice, slice], maximum: float = 1) -> np.ndarray:
    """(slices, rows, columns, segments), one box each."""
    found = np.zeros((*reversed(SHAPE), len(boxes)), np.uint8 if maximum == 1 else np.float32)
    for number, box in enumerate(boxes):
        found[(*box, number)] = maximum
    return found


LOW = (slice(1, 3), slice(0, 2), slice(0, 3))
HIGH = (slice(2, 5), slice(3, 5), slice(2, 8))
BOTH = (slice(2, 5), slice(1, 4), slice(2, 8))  # shares voxels with each


def on_grid(file: Path, series: Path, **known: int) -> np.ndarray:
    """(slices, rows, columns) of the scan."""
    header = volume.read_header(series)
    read = labels.read(file, header.axes, header, known or None)
    stored: np.ndarray = volume._as_stored(read.array, header).T
    return stored


def changed(file: Path, **tags: Any) -> Path:
    dataset = pydicom.dcmread(file)
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(file)
    return file


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_segments_of_others_lie_where_they_were_drawn(tmp_path: Path, series: Path, kind: str) -> None:
    both = masks(LOW, HIGH)
    file = segs.by_others(tmp_path / "seg.dcm", series, both, ["Liver", "Spleen "], kind)
    np.testing.assert_array_equal(on_grid(file, series), both @ [1, 2])
    assert volume.read_label(file).source.segments == {"Liver": 1, "Spleen": 2}


def test_names_decide_whatever_the_numbers(tmp_path: Path, series: Path) -> None:
    both = masks(LOW, HIGH)
    file = segs.by_others(tmp_path / "seg.dcm", series, both, ["liver", "spleen"])
    np.testing.assert_array_equal(on_grid(file, series, Spleen=1, Liver=7), both @ [7, 1])


def test_a_tilted_series_of_others(tmp_path: Path) -> None:
    series = segs.write_series(tmp_path / "tilted", shift_mm=(0, 0.9, 0))
    both = masks(LOW, HIGH)
    file = segs.by_others(tmp_path / "seg.dcm", series, both, ["a", "b"])
    np.testing.assert_array_equal(on_grid(file, series), both @ [1, 2])


def test_fractions_count_from_half_of_the_greatest(tmp_path: Path, series: Path) -> None:
    part = masks(LOW, maximum=0.4)
    part[HIGH[0], HIGH[1], HIGH[2], 0] = 0.6
    file = segs.by_others(tmp_path / "seg.dcm", series, part, ["a"], "FRACTIONAL", max_fractional_value=200)
    np.testing.assert_array_equal(on_grid(file, series), masks(HIGH)[..., 0])
    assert [note.kind for note in volume.read_label(file).source.notes] == ["fractional segmentation"]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_overlapping_segments_are_refused_by_name(tmp_path: Path, series: Path, kind: str) -> None:
    file = segs.by_others(tmp_path / "seg.dcm", series, masks(LOW, HIGH, BOTH), ["a", "b", "c"], kind)
    with pytest.raises(
        DataFault, match=r"overlap: b and c in 18 voxels, and 1 more pairs(.|\n)*one structure per voxel"
    ):
        volume.read_label(file)


def test_frames_that_were_left_out_leave_a_gap(tmp_path: Path, series: Path) -> None:
    sparse = masks((slice(1, 2), slice(0, 2), slice(0, 3)))
    sparse[5, 3:, :, 0] = 1
    file = segs.by_others(tmp_path / "seg.dcm", series, sparse, ["a"])
    np.testing.assert_array_equal(on_grid(file, series), sparse[..., 0])
    # Older writers state the thickness of a slice only.
    dataset = pydicom.dcmread(file)
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    dataset.save_as(file)
    np.testing.assert_array_equal(on_grid(file, series), sparse[..., 0])


def test_it_is_no_image(tmp_path: Path, series: Path) -> None:
    (tmp_path / "seg").mkdir()
    file = segs.by_others(tmp_path / "seg" / "1-1.dcm", series, masks(LOW), ["a"])
    for path in (file, file.parent):
        with pytest.raises(DataFault, match=r"is a DICOM SEG object(.|\n)*the label of its scan"):
            volume.read(path)
    np.testing.assert_array_equal(on_grid(file.parent, series), masks(LOW)[..., 0])  # a folder of one is a label too
    segs.by_others(tmp_path / "seg" / "1-2.dcm", series, masks(LOW), ["a"])
    with pytest.raises(DataFault, match=r"holds 2 DICOM SEG objects: 1-1\.dcm, 1-2\.dcm"):
        volume.read_label(file.parent)


def test_of_another_grid_it_stays_on_its_own(tmp_path: Path, series: Path) -> None:
    other = segs.write_series(tmp_path / "other", turn=segs.rotation(0, 0, 12))
    file = segs.by_others(tmp_path / "seg.dcm", series, masks(LOW), ["a"])
    header = volume.read_header(other)
    assert labels.read(file, header.axes, header).array.shape != header.canonical_shape


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_damaged_ones_are_refused_in_words(tmp_path: Path, series: Path, kind: str) -> None:
    def broken(said: str, change: Any) -> None:
        file = segs.by_others(tmp_path / "seg.dcm", series, masks(LOW, HIGH), ["a", "b"], kind)
        dataset = pydicom.dcmread(file)
        change(dataset)
        dataset.save_as(file)
        with pytest.raises(DataFault, match=said):
            volume.read_label(file)

    broken(
        r"of the type 'SURFACE'(.|\n)*BINARY, LABELMAP, FRACTIONAL", lambda d: setattr(d, "SegmentationType", "SURFACE")
    )
    broken("describes no segment", lambda d: setattr(d, "SegmentSequence", []))
    broken("cannot be read", lambda d: delattr(d, "PerFrameFunctionalGroupsSequence"))
    broken("cannot be read", lambda d: delattr(d, "Rows"))
    broken("frames, and describes", lambda d: setattr(d, "NumberOfFrames", 1))
    broken("of pixels and holds", lambda d: (setattr(d, "Rows", 60_000), setattr(d, "Columns", 60_000)))
    broken("does not say where", lambda d: delattr(d.PerFrameFunctionalGroupsSequence[0], "PlanePositionSequence"))
    broken(
        "does not say where",
        lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0], "ImageOrientationPatient",
                          [1, 0, 0, 1, 0, 0]),
    )  # fmt: skip
    broken(
        "at uneven distances",
        lambda d: setattr(d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0], "ImagePositionPatient",
                          [-30, 12.5, 43.7]),
    )  # fmt: skip
    if kind == "LABELMAP":
        broken("the value 2, which is no segment's", lambda d: setattr(d, "SegmentSequence", d.SegmentSequence[:2]))
    else:
        broken("of segment 2, which it does not", lambda d: setattr(d, "SegmentSequence", d.SegmentSequence[:1]))
        broken("of the type ''", lambda d: delattr(d, "SegmentationType"))


def test_packed_frames(tmp_path: Path, series: Path) -> None:
    from pydicom.uid import RLELossless

    both = masks(LOW, HIGH)
    file = segs.by_others(
        tmp_path / "seg.dcm", series, both, ["a", "b"], "LABELMAP", transfer_syntax_uid=str(RLELossless)
    )
    np.testing.assert_array_equal(on_grid(file, series), both @ [1, 2])
    changed(file, Rows=60_000, Columns=60_000)
    with pytest.raises(DataFault, match="of pixels and holds"):
        volume.read_label(file)


def test_padding_is_background(tmp_path: Path, series: Path) -> None:
    file = segs.by_others(tmp_path / "seg.dcm", series, masks(LOW), ["a"], "LABELMAP")
    dataset = pydicom.dcmread(file)
    pixels = dataset.pixel_array.copy()
    pixels[pixels == 0] = 255
    dataset.PixelData, dataset.PixelPaddingValue = pixels.tobytes(), 255
    dataset.save_as(file)
    np.testing.assert_array_equal(on_grid(file, series), masks(LOW)[..., 0])


def test_a_real_one(tmp_path: Path) -> None:
    from folders_made import SHARED

    file = SHARED / "headers" / "dicomseg_binary.dcm"
    if not file.is_file():
        pytest.skip("real files are not here")
    read = volume.read_label(file)
    assert (read.source.shape, read.source.segments, int(read.array.sum())) == ((16, 16, 3), {"first segment": 1}, 638)
    stored = volume._as_stored(read.array, read.source)
    np.testing.assert_array_equal(stored.transpose(2, 1, 0), pydicom.dcmread(file).pixel_array)


def test_mutated_ones_are_read_or_refused_in_words(tmp_path: Path, series: Path) -> None:
    random, refused = np.random.default_rng(0), []
    for kind in ("BINARY", "LABELMAP"):
        whole = segs.by_others(tmp_path / "seg.dcm", series, masks(LOW, HIGH), ["a", "b"], kind).read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            at = int(random.integers(1100, len(content) - 4))  # behind the class, so that it is still looked at
            content[at : at + 4] = random.integers(0, 256, int(random.integers(0, 5)), dtype=np.uint8).tobytes()
            (tmp_path / "seg.dcm").write_bytes(content)
            try:
                assert volume.read_label(tmp_path / "seg.dcm").array.ndim == 3
            except DataFault as fault:
                refused.append(fault.next)
    assert refused
    assert all(refused)
