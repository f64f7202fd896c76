"""Swin-Unet (Cao et al. 2021): its size, its expansion, and where its skips are taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lemis.backbones import swin_unet
from lemis.errors import UsageError
from lemis.settings import resolve


def network(**settings: object) -> swin_unet.Backbone:
    torch.manual_seed(0)
    small = {"embedding": 12, "window": 3}
    return swin_unet.Backbone(resolve(swin_unet.Settings, small, settings), in_channels=1, num_classes=3)


def test_the_published_size() -> None:
    with torch.device("meta"):
        built = swin_unet.Backbone(swin_unet.Settings(), in_channels=3, num_classes=9)
    assert sum(p.numel() for p in built.parameters()) == 27_168_900  # published as 27.17 M


def test_expansion_lays_the_numbers_of_a_cell_out_as_pixels() -> None:
    torch.manual_seed(0)
    expand = swin_unet._Expand(8, 4, 2)
    x = torch.randn(1, 8, 3, 5)
    out = expand(x)
    assert out.shape == (1, 4, 6, 10)
    for row in range(6):
        for col in range(10):
            numbers = expand.linear.weight @ x[0, :, row // 2, col // 2]
            first = ((row % 2) * 2 + col % 2) * 4
            expected = nn.functional.layer_norm(numbers[first : first + 4], (4,))
            torch.testing.assert_close(out[0, :, row, col], expected)


def test_the_finest_map_is_the_patches_before_any_block() -> None:
    built = network().eval()
    x = torch.randn(2, 1, 64, 32)
    y = x.clone()
    y[..., :4, :4] += 1
    first, second = built.encode(x)[0], built.encode(y)[0]
    changed = (first - second).abs().amax(1) > 1e-6
    assert changed[:, 0, 0].all()
    assert changed.sum() == 2


def test_attention_stays_within_windows_and_shifting_joins_them() -> None:
    # 24 x 24 cells in windows of 3: after one block a cell knows its window; after two, also the windows beside it.
    x = torch.randn(1, 12, 24, 24).double()
    y = x.clone()
    y[0, 0, 0, 0] += 1
    reach = {}
    for depth in (1, 2):
        stage = network(depths=[depth, 1, 1, 1]).eval().double().encoder[0]
        stage.downsample = None
        changed = (stage(x) - stage(y)).abs().amax(1)[0] > 1e-12
        reach[depth] = (int(changed.any(1).sum()), int(changed.any(0).sum()))
    assert reach[1] == (3, 3)
    assert reach[2] == (4, 4), "shifted by one: the window of the cells 1 to 3"


def test_windows_need_not_divide_the_maps() -> None:
    built = network(window=7).eval()
    assert built(torch.randn(1, 1, 96, 160)).shape == (1, 3, 96, 160)


def test_dropped_paths_are_of_training_only() -> None:
    built = network(drop_path=0.5)
    x = torch.randn(4, 1, 32, 64)
    with torch.no_grad():
        assert not torch.equal(built(x), built(x))
        built.eval()
        assert torch.equal(built(x), built(x))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in built.encoder for block in stage.blocks]
    assert rates == pytest.approx([0.5 * k / 7 for k in range(8)])


def test_weights_begin_as_swins() -> None:
    built = network(embedding=48)
    weights = torch.cat([layer.weight.flatten() for layer in built.modules() if isinstance(layer, nn.Linear)])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.02)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="5 heads for 24 channels"):
        network(heads=[3, 5, 12, 24])
    with pytest.raises(UsageError, match="to 64 x 96"):
        network()(torch.zeros(1, 1, 40, 70))
