"""``lemis import``: weights of another program as a finished pre-training run, which fine-tuning can start from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lemis import files, plugins
from lemis.contracts import Backbone
from lemis.exchange import incoming, monai_names, nnunet_files, nnunet_incoming, requests
from lemis.exchange.incoming import Found, Placed
from lemis.exchange.nnunet_incoming import Said
from lemis.formats import nnunet_plans
from lemis.layers.unet import all_parts
from lemis.runs import folders, material, told
from lemis.runs.run import Run, is_done
from lemis.settings import plain
from lemis.work_files.run import Imported, PretrainedModel

METHOD = "imported"
PLANS = "plans.json"  # of a run of nnU-Net's networks: theirs, for pre-training a network like it


def import_weights(
    file: Path,
    *,
    output: Path,
    backbone: str | None = None,
    plans: Path | None = None,
    configuration: str | None = None,
    mapping: Path | None = None,
    channels: int = 1,
    overrides: Sequence[str] = (),
    least: float = 0.5,
    licence: str | None = None,
) -> Path:
    """Load the weights of a file into a network of Lemis, by name and shape, and keep it as a run.

    Nothing in the file is run. Its head is left out, as it is of another task.

    Args:
        file: Weights: safetensors, or what torch.save wrote of tensors and plain types.
        output: Folder of the run, WORK/runs/NAME.
        backbone: The network they go to; by default the one that a checkpoint of nnU-Net or nnssl names. `lemis list`
            shows all; a dotted name loads your own module.
        plans: The plans.json of nnU-Net that describes the network; by default the one in the checkpoint, or one folder
            above it.
        configuration: Of that plan, such as 3d_fullres; by default the checkpoint's, or the only one.
        mapping: YAML with lines of PATTERN: REPLACEMENT, which turn the file's names into ours, in order; by default
            names are taken as they are, for swin_unetr those of MONAI's SwinUNETR too. A prefix that stands before most
            of ours is taken off by itself.
        channels: Of the images here. Weights for one are shared out over several, and those for several summed for one.
        overrides: Settings of the network: ``backbone.KEY=VALUE``; `lemis list --json` shows them.
        least: Share of the encoder's parameters that the file must have.
        licence: Of the weights, for the record; by default none is stated.

    Returns:
        The run folder.

    Raises:
        UsageError: A file that holds anything but tensors and plain types, or too little that fits; a network that
            Lemis does not have.
    """
    requests.refuse_import(file, channels, least)
    requests.refuse_plan(backbone, plans, configuration)
    rules = requests.rules(mapping)
    if mapping is None and backbone == monai_names.NETWORK:
        rules = monai_names.RULES
    content = incoming.read(file)
    ours = backbone is None or backbone in nnunet_plans.CLASSES
    said = nnunet_incoming.read(content, file, plans, configuration) if ours else None
    backbone = nnunet_incoming.backbone_of(said, backbone, file)
    planned = said.planned.settings if said and said.planned else None
    settings = requests.network_settings(backbone, overrides, planned)
    digest = material.digest_of_file(file)
    stored: dict[str, Any] = {
        "method": {"name": METHOD}, "backbone": {"name": backbone, **plain(settings)}, "seed": 0, "file": file.name,
        "digest": digest, "mapping": rules, "channels": channels, "licence": licence,
    }  # fmt: skip
    files.require_writable(output)
    folders.refuse_other(output, stored)
    if is_done(output):
        told.nothing_to_do(output)
        return output
    torch.manual_seed(0)  # of the parts that the file does not have
    network: Backbone = plugins.load("backbones", backbone).Backbone(settings, in_channels=channels, num_classes=1)
    found = said.found if said else incoming.largest(content, file)
    incoming.refuse_not_finite(found.weights, file)
    placed = incoming.place(network, found, rules, file, least=least)
    run = Run(output, stored)
    incoming.print_table(placed, file, run.console)
    model = _model(stored, network, found, placed, said)
    with run.alone():
        run.set_status(verb="pretrain", method=METHOD, state="running")
        if said is not None and said.saw_labels:
            run.warn(f"weights of {said.made_by}, which have seen labels of others")
        if backbone in nnunet_plans.CLASSES:
            nnunet_files.write_plan(output / PLANS, model)
        run.finish(network.state_dict(), model)
    run.console.print(f"imported {100 * placed.share:.0f} % of the encoder of {backbone}: {output}")
    run.console.print(f"next: lemis finetune WORK --pretrained {shlex.quote(str(output))}")
    return output


def _model(
    stored: Mapping[str, Any], network: Backbone, found: Found, placed: Placed, said: Said | None
) -> PretrainedModel:
    loaded = {row.part for row in placed.rows if row.loaded and (row.part == "encoder" or not row.fresh)}
    backbone = dict(stored["backbone"])
    names = (f"channel {number}" for number in range(stored["channels"]))
    return PretrainedModel(
        version=1, verb="pretrain", method=METHOD, backbone=backbone.pop("name"), backbone_settings=backbone,
        channels=tuple(names), label_names=("background",), label_values=(0,), labelled_subjects=(), prepared={},
        seed=0, trained=tuple(part for part in all_parts(network) if part in loaded), subjects=(),
        imported=Imported(
            file=stored["file"], digest=stored["digest"], inside=found.inside, prefix=placed.prefix,
            mapping=stored["mapping"], share=placed.share, licence=stored["licence"],
            made_by=said.made_by if said else None, saw_labels=said.saw_labels if said else None,
        ),
    )  # fmt: skip
