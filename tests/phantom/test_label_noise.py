"""Labels made worse on purpose: each kind of fault by hand, the same call the same labels, and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from lemis import phantom
from lemis.datasets import split
from lemis.datasets.recognition import recognise
from lemis.errors import UsageError
from lemis.formats import labels
from lemis.phantom import label_noise
from lemis.phantom.label_noise import Kind, disturb

KINDS: tuple[Kind, ...] = get_args(Kind)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def two() -> NDArray[np.integer]:
    """A square of 1 with a square of 2 in it, and one of 3 by itself."""
    label = np.zeros((30, 30), np.uint8)
    label[4:16, 4:16] = 1
    label[8:12, 8:12] = 2
    label[20:26, 20:26] = 3
    return label


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_nothing_is_nothing_and_an_empty_slice_stays_empty(kind: Kind) -> None:
    assert np.array_equal(disturb(two(), (1, 1), kind, 0, 2, rng()), two())
    empty = np.zeros((8, 9), np.uint8)
    assert np.array_equal(disturb(empty, (1, 1), kind, 1, 2, rng()), empty)


@pytest.mark.parametrize("kind", KINDS)
def test_values_stay_those_that_there_were(kind: Kind) -> None:
    found = disturb(two(), (1, 1), kind, 1, 2, rng())
    assert not np.array_equal(found, two())
    assert set(np.unique(found)) <= {0, 1, 2, 3}


def test_missing_is_background() -> None:
    assert not disturb(two(), (1, 1), "missing", 1, 2, rng()).any()
    kept = []
    for seed in range(200):
        half = disturb(two(), (1, 1), "missing", 0.3, 2, np.random.default_rng(seed))
        kept.append(set(np.unique(half).tolist()) - {0})
        assert all(np.array_equal(half == value, two() == value) for value in kept[-1])
    assert {frozenset(values) for values in kept} >= {frozenset({1}), frozenset({2, 3}), frozenset({1, 2, 3})}
    assert sum(map(len, kept)) / 600 == pytest.approx(0.7, abs=0.06)


def test_swapped_structures_are_those_of_the_slice() -> None:
    found, right = disturb(two(), (1, 1), "swap", 1, 2, rng()), two()
    assert np.array_equal(found == 0, right == 0)
    assert not (found == right)[right > 0].any()
    alone = np.where(right == 3, 3, 0)
    assert np.array_equal(disturb(alone, (1, 1), "swap", 1, 2, rng()), alone), "there is no other"


def test_outlines_are_off_by_the_distance_in_mm() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = 1
    smaller = disturb(label, (1.0, 2.0), "erode", 1, 4, rng())
    assert np.argwhere(smaller).min(0).tolist() == [14, 12]
    assert np.argwhere(smaller).max(0).tolist() == [25, 27]
    larger = disturb(label, (1.0, 2.0), "dilate", 1, 4, rng())
    assert np.argwhere(larger).min(0).tolist() == [6, 8]
    assert larger[10:30, 10:30].all()
    assert not larger[6, 8], "as far as the crow flies"


def test_a_structure_grows_over_background_alone() -> None:
    found, right = disturb(two(), (1, 1), "dilate", 1, 3, rng()), two()
    assert np.array_equal(found[right > 0], right[right > 0])


def test_what_is_warped_is_off_by_about_the_distance() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[60:140, 60:140] = 1
    found = disturb(label, (1, 1), "warp", 1, 3, rng())
    wrong = (found != label).sum() / (4 * 80)  # pixels of outline
    assert 1 < wrong < 5
    assert 0.8 < found.sum() / label.sum() < 1.25


# ------------------------------------------------------------------------------------------------------- data sets


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    return phantom.write_dataset(tmp_path / "scans", subjects=3, labelled=2, shape=(32, 32, 6))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_copy_has_other_labels_where_they_are_not_to_stay_and_the_data_set_is_left_alone(
    scans: Path, tmp_path: Path
) -> None:
    before = contents(scans)
    right = labels.read(scans / "labelsTr" / "heart_002.nii.gz")
    off = {"share": 1.0, "distance_mm": 1.2 * right.spacing_mm[0]}  # a pixel, of pixels of several mm
    made = label_noise.write(scans, tmp_path / "noisy", kind="erode", clean=["heart_001"], **off)
    assert contents(scans) == before
    after = contents(made)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == ["labelsTr/heart_002.nii.gz"]
    wrong = labels.read(made / "labelsTr" / "heart_002.nii.gz")
    assert np.allclose(right.affine, wrong.affine)
    assert (wrong.array > 0).sum() < (right.array > 0).sum()


def test_the_subjects_that_a_fold_tests_keep_their_labels(tmp_path: Path) -> None:
    scans = phantom.write_dataset(tmp_path / "scans", subjects=5, shape=(32, 32, 6))
    before = contents(scans)
    made = contents(label_noise.write(scans, tmp_path / "noisy", kind="missing", share=1, fold=0, split="pcl"))
    tested = split.choose(recognise(scans).index.scans, fold=0, scheme="pcl").test_subjects
    assert len(tested) == 1
    assert {name for name in before if before[name] != made[name]} == {
        f"labelsTr/heart_00{number}.nii.gz" for number in range(1, 6) if f"heart_00{number}" not in tested
    }


def test_the_same_call_gives_the_same_labels_and_another_seed_others(scans: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"kind": "warp", "share": 0.5}
    first, again = (label_noise.write(scans, tmp_path / name, **how) for name in ("first", "again"))
    other = label_noise.write(scans, tmp_path / "other", **how, seed=1)
    assert contents(first) == contents(again) != contents(other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "smear"}, "kind='smear'"),
        ({"share": 1.5}, "share=1.5"),
        ({"share": float("nan")}, "share=nan"),
        ({"distance_mm": 0}, "distance_mm=0"),
        ({"clean": ["heart_009"]}, "clean: heart_009"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        label_noise.write(scans, tmp_path / "noisy", **{"kind": "erode", "share": 0.2, **given})
    assert not (tmp_path / "noisy").exists()


def test_never_in_place(scans: Path, tmp_path: Path) -> None:
    for output in (scans, scans / "noisy"):
        with pytest.raises(UsageError, match="is there" if output == scans else "for the data set"):
            label_noise.write(scans, output, kind="erode", share=0.2)
