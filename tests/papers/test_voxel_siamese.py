"""Voxel Siamese (Lee et al. 2021): the loss by double sums, the shortcut, the edges, and which voxels it takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from how_many import examples
from lemis.auxiliary.voxel_siamese import Auxiliary, Settings, compare, over_classes, weights
from lemis.backbones import unet3d
from lemis.errors import UsageError
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")


def slow(
    p: Tensor,
    z: Tensor,
    label: Tensor,
    classes: list[int],
    weight: str = "none",
    over: str = "sum",
    itself: bool = True,
) -> float:
    """(4) to (6), read aloud."""
    members = {c: [i for i in range(len(label)) if label[i] == c] for c in classes}
    distances = {}
    for c, of_class in members.items():
        pairs = [(i, j) for i in of_class for j in of_class if itself or i != j]
        if pairs:
            cosines = [float(p[i] @ z[j] / p[i].norm() / z[j].norm()) for i, j in pairs]
            distances[c] = -sum(cosines) / len(pairs)
    n = {c: len(members[c]) for c in distances}
    every = sum(len(of_class) for of_class in members.values())
    w = {
        "none": dict.fromkeys(n, 1.0),
        "share": {c: 1 - n[c] / every for c in n},
        "inverse": {c: (1 / n[c]) / sum(1 / m for m in n.values()) for c in n},
    }[weight]
    loss = sum(w[c] * distances[c] for c in distances)
    return loss / (len(distances) if over == "mean" and distances else 1)


def ours(
    p: Tensor, z: Tensor, label: Tensor, classes: int, weight: Any = "none", over: Any = "sum", itself: bool = True
) -> Tensor:
    sets = compare(p, z, label, classes, with_itself=itself)
    return over_classes(sets, weights(sets.size, sets.there, weight), over)


def some(count: int, classes: int, seed: int = 0, size: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, z = torch.randn(2, count, size, generator=generator, dtype=torch.float64)
    return p, z, torch.randint(0, classes, (count,), generator=generator)


def network(base_width: int = 4) -> unet3d.Backbone:
    torch.manual_seed(0)
    return unet3d.Backbone(unet3d.Settings(base_width=base_width), in_channels=1, num_classes=3)


class Asked(nn.Module):
    """A head that answers with the question, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.rows = x.detach()
        return x


def asking(**given: Any) -> Auxiliary:
    """The loss of the bottleneck alone, with identities for g and h."""
    loss = Auxiliary(network(), Settings(layers=1, **given), num_classes=3)
    loss.project, loss.predict = nn.ModuleList([Asked()]), nn.ModuleList([nn.Identity()])
    return loss


# ------------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("over", ["sum", "mean"])
@pytest.mark.parametrize("weight", ["none", "share", "inverse"])
@pytest.mark.parametrize(("count", "classes"), [(1, 1), (2, 3), (7, 2), (20, 4), (9, 9)])
def test_the_shortcut_equals_the_double_sum(count: int, classes: int, weight: str, over: str, itself: bool) -> None:
    for seed in range(3):
        p, z, label = some(count, classes, seed)
        expected = slow(p, z, label, list(range(classes)), weight, over, itself)
        assert float(ours(p, z, label, classes, weight, over, itself)) == pytest.approx(expected, rel=1e-12, abs=1e-14)
        single = ours(p.float(), z.float(), label, classes, weight, over, itself)
        assert float(single) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("background", [False, True])
def test_a_layer_by_loops(background: bool) -> None:
    torch.manual_seed(1)
    loss = asking(background=background, weight=3.0, alpha=(0.5,)).double()
    features, label = torch.randn(2, 6, 2, 3, 2).double(), torch.randint(0, 3, (2, 2, 3, 2))
    outcome = loss([features], label, torch.randn(2, 3, 2, 3, 2), Rows(*RNG))
    rows = features.movedim(1, -1).reshape(-1, 6)
    expected = slow(rows, rows, label.flatten(), [0, 1, 2] if background else [1, 2], "share")
    assert outcome.losses["voxel/1"].item() == pytest.approx(1.5 * expected, rel=1e-12)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("weight", ["none", "share", "inverse"])
