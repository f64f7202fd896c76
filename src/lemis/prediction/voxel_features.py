"""Features of voxels in two dimensions, by structure: Figure 3 of voxel-level Siamese learning (C. E. Lee, M. Chung,
Y.-G. Shin, 2021, https://arxiv.org/abs/2105.07672).

The vectors of one map of the encoder, at cells of each structure in scans that were held out, are projected onto the
two directions in which they vary most (PCA). A network whose features tell structures apart shows a cloud for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from lemis.errors import UsageError
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction.loaded import LoadedRun, load
from lemis.prediction.padding import padded_maps
from lemis.preparation.store import Store, open_store
from lemis.runs.same_scans import refuse_other_scans
from lemis.work_files.run import FinetunedModel, read_model, refuse_modules

MOST_SCANS = 8  # the first of those that were held out; our choice, so that a figure takes seconds
MOST_CELLS = 200  # of a class, evenly spread over these scans; our choice, so that no class hides the others
_AT_ONCE = 16  # slices in one pass


class Cloud(NamedTuple):
    """What one network makes of the cells."""

    run: str
    auxiliary: str | None  # the extra loss that it was trained with
    places: NDArray[np.float64]  # (n, 2) on the two directions, that of most variance first
    label: NDArray[np.int64]  # (n,) class of each
    explained: float  # share of the variance that both directions hold


class Clouds(NamedTuple):
    """What the figure shows."""

    layer: int  # of the encoder, counted from the coarsest map
    scans: tuple[str, ...]
    names: tuple[str, ...]  # of classes, background first
    clouds: tuple[Cloud, ...]


def clouds(
    work: Path, layer: int, *, runs: Sequence[str] = (), device: str = "auto", trust: Trust = NO_TRUST
) -> Clouds:
    """Project the features of fine-tuned networks, each onto directions of its own.

    Args:
        work: A work folder with a prepared store.
        layer: Of the encoder: 1 is the coarsest map, 2 the one above it.
        runs: Names of finished fine-tunings; by default all, by name.
        device: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that runs may name.

    Raises:
        UsageError: No finished fine-tuning, a network without such a layer, no scan that all of them held out, or too
            few cells of structures in that layer.
    """
    store = open_store(work / "prepared")
    models = _models(work, runs)
    for name, model in models.items():
        refuse_modules(work / "runs" / name, model, trust, next=f"lemis report {work} --features {layer} --trust")
        refuse_other_scans(name, model, store, next="name the other runs: --run NAME")
    scans = _held_out(work, store, models, layer)
    loaded = [load(work / "runs" / name, device=device, trust=trust) for name in models]
    found = tuple(_cloud(run, store, scans, layer) for run in loaded)
    return Clouds(layer, tuple(store.scans[scan].id for scan in scans), tuple(store.label_names), found)


def _models(work: Path, runs: Sequence[str]) -> dict[str, FinetunedModel]:
    names = list(runs) or sorted(path.parent.name for path in (work / "runs").glob("*/model.json"))
    models = {name: read_model(work / "runs" / name) for name in names}
    tuned = {name: model for name, model in models.items() if isinstance(model, FinetunedModel)}
    if not tuned or (runs and len(tuned) < len(models)):
        raise UsageError(
            f"features of {', '.join(name for name in models if name not in tuned) or work}",
            allowed="finished fine-tunings, which learned structures",
            next=f"lemis finetune {work}",
        )
    return tuned


def _held_out(work: Path, store: Store, models: dict[str, FinetunedModel], layer: int) -> list[int]:
    """Positions of the first labelled scans that no run has learned from."""
    everywhere = set.intersection(*(set(model.test_subjects) for model in models.values()))
    scans = [i for i, facts in enumerate(store.scans) if facts.labelled and facts.subject in everywhere]
    if not scans:
        raise UsageError(
            f"no labelled scan that {', '.join(models)} all held out",
            allowed="runs of one fold, as what a network learned from says little of it",
            next=f"lemis report {work} --features {layer} --run {next(iter(models))}",
        )
    return scans[:MOST_SCANS]


def _cloud(run: LoadedRun, store: Store, scans: Sequence[int], layer: int) -> Cloud:
    depth = len(run.network.strides)
    if not 1 <= layer <= depth:
        raise UsageError(
            f"--features {layer} of {run.path.name}",
            allowed=f"1 to {depth}: the maps of its encoder, counted from the coarsest",
            next=f"--features {depth}",
        )
    found = [_cells(run, store, scan, layer) for scan in scans]
    vectors, label = (np.concatenate(part) for part in zip(*found, strict=True))
    vectors, label = _some(vectors, label)
    if len(vectors) < 3 or len(np.unique(label)) < 2:
        raise UsageError(
            f"--features {layer} of {run.path.name}: {len(vectors)} cells of {len(np.unique(label))} classes",
            allowed="three cells or more, of two classes",
            next=f"--features {min(layer + 1, depth)}",
        )
    seen = PCA(2, svd_solver="full").fit(vectors)
    assert isinstance(run.model, FinetunedModel), "others are refused"
    share = float(seen.explained_variance_ratio_.sum())
    return Cloud(run.path.name, run.model.auxiliary, seen.transform(vectors), label, share)


@torch.inference_mode()
def _cells(run: LoadedRun, store: Store, scan: int, layer: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vectors (n, C) of all cells of a scan, and the class (n,) of the voxel in the middle of each."""
    image, stored = torch.from_numpy(np.array(store.image(scan))).float(), store.label(scan)
    assert stored is not None, "labelled scans were asked for"
    label = torch.from_numpy(np.array(stored)).long()
    volume = run.network.dims == 3
    images = [image.movedim(1, 0)[None]] if volume else list(image.split(_AT_ONCE))
    features = torch.cat([padded_maps(run.network, one.to(run.device))[-layer].cpu() for one in images])
    middles = in_the_middle(label[None] if volume else label, features.shape[2:], run.network.axis_strides[-layer])
    return features.movedim(1, -1).flatten(0, -2).double().numpy(), middles.flatten().numpy()


def in_the_middle(label: Tensor, cells: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Class (B, *cells) of the voxel in the middle of each cell, that from k * stride on; (B, *space) labels."""
    for axis, (count, stride) in enumerate(zip(cells, strides, strict=True), start=1):
        places = torch.arange(count) * stride + stride // 2
        label = label.index_select(axis, places.clamp(max=label.shape[axis] - 1))
    return label


def _some(vectors: NDArray[np.float64], label: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """At most ``MOST_CELLS`` of each class, evenly spread."""
    rows = [np.flatnonzero(label == value) for value in np.unique(label)]
    taken = [row[np.linspace(0, len(row) - 1, min(MOST_CELLS, len(row))).astype(np.int64)] for row in rows]
    kept = np.concatenate(taken)
    return vectors[kept], label[kept]
