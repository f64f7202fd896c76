"""Fine-tuning with an average that predicts, slower loaded weights, or losses on inner maps: what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lemis.errors import Interrupted, UsageError
from lemis.runs.run import load_model
from lemis.training import loop, schedule
from lemis.training.guards import Signals
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict
from lemis.verbs.pretrain import pretrain

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


@pytest.mark.slow
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
@pytest.mark.slow
def test_an_average_is_gone_on_from(semi: str | None, work: Path, stopped: Stopped) -> None:
    given = ("steps=6", "average=0.9")
    whole, resumed = (train(*given, semi=semi) for train in (partial(tune, work), stopped))
    assert same(whole, resumed)
    assert lines(whole) == lines(resumed)


@pytest.mark.parametrize("key", ["average", "loaded_rate"])
@pytest.mark.parametrize("value", ["1.5", "-0.1", "true", "often"])
def test_a_share_that_is_none_is_refused(key: str, value: str, work: Path) -> None:
    with pytest.raises(UsageError, match=key) as error:
        tune(work, f"{key}={value}")
    assert key in error.value.next


@pytest.mark.parametrize("key", ["average", "loaded_rate"])
def test_pre_training_has_neither(key: str, phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"unknown setting pretrain\.{key}"):
        fit(phantom_scans, output=tmp_path, overrides=[f"pretrain.{key}=0.9"], device="cpu")


@pytest.fixture
def start(work: Path) -> Path:
    """A pre-training of the encoder."""
    return pretrain(work, method="simclr", preset="tiny", overrides=["steps=2", "precision=32"], device="cpu")


def moved(run: Path, start: Path) -> dict[str, float]:
    """How far each weight is from what the pre-training gave."""
    before, after = load_model(start)[0], load_model(run)[0]
    return {name: float((after[name] - before[name]).abs().max()) for name in before if "num_batches" not in name}


def weights_of(moved: dict[str, float], part: str) -> list[float]:
    statistics = ("running_mean", "running_var")
    return [value for name, value in moved.items() if name.startswith(part) and not name.endswith(statistics)]


@pytest.mark.parametrize("semi", [None, "mean_teacher", "bcp", "cps"])
@pytest.mark.parametrize(
    "how", [("optimiser=adam", "weight_decay=0.1"), ("optimiser=sgd", "momentum=0.9", "average=0.5")]
)
def test_loaded_weights_and_their_statistics_rest_where_their_rate_is_zero(
    semi: str | None, how: tuple[str, ...], work: Path, start: Path
) -> None:
    run = tune(work, "loaded_rate=0", *how, pretrained=start, semi=semi)
    before, after = load_model(start)[0], load_model(run)[0]
    for name, value in before.items():
        if name.startswith("encoder"):
            assert torch.equal(after[name], value), name
    assert min(weights_of(moved(run, start), "decoder")) > 0, "fresh"
    if semi is None:
        predict(run, scans=["heart_004"], device="cpu")


def test_the_encoder_alone_is_taken_from_a_method_that_trains_more(work: Path) -> None:
    start = pretrain(work, method="mae", preset="tiny", overrides=["steps=2", "precision=32"], device="cpu")
    all_parts, encoder = (tune(work, "loaded_rate=0", *how, pretrained=start) for how in ((), ("load=encoder",)))
    assert max(weights_of(moved(all_parts, start), "decoder")) == 0, "at rest too"
    assert min(weights_of(moved(encoder, start), "decoder")) > 0, "fresh"
    assert max(weights_of(moved(encoder, start), "encoder")) == 0


@pytest.mark.slow
def test_what_rests_is_gone_on_from(work: Path, start: Path, stopped: Stopped) -> None:
    given = ("steps=6", "loaded_rate=0", "average=0.9")
    whole, resumed = (train(*given, pretrained=start) for train in (partial(tune, work), stopped))
    assert same(whole, resumed)
    assert lines(whole) == lines(resumed)


def test_nothing_can_rest_from_scratch(work: Path, phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loaded_rate=0 from scratch") as error:
        tune(work, "loaded_rate=0")
    assert error.value.next == "--pretrained WORK/runs/pcl loaded_rate=0"
    with pytest.raises(UsageError, match=r"finetune\.loaded_rate=0 from scratch") as error:
        fit(phantom_scans, output=tmp_path / "out", method="scratch", overrides=["finetune.loaded_rate=0"])
    assert error.value.next == "--method pcl finetune.loaded_rate=0"
    assert not (tmp_path / "out").exists(), "before anything is prepared"


def test_loaded_weights_are_slow_where_their_rate_is_small(work: Path, start: Path) -> None:
    full, slow = (
        moved(tune(work, f"loaded_rate={rate}", "optimiser=adam", "schedule=constant", "floor=0", "weight_decay=0",
                   pretrained=start), start)
        for rate in (1, 0.01)
    )  # fmt: skip
    assert any(value > 0 for name, value in slow.items() if "running_mean" in name), "statistics are not learned"
    # Adam's steps are about as long as the learning rate: four of 1e-3, or of a hundredth of it.
    assert 1e-3 < max(weights_of(full, "encoder")) < 8e-3
    assert 1e-5 < max(weights_of(slow, "encoder")) < 8e-5


@pytest.mark.slow
def test_the_full_rate_is_the_default_and_from_scratch_it_changes_nothing(work: Path, start: Path) -> None:
    assert tune(work, "loaded_rate=1", pretrained=start) == tune(work, pretrained=start)
    scratch, slow = tune(work), tune(work, "loaded_rate=0.1")
    assert scratch != slow, "a folder of its own"
    assert same(scratch, slow)


def test_both_networks_of_a_way_that_trains_two_learn_slowly(
    work: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    original = schedule.build_optimiser

    def watched(module: torch.nn.Module, settings: Any, slower: Any) -> torch.optim.Optimizer:
        optimiser = original(module, settings, slower)
        seen.append([len(group["params"]) for group in optimiser.param_groups])
        return optimiser

    monkeypatch.setattr(loop, "build_optimiser", watched)
    for semi in (None, "cps"):
        tune(work, "steps=1", "loaded_rate=0.1", pretrained=start, semi=semi)
    assert seen[1] == [2 * count for count in seen[0]]
    assert len(seen[0]) == 2


@pytest.mark.slow
def test_slower_weights_are_gone_on_from(work: Path, start: Path, stopped: Stopped) -> None:
    given = ("steps=6", "loaded_rate=0.2", "average=0.9")
    whole, resumed = (train(*given, semi="cps", pretrained=start) for train in (partial(tune, work), stopped))
    assert same(whole, resumed)
    assert lines(whole) == lines(resumed)


DEEP = "objective.deep_supervision=true"


@pytest.mark.slow
def test_heads_of_inner_maps_are_gone_on_from_and_not_kept(work: Path, stopped: Stopped) -> None:
    plain = tune(work)
    whole, resumed = (train("steps=6", DEEP) for train in (partial(tune, work), stopped))
    assert same(whole, resumed)
    assert lines(whole) == lines(resumed)
    assert {"loss/level 1/dice", "loss/level 2/cross_entropy"} <= lines(whole)[0].keys()
    assert load_model(whole)[0].keys() == load_model(plain)[0].keys()
    assert not same(tune(work, DEEP), plain)
    assert tune(work, "objective.deep_supervision=false") == plain
    predict(whole, scans=["heart_004"], device="cpu")


@pytest.mark.parametrize("backbone", ["unet3d", "kaf_unet"])
def test_inner_maps_of_volumes_and_of_a_network_with_keypoints(backbone: str, work: Path) -> None:
    run = tune(work, "steps=1", "evaluations=0", "average=0.9", DEEP, backbone=backbone)
    levels = {name for name in lines(run)[0] if name.startswith("loss/level")}
    assert levels == {f"loss/level {level}/{name}" for level in ((1,) if backbone == "unet3d" else (1, 2))
                      for name in ("cross_entropy", "dice")}  # fmt: skip


def test_inner_maps_are_for_labels_alone_and_for_deep_networks(work: Path) -> None:
    with pytest.raises(UsageError, match="deep_supervision=true with --semi bcp"):
        tune(work, DEEP, semi="bcp")
    with pytest.raises(UsageError, match="a network of 2 decoder blocks"):
        tune(work, DEEP, backbone="fcn")
    assert not (work / "runs").exists() or not list((work / "runs").iterdir()), "no folder is left"
