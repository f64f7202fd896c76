"""Weights for nnU-Net 2, which fine-tunes them: as a checkpoint for ``-pretrained_weights``, or as one of nnssl's.

The first goes into any plan that describes the same network, encoder and decoder; the plan's block is written beside
it, and a script that puts it into a plan. The second carries the description itself; nnU-Net takes the encoder of it.
Both hold tensors and plain values only. nnU-Net prepares images in its own way, so that neither is for prediction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemis import __version__, files, plugins
from lemis.contracts import Backbone
from lemis.errors import LemisError
from lemis.exchange import nnunet_names, torch_files
from lemis.formats import nnunet_plans
from lemis.layers import nnunet_shape
from lemis.measure.tables import count
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import plain, resolve
from lemis.work_files.run import FinetunedModel, Model, read_settings

FRAGMENT, ADD, ADAPTATION = "plans_fragment.json", "add_to_plans.py", "adaptation_plan.json"
CONFIGURATION = "lemis"

_SCRIPT = '''"""Put the network of plans_fragment.json into a plan of nnU-Net, as the configuration "{configuration}":

    python add_to_plans.py $nnUNet_preprocessed/DATASET/nnUNetPlans.json

All else, such as spacing and batch size, is that of the configuration it inherits from; the patch becomes what the
network divides. Needs Python alone. Written by Lemis.
"""

import json
import sys
from pathlib import Path

plans_file = Path(sys.argv[1])
plans = json.loads(plans_file.read_text())
fragment = json.loads(Path(__file__).with_name("plans_fragment.json").read_text())
((name, own),) = fragment["configurations"].items()
if own["inherits_from"] not in plans["configurations"]:
    sys.exit(f"{{plans_file}} has no configuration {{own['inherits_from']}}, from which {{name}} inherits")
sides = plans["configurations"][own["inherits_from"]]["patch_size"]
strides = own["architecture"]["arch_kwargs"]["strides"]
divisors = [1] * len(sides)
for stage in strides:
    divisors = [so_far * stride for so_far, stride in zip(divisors, stage)]
own["patch_size"] = [max(1, round(side / by)) * by for side, by in zip(sides, divisors)]
if own["patch_size"] == divisors:  # a map of one cell cannot be normalised
    own["patch_size"][-1] *= 2
plans["configurations"][name] = own
plans_file.write_text(json.dumps(plans, indent=4))
print(f"{{name}} is in {{plans_file}}: patches of {{own['patch_size']}}")
'''


def write(folder: Path, run: Path, model: Model, network: Backbone, weights: Mapping[str, Tensor], *, to: str) -> str:
    """Write the checkpoint and what goes with it, and see that it gives the same tensors back.

    Args:
        folder: Where to.
        run: Where the weights are from.
        model: What the run trained, one of ``nnunet_plans.CLASSES``.
        network: With its weights, in evaluation mode, on the CPU.
        weights: Its state.
        to: ``nnunet`` or ``nnssl``.

    Returns:
        How to use them, for the card.
    """
    settings = planned(model)
    described = nnunet_plans.architecture(model.backbone, settings)
    theirs = {name: one.detach().cpu().contiguous() for name, one in nnunet_names.as_theirs(weights).items()}
    file = folder / f"{run.name}.pth"
    ours = {"version": __version__, "method": model.method, "saw_labels": isinstance(model, FinetunedModel)}
    content: dict[str, Any] = {"network_weights": theirs, "lemis": ours}
    if to == "nnssl":
        content |= {
            "nnssl_adaptation_plan": _adaptation(run, model, settings, described),
            "citations": _citations(model),
        }
        files.write(folder / ADAPTATION, _json(content["nnssl_adaptation_plan"]))
        use = _use_nnssl(file.name, run.name)
    else:
        parent = "2d" if settings["dims"] == 2 else "3d_fullres"
        own = {"inherits_from": parent, "architecture": described}
        files.write(folder / FRAGMENT, _json({"configurations": {CONFIGURATION: own}}))
        files.write(folder / ADD, _SCRIPT.format(configuration=CONFIGURATION))
        use = _use_nnunet(file.name, parent, len(model.channels))
    with files.replacing(file) as temporary:
        torch.save(content, temporary)
        _same_tensors(temporary, weights)
    if find_spec("dynamic_network_architectures") is not None:
        _same_logits(described, theirs, model, network, file)
    return use


def write_plan(file: Path, model: Model) -> None:
    """The network of a run as a plan of one configuration, as ``backbone.plans=FILE`` reads it."""
    block = nnunet_plans.architecture(model.backbone, planned(model))
    files.write(file, _json({"configurations": {CONFIGURATION: {"architecture": block}}}))


def planned(model: Model) -> dict[str, Any]:
    """Settings of the network of a run, as ``as_planned`` says them."""
    return as_planned(model.backbone, torch_files.settings_of(model))


def as_planned(backbone: str, settings: Any) -> dict[str, Any]:
    """Settings as a plan says them: a value for every stage, along every axis."""
    module, shape = plugins.load("backbones", backbone), nnunet_shape.shape_of(settings)
    counts = nnunet_plans.COUNTS[backbone]
    found: dict[str, Any] = plain(
        {
            "dims": settings.dims, "n_stages": settings.n_stages, "features_per_stage": shape.features,
            "kernel_sizes": shape.kernels, "strides": shape.strides, counts: module.counts_of(settings),
            "n_conv_per_stage_decoder": shape.decoder_convolutions, "conv_bias": settings.conv_bias,
            "norm_eps": settings.norm_eps, "norm_affine": settings.norm_affine,
        }
    )  # fmt: skip
    return found


def _adaptation(run: Path, model: Model, settings: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """The plan in a checkpoint of nnssl, by which nnU-Net builds the network and finds its encoder."""
    residual = model.backbone == "residual_encoder_unet"
    first = "encoder.stem.convs.0" if residual else "encoder.stages.0.0.convs.0"
    patch = _patch(run, model, settings["strides"])
    spacing = _spacing(resolve(Preparation, model.prepared))
    return {
        "architecture_plans": {
            "arch_class_name": described["network_class_name"], "arch_kwargs": described["arch_kwargs"],
            "arch_kwargs_requiring_import": described["_kw_requires_import"],
        },
        "pretrain_plan": {
            "dataset_name": "not named", "plans_name": CONFIGURATION,
            "configurations": {
                CONFIGURATION: {
                    "data_identifier": CONFIGURATION, "preprocessor_name": "DefaultPreprocessor",
                    "spacing_style": "noresample" if spacing is None else "fixed", "spacing": spacing,
                    "normalization_schemes": ["ZScoreNormalization"] * len(model.channels),
                    "use_mask_for_norm": [False] * len(model.channels), "patch_size": patch,
                }
            },
        },
        "pretrain_num_input_channels": len(model.channels), "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem" if residual else "encoder.stages.0",
        "keys_to_in_proj": [f"{first}.conv", f"{first}.all_modules.0"] if residual
        else [f"{first}.all_modules.0", f"{first}.conv"],
        "key_to_lpe": None,
    }  # fmt: skip


def _patch(run: Path, model: Model, strides: Sequence[Sequence[int]]) -> list[int]:
    """Of training, made what the network divides; (slices, rows, cols)."""
    divisors = [prod(along) for along in zip(*strides, strict=True)]
    if isinstance(model, FinetunedModel):
        size: Any = model.patch_px
    else:
        size = read_settings(run)["method"].get("size_px")
    sides = [size] * 3 if isinstance(size, int) else list(size or [4 * by for by in divisors])
    return [max(1, round(side / by)) * by for side, by in zip(sides, divisors, strict=True)]


def _spacing(how: Preparation) -> list[float] | None:
    """(slices, rows, cols) in mm; None where scans kept one of theirs."""
    within, across = how.spacing_mm, how.slice_spacing_mm
    fixed = how.whole_px is None and isinstance(within, int | float) and isinstance(across, int | float)
    return [float(across), float(within), float(within)] if fixed else None  # type: ignore[arg-type]


def _citations(model: Model) -> list[dict[str, Any]]:
    used = [("Architecture", "backbones", model.backbone), ("Pretraining Method", "methods", model.method)]
    return [
        {"type": kind, "name": name, "apa_citations": [plugins.describe(folder, name)["title"]]}
        for kind, folder, name in used
        if name in plugins.names(folder)
    ]


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=4) + "\n"


def _same_tensors(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise where the file gives other tensors back.

    Raises:
        LemisError: It does; a mistake of ours.
    """
    back = nnunet_names.as_ours(torch.load(file, weights_only=True)["network_weights"], str(file))
    if not all(name in back and torch.equal(back[name], one.cpu()) for name, one in weights.items()):
        raise LemisError(f"{file} gives other weights back than the run: please report this with its model.json")


