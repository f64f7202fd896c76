"""Choosing voxels of a map: nearest neighbours, missed ones first, all alike; the projector on any number of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import UsageError
from lemis.parts import voxels


def keys(rows: int, cells: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, cells, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("cell", "mode"), [("centre", "nearest-exact"), ("corner", "nearest")])
@pytest.mark.parametrize(("space", "grid"), [((8, 12), (2, 3)), ((9, 7), (4, 3)), ((6, 8, 4), (3, 2, 4)), ((5,), (5,))])
def test_the_grid_is_interpolates(cell: voxels.Cell, mode: str, space: tuple, grid: tuple) -> None:
    x = torch.arange(2 * 3 * torch.Size(space).numel()).view(2, 3, *space)
    expected = F.interpolate(x.double(), grid, mode=mode).long()
    assert torch.equal(voxels.to_grid(x, grid, cell), expected)


def test_a_label_and_the_argmax_of_logits_come_from_the_same_voxels() -> None:
    logits = torch.randn(2, 4, 6, 8, 10, generator=torch.Generator().manual_seed(0))
    for cell in ("centre", "corner"):
        expected = voxels.to_grid(logits.argmax(1), (3, 4, 5), cell)
        assert torch.equal(voxels.to_grid(logits, (3, 4, 5), cell).argmax(1), expected)


def test_the_middle_of_a_cell() -> None:
    label = torch.arange(8)[None]
    assert voxels.to_grid(label, (2,), "centre").tolist() == [[2, 6]]
    assert voxels.to_grid(label, (2,), "corner").tolist() == [[0, 4]]


@examples(80)
@given(
    seed=st.integers(0, 1000), known=st.floats(0, 1), missed=st.floats(0, 1), at_most=st.integers(1, 70),
    hard=st.integers(0, 70),
)  # fmt: skip
def test_how_many_are_chosen(seed: int, known: float, missed: float, at_most: int, hard: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    of_class = torch.rand(3, 4, 5, generator=generator) < known
    wrong = torch.rand(3, 4, 5, generator=generator) < missed
    chosen = voxels.choose_hard(of_class, wrong, keys(3, 20, seed), voxels=at_most, false_negatives=hard)
    cells = chosen.cells()
    assert len(cells.unique()) == len(cells), "none twice"
    assert of_class.flatten()[cells].all(), "none of another class"
    missed_there, found_there = int((of_class & wrong).sum()), int((of_class & ~wrong).sum())
    missed_here = int(wrong.flatten()[cells].sum())
    assert missed_here == min(missed_there, hard, at_most)
    assert len(cells) - missed_here == min(found_there, at_most - missed_here)
    assert len(chosen.cell) <= min(hard, at_most, 60) + min(at_most, 60)


@pytest.mark.parametrize(
    ("missed", "found", "expected"),
    [
        (3000, 3000, (1000, 700)),  # more than enough of both
        (400, 3000, (400, 1300)),  # too few missed: filled up with others
        (3000, 100, (1000, 100)),  # too few others: the limit of the missed ones still holds
        (300, 200, (300, 200)),  # fewer than wanted in all: all
        (0, 0, (0, 0)),
        (0, 5000, (0, 1700)),
    ],
)
def test_false_negatives_are_preferred(missed: int, found: int, expected: tuple[int, int]) -> None:
    place = torch.arange(10_000).view(2, 5000)
    known, wrong = place < missed + found, place < missed
    cells = voxels.choose_hard(known, wrong, keys(2, 5000), voxels=1700, false_negatives=1000).cells()
    assert (int((cells < missed).sum()), int((cells >= missed).sum())) == expected


def test_all_of_a_group_are_alike() -> None:
    known, wrong = torch.ones(2, 10, dtype=torch.bool), torch.arange(20).view(2, 10) < 8
    times = torch.zeros(20)
    for seed in range(3000):
        times[voxels.choose_hard(known, wrong, keys(2, 10, seed), voxels=6, false_negatives=2).cells()] += 1
    torch.testing.assert_close(times[:8] / 3000, torch.full((8,), 2 / 8), rtol=0, atol=0.04)
    torch.testing.assert_close(times[8:] / 3000, torch.full((12,), 4 / 12), rtol=0, atol=0.04)


def test_the_choice_follows_the_keys_of_its_rows() -> None:
    known, wrong = torch.rand(4, 30) < 0.7, torch.rand(4, 30) < 0.5
    order = [2, 0, 3, 1]
    first = voxels.choose_hard(known, wrong, keys(4, 30), voxels=20, false_negatives=9).cells()
    second = voxels.choose_hard(
        known[order], wrong[order], keys(4, 30)[order], voxels=20, false_negatives=9
    ).cells()  # fmt: skip
    back = torch.tensor(order)[second // 30] * 30 + second % 30
    assert first.sort().values.tolist() == back.sort().values.tolist()


def test_what_was_chosen_can_be_left_out() -> None:
    pool, wrong = torch.ones(2, 3, 5, dtype=torch.bool), torch.zeros(2, 3, 5, dtype=torch.bool)
    wrong[0, 0] = True  # fewer than asked for: the others stand in the list of the missed ones, not taken
    chosen = voxels.choose_hard(pool, wrong, keys(2, 15), voxels=20, false_negatives=9)
    left = voxels.without(pool, chosen)
    assert left.shape == pool.shape
    assert sorted([*left.flatten().nonzero()[:, 0].tolist(), *chosen.cells().tolist()]) == list(range(30))
    assert (
        voxels.choose(left, keys(2, 15, 1), 40).cells().sort().values.tolist()
        == left.flatten().nonzero()[:, 0].tolist()
    )


def test_none_may_be_asked_for() -> None:
    assert len(voxels.choose(torch.ones(1, 4, dtype=torch.bool), keys(1, 4), 0).cells()) == 0


@pytest.mark.parametrize("space", [(3, 4), (2, 3, 4)])
def test_vectors_of_cells(space: tuple[int, ...]) -> None:
    x = torch.randn(2, 5, *space).requires_grad_()
    cells = torch.tensor([0, 7, 3, x[0, 0].numel() + 2])
    rows = x.movedim(1, -1).reshape(-1, 5)
    assert torch.equal(voxels.vectors(x, cells), rows[cells])
    voxels.vectors(x, cells).sum().backward()
    assert x.grad is not None
    assert x.grad.movedim(1, -1).reshape(-1, 5).any(1).nonzero()[:, 0].tolist() == sorted(cells.tolist())


def test_sums_and_counts_of_classes() -> None:
    label = torch.tensor([0, 2, 2, 0, 2])
    x = torch.randn(5, 3, dtype=torch.float64)
    sums = voxels.class_sums(x, label, 4)
    torch.testing.assert_close(sums, torch.stack([x[label == c].sum(0) for c in range(4)]))
    assert voxels.class_counts(label.view(1, 5), 4).tolist() == [2, 0, 3, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(voxels.class_sums(x.float(), label, 4), sums.float())


def test_means_to_watch() -> None:
    one, two = torch.zeros(3, 4), torch.zeros(3, 4)
    one[1], two[0], two[2] = 1, 1, 2
    watched = voxels.watched({"one": one, "two": two})
    assert list(watched) == ["two"], "one class cannot collapse onto another"
    assert torch.equal(watched["two"], two[[0, 2]])


def test_layers_are_counted_from_the_bottleneck() -> None:
    maps = [torch.zeros(1, width, 2, 2) for width in (4, 8, 16)]
    assert [m.shape[1] for m in voxels.from_bottleneck(maps, 2)] == [16, 8]
    chosen, labels = voxels.labelled(maps, 2, torch.arange(16).view(1, 4, 4), "corner")
    assert [m.shape[1] for m in chosen] == [16, 8]
    assert [y.tolist() for y in labels] == [[[[0, 2], [8, 10]]]] * 2
    assert voxels.channels_from_bottleneck((4, 8, 16), 3) == [16, 8, 4]
    with pytest.raises(UsageError, match=r"auxiliary\.layers=4\n.*1 to 3.*\n.*auxiliary\.layers=3"):
        voxels.channels_from_bottleneck((4, 8, 16), 4)


def test_the_last_weight_holds_beyond() -> None:
    assert [voxels.of_layer((1.0, 0.5), number) for number in (1, 2, 3)] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_projector_takes_any_number_of_rows(count: int) -> None:
    torch.manual_seed(0)
    project = voxels.projector(5, 8)
    x = torch.randn(count, 5, requires_grad=True)
    z = project(x)
    assert z.shape == (count, 8)
    assert torch.isfinite(z).all()
    z.square().sum().backward()
    for key, parameter in project.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    if count > 2:
        torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in project.parameters() if p.requires_grad) == 5 * 8 + 2 * 8 * 8 + 4 * 8
