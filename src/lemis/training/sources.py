"""Where batches come from: of a method, and of labels; slices, or patches of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lemis.contracts import Method, Sampling
from lemis.preparation import keypoints as detection
from lemis.preparation.store import Store
from lemis.sampling.patches import Patches
from lemis.sampling.samples import Slices
from lemis.sampling.spatial import CROP_ONLY
from lemis.training import supervised


def of_method(
    store: Store,
    scans: Sequence[int],
    device: torch.device,
    method: Method,
    settings: Any,
    found: detection.Settings | None,
) -> Slices | Patches:
    """For pre-training: slices, or patches of volumes where the method works in three dimensions.

    Args:
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``.
        device: Where batches are made.
        method: Says how they are drawn.
        settings: The method's.
        found: The keypoints that its network looks at, if any.
    """
    if method.sampling.patch_px is not None:
        # A method without a choice of geometry cuts patches as they are.
        return Patches(store, scans, device, method.sampling, getattr(settings, "spatial", CROP_ONLY))
    most, descriptors = found.most if found else 0, method.sampling.kind == "neighbours"
    return Slices(store, scans, device, keypoints=most, descriptors=descriptors)


def of_labels(
    store: Store,
    scans: Sequence[int],
    device: torch.device,
    settings: supervised.Settings,
    patch_px: tuple[int, ...] | None,
    keypoints: int,
) -> tuple[Slices | Patches, Sampling]:
    """For fine-tuning: labelled batches, and how they are drawn.

    Args:
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``; all have a label.
        device: Where batches are made.
        settings: Of the objective.
        patch_px: Shape of the patches of a network of three dimensions; None: whole slices.
        keypoints: Of a slice, as many at most.
    """
    if patch_px is None:
        slices = Slices(store, scans, device, with_labels=True, keypoints=keypoints)
        return slices, Sampling(kind="slices", batch_size=min(settings.batch_size, len(slices)))
    sampling = Sampling(
        kind="slices", batch_size=settings.batch_size, patch_px=patch_px, foreground_share=settings.foreground_share
    )
    return Patches(store, scans, device, sampling, settings.spatial, with_labels=True), sampling
