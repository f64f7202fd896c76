"""import: weights of another program are a run that fine-tuning starts from, and that says where they are from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lemis
from lemis.backbones import unet2d
from lemis.errors import UsageError
from lemis.reporting.sentences import sentences
from lemis.reporting.work_folder import read_work
from lemis.runs.run import load_model
from lemis.work_files.run import read_status
from work_files_made import evaluate

FEW = ("steps=2", "precision=32", "backbone.base_width=4")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    network = unet2d.Backbone(unet2d.Settings(base_width=4), in_channels=1, num_classes=7)
    torch.save({"state_dict": {f"module.{name}": one for name, one in network.state_dict().items()}}, tmp_path / "t.pt")
    return tmp_path / "t.pt"


@pytest.mark.slow
def test_from_a_file_to_scores_that_claim_nothing(work: Path, theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lemis.import_weights(
        theirs, output=work / "runs" / "theirs", backbone="unet2d", overrides=["backbone.base_width=4"], licence="MIT"
    )
    said = capsys.readouterr().err
    assert "of another task" in said
    assert "100 %" in said
    weights, model = load_model(run)
    given = torch.load(theirs, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], given[f"module.{name}"]) for name in weights if not name.startswith("head"))
    assert model.trained == ("encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4")  # type: ignore[union-attr]
    facts = json.loads((run / "model.json").read_text(encoding="utf-8"))["imported"]
    assert (facts["file"], facts["inside"], facts["prefix"], facts["share"], facts["licence"]) == (
        "t.pt", "state_dict", "module.", 1.0, "MIT",
    )  # fmt: skip

    lemis.import_weights(
        theirs, output=work / "runs" / "theirs", backbone="unet2d", overrides=["backbone.base_width=4"], licence="MIT"
    )
    assert "nothing to do" in capsys.readouterr().err

    tuned = lemis.finetune(work, pretrained=run, name="tuned", fold=0, preset="tiny", overrides=FEW, device="cpu")
    assert any("began with imported weights" in one for one in read_status(tuned).warnings)
    lemis.predict([tuned], device="cpu")
    assert evaluate(work)["transductive"] is None
    told = " ".join(sentences(read_work(work)))
    assert "“theirs”: weights from t.pt, 100 % of its encoder; what they had seen is not recorded." in told
    lemis.report(work)
    with pytest.raises(UsageError, match="as they were imported"):
        lemis.export(run, output=work / "out")
    with pytest.raises(UsageError, match="how images were prepared for it is not known here"):
        lemis.load(run).prepare("scan.nii.gz")
    assert (lemis.export(tuned, output=work / "out") / "network.py").is_file()


def test_what_does_not_fit_leaves_nothing(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 % of the encoder's parameters"):
        lemis.import_weights(theirs, output=tmp_path / "run", backbone="unet2d", overrides=["backbone.base_width=8"])
    assert not (tmp_path / "run").exists()


def test_bad_words_are_refused(theirs: Path, tmp_path: Path) -> None:
    def refused(match: str, **more: object) -> None:
        with pytest.raises(UsageError, match=match):
            lemis.import_weights(**{"file": theirs, "output": tmp_path / "run", "backbone": "unet2d", **more})

    refused("is no file", file=tmp_path)
    refused("--channels 0", channels=0)
    refused("--least 0", least=0.0)
    refused("setting epochs", overrides=["epochs=3"])
    refused("base_widht", overrides=["backbone.base_widht=3"])
    refused("is not in backbones", backbone="unet2")


def test_another_file_does_not_take_the_place_of_a_run(theirs: Path, tmp_path: Path) -> None:
    def again() -> None:
        lemis.import_weights(theirs, output=tmp_path / "run", backbone="unet2d", overrides=["backbone.base_width=4"])

    again()
    torch.save({name: one + 1 for name, one in torch.load(theirs, weights_only=True)["state_dict"].items()}, theirs)
    with pytest.raises(UsageError, match="was made with digest"):
        again()
