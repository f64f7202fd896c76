"""Copies of scans for the viewer of a report: 8 bits, in place, small enough; and where in them to look."""

from __future__ import annotations

import base64
import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lemis.reporting.viewer import copies
from lemis.reporting.viewer.copies import Maps

OBLIQUE = np.array([[1.4, -0.3, 0.2, -30.0], [0.3, 1.4, -0.1, 12.0], [-0.1, 0.2, 5.0, 7.0], [0, 0, 0, 1]])


def made(shape: tuple[int, int, int] = (40, 36, 12), affine: NDArray[np.float64] = OBLIQUE, seed: int = 0) -> Maps:
    random = np.random.default_rng(seed)
    reference = np.zeros(shape, np.uint8)
    reference[10:20, 12:22, 4:8], reference[20:24, 12:22, 4:8] = 1, 2
    predicted = np.roll(reference, 2, axis=0)
    image = random.normal(100, 20, shape).astype(np.float32) + 80 * reference
    return Maps(image=image, prediction=predicted, reference=reference, affine=affine)


def read(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_a_whole_copy_is_the_scan_in_8_bits_on_its_own_grid() -> None:
    maps = made()
    copy = copies.within(maps, 1e9, 1e9)
    assert copy is not None
    assert copy.said == ""
    image, predicted, reference = (read(text) for text in (copy.image, copy.prediction, copy.reference or ""))
    for file in (image, predicted, reference):
        assert np.allclose(file.affine, OBLIQUE, atol=1e-5)
        assert file.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(predicted.dataobj), maps.prediction)
    assert np.array_equal(np.asarray(reference.dataobj), maps.reference)
    shown = np.asarray(image.dataobj).astype(float)
    box = copies.cropped(maps).image
    low, high = np.percentile(box, [1, 99.5])
    wanted = np.clip((maps.image - low) / (high - low), 0, 1) * 255
    assert np.abs(shown - wanted).max() <= 0.51
    assert np.allclose(np.array(copy.affine), OBLIQUE)
    assert copy.shape == maps.image.shape


@pytest.mark.parametrize("share", [0.7, 0.3, 0.08, 0.02])
def test_a_copy_is_never_larger_than_allowed_and_says_what_it_is(share: float) -> None:
    maps = made((96, 80, 40), np.diag([1.0, 1.0, 4.0, 1.0]))
    whole = copies.within(maps, 1e9, 1e9)
    assert whole is not None
    copy = copies.within(maps, share * whole.size, share * whole.size)
    assert copy is not None
    assert copy.size <= share * whole.size
    assert "the structures and 20 mm around them" in copy.said
    assert ("voxels of" in copy.said) == (copy.affine[0][0] > 1)


def test_what_cannot_be_made_small_enough_is_as_small_as_it_can_be_or_left_out() -> None:
    smallest = copies.within(made(), 100, 1e9)
    assert smallest is not None
    assert smallest == copies.within(made(), 100, smallest.size)
    assert copies.within(made(), 100, smallest.size - 1) is None


def test_nothing_that_is_no_number_reaches_a_copy() -> None:
    maps = made()
    maps.image[0, 0, 0], maps.image[1, 0, 0], maps.image[2, 0, 0] = np.nan, np.inf, -np.inf
    copy = copies.within(maps, 1e9, 1e9)
    assert copy is not None
    shown = np.asarray(read(copy.image).dataobj)
    assert [shown[0, 0, 0], shown[1, 0, 0], shown[2, 0, 0]] == [0, 255, 0]


def test_the_crop_keeps_every_structure_with_its_margin_in_place() -> None:
    maps = made((96, 80, 40), np.diag([1.0, 1.0, 4.0, 1.0]))
    box = copies.cropped(maps)
    there = np.argwhere(maps.structures)
    kept = np.argwhere(box.structures)
    assert len(kept) == len(there)
    before, after = (nib.affines.apply_affine(found.affine, places) for found, places in ((maps, there), (box, kept)))
    assert np.allclose(before, after)
    low = nib.affines.apply_affine(box.affine, [0, 0, 0])
    assert np.allclose(low, np.maximum(before.min(axis=0) - 20, 0))


