"""Weights from a pre-training run into a network: what was loaded, what is fresh, what was left behind, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from lemis.contracts import Backbone
from lemis.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of the network (``encoder``, ``decoder 1``, ..., ``head``)."""

    part: str
    loaded: int = 0  # parameters and buffers, counted in numbers
    fresh: int = 0
    skipped: int = 0  # there in the source, but not used
    reason: str = ""


def transfer(
    backbone: Backbone, weights: Mapping[str, Tensor], trained: tuple[str, ...], source: Path
) -> list[Row]:
    """Load the parts that pre-training trained; every other part keeps its fresh values.

    Args:
        backbone: Changed in place.
        weights: State of the source's backbone.
        trained: Parts worth loading, as the method declared them.
        source: For messages.

    Returns:
        One row for each part of the network, in its own order.

    Raises:
        UsageError: Not one tensor fits: another backbone or another width.
    """
    own = backbone.state_dict()
    rows: dict[str, dict[str, Any]] = {}
    chosen: dict[str, Tensor] = {}
    for name, tensor in own.items():
        part = backbone.part_of(name)
        row = rows.setdefault(part, {"part": part, "loaded": 0, "fresh": 0, "skipped": 0, "reason": ""})
        given = weights.get(name)
        if part in trained and given is not None and given.shape == tensor.shape:
            chosen[name] = given
            row["loaded"] += tensor.numel()
            continue
        row["fresh"] += tensor.numel()
        if given is not None:
            row["skipped"] += given.numel()
        row["reason"] = _reason(part, trained, given, tensor)
    if not chosen:
        example = next(iter(own))
        there = tuple(weights[example].shape) if example in weights else "missing"
        raise UsageError(
            f"nothing of {source} fits this network ({example}: {there} there, {tuple(own[example].shape)} here)",
            allowed="a run of the same backbone with the same settings",
            next="pre-train again with this backbone, or fine-tune with the settings in the run's model.json",
        )
    backbone.load_state_dict({**own, **chosen})
    return [Row(**row) for row in rows.values()]


def print_table(rows: list[Row], source: Path, console: Console) -> None:
    """The table loaded / fresh / skipped, in numbers of values."""
    table = Table(title=f"weights from {source}")
    table.add_column("part")
    for column in ("loaded", "fresh", "skipped"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for row in rows:
        table.add_row(row.part, f"{row.loaded:,}", f"{row.fresh:,}", f"{row.skipped:,}", row.reason)
    console.print(table)


def _reason(part: str, trained: tuple[str, ...], given: Tensor | None, own: Tensor) -> str:
    if part not in trained:
        return "not trained by the method"
    if given is None:
        return "not in the source"
    return f"shape {tuple(given.shape)} there, {tuple(own.shape)} here"
