"""Mirror images of one network: averaged as logits, and put back where they were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lemis.contracts import Backbone, KeypointBackbone
from lemis.prediction.mirroring import mean_logits, turns


class _Network(Backbone):
    channels, strides = (1,), (1,)
    decoder_channels, decoder_strides = (1,), (1,)

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def part_of(self, parameter_name: str) -> str:
        return "head"


class Even(_Network):
    """A convolution with an even kernel, to which a mirror image is as good as the image."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims
        kernel = torch.randn(2, 1, *[3] * dims, generator=torch.Generator().manual_seed(0))
        for axis in range(2, 2 + dims):
            kernel = (kernel + kernel.flip(axis)) / 2
        self.kernel, self.convolve = kernel, nn.functional.conv2d if dims == 2 else nn.functional.conv3d
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.convolve(x, self.kernel, padding=1)


class Stated(_Network):
    """Logits of 4 for the first class where the first pixel of a row is bright, and of -1 where it is not."""

    dims = 2

    def forward(self, x: Tensor) -> Tensor:
        first = torch.where(x[:, :, :, :1] > 0, 4.0, -1.0).expand(-1, -1, -1, x.shape[3])
        return torch.cat([first, torch.zeros_like(first)], 1)


class Pointed(KeypointBackbone, _Network):
    """The logits of the second class are 1 where the keypoints are that it was given."""

    dims = 2
    keypoint_channels, most_keypoints = (1,), 2

    def __init__(self) -> None:
        super().__init__()
        self.finds = 0

    def find(self, x: Tensor) -> Tensor:
        self.finds += 1
        return torch.tensor([[[1.0, 2.0], [torch.nan, torch.nan]]]).expand(len(x), 2, 2)

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        return [x], []

    def encode(self, x: Tensor, keypoints: Tensor | None = None) -> list[Tensor]:
        return [x]

    def forward(self, x: Tensor, keypoints: Tensor | None = None) -> Tensor:
        assert keypoints is not None
        logits = torch.zeros(len(x), 2, *x.shape[2:])
        row, col = keypoints[0, 0].long().tolist()
        assert keypoints[0, 1].isnan().all()
        logits[:, 1, row, col] = 1
        return logits


def test_every_combination_of_axes_once_and_none_first() -> None:
    assert turns(()) == [()]
    assert turns((0, 1)) == [(), (0,), (1,), (0, 1)]
    assert len(set(turns((0, 1, 2)))) == 8


@pytest.mark.parametrize(("dims", "size"), [(2, (7, 10)), (3, (5, 6, 9))])
def test_a_network_to_which_mirror_images_are_alike_says_the_same(dims: int, size: tuple[int, ...]) -> None:
    network, image = Even(dims), torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    before = image.clone()
    found = mean_logits(network, image, range(dims))
    assert network.seen == 2**dims
    torch.testing.assert_close(found, mean_logits(network, image, ()), atol=1e-5, rtol=0)
    assert torch.equal(image, before)


def test_it_is_the_logits_that_are_averaged() -> None:
    image = torch.tensor([[[[1.0, 0.0]]]])  # logits (4, 0) as it lies, (-1, 0) mirrored
    found = mean_logits(Stated(), image, (1,)).softmax(1)[0, 0, 0]
    torch.testing.assert_close(found, torch.full((2,), 0.8176), atol=1e-4, rtol=0)  # sigmoid(1.5)
    one, other = torch.tensor([4.0, 0.0]).softmax(0)[0], torch.tensor([-1.0, 0.0]).softmax(0)[0]
    assert float((one + other) / 2) == pytest.approx(0.6255, abs=1e-4), "what probabilities would give"


def test_without_axes_they_are_the_network_s_own() -> None:
    network, image = Even(2), torch.randn(1, 1, 6, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(mean_logits(network, image, ()), network(image))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_keypoints_are_found_once_and_mirrored_with_the_image(axes: tuple[int, ...]) -> None:
    network = Pointed()
    found = mean_logits(network, torch.zeros(1, 1, 4, 6), axes)[0, 1]
    assert network.finds == 1
    assert found.nonzero().tolist() == [[1, 2]]
    assert float(found[1, 2]) == 1.0
