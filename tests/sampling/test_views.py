"""Views: what is drawn, what is read, and where points go; in 2D and 3D."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemis.contracts import Batch, Elastic, Geometry
from lemis.errors import UsageError
from lemis.methods import pcl
from lemis.sampling import correspondence, views
from lemis.sampling import spatial as spatial_augmentation
from lemis.sampling.correspondence import carry_back, source_of, view_of
from lemis.sampling.draw import Rows
from lemis.sampling.elastic import displacement, displacement_and_slope, on_grid
from lemis.sampling.geometries import identity
from lemis.sampling.resampling import Follow, apply, quarter_turns
from lemis.sampling.spatial import CROP_ONLY, Size, Spatial, reach_px, shape_of
from lemis.settings import resolve

SHAPES = [((60, 48), (52, 64)), ((10, 40, 34), (12, 36, 40))]  # source, view
AFFINE = Spatial(p_spatial=1.0, p_elastic=0.0)
ELASTIC = Spatial(p_spatial=1.0, elastic_sigma_px=(6.0, 8.0), elastic_alpha_px=(20.0, 60.0))


def draw(spatial: Spatial, rows: int, source: tuple[int, ...], out: tuple[int, ...], seed: int = 0) -> Geometry:
    return spatial_augmentation.draw(spatial, rows, source, out, Rows(seed, 0, "cpu"))


def pixels(shape: tuple[int, ...], rows: int = 1) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    return torch.cartesian_prod(*axes).expand(rows, -1, -1)


def given_affine(matrix: list[list[float]], shape: tuple[int, ...]) -> Geometry:
    return Geometry(torch.tensor([matrix]), shape)


def blobs(centres: Tensor, shape: tuple[int, ...], width: float = 2.0) -> Tensor:
    """(B, K, d) -> (B, K, *shape): channel k is a Gaussian blob at point k."""
    distance = (pixels(shape)[:, None] - centres[:, :, None]) ** 2
    return torch.exp(-distance.sum(-1) / (2 * width**2)).unflatten(-1, shape)


def centre_of_mass(image: Tensor) -> Tensor:
    """(B, K, *shape) -> (B, K, d)."""
    flat = image.flatten(2)
    return (flat @ pixels(tuple(image.shape[2:]))) / flat.sum(-1, keepdim=True)


# ----------------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize(("source", "out"), SHAPES)
@pytest.mark.parametrize(("spatial", "tolerance"), [(AFFINE, 1e-3), (ELASTIC, 1e-3)])
def test_points_go_and_come_back(spatial: Spatial, tolerance: float, source: tuple, out: tuple) -> None:
    for seed in range(3):
        geometry = draw(spatial, 8, source, out, seed)
        y = Rows(seed, 1, "cpu").uniform(8, 300, len(out)) * (torch.tensor(out) + 9) - 5
        assert (view_of(geometry, source_of(geometry, y)) - y).abs().max() < tolerance


@pytest.mark.parametrize("sigma_alpha", [(14.0, 350.0), (17.0, 100.0)])
def test_points_come_back_at_the_defaults_extremes(sigma_alpha: tuple[float, float]) -> None:
    sigma, alpha = sigma_alpha
    spatial = Spatial(p_spatial=1.0, elastic_sigma_px=(sigma, sigma), elastic_alpha_px=(alpha, alpha))
    geometry = draw(spatial, 8, (352, 352), (352, 352))
    y = Rows(0, 1, "cpu").uniform(8, 1000, 2) * 351
    error = (view_of(geometry, source_of(geometry, y)) - y).norm(dim=-1)
    assert (error < 1e-3).float().mean() > 0.999  # a folded place has no single answer
    assert error.quantile(0.99) < 3e-4


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@pytest.mark.parametrize(("source", "out"), SHAPES)
@pytest.mark.parametrize("spatial", [AFFINE, ELASTIC])
def test_a_blob_is_seen_where_view_of_says(spatial: Spatial, source: tuple, out: tuple) -> None:
    d = len(source)
    geometry = draw(spatial, 6, source, out)
    inner = torch.tensor(source) / 2 + (torch.rand(6, 5, d, generator=torch.Generator().manual_seed(0)) - 0.5) * 12
    width = 1.2  # narrow, so that the elastic field is nearly straight across it
    seen = apply(geometry, blobs(inner, source, width)).image
    expected = view_of(geometry, inner)
    margin = 4 * width
    whole = ((expected > margin) & (expected < torch.tensor(out) - 1 - margin)).all(-1)
    assert whole.sum() >= 4
    assert (centre_of_mass(seen) - expected)[whole].norm(dim=-1).max() < 0.3


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_every_pixel_is_read_at_source_of(source: tuple, out: tuple) -> None:
    # A ramp along each axis shows the source position itself; bilinear reading of a ramp is exact inside.
    d = len(source)
    geometry = draw(ELASTIC, 4, source, out)
    ramps = pixels(source)[0].T.unflatten(1, source).expand(4, d, *source)
    seen = apply(geometry, ramps).image.flatten(2).mT[:, ::7]
    x = source_of(geometry, pixels(out, 4)[:, ::7])
    within = ((x >= 0) & (x <= torch.tensor(source) - 1)).all(-1)
    assert within.float().mean() > 0.3
    assert (seen - x)[within].abs().max() < 1e-3


def test_slow_loop_reference() -> None:
    source, out = (9, 12), (8, 7)
    spatial = Spatial(p_spatial=1.0, elastic_sigma_px=(3.0, 4.0), elastic_alpha_px=(5.0, 9.0))
    geometry = draw(spatial, 2, source, out, seed=3)
    assert geometry.elastic is not None
    image = torch.rand(2, 1, *source, generator=torch.Generator().manual_seed(1))
    label = (image[:, 0] * 10).long()
    view = apply(geometry, image, label)
    assert view.label is not None
    for b in range(2):
        for i in range(out[0]):
            for j in range(out[1]):
                x, y = slow_source_of(geometry, b, i, j)
                assert view.image[b, 0, i, j].item() == pytest.approx(slow_bilinear(image[b, 0], x, y), abs=1e-4)
                if min(abs(v % 1 - 0.5) for v in (x, y)) > 1e-4:
                    near = (round(x), round(y))
                    inside = 0 <= near[0] < source[0] and 0 <= near[1] < source[1]
                    assert view.label[b, i, j].item() == (label[b][near].item() if inside else 0)


def slow_source_of(geometry: Geometry, b: int, i: int, j: int) -> tuple[float, float]:
    elastic = geometry.elastic
    assert elastic is not None
    e = [0.0, 0.0]
    for k in range(2):
        for r in range(elastic.noise.shape[2]):
            for c in range(elastic.noise.shape[3]):
                away = (i - elastic.origin_px[0].item() - r * elastic.step_px) ** 2
                away += (j - elastic.origin_px[1].item() - c * elastic.step_px) ** 2
                e[k] += elastic.noise[b, k, r, c].item() * math.exp(-away / (2 * elastic.sigma_px[b].item() ** 2))
    A = geometry.to_source[b].tolist()
    x, y = (row[0] * (i + e[0]) + row[1] * (j + e[1]) + row[2] for row in A)
    return x, y


def slow_bilinear(image: Tensor, x: float, y: float) -> float:
    total = 0.0
    for i in (math.floor(x), math.floor(x) + 1):
        for j in (math.floor(y), math.floor(y) + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                total += (1 - abs(x - i)) * (1 - abs(y - j)) * image[i, j].item()
    return total


# ----------------------------------------------------------------------------------- geometries known by hand


@pytest.mark.parametrize("source", [(31, 47), (5, 16, 21)])
def test_identity_is_exact(source: tuple) -> None:
    image, label = torch.rand(2, 3, *source), torch.randint(0, 5, (2, *source))
    view = apply(identity(2, source), image, label)
    torch.testing.assert_close(view.image, image, atol=1e-5, rtol=0)
    assert torch.equal(view.label, label)
    assert torch.equal(source_of(view.geometry, pixels(source, 2)), pixels(source, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_is_exact(axis: int) -> None:
    source = (6, 15, 22)
    always = Spatial(p_mirror=1.0, p_spatial=0.0)
    geometry = draw(always, 1, source, source)
    image, label = torch.rand(1, 1, *source), torch.randint(0, 5, (1, *source))
    view = apply(geometry, image, label)
    torch.testing.assert_close(view.image, image.flip(2, 3, 4), atol=1e-5, rtol=0)
    assert torch.equal(view.label, label.flip(1, 2, 3))
    one = torch.eye(3, 4)[None]
    one[0, axis, axis], one[0, axis, 3] = -1, source[axis] - 1
    assert torch.equal(apply(Geometry(one, source), image, label).label, label.flip(1 + axis))


def test_rotation_by_90_degrees_is_rot90() -> None:
    right = Spatial(p_mirror=0.0, p_spatial=1.0, p_elastic=0.0, p_scale=0.0, rotation_degrees=(90.0, 90.0))
    geometry = draw(right, 2, (33, 33), (33, 33))
    image, label = torch.rand(2, 1, 33, 33), torch.randint(0, 5, (2, 33, 33))
    view = apply(geometry, image, label)
    torch.testing.assert_close(view.image, image.rot90(-1, (-2, -1)), atol=1e-4, rtol=0)
    assert torch.equal(view.label, label.rot90(-1, (-2, -1)))


def test_scale_two_doubles_sizes() -> None:
    double = Spatial(p_mirror=0, p_spatial=1, p_elastic=0, p_rotation=0, p_enlarge=1, enlarge=(0.5, 0.5))
    geometry = draw(double, 1, (40, 40), (40, 40))
    points = torch.tensor([[[19.5, 19.5], [24.5, 14.5]]])
    torch.testing.assert_close(view_of(geometry, points), torch.tensor([[[19.5, 19.5], [29.5, 9.5]]]))


@pytest.mark.parametrize(("size", "out"), [(10, 7), (10, 8), (7, 10), (7, 11), (9, 9)])
def test_centre_crop_and_pad(size: int, out: int) -> None:
    # The protocol: zeros on both sides, image at floor((new - old) / 2); then the centre crop.
    row = torch.arange(1.0, size + 1)
    pad = max(0, out - size)
    expected = F.pad(row, (pad // 2, pad - pad // 2))
    start = (len(expected) - out) // 2
    expected = expected[start : start + out]
    image = row.expand(1, 1, 1, size)
    seen = apply(identity(1, (1, size), (1, out)), image).image[0, 0, 0]
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)
    centre = Spatial(crop="centre", p_mirror=0, p_spatial=0)
    torch.testing.assert_close(apply(draw(centre, 1, (1, size), (1, out)), image).image[0, 0, 0], expected)


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


# -------------------------------------------------------------------------------------------- 2D and 3D agree


def test_flat_3d_equals_2d() -> None:
    plane = draw(ELASTIC, 2, (30, 26), (28, 32))
    assert plane.elastic is not None
    to_source = torch.eye(3, 4).repeat(2, 1, 1)
    to_source[:, 1:, 1:] = plane.to_source
    # One slice of noise: in 3D its Gaussian along the slice axis is 1 at the slice itself.
    noise = torch.cat([torch.zeros(2, 1, *plane.elastic.noise.shape[2:]), plane.elastic.noise], dim=1)[:, :, None]
    origin = torch.cat([torch.zeros(1), plane.elastic.origin_px])
    elastic = Elastic(noise, plane.elastic.sigma_px, plane.elastic.step_px, origin)
    solid = Geometry(to_source, (1, 28, 32), elastic)
    image, label = torch.rand(2, 1, 30, 26), torch.randint(0, 4, (2, 30, 26))
    flat, deep = apply(plane, image, label), apply(solid, image[:, :, None], label[:, None])
    torch.testing.assert_close(deep.image[:, :, 0], flat.image, atol=1e-4, rtol=0)
    assert torch.equal(deep.label[:, 0], flat.label)
    points = torch.rand(2, 50, 2) * 25
    lifted = F.pad(points, (1, 0))
    torch.testing.assert_close(view_of(solid, lifted)[..., 1:], view_of(plane, points), atol=1e-3, rtol=0)


def test_3d_turns_about_the_slice_axis_only_when_not_tilted() -> None:
    level = Spatial(p_spatial=1, p_elastic=0, tilt_row_degrees=(0, 0), tilt_column_degrees=(0, 0))
    to_source = draw(level, 20, (8, 30, 30), (8, 30, 30)).to_source
    assert to_source[:, 0, 1:3].abs().max() < 1e-6
    assert to_source[:, 1, 2].abs().max() > 0.3
    tilted = draw(AFFINE, 20, (8, 30, 30), (8, 30, 30)).to_source
    assert tilted[:, 0, 1].abs().max() > 0.05
    assert tilted[:, 0, 2].abs().max() > 0.05


# ---------------------------------------------------------------------------------------------------- elastic


def test_displacement_is_as_strong_and_as_smooth_as_batchgenerators() -> None:
    from scipy.ndimage import gaussian_filter

    sigma, alpha, n = 6.0, 80.0, 160
    spatial = Spatial(p_spatial=1, elastic_sigma_px=(sigma, sigma), elastic_alpha_px=(alpha, alpha))
    elastic = draw(spatial, 24, (n, n), (n, n)).elastic
    assert elastic is not None
    ours = on_grid(elastic, [torch.arange(n, dtype=torch.float32)] * 2).flatten(0, 1)  # (48, n, n)
    expected = alpha * math.sqrt(1 / 3) / (2 * sigma * math.sqrt(math.pi))
    assert ours.std().item() == pytest.approx(expected, rel=0.04)

    noise = torch.rand(24, n + 60, n + 60, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = gaussian_filter(noise.numpy(), (0, sigma, sigma), mode="constant")[:, 30:-30, 30:-30] * alpha
    theirs = torch.from_numpy(blurred)
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.06)
    for lag in (3, 6, 12):  # correlation exp(-lag^2 / (4 sigma^2))
        for field in (ours, theirs):
            correlation = (field[:, lag:] * field[:, :-lag]).mean() / (field**2).mean()
            assert correlation.item() == pytest.approx(math.exp(-(lag**2) / (4 * sigma**2)), abs=0.05)
    border = torch.cat([ours[:, 0], ours[:, -1], ours[:, :, 0], ours[:, :, -1]]).std()
    assert border.item() == pytest.approx(expected, rel=0.15)  # no weaker at the view's border


def test_3d_displacement_strength() -> None:
    spatial = Spatial(p_spatial=1, elastic_sigma_px=(4, 4), elastic_alpha_px=(50, 50))
    elastic = draw(spatial, 4, (24, 40, 40), (24, 40, 40)).elastic
    assert elastic is not None
    field = on_grid(elastic, [torch.arange(n, dtype=torch.float32) for n in (24, 40, 40)])
    expected = 50 * math.sqrt(1 / 3) * (2 * 4 * math.sqrt(math.pi)) ** -1.5
    assert field.std().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_displacement_of_grid_and_of_points_are_one_formula(source: tuple, out: tuple) -> None:
    elastic = draw(ELASTIC, 3, source, out).elastic
    assert elastic is not None
    grid = on_grid(elastic, [torch.arange(n, dtype=torch.float32) for n in out])
    points = displacement(elastic, pixels(out, 3)[:, ::7]).mT
    torch.testing.assert_close(points, grid.flatten(2)[..., ::7], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_slope_is_the_derivative(source: tuple, out: tuple) -> None:
    elastic = draw(ELASTIC, 2, source, out).elastic
    assert elastic is not None
    elastic = Elastic(elastic.noise.double(), elastic.sigma_px.double(), elastic.step_px, elastic.origin_px.double())
    points = (torch.rand(2, 20, len(out)) * torch.tensor(out)).double()
    _, slope = displacement_and_slope(elastic, points)
    for axis in range(len(out)):
        little = 1e-4 * torch.eye(len(out), dtype=torch.float64)[axis]
        numeric = (displacement(elastic, points + little) - displacement(elastic, points - little)) / 2e-4
        torch.testing.assert_close(slope[..., axis], numeric, atol=1e-6, rtol=1e-5)


def test_small_systems_are_solved_and_singular_ones_give_no_step() -> None:
    for d in (2, 3):
        matrix, right = torch.randn(7, 5, d, d), torch.randn(7, 5, d)
        solved = correspondence._solve(matrix, right)
        torch.testing.assert_close((matrix @ solved[..., None])[..., 0], right, atol=1e-3, rtol=1e-3)
        assert torch.equal(correspondence._solve(torch.zeros(1, d, d), torch.ones(1, d)), torch.zeros(1, d))


@pytest.mark.parametrize("off", [{"p_elastic": 0.0}, {"p_spatial": 0.0}, {"elastic_alpha_px": (0.0, 0.0)}])
def test_no_elastic_where_settings_allow_none(off: dict) -> None:
    assert draw(Spatial(**off), 4, (20, 20), (20, 20)).elastic is None


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


# -------------------------------------------------------------------------------- labels, masks, and the rest


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_label_and_mask_follow_the_same_geometry(source: tuple, out: tuple) -> None:
    geometry = draw(ELASTIC, 4, source, out)
    label = torch.randint(0, 300, (4, *source))
    inside = torch.rand(4, 1, *source) > 0.3
    both = apply(geometry, torch.rand(4, 2, *source), label, inside)
    assert both.label is not None
    assert both.inside is not None
    assert both.label.dtype == torch.int64
    assert both.inside.dtype == torch.bool
    assert torch.equal(both.label, apply(geometry, torch.rand(4, 1, *source), label).label)
    assert torch.equal(both.inside, apply(geometry, torch.rand(4, 1, *source), inside=inside).inside)
    x = source_of(geometry, pixels(out, 4))
    size = torch.tensor(source)
    clear = ((x % 1 - 0.5).abs() > 1e-3).all(-1)  # not on the border between two pixels
    near = x.round().long()
    within = ((near >= 0) & (near < size)).all(-1)
    rows = torch.arange(4)[:, None].expand(near.shape[:2])
    expected = torch.where(within, label[(rows, *near.clamp(min=0).minimum(size - 1).unbind(-1))], 0)
    assert torch.equal(both.label.flatten(1)[clear], expected[clear])


def test_outside_is_zero_and_not_inside() -> None:
    away = given_affine([[1.0, 0.0, 100.0], [0.0, 1.0, 0.0]], (5, 5))
    view = apply(away, torch.ones(1, 1, 9, 9), torch.ones(1, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool))
    assert view.image.abs().max() == 0
    assert view.label is not None
    assert view.label.max() == 0
    assert view.inside is not None
    assert not view.inside.any()


def test_half_precision_images_are_read_in_float32() -> None:
    image = torch.rand(1, 1, 8, 8).half()
    view = apply(identity(1, (8, 8)), image)
    assert view.image.dtype == torch.float32
    torch.testing.assert_close(view.image, image.float(), atol=1e-5, rtol=0)


def test_autocast_does_not_touch_geometry() -> None:
    image = torch.rand(4, 1, 60, 48)
    x = torch.rand(4, 9, 2) * 40
    exact = draw(ELASTIC, 4, (60, 48), (52, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        geometry = draw(ELASTIC, 4, (60, 48), (52, 64))
        seen, points, back = apply(geometry, image).image, source_of(geometry, x), view_of(geometry, x)
        carried, _ = carry_back(torch.rand(4, 2, 13, 16).bfloat16(), geometry, 4, (60, 48))
    assert torch.equal(geometry.to_source, exact.to_source)
    assert torch.equal(seen, apply(exact, image).image)
    assert torch.equal(points, source_of(exact, x))
    assert torch.equal(back, view_of(exact, x))
    assert carried.dtype == torch.float32


def test_same_draw_same_view() -> None:
    batch = batch_of(torch.rand(5, 1, 40, 40))
    one, two = (views.random_view(Spatial(), batch, 32, Rows(3, 4, "cpu")) for _ in range(2))
    other = views.random_view(Spatial(), batch, 32, Rows(3, 5, "cpu"))
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, other.image)


def test_two_views_are_drawn_as_a_methods_settings_say() -> None:
    batch = batch_of(torch.randn(3, 1, 40, 36))
    how = pcl.Settings(size_px=32, spatial=Spatial(p_mirror=1.0))
    drawn = views.TwoViews(how)(batch, Rows(3, 4, "cpu"))
    rng = Rows(3, 4, "cpu")
    for name in ("first", "second"):
        assert torch.equal(drawn[name].image, views.random_view(how.spatial, batch, 32, rng).image)
    assert not torch.equal(drawn["first"].image, drawn["second"].image)


def test_what_is_inside_is_everything_unless_the_batch_says_otherwise() -> None:
    batch = batch_of(torch.randn(2, 3, 5, 4))
    filled = views.all_inside(batch)
    assert filled.inside is not None
    assert filled.inside.shape == (2, 1, 5, 4)
    assert filled.inside.all()
    known = batch_of(batch.image, inside=torch.rand(2, 1, 5, 4) < 0.5)
    assert views.all_inside(known) is known


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


@pytest.mark.parametrize(("source", "out"), SHAPES)
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
def test_quarter_turns_carry_their_geometry(turns: int, source: tuple, out: tuple) -> None:
    image = torch.rand(3, 1, *source, generator=torch.Generator().manual_seed(0))
    label = (image[:, 0] * 9).long()
    inside = image > 0.2
    view = apply(draw(ELASTIC, 3, source, out), image, label, inside)
    turned = quarter_turns(view, turns)
    assert torch.equal(turned.image, view.image.rot90(turns, (-2, -1)))
    assert turned.image.shape[2:] == turned.geometry.shape
    again = apply(turned.geometry, image, label, inside)
    torch.testing.assert_close(again.image, turned.image, atol=1e-3, rtol=0)
    assert (again.label != turned.label).float().mean() < 1e-3
    assert (again.inside != turned.inside).float().mean() < 1e-3


# -------------------------------------------------------------------------------------------------- keypoints


def keypoints_in(shape: tuple[int, ...], rows: int, count: int, seed: int = 0) -> Tensor:
    """(rows, count, d) places all over a source, a little beyond its edge too."""
    return Rows(seed, 2, "cpu").uniform(rows, count, len(shape)) * (torch.tensor(shape) + 1) - 1


def followed(geometry: Geometry, keypoints: Tensor, source: tuple[int, ...], follow: Follow = "exact") -> Tensor:
    image = torch.zeros(len(keypoints), 1, *source)
    seen = apply(geometry, image, keypoints=keypoints, follow=follow).keypoints
    assert seen is not None
    return seen


def same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=0, equal_nan=True)


def slow_exact(geometry: Geometry, keypoints: Tensor) -> Tensor:
    """Per point, without elastic: the affine map solved for the view's pixel."""
    seen = torch.full_like(keypoints, torch.nan)
    d = keypoints.shape[-1]
    for b in range(keypoints.shape[0]):
        for k in range(keypoints.shape[1]):
            if keypoints[b, k].isnan().any():
                continue
            matrix = geometry.to_source[b].double()
            place = torch.linalg.solve(matrix[:, :d], keypoints[b, k].double() - matrix[:, d])
            if all(-0.5 <= float(v) < n - 0.5 for v, n in zip(place, geometry.shape, strict=True)):
                seen[b, k] = place.float()
    return seen


