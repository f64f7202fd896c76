"""The values of one DICOM file, or of one frame of it. Grey pixels that are not packed are read by NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemis.formats.dicom.stored import Slice, too_short
from lemis.formats.dicom.tags import BIG_ENDIAN, dataset_of, raw_value, unreadable
from lemis.formats.dicom.unpacking import unpacked

Array = npt.NDArray[Any]


class Plane(NamedTuple):
    """What one file holds."""

    values: Array  # (rows, columns[, 3]), slope and intercept applied
    padded: npt.NDArray[np.bool_] | None  # where they are padding; None if the file does not say
    spare_bytes: int  # that follow the last pixel; 0 of packed pixels


class Pixels(NamedTuple):
    """What a file holds of pixels, not unpacked yet."""

    raw: bytes
    codes: tuple[bytes, ...]  # of packed pixels, the code of each frame


def pixels_of(one: Slice) -> Pixels:
    """Read the file of a slice.

    Raises:
        DataFault: It is damaged, or holds fewer pixels than claimed.
    """
    raw = raw_value(dataset_of(one.file, ["PixelData"], pixels=True), "PixelData")
    if not raw:
        raise unreadable(one.file, "it holds no pixels")
    if not one.packed:
        if len(raw) < one.stored_bytes * one.frames:
            raise too_short(one, len(raw))
        return Pixels(raw, ())
    from pydicom.encaps import generate_frames

    try:
        codes = tuple(generate_frames(raw, number_of_frames=one.frames))
    except Exception as error:  # pydicom raises anything on damaged fragments
        raise unreadable(one.file, f"its pixels are damaged ({error})") from error
    if len(codes) < one.frames:
        raise unreadable(one.file, f"it holds {len(codes)} packed frames, and claims {one.frames}")
    return Pixels(raw, codes)


def plane_of(one: Slice, pixels: Pixels) -> Plane:
    """The values of a slice.

    Args:
        one: The slice.
        pixels: Of its file.

    Raises:
        DataFault: They are damaged.
    """
    spare_bytes = 0 if one.packed else len(pixels.raw) - one.stored_bytes * one.frames
    start = one.frame * one.stored_bytes
    code = pixels.codes[one.frame] if one.packed else pixels.raw[start : start + one.stored_bytes]
    if one.samples > 1:
        return Plane(unpacked(one, code), None, spare_bytes)
    stored, padded = (_in_bits(one, unpacked(one, code)), None) if one.packed else _by_numpy(one, code)
    if one.padding is not None:
        inside = (stored >= one.padding[0]) & (stored <= one.padding[1])
        padded = inside if padded is None else inside | padded
    if one.turned_over:
        lowest = -(2 ** (one.bits_stored - 1)) if one.signed else 0
        stored = 2 * lowest + 2**one.bits_stored - 1 - stored
    return Plane(_measured(one, stored), padded, spare_bytes)


def _measured(one: Slice, stored: npt.NDArray[np.int64]) -> Array:
    if one.table is not None:
        return np.array(one.table.values)[np.clip(stored - one.table.first, 0, len(one.table.values) - 1)]
    return stored if (one.slope, one.intercept) == (1, 0) else stored * one.slope + one.intercept


def _by_numpy(one: Slice, raw: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Stored values of plain grey pixels, and where a whole cell is the padding value, unused bits included."""
    kind = np.dtype(f"u{one.bits_allocated // 8}").newbyteorder(">" if one.syntax == BIG_ENDIAN else "<")
    cells = np.frombuffer(raw, dtype=kind, count=one.rows * one.columns).reshape(one.rows, one.columns).astype(np.int64)
    stored = _in_bits(one, cells >> (one.high_bit + 1 - one.bits_stored))
    if one.padding is None:
        return stored, None
    return stored, cells == one.padding[0] & (2**one.bits_allocated - 1)


def _in_bits(one: Slice, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Values of the bits that are stored; older files keep overlays in those above."""
    stored: npt.NDArray[np.int64] = cells & (2**one.bits_stored - 1)
    if one.signed:
        stored -= (stored >> (one.bits_stored - 1)) << one.bits_stored
    return stored
