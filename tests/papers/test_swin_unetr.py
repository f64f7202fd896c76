"""Swin UNETR: cut into an encoder and a decoder, it is still MONAI's network."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SwinUNETR

from lemis.backbones import swin_unetr
from lemis.errors import UsageError
from lemis.settings import resolve


def network(dims: int, **settings: object) -> swin_unetr.Backbone:
    torch.manual_seed(0)
    small = {"dims": dims, "feature_size": 12, "window": 3}
    return swin_unetr.Backbone(resolve(swin_unetr.Settings, small, settings), in_channels=1, num_classes=3)


@pytest.mark.parametrize(("dims", "shape"), [(2, (64, 96)), (3, (64, 32, 32))])
def test_it_is_monais_network(dims: int, shape: tuple[int, ...]) -> None:
    ours = network(dims)
    torch.manual_seed(0)
    theirs = SwinUNETR(in_channels=1, out_channels=3, feature_size=12, window_size=3, spatial_dims=dims)
    x = torch.randn(2, 1, *shape)
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_the_published_size() -> None:
    settings = swin_unetr.Settings(dims=3)
    built = swin_unetr.Backbone(settings, in_channels=4, num_classes=3)
    assert sum(p.numel() for p in built.parameters()) == 62_191_941  # 62.19 M, of the BraTS network


def test_in_3d_the_maps_are_as_announced() -> None:
    built = network(3)
    x = torch.randn(1, 1, 32, 64, 32)
    with torch.inference_mode():
        maps = built.encode(x)
        for found, width, stride in zip(maps, built.channels, built.strides, strict=True):
            assert found.shape == (1, width, *(side // stride for side in x.shape[2:]))
        for depth, (width, stride) in enumerate(zip(built.decoder_channels, built.decoder_strides, strict=True), 1):
            assert built.decode(maps, depth).shape == (1, width, *(side // stride for side in x.shape[2:]))
    assert maps[0] is x


def test_it_can_be_built_without_weights() -> None:
    with torch.device("meta"):
        built = network(2)
    assert {p.device.type for p in built.parameters()} == {"meta"}


@pytest.mark.parametrize(("shape", "cure"), [((32, 32), "32 x 64"), ((40, 70), "64 x 96"), ((20, 32), "32 x 64")])
def test_sizes_without_a_cell_to_compare_are_refused(shape: tuple[int, int], cure: str) -> None:
    with pytest.raises(UsageError, match=f"to {cure}"):
        network(2)(torch.zeros(1, 1, *shape))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 12"):
        resolve(swin_unetr.Settings, {"feature_size": 16})
    with pytest.raises(UsageError, match="5 heads for 24 channels"):
        network(2, heads=[3, 5, 12, 24])
    with pytest.raises(UsageError, match="depths"):
        resolve(swin_unetr.Settings, {"depths": [2, 2, 2]})