def slow_index_map(geometry: Geometry, keypoints: Tensor, source: tuple[int, ...]) -> Tensor:
    """Per point: every pixel of the view that reads a keypoint's pixel, their mean, cut to whole numbers."""
    seen = torch.full_like(keypoints, torch.nan)
    read = source_of(geometry, pixels(geometry.shape, len(keypoints))).round().long().tolist()
    for b in range(keypoints.shape[0]):
        taken = set()
        for k in range(keypoints.shape[1]):
            if keypoints[b, k].isnan().any():
                continue
            pixel = [round(v) for v in keypoints[b, k].tolist()]
            if tuple(pixel) in taken or not all(0 <= p < n for p, n in zip(pixel, source, strict=True)):
                continue
            taken.add(tuple(pixel))
            of_it = [i for i, place in enumerate(read[b]) if place == pixel]
            if of_it:
                seen[b, k] = pixels(geometry.shape)[0, of_it].mean(0).floor()
    return seen


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_keypoints_go_where_a_slow_version_puts_them(source: tuple, out: tuple) -> None:
    geometry = draw(AFFINE, 4, source, out)
    keypoints = keypoints_in(source, 4, 30)
    keypoints[1, 4:], keypoints[2] = torch.nan, torch.nan
    expected = slow_exact(geometry, keypoints)
    assert 10 < expected[..., 0].isfinite().sum() < 64  # some leave the view
    assert same(followed(geometry, keypoints, source), expected, 1e-3)


