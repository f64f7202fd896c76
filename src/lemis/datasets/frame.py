"""One frame for a data set: scans that lie nearly parallel are stored parallel, first slice with first slice.

Each scan on its own can only be brought to the body axes nearest to its own. That is right as long as it is plain which
ones those are. Short-axis hearts lie about 45 degrees between two of them: of stacks a few degrees apart one is then
called PSR and the next LSP, and they run from opposite ends.

So a data set has one frame: three directions, named by the body axes nearest to *them*, and every scan is permuted and
flipped to come as near to the frame as it can (``directions.turn_to``). Nothing is resampled. Which frame is a matter
of counting pairs: of the frames tried, the one under which fewest pairs of nearly parallel scans are stored in another
slice order, then turned in plane. Where the body axes do as well as any, each scan keeps the order that they give it.
Neither the order of the files nor that of a file's axes has a say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from lemis.datasets.index import Index, Scan
from lemis.datasets.layouts.recognised import slice_axis
from lemis.errors import UsageError
from lemis.formats import directions
from lemis.formats.directions import Axes, Matrix

NEARLY_PARALLEL_DEGREES = 30.0
# Stored within 45 degrees of each other, two scans are as parallel as can be: any other order is further off.
_PARALLEL_DEGREES = 45.0
_DIGITS = 2  # of the cosines by which directions are told apart: half a degree
# Most data sets have few directions. Of those that have many, the most frequent ones are compared, pair by pair.
_MOST_COMPARED, _MOST_TRIED = 400, 48
_MOST_JUDGED = 800
_ROUNDS = 20
# A frame halfway between two body axes is named by the earlier order of them, so that noise has no say in its name.
_TIE_OF_NAMES = 0.05
# Frames move a little with every scan that is added; so near to each other they store scans alike.
_SAME_FRAME_DEGREES = 15.0
_NO_AXIS = -1  # of a scan that is no stack: its voxels are as long along two axes


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Scans whose slices run across one axis of the frame."""

    axis: int
    scans: int
    direction: tuple[float, float, float]  # the one nearest to those across their slices, mm RAS
    within_degrees: float  # the largest angle between two of those directions


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a preparation, and a run that was trained on it, keep of the directions of their scans."""

    axes: Axes | None  # as of ``Index.frame``
    stacks: tuple[Stack, ...]  # most scans first


def _usable(frame: Frame) -> Frame:
    if frame.axes is not None:
        directions.at_right_angles_only(frame.axes)
    if not all(np.isfinite([*stack.direction, stack.within_degrees]).all() for stack in frame.stacks):
        raise ValueError("should have stacks of finite directions")
    return frame


StoredFrame = Annotated[Frame, AfterValidator(_usable)]  # in a file


class _Kinds(NamedTuple):
    """Scans by their directions; ``weight`` of them share one."""

    directions: Matrix  # (K, 3, 3)
    across: NDArray[np.int64]  # (K,) axis across the slices, or _NO_AXIS
    weight: NDArray[np.float64]  # (K,)


class _Pairs(NamedTuple):
    """Which kinds ought to be stored parallel; (K, K)."""

    slices: NDArray[np.bool_]  # the directions across their slices are nearly parallel
    whole: NDArray[np.bool_]  # all three axes are, in some order, and no stack lies across another


class _Costs(NamedTuple):
    """Pairs of scans that ought to be stored parallel and are not; the first number counts first."""

    reversed: float  # slices in the other order, or across another axis
    turned: float  # the whole scan turned, be it in plane only


# ----------------------------------------------------------------------------------------------- of a whole index


def settle(index: Index) -> Index:
    """The index with its frame, and every scan's grid as it is stored in that frame.

    Args:
        index: Its scans in RAS+ order. Those that could not be read (without ``axes``) are left as they are.
    """
    read = [scan for scan in index.scans if scan.axes]
    if not read:
        return index
    found = common(*_facts(read))
    return index if found is None else follow(index, directions.as_axes(found))


def follow(index: Index, frame: Axes | None) -> Index:
    """The index with every scan's grid as it is stored in another frame; None: by the body axes nearest to each.

    Raises:
        UsageError: A frame is given, and the index is older than frames.
    """
    if frame is None and index.frame is None:
        return index
    return dataclasses.replace(index, frame=frame, scans=tuple(_turned(index, scan, frame) for scan in index.scans))


def of_index(index: Index) -> Frame | None:
    """The frame of an index; None for an index older than frames, whose scans are in RAS+ order."""
    found = stacks(index.scans)
    return Frame(axes=index.frame, stacks=found) if found else None


def differ(one: Axes | None, other: Axes | None) -> bool:
    """Whether two frames would store the same scans in different orders; None counts as the body axes."""
    first, second = (directions.BODY if axes is None else directions.as_matrix(axes) for axes in (one, other))
    return bool(np.sum(first * second) < _trace(_SAME_FRAME_DEGREES))


def is_turned(scan: Scan) -> bool:
    """Whether a scan is stored in another order than the body axes nearest to its own would give it."""
    return bool(scan.axes) and not np.array_equal(directions.to_body(directions.as_matrix(scan.axes)), np.eye(3))


def _turned(index: Index, scan: Scan, frame: Axes | None) -> Scan:
    if not scan.axes:
        if not scan.shape:
            return scan  # it could not be read
        raise UsageError(
            f"the index of {index.root} does not say how {scan.id} lies",
            allowed="an index that names the directions of its scans",
            next=f"lemis check {index.root} -o WORK",
        )
    own = directions.as_matrix(scan.axes)
    turn = directions.to_body(own) if frame is None else directions.turn_to(own, directions.as_matrix(frame))
    from_axis = np.abs(turn).argmax(axis=0)
    spacing_mm = tuple(scan.spacing_mm[axis] for axis in from_axis)
    return dataclasses.replace(
        scan,
        shape=tuple(scan.shape[axis] for axis in from_axis),
        spacing_mm=spacing_mm,
        slice_axis=slice_axis(index.layout, spacing_mm),
        axes=directions.as_axes(own @ turn),
    )


def _facts(scans: Sequence[Scan]) -> tuple[Matrix, NDArray[np.int64]]:
    """Directions (n, 3, 3) and axes across the slices (n,)."""
    return np.stack([directions.as_matrix(scan.axes) for scan in scans]), np.array([_across(scan) for scan in scans])


def _across(scan: Scan) -> int:
    """The axis across a scan's slices, or _NO_AXIS where its spacing does not say so."""
    thick = [axis for axis, mm in enumerate(scan.spacing_mm) if mm > 0.99 * max(scan.spacing_mm)]
    return scan.slice_axis if thick == [scan.slice_axis] else _NO_AXIS


