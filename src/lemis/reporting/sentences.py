"""Sentences of the report: what was done, warnings to read before the first number, and what is not there yet."""

from __future__ import annotations

from collections.abc import Mapping

from lemis.datasets.index import Index
from lemis.measure.tables import count
from lemis.reporting.numbers import duration, listed
from lemis.reporting.work_facts import RunFacts, WorkFacts
from lemis.work_files.evaluation import Summary
from lemis.work_files.predictions import Kept, Pieces, Prediction

_STRANGE_SHOWN = 3  # scans of one kind that a warning names
_LEAST_SHARE_SAID = 0.0005  # which rounds to 0.1 %


def sentences(work: WorkFacts) -> list[str]:
    """What was done, one plain sentence each."""
    said = []
    if work.index is not None:
        said.append(_data_sentence(work.index))
    said += [_run_sentence(run) for run in work.in_use]
    if work.not_in_use:
        said.append(
            f"Not in use: {listed(f'“{run.name}”' for run in work.not_in_use)}. No label map and no score of this "
            "report is by them, as of runs of an earlier round of labelling."
        )
    if work.predictions is not None:
        said += pieces(work.predictions.scans)
    if work.summary is not None:
        said += _evaluation_sentences(work.summary)
    return said


def _data_sentence(index: Index) -> str:
    subjects = {scan.subject for scan in index.scans}
    labelled = [scan for scan in index.scans if scan.label]
    return (
        f"The data: {count(len(index.scans), 'scan')} of {count(len(subjects), 'subject')} "
        f"({listed(index.channels)}). {count(len(labelled), 'scan')} {'has' if len(labelled) == 1 else 'have'} a "
        f"reference label, with the structures {listed(name for name, value in index.labels.items() if value)}."
    )


def _run_sentence(run: RunFacts) -> str:
    planned = "?" if run.status.steps is None else run.status.steps
    steps = count(run.steps, "step") if run.done else f"{run.steps} of {planned} steps"
    took = f"{steps}, {duration(run.status.seconds)}"
    state = "" if run.done else f" It is not finished (state: {run.state})."
    if run.verb == "pretrain":
        seen = len(run.pretrained_on)
        on = f"the images of {count(seen, 'subject')}" if seen else "images"
        if run.imported is not None:
            share = f"{100 * run.imported.share:.0f} % of its encoder"
            taught = (
                "they had learned from labels of others; which is"
                if run.imported.saw_labels
                else "what they had seen is"
            )
            return f"“{run.name}”: weights from {run.imported.file}, {share}; {taught} not recorded."
        if run.learned_nothing:
            return f"Pre-training “{run.name}”: {run.method} learned nothing from {on} ({took}): {run.learned_nothing}."
        return f"Pre-training “{run.name}”: {run.method} learned from {on}, without labels ({took}).{state}"
    labelled = run.labelled_subjects
    who = f"on {count(len(labelled), 'labelled subject')} ({listed(labelled)})" if labelled else "on labelled scans"
    begun = f"starting from the weights of “{run.pretrained}”" if run.pretrained else "from scratch"
    extra = f", with the extra loss {run.auxiliary}" if run.auxiliary else ""
    if run.semi:
        extra = (
            f", and on the images of {count(len(run.unlabelled_subjects), 'subject')} without their labels ({run.semi})"
        )
    if run.teachers:
        extra += f", which {listed(f'“{one}”' for one in run.teachers)} had segmented"
    if run.second:
        extra += f"; beside a second network, which started from the weights of “{run.second}”"
    return f"Fine-tuning “{run.name}”: {begun}, {who}{extra} ({took}).{state}"


def pieces(made: Mapping[str, Prediction]) -> list[str]:
    """What became of islands in label maps, by what only the largest piece was kept of, and what stays in pieces."""
    groups: dict[tuple[str, ...], dict[str, tuple[Kept, Pieces]]] = {}
    for id, one in made.items():
        if one.kept is not None and one.pieces is not None:
            groups.setdefault((kept_of(one.kept), _why(one.kept)), {})[id] = (one.kept, one.pieces)
    return [sentence for (what, why), own in groups.items() for sentence in _of_pieces(what, why, own)]


def kept_of(kept: Kept) -> str:
    """Of what only the largest piece is kept: ``RV, MYO and LV, and of all structures together``."""
    together = "all structures together" if kept.foreground else ""
    return ", and of ".join(part for part in (listed(kept.structures), together) if part)


def _why(kept: Kept) -> str:
    return {
        "labels": "as every labelled scan of training has one piece of each",
        "held-out scans": "as that raises the Dice of scans that other networks held out",
        "command": "as was asked for",
    }[kept.by]


