"""Text headers: what the formats allow is read as before, and nothing else ever reaches a C++ library."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import DataFault
from lemis.formats import volume
from lemis.formats.paths import stamp

VOXELS = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(np.int16)  # (Z, Y, X)
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "1.5 1.5 4",
    "DimSize": "4 5 6",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "int16",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 5 6",
    "space directions": "(1.5,0,0) (0,1.5,0) (0,0,4)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(1,2,3)",
}


def meta(path: Path, voxels: bytes = VOXELS.tobytes(), after: str = "", **changed: str | None) -> Path:
    """A MetaImage file; a key of None is left out."""
    fields = {key: value for key, value in (META | changed).items() if value is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # ends the header
    head = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes((head + after).encode("utf-8", "surrogateescape") + voxels)
    return path


def nrrd(path: Path, voxels: bytes = VOXELS.tobytes(), **changed: str | None) -> Path:
    names = {key.replace("_", " "): value for key, value in changed.items()}
    fields = {key: value for key, value in (NRRD | names).items() if value is not None}
    head = "NRRD0005\n" + "".join(f"{key}: {value}\n" for key, value in fields.items())
    path.write_bytes(f"{head}\n".encode("utf-8", "surrogateescape") + voxels)
    return path


def agrees(path: Path) -> None:
    """What we read is what SimpleITK reads."""
    scan, image = volume.read(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(scan.array[::-1, ::-1], sitk.GetArrayFromImage(image).T)
    np.testing.assert_allclose(scan.spacing_mm, image.GetSpacing())
    assert scan.source.notes == ()


# ---------------------------------------------------------------- what is read


def test_headers_as_they_are_meant(tmp_path: Path) -> None:
    agrees(meta(tmp_path / "a.mha"))
    agrees(nrrd(tmp_path / "a.nrrd"))
    agrees(meta(tmp_path / "b.mha", Comment="a " * 100, Modality="MET_MOD_MR"))
    agrees(nrrd(tmp_path / "b.nrrd", content="sl\u00efce: a:=b", type="signed short int"))
    agrees(nrrd(tmp_path / "c.nrrd", " ".join(map(str, VOXELS.ravel())).encode(), encoding="ascii", endian=None))


@pytest.mark.parametrize("order", ["<", ">"])
def test_packed_voxels_without_their_length(order: str, tmp_path: Path) -> None:
    voxels = zlib.compress(VOXELS.astype(f"{order}i2").tobytes())
    big = str(order == ">")
    file = meta(tmp_path / "a.mha", voxels, CompressedData="True", BinaryDataByteOrderMSB=big)
    np.testing.assert_array_equal(volume.read(file).array[::-1, ::-1], VOXELS.T)
    (tmp_path / "a.zraw").write_bytes(voxels)
    beside = {"CompressedData": "True", "BinaryDataByteOrderMSB": big, "ElementDataFile": "a.zraw"}
    np.testing.assert_array_equal(volume.read(meta(tmp_path / "a.mhd", b"", **beside)).array[::-1, ::-1], VOXELS.T)


def test_packed_vectors(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.stack([VOXELS, VOXELS + 1], axis=3), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.mha"), useCompression=True)
    found = volume.read(tmp_path / "a.mha").array[::-1, ::-1]
    np.testing.assert_array_equal(found, np.stack([VOXELS.T, VOXELS.T + 1], axis=3))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_what_simpleitk_writes_is_read(suffix: str, compressed: bool, dtype: type, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS.astype(dtype))
    image.SetSpacing((0.5, 0.75, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    agrees(tmp_path / f"a{suffix}")


def test_data_files_beside_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.raw").write_bytes(b"skip" + VOXELS.tobytes())
    for number, plane in enumerate(VOXELS):
        (tmp_path / f"slice{number:03d}.raw").write_bytes(plane.tobytes())
    agrees(meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw"))
    agrees(meta(tmp_path / "b.mhd", b"", ElementDataFile="below/a.raw", HeaderSize="4"))
    agrees(meta(tmp_path / "c.mhd", b"", ElementDataFile="below/a.raw", HeaderSize="-1"))
    agrees(meta(tmp_path / "d.mhd", b"", ElementDataFile="slice%03d.raw 0 5 1"))
    agrees(meta(tmp_path / "e.mhd", "\n".join(f"slice{n:03d}.raw" for n in range(6)).encode(), ElementDataFile="LIST"))
    agrees(nrrd(tmp_path / "a.nhdr", b"", data_file="a.raw"))
    agrees(nrrd(tmp_path / "b.nhdr", b"", data_file="below/a.raw", byte_skip="-1"))
    agrees(nrrd(tmp_path / "c.nhdr", b"", data_file="slice%03d.raw 0 5 1"))


def test_another_data_file_gives_another_stamp(tmp_path: Path) -> None:
    (tmp_path / "voxels.raw").write_bytes(VOXELS.tobytes())
    file = meta(tmp_path / "a.mhd", b"", ElementDataFile="voxels.raw")
    before = stamp(file)
    (tmp_path / "voxels.raw").write_bytes(VOXELS.tobytes() + b"0")
    assert stamp(file) != before


def test_text_in_another_encoding_is_no_reason_to_refuse_a_scan(tmp_path: Path) -> None:
    file = meta(tmp_path / "a.mha", Comment="J\udcf6rg")
    np.testing.assert_array_equal(volume.read(file).array[::-1, ::-1], VOXELS.T)


def test_a_spacing_that_is_not_stated_is_said(tmp_path: Path) -> None:
    bare = {"space": None, "space_directions": None, "space_origin": None}
    for file in (
        meta(tmp_path / "a.mha", ElementSpacing=None),
        nrrd(tmp_path / "a.nrrd", **bare),
        nrrd(tmp_path / "b.nrrd", **bare, spacings="nan nan nan"),
        nrrd(tmp_path / "c.nrrd", space_directions="none none none"),
    ):
        assert "no spacing" in [note.kind for note in volume.read_header(file).notes]
    notes = volume.read_header(nrrd(tmp_path / "d.nrrd", **bare, spacings="1 1 2")).notes
    assert [note.kind for note in notes] == ["unknown orientation"]


def test_lengths_in_another_unit_are_refused(tmp_path: Path) -> None:
    agrees(nrrd(tmp_path / "a.nrrd", space_units='"mm" "mm" "mm"'))
    agrees(meta(tmp_path / "a.mha", DistanceUnits="mm"))
    for file in (
        nrrd(tmp_path / "b.nrrd", space_units='"um" "um" "um"'),
        nrrd(tmp_path / "c.nrrd", space_directions=None, space=None, space_origin=None, units='"m" "m" "m"'),
        meta(tmp_path / "b.mha", DistanceUnits="cm"),
    ):
        with pytest.raises(DataFault, match=rf"{file.name} cannot be read(.|\n)*another unit"):
            volume.read(file)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("NDims", "0", "NDims = '0'(.|\n)*2 to 5"),
        ("NDims", "-1", "NDims"),
        ("NDims", "100", "NDims"),
        ("NDims", "2147483647", "NDims"),
        ("NDims", "99999999999999999999", "NDims"),
        ("NDims", "three", "NDims"),
        ("NDims", None, "no NDims"),
        ("NDims", "4", "TransformMatrix|Offset|DimSize"),
        ("DimSize", None, "DimSize"),
        ("DimSize", "4 5", "3 whole numbers"),
        ("DimSize", "4 5 -6", "3 whole numbers"),
        ("DimSize", "4 5 0", "3 whole numbers"),
        ("DimSize", "1200 1200 1200", "1200 x 1200 x 1200 values of 2 bytes, 3456000000 bytes, and holds 240 bytes"),
        ("DimSize", "4 5 7", "280 bytes, and holds 240"),
        ("ElementSpacing", "1e300 1e300 1e300", "voxels of 1e"),
        ("ElementSpacing", "0 1 1", "lengths above 0"),
        ("ElementSpacing", "-1 1 1", "lengths above 0"),
        ("ElementSpacing", "nan 1 1", "3 finite numbers"),
        ("ElementSpacing", "inf 1 1", "3 finite numbers"),
        ("ElementSpacing", "1 1", "3 finite numbers"),
        ("ElementSpacing", "a b c", "3 finite numbers"),
        ("TransformMatrix", "0 0 0 0 0 0 0 0 0", "a.mha"),
        ("TransformMatrix", "1 0 0", "9 finite numbers"),
        ("Offset", "1e30 0 0", "origin"),
        ("ElementType", "MET_OTHER", "MET_UCHAR"),
        ("ElementType", None, "ElementType"),
        ("ElementNumberOfChannels", "0", "ElementNumberOfChannels"),
        ("ElementNumberOfChannels", "-1", "ElementNumberOfChannels"),
        ("ElementNumberOfChannels", "1000", "holds 240 bytes"),
        ("AnatomicalOrientation", "R" * 300, "AnatomicalOrientation"),
        ("CompressedData", "True", "cannot be read"),
        ("CompressedData", "Tsue", "True or False"),
        ("BinaryData", "maybe", "True or False"),
        ("BinaryDataByteOrderMSB", "yes", "True or False"),
        ("CompressedDataSize", "0", "CompressedDataSize"),
        ("HeaderSize", "9999999", "holds 0 bytes"),
        ("ElementDataFile", "%s%s%s%s%n", "ct%03d.raw"),
        ("ElementDataFile", "%d%s 1 6 1", "ct%03d.raw"),
        ("ElementDataFile", "%99999d 1 6 1", "ct%03d.raw"),
        ("ElementDataFile", "a%d 1 999999 1", "999999 data files|not there"),
        ("ElementDataFile", "/etc/hostname", "in another folder"),
        ("ElementDataFile", "../a.raw", "in another folder"),
        ("ElementDataFile", "below/../../a.raw", "in another folder"),
        ("ElementDataFile", "x" * 5000, "cannot be read"),
        ("ElementDataFile", "pipe", "a named pipe"),
        ("ElementDataFile", ".", "a folder"),
        ("ElementDataFile", "not_there.raw", "not there"),
        ("ElementDataFile", "LIST", "0 data files|cannot be read"),
    ],
)
def test_metaimage_headers_that_are_refused(key: str, value: str | None, words: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = meta(tmp_path / "a.mha", **{key: value})
    with pytest.raises(DataFault, match=words) as caught:
        volume.read(file)
    assert "a.mha" in caught.value.given


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dimension", "0", "dimension = '0'(.|\n)*2 to 5"),
        ("dimension", "-1", "dimension"),
        ("dimension", "17", "dimension"),
        ("dimension", "2147483648", "dimension"),
        ("dimension", None, "no dimension"),
        ("sizes", None, "sizes"),
        ("sizes", "4 5", "3 whole numbers"),
        ("sizes", "4 5 -6", "3 whole numbers"),
        ("sizes", "1200 1200 1200", "3456000000 bytes, and holds 240 bytes"),
        ("type", "block", "a type of numbers"),
        ("type", "", "a type of numbers"),
        ("encoding", "bzip2", "raw, gzip, ascii or hex"),
        ("encoding", "gzip", "Not a gzipped file"),
        ("encoding", "ascii", "cannot be read"),
        ("encoding", "%s", "raw, gzip, ascii or hex"),
        ("space directions", "(1e30,0,0) (0,1,0) (0,0,1)", "a.nrrd"),
        ("space directions", "(0,0,0) (0,0,0) (0,0,0)", "a.nrrd"),
        ("space directions", "(nan,0,0) (0,1,0) (0,0,1)", "a.nrrd"),
        ("space origin", "(1e30,0,0)", "a.nrrd"),
        ("byte skip", "100000", "holds 0 bytes"),
        ("byte skip", "-2", "byte skip"),
        ("line skip", "3", "line skip"),
        ("data file", "pipe", "a named pipe"),
        ("data file", "/dev/zero", "in another folder"),
        ("data file", "../../a.raw", "in another folder"),
        ("data file", "%s%s%n 1 6 1", "ct%03d.raw"),
        ("data file", "not_there.raw", "not there"),
    ],
)
def test_nrrd_headers_that_are_refused(key: str, value: str | None, words: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = nrrd(tmp_path / "a.nrrd", **{key.replace(" ", "_"): value})
    with pytest.raises(DataFault, match=words) as caught:
        volume.read(file)
    assert "a.nrrd" in caught.value.given


def test_refusals_can_be_written_whatever_the_header_holds(tmp_path: Path) -> None:
    for file in (
        meta(tmp_path / "a.mha", ElementType="MET_\udcf6"),
        meta(tmp_path / "b.mha", **{"N\udcf6": "1", "NDims": None}),
    ):
        with pytest.raises(DataFault) as caught:
            volume.read(file)
        str(caught.value).encode("utf-8")
    for key in ("type", "encoding", "space", "endian", "kinds", "sizes"):
        file = nrrd(tmp_path / "a.nrrd", **{key: "\udcf6"})
        with pytest.raises(DataFault) as caught:
            volume.read(file)
        str(caught.value).encode("utf-8")


def test_a_key_twice_and_lines_without_one(tmp_path: Path) -> None:
    file = tmp_path / "a.mha"
    file.write_text("NDims = 3\nNDims = 2\n")
    with pytest.raises(DataFault, match="NDims twice"):
        volume.read(file)
    file.write_text("NDims 3\n")
    with pytest.raises(DataFault, match="the line 'NDims 3'"):
        volume.read(file)
    file = tmp_path / "a.nrrd"
    file.write_text("NRRD0004\ndimension: 3\nDimension: 2\n\n")
    with pytest.raises(DataFault, match="dimension twice"):
        volume.read(file)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_one_flipped_bit_of_packed_voxels_is_refused(name: str, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name), useCompression=True)
    whole = bytearray((tmp_path / name).read_bytes())
    for place in (-30, -6, -1) if name.endswith("nrrd") else (-30, -1):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataFault, match=f"{name} cannot be read"):
            volume.read(tmp_path / name)


@pytest.mark.parametrize(("bytes_said", "words"), [("20", "end before"), ("99999999", "99999999 packed bytes")])
def test_a_length_of_packed_voxels_that_is_not_theirs(bytes_said: str, words: str, tmp_path: Path) -> None:
    voxels = zlib.compress(VOXELS.tobytes())
    file = meta(tmp_path / "a.mha", voxels, CompressedData="True", CompressedDataSize=bytes_said)
    with pytest.raises(DataFault, match=words):
        volume.read(file)
    agrees(meta(tmp_path / "b.mha", voxels, CompressedData="True", CompressedDataSize=str(len(voxels))))


@given(place=st.integers(0, 400), byte=st.integers(0, 255), packed=st.booleans(), kind=st.sampled_from([meta, nrrd]))
@examples(150)
def test_no_changed_byte_of_a_header_does_harm(
    place: int, byte: int, packed: bool, kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("header")
    file = kind(folder / ("a.mha" if kind is meta else "a.nrrd"))
    content = bytearray(file.read_bytes())
    content[place % (len(content) - 240)] = byte
    file.write_bytes(content)
    try:
        scan = volume.read(file)
    except DataFault:
        return
    assert scan.array.size * scan.array.itemsize <= 240