# ------------------------------------------------------------------------------------------- what is said of it


def stacks(scans: Iterable[Scan]) -> tuple[Stack, ...]:
    """Scans of one frame by the axis of the frame across which their slices run, most scans first."""
    normals: dict[int, list[NDArray[np.float64]]] = {}
    for scan in scans:
        if scan.axes:
            normals.setdefault(scan.slice_axis, []).append(np.array(scan.axes[scan.slice_axis]))
    found = [_stack(axis, np.stack(some)) for axis, some in normals.items()]
    return tuple(sorted(found, key=lambda stack: (-stack.scans, -stack.axis)))


def view(direction: Sequence[float]) -> str:
    """What slices across a direction (mm RAS) show: the name of the nearest view, or oblique."""
    degrees = directions.degrees_between_lines(directions.BODY, np.array(direction))
    nearest = int(np.argmin(degrees))
    return ("sagittal", "coronal", "axial")[nearest] if degrees[nearest] <= NEARLY_PARALLEL_DEGREES else "oblique"


def degrees_from(scan: Scan, direction: Sequence[float]) -> float:
    """The angle between the direction across a scan's slices and another one, 0 to 90."""
    return float(directions.degrees_between_lines(np.array(scan.axes[scan.slice_axis]), np.array(direction)))


def strangeness(scan: Scan, frame: Frame) -> tuple[float, Stack] | None:
    """The angle in degrees between a scan's slices and the nearest stack of a frame, where it is no part of that.

    None where it is nearly parallel to the stack, or no farther from its middle than the stack is wide.
    """
    if not frame.stacks:
        return None
    degrees, nearest = min(
        ((degrees_from(scan, stack.direction), stack) for stack in frame.stacks), key=lambda pair: pair[0]
    )
    return (degrees, nearest) if degrees > max(NEARLY_PARALLEL_DEGREES, nearest.within_degrees) else None


