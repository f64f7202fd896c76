"""Scores against MONAI, against a slow version, and against shapes whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lemis.measure import scores

Mask = NDArray[np.bool_]

DISTANCES = ("hd95_mm", "assd_mm", "hd95_pooled_mm", "assd_of_means_mm")


def cube(shape: tuple[int, ...], start: tuple[int, ...], size: int) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(first, first + size) for first in start)] = True
    return mask


def blob(seed: int, shape: tuple[int, ...] = (14, 12, 7)) -> Mask:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    centre = rng.uniform(-0.3, 0.3, size=(3, 1, 1, 1))
    return np.asarray(np.linalg.norm(grid - centre, axis=0) + rng.normal(0, 0.15, shape) < rng.uniform(0.4, 0.8))


def slow(prediction: Mask, reference: Mask, spacing: tuple[float, ...], tolerance: float) -> tuple[float, ...]:
    """Every voxel and every pair by hand."""

    def surface(mask: Mask) -> NDArray[np.float64]:
        points = []
        for voxel in np.argwhere(mask):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    other = voxel.copy()
                    other[axis] += step
                    outside = not 0 <= other[axis] < mask.shape[axis]
                    if outside or not mask[tuple(other)]:
                        points.append(tuple(voxel * np.array(spacing)))
        return np.array(sorted(set(points)))

    a, b = surface(prediction), surface(reference)
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    both = np.concatenate([there, back])
    dice = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    return (
        dice,
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both.mean(),
        (both <= tolerance).mean(),
        np.percentile(both, 95),
        (there.mean() + back.mean()) / 2,
    )


def test_identical_masks_are_perfect():
    mask = blob(0)
    assert scores.score(mask, mask, (1, 2, 3)) == (
        *("scored", 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
        *(mask.sum(), mask.sum()),
    )


def test_two_cubes_shifted_along_an_anisotropic_axis():
    first, second = cube((20, 20, 20), (4, 4, 4), 8), cube((20, 20, 20), (4, 4, 6), 8)
    found = scores.score(first, second, (1.0, 1.0, 2.5), tolerance_mm=1.0)
    assert found.dice == pytest.approx(2 * (8 * 8 * 6) / (2 * 8**3))
    # More than a twentieth of either surface is its end face, two voxels of 2.5 mm away from the other's.
    assert found.hd95_mm == pytest.approx(5.0)


def test_one_voxel_each_gives_their_distance():
    first, second = cube((9, 9, 9), (1, 1, 1), 1), cube((9, 9, 9), (4, 5, 1), 1)
    found = scores.score(first, second, (1.0, 1.0, 1.0), tolerance_mm=5.0)
    assert (found.dice, found.hd95_mm, found.assd_mm, found.nsd) == (0.0, 5.0, 5.0, 1.0)
    assert scores.score(first, second, (1.0, 1.0, 1.0), tolerance_mm=4.999).nsd == 0.0


def test_a_distance_equal_to_the_tolerance_is_inside_despite_rounding():
    first, second = cube((9, 3, 3), (1, 1, 1), 1), cube((9, 3, 3), (4, 1, 1), 1)
    assert 3 * 0.1 != 0.3
    assert scores.score(first, second, (0.1, 1, 1), tolerance_mm=0.3).nsd == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0), (10.0, 1.5, 1.5)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_version(seed: int, spacing: tuple[float, ...]):
    first, second = blob(seed), blob(seed + 100)
    found = scores.score(first, second, spacing, tolerance_mm=2.0)
    assert found[1:7] == pytest.approx(slow(first, second, spacing, 2.0), abs=1e-9)


def test_a_single_slice_is_measured_in_its_plane():
    flat_first, flat_second = cube((30, 30), (5, 5), 12), cube((30, 30), (8, 5), 12)
    flat = scores.score(flat_first, flat_second, (1.5, 1.5))
    for axis in range(3):
        spacing = np.insert([1.5, 1.5], axis, 99.0)
        thick = scores.score(np.expand_dims(flat_first, axis), np.expand_dims(flat_second, axis), spacing)
        assert thick == flat
    assert flat[1:7] == pytest.approx(slow(flat_first, flat_second, (1.5, 1.5), 2.0))


def test_a_structure_in_one_slice_of_many_is_all_surface():
    """Only where the image is one slice is the slice axis left out: that both masks lie in one slice is not enough."""
    first, second = np.zeros((12, 12, 3), bool), np.zeros((12, 12, 3), bool)
    first[1:7, 1:7, 1], second[3:9, 1:7, 1] = True, True
    found = scores.score(first, second, (1.5, 1.5, 4.0))
    assert found[1:7] == pytest.approx(slow(first, second, (1.5, 1.5, 4.0), 2.0))
    assert found.assd_mm < scores.score(first[..., 1], second[..., 1], (1.5, 1.5)).assd_mm


def test_a_picture_of_one_pixel():
    assert scores.score(np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), (1, 1, 1))[1:7] == (
        1.0,
        0.0,
        0.0,
        1.0,
        0.0,
        0.0,
    )


def test_both_empty_is_absent_and_not_a_number():
    nothing = np.zeros((4, 5, 6), dtype=bool)
    found = scores.score(nothing, nothing, (1, 1, 1))
    assert found.status == "absent"
    assert all(math.isnan(value) for value in found[1:7])


@pytest.mark.parametrize(("status", "swap"), [("missed", False), ("invented", True)])
def test_one_empty_costs_the_diagonal(status: str, swap: bool):
    nothing, something = np.zeros((3, 4, 12), dtype=bool), cube((3, 4, 12), (1, 1, 1), 2)
    pair = (something, nothing) if swap else (nothing, something)
    assert scores.score(*pair, (1.0, 1.0, 1.0)) == (
        status,
        0.0,
        13.0,
        13.0,
        0.0,
        13.0,
        13.0,
        *(8 * pair[k].any() for k in (1, 0)),
    )
    assert scores.score(*pair, (2.0, 2.0, 2.0)).hd95_mm == 26.0


def test_structures_are_scored_by_their_value():
    reference = np.zeros((6, 6, 6), dtype=np.int16)
    reference[:3], reference[3:] = 2, 500
    found = scores.score_structures(
        np.full_like(reference, 2), reference, {"low": 2, "high": 500, "other": 7}, (1, 1, 1)
    )
    assert [found[name].status for name in ("low", "high", "other")] == ["scored", "missed", "absent"]
    assert found["low"].dice == pytest.approx(2 / 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.tuples(*[st.floats(0.3, 10.0)] * 3))
def test_symmetric_and_in_range(seed: int, other: int, spacing: tuple[float, float, float]):
    first, second = blob(seed, (7, 6, 5)), blob(other, (7, 6, 5))
    there, back = scores.score(first, second, spacing), scores.score(second, first, spacing)
    if there.status == "absent":
        assert back.status == "absent"
        return
    assert there[1:7] == pytest.approx(back[1:7])
    assert 0 <= there.dice <= 1
    assert 0 <= there.nsd <= 1
    for name in DISTANCES:
        assert 0 <= getattr(there, name) <= scores.diagonal_mm(first.shape, spacing)


@given(st.integers(0, 10**6), st.floats(0.1, 10.0))
def test_distances_scale_with_the_spacing(seed: int, factor: float):
    first, second = blob(seed, (7, 6, 5)), blob(seed + 1, (7, 6, 5))
    plain = scores.score(first, second, (1, 1, 2))
    scaled = scores.score(first, second, (factor, factor, 2 * factor))
    if plain.status != "absent":
        for name in DISTANCES:
            assert getattr(scaled, name) == pytest.approx(getattr(plain, name) * factor)


def test_room_around_the_masks_changes_nothing():
    first, second = blob(1), blob(2)
    wide = [np.pad(mask, 9) for mask in (first, second)]
    assert scores.score(*wide, (1, 1, 3)) == scores.score(first, second, (1, 1, 3))


def test_pooled_dice_pools_counts_over_slices_of_any_shape():
    one = (np.array([[1, 1], [0, 2]]), np.array([[1, 0], [0, 2]]))
    two = (np.array([0, 1, 1]), np.array([1, 1, 1]))
    found = scores.pooled_dice([one, two], num_classes=4)
    # class 1: I = 1 + 2, P + L = (2 + 2) + (1 + 3); class 2: I = 1, P + L = 2; class 3 is in neither: 0.
    assert found.dice == pytest.approx((6 / 8, 1.0, 0.0))
    assert found.mean == pytest.approx((6 / 8 + 1) / 3)


def test_pooled_dice_is_not_the_mean_of_scans():
    big, small = np.ones(99, dtype=np.int64), np.ones(1, dtype=np.int64)
    found = scores.pooled_dice([(big, big), (small * 0, small)], num_classes=2)
    assert found.mean == pytest.approx(2 * 99 / 199)


def test_both_forms_of_the_distances_by_hand():
    """A line of 3 pixels against a line of 1: the prediction's surface has more points than the reference's."""
    prediction, reference = np.zeros((9, 3), bool), np.zeros((9, 3), bool)
    prediction[1:4, 1] = True
    reference[5, 1] = True
    found = scores.score(prediction, reference, (1.0, 1.0))
    # To the reference 4, 3 and 2; back 2.
    assert found.hd95_mm == pytest.approx(3.9)  # of 2, 3, 4: between the two last, at 1.9 of 2 steps; of 2: 2
    assert found.hd95_pooled_mm == pytest.approx(3.85)  # of 2, 2, 3, 4: at 2.85 of 3 steps
    assert found.assd_mm == pytest.approx(11 / 4)
    assert found.assd_of_means_mm == pytest.approx((3 + 2) / 2)


def test_a_speck_far_away_raises_one_form_of_the_hausdorff_distance_only():
    """3 of 55 surface pixels of the prediction lie far off: more than 5 % of its own, less of all taken together."""
    prediction, reference = np.zeros((40, 70), bool), np.zeros((40, 70), bool)
    prediction[20, 5:57] = reference[20, 5:57] = True
    prediction[2, 5:8] = True
    found = scores.score(prediction, reference, (1.0, 1.0))
    assert found.hd95_mm == pytest.approx(18 * 0.3)  # position 0.95 * 54 = 51.3; from 52 on they are 18
    assert found.hd95_pooled_mm == 0.0  # position 0.95 * 106 = 100.7; from 104 on they are 18
    assert found.assd_mm == pytest.approx(3 * 18 / (55 + 52))
    assert found.assd_of_means_mm == pytest.approx(3 * 18 / 55 / 2)


def test_every_number_is_defined():
    assert set(scores.Score._fields) - {"status", "reference_voxels", "predicted_voxels"} <= set(scores.DEFINITIONS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0), (3.0, 0.8, 0.8)])
def test_equals_monai(spacing: tuple[float, ...]):
    """MONAI's Dice, HD95, symmetric ASSD and NSD are our ``dice``, ``hd95_mm``, ``assd_mm`` and ``nsd``. It has no
    name for the other two: they are made of its directed distances. Slow because MONAI and PyTorch take seconds to
    import.
    """
    metrics = pytest.importorskip("monai.metrics")
    surfaces = pytest.importorskip("monai.metrics.utils")
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    for seed in range(5):
        first, second = blob(seed, (40, 36, 20)), blob(seed + 50, (40, 36, 20))
        pair = [torch.from_numpy(mask)[None, None].float() for mask in (first, second)]
        found = scores.score(first, second, spacing, tolerance_mm=2.0)
        edges = surfaces.get_mask_edges(*(mask[0, 0].bool() for mask in pair))
        directed = [surfaces.get_surface_distance(*way, spacing=spacing) for way in (edges, edges[::-1])]
        theirs = (
            metrics.compute_dice(*pair, include_background=True),
            metrics.compute_hausdorff_distance(*pair, percentile=95, **options),
            metrics.compute_average_surface_distance(*pair, symmetric=True, **options),
            metrics.compute_surface_dice(*pair, [2.0], **options),
            np.percentile(np.concatenate(directed), 95),
            sum(metrics.compute_average_surface_distance(*way, **options) for way in (pair, pair[::-1])) / 2,
        )
        assert found[1:7] == pytest.approx([float(value) for value in theirs], rel=1e-5)
