"""SCL (Wang et al. 2021, as in Lee et al. 2021): the loss by a double loop, known values, edges, and its negatives."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.auxiliary import voxel_siamese
from lemis.auxiliary.supervised_contrast import Auxiliary, Settings, contrast
from lemis.backbones import unet3d
from lemis.errors import UsageError
from lemis.sampling.draw import Rows

RNG = (0, 0, "cpu")


def slow(i: Tensor, others: Tensor, positives: Tensor, negatives: Tensor, tau: float) -> list[float | None]:
    """L_i, read aloud; None where it is left out."""
    found: list[float | None] = []
    for a in range(len(i)):
        cosine = [float(i[a] @ b / i[a].norm() / b.norm()) for b in others]
        against = sum(math.exp(cosine[n] / tau) for n in range(len(others)) if negatives[a, n])
        of_pairs = [
            -math.log(math.exp(cosine[j] / tau) / (math.exp(cosine[j] / tau) + against))
            for j in range(len(others))
            if positives[a, j]
        ]
        found.append(sum(of_pairs) / len(of_pairs) if of_pairs and against else None)
    return found


def some(count: int, others: int, seed: int = 0, size: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count + others, size, generator=generator, dtype=torch.float64)
    chance = torch.rand(count, count + others, generator=generator)
    return z[:count], z, chance < 0.3, chance > 0.6


def network() -> unet3d.Backbone:
    torch.manual_seed(0)
    return unet3d.Backbone(unet3d.Settings(base_width=4), in_channels=1, num_classes=3)


class Asked(nn.Module):
    """A head that answers with the question, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.rows = x.detach()
        return x


def asking(**given: Any) -> Auxiliary:
    """The loss of the bottleneck alone, with an identity as its head."""
    loss = Auxiliary(network(), Settings(layers=1, **given), num_classes=3)
    loss.project = nn.ModuleList([Asked()])
    return loss


def answered(predicted: Tensor) -> Tensor:
    return nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize("tau", [0.07, 0.1, 1.0])
@pytest.mark.parametrize(("count", "others"), [(1, 0), (2, 3), (6, 0), (9, 7)])
def test_equals_a_double_loop(count: int, others: int, tau: float) -> None:
    for seed in range(3):
        given = some(count, others, seed)
        expected = slow(*given, tau)
        ours, counted = contrast(*given, tau)
        assert counted.tolist() == [value is not None for value in expected]
        assert ours.tolist() == pytest.approx([value or 0.0 for value in expected], rel=1e-7, abs=1e-8)


def by_loops(rows: Tensor, label: Tensor, anchors: list[int], tau: float, others: bool) -> float:
    """The loss of a layer whose every voxel is taken."""
    found = []
    for a in anchors:
        positives = [b for b in anchors if b != a and label[b] == label[a]]
        negatives = [b for b in range(len(label)) if label[b] != label[a] and (others or b not in anchors)]
        masks = torch.zeros(2, 1, len(label), dtype=torch.bool)
        masks[0, 0, positives], masks[1, 0, negatives] = True, True
        found += slow(rows[a : a + 1], rows, masks[0], masks[1], tau)
    return sum(value for value in found if value is not None) / sum(value is not None for value in found)


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_a_layer_by_loops(background: bool, others: bool) -> None:
    torch.manual_seed(1)
    loss = asking(background=background, others=others, weight=3.0, alpha=(0.5,), temperature=0.2).double()
    features, label = torch.randn(2, 6, 2, 3, 2).double(), torch.randint(0, 3, (2, 2, 3, 2))
    outcome = loss([features], label, torch.randn(2, 3, 2, 3, 2), Rows(*RNG))
    y = label.flatten()
    anchors = [a for a in range(len(y)) if background or y[a] > 0]
    if background and not others:
        expected = 0.0  # every voxel is one of the i, and none is left to be a negative
    else:
        expected = by_loops(features.movedim(1, -1).reshape(-1, 6), y, anchors, 0.2, others)
    assert outcome.losses["contrast/1"].item() == pytest.approx(1.5 * expected, rel=1e-9)


