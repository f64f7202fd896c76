"""Fine-tuning whose last batch has one row, in every way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lemis import plugins
from lemis.runs.run import load_model
from lemis.verbs.finetune import finetune

# A way that needs label maps of a teacher has its own tests.
SEMIS = [name for name in plugins.names("semi") if not getattr(plugins.outlined("semi", name), "PSEUDO_LABELS", False)]


def check_two_epochs_of_two_steps(work: Path, *overrides: str, **given: Any) -> None:
    """With five slices of one subject in batches of four, or the volumes of three in batches of two."""
    always = ("steps=null", "epochs=2", "evaluations=0", "precision=32", "accumulate=1")
    run = finetune(work, preset="tiny", device="cpu", overrides=[*always, *overrides], **given)
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in found] == [0, 0, 1, 1]
    weights, _ = load_model(run)
    for name, value in weights.items():
        assert bool(torch.isfinite(value).all()), name


@pytest.mark.parametrize("semi", [None, *SEMIS])
def test_slices(work: Path, semi: str | None) -> None:
    check_two_epochs_of_two_steps(work, fold=0, labelled=1, semi=semi)


@pytest.mark.parametrize("semi", [None, *SEMIS])
def test_volumes(work: Path, semi: str | None) -> None:
    check_two_epochs_of_two_steps(work, backbone="vnet", semi=semi)


@pytest.mark.parametrize("auxiliary", plugins.names("auxiliary"))
def test_extra_losses(work: Path, auxiliary: str) -> None:
    check_two_epochs_of_two_steps(work, fold=0, labelled=1, auxiliary=auxiliary)


@pytest.mark.parametrize("backbone", [name for name in plugins.names("backbones") if name != "unet2d"])
def test_networks(work: Path, backbone: str) -> None:
    if tuple(plugins.describe("backbones", backbone)["dims"]) == (3,):
        check_two_epochs_of_two_steps(work, backbone=backbone)
    else:
        size = "objective.size_px=64" if backbone == "swin_unetr" else "objective.size_px=32"
        check_two_epochs_of_two_steps(work, size, fold=0, labelled=1, backbone=backbone)
