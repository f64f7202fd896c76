"""Examples of a report: which slices or planes are shown, how they are turned, and what is drawn over them."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lemis.datasets import index as indexing
from lemis.formats import volume
from lemis.reporting.examples import choose_place, is_volumetric
from lemis.reporting.figures import outlines
from lemis.reporting.work_facts import Slice
from lemis.reporting.work_folder import read_work
from lemis.verbs.evaluate import evaluate
from lemis.verbs.report import report
from pages import check_accessible
from report_folders import label_map, make_index, make_run
from scans_on_disk import write_part

VOLUME = (24, 30, 20)
VOLUME_MM = (1.0, 1.5, 2.0)


def volume_work(folder: Path, *, seen: NDArray[np.float32] | None = None, other: int | None = None) -> Path:
    """One scan that is worth looking at from three sides; its prediction is the reference, one voxel to the right.

    ``other``: a value in the reference that fills more of it than the structure does.
    """
    data, work, affine = folder / "data", folder / "work", np.diag([*VOLUME_MM, 1.0])
    reference = np.zeros(VOLUME, np.uint8)
    reference[6:16, 10:20, 4:8] = 1
    predicted = np.roll(reference, 1, axis=0)
    if other is not None:
        reference[20:, :, 12:] = other
    image = np.random.default_rng(0).normal(0, 1, VOLUME).astype(np.float32) if seen is None else seen
    volume.write_volume(image, affine, data / "a_img.nii.gz")
    volume.write_volume(reference, affine, data / "a.nii.gz")
    volume.write_volume(predicted, affine, work / "predictions" / "a.nii.gz")
    scan = indexing.Scan(
        id="a", subject="a", images=("a_img.nii.gz",), label="a.nii.gz", shape=VOLUME, spacing_mm=VOLUME_MM
    )
    index = indexing.Index(
        root=str(data),
        layout="flat",
        channels=("CT",),
        labels={"background": 0, "organ": 1},
        scans=(scan,),
        ignored=() if other is None else (other,),
    )
    indexing.save(index, work / "index.json")
    evaluate(work)
    return work


def planes_of(work: Path) -> list[Slice]:
    (example,) = read_work(work).examples
    return list(example.slices)


def grey_of(picture: bytes) -> NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(float)


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted"),
    [
        ((35, 51, 35), (1, 1, 1), True),
        ((512, 512, 120), (0.7, 0.7, 2.0), True),
        ((512, 512, 120), (0.7, 0.7, 5.0), False),
        ((216, 256, 9), (1.5, 1.5, 10), False),
        ((256, 256, 15), (1, 1, 1), False),
        ((600, 400, 1), (1, 1, 1), False),
    ],
)
def test_which_scans_are_volumes(shape: tuple[int, ...], spacing: tuple[float, ...], wanted: bool):
    assert is_volumetric(shape, spacing) is wanted


def test_a_volume_is_shown_from_three_sides_in_one_scale(tmp_path: Path):
    work = volume_work(tmp_path)
    shown = planes_of(work)
    assert [plane.caption for plane in shown] == [
        "axial, slice 5 of 20",
        "coronal, slice 11 of 30",
        "sagittal, slice 7 of 24",
    ]
    width, depth, height = (size * mm for size, mm in zip(VOLUME, VOLUME_MM, strict=True))
    assert [plane.width_mm for plane in shown] == pytest.approx([width, width, depth])
    pixels = [grey_of(plane.picture).shape for plane in shown]  # rows, columns
    wanted = [(depth, width), (height, width), (height, depth)]
    per_mm = np.array(pixels) / np.array(wanted)
    assert per_mm == pytest.approx(np.full((3, 2), per_mm[0, 0]), rel=0.01)
    text = report(work).read_text(encoding="utf-8")
    assert "grid-template-columns: minmax(0, 24fr) minmax(0, 24fr) minmax(0, 45fr)" in text
    assert "Three orthogonal planes" in text
    assert "Shown are the slice with most of the structures" not in text
    check_accessible(text)


@pytest.mark.parametrize(
    ("axis", "bright"),
    [  # which half of the axial, coronal and sagittal picture a bright right, front or head is in
        (0, ("left", "left", None)),
        (1, ("top", None, "left")),
        (2, (None, "top", "top")),
    ],
)
def test_planes_are_turned_as_radiologists_look(tmp_path: Path, axis: int, bright: tuple[str | None, ...]):
    seen = np.zeros(VOLUME, np.float32)
    far = [slice(None)] * 3
    far[axis] = slice(VOLUME[axis] // 2, None)
    seen[tuple(far)] = 1
    for plane, half in zip(planes_of(volume_work(tmp_path, seen=seen)), bright, strict=True):
        grey = grey_of(plane.picture)
        rows, columns = (size // 2 for size in grey.shape)
        left, top = grey[:, :columns].mean() - grey[:, columns:].mean(), grey[:rows].mean() - grey[rows:].mean()
        assert (left > 100) == (half == "left")
        assert (top > 100) == (half == "top")


@pytest.mark.slow
def test_a_stack_is_shown_in_slices_and_from_three_sides_where_the_network_was(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map(1)})
    facts = {"runs": ["flat"], "labelled_subjects": ["x"]}
    (work / "predictions" / "predictions.json").write_text(json.dumps({"version": 1, "scans": {"a": facts}}))
    make_run(work, "flat", "finetune", labelled_subjects=["x"], patch_px=None)
    evaluate(work)
    assert {picture.caption[:5] for picture in planes_of(work)} == {"slice"}
    assert "grid-template-columns" not in report(work).read_text(encoding="utf-8").split("<body>")[1]
    shutil.rmtree(work / "runs" / "flat")
    make_run(work, "flat", "finetune", labelled_subjects=["x"], patch_px=[4, 16, 16])
    assert [picture.caption.split(",")[0] for picture in planes_of(work)] == ["axial", "coronal", "sagittal"]


def test_values_that_count_as_background_draw_nothing(tmp_path: Path):
    plain_work, other = volume_work(tmp_path / "plain"), volume_work(tmp_path / "other", other=9)
    assert planes_of(plain_work) == planes_of(other)
    index = indexing.load(other / "index.json")
    indexing.save(dataclasses.replace(index, ignored=()), other / "index.json")
    assert planes_of(plain_work) != planes_of(other)


def test_a_reference_that_3d_slicer_cut_and_numbered_is_drawn_where_it_lies(tmp_path: Path):
    plain_work, other = volume_work(tmp_path / "plain"), volume_work(tmp_path / "other")
    reference = volume.read(tmp_path / "other" / "data" / "a.nii.gz")
    renumbered = dataclasses.replace(reference, array=reference.array * 7)
    write_part(renumbered, {"Organ": 7}, tmp_path / "other" / "data" / "a.seg.nrrd")
    index = indexing.load(other / "index.json")
    (scan,) = index.scans
    cut = dataclasses.replace(scan, label="a.seg.nrrd")
    indexing.save(dataclasses.replace(index, scans=(cut,)), other / "index.json")
    assert planes_of(plain_work) == planes_of(other)


def test_the_place_is_the_fullest_and_the_worst():
    reference, predicted = np.zeros((2, 9, 10, 11), dtype=int)
    assert choose_place(reference, predicted) == (4, 5, 5)
    reference[2:5, 3, 4] = predicted[2:5, 3, 4] = 1
    assert choose_place(reference, predicted) == (2, 3, 4)
    predicted[4, 3, 4] = 0
    assert choose_place(reference, predicted) == (4, 3, 4)


def test_crossing_planes_are_marked_where_they_are():
    plane, nothing = np.zeros((20, 40)), np.zeros((20, 40), dtype=int)
    drawn = outlines.overlay(plane, nothing, nothing, {"a": 1}, (2.0, 1.0), crossing_mm=(30.0, 10.0))
    bright = grey_of(drawn) > 60
    row, column = (int(np.argmax(bright.sum(axis=axis))) for axis in (1, 0))
    assert row / bright.shape[0] == pytest.approx(30 / 40, abs=0.01)
    assert column / bright.shape[1] == pytest.approx(10 / 40, abs=0.01)
    assert bright.sum() <= 4 * sum(bright.shape)


def test_letters_tell_the_sides():
    plane, nothing = np.zeros((30, 30)), np.zeros((30, 30), dtype=int)
    grey = grey_of(outlines.overlay(plane, nothing, nothing, {"a": 1}, (1, 1), sides=("R", "A")))
    rows, columns = np.nonzero(grey > 200)
    size = grey.shape[0]
    left, top = columns < size / 8, rows < size / 8
    assert left.any()
    assert top.any()
    assert (left | top).all()


def test_pictures_of_one_scan_have_one_window():
    dark, bright = np.linspace(0, 1, 50).reshape(5, 10), np.linspace(0, 4, 50).reshape(5, 10)
    assert outlines.window(dark).max() == 1
    assert outlines.window(dark, like=np.concatenate([dark, bright])).max() < 0.3
