"""MAE (He et al. 2022), convolutional: what is hidden, and the error of that alone."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import UsageError
from lemis.methods.mae import Method, Settings, Views, hide
from lemis.sampling import warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import CROP_ONLY, Spatial, shape_of

RNG = (0, 0, "cpu")
FEW = examples(20)
SMALL = Settings(size_px=32, patch_px=8, spatial=CROP_ONLY)


SHAPES = st.one_of(
    st.tuples(st.tuples(*[st.integers(1, 60)] * 2), st.integers(1, 20)),
    st.tuples(st.tuples(*[st.integers(1, 14)] * 3), st.integers(2, 6)),
    st.tuples(st.tuples(*[st.integers(1, 14)] * 3), st.tuples(*[st.integers(1, 6)] * 3)),
)


@FEW
@given(SHAPES, st.floats(0.01, 0.99), st.integers(0, 1000))
def test_the_same_number_of_whole_patches_is_hidden_in_every_row(sizes: Any, ratio: float, seed: int) -> None:
    shape, patch_px = sizes
    sides = shape_of(patch_px, len(shape))
    grid = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    if prod(grid) < 2:
        return
    hidden = hide(3, shape, patch_px, ratio, Rows(seed, 0, "cpu"))
    assert hidden.shape == (3, 1, *shape)
    for row in hidden[:, 0]:
        patches = [
            row[tuple(slice(k * side, (k + 1) * side) for k, side in zip(place, sides, strict=True))]
            for place in product(*(range(n) for n in grid))
        ]
        assert all(bool(patch.all()) or not bool(patch.any()) for patch in patches)
        count = sum(bool(patch.all()) for patch in patches)
        assert count == min(max(round(ratio * prod(grid)), 1), prod(grid) - 1)


def test_all_patches_are_hidden_equally_often() -> None:
    hidden = hide(3000, (4, 4), 1, 0.75, Rows(*RNG)).float()
    # Standard error of a frequency of 0.75 in 3,000: 0.008.
    torch.testing.assert_close(hidden.mean(0), torch.full((1, 4, 4), 0.75), rtol=0, atol=0.03)
    assert hidden[0].ne(hidden[1]).any()


def test_the_target_is_the_view_itself(make_batch: Any) -> None:
    batch = make_batch({0: [1, 4], 1: [2]}, of={0: 9, 1: 7}, side=40)
    drawn = Views(SMALL)(batch, Rows(*RNG))
    target, masked = drawn["target"], drawn["masked"]
    torch.testing.assert_close(warping.apply(target.geometry, batch.image).image, target.image)
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


def test_in_3d_the_loss_is_the_formula(make_volumes: Any, make_unet3d: Any, says: Any) -> None:
    size_px, small = (8, 8, 12), Settings(size_px=(8, 8, 12), patch_px=(2, 4, 4), spatial=CROP_ONLY)
    batch = make_volumes(2, (12, 12, 16))
    inside = torch.ones_like(batch.image, dtype=torch.bool)
    inside[1, :, 6:] = False  # the scan ends there
    batch = batch._replace(inside=inside, image=batch.image * inside)
    method, guess = Method(make_unet3d(), small), torch.randn(2, 1, *size_px)
    method.restore = says(guess)
    outcome = method(batch, Rows(*RNG))
    drawn = Views(small)(batch, Rows(*RNG))
    terms, squares = [], []
    for row, *place in product(range(2), *(range(n) for n in size_px)):
        at = (row, 0, *place)
        if bool(drawn["target"].inside[at]) and not bool(drawn["masked"].inside[at]):
            value = float(drawn["target"].image[at])
            assert float(drawn["masked"].image[at]) == 0
            terms.append((float(guess[at]) - value) ** 2)
            squares.append(value**2)
    assert len(terms) < 0.75 * 2 * prod(size_px), "what lies behind the scan is left out"
    assert outcome.losses["restoration"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert outcome.uninformed["restoration"] == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_patches_that_cannot_be_hidden_are_refused(make_unet: Any, make_unet3d: Any) -> None:
    with pytest.raises(UsageError, match="2 dimensions") as error:
        Method(make_unet(), Settings(patch_px=(4, 8, 8)))
    assert error.value.next == "method.patch_px=8"
    for network, view in ((make_unet(), 32), (make_unet3d(), (16, 32, 8))):
        with pytest.raises(UsageError, match="one patch") as error:
            Method(network, Settings(size_px=view, patch_px=32))
        assert error.value.next == "method.patch_px=16"
    assert Method(make_unet3d(), Settings(size_px=(16, 32, 8))).sampling.patch_px == (16, 32, 8)


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
    outcome = train(Method(make_unet(), Settings(size_px=32, patch_px=4, ratio=0.5)), steps=120)
    assert outcome.losses["restoration"].item() < 0.7 * outcome.uninformed["restoration"]


@pytest.mark.slow
def test_in_3d_it_learns_to_fill_in(make_unet3d: Any, make_volumes: Any) -> None:
    how = Settings(size_px=16, patch_px=4, ratio=0.5, spatial=Spatial(p_spatial=0.0))
    method, batch = Method(make_unet3d(), how), make_volumes(8, (24, 24, 24))
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    for step in range(240):
        outcome = method(batch, Rows(0, step, "cpu"))
        optimiser.zero_grad()
        outcome.losses["restoration"].backward()
        optimiser.step()
    assert outcome.losses["restoration"].item() < 0.8 * outcome.uninformed["restoration"]


def test_defaults(make_unet: Any) -> None:
    method = Method(make_unet(), Settings())
    assert (Settings().ratio, Settings().patch_px, Settings().size_px) == (0.75, 16, 352)
    assert (method.sampling.kind, method.sampling.batch_size) == ("slices", 32)
