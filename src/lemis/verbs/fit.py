"""``lemis fit``: the main job. From a folder of scans with few labels to segmentations, an evaluation and a report.

The sum of check, prepare, pretrain, finetune, predict, evaluate and report; each leaves files, so the same command
again does only what is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lemis import asked, plugins, terminal
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.datasets.split import Split
from lemis.plugins import Trust
from lemis.prediction import components
from lemis.preparation.classes import to_classes
from lemis.preparation.keypoints import Settings as Keypoints
from lemis.runs import told
from lemis.runs.run import messages
from lemis.scoring import cases, one_scan
from lemis.training import beside, build, guards, pairing, pool, pseudo_labels, run_settings
from lemis.training.beside import LABELS_ALONE
from lemis.training.run_settings import Asked, WholeWay
from lemis.verbs.check import check
from lemis.verbs.evaluate import evaluate
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.report import report
from lemis.work_files import predictions
from lemis.work_files.run import OnePiece, read_status

Splits = Sequence[tuple[int | None, Split]]  # each with the number of its fold


def fit(
    folder: Path,
    *,
    output: Path = Path("work"),
    method: str | None = None,
    backbone: str | None = None,
    auxiliary: str | None = None,
    semi: str | None = None,
    second: str | None = None,
    labelled: int | None = None,
    fold: int | None = None,
    preset: str | None = "small",
    settings_file: Path | None = None,
    overrides: Sequence[str] = (),
    inductive: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Everything, from a folder of scans to ``report/index.html``.

    With ``fold``, that fold's subjects are held out and scored. Without it the labelled subjects are cross-validated:
    each is predicted by a network that never saw its label, and every unlabelled scan by the ensemble.

    Args:
        folder: A folder of scans, or a CSV that lists them; a few of them labelled.
        output: The work folder.
        method: How to pre-train, by default the preset's, else sal. `lemis list` shows all; a dotted name loads your
            own module; ``scratch`` is no pre-training.
        backbone: The network, by default the preset's, else the method's, else unet2d. `lemis list` shows all; a
            dotted name loads your own module. Keypoints that it looks at are found as the scans are prepared.
        auxiliary: An extra loss of fine-tuning, by default the preset's, else none. `lemis list` shows all; a dotted
            name loads your own module.
        semi: A way to learn from scans without labels in fine-tuning too: those that have none, and training subjects
            beyond ``labelled``. By default the preset's, where there are such scans; ``none`` for labels alone. `lemis
            list` shows all; a dotted name loads your own module.
        second: How to pre-train the second network of ``semi=cps``, on the same scans and network; by default it starts
            where the first one does.
        labelled: Use the labels of this many subjects only; by default all.
        fold: Hold out and score this fold only; by default cross-validate.
        preset: Settings by name (`lemis list`) or by file.
        settings_file: Settings that win over the preset; by default none.
        overrides: Settings over the preset: ``prepare.KEY=VALUE``, ``pretrain.``, ``method.``, ``backbone.``,
            ``finetune.``, ``auxiliary.``, ``semi.``, ``predict.``; `lemis list --json` shows them.
        inductive: Keep held-out scans out of pre-training too; needs ``fold``.
        seed: All randomness follows from it: same seed, same result.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.

    Returns:
        The report.

    Raises:
        DataFault: ``check`` found errors.
        UsageError: No label, a setting that does not exist, or a network that the method does not work on.
    """
    asked.refuse_processes("fit")
    asked.refuse_inductive(inductive=inductive, fold=fold)
    way = run_settings.whole_way(
        Asked(
            method=method, backbone=backbone, auxiliary=auxiliary, semi=semi, second=second, preset=preset,
            settings_file=settings_file, overrides=overrides,
        )
    )  # fmt: skip
    wanted = pairing.keypoints_of(way.finetuning.backbone, way.finetuning.backbone_settings)
    keypoints = pairing.keypoints_to_find(output / "prepared", way.keypoints, wanted)
    _say_what_would_pretrain(method, way)
    index = _checked(folder, output)
    splits = asked.splits(index.scans, Path(index.root), fold=fold, labelled=labelled)
    way = _with_pools(index, splits, way)
    _refuse_early(index, splits, way, device)
    trust = Trust().also(way.finetuning.backbone, wanted.detector if wanted else None)  # by command or preset
    _prepare(output, way, keypoints, trust)
    common = {
        "backbone": way.finetuning.backbone, "preset": preset, "settings_file": settings_file, "seed": seed,
        "device": device,
    }  # fmt: skip
    starts = _pretrained(output, way, fold if inductive else None, common)
    maps = _pseudo_labels(output, index, starts, way, splits, labelled, common, trust)
    runs = _finetuned(output, starts, way, splits, labelled, common, maps)
    _predict(output, index, runs, splits, way.predict, whole=labelled is None, device=device, trust=trust)
    _evaluate(output, runs, splits)
    return _report(output, starts, runs)


