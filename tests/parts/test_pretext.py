"""What a method holds before its heads, and views that go through a network together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, Sampling, View
from lemis.layers import unet
from lemis.parts.momentum import MomentumPair, follower
from lemis.parts.pretext import Pretext, together
from lemis.sampling.draw import Rows
from lemis.sampling.geometries import identity


@dataclass(frozen=True, kw_only=True)
class Settings:
    batch_size: int = 6
    momentum: float = 0.75


class Views(contracts.Views[Settings]):
    """The image, and minus the image."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        here = identity(len(batch.image), batch.image.shape[2:])
        return {"first": View(batch.image, here), "second": View(-batch.image, here)}


@final
class Network(unet.UShaped):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.decoder, self.head = nn.Conv2d(1, 2, 1), nn.ModuleList([nn.Identity()]), nn.Identity()
        self.dims, self.channels, self.strides = 2, (2, 2), (1, 1)
        self.decoder_channels, self.decoder_strides = (2,), (1,)

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x, self.layer(x)]


class Idea(Pretext[Settings, Views]):
    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        z = self.backbone.encode(together(self.views(batch, rng)))[-1]
        return Outcome({"mean": z.mean()})


def made(**given: Any) -> Idea:
    settings = Settings()
    return Idea(Network(), settings, Views(settings), trains=("encoder",), **given)


def test_a_method_says_what_it_was_built_of() -> None:
    method = made()
    assert isinstance(method.views, Views)
    assert method.views.settings is method.settings
    assert method.trains == ("encoder",)
    assert [key for key, _ in method.named_children()] == ["backbone"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sampling(kind="slices", batch_size=6)),
        ({"patch_px": (4, 5, 6)}, Sampling(kind="slices", batch_size=6, patch_px=(4, 5, 6))),
        ({"sampling": Sampling(kind="groups", batch_size=3)}, Sampling(kind="groups", batch_size=3)),
    ],
)
def test_slices_are_drawn_unless_it_says_otherwise(given: dict[str, Any], expected: Sampling) -> None:
    assert made(**given).sampling == expected


def batch() -> Batch:
    rows = torch.arange(3)
    return Batch(image=torch.randn(3, 1, 4, 5), index=rows, scan=rows, subject=rows, position=(rows + 1) / 3,
                 spacing_mm=torch.ones(3, 2))  # fmt: skip


def test_all_rows_of_a_view_come_before_those_of_the_next() -> None:
    method, given = made(), batch()
    assert torch.equal(together(method.views(given, Rows(0, 0, "cpu"))), torch.cat([given.image, -given.image]))
    loss = method(given, Rows(0, 0, "cpu")).losses["mean"]
    assert loss.requires_grad


def test_the_whole_network_but_its_head() -> None:
    assert unet.all_parts(Network()) == ("encoder", "decoder 1")


@final
class Keys(MomentumPair[Settings, Views]):
    def __init__(self, settings: Settings) -> None:
        super().__init__(Network(), settings, Views(settings), trains=("encoder",))
        self.project = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        self.slow_backbone, self.slow_project = follower(self.backbone), follower(self.project)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        return Outcome({"key": self.key(batch.image).mean()})


def test_keys_are_those_of_the_copies_which_follow_after_each_step() -> None:
    torch.manual_seed(0)
    method, image = Keys(Settings()), batch().image
    before = {key: value.clone() for key, value in method.state_dict().items()}
    expected = method.project(method.backbone.encode(image)[-1])
    with torch.no_grad():
        for leader in (method.backbone, method.project):
            for parameter in leader.parameters():
                parameter += 1
    key = method.key(image)
    assert not key.requires_grad
    torch.testing.assert_close(key, expected.detach())
    method.after_step(0.5)
    for name, value in method.state_dict().items():
        moved = 0.25 if name.startswith("slow_") else 1.0
        torch.testing.assert_close(value, before[name] + moved)
