"""Rounds of labelling, simulated on scans whose labels are all known: rows with ``suggest``.

```yaml
rows:
  - {method: pcl, suggest: {name: random, start: 1, add: [1, 2, 4]}}
  - {method: pcl, suggest: {name: cover, start: 1, add: [1, 2, 4]}}
```

The first subjects are drawn, the same for all rows of a fold and seed. Each round then adds subjects that the way has
chosen from the training subjects of the fold, as `lemis suggest` would: by what the encoder of the row's pre-training
makes of their images (without one, by their grids and intensities), and where the way asks for networks, by two that
learned those labels and differ in their seed. Test subjects are never in the pool, and no label of it is opened before
its subject is chosen.

Who is chosen is known once the trainings before it are done, so cells are made round by round. A choice is a file in
``choices/``, found again by a hash of all that it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lemis import plugins, records
from lemis.errors import UsageError, shown
from lemis.records import Record
from lemis.settings import plain, resolve

if TYPE_CHECKING:
    from lemis.training.run_settings import Loader

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How a row comes to its labelled subjects."""

    name: str  # file name in ``suggesters/``, or a dotted name
    start: Count = 2  # subjects that are drawn at first
    add: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 4)  # subjects of each round
    settings: dict[str, Any] = field(default_factory=dict)  # of the way

    @property
    def budgets(self) -> tuple[int, ...]:
        """Labelled subjects at first and after each round."""
        found = [self.start]
        for more in self.add:
            found.append(found[-1] + more)
        return tuple(found)


class Question(NamedTuple):
    """A choice that is to be made."""

    key: str  # hash of all that it depends on
    way: str
    settings: Mapping[str, Any]
    seed: int
    pool: tuple[str, ...]  # subjects
    labelled: tuple[str, ...]  # of these
    number: int
    pretrained: str | None  # run whose encoder sees the scans
    networks: tuple[str, ...]  # runs that segment the unlabelled ones
    after: tuple[str, ...]  # keys of the cells that make those runs


class Choice(Record):
    """``choices/KEY.json``."""

    version: Literal[1] = 1
    way: str
    labelled: tuple[str, ...]  # before
    chosen: tuple[str, ...]
    why: tuple[str, ...]


def given(suggest: Any) -> dict[str, Any]:
    """``suggest`` of a row as a plan has it: a way, or a mapping with its name.

    Raises:
        UsageError: It is something else, or has a key that does not exist.
    """
    found = {"name": suggest} if isinstance(suggest, str) else suggest
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise UsageError(
            f"suggest: {shown(suggest)} of a row",
            allowed="the name of a way to choose, or a mapping with `name`",
            next="suggest: {name: cover, start: 1, add: [1, 2]}",
        )
    checked: dict[str, Any] = plain(resolve(Rounds, found, prefix="suggest."))
    return checked


def settings_of(rounds: Rounds, load: Loader = plugins.load) -> Any:
    """The settings of the way.

    Raises:
        UsageError: There is no such way, or no such setting.
    """
    return resolve(load("suggesters", rounds.name).Settings, rounds.settings, prefix="suggest.settings.")


def networks_of(rounds: Rounds) -> int:
    """How many trained networks the way looks at, 0 or 2: two seeds of one training tell where they disagree."""
    return 2 if getattr(plugins.load("suggesters", rounds.name), "NETWORKS", 0) else 0


def refuse_too_many(rounds: Rounds, title: str, most: int) -> None:
    """Refuse more labels than there are.

    Raises:
        UsageError: The last round comes to more.
    """
    if rounds.budgets[-1] > most:
        raise UsageError(
            f"row {title!r} comes to {rounds.budgets[-1]} labelled subjects",
            allowed=f"at most {most}, the labelled subjects of the smallest fold that may be trained on",
            next="suggest: {name: " + rounds.name + ", start: 1, add: [1]}",
        )


def choice_of(folder: Path, key: str) -> tuple[str, ...] | None:
    """Who was chosen; None where nobody was yet.

    Raises:
        UsageError: The file is damaged.
    """
    path = _file(folder, key)
    found = records.find(path, Choice, next=f"delete {path} and run the same command again: it chooses anew")
    return found.chosen if found is not None else None


def write_choice(folder: Path, key: str, choice: Choice) -> None:
    """For ``choice_of``."""
    _file(folder, key).parent.mkdir(parents=True, exist_ok=True)
    records.write(_file(folder, key), choice)


def _file(folder: Path, key: str) -> Path:
    return folder / "choices" / f"{key}.json"


def made_of(question: Question) -> dict[str, Any]:
    """What its key is the hash of, beside the cells."""
    found: dict[str, Any] = plain({
        "way": question.way, "settings": dict(question.settings), "seed": question.seed, "pool": list(question.pool),
        "labelled": list(question.labelled), "number": question.number,
    })  # fmt: skip
    return found
