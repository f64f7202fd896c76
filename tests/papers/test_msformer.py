"""MS-Former (Karimijafarbigloo et al. 2023): its block and its two consistencies by loops, its sizes, the message."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.errors import UsageError
from lemis.one_image import solo
from lemis.single.msformer import Block, Branch, Settings, Transformers, cut, inter, intra, segment, twice_as_large


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks(n: int = 1, **given: Any) -> Transformers:
    how = Settings(**{"clusters": 6, "width": 4, "blocks": 1, "patch_px": 4} | given)
    return Transformers(how, 3, list(range(n))).double()


def test_efficient_attention_is_attention_through_a_context() -> None:
    """One block against a version that looks at each pixel, and each pair of channels, in turn."""
    width, height, columns = 3, 4, 5
    block = Block(solo.generators([7]), width).double()
    x = noise(1, height * columns, width)
    found, context = block(x, (height, columns))

    def linear(layer: solo.Linear, rows: Tensor) -> Tensor:
        assert layer.bias is not None
        return rows @ layer.weight[0].T + layer.bias[0]

    rows = x[0]
    normed = F.layer_norm(rows, (width,))
    keys, queries, values = (linear(layer, normed) for layer in (block.keys, block.queries, block.values))
    G = torch.zeros(width, width, dtype=torch.float64)
    for i in range(width):
        weight = keys[:, i].exp() / keys[:, i].exp().sum()
        for j in range(width):
            G[i, j] = sum(weight[u] * values[u, j] for u in range(len(rows)))
    torch.testing.assert_close(context[0], G)
    attended = torch.stack([sum(q.softmax(0)[i] * G[i] for i in range(width)) for q in queries])  # type: ignore[misc]
    rows = rows + linear(block.project, attended)
    hidden = linear(block.widen, F.layer_norm(rows, (width,)))
    grid = hidden.T.reshape(1, 4 * width, height, columns)
    near = F.conv2d(grid, block.neighbours.weight[0], block.neighbours.bias[0], padding=1, groups=4 * width)  # type: ignore[index]
    mixed = F.gelu(F.layer_norm(near[0].flatten(1).T + hidden, (4 * width,)))
    torch.testing.assert_close(found[0], rows + linear(block.narrow, mixed))


def test_a_context_does_not_grow_with_the_image() -> None:
    for stride, shape in ((1, (9, 7)), (2, (5, 4))):
        branch = Branch(solo.generators([0, 1]), 3, 6, 2, stride=stride).double()
        out, context = branch(noise(2, 3, 9, 7))
        assert out.shape == (2, *shape, 6)
        assert context.shape == (2, 6, 6)


def test_inter_is_the_mean_cosine_distance_of_rows() -> None:
    a, b = noise(2, 4, 4), noise(2, 4, 4, seed=1)
    for row in range(2):
        expected = sum(1 - float(a[row, i] @ b[row, i] / a[row, i].norm() / b[row, i].norm()) for i in range(4)) / 4
        assert inter(a, b)[row].item() == pytest.approx(expected)
    torch.testing.assert_close(inter(a, 3 * a), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(inter(a, -a), torch.full((2,), 2.0, dtype=torch.float64))


def test_intra_is_the_distance_from_the_identity() -> None:
    eye = torch.eye(64)[None]
    assert intra(eye).item() == 0
    # Attention to all 64 patches alike, with which training begins: (63/64 + 63/64) / 64 of each row.
    assert intra(torch.full((1, 64, 64), 1 / 64)).item() == pytest.approx(2 * 63 / 64 / 64)


@examples(20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_patches_are_cut_row_by_row_and_padded_with_zeros(rows: int, columns: int, side: int) -> None:
    x = noise(1, 2, rows, columns)
    found = cut(x, side)
    down, right = -(-rows // side), -(-columns // side)
    assert found.shape == (1, down * right, side * side * 2)
    for number, patch in enumerate(found[0].view(-1, side, side, 2)):
        top, left = number // right * side, number % right * side
        for y in range(side):
            for z in range(side):
                inside = top + y < rows and left + z < columns
                expected = x[0, :, top + y, left + z] if inside else torch.zeros(2, dtype=torch.float64)
                assert torch.equal(patch[y, z], expected)


def test_the_published_size_has_64_patches_and_no_padding() -> None:
    assert cut(torch.zeros(1, 1, 256, 256), 32).shape == (1, 64, 1024)


def test_a_pixel_becomes_four() -> None:
    x = noise(1, 2, 3, 8)
    found = twice_as_large(x)
    assert found.shape == (1, 4, 6, 2)
    for y in range(4):
        for z in range(6):
            quarter = 2 * (y % 2) + z % 2
            assert torch.equal(found[0, y, z], x[0, y // 2, z // 2, 2 * quarter : 2 * quarter + 2])


def test_queries_are_moved_by_a_pixel() -> None:
    net = networks(attention_scale=2.0)
    y = noise(1, 6, 9, 9)
    normed = F.batch_norm(y, None, None, training=True)
    assert net.patches.bias is not None

    def tokens(x: Tensor) -> Tensor:
        return cut(x, 4)[0] @ net.patches.weight[0].T + net.patches.bias[0]  # type: ignore[index]

    expected = (tokens(normed[:, :, 1:, 1:]) @ tokens(normed[:, :, :-1, :-1]).T / 2).softmax(1)
    torch.testing.assert_close(net.attention(y)[0], expected)
    assert net.attention(y).shape == (1, 4, 4)


@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (8, 11), (1, 3), (16, 2)])
def test_all_sizes_and_all_weights(shape: tuple[int, int]) -> None:
    images = noise(2, 3, *shape).sigmoid()
    step = networks(2)(images)
    assert step.labels.shape == (2, *shape)
    assert list(step.losses) == ["cross_entropy", "inter", "intra"]
    doubled = networks(2, weight_cross_entropy=2.0, weight_inter=4.0, weight_intra=2.4)(images)
    for name, loss in step.losses.items():
        assert loss.shape == (2,)
        torch.testing.assert_close(doubled.losses[name], 2 * loss)
        assert (loss > 0).all() or (name == "intra" and max(shape) <= 5), "one patch attends to itself"


def test_every_parameter_learns() -> None:
    net = networks()
    torch.stack(list(net(noise(1, 3, 12, 12).sigmoid()).losses.values())).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A softmax over pixels, or a normalisation, does not see what is added to all of them.
        assert parameter.grad.abs().max() > (
            -1 if name.endswith(("keys.bias", "embed.bias", "narrow.bias")) else 1e-9
        ), name


def test_parameters_at_the_published_width() -> None:
    width, hidden = 100, 400
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * hidden + hidden + width + 9 * hidden + hidden
    block = attention + feed_forward + 2 * (2 * width) + 2 * hidden
    branch = 3 * 9 * width + width + 2 * width + 2 * (block + 2 * width)
    rest = 4 * width * width + 2 * width * width + 2 * width + 32 * 32 * width * width + width
    assert sum(p.numel() for p in Transformers(Settings(), 3, [0]).parameters()) == 2 * branch + rest


def test_a_message_where_the_coarse_scale_is_one_pixel() -> None:
    with pytest.raises(UsageError, match=r"images of 2 x 1 pixels\n.*one side of 3 pixels or more"):
        segment(torch.zeros(1, 3, 2, 1), Settings(), [0])
