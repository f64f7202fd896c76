"""Names of weights in nnU-Net's networks, where most tensors have several, and ours, where each has one.

A convolution ``X.conv`` and a normalisation ``X.norm`` are there again as ``X.all_modules.0`` and ``X.all_modules.1``,
and the whole encoder again as ``decoder.encoder``; ``load_state_dict`` asks for all of them. A decoder has a head after
every block; ours has the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lemis.errors import UsageError

_PARTS = {"conv": 0, "norm": 1}  # of ``all_modules``


def aliases(name: str) -> list[str]:
    """All names of a tensor there, the one here first."""
    owner, _, last = name.rpartition(".")
    before, _, part = owner.rpartition(".")
    names = [name]
    if part in _PARTS:
        names.append(f"{before}.all_modules.{_PARTS[part]}.{last}")
    return names + [f"decoder.{one}" for one in names if one.startswith("encoder.")]


def as_theirs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ours under all their names, and heads for the inner blocks of the decoder, which are random.

    Args:
        weights: State of a network of ``layers/nnunet.py``.
    """
    theirs = {name: tensor for ours, tensor in weights.items() for name in aliases(ours)}
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("decoder.stages."))
    classes = len(weights[f"decoder.seg_layers.{last}.bias"])
    drawn = torch.Generator().manual_seed(0)
    for block in range(last):
        width = weights[f"decoder.stages.{block}.convs.0.conv.weight"].shape[0]
        like = weights[f"decoder.seg_layers.{last}.weight"]
        head = torch.randn(classes, width, *like.shape[2:], generator=drawn) * (2 / width) ** 0.5  # Kaiming
        theirs |= {f"decoder.seg_layers.{block}.weight": head, f"decoder.seg_layers.{block}.bias": torch.zeros(classes)}
    return theirs


def as_ours(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights of theirs, each tensor under the one name that it has here; what stood before a name stays.

    Args:
        weights: From a checkpoint.
        source: Of them, for messages.

    Raises:
        UsageError: Two names of one tensor hold different ones.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        here = re.sub(r"\bdecoder\.encoder\.", "encoder.", name)
        for part, number in _PARTS.items():
            here = here.replace(f".all_modules.{number}.", f".{part}.")
        if here in ours and not (ours[here].shape == tensor.shape and torch.equal(ours[here], tensor)):
            raise UsageError(
                f"{source}: {name} is another tensor than {here}, which is the same layer",
                allowed="weights of one network", next="copy the file again",
            )  # fmt: skip
        ours[here] = tensor
    return ours
