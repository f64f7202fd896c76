"""The sections of a preset and of a settings file, and what stands in none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemis import plugins, yaml_text
from lemis.errors import UsageError, shown
from lemis.training.pairing import BACKBONE

NAMES = {
    "method": "methods", "backbone": "backbones", "auxiliary": "auxiliary", "semi": "semi",
}  # what is chosen, and the folder  # fmt: skip
FOLDERS = {
    "backbones": "backbones", "methods": "methods", "schedules": "methods", "tunings": "backbones",
    "auxiliaries": "auxiliary", "semis": "semi",
}  # sections by file name, of each folder first the one with the settings of its files  # fmt: skip
SECTIONS = (*NAMES, "prepare", "pretrain", "finetune", "predict", *FOLDERS, "volumes")


def below(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What is set below a name; nothing where the name is not there.

    Raises:
        UsageError: A value stands there, and no settings.
    """
    section = tree.get(name, {})
    if not isinstance(section, Mapping):
        raise UsageError(
            f"{name}={shown(section)}",
            allowed=f"settings below it: {name}.KEY=VALUE",
            next=f"--{name} {shown(section, quoted=False)}" if name in NAMES else f"{name}.KEY=VALUE",
        )
    return section


def refuse_unknown(tree: Mapping[str, Any], where: str) -> None:
    """Refuse sections that do not exist, and those of a method or network that does not.

    Args:
        tree: Sections.
        where: They stand.

    Raises:
        UsageError: There are such.
    """
    for key in tree:
        if key not in SECTIONS:
            raise UsageError(
                f"section {shown(key)} of {where}",
                allowed=", ".join(SECTIONS),
                next=f"{plugins.nearest(key, SECTIONS) or 'pretrain'}:",
            )
    for key in NAMES:
        value = tree.get(key, "")
        if not isinstance(value, str):
            name = value.get("name", BACKBONE) if key == "backbone" and isinstance(value, Mapping) else "NAME"
            section = next(section for section, folder in FOLDERS.items() if folder == NAMES[key])
            by_name = yaml_text.dump_in_line({section: {name: value}})
            raise UsageError(
                f"section {key!r} of {where}",
                allowed=f"the name of a {key}; settings are in {section}, with a section for each",
                next=by_name[1:-1],
            )
    for section in ("prepare", "pretrain", "finetune", "predict"):
        below(tree, section)
    for section, folder in FOLDERS.items():
        known = plugins.names(folder)
        for name in below(tree, section):
            if name not in known and not plugins.is_own(name):
                raise UsageError(
                    f"section {section}.{shown(name, quoted=False)} of {where}",
                    allowed=", ".join(known),
                    next=f"{plugins.nearest(name, known) or known[0]}:",
                )
            below(below(tree, section), name)
    if "volumes" in tree:
        refuse_unknown(below(tree, "volumes"), f"{where}, in volumes")


def refuse_section(given: Mapping[str, Any], verb: str) -> None:
    """Refuse ``pretrain.epochs=3`` of ``pretrain``, which is how ``fit`` is told: ``pretrain`` is told ``epochs=3``.

    Raises:
        UsageError: There is such a setting.
    """
    commands = {section: f"lemis {section} WORK" for section in ("prepare", "pretrain", "finetune")}
    commands["predict"] = "lemis predict WORK/runs/NAME"
    for section, command in commands.items():
        if isinstance(given.get(section), Mapping):
            key, value = next(iter(given[section].items()), ("KEY", "VALUE"))
            typed = f"{shown(key, quoted=False)}={shown(value, quoted=False)}"
            raise UsageError(
                f"setting {section}.{shown(key, quoted=False)} of {verb}",
                allowed=f"settings of {verb}, with nothing before them; {section}. is for lemis fit",
                next=typed if section == verb else f"{command} {typed}",
            )
