"""Sobel's filters against a convolution, on maps whose edges are known, and what the losses make of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lemis.parts.edges import disagreement, sobel, total_variation

X = [[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]
Y = [[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]
XY = [[-1.0, 0, 1], [0, 0, 0], [1, 0, -1]]


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 9))
def test_it_is_a_correlation_with_a_mirrored_border(height: int, width: int, seed: int) -> None:
    maps = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    padded = F.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None]
    expected = F.conv2d(padded, torch.tensor([X, Y, XY])[:, None]).view(2, 3, 3, height, width)
    torch.testing.assert_close(torch.stack(sobel(maps), 2), expected)


def test_opencv_finds_the_same_edges() -> None:
    cv2 = pytest.importorskip("cv2")
    image = torch.rand(9, 7, dtype=torch.float64)
    x, y, _ = sobel(image[None, None])
    torch.testing.assert_close(x[0, 0], torch.from_numpy(cv2.Sobel(image.numpy(), cv2.CV_64F, 1, 0)))
    torch.testing.assert_close(y[0, 0], torch.from_numpy(cv2.Sobel(image.numpy(), cv2.CV_64F, 0, 1)))


def test_a_constant_map_has_no_edges() -> None:
    constant = torch.full((2, 3, 6, 5), 0.7)
    assert all(edge.abs().max() == 0 for edge in sobel(constant))
    assert disagreement(constant).abs().max() == 0
    assert total_variation(constant).abs().max() == 0


def test_a_step() -> None:
    step = torch.zeros(1, 1, 5, 6)
    step[..., 3:] = 1
    x, y, xy = sobel(step)
    assert x[0, 0].tolist() == [[0, 0, 4, 4, 0, 0]] * 5
    assert y.abs().max() == 0
    assert xy.abs().max() == 0
    assert disagreement(step).item() == pytest.approx(2 * 4 * 2 / 6)  # |Gx - Gy| and |Gx - Gxy|, in 2 of 6 columns
    assert total_variation(step).item() == pytest.approx(4 * 2 / 6)


def test_a_corner() -> None:
    corner = torch.zeros(1, 1, 7, 7)
    corner[..., 3:, 3:] = 1
    x, y, xy = sobel(corner)
    assert x[0, 0, 2].tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert y[0, 0, :, 2].tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert xy[0, 0, 2].tolist() == [0, 0, -1, -1, 0, 0, 0]


def test_an_edge_is_judged_by_its_direction() -> None:
    down, right = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    diagonal, other = (down + right)[None, None], (down - right)[None, None]
    inner = (..., slice(1, -1), slice(1, -1))
    x, y, xy = sobel(diagonal)
    assert (x - y)[inner].abs().max() == 0
    assert xy[inner].abs().max() == 0
    assert disagreement(diagonal).item() < disagreement(other).item()
    assert total_variation(diagonal).item() == pytest.approx(total_variation(other).item())


def test_both_have_a_gradient_where_there_is_an_edge() -> None:
    maps = torch.zeros(1, 2, 6, 6)
    maps[:, 0, :, 3:], maps[:, 1, :, :3] = 3.0, 3.0
    for loss in (disagreement, total_variation):
        logits = maps.clone().requires_grad_()
        loss(logits.softmax(1)).sum().backward()
        assert logits.grad is not None
        assert logits.grad[..., 2:4].abs().min() > 0


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (1, 1)])
def test_an_axis_of_one_pixel_has_no_edges(shape: tuple[int, int]) -> None:
    x, y, xy = sobel(torch.rand(1, 2, *shape))
    assert x.shape == (1, 2, *shape)
    assert xy.abs().max() == 0
    for axis, edge in ((0, y), (1, x)):
        assert (edge.abs().max() == 0) == (shape[axis] == 1)
