"""A run folder: what is in it, what it refuses, and what is left when a process is killed."""

from __future__ import annotations

import io
import json
import platform
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from lemis.errors import UsageError
from lemis.runs.run import Run, load_model, processor
from lemis.work_files.run import Status
from work_files_made import PRETRAINED, model_of

SETTINGS = {"method": {"name": "pcl", "temperature": 0.1}, "epochs": 3, "learning_rate": 1e-5, "excluded": ["a"]}


def steps(run: Run) -> list[int]:
    return [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def state(step: int) -> dict[str, Any]:
    return {"step": step, "objective": {"w": torch.arange(3.0)}, "optimiser": {"state": {}, "param_groups": []}}


def test_a_new_folder_says_what_it_was_made_with(tmp_path: Path) -> None:
    run = Run(tmp_path / "deep" / "run", SETTINGS)
    assert yaml.safe_load((run.path / "settings.yaml").read_text(encoding="utf-8")) == SETTINGS
    environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    assert environment["packages"]["torch"] == torch.__version__
    assert {"lemis", "python", "platform", "cores", "threads", "command", "started"} <= environment.keys()
    assert not run.done
    assert run.status() == Status()


def test_the_same_settings_are_taken_and_nothing_is_rewritten(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS)
    before = (tmp_path / "environment.json").read_text(encoding="utf-8")
    Run(tmp_path, SETTINGS)
    assert (tmp_path / "environment.json").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("epochs", 4, "epochs=3, now it is 4"),
        ("method", {"name": "pcl", "temperature": 0.2}, "method.temperature=0.1, now it is 0.2"),
        ("method", {"name": "pcl"}, "method.temperature=0.1, now it is None"),
        ("seed", 1, "seed=None, now it is 1"),
    ],
)
def test_other_settings_are_refused_with_the_key_that_differs(tmp_path: Path, key: str, value: Any, said: str) -> None:
    Run(tmp_path, SETTINGS).save_checkpoint(state(5))
    with pytest.raises(UsageError, match=said) as caught:
        Run(tmp_path, {**SETTINGS, key: value})
    assert f"--name {tmp_path.name}-2" in caught.value.next


def test_a_run_that_came_to_nothing_does_not_stand_in_the_way_of_the_corrected_command(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    run.set_status(warnings=["the loss is not finite"])
    run.log(1, {"loss": 1.0})
    corrected = {**SETTINGS, "learning_rate": 1e-6}
    run = Run(tmp_path, corrected)
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text(encoding="utf-8")) == corrected
    assert run.status() == Status()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_one_that_is_being_trained_does(tmp_path: Path) -> None:
    with Run(tmp_path, SETTINGS).alone(), pytest.raises(UsageError, match="epochs=3, now it is 4"):
        Run(tmp_path, {**SETTINGS, "epochs": 4})


def test_settings_without_effect_on_the_weights_may_change(tmp_path: Path) -> None:
    Run(tmp_path, {**SETTINGS, "checkpoint_minutes": 10.0})
    Run(tmp_path, {**SETTINGS, "checkpoint_minutes": 1.0})


def test_one_process_trains_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    with run.alone(), pytest.raises(UsageError, match="another process is training") as caught, run.alone():
        pass
    assert "wait" in caught.value.next
    with pytest.raises(OSError, match="disk"), run.alone():
        raise OSError("disk")
    with run.alone():  # let go of, after an end and after an error
        pass


def test_nothing_writes_into_the_folder_of_a_run_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    append = LocalFileSystem.append

    def slow(*what: Any) -> None:
        time.sleep(0.05)  # as on a busy machine: the thread comes to write long after it was asked to
        append(*what)

    monkeypatch.setattr(LocalFileSystem, "append", slow)
    before = threading.active_count()
    run = Run(tmp_path / "run", SETTINGS)
    with suppress(KeyboardInterrupt), run.alone():
        run.log(1, {"loss": 1.0})
        raise KeyboardInterrupt
    assert threading.active_count() == before
    (tmp_path / "run").rename(tmp_path / "kept")
    assert not (tmp_path / "run").exists()


def test_status_is_merged_and_counts_the_seconds_of_every_process(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS).set_status(verb="pretrain", state="running")
    content = json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))
    (tmp_path / "status.json").write_text(json.dumps({**content, "seconds": 100.0}))
    run = Run(tmp_path, SETTINGS)
    run.set_status(step=7)
    status = run.status()
    assert (status.verb, status.state, status.step) == ("pretrain", "running", 7)
    assert 100.0 <= status.seconds < 110.0


