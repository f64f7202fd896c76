"""S3-Net (Karimijafarbigloo et al. 2023): its sizes, its three losses and their gradients, alone and beside others."""

from __future__ import annotations

from math import cos, pi, radians, sin, tan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.errors import UsageError
from lemis.one_image import solo
from lemis.settings import resolve
from lemis.single import s3net
from lemis.single.s3net import LUNG, PRESETS, RELEASED, Attention, Networks, Settings, cross_entropy, draw_affine

SMALL = {"clusters": 8, "blocks": 1}


def made(seeds: tuple[int, ...] = (0,), side: int = 16, channels: int = 3, **given: Any) -> Networks:
    return Networks(Settings(**(SMALL | given)), (channels, side, side), seeds).double()


def images(count: int = 1, side: int = 16, channels: int = 3) -> Tensor:
    """Smooth colours."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, side // 4, side // 4, generator=rng, dtype=torch.float64)
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def gradient(networks: Networks, term: str, x: Tensor) -> dict[str, Tensor]:
    networks.zero_grad()
    networks(x).losses[term].sum().backward()
    return {name: p.grad.clone() for name, p in networks.named_parameters() if p.grad is not None}


def test_the_released_network_has_as_many_parameters_at_256_px() -> None:
    networks = Networks(RELEASED, (3, 256, 256), [0])
    count = {name: p.numel() for name, p in networks.named_parameters()}
    places = count["deformable.0.offset"] + count["deformable.0.mask"]
    assert places == 27 * 256 * 256 == 1_769_472
    assert sum(count.values()) - places == 103_424
    assert sum(count.values()) == 1_872_896


@pytest.mark.parametrize(("branch", "field"), [((3, 1), 7), ((5, 2), 13), ((7, 3), 23)])
def test_receptive_fields_of_the_attention(branch: tuple[int, int], field: int) -> None:
    attention = Attention(solo.generators([0]), Settings(clusters=2, branches=(branch,))).double()
    for parameter in attention.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1)
    u = torch.rand(1, 2, 33, 33, dtype=torch.float64).requires_grad_()
    (seen,) = torch.autograd.grad(attention.mix(attention.branches[0](attention.near(u)))[0, 0, 16, 16], u)
    rows = seen.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert rows == list(range(16 - field // 2, 16 + field // 2 + 1))
    (whole,) = torch.autograd.grad(attention(u)[0, 0, 16, 16], u)
    assert len(whole.abs().sum((0, 1, 2)).nonzero()) == field


def test_attention_multiplies() -> None:
    attention = Attention(solo.generators([0]), Settings(clusters=4)).double()
    u = torch.rand(1, 4, 9, 9, dtype=torch.float64)
    assert [tuple(branch.weight.shape[-2:]) for branch in attention.branches] == [(3, 3), (5, 5), (7, 7)]
    a = attention.near(u)
    torch.testing.assert_close(attention(u), u * attention.mix(torch.cat([b(a) for b in attention.branches], 1)))


def test_cross_entropy_is_that_of_the_own_argmax() -> None:
    networks, x = made((0, 1)), images(2)
    step = networks(x)
    scores = networks.score(networks.encode(x), x)
    assert torch.equal(step.labels, scores.argmax(1))
    for row in range(2):
        expected = 1.2 * F.cross_entropy(scores[row : row + 1], scores[row : row + 1].argmax(1))
        assert step.losses["cross_entropy"][row].item() == pytest.approx(expected.item())


def test_scores_begin_with_all_clusters_alike() -> None:
    scores = made().score(made().encode(images()), images())
    torch.testing.assert_close(scores.mean((2, 3)), torch.zeros(1, 8, dtype=torch.float64))
    torch.testing.assert_close(
        scores.var((2, 3), correction=0), torch.ones(1, 8, dtype=torch.float64), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("kind", ["sobel", "tv"])
def test_the_spatial_loss_reaches_every_layer_before_the_scores(kind: Any) -> None:
    found = gradient(made(spatial=kind), "spatial", images())
    assert {name.split(".")[0] for name in found} == {"stem", "blocks", "deformable", "main"}
    assert all(found[name].abs().max() > 0 for name in ("stem.0.weight", "deformable.0.taps.weight", "main.1.weight"))


def test_the_spatial_loss_by_hand() -> None:
    s = torch.zeros(1, 2, 4, 8)
    s[:, 0, :, 4:], s[:, 1, :, :4] = 1, 1
    # Each map has |Gx| = 4 in two of eight columns, Gy = Gxy = 0.
    assert s3net.spatial_loss(s, "sobel", "sum").item() == pytest.approx(2 * 2 * 4 * 2 / 8)
    assert s3net.spatial_loss(s, "sobel", "mean").item() == pytest.approx(2 * 4 * 2 / 8)
    assert s3net.spatial_loss(s, "tv", "sum").item() == pytest.approx(2 * 4 * 2 / 8)
    assert s3net.spatial_loss(torch.full((1, 2, 4, 8), 0.5), "sobel", "sum").item() == 0


def test_the_affine_loss_reaches_encoder_and_auxiliary_head_alone() -> None:
    for affine in ("input", "feature", "released"):
        found = gradient(made(affine=affine), "affine", images())
        assert {name.split(".")[0] for name in found} == {"stem", "blocks", "auxiliary"}  # the target has none
        assert all(found[name].abs().max() > 0 for name in ("stem.0.weight", "auxiliary.0.weight"))


def test_released_the_turn_changes_nothing() -> None:
    networks, x = made(affine="released"), images()
    features = networks.encode(x)
    unturned = cross_entropy(networks.auxiliary(features), networks.score(features, x).argmax(1))
    torch.testing.assert_close(networks(x).losses["affine"], 0.3 * unturned)
    found = gradient(networks, "affine", x)
    networks.zero_grad()
    (0.3 * cross_entropy(networks.auxiliary(networks.encode(x)), networks(x).labels)).sum().backward()
    torch.testing.assert_close(found["stem.0.weight"], networks.get_parameter("stem.0.weight").grad)


@pytest.mark.parametrize("affine", ["input", "feature"])
def test_the_transform_changes_the_affine_loss(affine: Any) -> None:
    def loss(**given: float) -> tuple[float, Tensor]:
        found = made(affine=affine, **given)
        return found(images()).losses["affine"].item(), gradient(found, "affine", images())["stem.0.weight"]

    none = {"rotation_deg": 0.0, "translation": 0.0, "scale": (1.0, 1.0), "shear_deg": 0.0}
    still, of_still = loss(**none)
    released = made(affine="released")
    assert still == pytest.approx(released(images()).losses["affine"].item(), rel=1e-5)
    for change in ({"rotation_deg": 90.0}, {"translation": 0.2}, {"scale": (0.8, 0.8)}, {"shear_deg": 30.0}):
        value, of_value = loss(**(none | change))
        assert abs(value - still) > 1e-4 * still
        assert (of_value - of_still).norm() > 1e-3 * of_still.norm()


def test_the_transform_is_drawn_anew_and_within_its_ranges() -> None:
    how = Settings(rotation_deg=60.0, translation=0.1, scale=(0.8, 1.2), shear_deg=10.0)
    rngs, x = solo.generators(range(200)), torch.zeros(200, 1, 30, 50)
    first, second = draw_affine(how, rngs, x), draw_affine(how, rngs, x)
    assert not torch.equal(first.to_source[0], second.to_source[0])
    linear, centre = first.to_source[..., :2], torch.tensor([14.5, 24.5])
    scale = torch.linalg.det(linear).sqrt()  # shear and rotation keep areas
    assert 0.8 <= scale.min() < 0.85
    assert 1.15 < scale.max() <= 1.2
    moved = (linear @ centre + first.to_source[..., 2] - centre).abs()
    assert (moved <= torch.tensor([3.0, 5.0]) + 1e-4).all()
    assert (moved.amax(0) > torch.tensor([2.5, 4.5])).all()
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]) * 180 / pi
    assert 55 < angle.abs().max() <= 60.001


def test_the_transform_by_hand() -> None:
    how = Settings(rotation_deg=90.0, translation=0.2, scale=(0.5, 1.5), shear_deg=20.0)
    drawn = solo.uniform(solo.generators([7]), 5, low=-1.0)[0].tolist()
    a, shear, scale = radians(90 * drawn[0]), tan(radians(20 * drawn[1])), 1 + 0.5 * drawn[2]
    found = draw_affine(how, solo.generators([7]), torch.zeros(1, 3, 10, 20)).to_source[0]
    y, c = torch.tensor([2.0, 5.0]), torch.tensor([4.5, 9.5])
    leant = torch.tensor([y[0] - c[0] + shear * (y[1] - c[1]), y[1] - c[1]]) * scale
    turned = torch.tensor([cos(a) * leant[0] - sin(a) * leant[1], sin(a) * leant[0] + cos(a) * leant[1]])
    expected = c + turned + torch.tensor([0.2 * 10 * drawn[3], 0.2 * 20 * drawn[4]])
    torch.testing.assert_close(found[:, :2] @ y + found[:, 2], expected)


def test_pixels_from_outside_do_not_count() -> None:
    scores = torch.randn(2, 4, 5, 6)
    labels, inside = torch.randint(4, (2, 5, 6)), torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    inside[0, 0, 1, 2:4] = True
    expected = F.cross_entropy(scores[0, :, 1, 2:4].T, labels[0, 1, 2:4])
    found = cross_entropy(scores, labels, inside)
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert found[1].item() == 0


def test_predicted_offsets_begin_at_zero_and_learn() -> None:
    networks, x = made(), images()
    features = networks.encode(x)
    layer = networks.deformable[0]
    plain = F.conv2d(features, layer.taps.weight[0], padding=1)
    torch.testing.assert_close(layer(features), plain / 2)
    found = gradient(networks, "cross_entropy", x)
    assert found["deformable.0.predict.weight"][:, :18].abs().max() > 0
    assert found["deformable.0.predict.weight"][:, 18:].abs().max() > 0


def test_offsets_learn_at_their_share_of_the_learning_rate() -> None:
    moved = {}
    for rate in (1.0, 0.01):
        networks, x = made(offset_rate=rate), images()
        gradient(networks, "cross_entropy", x)
        with torch.no_grad():
            for parameter in networks.deformable[0].predict.parameters():
                parameter -= 0.36 * parameter.grad
        layer = networks.deformable[0]
        moved[rate] = layer.scale * layer.predict(networks.encode(x))  # offsets and masks after one step, 0 before it
    torch.testing.assert_close(moved[0.01], 0.01 * moved[1.0])


@pytest.mark.parametrize(
    "given",
    [{}, {"deformable": "free"}, {"deformable": "none"}, {"inception": False}, {"pixel_values": True},
     {"affine": "feature"}, {"affine": "released", "spatial": "released"}, {"spatial": "tv"}],
)  # fmt: skip
def test_an_image_gets_the_labels_that_it_gets_alone(given: dict[str, Any]) -> None:
    how = Settings(**(SMALL | given), max_iterations=4, least_iterations=2, stop_labels=6)
    x, seeds = images(3), [5, 1, 2]
    together = s3net.segment(x, how, seeds)
    assert together.labels.shape == (3, 16, 16)
    assert together.labels.dtype == torch.int64
    for row, seed in enumerate(seeds):
        alone = s3net.segment(x[row : row + 1], how, [seed])
        assert torch.equal(alone.labels[0], together.labels[row])
        assert alone.iterations[0] == together.iterations[row]


def test_clusters_merge_and_a_square_is_found() -> None:
    x = torch.full((1, 1, 24, 24), 0.2)
    x[..., 6:17, 8:18] = 0.8
    x = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found, square = s3net.segment(x.repeat(4, 1, 1, 1), Settings(clusters=16), range(4)), x[0, 0] > 0.5
    assert max(solo.distinct(found.labels)) <= 3
    assert 6 <= min(found.iterations) <= max(found.iterations) < 50
    dice = [
        max(2 * ((map_ == k) & square).sum().item() / ((map_ == k).sum() + square.sum()).item() for k in map_.unique())
        for map_ in found.labels
    ]
    assert sum(dice) / 4 > 0.65  # one cluster of everything: 0.32


def test_where_everything_collapses_it_starts_anew() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5)
    how = Settings(**SMALL, max_iterations=2, restarts=2, deformable="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Networks, "score", lambda self, x, _: 0 * x + 9 * F.one_hot(torch.tensor(1), 8).view(1, 8, 1, 1))
        found = s3net.segment(flat, how, [0])
    assert found.restarts == (2,)
    assert solo.distinct(found.labels) == [1]


@pytest.mark.parametrize("shape", [(1, 40), (33, 1), (7, 30)])
def test_images_that_are_no_squares(shape: tuple[int, int]) -> None:
    x = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    for how in ({}, {"affine": "released"}, {"deformable": "free"}):
        found = s3net.segment(x, Settings(**SMALL, **how, max_iterations=2), [0, 1])
        assert found.labels.shape == (2, *shape)


def test_a_loss_without_a_weight_is_not_computed() -> None:
    losses = made(weight_affine=0.0, weight_spatial=0.0)(images()).losses
    assert set(losses) == {"cross_entropy"}
    assert set(made(spatial="released")(images()).losses) == {"cross_entropy", "affine"}


def test_presets() -> None:
    assert PRESETS["paper"] == Settings()
    weights = [(p.weight_cross_entropy, p.weight_affine, p.weight_spatial) for p in (Settings(), RELEASED, LUNG)]
    assert weights == [(1.2, 0.3, 0.3), (3.5, 0.2, 4.0), (1.0, 0.5, 0.6)]
    assert (RELEASED.learning_rate, RELEASED.momentum, RELEASED.max_iterations) == (0.2, 0.9, 50)


def test_kernels_have_a_middle() -> None:
    with pytest.raises(UsageError, match="a kernel has an odd size"):
        resolve(Settings, {"branches": [[4, 1]]})
    assert resolve(Settings, {"branches": [[7, 3]]}).branches == ((7, 3),)
