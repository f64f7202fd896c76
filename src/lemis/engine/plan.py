"""All settings of a run, resolved once: defaults < preset < YAML file < ``key=value``.

A preset (and a settings file) has the sections ``method``, ``prepare``, ``backbones.<name>``, ``pretrain``,
``methods.<name>``, ``schedules.<name>`` (what differs from ``pretrain`` for one method) and ``finetune``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from lemis import plugins
from lemis.engine import schedule, supervised
from lemis.engine.pairing import BACKBONE, default_backbone, refuse_pair
from lemis.errors import UsageError
from lemis.settings import load_preset, merge, parse_overrides, plain, read_yaml, resolve

SECTIONS = ("method", "prepare", "backbones", "pretrain", "methods", "schedules", "finetune")
FOLDERS = {"backbones": "backbones", "methods": "methods", "schedules": "methods"}  # sections by file name


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A method on a backbone under a schedule."""

    method: str
    method_module: ModuleType
    method_settings: Any
    backbone: str
    backbone_settings: Any
    schedule: schedule.Settings

    def stored(self) -> dict[str, Any]:
        """As plain YAML types."""
        return {
            "method": {"name": self.method, **plain(self.method_settings)},
            "backbone": {"name": self.backbone, **plain(self.backbone_settings)},
            **plain(self.schedule),
        }


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A labelled objective on a backbone under a schedule."""

    objective: supervised.Settings
    backbone: str
    backbone_settings: Any
    schedule: schedule.Settings

    def stored(self) -> dict[str, Any]:
        """As plain YAML types."""
        return {
            "objective": plain(self.objective),
            "backbone": {"name": self.backbone, **plain(self.backbone_settings)},
            **plain(self.schedule),
        }


def base(preset: str | None, settings_file: Path | None) -> dict[str, Any]:
    """Preset and settings file as one tree of sections.

    Raises:
        UsageError: A section, or a method or network in one, that does not exist.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = merge(tree, load_preset(preset))
    if settings_file is not None:
        tree = merge(tree, read_yaml(settings_file))
    where = settings_file or preset
    for key, value in tree.items():
        if key == "backbone":
            by_name = yaml.safe_dump({"backbones": {BACKBONE: value}}, default_flow_style=True, width=1000).strip()
            raise UsageError(
                f"section 'backbone' of {where}",
                allowed="backbones, with a section for each network",
                next=by_name[1:-1],
            )
        if key not in SECTIONS:
            raise UsageError(
                f"section {key!r} of {where}",
                allowed=", ".join(SECTIONS),
                next=f"{plugins.nearest(key, SECTIONS) or 'pretrain'}:",
            )
    for section, folder in FOLDERS.items():
        known = plugins.names(folder)
        for name in _section(tree, section):
            if name not in known and "." not in name:
                raise UsageError(
                    f"section {section}.{name} of {where}",
                    allowed=", ".join(known),
                    next=f"{plugins.nearest(name, known) or known[0]}:",
                )
    return tree


def method_of(tree: Mapping[str, Any]) -> str:
    """The pre-training method that a preset or settings file names; ``sal`` where it names none."""
    return str(tree.get("method", "sal"))


def pretraining(
    method: str,
    backbone: str | None,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    prefix: str = "",
) -> Pretraining:
    """Settings of one pre-training run.

    Args:
        method: File name in ``methods/``, or a dotted name.
        backbone: File name in ``backbones/``, or a dotted name; None is the method's own.
        tree: Sections of the preset and the settings file.
        overrides: ``epochs=...``, ``method.<key>=...``, ``backbone.<key>=...``.
        prefix: What the user typed before the schedule's keys, for messages.

    Raises:
        UsageError: A setting that does not exist, or a network that the method does not work on.
    """
    backbone = backbone or default_backbone(method)
    refuse_pair(method, backbone)
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    own, backbone_given = _section(given, "method"), _section(given, "backbone")
    timing = {key: value for key, value in given.items() if key not in ("method", "backbone")}
    methods = plugins.load("methods", method)
    preset, special = (_section(_section(tree, name), method) for name in ("methods", "schedules"))
    return Pretraining(
        method=method,
        method_module=methods,
        method_settings=resolve(methods.Settings, preset, own, prefix="method."),
        backbone=backbone,
        backbone_settings=_backbone_settings(backbone, tree, backbone_given),
        schedule=resolve(schedule.Settings, _section(tree, "pretrain"), special, timing, prefix=prefix),
    )


# The PCL protocol's fine-tuning on ACDC: Adam 5e-4 with a floor of 5e-5, 200 epochs.
PROTOCOL = {"optimiser": "adam", "learning_rate": 5e-4, "floor": 5e-5, "epochs": 200}


def finetuning(
    backbone: str,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    prefix: str = "",
) -> Finetuning:
    """Settings of one fine-tuning run.

    Args:
        backbone: File name in ``backbones/``, or a dotted name.
        tree: Sections of the preset and the settings file.
        overrides: ``epochs=...``, ``objective.<key>=...``, ``backbone.<key>=...``.
        prefix: What the user typed before the keys of schedule and objective, for messages.
    """
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    backbone_given = _section(given, "backbone")
    layers = [_section(tree, "finetune"), {key: value for key, value in given.items() if key != "backbone"}]
    objectives = [_section(layer, "objective") for layer in layers]
    schedules = [{key: value for key, value in layer.items() if key != "objective"} for layer in layers]
    return Finetuning(
        objective=resolve(supervised.Settings, *objectives, prefix=f"{prefix}objective."),
        backbone=backbone,
        backbone_settings=_backbone_settings(backbone, tree, backbone_given),
        schedule=resolve(schedule.Settings, PROTOCOL, *schedules, prefix=prefix),
    )


def _backbone_settings(backbone: str, tree: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    module = plugins.load("backbones", backbone)
    return resolve(module.Settings, _section(_section(tree, "backbones"), backbone), given, prefix="backbone.")


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name, {})
    if not isinstance(section, Mapping):
        raise UsageError(
            f"{name}={section!r}",
            allowed=f"settings below it: {name}.KEY=VALUE",
            next=f"--{name} {section}" if name in ("method", "backbone") else f"{name}.KEY=VALUE",
        )
    return section