def not_parallel(index: Index) -> tuple[Scan, ...]:
    """Scans that lie nearly parallel to others and are not stored so, because no one frame suits all."""
    read = [scan for scan in index.scans if scan.axes]
    if not read:
        return ()
    kinds, kind_of = _kinds(*_facts(read), _MOST_JUDGED)
    wrong = np.any(np.logical_or(*_apart(kinds, np.eye(3), _pairs(_nearness(kinds), kinds))), axis=1)
    return tuple(scan for scan, kind in zip(read, kind_of, strict=True) if kind >= 0 and wrong[kind])


def _stack(axis: int, normals: NDArray[np.float64]) -> Stack:
    normals = normals[np.lexsort(normals.T)]  # a sum depends on its order
    line = np.linalg.svd(normals, full_matrices=False)[2][0]  # a mean of lines: there is one whatever their senses
    along = line if np.sum(normals @ line) >= 0 else -line
    x, y, z = (float(value) for value in np.round(along, 6) + 0.0)
    different = np.unique(np.round(normals, 3), axis=0)
    different /= np.linalg.norm(different, axis=1, keepdims=True)
    widest = max(float(directions.degrees_between_lines(one, different).max()) for one in different)
    return Stack(axis=axis, scans=len(normals), direction=(x, y, z), within_degrees=round(widest, 1))


# ---------------------------------------------------------------------------------------------- which frame it is


def common(own: Matrix, across: NDArray[np.int64]) -> Matrix | None:
    """The frame of a data set, its axes named by the body axes that they are nearest to.

    Args:
        own: (n, 3, 3) directions of the scans' axes in RAS+ order.
        across: (n,) axis across each scan's slices, -1 for one that is no stack.

    Returns:
        (3, 3) directions; None where the scans must stay in RAS+ order, and none would leave all of them there.
    """
    kinds, _ = _kinds(own, across, _MOST_COMPARED)
    nearness = _nearness(kinds)
    pairs = _pairs(nearness, kinds)
    by_body = _costs(kinds, np.eye(3), pairs)
    if by_body > (0, 0):
        best, costs = _best(kinds, nearness, pairs)
        # Stacks may be turned in plane by any angle, and then no frame is right: body axes, unless another halves it.
        if costs.reversed < by_body.reversed or (
            costs.reversed == by_body.reversed and 2 * costs.turned < by_body.turned
        ):
            return best
    for frame in (_mean(kinds, np.eye(3)), directions.BODY):
        rounded = directions.as_matrix(directions.as_axes(frame))
        if np.array_equal(directions.turn_to(own, rounded), np.broadcast_to(np.eye(3), own.shape)):
            return rounded
    return None


def _best(kinds: _Kinds, nearness: NDArray[np.float64], pairs: _Pairs) -> tuple[Matrix, _Costs]:
    """Of the frames tried, the one that costs least; of several, the one nearest to all scans."""

    def rank(frame: Matrix) -> tuple[_Costs, float, list[float]]:
        turns = directions.turn_to(kinds.directions, frame)
        near = np.sum((kinds.directions @ turns) * frame, axis=(1, 2)) @ kinds.weight
        return _costs(kinds, turns, pairs), -round(float(near), 6), frame.ravel().tolist()

    frames = (frame @ directions.turn_to(frame, directions.BODY, _TIE_OF_NAMES) for frame in _tried(kinds, nearness))
    ranked = ((rank(frame), frame) for frame in (np.round(frame, 6) for frame in frames))
    (costs, _, _), best = min(ranked, key=lambda pair: pair[0])
    return best, costs