def test_gradient() -> None:
    i, others, positives, negatives = some(6, 5)
    positives[0], negatives[1] = False, False  # and voxels that are left out
    i, others = i.clone().requires_grad_(), others.requires_grad_()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        loss, counted = contrast(a, b, positives, negatives, 0.3)
        return loss.sum() / counted.sum()

    assert torch.autograd.gradcheck(mean, (i, others))


@pytest.mark.parametrize("count", [1, 5, 200])
def test_equal_vectors_give_log_of_one_more_than_the_negatives(count: int) -> None:
    z, apart = torch.ones(2 + count, 3), torch.zeros(2, 2 + count, dtype=torch.bool)
    apart[:, 2:] = True
    found, counted = contrast(z[:2], z, ~apart, apart, 0.1)
    assert counted.all()
    assert found.tolist() == pytest.approx([math.log(1 + count)] * 2)


def test_other_positives_are_not_in_the_denominator() -> None:
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    positives = torch.tensor([[False, True, True, False]])
    negatives = torch.tensor([[False, False, False, True]])
    against = math.exp(-1 / 0.5)
    expected = (math.log(1 + against / math.exp(1 / 0.5)) + math.log(1 + against)) / 2
    assert contrast(z[:1], z, positives, negatives, 0.5)[0].tolist() == pytest.approx([expected])


def test_a_small_temperature_overflows_nowhere() -> None:
    i, others, positives, negatives = (x.float() if x.is_floating_point() else x for x in some(8, 8))
    positives[0], negatives[1] = False, False
    i.requires_grad_()
    loss, counted = contrast(i, others, positives, negatives, 1e-3)
    loss.sum().backward()
    assert not counted[:2].any()
    assert torch.isfinite(loss).all()
    assert i.grad is not None
    assert torch.isfinite(i.grad).all()


