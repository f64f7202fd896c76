"""prepare: from an index to a store, again and again, and what it says when a scan cannot be prepared."""

import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from rich.console import Console
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from lemis import terminal
from lemis.cli import app
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_digest
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.preparation import pool, preprocess, store, store_files
from lemis.preparation.settings import Settings, settle_slice_axis, slice_axis_of
from lemis.preparation.slices import slices_first
from lemis.verbs.prepare import LOCK, prepare
from scans_on_disk import write_part
from scans_to_prepare import VALUES, stamps, write_scan
from way_back import from_classes, restore


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


def test_scans_and_labels_are_known_again_by_their_content(work):
    """What a run writes down of the scans it is trained on: no name, no header, no type."""
    opened = prepare(work, jobs=1)
    for facts in opened.scans:
        image = volume.read(work.parent / "scans" / facts.images[0]).array
        assert facts.image_digest == image_digest([image[::-1].astype(np.float32)])
    label = volume.read(work.parent / "scans" / "s1_a_label.nii.gz").array
    assert [facts.label_digest for facts in opened.scans] == [
        image_digest([label]),
        image_digest([volume.read(work.parent / "scans" / "s1_b_label.nii.gz").array]),
        "",
    ]


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


def test_pictures_are_said_to_have_pixels_and_no_millimetres(tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)).save(tmp_path / "a.png")
    row = Scan(id="a", subject="a", images=("a.png",), shape=(16, 12, 1), spacing_mm=(1.0, 1.0, 1.0), slice_axis=2)
    index = Index(root=str(tmp_path), layout="flat", channels=("grey",), labels={"background": 0, "x": 1}, scans=(row,))
    index_file.save(index, tmp_path / "work/index.json")
    prepare(tmp_path / "work", settings=Settings(spacing_mm=1.0))
    said = " ".join(capsys.readouterr().err.split())
    assert "prepared 1 of 1 scan, 0 labelled, 1 subject: 1 slice up to 12 x 16 pixels" in said
    assert "1 of the pictures' pixels, 1 structure," in said


def test_what_is_stored_is_the_scan_in_canonical_order(work):
    opened = prepare(work)
    index = index_file.load(work / "index.json")
    scan = volume.read(index_file.locate(index, index.scans[0].images[0])).array.astype(float)
    expected = slices_first((scan - scan.mean()) / scan.std(), 2)[:, None]
    np.testing.assert_allclose(opened.image(0), expected, atol=2e-3)
    label = volume.read(index_file.locate(index, index.scans[0].label)).array
    classes = opened.label(0)
    assert classes is not None
    np.testing.assert_array_equal(from_classes(restore(classes, opened.scans[0]), VALUES), label)


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


@pytest.mark.slow
def test_processes_give_the_same_bits(work):
    one = [np.array(prepare(work, jobs=1).image(i)) for i in range(3)]
    for path in (work / "prepared").iterdir():
        path.unlink()
    opened = prepare(work, jobs=2)
    for i, image in enumerate(one):
        np.testing.assert_array_equal(opened.image(i), image)


def test_threads_change_no_bit(tmp_path):
    scan = write_scan(tmp_path, "s1", shape=(300, 280, 6))  # products as large as are shared among threads
    labels = {"background": 0, "MYO": 1, "LV": 5}
    index = Index(root=str(tmp_path), layout="flat", channels=("MR",), labels=labels, scans=(scan,))
    images = []
    for threads in (1, 2):
        index_file.save(index, tmp_path / f"work{threads}/index.json")
        with threadpool_limits(threads):
            images.append(prepare(tmp_path / f"work{threads}", settings=Settings(spacing_mm=1.1), jobs=1).image(0))
    np.testing.assert_array_equal(*images)


def test_auto_field_of_view_keeps_every_structure(work):
    whole = prepare(work)
    counts = [int((whole.label(i) > 0).sum()) for i in range(2)]
    opened = prepare(work, settings=Settings(field_of_view_mm="auto"))
    assert opened.settings["field_of_view_mm"] == 24.0
    assert all(facts.prepared_shape == (16, 16) for facts in opened.scans)
    assert [int((opened.label(i) > 0).sum()) for i in range(2)] == counts