@pytest.mark.parametrize(("source", "out"), [((22, 17), (18, 25)), ((5, 11, 9), (6, 12, 10))])
@pytest.mark.parametrize("spatial", [AFFINE, ELASTIC])
def test_the_index_map_equals_a_slow_version(spatial: Spatial, source: tuple, out: tuple) -> None:
    geometry = draw(spatial, 3, source, out, seed=1)
    keypoints = keypoints_in(source, 3, 60).round()
    keypoints[1, 7:] = torch.nan
    expected = slow_index_map(geometry, keypoints, source)
    assert expected[..., 0].isfinite().sum() > 20
    seen = followed(geometry, keypoints, source, "index_map")
    # A place on the very border between two pixels may be read from either of them.
    assert ((seen == expected) | (seen.isnan() & expected.isnan())).float().mean() > 0.99


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    source=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    out=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    more=st.integers(1, 5),
    follow=st.sampled_from(["exact", "index_map"]),
)
def test_keypoints_of_any_draw(
    seed: int, source: tuple[int, int], out: tuple[int, int], more: int, follow: Follow
) -> None:
    geometry = draw(resolve(Spatial, {"elastic_alpha_px": [10, 100]}), 3, source, out, seed)
    keypoints = keypoints_in(source, 3, 12, seed)
    keypoints[0, 5:] = torch.nan
    seen = followed(geometry, keypoints, source, follow)
    there = seen.isfinite().all(-1)
    assert torch.equal(seen.isnan().any(-1), ~there)  # a row is NaN as a whole
    assert not there[0, 5:].any()
    size = torch.tensor(out)
    assert ((seen >= -0.5) & (seen < size - 0.5))[there].all()
    back = (source_of(geometry, seen) - keypoints)[there].norm(dim=-1)
    if follow == "exact":
        assert (back < 1e-3).all()
    else:
        assert torch.equal(seen[there], seen[there].round())
        assert (back < 3.5).all()  # rounded, read at the nearest pixel, averaged and truncated: some pixels away
    padded = torch.cat([keypoints, torch.full((3, more, 2), torch.nan)], dim=1)
    again = followed(geometry, padded, source, follow)
    assert same(again[:, :12], seen, 1e-4)
    assert again[:, 12:].isnan().all()


