"""How long a training takes and how much memory: a few steps of it, measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lemis import plugins
from lemis.contracts import Backbone, KeypointBackbone, Sampling
from lemis.preparation.store import Store
from lemis.runs.memory import peak_memory_gb, reset_peak_memory
from lemis.sampling.draw import Rows
from lemis.sampling.samples import Source
from lemis.sampling.spatial import shape_of
from lemis.training import beside, build, guards, launch, paired, pairing, schedule, sources
from lemis.training.loop import channels_last
from lemis.training.run_settings import Finetuning, Pretraining

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STEPS = 3  # that are timed, after one that is not
LONGEST_S = 20.0  # after that no further step is begun


class Probe(NamedTuple):
    """What one training takes on this machine."""

    seconds: float  # a step
    images: float  # different ones that the network sees in a step
    per_epoch: int  # steps
    slices: int  # or patches, of an epoch
    memory_gb: float | None  # at most, the process in all or on the GPU
    weights_gb: float  # on the disk

    def steps(self, settings: schedule.Settings, per_epoch: int | None = None) -> int:
        """Steps of a whole training; of one with other epochs where ``per_epoch`` is given."""
        return settings.steps or settings.epochs * (self.per_epoch if per_epoch is None else per_epoch)


def of_pretraining(store: Store, scans: Sequence[int], settings: Pretraining, device: str) -> Probe:
    """Try a few steps of a method on these scans; the weights are thrown away."""
    fabric = launch.launch(settings.schedule, device, settings.dims)
    torch.manual_seed(0)
    network = build.network(settings, store)
    method = build.method(settings, network)
    found = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    source = sources.of_method(store, scans, fabric.device, method, settings.method_settings, found)
    return _probe(method, network, source, method.sampling, settings.schedule, fabric)


def of_finetuning(store: Store, scans: Sequence[int], settings: Finetuning, device: str) -> Probe:
    """Try a few steps of fine-tuning on these labelled scans; the weights are thrown away."""
    fabric = launch.launch(settings.schedule, device, settings.dims)
    torch.manual_seed(0)
    network = build.network(settings, store)
    found = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    patch_px = shape_of(settings.objective.size_px, 3) if settings.dims == 3 else None
    most = found.most if found else 0
    source, sampling = sources.of_labels(
        store, scans, fabric.device, settings.objective, patch_px, most, in_pairs=settings.semi is not None
    )
    objective = build.objective(settings, network, store)
    # What a step takes does not depend on which scans lie beside the labelled ones: here all the others, or the same.
    # Where those have label maps of a teacher, they are the labelled ones: no other label is opened.
    taught = store if beside.is_taught(settings.semi, plugins.load) else None
    others = [i for i in range(len(store.scans)) if i not in set(scans)] or list(scans)
    pairs: Source = source
    if settings.semi is not None:
        pool = others if taught is None else list(scans)
        pairs = paired.with_pool(source, pool, settings.objective, sampling, most, taught)
    objective.after_step(0.5)
    return _probe(objective, network, pairs, sampling, settings.schedule, fabric)


def _probe(
    objective: nn.Module,
    network: Backbone,
    source: Source,
    sampling: Sampling,
    settings: schedule.Settings,
    fabric: Fabric,
) -> Probe:
    reset_peak_memory()
    batches = guards.shareable(source.draw(sampling, seed=0, epoch=0), sampling, settings.accumulate, 1)
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    inner = channels_last(objective)
    model, optimiser = fabric.setup(inner, schedule.build_optimiser(inner, settings))
    seconds: list[float] = []
    rows = [whole[i % len(whole)] for i in range(1 + STEPS)]
    with _seen(type(network)) as images:
        begun = time.perf_counter()
        for step, batch in enumerate(source.stream(rows)):
            outcome = model(batch, Rows(0, step, fabric.device, 0, 1))
            fabric.backward(torch.stack(list(outcome.losses.values())).sum())
            optimiser.step()
            optimiser.zero_grad()
            if fabric.device.type == "cuda":
                torch.cuda.synchronize(fabric.device)
            ended = time.perf_counter()
            seconds.append(ended - begun)
            begun = ended
            if step > 0 and sum(seconds) > LONGEST_S:
                break
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return Probe(
        float(np.median(seconds[1:])), len(images) / len(seconds), len(batches), sum(map(len, batches)),
        peak_memory_gb(), weights / 1e9,
    )  # fmt: skip


@contextmanager
def _seen(kind: type[Backbone]) -> Iterator[set[float]]:
    """Collects a number for each different image that networks of a kind are given: copies of them see the same ones.

    The number is a random projection of the image, which its turned or mirrored copy does not share.
    """
    found: set[float] = set()
    names = ["encode", *(["encode_keypoints"] if issubclass(kind, KeypointBackbone) else [])]
    before = {name: getattr(kind, name) for name in names}
    projections: dict[int, Tensor] = {}

    def watched(name: str) -> object:
        def call(self: Backbone, x: Tensor, *more: object, **named: object) -> object:
            flat = x.detach().flatten(1).float()
            if flat.shape[1] not in projections:
                generator = torch.Generator().manual_seed(0)
                projections[flat.shape[1]] = torch.randn(flat.shape[1], generator=generator).to(flat.device)
            found.update(float(f"{value:.4g}") for value in (flat * projections[flat.shape[1]]).sum(1).tolist())
            return before[name](self, x, *more, **named)

        return call

    try:
        for name in names:
            setattr(kind, name, watched(name))
        yield found
    finally:
        for name in names:
            setattr(kind, name, before[name])
