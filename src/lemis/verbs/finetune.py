"""``lemis finetune``: train a segmentation network on the labelled scans of a split, pre-trained or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemis import files
from lemis.datasets import index
from lemis.datasets.split import BUDGET_SEED, choose
from lemis.errors import UsageError
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation import exposure
from lemis.preparation.exposure import Likeness
from lemis.preparation.facts import Facts
from lemis.preparation.store import Store, open_store
from lemis.runs import folders, material
from lemis.runs.material import TrainedOn
from lemis.runs.run import Run, fill, is_done, load_model, messages
from lemis.sampling.spatial import shape_of
from lemis.settings import plain
from lemis.training import build, guards, launch, loop, pairing, run_settings, sources
from lemis.training import held_out as held_out_score
from lemis.training.transfer import load_pretrained, print_table, transfer
from lemis.work_files.run import PretrainedModel

_POOLED = "held_out/pooled_dice"
# Times during training that the held-out fold is scored: of slices for the ``paper`` protocol's best epoch, of volumes
# once, as it takes long.
SCORES, SCORES_OF_VOLUMES = 5, 1


def finetune(
    work: Path,
    *,
    pretrained: Path | None = None,
    fold: int | None = None,
    labelled: int | None = None,
    split: str | None = None,
    selection_seed: int = BUDGET_SEED,
    backbone: str | None = None,
    auxiliary: str | None = None,
    name: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    seed: int = 0,
    device: str = "auto",
    prefix: str = "",
    trust: Trust = NO_TRUST,
) -> Path:
    """Train on the labelled subjects of a fold; score the held-out ones as training goes on.

    The weights that are kept are those of the last step. The held-out score is only written down; nothing is chosen
    by it.

    Args:
        work: A folder that ``lemis prepare`` has filled.
        pretrained: Folder of the finished pre-training run to start from; by default random weights.
        fold: Hold out this fold's test subjects; by default hold out none. Then every labelled subject is trained on.
        labelled: Use the labels of this many subjects only, of those that the fold trains on; by default all.
        split: Whose folds (``datasets/split.py``); by default the data set's own splits_final.json, else pcl.
        selection_seed: Of the choice of M subjects; by default the protocol's.
        backbone: The network, by default the pre-trained one, else the preset's, else unet2d. `lemis list` shows all; a
            dotted name loads your own module.
        auxiliary: An extra loss of fine-tuning, by default the preset's, else none. `lemis list` shows all; a dotted
            name loads your own module.
        name: Of the run's folder in WORK/runs; by default from the settings. That is the start, the auxiliary loss, the
            number of labelled subjects, the fold and the seed; and a suffix where a run with other settings has that
            name.
        preset: Settings by name (`lemis list`) or by file; by default none.
        settings_file: Settings that win over the preset; by default none.
        overrides: Settings over the preset: ``epochs=200``, ``objective.KEY=VALUE``, ``backbone.KEY=VALUE``,
            ``auxiliary.KEY=VALUE``; `lemis list --json` shows them.
        seed: All randomness follows from it: same seed, same result.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        prefix: What the user typed before the schedule's keys, for messages.
        trust: Import modules that ``pretrained`` names, even if they are not of Lemis; by default none but those of
            ``backbone`` and the preset.

    Returns:
        The run folder.

    Raises:
        UsageError: Another network than the pre-trained one, or scans prepared without the keypoints it looks at.
    """
    tree = run_settings.base(preset, settings_file)
    weights: dict[str, Tensor] = {}
    before: PretrainedModel | None = None
    if pretrained is not None:
        weights, before = load_pretrained(pretrained, trust.also(backbone, tree.get("backbone")))
    backbone = pairing.backbone_after(before, pretrained, backbone, tree)
    settings = run_settings.finetuning(backbone, tree, overrides, auxiliary=auxiliary, prefix=prefix)
    keypoints = pairing.keypoints_of(backbone, settings.backbone_settings)
    files.require_writable(work / "runs")
    store = open_store(work / "prepared")
    pairing.require_keypoints(store, keypoints)
    pairing.require_one_axis(store, settings.dims)
    fabric = launch.launch(settings.schedule, device, settings.dims, prefix)
    console = messages()
    method = pairing.SCRATCH if before is None else before.method
    listed = index.load(work / "index.json")
    sides = choose(
        store.scans, fold=fold, labelled=labelled, root=Path(listed.root),
        seed=selection_seed, scheme=split,
    )  # fmt: skip
    train, held_out = _scans_of(store, sides.labelled_subjects), _scans_of(store, sides.test_subjects)
    if not train:
        raise UsageError(
            f"none of the subjects {', '.join(sides.labelled_subjects)} has a label",
            allowed="at least one labelled subject to train on",
            next="label a scan, or choose another --fold",
        )
    torch.manual_seed(seed)
    network = build.network(settings, store)
    rows = [] if before is None or pretrained is None else transfer(network, weights, before.trained, pretrained)
    objective, most = build.objective(settings, network, store), keypoints.most if keypoints else 0
    usual = _usual_name(pretrained, before, settings, len(sides.labelled_subjects), fold, seed)
    stored = {
        **settings.stored(), "seed": seed, "pretrained": pretrained.name if pretrained else None, "fold": fold,
        "split": split, "selection_seed": selection_seed, "labelled": list(sides.labelled_subjects),
        "prepare": store.asked, "prepared": plain(store.settings),
    }  # fmt: skip
    path = folders.choose(work / "runs", name, usual, stored)
    was = material.read(path)
    known = {**was.scans, **was.held_out} if was else None
    now = TrainedOn(
        facts=material.facts_of(store),
        scans=material.seen(store, train, labels=True, known=known),
        held_out=material.seen(store, held_out, labels=True, known=known),
        start=material.digest_of_file(pretrained / "model.safetensors") if pretrained else None,
        code=run_settings.code(backbone=backbone, auxiliary=settings.auxiliary),
    )
    trained = is_done(path) and not material.changes(was, now)
    if trained and folders.is_current(was, now):
        console.print(f"{path}: nothing to do")
        return path

    patch_px = shape_of(settings.objective.size_px, 3) if settings.dims == 3 else None
    dice = None
    if held_out:
        dice = held_out_score.scorer(network, store, held_out, fabric.device, patch_px=patch_px, keypoints=most)

    def score(stop: held_out_score.Stop = lambda: False) -> dict[str, float]:
        assert dice is not None
        if patch_px is not None:
            console.print(f"{path.name}: scoring {count(len(held_out), 'held-out scan')}, tile by tile")
        with fabric.autocast():
            pooled = dice(stop)
        each = zip(store.label_names[1:], pooled.dice, strict=True)
        return {
            _POOLED: pooled.mean,
            **{f"{_POOLED}/{k}": value for k, value in each},
        }

    if trained and was is not None:  # but what it was scored on changed
        console.print(
            f"note: {path}: scored again ({'; '.join(folders.held_out_changes(was, now))}); "
            "its weights do not depend on that"
        )
        run = Run(path, stored)
        with run.alone():
            fill(network, load_model(path)[0], path)
            run.replace_scores(_POOLED, score() if held_out else {})
            material.write(path, now)
        return path
    source, sampling = sources.of_labels(store, train, fabric.device, settings.objective, patch_px, most)
    times = settings.schedule.evaluations
    if times is None:
        times = SCORES if patch_px is None else SCORES_OF_VOLUMES
    scoring = None
    if held_out and times:
        scoring = held_out_score.Scoring(
            score, times, held_out_score.steps(store, held_out, sampling.batch_size, patch_px)
        )
    guards.refuse_batch(sampling.batch_size, settings.schedule.accumulate, fabric.world_size, prefix)
    fabric.barrier()  # all have read the folder before one of them changes it
    run = Run(path, stored, now)
    if pretrained is not None:
        print_table(rows, pretrained, console)
    console.print(
        f"fine-tuning {run.path.name} on {f'{len(source)} slices of ' if patch_px is None else ''}{len(train)} scans, "
        f"{len(sides.labelled_subjects)} subjects: {', '.join(sides.labelled_subjects)} "
        f"({fabric.device}, {fabric.strategy.precision.precision})"
    )
    size = {"scans": len(train)} if patch_px else {"slices": len(source), "scans": len(train)}
    with run.alone():
        run.set_status(verb="finetune", method=method, state="running", **size)
        loop.train(
            objective, source, sampling, settings.schedule, run, fabric, seed=seed,
            scoring=scoring, prefix=prefix,
        )  # fmt: skip
        run.finish(
            network.state_dict(),
            {
                "verb": "finetune", "method": method, "backbone": backbone,
                "backbone_settings": plain(settings.backbone_settings), "auxiliary": settings.auxiliary,
                "patch_px": None if patch_px is None else list(patch_px), "channels": list(store.channels),
                "label_names": list(store.label_names), "label_values": list(store.label_values),
                "labelled_subjects": list(sides.labelled_subjects), "test_subjects": list(sides.test_subjects),
                "pretraining_subjects": [] if before is None else list(before.subjects),
                "pretrained": pretrained.name if pretrained else None, "prepared": plain(store.settings),
                "frame": plain(store.frame), "seed": seed, "fold": fold, "split": sides.source,
                "known": plain(exposure.joined([exposure.known(store.scans), *([before.known] if before else [])])),
                "like": plain(_like([store.scans[i] for i in train], before)), "ignored_values": list(listed.ignored),
            },
        )  # fmt: skip
    return run.path


def _usual_name(
    pretrained: Path | None,
    before: PretrainedModel | None,
    settings: run_settings.Finetuning,
    labelled: int,
    fold: int | None,
    seed: int,
) -> str:
    """``pcl-m2-fold0``; the seed is named where the pre-training does not name it."""
    if pretrained is not None and before is not None:
        start, named = pretrained.name, before.seed
    else:
        start, named = pairing.with_seed(pairing.run_name(pairing.SCRATCH, settings.backbone), seed), seed
    start = pairing.with_auxiliary(start, settings.auxiliary)
    name = f"{start}-m{labelled}-{'all' if fold is None else f'fold{fold}'}"
    return name if seed == named else f"{name}-seed{seed}"


def _like(scans: Sequence[Facts], before: PretrainedModel | None) -> Likeness:
    """What the scans were like that any of its weights were learned from."""
    own = exposure.likeness(scans)
    return own if before is None or before.like is None else exposure.wider(own, before.like)


def _scans_of(store: Store, subjects: Sequence[str]) -> list[int]:
    """Labelled scans of the given subjects."""
    return [i for i, facts in enumerate(store.scans) if facts.labelled and facts.subject in set(subjects)]
