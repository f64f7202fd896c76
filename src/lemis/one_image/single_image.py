"""One image of any kind, for methods that look at nothing else: pictures, DICOM slices, slices of a volume.

Every slice is an image on its own: (C, H, W) in [0, 1], upright as people look at it (a picture as it is; a scan with
the patient's right on the left, front or head on top). Slices count from 1 along the axis of the widest spacing.

- 8-bit pictures are divided by 255, as in the papers. Everything else (16-bit pictures, CT, MR) is scaled per slice and
  channel from its 0.5th to its 99.5th percentile, or through a window where one is given.
- A picture that its camera says is to be turned (EXIF) is turned, and its mask lies on it so.
- A transparent picture is laid on white; a palette picture is taken for its colours.
- Values that are not finite become the smallest finite one of their slice and channel, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.datasets.index import slice_axis
from lemis.datasets.scans import expect_grid
from lemis.errors import DataFault, UsageError
from lemis.formats import labels, volume
from lemis.formats.dicom.folders import is_dicom
from lemis.formats.faults import reading
from lemis.formats.names import readable, unfit_text
from lemis.formats.paths import FORMATS, is_picture, may_be_dicom, suffix_of
from lemis.formats.pictures import open_picture, turn_of, upright
from lemis.formats.source import Source
from lemis.formats.volume import Volume
from lemis.preparation.slices import in_plane, slices_first, slices_last

Array = NDArray[Any]
Range = tuple[int, int]

PERCENTILES = (0.5, 99.5)  # a hot pixel, or a piece of metal, must not make the rest of a slice dark


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The slices of one image that are to be segmented; one of a picture."""

    planes: tuple[NDArray[np.float32], ...]  # (C, H, W) in [0, 1] each
    numbers: tuple[int, ...]  # of the slices, from 1
    constant: tuple[int, ...]  # numbers of those that have one value only
    source: Source
    axis: int  # across the slices, of the canonical array
    notes: tuple[str, ...]  # what was done to the values, in words

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every slice of the image itself."""
        return in_plane(self.source.canonical_shape, self.source.spacing_mm, self.axis).shape

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(row, col) distance of the pixels; 1 in pictures."""
        return in_plane(self.source.canonical_shape, self.source.spacing_mm, self.axis).spacing_mm


def read(
    path: Path,
    *,
    slices: Range | list[Range] | None = None,
    window: tuple[float, float] | None = None,
    stored_axis: int | None = None,
) -> Stack:
    """Read the slices of an image.

    Args:
        path: A picture, a DICOM slice, a volume, or the folder of one DICOM series.
        slices: First and last, both included, counted from 1, or several such pairs; all by default.
        window: What becomes 0 and what becomes 1, in the image's own values (HU, say).
        stored_axis: The axis of the file's own array that runs across the slices, where the spacing does not tell.

    Raises:
        UsageError: No such file or slice, or a format that we do not read.
        DataFault: A damaged file, a slice without a finite value, an image whose pixels are all alike, or a name that
            cannot be written anywhere.
    """
    path = Path(path)
    if reason := unfit_text(path.name):
        raise DataFault(
            f"{path.parent}/{readable(path.name)}: its name {reason}",
            allowed="names in UTF-8, without control characters",
            next="rename the file, and run the same command again",
        )
    image, notes = _picture(path) if _is_picture(path) else (_scan(path), [])
    notes += [note.seen for note in image.source.notes]
    axis = _across(image) if stored_axis is None else canonical_axis(image.source, stored_axis)
    numbers = _numbers(path, slices, image.array.shape[axis])
    array = image.array if image.array.ndim == 4 else image.array[..., None]
    stored = slices_first(array, axis)  # (n, C, H, W)
    if image.source.format == "picture":
        stored = stored[..., ::-1]  # slices_first looks at a patient from below
    eight_bit = array.dtype == np.uint8 and (image.source.format == "picture" or array.shape[-1] == 3)
    planes = []
    for number in numbers:
        finite = _finite(path, number, stored[number - 1], notes)
        planes.append(_scaled(finite, (0.0, 255.0) if eight_bit and window is None else window))
    constant = tuple(number for number, plane in zip(numbers, planes, strict=True) if _is_flat(plane))
    if len(constant) == len(planes):
        raise DataFault(
            f"{path}: all pixels {'' if len(planes) == 1 else f'of slices {numbers[0]} to {numbers[-1]} '}are alike"
            + (f" between {window[0]:g} and {window[1]:g}" if window else ""),
            allowed="an image with something to tell apart",
            next="widen --window" if window else "give another image or another slice",
        )
    if constant:
        notes.append(f"left empty, as all their pixels are alike: slices {', '.join(map(str, constant))}")
    return Stack(
        planes=tuple(planes), numbers=numbers, constant=constant, source=image.source, axis=axis, notes=tuple(notes)
    )


