"""One frame for a data set: what lies nearly parallel is stored parallel, whatever its headers call its axes."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation
from scipy.spatial.transform import Rotation

from lemis.datasets import frame
from lemis.datasets.frame import Frame, Stack, StoredFrame
from lemis.datasets.index import Index, Scan
from lemis.errors import UsageError
from lemis.formats import directions
from lemis.formats.directions import as_axes, as_matrix
from lemis.records import parse
from lemis.settings import plain

ANATOMY = np.arange(3 * 4 * 5).reshape(3, 4, 5)  # slices run across its last axis
TURNS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
seeds = st.integers(0, 2**32 - 1)


def small_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    return Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()


def stored_anyhow(rng: np.random.Generator, worlds: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The anatomy lying along each of ``worlds``, stored in a random order of axes: arrays and their directions."""
    turns = [TURNS[rng.integers(48)] for _ in worlds]
    return [
        (apply_orientation(ANATOMY, directions.orientation(turn)), world @ turn)
        for world, turn in zip(worlds, turns, strict=True)
    ]


def index_of(scans: list[tuple[np.ndarray, np.ndarray]], thick: float = 8.0, layout: str = "flat") -> Index:
    """An index as readers hand it over, in RAS+ order; the axis of five slices has voxels ``thick`` mm long."""
    rows = []
    for number, (array, own) in enumerate(scans):
        turn = directions.to_body(own)
        canonical = apply_orientation(array, directions.orientation(turn))
        axis = canonical.shape.index(5)
        spacing = tuple(thick if size == 5 else 1.0 for size in canonical.shape)
        rows.append(
            Scan(
                id=f"s{number:03d}", subject=f"s{number:03d}", images=(f"s{number:03d}.nii",), shape=canonical.shape,
                spacing_mm=spacing, slice_axis=axis if thick > 1 else 2, axes=as_axes(own @ turn),
            )
        )  # fmt: skip
    return Index(root="/scans", layout=layout, channels=("image",), labels={"background": 0}, scans=tuple(rows))


def as_stored(scans: list[tuple[np.ndarray, np.ndarray]], index: Index) -> list[np.ndarray]:
    """The arrays in the order of the index."""
    found = []
    for (array, own), scan in zip(scans, index.scans, strict=True):
        turn = directions.turn_to(own, as_matrix(scan.axes))
        found.append(apply_orientation(array, directions.orientation(turn)))
        assert found[-1].shape == scan.shape
        assert scan.spacing_mm[scan.slice_axis] == max(scan.spacing_mm)
    return found


# ---------------------------------------------------------------- directions


@given(seed=seeds)
def test_a_turn_is_the_nearest_of_all_48(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, to = (Rotation.random(random_state=rng).as_matrix() @ TURNS[rng.integers(48)] for _ in range(2))
    best = max(float(np.sum((own @ turn) * to)) for turn in TURNS)
    assert np.sum((own @ directions.turn_to(own, to)) * to) == pytest.approx(best)


@given(seed=seeds, tilt=st.floats(0, 40), roll=st.floats(0, 360))
@example(seed=0, tilt=40.0, roll=45.0)
def test_slices_keep_their_order_whatever_their_rotation_in_plane(seed: int, tilt: float, roll: float) -> None:
    rng = np.random.default_rng(seed)
    to = Rotation.random(random_state=rng).as_matrix()
    towards = rng.uniform(0, 2 * np.pi)
    tilted = Rotation.from_rotvec(np.radians(tilt) * np.array([np.cos(towards), np.sin(towards), 0])).as_matrix()
    own = to @ tilted @ Rotation.from_euler("z", roll, degrees=True).as_matrix()
    turn = TURNS[rng.integers(48)]
    stored = (own @ turn) @ directions.turn_to(own @ turn, to)
    np.testing.assert_allclose(stored[:, 2], own[:, 2])


@given(seed=seeds)
def test_orientations_are_those_of_nibabel_and_come_back(seed: int) -> None:
    turn = TURNS[np.random.default_rng(seed).integers(48)]
    np.testing.assert_array_equal(directions.from_orientation(directions.orientation(turn)), turn)
    array = apply_orientation(ANATOMY, directions.orientation(turn))
    moved = np.abs(turn).argmax(axis=0)
    assert array.shape == tuple(ANATOMY.shape[axis] for axis in moved)
    assert directions.degrees_between(np.eye(3) @ turn, np.eye(3)) == pytest.approx(0, abs=1e-5)


def test_axes_are_plain_numbers_without_a_negative_zero() -> None:
    axes = as_axes(np.diag([-1.0, -1.0, 1.0]))
    assert axes == ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
    assert "-0.0" not in repr(axes)
    np.testing.assert_array_equal(as_matrix(axes), np.diag([-1.0, -1.0, 1.0]))


def test_a_sheared_grid_has_the_directions_nearest_to_its_own() -> None:
    affine = np.array([[0.5, 0, 0, 1], [0, 0.5, 0.7, 2], [0, 0, 2.0, 3], [0, 0, 0, 1.0]])
    found = directions.of_affine(affine)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-12)
    assert directions.degrees_between(found, np.eye(3)) < 15


