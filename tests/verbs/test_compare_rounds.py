"""compare with rows that choose what is labelled: round by round, each training once, and on from where it stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemis import phantom
from lemis.datasets.split import choose
from lemis.errors import UsageError
from lemis.preparation.store import open_store
from lemis.verbs import compare as module
from lemis.verbs.compare import compare
from lemis.verbs.finetune import finetune

ROUNDS = {"start": 1, "add": [1]}
PLAN: dict[str, Any] = {
    "preset": "tiny", "folds": [0],
    "rows": [
        {"title": name, "method": "scratch", "suggest": {"name": name, **ROUNDS}} for name in ("random", "disagreement")
    ],
    "settings": {"finetune": {"steps": 2, "precision": "32", "evaluations": 0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hearts, all labelled."""
    folder = tmp_path_factory.mktemp("rounds") / "scans"
    return phantom.write_dataset(folder, subjects=6, labelled=6, shape=(32, 32, 4))


@pytest.mark.slow
def test_rounds_are_trained_once_and_go_on_where_they_stopped(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, work, trained = tmp_path / "plan.yaml", tmp_path / "work", []
    plan.write_text(yaml.safe_dump(PLAN), encoding="utf-8")

    def few(*given: Any, **named: Any) -> Path:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((tuple(named["subjects"]), named["seed"]))
        return finetune(*given, **named)

    monkeypatch.setattr(module, "finetune", few)
    with pytest.raises(KeyboardInterrupt):
        compare(scans, output=work, plan=plan, device="cpu")
    capsys.readouterr()
    first, second = trained.copy(), []

    def count(*given: Any, **named: Any) -> Path:
        second.append((tuple(named["subjects"]), named["seed"]))
        return finetune(*given, **named)

    monkeypatch.setattr(module, "finetune", count)
    done = compare(scans, output=work, plan=plan, device="cpu")
    said = " ".join(capsys.readouterr().err.split())
    # The start by two seeds, shared by both rows; then each row's second budget, unless they chose the same.
    assert done.failed == ()
    every = first + second
    assert len(set(every)) == len(every)
    chosen = {tuple(json.loads(file.read_text())["chosen"]) for file in (done.folder / "choices").glob("*.json")}
    assert len(every) == 2 + len(chosen)
    assert f"disagreement after {first[0][0][0]}: " in said
    pool = set(choose(open_store(work / "prepared").scans, fold=0).train_subjects)
    assert {subject for subjects, _ in every for subject in subjects} <= pool
    with (done.folder / "results.csv").open(newline="", encoding="utf-8") as lines:
        places = {(row["row"], row["labelled"]) for row in csv.DictReader(lines)}
    assert places == {(row, number) for row in ("random", "disagreement") for number in ("1", "2")}
    page = (done.folder / "index.html").read_text(encoding="utf-8")
    assert "disagreement" in page
    second.clear()
    compare(scans, output=work, plan=plan, device="cpu")
    assert second == []


@pytest.mark.parametrize("subjects", [[], ["heart_999"], ["heart_001", "heart_001"]])
def test_labels_of_others_than_the_training_subjects_are_refused(scans: Path, subjects: list[str]) -> None:
    from lemis.datasets.recognition import recognise

    listed = recognise(scans).index.scans
    with pytest.raises(UsageError, match=r"labels of[\s\S]*each once: heart_[\s\S]*take subjects from these"):
        choose(listed, subjects=subjects)
    split = choose(listed, fold=0)
    with pytest.raises(UsageError, match=f"the labels of '{split.test_subjects[0]}', trained on fold 0"):
        choose(listed, fold=0, subjects=[split.test_subjects[0]])
    named = split.train_subjects[:2][::-1]
    assert choose(listed, fold=0, subjects=named).labelled_subjects == named
