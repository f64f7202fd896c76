"""What a view reads from its source, against slow loops and exact cases; in 2D and 3D."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from geometries_drawn import AFFINE, ELASTIC, SHAPES, blobs, centre_of_mass, draw, given_affine, pixels
from lemis.contracts import Elastic, Geometry
from lemis.errors import UsageError
from lemis.sampling.correspondence import carry_back, source_of, view_of
from lemis.sampling.geometries import identity
from lemis.sampling.spatial import Spatial
from lemis.sampling.warping import apply, quarter_turns


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


def test_bicubic_in_2d_is_close_to_bilinear_and_refused_in_3d() -> None:
    smooth = blobs(torch.tensor([[[20.0, 22.0]]]), (40, 40), 5.0)
    geometry = draw(AFFINE, 1, (40, 40), (40, 40))
    cubic, linear = (apply(geometry, smooth, interpolation=kind).image for kind in ("bicubic", "bilinear"))
    assert 0 < (cubic - linear).abs().max() < 0.02
    with pytest.raises(UsageError, match="bicubic interpolation of a 3D image"):
        apply(identity(1, (4, 4, 4)), torch.rand(1, 1, 4, 4, 4), interpolation="bicubic")
