"""What may not be scored: scans that training saw with labels, outdated label maps, the scores of another set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lemis.datasets.index import Index
from lemis.errors import UsageError
from lemis.runs import freshness, material
from lemis.scoring.cases import Case
from lemis.work_files import run as run_files
from lemis.work_files.evaluation import Compared, read_summary
from lemis.work_files.predictions import Predictions


def refuse_other_scores(output: Path, of: Compared) -> None:
    """Refuse a folder with the scores of other label maps, or by other references.

    Raises:
        UsageError: It has them.
    """
    try:
        before = read_summary(output)
    except UsageError:  # it is damaged, and written anew
        return
    if before is None or before.of is None or before.of == of:
        return
    folders = (before.of.predictions, before.of.references)
    was = " by ".join(os.path.normpath(output / part) for part in folders if part)
    raise UsageError(
        f"{output} holds the scores of {was}",
        allowed="one folder for the scores of one set of label maps by one set of references",
        next=f"-o {output}-2 for these scores, or delete {output}",
    )


# ---------------------------------------------------------------- leaks


def refuse_leaks(cases: Sequence[Case]) -> None:
    """Refuse scans of subjects that training saw with labels.

    Raises:
        UsageError: There are some; names the first few.
    """
    leaked = [case for case in cases if case.leaks]
    if leaked:
        named = sorted({_named(case) for case in leaked})
        raise UsageError(
            f"{len(leaked)} of {len(cases)} predictions are of subjects that training saw with labels: "
            f"{', '.join(named[:5])}",
            allowed="scans of subjects that were held out",
            next=f"predict the held-out subjects only, or remove {leaked[0].prediction.name} and its like; name other "
            "people of the same name otherwise, in a subjects.csv (id,subject) beside the scans, and predict again",
        )


def _named(case: Case) -> str:
    """``x1, which is patient001`` where the content tells another one than the name."""
    others = sorted(case.people - {case.subject})
    return f"{case.subject}, which is {' or '.join(others)}" if others else case.subject


def with_what_all_saw(cases: Sequence[Case], work: Path) -> list[Case]:
    """Of a label map without a record, the subjects that every network here saw: whichever made it saw them too."""
    if all(case.labelled is not None for case in cases):
        return list(cases)
    models = (run_files.find_model(run) for run in sorted((work / "runs").glob("*")))
    seen = [frozenset(model.labelled_subjects) for model in models if isinstance(model, run_files.FinetunedModel)]
    by_all = frozenset.intersection(*seen) if seen else frozenset[str]()
    return [
        case._replace(labelled=by_all) if case.labelled is None and not case.people.isdisjoint(by_all) else case
        for case in cases
    ]


def by_label(case: Case, label_digest: str, record: Predictions) -> Case:
    """The case with who it is by its reference too: an image may have been changed, its label is still the same."""
    known = record.known_labels.get(label_digest)
    own = record.made(case.scan).inputs is None
    return case if known is None or own else case._replace(people=case.people | {known})


# ---------------------------------------------------------------- another state of the data or of the networks


def scored_on(work: Path, index: Index, cases: Sequence[Case]) -> list[str]:
    """What became of the scans that the runs were scored on in training: nothing, mostly.

    Raises:
        UsageError: What a run was trained on changed since, so that its predictions are not those of the present data.
    """
    held_out: list[str] = []
    for run in sorted({run for case in cases for run in case.runs}):
        changes = freshness.since_training(work, index, run)
        if changes.trained:
            made = run_files.read_environment(work / "runs" / run)
            command = made.command if made else "its command was not written down"
            raise UsageError(
                f"{work / 'runs' / run} was trained on another state of the data: {'; '.join(changes.trained)}",
                allowed="predictions of networks that were trained on the scans and labels as they are now",
                next=f"train it again: {command}",
            )
        held_out += [f"{run}: {change}" for change in changes.held_out]
    return held_out


def refuse_other_weights(work: Path, cases: Sequence[Case], record: Predictions) -> None:
    """Refuse label maps that are older than the weights of their run: it was trained anew since.

    Raises:
        UsageError: There is one.
    """
    there = {run for case in cases for run in case.runs if (work / "runs" / run / run_files.WEIGHTS).is_file()}
    now = {run: material.digest_of_file(work / "runs" / run / run_files.WEIGHTS) for run in there}
    for case in cases:
        weights = record.made(case.scan).weights
        for run, before in zip(case.runs, weights, strict=False):  # a record of somebody else may name none
            if now.get(run, before) != before:
                raise UsageError(
                    f"{case.prediction} was predicted before {work / 'runs' / run} was trained anew",
                    allowed="predictions of the networks as they are now",
                    next=f"lemis predict {' '.join(str(work / 'runs' / one) for one in case.runs)}",
                )
