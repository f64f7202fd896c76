"""Where points of a view lie in the source and back, and feature maps carried back; in 2D and 3D."""

import pytest
import torch
import torch.nn.functional as F

from geometries_drawn import AFFINE, ELASTIC, SHAPES, draw, given_affine, pixels
from lemis.sampling import correspondence
from lemis.sampling.correspondence import carry_back, source_of, view_of
from lemis.sampling.draw import Rows
from lemis.sampling.geometries import identity
from lemis.sampling.spatial import Spatial
from lemis.sampling.warping import apply


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


def test_small_systems_are_solved_and_singular_ones_give_no_step() -> None:
    for d in (2, 3):
        matrix, right = torch.randn(7, 5, d, d), torch.randn(7, 5, d)
        solved = correspondence._solve(matrix, right)
        torch.testing.assert_close((matrix @ solved[..., None])[..., 0], right, atol=1e-3, rtol=1e-3)
        assert torch.equal(correspondence._solve(torch.zeros(1, d, d), torch.ones(1, d)), torch.zeros(1, d))


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
