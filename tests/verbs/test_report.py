"""``report`` on small made-up work folders: what is there, what is missing, and nothing else needed."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lemis import cli
from lemis.datasets import index as indexing
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.measure.tables import count
from lemis.plugins import Trust
from lemis.reporting.examples import choose_place, choose_slices, is_volumetric
from lemis.reporting.figures import outlines, plots
from lemis.reporting.figures import similarity as figures
from lemis.reporting.methods_section import methods_paragraph, references
from lemis.reporting.numbers import duration, listed
from lemis.reporting.sentences import sentences
from lemis.reporting.work_facts import Slice
from lemis.reporting.work_folder import read_work
from lemis.settings import plain
from lemis.verbs.evaluate import evaluate
from lemis.verbs.report import report
from pages import parsed
from work_files_made import ENVIRONMENT, META, model, model_of

SHAPE = (20, 18, 6)
SPACING_MM = (1.5, 1.5, 8.0)
# A name that would break a page that does not escape what it shows.
NASTY = r"wall <b>&\"' $\frac$"


def label_map(shift: int = 0, *, without: int | None = None) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3 + shift : 9 + shift, 5:12, 1:5] = 1
    labels[9 + shift : 13 + shift, 5:12, 1:5] = 3
    if without is not None:
        labels[labels == without] = 0
    return labels


def make_index(folder: Path, predicted: dict[str, NDArray[np.uint8]]) -> Path:
    data, work, affine = folder / "Heart data", folder / "work", np.diag([*SPACING_MM, 1.0])
    scans = []
    for number, (scan, labels) in enumerate(predicted.items()):
        image = np.random.default_rng(number).normal(100, 10, SHAPE).astype(np.float32) + 50 * (label_map() > 0)
        volume.write_volume(image, affine, data / f"{scan}_img.nii.gz")
        volume.write_volume(label_map(), affine, data / f"{scan}.nii.gz")
        volume.write_volume(labels, affine, work / "predictions" / f"{scan}.nii.gz")
        scans.append(
            indexing.Scan(
                id=scan,
                subject=scan,
                images=(f"{scan}_img.nii.gz",),
                label=f"{scan}.nii.gz",
                shape=SHAPE,
                spacing_mm=SPACING_MM,
                slice_axis=2,
                label_values=(0, 1, 3),
            )
        )
    labels = {"background": 0, "pool": 1, NASTY: 3}
    index = indexing.Index(root=str(data), layout="flat", channels=("MR",), labels=labels, scans=tuple(scans))
    indexing.save(index, work / "index.json")
    return work


def make_run(work: Path, name: str, verb: str, **more: Any) -> None:
    folder = work / "runs" / name
    folder.mkdir(parents=True)
    status = {"verb": verb, "method": "sal", "state": "done", "step": 100, "steps": 100, "seconds": 754.0}
    (folder / "status.json").write_text(json.dumps({**status, **more.pop("status", {})}))
    (folder / "settings.yaml").write_text(yaml.safe_dump({"schedule": {"learning_rate": 0.1}, "note": "<i>"}))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "model.json").write_text(json.dumps(model(verb, **more)))
    lines: list[dict[str, float]] = []
    for step in range(10, 101, 2):
        line = {
            "step": step,
            "epoch": step // 20,
            "loss": 3 / step,
            "loss/one": 2 / step,
            "loss/two": 1 / step,
        }
        lines.append({**line, "embedding/global/std": 0.1, "embedding/global/cosine": 0.2, "seconds": step})
    lines.append({"step": 100, "held_out/pooled_dice": 0.8, "held_out/pooled_dice/pool": 0.9})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 102, "lo')  # the machine stopped here


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything there is: two runs, three predictions, one with a missed structure, evaluated."""
    predicted = {"good": label_map(), "fair": label_map(1), "bad": label_map(2, without=3)}
    work = make_index(tmp_path_factory.mktemp("report"), predicted)
    make_run(work, "sal", "pretrain", subjects=["good", "fair", "x"], status={"warnings": ["near collapse"]})
    make_run(work, "sal-m1-fold0", "finetune", labelled_subjects=["x"], pretrained="sal")
    facts = {"runs": ["sal-m1-fold0"], "labelled_subjects": ["x"]}
    record = {"version": 1, "scans": dict.fromkeys(predicted, facts), "pretraining_subjects": ["good", "fair", "x"]}
    (work / "predictions" / "predictions.json").write_text(json.dumps(record))
    fault = {
        "severity": "warning",
        "scan": "bad",
        "file": "f",
        "kind": "odd",
        "seen": "<7>",
        "repair": "look",
    }
    (work / "check.json").write_text(json.dumps({"version": 1, "faults": [fault]}))
    (work / "prepared").mkdir()
    (work / "prepared" / "meta.json").write_text(json.dumps(META))
    evaluate(work)
    return work


