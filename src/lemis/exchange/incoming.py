"""Weights of other programs into a network of ours, by their names; nothing of a file is ever run.

A file holds tensors by name, somewhere. Its names become ours by rules that the user gives; and where a prefix, such as
``module.``, stands before ours in more names than not, it is taken off. What then has the name and the shape of a
tensor here is loaded; input channels are summed up, or shared out, where their number differs.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lemis import terminal
from lemis.contracts import Backbone
from lemis.errors import UsageError, shown
from lemis.layers.unet import all_parts
from lemis.training.transfer import Row, transfer

_SHOWN = 10  # names that an error lists
_ONLY = "tensors by name: safetensors, or a PyTorch file that holds tensors and plain types"


class Found(NamedTuple):
    """The tensors of a file."""

    weights: dict[str, Tensor]
    inside: str  # the key that held them, dotted; empty: the file itself


class Placed(NamedTuple):
    """What became of them."""

    rows: list[Row]
    adapted: dict[str, int]  # of each part, values that were loaded with another number of input channels
    share: float  # of the encoder's parameters that were loaded
    prefix: str  # that was taken off
    left: tuple[str, ...]  # names of the file that stand for nothing here


# ------------------------------------------------------------------------------------------------------- the file


def read(file: Path) -> Any:
    """What a file holds: tensors and plain types.

    Raises:
        UsageError: It is damaged, or holds what would have to be run.
    """
    return _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)


def largest(content: Any, file: Path) -> Found:
    """The largest group of tensors in what a file holds.

    Raises:
        UsageError: There is none.
    """
    groups = list(_groups(content))
    if not groups:
        raise UsageError(f"{file} holds no tensors by name", allowed=_ONLY, next="look at what wrote it")
    inside, weights = max(groups, key=lambda group: sum(tensor.numel() for tensor in group[1].values()))
    return Found(weights, inside)


def refuse_not_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights with which nothing can be computed.

    Raises:
        UsageError: Some are no numbers, or infinite.
    """
    odd = [name for name, one in weights.items() if one.is_floating_point() and not bool(torch.isfinite(one).all())]
    if odd:
        raise UsageError(
            f"{file} holds weights that are not finite ({odd[0]})",
            allowed="finite weights",
            next="look at what wrote it",
        )


def _of_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"{file} cannot be read: {str(error).partition(chr(10))[0]}", allowed=_ONLY, next="copy it again"
        ) from None


