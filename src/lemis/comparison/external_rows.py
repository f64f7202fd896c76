"""Rows that another program trains: nnU-Net, by its own code, in an environment of its own that never is one of ours.

```yaml
- {external: nnunet, settings: {plan: lemis, times: 4}}
- {external: nnunet, title: "nnU-Net, 2000 steps", python: nnunet/bin/python, settings: {plan: own, steps: 2000}}
```
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field

from lemis.errors import UsageError, shown
from lemis.plugins import nearest
from lemis.settings import resolve

PROGRAMS = {"nnunet": "nnU-Net"}  # what a row names, and what people call it
PAPERS = {
    "nnunet": "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Isensee et al., Nature Methods 18, 2021, https://doi.org/10.1038/s41592-020-01008-z"
}
SCRIPT = Path(__file__).with_name("nnunet_train.py")
PYTHON = "LEMIS_NNUNET_PYTHON"  # environment variable: the interpreter of rows that name none
KEYS = ("external", "title", "python", "settings")
_INSTALL = f"python3 -m venv nnunet && nnunet/bin/pip install nnunetv2 && export {PYTHON}=$PWD/nnunet/bin/python"
_LONGEST_S = 120  # that an interpreter may take to say its versions, on a disk far away


class Row(Protocol):
    """Of a plan (``plans.Row``), as far as it counts here."""

    @property
    def title(self) -> str:
        """Of its line in the table."""

    @property
    def external(self) -> str | None:
        """The program that trains it; None: Lemis."""

    @property
    def suggest(self) -> object | None:
        """How it chooses whose labels it uses; None: they are drawn."""

    @property
    def settings(self) -> dict[str, Any]:
        """As the plan has them."""


_Row = TypeVar("_Row", bound=Row)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How nnU-Net is trained. Its learning rate falls to 0 at the last step, whatever their number."""

    # lemis: pixels, patches, width and batches of the row ``of``; own: what its planner makes of the training scans.
    plan: Literal["lemis", "own"] = "lemis"
    steps: Annotated[int, Field(gt=0)] | None = None
    times: Annotated[float, Field(gt=0)] | None = None  # as the core-seconds of ``of``, pre-training included; 1
    of: str | None = None  # title of a row; by default the baseline, or the first row, that Lemis trains


