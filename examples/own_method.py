"""A pre-training method of your own in one file.

Every slice is turned by a quarter, a half or not at all, and the encoder is asked how far. In the folder above, `lemis
check-method examples.own_method` tries it, and `lemis fit scans/ --method examples.own_method` trains with it.
"""

from dataclasses import dataclass
from math import log
from typing import final

import torch
import torch.nn.functional as F

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, Sampling, View
from lemis.parts import heads
from lemis.sampling import spatial, views, warping

DIMS = (2,)  # of the networks that it trains
TRAINS = ("encoder",)  # what it teaches of them, and hands on to fine-tuning


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`method.size_px=96` sets one on the command line."""

    batch_size: int = 8  # slices; each is seen three times
    size_px: int = 64  # side of a view; small, for a first look


@final
class Views:
    """A random square of every slice, as it is, turned by a quarter and by a half."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """The three views of each slice, by their number of quarter turns."""
        crop = views.random_view(spatial.CROP_ONLY, batch, self.settings.size_px, rng)
        return {str(turns): warping.quarter_turns(crop, turns) for turns in range(3)}


@final
class Method(contracts.Method):
    """The encoder, and a small head that says which of the three it saw."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__()
        self.sampling = Sampling(kind="slices", batch_size=settings.batch_size)
        self.trains, self.backbone, self.views = TRAINS, backbone, Views(settings)
        self.classify = heads.PooledMLP(backbone.channels[-1], 3)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """One step of training: views, answers, loss."""
        images = torch.cat([view.image for view in self.views(batch, rng).values()])
        answers = self.classify(self.backbone.encode(images)[-1]).float()
        turns = torch.arange(3, device=answers.device).repeat_interleave(len(batch.image))
        return Outcome({"turn": F.cross_entropy(answers, turns)}, uninformed={"turn": log(3)})