def test_gradient(weight: str, itself: bool) -> None:
    p, z, label = some(8, 3)
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ours(x, z, label, 4, weight, "sum", itself), (p,))


def test_the_gradient_goes_through_p_alone() -> None:
    p, z, label = (x.requires_grad_() if x.is_floating_point() else x for x in some(8, 3))
    ours(p, z, label, 3).backward()
    assert p.grad is not None
    assert z.grad is None


def test_the_gradient_reaches_the_encoder_through_the_predictor_alone() -> None:
    backbone = network()
    loss = Auxiliary(backbone, Settings(), num_classes=3)
    with torch.no_grad():
        for h in loss.predict:
            h.layers[-1].weight.zero_()  # p is then the last bias, whatever z
    image, label = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 16, 16, 16))
    maps = backbone.encode(image)
    losses = loss(maps, label, torch.randn(2, 3, 16, 16, 16), Rows(*RNG)).losses
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.abs().max() == 0 for p in loss.project.parameters() if p.requires_grad)
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in backbone.parameters())
    assert all(h.layers[-1].bias.grad.abs().max() > 0 for h in loss.predict)


# ------------------------------------------------------------------------------------------- what theory says


def test_equal_vectors_of_a_class_give_minus_one() -> None:
    label = torch.tensor([0, 0, 1, 1, 1])
    directions = torch.tensor([[1.0, 0], [0, 2]], dtype=torch.float64)[label]
    lengths = torch.linspace(0.1, 9, 5, dtype=torch.float64)[:, None]
    for p, expected in ((directions * lengths, -1.0), (-directions, 1.0), (directions.roll(1, 1), 0.0)):
        sets = compare(p, directions, label, 2)
        assert sets.distance.tolist() == pytest.approx([expected] * 2)
        for kind, total in (("none", 2), ("share", 1), ("inverse", 1)):
            assert float(ours(p, directions, label, 2, kind)) == pytest.approx(expected * total)


@examples(60)
@given(
    seed=st.integers(0, 999), count=st.integers(1, 30), classes=st.integers(1, 6),
    weight=st.sampled_from(["none", "share", "inverse"]), alike=st.booleans(),
)  # fmt: skip
def test_no_larger_than_the_sum_of_weights(seed: int, count: int, classes: int, weight: Any, alike: bool) -> None:
    p, z, label = some(count, classes, seed)
    sets = compare(z if alike else p, z, label, classes)
    w = weights(sets.size, sets.there, weight)
    assert abs(float(over_classes(sets, w, "sum"))) <= float(w.sum()) + 1e-12
    assert sets.size.sum() == count
    if weight == "share":
        assert float(w.sum()) == pytest.approx(int(sets.there.sum()) - 1), "L_feat is at most 7 a layer with 8 organs"
    if weight == "inverse":
        assert float(w.sum()) == pytest.approx(1)


def test_one_class_alone() -> None:
    p, z, label = some(6, 1)
    assert float(ours(p, z, label, 3, "share")) == 0, "1 - N/N"
    for kind in ("none", "inverse"):
        assert float(ours(p, z, label, 3, kind)) == pytest.approx(slow(p, z, label, [0]))


def test_one_voxel_of_each_class() -> None:
    p, z, _ = some(4, 4)
    label = torch.arange(4)
    assert float(ours(p, z, label, 4)) == pytest.approx(-float(torch.cosine_similarity(p, z).sum()))
    alone = compare(p, z, label, 4, with_itself=False)
    assert not alone.there.any()
    assert float(over_classes(alone, weights(alone.size, alone.there, "none"), "mean")) == 0


