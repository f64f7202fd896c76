"""Folders of images that are each segmented by themselves, and the references that come with them.

Recognised, the first that fits:

- **Finding lungs in CT** (Kaggle), prepared as for BCDU-Net, as S3-Net has it: ``3d_images/`` with IMG_0002.nii.gz and
  MASK_0002.nii.gz. Slices run along the first axis of the stored array, whatever the header says, and only those with
  lung count: the first 700 of them, files in the order of their names (published was the order of a directory listing,
  which is not known). The window is [-512, 512] HU, narrowed to what the volume holds, which is clipping and then
  scaling from the least to the largest value.
- The same set's single slices, ``2d_images/`` with ``2d_masks/`` of the same names, windowed in the same way. Where
  the volumes are there too, name the folder ``2d_images`` itself.
- **PH2**: IMD002/IMD002_Dermoscopic_Image/IMD002.bmp with IMD002/IMD002_lesion/IMD002_lesion.bmp. What else is there
  (colours, regions of interest) is left alone.
- ``images/`` with ``labels/``, or nnU-Net's ``imagesTr/`` with ``labelsTr/``: files of the same names, the image's
  perhaps with nnU-Net's channel number (a_0000.png, a.png). Not where images lie in the folder itself.
- Any other folder: every image that lies in it, without references.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.formats.paths import suffix_of
from lemis.one_image import single_image

MOST_LUNG_SLICES = 700  # S3-Net
LUNG_WINDOW_HU = (-512.0, 512.0)  # BCDU-Net
_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
_PH2_ROOTS = ("", "PH2*/", "PH2*/PH2*/")  # as unpacked: PH2Dataset/PH2 Dataset images/


class Pair(NamedTuple):
    """One image of a set, and how it is read. None: as always."""

    name: str  # of its results, without suffix; no two in a set have the same
    image: Path
    reference: Path | None = None
    slices: tuple[int, ...] | None = None  # numbers counted from 1 along the canonical axis, ascending
    window: tuple[float, float] | None = None  # in the image's own values
    stored_axis: int | None = None  # across the slices, of the file's own array


class Set(NamedTuple):
    """A folder of images."""

    title: str | None  # of its layout; None of a plain folder
    pairs: tuple[Pair, ...]


def find(folder: Path, *, lung_slices: int = MOST_LUNG_SLICES) -> Set:
    """Recognise a folder and list its images.

    Args:
        folder: In one of the layouts above.
        lung_slices: Of the lung volumes, how many slices in all.

    Raises:
        UsageError: It is no folder, holds no image, or holds references for none of them.
        DataFault: A lung volume without mask, or a volume or mask that cannot be read.
    """
    folder = Path(folder)
    return (
        _lung_volumes(folder, lung_slices)
        or _lung_slices(folder)
        or _ph2(folder)
        or _two_folders(folder)
        or Set(None, tuple(Pair(name, image) for name, image in named(single_image.images_in(folder)).items()))
    )


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Images by the name that their results get: without suffix, where that tells them apart."""
    stems = [_stem(path) for path in paths]
    return {
        stem if stems.count(stem) == 1 else path.name.replace(".", "-"): path
        for stem, path in zip(stems, paths, strict=True)
    }


