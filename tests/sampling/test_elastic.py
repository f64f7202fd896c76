"""Elastic displacement: as strong and smooth as batchgenerators', and one formula for grids and points."""

import math

import pytest
import torch

from geometries_drawn import ELASTIC, SHAPES, draw, pixels
from lemis.contracts import Elastic
from lemis.sampling.elastic import displacement, displacement_and_slope, on_grid
from lemis.sampling.spatial import Spatial


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


@pytest.mark.parametrize("off", [{"p_elastic": 0.0}, {"p_spatial": 0.0}, {"elastic_alpha_px": (0.0, 0.0)}])
def test_no_elastic_where_settings_allow_none(off: dict) -> None:
    assert draw(Spatial(**off), 4, (20, 20), (20, 20)).elastic is None