@pytest.mark.parametrize("label", ["background", "one organ", "one voxel", "one voxel of each"])
def test_edges_of_a_batch(label: str) -> None:
    y = torch.zeros(2, 16, 16, 16, dtype=torch.long)
    if label == "one organ":
        y += 1
    if label.startswith("one voxel"):
        y[0, 0, 0, 0] = 1
    if label == "one voxel of each":
        y[1, 8, 8, 8] = 2
    backbone = network()
    loss = Auxiliary(backbone, Settings(cell="corner", class_weight="none"), num_classes=3)
    maps = backbone.encode(torch.randn(2, 1, 16, 16, 16))
    outcome = loss(maps, y, torch.randn(2, 3, 16, 16, 16), Rows(*RNG))
    terms = torch.stack(list(outcome.losses.values()))
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert (terms == 0).all() == (label == "background")
    for parameter in (*loss.parameters(), *backbone.encoder.parameters()):
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_no_precision_is_lost_to_autocast() -> None:
    p, z, label = some(50, 3)
    p, z = p.float(), z.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(p, z, label, 3), ours(p, z, label, 3))
        inside = ours(p.bfloat16(), z.bfloat16(), label, 3)
    assert inside.dtype == torch.float32
    assert float(inside) == float(ours(p.bfloat16().float(), z.bfloat16().float(), label, 3))


# ---------------------------------------------------------------------------------------------- which voxels


def numbered(rows: int, side: int) -> Tensor:
    """A map that says in its first channel which cell it is."""
    numbers = torch.arange(rows * side**3).view(rows, 1, side, side, side).double()
    return torch.cat([numbers, torch.ones_like(numbers)], 1)


def answered(predicted: Tensor, classes: int = 3) -> Tensor:
    return nn.functional.one_hot(predicted, classes).movedim(-1, 1).float()


@pytest.mark.parametrize(("missed", "found", "expected"), [(3000, 3000, (1000, 700)), (600, 3000, (600, 1100))])
def test_false_negatives_are_preferred(missed: int, found: int, expected: tuple[int, int]) -> None:
    number = torch.arange(2 * 16**3).view(2, 16, 16, 16)
    label = torch.where(number < missed + found, 1 + number % 2, 0)
    predicted = torch.where(number < missed, 3 - label, label)  # the other organ
    predicted = torch.where(number < missed // 2, 0, predicted)  # or background
    loss = asking()
    loss([numbered(2, 16)], label, answered(predicted), Rows(*RNG))
    taken = loss.project[0].rows[:, 0]
    assert (int((taken < missed).sum()), int((taken >= missed).sum())) == expected
    assert int(taken.max()) < missed + found, "background is no organ, even where it is mistaken for one"


def test_labels_of_the_grid() -> None:
    label = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    for cell, lead in (("centre", 1), ("corner", 0)):
        loss = asking(cell=cell)
        loss([numbered(2, 4)], label, answered(label), Rows(*RNG))
        coarse = label[:, lead::2, lead::2, lead::2].flatten()
        assert loss.project[0].rows[:, 0].sort().values.tolist() == coarse.nonzero()[:, 0].tolist()


def test_weights_may_count_the_whole_layer() -> None:
    label = (torch.arange(64) % 4 == 0).long().view(1, 4, 4, 4) + 1  # 48 of organ 1, 16 of organ 2
    predicted = torch.where(label == 2, 0, label)
    found = {}
    for counted in ("sampled", "batch"):
        loss = asking(counted=counted, voxels=32, false_negatives=16, weight=1.0)
        outcome = loss([torch.ones(1, 2, 4, 4, 4)], label, answered(predicted), Rows(*RNG))
        found[counted] = outcome.losses["voxel/1"].item()
    assert found["sampled"] == pytest.approx(-1), "16 and 16 were sampled: weights of 1/2 and 1/2"
    assert found["batch"] == pytest.approx(-1), "weights of 1/4 and 3/4 for distances of -1"
    one, two = torch.tensor([48.0, 16.0]), torch.tensor([True, True])
    assert weights(one, two, "share").tolist() == [0.25, 0.75]
    assert weights(one, two, "inverse").tolist() == [0.25, 0.75]


def test_the_prediction_gets_no_gradient() -> None:
    backbone = network()
    loss = Auxiliary(backbone, Settings(), num_classes=3)
    image, label = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 16, 16, 16))
    logits = torch.randn(2, 3, 16, 16, 16, requires_grad=True)
    loss(backbone.encode(image), label, logits, Rows(*RNG)).losses["voxel/3"].backward()
    assert logits.grad is None


# ------------------------------------------------------------------------------------------------ the network


