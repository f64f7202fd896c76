"""The store: what is written is read, nothing half-written is, and a slice is read without the others."""

import dataclasses
import json
import time

import numpy as np
import pytest

from lemis.errors import UsageError
from lemis.preparation import preprocess, store, store_files
from lemis.preparation.crops import FieldOfView
from lemis.preparation.keypoints import ScanKeypoints
from lemis.preparation.settings import Settings

CHOSEN = Settings(spacing_mm=1.0)


def facts_of(id, subject, shape, *, labelled=True, settings=CHOSEN):
    return preprocess.describe(
        id=id, subject=subject, images=(f"{id}.nii.gz",), label=f"{id}_seg.nii.gz" if labelled else None,
        shape=shape, spacing_mm=(1.0, 1.0, 5.0), slice_axis=2, settings=settings,
    )  # fmt: skip


def write(
    path,
    shapes=((12, 10, 4), (8, 14, 3), (12, 12, 5)),
    labelled=(True, False, True),
    channels=1,
    settings=CHOSEN,
):
    """Three scans of two subjects: s1_a, s1_b, s2_a."""
    rng, names, arrays = np.random.default_rng(0), ("s1_a", "s1_b", "s2_a"), {}
    path.mkdir(parents=True, exist_ok=True)
    for id, shape, has_label in zip(names, shapes, labelled, strict=True):
        facts = facts_of(id, id[:2], shape, labelled=has_label, settings=settings)
        image, facts = preprocess.prepare_image(rng.normal(3, 2, (*shape, channels)), facts, settings)
        label = None
        if has_label:
            label = preprocess.prepare_label(rng.integers(0, 3, shape), facts, settings, (0, 1, 2))
        store_files.write_scan(path, facts, image, label)
        arrays[id] = (facts, image, label)
    store_files.write_meta(
        path,
        scans=names,
        channels=[f"c{i}" for i in range(channels)],
        label_names=("background", "RV", "LV"),
        label_values=(0, 1, 5),
        settings={"spacing_mm": 1.0},
    )
    return arrays


def test_what_is_written_is_read(tmp_path):
    arrays = write(tmp_path)
    opened = store.open_store(tmp_path)
    assert [facts.id for facts in opened.scans] == ["s1_a", "s1_b", "s2_a"]
    assert opened.num_classes == 3
    assert opened.label_names == ("background", "RV", "LV")
    assert opened.label_values == (0, 1, 5)
    assert opened.channels == ("c0",)
    assert opened.settings["spacing_mm"] == 1.0
    assert opened.subjects == ("s1", "s2")
    for id, (facts, image, label) in arrays.items():
        i = opened.index_of(id)
        assert opened.scans[i] == facts
        assert isinstance(opened.image(i), np.memmap)
        np.testing.assert_array_equal(opened.image(i), image)
        if label is None:
            assert opened.label(i) is None
        else:
            np.testing.assert_array_equal(opened.label(i), label)


