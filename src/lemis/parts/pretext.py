"""A pretext task: what a network learns without labels from the views that it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lemis import contracts
from lemis.contracts import Sampling, View


class HowPretext(Protocol):
    """What ``Pretext`` reads of a method's settings."""

    @property
    def batch_size(self) -> int:
        """Slices or patches."""


How = TypeVar("How", bound=HowPretext)
Seen = TypeVar("Seen", bound=Callable[..., Mapping[str, View]])


class Pretext(contracts.Method, Generic[How, Seen]):
    """A method with a network, its settings and its views; heads come after them, and ``forward`` is the task.

    Args:
        backbone: What is pre-trained.
        settings: Of the method.
        views: What the network is shown of a batch, made from these settings.
        trains: Parts of the network that get a gradient and are worth transferring.
        patch_px: As of ``Sampling``.
        sampling: How batches are drawn; slices, or patches of ``patch_px``, shuffled over all scans by default.
    """

    def __init__(
        self,
        backbone: contracts.Backbone,
        settings: How,
        views: Seen,
        *,
        trains: tuple[str, ...],
        patch_px: tuple[int, ...] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        assert patch_px is None or sampling is None, "of one's own sampling, patches are a part"
        self.settings = settings
        self.sampling = sampling or Sampling(kind="slices", batch_size=settings.batch_size, patch_px=patch_px)
        self.trains = trains
        self.views = views
        self.backbone = backbone


def together(views: Mapping[str, View]) -> Tensor:
    """All V views of N rows as one batch (V N, C, *out), those of the first name before those of the second.

    What goes through a network together is normalised together.
    """
    return torch.cat([view.image for view in views.values()])
