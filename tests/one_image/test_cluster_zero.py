"""``benchmarks/cluster_zero.py``: the protocol `released` with and without its cluster that is never the object."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lemis.verbs.segment_one import segment_one

SQUARE = np.zeros((32, 32), dtype=bool)
SQUARE[8:24, 8:24] = True


@pytest.fixture
def cluster_zero(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # benchmarks are no part of the package
    return importlib.import_module("benchmarks.cluster_zero")


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_number_of_the_object_decides_in_one_column_alone(cluster_zero: Any, number: int) -> None:
    labels = np.where(SQUARE, number, 7).astype(np.int64)
    found = cluster_zero.compared(labels, SQUARE)
    assert found == ((0.0, 1.0) if number == 0 else (1.0, 1.0))
    assert cluster_zero.compared(labels, np.zeros_like(SQUARE)) is None


def test_masks_of_a_folder_are_scored_as_segment_one_scores_them(
    cluster_zero: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name, levels in (("a", (30, 220)), ("b", (220, 30))):
        Image.fromarray(np.where(SQUARE, *levels).astype(np.uint8)).save(tmp_path / "set/images" / f"{name}.png")
        Image.fromarray(SQUARE.astype(np.uint8) * 255).save(tmp_path / "set/labels" / f"{name}.png")
    result = segment_one(
        batch=tmp_path / "set", output=tmp_path / "masks", method="kmeans", size="native", protocol="released",
        overrides=["clusters=2"],
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["cluster_zero", str(tmp_path / "set"), str(tmp_path / "masks")])
    capsys.readouterr()
    cluster_zero.main()
    cells = [cell.strip() for cell in capsys.readouterr().out.strip().splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == ["2", f"{100 * result.record['means']['best']['dice']:.1f}", "100.0"]