@pytest.mark.parametrize("source", [(31, 47), (5, 16, 21)])
@pytest.mark.parametrize("follow", ["exact", "index_map"])
def test_identity_keeps_every_keypoint(source: tuple, follow: Follow) -> None:
    every = pixels(source, 2).clone()
    every[1, 3:] = torch.nan
    assert same(followed(identity(2, source), every, source, follow), every)


@pytest.mark.parametrize("follow", ["exact", "index_map"])
def test_a_mirror_turns_columns_round(follow: Follow) -> None:
    rows, columns = 9, 14
    mirror = given_affine([[1.0, 0.0, 0.0], [0.0, -1.0, columns - 1.0]], (rows, columns))
    keypoints = torch.tensor([[[0.0, 0.0], [3.0, 13.0], [8.0, 5.0]]])
    expected = torch.tensor([[[0.0, 13.0], [3.0, 0.0], [8.0, 8.0]]])
    assert same(followed(mirror, keypoints, (rows, columns), follow), expected)


def test_shrinking_deletes_keypoints_in_the_index_map_only() -> None:
    half = given_affine([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], (10, 10))  # reads even pixels alone
    keypoints = torch.tensor([[[4.0, 6.0], [4.0, 7.0], [19.0, 19.0]]])
    nan = math.nan
    assert same(followed(half, keypoints, (20, 20)), torch.tensor([[[2.0, 3.0], [2.0, 3.5], [nan, nan]]]))
    lossy = followed(half, keypoints, (20, 20), "index_map")
    assert same(lossy, torch.tensor([[[2.0, 3.0], [nan, nan], [nan, nan]]]))


