"""prepare: from an index to a store, again and again, and what it says when a scan cannot be prepared."""

import dataclasses
import os

import numpy as np
import pytest

from lemis.data import index as index_file
from lemis.data import preprocess, store, volume
from lemis.data.index import Index, Scan
from lemis.data.preprocess import Settings
from lemis.errors import DataFault, UsageError
from lemis.verbs.prepare import prepare

VALUES = (0, 1, 5)


def write_scan(folder, id, shape=(14, 18, 4), spacing_mm=(1.5, 1.5, 8.0), seed=0, labelled=True, channels=1):
    """A scan stored as LPS, its structures in the middle; returns its row of the index."""
    rng = np.random.default_rng(seed)
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    images = []
    for channel in range(channels):
        file = f"{id}_{channel:04d}.nii.gz"
        volume.write_volume(rng.integers(0, 1000, shape).astype(np.int16), affine, folder / file)
        images.append(file)
    label = None
    if labelled:
        label = f"{id}_label.nii.gz"
        array = np.zeros(shape, np.uint8)
        array[5:9, 6:11, 1:] = 1
        array[6:8, 7:9, 1:] = 5
        volume.write_volume(array, affine, folder / label)
    return Scan(
        id=id, subject=id[:2], images=tuple(images), label=label, shape=shape, spacing_mm=spacing_mm,
        slice_axis=2, label_values=VALUES if labelled else (),
    )  # fmt: skip


@pytest.fixture
def work(tmp_path):
    """Three scans of two subjects, one without a label."""
    scans = tmp_path / "scans"
    scans.mkdir()
    rows = (
        write_scan(scans, "s1_a", seed=1),
        write_scan(scans, "s1_b", shape=(16, 16, 5), spacing_mm=(1.2, 1.2, 8.0), seed=2),
        write_scan(scans, "s2_a", seed=3, labelled=False),
    )
    index = Index(
        root=str(scans),
        layout="flat",
        channels=("MR",),
        labels={"background": 0, "MYO": 1, "LV": 5},
        scans=rows,
    )
    index_file.save(index, tmp_path / "work/index.json")
    return tmp_path / "work"


def stamps(work):
    return {path.name: path.stat().st_mtime_ns for path in (work / "prepared").iterdir()}


def test_every_scan_is_prepared(work, capsys):
    opened = prepare(work)
    assert [facts.id for facts in opened.scans] == ["s1_a", "s1_b", "s2_a"]
    assert opened.label_names == ("background", "MYO", "LV")
    assert opened.label_values == VALUES
    assert opened.settings["spacing_mm"] == 1.5
    assert opened.scans[1].resampled_shape == (13, 13)
    assert opened.image(0).shape == (4, 1, 18, 14)
    assert opened.label(2) is None
    assert "prepared 3 of 3 scans, 2 labelled, 2 subjects: 13 slices" in " ".join(capsys.readouterr().err.split())


def test_what_is_stored_is_the_scan_in_canonical_order(work):
    opened = prepare(work)
    index = index_file.load(work / "index.json")
    scan = volume.read(index_file.locate(index, index.scans[0].images[0])).array.astype(float)
    expected = preprocess.slices_first((scan - scan.mean()) / scan.std(), 2)[:, None]
    np.testing.assert_allclose(opened.image(0), expected, atol=2e-3)
    label = volume.read(index_file.locate(index, index.scans[0].label)).array
    classes = opened.label(0)
    assert classes is not None
    np.testing.assert_array_equal(preprocess.from_classes(preprocess.restore(classes, opened.scans[0]), VALUES), label)


def test_the_same_again_is_nothing_to_do(work, capsys):
    prepare(work)
    before = stamps(work)
    capsys.readouterr()
    prepare(work)
    assert stamps(work) == before
    assert "nothing to do: 3 scans" in capsys.readouterr().err


def test_other_settings_are_prepared_anew(work):
    prepare(work)
    before = stamps(work)
    opened = prepare(work, settings=Settings(spacing_mm=2.0))
    assert opened.scans[0].resampled_shape == (14, 10)
    after = stamps(work)
    assert all(after[name] != before[name] for name in before)


def test_only_the_missing_scan_is_prepared(work, capsys):
    prepare(work)
    before = stamps(work)
    (work / "prepared/s1_b.json").unlink()
    capsys.readouterr()
    prepare(work)
    after = stamps(work)
    assert {name for name in before if after[name] != before[name]} == {
        "s1_b.json", "s1_b.npy", "s1_b.label.npy", "meta.json"
    }  # fmt: skip
    assert "prepared 1 of 3 scans" in capsys.readouterr().err


def test_a_corrected_label_is_seen(work):
    prepare(work)
    index = index_file.load(work / "index.json")
    path = index_file.locate(index, index.scans[0].label)
    scan = volume.read(path)
    array = scan.array.copy()
    array[0, 0, 0] = 5
    volume.write_labels(array, scan.source, path)
    os.utime(path, ns=(1, 1))
    classes = prepare(work).label(0)
    assert classes is not None
    assert classes[0, -1, -1] == 2


