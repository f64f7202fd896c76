"""The fine-tuning objective: what it gives a network with keypoint layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from lemis import plugins
from lemis.contracts import Auxiliary, Batch, Draw, KeypointBackbone, Outcome
from lemis.errors import UsageError
from lemis.parts.overlap import soft_dice_loss
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Size, Spatial, shape_of
from lemis.settings import resolve
from lemis.training.supervised import Objective, Settings


class Remembers(KeypointBackbone):
    """A network that remembers the keypoints that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.channels, self.strides = 2, (2,), (1,)
        self.decoder_channels, self.decoder_strides = (), ()
        self.keypoint_channels, self.most_keypoints = (2,), 99
        self.layer, self.head = nn.Conv2d(1, 2, 1), nn.Identity()
        self.given: list[Tensor | None] = []

    def find(self, x: Tensor) -> Tensor:
        raise AssertionError("the batch has keypoints")

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        return [self.layer(x)], []

    def encode(self, x: Tensor, keypoints: Tensor | None = None) -> list[Tensor]:
        self.given.append(keypoints)
        return [self.layer(x)]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def forward(self, x: Tensor, keypoints: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def part_of(self, parameter_name: str) -> str:
        return "encoder"


def given(share: tuple[float, float], step: int = 0) -> Tensor:
    numbers = torch.arange(4)
    batch = Batch(
        image=torch.randn(4, 1, 32, 32), index=numbers, scan=numbers, subject=numbers, position=(numbers + 1) / 4,
        spacing_mm=torch.ones(4, 2), label=torch.zeros(4, 32, 32, dtype=torch.int64),
        keypoints=torch.rand(4, 1000, 2, generator=torch.Generator().manual_seed(0)) * 31,
    )  # fmt: skip
    network = Remembers()
    still = Spatial(p_mirror=0, p_spatial=0)
    Objective(network, Settings(size_px=32, spatial=still, keypoint_share=share))(batch, Rows(0, step, "cpu"))
    (keypoints,) = network.given
    assert keypoints is not None
    assert batch.keypoints is not None
    kept = ~keypoints.isnan().any(-1)
    torch.testing.assert_close(keypoints[kept], batch.keypoints[kept])
    return kept.float().mean(1)


def test_a_random_share_of_the_keypoints_of_each_view() -> None:
    assert given((1.0, 1.0)).tolist() == [1.0] * 4
    assert given((0.0, 0.0)).tolist() == [0.0] * 4
    assert given((0.5, 0.5)).sub(0.5).abs().max() < 0.06
    spread = torch.stack([given((0.2, 0.8), step) for step in range(20)]).flatten()
    assert spread.min() < 0.35
    assert spread.max() > 0.65
    assert torch.equal(given((0.2, 0.8), 3), given((0.2, 0.8), 3))


def test_a_share_is_written_low_high() -> None:
    with pytest.raises(UsageError, match="low <= high"):
        resolve(Settings, {"keypoint_share": [0.9, 0.1]})


def labelled_batch(*space: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(2)
    return Batch(
        image=torch.randn(2, 1, *space, generator=generator), index=numbers, scan=numbers, subject=numbers,
        position=(numbers + 1) / 2, spacing_mm=torch.ones(2, len(space)),
        label=torch.randint(3, (2, *space), generator=generator),
    )  # fmt: skip


@final
class Counts(Auxiliary):
    """A loss that is the mean of the deepest map, and remembers what it was given."""

    def forward(self, maps: Sequence[Tensor], label: Tensor, logits: Tensor, rng: Draw) -> Outcome:
        self.given = maps, label, logits
        return Outcome({"count": maps[-1].mean()}, {"deepest": maps[-1].detach().flatten(1)})


@pytest.mark.parametrize(
    ("loss", "terms"),
    [
        ("cross_entropy", {"cross_entropy"}),
        ("dice_and_cross_entropy", {"cross_entropy", "dice"}),
        ("dice_squared", {"dice"}),
    ],
)
@pytest.mark.parametrize(("backbone", "size"), [("unet2d", 32), ("unet3d", (16, 16, 32))])
def test_losses_and_the_auxiliary_loss_beside_them(loss: Any, terms: set[str], backbone: str, size: Size) -> None:
    module = plugins.load("backbones", backbone)
    torch.manual_seed(0)
    network = module.Backbone(resolve(module.Settings, {"base_width": 4}), in_channels=1, num_classes=3)
    settings = Settings(size_px=size, loss=loss, spatial=Spatial(p_mirror=0, p_spatial=0, crop="centre"))
    shape = shape_of(size, network.dims)
    batch = labelled_batch(*shape)
    plain = Objective(network, settings)(batch, Rows(0, 0, "cpu"))
    assert plain.losses.keys() == terms
    logits = network(batch.image)
    assert batch.label is not None
    if loss == "dice_squared":
        expected = soft_dice_loss(logits, batch.label, squared=True, background=True)
        torch.testing.assert_close(plain.losses["dice"], expected)
    else:
        torch.testing.assert_close(
            plain.losses["cross_entropy"], torch.nn.functional.cross_entropy(logits, batch.label)
        )
    extra = Counts()
    both = Objective(network, settings, extra)(batch, Rows(0, 0, "cpu"))
    assert both.losses.keys() == {*terms, "count"}
    assert both.embeddings.keys() == {"deepest"}
    maps, label, seen = extra.given
    assert [m.shape[1] for m in maps] == list(network.channels)
    assert torch.equal(label, batch.label)
    torch.testing.assert_close(seen, logits)