def test_auto_field_of_view_is_measured_on_the_scan_where_a_label_covers_a_part_of_it(work):
    index = relabelled(work, (0, 16), (1, 17))
    scans = work.parent / "scans"
    write_part(volume.read(scans / "s2_a_label.nii.gz"), {"MYO": 1}, scans / "s2_a.seg.nrrd")
    asked = prepare(work, index=index, settings=AUTO)
    shutil.rmtree(work / "prepared")
    *others, last = index.scans
    rows = (*others, dataclasses.replace(last, label="s2_a.seg.nrrd"))
    part = prepare(work, index=dataclasses.replace(index, scans=rows), settings=AUTO)
    assert part.settings == asked.settings
    for number in range(len(rows)):
        np.testing.assert_array_equal(part.label(number), asked.label(number))


def test_auto_field_of_view_does_not_read_the_labels_again(work, monkeypatch, capsys):
    prepare(work, settings=Settings(field_of_view_mm="auto"))
    monkeypatch.setattr(volume, "read", lambda path: pytest.fail(f"read {path}"))
    prepare(work, settings=Settings(field_of_view_mm="auto"))
    assert "nothing to do" in capsys.readouterr().err


AUTO = Settings(field_of_view_mm="auto")


def relabelled(work, *pixels):
    """The index where the scan without a label has one with these pixels."""
    scans = work.parent / "scans"
    image = volume.read_header(scans / "s2_a_0000.nii.gz")
    label = np.zeros((14, 18, 4), np.uint8)
    for x, y in pixels:
        label[x, y, 2] = 1
    volume.write_volume(label, image.affine, scans / "s2_a_label.nii.gz")
    index = index_file.load(work / "index.json")
    rows = [dataclasses.replace(scan, label=f"{scan.id}_label.nii.gz") for scan in index.scans]
    return dataclasses.replace(index, scans=tuple(rows))


def test_one_more_label_keeps_the_field_of_view_and_what_was_prepared(work, capsys):
    opened = prepare(work, settings=AUTO)
    images = {one.id: opened.digest(one.id) for one in opened.scans}
    capsys.readouterr()
    more = prepare(work, index=relabelled(work, (8, 7)), settings=AUTO)
    assert more.settings == opened.settings
    assert {one.id: more.digest(one.id) for one in more.scans} == images
    said = capsys.readouterr().err
    assert "prepared 1 of 3 scans, 3 labelled" in said
    assert "field of view" not in said


def test_a_label_far_out_widens_the_field_of_view_for_all_and_is_not_cut(work, capsys):
    narrow = prepare(work, settings=AUTO).settings["field_of_view_mm"]
    capsys.readouterr()
    opened = prepare(work, index=relabelled(work, (0, 0), (13, 17)), settings=AUTO)
    assert opened.settings["field_of_view_mm"] > narrow
    assert (opened.label(2) > 0).any(axis=(1, 2)).sum() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"field of view: widened from {narrow:g} mm to" in said
    assert "(s2_a)" in said
    assert "prepared 3 of 3 scans" in said


def test_a_preparation_that_is_interrupted_keeps_the_field_of_view_too(work, monkeypatch):
    """As one that is not: what the field was before is not forgotten with the finished store."""
    kept = prepare(work, index=relabelled(work, (0, 0)), settings=AUTO).settings["field_of_view_mm"]
    corrected = relabelled(work, (8, 7))  # for which a narrower one would do
    monkeypatch.setattr("lemis.preparation.pool.run", stopped := Stopped(pool.run))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(work, index=corrected, settings=AUTO)
        assert not (work / "prepared" / "meta.json").exists()
    assert stopped.asked == ["measured", "prepared"] * 2
    monkeypatch.undo()
    assert prepare(work, index=corrected, settings=AUTO).settings["field_of_view_mm"] == kept == 48.0
    assert not (work / "prepared" / "meta.json.before").exists()
    fresh = work.parent / "fresh"
    assert prepare(fresh, index=corrected, settings=AUTO).settings["field_of_view_mm"] == 24.0


class Stopped:
    """Processes that are interrupted as soon as scans are to be prepared."""

    def __init__(self, run):
        self.run, self.asked = run, []

    def __call__(self, task, items, jobs, console, done, **more):
        self.asked.append(done)
        if done == "prepared":
            raise KeyboardInterrupt
        return self.run(task, items, jobs, console, done, **more)


def test_whole_volumes_have_one_size(work, capsys):
    opened = prepare(work, settings=Settings(whole_px=(6, 12, 10), clip_values=(100, 900)))
    assert all(opened.image(i).shape == (6, 1, 12, 10) for i in range(3))
    assert opened.label(0).shape == (6, 12, 10)
    assert opened.settings["spacing_mm"] is None
    assert opened.settings["whole_px"] == [6, 12, 10]
    assert opened.scans[0].intensity[0].low == 100
    assert "18 slices in volumes of 6 x 12 x 10 voxels" in " ".join(capsys.readouterr().err.split())
    prepare(work, settings=Settings(whole_px=(6, 12, 10), clip_values=(100, 900)))
    assert "nothing to do" in capsys.readouterr().err


