"""The MACL article's scores of slices: against a slow version, and against masks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lemis.measure.slices import SliceScores, distances_px, slice_scores

Labels = NDArray[np.integer]


def labels(seed: int, slices: int = 5) -> Labels:
    """Blobs of two structures in most slices, none in the first, the second structure missing in the next."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 24), indexing="ij"))
    found = np.zeros((slices, 20, 24), np.uint8)
    for k in range(1, slices):
        for value in (1, 2) if k > 1 else (1,):
            centre = rng.uniform(-0.4, 0.4, (2, 1, 1))
            found[k][np.linalg.norm(grid - centre, axis=0) + rng.normal(0, 0.1, (20, 24)) < 0.4] = value
    return found


def border(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Pixels of a mask with a neighbour outside it, pixel by pixel."""

    def outside(row: int, column: int) -> bool:
        return not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]) or not mask[row, column]

    return np.array(
        [
            (r, c)
            for r, c in np.argwhere(mask)
            if any(outside(r + i, c + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
    )


def slow(pairs: list[tuple[Labels, Labels]], classes: int) -> SliceScores:
    """Structure by structure and slice by slice, every pair of border pixels."""
    dice, jaccard, hd95, asd = [], [], [], []
    for value in range(1, classes):
        both = sum(int(((p == value) & (r == value)).sum()) for p, r in pairs)
        either = sum(int(((p == value) | (r == value)).sum()) for p, r in pairs)
        dice.append(2 * both / (both + either) if either else 0.0)
        jaccard.append(both / either if either else 0.0)
        far95, far = [], []
        masks = [(one[k] == value, other[k] == value) for one, other in pairs for k in range(len(one))]
        for p, r in masks:
            if not p.any() or not r.any():
                far95.append(0.0)
                far.append(0.0)
                continue
            between = np.linalg.norm(border(p)[:, None] - border(r)[None], axis=-1)
            there, back = between.min(1), between.min(0)
            far95.append(float(np.percentile([*there, *back], 95)))
            far.append(float(there.mean()))
        hd95.append(float(np.mean(far95)))
        asd.append(float(np.mean(far)))
    return SliceScores(tuple(dice), tuple(jaccard), tuple(hd95), tuple(asd))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_version_whatever_the_batches(seed: int) -> None:
    prediction, reference = labels(seed), np.roll(labels(seed + 10), 1, axis=0)
    whole = [(prediction, reference)]
    parts = [(prediction[:2], reference[:2]), (prediction[2:], reference[2:])]
    expected = slow(whole, 4)
    assert expected.pooled_dice[2] == expected.hd95_px[2] == 0, "a structure that is nowhere"
    for pairs in (whole, parts):
        for found, wanted in zip(slice_scores(pairs, 4), expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-12)


def square(first: int, side: int = 4) -> Labels:
    mask = np.zeros((16, 16), np.uint8)
    mask[first : first + side, 4 : 4 + side] = 1
    return mask


def test_perfect_is_perfect_and_a_shift_is_its_length() -> None:
    assert slice_scores([(square(4)[None], square(4)[None])], 2) == SliceScores((1.0,), (1.0,), (0.0,), (0.0,))
    one, other = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    one[3, 3], other[6, 7] = 1, 1
    assert distances_px(one, other, 2).ravel().tolist() == [5.0, 5.0]


def test_the_distance_of_asd_goes_one_way() -> None:
    large, small = square(2, 8), square(2, 1)
    assert distances_px(small, large, 2)[1, 0] == 0, "on the border of the reference"
    assert distances_px(large, small, 2)[1, 0] > 3


def test_what_is_missed_or_invented_has_the_best_distance() -> None:
    """The rule flatters: who finds nothing is nearer than who is a pixel off."""
    nothing = np.zeros((16, 16), np.uint8)
    for pair in ((nothing, square(4)), (square(4), nothing), (nothing, nothing)):
        assert not distances_px(*pair, 2).any()
    found = slice_scores([(np.stack([nothing, square(5)]), np.stack([square(4), square(4)]))], 2)
    alone = slice_scores([(square(5)[None], square(4)[None])], 2)
    assert found.hd95_px[0] == alone.hd95_px[0] / 2
    assert found.pooled_dice[0] < alone.pooled_dice[0]


def test_jaccard_follows_from_dice() -> None:
    prediction, reference = labels(1), labels(2)
    for dice, jaccard in zip(*slice_scores([(prediction, reference)], 3)[:2], strict=True):
        assert jaccard == pytest.approx(dice / (2 - dice))


def test_one_structure_is_scored_as_the_article_prints_it() -> None:
    """Its Dice of 80.93 stands beside a Jaccard of 67.97."""
    prediction, reference = np.zeros((1, 200, 200), np.uint8), np.zeros((1, 200, 200), np.uint8)
    prediction.ravel()[:10_000] = 1
    reference.ravel()[1907:11_907] = 1
    found = slice_scores([(prediction, reference)], 2)
    assert round(found.pooled_dice[0], 4) == 0.8093
    assert round(found.jaccard[0], 4) == 0.6797


def test_nothing_to_score_is_not_an_error() -> None:
    assert slice_scores([], 3) == SliceScores((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
