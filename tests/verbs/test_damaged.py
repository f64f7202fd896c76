"""Damaged arrays, weights and checkpoints: `prepare` makes arrays anew, all else names the file and what to do."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lemis.errors import UsageError
from lemis.preparation.store import open_store
from lemis.runs.run import Run, load_model
from lemis.settings import load_preset, resolve
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import Settings, prepare
from lemis.verbs.pretrain import pretrain

FEW = ("steps=2", "precision=32")


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


ARRAYS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[:-10],
    "longer": lambda content: content + b"x",
    "garbage": lambda content: b"x" * len(content),
    "of objects": lambda _: saved(np.array([{"x": 1}], object)),
    "another shape": lambda content: saved(np.load(io.BytesIO(content))[:1]),
    "another type": lambda content: saved(np.load(io.BytesIO(content)).astype(np.float64)),
    "an open header": lambda _: b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118,
}


def refused(file: Path, says: str, work: Path) -> None:
    store = open_store(work / "prepared")
    place = store.index_of(file.name.partition(".")[0])
    with pytest.raises(UsageError, match=says) as caught:
        store.label(place) if ".label" in file.name else store.image(place)
    assert str(file) in caught.value.given
    assert caught.value.next == f"lemis prepare {work}"


@pytest.mark.parametrize("how", ARRAYS)
@pytest.mark.parametrize("name", ["heart_001.npy", "heart_001.label.npy"])
def test_a_damaged_array_is_refused_and_prepared_anew(name: str, how: str, work: Path) -> None:
    file = work / "prepared" / name
    whole = file.read_bytes()
    file.write_bytes(ARRAYS[how](whole))
    refused(file, "is damaged", work)
    prepare(work, settings=resolve(Settings, load_preset("tiny")["prepare"]), jobs=1)
    assert file.read_bytes() == whole


def test_an_array_that_is_gone_is_named(work: Path) -> None:
    file = work / "prepared" / "heart_001.npy"
    file.unlink()
    refused(file, "it is gone", work)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_damaged_keypoints_are_refused_and_found_anew(content: bytes, work: Path) -> None:
    file = work / "prepared" / "heart_001.keypoints.npz"
    before = open_store(work / "prepared").keypoints(0)
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged") as caught:
        open_store(work / "prepared").keypoints(0)
    assert caught.value.next == f"lemis prepare {work}"
    prepare(work, settings=resolve(Settings, load_preset("tiny")["prepare"]), jobs=1)
    for one, other in zip(before, open_store(work / "prepared").keypoints(0), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"version": 99}'])
def test_a_damaged_meta_is_written_anew(text: str, work: Path) -> None:
    file = work / "prepared" / "meta.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(text)
    with pytest.raises(UsageError, match=r"meta\.json") as caught:
        open_store(work / "prepared")
    assert caught.value.next == f"lemis prepare {work}"
    prepare(work, settings=resolve(Settings, load_preset("tiny")["prepare"]), jobs=1)
    assert file.read_text(encoding="utf-8") == whole


# ------------------------------------------------------------------------------------------- weights and checkpoints


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run in a work folder."""
    folder = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("damaged") / "work"))
    return finetune(folder, name="a", fold=0, preset="tiny", overrides=FEW, device="cpu")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained.parent.parent, tmp_path / "work")) / "runs" / "a"


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"{}", b"\xff" * 100])
def test_damaged_weights_are_refused(content: bytes, run: Path) -> None:
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        predict(run, device="cpu")


def test_weights_cut_short_are_refused(run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        predict(run, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_predict_nothing(value: float, run: Path, tmp_path: Path) -> None:
    weights = load_file(run / "model.safetensors")
    weights["head.weight"][0] = value
    save_file(weights, run / "model.safetensors")
    with pytest.raises(UsageError, match=r"not finite \(head\.weight\)") as caught:
        predict(run, output=tmp_path / "out", device="cpu")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: {}, "holds no weights"),
        (lambda weights: {k: v for k, v in weights.items() if k != "head.weight"}, r"head\.weight is missing"),
        (lambda weights: {**weights, "more": torch.zeros(1)}, "more is"),
        (lambda weights: {**weights, "head.weight": torch.zeros(9)}, r"\(9,\) of torch\.float32"),
        (lambda weights: {**weights, "head.weight": weights["head.weight"].int()}, r"torch\.int32"),
    ],
)
def test_weights_of_another_network_are_refused(change: Callable[[Any], Any], says: str, run: Path) -> None:
    save_file(change(load_file(run / "model.safetensors")), run / "model.safetensors")
    with pytest.raises(UsageError, match=says):
        predict(run, device="cpu")


def test_a_finished_run_without_its_weights_is_trained_again(run: Path) -> None:
    before = load_model(run)[0]
    (run / "model.safetensors").unlink()
    again = finetune(run.parent.parent, name="a", fold=0, preset="tiny", overrides=FEW, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in load_model(again)[0].items())


def half(work: Path) -> Path:
    """A pre-training that was ended before its end; its checkpoint is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_, **__: None)
        more = ("steps=3", "precision=32", "checkpoint_minutes=1e-9")
        return pretrain(work, method="pcl", name="half", preset="tiny", overrides=more, device="cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file.write_bytes(b""), "is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "is damaged"),
        (lambda file: torch.save([1], file), "does not hold step"),
        (lambda file: torch.save({"step": 1}, file), "does not hold step"),
        (lambda file: torch.save({**torch.load(file), "step": -1}, file), "step -1 of 3"),
        (lambda file: torch.save({**torch.load(file), "step": 3}, file), "step 3 of 3"),
        (lambda file: torch.save({**torch.load(file), "objective": {}}, file), "is damaged"),
        (lambda file: torch.save({**torch.load(file), "optimiser": {}}, file), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_words(change: Callable[[Path], Any], says: str, work: Path) -> None:
    file = half(work) / "resume.ckpt"
    change(file)
    again = {"method": "pcl", "name": "half", "preset": "tiny", "overrides": ("steps=3", "precision=32")}
    with pytest.raises(UsageError, match=says) as caught:
        pretrain(work, device="cpu", **again)  # type: ignore[arg-type]
    assert f"delete {file}" in caught.value.next
    file.unlink()
    assert load_model(pretrain(work, device="cpu", **again))  # type: ignore[arg-type]
