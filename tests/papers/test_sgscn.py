"""SGSCN (Ahn et al. 2021): both spatial terms by loops, the network, and what training does to clusters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from how_many import examples
from lemis.single.sgscn import Clustering, Settings, context, segment, sparse

FEW = examples(20)
E = 1e-3


def slow_sparse(o: Tensor) -> float:
    clusters, rows, columns = o.shape
    down = [abs(float(o[k, y + 1, x] - o[k, y, x]))
            for k in range(clusters) for y in range(rows - 1) for x in range(columns)]  # fmt: skip
    right = [abs(float(o[k, y, x + 1] - o[k, y, x]))
             for k in range(clusters) for y in range(rows) for x in range(columns - 1)]  # fmt: skip
    return sum(sum(each) / len(each) for each in (down, right) if each)


def slow_context(maps: Tensor) -> float:
    total = 0.0
    for o in maps:
        rows, columns = o.shape
        places = [(-1 + 2 * y / rows, -1 + 2 * x / columns) for y in range(rows) for x in range(columns)]
        p = ((o + E) / (o + E).sum()).flatten().tolist()
        mean = [sum(p_u * u[axis] for p_u, u in zip(p, places, strict=True)) for axis in (0, 1)]
        total += sum(p_u * ((u[0] - mean[0]) ** 2 + (u[1] - mean[1]) ** 2) for p_u, u in zip(p, places, strict=True))
    return total


def scores(seed: int, clusters: int, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, clusters, rows, columns, generator=generator, dtype=torch.float64)


@FEW
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
def test_the_spatial_terms_are_the_formulas(seed: int, clusters: int, rows: int, columns: int) -> None:
    o = scores(seed, clusters, rows, columns)
    assert sparse(o).tolist() == pytest.approx([slow_sparse(each) for each in o], abs=1e-9)
    s = o.softmax(1)
    assert context(s).tolist() == pytest.approx([slow_context(each) for each in s], abs=1e-9)
    signed = o - o.mean((2, 3), keepdim=True) + 0.5  # a sum that is not 0 by chance
    assert context(signed).tolist() == pytest.approx([slow_context(each) for each in signed], rel=1e-6, abs=1e-6)


def test_compact_clusters_have_little_context_loss() -> None:
    left = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    left[:, 0, :, :4] = left[:, 1, :, 4:] = 1
    mixed = torch.zeros_like(left)
    mixed[:, 0, :, ::2] = mixed[:, 1, :, 1::2] = 1
    # The variance of 8 rows 1/4 apart, and that of 4 (or every second) columns.
    assert context(left).item() == pytest.approx(2 * (63 / 12 / 16 + 15 / 12 / 16), rel=0.02)
    assert context(mixed).item() == pytest.approx(2 * (63 / 12 / 16 + 15 / 12 / 4), rel=0.02)
    assert sparse(left).item() < sparse(mixed).item()


def test_a_constant_map_has_no_differences() -> None:
    assert sparse(torch.full((1, 3, 5, 5), 2.0)).item() == 0


def test_gradients() -> None:
    o = scores(0, 3, 3, 4).requires_grad_()
    torch.autograd.gradcheck(lambda x: sparse(x) + context(x.softmax(1)), (o,))


def reference(seed: int, clusters: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, clusters, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(clusters),
        nn.Conv2d(clusters, clusters, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(clusters),
        nn.Conv2d(clusters, clusters, 1), nn.BatchNorm2d(clusters),
    )  # fmt: skip


def test_it_is_the_network_of_the_paper_and_its_loss() -> None:
    how = Settings(clusters=6)
    images = torch.rand(2, 3, 9, 10, generator=torch.Generator().manual_seed(0))
    step = Clustering(how, 3, [11, 12])(images)
    for row, seed in enumerate([11, 12]):
        o = reference(seed, 6)(images[row : row + 1])
        label = o.argmax(1)
        assert torch.equal(step.labels[row], label[0])
        expected = {
            "cross_entropy": nn.functional.cross_entropy(o, label).item(),
            "sparse": 5 * slow_sparse(o[0].detach()),
            "context": slow_context(o[0].softmax(0).detach()),
        }
        assert {key: loss[row].item() for key, loss in step.losses.items()} == pytest.approx(expected, rel=1e-4)


def test_parameters_at_the_published_width() -> None:
    network = Clustering(Settings(), 3, [0])
    expected = 3 * 100 * 9 + 100 + 100 * 100 * 9 + 100 + 100 * 100 + 100 + 3 * 2 * 100
    assert sum(p.numel() for p in network.parameters()) == expected


def test_as_released_the_context_is_that_of_the_output_itself() -> None:
    images = torch.rand(1, 3, 9, 10, generator=torch.Generator().manual_seed(0))
    step = Clustering(Settings(clusters=6, context_of="released"), 3, [11])(images)
    o = reference(11, 6)(images)[0].detach()
    # Its normaliser is about 1e-3 of the pixels, so rounding counts.
    assert step.losses["context"].item() == pytest.approx(slow_context(o.double()), rel=0.01)


def test_clusters_merge_until_few_are_left() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    disc = (rows.square() + columns.square() < 0.3).float()
    noise = 0.05 * torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(0))
    image = (0.2 + 0.6 * disc + noise).clamp(0, 1)[None]
    how = Settings(clusters=12, max_iterations=40)
    first = segment(image, Settings(clusters=12, max_iterations=1, restarts=0), [0])
    last = segment(image, how, [0])
    assert len(first.labels.unique()) > 6
    assert 1 < len(last.labels.unique()) <= 5
    inside = disc.bool()
    best = max(
        2 * (mask & inside).sum().item() / (mask.sum() + inside.sum()).item()
        for mask in (last.labels[0] == label for label in last.labels.unique())
    )
    assert best > 0.8