def row(given: Mapping[str, Any], *, single: bool) -> dict[str, Any]:
    """A row of another program, with its title.

    Args:
        given: As the plan has it.
        single: Whether the plan is of single images.

    Raises:
        UsageError: A program or a key that there is not, or settings that contradict each other.
    """
    name = given["external"]
    if not isinstance(name, str) or name not in PROGRAMS:
        raise UsageError(f"external: {shown(name)} of a row", allowed=", ".join(PROGRAMS), next="external: nnunet")
    if single:
        raise UsageError(
            f"a row with external: {name} in a plan of single images",
            allowed="methods that segment one image without labels",
            next="leave the row out",
        )
    # A plan that was written down names all keys of a row.
    others = [key for key, value in given.items() if key not in KEYS and value is not None]
    others = [key for key in others if (key, given[key]) != ("method", name)]
    if others:
        raise UsageError(
            f"{shown(others[0], quoted=False)} of a row with external: {name}",
            allowed=f"the keys {', '.join(KEYS)}: what it trains, and how, is its own",
            next=f"leave {shown(others[0], quoted=False)} out",
        )
    for key in ("title", "python"):
        if given.get(key) is not None and not isinstance(given[key], str):
            raise UsageError(f"{key}: {shown(given[key])} of a row", allowed="text", next=f"{key}: TEXT")
    settings = given.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise UsageError(
            f"settings: {shown(settings)} of a row", allowed="plan, steps, times, of", next="settings: {times: 1}"
        )
    title = f"{PROGRAMS[name]} ({', '.join(_named(settings_of(settings)))})"
    kept = {key: given[key] for key in KEYS if given.get(key) is not None}
    return {"title": title, "method": name, **kept, "settings": dict(settings)}


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings of such a row.

    Raises:
        UsageError: One that does not exist, or both of ``steps`` and ``times``.
    """
    found = resolve(Settings, given, prefix="settings.")
    if found.steps is not None and found.times is not None:
        raise UsageError(
            f"steps: {found.steps} and times: {found.times:g} of a row",
            allowed="one of the two: a number of steps, or as many as take so many times as long as a row of Lemis",
            next=f"settings: {{times: {found.times:g}}}",
        )
    return found


def _named(settings: Settings) -> tuple[str, str]:
    plan = "Lemis' plan" if settings.plan == "lemis" else "its own plan"
    if settings.steps is not None:
        return plan, f"{settings.steps} steps"
    of = f" of {settings.of}" if settings.of else ""
    return plan, f"{settings.times or 1:g} x the time{of}"


def refuse_contradictions(every: Sequence[Row], protocol: str) -> None:
    """Refuse what contradicts the rows that Lemis trains.

    Args:
        every: Row of the plan.
        protocol: Of the plan.

    Raises:
        UsageError: No row is Lemis' own, ``of`` is none of them, or the plan has a protocol that only they have.
    """
    rows = external(every)
    if not rows:
        return
    own = [row.title for row in every if row.external is None]
    if not own:
        raise UsageError(
            f"row {rows[0].title!r} alone",
            allowed="such rows beside one that Lemis trains",
            next="rows: [scratch, ...]",
        )
    for one in rows:
        of = settings_of(one.settings).of
        if of is not None and of not in own:
            raise UsageError(
                f"settings.of: {shown(of)} of row {one.title!r}",
                allowed=f"the title of a row that Lemis trains: {', '.join(own)}",
                next=f"settings: {{of: {nearest(of, own) or own[0]}}}",
            )
        title = like(one, every, None)
        if any(row.suggest for row in every if row.title == title):
            raise UsageError(
                f"row {one.title!r}, of the size and time of {title!r}, which chooses its own labels",
                allowed="the title of a row whose labels are drawn",
                next="settings: {of: TITLE}, or a plan for each",
            )
    if protocol == "paper":
        raise UsageError(
            f"protocol paper with row {rows[0].title!r}",
            allowed="protocol default: the other is of a network that is scored while Lemis trains it",
            next="protocol: default",
        )


def external(rows: Iterable[_Row]) -> list[_Row]:
    """Those that another program trains."""
    return [row for row in rows if row.external is not None]


def like(row: Row, every: Iterable[Row], baseline: str | None) -> str:
    """Title of the row whose sizes and time count for ``row``."""
    own = [one.title for one in every if one.external is None]
    return settings_of(row.settings).of or (baseline if baseline in own else own[0])


# ------------------------------------------------------------------------------------------------ its own environment


def interpreter(python: str | None, title: str) -> str:
    """The Python of the environment that a row is trained in: as it says, else as the environment variable does.

    Raises:
        UsageError: Neither does, or there is no such file.
    """
    named = python or os.environ.get(PYTHON)
    if not named:
        raise _without(f"row {title!r} without an environment that has nnunetv2")
    path = Path(named).absolute()  # not resolved: that of an environment is a link, and knows it by its place
    if not path.is_file():
        raise _without(f"python {named} of row {title!r}, which is not there")
    return str(path)


def versions(python: str) -> dict[str, str]:
    """Of nnunetv2, PyTorch and Python there.

    Raises:
        UsageError: It is no Python, or has no nnunetv2.
    """
    command = [python, "-I", str(SCRIPT), "versions"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
        if done.returncode == 0:
            found = json.loads(done.stdout)
            return {str(name): str(value) for name, value in found.items()}
        said = done.stderr.strip().splitlines()[-1:] or [f"it ended with exit code {done.returncode}"]
    except (OSError, ValueError, AttributeError, subprocess.TimeoutExpired) as error:
        said = [str(error)]
    raise _without(f"{python}: {shown(said[0], quoted=False)}")


def _without(given: str) -> UsageError:
    return UsageError(
        given,
        allowed=f"the Python of an environment with nnunetv2: python: PATH of the row, or {PYTHON}",
        next=_INSTALL,
    )