def test_slices_are_resampled_where_asked(work, capsys):
    opened = prepare(work, settings=Settings(slice_spacing_mm=4.0, spacing_mm=1.5))
    assert [facts.slices for facts in opened.scans] == [8, 10, 8]
    said = " ".join(capsys.readouterr().err.split())
    assert "26 slices in volumes up to 10 x 18 x 14 voxels, slices 4 mm apart, pixels at 1.5 mm" in said


def test_settings_that_contradict_each_other_are_refused(work):
    result = CliRunner().invoke(app, ["prepare", str(work), "whole_px=[6,12,10]", "spacing_mm=2.0"])
    assert isinstance(result.exception, UsageError)
    assert "whole_px=[6,12,10] and spacing_mm=2.0" in result.exception.given
    assert not list((work / "prepared").glob("*.npy"))


def test_settings_that_change_nothing_keep_the_store(work, capsys):
    opened = prepare(work)
    before, source = stamps(work), opened.scans[0].source
    settings = {
        "spacing_mm": 1.5, "field_of_view_mm": None, "normalise": "zscore", "clip_percentiles": None,
        "image_order": 3, "label_interpolation": "linear", "antialias": False,
    }  # fmt: skip
    told = json.dumps([2, source, settings, [0, 1, 5], ["MR"]], sort_keys=True)  # of version 2
    assert opened.scans[0].fingerprint == hashlib.sha256(told.encode()).hexdigest()[:16]
    assert opened.settings == settings
    capsys.readouterr()
    prepare(work, settings=Settings(slice_spacing_mm=None, whole_px=None, clip_values=None))
    assert stamps(work) == before
    assert "nothing to do" in capsys.readouterr().err


def test_ignored_values_are_background(work):
    named = {"background": 0, "MYO": 1}
    opened = prepare(work, index=edited(work, labels=named, ignored=(5,)))
    assert opened.label_values == (0, 1)
    assert (opened.label(0) == 1).sum() == 3 * (4 * 5 - 2 * 2)


def test_the_field_of_view_need_not_hold_ignored_values(work):
    auto = Settings(field_of_view_mm="auto")
    both = prepare(work, settings=auto).scans[0].extent_mm
    inner = edited(work, labels={"background": 0, "LV": 5}, ignored=(1,))
    opened = prepare(work, index=inner, settings=auto)
    assert opened.scans[0].extent_mm < both
    assert (opened.label(0) == 1).sum() == 3 * 2 * 2


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
    assert store_files.read_facts(work / "prepared", "s1_a") is not None


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


def test_one_slice_axis_for_all_where_it_is_asked_for(work):
    index = index_file.load(work / "index.json")
    thin = dataclasses.replace(index.scans[2], slice_axis=0)  # as of a scan whose slices are thinner than its pixels
    index_file.save(dataclasses.replace(index, scans=(*index.scans[:2], thin)), work / "index.json")
    own = prepare(work)
    assert [scan.slice_axis for scan in own.scans] == [2, 2, 0]
    assert "slice_axis" not in own.settings
    common = prepare(work, settings=Settings(slice_axis="common"))
    assert [scan.slice_axis for scan in common.scans] == [2, 2, 2]
    assert common.settings["slice_axis"] == 2
    assert common.image(2).shape[0] == 4
    coronal = prepare(work, settings=Settings(slice_axis=1))
    assert [scan.slices for scan in coronal.scans] == [18, 16, 18]
    assert slice_axis_of(Settings(slice_axis=1), 2) == 1
    assert slice_axis_of(Settings(), 2) == 2
    assert settle_slice_axis(Settings(slice_axis="common"), [0, 1, 1, 0]).slice_axis == 1


def test_two_commands_prepare_one_after_the_other(work, monkeypatch):
    folder = work / "prepared"
    folder.mkdir()
    other = FileLock(folder / LOCK)
    other.acquire()

    class Waiting(Console):
        def print(self, *said, **more):
            if "waiting for it" in str(said):
                assert not (folder / "meta.json").exists()
                other.release()  # the other one has ended

    monkeypatch.setattr(terminal, "console", lambda **_: Waiting(quiet=True))
    prepare(work, jobs=1)
    assert not other.is_locked
    assert len(store.open_store(folder).scans) == 3
    other.acquire(timeout=0)  # it was let go of
    other.release()
