"""The card beside exported weights: data, method, results and licence. Subjects are counted, never named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lemis import __version__, plugins
from lemis.measure.tables import count
from lemis.reporting.numbers import number, span
from lemis.work_files.evaluation import Scores, Summary, read_summary
from lemis.work_files.exported import FILE, Expects
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel, read_status

CARD = "README.md"
_NO_LICENCE = "Not stated. Whoever hands these weights on must state one; those of the scans may set terms."
_LIMITS = (
    "For research. Not a medical device, and not validated for any clinical use. Scans from other scanners, protocols "
    "or patients may be segmented worse than any score here says."
)


def written(run: Path, model: Model, expects: Expects, *, licence: str | None, use: str) -> str:
    """The card as Markdown.

    Args:
        run: Its folder; the scores beside it are told where they are of this run.
        model: What it trained.
        expects: What the weights expect.
        licence: As the user gave it.
        use: How to use the files, with code.
    """
    parts = [
        f"# {run.name}",
        _summary(model, expects),
        f"## Use\n\n{use}",
        "## What an image must be like\n\n"
        + "\n".join(f"{n}. {said}" for n, said in enumerate(expects.steps, 1))
        + f"\n\nThe same as values: `{FILE}`. Channels, in this order: {', '.join(expects.channels)}.",
        *_classes(expects),
        "## Data\n\n" + "\n".join(f"- {said}" for said in _data(run, model)),
        "## Method\n\n" + "\n".join(f"- {said}" for said in _cited(model)),
        f"## Results\n\n{_results(run, model)}",
        f"## Licence\n\n{licence or _NO_LICENCE}",
        f"## Limits\n\n{_LIMITS}\n\nWritten by Lemis {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(model: Model, expects: Expects) -> str:
    kind = "slices" if expects.dims == 2 else "volumes"
    if isinstance(model, PretrainedModel):
        learned = ", ".join(expects.trained)
        return (
            f"A network ({model.backbone}) for {kind}, pre-trained without labels by {model.method}. It learned in "
            f"these parts: {learned}. Other parts are random, and it has no classes: fine-tune it first."
        )
    begun = f"after a pre-training by {model.method}" if model.pretrained else "from random weights"
    if not model.start_is_known:
        begun = "from weights of others"
    extra = "".join(f", with {name}" for name in (model.auxiliary, model.semi) if name)
    return f"A segmentation network ({model.backbone}) for {kind}, trained on labels {begun}{extra}."


def _classes(expects: Expects) -> list[str]:
    if not expects.classes:
        return []
    rows = "\n".join(f"| {one.index} | {one.name} | {one.value} |" for one in expects.classes)
    return [f"## Classes\n\n| channel of the logits | structure | value in label files |\n|---|---|---|\n{rows}"]


def _data(run: Path, model: Model) -> Iterator[str]:
    status = read_status(run)
    size = ", ".join(count(n, noun) for n, noun in ((status.scans, "scan"), (status.slices, "slice")) if n)
    if isinstance(model, PretrainedModel):
        yield f"images of {count(len(model.subjects), 'subject')}, without labels" + (f" ({size})" if size else "")
        return
    yield f"labels of {count(len(model.labelled_subjects), 'subject')}" + (f" ({size})" if size else "")
    for subjects, what in (
        (model.pretraining_subjects, "images in pre-training, without labels"),
        (model.unlabelled_subjects, "images in fine-tuning, without labels"),
        (model.test_subjects, "held out, neither trained on nor chosen by"),
    ):
        if subjects:
            yield f"{count(len(subjects), 'subject')}: {what}"
    if model.teacher is not None:
        seen = count(len(model.teacher.labelled_subjects), "subject")
        yield f"label maps of unlabelled scans by networks that had seen the labels of {seen}"
    if not model.start_is_known:
        yield "weights of others, with which it began: what they had seen is not known, and their licence may set terms"
    if model.ignored_values:
        yield f"label values {', '.join(map(str, model.ignored_values))} counted as background"


def _cited(model: Model) -> list[str]:
    used = [("backbones", model.backbone), ("methods", model.method)]
    if isinstance(model, FinetunedModel):
        used += [("auxiliary", model.auxiliary or ""), ("semi", model.semi or "")]
    known = [(folder, name) for folder, name in used if name in plugins.names(folder)]
    own = [f"{name}: a module of its author" for _, name in used if plugins.is_own(name)]
    return [*(f"{name}: {plugins.describe(folder, name)['title']}" for folder, name in known), *own]


def _results(run: Path, model: Model) -> str:
    if isinstance(model, PretrainedModel):
        return "None: a pre-training has no classes to be scored."
    summary = read_summary(run.parent.parent / "evaluation")
    if summary is None or run.name not in summary.runs:
        return "None: this run was not scored where it lay when it was exported."
    together = "" if len(summary.runs) == 1 else f", together with {count(len(summary.runs) - 1, 'other run')}"
    level = f"{100 * summary.settings.intervals.level:.0f} %"
    head = (
        f"On {count(summary.scans, 'scan')} of {count(summary.subjects, 'subject')} of which this run{together} had "
        f"seen no label; mean over scans with its {level} interval."
    )
    return "\n\n".join([head, _table(summary), _exposure(summary)])


def _table(summary: Summary) -> str:
    default = summary.protocols.default
    rows = {**default.structures, **({"mean of structures": default.overall} if len(default.structures) > 1 else {})}
    names = {"dice": "Dice"} if default.without_millimetres else {"dice": "Dice", "hd95_mm": "HD95, mm"}
    lines = [f"| structure | {' | '.join(names.values())} |", "|---" * (1 + len(names)) + "|"]
    return "\n".join(lines + [f"| {name} | {_scores(found, list(names))} |" for name, found in rows.items()])


def _scores(found: Scores, names: list[str]) -> str:
    each = [(getattr(found, name), 3 if name == "dice" else 1) for name in names]
    return " | ".join(f"{number(one.mean, digits)} ({span(one, digits) or 'no interval'})" for one, digits in each)


def _exposure(summary: Summary) -> str:
    if summary.transductive is None:
        return "What pre-training saw of these subjects is not known."
    if summary.transductive:
        return f"Transductive: {summary.exposed_in} saw the images of these subjects, not their labels."
    return "No image of these subjects was seen in training."
