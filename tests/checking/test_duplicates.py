"""The same scan under two names is found whatever was done to it, and two scans are never taken for one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from how_many import examples
from lemis.checking import check, duplicates
from lemis.checking.faults import Fault
from lemis.datasets.recognition import recognise

Array = np.ndarray
AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


def body(seed: int, shape: tuple[int, int, int] = (52, 44, 10)) -> Array:
    """Smooth tissue with some noise, on dark ground: int16 from 0 to about 1000."""
    random = np.random.default_rng(seed)
    tissue = gaussian_filter(random.standard_normal(shape), (4, 4, 1 if shape[2] > 1 else 0))
    places = np.indices(shape[:2]) / np.array(shape[:2])[:, None, None] - 0.5
    inside = (np.hypot(*places) < 0.45)[..., None]
    values = (600 + 2000 * tissue + 10 * random.standard_normal(shape)) * inside + 5 * random.random(shape)
    return np.clip(values, 0, None).astype(np.int16)


def touched(scan: Array, value: float) -> Array:
    changed = scan.copy()
    changed[tuple(size // 2 for size in scan.shape)] = value
    return changed


def noisy(scan: Array) -> Array:
    return scan + np.random.default_rng(9).normal(0, 1e-3 * np.ptp(scan), scan.shape)


EXACT: dict[str, tuple[Callable[[Array], Array], str]] = {
    "mirrored": (lambda a: a[::-1], ""),
    "mirrored twice": (lambda a: a[:, ::-1, ::-1] * 3, r"mirrored along axes 1 and 2, values times 3"),
    "twice": (lambda a: a * 2, "values times 2"),
    "plus 1": (lambda a: a + 1, "values times 1 plus 1"),
    "from 0 to 1": (lambda a: (a - a.min()) / np.float32(np.ptp(a)), r"values times 0\.00"),
    "inverted": (lambda a: 4000 - a, "values times -1 plus 4000"),
    "another slope": (lambda a: (np.rint(a / 0.37) * 0.37).astype(np.float32), ""),
    "256 grey values": (lambda a: np.rint((a - a.min()) / np.ptp(a) * 255).astype(np.uint8), "values times 0"),
    "another type": (lambda a: a.astype(np.float64) + 0.25, ""),
    "turned": (lambda a: np.rot90(a) * 2, "axes swapped"),
    "padded by 0": (lambda a: np.pad(a, 7), r"padded or cropped from \(52, 44, 10\) to \(66, 58, 24\)"),
    "padded on one side": (lambda a: np.pad(a + 5, ((0, 9), (0, 0), (0, 0))), "padded or cropped"),
    "without the first slice": (lambda a: a[:, :, 1:], r"to \(52, 44, 9\)"),
    "without the last slice": (lambda a: a[:, :, :-1], r"to \(52, 44, 9\)"),
    "without a column": (lambda a: a[1:] * 2, "padded or cropped"),
}
NEAR: dict[str, Callable[[Array], Array]] = {
    "noise": noisy,
    "one voxel": lambda a: touched(a, a.max()),
    "one voxel, far off": lambda a: touched(a, 30000),
}


def write(folder: Path, **scans: Array) -> Path:
    for name, voxels in scans.items():
        folder.mkdir(parents=True, exist_ok=True)
        array = voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), AFFINE), folder / f"{name}.nii.gz")
    return folder


def twins(folder: Path) -> list[Fault]:
    found = check.examine(recognise(folder).index, jobs=1).faults
    return [fault for fault in found if "voxels" in fault.kind]


@pytest.mark.parametrize("change", EXACT)
def test_a_changed_copy_under_another_subject_is_an_error(tmp_path: Path, change: str) -> None:
    make, said = EXACT[change]
    scans = {f"p{number}": body(number) for number in range(3)}
    (fault,) = twins(write(tmp_path, **scans, x=make(scans["p1"])))
    assert (fault.severity, fault.scan, fault.kind) == ("error", "x", "same voxels twice")
    assert "has the same voxels as p1 (p1.nii.gz)" in fault.seen
    assert "of another subject, p1: a leak" in fault.seen
    assert re.search(said, fault.seen)


@pytest.mark.parametrize("change", NEAR)
def test_a_copy_that_was_touched_is_a_warning(tmp_path: Path, change: str) -> None:
    (fault,) = twins(write(tmp_path, a=body(1), b=NEAR[change](body(1)), c=body(2)))
    assert (fault.severity, fault.scan, fault.kind) == ("warning", "b", "almost the same voxels")
    assert fault.seen.startswith("has almost the same voxels as a (a.nii.gz)")


def test_many_copies_are_each_told_once(tmp_path: Path) -> None:
    copies = {f"p{number}": body(1) * (number + 1) for number in range(6)}
    found = twins(write(tmp_path, **copies, other=body(2)))
    assert sorted(fault.scan for fault in found) == ["p1", "p2", "p3", "p4", "p5"]


@pytest.mark.filterwarnings("error")
def test_images_that_are_almost_empty(tmp_path: Path) -> None:
    specks = {f"p{number}": np.zeros((80, 80, 1), np.uint8) for number in range(4)}
    for number, image in enumerate(specks.values()):
        image[10 + number : 14 + number, 20 + 3 * number] = 200 - number
    assert not twins(write(tmp_path, **specks))


def test_of_one_subject_it_is_a_warning(tmp_path: Path) -> None:
    (fault,) = twins(write(tmp_path, a_ED=body(1), a_ES=body(1) * 2))
    assert (fault.severity, fault.kind) == ("warning", "same voxels twice")
    assert "of the same subject" in fault.seen


@pytest.mark.parametrize("change", ["mirrored", "twice", "padded by 0", "another slope", "turned"])
def test_a_single_slice(tmp_path: Path, change: str) -> None:
    slices = {f"p{number}": body(number, (96, 80, 1)) for number in range(3)}
    make = (lambda a: np.pad(a, ((7, 7), (7, 7), (0, 0)))) if change == "padded by 0" else EXACT[change][0]
    (fault,) = twins(write(tmp_path, **slices, x=make(slices["p1"])))
    assert (fault.severity, fault.scan) == ("error", "x")


def test_moments_of_one_person_and_neighbouring_slices_are_other_scans(tmp_path: Path) -> None:
    rest = body(1).astype(float)
    beating = rest.copy()
    beating[20:30, 18:28] = 0.6 * beating[20:30, 18:28] + 0.4 * np.roll(beating[20:30, 18:28], 2, axis=0)
    beating += np.random.default_rng(5).normal(0, 12, rest.shape)
    assert not twins(write(tmp_path / "moments", a_ED=rest.astype(np.int16), a_ES=beating.astype(np.int16)))
    tall = gaussian_filter(body(3, (96, 80, 12)).astype(float), (0, 0, 1.5))
    slices = {f"a_slice{z}": tall[:, :, z : z + 1].astype(np.int16) for z in range(12)}
    assert not twins(write(tmp_path / "slices", **slices))


def test_many_scans_of_one_kind_are_not_taken_for_each_other() -> None:
    sketches = {str(seed): duplicates.sketch(body(seed, (30, 26, 6))) for seed in range(120)}
    pairs = duplicates.partners(sketches, {id: id for id in sketches})
    assert len(pairs) <= 12  # looked at, and let go
    assert not [pair for pair in pairs if duplicates.relation(*(body(int(seed), (30, 26, 6)) for seed in pair))]


@examples(60)
@given(
    st.permutations((0, 1, 2)),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.floats(0.1, 50),
    st.floats(-500, 500),
)
def test_relations_are_undone(turned, mirrored, scale: float, offset: float) -> None:
    one = body(4, (30, 26, 8))
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in mirrored)
    found = duplicates.relation(one, one.transpose(turned)[flips] * scale + offset)
    assert found is not None
    assert found.exact
    assert (found.turned, found.mirrored) == (tuple(turned), tuple(axis for axis in range(3) if mirrored[axis]))
    np.testing.assert_allclose((found.scale, found.offset), (scale, offset), rtol=1e-6, atol=1e-6)


@examples(60)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_two_scans_have_no_relation(seed: int, other: int) -> None:
    if seed != other:
        assert duplicates.relation(body(seed, (20, 18, 5)), body(other, (20, 18, 5))) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (3, 3, 3), (40, 1, 1)])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e38])
def test_scans_of_nothing_have_no_sketch(shape: tuple[int, int, int], value: float) -> None:
    array = np.full(shape, value, np.float32)
    assert not any(duplicates.sketch(array))
    both = dict.fromkeys("ab", duplicates.sketch(array))
    assert duplicates.partners(both, {"a": "a", "b": "b"}) == []
    if np.isfinite(value):
        assert duplicates.relation(array, array) is None


def test_what_was_found_once_is_remembered(tmp_path: Path) -> None:
    write(tmp_path / "scans", a=body(1), b=body(1)[::-1], c=body(2))
    index = recognise(tmp_path / "scans").index
    first = check.examine(index, jobs=1)
    again = check.examine(index, jobs=1, known=first.known)
    assert again.faults == first.faults
    assert [one.sketch for one in again.seen] == [one.sketch for one in first.seen]