def _of_pieces(what: str, why: str, own: Mapping[str, tuple[Kept, Pieces]]) -> list[str]:
    gone = {id: sum(found.removed.values()) for id, (_, found) in own.items()}
    touched, total = sum(voxels > 0 for voxels in gone.values()), sum(found.voxels for _, found in own.values())
    share, scans = sum(gone.values()) / total if total else 0.0, count(len(own), "scan")
    percent = f"{100 * share:.1f} %" if share >= _LEAST_SHARE_SAID else "less than 0.1 %"
    did = (
        f"removed {percent} of the predicted voxels, in {touched} of {scans}" if touched else f"changed none of {scans}"
    )
    said = [f"Only the largest piece is kept of {what}, {why}; that {did}."]
    apart = {}
    for id, (kept, found) in own.items():
        if names := [*found.in_pieces, *(["all structures together"] if found.foreground_in_pieces else [])]:
            apart[f"{id}: {listed(names)}"] = kept.least_share
    if apart:
        said.append(
            f"In {len(apart)} of {scans} not, as no piece holds {max(apart.values()):.0%} of the voxels; there all "
            f"pieces stay ({'; '.join([*apart][:_STRANGE_SHOWN])}{'; ...' if len(apart) > _STRANGE_SHOWN else ''})."
        )
    return said


def _evaluation_sentences(summary: Summary) -> list[str]:
    tested = f"{count(summary.scans, 'scan')} of {count(summary.subjects, 'subject')}"
    said = [f"Evaluation: {tested}, compared with the reference on each scan's own grid."]
    unknown = summary.training_not_recorded
    if not unknown:
        said.append("No scan was segmented by a network that had seen a label of its subject.")
    elif summary.subjects_labelled_in_training is not None:
        said.append(f"Which labels training had seen is not recorded for {count(len(unknown), 'prediction')}.")
    said.append(
        {
            True: f"The result is transductive: {summary.exposed_in} had seen the images (never the labels) of test "
            f"subjects. Expect somewhat lower scores on scans that {summary.exposed_in} has not seen.",
            False: f"The result is not transductive: {summary.not_exposed_in} saw no image of a test subject.",
            None: "What training saw is not recorded, so nobody can tell whether the test was fair.",
        }[summary.transductive]
    )
    return said


def warnings(work: WorkFacts) -> list[str]:
    """What a reader must know before the first number."""
    used = {start for run in work.final_runs for start in (run.pretrained, run.second)}
    return [
        *_unknown_training(work),
        *_strange_scans(work),
        *(
            f"Pre-training “{run.name}” learned nothing: at its end {run.learned_nothing}. What follows is the result "
            "of networks that had no use of it."
            for run in work.runs
            if run.learned_nothing and (run.name in used or not used)
        ),
    ]


def _unknown_training(work: WorkFacts) -> list[str]:
    if work.summary is None or not work.summary.training_not_recorded:
        return []
    unknown = len(work.summary.training_not_recorded)
    return [
        f"Nobody wrote down what {unknown} of the {count(work.summary.scans, 'label map')} were made by. Whether "
        "the network had learned from these very scans is not known, so the scores prove nothing of new ones."
    ]


def _strange_scans(work: WorkFacts) -> list[str]:
    """One sentence for each way in which predicted scans are unlike those of training."""
    made = work.predictions.scans if work.predictions else {}
    found = [(id, kind, seen) for id, one in made.items() for kind, seen in one.strange]
    said = []
    for kind in dict.fromkeys(kind for _, kind, _ in found):
        own = [(id, seen) for id, other, seen in found if other == kind]
        few = listed((f"{id}: {seen}" for id, seen in own), most=_STRANGE_SHOWN)
        said.append(
            f"{len(own)} of {count(len(made), 'scan')} {'is' if len(own) == 1 else 'are'} unlike what the network was "
            f"trained on ({kind}): {few}."
        )
    return said


def missing(work: WorkFacts) -> list[tuple[str, str]]:
    """What this work folder does not hold, and the command that makes it."""
    if work.elsewhere:
        command = "lemis evaluate MASKS --references LABELS"
        return [("No evaluation", command)] if work.summary is None else []
    verbs = {run.verb for run in work.runs}
    parts = (
        (work.index is None, "No index of scans", "lemis check SCANS -o WORK"),
        (work.prepared is None, "No prepared scans", "lemis prepare WORK"),
        ("finetune" not in verbs, "No fine-tuned network", "lemis finetune WORK"),
        (work.predictions is None, "No predictions", "lemis predict WORK/runs/NAME"),
        (work.summary is None, "No evaluation", "lemis evaluate WORK/predictions"),
    )
    return [(what, command) for is_missing, what, command in parts if is_missing]
