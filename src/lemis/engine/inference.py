"""Prediction, slice by slice, back on the scan's own grid; memory is bounded by a slab of slices.

Probabilities of an ensemble are averaged (not logits), then resampled to the scan's in-plane grid, then the most
probable class is taken: no label map is ever interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lemis import plugins
from lemis.contracts import Backbone
from lemis.data.preprocess import Facts, insert_slices
from lemis.engine.run import load_model
from lemis.engine.supervised import padded_logits
from lemis.errors import UsageError
from lemis.settings import resolve

SLAB_BYTES = 256 * 2**20  # of probabilities at the scan's own resolution, at most (but at least one slice)


def load_network(run: Path, device: torch.device) -> tuple[Backbone, dict[str, Any]]:
    """The fine-tuned network of a run, ready to predict, and the facts in its ``model.json``.

    Raises:
        UsageError: The run is not finished, or was a pre-training without classes.
    """
    weights, facts = load_model(run)
    if facts["verb"] != "finetune":
        raise UsageError(
            f"{run} is a {facts['verb']} run: it has no classes yet",
            allowed="the folder of a fine-tuned run",
            next=f"lemis finetune WORK --pretrained {run}",
        )
    backbone = build_backbone(facts)
    backbone.load_state_dict(weights)
    return backbone.eval().to(device), facts


def build_backbone(facts: dict[str, Any]) -> Backbone:
    """A fresh network as ``model.json`` describes it."""
    module = plugins.load("backbones", facts["backbone"])
    settings = resolve(module.Settings, facts["backbone_settings"], prefix="backbone.")
    network: Backbone = module.Backbone(
        settings, in_channels=len(facts["channels"]), num_classes=len(facts["label_names"])
    )
    return network


@torch.inference_mode()
def predict_scan(
    networks: Sequence[Backbone], image: NDArray[np.float16], facts: Facts, device: torch.device
) -> NDArray[Any]:
    """Class indices of one prepared scan on its canonical grid.

    Args:
        networks: In evaluation mode; several are an ensemble.
        image: (n, C, H, W) prepared slices.
        facts: Of the scan.
        device: Where the networks are.

    Returns:
        (X, Y, Z) uint8.
    """
    classes = np.empty((facts.slices, *facts.slice_shape), dtype=np.uint8)
    slab = 1
    start = 0
    while start < facts.slices:
        slices = torch.from_numpy(np.ascontiguousarray(image[start : start + slab])).to(device).float()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=False):
            probabilities = torch.stack([padded_logits(network, slices).softmax(1) for network in networks]).mean(0)
        classes[start : start + slab] = _most_probable(probabilities, facts).cpu().numpy()
        start += slab
        per_slice = 4 * probabilities.shape[1] * int(np.prod(facts.slice_shape))
        slab = max(1, SLAB_BYTES // per_slice)
    return insert_slices(classes, facts)


def _most_probable(probabilities: Tensor, facts: Facts) -> Tensor:
    """(n, K, h, w) on the prepared field -> (n, H, W) class indices at the scan's own in-plane resolution."""
    field, (rows, cols) = facts.field, facts.resampled_shape
    # Negative padding cuts off what the field of view adds around a small slice.
    margins = (
        -field.col0,
        -(cols - field.col0 - field.width),
        -field.row0,
        -(rows - field.row0 - field.height),
    )
    whole = F.pad(probabilities, [-margin for margin in margins])
    if min(margins) < 0:
        outside = F.pad(torch.zeros_like(probabilities[:, :1]), [-margin for margin in margins], value=1.0)
        whole[:, :1] += outside  # beyond the field of view there is background
    return F.interpolate(whole, facts.slice_shape, mode="bilinear", align_corners=False).argmax(1)
