"""Models Genesis (Zhou et al. 2019): each corruption against its description done slowly, and the loss."""

from __future__ import annotations

from itertools import pairwise
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.errors import UsageError
from lemis.methods import models_genesis
from lemis.methods.models_genesis import Method, Settings, Views, bend, bezier, boxes, paint, shuffle, strips
from lemis.sampling import warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import CROP_ONLY
from lemis.settings import resolve

RNG = (0, 0, "cpu")
FEW = examples(20)
SMALL = Settings(size_px=32, spatial=CROP_ONLY)
SOUND = {"p_shuffle": 0.0, "p_nonlinear": 0.0, "p_paint": 0.0}


class Given:
    """A draw that answers what it was given, one after the other."""

    def __init__(self, *numbers: Tensor) -> None:
        self.numbers = list(numbers)

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        numbers = self.numbers.pop(0)
        assert numbers.shape == (rows, *shape)
        return numbers

    def normal(self, rows: int, *shape: int) -> Tensor:
        raise AssertionError("nothing here is Gaussian")


# ----------------------------------------------------------------------------------------- local pixel shuffling


@FEW
@given(st.integers(1, 80), st.integers(1, 9), st.integers(0, 1000))
def test_strips_cover_a_line(side: int, widest: int, seed: int) -> None:
    for line in strips(4, side, widest, Rows(seed, 0, "cpu")).tolist():
        assert line[0] == 0
        assert all(after - before in (0, 1) for before, after in pairwise(line))
        assert max(line.count(strip) for strip in set(line)) <= widest


def test_all_widths_of_a_strip_occur() -> None:
    widths = strips(400, 90, 9, Rows(*RNG)).eq(0).sum(1).bincount(minlength=10)
    assert widths[0] == 0
    assert (widths[1:] > 0).all()
    assert len(widths) == 10


def test_pixels_change_places_within_their_cells_only() -> None:
    numbers = torch.arange(40 * 50.0).view(1, 1, 40, 50)
    image = torch.cat([numbers, -numbers], 1).repeat(3, 1, 1, 1)
    out = shuffle(image, Rows(*RNG))
    rng = Rows(*RNG)
    down, across = strips(3, 40, 4, rng), strips(3, 50, 5, rng)
    assert torch.equal(out[:, 0], -out[:, 1]), "channels go together"
    for row in range(3):
        for r in range(int(down[row].max()) + 1):
            for c in range(int(across[row].max()) + 1):
                cell = (down[row] == r)[:, None] & (across[row] == c)
                assert torch.equal(out[row, 0][cell].sort().values, image[row, 0][cell].sort().values)
    assert out[0, 0].ne(image[0, 0]).float().mean() > 0.5
    assert out[0].ne(out[1]).any()


