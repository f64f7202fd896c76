"""Checkpoints of nnU-Net 2 and of nnssl: which network they are of, its weights under our names, and what they saw.

Both keep the weights as ``network_weights``. nnssl says the network in ``nnssl_adaptation_plan``; nnU-Net in the plan
that its trainer was made with, ``init_args``, and in the ``plans.json`` one folder above the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lemis.errors import UsageError, shown
from lemis.exchange import nnunet_names
from lemis.exchange.incoming import Found, largest
from lemis.formats import nnunet_plans
from lemis.formats.nnunet_plans import CLASSES, Planned

WEIGHTS, ADAPTATION = "network_weights", "nnssl_adaptation_plan"
_PLANS = "plans.json"
_NEXT = "weights of a PlainConvUNet or ResidualEncoderUNet of nnU-Net 2 or nnssl"


class Said(NamedTuple):
    """What a checkpoint says."""

    planned: Planned | None  # its network; None where nothing says it
    found: Found
    made_by: str | None  # program, and what of it is known
    saw_labels: bool | None  # of whatever data set; None where that is not known


def read(content: Any, file: Path, plans: Path | None, configuration: str | None) -> Said | None:
    """What a checkpoint of nnU-Net or nnssl says, or any file beside a plan; None for other files.

    Args:
        content: Of the file, as read without running anything.
        file: For messages, and for the ``plans.json`` near it.
        plans: The plan that the user names; None: the checkpoint's own.
        configuration: Of the plan; None: the one that the checkpoint names, or the only one.

    Raises:
        UsageError: A network that Lemis does not have, a plan that is none, or a checkpoint of nnU-Net 1.
    """
    if not isinstance(content, Mapping):
        return None
    _refuse_older(content, file)
    weights = content.get(WEIGHTS)
    if not isinstance(weights, Mapping):
        if plans is None and configuration is None:
            return None
        found = largest(content, file)
        ours = found._replace(weights=nnunet_names.as_ours(found.weights, str(file)))
        return Said(_planned({}, file, plans, configuration), ours, None, None)
    tensors = {str(name): one for name, one in weights.items() if isinstance(one, Tensor)}
    adaptation = content.get(ADAPTATION)
    planned = _planned(content, file, plans, configuration)
    if planned is None:
        _refuse_transformers(tensors, file)
    made_by, saw_labels = _made_by(content, isinstance(adaptation, Mapping))
    return Said(planned, Found(nnunet_names.as_ours(tensors, str(file)), WEIGHTS), made_by, saw_labels)


def _planned(content: Mapping[str, Any], file: Path, plans: Path | None, configuration: str | None) -> Planned | None:
    arguments = content.get("init_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    if configuration is None and isinstance(arguments.get("configuration"), str):
        configuration = arguments["configuration"]
    near = file.absolute().parent.parent / _PLANS
    if plans is not None:
        return nnunet_plans.read(plans, configuration)
    if isinstance(content.get(ADAPTATION), Mapping):
        return nnunet_plans.of_plans(content[ADAPTATION], None, f"{file} ({ADAPTATION})")
    if isinstance(arguments.get("plans"), Mapping):
        return nnunet_plans.of_plans(arguments["plans"], configuration, f"{file} (init_args)")
    if near.is_file() and file.parent.name.startswith("fold_"):
        return nnunet_plans.read(near, configuration or near.parent.name.rpartition("__")[2])
    if configuration is not None:
        raise UsageError(
            f"--configuration {configuration}, and {file} has no plan", allowed="a configuration of a plan",
            next="--plans plans.json",
        )  # fmt: skip
    return None


def _made_by(content: Mapping[str, Any], adapted: bool) -> tuple[str, bool | None]:
    ours = content.get("lemis")
    if isinstance(ours, Mapping):
        return f"Lemis {shown(ours.get('version'), quoted=False)}", bool(ours.get("saw_labels"))
    trainer = content.get("trainer_name")
    by = f", {shown(trainer, quoted=False)}" if isinstance(trainer, str) else ""
    # nnssl trains without labels, but its plan can be put into any checkpoint.
    return (f"nnssl{by}", None) if adapted else (f"nnU-Net{by}", True)


def _refuse_older(content: Mapping[str, Any], file: Path) -> None:
    state = content.get("state_dict")
    if isinstance(state, Mapping) and any("conv_blocks_context." in str(name) for name in state):
        raise UsageError(f"{file} is a checkpoint of nnU-Net 1, whose networks Lemis does not have", allowed=_NEXT,
                         next="train it with nnU-Net 2, or take weights of that")  # fmt: skip


def _refuse_transformers(weights: Mapping[str, Tensor], file: Path) -> None:
    if any("eva." in name for name in weights):
        raise UsageError(
            f"{file} holds the weights of Primus, a transformer (Eva), which Lemis does not have", allowed=_NEXT,
            next="the ResEncL checkpoint of the same pre-training",
        )  # fmt: skip


def backbone_of(said: Said | None, backbone: str | None, file: Path) -> str:
    """The network that weights go to: what the user names, else what the checkpoint does.

    Raises:
        UsageError: Neither says, or they say different ones.
    """
    planned = None if said is None else said.planned
    if planned is None:
        if backbone is None:
            raise UsageError(
                f"{file} does not say which network its weights are of", allowed="--backbone, or --plans of nnU-Net",
                next=f"lemis import {file} -o RUN --backbone {next(iter(CLASSES))}",
            )  # fmt: skip
        return backbone
    if backbone is not None and backbone != planned.backbone and backbone in CLASSES:
        raise UsageError(
            f"--backbone {backbone}, and {file} is of a {CLASSES[planned.backbone]}", allowed=planned.backbone,
            next=f"--backbone {planned.backbone}, or leave it out",
        )  # fmt: skip
    return backbone or planned.backbone
