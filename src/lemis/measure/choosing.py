"""Which clusters are the object: those that were proposed, picked by number, or clicked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from lemis.errors import UsageError

Choice = dict[int, tuple[int, ...]]  # per slice number, the clusters in the mask


def choose(
    proposed: Mapping[int, int | None],
    there: Mapping[int, Sequence[int]],
    planes: Mapping[int, NDArray[Any]],
    shape: tuple[int, int],
    pick: str | None = None,
    click: str | None = None,
) -> tuple[Choice, str]:
    """The clusters of every slice that make up its mask, and by whom they were chosen, in words.

    Args:
        proposed: The cluster that is proposed, by slice number; None where there is none.
        there: All clusters, by slice number.
        planes: (H, W) clusters by slice number.
        shape: (H, W).
        pick: ``3``, ``2+3`` for both, ``12:3,13:1`` by slice; slices that it does not name keep the proposal.
        click: ``ROW,COL`` counted from 0, in every slice.

    Raises:
        UsageError: A cluster, a slice or a pixel that is not there.
    """
    chosen: Choice = {number: () if label is None else (label,) for number, label in proposed.items()}
    if click is not None:
        row, col = _place(click, shape)
        return {number: (int(planes[number][row, col]),) for number in chosen}, f"the pixel {click}"
    if pick is None:
        return chosen, "proposal"
    return {**chosen, **_picked(pick, there)}, f"--pick {pick}"


def _picked(pick: str, there: Mapping[int, Sequence[int]]) -> Choice:
    chosen: Choice = {}
    for part in pick.split(","):
        which, _, labels = part.rpartition(":")
        try:
            wanted = tuple(int(label) for label in labels.split("+"))
            number = int(which) if which else next(iter(there))
        except ValueError:
            raise UsageError(
                f"--pick {pick}", allowed="3, 2+3 for both, 12:3,13:1 by slice", next=f"--pick {_example(there)}"
            ) from None
        if not which and len(there) > 1:
            raise UsageError(
                f"--pick {pick} for {len(there)} slices",
                allowed="SLICE:LABEL, as each slice has clusters of its own; or --click ROW,COL for all of them",
                next=f"--pick {_example(there)}",
            )
        if number not in there or not set(wanted) <= set(there[number]):
            raise UsageError(
                f"--pick {pick}",
                allowed=f"clusters {', '.join(map(str, there[number]))}"
                if number in there
                else f"slices {', '.join(map(str, there))}",
                next=f"--pick {_example(there)}; the overlay shows the numbers",
            )
        chosen[number] = wanted
    return chosen


def _example(there: Mapping[int, Sequence[int]]) -> str:
    number, labels = next(iter(there.items()))
    return str(labels[-1]) if len(there) == 1 else f"{number}:{labels[-1]}"


def _place(click: str, shape: tuple[int, int]) -> tuple[int, int]:
    parts = click.split(",")
    if len(parts) == 2 and all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        row, col = (int(part) for part in parts)
        if row < shape[0] and col < shape[1]:
            return row, col
    raise UsageError(
        f"--click {click}",
        allowed=f"ROW,COL with rows 0 to {shape[0] - 1} and columns 0 to {shape[1] - 1}",
        next=f"--click {shape[0] // 2},{shape[1] // 2}; the overlay's axes show the pixels",
    )