@pytest.fixture(scope="module")
def text(work: Path) -> str:
    return report(work).read_text(encoding="utf-8")


# ---------------------------------------------------------------- the page


def test_a_pretraining_that_learned_nothing_is_named_wherever_it_is_claimed(work: Path, tmp_path: Path, text: str):
    other = Path(shutil.copytree(work, tmp_path / "work"))
    status = json.loads((other / "runs" / "sal" / "status.json").read_text())
    why = "the contrast loss is 5.9141, what a network that knows nothing has (5.9188)"
    (other / "runs" / "sal" / "status.json").write_text(json.dumps({**status, "learned_nothing": why}))
    head, _, rest = report(other).read_text(encoding="utf-8").partition('<h2 id="done">')
    assert f"Pre-training “sal” learned nothing: at its end {why}." in head
    assert f"sal learned nothing from the images of 3 subjects (100 steps, 13 min): {why}." in rest
    assert "(100 steps) without learning anything, and then fine-tuned" in rest.split('<h2 id="methods">')[-1]
    assert "nothing" not in text.partition('<h2 id="done">')[0]


def test_is_one_file_at_the_usual_place(work: Path, text: str):
    assert text.startswith("<!DOCTYPE html>")
    assert [path.name for path in (work / "report").iterdir()] == ["index.html"]


def test_fetches_nothing_from_anywhere(text: str):
    for tag, attributes in parsed(text).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (
                tag,
                attributes,
            )
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_is_well_formed_and_accessible(text: str):
    reader = parsed(text)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert {str(link)[1:] for link in links} <= set(ids)
    assert reader.tags[0] == ("html", {"lang": "en"})
    for tag, attributes in reader.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")


def test_what_it_shows_is_escaped(text: str):
    assert NASTY not in text
    assert NASTY in parsed(text).said
    assert "<b>&" not in text
    assert "<i>" not in text


def test_says_what_was_done(text: str):
    said = parsed(text).said
    assert "The data: 3 scans of 3 subjects (MR). 3 scans have a reference label" in said
    assert "sal learned from the images of 3 subjects, without labels (100 steps, 13 min)" in said
    assert "from the weights of “sal”, on 1 labelled subject (x) (100 steps, 13 min)" in said
    assert "No scan was segmented by a network that had seen a label of its subject" in said
    assert "The result is transductive" in said
    assert "near collapse" in said
    assert "Not done yet" not in said


def test_headline_is_the_evaluations(work: Path, text: str):
    summary = json.loads((work / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    overall = summary["protocols"]["default"]["overall"]
    said = parsed(text).said
    mean, low = overall["dice"]["mean"], overall["dice"]["low"]
    assert f"Dice, mean over scans {mean:.3f} 95 % confidence interval {low:.3f}–" in said
    assert "Structures missed 1 of 6 in the reference; 0 invented" in said
    assert "Protocol “paper”: mean Dice 0.800" in said
    assert summary["protocols"]["default"]["definitions"]["hd95_mm"] in said


def test_methods_paragraph_holds_only_what_is_proven(text: str):
    said = parsed(text).said
    assert (
        "A segmentation network (unet2d) was pre-trained without labels by sal on the images of 3 "
        "subjects (100 steps) and then fine-tuned on the labelled scans of 1 subject (100 steps), with Lemis "
        "0.1.0 and PyTorch 2.13.0. Slices were resampled in their plane to 1.25 mm"
    ) in said
    assert "The evaluation is transductive" in said
    assert "sal: SAL: " in said  # citation


def test_settings_versions_and_faults_are_there(text: str):
    said = parsed(text).said
    assert "schedule.learning_rate 0.1" in said
    assert "packages.torch 2.13.0" in said
    assert "warning : odd (1)" in said or "warning: odd (1)" in said
    assert "bad <7> look" in said


def test_shows_best_median_and_worst(work: Path, text: str):
    said = parsed(text).said
    places = [said.index(f"{rank}: {scan}") for rank, scan in (("Best", "good"), ("Median", "fair"), ("Worst", "bad"))]
    assert places == sorted(places)
    for example in read_work(work).examples:
        for picture in example.slices:
            assert min(Image.open(io.BytesIO(picture.picture)).size) > 200


def test_same_folder_same_bytes(work: Path, text: str, tmp_path: Path):
    assert report(work, output=tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_only_the_runs_that_were_asked_for(work: Path, tmp_path: Path):
    said = parsed(report(work, runs=["sal"], output=tmp_path / "one.html").read_text(encoding="utf-8")).said
    assert "Pre-training “sal”" in said
    assert "Fine-tuning" not in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spacing_mm": 1.25}, "Slices were resampled in their plane to 1.25 mm; each scan"),
        ({"spacing_mm": "native"}, "Slices were kept at their own spacing; each scan"),
        (
            {"spacing_mm": 1.5, "slice_spacing_mm": 2.0},
            "Slices were resampled in their plane to 1.5 mm and resampled across it to 2 mm; each scan",
        ),
        (
            {"spacing_mm": None, "whole_px": [64, 128, 128], "clip_values": [-200, 250]},
            "Scans were resampled to 64 × 128 × 128 voxels (slices, rows, columns); "
            "intensities were clipped to -200 ... 250; each scan",
        ),
    ],
)
def test_methods_paragraph_says_how_scans_were_prepared(tmp_path: Path, settings: dict[str, Any], words: str):
    work = make_index(tmp_path, {"a": label_map()})
    (work / "prepared").mkdir()
    (work / "prepared" / "meta.json").write_text(json.dumps({**META, "settings": {**settings, "normalise": "zscore"}}))
    assert words in methods_paragraph(read_work(work))


def test_an_extra_loss_is_named_and_cited(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map()})
    make_run(work, "scratch-m1", "finetune", labelled_subjects=["x"], auxiliary="voxel_siamese")
    facts = read_work(work)
    assert "on 1 labelled subject (x), with the extra loss voxel_siamese (" in sentences(facts)[1]
    assert "(100 steps) and with the extra loss voxel_siamese, with Lemis" in methods_paragraph(facts)
    assert [line.split(":")[0] for line in references(facts)] == ["voxel_siamese", "unet2d"]


