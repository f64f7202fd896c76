"""Weights from a pre-training run into a network: what was loaded, what is fresh, what was left behind, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lemis import terminal
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.plugins import NO_TRUST, Trust
from lemis.runs.run import load_model
from lemis.work_files.run import PretrainedModel, read_pretrained


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of the network (``encoder``, ``decoder 1``, ..., ``head``)."""

    part: str
    loaded: int = 0  # parameters and buffers, counted in numbers
    fresh: int = 0
    skipped: int = 0  # there in the source, but not used
    reason: str = ""
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)  # of what was loaded, in ``state_dict``


class Start(NamedTuple):
    """A finished pre-training that a network begins with."""

    run: Path
    model: PretrainedModel
    weights: Mapping[str, Tensor]

    def fill(self, backbone: Backbone, load: Literal["trained", "encoder"] = "trained") -> list[Row]:
        """As ``transfer``, of all parts that were trained, or of the encoder alone."""
        trained = self.model.trained
        left_out = [part for part in trained if part != "encoder"] if load == "encoder" else []
        return transfer(backbone, self.weights, trained, self.run, left_out)


def load_start(run: Path | None, trust: Trust = NO_TRUST) -> Start | None:
    """As ``load_pretrained``; None where there is no run to begin with."""
    if run is None:
        return None
    weights, model = load_pretrained(run, trust)
    return Start(run, model, weights)


def load_pretrained(run: Path, trust: Trust = NO_TRUST) -> tuple[dict[str, Tensor], PretrainedModel]:
    """Weights of a finished pre-training run, and its ``model.json``.

    Raises:
        UsageError: The folder is not one, or names a module that ``trust`` does not hold.
    """
    model = read_pretrained(run, trust)
    weights, _ = load_model(run)
    return weights, model


def transfer(
    backbone: Backbone, weights: Mapping[str, Tensor], trained: tuple[str, ...], source: Path,
    left_out: Collection[str] = (),
) -> list[Row]:  # fmt: skip
    """Load the parts that pre-training trained; every other part keeps its fresh values.

    Args:
        backbone: Changed in place.
        weights: State of the source's backbone; it may have had several input channels where ours has one.
        trained: Parts worth loading, as the method declared them.
        source: For messages.
        left_out: Parts that are not loaded, though they were trained.

    Returns:
        One row for each part of the network, in its own order.

    Raises:
        UsageError: Not one parameter fits: another backbone or another width.
    """
    own = backbone.state_dict()
    rows: dict[str, dict[str, Any]] = {}
    chosen: dict[str, Tensor] = {}
    for name, tensor in own.items():
        part = backbone.part_of(name)
        row = rows.setdefault(part, {"part": part, "loaded": 0, "fresh": 0, "skipped": 0, "reason": "", "names": ()})
        given = weights.get(name)
        if part in trained and part not in left_out and given is not None:
            given, said = _for_one_channel(given, tensor)
            row["reason"] = row["reason"] or said
            if given.shape == tensor.shape and given.dtype == tensor.dtype:
                chosen[name] = given
                row["loaded"] += tensor.numel()
                row["names"] += (name,)
                continue
        row["fresh"] += tensor.numel()
        if given is not None:
            row["skipped"] += given.numel()
        row["reason"] = "left out" if part in left_out else _reason(part, trained, given, tensor)
    if not chosen.keys() & dict(backbone.named_parameters()).keys():  # counters of steps fit any network
        example = next(iter(own))
        there = tuple(weights[example].shape) if example in weights else "missing"
        raise UsageError(
            f"nothing of {source} fits this network ({example}: {there} there, {tuple(own[example].shape)} here)",
            allowed="a run of the same backbone with the same settings",
            next="pre-train again with this backbone, or fine-tune with the settings in the run's model.json",
        )
    backbone.load_state_dict({**own, **chosen})
    return [Row(**row) for row in rows.values()]


def loaded_parameters(backbone: Backbone, rows: Iterable[Row]) -> list[nn.Parameter]:
    """Those of a network that ``transfer`` loaded, from the rows that it gave."""
    names = _names(rows)
    return [parameter for name, parameter in backbone.named_parameters() if name in names]


def rest(backbone: Backbone, rows: Iterable[Row]) -> None:
    """What ``transfer`` loaded stays as it is: it asks for no gradient, and its layers normalise by the running
    statistics that came with it, in training too. Copies of the network rest likewise.

    Args:
        backbone: Changed in place.
        rows: What ``transfer`` gave.
    """
    names = _names(rows)
    for name, parameter in backbone.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    for name, layer in backbone.named_modules():
        if f"{name}.running_mean" in names:
            # Whoever says ``train()`` says it of the whole network, so the layer itself has to know.
            layer.register_forward_pre_hook(_as_learned)


def _as_learned(layer: nn.Module, _: Any) -> None:
    layer.training = False


def _names(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name in row.names}


def print_table(rows: list[Row], source: Path, console: Console) -> None:
    """The table loaded / fresh / skipped, in numbers of values; parts that fared alike share a line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"weights from {source.name}")
    for column in ("loaded", "fresh", "skipped"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for (_, reason), alike in groupby(rows, key=lambda row: (row.loaded > 0, row.reason)):
        same = list(alike)
        numbers = [sum(getattr(row, name) for row in same) for name in ("loaded", "fresh", "skipped")]
        parts = same[0].part if len(same) == 1 else f"{same[0].part} to {same[-1].part}"
        table.add_row(parts, *(f"{number:,}" for number in numbers), reason)
    terminal.print_table(console, table)


def _for_one_channel(given: Tensor, own: Tensor) -> tuple[Tensor, str]:
    """Weights for several input channels as those for one: summed, which is as if its image were in each of them.

    So MACL takes what it has learned from the four channels of BraTS to images of one.
    """
    several, one = given.shape[:2], own.shape[:2]
    if given.dim() < 4 or several[0] != one[0] or one[1:] != (1,) or given.shape[2:] != own.shape[2:]:
        return given, ""
    if several[1] == 1:
        return given, ""
    return given.sum(1, keepdim=True), f"{several[1]} input channels summed, for one"


def _reason(part: str, trained: tuple[str, ...], given: Tensor | None, own: Tensor) -> str:
    if part not in trained:
        return "not trained by the method"
    if given is None:
        return "not in the source"
    if given.dtype != own.dtype:
        return f"{given.dtype} there, {own.dtype} here"
    return f"shape {tuple(given.shape)} there, {tuple(own.shape)} here"