def _same_logits(
    described: Mapping[str, Any], theirs: Mapping[str, Tensor], model: Model, network: Backbone, file: Path
) -> None:
    """Raise where nnU-Net's own network, with these weights, says something else.

    Raises:
        LemisError: It does; a mistake of ours.
    """
    from dynamic_network_architectures.architectures import unet

    arguments = {
        key: _named(value) if key in described["_kw_requires_import"] else value
        for key, value in described["arch_kwargs"].items()
    }
    kind = getattr(unet, nnunet_plans.CLASSES[model.backbone])
    classes = len(theirs[f"decoder.seg_layers.{len(network.decoder_channels) - 1}.bias"])
    other = kind(input_channels=len(model.channels), num_classes=classes, deep_supervision=False, **arguments).eval()
    other.load_state_dict(theirs)
    torch_files.same_logits(other, file, model, network)


def _named(name: str | None) -> Any:
    return None if name is None else getattr(torch.nn, name.rpartition(".")[2])


def _use_nnunet(file: str, parent: str, channels: int) -> str:
    return (
        f"For nnU-Net 2. `{file}` holds the weights, `{FRAGMENT}` the network as a configuration of a plan, which "
        f"inherits all else from `{parent}`, and `{ADD}` puts that into the plan of your data set; 4 is its number "
        f"here. The data set must have {count(channels, 'channel')}. nnU-Net takes encoder and decoder and begins with "
        "heads of its own.\n\n```sh\n"
        f"nnUNetv2_plan_and_preprocess -d 4 -c {parent}\n"
        f'python this/folder/{ADD} "$nnUNet_preprocessed/Dataset004_NAME/nnUNetPlans.json"\n'
        f"nnUNetv2_train 4 {CONFIGURATION} 0 -pretrained_weights this/folder/{file}\n```\n\n"
        "It prepares images in its own way, not as below: train with it, and do not predict with these weights as they "
        "are."
    )


def _use_nnssl(file: str, name: str) -> str:
    return (
        f"For nnU-Net's training from checkpoints of nnssl (newer than nnU-Net 2.8.1). `{file}` holds the weights and "
        f"the plan by which nnU-Net builds the network; `{ADAPTATION}` is the same plan to read. nnU-Net takes the "
        "encoder. 4 is the number of your data set.\n\n```sh\n"
        f"nnUNetv2_preprocess_like_nnssl -d 4 -n {name} -pc this/folder/{file} -am default_nnunet\n"
        f"nnUNetv2_train_pretrained 4 3d_fullres 0 -p ptPlans__{name}... -tr PretrainedTrainer\n```\n\n"
        "The first command names the plan, and `-p` takes its whole name. It normalises every channel to mean 0 and "
        "standard deviation 1."
    )
