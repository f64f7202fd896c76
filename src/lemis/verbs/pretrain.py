"""``lemis pretrain``: learn from all prepared scans, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lemis import plugins
from lemis.contracts import Backbone, Method
from lemis.datasets import index
from lemis.datasets.split import choose
from lemis.preparation import exposure
from lemis.preparation.store import Store
from lemis.runs import folders, material, told
from lemis.runs.material import TrainedOn
from lemis.runs.run import Run, is_done
from lemis.sampling.patches import Patches
from lemis.sampling.samples import Slices
from lemis.settings import plain
from lemis.training import build, guards, launch, loop, positions, run_names, run_settings, sources
from lemis.training.run_settings import Asked, Pretraining
from lemis.work_files.run import PretrainedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    asked = Asked(
        method=method, backbone=backbone, preset=preset, settings_file=settings_file, overrides=overrides, prefix=prefix
    )
    settings = run_settings.of_pretraining(asked)
    store, keypoints = sources.store_for(work, settings)
    root = Path(index.load(work / "index.json").root)
    excluded = () if fold is None else choose(store.scans, fold=fold, root=root, scheme=split).test_subjects
    scans = [i for i, facts in enumerate(store.scans) if facts.subject not in excluded]
    fabric = launch.launch(settings.schedule, device, settings.dims, prefix)
    stored = {
        **settings.stored(), "seed": seed, "fold": fold, "split": None if fold is None else split,
        "prepare": store.asked, "prepared": plain(store.settings), "excluded": list(excluded),
    }  # fmt: skip
    torch.manual_seed(seed)
    network = build.network(settings, store)
    objective = build.method(settings, network)  # it may refuse the network
    guards.refuse_batch(objective.sampling.batch_size, settings.schedule.accumulate, fabric.world_size, prefix)
    path = folders.choose(work / "runs", name, run_names.of_pretraining(settings, fold=fold, seed=seed), stored)
    before = material.read(path)
    now = TrainedOn(
        facts=material.facts_of(store),
        scans=material.seen(store, scans, labels=False, known=before.scans if before else None),
        code=run_settings.code(method=settings.method, backbone=settings.backbone),
    )
    if is_done(path) and folders.is_current(before, now):
        told.nothing_to_do(path)
        return path
    source = sources.of_method(store, scans, fabric.device, objective, settings.method_settings, keypoints)
    fabric.barrier()  # all have read the folder before one of them changes it
    run = Run(path, stored, now)
    _train(run, settings, store, scans, network, objective, source, fabric, seed=seed, prefix=prefix)
    return path


def _train(
    run: Run, settings: Pretraining, store: Store, scans: Sequence[int], network: Backbone, objective: Method,
    source: Slices | Patches, fabric: Fabric, *, seed: int, prefix: str,
) -> None:  # fmt: skip
    subjects = sorted({store.scans[i].subject for i in scans})
    size = sources.size(source, scans)
    run.console.print(
        f"pre-training {settings.method} on {sources.said(size)}, {len(subjects)} subjects ({fabric.device}, "
        f"{fabric.strategy.precision.precision}, {'resident' if source.resident else 'streamed'})"
    )
    with run.alone():
        run.set_status(verb="pretrain", method=settings.method, state="running", **size)
        threshold = getattr(settings.method_settings, "threshold", None)
        # Where a module of somebody else's has a threshold, it may be of anything.
        if threshold is not None and settings.dims == 2 and not plugins.is_own(settings.method):
            too_small = positions.said(threshold, [store.scans[i].slices for i in scans])
            if too_small is not None:
                run.note(too_small)
        nothing = loop.train(
            objective, source, objective.sampling, settings.schedule, run, fabric, seed=seed, prefix=prefix
        )
        if nothing is not None:
            run.warn(f"this pre-training learned nothing: at its end {nothing}")
        model = PretrainedModel(
            **build.described(settings, store), verb="pretrain", method=settings.method, seed=seed,
            trained=tuple(objective.trains), subjects=tuple(subjects), labelled_subjects=(),
            learned_nothing=nothing, known=exposure.known(store.scans[i] for i in scans),
            like=exposure.likeness([store.scans[i] for i in scans]),
        )  # fmt: skip
        run.finish(network.state_dict(), model, learned_nothing=nothing)
