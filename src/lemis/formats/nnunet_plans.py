"""The network that a plan of nnU-Net or nnssl describes, as settings of ours and back.

A ``plans.json`` has a configuration such as ``3d_fullres`` for each network, which may inherit from another; nnssl's
checkpoints hold an ``nnssl_adaptation_plan`` with one. Networks have the name of a class and its arguments. Plans of
nnU-Net before 2.4, such as TotalSegmentator's, spell the same otherwise. What a plan asks of a network that ours does
not do is refused, and so is an argument that is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lemis import files
from lemis.errors import UsageError, shown

CLASSES = {"plainconv_unet": "PlainConvUNet", "residual_encoder_unet": "ResidualEncoderUNet"}
_ALLOWED = " or ".join(f"{theirs} ({ours})" for ours, theirs in CLASSES.items())
COUNTS = {"plainconv_unet": "n_conv_per_stage", "residual_encoder_unet": "n_blocks_per_stage"}
_SAME = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias")
_TURNED = (
    "conv_op", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs", "dropout_op_kwargs", "deep_supervision",
)  # become other settings, or nothing  # fmt: skip
# Must be what they are by default; residual blocks of two convolutions are.
_IDLE = ("dropout_op", "nonlin_first", "block", "bottleneck_channels", "stem_channels")
# What nnssl calls by name ("Revisiting MAE pre-training for 3D medical image segmentation",
# https://arxiv.org/abs/2410.23132) is a residual network, always the same.
_RESENC_L = {
    "dims": 3, "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 5], "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5, "conv_bias": True, "norm_eps": 1e-5, "norm_affine": True,
}  # fmt: skip


class Planned(NamedTuple):
    """A network of a plan."""

    configuration: str
    backbone: str  # file name in ``backbones/``
    settings: dict[str, Any]  # of it


def expand(given: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """Settings with ``plans``, the path of a plan, and ``configuration``, which is one of its, as what these stand for.

    What is given beside them goes before the plan.

    Raises:
        UsageError: The plan is none, has no such configuration, or describes another network.
    """
    rest = {key: value for key, value in given.items() if key not in ("plans", "configuration")}
    if "plans" not in given:
        if "configuration" in given:
            raise UsageError(
                f"backbone.configuration={shown(given['configuration'])} without a plan", allowed="one of a plan",
                next="backbone.plans=plans.json",
            )  # fmt: skip
        return rest
    file = Path(str(given["plans"]))
    wanted = given.get("configuration")
    planned = read(file, None if wanted is None else str(wanted), option="backbone.configuration=")
    if planned.backbone != backbone:
        raise UsageError(
            f"backbone.plans={file}, whose {planned.configuration} is a {CLASSES[planned.backbone]}",
            allowed=f"a plan of {CLASSES[backbone]} for {backbone}",
            next=f"--backbone {planned.backbone}",
        )
    return {**planned.settings, **rest}


def read(file: Path, configuration: str | None, *, option: str = "--configuration ") -> Planned:
    """The network of a ``plans.json``.

    Args:
        file: The plan, or the ``adaptation_plan.json`` of nnssl.
        configuration: One of its; None where it has only one.
        option: How a configuration is named in a command, for messages.

    Raises:
        UsageError: There is no such file or configuration, or it describes a network that ours do not do.
    """
    return of_plans(
        files.read_json(file, next="give the plans.json of nnU-Net"), configuration, str(file), option=option
    )


def of_plans(plans: Any, configuration: str | None, source: str, *, option: str = "--configuration ") -> Planned:
    """As ``read``, of plans that were read already; ``source`` says where."""
    if isinstance(plans, Mapping) and "architecture_plans" in plans:
        return _of_adaptation(plans, source)
    found = plans.get("configurations") if isinstance(plans, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        raise _no_plan(source)
    if configuration is None and len(found) > 1:
        raise UsageError(
            f"{source} has {len(found)} configurations", allowed=", ".join(map(str, found)),
            next=f"{option}{'3d_fullres' if '3d_fullres' in found else next(iter(found))}",
        )  # fmt: skip
    name = configuration or str(next(iter(found)))
    whole = _inherited(found, name, source, option)
    if "architecture" in whole:
        described = whole["architecture"]
        if not isinstance(described, Mapping):
            raise _no_plan(source)
        return _planned(name, described.get("network_class_name"), described.get("arch_kwargs"), source)
    return _of_old(name, whole, source)


def architecture(backbone: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The block ``architecture`` of a plan.

    Args:
        backbone: File name in ``backbones/``.
        settings: As a plan says them: a value for every stage and axis.
    """
    dims = settings["dims"]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{CLASSES[backbone]}",
        "arch_kwargs": {
            **{key: settings[key] for key in _SAME[:4]},
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            COUNTS[backbone]: settings[COUNTS[backbone]],
            **{key: settings[key] for key in _SAME[4:]},
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": settings["norm_eps"], "affine": settings["norm_affine"]},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _inherited(found: Mapping[str, Any], name: str, source: str, option: str) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    seen: list[str] = []
    here: Any = name
    while here is not None:
        part = found.get(here)
        if not isinstance(part, Mapping) or here in seen:
            fault = f": {here} inherits from itself" if here in seen else f" has no configuration {shown(here)}"
            raise UsageError(
                f"{source}{fault}", allowed=", ".join(map(str, found)), next=f"{option}{next(iter(found))}"
            )
        seen.append(here)
        whole = {**part, **whole}
        here = part.get("inherits_from")
    return whole


def _of_adaptation(plan: Mapping[str, Any], source: str) -> Planned:
    described = plan["architecture_plans"]
    if not isinstance(described, Mapping):
        raise _no_plan(source)
    pretrained = plan.get("pretrain_plan")
    names = pretrained.get("configurations") if isinstance(pretrained, Mapping) else None
    name = str(next(iter(names))) if isinstance(names, Mapping) and names else "pretraining"
    kind, arguments = described.get("arch_class_name"), described.get("arch_kwargs")
    if kind == "ResEncL" and arguments is None:
        return Planned(name, "residual_encoder_unet", dict(_RESENC_L))
    return _planned(name, kind, arguments, source)


def _of_old(name: str, whole: Mapping[str, Any], source: str) -> Planned:
    """Of nnU-Net before 2.4."""
    backbone = _backbone(whole.get("UNet_class_name"), source)
    try:
        counts, width = list(whole["n_conv_per_stage_encoder"]), whole["UNet_base_num_features"]
        most, dims = whole["unet_max_num_features"], len(whole["patch_size"])
        settings = {
            "dims": dims, "n_stages": len(counts),
            "features_per_stage": [min(width * 2**stage, most) for stage in range(len(counts))],
            "kernel_sizes": whole["conv_kernel_sizes"], "strides": whole["pool_op_kernel_sizes"],
            COUNTS[backbone]: counts, "n_conv_per_stage_decoder": whole["n_conv_per_stage_decoder"],
            "conv_bias": True, "norm_eps": 1e-5, "norm_affine": True,
        }  # fmt: skip
    except (KeyError, TypeError) as error:
        raise _no_plan(source, f"{name} says nothing usable of {error}") from None
    return Planned(name, backbone, settings)


def _planned(name: str, kind: Any, arguments: Any, source: str) -> Planned:
    backbone = _backbone(kind, source)
    if not isinstance(arguments, Mapping):
        raise _no_plan(source, f"{name} has no arch_kwargs")
    counts = COUNTS[backbone]
    unknown = [key for key in arguments if key not in (*_SAME, counts, *_TURNED, *_IDLE)]
    missing = [key for key in (*_SAME[:4], counts, _SAME[4]) if key not in arguments]
    if unknown or missing:
        said = f"{name} has the argument {shown(unknown[0])}" if unknown else f"{name} says no {missing[0]}"
        raise _no_plan(source, said)
    for key in _IDLE:
        value = arguments.get(key)
        if value not in (None, False) and not (key == "block" and str(value).endswith("BasicBlockD")):
            raise _cannot(source, f"{key}={shown(value)}", "networks without it")
    dims = _dims(arguments.get("conv_op"), source)
    norm, norms = str(arguments.get("norm_op")), arguments.get("norm_op_kwargs") or {}
    if not norm.endswith(f"InstanceNorm{dims}d") or any(key not in ("eps", "affine") for key in norms):
        raise _cannot(source, f"norm_op={norm} {shown(dict(norms))}", f"InstanceNorm{dims}d with eps and affine")
    active, how = str(arguments.get("nonlin")), arguments.get("nonlin_kwargs") or {}
    if not active.endswith("LeakyReLU") or how.get("negative_slope", 0.01) != 0.01:
        raise _cannot(source, f"nonlin={active} {shown(dict(how))}", "LeakyReLU with a slope of 0.01")
    settings = {
        "dims": dims, **{key: arguments[key] for key in (*_SAME[:4], counts, _SAME[4])},
        "conv_bias": arguments.get("conv_bias", False),
        "norm_eps": norms.get("eps", 1e-5), "norm_affine": norms.get("affine", False),
    }  # fmt: skip
    return Planned(name, backbone, settings)


def _backbone(kind: Any, source: str) -> str:
    if kind is None:
        raise _no_plan(source, "it names no network")
    last = str(kind).rpartition(".")[2]
    for ours, theirs in CLASSES.items():
        if last == theirs:
            return ours
    raise UsageError(
        f"{source} describes a network {shown(last, quoted=False)}, which Lemis does not have", allowed=_ALLOWED,
        next="weights of one of these networks",
    )  # fmt: skip


def _dims(convolution: Any, source: str) -> int:
    for dims in (2, 3):
        if str(convolution).endswith(f"Conv{dims}d"):
            return dims
    raise _cannot(source, f"conv_op={shown(convolution)}", "Conv2d or Conv3d")


def _cannot(source: str, what: str, allowed: str) -> UsageError:
    return UsageError(
        f"{source} asks for {what}", allowed=allowed, next="weights of a network as nnU-Net plans it by itself"
    )


def _no_plan(source: str, said: str = "it has no configurations") -> UsageError:
    return UsageError(
        f"{source} is no plan of nnU-Net or nnssl: {said}",
        allowed="plans.json of nnU-Net 2, or nnssl's adaptation plan",
        next="the plans.json in the folder of the trained network, or in nnUNet_preprocessed",
    )  # fmt: skip
