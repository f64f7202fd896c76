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
from lemis.engine import loop, supervised
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
    schedule: loop.Settings

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
    schedule: loop.Settings

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
    method: str, backbone: str, tree: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> Pretraining:
    """Settings of one pre-training run; ``overrides`` are ``epochs=...``, ``method.<key>=...``, ``backbone.<key>=...``."""
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    method_given, backbone_given = given.pop("method", {}), given.pop("backbone", {})
    methods = plugins.load("methods", method)
    backbones = plugins.load("backbones", backbone)
    schedules = tree.get("schedules", {}).get(method, {})
    return Pretraining(
        method=method,
        method_module=methods,
        method_settings=resolve(
            methods.Settings, tree.get("methods", {}).get(method, {}), method_given, prefix="method."
        ),
        backbone=backbone,
        backbone_settings=resolve(
            backbones.Settings, tree.get("backbone", {}), backbone_given, prefix="backbone."
        ),
        schedule=resolve(loop.Settings, tree.get("pretrain", {}), schedules, given),
    )


# The PCL protocol's fine-tuning on ACDC: Adam 5e-4 with a floor of 5e-5, 200 epochs.
PROTOCOL = {"optimiser": "adam", "learning_rate": 5e-4, "floor": 5e-5, "epochs": 200}


def finetuning(
    backbone: str, tree: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> Finetuning:
    """Settings of one fine-tuning run; ``overrides`` are ``epochs=...``, ``objective.<key>=...``, ``backbone.<key>=...``."""
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    section = dict(tree.get("finetune", {}))
    objective_given, backbone_given = given.pop("objective", {}), given.pop("backbone", {})
    objective_section = section.pop("objective", {})
    backbones = plugins.load("backbones", backbone)
    return Finetuning(
        objective=resolve(supervised.Settings, objective_section, objective_given, prefix="objective."),
        backbone=backbone,
        backbone_settings=resolve(
            backbones.Settings, tree.get("backbone", {}), backbone_given, prefix="backbone."
        ),
        schedule=resolve(loop.Settings, PROTOCOL, section, given),
    )