def test_lines_of_the_log_are_json_and_go_to_tensorboard(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    run.log(1, {"loss": 0.5})
    run.log(2, {"loss": 0.25, "held_out/pooled_dice": 0.7})
    run.finish({"w": torch.zeros(2)}, model_of(PRETRAINED))
    last = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["step"], last["loss"], last["held_out/pooled_dice"]) == (2, 0.25, 0.7)
    assert last["seconds"] >= 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


def test_lines_beyond_a_step_are_forgotten_and_so_is_a_torn_one(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    for step in (1, 2, 3, 4):
        run.log(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1, "lo')
    run.forget_after(3)
    assert steps(run) == [1, 2, 3]
    run.forget_after(0)
    assert steps(run) == []


def test_a_checkpoint_holds_tensors_and_plain_types_only(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    assert run.load_checkpoint(torch.device("cpu")) is None
    run.save_checkpoint(state(5))
    loaded = torch.load(run.checkpoint, weights_only=True)
    assert loaded["step"] == run.status().step == 5
    assert torch.equal(loaded["objective"]["w"], torch.arange(3.0))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, SETTINGS)
    run.save_checkpoint(state(5))

    def torn(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="no space"):
        run.save_checkpoint(state(6))
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 5


def test_a_finished_run_has_weights_and_facts_and_nothing_left_over(tmp_path: Path) -> None:
    run = Run(tmp_path, SETTINGS)
    run.save_checkpoint(state(5))
    (tmp_path / "resume.part").write_bytes(b"half")
    run.finish({"w": torch.arange(6.0).reshape(2, 3).T}, model_of(PRETRAINED), steps=9)
    assert run.done
    assert run.status().steps == 9
    assert 0.05 < (run.status().peak_memory_gb or 0) < 64  # PyTorch alone is more than 50 MB
    assert not run.checkpoint.exists()
    assert list(tmp_path.glob("*.part")) == []
    weights, model = load_model(tmp_path)
    assert torch.equal(weights["w"], torch.arange(6.0).reshape(2, 3).T)
    assert model.model_dump(mode="json", exclude_unset=True) == PRETRAINED


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match=r"has no model\.json") as caught:
        load_model(tmp_path)
    assert caught.value.next.startswith("finish it with the command that began it")


def test_a_warning_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, SETTINGS)
    long = "the loss stands still " * 8
    run.warn(long)
    run.warn("and another")
    assert run.status().warnings == (long, "and another")
    assert f"warning: {long}" in capsys.readouterr().err  # on one line: nobody looks on, so nothing is wrapped


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "sal", SETTINGS)
    with run.progress(100, 40) as advance:
        for step in range(41, 101):
            advance(step, 0.5)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("sal: step 41/100, loss 0.5000, ")
    assert said[1].startswith("sal: step 100/100, loss 0.5000, ")
    assert said[1].endswith(" steps/s, 0 s left")


def test_what_is_to_be_scored_is_part_of_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    run = Run(tmp_path / "sal", SETTINGS)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with run.progress(100, 0, lambda step: 100 - step + 500.0) as advance:
        advance(1, 0.5)
    _, rate, left = capsys.readouterr().err.strip().rsplit(", ", 2)
    assert float(left.removesuffix(" s left")) == pytest.approx(599 / float(rate.removesuffix(" steps/s")), rel=0.2)


def test_progress_on_a_terminal_is_a_bar(tmp_path: Path) -> None:
    run = Run(tmp_path / "sal", SETTINGS)
    run.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with run.progress(3, 0) as advance:
        for step in (1, 2, 3):
            advance(step, 0.25)
    shown = run.console.file.getvalue()  # type: ignore[attr-defined]
    assert "3/3" in shown
    assert "loss 0.2500" in shown


def test_the_environment_names_the_command_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lemis", "pretrain", "work"])
    Run(tmp_path, SETTINGS)
    assert json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))["command"] == "lemis pretrain work"


def test_the_processor_is_named_by_its_model_where_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Made up 9000 \nflags\t\t: fpu\n")
    assert processor(tmp_path / "cpuinfo") == "Made up 9000"
    assert processor(tmp_path / "no such file") in (platform.processor(), platform.machine())
