"""IIC (Ji et al. 2019) on one image: the copy and its way back, the heads, the loss. The loss itself: tests/parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.parts import mutual_information
from lemis.single.iic import Clustering, Settings, jitter, segment


def image(n: int = 1, side: int = 12) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(n: int = 1, **given: Any) -> Clustering:
    return Clustering(Settings(width=6, **given), 3, list(range(n))).double()


def phi_of(net: Clustering, x: Tensor, head: int = 0) -> Tensor:
    out: Tensor = net.heads[head](net.trunk(x)).softmax(1)
    return out


def test_without_a_transformation_it_is_the_information_of_the_map_with_itself() -> None:
    net = network(2, p_mirror=0.0, jitter=0.0, reach_px=2)
    phi = phi_of(net, image(2))
    expected = mutual_information.loss(phi, phi, reach_px=2)
    step = net(image(2))
    torch.testing.assert_close(step.losses["clusters"], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(step.labels, phi.argmax(1))


@pytest.mark.parametrize("reach", [0, 1])
def test_a_mirrored_copy_is_brought_back(reach: int) -> None:
    net = network(p_mirror=1.0, jitter=0.0, reach_px=reach)
    phi, back = phi_of(net, image()), phi_of(net, image().flip(2, 3)).flip(2, 3)
    expected = mutual_information.loss(phi, back, reach_px=reach)
    torch.testing.assert_close(net(image()).losses["clusters"], expected, rtol=1e-5, atol=1e-6)
    assert (expected - mutual_information.loss(phi, phi, reach_px=reach)).abs() > 1e-6


def test_a_turned_copy_leaves_pixels_out() -> None:
    net = network(p_mirror=0.0, jitter=0.0, rotation_deg=60.0)
    copy, geometry = net.transform(image())
    assert copy.shape == (1, 3, 12, 12)
    assert (copy == 0).all(1).any(), "corners of the copy lie outside the image"
    linear = geometry.to_source[0, :, :2]
    torch.testing.assert_close(linear @ linear.T, torch.eye(2), atol=1e-5, rtol=0)
    assert linear[0, 1].abs() <= 0.867  # sin 60


def test_copies_differ_from_step_to_step_and_from_image_to_image() -> None:
    net = network(2, p_mirror=0.0)
    same = image().expand(2, -1, -1, -1)
    first, second = net.transform(same)[0], net.transform(same)[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_two_heads_are_two_losses_and_the_labels_are_of_the_first() -> None:
    net = network(clusters=3, over_clusters=15, p_mirror=0.0, jitter=0.0, reach_px=0)
    step = net(image())
    assert list(step.losses) == ["clusters", "over_clusters"]
    phi = phi_of(net, image(), head=1)
    torch.testing.assert_close(step.losses["over_clusters"], mutual_information.loss(phi, phi), rtol=1e-5, atol=1e-6)
    assert step.labels.max() < 3


def test_jitter_by_hand() -> None:
    x = image(2, 3) * 0.5 + 0.2
    one = torch.ones(2, 3)
    torch.testing.assert_close(jitter(x, one), x)
    bright, grey, flat = (one.index_fill(1, torch.tensor([k]), value) for k, value in ((0, 1.1), (2, 0.0), (1, 0.0)))
    torch.testing.assert_close(jitter(x, bright), (x * 1.1).clamp(0, 1))
    torch.testing.assert_close(jitter(x, flat), x.mean((1, 2, 3), keepdim=True).expand_as(x))
    luma = (x * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(jitter(x, grey), luma.expand_as(x))
    torch.testing.assert_close(jitter(x[:, :1], grey), x[:, :1])  # grey images have no saturation
    assert jitter(torch.ones(2, 3, 2, 2), bright).max() == 1


def test_the_two_halves_of_an_image_are_found() -> None:
    noise = 0.05 * torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    halves = (torch.arange(20) // 10).expand(20, 20)
    given = (0.25 + 0.5 * halves + noise).clamp(0, 1)
    how = Settings(clusters=2, width=16, reach_px=1)
    found = segment(given, how, [0]).labels[0]
    agree = (found == halves).float().mean().item()
    assert max(agree, 1 - agree) > 0.95