@given(
    sides=st.tuples(st.integers(32, 41), st.integers(8, 41), st.integers(4, 33)),
    spacing=st.tuples(*[st.sampled_from([1.0, 1.2, 3.0])] * 3),
    seed=st.integers(0, 99),
)
def test_halving_is_the_mean_and_the_commonest_structure_of_each_block(
    sides: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, sides).astype(np.uint8)
    maps = Maps(
        image=random.normal(0, 1, sides).astype(np.float32), prediction=labels, reference=None,
        affine=np.diag([*spacing, 1.0]),
    )  # fmt: skip
    small = copies.halved(maps)
    factors = [2 if mm <= 1.5 * min(spacing) and side >= 32 else 1 for mm, side in zip(spacing, sides, strict=True)]
    assert small.image.shape == tuple(side // factor for side, factor in zip(sides, factors, strict=True))
    for voxel in itertools.islice(np.ndindex(*small.image.shape), 0, None, 97):
        block = tuple(slice(at * factor, (at + 1) * factor) for at, factor in zip(voxel, factors, strict=True))
        assert small.image[voxel] == pytest.approx(maps.image[block].mean(), abs=1e-5)
        counts = np.bincount(labels[block].ravel(), minlength=4)
        best = [value for value in range(4) if counts[value] == counts.max()]
        assert small.prediction[voxel] == ([value for value in best if value] or best)[0]
        middle = [(at.start + at.stop - 1) / 2 for at in block]
        assert np.allclose(small.affine @ [*voxel, 1], maps.affine @ [*middle, 1])


# ---------------------------------------------------------------- where to look


def test_the_worst_place_is_deep_inside_the_difference_of_the_worst_slice() -> None:
    maps = made(affine=np.diag([1.5, 1.5, 8.0, 1.0]))
    assert maps.reference is not None
    maps.prediction[:] = maps.reference
    maps.prediction[10:19, 12:21, 5] = 0  # 9 x 9 voxels: their middle is 14, 16
    assert copies.worst_place(maps, 2) == (14 * 1.5, 16 * 1.5, 5 * 8.0)
    assert copies.worst_place(maps, 2, 1) == (14 * 1.5, 16 * 1.5, 5 * 8.0)
    x, y, z = copies.worst_place(maps, 2, 2)  # which is right everywhere: inside of it
    assert maps.reference[round(x / 1.5), round(y / 1.5), round(z / 8)] == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_a_reference_it_is_inside_the_largest_slice_of_the_prediction(axis: int) -> None:
    predicted = np.zeros((20, 20, 20), np.uint8)
    predicted[5:8, 5:8, 5:8] = 1
    grown = [slice(4, 13)] * 3
    grown[axis] = slice(7, 8)
    predicted[tuple(grown)] = 1
    maps = Maps(image=np.zeros((20, 20, 20)), prediction=predicted, reference=None, affine=np.eye(4))
    wanted = [8.0, 8.0, 8.0]
    wanted[axis] = 7.0
    assert list(copies.worst_place(maps, axis)) == wanted


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_that_is_given_is_the_worst_whatever_is_in_it(axis: int) -> None:
    predicted = np.zeros((20, 22, 24), np.uint8)
    predicted[5:8, 5:8, 5:8] = 1
    nothing = np.zeros_like(predicted)

    def place(labels: NDArray[np.uint8], number: int) -> list[float]:
        maps = Maps(image=np.zeros(labels.shape), prediction=labels, reference=None, affine=np.eye(4))
        return list(copies.worst_place(maps, 2, 1, (axis, number)))

    def wanted(number: float, others: list[float]) -> list[float]:
        return [*others[:axis], number, *others[axis + 1 :]]

    assert place(predicted, 7) == wanted(7.0, [6.0] * 3)
    assert place(predicted, 12) == wanted(12.0, [6.0] * 3)  # beyond its end
    assert place(nothing, 12) == wanted(12.0, [9.5, 10.5, 11.5])


@pytest.mark.parametrize(("number", "first", "last"), [(0, 0, 43), (79, 16, 79), (20, 16, 43)])
def test_a_slice_to_look_at_is_not_cut_off(number: int, first: int, last: int) -> None:
    predicted = np.zeros((80, 40, 40), np.uint8)
    predicted[26:34, 15:25, 15:25] = 1
    maps = Maps(
        image=predicted.astype(np.float32), prediction=predicted, reference=None, affine=np.diag([2.0, 2.0, 2.0, 1.0]),
        kept=((0, number),),
    )  # fmt: skip
    box = copies.cropped(maps)
    assert box.affine[0, 3] / 2 == first
    assert box.image.shape[0] == last - first + 1


def test_of_a_scan_without_anything_it_is_the_middle() -> None:
    nothing = np.zeros((5, 7, 9), np.uint8)
    maps = Maps(image=nothing, prediction=nothing, reference=nothing, affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    assert copies.worst_place(maps, 2) == (4.0, 3.0, 4.0)