def resized(plane: NDArray[np.float32], size: int | None) -> NDArray[np.float32]:
    """(C, H, W) -> (C, size, size), bicubic, smoothed beforehand where it shrinks; as it is where ``size`` is None."""
    if size is None:
        return plane
    return _resample(plane, (size, size), "BICUBIC")


def shrunk(plane: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """(C, H, W) -> the same with a longer side of ``longest`` at most, for showing."""
    height, width = plane.shape[1:]
    scale = longest / max(height, width)
    if scale >= 1:
        return plane
    return _resample(plane, (max(1, round(height * scale)), max(1, round(width * scale))), "BOX")


def nearest(labels: Array, shape: Sequence[int]) -> Array:
    """(h, w) label map -> (H, W), each pixel that of the nearest one; enlarged and brought back it is the same."""
    rows, cols = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, cols)]


def on_grid(stack: Stack, planes: Mapping[int, Array]) -> NDArray[np.int64]:
    """Label maps (H, W) by slice number -> (X, Y, Z) of the image's own grid, 0 in the other slices."""
    shape = stack.source.canonical_shape
    slices = np.zeros((shape[stack.axis], *stack.shape), dtype=np.int64)
    for number, plane in planes.items():
        slices[number - 1] = plane
    if stack.source.format == "picture":
        slices = slices[..., ::-1]
    return np.ascontiguousarray(slices_last(slices, stack.axis))


def read_labels(path: Path, stack: Stack) -> dict[int, NDArray[np.int64]]:
    """A label map on the grid of an image -> its planes (H, W), by the numbers of the slices that were read.

    Raises:
        UsageError: There is no such file.
        DataFault: Another grid than the image's, or values that are no whole numbers.
    """
    found = labels.read(path, stack.source.axes, stack.source)
    if found.array.shape != stack.source.canonical_shape:
        raise DataFault(
            f"{path} has shape {found.array.shape}, {stack.source.path} has {stack.source.canonical_shape}",
            allowed="a label map with one value per pixel, on the image's own grid",
            next="give the label map that was drawn on this image",
        )
    expect_grid(found.source, str(path), stack.source, str(stack.source.path))
    slices = slices_first(found.array.astype(np.int64), stack.axis)
    if stack.source.format == "picture":
        slices = slices[..., ::-1]
    return {number: np.ascontiguousarray(slices[number - 1]) for number in stack.numbers}


def canonical_axis(source: Source, stored_axis: int) -> int:
    """The axis of the canonical array that an axis of the file's own array became."""
    return int(source.orientation[stored_axis, 0])


def beside(mask: Path, what: str, suffix: str | None = None) -> Path:
    """The name of a file beside a mask: ``mask.png`` -> ``mask`` + ``what`` + ``.png``, or another suffix."""
    own = suffix_of(mask)
    return mask.with_name(mask.name[: len(mask.name) - len(own)] + what + (own if suffix is None else suffix))


