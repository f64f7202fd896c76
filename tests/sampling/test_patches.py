"""Patches of volumes: where they are drawn, what their regions hold, and that memory and disk give the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.contracts import Batch, Sampling
from lemis.errors import UsageError
from lemis.preparation import preprocess, store, store_files
from lemis.preparation.settings import Settings
from lemis.sampling import geometries, views
from lemis.sampling.draw import Rows
from lemis.sampling.patches import Patches
from lemis.sampling.spatial import CROP_ONLY, Spatial, reach_px

CPU = torch.device("cpu")
SHAPES = ((7, 20, 12), (9, 12, 26), (3, 9, 10))  # (slices, rows, cols) of three scans
STILL = dataclasses.replace(CROP_ONLY, crop="centre")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    """Three scans of two subjects; each voxel's value tells where it is, small boxes are labelled 1 and 2."""
    path = tmp_path_factory.mktemp("volumes")
    for number, (n, rows, cols) in enumerate(SHAPES):
        shape = (cols, rows, n)
        facts = preprocess.describe(
            id=f"s{number}", subject=f"p{number // 2}", images=("a.nii",), label="b.nii", shape=shape,
            spacing_mm=(1.0, 1.5, 2.0 + number), slice_axis=2, settings=Settings(spacing_mm="native"),
        )  # fmt: skip
        image = (np.arange(n * rows * cols).reshape(n, 1, rows, cols) % 2039 + 1).astype(np.float16)
        label = np.zeros((n, rows, cols), np.uint8)
        label[1, 2:4, 5] = 1
        label[2, 8, 8:10] = 2
        store_files.write_scan(path, facts, image, label)
    store_files.write_meta(
        path, scans=["s0", "s1", "s2"], channels=["MRI"], label_names=["background", "a", "b"],
        label_values=[0, 1, 2], settings={},
    )  # fmt: skip
    return store.open_store(path)


def patches(opened: store.Store, patch: tuple[int, int, int] = (4, 8, 6), **given: Any) -> tuple[Patches, Sampling]:
    sampling = Sampling(
        kind="slices",
        batch_size=given.pop("batch_size", 2),
        patch_px=patch,
        foreground_share=given.pop("foreground_share", 0.0),
        last=given.pop("last", "drop"),
    )
    spatial = given.pop("spatial", STILL)
    return Patches(opened, range(3), CPU, sampling, spatial, with_labels=True, **given), sampling


