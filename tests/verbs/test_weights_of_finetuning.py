"""Fine-tuning whose average predicts: what is trained, kept, scored and gone on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lemis.errors import Interrupted, UsageError
from lemis.runs.run import load_model
from lemis.training.guards import Signals
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict

FEW = ("steps=4", "precision=32")
TEACHER = ("semi.weight=0", "semi.predicts=teacher", "semi.decay=0.99")
Stopped = Callable[..., Path]


def tune(work: Path, *overrides: str, **given: object) -> Path:
    arguments: dict[str, object] = {"preset": "tiny", "device": "cpu", "fold": 0, "labelled": 1, **given}
    return finetune(work, overrides=[*FEW, *overrides], **arguments)  # type: ignore[arg-type]


def same(first: Path, second: Path) -> bool:
    one, other = load_model(first)[0], load_model(second)[0]
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@pytest.fixture
def stopped(fresh_work: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """Trains as ``tune`` does, in a folder of its own, with a stop after three steps."""

    def trained(*overrides: str, **given: object) -> Path:
        again, steps = fresh_work("again"), iter(range(1, 100))
        with monkeypatch.context() as patch:
            patch.setattr(Signals, "take", lambda self: (stop := next(steps) == 3, stop))
            with pytest.raises(Interrupted, match="after step 3"):
                tune(again, *overrides, **given)
        return tune(again, *overrides, **given)

    return trained


def test_the_average_alone_is_a_teacher_that_teaches_nothing(work: Path) -> None:
    plain, averaged = tune(work), tune(work, "average=0.99")
    teacher = tune(work, *TEACHER, semi="mean_teacher")
    assert same(averaged, teacher)
    assert not same(averaged, plain)
    assert averaged != plain, "a folder of its own"
    ours, theirs = lines(averaged), lines(teacher)
    assert ours == theirs, "scored alike"
    loss = [line["loss"] for line in lines(plain)]
    assert [line["loss"] for line in ours] == loss, "trained alike"
    assert tune(work, "average=0") == plain, "off by default"
    predict(averaged, scans=["heart_004"], device="cpu")


@pytest.mark.parametrize("semi", [None, "bcp", "cps"])
def test_an_average_is_gone_on_from(semi: str | None, work: Path, stopped: Stopped) -> None:
    whole, resumed = (
        train("steps=6", "average=0.9", semi=semi) for train in (lambda *a, **k: tune(work, *a, **k), stopped)
    )
    assert same(whole, resumed)
    assert lines(whole) == lines(resumed)


@pytest.mark.parametrize("given", ["average=1.5", "average=-0.1", "average=true", "average=often"])
def test_a_decay_that_is_none_is_refused(given: str, work: Path) -> None:
    with pytest.raises(UsageError, match="average") as error:
        tune(work, given)
    assert "average" in error.value.next


def test_pre_training_has_no_average(phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown setting pretrain\.average"):
        fit(phantom_scans, output=tmp_path, overrides=["pretrain.average=0.9"], device="cpu")
