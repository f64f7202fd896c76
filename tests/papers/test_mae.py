"""MAE (He et al. 2022), convolutional: what is hidden, and the error of that alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemis.data import views
from lemis.data.draw import Rows
from lemis.methods.mae import Method, Settings, Views, hide

RNG = (0, 0, "cpu")
FEW = settings(max_examples=20, deadline=None)
SMALL = Settings(size_px=32, patch_px=8, spatial=views.CROP_ONLY)


@FEW
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_the_same_number_of_whole_patches_is_hidden_in_every_row(
    height: int, width: int, patch_px: int, ratio: float, seed: int
) -> None:
    rows, cols = -(-height // patch_px), -(-width // patch_px)
    if rows * cols < 2:
        return
    hidden = hide(3, (height, width), patch_px, ratio, Rows(seed, 0, "cpu"))
    assert hidden.shape == (3, 1, height, width)
    for row in hidden[:, 0]:
        patches = [
            row[r * patch_px : (r + 1) * patch_px, c * patch_px : (c + 1) * patch_px]
            for r in range(rows) for c in range(cols)
        ]  # fmt: skip
        assert all(bool(patch.all()) or not bool(patch.any()) for patch in patches)
        count = sum(bool(patch.all()) for patch in patches)
        assert count == min(max(round(ratio * rows * cols), 1), rows * cols - 1)


def test_all_patches_are_hidden_equally_often() -> None:
    hidden = hide(3000, (4, 4), 1, 0.75, Rows(*RNG)).float()
    # Standard error of a frequency of 0.75 in 3,000: 0.008.
    torch.testing.assert_close(hidden.mean(0), torch.full((1, 4, 4), 0.75), rtol=0, atol=0.03)
    assert hidden[0].ne(hidden[1]).any()


def test_the_target_is_the_view_itself(make_batch: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    drawn = Views(SMALL)(batch, Rows(*RNG))
    target, masked = drawn["target"], drawn["masked"]
    torch.testing.assert_close(views.apply(target.geometry, batch.image).image, target.image)
    hidden = ~masked.inside
    assert hidden.float().mean() == pytest.approx(0.75)
    assert masked.image[hidden].eq(0).all()
    assert torch.equal(masked.image[~hidden], target.image[~hidden])


def test_loss_is_the_formula(make_batch: Any, make_unet: Any, says: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    inside = torch.ones(3, 1, 40, 40, dtype=torch.bool)
    inside[1, :, 30:] = False  # padded rows are no scan
    batch = batch._replace(inside=inside, image=batch.image * inside)
    method, guess = Method(make_unet(), SMALL), torch.randn(3, 1, 32, 32)
    method.restore = says(guess)
    outcome = method(batch, Rows(*RNG))
    drawn = Views(SMALL)(batch, Rows(*RNG))
    terms, squares = [], []
    for row in range(3):
        for y in range(32):
            for x in range(32):
                real = bool(drawn["target"].inside[row, 0, y, x])
                if real and not bool(drawn["masked"].inside[row, 0, y, x]):
                    value = float(drawn["target"].image[row, 0, y, x])
                    terms.append((float(guess[row, 0, y, x]) - value) ** 2)
                    squares.append(value**2)
    assert outcome.losses["restoration"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert outcome.uninformed["restoration"] == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert len(terms) < 0.75 * 3 * 32 * 32, "the padded pixels are left out"


def test_limits(make_batch: Any, make_unet: Any, says: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    drawn = Views(SMALL)(batch, Rows(*RNG))
    method = Method(make_unet(), SMALL)
    target, seen = drawn["target"].image, drawn["masked"].inside
    for guess, expected in ((target, 0.0), (target + 2, 4.0), (target + 100 * seen, 0.0)):
        method.restore = says(guess)
        assert method(batch, Rows(*RNG)).losses["restoration"].item() == pytest.approx(expected, abs=1e-8)


def test_the_network_does_not_see_what_is_hidden(make_batch: Any, make_unet: Any, says: Any) -> None:
    batch = make_batch({0: [1, 4]}, of={0: 9}, side=32)
    hidden = ~Views(SMALL)(batch, Rows(*RNG))["masked"].inside
    other = batch._replace(image=batch.image + 5 * hidden)
    asked = []
    for each in (batch, other):
        method = Method(make_unet(), SMALL)
        method.restore = says(torch.zeros(2, 1, 32, 32))
        method(each, Rows(*RNG))
        asked.append(method.restore.asked[0])
    assert torch.equal(*asked)


@pytest.mark.slow
def test_it_learns_to_fill_in(make_unet: Any, train: Any) -> None:
    # Half of smooth slices hidden in small patches: what is missing can be told from what is seen.
    outcome = train(Method(make_unet(), Settings(size_px=32, patch_px=4, ratio=0.5)), steps=60)
    assert outcome.losses["restoration"].item() < 0.7 * outcome.uninformed["restoration"]


def test_defaults(make_unet: Any) -> None:
    method = Method(make_unet(), Settings())
    assert (Settings().ratio, Settings().patch_px, Settings().size_px) == (0.75, 16, 352)
    assert (method.sampling.kind, method.sampling.batch_size) == ("slices", 32)
