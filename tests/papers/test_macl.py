"""MACL (Zeng et al., JBHI 2025): its losses done slowly, its hand values, its two branches and their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.backbones import unet2d
from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods.macl import Method, Settings, Views, positional_contrast
from lemis.parts.contrast import contrast, near, same
from lemis.sampling import warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial

RNG = (0, 0, "cpu")
POSITIONS = [0.1, 0.15, 0.4, 0.45, 0.9]
SCALE = 0.1 / 0.07


def at(positions: Sequence[float], side: int = 64) -> Batch:
    n = len(positions)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(n, 1, 8, 8, generator=generator)
    return Batch(
        image=nn.functional.interpolate(coarse, (side, side), mode="bicubic"), index=torch.arange(n),
        scan=torch.arange(n), subject=torch.arange(n), position=torch.tensor(positions), spacing_mm=torch.ones(n, 2),
    )  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(make_unet: Any, **settings: Any) -> Method:
    torch.manual_seed(0)
    return Method(make_unet(), Settings(**{"size_px": 64, "embedding": 16, **settings}))


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float(a @ b / (a.norm() * b.norm()))


def slow_article(one: Tensor, other: Tensor, position: Sequence[float], t: float, tau: float) -> float:
    """Eq. 9 for one place, as printed: the sum over the dominant vectors."""
    n = len(one)
    total = 0.0
    for i in range(n):
        below = sum(math.exp(cosine(one[i], other[k]) / tau) for k in range(n))
        omega = [j for j in range(n) if abs(position[i] - position[j]) < t - 1e-9]
        total -= sum(math.log(math.exp(cosine(one[i], other[j]) / tau) / below) for j in omega) / len(omega)
    return total


def slow_released(one: Tensor, other: Tensor, position: Sequence[float], t: float, tau: float) -> float:
    """The released form for one place: 2N anchors, each against all others; their mean."""
    z, p = torch.cat([one, other]), [*position, *position]
    n = len(z)
    total = 0.0
    for i in range(n):
        below = sum(math.exp(cosine(z[i], z[k]) / tau) for k in range(n) if k != i)
        omega = [j for j in range(n) if j != i and abs(p[i] - p[j]) < t - 1e-9]
        total -= sum(math.log(math.exp(cosine(z[i], z[j]) / tau) / below) for j in omega) / len(omega)
    return total / n


# ------------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("t", [0.01, 0.1, 0.35])
@pytest.mark.parametrize(
    ("form", "reduction", "scale"),
    [("released", "mean", SCALE), ("released", "sum", 10 * SCALE), ("article", "sum", 1), ("article", "mean", 1 / 5)],
)
def test_both_losses_are_those_of_the_formulas(
    form: str, reduction: str, scale: float, t: float, make_unet: Any
) -> None:
    method = build(make_unet, form=form, reduction=reduction, threshold=t)
    one, other = random(6, 5, 7), random(6, 5, 7, seed=1)  # 6 places, 5 slices
    slow = slow_released if form == "released" else slow_article
    expected = [scale * slow(one[s], other[s], POSITIONS, t, 0.1) for s in range(6)]
    close = near(torch.tensor(POSITIONS), t)
    assert method.contrast(one[:1], other[:1], close).item() == pytest.approx(expected[0], rel=1e-5)
    assert method.contrast(one, other, close).item() == pytest.approx(sum(expected) / 6, rel=1e-5)


def test_the_forms_differ(make_unet: Any) -> None:
    one, other, close = random(1, 5, 7), random(1, 5, 7, seed=1), near(torch.tensor(POSITIONS), 0.1)
    released = build(make_unet, temperature_base=None).contrast(one, other, close).item()
    article = build(make_unet, form="article", reduction="sum").contrast(one, other, close).item() / 5
    assert abs(released - article) > 0.05


def test_without_close_positions_it_is_nt_xent(make_unet: Any) -> None:
    one, other = random(4, 6), random(4, 6, seed=1)
    close = near(torch.tensor([0.1, 0.3, 0.6, 0.9]), 0.1)
    expected = SCALE * contrast(torch.cat([one, other]), same(torch.arange(4).repeat(2)), 0.1)
    assert build(make_unet).contrast(one[None], other[None], close).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("t", [0.01, 0.35, 2.0])
def test_equal_vectors(t: float, make_unet: Any) -> None:
    ones, close = torch.ones(3, 5, 4), near(torch.tensor(POSITIONS), t)
    method = build(make_unet)
    assert method.contrast(ones, ones, close).item() == pytest.approx(SCALE * math.log(9), rel=1e-6)
    assert method.uninformed(5) == pytest.approx(SCALE * math.log(9))
    for reduction, factor in (("sum", 5), ("mean", 1)):
        article = build(make_unet, form="article", reduction=reduction)
        assert article.contrast(ones, ones, close).item() == pytest.approx(factor * math.log(5), rel=1e-6)
        assert article.uninformed(5) == pytest.approx(factor * math.log(5))


def test_hand_value(make_unet: Any) -> None:
    both, close = torch.eye(2)[None], torch.eye(2, dtype=torch.bool)
    per_anchor = math.log(math.exp(2) + 2) - 2
    assert per_anchor == pytest.approx(0.239545, abs=1e-6)
    assert build(make_unet, temperature=0.5).contrast(both, both, close).item() == pytest.approx(1.711034, abs=1e-5)


def test_the_order_of_slices_and_of_places_does_not_matter(make_unet: Any) -> None:
    one, other, close = random(6, 5, 7), random(6, 5, 7, seed=1), near(torch.tensor(POSITIONS), 0.1)
    method, slices, places = build(make_unet), torch.randperm(5), torch.randperm(6)
    expected = method.contrast(one, other, close)
    torch.testing.assert_close(method.contrast(one[:, slices], other[:, slices], close[slices][:, slices]), expected)
    torch.testing.assert_close(method.contrast(one[places], other[places], close), expected)
    assert not torch.isclose(method.contrast(one[places], other, close), expected, rtol=1e-2), "only identically"


def test_places_meet_only_themselves() -> None:
    one, other, close = random(2, 3, 4), random(2, 3, 4, seed=1), torch.eye(3, dtype=torch.bool)
    changed = torch.stack([other[0], other[1] + random(3, 4, seed=2)])
    before, after = (positional_contrast(one, z, close, 0.1) for z in (other, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.isclose(before[1], after[1]).any()


def test_a_gradient_flows_with_left_out_pairs() -> None:
    z = random(2, 4, 3).requires_grad_()
    positional_contrast(z, z, torch.ones(4, 4, dtype=torch.bool), 0.1, torch.eye(4, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().max() > 0


# ----------------------------------------------------------------------------------------------- from images on


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_the_method_from_images_to_losses(blocks: int, make_unet: Any) -> None:
    method, batch = build(make_unet, blocks=blocks), at(POSITIONS)
    seen = method.views(batch, Rows(*RNG))
    b, size = method.backbone, 64 // 2**blocks
    smaller = [
        nn.functional.interpolate(seen[key].image, (size, size), mode="bilinear", align_corners=True)
        for key in ("fixed_1", "varied_1")
    ]
    auxiliary = b.encode(torch.cat([seen["fixed_2"].image, seen["varied_2"].image]))[-1].chunk(2)
    maps = b.encode(torch.cat(smaller))
    decoded = (b.decode(maps, blocks) if blocks else maps[-1]).chunk(2)
    assert decoded[0].shape[2:] == auxiliary[0].shape[2:] == (4, 4)
    zg, zg2 = method.project(decoded[1]), method.project_auxiliary(auxiliary[1])
    zl2 = method.project_pixels(auxiliary[0])
    side = 4 // 2**blocks
    target = nn.functional.interpolate(auxiliary[0], (side, side), mode="bilinear", align_corners=True)
    cells = [(decoded[0][:, :, row, col], zl2[:, :, row, col]) for row in range(4) for col in range(4)]
    places = [slow_released(*cell, POSITIONS, 0.1, 0.1) for cell in cells]
    losses = method(batch, Rows(*RNG)).losses
    assert losses["global"].item() == pytest.approx(SCALE * slow_released(zg, zg2, POSITIONS, 0.1, 0.1), rel=1e-4)
    assert losses["dense"].item() == pytest.approx(0.5 * SCALE * sum(places) / 16, rel=1e-4)
    assert losses["equivariance"].item() == pytest.approx((maps[-1][:5] - target).abs().mean().item(), rel=1e-4)


def test_by_area_every_place_of_the_auxiliary_map_counts(make_unet: Any) -> None:
    y = random(2, 3, 8, 8).requires_grad_()
    small = build(make_unet, down_map="area").down_map(y)
    torch.testing.assert_close(small, y.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)))
    for down_map, places in (("area", 64), ("corners", 4)):
        (gradient,) = torch.autograd.grad(build(make_unet, down_map=down_map).down_map(y).sum(), y)
        assert int((gradient[0, 0] != 0).sum()) == places, down_map


def test_an_offset_between_the_branches_counts_in_the_released_form_only(make_unet: Any) -> None:
    """Why L_g starts far above no information: in each branch all slices are nearly alike, and the branches differ."""
    one, other = (vector.expand(1, 8, 2) for vector in torch.eye(2))
    close = torch.eye(8, dtype=torch.bool)
    released, article = build(make_unet, temperature_base=None), build(make_unet, form="article")
    expected = math.log(7 * math.exp(10) + 8)
    assert released.contrast(one, other, close).item() == pytest.approx(expected, rel=1e-5)
    assert expected > 4 * released.uninformed(8)
    assert article.contrast(one, other, close).item() == pytest.approx(article.uninformed(8), rel=1e-5)


def test_no_equivariance_error_without_shrinking(make_unet: Any) -> None:
    outcome = build(make_unet, blocks=0).eval()(at(POSITIONS), Rows(*RNG))
    assert outcome.losses["equivariance"].item() < 1e-6
    assert build(make_unet, blocks=1).eval()(at(POSITIONS), Rows(*RNG)).losses["equivariance"].item() > 1e-3


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_only_the_blocks_in_use_get_a_gradient(blocks: int, make_unet: Any) -> None:
    method = build(make_unet, blocks=blocks, size_px=128)
    torch.stack(list(method(at(POSITIONS, side=128), Rows(*RNG)).losses.values())).sum().backward()
    b = method.backbone
    reached = {b.part_of(key) for key, p in b.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == set(method.trains) == {"encoder", *(f"decoder {k + 1}" for k in range(blocks))}
    assert all(p.grad is None for key, p in b.named_parameters() if b.part_of(key) not in method.trains)


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        ((1, 0, 0), {"global"}),
        ((0, 1, 0), {"equivariance"}),
        ((0, 0, 1), {"dense"}),
        ((1, 1, 0), {"global", "equivariance"}),
        ((0, 2, 2), {"equivariance", "dense"}),
    ],
)
def test_a_weight_of_0_turns_a_term_off(weights: tuple[float, ...], terms: set[str], make_unet: Any) -> None:
    names = ("weight_global", "weight_equivariance", "weight_dense")
    method = build(make_unet, **dict(zip(names, weights, strict=True)))
    outcome = method(at(POSITIONS), Rows(*RNG))
    assert set(outcome.losses) == terms
    assert set(outcome.uninformed) == terms - {"equivariance"}
    torch.stack(list(outcome.losses.values())).sum().backward()
    own = [p for key, p in method.named_parameters() if not key.startswith("backbone.")]
    assert all(p.grad is not None for p in own), "what is not used is not built"
    assert method.trains == (("encoder",) if terms == {"equivariance"} else ("encoder", "decoder 1", "decoder 2"))


def test_weights_scale_their_terms(make_unet: Any) -> None:
    plain = build(make_unet)(at(POSITIONS), Rows(*RNG))
    heavy = build(make_unet, weight_global=3.0, weight_equivariance=0.25, weight_dense=1.0)(at(POSITIONS), Rows(*RNG))
    for term, factor in {"global": 3, "equivariance": 0.25, "dense": 2}.items():
        assert heavy.losses[term].item() == pytest.approx(factor * plain.losses[term].item(), rel=1e-5)
    assert heavy.uninformed["dense"] == pytest.approx(2 * plain.uninformed["dense"])


def test_no_term_at_all_is_refused(make_unet: Any) -> None:
    with pytest.raises(UsageError, match="one above 0"):
        build(make_unet, weight_global=0, weight_equivariance=0, weight_dense=0)


@pytest.mark.slow
def test_it_learns_where_slices_change_slowly(make_unet: Any) -> None:
    height = (torch.arange(64) + 1) / 64
    before, share = (height * 4.999).long(), (height * 4.999 % 1).view(-1, 1, 1, 1)
    key = at([0.0] * 6, side=80).image
    image = key[before] * (1 - share) + key[before + 1] * share
    mild = Spatial(p_mirror=0, p_elastic=0, rotation_degrees=(-15, 15))
    method = build(make_unet, embedding=32, spatial=mild)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    for step in range(40):
        rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        batch = Batch(
            image=image[rows], index=rows, scan=rows, subject=rows, position=height[rows], spacing_mm=torch.ones(16, 2)
        )
        outcome = method(batch, Rows(0, step, "cpu"))
        optimiser.zero_grad()
        torch.stack(list(outcome.losses.values())).sum().backward()
        optimiser.step()
    assert outcome.losses["dense"].item() < 0.9 * outcome.uninformed["dense"]
    assert outcome.losses["equivariance"].item() < 0.1


# -------------------------------------------------------------------------------------------- the second encoder


def test_independent_encoders_are_both_trained(make_unet: Any) -> None:
    method = build(make_unet, encoder="independent")
    torch.stack(list(method(at(POSITIONS), Rows(*RNG)).losses.values())).sum().backward()
    b = method.backbone
    for key, p in method.second.named_parameters():
        assert p.requires_grad == (b.part_of(key) == "encoder")
        assert (p.grad is not None) == (b.part_of(key) == "encoder")


def test_an_ema_encoder_follows_without_a_gradient(make_unet: Any) -> None:
    method = build(make_unet, encoder="ema", momentum=0.75)
    torch.stack(list(method(at(POSITIONS), Rows(*RNG)).losses.values())).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in method.second.parameters())
    leader, behind = method.backbone.encoder[0][0].weight, method.second.encoder[0][0].weight
    with torch.no_grad():
        leader += 1
    before = behind.clone()
    method.after_step(0.5)
    torch.testing.assert_close(behind, before + 0.25)


# ---------------------------------------------------------------------------------------------------- the views


def test_fixed_views_are_one_crop_and_varied_ones_differ() -> None:
    batch = at(POSITIONS, side=96)
    seen = Views(Settings(size_px=64))(batch, Rows(*RNG))
    assert torch.equal(seen["fixed_1"].image, seen["fixed_2"].image), "no change of intensities"
    assert torch.equal(seen["fixed_1"].geometry.to_source[:, :, :2], torch.eye(2).expand(5, 2, 2)), "no turn, no scale"
    moved = [seen[key].geometry.to_source for key in ("varied_1", "varied_2")]
    assert not torch.equal(*moved)
    for view in seen.values():
        torch.testing.assert_close(view.image, warping.apply(view.geometry, batch.image).image)


def test_released_views_change_intensities_on_the_same_pixels() -> None:
    batch = at(POSITIONS)
    seen = Views(Settings(size_px=64, photometric="released"))(batch, Rows(*RNG))
    one, two = seen["fixed_1"], seen["fixed_2"]
    assert torch.equal(one.geometry.to_source, two.geometry.to_source)
    assert not torch.allclose(one.image, two.image, atol=1e-2)
    for view in (one, two):
        correlation = torch.corrcoef(torch.stack([view.image[0].flatten(), batch.image[0].flatten()]))[0, 1]
        assert 0.8 < correlation < 1
        for extreme in (torch.amin, torch.amax):
            torch.testing.assert_close(extreme(view.image, (2, 3)), extreme(batch.image, (2, 3)), rtol=1e-3, atol=1e-3)


def test_views_of_brats_change_brightness_by_a_fifth_at_most() -> None:
    batch = at(POSITIONS)
    low, high = (extreme(batch.image, (2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    before = (batch.image - low) / (high - low)
    seen = Views(Settings(size_px=64, photometric="brats"))(batch, Rows(*RNG))
    factors = []
    for key in ("fixed_1", "fixed_2"):
        after = (seen[key].image - low) / (high - low)
        for row, old in zip(after, before, strict=True):
            factor = float(row.median() / old.median())
            assert 0.8 <= factor <= 1.2
            torch.testing.assert_close(row, (factor * old).clamp(max=1), rtol=1e-3, atol=1e-3)
            factors.append(round(factor, 3))
    assert len(set(factors)) == 10, "each view of each slice on its own"


@pytest.mark.parametrize("photometric", ["released", "brats"])
def test_a_blank_slice_survives_the_released_jitter(photometric: Any) -> None:
    blank = at(POSITIONS)._replace(image=torch.full((5, 1, 64, 64), -1.5))
    still = Spatial(p_mirror=0, p_spatial=0)
    seen = Views(Settings(size_px=64, photometric=photometric, spatial=still))(blank, Rows(*RNG))
    for view in seen.values():
        torch.testing.assert_close(view.image, blank.image, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------- sizes and counts


@pytest.mark.parametrize(("blocks", "size", "cure"), [(2, 352, 384), (1, 48, 64), (4, 352, 512), (0, 60, 64)])
def test_a_size_that_the_branches_cannot_share(blocks: Any, size: int, cure: int, make_unet: Any) -> None:
    with pytest.raises(UsageError, match=f"method.size_px={cure}") as error:
        build(make_unet, blocks=blocks, size_px=size)
    build(make_unet, blocks=blocks, size_px=cure)
    assert f"size_px={size}" in error.value.given


def test_more_blocks_than_the_network_has(told: Any) -> None:
    with pytest.raises(UsageError, match="decoder blocks of this network"):
        Method(told(lambda x, _: x, 4), Settings(size_px=64))


@pytest.mark.parametrize(("side", "low", "deep"), [(512, 8, 32), (192, 3, 12)])
def test_sizes_of_both_branches(side: int, low: int, deep: int) -> None:
    with torch.device("meta"):
        network = unet2d.Backbone(unet2d.Settings(base_width=2), in_channels=1, num_classes=2).eval()
        method = Method(network, Settings(size_px=side))
        image = torch.zeros(1, 1, side, side)
        maps = network.encode(method.down(image))
        auxiliary = network.encode(image)[-1]
    assert maps[-1].shape[-1] == low
    assert network.decode(maps, 2).shape[-1] == auxiliary.shape[-1] == deep


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters() -> None:
    with torch.device("meta"):
        network = unet2d.Backbone(unet2d.Settings(base_width=32), in_channels=1, num_classes=4)
        method = Method(network, Settings())
    assert count(network) == 7_763_456
    assert count(network.encoder) == 4_713_568
    assert [count(up) for up in network.decoder] == [2_295_552, 574_336, 143_808, 36_064]
    projectors = [count(p) for p in (method.project_auxiliary, method.project, method.project_pixels)]
    assert projectors == [82_176, 33_024, 738_048]
    whole = count(network.encoder) + count(network.decoder) + sum(projectors)
    assert whole == 8_616_576
    assert whole + 512 * 32 == 8_632_960, "with a head of 512 classes: the 8.63 M of Table VIII"


def test_the_defaults_are_the_authors() -> None:
    given = Settings()
    assert (given.blocks, given.form, given.encoder, given.photometric) == (2, "released", "shared", "identity")
    assert (given.reduction, given.batch_norm, given.down_map) == ("mean", False, "corners")
    assert (given.weight_global, given.weight_equivariance, given.weight_dense) == (1.0, 1.0, 0.5)
    assert (given.temperature, given.temperature_base, given.threshold, given.embedding) == (0.1, 0.07, 0.1, 128)
