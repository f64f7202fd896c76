"""All settings of a run, resolved once: defaults < preset < YAML file < ``key=value``.

A preset (and a settings file) has the sections ``method``, ``prepare``, ``backbone``, ``pretrain``, ``methods.<name>``,
``schedules.<name>`` (what differs from ``pretrain`` for one method) and ``finetune``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lemis import plugins
from lemis.engine import schedule, supervised
from lemis.errors import UsageError
from lemis.settings import load_preset, merge, parse_overrides, plain, read_yaml, resolve

SECTIONS = ("method", "prepare", "backbone", "pretrain", "methods", "schedules", "finetune")


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
        UsageError: A section that does not exist.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = merge(tree, load_preset(preset))
    if settings_file is not None:
        tree = merge(tree, read_yaml(settings_file))
    for key in tree:
        if key not in SECTIONS:
            raise UsageError(
                f"section {key!r} of {settings_file or preset}",
                allowed=", ".join(SECTIONS),
                next=f"{plugins.nearest(key, SECTIONS) or 'pretrain'}:",
            )
    return tree


def method_of(tree: Mapping[str, Any]) -> str:
    """The pre-training method that a preset or settings file names; ``sal`` where it names none."""
    return str(tree.get("method", "sal"))


def pretraining(
    method: str,
    backbone: str,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    prefix: str = "",
) -> Pretraining:
    """Settings of one pre-training run.

    Args:
        method: File name in ``methods/``, or a dotted name.
        backbone: File name in ``backbones/``, or a dotted name.
        tree: Sections of the preset and the settings file.
        overrides: ``epochs=...``, ``method.<key>=...``, ``backbone.<key>=...``.
        prefix: What the user typed before the schedule's keys, for messages.
    """
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    own, backbone_given = _section(given, "method"), _section(given, "backbone")
    timing = {key: value for key, value in given.items() if key not in ("method", "backbone")}
    methods, backbones = plugins.load("methods", method), plugins.load("backbones", backbone)
    preset, special = (_section(_section(tree, name), method) for name in ("methods", "schedules"))
    return Pretraining(
        method=method,
        method_module=methods,
        method_settings=resolve(methods.Settings, preset, own, prefix="method."),
        backbone=backbone,
        backbone_settings=resolve(backbones.Settings, _section(tree, "backbone"), backbone_given, prefix="backbone."),
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
    backbones = plugins.load("backbones", backbone)
    return Finetuning(
        objective=resolve(supervised.Settings, *objectives, prefix=f"{prefix}objective."),
        backbone=backbone,
        backbone_settings=resolve(backbones.Settings, _section(tree, "backbone"), backbone_given, prefix="backbone."),
        schedule=resolve(schedule.Settings, PROTOCOL, *schedules, prefix=prefix),
    )


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name, {})
    if not isinstance(section, Mapping):
        raise UsageError(
            f"{name}={section!r}",
            allowed=f"settings below it: {name}.KEY=VALUE",
            next=f"--{name} {section}" if name in ("method", "backbone") else f"{name}.KEY=VALUE",
        )
    return section
