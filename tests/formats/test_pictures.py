"""Pictures: as people see them, and one value per pixel of a mask."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image, ImageOps

from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.formats.paths import label_suffix

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_picture_has_x_to_the_right_and_y_upwards(suffix: str, colours: int, tmp_path: Path) -> None:
    pixels = np.zeros((3, 5) if colours == 1 else (3, 5, 3), np.uint8)  # rows, columns
    pixels[2, 1] = 200  # second from the left in the lowest row
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    scan = volume.read(tmp_path / f"a{suffix}")
    assert scan.array.shape == ((5, 3, 1) if colours == 1 else (5, 3, 1, 3))
    assert np.all(scan.array[1, 0, 0] == 200)
    assert np.count_nonzero(scan.array) == colours
    np.testing.assert_array_equal(scan.affine, np.eye(4))

    labels = RANDOM.integers(0, 4, (5, 3, 1))
    volume.write_labels(labels, scan.source, tmp_path / f"label{suffix}")
    np.testing.assert_array_equal(volume.read(tmp_path / f"label{suffix}").array, labels)
    stored = np.asarray(Image.open(tmp_path / f"label{suffix}"))
    np.testing.assert_array_equal(stored[::-1].T, labels[:, :, 0])


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("1", np.uint8), ("L", np.uint8), ("P", np.uint8), ("I;16", np.uint16), ("F", np.float32)],
)
def test_picture_modes(mode: str, dtype: type, tmp_path: Path) -> None:
    picture = Image.new(mode, (5, 3), 1)
    file = tmp_path / ("a.tif" if mode == "F" else "a.png")
    picture.save(file)
    scan = volume.read(file)
    assert scan.array.dtype == dtype
    assert (scan.array == 1).all()


def test_alpha_is_dropped_and_tiff_pages_are_slices(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 3), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert volume.read(tmp_path / "a.png").array[0, 0, 0].tolist() == [1, 2, 3]

    pages = [Image.new("L", (5, 3), value) for value in (10, 20)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    scan = volume.read(tmp_path / "stack.tif")
    assert scan.array.shape == (5, 3, 2)
    assert scan.array[0, 0].tolist() == [10, 20]
    labels = RANDOM.integers(0, 4, (5, 3, 2))
    volume.write_labels(labels, scan.source, tmp_path / "label.tif")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.tif").array, labels)


def test_labels_of_a_jpeg_are_png(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.jpg")
    assert label_suffix(tmp_path / "a.jpg") == ".png"
    with pytest.raises(UsageError, match=r"written as \.png or \.tif"):
        volume.write_labels(np.zeros((5, 3, 1), int), volume.read_header(tmp_path / "a.jpg"), tmp_path / "label.jpg")


def test_large_label_values_of_a_picture(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.png")
    source = volume.read_header(tmp_path / "a.png")
    labels = np.full((5, 3, 1), 40_000)
    volume.write_labels(labels, source, tmp_path / "label.png")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.png").array, labels)
    with pytest.raises(UsageError, match=r"label values -1 to -1 in label\.png"):
        volume.write_labels(np.full((5, 3, 1), -1), source, tmp_path / "label.png")
    with pytest.raises(UsageError, match="0 to 65535 in pictures"):
        volume.write_labels(np.full((5, 3, 1), 70_000), source, tmp_path / "label.png")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.png").array, labels)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (5, 3)).save(tmp_path / "a.jpg")
    with pytest.raises(DataFault, match="mode CMYK"):
        volume.read(tmp_path / "a.jpg")

    pages = [Image.new("L", (5, 3)), Image.new("L", (6, 3))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataFault, match="pages of different sizes"):
        volume.read(tmp_path / "a.tif")


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.full((3, 5, 3), 300, np.uint16), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.png"))
    with pytest.raises(DataFault, match="16-bit colour"):
        volume.read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(turn: int, suffix: str, tmp_path: Path) -> None:
    grey = np.zeros((16, 24), np.uint8)
    grey[:8, :8] = 200  # the upper left corner
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(grey).save(tmp_path / f"a{suffix}", exif=exif, compression="tiff_lzw")
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a{suffix}")))
    scan = volume.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scan.array[:, ::-1, 0].T, shown)
    assert scan.source.shape == volume.read_header(tmp_path / f"a{suffix}").shape
    assert [note.kind for note in scan.source.notes] == ["turned by its camera"] * (turn != 1)
    labels = RANDOM.integers(0, 3, scan.array.shape)
    volume.write_labels(labels, scan.source, tmp_path / "label.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "label.png"))[::-1].T, labels[..., 0])


def test_an_unpacked_tiff_that_is_to_be_turned_is_refused(tmp_path: Path) -> None:
    Image.new("L", (24, 16)).save(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    with pytest.raises(DataFault, match=r"a\.tif holds an unpacked TIFF that is to be turned"):
        volume.read(tmp_path / "a.tif")


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_pictures_whose_file_is_at_fault_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    size = whole[16:29]
    made = {
        "claims.png": whole[:8] + chunk(b"IHDR", b"\0\0\x4e\x20\0\0\x4e\x20" + size[8:]) + whole[33:],
        "wide.png": whole[:8] + chunk(b"IHDR", b"\0\0\x20\0\0\0\x20\0" + size[8:]) + whole[33:],
        "text.png": whole[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))) + whole[33:],
        "no.png": b"",
    }
    palette = Image.new("P", (5, 3))
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "a.bmp")
    damaged = bytearray((tmp_path / "a.bmp").read_bytes())
    damaged[46:50] = (3).to_bytes(4, "little")  # colours in the palette
    damaged[28] = 7  # bits per pixel
    made["palette.bmp"] = bytes(damaged)
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFault, match=f"{name} cannot be read"):
            volume.read(tmp_path / name)
