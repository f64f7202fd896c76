"""``lemis list``: what there is to choose from, read from source files, without importing PyTorch."""

from __future__ import annotations

import builtins
import importlib
import json as json_format
from typing import Any

from rich.table import Table

from lemis import plugins, terminal
from lemis.settings import presets

Facts = dict[str, Any]

SCRATCH: Facts = {
    "name": "scratch",
    "title": "no pre-training: the matched baseline",
    "dims": (2, 3),
    "trains": (),
    "settings": [],
}

# Who takes settings that belong to no plug-in -> folder, file, class.
SHARED = {
    "prepare": ("preparation", "settings", "Settings"),
    "keypoints (prepare, networks that look at them)": ("preparation", "keypoints", "Settings"),
    "pretrain, finetune": ("training", "schedule", "Settings"),
    "finetune, beside those of pretrain": ("training", "schedule", "Tuning"),
    "objective (finetune)": ("training", "supervised", "Settings"),
    "spatial (methods, objective)": ("sampling", "spatial", "Spatial"),
    "semi (finetune, beside those of its file)": ("training", "pool", "Settings"),
    "predict": ("prediction", "settings", "Settings"),
    "predict (3D)": ("prediction", "tiles", "Settings"),
    "intensity (objective)": ("sampling", "intensity", "Intensity"),
}


def list(*, parameters: bool = False, json: bool = False) -> Facts:
    """Print and return all that there is to choose from: methods, networks, losses, ways and presets.

    Args:
        parameters: Also count the weights of each network at its default settings (imports PyTorch).
        json: Print JSON instead of tables.

    Returns:
        ``methods``, ``backbones``, ``auxiliaries`` and ``semi``: rows of name, title, the file's constants (``dims``,
        ``trains``, ``backbones`` where a method works on these networks only, and ``reads``: keys of files that a
        network's settings can be read from, each with what it is) and ``settings``, each with
        ``name``, ``default`` (source text where it is no plain value) and ``note``; of networks ``parameters`` too
        where asked for, by ``2D`` and ``3D``;
        ``single`` and ``suggesters``: rows of name, title and ``settings``;
        ``presets``: names; ``settings``: those of no plug-in, by the verb or the key that takes them.
    """
    facts = {
        "methods": [SCRATCH, *_plugins("methods")],
        "backbones": _plugins("backbones"),
        "auxiliaries": _plugins("auxiliary"),
        "semi": _plugins("semi"),
        "single": _plugins("single"),
        "suggesters": _plugins("suggesters"),
        "presets": presets(),
        "settings": {owner: plugins.settings_of(*where) for owner, where in SHARED.items()},
    }
    if parameters:
        for backbone in facts["backbones"]:
            backbone["parameters"] = {f"{dims}D": count_parameters(backbone["name"], dims) for dims in backbone["dims"]}
    if json:
        print(json_format.dumps(facts, indent=1))
    else:
        _print(facts)
    return facts


def count_parameters(backbone: str, dims: int, *, in_channels: int = 1, num_classes: int = 4) -> int:
    """Number of weights of a network at its default settings, and of these dimensions where it can be of several."""
    module = plugins.load("backbones", backbone)
    several = len(module.DIMS) > 1
    settings = module.Settings(dims=dims) if several else module.Settings()
    meta = importlib.import_module("torch").device("meta")  # imported here only: the rest of listing does without
    with meta:  # what it is made of, without its weights
        network = module.Backbone(settings, in_channels=in_channels, num_classes=num_classes)
    return sum(weights.numel() for weights in network.parameters())


def _plugins(folder: str) -> Any:
    return [
        plugins.describe(folder, name) | {"settings": plugins.settings_of(folder, name)}
        for name in plugins.names(folder)
    ]


def _print(facts: Facts) -> None:
    console = terminal.console(unbroken=False)
    methods = Table("method", "dims", "trains", "title", title="How to pre-train (--method)", title_justify="left")
    for row in facts["methods"]:
        only_on = f"\non {' or '.join(row['backbones'])} only" if "backbones" in row else ""
        methods.add_row(row["name"], _dims(row), _trains(row), _short(row) + only_on)
    networks = Table("backbone", "dims", title="Networks (--backbone)", title_justify="left")
    counted = any("parameters" in row for row in facts["backbones"])
    if counted:
        networks.add_column("parameters", justify="right")
    networks.add_column("title")
    for row in facts["backbones"]:
        count = ["\n".join(_counts(row["parameters"]))] if counted else []
        networks.add_row(row["name"], _dims(row), *count, _short(row))
    losses = Table(
        "auxiliary", "dims", "title", title="Extra losses in fine-tuning (--auxiliary)", title_justify="left"
    )
    for row in facts["auxiliaries"]:
        losses.add_row(row["name"], _dims(row), _short(row))
    ways = Table(
        "semi", "dims", "title", title="Unlabelled scans in fine-tuning too (--semi)", title_justify="left"
    )  # fmt: skip
    for row in facts["semi"]:
        ways.add_row(row["name"], _dims(row), _short(row))
    single = Table("method", "title", title="One image, no labels (segment-one --method)", title_justify="left")
    for row in facts["single"]:
        single.add_row(row["name"], _short(row))
    choices = Table("suggester", "needs", "title", title="Which scans to label next (suggest --method)",
                    title_justify="left")  # fmt: skip
    for row in facts["suggesters"]:
        choices.add_row(row["name"], _needs(row), _short(row))
    for table in (methods, networks, losses, ways, single, choices):
        terminal.print_table(console, table)
    console.print("\nPapers, to be cited")
    for kind in ("methods", "auxiliaries", "semi", "single", "suggesters"):
        for row in facts[kind]:
            if row["name"] != SCRATCH["name"]:
                console.print(f"  {row['name']:<20}{row['title']}", soft_wrap=True)
    console.print()
    console.print("Presets (--preset): " + ", ".join(facts["presets"]), soft_wrap=True)
    console.print("`lemis list --json` also shows every setting and its default.")


def _counts(parameters: dict[str, int]) -> builtins.list[str]:
    several = len(parameters) > 1
    return [f"{count:,}{f' ({dims})' if several else ''}" for dims, count in parameters.items()]


def _trains(row: Facts) -> str:
    parts = [part for part in row.get("trains", ()) if not part.startswith("decoder ")]
    blocks = [part.removeprefix("decoder ") for part in row.get("trains", ()) if part.startswith("decoder ")]
    several = f"{blocks[0]}-{blocks[-1]}" if len(blocks) > 1 else "".join(blocks)
    return ", ".join([*parts, *([f"decoder {several}"] if blocks else [])])


def _needs(row: Facts) -> str:
    return {0: "nothing", 1: "a fine-tuned network"}.get(row.get("networks", 0), "an ensemble")


def _short(row: Facts) -> str:
    # The first sentence of a citation is the paper's title.
    return str(row["title"]).split(". ")[0].rstrip(".")


def _dims(row: Facts) -> str:
    return "/".join(f"{dims}D" for dims in row.get("dims", ()))