def test_enlarging_gives_truncated_means_in_the_index_map() -> None:
    # Four view pixels in each source pixel: rows 4 to 7 read row 1, so its mean 5.5 becomes 5.
    four = given_affine([[0.25, 0.0, -0.375], [0.0, 0.25, -0.375]], (16, 16))
    keypoints = torch.tensor([[[1.0, 2.0]]])
    assert same(followed(four, keypoints, (4, 4)), torch.tensor([[[5.5, 9.5]]]))
    assert same(followed(four, keypoints, (4, 4), "index_map"), torch.tensor([[[5.0, 9.0]]]))


def test_the_index_map_keeps_the_first_keypoint_of_a_pixel() -> None:
    keypoints = torch.tensor([[[2.0, 3.0], [2.2, 2.9], [1.0, 1.0], [2.0, 3.0]], [[math.nan] * 2] * 4])
    seen = followed(identity(2, (5, 6)), keypoints, (5, 6), "index_map")
    assert seen[0, :, 0].isfinite().tolist() == [True, False, True, False]
    assert seen[0, 0].tolist() == [2, 3]
    assert seen[1].isnan().all()
    assert same(followed(identity(2, (5, 6)), keypoints, (5, 6)), keypoints, 1e-6)


def test_keypoints_at_borders() -> None:
    shifted = given_affine([[1.0, 0.0, 2.5], [0.0, 1.0, 0.0]], (4, 8))  # shows source rows 2 up to (not with) 6
    keypoints = torch.tensor([[[1.99, 3.0], [2.0, 3.0], [5.99, 3.0], [6.0, 3.0], [4.0, -0.5], [4.0, 7.5]]])
    seen = followed(shifted, keypoints, (9, 8))
    assert seen[0, :, 0].isfinite().tolist() == [False, True, True, False, True, False]
    assert seen[0, 1].tolist() == [-0.5, 3.0]
    outside = torch.tensor([[[-0.6, 3.0], [4.0, 7.6], [8.4, 1.0], [8.6, 1.0]]])
    whole = followed(identity(1, (9, 8)), outside, (9, 8), "index_map")
    assert whole[0, :, 0].isfinite().tolist() == [False, False, True, False]


