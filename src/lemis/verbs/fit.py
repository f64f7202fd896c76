"""``lemis fit``: the main job. From a folder of scans with few labels to segmentations, an evaluation and a report.

The sum of check, prepare, pretrain, finetune, predict, evaluate and report; each leaves files, so the same command
again does only what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lemis import asked
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.datasets.split import Split, choose, number_of_folds
from lemis.errors import DataFault
from lemis.measure.tables import count
from lemis.plugins import Trust
from lemis.preparation.keypoints import preparation
from lemis.runs.run import messages
from lemis.settings import of_dims
from lemis.training import build, pairing, run_settings
from lemis.training.pairing import SCRATCH
from lemis.verbs.check import check
from lemis.verbs.evaluate import evaluate
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.report import report
from lemis.work_files.run import read_status


def fit(
    folder: Path,
    *,
    output: Path = Path("work"),
    method: str | None = None,
    backbone: str | None = None,
    auxiliary: str | None = None,
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
        labelled: Use the labels of this many subjects only; by default all.
        fold: Hold out and score this fold only; by default cross-validate.
        preset: Settings by name (`lemis list`) or by file.
        settings_file: Settings that win over the preset; by default none.
        overrides: Settings over the preset: ``prepare.KEY=VALUE``, ``pretrain.``, ``method.``, ``backbone.``,
            ``finetune.``, ``auxiliary.``; `lemis list --json` shows them.
        inductive: Keep held-out scans out of pre-training too; needs ``fold``.
        seed: All randomness follows from it: same seed, same result.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.

    Returns:
        The report.

    Raises:
        DataFault: ``check`` found errors.
        UsageError: No label, a setting that does not exist, or a network that the method does not work on.
    """
    console = messages()
    asked.refuse_processes("fit")
    asked.refuse_inductive(inductive, fold)
    given = run_settings.by_section(overrides)
    tree = run_settings.base(preset, settings_file)
    named = method
    method, backbone = run_settings.choose(method, backbone, tree, given["finetune"])
    # All settings are resolved here once, so that a mistyped one is refused before any work.
    before = None
    if method != SCRATCH:
        before = run_settings.pretraining(method, backbone, tree, given["pretrain"], prefix="pretrain.")
    tuning = run_settings.finetuning(backbone, tree, given["finetune"], auxiliary=auxiliary, prefix="finetune.")
    sections = of_dims(tree, tuning.dims)
    images, keypoints = preparation(sections.get("prepare", {}), given["prepare"], prefix="prepare.")
    wanted = pairing.keypoints_of(backbone, tuning.backbone_settings)
    keypoints = pairing.keypoints_to_find(output / "prepared", keypoints, wanted)

    if named is None and method == SCRATCH:
        others = ", ".join(pairing.methods_of(tuning.dims))
        console.print(f"note: {backbone} is trained without pre-training; --method {others} would pre-train it")
    console.rule("check")
    found = check(folder, output=output)
    if found.errors:
        raise DataFault(
            f"{count(found.errors, 'error')} in {folder}, listed above",
            allowed="scans without errors",
            next="repair or remove what is listed, then run the same command again",
        )
    index = index_file.load(output / "index.json")
    splits = _splits(index, fold, labelled)
    structures = sum(value != 0 for value in index.labels.values())
    build.try_out(before, tuning, build.Foreseen(index.channels, structures + 1), device)
    console.rule("prepare")
    trust = Trust().also(backbone, wanted.detector if wanted else None)  # named by this command or its preset
    prepare(output, settings=images, keypoints=keypoints, trust=trust)

    common: dict[str, Any] = {
        "backbone": backbone,
        "preset": preset,
        "settings_file": settings_file,
        "seed": seed,
        "device": device,
    }
    pretrained = None
    if method != SCRATCH:
        console.rule("pretrain")
        pretrained = pretrain(
            output,
            method=method,
            overrides=given["pretrain"],
            prefix="pretrain.",
            fold=fold if inductive else None,
            **common,
        )
    console.rule("finetune")
    runs = [
        finetune(
            output,
            pretrained=pretrained,
            fold=number,
            labelled=labelled,
            auxiliary=tuning.auxiliary,
            overrides=given["finetune"],
            prefix="finetune.",
            **common,
        )
        for number, _ in splits
    ]
    console.rule("predict")
    predictions = output / "predictions"
    for run, (_, split) in zip(runs, splits, strict=True):
        held_out_scans = [scan.id for scan in index.scans if scan.subject in split.test_subjects]
        if held_out_scans:
            predict(run, scans=held_out_scans, output=predictions, device=device, trust=trust)
    unlabelled = _unlabelled(index)
    if unlabelled:
        predict(runs, scans=unlabelled, output=predictions, device=device, trust=trust)
    if any(split.test_subjects for _, split in splits):
        console.rule("evaluate")
        evaluate(predictions, work=output, runs=[run.name for run in runs])
    else:
        console.print("one labelled subject: nothing is left to evaluate on")
    console.rule("report")
    page = report(output, runs=[run.name for run in (*([pretrained] if pretrained else []), *runs)])
    if pretrained is not None:
        _say_what_learned_nothing(pretrained, console)
    console.print(f"open {page}")
    return page


def _say_what_learned_nothing(pretrained: Path, console: Console) -> None:
    if nothing := read_status(pretrained).learned_nothing:
        text = (
            f" pre-training {pretrained.name} learned nothing, so the scores say nothing for it: at its end {nothing}"
        )
        console.print(Text.assemble(("warning:", "yellow"), text))


def _splits(index: Index, fold: int | None, labelled: int | None) -> list[tuple[int | None, Split]]:
    """The one fold that was asked for, or all of them; a single labelled subject trains one network on everything."""
    root = Path(index.root)
    folds = number_of_folds(index.scans, root=root)
    numbers: list[int | None] = [fold] if fold is not None else list(range(folds)) if folds > 1 else [None]
    return [(number, choose(index.scans, fold=number, labelled=labelled, root=root)) for number in numbers]


def _unlabelled(index: Index) -> list[str]:
    return [scan.id for scan in index.scans if scan.label is None]
