"""What a training will take: a few steps of it, timed; and the most memory that a cell has held."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lemis import plugins
from lemis.contracts import Backbone, KeypointBackbone, Sampling
from lemis.data import views
from lemis.data.draw import Rows
from lemis.data.samples import Source
from lemis.data.store import Store
from lemis.engine import launch, pairing, schedule, sources
from lemis.engine.loop import channels_last
from lemis.engine.plan import Finetuning, Pretraining
from lemis.engine.supervised import Objective

STEPS = 3  # that are timed, after one that is not
LONGEST_S = 20.0  # after that no further step is begun
_CLEAR_PEAK = "5"  # proc(5): sets VmHWM to what is held now


class Probe(NamedTuple):
    """Of one training on this machine."""

    seconds: float  # a step
    images: float  # different ones that the network sees in a step
    per_epoch: int  # steps
    slices: int  # or patches, of an epoch
    memory_gb: float | None  # at most, the process in all or on the GPU
    weights_gb: float  # on the disk

    def steps(self, settings: schedule.Settings, slices: int | None = None) -> int:
        """Of a whole training; on other ``slices`` than those of the probe where they are given."""
        epoch = self.per_epoch if slices is None else max(1, round(self.per_epoch * slices / max(1, self.slices)))
        return settings.steps or settings.epochs * epoch


def of_pretraining(store: Store, scans: Sequence[int], settings: Pretraining, device: str) -> Probe:
    """A few steps of a method on these scans, thrown away."""
    fabric = launch.launch(settings.schedule, device, settings.dims)
    torch.manual_seed(0)
    network = _network(settings.backbone, settings.backbone_settings, store)
    method = settings.method_module.Method(network, settings.method_settings)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(name) in method.trains)
    found = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    source = sources.of_method(store, scans, fabric.device, method, settings.method_settings, found)
    return _probe(method, network, source, method.sampling, settings.schedule, fabric)


def of_finetuning(store: Store, scans: Sequence[int], settings: Finetuning, device: str) -> Probe:
    """A few steps of fine-tuning on these labelled scans, thrown away."""
    fabric = launch.launch(settings.schedule, device, settings.dims)
    torch.manual_seed(0)
    network = _network(settings.backbone, settings.backbone_settings, store)
    extra = None
    if settings.auxiliary is not None:
        module = plugins.load("auxiliary", settings.auxiliary)
        extra = module.Auxiliary(network, settings.auxiliary_settings, num_classes=store.num_classes)
    found = pairing.keypoints_of(settings.backbone, settings.backbone_settings)
    patch_px = views.shape_of(settings.objective.size_px, 3) if settings.dims == 3 else None
    most = found.most if found else 0
    source, sampling = sources.of_labels(store, scans, fabric.device, settings.objective, patch_px, most)
    return _probe(Objective(network, settings.objective, extra), network, source, sampling, settings.schedule, fabric)


def _network(name: str, settings: object, store: Store) -> Backbone:
    module = plugins.load("backbones", name)
    network: Backbone = module.Backbone(settings, in_channels=len(store.channels), num_classes=store.num_classes)
    return network


def _probe(
    objective: nn.Module,
    network: Backbone,
    source: Source,
    sampling: Sampling,
    settings: schedule.Settings,
    fabric: Fabric,
) -> Probe:
    reset_peak_memory()
    batches = source.draw(sampling, seed=0, epoch=0)
    inner = channels_last(objective)
    model, optimiser = fabric.setup(inner, schedule.build_optimiser(inner, settings))
    seconds: list[float] = []
    rows = [batches[i % len(batches)] for i in range(1 + STEPS)]
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


# ------------------------------------------------------------------------------------------------------------- memory


def reset_peak_memory() -> bool:
    """From here on ``peak_memory_gb`` counts anew; whether it does, which only Linux can, where nobody forbids it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform != "linux":
        return False
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # or what an earlier cell has freed would count
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory_gb() -> float | None:
    """The most held since ``reset_peak_memory``: on the GPU where it was used, else by the process; 10^9 bytes.

    Returns:
        None where the system does not tell it.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else round(int(peak.split()[1]) * 1024 / 1e9, 2)
