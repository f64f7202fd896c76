"""prepare with keypoints: found once for each scan, and anew where images or settings change."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from lemis.cli import app
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.preparation import keypoints as detection
from lemis.preparation import store
from lemis.preparation.settings import Settings
from lemis.verbs.prepare import prepare
from scans_to_prepare import stamps, write_scan

SIFT = detection.Settings(most=20)


@pytest.fixture
def blobs(tmp_path):
    """Two scans with something to find, of 40 x 36 pixels, three slices; the last slice is constant."""
    scans = tmp_path / "scans"
    scans.mkdir()
    rows = []
    for seed, id in enumerate(("s1", "s2")):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(36, 40, 3)), (2, 2, 0))
        noise[..., 2] = 0
        volume.write_volume((noise * 5000).astype(np.int16), np.diag([1.0, 1.0, 8.0, 1.0]), scans / f"{id}.nii.gz")
        row = write_scan(scans, id, shape=(36, 40, 3), spacing_mm=(1.0, 1.0, 8.0), labelled=False)
        rows.append(dataclasses.replace(row, images=(f"{id}.nii.gz",)))
    index = Index(root=str(scans), layout="flat", channels=("MR",), labels={"background": 0}, scans=tuple(rows))
    index_file.save(index, tmp_path / "work/index.json")
    return tmp_path / "work"


def points(opened):
    return [[array.tolist() for array in opened.keypoints(i)] for i in range(len(opened.scans))]


def images_of(work):
    return {name: stamp for name, stamp in stamps(work).items() if name.endswith((".npy", "s1.json", "s2.json"))}


def test_keypoints_are_those_of_the_prepared_slices(blobs, capsys):
    opened = prepare(blobs, keypoints=SIFT)
    assert opened.keypoint_settings == {"detector": "sift", "most": 20}
    for i in range(2):
        found = opened.keypoints(i)
        assert found.count[0] > 3
        assert found.count[2] == 0
        expected = detection.find(np.array(opened.image(i)[0]), SIFT)
        np.testing.assert_array_equal(found.place[: found.count[0]], expected.place)
        np.testing.assert_array_equal(found.descriptor[: found.count[0]], expected.descriptor)
    said = " ".join(capsys.readouterr().err.split())
    median = np.median(np.concatenate([opened.keypoints(i).count for i in range(2)]))
    assert "found keypoints (sift, 20 at most) in 2 of 2 scans" in said
    assert f"{median:g} per slice in the median, none in 2 of 6 slices" in said


def test_keypoints_are_added_without_touching_the_images(blobs, capsys):
    plain = prepare(blobs)
    assert plain.keypoint_settings is None
    before = images_of(blobs)
    opened = prepare(blobs, keypoints=SIFT)
    assert images_of(blobs) == before
    assert opened.settings == plain.settings
    after = stamps(blobs)
    capsys.readouterr()
    prepare(blobs, keypoints=SIFT)
    assert prepare(blobs).keypoint_settings == opened.keypoint_settings
    assert stamps(blobs) | {"keypoints.json": 0} == after | {"keypoints.json": 0}
    assert capsys.readouterr().err.count("nothing to do: 2 scans") == 2


def test_keypoints_of_other_images_are_found_anew_with_the_same_settings(blobs):
    before = points(prepare(blobs, keypoints=SIFT))
    opened = prepare(blobs, settings=Settings(spacing_mm=0.8))
    assert opened.keypoint_settings == {"detector": "sift", "most": 20}
    assert all(here != there for here, there in zip(points(opened), before, strict=True))
    np.testing.assert_array_equal(opened.keypoints(0).place, detection.find_all(opened.image(0), SIFT).place)


def test_other_keypoint_settings_replace_the_keypoints(blobs):
    before = prepare(blobs, keypoints=SIFT)
    images, many = images_of(blobs), points(before)
    opened = prepare(blobs, keypoints=detection.Settings(most=2))
    assert opened.keypoint_settings == {"detector": "sift", "most": 2}
    assert images_of(blobs) == images
    assert opened.keypoints(0).count.tolist() == [2, 2, 0]
    assert opened.keypoints(0).place[:2].tolist() == many[0][1][:2]


def test_only_the_missing_keypoints_are_found(blobs, capsys):
    prepare(blobs, keypoints=SIFT)
    before = stamps(blobs)
    (blobs / "prepared/s2.keypoints.npz").unlink()
    capsys.readouterr()
    prepare(blobs)
    after = stamps(blobs)
    assert {name for name in before if after[name] != before[name]} == {"s2.keypoints.npz", "meta.json"}
    assert "in 1 of 2 scans" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["the same", "plain"])
def test_an_interrupted_search_is_taken_up_again(blobs, monkeypatch, command):
    prepare(blobs, keypoints=detection.Settings(most=2))
    whole = detection.find_all

    def dies(images, settings, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(images, settings)

    with monkeypatch.context() as patch:
        patch.setattr(detection, "find_all", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(blobs, keypoints=SIFT, jobs=1)
    # The images are whole, and half of the old keypoints are replaced: there are none until all are.
    assert store.open_store(blobs / "prepared").keypoint_settings is None
    first = stamps(blobs)["s1.keypoints.npz"]
    opened = prepare(blobs, keypoints=SIFT if command == "the same" else None)
    assert opened.keypoint_settings == {"detector": "sift", "most": 20}
    assert stamps(blobs)["s1.keypoints.npz"] == first
    np.testing.assert_array_equal(opened.keypoints(1).place, whole(opened.image(1), SIFT).place)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Detectors of somebody else: SIFT with the number of OpenCV's threads as descriptor, and a wrong one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "prepare_lab.py").write_text(
        "import cv2\nimport numpy as np\n\nfrom lemis.preparation.keypoints import load_detector\n\n\n"
        "def detect(image):\n"
        "    place, response, _ = load_detector('sift')(image)\n"
        "    return place, response, np.full((len(place), 1), cv2.getNumThreads())\n"
        "\n\ndef wrong(image):\n    return [[0, 0]], [1, 2], [[1]]\n"
    )
    return "prepare_lab"


@pytest.mark.slow
def test_processes_find_the_same_and_do_not_multiply_threads(blobs, lab):
    one = points(prepare(blobs, keypoints=SIFT, jobs=1))
    opened = prepare(blobs, keypoints=dataclasses.replace(SIFT, detector=f"{lab}.detect"), jobs=2)
    assert [scan[:2] for scan in points(opened)] == [scan[:2] for scan in one]
    assert all((opened.keypoints(i).descriptor == 1).all() for i in range(2))


def test_the_command_line_and_a_settings_file_ask_for_keypoints(blobs):
    file = blobs / "mine.yaml"
    file.write_text("prepare: {spacing_mm: 1.25, keypoints: {most: 5}}")
    assert CliRunner().invoke(app, ["prepare", str(blobs), "--settings", str(file)]).exit_code == 0
    assert store.open_store(blobs / "prepared").keypoint_settings == {"detector": "sift", "most": 5}
    words = ["prepare", str(blobs), "--settings", str(file), "keypoints.most=3", "keypoints.detector=sift"]
    assert CliRunner().invoke(app, words).exit_code == 0
    opened = store.open_store(blobs / "prepared")
    assert opened.settings["spacing_mm"] == 1.25
    assert opened.keypoint_settings == {"detector": "sift", "most": 3}


def test_a_wrong_detector_is_refused(blobs, lab):
    with pytest.raises(UsageError, match="detector 'surf'"):
        prepare(blobs, keypoints=detection.Settings(detector="surf"))
    assert not (blobs / "prepared").exists()
    with pytest.raises(UsageError, match=rf"detector {lab}\.wrong returns arrays of shapes"):
        prepare(blobs, keypoints=detection.Settings(detector=f"{lab}.wrong"))
    assert prepare(blobs, keypoints=SIFT).keypoint_settings == {"detector": "sift", "most": 20}