def _of_pickle(file: Path) -> Any:
    try:
        with _numbers_of_numpy(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols of pickle: what cannot be read is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = shown(str(error).partition("\n")[0], quoted=False)
        why = "" if "Weights only load failed" in said else f": {said}"  # PyTorch's advice there is to run it
        raise UsageError(
            f"{file} cannot be read as tensors and plain types{why}",
            allowed=f"{_ONLY}; anything else could run a program",
            next="where it was made: torch.save(network.state_dict(), FILE)",
        ) from None


@contextmanager
def _numbers_of_numpy() -> Iterator[None]:
    """nnU-Net writes its log, numbers of NumPy, beside the weights."""
    kinds = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    scalar: Any = np.float64(0).__reduce__()[0]  # what makes a number again; its place has another name in older files
    with torch.serialization.safe_globals([*kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]):
        yield


def _groups(content: Any, inside: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    if isinstance(content, Mapping):
        tensors = {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
        if tensors:
            yield inside, tensors
        for key, more in content.items():
            yield from _groups(more, f"{inside}.{key}" if inside else str(key))


# ---------------------------------------------------------------------------------------------------- into a network


def place(backbone: Backbone, found: Found, rules: Mapping[str, str], source: Path, *, least: float) -> Placed:
    """Load what fits, changing the network in place; its head stays as it is, as it is of one task.

    Args:
        backbone: With random weights.
        found: The tensors.
        rules: Patterns of names and what takes their place, in order.
        source: For messages.
        least: Share of the encoder's parameters that must be among what is loaded.

    Raises:
        UsageError: Two tensors get one name, or less of the encoder is loaded.
    """
    named = _renamed(found.weights, rules, source)
    prefix = _prefix(named, backbone)
    named = {name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)}
    own = backbone.state_dict()
    given = {name: _of_type(_shared_out(one, own[name]), own[name]) for name, one in named.items() if name in own}
    left = tuple(name for name in named if name not in own)
    parameters = {name: one.numel() for name, one in backbone.named_parameters() if backbone.part_of(name) == "encoder"}
    share = sum(n for name, n in parameters.items() if _fits(given, name, own)) / sum(parameters.values())
    if share < least:
        raise _too_little(
            source, share, least, [name for name in parameters if not _fits(given, name, own)], given, own, left
        )
    rows = transfer(backbone, given, all_parts(backbone), source)
    adapted = Counter[str]()
    for name in (name for row in rows for name in row.names):
        if named[name].shape != own[name].shape:
            adapted[backbone.part_of(name)] += own[name].numel()
    return Placed(rows, dict(adapted), share, prefix, left)


def _renamed(weights: Mapping[str, Tensor], rules: Mapping[str, str], source: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    was: dict[str, str] = {}
    for name, tensor in weights.items():
        here = name
        for pattern, instead in rules.items():
            here = re.sub(pattern, instead, here)
        if here in renamed:
            raise UsageError(
                f"{was[here]} and {name} of {source} both become {shown(here)}",
                allowed="one tensor of each name",
                next="make the pattern of --mapping more exact",
            )
        renamed[here], was[here] = tensor, name
    return renamed


def _prefix(names: Mapping[str, Tensor], backbone: Backbone) -> str:
    """What stands before our names in most of theirs."""
    own = backbone.state_dict().keys()
    before = Counter[str]()
    for name in names:
        places = [0, *(dot.end() for dot in re.finditer(r"[.]", name))]
        before.update(name[:at] for at in places if name[at:] in own)
    return max(before, key=lambda prefix: (before[prefix], -len(prefix))) if before else ""


def _shared_out(given: Tensor, own: Tensor) -> Tensor:
    """Weights for one input channel as those for several, as nnU-Net does: repeated, and divided by their number."""
    one, several = given.shape[:2], own.shape[:2]
    if given.dim() < 4 or one[0] != several[0] or one[1] != 1 or several[1] == 1 or given.shape[2:] != own.shape[2:]:
        return given
    return given.repeat(1, several[1], *[1] * (given.dim() - 2)) / several[1]


def _of_type(given: Tensor, own: Tensor) -> Tensor:
    """Half precision and the like as our own type, of numbers with a fraction."""
    return given.to(own.dtype) if given.is_floating_point() and own.is_floating_point() else given


def _fits(given: Mapping[str, Tensor], name: str, own: Mapping[str, Tensor]) -> bool:
    if name not in given:
        return False
    there, here = given[name].shape, own[name].shape
    summed = len(there) > 3 and (there[0], *there[2:]) == (here[0], *here[2:]) and here[1] == 1
    return there == here or summed


def _too_little(
    source: Path, share: float, least: float, missing: list[str], given: Mapping[str, Tensor],
    own: Mapping[str, Tensor], left: tuple[str, ...],
) -> UsageError:  # fmt: skip
    def said(name: str) -> str:
        there = f"{tuple(given[name].shape)} there" if name in given else "not there"
        return f"{name} {tuple(own[name].shape)}: {there}"

    lines = [f"{100 * share:.0f} % of the encoder's parameters are in {source} by these names and shapes"]
    lines += [f"    {said(name)}" for name in missing[:_SHOWN]]
    if left:
        lines.append(f"  of its names, these stand for nothing here: {', '.join(left[:_SHOWN])}")
    return UsageError(
        "\n".join(lines),
        allowed=f"{100 * least:.0f} % or more",
        next="the right --backbone with its settings, or --mapping FILE.yaml with lines of PATTERN: REPLACEMENT",
    )


# ------------------------------------------------------------------------------------------------------ what is said


def print_table(placed: Placed, source: Path, console: Console) -> None:
    """Of each part, in numbers of values: loaded, loaded with other input channels, random, and not used."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"weights from {source.name}")
    for column in ("loaded", "adapted", "fresh", "skipped", "share"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for row in placed.rows:
        adapted = placed.adapted.get(row.part, 0)
        numbers = (row.loaded - adapted, adapted, row.fresh, row.skipped)
        share = row.loaded / max(1, row.loaded + row.fresh)
        why = "of another task" if row.part == "head" else row.reason
        table.add_row(row.part, *(f"{number:,}" for number in numbers), f"{100 * share:.0f} %", why)
    terminal.print_table(console, table)
    if placed.left:
        more = f" and {len(placed.left) - _SHOWN} more" if len(placed.left) > _SHOWN else ""
        console.print(f"not used, as nothing here has their names: {', '.join(placed.left[:_SHOWN])}{more}")
