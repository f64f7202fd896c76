"""The same scan under two names: mirrored, rescaled, padded, cropped by a slice, stored in another type, or touched.

Equal voxels have equal digests (``scans.image_digest``). For what is left, the means of the planes across an axis are
its profile: where values are scaled, so is it; where planes are added or cut off elsewhere, it stays up to a scale;
mirrored, it runs backwards. All of that leaves the ratios of neighbouring steps alone. A *sketch* of a scan is some
hashes of such ratios, a few steps each. It is small, and finds those few pairs of scans that are worth being read again
and laid upon each other, voxel by voxel.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemis.datasets.scans import mixed

Array = npt.NDArray[Any]
Profile = npt.NDArray[np.float64]
Sketch = tuple[tuple[int, ...], ...]  # per axis and size of a step

_STEPS = 4  # of one window of a profile
_BLOCKS = (1, 4)  # planes that make a step: single ones of short axes; more of them drown noise
_BIN = 0.1  # ratios closer than 10 % are mostly alike: noise moves them by less
_LEAST_STEP = 1e-3  # of the largest one of its window; a smaller one is rounding, or padding
_HASHES = 32  # per axis and size of a step
# Hashes that two scans share: fewer of axes that are short. Chance shares none; moments of one person are alike, and
# where a film gives hundreds of them, only what is all but the same is worth being read again.
_LEAST_SHARED, _SHARED, _SHARED_MOMENTS = 3, 0.2, 0.6
_MOST_PARTNERS = 3  # of one scan among those before it
_LEAST_OVERLAP = 0.6  # of the smaller scan, along each axis
_SAMPLE = 100_000  # voxels that decide which way of laying one upon the other fits
_ROUNDING = 1e-5  # of the range
_HALF = 0.55  # of the step between stored values, where they were rounded to whole numbers
_CLOSE = 0.9  # correlation of two profiles of one scan, where a plane of few is missing from one of them
_NEAR = 0.05  # of the standard deviation: noise that nobody sees, or 255 grey values where there were thousands
_NEAR_MOMENTS = 0.01  # the same, of one subject: neighbouring frames of a film differ by 0.03
_TOUCHED = 1e-3  # of the voxels that may be anything


class Relation(NamedTuple):
    """How one scan becomes another."""

    exact: bool  # all voxels, up to rounding; else all but a few, or up to little noise
    turned: tuple[int, ...]  # which axis of the one is each axis of the other
    mirrored: tuple[int, ...]  # of the other's axes
    scale: float
    offset: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def __str__(self) -> str:
        """What was done to it, in words; empty where nothing but rounding or noise is left."""
        parts = []
        if self.turned != (0, 1, 2):
            parts.append("axes swapped")
        if self.mirrored:
            parts.append(
                f"mirrored along ax{'es' if len(self.mirrored) > 1 else 'is'} {' and '.join(map(str, self.mirrored))}"
            )
        if abs(self.scale - 1) > _ROUNDING or abs(self.offset) > _ROUNDING * abs(self.scale):
            offset = f" {'plus' if self.offset > 0 else 'minus'} {abs(self.offset):.4g}"
            parts.append(f"values times {self.scale:.4g}{offset if abs(self.offset) > _ROUNDING else ''}")
        if tuple(self.shapes[0][axis] for axis in self.turned) != self.shapes[1]:
            parts.append(f"padded or cropped from {self.shapes[0]} to {self.shapes[1]} voxels")
        return ", ".join(parts)


def sketch(channel: Array) -> Sketch:
    """Hashes of (X, Y, Z); none of an axis that is too short, or of values that are not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return tuple(_hashes(profile, block) for profile in profiles(channel) for block in _BLOCKS)


def profiles(channel: Array) -> tuple[Profile, Profile, Profile]:
    """Mean of each plane across each axis of (X, Y, Z)."""
    columns = channel.sum(axis=2, dtype=np.float64)  # (X, Y)
    x, y, z = channel.shape
    return (
        columns.sum(axis=1) / (y * z),
        columns.sum(axis=0) / (x * z),
        channel.sum(axis=(0, 1), dtype=np.float64) / (x * y),
    )