def test_processes_give_the_same_bits(work):
    one = [np.array(prepare(work, jobs=1).image(i)) for i in range(3)]
    for path in (work / "prepared").iterdir():
        path.unlink()
    opened = prepare(work, jobs=2)
    for i, image in enumerate(one):
        np.testing.assert_array_equal(opened.image(i), image)


def test_auto_field_of_view_keeps_every_structure(work):
    whole = prepare(work)
    counts = [int((whole.label(i) > 0).sum()) for i in range(2)]
    opened = prepare(work, settings=Settings(field_of_view_mm="auto"))
    assert opened.settings["field_of_view_mm"] == 24.0
    assert all(facts.prepared_shape == (16, 16) for facts in opened.scans)
    assert [int((opened.label(i) > 0).sum()) for i in range(2)] == counts


def test_auto_field_of_view_does_not_read_the_labels_again(work, monkeypatch, capsys):
    prepare(work, settings=Settings(field_of_view_mm="auto"))
    monkeypatch.setattr(volume, "read", lambda path: pytest.fail(f"read {path}"))
    prepare(work, settings=Settings(field_of_view_mm="auto"))
    assert "nothing to do" in capsys.readouterr().err


def test_channels_in_several_files_are_stacked(tmp_path):
    row = write_scan(tmp_path, "s1", channels=2)
    labels = {"background": 0, "a": 1, "b": 5}
    index = Index(root=str(tmp_path), layout="flat", channels=("T1", "T2"), labels=labels, scans=(row,))
    image = prepare(tmp_path / "work", index=index).image(0)
    assert image.shape == (4, 2, 18, 14)
    assert not np.array_equal(image[:, 0], image[:, 1])


def test_an_interrupted_preparation_is_not_a_store(work):
    prepare(work)
    index = index_file.load(work / "index.json")
    index_file.locate(index, index.scans[1].images[0]).write_bytes(b"not a scan")
    with pytest.raises(DataFault, match=r"1 of 3 scans[\s\S]*scan s1_b: reading s1_b_0000\.nii\.gz: .*cannot be read"):
        prepare(work)
    with pytest.raises(UsageError, match="no finished preparation"):
        store.open_store(work / "prepared")
    assert store.read_facts(work / "prepared", "s1_a") is not None


def edited(work, **changes):
    index = index_file.load(work / "index.json")
    return dataclasses.replace(index, **changes)


def test_a_label_on_another_grid_is_refused(work):
    index = edited(work)
    wrong = write_scan(work.parent / "scans", "zz", shape=(14, 18, 3))
    scan = dataclasses.replace(index.scans[0], label=wrong.label)
    with pytest.raises(DataFault, match=r"zz_label\.nii\.gz has shape \(14, 18, 3\), s1_a_0000"):
        prepare(work, index=dataclasses.replace(index, scans=(scan,)))


def test_a_label_that_lies_elsewhere_is_refused(work):
    index = edited(work)
    moved = np.diag([-1.5, -1.5, 8.0, 1.0])
    moved[0, 3] = 3.0
    volume.write_volume(np.zeros((14, 18, 4), np.uint8), moved, work.parent / "scans/moved.nii.gz")
    scan = dataclasses.replace(index.scans[0], label="moved.nii.gz")
    with pytest.raises(DataFault, match=r"moved\.nii\.gz and s1_a_0000\.nii\.gz lie 3\.00 mm apart"):
        prepare(work, index=dataclasses.replace(index, scans=(scan,)))


def test_a_scan_with_other_channels_is_refused(work):
    with pytest.raises(DataFault, match="1 channels"):
        prepare(work, index=edited(work, channels=("T1", "T2")))


def test_a_label_value_without_a_name_is_refused(work):
    with pytest.raises(DataFault, match="label values 5 occur"):
        prepare(work, index=edited(work, labels={"background": 0, "MYO": 1}))


def test_too_many_structures_are_refused(work):
    with pytest.raises(UsageError, match="301 structures"):
        prepare(work, index=edited(work, labels={f"n{i}": i for i in range(301)}))


def test_a_file_that_is_gone_is_refused(work):
    (work.parent / "scans/s1_a_0000.nii.gz").unlink()
    with pytest.raises(DataFault, match=r"scan s1_a: .*s1_a_0000\.nii\.gz is gone"):
        prepare(work)


def test_no_index_and_an_empty_one_are_refused(work, tmp_path):
    with pytest.raises(UsageError, match=r"index\.json does not exist"):
        prepare(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="no scan in the index"):
        prepare(work, index=edited(work, scans=()))


def test_a_fault_of_ours_names_scan_and_file(work, monkeypatch):
    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(preprocess, "prepare_image", bug)
    with pytest.raises(ZeroDivisionError) as caught:
        prepare(work, jobs=1)
    assert caught.value.__notes__ == ["while preparing s1_a_0000.nii.gz of scan s1_a"]
