"""Whether a module draws anything at random: a threshold, or a loss of every voxel, is an honest idea that draws
nothing, and is not asked for other results with other numbers.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lemis.promises.trying import NotTried, expect, names

# Generators that PyTorch does not know of are known by the names that Python, NumPy, SciPy and scikit-learn give them.
OTHERS = {"random", "default_rng", "RandomState", "random_state", "rvs"}


def expect_others(different: bool, what: str, module: ModuleType, act: Callable[[], object]) -> None:
    """Other numbers give something else, where any are drawn.

    Args:
        different: Whether they do.
        what: What was found where they do not: ``the same labels for other seeds``.
        module: The file.
        act: What of it was tried; tried once more, and watched.

    Raises:
        Broken: It is the same, and something is drawn.
        NotTried: It is the same, and nothing is drawn.
    """
    if different:
        return
    drawn = draws(module, act)
    expect(not drawn, f"{what}, and random numbers are drawn ({names(drawn)})")
    raise NotTried(f"draws nothing at random: {what}")


def draws(module: ModuleType, act: Callable[[], object]) -> set[str]:
    """Random functions of PyTorch that run while ``act`` does, and names of other generators in the file's lines."""
    watched = _Watched()
    with watched:
        act()
    return watched.drawn | (OTHERS & set(_names_in(module)))


@final
class _Watched(TorchDispatchMode):
    """Notes each random operation of PyTorch, whichever generator it draws from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _names_in(module: ModuleType) -> Iterator[str]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
