"""Where plans of comparisons come from: those that ship, a YAML file, or a Python function. Imports no PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.plugins import nearest
from lemis.settings import Tree, read_yaml

PLANS = Path(__file__).parent.parent / "plans"
DEFAULT = "default"


def shipped() -> dict[str, str]:
    """Names of the plans that ship with Lemis (``paper/kaf-table1-acdc``), and titles, in the order of their tables."""
    found = {path.relative_to(PLANS).with_suffix("").as_posix(): path for path in PLANS.rglob("*.yaml")}
    in_order = sorted(found, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(3), name))
    return {name: str(read_yaml(found[name]).get("title", "")) for name in in_order}


def read(plan: str | Path) -> Tree:
    """The mapping of a plan.

    Args:
        plan: The name of one that ships, a YAML file, or ``module:function``, a Python function that returns it.

    Raises:
        UsageError: There is no such plan, or the function returns something else.
    """
    path = PLANS / f"{plan}.yaml"
    if path.is_file():
        return read_yaml(path)
    if Path(plan).is_file():
        return read_yaml(Path(plan))
    module, colon, function = str(plan).partition(":")
    if colon and function.isidentifier():
        return _called(module, function)
    known = shipped()
    near = nearest(str(plan), known)
    raise UsageError(
        f"plan {shown(str(plan))}, which neither ships nor is a file",
        allowed=f"one of the {len(known)} that `lemis compare --list` shows; a YAML file; or module:function",
        next=f"--plan {near}" if near else "lemis compare --list",
    )


def short_name(plan: str | Path) -> str:
    """The name of a comparison by this plan, unless the user gives one."""
    last = re.split(r"[/\\:]", str(plan))[-1]
    return last.removesuffix(".yaml").removesuffix(".yml")


def _called(module: str, function: str) -> Tree:
    allowed = "a function of an importable module that takes nothing and returns the mapping of a plan"
    name = f"plan {shown(f'{module}:{function}', quoted=False)}"
    if not plugins.is_module(module):
        raise UsageError(
            f"{name}: there is no module {shown(module)} here, nor where Python looks",
            allowed=allowed,
            next="correct it, or put its folder on PYTHONPATH",
        )
    try:
        made: Any = getattr(plugins.own(module, name), function)()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {shown(str(error), quoted=False)}"
        raise UsageError(f"{name} ends with {said}", allowed=allowed, next=f"correct {module}.{function}") from error
    if not isinstance(made, Mapping):
        raise UsageError(f"{name} returned a {type(made).__name__}", allowed=allowed, next="return a dictionary")
    return dict(made)
