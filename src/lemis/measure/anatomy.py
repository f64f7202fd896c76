"""What a label map looks like, structure by structure, and in what it is unlike all label maps that people drew.

Limits are learned from the labelled scans alone. A number is unlike theirs where it lies beyond the least or the most
of them by a margin, and outside the interval in which a new one of a normal distribution lies with a probability of
``SURE``, mean +- t_(n-1) s sqrt(1 + 1/n) with n subjects: of few, both least and most are far from what there is. Each
finding is a sentence with the numbers. Axes are X, Y, Z to the patient's right, front and head, as label maps are read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lemis.measure.tables import count

SURE = 0.995
VOLUME_MARGIN, VOLUME_MARGIN_OF_FEW, FEW = (
    1.5,
    2.5,
    4,
)  # factors beyond least and most; subjects below which there are few
PIECES_MARGIN = 0.05  # of the structure's volume
HOLES_MARGIN = 0.01
CUT_MARGIN = 0.2  # of the largest section
JUMP_MARGIN = 0.1  # Dice of neighbouring slices

_FACES = ("left", "right", "back", "front", "lower", "upper")
_AXES = (("left", "right"), ("behind", "in front of"), ("below", "above"))


class Units(NamedTuple):
    """In which sizes are said."""

    length: str
    volume: str
    per_ml: int  # units of volume


MILLIMETRES = Units("mm", "ml", 1)
PIXELS = Units("pixels", "pixels", 1000)  # of pictures, of which no spacing is known: they are read as 1 mm wide


class Shape(NamedTuple):
    """Of one structure; what is not there has a volume of 0, and NaN else."""

    ml: float
    extra: float  # share of the volume outside the largest connected piece (pieces that share no corner)
    pieces: int
    holes: float  # background enclosed in slices, over the volume
    cut: tuple[float, ...]  # at each face of the scan, section there over the largest section that is parallel
    step: float  # least Dice of neighbouring slices, outermost ones of the structure left out; NaN of fewer than 4
    gaps: int  # empty slices between filled ones
    centre_mm: tuple[float, ...]  # X, Y, Z


Shapes = Mapping[str, Shape]
_Look = Callable[[Shape, Sequence[Shape], int], str | None]  # of labelled scans of so many subjects, a sentence
Array = NDArray[np.float64]
_NONE = Shape(0.0, math.nan, 0, math.nan, (math.nan,) * 6, math.nan, 0, (math.nan,) * 3)


def shapes(
    classes: NDArray[Any], names: Sequence[str], spacing_mm: Sequence[float], slice_axis: int
) -> dict[str, Shape]:
    """Every structure of a label map.

    Args:
        classes: (X, Y, Z) class indices.
        names: Of the classes, the background's first.
        spacing_mm: Along X, Y, Z.
        slice_axis: Across which slices lie.
    """
    boxes = ndimage.find_objects(classes, max_label=len(names) - 1)
    size = classes.shape
    return {
        name: _shape(classes, number, box, size, spacing_mm, slice_axis) if box is not None else _NONE
        for number, (name, box) in enumerate(zip(names[1:], boxes, strict=True), start=1)
    }


def _shape(
    classes: NDArray[Any], number: int, box: tuple[slice, ...], size: Sequence[int], spacing_mm: Sequence[float],
    slice_axis: int,
) -> Shape:  # fmt: skip
    within = classes[box]
    mask = within == number
    voxels = int(mask.sum())
    of, pieces = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    largest = int(np.bincount(of[mask]).max())
    planes, around = np.moveaxis(mask, slice_axis, 0), np.moveaxis(within, slice_axis, 0)
    holes = sum(
        int((ndimage.binary_fill_holes(plane) & (other == 0)).sum())
        for plane, other in zip(planes, around, strict=True)
        if plane.any()
    )
    sections = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    cut: list[float] = []
    for axis, section in enumerate(sections):
        ends = ((box[axis].start == 0, section[0]), (box[axis].stop == size[axis], section[-1]))
        # Along an axis of one voxel everything is at both faces, and nothing is cut.
        cut += [float(area / section.max()) if at and size[axis] > 1 else 0.0 for at, area in ends]
    filled = sections[slice_axis]
    inner = [
        2 * int((one & other).sum()) / int(one.sum() + other.sum())
        for one, other in itertools.pairwise(planes[1:-1])
        if one.any() and other.any()
    ]
    centre = [
        float((np.arange(len(section)) + where.start + 0.5) @ section / voxels * mm)
        for section, where, mm in zip(sections, box, spacing_mm, strict=True)
    ]
    return Shape(
        ml=voxels * math.prod(spacing_mm) / 1000, extra=1 - largest / voxels, pieces=pieces, holes=holes / voxels,
        cut=tuple(cut), step=min(inner, default=math.nan), gaps=int((filled == 0).sum()), centre_mm=tuple(centre),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- unlike the labelled


class Limits(NamedTuple):
    """Of what is known of labelled scans."""

    values: Array
    reach: float  # how far from the mean a new value may lie; infinite of a single subject

    def beyond(self, value: float) -> bool:
        """Whether a value is not one of these."""
        return abs(value - float(self.values.mean())) > self.reach


def limits(values: Sequence[float], subjects: int) -> Limits:
    """Of numbers of labelled scans, which are of so many subjects."""
    array = np.asarray(values, float)
    if subjects < 2:
        return Limits(array, 0.0)
    from scipy import special  # here, as a refusal needs none of it, and it takes longer to import than all else

    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Limits(array, special.stdtrit(subjects - 1, (1 + SURE) / 2) * spread * math.sqrt(1 + 1 / subjects))


def unlike(
    found: Shapes, labelled: Sequence[Shapes], subjects: int, units: Units = MILLIMETRES
) -> dict[str, list[str]]:
    """Of each structure, sentences on what no labelled scan shows.

    Args:
        found: Of a label map.
        labelled: Of the labelled scans, at least one.
        subjects: How many people these are.
        units: In which sizes are said.
    """
    said: dict[str, list[str]] = {name: [] for name in found}
    for name, shape in found.items():
        drawn = [one[name] for one in labelled if one[name].ml > 0]
        if shape.ml == 0:
            if len(drawn) == len(labelled):
                said[name].append(f"missing; {_all(len(drawn))} it")
        elif not drawn:
            said[name].append(f"{_volume_of(shape, units)} of it; none of the {len(labelled)} labelled scans has any")
        else:
            looks: tuple[_Look, ...] = (partial(_volume, units=units), *_LOOKS)
            said[name] += [one for look in looks if (one := look(shape, drawn, min(subjects, len(drawn))))]
    for first, second, sentence in _disordered(found, labelled, subjects, units):
        said[first].append(sentence.format(own="it", other=second))
    return said


def _volume(shape: Shape, drawn: Sequence[Shape], subjects: int, *, units: Units) -> str | None:
    least, most = min(one.ml for one in drawn), max(one.ml for one in drawn)
    margin = VOLUME_MARGIN if subjects >= FEW else VOLUME_MARGIN_OF_FEW
    usual = limits([math.log(one.ml) for one in drawn], subjects)
    if least / margin <= shape.ml <= most * margin or not usual.beyond(math.log(shape.ml)):
        return None
    usually = _between(least * units.per_ml, most * units.per_ml)
    return f"{_volume_of(shape, units)}; labelled ones have {usually} {units.volume}"


def _pieces(shape: Shape, drawn: Sequence[Shape], subjects: int) -> str | None:
    most = max(one.extra for one in drawn)
    if shape.extra <= most + PIECES_MARGIN or not limits([one.extra for one in drawn], subjects).beyond(shape.extra):
        return None
    return f"in {shape.pieces} pieces, {_percent(shape.extra)} of it outside the largest; in labels {_at_most(most)}"


def _holes(shape: Shape, drawn: Sequence[Shape], subjects: int) -> str | None:
    most = max(one.holes for one in drawn)
    if shape.holes <= most + HOLES_MARGIN or not limits([one.holes for one in drawn], subjects).beyond(shape.holes):
        return None
    return f"holes of {_percent(shape.holes)} of its volume; in labels {_at_most(most)}"


def _cut(shape: Shape, drawn: Sequence[Shape], subjects: int) -> str | None:
    for face, name in enumerate(_FACES):
        usual = limits([one.cut[face] for one in drawn], subjects)
        most = float(usual.values.max())
        if shape.cut[face] > most + CUT_MARGIN and usual.beyond(shape.cut[face]):
            where = f"{_percent(shape.cut[face])} of its largest section lies at the {name} end of the scan"
            return f"cut by the border: {where}; in labels {_at_most(most)}"
    return None


def _jump(shape: Shape, drawn: Sequence[Shape], subjects: int) -> str | None:
    known = [one.step for one in drawn if not math.isnan(one.step)]
    if math.isnan(shape.step) or not known or shape.step >= min(known) - JUMP_MARGIN:
        return None
    if not limits(known, min(subjects, len(known))).beyond(shape.step):
        return None
    in_labels = f"in labels at least {min(known):.2f}"
    return f"jumps from slice to slice: two neighbours have a Dice of {shape.step:.2f}; {in_labels}"


def _gap(shape: Shape, drawn: Sequence[Shape], subjects: int) -> str | None:
    most = max(one.gaps for one in drawn)
    if shape.gaps <= most or not limits([one.gaps for one in drawn], subjects).beyond(shape.gaps):
        return None
    return f"{count(shape.gaps, 'empty slice')} in it; in labels {most or 'none'}"


_LOOKS: tuple[_Look, ...] = (_pieces, _holes, _cut, _jump, _gap)


def _disordered(found: Shapes, labelled: Sequence[Shapes], subjects: int, units: Units) -> list[tuple[str, str, str]]:
    """Pairs of structures in an order along an axis that no labelled scan has, each pair once; with a sentence."""
    names = [name for name, shape in found.items() if shape.ml > 0]
    out = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = [one for one in labelled if one[first].ml > 0 and one[second].ml > 0]
            for axis, (low, high) in enumerate(_AXES):
                apart = [_apart(one, first, second, axis) for one in both]
                own = _apart(found, first, second, axis)
                least = min((abs(mm) for mm in apart), default=0.0)
                one_way = all(mm > 0 for mm in apart) or all(mm < 0 for mm in apart)
                if apart and one_way and own * apart[0] < 0 and limits(apart, min(subjects, len(both))).beyond(own):
                    words = (high, low) if own > 0 else (low, high)
                    here, there = (word if " " in word or axis else f"to the {word} of" for word in words)
                    own_way = f"lies {here} {{other}}, by {abs(own):.0f} {units.length}"
                    usual = f"in {_number(len(apart))} {there} it, by {least:.0f} {units.length} or more"
                    out.append((first, second, f"{own_way}; {usual} (is the scan mirrored or turned?)"))
                    break
    return out


def _apart(shapes: Shapes, first: str, second: str, axis: int) -> float:
    return shapes[first].centre_mm[axis] - shapes[second].centre_mm[axis]


def _number(scans: int) -> str:
    return "the labelled scan" if scans == 1 else f"all {scans} labelled scans"


def _all(scans: int) -> str:
    return f"{_number(scans)} {'has' if scans == 1 else 'have'}"


def _volume_of(shape: Shape, units: Units) -> str:
    return f"{_three_digits(shape.ml * units.per_ml)} {units.volume}"


def _three_digits(value: float) -> str:
    """``12300``, and not ``1.23e+04``."""
    return f"{float(f'{value:.3g}'):.15g}"


def _between(low: float, high: float) -> str:
    ends = [*map(_three_digits, (low, high))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _at_most(share: float) -> str:
    return "none" if share < 5e-4 else f"at most {_percent(share)}"
