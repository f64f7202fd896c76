"""A fine-tuned network as a MONAI bundle: what ``python -m monai.bundle run`` needs from a scan to its label map.

    configs/metadata.json configs/inference.json models/model.pt scripts/ docs/README.md LICENSE

The network is MONAI's own where ours is (``swin_unetr``); others come as one file, ``scripts/network.py``, without
Lemis. Preparation is MONAI's transforms wherever they give the same voxels, and ``scripts/scans.py`` where not.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lemis import __version__, files, plugins
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.exchange import monai_configs, monai_names, standalone, torch_files
from lemis.exchange.monai_configs import SCRIPTS, WEIGHTS
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import plain, resolve
from lemis.work_files.exported import Expects
from lemis.work_files.run import FinetunedModel

CARD = "docs/README.md"
_CONFIGS = "configs"

_LICENCE = """\
models/: {weights}

configs/, scripts/: Apache License 2.0, http://www.apache.org/licenses/LICENSE-2.0
Written by Lemis {version}.{author}
"""
_NO_LICENCE = (
    "The licence of the weights is not stated. Whoever hands them on must state one; those of scans may set terms."
)


class Network(NamedTuple):
    """A network as a bundle has it."""

    definition: dict[str, Any]  # of ``inference.json``
    weights: dict[str, Tensor]
    source: str | None  # of ``scripts/network.py``; None: the network is MONAI's


def write(
    folder: Path, run: Path, model: FinetunedModel, network: Backbone, expects: Expects, licence: str | None
) -> str:
    """Write all of the bundle but its card, and see that its network gives the logits of the run to the bit.

    Args:
        folder: Where to.
        run: Where the weights are from.
        model: What it trained.
        network: With its weights, in evaluation mode, on the CPU.
        expects: What the weights expect.
        licence: Of the weights, as the user gave it.

    Returns:
        How to use it, for the card.

    Raises:
        UsageError: The network cannot be written without Lemis, or slices run across different axes of the scans.
    """
    axis = _slice_axis(run, model)
    there = _network(run, model, network)
    config = monai_configs.inference(model, network, there.definition, axis)
    scripts = {"scans.py": _scans(run, config)}
    if there.source is not None:
        scripts["network.py"] = there.source
    for part in (_CONFIGS, SCRIPTS, "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / WEIGHTS) as temporary:
        torch.save(there.weights, temporary)
    for name, text in {"__init__.py": "", **scripts}.items():
        files.write(folder / SCRIPTS / name, text)
    _same_logits(folder, there, model, network)
    for name, content in {
        "inference": config,
        "metadata": monai_configs.metadata(run, model, expects, licence),
    }.items():
        files.write(folder / _CONFIGS / f"{name}.json", json.dumps(content, indent=4) + "\n")
    own = f" {model.backbone} is its author's." if plugins.is_own(model.backbone) else ""
    files.write(
        folder / "LICENSE", _LICENCE.format(weights=licence or _NO_LICENCE, version=__version__, author=own)
    )  # fmt: skip
    return _use(model)


def _slice_axis(run: Path, model: FinetunedModel) -> int:
    """Of scans as they are stored in the frame of the run."""
    how: Preparation = resolve(Preparation, model.prepared)
    if isinstance(how.slice_axis, int):
        return how.slice_axis
    found = {stack.axis for stack in model.frame.stacks} if model.frame else set()
    if len(found) != 1:
        raise UsageError(
            f"{run}: slices of its scans run across {len(found) or 'unknown'} axes, and a bundle takes one for all",
            allowed="runs on scans of one view, or prepared with prepare.slice_axis=common",
            next=f"lemis export {run} -o OUT --to torch",
        )
    return found.pop()


# ------------------------------------------------------------------------------------------------------ the network


def _network(run: Path, model: FinetunedModel, network: Backbone) -> Network:
    weights = {name: one.contiguous() for name, one in network.state_dict().items()}
    settings = plain(torch_files.settings_of(model))
    sizes = {"in_channels": len(model.channels), "num_classes": len(model.label_names)}
    if model.backbone == monai_names.NETWORK:
        definition = {
            "_target_": "monai.networks.nets.SwinUNETR",
            "in_channels": sizes["in_channels"],
            "out_channels": sizes["num_classes"],
            "spatial_dims": settings["dims"],
            "feature_size": settings["feature_size"],
            "depths": _tuple(settings["depths"]),
            "num_heads": _tuple(settings["heads"]),
            "window_size": settings["window"],
            "dropout_path_rate": settings["drop_path"],
        }
        return Network(definition, monai_names.to_monai(weights), None)
    what = f"The network of {run.name}; its weights are in ../models/model.pt."
    source, _ = torch_files.source(run, model, network, what)
    given = {name: _tuple(one) if isinstance(one, list) else one for name, one in settings.items()}
    definition = {
        "_target_": f"{SCRIPTS}.network.Backbone",
        "settings": {"_target_": f"{SCRIPTS}.network.Settings", **given},
        **sizes,
    }
    return Network(definition, weights, source)


def _tuple(values: list[Any]) -> str:
    def within(value: Any) -> Any:
        return tuple(map(within, value)) if isinstance(value, list) else value

    return f"${within(values)!r}"


def _value(given: Any) -> Any:
    """What MONAI makes of a value in ``inference.json``."""
    return ast.literal_eval(given[1:]) if isinstance(given, str) and given.startswith("$") else given


def _same_logits(folder: Path, there: Network, model: FinetunedModel, network: Backbone) -> None:
    given = {key: _value(one) for key, one in there.definition.items() if key not in ("_target_", "settings")}
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    if there.source is None:
        from monai.networks.nets.swin_unetr import SwinUNETR  # takes seconds

        _loaded(SwinUNETR(**given), weights, folder, model, network)
        return
    settings = {key: _value(one) for key, one in there.definition["settings"].items() if key != "_target_"}
    with torch_files.imported(folder / SCRIPTS / "network.py") as module:
        _loaded(module.Backbone(settings=module.Settings(**settings), **given), weights, folder, model, network)


def _loaded(
    theirs: nn.Module, weights: Mapping[str, Tensor], folder: Path, model: FinetunedModel, network: Backbone
) -> None:
    theirs.load_state_dict(weights)
    torch_files.same_logits(theirs.eval(), folder, model, network)


def _scans(run: Path, config: Mapping[str, Any]) -> str:
    text = json.dumps(config)
    start = f'"{SCRIPTS}.scans.'
    used = dict.fromkeys(part.partition('"')[0] for part in text.split(start)[1:])
    found = standalone.collect("lemis.exchange.bundle_code", used)
    return (
        f'"""What the network of {run.name} needs and MONAI has not: from a scan to the network, and back.\n\n'
        f"Needs {', '.join(found.packages)}. Written by Lemis {__version__}, whose code this is (Apache-2.0).\n"
        f'"""\n\nfrom __future__ import annotations\n\n{found.code}'
    )


def _use(model: FinetunedModel) -> str:
    files_there = "NIfTI files"
    if len(model.channels) > 1:
        files_there = "`PATIENT_0000.nii.gz`, `PATIENT_0001.nii.gz` and so on: one file for each channel, in this order"
    return (
        "A MONAI bundle. Needs MONAI with a few of its extras, and nothing of Lemis:\n\n"
        "```sh\npip install 'monai[nibabel,scipy,ignite,fire,einops]'\ncd this/folder\n"
        "python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir MASKS\n"
        "python -m monai.bundle verify_net_in_out network_def --meta_file configs/metadata.json "
        "--config_file configs/inference.json\n```\n\n"
        f"SCANS holds {files_there}. Each label map is on the grid of its scan, as `NAME_seg.nii.gz`, with the values "
        "below. `scripts` is imported from the folder in which the command runs; from elsewhere, put this folder on "
        "`PYTHONPATH` and add `--bundle_root`. The bundle prepares scans by itself; the list below says how. It is one "
        "network, not an ensemble."
    )
