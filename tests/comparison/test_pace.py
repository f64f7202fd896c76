"""How long a comparison will take: a fine-tuning makes as many steps as it is said to."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lemis.comparison import pace
from lemis.preparation.store import open_store
from lemis.training import probe, run_settings
from lemis.verbs.finetune import finetune


@pytest.mark.parametrize(("labelled", "batch_size"), [(1, 4), (2, 4), (2, 5)])  # subjects of five slices
def test_a_fine_tuning_takes_as_many_steps_as_it_was_estimated(work: Path, labelled: int, batch_size: int) -> None:
    given = {"steps": None, "epochs": 2, "evaluations": 0, "precision": "32", "objective": {"batch_size": batch_size}}
    run = finetune(work, fold=0, labelled=labelled, preset="tiny", overrides=given, device="cpu")
    done = json.loads((run / "status.json").read_text(encoding="utf-8"))["steps"]
    subjects = json.loads((run / "model.json").read_text(encoding="utf-8"))["labelled_subjects"]
    # The probe of a comparison is one of another column, with another number of subjects.
    found = probe.Probe(seconds=1.0, images=4, per_epoch=7, slices=28, memory_gb=None, weights_gb=0.0)
    tuning = run_settings.finetuning("unet2d", run_settings.base("tiny", None), given)
    way: Any = SimpleNamespace(finetuning=tuning)
    cell: Any = SimpleNamespace(labelled=subjects)
    assert pace._length(found, way, cell, open_store(work / "prepared")) == done
