"""Where the keypoints of an image go in its views: exactly, and by KAF's index map; in 2D and 3D."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geometries_drawn import AFFINE, ELASTIC, SHAPES, batch_of, draw, given_affine, pixels
from how_many import examples
from lemis.contracts import Geometry
from lemis.sampling import views
from lemis.sampling.correspondence import source_of, view_of
from lemis.sampling.draw import Rows
from lemis.sampling.geometries import identity
from lemis.sampling.spatial import Spatial
from lemis.sampling.warping import Follow, apply, quarter_turns
from lemis.settings import resolve


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


@examples(40)
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
