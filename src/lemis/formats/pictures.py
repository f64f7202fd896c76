"""PNG, TIFF, JPEG and BMP, by Pillow.

Pixels are 1 mm, x runs to the right, y upwards (the last row is y = 0); the pages of a TIFF are z. A picture that its
camera says is to be turned (EXIF) is turned. Alpha is dropped; a palette picture gives its indices, which is what a
mask saved so means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import packed
from lemis.formats.faults import not_an_intensity, reading
from lemis.formats.notes import Note
from lemis.formats.paths import file_of, suffix_of
from lemis.formats.source import Source

Array = npt.NDArray[Any]


# How many bytes of pixels one byte of a picture may stand for: deflate's bound, and beyond any of the others.
_RATIOS = {"PNG": packed.DEFLATE_RATIO}
_OTHER_RATIO = 4096
_EXIF_ORIENTATION = 0x0112
TRANSPARENT = "transparent in part"
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Image.Transpose that undoes each EXIF orientation


def read(path: Path, with_voxels: bool, grey: bool = False) -> tuple[Source, Array | None]:
    """A picture, one in colour as a grey one where that is asked for. Raises like ``volume.read``."""
    with open_picture(path) as picture:
        with reading(path):
            source = _source(path, picture)
        if grey:
            source = replace(source, channels=1, dtype="L")
        if not with_voxels:
            return source, None
        stored, opacity = _read_pages(picture, source)
    if opacity[0] < opacity[1]:
        source = replace(source, notes=(*source.notes, _transparent(opacity)))
    return source, stored


@contextmanager
def open_picture(path: Path) -> Iterator[Any]:
    """A picture as Pillow opens it, if its file can hold the pixels that it claims.

    Raises:
        DataFault: It cannot, or is no picture.
    """
    from PIL import Image

    file = file_of(path)
    with reading(path):
        picture = Image.open(file)
    with picture:
        with reading(path):
            pages, (width, height) = getattr(picture, "n_frames", 1), picture.size
            bits = 1 if picture.mode in ("1", "L", "P") else 8 * len(picture.getbands())  # at least
        packed.refuse_claim(
            path,
            width * height * pages * bits // 8,
            file.stat().st_size,
            f"{width} x {height} pixels" + (f" on {pages} pages" if pages > 1 else ""),
            ratio=_RATIOS.get(str(picture.format), _OTHER_RATIO),
        )
        yield picture


def turn_of(picture: Any) -> int:
    """The EXIF orientation, 1 (none) to 8, that is still to be applied to a picture: Pillow turns a TIFF by itself."""
    return 1 if picture.format == "TIFF" else _exif_orientation(picture)


def _exif_orientation(picture: Any) -> int:
    turn = picture.getexif().get(_EXIF_ORIENTATION, 1)
    return turn if turn in _TURNS else 1


def upright(page: Any, turn: int) -> Any:
    """A picture, or a page of it, as people see it: turned by its camera's note."""
    return page.transpose(_TURNS[turn]) if turn in _TURNS else page


def _source(path: Path, picture: Any) -> Source:
    mode = picture.mode
    raw = str(picture.tile[0][3]) if picture.tile else ""
    if ";16" in raw and mode not in ("I", "I;16", "I;16B", "I;16L"):
        raise not_an_intensity(path, f"16-bit colour ({raw}), which Pillow cuts to 8 bits", "save one file per channel")
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"):
        raise not_an_intensity(path, f"a picture of mode {mode}", "save it as greyscale or RGB")
    noted, left = _exif_orientation(picture), turn_of(picture)
    if noted > 4 and left == 1 and picture.tile[0][0] == "raw":  # Pillow reads its rows with the length of its columns
        raise not_an_intensity(path, f"an unpacked TIFF that is to be turned (orientation {noted})", "save it upright")
    pages, (width, height) = getattr(picture, "n_frames", 1), picture.size if left < 5 else picture.size[::-1]
    affine = np.eye(4)
    affine[1, 1], affine[1, 3] = -1.0, height - 1.0  # rows are stored from the top, y runs upwards
    return Source(
        path=path,
        format="picture",
        shape=(width, height, pages),
        channels=3 if mode in ("RGB", "RGBA") else 1,
        affine=affine,
        dtype=mode,
        notes=() if noted == 1 else (_turned(noted),),
    )


def _turned(turn: int) -> Note:
    return Note(
        "turned by its camera",
        f"EXIF orientation {turn}: read as viewers show it, not as its pixels are stored",
        "fine if its mask was drawn on what viewers show; otherwise save both anew without EXIF",
    )


def _transparent(opacity: tuple[int, int]) -> Note:
    return Note(
        TRANSPARENT,
        f"alpha is {opacity[0]} to {opacity[1]}; it is dropped, and what lies under transparent parts may be anything",
        "fine if the colours alone are the image; otherwise save it on a background, without transparency",
    )


def _read_pages(picture: Any, source: Source) -> tuple[Array, tuple[int, int]]:
    """(x, y, z[, colours]) pixels, and the least and the largest alpha; 255 where there is none."""
    mode = {"RGBA": "RGB", "LA": "L", "PA": "P"}
    pages: list[Array] = []
    turn, opacity = turn_of(picture), (255, 255)
    for number in range(source.shape[2]):
        with reading(source.path):
            if source.shape[2] > 1:
                picture.seek(number)
            if picture.mode in ("RGBA", "LA", "PA"):
                least, largest = picture.getchannel("A").getextrema()
                opacity = (least, largest) if not pages else (min(opacity[0], least), max(opacity[1], largest))
            wanted = "L" if source.dtype == "L" else mode.get(picture.mode, picture.mode)
            page = picture if picture.mode == wanted else picture.convert(wanted)
            pages.append(np.asarray(upright(page, turn)))
    if len({page.shape for page in pages}) > 1:
        raise DataFault(
            f"{source.path} has pages of different sizes",
            allowed="pages of one size",
            next="save one file per page",
        )
    stored = np.stack(pages, axis=2).swapaxes(0, 1)  # (rows, columns, page, ...) -> (x, y, z, ...)
    return stored.astype(np.uint8) if stored.dtype == bool else stored, opacity


def read_plane(file: Path, size: tuple[int, int]) -> Array:
    """(columns, rows) values of a picture; white is 255 in black and white ones."""
    from PIL import Image

    packed.refuse_special(file)
    with reading(file), Image.open(file) as picture:
        stored = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if stored.shape != size[::-1]:
        raise DataFault(
            f"{file} is of shape {stored.shape}",
            allowed=f"one value per pixel of the slice, {size[::-1]}",
            next="unpack the archive again, or leave the label out",
        )
    return stored.T


def write_labels(stored: Array, _like: Source, path: Path) -> None:
    """A label map in stored order; a TIFF has a page for each z."""
    from PIL import Image

    pages = [Image.fromarray(np.ascontiguousarray(stored[:, :, z].T)) for z in range(stored.shape[2])]
    tiff = suffix_of(path) in (".tif", ".tiff")
    options: dict[str, Any] = {"compression": "tiff_lzw"} if tiff else {}
    if len(pages) > 1:
        options |= {"save_all": True, "append_images": pages[1:]}
    pages[0].save(path, **options)
