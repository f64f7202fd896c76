"""``segment-one`` with a method that cuts grey values into steps: files, choices, scores, folders, refusals."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lemis import plugins
from lemis.cli import app
from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import volume
from lemis.one_image import image_request, side_by_side
from lemis.reporting import overlay
from lemis.settings import plain, resolve
from lemis.single import kmeans
from lemis.verbs.segment_one import segment_one

METHOD = '''
"""Grey values cut into steps: a method of three lines."""
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from lemis.contracts import Segmented

CALLS = []


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: Annotated[int, Field(gt=1)] = 4
    shift: float = 0.0


PRESETS = {"two": Settings(steps=2)}


def segment(images, settings, seeds):
    CALLS.append((tuple(images.shape), tuple(seeds)))
    if (images[:, 0, 0, 0] > 0.99).any():
        raise RuntimeError("a white corner")
    labels = ((images.mean(1) + settings.shift).clamp(0, 0.999) * settings.steps).long()
    return Segmented(labels, (7,) * len(images), (0,) * len(images))
'''
ROWS, COLS = np.mgrid[:40, :60]
NAMES = ("mask.json", "mask.labels.png", "mask.overlay.png", "mask.png")


def picture(path: Path, *, row: int = 18, grey: int = 200, corner: int = 40, shape: tuple[int, int] = (40, 60)) -> Path:
    """A bright disc with a rim on a dark ground."""
    array = np.full((40, 60), 40, dtype=np.uint8)
    far = (ROWS - row) ** 2 + (COLS - 30) ** 2
    array[far <= 144] = 100
    array[far <= 81] = grey
    array[:4, :4] = corner
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).resize(shape[::-1], Image.Resampling.NEAREST).save(path)
    return path


def disc(row: int = 18, radius: int = 9) -> np.ndarray:
    return ((ROWS - row) ** 2 + (COLS - 30) ** 2 <= radius**2).astype(np.uint8)


@pytest.fixture
def method(tmp_path, monkeypatch):
    """``own_clusters.steps``, a dotted method; its calls are counted."""
    folder = tmp_path / "code" / "own_clusters"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "steps.py").write_text(METHOD)
    monkeypatch.syspath_prepend(folder.parent)
    for name in ("own_clusters", "own_clusters.steps"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import own_clusters.steps

    return own_clusters.steps


@pytest.fixture(autouse=True)
def sketches(request, monkeypatch):
    """Overlays take longer to draw than all the rest: most tests get one pixel."""
    if "drawn" not in request.fixturenames:
        png = io.BytesIO()
        Image.new("L", (1, 1)).save(png, "png")
        monkeypatch.setattr(overlay, "clusters", lambda *given, **words: png.getvalue())


@pytest.fixture
def drawn():
    """Overlays as people see them."""


@pytest.fixture
def image(tmp_path, method):
    return picture(tmp_path / "image.png")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def segment(image, output, **words):
    """At the image's own size, with ``own_clusters.steps``, unless ``words`` say otherwise."""
    return segment_one(
        image, output=output, **{"method": "own_clusters.steps", "size": "native", "device": "cpu"} | words
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---------------------------------------------------------------- one image


def test_the_object_is_proposed_and_written_on_the_image_s_own_grid(image, out):
    record = segment(image, out / "mask.png").record
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    np.testing.assert_array_equal(pixels(out / "mask.png"), disc())
    labels = pixels(out / "mask.labels.png")
    assert [np.count_nonzero(labels == k) for k in (1, 2, 3)] == sorted(
        (np.count_nonzero(labels == k) for k in (1, 2, 3)), reverse=True
    )
    assert record == json.loads((out / "mask.json").read_text())
    (facts,) = record["slices"]
    assert (facts["iterations"], facts["restarts"], facts["worked_at_px"]) == (7, 0, [40, 60])
    assert facts["chosen"] == [facts["proposed"]]
    assert [one["network_label"] for one in facts["clusters"]] == [0, 3, 1]
    assert record["made_from"]["settings"] == {"steps": 4, "shift": 0.0}
    assert {"method": "own_clusters.steps", "seed": 0, "size": "native"}.items() <= record["made_from"].items()


def test_what_is_printed_says_why_and_how_to_choose_another(image, out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    record = segment(image, out / "mask.png").record
    said = " ".join(capsys.readouterr().out.split())
    assert f"proposed as the object: cluster {record['slices'][0]['proposed']}, because it does not touch" in said
    assert f"lemis segment-one {image} -o {out / 'mask.png'} --pick" in said
    assert "mask.labels.png, mask.overlay.png, mask.json" in said


def test_it_works_at_256_pixels_by_default(image, out, method):
    record = segment_one(image, output=out / "mask.png", method="own_clusters.steps", device="cpu").record
    assert method.CALLS == [((1, 1, 256, 256), (0,))]
    assert record["slices"][0]["worked_at_px"] == [256, 256]
    assert pixels(out / "mask.png").shape == (40, 60)
    assert np.mean(pixels(out / "mask.png") == disc()) > 0.98


@pytest.mark.slow
def test_a_large_photo_gets_a_mask_of_its_own_size(tmp_path, out, method):
    large = np.full((3000, 4000, 3), 40, dtype=np.uint8)
    large[1000:2000, 1500:2500] = (220, 180, 200)
    Image.fromarray(large).save(tmp_path / "photo.jpg", quality=95)
    segment(tmp_path / "photo.jpg", out / "mask.png", size="100")
    mask = pixels(out / "mask.png")
    assert mask.shape == (3000, 4000)
    assert mask[1500, 2000] == 1
    assert mask.mean() == pytest.approx(1 / 12, rel=0.15)
    assert method.CALLS[0][0] == (1, 3, 100, 100)


def test_one_pixel_high(tmp_path, out, method):
    Image.fromarray(np.r_[np.full(20, 30), np.full(10, 220), np.full(30, 30)].astype(np.uint8)[None]).save(
        tmp_path / "line.png"
    )
    segment(tmp_path / "line.png", out / "mask.png", size="32")
    assert pixels(out / "mask.png").shape == (1, 60)
    segment(tmp_path / "line.png", out / "native.png")
    assert pixels(out / "native.png").shape == (1, 60)


def test_an_image_of_one_label_has_no_object(image, out, capsys):
    record = segment(image, out / "mask.png", overrides=["shift=5"]).record
    assert record["slices"][0]["proposed"] is None
    assert not pixels(out / "mask.png").any()
    assert "nothing is proposed: all pixels have one label" in capsys.readouterr().out


def test_json_is_the_record(image, out, capsys):
    record = segment(image, out / "mask.png", json=True).record
    assert json.loads(capsys.readouterr().out) == record


def test_settings_come_from_preset_then_file_then_words(image, out, tmp_path):
    made = segment(image, out / "a.png", preset="two").record["made_from"]
    assert made["settings"]["steps"] == 2
    (tmp_path / "mine.yaml").write_text("steps: 5")
    made = segment(image, out / "b.png", preset=str(tmp_path / "mine.yaml"), overrides=["shift=0.1"]).record
    assert made["made_from"]["settings"] == {"steps": 5, "shift": 0.1}


# ---------------------------------------------------------------- the picture to look at


@pytest.mark.parametrize("shape", [(40, 60), (1, 60), (60, 1)])
@pytest.mark.slow
def test_the_overlay_shows_image_clusters_and_mask(drawn, tmp_path, out, method, shape):
    image = picture(tmp_path / "image.png", shape=shape)
    segment(image, out / "mask.png", size="32")
    before = pixels(out / "mask.overlay.png")
    colours = {tuple(colour) for colour in before.reshape(-1, 4)}
    assert len(colours) > 100
    segment_one(image, output=out / "mask.png", pick="1+2")
    assert not np.array_equal(pixels(out / "mask.overlay.png"), before)


def test_an_overlay_of_many_clusters_says_how_many_more_there_are(drawn):
    labels = np.arange(1, 41).reshape(5, 8)
    entries = [overlay.Entry(k, 1 / 40, k == 2, k == 3) for k in range(1, 41)]
    png = overlay.clusters(
        labels[None] / 40, labels, entries, shape=(50, 80), spacing=(2.0, 1.0), title="forty clusters"
    )
    width, height = Image.open(io.BytesIO(png)).size
    assert width < 2 * height  # the legend is cut, and rows are twice as far apart as columns


# ---------------------------------------------------------------- choosing


def test_pick_takes_another_cluster_without_training_again(image, out, method):
    labels = segment(image, out / "mask.png", seed=3).record and pixels(out / "mask.labels.png")
    record = segment_one(image, output=out / "mask.png", pick="2").record  # nothing typed again
    assert len(method.CALLS) == 1
    np.testing.assert_array_equal(pixels(out / "mask.png"), labels == 2)
    assert record["slices"][0]["chosen"] == [2]
    assert record["slices"][0]["proposed"] is not None
    assert record["chosen_by"] == "--pick 2"
    assert record["made_from"]["seed"] == 3
    segment_one(image, output=out / "mask.png", pick="1+3")
    np.testing.assert_array_equal(pixels(out / "mask.png"), (labels == 1) | (labels == 3))
    assert len(method.CALLS) == 1


def test_click_takes_the_cluster_under_the_pixel(image, out, method):
    segment(image, out / "mask.png")
    segment_one(image, output=out / "mask.png", click="18,20")  # in the rim
    mask, labels = pixels(out / "mask.png"), pixels(out / "mask.labels.png")
    np.testing.assert_array_equal(mask, labels == labels[18, 20])
    assert not mask[18, 30]
    assert len(method.CALLS) == 1


def test_pick_without_a_label_map_segments_first(image, out, method):
    segment(image, out / "mask.png", pick="1")
    assert len(method.CALLS) == 1
    assert pixels(out / "mask.png")[39, 59] == 1


def test_the_same_again_is_not_made_again_and_another_is(image, out, method):
    segment(image, out / "mask.png")
    segment(image, out / "mask.png")
    assert len(method.CALLS) == 1
    segment(image, out / "mask.png", overrides=["steps=3"])
    segment(image, out / "mask.png", seed=1)
    segment(image, out / "mask.png", size="32")
    assert len(method.CALLS) == 4
    picture(image, row=25)  # another image under its name
    segment(image, out / "mask.png", size="32")
    assert len(method.CALLS) == 5


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        ("9", r"clusters 1, 2, 3(.|\n)*--pick 3"),
        ("two", r"3, 2\+3 for both"),
        ("4:1", r"slices 1\b"),
    ],
)
def test_a_cluster_that_is_not_there(image, out, pick, said):
    with pytest.raises(UsageError, match=said):
        segment(image, out / "mask.png", pick=pick)


