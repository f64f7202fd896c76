"""Which runs of a work folder say what its scans are like: a pre-training, and fine-tuned networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.datasets.index import Index
from lemis.errors import UsageError
from lemis.plugins import nearest
from lemis.preparation.store import Store
from lemis.runs.run import is_done
from lemis.runs.same_scans import differences, refuse_other_scans
from lemis.work_files import predictions
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel, read_environment, read_model

_ALIKE = ("channels", "label_values", "prepared", "patch_px")  # in all runs of an ensemble


class Used(NamedTuple):
    """Runs by name."""

    pretrained: str | None  # whose encoder sees the scans; None: nothing was pre-trained
    finetuned: tuple[str, ...]  # that segment the unlabelled scans, each by itself
    left_out: tuple[str, ...] = ()  # a sentence for each kind of run that would have been used


def chosen(work: Path, index: Index, store: Store, names: Sequence[str] = ()) -> Used:
    """The runs that were named; else those that segmented the unlabelled scans last, and the pre-training they began
    with, or without these the pre-training that was begun last.

    Args:
        work: The work folder.
        index: Its scans.
        store: As they are prepared now.
        names: Folders in ``WORK/runs``.

    Raises:
        UsageError: No such run, one that is not finished or of scans prepared otherwise, several pre-trainings, or
            fine-tuned networks that do not belong together.
    """
    finished = {path.name: read_model(path) for path in sorted((work / "runs").glob("*")) if is_done(path)}
    for name in names:
        _refuse_missing(work, name, finished)
        refuse_other_scans(name, finished[name], store, next=f"lemis suggest {work}")
    usable = {name: model for name, model in finished.items() if not differences(model, store)}
    left_out = () if len(usable) == len(finished) else (_left_out(finished, usable),)
    named = {name: finished[name] for name in names}
    tuned = tuple(name for name, model in named.items() if isinstance(model, FinetunedModel))
    tuned = tuned or tuple(name for name in _last_used(work, index) if name in usable)
    _refuse_strangers([(name, usable[name]) for name in tuned])
    begun = [name for name, model in named.items() if isinstance(model, PretrainedModel)]
    if len(begun) > 1:
        raise UsageError(
            f"{len(begun)} pre-trainings: {', '.join(begun)}",
            allowed="one, whose encoder sees the scans",
            next=f"lemis suggest {work} --run {begun[0]}",
        )
    starts = [model.pretrained for name in tuned if isinstance(model := usable[name], FinetunedModel)]
    begun += [start for start in starts if start in usable]
    begun += _pretrained_last(work, usable)
    return Used(begun[0] if begun else None, tuned, left_out)


def _last_used(work: Path, index: Index) -> tuple[str, ...]:
    """The runs that made the label maps of the unlabelled scans, where they are the same of all."""
    record = predictions.read(work / "predictions")
    unlabelled = [scan.id for scan in index.scans if scan.label is None]
    made = [record.made(scan).runs for scan in unlabelled if scan in record.scans] if record else []
    return max(set(made), key=lambda runs: (made.count(runs), runs)) if made else ()


def _pretrained_last(work: Path, usable: Mapping[str, Model]) -> list[str]:
    found = []
    for name, model in usable.items():
        if isinstance(model, PretrainedModel):
            environment = read_environment(work / "runs" / name)
            found.append((environment.started if environment else "", name))
    return [name for _, name in sorted(found, reverse=True)]


def _refuse_missing(work: Path, name: str, finished: Mapping[str, Model]) -> None:
    if name not in finished:
        near = nearest(name, finished) or next(iter(finished), None)
        raise UsageError(
            f"--run {name}",
            allowed=f"a finished run in {work / 'runs'}: {', '.join(finished) or 'there is none yet'}",
            next=f"lemis suggest {work} --run {near}" if near else f"lemis pretrain {work}",
        )


def _left_out(finished: Mapping[str, Model], usable: Mapping[str, Model]) -> str:
    others = [name for name in finished if name not in usable]
    return f"not used, as their scans were prepared otherwise: {', '.join(others)}"


def _refuse_strangers(tuned: Sequence[tuple[str, Model]]) -> None:
    for name, model in tuned[1:]:
        for key in _ALIKE:
            first, other = (getattr(one, key) for one in (tuned[0][1], model))
            if first != other:
                raise UsageError(
                    f"{tuned[0][0]} and {name} differ in {key}: {first} and {other}",
                    allowed="networks that segment the same structures in the same way",
                    next=f"leave out --run {name}",
                )
