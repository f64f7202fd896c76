"""``benchmarks/trust.py``: whatever the structures are called, and however many scans a subject has."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lemis.phantom.dataset import write_dataset
from lemis.work_files.run import read_settings


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # benchmarks are no part of the package
    return importlib.import_module("benchmarks.trust")


def run(trust: Any, monkeypatch: pytest.MonkeyPatch, scans: Path, output: Path, *more: str) -> None:
    few = ["--draws", "0", "--labelled", "2", "--steps", "1", "--tested", "2"]
    monkeypatch.setattr(sys, "argv", ["trust", str(scans), "-o", str(output), *few, *more])
    trust.main()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what SciPy says of two scans
def test_volumes_one_scan_of_a_subject_and_values_that_are_no_ranks(
    trust: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = write_dataset(tmp_path / "scans", "abdomen", subjects=4, shape=(32, 32, 16))
    facts = json.loads((scans / "dataset.json").read_text())
    names = [name for name, value in facts["labels"].items() if value]
    facts["labels"] = {"background": 0, **{name: 10 * value for name, value in facts["labels"].items() if value}}
    (scans / "dataset.json").write_text(json.dumps(facts))
    for file in (scans / "labelsTr").iterdir():
        image = nibabel.load(file)  # type: ignore[attr-defined]
        values = 10 * np.asarray(image.dataobj).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, image.affine), file)  # type: ignore[attr-defined]
    run(trust, monkeypatch, scans, tmp_path / "out", "--backbone", "unet3d")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 0 | 0.800 | 2 |"))
    assert f"of {2 * len(names)} |" in row
    settings = read_settings(tmp_path / "out/draw0/work/runs/fold0")
    assert settings["objective"]["size_px"] == [32, 48, 32]
    draw = trust.Draw(trust.scan_folder(scans), tmp_path / "out/draw0/work", [], [], [])
    assert list(draw.structures) == names
    tested = next((draw.work / "predictions").glob("*.nii.gz"))
    perfect = draw.label(tested.name.removesuffix(".nii.gz"))
    tested.write_bytes(perfect.read_bytes())
    assert set(trust.true_dice(draw, tested.name.removesuffix(".nii.gz")).values()) == {1.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("flags", "width", "mm"), [((), 8, 3.0), (("--preset-as-is",), 16, 2.0)])
def test_slices_of_two_scans_of_a_subject_as_small_as_they_were_or_as_the_preset_has_them(
    trust: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], width: int, mm: float
) -> None:
    scans = write_dataset(tmp_path / "scans", subjects=4, phases=2)
    run(trust, monkeypatch, scans, tmp_path / "out", *flags)
    settings = read_settings(tmp_path / "out/draw0/work/runs/fold0")
    assert (settings["backbone"]["base_width"], settings["prepared"]["spacing_mm"]) == (width, mm)
    assert len(list((tmp_path / "out/draw0/work/predictions").glob("*.nii.gz"))) == 8