def values(opened: store.Store, scan: int, first: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The slow way: voxel by voxel, 0 outside."""
    image = opened.image(scan)[:, 0].astype(np.float32)
    out = np.zeros(shape, np.float32)
    for at in np.ndindex(*shape):
        place = tuple(int(a + f) for a, f in zip(at, first, strict=True))
        if all(0 <= p < n for p, n in zip(place, image.shape, strict=True)):
            out[at] = image[place]
    return out


@examples(40)
@given(
    patch=st.tuples(st.integers(1, 12), st.integers(1, 24), st.integers(1, 30)),
    batch_size=st.integers(1, 7), share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 3),
)  # fmt: skip
def test_a_patch_lies_in_its_scan_or_the_scan_in_the_middle_of_it(
    opened: store.Store, patch: tuple[int, int, int], batch_size: int, share: float, seed: int
) -> None:
    source, sampling = patches(opened, patch, batch_size=batch_size, foreground_share=share)
    batches = source.draw(sampling, seed=seed, epoch=1)
    assert [len(rows) for rows in batches] == [batch_size] * max(1, 3 // batch_size)
    for row, *first in np.concatenate(batches).tolist():
        for start, size, n in zip(first, patch, SHAPES[row], strict=True):
            if n >= size:
                assert 0 <= start <= n - size
            else:
                assert (size - n) // 2 <= -start <= (size - n + 1) // 2
                assert geometries.identity(1, (n,), (size,)).to_source[0, 0, -1] == start


def test_an_epoch_has_every_scan_once_and_small_sets_fill_a_batch(opened: store.Store) -> None:
    source, sampling = patches(opened, batch_size=1)
    assert sorted(int(rows[0, 0]) for rows in source.draw(sampling, seed=0, epoch=0)) == [0, 1, 2]
    (batch,) = source.draw(patches(opened, batch_size=5)[1], seed=0, epoch=0)
    assert set(batch[:, 0]) == {0, 1, 2}


def test_the_scans_of_a_last_batch_that_is_kept_are_seen_too(opened: store.Store) -> None:
    source, dropping = patches(opened, foreground_share=0.5)
    _, keeping = patches(opened, foreground_share=0.5, last="keep")
    for epoch in range(10):
        batches = source.draw(keeping, seed=0, epoch=epoch)
        assert [len(rows) for rows in batches] == [2, 1]
        assert sorted(np.concatenate(batches)[:, 0].tolist()) == [0, 1, 2]
        (whole,) = source.draw(dropping, seed=0, epoch=epoch)
        assert np.array_equal(whole, batches[0]), "whole batches are the same either way"
    _, large = patches(opened, batch_size=5, last="keep")
    assert [len(rows) for rows in source.draw(large, seed=0, epoch=0)] == [5], "few scans fill a batch as before"


def test_a_smaller_batch_has_the_same_share_of_labelled_places(opened: store.Store) -> None:
    source, sampling = patches(opened, (3, 3, 3), foreground_share=1.0, last="keep")
    for epoch in range(30):
        *_, last = source.draw(sampling, seed=0, epoch=epoch)
        (batch,) = source.stream([last])
        assert batch.label is not None
        assert batch.label.shape[0] == 1
        assert int(batch.label.amax()) > 0


def test_draws_are_a_function_of_seed_and_epoch(opened: store.Store) -> None:
    source, sampling = patches(opened)
    one = [rows.tolist() for rows in source.draw(sampling, seed=1, epoch=2)]
    assert one == [rows.tolist() for rows in source.draw(sampling, seed=1, epoch=2)]
    assert one != [rows.tolist() for rows in source.draw(sampling, seed=1, epoch=3)]
    assert one != [rows.tolist() for rows in source.draw(sampling, seed=2, epoch=2)]


def test_a_share_of_the_patches_has_a_labelled_voxel_in_its_middle(opened: store.Store) -> None:
    source, sampling = patches(opened, (3, 3, 3), batch_size=4, foreground_share=0.5)
    seen: list[int] = []
    for epoch in range(60):
        (rows,) = source.draw(sampling, seed=0, epoch=epoch)
        (batch,) = source.stream([rows])
        assert batch.label is not None
        seen += batch.label[:2].flatten(1).amax(1).tolist()
    # At the border the middle moves, but a patch of three voxels still holds the voxel.
    assert set(seen) == {1, 2}
    assert 0.3 < np.mean(np.array(seen) == 1) < 0.7, "structures are drawn alike, whatever their size"


def test_without_labels_or_structures_any_place_is_drawn(opened: store.Store, tmp_path: Path) -> None:
    sampling = Sampling(kind="slices", batch_size=3, patch_px=(2, 4, 4), foreground_share=1.0)
    source = Patches(opened, range(3), CPU, sampling, STILL)
    places = np.concatenate([rows for k in range(40) for rows in source.draw(sampling, seed=0, epoch=k)])
    assert len(np.unique(places[:, 1])) > 4
    (batch,) = source.stream(source.draw(sampling, seed=0, epoch=0))
    assert batch.label is None


@pytest.mark.parametrize("patch", [(4, 8, 6), (12, 9, 30), (3, 5, 7)])
@pytest.mark.parametrize("spatial", [STILL, Spatial()])
@pytest.mark.parametrize("resident", [True, False])
def test_a_region_is_what_lies_around_the_patch(
    opened: store.Store, patch: tuple[int, int, int], spatial: Spatial, resident: bool
) -> None:
    source, sampling = patches(opened, patch, batch_size=3, spatial=spatial, resident=resident)
    (rows,) = source.draw(sampling, seed=0, epoch=0)
    (batch,) = source.stream([rows])
    region = reach_px(spatial, patch)
    assert batch.image.shape == (3, 1, *region)
    for k, (row, *first) in enumerate(rows.tolist()):
        start = tuple(f - (r - p) // 2 for f, r, p in zip(first, region, patch, strict=True))
        wanted = values(opened, row, start, region)
        np.testing.assert_array_equal(batch.image[k, 0].numpy(), wanted)
        assert batch.inside is not None
        np.testing.assert_array_equal(batch.inside[k, 0].numpy(), wanted > 0)
        assert batch.position[k] == pytest.approx((first[0] + patch[0] / 2) / SHAPES[row][0])
        assert batch.scan[k] == row
        assert batch.subject[k] == row // 2
        assert batch.spacing_mm[k].tolist() == [2.0 + row, 1.5, 1.0]
    assert len(set(batch.index.tolist())) == 3


def test_memory_and_disk_give_the_same_batches(opened: store.Store) -> None:
    for seed in range(3):
        both = []
        for resident in (True, False):
            source, sampling = patches(opened, resident=resident, foreground_share=0.5)
            both.append(list(source.stream(source.draw(sampling, seed=seed, epoch=0) * 3)))
        for one, other in zip(*both, strict=True):
            for name in Batch._fields:
                first, second = getattr(one, name), getattr(other, name)
                assert (first is None and second is None) or torch.equal(first, second), name


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_a_still_view_is_the_patch_and_a_random_one_stays_in_the_region(opened: store.Store, crop: Any) -> None:
    spatial = Spatial(crop=crop, p_mirror=0, p_spatial=0)
    source, sampling = patches(opened, (3, 6, 4), batch_size=3, spatial=spatial)
    (rows,) = source.draw(sampling, seed=0, epoch=0)
    (batch,) = source.stream([rows])
    moved = set()
    for step in range(30):
        view = views.random_view(spatial, batch, (3, 6, 4), Rows(0, step, "cpu"))
        for k, (row, *first) in enumerate(rows.tolist()):
            shift = view.geometry.to_source[k, :, 3] - torch.tensor(
                [(r - p) // 2 for r, p in zip(reach_px(spatial, (3, 6, 4)), (3, 6, 4), strict=True)]
            )
            moved.add(tuple(shift.int().tolist()))
            place = tuple(int(f + s) for f, s in zip(first, shift.tolist(), strict=True))
            np.testing.assert_allclose(view.image[k, 0].numpy(), values(opened, row, place, (3, 6, 4)), atol=1e-2)
    if crop == "centre":
        assert moved == {(0, 0, 0)}
    else:
        for axis, side in enumerate((3, 6, 4)):
            assert {place[axis] for place in moved} == set(range(-(side // 4), side // 4 + 1))


def test_scans_of_a_batch_have_names(opened: store.Store) -> None:
    source, _ = patches(opened)
    assert source.scans_of(np.array([[2, 0, 0, 0], [0, 0, 0, 0], [2, 1, 1, 1]])) == ["s0", "s2"]


def test_no_scan_is_refused(opened: store.Store) -> None:
    sampling = Sampling(kind="slices", batch_size=1, patch_px=(1, 1, 1))
    with pytest.raises(UsageError, match="no scan to draw patches from"):
        Patches(opened, [], CPU, sampling, STILL)