def _say_what_would_pretrain(method: str | None, way: WholeWay) -> None:
    if method is not None or way.pretraining is not None:
        return
    tuning = way.finetuning
    others = ", ".join(pairing.methods_of(tuning.dims))
    messages().print(f"note: {tuning.backbone} is trained without pre-training; --method {others} would pre-train it")


def _checked(folder: Path, output: Path) -> Index:
    messages().rule("check")
    found = check(folder, output=output)
    asked.refuse_errors(found.errors, folder)
    return index_file.load(output / "index.json")


def _refuse_early(index: Index, splits: Splits, way: WholeWay, device: str) -> None:
    """What any network, method or loss refuses is refused before the hours of preparing and training."""
    nothing = {0, *index.ignored}
    marked = {scan.subject for scan in index.scans if not nothing.issuperset(scan.label_values)}
    for _, split in splits:
        guards.refuse_nothing_marked(split.labelled_subjects, not marked.isdisjoint(split.labelled_subjects))
    foreseen = build.Foreseen.of(index.channels, index.labels.values())
    build.try_out(way.pretraining, way.finetuning, foreseen, device, way.second)


def _with_pools(index: Index, splits: Splits, way: WholeWay) -> WholeWay:
    """The same, on labels alone where only the preset asked for unlabelled scans and a network would have none."""
    scans = [(scan.subject, scan.label is not None) for scan in index.scans]
    tuning = way.finetuning
    for _, split in splits:
        tuning = tuning.with_pool(pool.chosen(scans, split, tuning.pool))
    if tuning.semi != way.finetuning.semi and way.second is not None:
        beside.refuse_second(way.second.method, tuning.semi, plugins.load)
    if tuning.left_out:
        messages().print(f"note: {tuning.left_out}")
    return replace(way, finetuning=tuning)


def _prepare(output: Path, way: WholeWay, keypoints: Keypoints | None, trust: Trust) -> None:
    messages().rule("prepare")
    prepare(output, settings=way.images, keypoints=keypoints, trust=trust)


class _Starts(NamedTuple):
    """The pre-trainings that networks begin with."""

    first: Path | None  # None from scratch
    second: Path | None  # of a second network, where that has one of its own

    @property
    def all(self) -> list[Path]:
        """Those that there are, each once."""
        return list(dict.fromkeys(run for run in self if run is not None))


def _pretrained(output: Path, way: WholeWay, fold: int | None, common: Mapping[str, Any]) -> _Starts:
    typed = (way.given["pretrain"], run_settings.typed_of_second(way.given))
    found: list[Path | None] = []
    for settings, overrides in zip((way.pretraining, way.second), typed, strict=True):
        if settings is None:
            found.append(None)
            continue
        messages().rule("pretrain")
        found.append(
            pretrain(output, method=settings.method, overrides=overrides, prefix="pretrain.", fold=fold, **common)
        )
    return _Starts(*found)


def _pseudo_labels(
    output: Path, index: Index, starts: _Starts, way: WholeWay, splits: Splits, labelled: int | None,
    common: Mapping[str, Any], trust: Trust,
) -> list[Path | None]:  # fmt: skip
    """Train a teacher for each fold, on labels alone, and segment its unlabelled scans; the folders of label maps, none
    where they are not wanted.
    """
    if not beside.is_taught(way.finetuning.semi, plugins.load):
        return [None] * len(splits)
    tuning = way.finetuning.labels_alone()
    alone = {**common, "preset": None, "settings_file": None}  # which may name a way to use unlabelled scans
    overrides = run_settings.as_overrides(tuning.stored())
    messages().rule("teachers")
    with told.together(len(splits), "teachers"):
        teachers = [
            finetune(
                output, pretrained=starts.first, fold=fold, labelled=labelled, auxiliary=tuning.auxiliary,
                overrides=overrides, prefix="finetune.", **alone,
            )
            for fold, _ in splits
        ]  # fmt: skip
    scans = [(scan.subject, scan.label is not None) for scan in index.scans]
    folders: list[Path | None] = []
    with told.together(len(splits), "sets of pseudo-labels"):
        for teacher, (_, split) in zip(teachers, splits, strict=True):
            unlabelled = [index.scans[i].id for i in pool.chosen(scans, split, way.finetuning.pool)]
            folder = pseudo_labels.folder_of(output, teacher.name)
            folders.append(
                predict(
                    teacher,
                    scans=unlabelled,
                    output=folder,
                    overrides={"quality": False},
                    device=common["device"],
                    trust=trust,
                )
            )
    return folders