def _tried(kinds: _Kinds, nearness: NDArray[np.float64]) -> Iterator[Matrix]:
    """Directions of scans far from each other; the means that follow from them; and what lies between the two.

    Means are found as k-means finds them: all scans are turned to the frame, which then becomes their mean.
    """
    near = nearness >= _trace(NEARLY_PARALLEL_DEGREES)
    for start in _far_apart(nearness, kinds.weight):
        frame = kinds.directions[start]
        yield frame
        yield _mean(kinds._replace(weight=kinds.weight * near[start]), directions.turn_to(kinds.directions, frame))
        for _ in range(_ROUNDS):
            before, frame = frame, _mean(kinds, directions.turn_to(kinds.directions, frame))
            yield frame
            yield directions.at_right_angles(kinds.directions[start] + frame)
            if np.allclose(before, frame, atol=1e-9):
                break


def _far_apart(nearness: NDArray[np.float64], weight: NDArray[np.float64]) -> Iterator[int]:
    """The most frequent kind, then again and again the one that is farthest from all before."""
    start, nearest = int(np.argmax(weight)), np.full(len(weight), -np.inf)
    for _ in range(min(_MOST_TRIED, len(weight))):
        yield start
        nearest = np.maximum(nearest, nearness[start])
        start = int(np.argmin(np.round(nearest, 9)))


def _mean(kinds: _Kinds, turns: Matrix) -> Matrix:
    return directions.at_right_angles(np.einsum("k,kij->ij", kinds.weight, kinds.directions @ turns))


def _kinds(own: Matrix, across: NDArray[np.int64], most: int) -> tuple[_Kinds, NDArray[np.int64]]:
    """Scans by their rounded directions, and the kind of each scan; -1 for those of kinds beyond the most frequent."""
    rounded = np.round(own.reshape(-1, 9), _DIGITS) + 0.0  # no -0.0
    rows, kind_of, count = np.unique(
        np.column_stack([rounded, across]), axis=0, return_inverse=True, return_counts=True
    )
    kept = np.sort(np.argsort(-count, kind="stable")[:most])
    place = np.full(len(rows), -1)
    place[kept] = np.arange(len(kept))
    matrices = directions.at_right_angles(rows[kept, :9].reshape(-1, 3, 3))
    return _Kinds(matrices, rows[kept, 9].astype(np.int64), count[kept].astype(np.float64)), place[kind_of.ravel()]


def _nearness(kinds: _Kinds) -> NDArray[np.float64]:
    """(K, K) trace of the rotation between two kinds, each axis with the one of the other that suits best."""
    return np.stack(
        [
            np.sum((kinds.directions @ directions.turn_to(kinds.directions, one)) * one, axis=(1, 2))
            for one in kinds.directions
        ]
    )


def _pairs(nearness: NDArray[np.float64], kinds: _Kinds) -> _Pairs:
    stack = kinds.across != _NO_AXIS
    normals = kinds.directions[np.arange(len(stack)), :, kinds.across]
    slices = np.abs(normals @ normals.T) >= np.cos(np.radians(NEARLY_PARALLEL_DEGREES))
    # Two stacks across each other, as axial and sagittal ones, show different views however near their axes are.
    alike = slices | ~(stack & stack[:, None])
    return _Pairs(slices & stack & stack[:, None], alike & (nearness >= _trace(NEARLY_PARALLEL_DEGREES)))


def _apart(kinds: _Kinds, turns: Matrix, pairs: _Pairs) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the pairs that ought to be parallel, (K, K) those whose slices, and those that as a whole are not."""
    stored = kinds.directions @ turns
    each = np.arange(len(stored))
    axis = np.abs(np.broadcast_to(turns, stored.shape)[each, kinds.across]).argmax(axis=1)
    normals = stored[each, :, axis]
    other_order = (axis != axis[:, None]) | (normals @ normals.T < 0)
    whole = stored.reshape(-1, 9)
    return pairs.slices & other_order, pairs.whole & (whole @ whole.T < _trace(_PARALLEL_DEGREES))


def _costs(kinds: _Kinds, turns: Matrix, pairs: _Pairs) -> _Costs:
    return _Costs(*(float(kinds.weight @ apart @ kinds.weight) for apart in _apart(kinds, turns, pairs)))


def _trace(degrees: float) -> float:
    """Of a rotation by an angle."""
    return float(1 + 2 * np.cos(np.radians(degrees)))
