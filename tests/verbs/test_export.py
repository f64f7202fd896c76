"""export: what lies beside exported weights says what they expect, and names nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

import lemis
from lemis.errors import UsageError
from lemis.exchange import requests
from lemis.preparation.store import open_store
from work_files_made import evaluate

FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a pre-training ``before`` and a fine-tuning ``after``, which was scored."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("exported") / "work"))
    before = lemis.pretrain(work, method="simclr", name="before", preset="tiny", overrides=FEW, device="cpu")
    lemis.finetune(work, pretrained=before, name="after", fold=0, preset="tiny", overrides=FEW, device="cpu")
    lemis.predict([work / "runs" / "after"], device="cpu")
    evaluate(work)
    return work


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both runs, exported."""
    out = tmp_path_factory.mktemp("out")
    return {
        "before": lemis.export(trained / "runs" / "before", output=out / "before"),
        "after": lemis.export(trained / "runs" / "after", output=out / "after", licence="CC-BY-4.0"),
    }


def test_the_folder_holds_the_weights_and_what_they_expect(trained: Path, exported: dict[str, Path]) -> None:
    for name, folder in exported.items():
        assert {file.name for file in folder.iterdir()} == {
            "README.md",
            "expects.json",
            "model.safetensors",
            "network.py",
        }
        theirs, ours = (load_file(place / "model.safetensors") for place in (folder, trained / "runs" / name))
        assert theirs.keys() == ours.keys()
        assert all(bool((theirs[key] == ours[key]).all()) for key in ours)
    store = open_store(trained / "prepared")
    expects = json.loads((exported["after"] / "expects.json").read_text(encoding="utf-8"))
    assert expects["spacing_mm"] == store.settings["spacing_mm"]
    assert expects["field_of_view_mm"] == store.settings["field_of_view_mm"]
    assert tuple(expects["channels"]) == tuple(store.channels)
    assert [(one["name"], one["value"]) for one in expects["classes"]] == list(
        zip(store.label_names, store.label_values, strict=True)
    )
    assert (expects["dims"], expects["multiple_of"], expects["normalise"]) == (2, 16, "zscore")
    assert len(expects["axes"]) == 3
    assert any("standard deviation" in step for step in expects["steps"])
    before = json.loads((exported["before"] / "expects.json").read_text(encoding="utf-8"))
    assert (before["classes"], before["trained"]) == ([], ["encoder"])


def names_in(work: Path) -> Iterator[str]:
    for facts in open_store(work / "prepared").scans:
        yield facts.id
        yield facts.subject


def test_nobody_is_named(trained: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    bundle = lemis.export(trained / "runs" / "after", output=tmp_path / "bundle", to="monai")
    for folder in (*exported.values(), bundle):
        for file in (path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            assert not any(name.encode() in content for name in names_in(trained)), file
            assert str(trained).encode() not in content, file


def test_the_card_tells_data_method_results_and_licence(exported: dict[str, Path]) -> None:
    card = (exported["after"] / "README.md").read_text(encoding="utf-8")
    assert "labels of 2 subjects" in card
    assert "6 subjects: images in pre-training" in card
    assert "simclr: " in card
    assert "https://arxiv.org/abs/1505.04597" in card
    assert "## Licence\n\nCC-BY-4.0" in card
    assert "| structure | Dice | HD95, mm |" in card
    assert "Transductive: pre-training saw the images" in card
    before = (exported["before"] / "README.md").read_text(encoding="utf-8")
    assert "pre-trained without labels by simclr" in before
    assert "Not stated. Whoever hands these weights on must state one" in before
    assert "a pre-training has no classes to be scored" in before


def test_again_into_the_same_folder_and_not_among_other_files(trained: Path, tmp_path: Path) -> None:
    run = trained / "runs" / "before"
    for _ in range(2):
        lemis.export(run, output=tmp_path / "out")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(UsageError, match="which holds other files"):
        lemis.export(run, output=tmp_path / "photos")


def test_two_exports_never_lie_in_one_folder(trained: Path, tmp_path: Path) -> None:
    run = trained / "runs" / "after"
    lemis.export(run, output=tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for to in ("onnx", "monai"):
        with pytest.raises(UsageError, match=r"which holds an export for torch") as caught:
            lemis.export(run, output=tmp_path / "out", to=to)
        assert caught.value.next == f"lemis export {run} -o {tmp_path / f'after-{to}'} --to {to}"
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    made = tmp_path / "nnunet"
    made.mkdir()
    for name in ("other.pth", "expects.json"):
        (made / name).touch()
    with pytest.raises(UsageError, match=r"which holds an export of another run, other\.pth"):
        requests.refuse_export(run, made, "nnunet")
    requests.refuse_export(trained / "runs" / "other", made, "nnunet")


@pytest.mark.parametrize("to", ["torch", "monai"])
def test_what_is_interrupted_leaves_nothing_and_goes_again(
    to: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = trained / "runs" / "after", tmp_path / "new" / "out"

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lemis.verbs.export.write_expects", stop)  # after weights and network
        with pytest.raises(KeyboardInterrupt):
            lemis.export(run, output=out, to=to)
        assert not out.exists()
    (out / ".1.part").mkdir(parents=True)  # of a process that was killed
    lemis.export(run, output=out, to=to)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("lemis.verbs.export.write_expects", stop)
        with pytest.raises(KeyboardInterrupt):
            lemis.export(run, output=out, to=to, licence="MIT")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_what_is_no_finished_run_is_told_those_there_are(trained: Path, tmp_path: Path) -> None:
    runs = trained / "runs"
    with pytest.raises(UsageError, match=r"nothing is not there") as caught:
        lemis.export(runs / "nothing", output=tmp_path / "out")
    assert caught.value.next == f"name a finished run: {runs / 'after'}, {runs / 'before'}"
    for folder in (trained, runs):
        with pytest.raises(UsageError, match=r"has no model\.json") as caught:
            lemis.export(folder, output=tmp_path / "out")
        assert caught.value.next == f"name a finished run: {runs / 'after'}, {runs / 'before'}"
    with pytest.raises(UsageError, match=r"index\.json is no folder"):
        lemis.export(trained / "index.json", output=tmp_path / "out")
    (tmp_path / "begun").mkdir()
    shutil.copy(runs / "after" / "environment.json", tmp_path / "begun")
    with pytest.raises(UsageError, match=r"begun has no model\.json") as caught:
        lemis.export(tmp_path / "begun", output=tmp_path / "out")
    assert caught.value.next.startswith("finish it with the command that began it: ")
    with pytest.raises(UsageError, match=r"is not there") as caught:
        lemis.export(tmp_path / "away" / "run", output=tmp_path / "out")
    assert caught.value.next == "train one: lemis fit SCANS -o WORK"
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_none_or_lacks_its_packages(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained / "runs" / "before"
    with pytest.raises(UsageError, match="--to tflite"):
        lemis.export(run, output=tmp_path / "out", to="tflite")
    monkeypatch.setattr(requests, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="without onnx, onnxscript, onnxruntime") as caught:
        lemis.export(run, output=tmp_path / "out", to="onnx")
    assert caught.value.next.startswith("pip install onnx")