# ---------------------------------------------------------------- nearly parallel scans


@given(seed=seeds, scans=st.integers(2, 20), degrees=st.floats(0, 8), thick=st.sampled_from([1.0, 8.0]))
@settings(deadline=None)
def test_what_lies_nearly_parallel_is_stored_parallel(seed: int, scans: int, degrees: float, thick: float) -> None:
    rng = np.random.default_rng(seed)
    base = Rotation.random(random_state=rng).as_matrix()
    stored = stored_anyhow(rng, [base @ small_rotation(rng, degrees) for _ in range(scans)])
    index = frame.settle(index_of(stored, thick))
    arrays = as_stored(stored, index)
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])
    assert len({scan.slice_axis for scan in index.scans}) == 1
    assert frame.not_parallel(index) == ()
    assert index.frame is not None
    assert max(directions.degrees_between(as_matrix(scan.axes), as_matrix(index.frame)) for scan in index.scans) < 30


def psr_and_lsp(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Short-axis stacks a few degrees to either side of halfway between left and posterior, all stored alike."""
    base = np.array([[-1.0, -1, 0], [0, 0, np.sqrt(2)], [1, -1, 0]]).T / np.sqrt(2)
    turned = [Rotation.from_euler("z", sign * (3 + one), degrees=True).as_matrix() @ base
              for one in range(number) for sign in (1, -1)]  # fmt: skip
    return [(ANATOMY, world) for world in turned]


def test_stacks_called_psr_and_lsp_run_the_same_way() -> None:
    from nibabel import aff2axcodes

    stored = psr_and_lsp(8)
    affine = np.eye(4)
    codes = []
    for _, own in stored:
        affine[:3, :3] = own
        codes.append("".join(aff2axcodes(affine)))
    assert set(codes) == {"PSR", "LSP"}
    before = index_of(stored)
    flipped = as_stored(stored, before)
    assert {array.shape for array in flipped} == {(5, 3, 4), (3, 5, 4)}  # on its own, each goes another way
    assert len(frame.not_parallel(before)) == len(stored)
    after = frame.settle(before)
    arrays = as_stored(stored, after)
    assert all(np.array_equal(array, arrays[0]) for array in arrays)
    assert frame.not_parallel(after) == ()
    (stack,) = frame.stacks(after.scans)
    assert (stack.scans, stack.within_degrees) == (16, 20.0)
    assert sum(map(frame.is_turned, after.scans)) == 8


@given(seed=seeds, degrees=st.floats(0, 10))
@settings(deadline=None)
def test_plain_scans_are_stored_as_the_body_axes_have_them(seed: int, degrees: float) -> None:
    """Axial, coronal and sagittal ones together, up to ten degrees about each axis: nothing is new for them."""
    rng = np.random.default_rng(seed)
    kinds = TURNS[:: rng.integers(1, 9)]
    worlds = [small_rotation(rng, degrees) @ kinds[rng.integers(len(kinds))] for _ in range(rng.integers(1, 20))]
    before = index_of(stored_anyhow(rng, worlds))
    after = frame.settle(before)
    assert after.scans == before.scans
    assert not any(map(frame.is_turned, after.scans))
    assert after.frame is not None
    assert directions.degrees_between(as_matrix(after.frame), np.eye(3)) <= 20


@given(seed=seeds, scans=st.integers(2, 25), spread=st.sampled_from([6.0, 20.0, 60.0, 180.0]))
@settings(deadline=None)
def test_the_frame_does_not_depend_on_the_order_of_files_or_axes(seed: int, scans: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    worlds = [small_rotation(rng, spread) for _ in range(scans)]
    one = index_of(stored_anyhow(rng, worlds))
    other = index_of(stored_anyhow(rng, worlds))
    shuffled = dataclasses.replace(other, scans=tuple(other.scans[place] for place in rng.permutation(scans)))
    assert frame.settle(one).frame == frame.settle(shuffled).frame
    assert {scan.id: scan for scan in frame.settle(shuffled).scans} == {
        scan.id: scan for scan in frame.settle(one).scans
    }


@pytest.mark.slow
@given(seed=seeds)
@settings(deadline=None)
def test_oblique_and_axial_scans_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    oblique = [world @ small_rotation(rng, 6) for _, world in psr_and_lsp(6)]
    axial = [small_rotation(rng, 10) for _ in range(15)]
    stored = stored_anyhow(rng, oblique + axial)
    index = frame.settle(index_of(stored))
    assert frame.not_parallel(index) == ()
    arrays = as_stored(stored, index)
    assert all(np.array_equal(array, arrays[0]) for array in arrays[:12])
    assert all(np.array_equal(array, ANATOMY) for array in arrays[12:])  # as RAS+ has them
    assert sorted(stack.scans for stack in frame.stacks(index.scans)) == [12, 15]


@pytest.mark.slow
@given(seed=seeds, tilt=st.floats(0, 12))
@settings(deadline=None)
def test_stacks_turned_in_plane_by_any_angle_run_the_same_way(seed: int, tilt: float) -> None:
    rng = np.random.default_rng(seed)
    base = Rotation.random(random_state=rng).as_matrix()
    rolled = [Rotation.from_euler("z", rng.uniform(0, 360), degrees=True).as_matrix() for _ in range(30)]
    tilted = [Rotation.from_euler("xy", rng.uniform(-tilt, tilt, 2), degrees=True).as_matrix() for _ in range(30)]
    worlds = [base @ one @ other for one, other in zip(tilted, rolled, strict=True)]
    index = frame.settle(index_of(stored_anyhow(rng, worlds)))
    normals = np.array([scan.axes[scan.slice_axis] for scan in index.scans])
    assert len({scan.slice_axis for scan in index.scans}) == 1
    assert (normals @ normals.T).min() > 0


def test_axial_slices_turned_in_plane_by_any_angle_stay_as_they_were() -> None:
    rng = np.random.default_rng(3)
    worlds = [Rotation.from_euler("z", rng.uniform(0, 360), degrees=True).as_matrix() for _ in range(60)]
    before = index_of(stored_anyhow(rng, worlds))
    assert frame.settle(before).scans == before.scans
    assert frame.not_parallel(before)


def test_two_odd_scans_do_not_move_a_plain_data_set() -> None:
    rng = np.random.default_rng(1)
    worlds = [small_rotation(rng, 4) for _ in range(40)]
    odd = [Rotation.from_euler("x", angle, degrees=True).as_matrix() for angle in (44, 46)]
    stored = stored_anyhow(rng, worlds + odd)
    before = index_of(stored)
    after = frame.settle(before)
    assert after.scans[:40] == before.scans[:40]
    assert frame.not_parallel(after) == ()
    arrays = as_stored(stored, after)
    np.testing.assert_array_equal(arrays[40], arrays[41])


# ---------------------------------------------------------------- other frames


@given(seed=seeds)
@settings(deadline=None)
def test_a_new_scan_follows_the_frame_of_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trained = frame.settle(index_of(psr_and_lsp(5)))
    worlds = [world @ small_rotation(rng, 5) for _, world in psr_and_lsp(3)]
    stored = stored_anyhow(rng, worlds)
    new = frame.follow(frame.settle(index_of(stored)), trained.frame)
    expected = as_stored(psr_and_lsp(5), trained)[0]
    assert all(np.array_equal(array, expected) for array in as_stored(stored, new))
    assert new.frame == trained.frame
    back = frame.follow(new, None)
    assert back.frame is None
    assert back.scans == index_of(stored).scans


def test_an_index_of_before_has_no_frame() -> None:
    before = index_of(psr_and_lsp(1))
    old = dataclasses.replace(before, scans=tuple(dataclasses.replace(scan, axes=()) for scan in before.scans))
    assert frame.settle(old) == old
    assert frame.follow(old, None) == old
    assert frame.of_index(old) is None
    assert frame.not_parallel(old) == ()
    assert not any(map(frame.is_turned, old.scans))


def test_an_index_of_before_is_not_brought_into_a_frame() -> None:
    before = index_of(psr_and_lsp(1))
    old = dataclasses.replace(before, scans=tuple(dataclasses.replace(scan, axes=()) for scan in before.scans))
    with pytest.raises(UsageError, match="does not say how s000 lies") as caught:
        frame.follow(old, as_axes(np.eye(3)))
    assert caught.value.next == "lemis check /scans -o WORK"


def test_the_direction_of_a_stack_has_no_need_of_a_sense() -> None:
    """An index that somebody edited may hold opposite ones, whose mean is nothing."""
    scan = index_of([(ANATOMY, np.eye(3))]).scans[0]
    (stack,) = frame.stacks([scan, dataclasses.replace(scan, axes=as_axes(-np.eye(3)))])
    assert np.abs(stack.direction).tolist() == [0, 0, 1]
    assert (stack.scans, stack.within_degrees) == (2, 0)


def test_views_have_their_names_as_long_as_they_are_near() -> None:
    assert [frame.view(axis) for axis in np.eye(3)] == ["sagittal", "coronal", "axial"]
    for degrees, name in ((29, "axial"), (31, "oblique"), (59, "oblique"), (61, "sagittal"), (151, "axial")):
        angle = np.radians(degrees)
        assert frame.view((np.sin(angle), 0.0, np.cos(angle))) == name


def test_scans_that_could_not_be_read_are_left_as_they_are() -> None:
    index = index_of(psr_and_lsp(3))
    lost = Scan(id="lost", subject="lost", images=("lost.nii",))
    settled = frame.settle(dataclasses.replace(index, scans=(lost, *index.scans)))
    assert settled.scans[0] == lost
    assert settled.scans[1:] == frame.settle(index).scans


def test_the_axis_that_a_layout_decides_on_stays() -> None:
    """Whole-heart CT is read across axis 2, however thin its slices."""
    index = index_of(stored_anyhow(np.random.default_rng(0), [np.eye(3)[:, [2, 0, 1]]]), layout="mmwhs")
    index = dataclasses.replace(index, scans=(dataclasses.replace(index.scans[0], slice_axis=2),))
    assert frame.settle(index).scans[0].slice_axis == 2


def test_frames_differ_where_they_store_scans_otherwise() -> None:
    turned = [Rotation.from_euler("z", angle, degrees=True).as_matrix() for angle in (10, 30)]
    near, far = (as_axes(one) for one in turned)
    assert not frame.differ(None, as_axes(np.eye(3)))
    assert not frame.differ(near, None)
    assert frame.differ(far, None)
    assert frame.differ(near, as_axes(turned[0][:, [1, 2, 0]]))


def test_a_frame_comes_back_from_json_and_another_is_refused() -> None:
    found = frame.of_index(frame.settle(index_of(psr_and_lsp(2))))
    assert found is not None
    assert parse(json.dumps(plain(found)), StoredFrame, where="meta.json", next="") == found
    tilted = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    for wrong in (
        7,
        {},
        {"axes": tilted, "stacks": []},
        {"axes": [[1.0, 0.0, 0.0]], "stacks": []},
        {"axes": [[float("nan")] * 3] * 3, "stacks": []},
        {"axes": None, "stacks": [{"axis": 2}]},
    ):
        with pytest.raises(UsageError, match=r"model.json: "):
            parse(json.dumps(wrong), StoredFrame, where="model.json", next="")


def test_how_strange_a_scan_is() -> None:
    stack = Stack(axis=2, scans=9, direction=(0.0, 0.0, 1.0), within_degrees=40.0)
    trained = Frame(
        axes=None, stacks=(stack, dataclasses.replace(stack, direction=(0.0, 1.0, 0.0), within_degrees=2.0))
    )
    scan = index_of([(ANATOMY, np.eye(3))]).scans[0]

    def seen(angle: float) -> tuple[float, Stack] | None:
        turned = Rotation.from_euler("y", angle, degrees=True).as_matrix()
        return frame.strangeness(dataclasses.replace(scan, axes=as_axes(turned)), trained)

    assert seen(39) is None
    found = seen(41)
    assert found is not None
    assert found[0] == pytest.approx(41)
    assert found[1] is stack
    only = Frame(axes=None, stacks=trained.stacks[1:])
    assert frame.strangeness(scan, only) == (pytest.approx(90), only.stacks[0])
