"""What a training depends on of its data: the content of the prepared scans that it reads, as digests.

A run keeps it as ``trained_on.json``. Where it differs from what is prepared now, the run is of another state of the
data, and ``changes`` says in words what became of which scan. Names, times and places of files are not among it: scans
that were moved or copied are the same scans.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from lemis import records
from lemis.preparation.store import Store
from lemis.settings import plain

FILE = "trained_on.json"
_MOST_NAMED = 5  # changes that are said in full


class Seen(NamedTuple):
    """One prepared scan."""

    subject: str
    image: str  # digest
    label: str | None  # digest; None where there is none, or where it is not looked at
    fingerprint: str  # of the preparation: where it is the same, so are the digests, and nothing need be read


class Told(NamedTuple):
    """The label map that a teacher made of one scan, as it was trained on: it may be corrected by hand."""

    runs: tuple[str, ...]  # the teachers
    weights: tuple[str, ...]  # digests, of each
    label: str  # digest
    stamp: str  # of the file: where it is the same, so is the digest, and nothing need be read


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(facts.get("prepared", {}), dict):
        raise ValueError("should have settings as prepared")
    return facts


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """All that a training depends on beside its settings."""

    facts: Annotated[dict[str, Any], AfterValidator(_whole)]  # of the data set: preparation, channels, structures
    scans: dict[str, Seen]  # by id
    held_out: dict[str, Seen] = field(
        default_factory=dict
    )  # that are scored meanwhile; the weights do not depend on them
    pseudo_labels: dict[str, Told] = field(default_factory=dict)  # by id, of scans without a label that is used
    start: str | None = None  # digest of the weights that it starts from
    second: str | None = None  # digest of those that a second network starts from
    code: dict[str, str] = field(default_factory=dict)  # digests of the user's own modules, by name
    version: Literal[1] = 1  # of the file


def facts_of(store: Store) -> dict[str, Any]:
    """What holds for all scans of a store."""
    return {
        "prepared": plain(store.settings), "channels": list(store.channels),
        "labels": dict(zip(store.label_names, store.label_values, strict=True)),
    }  # fmt: skip


def seen(
    store: Store, scans: Iterable[int], *, labels: bool, known: Mapping[str, Seen] | None = None
) -> dict[str, Seen]:
    """Digests of prepared scans.

    Args:
        store: Where they are.
        scans: Which, as positions in ``store.scans``.
        labels: Whether their labels are part of it.
        known: What is known from before; a scan whose preparation is still the same is not read again.
    """
    found: dict[str, Seen] = {}
    for i in scans:
        facts = store.scans[i]
        before = (known or {}).get(facts.id)
        wanted = labels and facts.labelled
        if before and before.fingerprint == facts.fingerprint and (before.label is not None) == wanted:
            found[facts.id] = before._replace(subject=facts.subject)
        else:
            label = _label_digest(store, i) if wanted else None
            found[facts.id] = Seen(facts.subject, store.digest(facts.id), label, facts.fingerprint)
    return found


def _label_digest(store: Store, i: int) -> str:
    label = store.label(i)
    assert label is not None, "a labelled scan"
    return hashlib.sha256(f"{label.shape}".encode() + label.tobytes()).hexdigest()


def digest(facts: Any) -> str:
    """Of plain JSON types, whatever the order of their keys."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(file: Path) -> str:
    """Of the content of a file; 16 characters."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------- on the disk


def write(run: Path, now: TrainedOn) -> None:
    """``trained_on.json`` of a run folder."""
    by_scan = ("scans", "held_out", "pseudo_labels")
    facts = {**dataclasses.asdict(now), **{key: _rows(getattr(now, key)) for key in by_scan}}
    records.write_tree(run / FILE, facts, TrainedOn)


def _rows(scans: Mapping[str, Seen | Told]) -> dict[str, dict[str, Any]]:
    return {id: one._asdict() for id, one in scans.items()}


def read(run: Path) -> TrainedOn | None:
    """What ``write`` wrote; None where there is no such file.

    Raises:
        UsageError: It is damaged.
    """
    again = f"delete {run}; the command that trained it trains it anew"
    found: TrainedOn | None = records.find(run / FILE, TrainedOn, next=again)
    return found


# ------------------------------------------------------------------------------------------------------ what changed


def changes(before: TrainedOn | None, now: TrainedOn) -> list[str]:
    """What a training would see otherwise than before, in words; empty where nothing is, so that it is up to date."""
    if before is None:
        return ["what it was trained on is not recorded"]
    said = scan_changes(before.scans, now.scans)
    were = {id: one.label for id, one in before.pseudo_labels.items()}
    if corrected := [id for id, one in now.pseudo_labels.items() if id in before.scans and were.get(id) != one.label]:
        said.append(f"pseudo-label changed: {named(corrected)}")
    said += [f"{key} {_was(before.facts.get(key), value)}" for key, value in now.facts.items() if key != "prepared"
             and before.facts.get(key) != value]  # fmt: skip
    prepared, earlier = now.facts["prepared"], before.facts.get("prepared", {})
    said += [
        f"prepared with {key} {_was(earlier.get(key), prepared.get(key))}"
        for key in dict.fromkeys([*earlier, *prepared])
        if earlier.get(key) != prepared.get(key)
    ]
    if before.start != now.start:
        said.append("the weights that it starts from changed")
    if before.second != now.second:
        said.append("the weights that the second network starts from changed")
    said += [f"the module {name} changed" for name, code in now.code.items() if before.code.get(name) != code]
    return said


def scan_changes(before: Mapping[str, Seen], now: Mapping[str, Seen]) -> list[str]:
    """New, gone and changed scans, a line for each kind."""
    both = [id for id in now if id in before]
    kinds = {
        "new: ": [id for id in now if id not in before],
        "gone: ": [id for id in before if id not in now],
        "label changed: ": [id for id in both if before[id].label != now[id].label],
        "image changed: ": [id for id in both if before[id].image != now[id].image],
        "subject changed: ": [id for id in both if before[id].subject != now[id].subject],
    }
    return [kind + named(ids) for kind, ids in kinds.items() if ids]


def named(ids: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more


def _was(before: Any, now: Any) -> str:
    return f"{now!r} instead of {before!r}"
