"""SwinUNETR's pre-training (Tang et al., CVPR 2022): the losses by loops, the turns, the corruption, the decoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lemis.errors import UsageError
from lemis.methods import swin_unetr_ssl
from lemis.methods.swin_unetr_ssl import Method, Settings, Views
from lemis.sampling import geometries, views, warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import CROP_ONLY
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6}


def test_the_losses_by_loops(says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(1)
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    logits, z, image = torch.randn(6, 4), torch.randn(6, 6), torch.randn(6, 1, 32, 32)
    weights = {"rotation_weight": 2.0, "contrast_weight": 3.0, "reconstruction_weight": 5.0}
    method = Method(make_unet(), Settings(**SMALL, **weights))
    method.classify, method.project, method.reconstruct = says(logits), says(z), says(image)
    drawn = method.views(batch, Rows(*RNG))
    crop = views.random_view(CROP_ONLY, batch, 32, Rows(*RNG))
    clean = torch.cat([drawn["first"].image, drawn["second"].image])
    losses = method(batch, Rows(*RNG)).losses
    rotation, contrast, distance = 0.0, 0.0, 0.0
    for i in range(6):
        (turn,) = (k for k in range(4) if torch.equal(crop.image[i % 3].rot90(k, (-2, -1)), clean[i]))
        rotation -= math.log(math.exp(logits[i, turn]) / sum(math.exp(x) for x in logits[i])) / 6
        e = {k: math.exp(float(torch.cosine_similarity(z[i], z[k], 0)) / 0.5) for k in range(6) if k != i}
        contrast -= math.log(e[(i + 3) % 6] / sum(e.values())) / 6
        distance += sum(abs(a - b) for a, b in zip(image[i].flatten(), clean[i].flatten(), strict=True)) / (6 * 32**2)
    assert losses["rotation"].item() == pytest.approx(2 * rotation, rel=1e-5)
    assert losses["contrast"].item() == pytest.approx(3 * contrast, rel=1e-5)
    assert losses["reconstruction"].item() == pytest.approx(5 * float(distance), rel=1e-4)


def test_each_head_reads_the_average_or_two_places_of_the_deepest_map(make_unet: Any) -> None:
    deepest = torch.randn(4, 64, 2, 2)
    average = Method(make_unet(), Settings(**SMALL)).at(deepest)
    torch.testing.assert_close(average[0], deepest.mean((2, 3)))
    assert torch.equal(average[0], average[1])
    first, second = Method(make_unet(), Settings(**SMALL, read="places")).at(deepest)
    assert torch.equal(first, deepest[:, :, 0, 0])
    assert torch.equal(second, deepest[:, :, 0, 1])


def test_the_geometry_says_how_often_a_view_was_turned(make_batch: Any) -> None:
    batch = make_batch({0: list(range(12))}, of={0: 12})
    crop = views.random_view(CROP_ONLY, batch, 32, Rows(*RNG))
    for k in range(4):
        assert swin_unetr_ssl.turns_of(warping.quarter_turns(crop, k).geometry).tolist() == [k] * 12
    seen = swin_unetr_ssl.turned(crop, Rows(3, 0, "cpu"))
    turns = swin_unetr_ssl.turns_of(seen.geometry)
    assert sorted(set(turns.tolist())) == [0, 1, 2, 3]
    for row, k in enumerate(turns.tolist()):
        assert torch.equal(seen.image[row], crop.image[row].rot90(k, (-2, -1)))
    again = warping.apply(seen.geometry, batch.image)
    torch.testing.assert_close(again.image, seen.image, atol=1e-4, rtol=0)


def test_the_other_view_is_that_of_another_slice_whatever_the_order() -> None:
    rows = torch.arange(7.0).view(7, 1, 1, 1)
    place = torch.rand(7, generator=torch.Generator().manual_seed(0))
    partner = swin_unetr_ssl.of_next(rows, place).flatten().long()
    assert sorted(partner.tolist()) == list(range(7))
    assert (partner != torch.arange(7)).all()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(swin_unetr_ssl.of_next(rows[order], place[order]).flatten().long(), partner[order])


def test_blocks_fill_up_to_the_share_that_was_drawn() -> None:
    image = torch.zeros(400, 1, 40, 40)
    share = Views(Settings(size_px=40)).blocks(image, Rows(*RNG)).flatten(1).float().mean(1)
    assert share.min() > 0
    assert share.max() < 0.3 + 0.25**2  # the last block may go beyond
    assert share.mean().item() == pytest.approx(0.15, abs=0.02)  # overlaps take away what the last blocks add
    volume = Views(Settings(size_px=20)).blocks(torch.zeros(100, 1, 20, 20, 20), Rows(*RNG)).flatten(1).float().mean(1)
    assert 0.08 < volume.mean() < 0.16


def test_what_is_corrupted_is_noise_of_the_slices_range_or_of_another_slice(make_batch: Any) -> None:
    batch = make_batch({0: list(range(8))}, of={0: 8})
    drawn = Views(Settings(size_px=40))(batch, Rows(*RNG))
    low, high = batch.image.amin((1, 2, 3), True), batch.image.amax((1, 2, 3), True)
    for name in ("first", "second"):
        clean, corrupted = drawn[name].image, drawn[f"{name} corrupted"].image
        changed = clean != corrupted
        assert (changed.flatten(1).float().mean(1) < 2 * (0.3 + 0.25**2)).all()
        copied = torch.stack([corrupted == other for other in clean]).any(0)  # from the same place of some clean view
        noise = changed & ~copied
        assert noise.any()
        assert (changed & copied).any()
        assert ((corrupted >= low - 1e-5) & (corrupted <= high + 1e-5))[noise].all()
        torch.testing.assert_close(corrupted[noise].mean(), ((low + high) / 2).mean(), atol=0.5, rtol=0)


def test_the_decoder_is_that_of_the_released_code() -> None:
    network = swin_unetr_ssl.decoder(768, 1, (32, 32, 32))
    pairs = 768 * 384 + 384 * 192 + 192 * 96 + 96 * 48 + 48 * 48
    assert sum(p.numel() for p in network.parameters()) == 27 * pairs + 48 + 1
    small = swin_unetr_ssl.decoder(8, 3, (16, 16))
    assert small(torch.randn(2, 8, 2, 3)).shape == (2, 3, 32, 48)


def test_networks_and_sizes_that_do_not_fit_are_refused(make_unet: Any, make_unet3d: Any) -> None:
    with pytest.raises(UsageError, match="power of 2"):
        swin_unetr_ssl.decoder(8, 1, (12, 12))
    with pytest.raises(UsageError, match="at least 32 px"):
        Method(make_unet(), Settings(size_px=16))
    with pytest.raises(UsageError, match="quarter turn"):
        Method(make_unet3d(), Settings(size_px=(8, 16, 8)))


@pytest.mark.slow
def test_it_learns_and_does_not_collapse(make_unet: Any, train: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=16))
    first = train(method, 1, learning_rate=0.0)
    outcome = train(method, 80)
    assert spread(outcome.embeddings["global"]) > SMALLEST_SPREAD
    assert outcome.losses["reconstruction"] < 0.9 * first.losses["reconstruction"]


def test_the_defaults_are_the_papers() -> None:
    ours = Settings()
    assert (ours.rotation_weight, ours.contrast_weight, ours.reconstruction_weight) == (1.0, 1.0, 1.0)
    assert (ours.temperature, ours.embedding, ours.most_corrupted) == (0.5, 512, 0.3)
    assert ours.block_share == (0.05, 0.25)


def test_turns_are_read_from_volumes_too() -> None:
    image = torch.randn(3, 1, 4, 8, 8)
    crop = warping.apply(geometries.identity(3, (4, 8, 8)), image)
    for k in range(4):
        assert swin_unetr_ssl.turns_of(warping.quarter_turns(crop, k).geometry).tolist() == [k] * 3
