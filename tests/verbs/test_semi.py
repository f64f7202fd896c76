"""Fine-tuning with unlabelled scans too: who is in the pool, what is kept of it, and where it changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemis import plugins
from lemis.comparison.plans import load_plan
from lemis.datasets.split import choose
from lemis.errors import Interrupted, UsageError
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store import Store, open_store
from lemis.runs import material
from lemis.runs.run import load_model
from lemis.settings import load_preset, resolve
from lemis.training import run_settings
from lemis.training.guards import Signals
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.list import list as list_all
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.work_files.run import FinetunedModel, read_finetuned
from plans_made import compared
from stores import replace_prepared

FEW = ("steps=4", "precision=32")
# Those with label maps of a teacher are in test_pseudo_label_folder.py.
SEMIS = [name for name in plugins.names("semi") if not plugins.describe("semi", name).get("pseudo_labels")]
# A pool that is looked at from the first step on.
EARLY = {"bcp": ("semi.stage_1=0.25",), "fixmatch": ("semi.threshold=0.2",), "mean_teacher": ("semi.delay=0",)}


def tune(work: Path, *overrides: str, **given: object) -> Path:
    arguments: dict[str, object] = {"preset": "tiny", "device": "cpu", "fold": 0, "labelled": 1, **given}
    return finetune(work, overrides=[*FEW, *overrides], **arguments)  # type: ignore[arg-type]


def model_of(run: Path) -> FinetunedModel:
    return read_finetuned(run)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run)[0]


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def split_of(work: Path, labelled: int = 1) -> Any:
    return choose(open_store(work / "prepared").scans, fold=0, labelled=labelled)


@pytest.mark.parametrize("name", SEMIS)
def test_every_way_trains_and_says_whom_it_saw(name: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(work, *EARLY.get(name, ()), semi=name)
    assert run.name == f"scratch-{name}-m1-fold0"
    facts, split = model_of(run), split_of(work)
    everybody = {scan.subject for scan in open_store(work / "prepared").scans}
    expected = everybody - set(split.test_subjects) - set(split.labelled_subjects)
    assert facts.semi == name
    assert facts.semi_settings.keys() >= {"weight"} or name == "bcp"
    assert facts.unlabelled_subjects == tuple(sorted(expected))
    assert facts.labelled_subjects == split.labelled_subjects
    assert f"4 scans without labels: {name}" in " ".join(capsys.readouterr().err.split())
    read = material.read(run)
    assert read is not None
    assert {one.subject for one in read.scans.values()} == expected | set(split.labelled_subjects)
    assert [one.label is None for one in read.scans.values()].count(False) == 1
    assert len(lines(run)) == 4
    assert not same(run, tune(work))
    keys = weights(tune(work)).keys()
    assert weights(run).keys() == keys, "what is kept is the network alone"
    predict(run, scans=["heart_004"], device="cpu")


def test_a_supervised_run_says_that_it_saw_nobody_else(work: Path) -> None:
    facts = model_of(tune(work))
    assert (facts.semi, facts.semi_settings, facts.unlabelled_subjects) == (None, {}, ())


def test_test_subjects_are_in_the_pool_where_asked_for(work: Path) -> None:
    run = tune(work, "semi.transductive=true", semi="entropy")
    assert set(split_of(work).test_subjects) <= set(model_of(run).unlabelled_subjects)
    other = tune(work, semi="entropy")
    assert other != run, "settings of its own"
    assert set(split_of(work).test_subjects).isdisjoint(model_of(other).unlabelled_subjects)


@pytest.mark.parametrize("name", [name for name in SEMIS if name != "bcp"])
def test_without_weight_it_is_supervised_bit_for_bit(name: str, work: Path) -> None:
    assert same(tune(work, "semi.weight=0", semi=name), tune(work))


def test_labels_of_the_pool_are_never_opened(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(work)
    allowed = {*split.labelled_subjects, *split.test_subjects}
    original = Store.label

    def opened(self: Store, scan: int) -> Any:
        assert self.scans[scan].subject in allowed, "a label of the pool"
        return original(self, scan)

    clean = tune(work, semi="bcp", name="clean")
    monkeypatch.setattr(Store, "label", opened)
    assert same(clean, tune(work, semi="bcp", name="watched"))


def test_a_changed_pool_trains_anew_and_a_changed_label_in_it_does_not(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune(work, semi="entropy")
    before = weights(run)
    store, split = open_store(work / "prepared"), split_of(work)
    unused = next(
        scan.id
        for scan in store.scans
        if scan.labelled and scan.subject not in {*split.labelled_subjects, *split.test_subjects}
    )
    replace_prepared(work, unused, label=True)
    assert tune(work, semi="entropy") == run
    assert "nothing to do" in capsys.readouterr().err
    replace_prepared(work, unused, image=True)
    assert tune(work, semi="entropy") == run
    assert "trained anew" in " ".join(capsys.readouterr().err.split())
    assert any(not torch.equal(value, before[key]) for key, value in weights(run).items())


@pytest.mark.parametrize("name", SEMIS)
def test_resumed_equals_not_stopped(
    name: str, work: Path, fresh_work: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("steps=6", *EARLY.get(name, ()))
    whole = tune(work, *overrides, semi=name)
    again = fresh_work("again")
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "take", lambda self: (stop := next(steps) == 3, stop))
        with pytest.raises(Interrupted, match="after step 3"):
            tune(again, *overrides, semi=name)
    resumed = tune(again, *overrides, semi=name)
    assert same(whole, resumed)
    assert [line["loss"] for line in lines(resumed)] == [line["loss"] for line in lines(whole)]


@pytest.mark.parametrize("name", SEMIS)
def test_volumes(name: str, work: Path) -> None:
    run = finetune(
        work, preset="tiny", device="cpu", fold=0, labelled=1, semi=name, backbone="unet3d",
        overrides=["steps=2", "precision=32", "evaluations=0", *EARLY.get(name, ())],
    )  # fmt: skip
    assert model_of(run).patch_px == (16, 32, 32)


@pytest.mark.parametrize("name", SEMIS)
@pytest.mark.slow
def test_a_network_that_looks_at_keypoints_after_a_pretraining(name: str, work: Path) -> None:
    start = pretrain(
        work, method="rotation", backbone="kaf_unet", preset="tiny", overrides=["steps=1", "precision=32"], device="cpu"
    )
    run = tune(work, "steps=2", *EARLY.get(name, ()), semi=name, pretrained=start)
    assert run.name == f"{start.name}-{name}-m1-fold0"
    assert model_of(run).pretrained == start.name


@pytest.mark.parametrize(
    ("given", "overrides", "said", "next"),
    [
        ({"semi": "bpc"}, (), "'bpc' is not in semi", "bcp"),
        ({"semi": "bcp"}, ("semi.alfa=1",), "semi.alfa", "semi.alpha"),
        ({}, ("semi.alpha=1",), "semi.alpha without a way to use unlabelled scans", "--semi bcp"),
        ({"semi": "bcp", "auxiliary": "voxel_siamese"}, (), "--semi bcp with --auxiliary voxel_siamese", "leave out"),
        ({"semi": "bcp"}, ("semi.transductive=maybe",), "semi.transductive", ""),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    given: dict[str, str], overrides: tuple[str, ...], said: str, next: str, work: Path
) -> None:
    with pytest.raises(UsageError) as error:
        tune(work, *overrides, **given)
    assert said in str(error.value)
    assert next in (error.value.next or "")


def test_a_preset_names_a_way_and_its_settings(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("semi: entropy\nsemis: {entropy: {weight: 0.7, transductive: true}}\n", encoding="utf-8")
    facts = model_of(tune(work, settings_file=file))
    assert (facts.semi, facts.semi_settings["weight"]) == ("entropy", 0.7)
    assert set(split_of(work).test_subjects) <= set(facts.unlabelled_subjects)


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ({"semi": "none"}, ()),
        ({"auxiliary": "voxel_siamese"}, ()),
        ({}, ("objective.deep_supervision=true",)),
        ({"labelled": None}, ()),  # the pool is empty
    ],
)
def test_the_way_of_a_preset_gives_way_to_what_is_asked_for(
    given: dict[str, Any], overrides: tuple[str, ...], all_labelled: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("semi: entropy\n", encoding="utf-8")
    asked = tune(all_labelled, *overrides, **{"semi": "none", **given})
    assert model_of(asked).semi is None
    assert tune(all_labelled, *overrides, settings_file=file, **given) == asked, "the same run"


def test_an_extra_loss_in_a_settings_file_goes_before_the_way_of_the_preset() -> None:
    tree = {"semi": "entropy", "auxiliary": "voxel_siamese"}
    found = run_settings.finetuning("unet2d", tree, ())
    assert (found.auxiliary, found.semi) == ("voxel_siamese", None)
    assert found.left_out == "entropy, which the preset names, is left out beside the extra loss voxel_siamese"
    inner = run_settings.finetuning("unet2d", {"semi": "entropy"}, {"objective": {"deep_supervision": True}})
    assert inner.semi is None
    assert inner.left_out is not None
    assert "beside objective.deep_supervision=true" in inner.left_out
    assert run_settings.finetuning("unet2d", {"semi": "entropy"}, (), semi="none").left_out is None


def test_settings_of_a_way_ask_for_it(all_labelled: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("semi: entropy\n", encoding="utf-8")
    for more, said in (
        ({"labelled": None}, "--semi entropy without an unlabelled scan"),
        ({"auxiliary": "voxel_siamese"}, "--semi entropy with --auxiliary voxel_siamese"),
    ):
        with pytest.raises(UsageError, match=said):
            tune(all_labelled, "semi.weight=0.5", settings_file=file, **more)
    with pytest.raises(UsageError, match="deep_supervision=true with --semi entropy"):
        tune(all_labelled, "semi.weight=0.5", "objective.deep_supervision=true", settings_file=file)


def test_what_is_typed_does_not_give_way(all_labelled: Path) -> None:
    with pytest.raises(UsageError, match="--semi entropy without an unlabelled scan"):
        tune(all_labelled, semi="entropy", labelled=None)


def test_list_says_which_ways_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = list_all(json=True)
    assert json.loads(capsys.readouterr().out)["semi"] == json.loads(json.dumps(found["semi"]))
    assert [row["name"] for row in found["semi"]] == plugins.names("semi")
    assert {"alpha", "stage_1"} <= {
        setting["name"] for row in found["semi"] if row["name"] == "bcp" for setting in row["settings"]
    }
    list_all()
    said = capsys.readouterr().out
    assert "--semi" in said
    assert "Bidirectional Copy-Paste" in said


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.slow
def test_fit_to_the_report(transductive: bool, phantom_scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "work"
    page = fit(
        phantom_scans, output=output, method="scratch", semi="bcp", labelled=1, fold=0, preset="tiny", device="cpu",
        overrides=["finetune.steps=4", f"semi.transductive={str(transductive).lower()}"],
    )  # fmt: skip
    summary = json.loads((output / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["transductive"] is transductive
    assert summary["transductive_in"] == (["fine-tuning"] if transductive else [])
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert "without their labels" in text
    assert "Bidirectional Copy-Paste" in text, "cited"
    assert ("fine-tuning had seen the images (never the labels) of test subjects" in text) is transductive
    assert ("pre-training and fine-tuning saw no image of a test subject" in text) is not transductive


@pytest.fixture
def without_unlabelled(phantom_scans: Path, tmp_path: Path) -> Path:
    """The labelled scans of the phantom, and no other."""
    scans = Path(shutil.copytree(phantom_scans, tmp_path / "scans"))
    labelled = {path.name.split(".")[0] for path in (scans / "labelsTr").iterdir()}
    for folder in ("imagesTr", "imagesTs"):
        for path in (scans / folder).glob("*") if (scans / folder).is_dir() else ():
            if not any(path.name.startswith(name) for name in labelled):
                path.unlink()
    return scans


@pytest.fixture
def all_labelled(without_unlabelled: Path, tmp_path: Path) -> Path:
    """A work folder with those scans, prepared."""
    work = tmp_path / "work"
    check(without_unlabelled, output=work, jobs=1)
    prepare(work, settings=resolve(Preparation, load_preset("tiny")["prepare"]), jobs=1)
    return work


def test_fit_refuses_an_empty_pool_before_it_prepares(without_unlabelled: Path, tmp_path: Path) -> None:
    scans = without_unlabelled
    with pytest.raises(UsageError, match="--semi bcp without an unlabelled scan"):
        fit(scans, output=tmp_path / "work", method="scratch", semi="bcp", fold=0, preset="tiny", device="cpu")
    assert not (tmp_path / "work" / "prepared").exists()


@pytest.mark.slow
def test_fit_leaves_out_the_way_of_a_preset_that_has_no_unlabelled_scan(
    without_unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("semi: entropy\n", encoding="utf-8")
    fit(
        without_unlabelled, output=tmp_path / "work", method="scratch", fold=0, preset="tiny", settings_file=file,
        device="cpu", overrides=["finetune.steps=2"],
    )  # fmt: skip
    assert [run.name for run in (tmp_path / "work" / "runs").iterdir()] == ["scratch-m2-fold0"]
    said = " ".join(capsys.readouterr().err.split())
    assert "note: entropy, which the preset names, is left out, as no scan of training is without a label" in said


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.slow
def test_compare_tells_rows_apart(transductive: bool, phantom_scans: Path, work: Path, tmp_path: Path) -> None:
    semi = {"transductive": transductive}
    plan = {
        "preset": "tiny", "labelled": [1], "folds": [0], "settings": {"finetune": {"steps": 2}},
        "rows": ["scratch", {"method": "scratch", "semi": "entropy", "settings": {"semi": semi}}],
    }  # fmt: skip
    folder, rows = compared(plan, phantom_scans, work, tmp_path / "semi.yaml")
    assert {(row["row"], row["semi"], row["transductive"]) for row in rows} == {
        ("scratch", "", "false"),
        ("scratch + entropy", "entropy", str(transductive).lower()),
    }
    page = " ".join((folder / "index.html").read_text(encoding="utf-8").split())
    assert "Nothing was pre-trained." in page
    assert ("Transductive: fine-tuning with unlabelled scans saw the images of test subjects" in page) is transductive
    assert ("Fine-tuning with unlabelled scans saw no image of a test subject." in page) is not transductive


def test_the_plan_of_the_study_has_every_way_from_every_start() -> None:
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "plans" / "semi.yaml")
    of = {start: [row.semi for row in plan.rows if row.method == start] for start in ("scratch", "pcl", "macl")}
    assert of["scratch"] == of["pcl"] == of["macl"]
    assert set(of["scratch"]) == {None, "bcp", "mean_teacher", "fixmatch", "self_training"}
    assert np.unique([row.title for row in plan.rows]).size == len(plan.rows) == 24
