"""The fine-tuning objective: what it gives a network with keypoint layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lemis.contracts import Batch, KeypointBackbone
from lemis.data import views
from lemis.data.draw import Rows
from lemis.engine.supervised import Objective, Settings
from lemis.errors import UsageError
from lemis.settings import resolve


class Remembers(KeypointBackbone):
    """A network that remembers the keypoints that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.channels, self.strides = 2, (2,), (1,)
        self.decoder_channels, self.decoder_strides = (), ()
        self.keypoint_channels, self.most_keypoints = (2,), 99
        self.layer = nn.Conv2d(1, 2, 1)
        self.given: list[Tensor | None] = []

    def find(self, x: Tensor) -> Tensor:
        raise AssertionError("the batch has keypoints")

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        return [self.layer(x)], []

    def encode(self, x: Tensor, keypoints: Tensor | None = None) -> list[Tensor]:
        return [self.layer(x)]

    def decode(self, maps: object, depth: int | None = None) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, keypoints: Tensor | None = None) -> Tensor:
        self.given.append(keypoints)
        logits: Tensor = self.layer(x)
        return logits

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
    still = views.Spatial(p_mirror=0, p_spatial=0)
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