def _hashes(profile: Profile, block: int) -> tuple[int, ...]:
    sums = np.convolve(profile, np.ones(block), mode="valid")  # of the planes from each on
    steps = sums[block:] - sums[:-block]
    span = (_STEPS - 1) * block + 1
    if len(steps) < span or not np.isfinite(steps).all():
        return ()
    windows = np.lib.stride_tricks.sliding_window_view(steps, span)[:, ::block]
    largest = np.abs(windows).max(axis=1)
    told = (np.abs(windows).min(axis=1) > _LEAST_STEP * largest) & (largest > 1e-7 * np.abs(sums).max())
    both = _hashed(windows[told]) + _hashed(windows[told, ::-1])  # the same from either end
    return tuple(np.unique(both >> np.uint64(32))[:_HASHES].tolist())


def _hashed(windows: Array) -> npt.NDArray[np.uint64]:
    ratios = windows[:, 1:] / windows[:, :-1]
    words = np.rint(np.log(np.abs(ratios)) / _BIN).astype(np.int64) * 2 + (ratios < 0)
    found = np.zeros(len(words), dtype=np.uint64)
    for word in words.T:
        found = mixed(found ^ (word.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return found


def partners(sketches: Mapping[str, Sketch], subject_of: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of scans that share hashes enough to be looked at, by id: (earlier, later), the most alike first.

    Args:
        sketches: By the id of the scan.
        subject_of: Subject by the id of the scan.
    """
    places: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for id, axes in sketches.items():
        for axis, hashes in enumerate(axes):
            for value in hashes:
                places[value].append((id, axis))
    shared: dict[tuple[tuple[str, int], tuple[str, int]], int] = defaultdict(int)  # lists of hashes, by scan and place
    common = max(16, len(sketches) // 20)
    for found in places.values():
        if len(found) <= common:  # what many scans share tells nothing (an empty border, a phantom)
            for pair in itertools.combinations(found, 2):
                shared[pair] += 1
    strength: dict[tuple[str, str], float] = {}
    for ((one, axis), (other, other_axis)), count in shared.items():
        smaller, larger = sorted((len(sketches[one][axis]), len(sketches[other][other_axis])))
        share = count / smaller
        least = _SHARED_MOMENTS if subject_of[one] == subject_of[other] else _SHARED
        if one != other and share >= least and count >= min(_LEAST_SHARED, max(1, larger // 2)):
            strength[one, other] = max(share, strength.get((one, other), 0))
    looked: dict[str, int] = defaultdict(int)
    pairs = []
    for one, other in sorted(strength, key=lambda pair: -strength[pair]):
        if looked[other] < _MOST_PARTNERS:
            looked[other] += 1
            pairs.append((one, other))
    return pairs


def relation(one: Array, other: Array, *, same_subject: bool = False) -> Relation | None:
    """How (X, Y, Z) becomes another array of three axes, of any shape; None where it does not.

    Two moments of one subject (``same_subject``) are two scans unless they are alike to the noise.
    """
    theirs = profiles(other)
    # How each axis of the one may lie upon each of the other.
    ways = [[_ways(profile, their) for their in theirs] for profile in profiles(one)]
    found: list[tuple[_Fit, tuple[int, ...], tuple[bool, ...], Array, Array]] = []
    for turned in itertools.permutations((0, 1, 2)):
        for way in itertools.product(*(ways[axis][place] for place, axis in enumerate(turned))):
            a, b = _laid(one.transpose(turned), other, way)
            fit = _fit(_thinned(a), _thinned(b))
            if fit is not None and fit.left <= (_NEAR_MOMENTS if same_subject else _NEAR):
                found.append((fit, turned, tuple(flipped for flipped, _ in way), a, b))
    if not found:
        return None
    fit, turned, flips, a, b = min(found, key=lambda way: way[0].left)
    return Relation(
        exact=_largest(a, b, fit) <= fit.tolerance,
        turned=turned,
        mirrored=tuple(axis for axis, flipped in enumerate(flips) if flipped),
        scale=fit.scale,
        offset=fit.offset,
        shapes=(one.shape, other.shape),
    )


class _Fit(NamedTuple):
    """``b = scale * a + offset``, but for few voxels."""

    left: float  # standard deviation of what is left, of that of b
    scale: float
    offset: float
    tolerance: float  # what rounding may leave, in values of b


def _ways(mine: Profile, theirs: Profile) -> list[tuple[bool, int]]:
    """How an axis may lie upon another: mirrored or not, and which plane of the other the first one lies upon."""
    found = [(False, 0), (True, 0)] if len(mine) == len(theirs) else []
    least = max(2, int(np.ceil(_LEAST_OVERLAP * min(len(mine), len(theirs)))))
    for flipped in (False, True):
        turned = mine[::-1] if flipped else mine
        shifts = range(least - len(mine), len(theirs) - least + 1)
        alike = [_correlation(*_overlap(turned, theirs, shift)) for shift in shifts]
        if alike and max(alike) >= _CLOSE:
            found.append((flipped, shifts[int(np.argmax(alike))]))
    return list(dict.fromkeys(found))


def _overlap(mine: Array, theirs: Array, shift: int) -> tuple[Array, Array]:
    first, their_first = max(0, -shift), max(0, shift)
    length = min(len(mine) - first, len(theirs) - their_first)
    return mine[first : first + length], theirs[their_first : their_first + length]


def _correlation(a: Profile, b: Profile) -> float:
    """Without regard to sign: values may be turned over."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return abs(float(a @ b)) / size if size > 0 else 0.0


def _laid(one: Array, other: Array, way: Sequence[tuple[bool, int]]) -> tuple[Array, Array]:
    """The parts of both that lie upon each other."""
    for axis, (flipped, shift) in enumerate(way):
        mine, theirs = np.moveaxis(one, axis, 0), np.moveaxis(other, axis, 0)
        mine, theirs = _overlap(mine[::-1] if flipped else mine, theirs, shift)
        one, other = np.moveaxis(mine, 0, axis), np.moveaxis(theirs, 0, axis)
    return one, other


def _thinned(array: Array) -> npt.NDArray[np.float64]:
    """Some of the voxels, evenly spread, as one row."""
    every = max(1, round((array.size / _SAMPLE) ** (1 / max(1, sum(size > 1 for size in array.shape)))))
    return array[::every, ::every, :: every if array.shape[2] > every else 1].astype(np.float64).ravel()


def _fit(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> _Fit | None:
    kept = np.ones(len(a), dtype=bool)
    for _ in range(2):  # a voxel that was touched may be far off, and would pull the line
        x, y = a[kept] - a[kept].mean(), b[kept] - b[kept].mean()
        if not x.any() or not y.any():
            return None
        scale = float(x @ y / (x @ x))
        offset = float(b[kept].mean() - scale * a[kept].mean())
        off = np.abs(b - scale * a - offset)
        kept = off <= np.quantile(off, 1 - _TOUCHED)
    spread = float(b[kept].std())
    if spread == 0:  # all that there is lies in the voxels that may be anything
        return None
    step = max(_step(a) * abs(scale), _step(b))
    left = float(np.sqrt(np.mean(off[kept] ** 2))) / spread
    return _Fit(left, scale, offset, _HALF * step + _ROUNDING * float(np.ptp(b)))


def _step(values: npt.NDArray[np.float64]) -> float:
    """The smallest step between values: 1 of whole numbers, the slope of a file with one, almost 0 of others."""
    steps = np.diff(np.unique(values))
    return float(steps.min()) if len(steps) else 0.0


def _largest(a: Array, b: Array, fit: _Fit) -> float:
    """The most that a voxel is off, plane by plane, to hold no third scan."""
    return max(
        float(np.abs(b[number] - fit.scale * a[number].astype(np.float64) - fit.offset).max())
        for number in range(len(a))
    )