def test_keypoints_in_folds_are_right_or_gone() -> None:
    wild = Spatial(p_spatial=1.0, elastic_sigma_px=(4.0, 5.0), elastic_alpha_px=(150.0, 200.0))
    geometry = draw(wild, 6, (64, 64), (64, 64))
    keypoints = keypoints_in((64, 64), 6, 400)
    lost = (source_of(geometry, view_of(geometry, keypoints)) - keypoints).norm(dim=-1) > 0.5
    assert lost.any()  # Newton's method went astray: the field folds the image
    seen = followed(geometry, keypoints, (64, 64))
    there = seen.isfinite().all(-1)
    assert not (there & lost).any()
    assert there.sum() > 200
    assert ((source_of(geometry, seen) - keypoints)[there].norm(dim=-1) < 0.5).all()


@pytest.mark.parametrize("follow", ["exact", "index_map"])
def test_keypoints_and_images_of_double_precision(follow: Follow) -> None:
    geometry = draw(ELASTIC, 2, (40, 36), (30, 32))
    keypoints = keypoints_in((40, 36), 2, 20).round()
    view = apply(geometry, torch.rand(2, 1, 40, 36).double(), keypoints=keypoints.double(), follow=follow)
    assert view.keypoints is not None
    assert view.keypoints.dtype == torch.float64
    assert same(view.keypoints.float(), followed(geometry, keypoints, (40, 36), follow), 1e-4)


