"""``report`` on small made-up work folders: what is there, what is missing, and nothing else needed."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lemis import cli
from lemis.datasets import index as indexing
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.plugins import Trust
from lemis.reporting.methods_section import methods_paragraph, references
from lemis.reporting.sentences import sentences
from lemis.reporting.work_folder import read_work
from lemis.runs import freshness
from lemis.settings import plain
from lemis.verbs.evaluate import evaluate
from lemis.verbs.report import report
from lemis.work_files import audit
from lemis.work_files.audit import Drawn
from pages import check_accessible, parsed
from report_folders import NASTY, SPACING_MM, label_map, make_index, make_run
from work_files_made import META, model, model_of


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


@pytest.mark.slow
def test_the_score_of_subjects_that_were_drawn_at_random_stands_beside_the_other(work: Path, tmp_path: Path) -> None:
    audited = tmp_path / "work"
    shutil.copytree(work, audited)
    audit.remember(audited, [Drawn(subject="fair", scan="fair", of=9)])
    evaluate(audited)
    report(audited)
    page = " ".join((audited / "report" / "index.html").read_text(encoding="utf-8").split())
    assert "on 1 scan of 1 subject drawn at random before they were labelled" in page.split('<h2 id="done">')[0]
    assert "But 1 is too few to go by" in page


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
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (
                tag,
                attributes,
            )
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_is_well_formed_and_accessible(text: str):
    check_accessible(text)


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


@pytest.mark.slow
def test_says_what_became_of_islands(work: Path, tmp_path: Path, text: str):
    other = Path(shutil.copytree(work, tmp_path / "work"))
    record = json.loads((other / "predictions" / "predictions.json").read_text())
    kept = {"foreground": True, "structures": ["RV", "LV"], "least_share": 0.5}
    pieces = {
        "good": {"voxels": 1000},
        "fair": {"voxels": 600, "removed": {"RV": 20, "MYO": 4}},
        "bad": {"voxels": 400, "in_pieces": ["LV"], "foreground_in_pieces": True},
    }
    for id, found in pieces.items():
        record["scans"][id] = {**record["scans"][id], "kept": kept, "pieces": found}
    (other / "predictions" / "predictions.json").write_text(json.dumps(record))
    said = parsed(report(other).read_text(encoding="utf-8")).said
    assert (
        "Only the largest piece is kept of RV and LV, and of all structures together, as every labelled scan of "
        "training has one piece of each; that removed 1.2 % of the predicted voxels, in 1 of 3 scans." in said
    )
    assert "In 1 of 3 scans not, as no piece holds 50% of the voxels; there all pieces stay (bad: LV and all" in said
    assert "the largest connected component was kept of RV and LV, and of all structures together." in said
    assert "piece" not in parsed(text).said


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


@pytest.mark.slow
def test_same_folder_same_bytes(work: Path, text: str, tmp_path: Path):
    assert report(work, output=tmp_path / "again.html").read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_only_the_runs_that_were_asked_for(work: Path, tmp_path: Path):
    said = parsed(report(work, runs=["sal"], output=tmp_path / "one.html").read_text(encoding="utf-8")).said
    assert "Pre-training “sal”" in said
    assert "Fine-tuning" not in said


def test_runs_of_an_earlier_round_of_labelling_are_told_from_those_in_use(work: Path, tmp_path: Path, text: str):
    later = Path(shutil.copytree(work, tmp_path / "work"))
    make_run(later, "sal-m0-fold0", "finetune", labelled_subjects=["x"], pretrained="sal", auxiliary="voxel_siamese")
    facts = read_work(later)
    assert [run.name for run in facts.in_use] == ["sal", "sal-m1-fold0"]  # the pre-training too, which both began with
    assert [run.name for run in facts.not_in_use] == ["sal-m0-fold0"]
    assert [run.name for run in facts.final_runs] == ["sal-m1-fold0"]
    assert references(facts) == references(read_work(work))
    page = report(later).read_text(encoding="utf-8")
    check_accessible(page)
    said = parsed(page).said
    assert "Not in use: “sal-m0-fold0”. No label map and no score of this report is by them" in said
    assert "Fine-tuning “sal-m0-fold0”" not in said
    assert re.findall("Not in use (sal\\S+)", said) == ["sal-m0-fold0"]  # in the table of runs
    assert "Curves of the 1 that is not in use" in said
    assert "not in use" not in parsed(text).said.lower()
    asked = read_work(later, ["sal-m0-fold0"])
    assert [run.name for run in asked.not_in_use] == ["sal-m0-fold0"]  # though no other is shown


def test_only_runs_in_use_are_said_to_be_out_of_date(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    later = Path(shutil.copytree(work, tmp_path / "work"))
    make_run(later, "sal-m0-fold0", "finetune", pretrained="sal")
    monkeypatch.setattr(freshness, "since_training", lambda *_: freshness.Changes(["gone: x"], []))
    said = [line.partition(" ")[0] for line in read_work(later).out_of_date]
    assert said == ["sal", "sal-m1-fold0"]
    assert len(read_work(later, ["sal-m0-fold0"]).out_of_date) == 1  # it was asked for


def test_without_label_maps_no_run_is_out_of_use(tmp_path: Path):
    make_run(tmp_path, "sal", "pretrain")
    make_run(tmp_path, "sal-m1-fold0", "finetune", pretrained="sal")
    facts = read_work(tmp_path)
    assert (len(facts.in_use), facts.not_in_use) == (2, [])


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


@pytest.mark.slow
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
    check_accessible(text)
    test_fetches_nothing_from_anywhere(text)


@pytest.mark.slow
def test_shows_it_as_the_paper_does(compared: Path, tmp_path: Path):
    page = report(
        compared, similarity="heart_001:2:20,30", similarity_form="paper", output=tmp_path / "page.html", device="cpu"
    )
    reader = parsed(page.read_text(encoding="utf-8"))
    assert "Both pictures are views of the same slice" in reader.said
    assert len(re.findall(r"best match \d+ px away", reader.said)) == 8  # two levels
    for said in ("fresh unet2d at 1/4", "fresh unet2d at 1/8", "dot product over the largest with the query"):
        assert said in reader.said
    check_accessible(page.read_text(encoding="utf-8"))


def test_shows_keypoints_and_their_matches(compared: Path, tmp_path: Path):
    text = report(compared, keypoints="heart_001:2", output=tmp_path / "page.html").read_text(encoding="utf-8")
    reader = parsed(text)
    assert "slices 2 and 3 of 5, scan heart_001" in reader.said
    for distance in (10, 20, 40):
        assert re.search(rf"matches less than {distance} px apart: \d+", reader.said)
    assert ("a", {"href": "#keypoints"}) in reader.tags
    check_accessible(text)
    for wrong, fault in (("heart_001", "SCAN:SLICE"), ("heart_001:9", "slices 1 to 5"), ("nobody:1", "nobody")):
        with pytest.raises(UsageError, match=fault):
            report(compared, keypoints=wrong, output=tmp_path / "other.html")


@pytest.mark.slow
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


@pytest.mark.slow
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
    wanted = {
        "runs": ["sal", "pcl"], "similarity": "a:1:2,3", "similarity_form": "cosine", "features": None,
        "keypoints": None, "viewer_mb": 20.0, "output": None, "device": "cpu", "trust": Trust(),
    }  # fmt: skip
    assert asked == [(Path("work"), wanted)]
