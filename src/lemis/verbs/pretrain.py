"""``lemis pretrain``: learn from all prepared scans, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lemis import plugins
from lemis.data import index
from lemis.data.samples import Slices
from lemis.data.split import choose
from lemis.data.store import open_store
from lemis.engine import launch, loop, plan
from lemis.engine.run import Run, messages
from lemis.settings import plain


def pretrain(
    work: Path,
    *,
    method: str | None = None,
    backbone: str = "unet2d",
    name: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    fold: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Pre-train ``backbone`` with ``method`` on every scan of ``work/prepared``.

    Args:
        work: A folder that ``lemis prepare`` has filled.
        method: File name in ``methods/``, or a dotted name; by default the preset's, and ``sal`` where it names none.
        backbone: File name in ``backbones/``, or a dotted name.
        name: Of the run; the method's by default.
        preset: Of settings, or a YAML file.
        settings_file: YAML over the preset.
        overrides: ``key=value`` over both.
        fold: Its test subjects are left out, for results that are not transductive.
        seed: All randomness follows from it.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The run folder.
    """
    tree = plan.base(preset, settings_file)
    method = method or plan.method_of(tree)
    settings = plan.pretraining(method, backbone, tree, overrides)
    store = open_store(work / "prepared")
    root = Path(index.load(work / "index.json").root)
    excluded = () if fold is None else choose(store.scans, fold=fold, root=root).test_subjects
    scans = [i for i, facts in enumerate(store.scans) if facts.subject not in excluded]
    subjects = sorted({store.scans[i].subject for i in scans})
    fabric = launch.launch(settings.schedule, device)
    console = messages()
    stored = {
        **settings.stored(),
        "seed": seed,
        "prepared": plain(store.settings),
        "excluded": list(excluded),
    }
    run = Run(work / "runs" / (name or method.rsplit(".", 1)[-1]), stored)
    if run.done:
        console.print(f"{run.path}: nothing to do")
        return run.path

    torch.manual_seed(seed)
    network = plugins.load("backbones", backbone).Backbone(
        settings.backbone_settings, in_channels=len(store.channels), num_classes=store.num_classes
    )
    objective = settings.method_module.Method(network, settings.method_settings)
    for parameter_name, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(parameter_name) in objective.trains)
    slices = Slices(store, scans, fabric.device)
    console.print(
        f"pre-training {method} on {len(slices)} slices of {len(scans)} scans, {len(subjects)} subjects "
        f"({fabric.device}, {fabric.strategy.precision.precision}, {'resident' if slices.resident else 'streamed'})"
    )
    run.set_status(verb="pretrain", method=method, state="running", slices=len(slices), scans=len(scans))
    loop.train(objective, slices, objective.sampling, settings.schedule, run, fabric, seed=seed)
    run.finish(
        network.state_dict(),
        {
            "verb": "pretrain", "method": method, "backbone": backbone,
            "backbone_settings": plain(settings.backbone_settings),
            "trained": list(objective.trains), "channels": list(store.channels), "label_names": list(store.label_names),
            "label_values": list(store.label_values), "subjects": subjects, "labelled_subjects": [],
            "prepared": plain(store.settings), "seed": seed,
        },
    )  # fmt: skip
    return run.path
