"""Enhanced DICOM files, and series of several stacks: every frame by its own tags, and no two images mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

import dicoms
from dicoms import stored
from lemis.errors import DataFault
from lemis.formats import volume
from lemis.formats.dicom import choice, stacks
from lemis.formats.dicom.tags import read_header

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)  # frames, rows, columns


def at(place: float, **tags: Any) -> dict[str, Any]:
    return {"ImagePositionPatient": [-10.0, -20.0, place], **tags}


@settings(deadline=None, max_examples=25)  # files are written: how long that takes is the disk's matter
@given(st.permutations(range(6)), st.lists(st.integers(1, 5), min_size=6, max_size=6), st.booleans())
def test_frames_in_any_order_each_with_its_own_slope(tmp_path_factory, order, slopes, whole: bool) -> None:
    file = tmp_path_factory.mktemp("enhanced") / "IM1"
    scale = 1 if whole else 0.01
    dicoms.write_enhanced(
        file, FRAMES, each=lambda n: at(2.0 * order[n], RescaleSlope=slopes[n] * scale, RescaleIntercept=-n)
    )
    scan = volume.read(file)
    assert scan.array.dtype.kind == "i" if whole else scan.array.dtype == np.float64
    np.testing.assert_allclose(scan.spacing_mm, (0.5, 0.75, 2.0))
    for frame, place in enumerate(order):
        expected = FRAMES[frame].T * (slopes[frame] * scale) - frame
        np.testing.assert_array_equal(stored(file)[:, :, place], expected)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, 1)])
def test_geometry_is_that_of_simpleitk(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    step = 2.5 * np.cross(row, column)
    dicoms.write_enhanced(
        tmp_path / "IM1",
        FRAMES,
        each=lambda n: {"ImagePositionPatient": [round(float(x), 6) for x in (7, 8, 9) + n * step]},
        shared={"ImageOrientationPatient": list(orientation), "SliceThickness": 2.5},
        FrameOfReferenceUID="1.2.7",
    )
    theirs = sitk.ReadImage(str(tmp_path / "IM1"), sitk.sitkInt32, "GDCMImageIO")
    ours = volume.read_header(tmp_path / "IM1")
    turn = np.diag([-1.0, -1, 1])  # LPS to RAS
    direction = np.array(theirs.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(ours.affine[:3, :3], turn @ direction * theirs.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(ours.affine[:3, 3], turn @ theirs.GetOrigin(), atol=1e-6)
    np.testing.assert_array_equal(
        volume.read(tmp_path / "IM1", ours.axes).array.shape, volume.read(tmp_path / "IM1").source.canonical_shape
    )


def test_highdicom_reads_the_same_values(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")
    order = [3, 0, 5, 1, 4, 2]
    file = dicoms.write_enhanced(
        tmp_path / "IM1",
        FRAMES,
        each=lambda n: at(2.0 * order[n], RescaleSlope=1 + n / 100, RescaleIntercept=n, RescaleType="US"),
        FrameOfReferenceUID="1.2.7",
    )
    theirs = highdicom.imread(file).get_volume()
    to_voxels = np.linalg.inv(theirs.affine)
    scan = volume.read(file)
    for voxel in np.ndindex(scan.array.shape):
        place_mm = np.diag([-1.0, -1, 1, 1]) @ scan.affine @ (*voxel, 1.0)
        there = tuple(np.rint(to_voxels @ place_mm).astype(int)[:3])
        np.testing.assert_allclose(theirs.array[there], scan.array[voxel], rtol=1e-12)


def test_one_frame_is_a_slice_with_its_place(tmp_path: Path) -> None:
    file = dicoms.write_enhanced(tmp_path / "IM1", FRAMES[:1], shared={"SliceThickness": 3.0, "PixelSpacing": [2, 1]})
    np.testing.assert_allclose(volume.read_header(file).spacing_mm, (1.0, 2.0, 3.0))
    assert volume.read_header(file).affine[2, 3] == 5.0


@pytest.mark.parametrize("kind", ["RLE", "JPEG 2000", "JPEG-LS", "deflated"])
def test_packed_frames(tmp_path: Path, write_series: dicoms.SeriesWriter, kind: str) -> None:
    write_series(tmp_path / "any", np.ones((6, 5, 1), dtype=np.int16))  # for the locale that it restores
    frames = np.ascontiguousarray(RANDOM.integers(0, 2000, (4, 33, 32)).astype(np.uint16))
    dataset = dicoms.enhanced(frames, BitsStored=12)
    if kind == "deflated":
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    else:
        codes = [_packed(frame, kind, tmp_path) for frame in frames]
        dataset.file_meta.TransferSyntaxUID = codes[0][0]
        dataset.PixelData = pydicom.encaps.encapsulate([code for _, code in codes])
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "IM1", enforce_file_format=True)
    np.testing.assert_array_equal(stored(tmp_path / "IM1"), frames.transpose(2, 1, 0))


def _packed(frame: np.ndarray, kind: str, folder: Path) -> tuple[str, bytes]:
    dataset = dicoms.slice_of(frame, BitsStored=12)
    if kind == "JPEG-LS":
        pytest.importorskip("jpeg_ls", reason="packs it: pip install -e '.[dicom]' -c constraints.txt")
    if kind != "JPEG 2000":
        dataset.compress(pydicom.uid.RLELossless if kind == "RLE" else pydicom.uid.JPEGLSLossless)
    else:
        image = sitk.GetImageFromArray(frame[None])
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "one.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
        writer.Execute(image)
        dataset = pydicom.dcmread(folder / "one.dcm")
        (folder / "one.dcm").unlink()
    return dataset.file_meta.TransferSyntaxUID, next(
        pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    )


KINDS: dict[str, tuple[Callable[[int], dict[str, Any]], str, int]] = {
    "echoes": (lambda n: at(n // 2, EffectiveEchoTime=2.46 * (1 + n % 2)), "EchoTime=2.46", 2),
    "b-values": (lambda n: at(n // 3, DiffusionBValue=1000.0 * (n % 3)), "DiffusionBValue=0", 3),
    "times": (lambda n: at(n // 3, TemporalPositionIndex=1 + n % 3), "TemporalPositionIdentifier=1", 3),
    "phases": (
        # The heart does not beat alike while each slice is taken.
        lambda n: at(n // 3, NominalCardiacTriggerDelayTime=30.0 * (n % 3) + n // 3),
        "phase=1",
        3,
    ),
    "kinds": (lambda n: at(n // 2, FrameType=["ORIGINAL", "PRIMARY", "MP"[n % 2]]), "ImageType=ORIGINAL_PRIMARY_M", 2),
    "stacks": (lambda n: at(2 * n + 7 * (n // 3), StackID=f"{1 + n // 3}"), "StackID=1", 2),
    "dimensions": (lambda n: at(n // 2, DimensionIndexValues=[1, n // 2 + 1, n % 2 + 1]), "Dimension3=1", 2),
    "directions": (
        lambda n: {
            "ImagePositionPatient": [0, 0, 2 * n] if n < 3 else [2 * n, 0, 0],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0] if n < 3 else [0, 1, 0, 0, 0, -1],
        },
        "plane=axial",
        2,
    ),
    "echoes of phases": (
        lambda n: at(0, EffectiveEchoTime=float(n % 2), TemporalPositionIndex=1 + n // 2),
        "EchoTime=0:TemporalPositionIdentifier=1",
        6,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stacks_are_listed_and_one_is_picked(tmp_path: Path, kind: str) -> None:
    each, first, count = KINDS[kind]
    file = dicoms.write_enhanced(tmp_path / "IM1", FRAMES, each=each)
    with pytest.raises(DataFault, match=rf"series holds {count} stacks of slices: 1: {first} ") as error:
        volume.read(file)
    assert f"IM1#series=1:{first}" in error.value.next
    seen = []
    for number in range(1, count + 1):
        scan = volume.read(Path(f"{file}#series=1:{number}"))
        seen += scan.array.reshape(5, 4, -1).transpose(2, 1, 0)[:, ::-1, ::-1].tolist() if kind != "directions" else []
    if kind != "directions":
        assert sorted(seen) == sorted(FRAMES.tolist())  # every frame in one of them
    by_name = volume.read(Path(f"{file}#series=1:{first}")).array
    np.testing.assert_array_equal(by_name, volume.read(Path(f"{file}#series=1:1")).array)
    with pytest.raises(DataFault, match="the stack 99, which none is"):
        volume.read(Path(f"{file}#series=1:99"))


def test_stacks_of_a_classic_series(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(FRAMES.T)
    dicoms.write(tmp_path, pixels, each=lambda n: at(3.0 * (n % 3), EchoTime=f"{4.92 if n < 3 else 2.46}"))
    with pytest.raises(DataFault, match=r"1: EchoTime=2\.46 \(3 slices\); 2: EchoTime=4\.92"):
        volume.read(tmp_path)
    np.testing.assert_array_equal(stored(Path(f"{tmp_path}#series=ser*:EchoTime=4.92")), pixels[:, :, :3])
    np.testing.assert_array_equal(stored(Path(f"{tmp_path}#series=1:1")), pixels[:, :, 3:])


def test_a_segmentation_is_no_image_of_many_frames(tmp_path: Path) -> None:
    dataset = dicoms.enhanced(FRAMES, each=lambda n: at(n // 2, StackID=f"{n % 2}"))
    dataset.Modality = "SEG"
    dataset.save_as(tmp_path / "IM1", enforce_file_format=True)
    for path in (tmp_path, tmp_path / "IM1"):
        with pytest.raises(DataFault, match="is a DICOM SEG object"):
            volume.read(path)


def test_what_no_tag_tells_apart_is_refused(tmp_path: Path) -> None:
    dicoms.write_enhanced(tmp_path / "IM1", FRAMES, each=lambda n: at(n // 2))
    with pytest.raises(DataFault, match=r"IM1 frame 1 and IM1 frame 2 are both at 0\.00 mm"):
        volume.read(tmp_path / "IM1")


def test_copies_of_a_slice_are_named(tmp_path: Path) -> None:
    (file, *_) = dicoms.write(tmp_path, np.ascontiguousarray(FRAMES.T))
    (tmp_path / "0 (copy).dcm").write_bytes(file.read_bytes())
    with pytest.raises(DataFault, match=r"both at 5\.00 mm, and are copies of one image"):
        volume.read(tmp_path)


def test_slices_of_different_kinds_at_different_places_are_said(tmp_path: Path) -> None:
    dicoms.write(tmp_path, np.ascontiguousarray(FRAMES.T), each=lambda n: {"EchoTime": 2 + n // 3})
    assert "Echo Time 2, 3" in dicoms.notes(tmp_path)["slices of different kinds"]


def test_a_gap_between_frames(tmp_path: Path) -> None:
    dicoms.write_enhanced(tmp_path / "IM1", FRAMES, each=lambda n: at(2.0 * n + 2 * (n > 3)))
    with pytest.raises(DataFault, match=r"a gap of 4\.00 mm(.|\n)*IM1 frame 4(.|\n)*IM1 frame 5"):
        volume.read(tmp_path / "IM1")


def test_frames_that_are_not_described_or_not_there(tmp_path: Path) -> None:
    dataset = dicoms.enhanced(FRAMES)
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    dataset.save_as(tmp_path / "IM1", enforce_file_format=True)
    with pytest.raises(DataFault, match="Number Of Frames is 6, and 5 are described"):
        volume.read(tmp_path / "IM1")
    dataset = dicoms.enhanced(FRAMES)
    dataset.PixelData = dataset.PixelData[:-40]
    dataset.save_as(tmp_path / "IM2", enforce_file_format=True)
    with pytest.raises(DataFault, match="in 6 frames take 240 bytes, and 200 are there"):
        volume.read(tmp_path / "IM2")
    dataset = dicoms.enhanced(FRAMES)
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(tmp_path / "IM3", enforce_file_format=True)
    with pytest.raises(DataFault, match="do not state their position"):
        volume.read(tmp_path / "IM3")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=20, unique=True)
)
def test_no_stack_holds_two_slices_of_one_place(tmp_path_factory, slices) -> None:
    folder = tmp_path_factory.getbasetemp()
    file = folder / "one.dcm"
    if not file.exists():
        dicoms.slice_of(FRAMES[0]).save_as(file, enforce_file_format=True)
    header = read_header(file)
    headers = [
        dataclasses.replace(
            header,
            raw={**header.raw, "ImagePositionPatient": f"0\\0\\{place}".encode(), "EchoTime": f"{echo}".encode(),
                 "TemporalPositionIdentifier": f"{time}".encode()},
        )
        for place, echo, time in slices
    ]  # fmt: skip
    found = stacks.stacks_of(headers)
    assert sorted(map(id, (h for stack in found for h in stack.headers))) == sorted(map(id, headers))
    places = [[one.text("ImagePositionPatient") for one in stack.headers] for stack in found]
    assert all(len(set(some)) == len(some) for some in places) or len(found) == 1
    assert len({stack.name for stack in found}) == len(found)


@pytest.mark.parametrize(
    ("written", "series", "stack"),
    [
        ("4", "4", ""),
        ("T1 vibe", "T1 vibe", ""),
        ("T1: post", "T1: post", ""),
        ("4:EchoTime=2.46", "4", "EchoTime=2.46"),
        ("T1: post:EchoTime=2.46:phase=3", "T1: post", "EchoTime=2.46:phase=3"),
        ("c*:2", "c*", "2"),
        ("1.2.3:2", "1.2.3", "2"),
    ],
)
def test_what_is_written_after_series(written: str, series: str, stack: str) -> None:
    assert choice.divided(written) == (series, stack)
