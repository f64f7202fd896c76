"""Pieces of the U-Net: which layers an encoder has, how an image goes through, and which part a key belongs to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemis.errors import UsageError
from lemis.layers import unet


def test_an_encoder_has_four_blocks_and_a_bottleneck() -> None:
    channels = unet.channels_of(3)
    assert channels == (3, 6, 12, 24, 48)
    assert unet.STRIDES == (1, 2, 4, 8, 16)
    levels = unet.encoder(2, channels)
    made = [[conv for conv in level if isinstance(conv, nn.Conv2d)] for level in levels]
    assert [[(conv.in_channels, conv.out_channels) for conv in convs] for convs in made] == [
        [(i, o), (o, o)] for i, o in zip((2, *channels[:-1]), channels, strict=True)
    ]


def test_maps_are_made_one_after_the_other_with_a_pooling_between_two() -> None:
    torch.manual_seed(0)
    levels, x = unet.encoder(1, unet.channels_of(2)), torch.randn(2, 1, 32, 48)
    expected = [levels[0](x)]
    for level in range(1, 5):
        expected.append(levels[level](F.max_pool2d(expected[-1], 2)))
    for got, wanted in zip(unet.encode(levels, x), expected, strict=True):
        assert torch.equal(got, wanted)
    with pytest.raises(UsageError, match="32 x 48"):
        unet.encode(levels, x[..., :30, :40])


def test_an_encoder_that_makes_its_maps_small_itself_has_nothing_between_them() -> None:
    torch.manual_seed(0)
    levels, x = [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 2, stride=2)], torch.randn(2, 1, 10, 12)
    first = levels[0](x)
    for got, wanted in zip(unet.through(levels, x, nn.Identity()), [first, levels[1](first)], strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_a_unet_says_its_sizes_and_starts_as_kaiming_does(slope: float) -> None:
    torch.manual_seed(0)
    encoder = [nn.Conv2d(1, 64, 3), nn.Conv2d(64, 128, 3), nn.Conv2d(128, 256, 3)]
    decoder = [unet.Up(256, 128), unet.Up(128, 64)]

    class Network(unet.UNet):
        def encode(self, x: Tensor) -> list[Tensor]:
            raise NotImplementedError

    network = Network((64, 128, 256), encoder, decoder, nn.Conv2d(64, 2, 1), dims=2, slope=slope)
    assert (network.channels, network.strides) == ((64, 128, 256), (1, 2, 4))
    assert (network.decoder_channels, network.decoder_strides) == ((128, 64), (2, 1))
    assert {key.split(".")[0] for key in network.state_dict()} == {"encoder", "decoder", "head"}
    variance = 2 / (1 + slope**2) / (128 * 9)
    torch.testing.assert_close(encoder[2].weight.var(), torch.tensor(variance), rtol=0.02, atol=0)
    assert encoder[2].bias is not None
    assert not encoder[2].bias.any()


class Joins(nn.Module):
    """Repeats a map, adds the skip, and leaves its own digit."""

    def __init__(self, digit: float) -> None:
        super().__init__()
        self.digit = digit

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return 10 * x.repeat_interleave(2, 2).repeat_interleave(2, 3) + skip + self.digit


@pytest.mark.parametrize(("depth", "expected"), [(0, 5), (1, 50 + 4), (2, 540 + 3 + 0.5), (None, 5435 + 2 + 0.5)])
def test_decoding_joins_the_deepest_skip_first(depth: int | None, expected: float) -> None:
    maps = [torch.full((1, 1, 16 // 2**k, 16 // 2**k), float(k + 2)) for k in range(4)]  # 2, 3, 4, 5
    got = unet.decode(nn.ModuleList([Joins(0), Joins(0.5), Joins(0.5)]), maps, depth)
    assert torch.equal(got, torch.full_like(got, expected))
    assert got.shape[-1] == 2 * 2 ** (3 if depth is None else depth)


def test_keys_belong_to_decoder_blocks_the_head_or_the_encoder() -> None:
    keys = {"encoder.0.1.weight": "encoder", "fusion.2.x": "encoder", "decoder.0.up.bias": "decoder 1",
            "decoder.11.up.bias": "decoder 12", "head.weight": "head", "header.weight": "encoder"}  # fmt: skip
    assert {key: unet.part_of(key) for key in keys} == keys