# ---------------------------------------------------------------- three orthogonal planes

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
    assert "The slice with most of the structures" not in text
    test_is_well_formed_and_accessible(text)


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


# ---------------------------------------------------------------- parts that are missing


def test_an_index_alone(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map()})
    said = parsed(report(work).read_text(encoding="utf-8")).said
    assert "Heart data" in said
    for missing in ("No prepared scans", "No fine-tuned network", "No evaluation"):
        assert missing in said
    assert "lemis prepare WORK" in said
    assert "Result" not in said


def test_an_evaluation_alone(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map(), "b": label_map(1)})
    evaluate(work)
    (work / "index.json").unlink()
    said = parsed(report(work).read_text(encoding="utf-8")).said
    assert "No index of scans" in said
    assert "What training saw is not recorded" in said
    assert "Dice, mean over scans" in said


def test_a_run_that_has_only_begun(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map()})
    make_run(work, "sal", "pretrain", status={"state": "running", "step": 7, "seconds": 3})
    for name in ("model.json", "metrics.jsonl", "environment.json"):
        (work / "runs" / "sal" / name).unlink()
    said = parsed(report(work).read_text(encoding="utf-8")).said
    assert "7 of 100 steps, 3 s). It is not finished (state: running)" in said
    (work / "runs" / "sal" / "status.json").unlink()
    assert "not begun" in parsed(report(work).read_text(encoding="utf-8")).said


def test_an_absent_structure_and_one_subject(tmp_path: Path):
    work = make_index(tmp_path, {"a": label_map(without=3)})
    volume.write_volume(label_map(without=3), np.diag([*SPACING_MM, 1.0]), tmp_path / "Heart data" / "a.nii.gz")
    evaluate(work)
    said = parsed(report(work).read_text(encoding="utf-8")).said
    assert "no confidence interval: one subject only" in said
    assert "Only 1 subject was tested" in said
    assert said.count("Best: a") + said.count("Worst: a") == 1


def test_pictures_have_no_millimetres(tmp_path: Path):
    data, work = tmp_path / "skin", tmp_path / "work"
    (work / "predictions").mkdir(parents=True)
    data.mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 6:30] = 1
    Image.fromarray(colours).save(data / "a_img.png")
    for place in (data, work / "predictions"):
        Image.fromarray(mask).save(place / "a.png")
    scan = indexing.Scan(
        id="a", subject="a", images=("a_img.png",), label="a.png", shape=(40, 30, 1), spacing_mm=(1, 1, 1)
    )
    labels = {"background": 0, "lesion": 1}
    index = indexing.Index(root=str(data), layout="flat", channels=("R", "G", "B"), labels=labels, scans=(scan,))
    indexing.save(index, work / "index.json")
    evaluate(work)
    text = report(work).read_text(encoding="utf-8")
    assert "pictures have no spacing" in parsed(text).said
    assert "HD95, mm" not in text
    assert "slice 1 of 1" in text


