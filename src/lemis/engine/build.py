"""What is trained: a network, and the method or the labelled objective that trains it. Seed PyTorch before."""

from __future__ import annotations

from lemis import plugins
from lemis.contracts import Backbone, Method
from lemis.data.store import Store
from lemis.engine.plan import Finetuning, Pretraining
from lemis.engine.supervised import Objective


def network(settings: Pretraining | Finetuning, store: Store) -> Backbone:
    """With random weights, for the channels and structures of a store."""
    module = plugins.load("backbones", settings.backbone)
    built: Backbone = module.Backbone(
        settings.backbone_settings, in_channels=len(store.channels), num_classes=store.num_classes
    )
    return built


def method(settings: Pretraining, backbone: Backbone) -> Method:
    """On a network, of which only what the method trains asks for gradients from here on.

    Raises:
        UsageError: The method refuses the network.
    """
    built: Method = settings.method_module.Method(backbone, settings.method_settings)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(backbone.part_of(name) in built.trains)
    return built


def objective(settings: Finetuning, backbone: Backbone, store: Store) -> Objective:
    """The loss of fine-tuning on a network, with the extra loss if the settings name one."""
    if settings.auxiliary is None:
        return Objective(backbone, settings.objective, None)
    module = plugins.load("auxiliary", settings.auxiliary)
    extra = module.Auxiliary(backbone, settings.auxiliary_settings, num_classes=store.num_classes)
    return Objective(backbone, settings.objective, extra)
