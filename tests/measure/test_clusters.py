"""Scores of clusters against a reference, by hand and by their laws; and the proposal of the object without one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lemis.measure.clusters import PROTOCOLS, Overlap, Settings, best, numbered, overlap, propose, separated

ROWS, COLS = np.mgrid[:64, :64]
NOISE = np.random.default_rng(0)

masks = hnp.arrays(bool, (6, 7))


def disc(row: float, col: float, radius: float) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLS - col) ** 2 <= radius**2


def grey(labels: np.ndarray, values: tuple[float, ...], noise: float = 0.02) -> np.ndarray:
    """(1, H, W) image of clusters 0, 1, ... in these greys."""
    return (np.asarray(values)[labels] + NOISE.normal(0, noise, labels.shape))[None]


# ---------------------------------------------------------------- with a reference


def test_scores_by_hand():
    reference, mask = np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    reference[:2, :2] = True  # 4 pixels
    mask[:2, 1:3] = True  # 4 pixels, 2 of them shared: U = 6
    found = overlap(mask, reference)
    assert found == pytest.approx(Overlap(dice=4 / 8, hammoude=4 / 6, xor=4 / 4))


@given(mask=masks, reference=masks)
def test_the_laws_of_the_scores(mask, reference):
    found = overlap(mask, reference)
    if not reference.any():
        assert found is None
        return
    jaccard = np.count_nonzero(mask & reference) / np.count_nonzero(mask | reference)
    assert found.hammoude == pytest.approx(1 - jaccard)
    assert found.dice == pytest.approx(2 * jaccard / (1 + jaccard))
    assert 0 <= found.hammoude <= found.xor
    assert found.xor == pytest.approx(np.count_nonzero(mask ^ reference) / np.count_nonzero(reference))


def test_an_empty_mask_misses_all_and_xor_may_exceed_one():
    reference = disc(32, 32, 4)
    assert overlap(np.zeros_like(reference), reference) == Overlap(0, 1, 1)
    assert overlap(np.ones_like(reference), reference).xor > 1


def test_the_best_cluster_shares_most_pixels():
    reference = disc(32, 32, 10)
    labels = np.where(disc(32, 34, 10), 7, np.where(disc(10, 10, 5), 3, 0))
    found = best(labels, reference)
    assert found.cluster == 7
    assert found.overlap == overlap(labels == 7, reference)
    assert best(labels, np.zeros_like(reference)) is None


def test_the_whole_background_may_share_most():
    """Largest overlap, as the papers choose: not the highest Dice."""
    labels = disc(32, 32, 5).astype(int)
    found = best(labels, disc(32, 32, 10))
    assert found.cluster == 0
    assert found.overlap.xor > 1


def test_the_released_protocol_hides_what_lies_far_away():
    reference = disc(32, 32, 10)
    labels = (reference | (COLS < 8)).astype(int)  # the object, and a strip at the border
    honest, released = best(labels, reference), best(labels, reference, "released")
    assert released.overlap == Overlap(1, 0, 0)
    assert honest.overlap.dice < 0.8


def test_the_released_protocol_reaches_four_pixels():
    reference = np.zeros((64, 64), dtype=bool)
    reference[30:34, 30:34] = True
    found = best(np.ones((64, 64), dtype=int), reference, "released")
    square = 4 + 2 * 4
    assert found.overlap.xor == pytest.approx((square**2 - 16) / 16)


def test_the_released_protocol_never_takes_cluster_zero():
    reference = disc(32, 32, 10)
    labels = np.where(reference, 0, 1)
    assert best(labels, reference).cluster == 0
    ring = best(labels, reference, "released")  # cluster 1 shares no pixel
    assert ring.cluster is None
    assert ring.overlap == Overlap(0, 1, 1)
    labels[32, 32] = 1
    assert best(labels, reference, "released").cluster == 1


def test_protocols_say_what_they_are():
    assert set(PROTOCOLS) == {"honest", "released"}
    assert "vanish" in PROTOCOLS["released"]


# ---------------------------------------------------------------- without one


@given(labels=hnp.arrays(np.int64, (5, 6), elements=st.integers(-3, 9)))
def test_numbers_go_by_size_and_clusters_stay(labels):
    numbers, names = numbered(labels)
    sizes = [np.count_nonzero(numbers == number) for number in range(1, len(names) + 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == labels.size
    assert (np.asarray(names)[numbers - 1] == labels).all()


def test_a_disc_on_a_background_is_the_object():
    labels = disc(30, 34, 12).astype(int)
    proposal = propose(grey(labels, (0.7, 0.3)), labels)
    assert proposal.label == 1
    background, object_ = proposal.clusters
    assert (background.border, object_.border) == (1, 0)
    assert object_.compactness == pytest.approx(1, abs=0.05)
    assert background.score == 0
    assert "does not touch the image's border" in proposal.reason


def test_an_object_that_touches_a_border_is_still_the_object():
    labels = disc(30, 0, 18).astype(int)
    proposal = propose(grey(labels, (0.2, 0.8)), labels)
    assert proposal.label == 1
    assert "holds" in proposal.reason


def test_two_objects_of_one_cluster_are_proposed_together():
    labels = (disc(20, 16, 9) | disc(44, 46, 9)).astype(int)
    proposal = propose(grey(labels, (0.2, 0.8)), labels)
    assert proposal.label == 1
    assert next(one for one in proposal.clusters if one.label == 1).compactness > 0.9


def test_of_two_objects_the_one_with_more_contrast():
    labels = np.where(disc(20, 16, 9), 1, np.where(disc(44, 46, 9), 2, 0))
    assert propose(grey(labels, (0.2, 0.3, 0.9)), labels).label == 2
    assert propose(grey(labels, (0.2, 0.9, 0.3)), labels).label == 1


def test_a_rim_and_specks_are_not_the_object():
    inner, outer = disc(32, 32, 10), disc(32, 32, 14)
    labels = np.where(inner, 1, np.where(outer, 2, 0))
    labels[(NOISE.random(labels.shape) < 0.03) & ~outer] = 3  # specks, as bright as can be
    found = propose(grey(labels, (0.2, 0.6, 0.4, 1.0)), labels)
    assert found.label == 1
    by_label = {one.label: one for one in found.clusters}
    assert by_label[3].compactness < 0.1 < by_label[2].compactness < by_label[1].compactness


def test_dark_corners_are_not_the_object():
    corners = ~disc(31.5, 31.5, 38)
    labels = np.where(corners, 2, np.where(disc(32, 32, 10), 1, 0))
    assert propose(grey(labels, (0.8, 0.5, 0.0)), labels).label == 1


def test_colour_counts_where_grey_does_not():
    labels = disc(32, 32, 10).astype(int)
    image = np.stack([np.where(labels == 1, 0.8, 0.4), np.where(labels == 1, 0.4, 0.8), np.full(labels.shape, 0.5)])
    assert propose(image, labels).label == 1


def test_a_speck_counts_less_than_the_least_share():
    labels = disc(32, 32, 2).astype(int)
    usual, strict = (propose(grey(labels, (0.2, 0.8), 0), labels, Settings(least_share=s)) for s in (0.001, 0.1))
    assert strict.clusters[1].score == pytest.approx(usual.clusters[1].score * usual.clusters[1].share / 0.1)


def test_one_label_has_no_object():
    labels = np.zeros((8, 8), dtype=int)
    proposal = propose(NOISE.random((1, 8, 8)), labels)
    assert proposal.label is None
    assert "one label" in proposal.reason
    assert proposal.clusters[0].share == 1


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 2)])
def test_images_one_pixel_wide(shape):
    labels = np.zeros(shape, dtype=int)
    labels.flat[-1] = 1
    proposal = propose(labels[None].astype(float), labels)
    assert {one.label for one in proposal.clusters} == {0, 1}
    assert all(np.isfinite(one.score) for one in proposal.clusters)


def test_what_lies_inside_a_background_is_a_cluster_of_its_own():
    labels = np.full((40, 40), 7)  # air
    labels[4:36, 4:36] = 3  # a body
    labels[10:20, 8:16] = labels[10:20, 24:32] = 7  # its lungs
    parts, names = separated(labels)
    assert names == (3, 7, 7)
    assert parts[0, 0] == 2
    assert np.array_equal(
        parts == 3, (labels == 7) & (np.indices((40, 40)) > 4).all(0) & (np.indices((40, 40)) < 35).all(0)
    )
    assert np.array_equal(np.array([0, *names])[parts], labels)


def test_objects_that_the_border_cuts_stay_with_the_others():
    labels = np.zeros((40, 40), dtype=int)
    labels[:6, 5:12] = labels[20:28, 20:28] = 1
    parts, names = separated(labels)
    assert names == (0, 1)
    assert np.array_equal(parts == 2, labels == 1)


@pytest.mark.parametrize(("cut", "clusters"), [(26, 2), (34, 3)])  # a third of the border's 84 pixels, and 0.43
def test_a_background_holds_much_of_the_border(cut: int, clusters: int) -> None:
    labels = np.zeros((22, 22), dtype=int)
    labels[0, :22] = labels[1 : cut - 21, 0] = labels[8:16, 8:16] = 1
    assert len(separated(labels)[1]) == clusters


def test_specks_in_a_background_are_no_cluster_of_their_own():
    labels = np.zeros((40, 40), dtype=int)
    labels[4:36, 4:36] = 1
    labels[20, 20] = 0
    assert separated(labels)[1] == (1, 0)
    assert separated(labels, Settings(least_share=1e-4))[1] == (1, 0, 0)


@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12), elements=st.integers(0, 4))
)
def test_parts_are_within_their_clusters(labels):
    parts, names = separated(labels)
    assert np.array_equal(np.array([0, *names])[parts], labels)
    sizes = np.bincount(parts.ravel())[1:]
    assert list(sizes) == sorted(sizes, reverse=True)
    assert (sizes > 0).all()