def test_refuses_what_is_no_work_folder(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a work folder"):
        report(tmp_path)


def test_refuses_a_run_that_does_not_exist(work: Path):
    with pytest.raises(UsageError, match=r"there is no run 'sal-m1-fold1'[\s\S]*--run sal-m1-fold0$"):
        report(work, runs=["sal-m1-fold1"])


# ---------------------------------------------------------------- self-similarity


@pytest.fixture(scope="module")
def compared(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared scans and two finished pre-training runs, of two networks."""
    import torch

    from lemis.prediction.inference import build_backbone
    from lemis.preparation.store import open_store
    from lemis.runs.run import Run

    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("compared") / "work"))
    store = open_store(work / "prepared")
    for name, method, backbone in (("pcl", "pcl", "unet2d"), ("second <i>", "kaf", "kaf_unet")):
        small = {"base_width": 2, "pairs": 1} if backbone == "kaf_unet" else {"base_width": 2}
        facts = model(
            "pretrain", method=method, backbone=backbone, backbone_settings=small, channels=list(store.channels),
            label_names=list(store.label_names), label_values=list(store.label_values),
            prepared=plain(store.settings), subjects=["a"],
        )  # fmt: skip
        torch.manual_seed(1)
        weights = build_backbone(model_of(facts)).state_dict()
        Run(work / "runs" / name, {}).finish(weights, model_of(facts), verb="pretrain", method=method)
    return work


def test_shows_what_networks_take_for_the_same(compared: Path, tmp_path: Path):
    text = report(compared, similarity="heart_001:2:20,30", output=tmp_path / "page.html").read_text(encoding="utf-8")
    reader = parsed(text)
    assert "row 20, column 30 of slice 2 of 5, scan heart_001" in reader.said
    assert "turned by 60° clockwise and made 1.2 times smaller" in reader.said
    titles = ["scratch fresh unet2d", "pcl unet2d", "scratch fresh kaf_unet", "kaf second <i>, kaf_unet"]
    places = [reader.said.index(title) for title in titles]
    assert places == sorted(places)
    assert len(re.findall(r"best match \d+ px away", reader.said)) == 4
    assert ("a", {"href": "#similarity"}) in reader.tags
    for axis in ("row", "column", "cosine similarity with the query"):
        assert axis in reader.said
    test_is_well_formed_and_accessible(text)
    test_fetches_nothing_from_anywhere(text)


def test_similarity_of_the_runs_that_were_asked_for_twice_the_same(compared: Path, tmp_path: Path):
    pages = [
        report(compared, runs=["pcl"], similarity="heart_001:2:20,30", output=tmp_path / f"{k}.html").read_text(
            encoding="utf-8"
        )
        for k in (1, 2)
    ]
    assert pages[0] == pages[1]
    assert "fresh unet2d" in pages[0]
    assert "kaf_unet" not in pages[0]


def test_refuses_a_query_before_it_writes(compared: Path, tmp_path: Path):
    for text, fault in (("heart_001", "SCAN:SLICE:ROW,COL"), ("heart_001:9:20,30", "slices 1 to 5")):
        with pytest.raises(UsageError, match=fault):
            report(compared, similarity=text, output=tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_without_similarity_torch_is_left_alone(compared: Path, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from lemis.verbs.report import report; "
        "report(Path(sys.argv[1]), output=Path(sys.argv[2])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(compared), str(tmp_path / "page.html")], check=True)
    assert 'id="similarity"' not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_line_names_runs_and_the_query(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    monkeypatch.setattr("lemis.verbs.report.report", lambda work, **words: asked.append((work, words)))
    words = ["report", "work", "--run", "sal", "--run", "pcl", "--similarity", "a:1:2,3", "--device", "cpu"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    wanted = {"runs": ["sal", "pcl"], "similarity": "a:1:2,3", "output": None, "device": "cpu", "trust": Trust()}
    assert asked == [(Path("work"), wanted)]


@pytest.mark.parametrize(("networks", "abreast"), [(1, 1), (2, 2), (6, 6), (7, 4), (13, 5)])
def test_networks_are_wrapped_into_bands(networks: int, abreast: int):
    values = np.linspace(-1, 1, 96).reshape(8, 12)
    maps = [figures.Maps(f"m{k}", "", values, values, (2.0, 3.0), 4.0) for k in range(networks)]
    svg = figures.maps("s", maps, figures.Query((1, 2), (3, 4), 2.0), alt="a")
    assert ET.fromstring(svg).attrib["aria-label"] == "a"
    pictures = [float(x) for x in re.findall(r'<image[^>]* x="([\d.]+)"', svg)]
    assert len(pictures) >= 2 * networks
    assert len(set(pictures[: 2 * networks])) == abreast


def test_colours_are_of_one_scale():
    low, high = (
        figures.maps(
            "s", [figures.Maps("m", "", *[np.full((4, 4), value)] * 2, (0.0, 0.0), 0.0)],
            figures.Query((1, 1), (1, 1), 1.0), alt="a",
        )
        for value in (0.0, 0.9)
    )  # fmt: skip
    white, red = (embedded(svg)[0] for svg in (low, high))
    assert white.min() > 235
    assert red[..., 0].mean() > 100 > red[..., 2].mean() + 40


def embedded(svg: str) -> list[NDArray[np.uint8]]:
    """Pictures in an SVG, (rows, cols, 3), where they are not see-through."""
    found = []
    for text in re.findall(r"base64,([^\"]+)\"", svg):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))
        rows, cols = picture.shape[0] // 4, picture.shape[1] // 4
        found.append(picture[rows:-rows, cols:-cols, :3])
    return found


# ---------------------------------------------------------------- parts of the page


def test_slices_are_the_fullest_and_the_worst():
    reference = np.zeros((9, 10, 10), dtype=int)
    reference[1:8, 2:6, 2:6] = 1
    reference[4, 1:8, 1:8] = 1
    predicted = reference.copy()
    predicted[1, 2:6, 2:6] = 0
    predicted[7, 2:4, 2:6] = 0
    predicted[6, 2:3, 2:6] = 0
    assert choose_slices(reference, predicted, {"a": 1}) == [1, 4, 7]


def test_slices_of_a_thin_scan():
    one = np.ones((1, 3, 3), dtype=int)
    assert choose_slices(one, one, {"a": 1}) == [0]
    assert choose_slices(np.ones((2, 3, 3), dtype=int), np.zeros((2, 3, 3), dtype=int), {"a": 1}) == [0, 1]


def test_overlay_has_the_proportions_of_the_body():
    plane, nothing = np.zeros((20, 10)), np.zeros((20, 10), dtype=int)
    width, height = Image.open(io.BytesIO(outlines.overlay(plane, nothing, nothing, {"a": 1}, (1.0, 4.0)))).size
    assert width / height == pytest.approx(2.0, rel=0.02)


def test_overlay_draws_the_reference_where_it_is():
    plane, reference = np.zeros((40, 40)), np.zeros((40, 40), dtype=int)
    reference[20:, 10:20] = 1  # touches the lower border
    picture = Image.open(io.BytesIO(outlines.overlay(plane, reference, reference * 0, {"a": 1}, (1, 1)))).convert("RGB")
    coloured = np.asarray(picture).max(axis=2) > 40
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    size = picture.size[0]
    assert rows[0] / size == pytest.approx(0.5, abs=0.02)
    assert (columns[0] / size, columns[-1] / size) == pytest.approx((0.25, 0.5), abs=0.02)
    assert not np.array_equal(picture, Image.new("RGB", picture.size))


def test_figures_follow_the_pages_colour_and_do_not_share_ids():
    lines = {"loss": ([1.0, 2.0], [3.0, math.nan])}
    first, second = (plots.curves(name, lines, label="loss", alt='a "b" <c>') for name in ("one", "two"))
    assert "currentColor" in first
    assert ET.fromstring(first).attrib["aria-label"] == 'a "b" <c>'
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', first))
    assert used <= ids[0]


def test_running_mean_is_a_mean():
    flat = plots._running_mean(np.full(200, 2.5))
    assert flat == pytest.approx(np.full(200, 2.5))
    noisy = np.random.default_rng(0).normal(size=500)
    assert plots._running_mean(noisy).std() < 0.4
    assert len(plots._running_mean(np.arange(3.0))) == 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.4, "3 s"), (754, "13 min"), (11_100, "3 h 5 min"), (89.9, "90 s"), (5398, "1 h 30 min")],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


def test_lists_and_counts():
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert listed([]) == ""
    assert listed("abcdef", most=2) == "a, b and 4 more"
    assert (count(1, "scan"), count(2, "scan")) == ("1 scan", "2 scans")


def test_a_name_is_no_formula_in_a_figure() -> None:
    steps = (list(range(4)), [0.1, 0.2, 0.3, 0.4])
    svg = plots.curves("x", {r"$\frac$": steps, "b": steps}, label="Dice", alt="")
    assert r"$\frac$" in svg
