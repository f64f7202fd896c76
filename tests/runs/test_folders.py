"""Names of runs go by settings; a run whose data changed is set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lemis.errors import UsageError
from lemis.runs import folders, material
from lemis.runs.material import Seen, TrainedOn
from lemis.runs.run import Run, is_done
from lemis.work_files.run import Status
from work_files_made import PRETRAINED, model_of

SETTINGS: dict[str, Any] = {"epochs": 3, "method": {"name": "pcl"}, "labelled": ["a"], "checkpoint_minutes": 10.0}
OTHER = {**SETTINGS, "epochs": 4}
ONE = TrainedOn(facts={"prepared": {}}, scans={"a": Seen("a", "image", "label", "1")})
TWO = TrainedOn(facts={"prepared": {}}, scans={"a": Seen("a", "image", "corrected", "2")})


def trained(path: Path, settings: dict[str, Any], on: TrainedOn = ONE, weight: float = 1.0) -> Path:
    run = Run(path, settings, on)
    run.log(1, {"loss": 1.0, "held_out/dice": 0.5})
    run.finish({"w": torch.full((2,), weight)}, model_of(PRETRAINED))
    return path


def test_the_plain_name_is_that_of_the_first_settings_and_others_have_their_own(tmp_path: Path) -> None:
    def chosen(settings: dict[str, Any]) -> str:
        return folders.choose(tmp_path, None, "pcl", settings).name

    assert chosen(OTHER) == "pcl"
    trained(tmp_path / "pcl", SETTINGS)
    assert chosen(SETTINGS) == "pcl"
    other = chosen(OTHER)
    assert other.startswith("pcl-")
    assert len(other) == len("pcl-") + 4
    assert chosen(OTHER) == other  # no matter when
    trained(tmp_path / other, OTHER)
    assert (chosen(SETTINGS), chosen(OTHER)) == ("pcl", other)
    third = chosen({**SETTINGS, "epochs": 5})
    assert third not in ("pcl", other)
    assert chosen({**SETTINGS, "checkpoint_minutes": 1.0, "labelled": ["a", "b"]}) == "pcl"  # no choices of the user's


def test_a_run_with_a_suffix_keeps_it_when_the_plain_name_is_free_again(tmp_path: Path) -> None:
    trained(tmp_path / "pcl", SETTINGS)
    other = folders.choose(tmp_path, None, "pcl", OTHER)
    trained(other, OTHER)
    (tmp_path / "pcl").rename(tmp_path / "mine")
    assert folders.choose(tmp_path, None, "pcl", OTHER) == other


def test_the_suffix_is_longer_where_another_run_has_it(tmp_path: Path) -> None:
    trained(tmp_path / "pcl", SETTINGS)
    short = folders.choose(tmp_path, None, "pcl", OTHER)
    trained(short, {**SETTINGS, "epochs": 77})
    longer = folders.choose(tmp_path, None, "pcl", OTHER)
    assert longer.name.startswith(short.name)
    assert len(longer.name) == len(short.name) + 4


def test_a_name_that_was_given_is_taken_or_refused(tmp_path: Path) -> None:
    trained(tmp_path / "mine", SETTINGS)
    assert folders.choose(tmp_path, "mine", "pcl", SETTINGS) == tmp_path / "mine"
    with pytest.raises(UsageError, match="epochs=3, now it is 4"):
        folders.choose(tmp_path, "mine", "pcl", OTHER)
    assert folders.choose(tmp_path, "new", "pcl", OTHER) == tmp_path / "new"
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_state_of_the_data_is_kept_aside_and_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained(tmp_path / "runs" / "pcl", SETTINGS)
    weights = (path / "model.safetensors").read_bytes()
    run = Run(path, SETTINGS, TWO)
    assert not is_done(path)
    assert material.read(path) == TWO
    assert run.status() == Status()
    (kept,) = (tmp_path / "stale").iterdir()
    assert (kept / "model.safetensors").read_bytes() == weights
    assert material.read(kept) == ONE
    said = capsys.readouterr().err
    assert "label changed: a" in said
    assert str(kept) in said


def test_one_that_was_interrupted_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "pcl", SETTINGS, ONE)
    with run.alone():
        run.log(10, {"loss": 1.0})
        run.save_checkpoint({"step": 10})
    again = Run(run.path, SETTINGS, TWO)
    assert again.load_checkpoint(torch.device("cpu")) is None
    assert not (run.path / "metrics.jsonl").exists()
    assert not (tmp_path / "stale").exists()  # half a training is of no use


def test_one_that_nobody_knows_the_data_of_is_not_current(tmp_path: Path) -> None:
    path = trained(tmp_path / "runs" / "pcl", SETTINGS)
    (path / material.FILE).unlink()
    assert not folders.is_current(material.read(path), ONE)
    Run(path, SETTINGS, ONE)
    assert len(list((tmp_path / "stale").iterdir())) == 1


def test_the_same_state_set_aside_twice_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "pcl"
    for state in (ONE, TWO, ONE, TWO):
        trained(path, SETTINGS, state, weight=float(state is ONE))
    assert len(list((tmp_path / "stale").iterdir())) == 2


def test_a_run_that_is_being_trained_is_not_set_aside(tmp_path: Path) -> None:
    path = trained(tmp_path / "runs" / "pcl", SETTINGS)
    with Run(path, SETTINGS, ONE).alone(), pytest.raises(UsageError, match="another process is training"):
        Run(path, SETTINGS, TWO)
    assert is_done(path)


def test_scores_of_other_labels_are_replaced_and_the_weights_stay(tmp_path: Path) -> None:
    path = trained(tmp_path / "runs" / "pcl", SETTINGS)
    run = Run(path, SETTINGS)
    run.log(2, {"loss": 0.5})
    run.replace_scores("held_out/", {"held_out/dice": 0.75})
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert ["held_out" in line for line in lines] == [False, True]
    assert '"held_out/dice": 0.75' in lines[1]
    assert is_done(path)