def _finetuned(
    output: Path, starts: _Starts, way: WholeWay, splits: Splits, labelled: int | None, common: Mapping[str, Any],
    maps: Sequence[Path | None],
) -> list[Path]:  # fmt: skip
    messages().rule("finetune")
    with told.together(len(splits), "runs"):
        return [
            finetune(
                output, pretrained=starts.first, second=starts.second, fold=fold, labelled=labelled,
                auxiliary=way.finetuning.auxiliary, semi=way.finetuning.semi or LABELS_ALONE, pseudo_labels=labels,
                overrides=way.given["finetune"], prefix="finetune.", **common,
            )
            for (fold, _), labels in zip(splits, maps, strict=True)
        ]  # fmt: skip


def _predict(
    output: Path, index: Index, runs: Sequence[Path], splits: Splits, settings: Mapping[str, Any], *, whole: bool,
    device: str, trust: Trust,
) -> None:  # fmt: skip
    """Held-out scans by the network that never saw their labels, unlabelled ones by all of them.

    Args:
        output: The work folder.
        index: Its scans.
        runs: One for each split.
        splits: One, or those of a cross-validation.
        settings: Of prediction.
        whole: Every label may be used, also to decide what is one piece.
        device: As of ``predict``.
        trust: As of ``predict``.
    """
    messages().rule("predict")
    unlabelled = [scan.id for scan in index.scans if scan.label is None]
    held_out = [[scan.id for scan in index.scans if scan.subject in split.test_subjects] for _, split in splits]
    decided: list[OnePiece | None] = [None] * (len(runs) + 1)
    tested = {subject for _, split in splits for subject in split.test_subjects}
    if whole and len(splits) > 1 and len(tested) >= components.LEAST_SUBJECTS and "largest_components" not in settings:
        decided = _decided(output, index, runs, held_out, settings, device=device, trust=trust)
    groups = [
        group
        for group in zip([*([run] for run in runs), list(runs)], [*held_out, unlabelled], decided, strict=True)
        if group[1]
    ]
    with told.together(len(groups), "sets of label maps"):
        for by, scans, keep in groups:
            predict(
                by, scans=scans, output=output / "predictions", overrides=settings, device=device, trust=trust,
                decided=keep, beside=runs,
            )  # fmt: skip


def _decided(
    output: Path, index: Index, runs: Sequence[Path], held_out: Sequence[Sequence[str]], settings: Mapping[str, Any], *,
    device: str, trust: Trust,
) -> list[OnePiece | None]:  # fmt: skip
    """What to keep the largest piece of: for each run by what the others held out, and for all of them by all of it.

    So nothing is decided on the scans that are scored; None where too few subjects say it.
    """
    folder = output / "held_out"
    with told.together(sum(map(bool, held_out)), "sets of held-out label maps"):
        for run, scans in zip(runs, held_out, strict=True):
            if scans:
                every = {**settings, "largest_components": False, "quality": False}
                predict([run], scans=scans, output=folder, overrides=every, device=device, trust=trust)
    record = predictions.read(folder) or predictions.Predictions()
    known = cases.told(folder, None, index, record)
    tested, _ = cases.cases(folder, known, record, [run.name for run in runs])
    names = ["background", *known.structures]
    effects = []
    for case in tested:
        maps = one_scan.read(case, known.structures, known.ignored)
        predicted, reference = (to_classes(labels, (0, *known.structures.values())) for labels in maps[:2])
        effects.append(components.effect(predicted, reference, names))

    def without(own: Sequence[str]) -> OnePiece | None:
        chosen = [(case.subject, one) for case, one in zip(tested, effects, strict=True) if case.scan not in own]
        enough = len({subject for subject, _ in chosen}) >= components.LEAST_SUBJECTS
        return components.decide([one for _, one in chosen], names) if enough else None

    return [*map(without, held_out), without(())]


def _evaluate(output: Path, runs: Sequence[Path], splits: Splits) -> None:
    if any(split.test_subjects for _, split in splits):
        messages().rule("evaluate")
        evaluate(output / "predictions", work=output, runs=[run.name for run in runs])
    else:
        messages().print("one labelled subject: nothing is left to evaluate on")


def _report(output: Path, starts: _Starts, runs: Sequence[Path]) -> Path:
    console = messages()
    console.rule("report")
    page = report(output, runs=[run.name for run in (*starts.all, *runs)])
    for start in starts.all:
        _say_what_learned_nothing(start, console)
    console.print(f"open {page}")
    # By name: a pattern would also take the networks of earlier rounds of labelling, which have other numbers.
    console.print(f"new scans: {shlex.join(['lemis', 'predict', *map(str, runs), '-i', 'NEW', '-o', 'MASKS'])}")
    return page


def _say_what_learned_nothing(pretrained: Path, console: Console) -> None:
    if nothing := read_status(pretrained).learned_nothing:
        said = f"pre-training {pretrained.name} learned nothing, so the scores say nothing for it: at its end {nothing}"
        terminal.warn(console, said)
