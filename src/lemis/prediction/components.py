"""Largest connected components: what is one piece in every labelled scan is to be one piece in a label map.

Where a cross-validation holds out ``LEAST_SUBJECTS`` or more, their Dice decides (``effect``, ``decide``), by the rule
of nnU-Net v2 (Isensee et al., Nature Methods 2021). From a few labelled scans nothing can be held out, so anatomy
decides (``learned``): a structure that is exactly one connected piece in every labelled scan is taken to be one, and so
are all structures together. Islands in a prediction become background, first those of all structures together, then of
one structure after another, in nnU-Net's order. Pieces are three-dimensional and connected where they share a corner,
also of networks that see slices; of pieces of the same size all are kept.

A large piece is no island: the bridge between two parts may be what the network missed. So where labels decide and no
piece holds ``LEAST_SHARE`` of a structure, all stay, and the record says so.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lemis.parts.components import parts
from lemis.work_files.predictions import Kept, Pieces
from lemis.work_files.run import FinetunedModel, OnePiece

# Of the voxels of a structure: at half, one piece is as large as all the others together, so there is no second that
# could be the structure as well. Less would remove what may be most of it.
LEAST_SHARE = 0.5

LEAST_SUBJECTS = 5  # that are held out: of fewer, one decides alone whether a mean rises

Classes = NDArray[np.uint8]


def learned(labels: Iterable[Classes], names: Sequence[str]) -> OnePiece:
    """What is exactly one connected piece in every label map; a map without a structure says nothing of it.

    Args:
        labels: Class indices of the labelled scans, of any number of dimensions; 0 is the background.
        names: Of the classes, the background's first.
    """
    together: bool | None = None  # None: no map has anything yet
    whole: dict[int, bool] = {}
    for label in labels:
        boxes = {number: box for number, box in enumerate(ndimage.find_objects(label), start=1) if box is not None}
        for number, box in boxes.items():
            if whole.get(number, True):
                whole[number] = parts(label[box] == number).number == 1
        if boxes and together is not False:
            together = parts(label[_around(boxes.values())] > 0).number == 1
    structures = tuple(names[number] for number in sorted(whole) if whole[number])
    return OnePiece(foreground=bool(together), structures=structures)


def common(found: Sequence[OnePiece | None]) -> OnePiece:
    """What is one piece in the labelled scans of all runs of an ensemble; nothing where one does not say."""

    def both(one: OnePiece, other: OnePiece) -> OnePiece:
        structures = tuple(name for name in one.structures if name in other.structures)
        return OnePiece(foreground=one.foreground and other.foreground, structures=structures)

    return functools.reduce(both, (one or OnePiece() for one in found))


def kept(
    largest: Literal["auto"] | bool, models: Sequence[FinetunedModel], decided: OnePiece | None = None
) -> Kept | None:
    """Of what only the largest piece is kept; None: every piece.

    Args:
        largest: The setting of prediction.
        models: Of the runs.
        decided: What held-out scans say, in place of the labels, where ``largest`` is ``auto``.
    """
    if largest == "auto":
        if decided is not None:
            found = Kept(**dict(decided), by="held-out scans")
        else:
            found = Kept(**dict(common([model.one_piece for model in models])), least_share=LEAST_SHARE)
        return found if found.foreground or found.structures else None
    return Kept(structures=models[0].label_names[1:], by="command") if largest else None


def effect(predicted: Classes, reference: Classes, names: Sequence[str]) -> NDArray[np.float64]:
    """What keeping the largest pieces does to the Dice of one scan that was held out.

    Args:
        predicted: (X, Y, Z) class indices, every piece kept.
        reference: The same of the reference.
        names: Of the classes, the background's first.

    Returns:
        (2, 2, K - 1) Dice of each structure: first index whether the largest piece of all structures together is kept,
        second whether that of the structure is. NaN where neither map has it.
    """
    found = np.empty((2, 2, len(names) - 1))
    for together in (False, True):
        for each in (False, True):
            cleaned = predicted.copy()
            keep_largest(cleaned, names, Kept(foreground=together, structures=tuple(names[1:]) if each else ()))
            found[int(together), int(each)] = dice(cleaned, reference, len(names))
    return found


def decide(effects: Sequence[NDArray[np.float64]], names: Sequence[str]) -> OnePiece:
    """What to keep the largest piece of, by nnU-Net's rule on all scans that were held out.

    First of all structures together, if the mean over structures rises and no structure falls. Then of each structure,
    after that step, if its own mean rises; where there is one structure, both are the same. Means are over scans.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a structure that is nowhere has no mean
        means = np.nanmean(np.stack(effects), 0)
        before, after = np.nanmean(means[:, 0], 1)
    foreground = bool(after > before and not np.any(means[1, 0] < means[0, 0]))
    step = means[int(foreground)]
    rises = step[1] > step[0] if len(names) > 2 else np.zeros(1, bool)
    structures = tuple(name for name, better in zip(names[1:], rises, strict=True) if better)
    return OnePiece(foreground=foreground, structures=structures)


def dice(predicted: Classes, reference: Classes, num_classes: int) -> NDArray[np.float64]:
    """(num_classes - 1,) of each structure; NaN where neither map has it."""
    both = predicted[predicted == reference]
    shared, one, other = (
        np.bincount(labels.ravel(), minlength=num_classes)[1:] for labels in (both, predicted, reference)
    )
    with np.errstate(invalid="ignore"):
        return 2 * shared / (one + other)


def keep_largest(classes: Classes, names: Sequence[str], kept: Kept) -> Pieces:
    """Make background of all but the largest pieces, in place.

    Beside the label map, this takes 6 bytes of a voxel of the smallest box around a structure.

    Args:
        classes: (X, Y, Z) class indices on the scan's own grid.
        names: Of the classes, the background's first.
        kept: Of what only the largest piece is kept, and from which share of its voxels on.
    """
    boxes = {number: box for number, box in enumerate(ndimage.find_objects(classes), start=1) if box is not None}
    before = int(np.count_nonzero(classes))
    removed = np.zeros(len(names), np.int64)
    foreground_in_pieces, in_pieces = False, []
    if kept.foreground and boxes:
        box = _around(boxes.values())
        small = islands(classes[box] > 0, kept.least_share)
        foreground_in_pieces = small is None
        removed += _remove(classes[box], small, len(names))
    for number, box in boxes.items():
        if names[number] in kept.structures:
            small = islands(classes[box] == number, kept.least_share)
            in_pieces += [names[number]] if small is None else []
            removed += _remove(classes[box], small, len(names))
    return Pieces(
        voxels=before, removed={name: int(voxels) for name, voxels in zip(names, removed, strict=True) if voxels},
        foreground_in_pieces=foreground_in_pieces, in_pieces=tuple(in_pieces),
    )  # fmt: skip


def islands(mask: NDArray[np.bool_], least_share: float) -> NDArray[np.bool_] | None:
    """Voxels of all pieces that are smaller than the largest; None where that one holds too small a share of all."""
    found = parts(mask)
    most = found.voxels.max()
    if most < least_share * found.voxels.sum():
        return None
    small = found.voxels < most
    small[0] = False  # what is outside
    where: NDArray[np.bool_] = small[found.of]
    return where


def _remove(classes: Classes, where: NDArray[np.bool_] | None, num_classes: int) -> NDArray[np.int64]:
    """How many voxels of each class that were."""
    if where is None:
        return np.zeros(num_classes, np.int64)
    was = np.bincount(classes[where], minlength=num_classes)
    classes[where] = 0
    return was


def _around(boxes: Iterable[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around boxes."""
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
