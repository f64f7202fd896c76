"""A second network that begins from a pre-training of its own: whose weights it has, and that every result says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lemis.errors import Interrupted, UsageError
from lemis.preparation.store import open_store
from lemis.runs.run import load_model
from lemis.semi import cps
from lemis.training.guards import Signals
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.pretrain import pretrain
from lemis.work_files.run import FinetunedModel, read_finetuned, read_settings
from plans_made import compared


def before(work: Path, method: str, fold: int | None = None, backbone: str | None = None) -> Path:
    return pretrain(
        work, method=method, backbone=backbone, preset="tiny", overrides=["steps=1", "precision=32"], device="cpu",
        fold=fold,
    )  # fmt: skip


def tune(work: Path, *overrides: str, **given: object) -> Path:
    arguments: dict[str, object] = {
        "preset": "tiny", "device": "cpu", "fold": 0, "labelled": 1, "semi": "cps", **given,
    }  # fmt: skip
    return finetune(work, overrides=["steps=4", "precision=32", *overrides], **arguments)  # type: ignore[arg-type]


def same(first: Path, second: Path) -> bool:
    one, other = load_model(first)[0], load_model(second)[0]
    return all(torch.equal(one[key], other[key]) for key in one)


def facts(run: Path) -> FinetunedModel:
    return read_finetuned(run)


def test_each_network_begins_from_its_own_pretraining(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = before(work, "rotation"), before(work, "simclr")
    made: list[cps.Semi] = []
    begin = cps.Semi.__init__

    def begun(self: cps.Semi, *given: object) -> None:
        begin(self, *given)  # type: ignore[arg-type]
        made.append(self)
        for network, run in ((self.labelled.backbone, first), (self.second, second)):
            weights, model = load_model(run)
            assert model.verb == "pretrain"
            own = network.state_dict()
            loaded = [key for key in own if network.part_of(key) in model.trained]
            assert loaded
            assert all(torch.equal(own[key], weights[key]) for key in loaded)
        assert not torch.equal(self.labelled.backbone.head.weight, self.second.head.weight)

    monkeypatch.setattr(cps.Semi, "__init__", begun)
    run = tune(work, pretrained=first, second=second)
    assert made
    assert run.name == "rotation-cps-simclr-m1-fold0"
    assert (facts(run).pretrained, facts(run).second) == ("rotation", "simclr")
    assert read_settings(run)["second"] == "simclr"


@pytest.mark.slow
def test_it_is_another_training_than_one_without_and_a_changed_start_trains_anew(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = before(work, "rotation"), before(work, "simclr")
    alone, both = tune(work, pretrained=first), tune(work, pretrained=first, second=second)
    assert not same(alone, both)
    assert "second" not in read_settings(alone)
    assert tune(work, pretrained=first, second=second) == both
    assert "nothing to do" in capsys.readouterr().err
    pretrain(work, method="simclr", preset="tiny", overrides=["steps=2", "precision=32"], device="cpu", name="other")
    (second / "model.safetensors").write_bytes((work / "runs" / "other" / "model.safetensors").read_bytes())
    tune(work, pretrained=first, second=second)
    assert "the weights that the second network starts from changed" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_whoever_the_second_pretraining_saw_is_said(work: Path) -> None:
    first, second = before(work, "rotation", fold=0), before(work, "simclr")
    tested = set(facts(tune(work, pretrained=first)).test_subjects)
    assert tested.isdisjoint(facts(tune(work, pretrained=first)).pretraining_subjects)
    everybody = {scan.subject for scan in open_store(work / "prepared").scans}
    assert set(facts(tune(work, pretrained=first, second=second)).pretraining_subjects) == everybody


@pytest.mark.slow
def test_resumed_equals_not_stopped(
    work: Path, fresh_work: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = fresh_work("again")
    whole = tune(work, pretrained=before(work, "rotation"), second=before(work, "simclr"))
    steps = iter(range(1, 100))
    starts = {"pretrained": before(again, "rotation"), "second": before(again, "simclr")}
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "take", lambda self: (stop := next(steps) == 2, stop))
        with pytest.raises(Interrupted, match="after step 2"):
            tune(again, **starts)
    assert same(whole, tune(again, **starts))


def test_what_is_wrong_is_refused_in_words(work: Path) -> None:
    start = before(work, "rotation")
    for given, said in (({"semi": "bcp"}, "--semi bcp, which trains one network"), ({"semi": None}, "without --semi")):
        with pytest.raises(UsageError, match=said) as error:
            tune(work, second=start, **given)
        assert error.value.next == "--semi cps"
    with pytest.raises(UsageError, match="where kaf_unet was pre-trained, and unet2d is fine-tuned"):
        tune(work, second=before(work, "rotation", backbone="kaf_unet"))


@pytest.mark.slow
def test_fit_to_the_report(phantom_scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "work"
    page = fit(
        phantom_scans, output=output, method="rotation", semi="cps", second="simclr", labelled=1, fold=0, preset="tiny",
        device="cpu", overrides=["pretrain.steps=1", "finetune.steps=2"],
    )  # fmt: skip
    run = output / "runs" / "rotation-cps-simclr-m1-fold0"
    assert facts(run).second == "simclr"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert "beside a second network, pre-trained without labels by simclr on the images of 6 subjects (1 step)" in text
    assert "SimCLR" in text


@pytest.mark.slow
def test_compare_trains_both_pretrainings_of_a_row(phantom_scans: Path, work: Path, tmp_path: Path) -> None:
    steps = {"pretrain": {"steps": 1}, "finetune": {"steps": 2}}
    rows = [{"method": "rotation", "semi": "cps", "second": "simclr"}, "simclr"]
    plan = {"preset": "tiny", "labelled": [1], "folds": [0], "settings": steps, "rows": rows}
    folder, lines = compared(plan, phantom_scans, work, tmp_path / "two.yaml")
    assert len(list((folder / "cells").iterdir())) == 4, "two pre-trainings, of which both rows have one"
    found = {line["row"]: line for line in lines if line["structure"] == "mean"}
    assert {title: row["second"] for title, row in found.items()} == {
        "rotation + cps + second simclr": "simclr", "simclr": "",
    }  # fmt: skip
    trained = [run for run in (work / "runs").iterdir() if "cps" in run.name]
    assert [(model.pretrained or "")[:8] + "+" + (model.second or "")[:6] for model in map(facts, trained)] == [
        "rotation+simclr"
    ]