def test_no_precision_is_lost_to_autocast() -> None:
    i, others, positives, negatives = some(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrast(i.bfloat16(), others.bfloat16(), positives, negatives, 0.1)[0]
    assert inside.dtype == torch.float32
    assert torch.equal(inside, contrast(i.bfloat16().float(), others.bfloat16().float(), positives, negatives, 0.1)[0])


# ---------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("label", ["background", "one organ", "one voxel", "one voxel of each", "two voxels"])
def test_edges_of_a_batch(label: str) -> None:
    y = torch.zeros(2, 16, 16, 16, dtype=torch.long)
    if label == "one organ":
        y += 1
    if label != "background":
        y[0, 0, 0, 0] = 1
    if label == "one voxel of each":
        y[1, 8, 8, 8] = 2
    if label == "two voxels":
        y[1, 8, 8, 8] = 1
    backbone = network()
    loss = Auxiliary(backbone, Settings(cell="corner"), num_classes=3)
    maps = backbone.encode(torch.randn(2, 1, 16, 16, 16))
    outcome = loss(maps, y, torch.randn(2, 3, 16, 16, 16), Rows(*RNG))
    terms = torch.stack(list(outcome.losses.values()))
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert (terms > 0).all() == (label == "two voxels"), "a pair of one organ, and something to repel"
    assert (terms == 0).all() == (label != "two voxels")
    for parameter in (*loss.parameters(), *backbone.encoder.parameters()):
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


# ---------------------------------------------------------------------------------------------- which voxels


def taken(loss: Auxiliary, label: Tensor, predicted: Tensor) -> Tensor:
    """Numbers of the cells that the loss looks at, those of the positives first."""
    side = label.shape[1:]
    numbers = torch.arange(label.numel()).view(len(label), 1, *side).double()
    loss([torch.cat([numbers, torch.ones_like(numbers)], 1)], label, answered(predicted), Rows(*RNG))
    rows: Tensor = loss.project[0].rows
    return rows[:, 0].long()


@pytest.mark.parametrize("kind", ["all", "organs", "background"])
def test_negatives_are_drawn_besides(kind: Any) -> None:
    number = torch.arange(2 * 10**3).view(2, 10, 10, 10)
    label = torch.where(number < 800, 1 + number % 2, 0)
    predicted = torch.where(number < 300, 0, label)
    rows = taken(asking(voxels=200, false_negatives=100, negatives=300, negatives_from=kind), label, predicted)
    assert len(rows) == 200 + 300
    assert len(rows.unique()) == 500, "no voxel twice"
    assert (int((rows[:200] < 300).sum()), int((rows[:200] < 800).sum())) == (100, 200)
    organs = int((rows[200:] < 800).sum())
    assert {"all": 0 < organs < 300, "organs": organs == 300, "background": organs == 0}[kind]


def test_the_positives_are_those_of_voxel_siamese() -> None:
    label = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    scl = asking(voxels=90, false_negatives=40, negatives=0)
    siamese = voxel_siamese.Auxiliary(
        network(), voxel_siamese.Settings(layers=1, voxels=90, false_negatives=40), num_classes=3
    )
    siamese.project, siamese.predict = nn.ModuleList([Asked()]), nn.ModuleList([nn.Identity()])
    predicted = label.roll(1, 1)
    assert torch.equal(taken(scl, label, predicted), taken(siamese, label, predicted))


def test_one_structure_alone_needs_background_to_repel() -> None:
    for given in ({"negatives": 0}, {"negatives_from": "organs"}):
        with pytest.raises(UsageError, match=r"with one structure\n.*another class.*\n.*negatives_from=all"):
            Auxiliary(network(), Settings(**given), num_classes=2)
        Auxiliary(network(), Settings(**given, background=True), num_classes=2)
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[0, 0] = 1
    loss = Auxiliary(network(), Settings(layers=1), num_classes=2)
    outcome = loss([torch.randn(1, 32, 4, 4, 4)], label, torch.randn(1, 2, 4, 4, 4), Rows(*RNG))
    assert outcome.losses["contrast/1"] > 0


# ------------------------------------------------------------------------------------------------ the network


def test_heads() -> None:
    loss = Auxiliary(network(), Settings(), num_classes=3)
    assert [g[0].in_features for g in loss.project] == [32, 16, 8], "from the bottleneck"
    loss = Auxiliary(network(), Settings(head="mlp", hidden=10), num_classes=3)
    assert [type(layer).__name__ for layer in loss.project[0]] == ["Linear", "BatchNorm", "ReLU", "Linear"]
    assert [g[-1].out_features for g in loss.project] == [10] * 3


def test_organs_come_apart() -> None:
    backbone = network()
    loss = Auxiliary(backbone, Settings(layers=2, voxels=200, negatives=200), num_classes=3)
    generator = torch.Generator().manual_seed(0)
    image = nn.functional.interpolate(torch.randn(2, 1, 4, 4, 4, generator=generator), (16, 16, 16), mode="trilinear")
    label = (image[:, 0] > 0).long() + (image[:, 0] > 0.4).long()
    optimiser = torch.optim.Adam([*backbone.encoder.parameters(), *loss.parameters()], lr=1e-2)
    totals = []
    for step in range(15):
        outcome = loss(backbone.encode(image), label, answered(label), Rows(0, step, "cpu"))
        optimiser.zero_grad()
        total = torch.stack(list(outcome.losses.values())).sum()
        totals.append(total.item())
        total.backward()
        optimiser.step()
    assert totals[-1] < totals[0] - 1
    one, two = outcome.embeddings["contrast/1"]
    assert torch.cosine_similarity(one, two, dim=0) < 0.5


def test_the_defaults_are_the_papers() -> None:
    known = {"layers": 3, "temperature": 0.1, "hidden": 64, "voxels": 1700, "false_negatives": 1000, "negatives": 1700}
    assert known.items() <= dataclasses.asdict(Settings()).items()
