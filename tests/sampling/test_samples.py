"""Batches: which slices make one up, and that they are the same from memory and from disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.contracts import Batch, Sampling
from lemis.errors import UsageError
from lemis.preparation import preprocess, store, store_files
from lemis.preparation.keypoints import ScanKeypoints
from lemis.preparation.settings import Settings
from lemis.sampling.samples import Slices, draw_batches

CPU = torch.device("cpu")


def table(*scans: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(subject, number of slices) of each scan -> scan and subject of each row."""
    counts = [count for _, count in scans]
    return np.repeat(np.arange(len(scans)), counts), np.repeat([subject for subject, _ in scans], counts)


def runs(values: np.ndarray) -> list[int]:
    """Values without repetition of neighbours: [3, 3, 1, 1] -> [3, 1]."""
    return [int(v) for k, v in enumerate(values) if k == 0 or v != values[k - 1]]


TABLES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), min_size=1, max_size=8)


# ------------------------------------------------------------------------------------------------ which slices


@examples(100)
@given(scans=TABLES, batch_size=st.integers(1, 12), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_slices_are_seen_once_an_epoch(scans: list, batch_size: int, seed: int, epoch: int) -> None:
    scan, subject = table(*scans)
    sampling = Sampling(kind="slices", batch_size=batch_size)
    batches = draw_batches(sampling, scan, subject, seed=seed, epoch=epoch)
    rows = np.concatenate(batches)
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(range(len(scan)))
    if len(scan) < batch_size:
        assert [len(batch) for batch in batches] == [len(scan)], "a small set is one small batch"
    else:
        assert [len(batch) for batch in batches] == [batch_size] * (len(scan) // batch_size), "the rest is dropped"


@examples(100)
@given(
    scans=TABLES, kind=st.sampled_from(["slices", "neighbours"]), batch_size=st.integers(1, 12), seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)  # fmt: skip
def test_a_last_batch_that_is_kept_has_the_rest(scans: list, kind: Any, batch_size: int, seed: int, epoch: int) -> None:
    scan, subject = table(*scans)
    sampling = Sampling(kind=kind, batch_size=batch_size, last="keep")
    batches = draw_batches(sampling, scan, subject, seed=seed, epoch=epoch)
    rows = np.concatenate(batches)
    assert sorted(rows.reshape(len(scan), -1)[:, 0].tolist()) == list(range(len(scan))), "each slice once an epoch"
    whole, rest = divmod(len(scan), batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * whole + [rest] * (rest > 0)
    dropped = draw_batches(Sampling(kind=kind, batch_size=batch_size), scan, subject, seed=seed, epoch=epoch)
    for one, other in zip(dropped, batches, strict=False):
        assert np.array_equal(one, other), "whole batches are the same either way"


@examples(200)
@given(scans=TABLES, batch_size=st.integers(2, 24), per_scan=st.integers(2, 16), seed=st.integers(0, 5))
def test_groups_of_any_set(scans: list, batch_size: int, per_scan: int, seed: int) -> None:
    scan, subject = table(*scans)
    sampling = Sampling(kind="groups", batch_size=batch_size, per_scan=per_scan)
    batches = draw_batches(sampling, scan, subject, seed=seed, epoch=0)
    sizes = dict(zip(*np.unique(scan, return_counts=True), strict=True))
    wanted = min(batch_size, len(scan))
    assert len(batches) == max(1, len(scan) // wanted)
    for rows in batches:
        assert len(set(rows.tolist())) == len(rows), "no slice twice in a batch"
        order = runs(scan[rows])
        assert len(order) == len(set(order)), "slices of one scan lie side by side"
        share = max(per_scan, -(-wanted // len(sizes)))  # a few scans give more each than many
        for place, one in enumerate(order):
            taken = int((scan[rows] == one).sum())
            before = int(np.isin(scan[rows], order[:place]).sum())
            assert taken == min(share, sizes[one], wanted - before)
        assert len(rows) == wanted or len(order) == len(sizes), "full, or every scan gave what it has"
        new = [int(subject[scan == one][0]) for one in order]
        fresh = len(set(new))
        assert len(set(new[:fresh])) == fresh, "a subject comes again only when all have come"
        if len(new) > fresh:
            assert set(new) == set(subject.tolist())


def test_groups_are_two_scans_of_two_subjects_where_scans_are_long() -> None:
    scan, subject = table((0, 30), (0, 25), (1, 40), (1, 20), (2, 35))
    batches = draw_batches(Sampling(kind="groups", batch_size=32, per_scan=16), scan, subject, seed=0, epoch=0)
    assert len(batches) == 150 // 32
    for rows in batches:
        scans = runs(scan[rows])
        assert [int((scan[rows] == one).sum()) for one in scans] == [16, 16]
        assert len(set(subject[rows].tolist())) == 2


def test_groups_give_every_scan_its_turn() -> None:
    scan, subject = table(*[(subject, 8) for subject in range(12)])
    sampling = Sampling(kind="groups", batch_size=16, per_scan=8)
    rows = np.concatenate(draw_batches(sampling, scan, subject, seed=0, epoch=0))
    assert sorted(rows.tolist()) == list(range(len(scan))), "scans that fit whole are each seen once"


@examples(200)
@given(
    scans=TABLES, wanted=st.integers(1, 4), batch_size=st.integers(2, 24), per_scan=st.integers(2, 16),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_groups_of_a_number_of_scans(scans: list, wanted: int, batch_size: int, per_scan: int, seed: int) -> None:
    scan, subject = table(*scans)
    sampling = Sampling(kind="groups", batch_size=batch_size, per_scan=per_scan, scans_per_batch=wanted)
    batches = draw_batches(sampling, scan, subject, seed=seed, epoch=0)
    sizes = dict(zip(*np.unique(scan, return_counts=True), strict=True))
    number = min(wanted, len(sizes))
    most = min(per_scan, max(1, batch_size // number))
    for rows in batches:
        order = runs(scan[rows])
        assert len(order) == len(set(order)) == number
        assert [int((scan[rows] == one).sum()) for one in order] == [min(most, sizes[one]) for one in order]
        assert len(set(subject[rows].tolist())) == min(number, len(set(subject.tolist())))
        assert len(set(rows.tolist())) == len(rows)
    average = number * np.mean([min(most, n) for n in sizes.values()])
    assert len(batches) == max(1, int(len(scan) / average + 1e-9))


def test_two_scans_where_scans_are_short_and_each_is_seen_once() -> None:
    scan, subject = table(*[(number // 2, 6 + number % 7) for number in range(20)])  # ten subjects, two scans of each
    two = Sampling(kind="groups", batch_size=32, per_scan=16, scans_per_batch=2)
    batches = draw_batches(two, scan, subject, seed=0, epoch=0)
    assert len(batches) == 10
    for rows in batches:
        assert len(set(scan[rows].tolist())) == len(set(subject[rows].tolist())) == 2
    filled = draw_batches(Sampling(kind="groups", batch_size=32, per_scan=16), scan, subject, seed=0, epoch=0)
    assert all(len(set(scan[rows].tolist())) > 2 for rows in filled)


@pytest.mark.parametrize("kind", ["slices", "groups", "neighbours"])
def test_seed_and_epoch_decide(kind: str) -> None:
    scan, subject = table((0, 9), (1, 7), (2, 8), (3, 6))
    sampling = Sampling(kind=kind, batch_size=8, per_scan=4)

    def rows(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in draw_batches(sampling, scan, subject, seed=seed, epoch=epoch)]

    assert rows(1, 2) == rows(1, 2)
    assert rows(1, 2) != rows(1, 3)
    assert rows(1, 2) != rows(2, 2)
    assert rows(1, 2) != rows(2, 1)


LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=6)
REACH = st.one_of(st.floats(0.001, 1.0), st.sampled_from([0.05, 0.18, 0.29]))


@examples(200)
@given(
    scans=LENGTHS,
    batch_size=st.integers(1, 24),
    reach=REACH,
    reach_slices=st.one_of(st.none(), st.integers(1, 5)),
    seed=st.integers(0, 5),
)
def test_neighbours_of_any_set(scans: list, batch_size: int, reach: float, reach_slices: int | None, seed: int) -> None:
    scan, subject = table(*scans)
    sampling = Sampling(kind="neighbours", batch_size=batch_size, reach=reach, reach_slices=reach_slices)
    batches = draw_batches(sampling, scan, subject, seed=seed, epoch=1)
    plain = draw_batches(Sampling(kind="slices", batch_size=batch_size), scan, subject, seed=seed, epoch=1)
    assert [batch[:, 0].tolist() for batch in batches] == [batch.tolist() for batch in plain], "as without neighbours"
    for row, other in np.concatenate(batches).tolist():
        n = int((scan == scan[row]).sum())
        most = max(1, min(int(reach * n + 1e-9), reach_slices or n))
        assert scan[other] == scan[row]
        assert (other == row) == (n == 1)
        assert abs(other - row) <= most


@pytest.mark.parametrize(
    ("n", "how", "most"),
    [
        (200, {"reach": 0.05}, 10),  # CHD
        (20, {"reach": 0.05}, 1),  # where the paper's code does not end
        (6, {"reach": 0.18, "reach_slices": 2}, 1),  # ACDC
        (18, {"reach": 0.18, "reach_slices": 2}, 2),
        (100, {"reach": 0.29}, 29),  # 0.29 * 100 is 28.999999999999996
        (3, {"reach": 1.0}, 2),
        (2, {"reach": 0.01}, 1),
    ],
)
def test_every_neighbour_in_reach_comes_alike(n: int, how: dict[str, Any], most: int) -> None:
    scan, subject = table((0, 3), (1, n), (2, 5))
    sampling = Sampling(kind="neighbours", batch_size=n + 8, **how)
    epochs = 400
    pairs = np.concatenate([draw_batches(sampling, scan, subject, seed=0, epoch=k)[0] for k in range(epochs)])
    row, other = pairs[(pairs[:, 0] >= 3) & (pairs[:, 0] < n + 3)].T - 3
    for place in {0, 1, n // 2, n - 1}:
        expected = {k for k in range(max(0, place - most), min(n, place + most + 1)) if k != place}
        seen, times = np.unique(other[row == place], return_counts=True)
        share = epochs / len(expected)
        assert set(seen.tolist()) <= expected
        if share > 30:
            assert set(seen.tolist()) == expected
            assert np.abs(times - share).max() < 5 * share**0.5, "none more often than another"
    assert set((other - row).tolist()) == {k for k in range(-most, most + 1) if k}


# ------------------------------------------------------------------------------------------------- the batches


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    """Three labelled scans of two subjects and one without a label, of different sizes, two channels."""
    path: Path = tmp_path_factory.mktemp("prepared")
    chosen = Settings(spacing_mm=1.0)
    rng = np.random.default_rng(0)
    scans = [("a1", "a", (12, 10, 4)), ("a2", "a", (8, 14, 3)), ("b1", "b", (11, 9, 5)), ("c1", "c", (6, 6, 2))]
    for id, subject, shape in scans:
        labelled = subject != "c"
        facts = preprocess.describe(
            id=id, subject=subject, images=("x", "y"), label="z" if labelled else None, shape=shape,
            spacing_mm=(1.0, 1.0, 5.0), slice_axis=2, settings=chosen,
        )  # fmt: skip
        image, facts = preprocess.prepare_image(rng.normal(size=(*shape, 2)), facts, chosen)
        label = preprocess.prepare_label(rng.integers(1, 3, shape), facts, chosen, (0, 1, 2)) if labelled else None
        store_files.write_scan(path, facts, image, label)
    store_files.write_meta(
        path, scans=[id for id, *_ in scans], channels=["x", "y"], label_names=["background", "p", "q"],
        label_values=[0, 1, 2], settings={},
    )  # fmt: skip
    return store.open_store(path)


def all_rows(slices: Slices, size: int = 5) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(slices))
    return [order[k : k + size] for k in range(0, len(order), size)]


def equal(a: Batch | Tensor | None, b: Batch | Tensor | None) -> bool:
    if isinstance(a, Batch) and isinstance(b, Batch):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and same(a, b)
    return a is b


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("scans", [[0, 1, 2], [2], [1, 0]])
@pytest.mark.parametrize("with_labels", [False, True])
def test_resident_equals_streamed(prepared: store.Store, scans: list[int], with_labels: bool) -> None:
    sets = [Slices(prepared, scans, CPU, with_labels=with_labels, resident=resident) for resident in (True, False)]
    assert [one.resident for one in sets] == [True, False]
    rows = all_rows(sets[0], 2)  # more batches than are read ahead
    batches = [list(one.stream(rows)) for one in sets]
    assert len(batches[0]) == len(batches[1]) == len(rows)
    assert all(equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.parametrize("resident", [True, False])
def test_slices_lie_in_the_middle_of_zeros(prepared: store.Store, resident: bool) -> None:
    slices = Slices(prepared, [0, 1, 2], CPU, with_labels=True, resident=resident)
    assert slices.shape == (14, 12)
    assert len(slices) == 12
    for batch in slices.stream(all_rows(slices)):
        assert batch.image.dtype == torch.float32
        assert batch.image.shape[1:] == (2, 14, 12)
        assert batch.label is not None
        assert batch.label.dtype == torch.int64
        for k, row in enumerate(batch.index.tolist()):
            scan, number = int(slices.scan[row]), row - int((slices.scan < slices.scan[row]).sum())
            stored = np.asarray(prepared.image(scan)[number], dtype=np.float32)
            height, width = stored.shape[1:]
            top, left = (14 - height) // 2, (12 - width) // 2
            expected = np.zeros((2, 14, 12), np.float32)
            expected[:, top : top + height, left : left + width] = stored
            np.testing.assert_array_equal(batch.image[k].numpy(), expected)
            mask = np.zeros((14, 12), np.int64)
            mask[top : top + height, left : left + width] = prepared.label(scan)[number]
            np.testing.assert_array_equal(batch.label[k].numpy(), mask)


def test_facts_of_the_rows(prepared: store.Store) -> None:
    slices = Slices(prepared, [1, 2], CPU)
    batch = next(slices.stream([np.array([0, 2, 3, 7])]))
    assert batch.index.tolist() == [0, 2, 3, 7]
    assert batch.scan.tolist() == [1, 1, 2, 2]
    assert batch.subject.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(batch.position, torch.tensor([1 / 3, 3 / 3, 1 / 5, 5 / 5]))
    torch.testing.assert_close(batch.spacing_mm, torch.ones(4, 2))
    assert (batch.label, batch.inside) == (None, None)


def test_memory_decides_what_stays_on_the_device(prepared: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 12 * 2 * 12 * 14 * 2  # slices, channels, rows, columns, bytes
    monkeypatch.setattr("lemis.sampling.samples.memory_of", lambda device: size * 5 + 10)
    assert Slices(prepared, [0, 1, 2], CPU).resident
    monkeypatch.setattr("lemis.sampling.samples.memory_of", lambda device: size * 5 - 10)
    assert not Slices(prepared, [0, 1, 2], CPU).resident


def test_no_scan_at_all(prepared: store.Store) -> None:
    with pytest.raises(UsageError, match=r"no scan to draw slices from[\s\S]*lemis check"):
        Slices(prepared, [], CPU)


# ------------------------------------------------------------------------------------------- keypoints and pairs


def with_keypoints(of: store.Store, path: Path, most: int = 7) -> store.Store:
    """A copy of the store with made-up keypoints: 0 to ``most`` in each slice, other places in every one."""
    rng = np.random.default_rng(1)
    shutil.copytree(of.path, path)
    for facts in of.scans:
        count = rng.permutation(8)[: facts.slices].clip(max=most).astype(np.int32)
        place = rng.integers(0, facts.prepared_shape, (count.sum(), 2)).astype(np.int16)
        descriptor = rng.integers(0, 256, (count.sum(), 5)).astype(np.uint8)
        store_files.write_keypoints(path, facts.id, ScanKeypoints(count, place, descriptor), "made up")
    store_files.write_meta(
        path, scans=[facts.id for facts in of.scans], channels=of.channels, label_names=of.label_names,
        label_values=of.label_values, settings={}, keypoints={"detector": "sift", "most": 7},
    )  # fmt: skip
    return store.open_store(path)


@pytest.fixture(scope="module")
def keyed(prepared: store.Store, tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    return with_keypoints(prepared, tmp_path_factory.mktemp("keyed") / "prepared")


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("most", "scans"), [(4, [0, 1, 2]), (100, [2, 0, 3]), (1, [1])])
def test_keypoints_of_the_rows(keyed: store.Store, resident: bool, most: int, scans: list[int]) -> None:
    slices = Slices(keyed, scans, CPU, resident=resident, keypoints=most, descriptors=True)
    k = min(most, max(int(keyed.keypoints(scan).count.max()) for scan in scans))
    for batch in slices.stream(all_rows(slices)):
        assert batch.keypoints is not None
        assert batch.descriptors is not None
        assert (batch.keypoints.shape[1:], batch.descriptors.shape[1:]) == ((k, 2), (k, 5))
        assert (batch.keypoints.dtype, batch.descriptors.dtype) == (torch.float32, torch.float32)
        for row, place, descriptor in zip(batch.index.tolist(), batch.keypoints, batch.descriptors, strict=True):
            scan = int(slices.scan[row])
            found, number = keyed.keypoints(scan), row - int((slices.scan < scan).sum())
            start, count = int(found.count[:number].sum()), min(most, int(found.count[number]))
            height, width = keyed.scans[scan].prepared_shape
            offset = np.array([(slices.shape[0] - height) // 2, (slices.shape[1] - width) // 2])
            np.testing.assert_array_equal(place[:count].numpy(), found.place[start : start + count] + offset)
            np.testing.assert_array_equal(descriptor[:count].numpy(), found.descriptor[start : start + count])
            assert place[count:].isnan().all()
            assert (descriptor[count:] == 0).all()


def test_keypoints_lie_on_their_pixels(keyed: store.Store) -> None:
    slices = Slices(keyed, [0, 1, 2], CPU, keypoints=9)
    batch = next(slices.stream([np.arange(len(slices))]))
    assert batch.keypoints is not None
    assert batch.descriptors is None
    for row in range(len(slices)):
        scan, number = int(slices.scan[row]), row - int((slices.scan < slices.scan[row]).sum())
        found = keyed.keypoints(scan)
        start = int(found.count[:number].sum())
        for k, (r, c) in enumerate(found.place[start : start + found.count[number]].tolist()):
            i, j = batch.keypoints[row, k].long().tolist()
            assert batch.image[row, 0, i, j] == float(keyed.image(scan)[number][0, r, c])


@pytest.mark.parametrize("resident", [True, False])
def test_scans_without_a_single_keypoint(prepared: store.Store, resident: bool, tmp_path: Path) -> None:
    empty = with_keypoints(prepared, tmp_path / "prepared", most=0)
    slices = Slices(empty, [0, 1], CPU, resident=resident, keypoints=9, descriptors=True)
    batch = next(slices.stream([np.array([1, 4])]))
    assert batch.keypoints is not None
    assert batch.descriptors is not None
    assert batch.keypoints.shape == (2, 1, 2)
    assert batch.keypoints.isnan().all()
    assert torch.equal(batch.descriptors, torch.zeros(2, 1, 5))


@pytest.mark.parametrize("with_labels", [False, True])
def test_pairs_are_two_batches_and_resident_equals_streamed(keyed: store.Store, with_labels: bool) -> None:
    sets = [
        Slices(keyed, [0, 1, 2], CPU, with_labels=with_labels, resident=resident, keypoints=4, descriptors=True)
        for resident in (True, False)
    ]
    sampling = Sampling(kind="neighbours", batch_size=2)
    rows = draw_batches(sampling, sets[0].scan, sets[0].subject, seed=0, epoch=0)
    assert len(rows) == 6  # more than are read ahead
    for one in sets:
        slices, others = (list(one.stream([batch[:, k] for batch in rows])) for k in (0, 1))
        pairs = list(one.stream(rows))
        assert len(pairs) == len(rows)
        for pair, first, second in zip(pairs, slices, others, strict=True):
            assert pair.neighbour is not None
            assert equal(pair._replace(neighbour=None), first)
            assert equal(pair.neighbour, second)
    assert all(equal(a, b) for a, b in zip(*(one.stream(rows) for one in sets), strict=True))


def test_without_keypoints_batches_have_none(keyed: store.Store) -> None:
    batch = next(Slices(keyed, [0], CPU).stream([np.array([0, 1])]))
    assert (batch.keypoints, batch.descriptors, batch.neighbour) == (None, None, None)


def test_keypoints_count_as_memory(keyed: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 12 * 2 * 12 * 14 * 2 + 12 * 4 * (2 * 4 + 5)  # images; slices, keypoints, bytes of places and descriptors
    for more, resident in ((10, True), (-10, False)):
        monkeypatch.setattr("lemis.sampling.samples.memory_of", lambda device, more=more: size * 5 + more)
        assert Slices(keyed, [0, 1, 2], CPU, keypoints=4, descriptors=True).resident == resident


def test_a_store_without_keypoints(prepared: store.Store) -> None:
    with pytest.raises(UsageError, match="no keypoints in") as caught:
        Slices(prepared, [0], CPU, keypoints=4)
    assert caught.value.next == f"lemis prepare {prepared.path.parent} keypoints.detector=sift"
