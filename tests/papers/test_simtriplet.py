"""SimTriplet (Liu et al., MICCAI 2021): both terms by loops, the stopped gradient, the neighbour, and no collapse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.contracts import Batch
from lemis.methods import pcl, simsiam
from lemis.methods.simtriplet import Method, Settings, Views, symmetric
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 8, "hidden": 12, "bottleneck": 4}


def with_neighbours(slices: Batch, rows: Tensor, other: Tensor) -> Batch:
    """Slices ``rows``, each with slice ``other`` as its neighbour."""
    one, two = (Batch(*(None if v is None else v[chosen] for v in slices)) for chosen in (rows, other))
    return one._replace(neighbour=two)


def slow(p: Tensor, z: Tensor, a: int, b: int) -> float:
    """1/2 D(p_a, z_b) + 1/2 D(p_b, z_a), the mean over slices; p and z are (3, N, D)."""
    total = 0.0
    for i in range(p.shape[1]):
        for one, two in ((a, b), (b, a)):
            total -= 0.5 * float(p[one, i] @ z[two, i] / p[one, i].norm() / z[two, i].norm())
    return total / p.shape[1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_both_terms_by_loops(count: int, says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(count)
    p, z = torch.randn(3, count, 8), torch.randn(3, count, 8)
    method = Method(make_unet(), Settings(**SMALL))
    method.project, method.predict = says(z.flatten(0, 1)), says(p.flatten(0, 1))
    rows = torch.arange(count)
    outcome = method(with_neighbours(make_batch({0: list(range(6))}, of={0: 6}), rows, rows + 1), Rows(*RNG))
    assert outcome.losses["intra"].item() == pytest.approx(slow(p, z, 0, 1), rel=1e-5)
    assert outcome.losses["inter"].item() == pytest.approx(slow(p, z, 0, 2), rel=1e-5)
    assert not outcome.uninformed


def test_known_values() -> None:
    one, two = torch.eye(4)[:2], torch.eye(4)[2:]
    assert symmetric(two, one, one, two).item() == pytest.approx(-1, abs=1e-6)  # each predicts the other
    assert symmetric(-two, one, -one, two).item() == pytest.approx(1, abs=1e-6)
    assert symmetric(one, one, two, two).item() == pytest.approx(0, abs=1e-6)


def test_the_target_is_a_constant() -> None:
    p1, z1, p3, z3 = (torch.randn(3, 4).requires_grad_() for _ in range(4))
    symmetric(p1, z1, p3, z3).backward()
    assert p1.grad is not None
    assert p3.grad is not None
    assert z1.grad is None
    assert z3.grad is None


def test_the_third_view_is_of_the_neighbour(make_batch: Any) -> None:
    slices, rows = make_batch({0: list(range(6))}, of={0: 6}), torch.tensor([0, 3])
    blank = slices._replace(image=torch.cat([slices.image[:4], torch.zeros_like(slices.image[4:])]))
    seen = Views(Settings(size_px=32))(with_neighbours(blank, rows, torch.tensor([1, 4])), Rows(*RNG))
    assert list(seen) == ["first", "second", "neighbour"]
    assert all(view.image[1].abs().max() > 0 for key, view in seen.items() if key != "neighbour")
    assert seen["neighbour"].image[0].abs().max() > 0
    assert seen["neighbour"].image[1].abs().max() == 0, "slice 4 is blank"
    geometry = [view.geometry.to_source for view in seen.values()]
    assert not any(torch.equal(geometry[a], geometry[b]) for a, b in ((0, 1), (0, 2), (1, 2))), "drawn independently"


def test_neighbours_touch_by_default(make_unet: Any) -> None:
    sampling = Method(make_unet(), Settings(**SMALL)).sampling
    assert (sampling.kind, sampling.reach, sampling.reach_slices) == ("neighbours", 1.0, 1)
    assert Method(make_unet(), Settings(**SMALL, reach_slices=3)).sampling.reach_slices == 3


def test_equal_neighbours_and_views_make_both_terms_one(make_unet: Any, make_batch: Any) -> None:
    still = Spatial(p_mirror=0, p_spatial=0, crop="centre")
    rows = torch.arange(4)
    batch = with_neighbours(make_batch({0: list(range(4))}, of={0: 4}), rows, rows)
    losses = Method(make_unet(), Settings(**SMALL, spatial=still))(batch, Rows(*RNG)).losses
    assert losses["intra"].item() == pytest.approx(losses["inter"].item(), abs=1e-5)


def test_sizes_are_simsiams(make_unet: Any) -> None:
    ours, theirs = Method(make_unet(8), Settings()), simsiam.Method(make_unet(8), simsiam.Settings())
    for part in ("project", "predict"):
        shapes = [[tuple(p.shape) for p in getattr(method, part).parameters()] for method in (ours, theirs)]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_it_learns_and_does_not_collapse(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=64, hidden=64, bottleneck=16))
    slices = make_batch({0: list(range(64))}, of={0: 64}, side=40)
    near_by = 0.8 * slices.image + 0.2 * slices.image.roll(1, 0)  # the neighbour shows nearly the same
    slices = slices._replace(image=torch.cat([slices.image, near_by]), **{
        name: torch.cat([getattr(slices, name)] * 2) for name in ("index", "scan", "subject", "position", "spacing_mm")
    })  # fmt: skip
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    for step in range(50):
        rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        outcome = method(with_neighbours(slices, rows, rows + 64), Rows(0, step, "cpu"))
        optimiser.zero_grad()
        torch.stack(list(outcome.losses.values())).sum().backward()
        optimiser.step()
    assert spread(outcome.embeddings["global"]) > 3 * SMALLEST_SPREAD
    assert all(loss.item() < -0.2 for loss in outcome.losses.values())


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.hidden, ours.embedding, ours.bottleneck) == (2048, 2048, 512)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
