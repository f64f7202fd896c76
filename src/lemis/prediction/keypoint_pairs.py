"""Keypoints of a slice and of its neighbour, and which of them match: KAF's figures 4, 6 and 7 (NeurIPS 2023).

Those that ``prepare`` stored, at several distances theta within which a match may lie, as in its pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lemis.errors import UsageError
from lemis.parts.matching import matches
from lemis.preparation.facts import inside_field
from lemis.preparation.store import Store, open_store


class Query(NamedTuple):
    """A prepared slice."""

    scan: str
    slice_number: int  # from 1, as the report counts


class Side(NamedTuple):
    """One of the two slices."""

    slice_number: int
    image: NDArray[np.float32]  # (H, W) first channel, NaN outside the scan
    place: NDArray[np.float32]  # (N, 2) row and column of its keypoints
    descriptor: NDArray[Any]  # (N, D)


class Pair(NamedTuple):
    """What the figure shows."""

    slices: int  # of the scan
    aspect: float  # height of a pixel over its width, in the body
    first: Side
    second: Side
    found: dict[float, NDArray[np.int64]]  # theta in pixels -> (matches, 2) numbers of keypoints that belong together


def parse(text: str) -> Query:
    """``SCAN:SLICE``.

    Raises:
        UsageError: It is not written so.
    """
    scan, _, number = text.rpartition(":")
    if not scan or not number.isdecimal():
        raise UsageError(
            f"--keypoints {text}", allowed="SCAN:SLICE, the slice counted from 1", next="--keypoints patient001:5"
        )
    return Query(scan, int(number))


def pair(work: Path, query: Query, distances_px: Sequence[float], *, mutual: bool = True) -> Pair:
    """The keypoints of a slice and of the one after it (before it, of a scan's last), matched.

    Args:
        work: A work folder with a prepared store that has keypoints.
        query: Which slice.
        distances_px: Values of theta.
        mutual: Both must choose each other.

    Raises:
        UsageError: A scan or slice that does not exist, a scan of one slice, or a store without keypoints.
    """
    store = open_store(work / "prepared")
    scan = store.index_of(query.scan)
    facts = store.scans[scan]
    if facts.slices < 2 or not 1 <= query.slice_number <= facts.slices:
        raise UsageError(
            f"slice {query.slice_number} and a neighbour of it, of {query.scan} with {facts.slices} slices",
            allowed=f"slices 1 to {facts.slices} of a scan with two or more",
            next=f"--keypoints {query.scan}:{(facts.slices + 1) // 2}",
        )
    beside = query.slice_number + (1 if query.slice_number < facts.slices else -1)
    first, second = (_side(store, scan, number) for number in (query.slice_number, beside))
    aspect = facts.prepared_spacing_mm[1] / facts.prepared_spacing_mm[2]
    found = {theta: _matched(first, second, theta, mutual) for theta in distances_px}
    return Pair(facts.slices, aspect, first, second, found)


def _side(store: Store, scan: int, number: int) -> Side:
    image = np.asarray(store.image(scan)[number - 1][0], dtype=np.float32)
    every = store.keypoints(scan)
    end = int(every.count[:number].sum())
    own = slice(end - int(every.count[number - 1]), end)
    seen = np.where(inside_field(store.scans[scan]), image, np.float32(np.nan))
    return Side(number, seen, every.place[own].astype(np.float32), every.descriptor[own])


def _matched(first: Side, second: Side, theta: float, mutual: bool) -> NDArray[np.int64]:
    if not (len(first.place) and len(second.place)):
        return np.zeros((0, 2), np.int64)
    (a, da), (b, db) = (
        (torch.from_numpy(side.place)[None], torch.from_numpy(side.descriptor.astype(np.float32))[None])
        for side in (first, second)
    )
    found = matches(a, da, b, db, theta, mutual=mutual)[0].numpy()
    which = np.flatnonzero(found >= 0)
    return np.stack([which, found[which]], axis=1)
