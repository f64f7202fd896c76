"""The keypoint layer: its cells, its sparse convolution against a dense one, its mean over collisions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.layers.attention import points_of, unpack
from lemis.layers.fusion import Diffusion, KeypointFusion, Placed, cells_of, mean_of_cell, read

NAN = float("nan")
SIZE = (5, 7)


def some_keypoints(images: int, most: int, seed: int, stride: int = 2) -> Tensor:
    """Random places on SIZE cells; about a third of the rows are none."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor(SIZE) * stride
    places = torch.rand(images, most, 2, generator=generator, dtype=torch.float64) * limit - 0.5
    return places.masked_fill(torch.rand(images, most, 1, generator=generator) < 0.3, NAN)


@pytest.mark.parametrize(
    ("pixel", "stride", "cell"),
    [((0, 0), 1, (0, 0)), ((7, 6), 1, (7, 6)), ((7, 6), 4, (1, 1)), ((8, 3), 4, (2, 0)), ((3.4, 3.6), 2, (1, 2))],
)
def test_cells_are_floor_of_the_pixel_over_the_stride(
    pixel: tuple[float, float], stride: int, cell: tuple[int, int]
) -> None:
    keypoints = torch.tensor([[pixel]])
    found = cells_of(keypoints, points_of(keypoints), stride, (9, 9))
    assert found.place[0, 0].tolist() == list(cell)


@examples(40)
@given(seed=st.integers(0, 10_000), most=st.integers(1, 12))
def test_leaders_are_one_a_cell_and_share_its_mean(seed: int, most: int) -> None:
    keypoints = some_keypoints(2, most, seed)
    points = points_of(keypoints)
    cells = cells_of(keypoints, points, 2, SIZE)
    d = unpack(torch.randn(len(points.rows), 3, dtype=torch.float64), points)
    mean = mean_of_cell(d, cells)
    for image in range(2):
        by_cell: dict[tuple[int, ...], list[int]] = {}
        for k in points.valid[image].nonzero()[:, 0].tolist():
            by_cell.setdefault(tuple(cells.place[image, k].tolist()), []).append(k)
        assert sorted(members[0] for members in by_cell.values()) == cells.leads[image].nonzero()[:, 0].tolist()
        for members in by_cell.values():
            torch.testing.assert_close(mean[image, members[0]], d[image, members].mean(0))


@examples(20)
@given(seed=st.integers(0, 10_000), most=st.integers(1, 12))
def test_diffusion_equals_dense_convolutions_of_the_scattered_map(seed: int, most: int) -> None:
    torch.manual_seed(seed)
    diffuse = Diffusion(8, 6).double()
    keypoints = some_keypoints(3, most, seed)
    points = points_of(keypoints)
    cells = cells_of(keypoints, points, 2, SIZE)
    d = unpack(torch.randn(len(points.rows), 8, dtype=torch.float64), points).requires_grad_()

    def dense(d: Tensor) -> Tensor:
        mean = mean_of_cell(d, cells)
        scattered = torch.zeros(3, 8, *SIZE, dtype=torch.float64)
        for image, k in cells.leads.nonzero().tolist():
            row, col = cells.place[image, k]
            scattered[image, :, row, col] = mean[image, k]
        return diffuse.smooth(diffuse.norm(diffuse.spread(scattered)).relu())

    wanted = dense(d)
    found = diffuse(mean_of_cell(d, cells), cells, SIZE)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    parameters = [d, *diffuse.parameters()]
    expected = torch.autograd.grad((wanted * weights).sum(), parameters, materialize_grads=True)
    for got, want in zip(torch.autograd.grad((found * weights).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_read_takes_the_cell_of_each_point() -> None:
    keypoints = some_keypoints(2, 9, 0)
    points = points_of(keypoints)
    cells = cells_of(keypoints, points, 2, SIZE)
    x = torch.randn(2, 4, *SIZE, dtype=torch.float64, requires_grad=True)
    got = read(x, cells)
    for image in range(2):
        for k in range(9):
            row, col = cells.place[image, k]
            want = x[image, :, row, col] if points.valid[image, k] else torch.zeros(4, dtype=torch.float64)
            torch.testing.assert_close(got[image, k], want)
    assert torch.autograd.gradcheck(lambda x: read(x, cells), x)


def test_a_layer_without_points_spreads_nothing() -> None:
    torch.manual_seed(0)
    layer = KeypointFusion(4, 16, pairs=1, heads=2).eval()
    x = torch.randn(2, 4, *SIZE)
    keypoints = torch.full((2, 3, 2), NAN)
    out, d = layer(x, Placed.of(keypoints), 2)
    assert out.shape == (2, 8, *SIZE)
    assert d.shape == (2, 3, 16)
    assert d.abs().max() == 0
    assert torch.equal(out[:, :4], x)
    nothing = layer.diffuse.norm(layer.diffuse.spread.bias[None, :, None, None].expand(2, -1, *SIZE)).relu()
    torch.testing.assert_close(out[:, 4:], layer.diffuse.smooth(nothing))


def test_parameters_of_the_notes() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    for channels in (32, 48, 256):
        layer = KeypointFusion(channels, 256, pairs=1, heads=4)
        assert count(layer.project) == 256 * channels + 256
        assert count(layer.diffuse) == 147_520 + 128 + 577 * channels
