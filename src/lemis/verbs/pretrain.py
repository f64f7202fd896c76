"""``lemis pretrain``: learn from all prepared scans, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lemis import files
from lemis.datasets import index
from lemis.datasets.split import choose
from lemis.preparation import exposure
from lemis.preparation.store import open_store
from lemis.runs import folders, material
from lemis.runs.material import TrainedOn
from lemis.runs.run import Run, is_done, messages
from lemis.settings import plain
from lemis.training import build, guards, launch, loop, pairing, run_settings, sources


def pretrain(
    work: Path,
    *,
    method: str | None = None,
    backbone: str | None = None,
    name: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    fold: int | None = None,
    split: str | None = None,
    seed: int = 0,
    device: str = "auto",
    prefix: str = "",
) -> Path:
    """Pre-train a network with a method on every scan of ``work/prepared``.

    Args:
        work: A folder that ``lemis prepare`` has filled.
        method: How to pre-train, by default the preset's, else sal. `lemis list` shows all; a dotted name loads your
            own module.
        backbone: The network, by default the preset's, else the method's, else unet2d. `lemis list` shows all; a
            dotted name loads your own module.
        name: Of the run's folder in WORK/runs; by default from the settings. That is the method, the network where it
            is not the method's, the fold that is left out and the seed; and a suffix where a run with other settings
            has that name.
        preset: Settings by name (`lemis list`) or by file; by default none.
        settings_file: Settings that win over the preset; by default none.
        overrides: Settings over the preset: ``epochs=50``, ``method.KEY=VALUE``, ``backbone.KEY=VALUE``;
            `lemis list --json` shows them.
        fold: Leave out this fold's test subjects, for results that are not transductive; by default learn from all.
        split: Whose folds (``datasets/split.py``); by default the data set's own splits_final.json, else pcl.
        seed: All randomness follows from it: same seed, same result.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        prefix: What the user typed before the schedule's keys, for messages.

    Returns:
        The run folder.

    Raises:
        UsageError: A network that the method does not work on, or scans prepared without the keypoints it looks at.
    """
    tree = run_settings.base(preset, settings_file)
    method, backbone = run_settings.choose(method, backbone, tree, overrides)
    settings = run_settings.pretraining(method, backbone, tree, overrides, prefix=prefix)
    wanted = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    files.require_writable(work / "runs")
    store = open_store(work / "prepared")
    pairing.require_keypoints(store, wanted)
    root = Path(index.load(work / "index.json").root)
    excluded = () if fold is None else choose(store.scans, fold=fold, root=root, scheme=split).test_subjects
    scans = [i for i, facts in enumerate(store.scans) if facts.subject not in excluded]
    subjects = sorted({store.scans[i].subject for i in scans})
    pairing.require_one_axis(store, settings.dims)
    fabric = launch.launch(settings.schedule, device, settings.dims, prefix)
    console = messages()
    stored = {
        **settings.stored(), "seed": seed, "fold": fold, "split": None if fold is None else split,
        "prepare": store.asked, "prepared": plain(store.settings), "excluded": list(excluded),
    }  # fmt: skip
    torch.manual_seed(seed)
    network = build.network(settings, store)
    objective = build.method(settings, network)  # it may refuse the network
    guards.refuse_batch(objective.sampling.batch_size, settings.schedule.accumulate, fabric.world_size, prefix)
    usual = pairing.with_seed(pairing.run_name(method, settings.backbone) + _without(fold), seed)
    path = folders.choose(work / "runs", name, usual, stored)
    before = material.read(path)
    now = TrainedOn(
        facts=material.facts_of(store),
        scans=material.seen(store, scans, labels=False, known=before.scans if before else None),
        code=run_settings.code(method=method, backbone=settings.backbone),
    )
    if is_done(path) and folders.is_current(before, now):
        console.print(f"{path}: nothing to do")
        return path

    source = sources.of_method(store, scans, fabric.device, objective, settings.method_settings, wanted)
    fabric.barrier()  # all have read the folder before one of them changes it
    run = Run(path, stored, now)
    console.print(
        f"pre-training {method} on {f'{len(source)} slices of ' if settings.dims == 2 else ''}{len(scans)} scans, "
        f"{len(subjects)} subjects ({fabric.device}, {fabric.strategy.precision.precision}, "
        f"{'resident' if source.resident else 'streamed'})"
    )
    size = {"scans": len(scans)} if settings.dims == 3 else {"slices": len(source), "scans": len(scans)}
    with run.alone():
        run.set_status(verb="pretrain", method=method, state="running", **size)
        nothing = loop.train(
            objective, source, objective.sampling, settings.schedule, run, fabric, seed=seed, prefix=prefix
        )
        if nothing is not None:
            run.warn(f"this pre-training learned nothing: at its end {nothing}")
        run.finish(
            network.state_dict(),
            {
                "verb": "pretrain", "method": method, "backbone": settings.backbone,
                "backbone_settings": plain(settings.backbone_settings),
                "trained": list(objective.trains), "channels": list(store.channels),
                "label_names": list(store.label_names), "label_values": list(store.label_values),
                "subjects": subjects, "labelled_subjects": [], "prepared": plain(store.settings),
                "frame": plain(store.frame), "seed": seed, "learned_nothing": nothing,
                "known": plain(exposure.known(store.scans[i] for i in scans)),
                "like": plain(exposure.likeness([store.scans[i] for i in scans])),
            },
            learned_nothing=nothing,
        )  # fmt: skip
    return run.path


def _without(fold: int | None) -> str:
    return "" if fold is None else f"-without-fold{fold}"