def test_keypoints_leave_the_rest_of_a_view_alone() -> None:
    geometry = draw(ELASTIC, 2, (40, 36), (30, 32))
    image, label, inside = torch.rand(2, 1, 40, 36), torch.randint(0, 9, (2, 40, 36)), torch.rand(2, 1, 40, 36) > 0.3
    plain = apply(geometry, image, label, inside)
    assert plain.keypoints is None
    for follow in ("exact", "index_map"):
        view = apply(geometry, image, label, inside, keypoints=keypoints_in((40, 36), 2, 9), follow=follow)
        assert torch.equal(view.image, plain.image)
        assert torch.equal(view.label, plain.label)
        assert torch.equal(view.inside, plain.inside)


@pytest.mark.parametrize("follow", ["exact", "index_map"])
def test_random_views_carry_the_keypoints_of_the_batch(follow: Follow) -> None:
    keypoints = keypoints_in((40, 40), 5, 30).round()
    batch = batch_of(torch.rand(5, 1, 40, 40), keypoints=keypoints)
    view = views.random_view(Spatial(), batch, 32, Rows(3, 4, "cpu"), follow=follow)
    assert view.keypoints is not None
    assert same(view.keypoints, followed(view.geometry, keypoints, (40, 40), follow))
    plain = views.random_view(Spatial(), batch_of(batch.image), 32, Rows(3, 4, "cpu"))
    assert plain.keypoints is None
    assert torch.equal(view.image, plain.image)
    for each in views.two_views(Spatial(), batch, 32, Rows(3, 4, "cpu")).values():
        assert each.keypoints is not None
        assert same(each.keypoints, followed(each.geometry, keypoints, (40, 40)))


