"""What can be exported and imported, and whether it can here; nothing in this file imports PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.exchange import dicom_seg
from lemis.files import PART
from lemis.formats import nnunet_plans
from lemis.formats.nnunet_plans import Planned
from lemis.settings import parse_overrides, read_yaml, resolve
from lemis.work_files.exported import FILE
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel

TARGETS = ("torch", "onnx", "monai", "nnunet", "nnssl")  # of networks
_NEEDED: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
_OF_NNUNET = ("nnunet", "nnssl")  # whose networks are nnU-Net's
_OWN = {"torch": "network.py", "onnx": "model.onnx", "monai": "configs"}  # a file that no other target writes
_OWN |= {"nnunet": "plans_fragment.json", "nnssl": "adaptation_plan.json"}


def refuse_imported(run: Path, model: Model) -> None:
    """Refuse to hand on weights of others as they came: how an image was prepared for them is not known here.

    Raises:
        UsageError: They are.
    """
    if isinstance(model, PretrainedModel) and model.imported is not None:
        raise UsageError(
            f"{run} holds the weights of {model.imported.file}, as they were imported",
            allowed="a run that was trained here, of which it is known what an image must be like",
            next=f"lemis finetune WORK --pretrained {run}",
        )


def finetuned(run: Path, model: Model) -> FinetunedModel:
    """The model of a fine-tuned run: nothing else has classes for a bundle to segment.

    Raises:
        UsageError: It is of a pre-training, which has no classes yet.
    """
    if isinstance(model, PretrainedModel):
        raise UsageError(
            f"{run} is a pre-training run: it has no classes yet, which a MONAI bundle segments",
            allowed="a fine-tuned run for monai, any run for torch",
            next=f"lemis export {run} -o OUT --to torch",
        )
    return model


def refuse_network(run: Path, model: Model, to: str) -> None:
    """Refuse a network that the other program does not have.

    Args:
        run: Whose weights they are.
        model: What it trained.
        to: Where they go.

    Raises:
        UsageError: It has no such network, or not of so many dimensions.
    """
    if to not in _OF_NNUNET:
        return
    if model.backbone not in nnunet_plans.CLASSES:
        volumes = " backbone.dims=3" if to == "nnssl" else ""
        raise UsageError(
            f"--to {to} for {run}: {model.backbone} has no counterpart in nnU-Net",
            allowed=" or ".join(nnunet_plans.CLASSES),
            next=f"lemis pretrain {run.parent.parent} --method mae --backbone {[*nnunet_plans.CLASSES][-1]}{volumes}",
        )
    if to == "nnssl" and model.backbone_settings.get("dims") != 3:
        raise UsageError(
            f"--to nnssl for {run}, whose network is of slices",
            allowed="a network of volumes (backbone.dims=3); nnunet takes both",
            next=f"lemis export {run} -o OUT --to nnunet",
        )


def refuse_export(run: Path, output: Path, to: str) -> None:
    """Refuse an export that cannot be made.

    Args:
        run: Whose weights they are.
        output: Folder to write.
        to: Where they go.

    Raises:
        UsageError: No such target, packages that it needs are not installed, or a folder that holds something else.
    """
    if to not in TARGETS:
        raise UsageError(
            f"--to {shown(to, quoted=False)}",
            allowed=", ".join((*TARGETS, *dicom_seg.TARGETS)),
            next=f"lemis export {run} -o {output} --to torch",
        )
    missing = [name for name in _NEEDED.get(to, ()) if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to {to} without {', '.join(missing)}, which Lemis does not install by itself",
            allowed="Lemis installed as lemis[onnx]",
            next=f"pip install {' '.join(missing)}",
        )
    _refuse_other_files(run, output, to)


def _refuse_other_files(run: Path, output: Path, to: str) -> None:
    """Of two exports in one folder, the first would be described by the files of the second."""
    there = {file.name for file in output.iterdir() if not file.name.endswith(PART)} if output.is_dir() else set()
    weights = {name for name in there if name.endswith(".pth")} - {f"{run.name}.pth"}
    if there and FILE not in there:
        what = "other files"
    elif others := [other for other, file in _OWN.items() if other != to and file in there]:
        what = f"an export for {others[0]}"
    elif to in _OF_NNUNET and weights:
        what = f"an export of another run, {min(weights)}"
    else:
        return
    raise UsageError(
        f"-o {output}, which holds {what}",
        allowed="a new folder, or one of an earlier export like this one",
        next=f"lemis export {run} -o {output.with_name(f'{run.name}-{to}')} --to {to}",
    )


def segmentations(to: str, licence: str | None, codes: Path | None) -> dicom_seg.Asked | None:
    """The objects that an export is to write of label maps; None where it is of a network.

    Raises:
        UsageError: As ``dicom_seg.asked``; or a licence of weights, where there are none.
    """
    wanted = to if to in dicom_seg.TARGETS else None
    if wanted is not None and licence is not None:
        raise UsageError(
            f"--licence {shown(licence)} for --to {to}, which holds no weights",
            allowed=", ".join(TARGETS),
            next="leave out --licence",
        )
    return dicom_seg.asked(wanted, codes, "--to dicom-seg")


def network_settings(
    backbone: str, overrides: Sequence[str], planned: Mapping[str, Any] | None = None,
    load: Callable[[str, str], Any] = plugins.load,
) -> Any:  # fmt: skip
    """Settings of the network that imported weights go to.

    Args:
        backbone: File name in ``backbones/``, or a dotted name.
        overrides: ``backbone.KEY=VALUE``.
        planned: What a plan of nnU-Net says of it; ``overrides`` go before.
        load: ``plugins.outlined`` before PyTorch is imported.

    Raises:
        UsageError: No such network or setting, or one of something else.
    """
    tree = parse_overrides(overrides)
    other = [key for key in tree if key != "backbone"]
    if other or not isinstance(tree.get("backbone", {}), dict):
        raise UsageError(
            f"setting {shown((other or ['backbone'])[0], quoted=False)}",
            allowed="settings of the network, backbone.KEY=VALUE",
            next="`lemis list --json` shows them",
        )
    return resolve(load("backbones", backbone).Settings, planned or {}, tree.get("backbone", {}), prefix="backbone.")


def refuse_import(file: Path, channels: int, least: float) -> None:
    """Refuse what cannot be imported.

    Raises:
        UsageError: There is no such file, a network of no channels, or a share that is none.
    """
    if not file.is_file():
        raise UsageError(f"{file} is no file", allowed="a file of weights", next="check the path")
    if channels < 1:
        raise UsageError(f"--channels {channels}", allowed="1 or more", next="--channels 1")
    if not 0 < least <= 1:
        raise UsageError(f"--least {least}", allowed="a share above 0 and up to 1", next="--least 0.5")


def refuse_plan(backbone: str | None, plans: Path | None, configuration: str | None) -> Planned | None:
    """The network of a plan that the user names; None where none is.

    Raises:
        UsageError: It is none, has no such configuration, or describes another network than ``backbone``.
    """
    if plans is None and configuration is None:
        return None
    if backbone is not None and backbone not in nnunet_plans.CLASSES:
        raise UsageError(
            f"{'--plans' if plans else '--configuration'} for {backbone}",
            allowed=f"the plan of a {' or '.join(nnunet_plans.CLASSES)}",
            next="leave out --backbone: the plan says it",
        )  # fmt: skip
    # A checkpoint may name the configuration, and is not read here.
    return None if plans is None or configuration is None else nnunet_plans.read(plans, configuration)


def rules(mapping: Path | None) -> dict[str, str]:
    """What takes the place of parts of names, in order: patterns of ``re`` and their replacements.

    Raises:
        UsageError: The file is damaged, or holds anything else.
    """
    if mapping is None:
        return {}
    found = read_yaml(mapping)
    for pattern, instead in found.items():
        try:
            if not isinstance(instead, str):
                raise ValueError(f"{shown(instead)} is no text")
            re.compile(pattern).sub(instead, "")
        except (re.error, ValueError, TypeError, IndexError) as error:
            raise UsageError(
                f"{mapping}: {shown(pattern)}: {error}",
                allowed="lines of PATTERN: REPLACEMENT, as Python's re.sub takes them",
                next='"^swinViT[.]": "transformer."',
            ) from None
    return found
