"""What is trained: a network, and the method or the labelled objective that trains it. Seed PyTorch before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

from lemis import plugins
from lemis.contracts import Backbone, Method, Semi
from lemis.preparation.store import Store
from lemis.runs.device import chosen_device
from lemis.settings import plain
from lemis.training import guards, launch
from lemis.training.averaged import Averaged
from lemis.training.deep_supervision import DeepSupervision
from lemis.training.run_settings import Finetuning, Pretraining
from lemis.training.supervised import Objective

Tuned = Objective | Semi | Averaged  # what the loop trains in fine-tuning; ``predicts`` is kept


class Prepared(Protocol):
    """As much of a ``preparation.store.Store`` as networks and losses depend on."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Of the images, by name."""

    @property
    def num_classes(self) -> int:
        """Background included."""


class Foreseen(NamedTuple):
    """What a store will hold, before anything is prepared."""

    channels: tuple[str, ...]
    num_classes: int

    @classmethod
    def of(cls, channels: tuple[str, ...], values: Iterable[int]) -> Foreseen:
        """From the channels and the values of labels that ``check`` lists; 0 is background, whether listed or not."""
        return cls(channels, 1 + sum(value != 0 for value in values))


def try_out(
    before: Pretraining | None, tuning: Finetuning, store: Prepared, device: str, second: Pretraining | None = None
) -> None:
    """Build all that ``fit`` trains and let it go again: what any part refuses is refused before hours of work.

    Args:
        before: The pre-training, if any.
        tuning: The fine-tuning after it.
        store: What will be trained on.
        device: As the user gave it.
        second: The pre-training of a second network, where that has one of its own.

    Raises:
        UsageError: A network, method or extra loss that refuses the others or the data, or a batch or precision that
            cannot be had here.
    """
    processor = chosen_device(device)
    for settings, prefix in ((before, "pretrain."), (second, "pretrain."), (tuning, "finetune.")):
        if settings is not None:
            launch.precision(settings.schedule, processor, settings.dims, prefix)
    objective(tuning, network(tuning, store), store)
    guards.refuse_batch(tuning.objective.batch_size, tuning.schedule.accumulate, 1, "finetune.")
    for pretraining in (before, second):
        if pretraining is not None:
            built = method(pretraining, network(pretraining, store))
            guards.refuse_batch(built.sampling.batch_size, pretraining.schedule.accumulate, 1, "pretrain.")


def network(settings: Pretraining | Finetuning, store: Prepared) -> Backbone:
    """With random weights, for the channels and structures of a store."""
    module = plugins.load("backbones", settings.backbone)
    built: Backbone = module.Backbone(
        settings.backbone_settings, in_channels=len(store.channels), num_classes=store.num_classes
    )
    return built


def described(settings: Pretraining | Finetuning, store: Store) -> dict[str, Any]:
    """Fields of a run's ``Model``, of whatever kind it is: what the network is, and what its scans were."""
    return {
        "version": 1, "backbone": settings.backbone, "backbone_settings": plain(settings.backbone_settings),
        "channels": tuple(store.channels), "label_names": tuple(store.label_names),
        "label_values": tuple(store.label_values), "prepared": plain(store.settings), "frame": store.frame,
    }  # fmt: skip


def method(settings: Pretraining, backbone: Backbone) -> Method:
    """On a network, of which only what the method trains asks for gradients from here on.

    Raises:
        UsageError: The method refuses the network.
    """
    built: Method = settings.method_module.Method(backbone, settings.method_settings)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(backbone.part_of(name) in built.trains)
    return built


def objective(
    settings: Finetuning, backbone: Backbone, store: Prepared, another: Callable[[], Backbone] | None = None
) -> Tuned:
    """The loss of fine-tuning on a network, with the extra loss or the way to use unlabelled scans that is named, and
    the average of its weights where there is one.

    Args:
        settings: Of fine-tuning.
        backbone: The network.
        store: What will be trained on.
        another: Begins a second network as the first one was, for a way that trains two; by default from random
            weights.
    """
    inner = _objective(settings, backbone, store, another or partial(network, settings, store))
    return Averaged(inner, settings.schedule.average) if settings.schedule.average > 0 else inner


def _objective(
    settings: Finetuning, backbone: Backbone, store: Prepared, another: Callable[[], Backbone]
) -> Objective | Semi:
    if settings.semi is not None:
        labelled = Objective(backbone, settings.objective, None, another)
        way: Semi = plugins.load("semi", settings.semi).Semi(labelled, settings.semi_settings)
        return way
    extra = None
    if settings.auxiliary is not None:
        module = plugins.load("auxiliary", settings.auxiliary)
        extra = module.Auxiliary(backbone, settings.auxiliary_settings, num_classes=store.num_classes)
    deep = DeepSupervision(backbone, store.num_classes) if settings.objective.deep_supervision else None
    return Objective(backbone, settings.objective, extra, deep=deep)
