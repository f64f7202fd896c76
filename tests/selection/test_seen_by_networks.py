"""What encoders and segmenting networks say of a scan, against slow versions of it."""

from __future__ import annotations

import dataclasses
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lemis import plugins
from lemis.preparation import preprocess
from lemis.preparation.facts import Facts, inside_field
from lemis.preparation.settings import Settings
from lemis.selection import appearance, embedding, uncertainty

CPU = torch.device("cpu")


def facts(slices: int, rows: int = 24, cols: int = 40) -> Facts:
    """Of a scan that is narrower than its field of view, so that a part of each slice lies outside."""
    settings = Settings(spacing_mm=1.0, field_of_view_mm=float(cols))
    return preprocess.describe(
        id="a", subject="a", images=("a",), label=None, shape=(rows, cols, slices), spacing_mm=(1.0, 1.0, 2.0),
        slice_axis=2, settings=settings,
    )  # fmt: skip


def image(told: Facts, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(told.slices, 1, *told.prepared_shape)).astype(np.float16)
    return np.where(inside_field(told), made, 0).astype(np.float16)


def network(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    module = plugins.load("backbones", name)
    return module.Backbone(module.Settings(base_width=4, **settings), in_channels=1, num_classes=3).eval()


def slow_bins(per_slice: list[np.ndarray], weights: list[float], positions: list[float]) -> np.ndarray:
    """Means over eight equal bins, an empty one as the nearest that is not."""
    bins: list[np.ndarray | None] = []
    for number in range(8):
        inside = [k for k, p in enumerate(positions) if number / 8 <= p < (number + 1) / 8]
        total = sum(weights[k] for k in inside)
        bins.append(sum(weights[k] * per_slice[k] for k in inside) / total if inside else None)
    there = [number for number, one in enumerate(bins) if one is not None]
    return np.concatenate([bins[min(there, key=lambda other: abs(other - number))] for number in range(8)])


@torch.inference_mode()
@pytest.mark.parametrize("slices", [3, 21])
def test_an_encoder_sees_slices_where_they_lie(slices: int) -> None:
    told, net = facts(slices), network("unet2d")
    pixels = image(told)
    rows, cols = told.prepared_shape
    inside = inside_field(told)
    assert not inside.all()
    per_slice = []
    for one in pixels:
        maps = net.encode(nn.functional.pad(torch.from_numpy(one[None]).float(), (0, -cols % 16, 0, -rows % 16)))
        found = []
        for stride, cells in ((8, maps[-2][0]), (16, maps[-1][0])):
            total, share = np.zeros(cells.shape[0]), 0.0
            for i in range(cells.shape[1]):
                for j in range(cells.shape[2]):
                    part = inside[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].sum() / stride**2
                    total += part * cells[:, i, j].double().numpy()
                    share += part
            found.append(total / share)
        per_slice.append(np.concatenate(found))
    positions = [(k + 0.5) / slices for k in range(slices)]
    wanted = slow_bins(per_slice, [1.0] * slices, positions)
    assert np.allclose(embedding.of_scan(net, pixels, told, CPU), wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_encoder_of_volumes_sees_slices_where_they_lie() -> None:
    told, net = facts(21), network("unet3d", norm="group")
    pixels = image(told)
    rows, cols = told.prepared_shape
    inside = inside_field(told)
    whole = torch.from_numpy(pixels).float().movedim(1, 0)[None]
    maps = net.encode(nn.functional.pad(whole, (0, -cols % 8, 0, -rows % 8, 0, -21 % 8)))
    per_slice = []
    for k in range(21):
        found = []
        for stride, cells in ((4, maps[-2][0]), (8, maps[-1][0])):
            share = np.zeros(cells.shape[2:])
            for i, j in np.argwhere(inside):
                share[i // stride, j // stride] += 1
            found.append((cells[:, k // stride].double().numpy() * share).sum((1, 2)) / share.sum())
        per_slice.append(np.concatenate(found))
    wanted = slow_bins(per_slice, [1.0] * 21, [(k + 0.5) / 21 for k in range(21)])
    assert np.allclose(embedding.of_scan(net, pixels, told, CPU), wanted, rtol=1e-4, atol=1e-5)


def test_a_volume_of_many_tiles_is_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    told, net = facts(21), network("unet3d", norm="group")
    monkeypatch.setattr(embedding, "TILE_PX", (8, 16, 16))
    found = embedding.of_scan(net, image(told), told, CPU)
    assert found.shape == (8 * sum(net.channels[-2:]),)
    assert np.isfinite(found).all()


class Says(nn.Module):
    """Class logits that are a multiple of the image, to see who says what."""

    strides, divisors = (1,), (1, 1)

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0 * x, self.factor * x, -x], 1)


def test_networks_disagree_by_the_dice_of_pairs_and_are_uncertain_over_their_foreground() -> None:
    told = facts(5, 8, 8)
    pixels = image(told)
    factors = (1.0, 2.0, -0.5)
    found = uncertainty.of_scan([Says(factor) for factor in factors], pixels, told, CPU)  # type: ignore[misc]
    x = pixels[:, 0].astype(float)
    logits = np.array([[0 * x, factor * x, -x] for factor in factors])
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = soft.argmax(axis=1)
    dice = np.zeros((3, 2))
    for place, (k, m) in enumerate(((0, 1), (0, 2), (1, 2))):
        for c in (1, 2):
            a, b = labels[k] == c, labels[m] == c
            dice[place, c - 1] = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert found.disagreement == pytest.approx(1 - dice.mean(axis=0), abs=0.02)  # float32 against float64 at 0
    mean = soft.mean(axis=0)
    parts = [-sum(p * log(p) for p in mean[:, *at]) for at in np.ndindex(x.shape) if mean[0, *at] < 0.5]
    assert found.entropy == pytest.approx(np.mean(parts), rel=1e-4)


def test_networks_that_see_no_structure_are_sure() -> None:
    told = facts(2, 8, 8)
    found = uncertainty.of_scan([Says(0.0)] * 2, np.zeros_like(image(told)), told, CPU)  # type: ignore[misc, list-item]
    assert (found.disagreement.tolist(), found.entropy) == ([0, 0], pytest.approx(log(3)))


def test_without_a_network_a_scan_is_its_grid_and_intensities() -> None:
    told = facts(5)
    pixels = image(told)
    found = appearance.of_scan(pixels, told)
    assert found[:6] == pytest.approx(np.log([1, 1, 2, 24, 40, 10]))
    inside = pixels[:, 0][:, inside_field(told)].astype(np.float32)
    assert found[6:13] == pytest.approx(np.percentile(inside, [1, 5, 25, 50, 75, 95, 99]))
    assert found[13] == pytest.approx(np.log(np.abs(inside[1:] - inside[:-1]).mean()))
    single = dataclasses.replace(told, slices=1)
    assert np.isfinite(appearance.of_scan(pixels[:1], single)).all()
