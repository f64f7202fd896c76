"""What goes together: a method with a network, a network with the keypoints of the prepared scans."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lemis import plugins
from lemis.errors import UsageError
from lemis.preparation import keypoints
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store import Store
from lemis.preparation.store_files import read_meta
from lemis.settings import plain
from lemis.work_files.run import PretrainedModel

SCRATCH = "scratch"  # no pre-training: the matched baseline
BACKBONE = "unet2d"  # where a method names none


def default_backbone(method: str) -> str:
    """The first network that a method names, ``unet2d`` where it names none."""
    named = () if method == SCRATCH else _networks(plugins.outlined("methods", method))
    return named[0] if named else BACKBONE


def backbones_of(method: str) -> list[str]:
    """The networks of ours that a method works on: those it names, else all of its number of dimensions."""
    module = plugins.outlined("methods", method)
    named, ours = _networks(module), plugins.names("backbones")
    if named:
        return [name for name in named if name in ours]
    return [name for name in ours if _meet(module, plugins.describe("backbones", name)["dims"])]


def methods_of(dims: int) -> list[str]:
    """The methods of ours that work on networks of so many dimensions, whichever they are."""
    loaded = {name: plugins.outlined("methods", name) for name in plugins.names("methods")}
    return [name for name, module in loaded.items() if not _networks(module) and _meet(module, (dims,))]


def backbone_after(
    before: PretrainedModel | None, pretrained: Path | None, given: str | None, tree: Mapping[str, Any]
) -> str:
    """The network to fine-tune: that of the pre-training; where there is none, the one given, the preset's or ours.

    Args:
        before: What the pre-training made; None from scratch.
        pretrained: Its run.
        given: What was typed.
        tree: Sections of the preset and the settings file.

    Raises:
        UsageError: Another network than the pre-trained one was typed.
    """
    if before is None:
        return str(given or tree.get("backbone", BACKBONE))
    if given not in (None, before.backbone):
        raise UsageError(
            f"--backbone {given} with --pretrained {pretrained}, where {before.backbone} was trained",
            allowed=f"the network that was pre-trained: {before.backbone}",
            next=f"leave out --backbone, or pre-train it: --method {before.method} --backbone {given}",
        )
    return before.backbone


def refuse_other_network(second: Path, model: PretrainedModel, backbone: str) -> None:
    """Refuse a pre-training of another network than the one that is fine-tuned.

    Args:
        second: The run.
        model: What it made.
        backbone: That is fine-tuned.

    Raises:
        UsageError: It is.
    """
    if model.backbone != backbone:
        raise UsageError(
            f"--second {second}, where {model.backbone} was pre-trained, and {backbone} is fine-tuned",
            allowed="a pre-training of the same network",
            next=f"lemis pretrain WORK --method {model.method} --backbone {backbone}",
        )


def refuse_pair(method: str, backbone: str, dims: int) -> None:
    """A network of ours must be among the method's, and any must have a number of dimensions that the method works in.

    Args:
        method: File name in ``methods/``, or a dotted name.
        backbone: File name in ``backbones/``, or a dotted name.
        dims: Of the network, which its settings may decide.

    Raises:
        UsageError: It is not; names those that are.
    """
    suited = backbones_of(method)
    ours = backbone not in plugins.names("backbones") or backbone in suited
    meets = _meet(plugins.outlined("methods", method), (dims,))
    if ours and meets:
        return
    others = methods_of(dims)
    text = f"{', '.join(suited) or 'none of the networks here'}"
    if not meets:
        text += f"; and on networks of {dims} dimensions the methods {', '.join(others) or '(none)'}"
    if backbone in suited:
        cure = f"--method {others[0]}" if others else "backbone.dims=2"
    else:
        cure = f"--backbone {suited[0]}" if suited else "--backbone with the dotted name of your own"
    raise UsageError(f"method {method} on the network {backbone}, of {dims} dimensions", allowed=text, next=cure)


def refuse_rest_from_scratch(loaded_rate: float, prefix: str) -> None:
    """Refuse that what was loaded rests, from random weights: where nothing is loaded.

    Args:
        loaded_rate: Of fine-tuning.
        prefix: What was typed before it.

    Raises:
        UsageError: It is 0.
    """
    if loaded_rate == 0:
        raise UsageError(
            f"{prefix}loaded_rate=0 from scratch, where no weights are loaded that could rest",
            allowed="a pre-training whose weights rest, or a rate above 0",
            next=f"--method pcl {prefix}loaded_rate=0" if prefix else "--pretrained WORK/runs/pcl loaded_rate=0",
        )


def keypoints_of(backbone: str, settings: Any) -> keypoints.Settings | None:
    """The keypoints that a network with these settings looks at; None where it looks at none."""
    import torch  # here, as all else is asked before anything of PyTorch is needed

    from lemis.contracts import KeypointBackbone

    kind = plugins.load("backbones", backbone).Backbone
    if not issubclass(kind, KeypointBackbone):
        return None
    with torch.device("meta"):  # what it is made of, without its weights
        layers = kind(settings, in_channels=1, num_classes=2).keypoint_channels
    wanted: keypoints.Settings = settings.keypoints
    return wanted if layers else None


def keypoints_to_find(
    prepared: Path, asked: keypoints.Settings | None, wanted: keypoints.Settings | None
) -> keypoints.Settings | None:
    """What ``prepare`` is to be told: what the user asked for, else what the network needs and the store lacks.

    Args:
        prepared: The store, there or not.
        asked: In the section ``prepare``.
        wanted: ``keypoints_of`` the network.

    Raises:
        UsageError: What the user asked for does not do for the network.
    """
    meta = read_meta(prepared)
    there = meta.keypoints if meta else None
    if wanted is None or (asked is None and _suit(there, wanted)):
        return asked
    if asked is not None and not _suit(plain(asked), wanted):
        raise UsageError(
            f"prepare.keypoints: {asked.detector}, {asked.most} of a slice",
            allowed=f"the keypoints that the network looks at: {wanted.detector}, {wanted.most} of a slice",
            next=" ".join(f"prepare.{key}" for key in _as_typed(wanted)),
        )
    return asked or wanted


def require_keypoints(store: Store, wanted: keypoints.Settings | None) -> None:
    """Refuse a store without the keypoints that a network looks at.

    Raises:
        UsageError: It has none, those of another detector, or fewer.
    """
    found = store.keypoint_settings
    if wanted is None or _suit(found, wanted):
        return
    raise UsageError(
        f"{store.path}: "
        + (f"keypoints of {found['detector']}, {found['most']} of a slice" if found else "no keypoints"),
        allowed=f"the keypoints that the network looks at: {wanted.detector}, {wanted.most} of a slice",
        next=" ".join(["lemis prepare", str(store.path.parent), *_images_as_typed(store), *_as_typed(wanted)]),
    )


def require_one_axis(store: Store, dims: int) -> None:
    """Refuse volumes that lie differently, for a network of three dimensions.

    Raises:
        UsageError: The slices of some scans run across another axis than those of others.
    """
    axes = sorted({facts.slice_axis for facts in store.scans})
    if dims == 3 and len(axes) > 1:
        raise UsageError(
            f"{store.path}: slices across the axes {', '.join(map(str, axes))} of different scans",
            allowed="one axis for all, for a network of three dimensions",
            next=" ".join(["lemis prepare", str(store.path.parent), *_images_as_typed(store), "slice_axis=common"]),
        )


def _suit(found: Mapping[str, Any] | None, wanted: keypoints.Settings) -> bool:
    # The strongest come first, so those of a smaller number are among those of a larger one.
    return found is not None and found["detector"] == wanted.detector and found["most"] >= wanted.most


def _as_typed(wanted: keypoints.Settings) -> list[str]:
    return [f"keypoints.detector={wanted.detector}", f"keypoints.most={wanted.most}"]


def _images_as_typed(store: Store) -> list[str]:
    # Without them the images would be prepared anew with the defaults.
    usual = plain(Preparation())
    other = {key: value for key, value in store.settings.items() if value != usual[key]}
    return [shlex.quote(f"{key}={str(value).replace(' ', '')}") for key, value in other.items()]


def _networks(method: ModuleType) -> tuple[str, ...]:
    named: tuple[str, ...] = getattr(method, "BACKBONES", ())
    return named


def _meet(method: ModuleType, dims: Sequence[int]) -> bool:
    # A module from outside need not name its dimensions; then they are for its author to know.
    own: Sequence[int] = getattr(method, "DIMS", ())
    return not own or not dims or not set(own).isdisjoint(dims)