def test_sizes_of_the_heads() -> None:
    loss = Auxiliary(network(8), Settings(), num_classes=9)
    assert [g[0].in_features for g in loss.project] == [64, 32, 16], "from the bottleneck"
    for channels, g, h in zip((64, 32, 16), loss.project, loss.predict, strict=True):
        assert sum(p.numel() for p in g.parameters() if p.requires_grad) == channels * 64 + 2 * 64 * 64 + 4 * 64
        assert sum(p.numel() for p in h.parameters()) == 2 * 64 * 64 + 2 * 64 + 64


def test_the_network_is_left_as_it_is() -> None:
    backbone = network()
    before = set(backbone.state_dict())
    loss = Auxiliary(backbone, Settings(), num_classes=3)
    assert set(backbone.state_dict()) == before
    assert not any(key.startswith("backbone") for key in loss.state_dict())


def test_voxels_of_an_organ_come_together() -> None:
    backbone = network()
    loss = Auxiliary(backbone, Settings(weight=1.0, layers=2), num_classes=3)
    generator = torch.Generator().manual_seed(0)
    image = nn.functional.interpolate(torch.randn(2, 1, 4, 4, 4, generator=generator), (16, 16, 16), mode="trilinear")
    label = (image[:, 0] > 0).long() + (image[:, 0] > 0.4).long()
    image = image + 0.3 * torch.randn(image.shape, generator=generator)
    optimiser = torch.optim.Adam([*backbone.encoder.parameters(), *loss.parameters()], lr=1e-2)
    totals = []
    for step in range(20):
        outcome = loss(backbone.encode(image), label, answered(label), Rows(0, step, "cpu"))
        optimiser.zero_grad()
        total = torch.stack(list(outcome.losses.values())).sum()
        totals.append(total.item())
        total.backward()
        optimiser.step()
    assert abs(totals[0]) < 0.1, "an untrained predictor says nothing of z"
    assert totals[-1] < totals[0] - 0.5, "of -2 at most: two layers, weights that sum to 1"
    assert spread(outcome.embeddings["voxel/1"]) > 3 * SMALLEST_SPREAD, "and the organs stay apart"


def test_a_collapse_is_seen() -> None:
    loss = Auxiliary(network(), Settings(layers=1), num_classes=3)
    label = torch.randint(0, 3, (2, 8, 8, 8))
    features = torch.randn(2, 32, 8, 8, 8) + 3 * torch.randn(3, 32)[label].movedim(-1, 1)
    for constant in (False, True):
        if constant:
            with torch.no_grad():
                loss.predict[0].layers[-1].weight.mul_(1e-3)  # p is nearly the last bias, whatever z
        outcome = loss([features], label, answered(label), Rows(*RNG))
        assert outcome.embeddings["voxel/1"].shape == (2, 64), "the mean of each organ"
        assert (spread(outcome.embeddings["voxel/1"]) < SMALLEST_SPREAD) == constant


def test_with_one_structure_background_is_the_second_class_where_the_weights_need_two() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 32, 4, 4, 4)
    label = (torch.rand(2, 4, 4, 4) > 0.5).long()

    def loss(**settings: Any) -> float:
        torch.manual_seed(1)
        one = Auxiliary(network(), Settings(layers=1, **settings), num_classes=2)
        return float(one([features], label, answered(label), Rows(*RNG)).losses["voxel/1"].detach())

    assert loss() == loss(background=True) != 0.0
    assert loss(class_weight="none", background=True) != 0.0


@pytest.mark.parametrize("kind", ["inverse", "none"])
def test_one_class_alone_is_refused_with_what_works(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"with one structure\n.*two classes.*\n.*auxiliary.background=true"):
        Auxiliary(network(), Settings(class_weight=kind), num_classes=2)
    assert Auxiliary(network(), Settings(class_weight=kind, background=True), num_classes=2).background
    assert not Auxiliary(network(), Settings(class_weight=kind), num_classes=3).background


def test_the_defaults_are_the_papers() -> None:
    known = {"layers": 3, "alpha": (1.0,), "weight": 10.0, "hidden": 64, "voxels": 1700, "false_negatives": 1000}
    assert known.items() <= dataclasses.asdict(Settings()).items()