@pytest.mark.parametrize("click", ["40,0", "0,60", "5", "-1,2", "a,b"])
def test_a_click_outside_the_image(image, out, click):
    with pytest.raises(UsageError, match="rows 0 to 39 and columns 0 to 59"):
        segment(image, out / "mask.png", click=click)


# ---------------------------------------------------------------- volumes


@pytest.fixture
def scan(tmp_path, method):
    """Five slices 4 mm apart, the first constant; the disc moves."""
    planes = [np.full((40, 60), 40.0), *(np.where(disc(14 + 2 * z), 90.0, 40 + ROWS / 40) for z in range(4))]
    array = np.stack([plane[::-1, ::-1].T for plane in planes], axis=-1)
    affine = np.array([[1.0, 0, 0, -5], [0, 1.0, 0, 7], [0, 0, 4.0, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_slices_of_a_volume_each_on_its_own(scan, out, method):
    record = segment(scan, out / "mask.nii.gz", slices="2:4").record
    mask = nibabel.load(out / "mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, nibabel.load(scan).affine)
    found = np.asarray(mask.dataobj)
    assert found.shape == (60, 40, 5)
    assert [z for z in range(5) if found[..., z].any()] == [1, 2, 3]
    np.testing.assert_array_equal(found[..., 2], disc(16)[::-1, ::-1].T)
    assert [facts["slice"] for facts in record["slices"]] == [2, 3, 4]
    assert sorted(path.name for path in (out / "mask.overlay").iterdir()) == ["0002.png", "0003.png", "0004.png"]
    alone = segment(scan, out / "alone.nii.gz", slices="3")
    np.testing.assert_array_equal(np.asarray(nibabel.load(out / "alone.nii.gz").dataobj)[..., 2], found[..., 2])
    assert len(alone.record["slices"]) == 1


def test_constant_slices_stay_empty(scan, out):
    record = segment(scan, out / "mask.nii.gz").record
    assert record["left_empty"] == [1]
    assert [facts["slice"] for facts in record["slices"]] == [2, 3, 4, 5]


def test_choosing_in_volumes(scan, out, method):
    segment(scan, out / "mask.nii.gz", slices="2:3")
    calls = len(method.CALLS)
    with pytest.raises(UsageError, match=r"SLICE:LABEL(.|\n)*--pick 2:"):
        segment_one(scan, output=out / "mask.nii.gz", pick="1")
    segment_one(scan, output=out / "mask.nii.gz", pick="3:1")
    found = np.asarray(nibabel.load(out / "mask.nii.gz").dataobj)
    assert found[..., 1].mean() < 0.5 < found[..., 2].mean()
    segment_one(scan, output=out / "mask.nii.gz", click="0,0")
    found = np.asarray(nibabel.load(out / "mask.nii.gz").dataobj)
    assert min(found[..., 1].mean(), found[..., 2].mean()) > 0.5
    assert len(method.CALLS) == calls


def test_an_empty_slice_of_numbers_is_refused_by_name(tmp_path, out, method):
    array = np.random.default_rng(0).normal(size=(8, 8, 3))
    array[..., 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(DataFault, match="slice 2 holds no finite value"):
        segment(tmp_path / "scan.nii.gz", out / "mask.nii.gz")
    assert not out.exists()
    assert method.CALLS == []


# ---------------------------------------------------------------- scores


def test_scores_against_a_reference(image, out, tmp_path, capsys):
    Image.fromarray(disc(radius=12)).save(tmp_path / "label.png")
    record = segment(image, out / "mask.png", reference=tmp_path / "label.png").record
    scores = record["slices"][0]["scores"]
    both, wanted = disc().sum(), disc(radius=12).sum()
    assert scores["chosen"]["dice"] == pytest.approx(2 * both / (both + wanted), abs=1e-5)
    assert scores["chosen"]["hammoude"] == pytest.approx(1 - both / wanted, abs=1e-5)
    assert scores["best_cluster"] == record["slices"][0]["proposed"]
    assert record["means"]["protocol"] == "honest"
    assert "protocol honest" in capsys.readouterr().out


def test_the_released_protocol_is_named_and_flatters(tmp_path, out, method, capsys):
    image = picture(tmp_path / "image.png", corner=200)  # as bright as the object, far from it
    Image.fromarray(disc()).save(tmp_path / "label.png")
    honest = segment(image, out / "mask.png", reference=tmp_path / "label.png").record["means"]
    record = segment(image, out / "mask.png", reference=tmp_path / "label.png", protocol="released").record
    assert honest["best"]["dice"] < 1
    assert record["means"]["best"] == {"dice": 1, "hammoude": 0, "xor": 0}
    assert record["means"]["chosen"] == honest["chosen"]  # the mask is what it is
    assert record["slices"][0]["scores"]["best_cluster"] == pixels(out / "mask.labels.png")[18, 30]
    assert "false positives farther away vanish" in record["means"]["what"]
    assert "protocol released" in capsys.readouterr().out


def test_the_released_protocol_knows_the_network_s_cluster_zero(image, out, tmp_path):
    Image.fromarray((COLS > 50).astype(np.uint8)).save(tmp_path / "label.png")  # all of it ground, label 0
    words = {"reference": tmp_path / "label.png"}
    honest = segment(image, out / "mask.png", **words).record["slices"][0]["scores"]
    released = segment(image, out / "mask.png", protocol="released", **words).record["slices"][0]["scores"]
    assert (honest["best_cluster"], released["best_cluster"]) == (1, None)
    assert (released["dice"], released["hammoude"], released["xor"]) == (0, 1, 1)


def test_an_empty_reference_is_not_scored(image, out, tmp_path):
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(tmp_path / "label.png")
    record = segment(image, out / "mask.png", reference=tmp_path / "label.png").record
    assert record["means"] is None
    assert "scores" not in record["slices"][0]


# ---------------------------------------------------------------- refusals leave nothing behind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"size": "7"}, "8 to 8192, or native"),
        ({"size": "big"}, "8 to 8192, or native"),
        ({"slices": "1,2-3"}, "FIRST:LAST, both included"),
        ({"slices": "2-3"}, r"FIRST:LAST, both included(.|\n)*--slices 10:20"),
        ({"slices": "2"}, "1 to 1: slices count from 1"),
        ({"window": "5:1"}, "LOW:HIGH, the lower one first"),
        ({"window": "5"}, "LOW:HIGH"),
        ({"method": "no_such"}, "is not in single"),
        ({"preset": "tow"}, r"two of own_clusters.steps, or the path(.|\n)*--preset two"),
        ({"overrides": ["step=3"]}, "unknown setting step(.|\n)*steps"),
        ({"overrides": ["steps=1"]}, "steps=1"),
        ({"pick": "1", "click": "1,1"}, "one of them"),
        ({"references": Path("labels")}, "--reference LABELMAP for one image"),
        ({"batch": Path("images")}, "one image, or a folder of them"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(image, out, method, words, said):
    with pytest.raises(UsageError, match=said):
        segment(image, out / "mask.png", **words)
    assert method.CALLS == []
    assert not out.exists()


def test_without_an_image_or_with_one_that_is_not_there(tmp_path, out, method):
    with pytest.raises(UsageError, match="no image"):
        segment(None, out / "mask.png")
    with pytest.raises(UsageError, match="does not exist"):
        segment(tmp_path / "none.png", out / "mask.png")


def test_a_mask_in_a_format_that_cannot_hold_it(image, scan, out):
    with pytest.raises(UsageError, match=r"\.png or \.tif(.|\n)*-o .*mask\.png"):
        segment(image, out / "mask.jpg")
    with pytest.raises(UsageError, match=r"\.nii\.gz or \.nii(.|\n)*mask\.nii\.gz"):
        segment(scan, out / "mask.png")


def test_a_file_of_somebody_else_is_not_written_over(image, out):
    out.mkdir()
    (out / "mask.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="is not a record of lemis segment-one"):
        segment(image, out / "mask.png")
    assert [path.name for path in out.iterdir()] == ["mask.json"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda record: record["slices"][0].pop("clusters"), r"mask\.json: slices\.0\.clusters is nothing"),
        (lambda record: record["made_from"].update(seed="x"), r"mask\.json: made_from\.seed is 'x'"),
        (lambda record: record.update(version=2), r"mask\.json is of version 2"),
    ],
)
def test_a_damaged_record_is_refused_and_kept(image, out, method, damage, said):
    segment(image, out / "mask.png")
    record = json.loads((out / "mask.json").read_text())
    damage(record)
    (out / "mask.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=rf"{said}(.|\n)*move mask\.json"):
        segment_one(image, output=out / "mask.png", pick="2")
    assert json.loads((out / "mask.json").read_text()) == record
    assert len(method.CALLS) == 1


def test_a_corrupt_picture_is_refused(tmp_path, out, method):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(UsageError, match="cannot be read"):
        segment(tmp_path / "a.png", out / "mask.png")
    assert not out.exists()


def test_a_method_that_fails_leaves_nothing_behind(tmp_path, out, method):
    picture(tmp_path / "white.png", corner=255)
    with pytest.raises(RuntimeError, match="a white corner"):
        segment(tmp_path / "white.png", out / "mask.png")
    assert not out.exists()


def test_a_method_that_breaks_its_promise_is_named(image, out, method, monkeypatch):
    whole = method.segment
    monkeypatch.setattr(
        method, "segment", lambda *given: whole(*given)._replace(labels=torch.zeros(1, 3, 3, dtype=torch.int64))
    )
    with pytest.raises(LemisError, match=r"own_clusters\.steps gave labels \(1, 3, 3\) for \(1, 40, 60\)"):
        segment(image, out / "mask.png")


# ---------------------------------------------------------------- a folder


@pytest.fixture
def folder(tmp_path, method):
    """Four images, one of them corrupt, one that the method cannot do; and three references."""
    for name, row in (("a_0000", 16), ("b_0000", 20)):
        picture(tmp_path / "images" / f"{name}.png", row=row)
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(disc(row)).save(tmp_path / "labels" / f"{name.removesuffix('_0000')}.png")
    picture(tmp_path / "images" / "white.png", corner=255)
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "images"


def batch(folder, out, **words):
    return segment(None, out, batch=folder, references=folder.parent / "labels", **words)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8") as lines:
        return {row["image"]: row for row in csv.DictReader(lines)}


def test_a_folder_goes_on_past_what_fails(folder, out, capsys):
    done = batch(folder, out)
    assert set(done.failed) == {"broken", "white"}
    found = rows(out)
    assert {name: row["status"] for name, row in found.items()} == {
        "a_0000": "done", "b_0000": "done", "broken": "failed", "white": "failed",
    }  # fmt: skip
    assert "cannot be read" in found["broken"]["problem"]
    assert "a white corner" in found["white"]["problem"]
    assert float(found["a_0000"]["dice"]) == 1
    assert (found["a_0000"]["protocol"], found["a_0000"]["iterations"]) == ("honest", "7")
    assert done.record["means"]["best"] == {"dice": 1, "hammoude": 0, "xor": 0}
    assert done.record["without_reference"] == ["broken", "white"]
    np.testing.assert_array_equal(pixels(out / "b_0000.png"), disc(20))
    printed = capsys.readouterr()
    assert "mean over 2 images with a reference" in printed.out
    assert "2 images failed: broken, white" in printed.out
    assert "white: failed: a white corner" in printed.err


def test_a_folder_resumes(folder, out, method):
    batch(folder, out)
    calls = len(method.CALLS)
    again = batch(folder, out, protocol="released")
    assert len(method.CALLS) == calls + 1  # what failed is tried again
    assert {row["status"] for row in rows(out).values()} == {"kept", "failed"}
    assert again.record["means"]["protocol"] == "released"
    (out / "a_0000.png").unlink()
    batch(folder, out)
    assert rows(out)["a_0000"]["status"] == "done"
    batch(folder, out, overrides=["steps=3"])
    assert rows(out)["b_0000"]["status"] == "done"


def test_a_choice_by_hand_is_kept(folder, out):
    batch(folder, out)
    segment_one(folder / "a_0000.png", output=out / "a_0000.png", pick="1")
    batch(folder, out)
    assert rows(out)["a_0000"]["chosen"] == "1"
    assert float(rows(out)["a_0000"]["chosen_dice"]) < 0.5


def test_images_are_segmented_side_by_side_with_the_same_result(folder, out, method):
    together = batch(folder, out, at_once=4)
    assert (3, 1, 40, 60) in [shape for shape, _ in method.CALLS]
    assert set(together.failed) == {"broken", "white"}  # the one that fails does not take the others with it
    batch(folder, out.with_name("alone"), at_once=1)
    for name in ("a_0000", "b_0000"):
        np.testing.assert_array_equal(
            pixels(out / f"{name}.labels.png"), pixels(out.with_name("alone") / f"{name}.labels.png")
        )


def test_images_of_other_shapes_are_not_stacked(folder, out, method):
    picture(folder / "c.png", shape=(20, 30))
    batch(folder, out, at_once=8)
    assert (1, 1, 20, 30) in [shape for shape, _ in method.CALLS]
    assert rows(out)["c"]["status"] == "done"


def test_names_that_differ_in_their_suffix_only(folder, out):
    picture(folder / "a_0000.tif")
    batch(folder, out)
    assert {"a_0000-png", "a_0000-tif"} <= set(rows(out))
    assert (out / "a_0000-tif.tif").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"pick": "2"}, "a choice for one image at a time"),
        ({"click": "2,2"}, "a choice for one image at a time"),
        ({"reference": Path("a.png"), "references": None}, "--references DIR for a folder"),
        ({"overrides": ["step=3"]}, "unknown setting step"),
        ({"size": "7"}, "8 to 8192"),
    ],
)
def test_what_no_image_of_the_folder_can_have_is_said_once(folder, out, words, said):
    with pytest.raises(UsageError, match=said):
        segment(None, out, batch=folder, **words)


def test_folders_that_do_not_belong_together(folder, out, tmp_path):
    picture(tmp_path / "others" / "z.png")
    with pytest.raises(UsageError, match="holds no reference for any of 4 images"):
        segment(None, out, batch=folder, references=tmp_path / "others")
    with pytest.raises(UsageError, match="another folder than that of the images"):
        segment(None, folder, batch=folder)


def test_volumes_in_a_folder(scan, out):
    (scan.parent / "images").mkdir()
    scan.rename(scan.parent / "images" / scan.name)
    done = segment(None, out, batch=scan.parent / "images", slices="2:3")
    assert done.failed == ()
    assert volume.read(out / "scan.nii.gz").array.any(axis=(0, 1)).tolist() == [False, True, True, False, False]


# ---------------------------------------------------------------- sets with their references


def test_references_that_come_with_the_layout_are_found(folder, out, capsys):
    done = segment(None, out, batch=folder.parent)
    assert set(done.failed) == {"broken", "white"}
    assert done.record["means"]["scored"] == 2
    assert done.record["without_reference"] == ["broken", "white"]
    said = capsys.readouterr().err
    assert f"{folder.parent}: recognised as images/ with labels/; with references: 2 of 4" in said
    Image.fromarray(disc(5)).save(folder.parent / "code" / "a.png")
    others = segment(None, out, batch=folder.parent, references=folder.parent / "code")
    assert others.record["without_reference"] == ["b_0000", "broken", "white"]


@pytest.mark.parametrize("place", [".", "images", "labels"])
def test_masks_never_take_the_place_of_images_or_references(folder, place):
    before = {path: path.read_bytes() for path in folder.parent.rglob("*.png")}
    with pytest.raises(UsageError, match="another folder than that of the images, or of the references"):
        segment(None, folder.parent / place, batch=folder.parent)
    assert before == {path: path.read_bytes() for path in folder.parent.rglob("*.png")}


def test_ph2_is_segmented_and_scored(tmp_path, out, method):
    case = tmp_path / "set" / "PH2 Dataset images" / "IMD002"
    picture(case / "IMD002_Dermoscopic_Image" / "IMD002.bmp")
    picture(case / "IMD002_roi" / "IMD002_R1.bmp")
    (case / "IMD002_lesion").mkdir()
    Image.fromarray(disc().astype(bool)).save(case / "IMD002_lesion" / "IMD002_lesion.bmp")
    done = segment(None, out, batch=tmp_path / "set")
    assert done.record["images"] == 1
    assert done.record["means"]["best"]["dice"] == 1
    np.testing.assert_array_equal(pixels(out / "IMD002.png"), disc())


def test_lung_volumes_are_segmented_resumed_and_chosen_from(tmp_path, out, method, capsys):
    scan, mask = np.full((5, 40, 60), -1000, dtype=np.int16), np.zeros((5, 40, 60), dtype=np.uint8)
    for place, row in ((1, 14), (3, 20)):  # the first axis, though the header says that slices are along the last
        scan[place] = np.where(disc(row), 900, -200)
        mask[place] = 255 * disc(row)
    affine = np.diag([-0.7, 0.7, 2.5, 1.0])
    (tmp_path / "lungs").mkdir()
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "lungs" / "IMG_0002.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "lungs" / "MASK_0002.nii.gz")
    done = segment(None, out, batch=tmp_path / "lungs", overrides=["steps=2"])
    assert done.record["means"]["scored"] == 2
    assert done.record["means"]["best"]["dice"] == 1
    made = json.loads((out / "IMG_0002.json").read_text())["made_from"]
    assert (made["slices"], made["window"], made["stored_axis"]) == ("2,4", "-512:512", 0)
    assert "slices with lung: 2, from IMG_0002 to IMG_0002" in capsys.readouterr().err
    found = np.asarray(nibabel.load(out / "IMG_0002.nii.gz").dataobj)
    np.testing.assert_array_equal(found.any(axis=(1, 2)), [False, True, False, True, False])
    calls = len(method.CALLS)
    segment(None, out, batch=tmp_path / "lungs", overrides=["steps=2"])
    assert {row["status"] for row in rows(out).values()} == {"kept"}
    segment_one(tmp_path / "lungs" / "IMG_0002.nii.gz", output=out / "IMG_0002.nii.gz", click="0,0")
    ground = np.asarray(nibabel.load(out / "IMG_0002.nii.gz").dataobj)
    np.testing.assert_array_equal(ground[[1, 3]], 1 - found[[1, 3]])
    assert len(method.CALLS) == calls


# ---------------------------------------------------------------- how many at once


def pace(monkeypatch, free_gb=10.0):
    monkeypatch.setattr(side_by_side, "_free_gb", lambda device: free_gb)
    return side_by_side.Pace(None, torch.device("cpu"))


def test_the_first_image_alone_tells_how_many_fit(monkeypatch):
    found = pace(monkeypatch)
    assert found.now == 1
    found.learn(1, seconds=2.0, iterations=10, gb=1.0)
    assert found.now == 5  # half of the memory that is free
    found.learn(5, seconds=5.0, iterations=50, gb=5.0)
    assert found.now == 5


def test_one_by_one_where_side_by_side_is_slower(monkeypatch):
    found = pace(monkeypatch)
    found.learn(1, seconds=2.0, iterations=10, gb=1.0)
    found.learn(5, seconds=15.0, iterations=50, gb=5.0)
    assert found.now == 1
    found.learn(1, seconds=2.0, iterations=10, gb=1.0)
    assert found.now == 1


@pytest.mark.parametrize(("gb", "now"), [(None, 1), (0.001, 8), (100.0, 1)])
def test_unknown_little_and_much_memory(monkeypatch, gb, now):
    found = pace(monkeypatch)
    found.learn(1, seconds=2.0, iterations=10, gb=gb)
    assert found.now == now


def test_memory_that_runs_out_makes_groups_smaller(folder, out, method, monkeypatch):
    whole = method.segment

    def small_only(images, settings, seeds):
        if len(images) > 1:
            raise torch.OutOfMemoryError("too many")
        return whole(images, settings, seeds)

    monkeypatch.setattr(method, "segment", small_only)
    assert set(batch(folder, out, at_once=4).failed) == {"broken", "white"}


# ---------------------------------------------------------------- on the command line


def test_the_command_line(folder, out, method):
    done = CliRunner().invoke(
        app,
        ["segment-one", "--batch", str(folder), "-o", str(out), "--method", "own_clusters.steps", "--size", "32",
         "--device", "cpu", "steps=3"],
    )  # fmt: skip
    assert done.exit_code == 3, done.output  # two images failed
    assert rows(out)["b_0000"]["status"] == "done"
    good = ["segment-one", str(folder / "a_0000.png"), "-o", str(out / "m.png"), "--method", "own_clusters.steps"]
    assert CliRunner().invoke(app, [*good, "--size", "32", "--device", "cpu"]).exit_code == 0


def test_a_dermoscopy_image_with_k_means(tmp_path):
    data = Path(__file__).parents[2] / "../shared/data/Dataset110_Dermoscopy2D"
    if not data.is_dir():
        pytest.skip("needs the dermoscopy images beside the repository")
    name = "ham_ISIC_0024311"
    record = segment_one(
        data / "imagesTr" / f"{name}_0000.png", output=tmp_path / "mask.png", method="kmeans", size="64",
        overrides=["starts=1"], reference=data / "labelsTr" / f"{name}.png", device="cpu",
    ).record  # fmt: skip
    assert record["means"]["chosen"]["dice"] > 0.6


def test_the_preset_is_small_unless_another_is_named() -> None:
    assert image_request.settings_of("s3net", None, [])["clusters"] == 16
    assert image_request.settings_of("s3net", "paper", [])["clusters"] == 64
    assert image_request.settings_of("s3net", None, ["clusters=8"])["clusters"] == 8
    assert image_request.settings_of("kmeans", None, []) == plain(resolve(kmeans.Settings))


def test_every_method_that_learns_has_as_many_starts_in_small() -> None:
    for name in plugins.names("single"):
        if name != "kmeans":
            assert image_request.settings_of(name, None, [])["starts"] == 3, name
            assert image_request.settings_of(name, None, ["starts=1"])["starts"] == 1
            assert plugins.load("single", name).Settings().starts == 1, "rows of plans name what they want"
