"""The KAF network (Yang et al., NeurIPS 2023): its parameters, and that a prediction is of one image and its points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.backbones import fcn, kaf_unet
from lemis.errors import UsageError
from lemis.settings import resolve

NAN = float("nan")
UNUSED = 65_793  # last projection and bin score of each layer, which the reference carries and never uses


def count(base_width: int, classes: int, **settings: Any) -> int:
    with torch.device("meta"):
        built = kaf_unet.Backbone(
            kaf_unet.Settings(base_width=base_width, **settings), in_channels=1, num_classes=classes
        )
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    ("pairs", "narrow", "wide"),
    [
        (3, 45_403_396, 80_482_756),
        (6, 61_199_620, 96_278_980),
        (8, 71_730_436, 106_809_796),
        (9, 76_995_844, 112_075_204),
    ],
)
def test_the_papers_parameter_counts(pairs: int, narrow: int, wide: int) -> None:
    assert count(32, 8, pairs=pairs) + 4 * UNUSED == narrow
    assert count(48, 4, pairs=pairs) + 4 * UNUSED == wide


def test_without_layers_it_is_the_papers_widened_unet() -> None:
    assert count(32, 8, levels=()) == 27_911_328
    assert count(48, 4, levels=()) == 62_790_768


def network(module: Any, **settings: Any) -> Any:
    """Small, in float64, with running statistics of its own."""
    torch.manual_seed(0)
    defaults = {"base_width": 4, "keypoint_width": 16, "pairs": 1, "heads": 2, "levels": (1, 2, 3, 4)}
    built = module.Backbone(resolve(module.Settings, defaults, settings), in_channels=1, num_classes=3).double()
    for layer in built.modules():
        if hasattr(layer, "running_mean"):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return built.eval()


def images(rows: int) -> tuple[Tensor, Tensor]:
    """Images of 48 x 32 pixels and up to twelve keypoints, some of them in one cell at the coarser levels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, 48, 32, generator=generator, dtype=torch.float64)
    keypoints = (torch.rand(rows, 12, 2, generator=generator) * torch.tensor([48, 32])).floor()
    keypoints[0, 7:] = NAN
    keypoints[:, 1] = keypoints[:, 0] + 1  # at most strides in the cell of its neighbour
    return x, keypoints


@pytest.mark.parametrize("module", [kaf_unet, fcn])
def test_a_prediction_is_of_one_image_and_the_set_of_its_points(module: Any) -> None:
    built = network(module)
    x, keypoints = images(3)
    with torch.no_grad():
        expected = built(x, keypoints)
        shuffled = built(x, keypoints[:, torch.randperm(12)])
        padded = built(x, torch.cat([keypoints, torch.full((3, 9, 2), NAN)], 1))
        alone = torch.cat([built(x[k : k + 1], keypoints[k : k + 1]) for k in range(3)])
        moved = built(x, keypoints + 3)
    for other in (shuffled, padded, alone):
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-9)
    assert (moved - expected).abs().max() > 1e-3, "the points are looked at"


@pytest.mark.parametrize("module", [kaf_unet, fcn])
def test_only_the_first_points_are_used(module: Any) -> None:
    built = network(module, keypoints={"most": 5})
    x, keypoints = images(2)
    assert torch.equal(built(x, keypoints), built(x, keypoints[:, :5]))


@pytest.mark.parametrize("module", [kaf_unet, fcn])
@pytest.mark.parametrize("points", [0, 1])
def test_trains_on_a_batch_with_no_point_and_with_one(module: Any, points: int) -> None:
    built = network(module).train()
    x, keypoints = images(2)
    keypoints[:, points:] = NAN
    keypoints[1] = NAN
    built(x, keypoints).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("module", [kaf_unet, fcn])
def test_finds_its_own_points_where_none_are_given(module: Any) -> None:
    built = network(module)
    rows, cols = torch.meshgrid(torch.arange(48), torch.arange(32), indexing="ij")
    disc = ((rows - 20) ** 2 + (cols - 15) ** 2 < 40).double()
    x = torch.stack([disc, torch.zeros(48, 32)])[:, None].double()
    keypoints = built.find(x)
    assert keypoints.shape[2] == 2
    assert not keypoints[0, 0].isnan().any(), "a disc has keypoints"
    assert keypoints[1].isnan().all(), "a constant slice has none"
    assert torch.equal(built(x), built(x, keypoints))


def test_keypoint_features_are_those_of_the_layers() -> None:
    built = network(kaf_unet, levels=[2, 4])
    x, keypoints = images(2)
    maps, features = built.encode_keypoints(x, keypoints)
    assert [m.shape[1] for m in maps] == [8, 16, 32, 64, 128]
    assert [f.shape for f in features] == [(2, 12, 16)] * 2
    assert built.keypoint_channels == (16, 16)
    assert features[0][0, 7:].abs().max() == 0
    half = maps[0].shape[1] // 2
    assert torch.equal(maps[0][:, :half], maps[0][:, half:]), "a level without the layer is laid beside itself"


@pytest.mark.parametrize(("module", "level"), [(kaf_unet, 5), (fcn, 6), (kaf_unet, 0)])
def test_a_level_that_does_not_exist_is_refused(module: Any, level: int) -> None:
    with pytest.raises(UsageError, match="are 1"):
        resolve(module.Settings, {"levels": [level]})


def test_fcn_begins_as_bilinear_upsampling() -> None:
    built = network(fcn, levels=[])
    scores = torch.randn(1, 3, 6, 5, dtype=torch.float64)
    up = torch.nn.functional.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(built.head(scores)[..., 4:-4, 4:-4], up[..., 4:-4, 4:-4])


def test_places_may_be_measured_in_pixels_of_one_size_of_image() -> None:
    x, keypoints = images(2)
    own, fixed, other = (network(kaf_unet, place_px=pixels) for pixels in (None, 48, 96))
    assert torch.equal(own(x, keypoints), fixed(x, keypoints)), "48 is the longer side"
    assert not torch.equal(own(x, keypoints), other(x, keypoints))