def test_in_3d_pixels_change_places_within_boxes() -> None:
    space = (20, 30, 40)
    image = torch.arange(20 * 30 * 40.0).view(1, 1, *space).repeat(2, 1, 1, 1, 1)
    out = shuffle(image, Rows(*RNG))
    rng = Rows(*RNG)
    lines = [strips(2, side, side // 10, rng) for side in space]
    assert [int(line[0].bincount().max()) for line in lines] == [2, 3, 4], "a tenth of each side"
    for row in range(2):
        deep, down, across = (line[row] for line in lines)
        cell = (deep[:, None, None] * 100 + down[:, None]) * 100 + across
        order, shuffled = (cell.flatten()[x[row, 0].flatten().argsort()] for x in (image, out))
        assert torch.equal(order, shuffled), "every value is in the cell that it came from"
    assert out.ne(image).float().mean() > 0.5
    assert out[0].ne(out[1]).any()


def test_all_orders_of_a_cell_are_alike() -> None:
    # Widths of 2 everywhere: 24 orders of the four pixels of a cell.
    halves = torch.full((6000, 20), 0.99)
    chance = Rows(*RNG).uniform(6000, 400)
    out = shuffle(torch.arange(400.0).view(1, 1, 20, 20).expand(6000, 1, 20, 20), Given(halves, halves, chance))
    first = out[:, 0, :2, :2].flatten(1)
    _, counts = first.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert (counts - 250).abs().max() < 5 * 250**0.5


# ------------------------------------------------------------------------------------- non-linear transformation


def theirs(controls: Any, falls: bool, values: Any) -> Any:
    """The released code's way: Bernstein polynomials, sorted, and linear interpolation."""
    t = np.linspace(0, 1, 100_000)
    points = np.array([[0, 0], controls[:, 0], controls[:, 1], [1, 1]])
    polynomials = np.array([comb(3, k) * t ** (3 - k) * (1 - t) ** k for k in range(4)])
    x, y = points.T @ polynomials
    return np.interp(values, np.sort(x), y if falls else np.sort(y))


@FEW
@given(st.integers(0, 2**32), st.booleans())
def test_a_curve_is_that_of_the_released_code(seed: int, falls: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    controls = torch.rand(2, 2, 2, generator=generator)
    grey = torch.rand(2, 1, 8, 9, generator=generator)
    out = bend(grey, Given(controls, torch.full((2,), 0.1 if falls else 0.9)))
    for row in range(2):
        expected = theirs(controls[row].double().numpy(), falls, grey[row].double().numpy())
        assert np.abs(out[row].numpy() - expected).mean() < 1e-5
    assert out.min() >= 0
    assert out.max() <= 1


def test_curves_known_from_theory() -> None:
    straight = torch.tensor([[1 / 3, 2 / 3], [1 / 3, 2 / 3]])[None]
    torch.testing.assert_close(bezier(straight)[:, 0], bezier(straight)[:, 1])
    grey = torch.rand(1, 2, 5, 6)
    torch.testing.assert_close(bend(grey, Given(straight, torch.tensor([0.9]))), grey, rtol=0, atol=1e-6)
    torch.testing.assert_close(bend(grey, Given(straight, torch.tensor([0.1]))), 1 - grey, rtol=0, atol=1e-6)
    ends = bend(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), Given(torch.rand(1, 2, 2), torch.tensor([0.9])))
    assert ends.flatten().tolist() == [0.0, 1.0]


@FEW
@given(st.integers(0, 2**32))
def test_curves_never_fall(seed: int) -> None:
    curves = bezier(torch.rand(8, 2, 2, generator=torch.Generator().manual_seed(seed)))
    assert (curves.diff(dim=-1) >= 0).all()
    assert curves[..., 0].eq(0).all()
    torch.testing.assert_close(curves[..., -1], torch.ones(8, 2))


# ------------------------------------------------------------------------------------------------------- painting


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 45), (352, 64)])
def test_boxes_have_their_sizes_and_keep_the_margin(height: int, width: int) -> None:
    space = (height, width)
    sides = [(side // 6, side // 3) for side in space]
    first, size = boxes(3000, sides, space, Rows(*RNG), at_least=0)
    there = size[..., 0] > 0
    for axis, (least, most) in enumerate(sides):
        found, start = size[..., axis][there], first[..., axis][there]
        assert (int(found.min()), int(found.max())) == (least, most)
        assert (int(start.min()), int((start + found).max())) == (3, space[axis] - 3)
    # The k-th box is there where all before it are: 0.95, 0.9025, ...
    expected = 0.95 ** torch.arange(1, 6)
    torch.testing.assert_close(there.float().mean(0), expected, rtol=0, atol=0.03)
    one = boxes(3000, sides, space, Rows(*RNG), at_least=1)[1][..., 0] > 0
    torch.testing.assert_close(one.float().mean(0), 0.95 ** torch.arange(5.0), rtol=0, atol=0.03)


def test_boxes_in_3d_are_those_of_the_released_code() -> None:
    space = (32, 64, 64)  # its sub-volumes, slices first
    first, size = boxes(2000, [(side // 6, side // 3) for side in space], space, Rows(*RNG), at_least=1)
    there = size[..., 0] > 0
    for axis, (least, most) in enumerate(((5, 10), (10, 21), (10, 21))):
        found, start = size[..., axis][there], first[..., axis][there]
        assert (int(found.min()), int(found.max())) == (least, most)
        assert (int(start.min()), int((start + found).max())) == (3, space[axis] - 3)


@pytest.mark.parametrize("p_inpaint", [0.0, 1.0])
def test_in_3d_noise_lies_inside_or_outside_of_the_boxes(p_inpaint: float) -> None:
    space = (21, 42, 49)
    out = paint(torch.full((8, 1, *space), 2.0), p_inpaint, Rows(*RNG))
    rng = Rows(*RNG)
    rng.uniform(8)
    small = boxes(8, [(3, 7), (7, 14), (8, 16)], space, rng, at_least=0)
    large = boxes(8, [(9, 12), (18, 24), (21, 28)], space, rng, at_least=1)
    for row in range(8):
        inside = torch.zeros(space, dtype=torch.bool)
        chosen = (part[row].tolist() for part in (small if p_inpaint else large))
        for start, size in zip(*chosen, strict=True):
            inside[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
        assert torch.equal(out[row, 0] <= 1, inside if p_inpaint else ~inside)


@pytest.mark.parametrize("p_inpaint", [0.0, 1.0])
def test_noise_lies_inside_or_outside_of_the_boxes(p_inpaint: float) -> None:
    grey = torch.full((50, 1, 42, 49), 2.0)
    out = paint(grey, p_inpaint, Rows(*RNG))
    rng = Rows(*RNG)
    rng.uniform(50)
    small = boxes(50, [(7, 14), (8, 16)], (42, 49), rng, at_least=0)
    large = boxes(50, [(18, 24), (21, 28)], (42, 49), rng, at_least=1)
    for row in range(50):
        inside = torch.zeros(42, 49, dtype=torch.bool)
        chosen = (part[row].tolist() for part in (small if p_inpaint else large))
        for (top, left), (tall, wide) in zip(*chosen, strict=True):
            inside[top : top + tall, left : left + wide] = True
        noisy = out[row, 0] <= 1
        assert torch.equal(noisy, inside if p_inpaint else ~inside)
    values = out[out <= 1]
    assert float(values.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(values.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_in_painting_is_as_likely_as_set() -> None:
    out = paint(torch.full((2000, 1, 32, 32), 2.0), 0.2, Rows(*RNG))
    inner = out[:, 0, 0, 0] > 1  # a corner is kept by in-painting only
    assert float(inner.float().mean()) == pytest.approx(0.2, abs=0.04)


# -------------------------------------------------------------------------------------------------- views and loss


def test_without_corruptions_the_view_is_its_target(make_batch: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    drawn = Views(Settings(size_px=32, **SOUND))(batch, Rows(*RNG))
    torch.testing.assert_close(drawn["spoilt"].image, drawn["target"].image, rtol=0, atol=1e-5)
    torch.testing.assert_close(warping.apply(drawn["target"].geometry, batch.image).image, drawn["target"].image)


def test_corruptions_come_in_their_order_and_as_often_as_set(make_batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.zeros(64, 1, 32, 32)
    image[..., 16:] = 1
    batch = make_batch({0: list(range(64))}, of={0: 64}, side=32)._replace(image=image)
    for name, digit in (("shuffle", 1), ("bend", 2), ("paint", 3)):
        monkeypatch.setattr(models_genesis, name, lambda grey, *_, digit=digit: 10 * grey + digit)
    drawn = [Views(SMALL)(batch, Rows(0, step, "cpu"))["spoilt"].image[:, 0, 0, 0] for step in range(20)]
    found = [str(int(value)) for value in torch.cat(drawn).round()]
    assert set(found) <= {"0", "1", "2", "3", "12", "13", "23", "123"}, "shuffled, then bent, then painted"
    for digit, expected in (("1", 0.5), ("2", 0.9), ("3", 0.9)):
        assert sum(digit in each for each in found) / len(found) == pytest.approx(expected, abs=0.05)


def test_the_spoilt_view_stays_in_the_range_of_its_slice(make_batch: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    for step in range(5):
        drawn = Views(Settings(size_px=32))(batch, Rows(0, step, "cpu"))
        assert drawn["spoilt"].image.ne(drawn["target"].image).any()
        for spoilt, source in zip(drawn["spoilt"].image, batch.image, strict=True):
            assert spoilt.min() >= source.min() - 1e-5
            assert spoilt.max() <= source.max() + 1e-5


def test_loss_is_the_formula_and_its_limits(make_batch: Any, make_unet: Any, says: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    inside = torch.ones(3, 1, 40, 40, dtype=torch.bool)
    inside[1, :, 30:] = False  # padded rows are no scan
    batch = batch._replace(inside=inside, image=batch.image * inside)
    target = Views(SMALL)(batch, Rows(*RNG))["target"]
    method, guess = Method(make_unet(), SMALL), torch.randn(3, 1, 32, 32)
    method.restore = says(guess)
    outcome = method(batch, Rows(*RNG))
    terms, squares = [], []
    for row in range(3):
        for y in range(32):
            for x in range(32):
                if bool(target.inside[row, 0, y, x]):
                    value = float(target.image[row, 0, y, x])
                    terms.append((float(guess[row, 0, y, x]) - value) ** 2)
                    squares.append(value**2)
    assert len(terms) < 3 * 32 * 32
    assert outcome.losses["restoration"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert outcome.uninformed["restoration"] == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    for answer, expected in ((target.image, 0.0), (target.image - 3, 9.0)):
        method.restore = says(answer)
        assert method(batch, Rows(*RNG)).losses["restoration"].item() == pytest.approx(expected, abs=1e-8)


def test_in_3d_the_loss_is_the_formula(make_volumes: Any, make_unet3d: Any, says: Any) -> None:
    how = Settings(size_px=(16, 20, 24), spatial=CROP_ONLY)
    batch = make_volumes(2, (20, 24, 28))
    inside = torch.ones_like(batch.image, dtype=torch.bool)
    inside[1, :, 10:] = False  # the scan ends there
    batch = batch._replace(inside=inside, image=batch.image * inside)
    drawn = Views(how)(batch, Rows(*RNG))
    target, spoilt = drawn["target"], drawn["spoilt"].image
    for row in range(2):
        seen = batch.image[row][inside[row]]
        assert spoilt[row].min() >= seen.min() - 1e-5
        assert spoilt[row].max() <= seen.max() + 1e-5
        assert spoilt[row].ne(target.image[row]).any()
    method, guess = Method(make_unet3d(), how), torch.randn_like(target.image)
    method.restore = says(guess)
    outcome = method(batch, Rows(*RNG))
    pairs = zip(guess[target.inside].tolist(), target.image[target.inside].tolist(), strict=True)
    wrong = [(said - value) ** 2 for said, value in pairs]
    assert len(wrong) < target.image.numel()
    assert outcome.losses["restoration"].item() == pytest.approx(sum(wrong) / len(wrong), rel=1e-5)


def test_a_view_without_place_for_boxes_is_refused() -> None:
    for size_px in (15, [8, 64, 64]):
        with pytest.raises(UsageError, match="greater than or equal to 16"):
            resolve(Settings, {"size_px": size_px})
    assert resolve(Settings, {"size_px": [16, 64, 64]}).size_px == (16, 64, 64)


@pytest.mark.slow
def test_it_learns_to_restore(make_unet: Any, train: Any) -> None:
    # Without the curves, half of which turn black into white: telling which takes longer than a test.
    outcome = train(Method(make_unet(), Settings(size_px=32, p_nonlinear=0.0, p_paint=0.3)), steps=60)
    assert outcome.losses["restoration"].item() < 0.7 * outcome.uninformed["restoration"]


def test_defaults(make_unet: Any) -> None:
    how = Settings()
    assert (how.p_shuffle, how.p_nonlinear, how.p_paint, how.p_inpaint) == (0.5, 0.9, 0.9, 0.2)
    assert (Method(make_unet(), how).sampling.kind, how.batch_size, how.size_px) == ("slices", 32, 352)