@pytest.mark.parametrize(("source", "out"), SHAPES)
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
def test_quarter_turns_carry_keypoints(turns: int, source: tuple, out: tuple) -> None:
    keypoints = keypoints_in(source, 3, 40)
    view = apply(draw(ELASTIC, 3, source, out), torch.rand(3, 1, *source), keypoints=keypoints)
    turned = quarter_turns(view, turns).keypoints
    assert turned is not None
    expected = view_of(quarter_turns(view, turns).geometry, keypoints)
    there = turned.isfinite().all(-1)
    assert view.keypoints is not None
    assert torch.equal(there, view.keypoints.isfinite().all(-1))
    assert (turned - expected)[there].abs().max() < 1e-2


# ------------------------------------------------------------------------------------------------- carry_back


@pytest.mark.parametrize(("source", "out"), [((64, 48), (64, 48)), ((8, 32, 40), (8, 32, 40))])
def test_carry_back_of_the_identity_is_the_map_itself(source: tuple, out: tuple) -> None:
    features = torch.rand(2, 3, *(n // 8 for n in out))
    carried, inside = carry_back(features, identity(2, source, out), 8, source)
    torch.testing.assert_close(carried, features, atol=1e-4, rtol=0)
    assert inside.shape == (2, 1, *carried.shape[2:])
    assert inside.all()


@pytest.mark.parametrize(("source", "out"), [((64, 80), (56, 72)), ((16, 40, 32), (16, 40, 32))])
@pytest.mark.parametrize(("spatial", "tolerance_px"), [(AFFINE, 1e-3), (ELASTIC, 0.25)])
def test_features_of_views_are_carried_to_where_they_came_from(
    spatial: Spatial, tolerance_px: float, source: tuple, out: tuple
) -> None:
    # Each pixel's value is its own source position, so each carried cell must show where it lies. Pooling and
    # bilinear reading are exact on a ramp; the elastic field bends it a little within a cell.
    stride, d = 4, len(source)
    ramps = pixels(source)[0].T.unflatten(1, source).expand(3, d, *source)
    pool = F.avg_pool2d if d == 2 else F.avg_pool3d
    geometry = draw(spatial, 3, source, out)
    known = torch.cat([ramps, torch.ones(3, 1, *source)], dim=1)
    features = pool(apply(geometry, known).image, stride).requires_grad_()
    carried, inside = carry_back(features, geometry, stride, source)
    u = ((view_of(geometry, pool(ramps, stride).flatten(2).mT) + 0.5) / stride - 0.5).mT.unflatten(2, carried.shape[2:])
    between = ((u >= 0) & (u <= torch.tensor(features.shape[2:]).view(1, d, *[1] * d) - 1)).all(1, keepdim=True)
    whole = inside & between & (carried[:, d:] > 1 - 1e-5)  # nothing of it comes from outside the source or the view
    assert whole.float().mean() > 0.15
    away = (carried[:, :d] - pool(ramps, stride)).abs().amax(1, keepdim=True)
    assert away[whole].max() < tolerance_px
    carried.square().mean().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_carry_back_says_what_is_not_in_view() -> None:
    # The view shows rows 16 to 31 of 64.
    window = given_affine([[1.0, 0.0, 16.0], [0.0, 1.0, 0.0]], (16, 32))
    _, inside = carry_back(torch.rand(1, 1, 2, 4), window, 8, (64, 32))
    assert inside[0, 0, :, 0].tolist() == [False, False, True, True, False, False, False, False]
    fine, _ = carry_back(torch.rand(1, 1, 2, 4), window, 8, (64, 32), (3, 5))
    assert fine.shape == (1, 1, 3, 5)


def test_carry_back_reads_feature_cells_at_their_centres() -> None:
    shifted = given_affine([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]], (16, 16))  # half a cell of 8
    features = torch.tensor([[10.0, 10.0], [30.0, 30.0]])[None, None]
    carried, _ = carry_back(features, shifted, 8, (24, 16))
    assert carried[0, 0, 1, 0].item() == pytest.approx(20.0, abs=1e-4)  # source row 11.5 = view row 7.5


# --------------------------------------------------------------------------------------------------- messages


def test_bicubic_in_2d_is_close_to_bilinear_and_refused_in_3d() -> None:
    smooth = blobs(torch.tensor([[[20.0, 22.0]]]), (40, 40), 5.0)
    geometry = draw(AFFINE, 1, (40, 40), (40, 40))
    cubic, linear = (apply(geometry, smooth, interpolation=kind).image for kind in ("bicubic", "bilinear"))
    assert 0 < (cubic - linear).abs().max() < 0.02
    with pytest.raises(UsageError, match="bicubic interpolation of a 3D image"):
        apply(identity(1, (4, 4, 4)), torch.rand(1, 1, 4, 4, 4), interpolation="bicubic")


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


def batch_of(image: Tensor, **more: Tensor) -> Batch:
    rows = torch.arange(len(image))
    return Batch(image, rows, rows, rows, rows / len(rows), torch.ones(len(rows), image.dim() - 2), **more)
