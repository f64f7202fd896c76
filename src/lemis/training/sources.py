"""Where batches come from: of a method, and of labels; slices, or patches of volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lemis import files
from lemis.contracts import Method, Sampling
from lemis.preparation import keypoints as detection
from lemis.preparation.store import Store, open_store
from lemis.sampling.patches import Patches
from lemis.sampling.samples import Slices
from lemis.sampling.spatial import CROP_ONLY
from lemis.training import pairing, supervised
from lemis.training.run_settings import Finetuning, Pretraining


def store_for(work: Path, settings: Pretraining | Finetuning) -> tuple[Store, detection.Settings | None]:
    """The prepared scans for a network, and the keypoints of them that it looks at.

    Args:
        work: The work folder.
        settings: Of a run that is to be written to it.

    Raises:
        UsageError: Scans that are not prepared, or not for this network; or a folder that cannot be written to.
    """
    wanted = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    files.require_writable(work / "runs")
    store = open_store(work / "prepared")
    pairing.require_keypoints(store, wanted)
    pairing.require_one_axis(store, settings.dims)
    return store, wanted


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
    *,
    in_pairs: bool = False,
) -> tuple[Slices | Patches, Sampling]:
    """For fine-tuning: labelled batches, and how they are drawn; all rows of an epoch, as PCL and KAF have it.

    Args:
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``; all have a label.
        device: Where batches are made.
        settings: Of the objective.
        patch_px: Shape of the patches of a network of three dimensions; None: whole slices.
        keypoints: Of a slice, as many at most.
        in_pairs: As of ``Sampling``.
    """
    if patch_px is None:
        slices = Slices(store, scans, device, with_labels=True, keypoints=keypoints)
        size = min(settings.batch_size, len(slices))
        return slices, Sampling(kind="slices", batch_size=size, last="keep", in_pairs=in_pairs)
    sampling = Sampling(
        kind="slices", batch_size=settings.batch_size, patch_px=patch_px, foreground_share=settings.foreground_share,
        last="keep", in_pairs=in_pairs,
    )  # fmt: skip
    return Patches(store, scans, device, sampling, settings.spatial, with_labels=True), sampling


def size(source: Slices | Patches, scans: Sequence[int]) -> dict[str, int]:
    """How much a training sees: scans, and their slices where it sees slices."""
    return {"scans": len(scans)} if isinstance(source, Patches) else {"slices": len(source), "scans": len(scans)}


def said(size: Mapping[str, int]) -> str:
    """``120 slices of 12 scans``."""
    return " of ".join(f"{number} {name}" for name, number in size.items())