def images_in(folder: Path) -> list[Path]:
    """The images of a folder (not of its sub-folders), in the order of their names; each DICOM file is one.

    Raises:
        UsageError: It is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", allowed="a folder of images", next="check the path")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    found = [path for path in files if suffix_of(path) or _is_dicom(path)]
    if not found:
        raise UsageError(
            f"{folder} holds no image",
            allowed=", ".join(FORMATS),
            next="give the folder that the images lie in",
        )
    return found


# ---------------------------------------------------------------- reading


def _is_picture(path: Path) -> bool:
    return path.is_file() and is_picture(path)


def _is_dicom(path: Path) -> bool:
    return may_be_dicom(path) and (suffix_of(path) == ".dcm" or is_dicom(path))


def _scan(path: Path) -> Volume:
    return volume.read_dicom_slice(path) if path.is_file() and _is_dicom(path) else volume.read(path)


def _picture(path: Path) -> tuple[Volume, list[str]]:
    """A picture as it is seen: colours of a palette, transparency on white."""
    from nibabel.orientations import apply_orientation

    notes: list[str] = []
    source = volume.read_header(path)
    with open_picture(path) as picture, reading(path):
        if (turn := turn_of(picture)) != 1:
            notes.append("turned as its camera says (EXIF), and the mask with it: as viewers show it")
        pages = [_page(picture, number, turn, notes) for number in range(source.shape[2])]
        stored = np.stack(pages, axis=2).swapaxes(0, 1)  # (rows, cols, page[, C]) -> (x, y, z[, C])
    array = apply_orientation(stored, source.orientation)
    return Volume(array=array, affine=source.canonical_affine, source=source), list(dict.fromkeys(notes))


def _page(picture: Any, number: int, turn: int, notes: list[str]) -> Array:
    from PIL import Image

    if number:
        picture.seek(number)
    page = picture
    if page.mode in ("RGBA", "LA", "PA") or "transparency" in page.info:
        page = page.convert("RGBA")
        if page.getextrema()[3][0] < 255:
            notes.append("transparent parts are laid on white")
            page = Image.alpha_composite(Image.new("RGBA", page.size, "white"), page)
        else:
            notes.append("the alpha channel, opaque everywhere, is dropped")
        page = page.convert("L" if picture.mode == "LA" else "RGB")
    elif page.mode in ("P", "1"):
        page = page.convert("RGB" if page.mode == "P" else "L")
    return np.asarray(upright(page, turn))


# ---------------------------------------------------------------- slices and values


def _across(image: Volume) -> int:
    thin = [axis for axis in range(3) if image.array.shape[axis] == 1]
    if image.source.format == "picture":
        return 2
    return thin[0] if len(thin) == 1 else slice_axis(image.spacing_mm)


def _numbers(path: Path, slices: Range | list[Range] | None, there: int) -> tuple[int, ...]:
    numbers: set[int] = set()
    for first, last in slices if isinstance(slices, list) else [slices or (1, there)]:
        if not 1 <= first <= last <= there:
            raise UsageError(
                f"slices {first} to {last} of {path}",
                allowed=f"1 to {there}: slices count from 1, and both ends are included",
                next=f"--slices 1:{there}",
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def _finite(path: Path, number: int, plane: Array, notes: list[str]) -> Array:
    if plane.dtype.kind != "f" or np.isfinite(plane).all():
        return plane
    finite = np.isfinite(plane)
    if not finite.any(axis=(1, 2)).all():
        raise DataFault(
            f"{path}: slice {number} holds no finite value",
            allowed="slices with an image in them",
            next="leave it out with --slices",
        )
    notes.append(f"slice {number}: {(~finite).sum()} values that are not finite became the smallest one")
    lowest = np.where(finite, plane, np.inf).min(axis=(1, 2), keepdims=True)
    return np.where(finite, plane, lowest)


def _scaled(plane: Array, window: tuple[float, float] | None) -> NDArray[np.float32]:
    precision = np.float64 if plane.dtype.itemsize > 2 else np.float32
    values: NDArray[np.floating[Any]] = np.ascontiguousarray(plane).astype(precision)
    if window is not None:
        low, high = (np.full((len(plane), 1, 1), end) for end in window)
    else:
        low, high = np.percentile(values, PERCENTILES, axis=(1, 2), keepdims=True)
        # Nearly all pixels are alike: the few others are the image.
        flat = low == high
        low = np.where(flat, values.min(axis=(1, 2), keepdims=True), low)
        high = np.where(flat, values.max(axis=(1, 2), keepdims=True), high)
    width = np.where(high > low, high - low, 1.0)
    return np.ascontiguousarray(np.clip((values - low) / width, 0, 1), dtype=np.float32)


def _is_flat(plane: Array) -> bool:
    return bool((plane == plane[:, :1, :1]).all())


def _resample(plane: NDArray[np.float32], shape: tuple[int, int], kernel: str) -> NDArray[np.float32]:
    from PIL import Image

    if plane.shape[1:] == shape:
        return plane
    channels = [
        np.asarray(Image.fromarray(channel).resize((shape[1], shape[0]), Image.Resampling[kernel])) for channel in plane
    ]
    bounded: NDArray[np.float32] = np.clip(np.stack(channels), 0, 1)  # a cubic overshoots at edges
    return bounded
