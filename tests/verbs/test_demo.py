"""demo: made-up scans, and `fit` on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemis.verbs import demo as module
from lemis.verbs.demo import demo


def test_it_writes_scans_once_and_says_what_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fit(folder: Path, **given: object) -> Path:
        calls.append((folder, given))
        return Path(str(given["output"])) / "report" / "index.html"

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "SUBJECTS", 2)
    monkeypatch.setattr(module, "LABELLED", 1)
    page = demo(output=tmp_path, seed=4, device="cpu")
    assert page == tmp_path / "work" / "report" / "index.html"
    scans = sorted((tmp_path / "scans" / "imagesTr").iterdir())
    assert len(scans) == 2
    assert len(list((tmp_path / "scans" / "labelsTr").iterdir())) == 1
    said = capsys.readouterr().err
    assert "2 made-up heart scans, 1 of them labelled" in said
    assert f"lemis fit {tmp_path / 'scans'} -o {tmp_path / 'work'} --preset demo --seed 4" in said
    before = scans[0].stat().st_mtime_ns
    demo(output=tmp_path, seed=4, device="cpu")
    assert scans[0].stat().st_mtime_ns == before
    assert calls[0] == calls[1]
    assert calls[0][1]["preset"] == "demo"


@pytest.mark.slow
def test_the_whole_way_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tmp_path / "short.yaml"
    preset.write_text(
        "finetune: {steps: 20, objective: {size_px: 32}}\npretrain: {steps: 10}\nbackbones: {unet2d: {base_width: 4}}\n"
        "prepare: {spacing_mm: 4}\nmethods: {sal: {size_px: 32, batch_size: 8, per_scan: 4}}\n"
    )
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda folder, **given: fit(folder, **{**given, "preset": str(preset)}))
    page = demo(output=tmp_path / "demo", device="cpu")
    text = page.read_text(encoding="utf-8")
    assert page.is_file()
    assert "sal-m4-fold0" in text
    assert "http://" not in text.replace("http://www.w3.org", "")  # opens without a network
