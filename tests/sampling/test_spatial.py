"""How geometries are drawn: places, probabilities, sizes, and how far a view reaches; in 2D and 3D."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geometries_drawn import AFFINE, batch_of, draw
from how_many import examples
from lemis.errors import UsageError
from lemis.sampling import views
from lemis.sampling.correspondence import source_of, view_of
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import CROP_ONLY, Size, Spatial, reach_px, shape_of
from lemis.sampling.warping import apply
from lemis.settings import resolve


@examples(40)
@given(
    seed=st.integers(0, 10**6),
    source=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    out=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.sampled_from(["random", "centre"]),
)
def test_any_draw(seed: int, source: tuple[int, int], out: tuple[int, int], crop: str) -> None:
    spatial = resolve(Spatial, {"crop": crop, "elastic_alpha_px": [10, 100]})
    geometry = draw(spatial, 3, source, out, seed)
    view = apply(geometry, torch.ones(3, 2, *source), torch.ones(3, *source, dtype=torch.long))
    assert view.image.shape == (3, 2, *out)
    assert view.label is not None
    assert view.label.shape == (3, *out)
    assert torch.isfinite(view.image).all()
    assert view.image.min() >= -1e-5
    assert view.image.max() <= 1 + 1e-5
    assert (geometry.to_source[..., :2].det().abs().sqrt() - 1).abs().max() <= 0.3 + 1e-5
    y = Rows(seed, 1, "cpu").uniform(3, 20, 2) * torch.tensor(out)
    assert (view_of(geometry, source_of(geometry, y)) - y).abs().max() < 1e-2


def test_random_crops_reach_every_place_equally() -> None:
    geometry = draw(CROP_ONLY, 6000, (12, 5), (8, 9))
    corner = geometry.to_source[:, :, 2]
    places, counts = corner[:, 0].unique(return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 4]
    assert (counts / 6000 - 0.2).abs().max() < 0.03
    assert (corner[:, 1] == -2).all()


def test_crops_stay_in_the_real_part_of_padded_images() -> None:
    inside = torch.zeros(2, 1, 30, 30, dtype=torch.bool)
    inside[0, :, 4:20, 5:25] = True
    inside[1, :, 10:16, 0:30] = True
    batch = batch_of(inside.float(), inside=inside)
    corners = [
        views.random_view(CROP_ONLY, batch, 10, Rows(seed, 0, "cpu")).geometry.to_source[..., 2] for seed in range(200)
    ]
    low, high = torch.stack(corners).amin(0), torch.stack(corners).amax(0)
    assert low.tolist() == [[4, 5], [8, 0]]
    assert high.tolist() == [[10, 15], [8, 20]]


def test_3d_turns_about_the_slice_axis_only_when_not_tilted() -> None:
    level = Spatial(p_spatial=1, p_elastic=0, tilt_row_degrees=(0, 0), tilt_column_degrees=(0, 0))
    to_source = draw(level, 20, (8, 30, 30), (8, 30, 30)).to_source
    assert to_source[:, 0, 1:3].abs().max() < 1e-6
    assert to_source[:, 1, 2].abs().max() > 0.3
    tilted = draw(AFFINE, 20, (8, 30, 30), (8, 30, 30)).to_source
    assert tilted[:, 0, 1].abs().max() > 0.05
    assert tilted[:, 0, 2].abs().max() > 0.05


def test_probabilities_switch_parts_off_row_by_row() -> None:
    geometry = draw(Spatial(), 3000, (32, 32), (32, 32))
    assert geometry.elastic is not None
    moved = geometry.elastic.noise.flatten(1).abs().amax(1) > 0
    turned = geometry.to_source[:, 0, 1].abs() > 1e-6
    assert torch.equal(moved, turned)  # one coin for the whole chain, as in the protocol
    assert moved.float().mean().item() == pytest.approx(0.67, abs=0.04)
    flipped = geometry.to_source[~turned][:, [0, 1], [0, 1]] < 0
    assert (flipped.float().mean(0) - 0.5).abs().max() < 0.06
    scale = geometry.to_source[turned][..., :2].det().abs().sqrt()
    assert (scale < 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.699 < scale.min() < 0.72
    assert 1.28 < scale.max() < 1.301


@pytest.mark.parametrize("shape", [(40, 20), (10, 40, 20)])
def test_a_translation_goes_up_to_its_share_on_each_axis(shape: tuple[int, ...]) -> None:
    still = Spatial(crop="centre", p_mirror=0, p_elastic=0, p_rotation=0, p_scale=0, p_spatial=0.5)
    still = dataclasses.replace(still, tilt_row_degrees=(0, 0), tilt_column_degrees=(0, 0))
    before, after = (
        draw(how, 4000, shape, shape).to_source[:, :, -1]
        for how in (still, dataclasses.replace(still, translate_share=0.1))
    )
    moved = (after - before) / torch.tensor(shape)
    assert (before == 0).all()
    assert 0.099 < moved.abs().max() <= 0.1
    on = (moved != 0).any(1)
    assert on.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert moved[on].mean(0).abs().max() < 0.006  # as far one way as the other: four standard errors
    assert moved[on].std(0) == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_same_draw_same_view() -> None:
    batch = batch_of(torch.rand(5, 1, 40, 40))
    one, two = (views.random_view(Spatial(), batch, 32, Rows(3, 4, "cpu")) for _ in range(2))
    other = views.random_view(Spatial(), batch, 32, Rows(3, 5, "cpu"))
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize(("size", "shape"), [(24, (24, 24, 24)), ((5, 24, 16), (5, 24, 16))])
def test_a_view_of_a_volume_has_one_side_or_three(size: Size, shape: tuple[int, ...]) -> None:
    batch = batch_of(torch.rand(2, 1, 7, 40, 36))
    assert views.random_view(Spatial(), batch, size, Rows(0, 0, "cpu")).image.shape == (2, 1, *shape)


def test_three_sides_of_a_slice_are_refused() -> None:
    with pytest.raises(UsageError, match=r"size_px=\[5, 24, 16\] for a network of 2 dimensions") as caught:
        shape_of((5, 24, 16), 2)
    assert caught.value.next == "method.size_px=16 to pre-train, objective.size_px=16 to fine-tune"


SPATIALS = [
    Spatial(),
    Spatial(crop="centre"),
    Spatial(p_elastic=0, rotation_degrees=(-20, 20)),
    Spatial(p_elastic=0, rotation_degrees=(80, 100), p_scale=0, crop="centre"),
    Spatial(p_elastic=0, p_rotation=0, shrink=(1.5, 1.7)),
    Spatial(p_spatial=0, p_mirror=0),
    Spatial(crop="centre", p_elastic=0, p_rotation=0, p_scale=0, p_spatial=1, translate_share=0.2),
]


@pytest.mark.parametrize("spatial", SPATIALS)
@pytest.mark.parametrize("out", [(20, 20), (8, 24, 16), (9, 23, 15)])
def test_no_view_reads_beyond_its_reach(spatial: Spatial, out: tuple[int, ...]) -> None:
    if len(out) == 2:  # where only a volume's view moves by a part of its side
        spatial = dataclasses.replace(spatial, crop="centre")
    region = torch.tensor(reach_px(spatial, out))
    assert ((region - torch.tensor(out)) % 2 == 0).all(), "the middle of the region is the middle of the patch"
    image = torch.ones(64, 1, *region)
    worst = torch.zeros(len(out))
    for step in range(8):
        geometry = views.random_view(spatial, batch_of(image), out[-1] if len(out) == 2 else out, Rows(0, step, "cpu"))[
            1
        ]
        corners = torch.cartesian_prod(*[torch.tensor([-0.5, n - 0.5]) for n in geometry.shape]).expand(64, -1, -1)
        away = (source_of(geometry, corners) - (region - 1) / 2).abs().flatten(0, 1).amax(0)
        worst = torch.maximum(worst, away)
    assert (worst <= region / 2 + 1e-2).all(), "what is read lies in the region"
    if spatial.p_elastic == 0 or spatial.p_spatial == 0:
        assert (region / 2 - worst <= 0.1 * region + 2).all(), "and the region is not much larger"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("p_mirror", 1.5, "less than or equal to 1"),
        ("rotation_degrees", [90, 10], "low <= high"),
        ("enlarge", [0, 1], "above 0"),
        ("interpolation", "nearest", "bilinear"),
    ],
)
def test_settings_are_checked(key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Spatial, {key: value})