def test_memory_maps_cannot_be_written(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        store.open_store(tmp_path).image(0)[0] = 0


def test_slice_table_names_every_slice(tmp_path):
    write(tmp_path)
    table = store.open_store(tmp_path).slices
    np.testing.assert_array_equal(table.scan, [0] * 4 + [1] * 3 + [2] * 5)
    np.testing.assert_array_equal(table.slice_index, [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4])
    np.testing.assert_allclose(table.position[4:7], [1 / 3, 2 / 3, 1])
    np.testing.assert_array_equal(table.subject, [0] * 7 + [1] * 5)
    np.testing.assert_array_equal(table.labelled, [True] * 4 + [False] * 3 + [True] * 5)


def test_stack_centres_every_slice_in_the_largest_shape(tmp_path):
    arrays = write(tmp_path, channels=2)
    opened = store.open_store(tmp_path)
    whole = opened.stack()
    assert whole.image.shape == (12, 2, 14, 12)  # rows are y
    assert sum(array.nbytes for array in whole) == opened.nbytes_resident
    start = 0
    for facts, image, label in arrays.values():
        rows = slice(start, start + facts.slices)
        height, width = facts.prepared_shape
        box = (slice((14 - height) // 2, (14 + height) // 2), slice((12 - width) // 2, (12 + width) // 2))
        np.testing.assert_array_equal(whole.image[(rows, slice(None), *box)], image)
        assert (whole.inside[rows].sum(axis=(1, 2)) == height * width).all()
        assert whole.inside[(rows, *box)].all()
        assert (whole.image[rows].sum() == image.sum()) or np.isclose(whole.image[rows].sum(), image.sum(), atol=0.1)
        assert whole.has_label[rows].all() == (label is not None)
        if label is not None:
            np.testing.assert_array_equal(whole.label[(rows, *box)], label)
            assert whole.label[rows].sum() == label.sum()
        start += facts.slices


def test_stack_of_some_scans_at_a_given_shape(tmp_path):
    arrays = write(tmp_path)
    part = store.open_store(tmp_path).stack(scans=[2, 0], shape=(6, 16))
    assert part.image.shape == (9, 1, 6, 16)
    np.testing.assert_array_equal(part.image[:5, :, :, 2:-2], arrays["s2_a"][1][:, :, 3:9])
    np.testing.assert_array_equal(part.image[5:, :, :, 2:-2], arrays["s1_a"][1][:, :, 2:8])
    assert not part.inside[..., :2].any()


def test_padding_by_the_field_of_view_is_not_inside(tmp_path):
    settings = Settings(spacing_mm=1.0, field_of_view_mm=16.0)
    write(tmp_path, settings=settings)
    whole = store.open_store(tmp_path).stack()
    assert whole.image.shape[2:] == (16, 16)
    assert (whole.inside[:4].sum(axis=(1, 2)) == 120).all()


def test_facts_survive_json(tmp_path):
    write(tmp_path)
    facts = store_files.read_facts(tmp_path, "s1_a")
    assert facts is not None
    assert isinstance(facts.field, FieldOfView)
    assert isinstance(facts.slice_shape, tuple)
    assert (
        json.loads((tmp_path / "s1_a.json").read_text(encoding="utf-8"))["intensity"][0]["mean"]
        == facts.intensity[0].mean
    )


def test_slices_are_the_prepared_ones(tmp_path):
    settings = Settings(spacing_mm=1.0, slice_spacing_mm=2.0)
    write(tmp_path, settings=settings)
    opened = store.open_store(tmp_path)
    assert [facts.slices for facts in opened.scans] == [10, 8, 12]
    assert [facts.canonical_slices for facts in opened.scans] == [4, 3, 5]
    assert np.bincount(opened.slices.scan).tolist() == [10, 8, 12]
    assert opened.slices.position[9] == 1
    assert opened.stack().image.shape[0] == 30
    assert opened.image(0).shape[0] == opened.label(0).shape[0] == 10


def test_facts_of_before_are_read(tmp_path):
    facts, _, _ = write(tmp_path)["s1_a"]
    named = set(json.loads((tmp_path / "s1_a.json").read_text(encoding="utf-8")))
    assert named == {
        "id", "subject", "images", "label", "labelled", "slices", "canonical_shape", "canonical_spacing_mm",
        "slice_axis", "slice_shape", "resampled_shape", "field", "prepared_spacing_mm", "intensity", "extent_mm",
        "image_digest", "label_digest", "source", "fingerprint",
    }  # fmt: skip
    assert store_files.read_facts(tmp_path, "s1_a") == facts


def test_a_rewritten_scan_is_read_anew(tmp_path):
    arrays = write(tmp_path)
    opened = store.open_store(tmp_path)
    before = np.array(opened.image(0))
    facts, image, _ = arrays["s1_a"]
    time.sleep(0.01)
    store_files.write_scan(tmp_path, dataclasses.replace(facts, label=None, labelled=False), -image)
    again = store.open_store(tmp_path)
    np.testing.assert_array_equal(again.image(0), -before)
    assert again.label(0) is None
    assert not (tmp_path / "s1_a.label.npy").exists()


def test_a_write_that_dies_leaves_no_facts(tmp_path, monkeypatch):
    arrays = write(tmp_path)
    facts, image, label = arrays["s1_a"]

    def dies(*_):
        raise OSError("disk full")

    monkeypatch.setattr(store.np, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        store_files.write_scan(tmp_path, facts, image, label)
    assert store_files.read_facts(tmp_path, "s1_a") is None
    with pytest.raises(UsageError, match=r"s1_a\.json does not exist"):
        store.open_store(tmp_path)


def test_an_unfinished_store_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished preparation"):
        store.open_store(tmp_path / "prepared")


def test_a_store_of_another_version_is_refused(tmp_path):
    write(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(UsageError, match="version 99"):
        store.open_store(tmp_path)


def test_an_unknown_scan_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UsageError, match="scan 'nobody' is not in"):
        store.open_store(tmp_path).index_of("nobody")


def test_the_list_of_known_scans_ends_in_dots_only_where_it_is_cut(tmp_path):
    def allowed(scans):
        with pytest.raises(UsageError) as caught:
            dataclasses.replace(opened, scans=scans).index_of("nobody")
        return caught.value.allowed

    write(tmp_path)
    opened = store.open_store(tmp_path)
    assert allowed(opened.scans) == "3 scans: s1_a, s1_b, s2_a"
    assert allowed((*opened.scans, dataclasses.replace(opened.scans[0], id="s2_b"))) == "4 scans: s1_a, s1_b, s2_a, ..."


@pytest.mark.parametrize("id", ["meta", "keypoints", "a.label", "a.keypoints", "a/b", "../../a", "a\n"])
def test_an_id_that_clashes_with_the_stores_own_files_is_refused(tmp_path, id):
    facts = facts_of(id, "a", (4, 4, 2), labelled=False)
    with pytest.raises(UsageError, match="scan id"):
        store_files.write_scan(tmp_path, facts, np.zeros((2, 1, 4, 4), np.float16))


def found(*counts):
    total = sum(counts)
    return ScanKeypoints(
        np.array(counts, np.int32),
        (np.arange(2 * total, dtype=np.int16) % 4).reshape(total, 2),
        np.arange(128 * total, dtype=np.int64).astype(np.uint8).reshape(total, 128),
    )


def finish(path, **extra):
    meta = store_files.read_meta(path)
    assert meta is not None
    facts = meta.model_dump(exclude={"version"})
    store_files.write_meta(path, **facts | extra)


def test_keypoints_that_are_written_are_read(tmp_path):
    write(tmp_path)
    written = {"s1_a": found(3, 0, 2, 1), "s1_b": found(0, 0, 0), "s2_a": found(1, 1, 1, 1, 1)}
    for id, one in written.items():
        store_files.write_keypoints(tmp_path, id, one, f"of {id}")
    finish(tmp_path, keypoints={"detector": "sift", "most": 256})
    opened = store.open_store(tmp_path)
    assert opened.keypoint_settings == {"detector": "sift", "most": 256}
    for i, (id, one) in enumerate(written.items()):
        read = opened.keypoints(i)
        for there, here in zip(read, one, strict=True):
            np.testing.assert_array_equal(there, here)
            assert there.dtype == here.dtype
        assert store_files.keypoint_fingerprint(tmp_path, opened.scans[i]) == f"of {id}"
    assert not list(tmp_path.glob(".*"))


def test_keypoints_are_forgotten_with_their_scan(tmp_path):
    arrays = write(tmp_path)
    store_files.write_keypoints(tmp_path, "s1_a", found(3, 0, 2, 1), "x")
    store_files.write_scan(tmp_path, *arrays["s1_a"])
    assert store_files.keypoint_fingerprint(tmp_path, arrays["s1_a"][0]) is None


def test_a_damaged_file_of_keypoints_counts_as_none(tmp_path):
    for content in (b"", b"PK half a file", b"\x93NUMPY"):
        (tmp_path / "a.keypoints.npz").write_bytes(content)
        assert store_files.keypoint_fingerprint(tmp_path, facts_of("a", "a", (4, 4, 2), labelled=False)) is None


@pytest.mark.parametrize("old", [True, False])
def test_a_store_without_keypoints_opens_and_says_so(tmp_path, old):
    write(tmp_path)
    if old:  # written before there were keypoints
        meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
        del meta["keypoints"]
        (tmp_path / "meta.json").write_text(json.dumps(meta))
    opened = store.open_store(tmp_path)
    assert opened.keypoint_settings is None
    with pytest.raises(UsageError, match="no keypoints in") as caught:
        opened.keypoints(0)
    assert caught.value.next == f"lemis prepare {tmp_path.parent} keypoints.detector=sift"


def test_the_digest_is_of_the_image_and_nothing_else(tmp_path):
    write(tmp_path)
    opened = store.open_store(tmp_path)
    digests = [opened.digest(facts.id) for facts in opened.scans]
    assert len(set(digests)) == 3
    image = np.array(opened.image(0))
    twin = dataclasses.replace(opened.scans[0], id="twin", subject="s9", labelled=False, label=None)
    store_files.write_scan(tmp_path, twin, image)
    again = dataclasses.replace(opened, scans=(*opened.scans, twin))
    assert again.digest("twin") == digests[0]
    image[0, 0, 0, 0] += 1
    store_files.write_scan(tmp_path, twin, image)
    assert dataclasses.replace(again).digest("twin") != digests[0]
    with pytest.raises(UsageError, match="scan 'nobody' is not in"):
        opened.digest("nobody")