def references(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The label maps of a folder by the names of the images: the same, or that without nnU-Net's channel number.

    Raises:
        UsageError: There is none for any image.
    """
    there = named(single_image.images_in(folder))
    wanted = {name: next((n for n in (name, name.removesuffix("_0000")) if n in there), None) for name in names}
    found = {name: there[other] for name, other in wanted.items() if other is not None}
    if not found:
        raise UsageError(
            f"{folder} holds no reference for any of {len(names)} image{'s' * (len(names) > 1)}",
            allowed="label maps named like the images",
            next="name them so, or give another folder after --references",
        )
    return found


# ---------------------------------------------------------------- finding lungs in CT


def _lung_volumes(root: Path, most: int) -> Set | None:
    folder = root / "3d_images" if (root / "3d_images").is_dir() else root
    images = sorted(folder.glob("IMG_*.nii.gz"))
    if not images or not any(folder.glob("MASK_*.nii.gz")):
        return None
    found: list[Pair] = []
    for image in images:
        left = most - sum(len(pair.slices or ()) for pair in found)
        if left > 0 and (pair := _lung_volume(image, left)) is not None:
            found.append(pair)
    if not found:
        raise DataFault(
            f"{folder}: every MASK_ is empty", allowed="masks that mark the lungs", next="download the set again"
        )
    slices = sum(len(pair.slices or ()) for pair in found)
    return Set(
        f"finding lungs in CT, slices with lung: {slices}, from {found[0].name} to {found[-1].name}",
        tuple(found),
    )


def _lung_volume(image: Path, most: int) -> Pair | None:
    """The first ``most`` slices with lung; None where there is none."""
    mask = image.with_name(image.name.replace("IMG_", "MASK_", 1))
    if not mask.is_file():
        raise DataFault(
            f"{image} has no {mask.name} beside it",
            allowed="a MASK_ for each IMG_, which tells its slices with lung",
            next="download the set again, or move the image elsewhere",
        )
    marked = volume.read(mask)
    axis = single_image.canonical_axis(marked.source, 0)
    upwards = marked.source.orientation[0, 1] > 0
    others = tuple(other for other in range(3) if other != axis)
    numbers = np.flatnonzero(marked.array.any(axis=others)) + 1
    first = (numbers if upwards else numbers[::-1])[:most]  # as they are stored
    if not len(first):
        return None
    slices = tuple(int(number) for number in sorted(first))
    return Pair(_stem(image), image, mask, slices, _lung_window(volume.read(image).array), stored_axis=0)


def _lung_slices(root: Path) -> Set | None:
    folder = root if root.name == "2d_images" else root / "2d_images"
    masks = folder.with_name("2d_masks")
    if not folder.is_dir() or not masks.is_dir():
        return None
    images = named(single_image.images_in(folder))
    marked = references(masks, list(images))
    found = [Pair(name, image, marked.get(name), window=_window_of(image)) for name, image in images.items()]
    return Set("finding lungs in CT, single slices", tuple(found))


def _window_of(image: Path) -> tuple[float, float]:
    """Of one slice; the whole window where it cannot be read, which is said when it is to be segmented."""
    try:
        return _lung_window(volume.read(image).array)
    except DataFault:
        return LUNG_WINDOW_HU


def _lung_window(values: NDArray[Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return LUNG_WINDOW_HU
    low, high = (float(end) for end in np.clip((finite.min(), finite.max()), *LUNG_WINDOW_HU))
    return (low, high) if low < high else LUNG_WINDOW_HU  # all alike: refused when it is read


# ---------------------------------------------------------------- PH2, and pairs of folders


def _ph2(root: Path) -> Set | None:
    for below in _PH2_ROOTS:
        folders = sorted(path for path in root.glob(f"{below}*/*_Dermoscopic_Image") if path.is_dir())
        if folders:
            return Set("PH2", tuple(_ph2_case(folder) for folder in folders))
    return None


def _ph2_case(folder: Path) -> Pair:
    name = folder.name.removesuffix("_Dermoscopic_Image")
    lesion = folder.with_name(f"{name}_lesion")
    return Pair(name, _only(folder, name), _only(lesion, lesion.name) if lesion.is_dir() else None)


def _only(folder: Path, stem: str) -> Path:
    there = [path for path in single_image.images_in(folder) if _stem(path) == stem]
    if len(there) != 1:
        raise DataFault(
            f"{folder} holds {len(there)} pictures named {stem}",
            allowed="one, as in PH2",
            next="unpack PH2 again",
        )
    return there[0]


def _two_folders(root: Path) -> Set | None:
    if root.is_dir() and any(path.is_file() and suffix_of(path) for path in root.iterdir()):
        return None  # the images are those that lie in the folder itself
    for ours, theirs in _FOLDERS:
        if (root / ours).is_dir():
            images = named(single_image.images_in(root / ours))
            marked = references(root / theirs, list(images)) if (root / theirs).is_dir() else {}
            found = tuple(Pair(name, image, marked.get(name)) for name, image in images.items())
            return Set(f"{ours}/ with {theirs}/" if marked else f"{ours}/", found)
    return None


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(suffix_of(path))]
