"""The training loop: schedules, accumulation, stopping, resuming, watching."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lemis.contracts import Batch, Draw, Outcome, Sampling, Trained
from lemis.errors import Interrupted, TrainingStopped, UsageError
from lemis.preparation.store import Store, open_store
from lemis.runs.run import Run
from lemis.sampling.samples import Slices, cut
from lemis.settings import resolve
from lemis.training import guards, launch, loop, schedule
from lemis.training.held_out import Scoring, Stop, StoppedScoringError

CPU = torch.device("cpu")
SAMPLING = Sampling(kind="slices", batch_size=6)  # 30 slices: five steps an epoch


class Fake(nn.Module):
    """A loss that is a mean over rows, on views that depend on the draw; what it sees is written down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 4, 3)
        self.seen: list[list[int]] = []

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        self.seen.append(batch.index.tolist())
        embedded = self.layer(batch.image).mean((2, 3)) + 0.1 * rng.normal(len(batch.image), 4)
        return Outcome({"square": (embedded - 1).square().mean()}, {"global": embedded.detach()})


@pytest.fixture(scope="module")
def opened(prepared_work: Path) -> Store:
    return open_store(prepared_work / "prepared")


@pytest.fixture(scope="module")
def slices(opened: Store) -> Slices:
    return Slices(opened, range(len(opened.scans)), CPU)


def settings(**given: Any) -> schedule.Settings:
    plain = {"steps": 10, "learning_rate": 0.05, "precision": "32", "log_every_steps": 1}
    return resolve(schedule.Settings, {**plain, **given})


def train(path: Path, slices: Slices, objective: nn.Module | None = None, **given: Any) -> tuple[nn.Module, Run]:
    """Train a fresh objective (or the given one) in the run folder ``path``."""
    objective = objective or Fake()
    extra = {key: given.pop(key) for key in ("scoring", "sampling") if key in given}
    chosen = settings(**given)
    run = Run(path, {})
    sampling = extra.pop("sampling", SAMPLING)
    loop.train(objective, slices, sampling, chosen, run, launch.launch(chosen, "cpu"), seed=3, **extra)
    return objective, run


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(objective: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# ------------------------------------------------------------------------------------------------- learning rate


def test_cosine_schedule() -> None:
    chosen = settings(learning_rate=0.1, schedule="cosine")
    expected = [0.05 * (1 + math.cos(math.pi * step / 300)) for step in range(300)]
    assert [schedule.learning_rate(chosen, step, 300) for step in range(300)] == pytest.approx(expected)


def test_poly_schedule() -> None:
    chosen = settings(learning_rate=0.2, schedule="poly")
    expected = [0.2 * (1 - step / 70) ** 0.9 for step in range(70)]
    assert [schedule.learning_rate(chosen, step, 70) for step in range(70)] == pytest.approx(expected)


def test_constant_schedule() -> None:
    chosen = settings(learning_rate=0.2, schedule="constant")
    assert {schedule.learning_rate(chosen, step, 70) for step in range(70)} == {0.2}


def test_the_floor_cuts_the_schedule_and_does_not_shift_it() -> None:
    low = settings(learning_rate=5e-4, floor=5e-5)
    free = settings(learning_rate=5e-4)
    rates = [schedule.learning_rate(low, step, 100) for step in range(100)]
    assert rates == [max(5e-5, schedule.learning_rate(free, step, 100)) for step in range(100)]
    assert min(rates) == 5e-5


@given(st.integers(1, 50), st.integers(1, 200), st.sampled_from(["cosine", "poly", "constant"]))
def test_warm_up_rises_linearly_to_the_full_rate(warm_up: int, more: int, shape: str) -> None:
    chosen = settings(learning_rate=0.4, warm_up_steps=warm_up, schedule=shape)
    rates = [schedule.learning_rate(chosen, step, warm_up + more) for step in range(warm_up + more)]
    assert rates[:warm_up] == pytest.approx([0.4 * (step + 1) / warm_up for step in range(warm_up)])
    assert rates[warm_up] == pytest.approx(0.4)
    assert all(later <= earlier for earlier, later in zip(rates[warm_up:], rates[warm_up + 1 :], strict=False))


def test_the_optimiser_gets_the_scheduled_rate(slices: Slices, tmp_path: Path) -> None:
    _, run = train(tmp_path, slices, steps=6, warm_up_steps=3, optimiser="sgd", momentum=0, weight_decay=0)
    chosen = settings(steps=6, warm_up_steps=3)
    assert [line["learning_rate"] for line in lines(run)] == [
        schedule.learning_rate(chosen, step, 6) for step in range(6)
    ]


# --------------------------------------------------------------------------------------------------- one step


def one_step(path: Path, slices: Slices, **given: Any) -> tuple[dict[str, torch.Tensor], float]:
    class Plain(Fake):
        def forward(self, batch: Batch, rng: Draw) -> Outcome:
            return Outcome({"square": (self.layer(batch.image).mean((2, 3)) - 1).square().mean()})

    objective, run = train(path, slices, Plain(), steps=1, optimiser="sgd", momentum=0, **given)
    return weights(objective), lines(run)[0]["loss"]


@pytest.mark.parametrize("parts", [2, 3, 4])  # 4 does not divide the batch of 6: parts of 2, 2, 1 and 1
def test_accumulation_equals_the_whole_batch(slices: Slices, tmp_path: Path, parts: int) -> None:
    whole, loss = one_step(tmp_path / "whole", slices)
    split, split_loss = one_step(tmp_path / "split", slices, accumulate=parts)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)
    assert split_loss == pytest.approx(loss, rel=1e-5)


def test_more_parts_than_rows_are_refused(slices: Slices, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accumulate=7") as caught:
        train(tmp_path, slices, accumulate=7)
    assert caught.value.next == "accumulate=6"


def test_a_batch_that_the_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 10 on 4 processes") as caught:
        guards.refuse_batch(10, 1, 4)
    assert caught.value.next == "method.batch_size=12 to pre-train, objective.batch_size=12 to fine-tune"


def test_clipping_bounds_the_whole_gradient(slices: Slices, tmp_path: Path) -> None:
    before = weights(Fake())
    after, _ = one_step(tmp_path, slices, clip_norm=1e-3, learning_rate=1.0, weight_decay=0)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in ("layer.weight", "layer.bias")])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_every_optimiser_learns(slices: Slices, tmp_path: Path, kind: str) -> None:
    _, run = train(tmp_path, slices, steps=30, optimiser=kind)
    losses = [line["loss"] for line in lines(run)]
    assert losses[-1] < 0.5 * losses[0]


def test_parameters_without_gradient_stay(slices: Slices, tmp_path: Path) -> None:
    objective = Fake()
    objective.layer.bias.requires_grad_(False)
    before = weights(objective)
    train(tmp_path, slices, objective)
    assert torch.equal(objective.layer.bias, before["layer.bias"])
    assert not torch.equal(objective.layer.weight, before["layer.weight"])


def test_streamed_and_resident_training_are_equal(opened: Store, slices: Slices, tmp_path: Path) -> None:
    streamed = Slices(opened, range(len(opened.scans)), CPU, resident=False)
    assert slices.resident
    assert not streamed.resident
    one, _ = train(tmp_path / "resident", slices, steps=8)
    other, _ = train(tmp_path / "streamed", streamed, steps=8)
    assert_same(weights(one), weights(other))


def test_an_epoch_sees_every_slice_once(slices: Slices, tmp_path: Path) -> None:
    objective, _ = train(tmp_path, slices, steps=None, epochs=2)
    assert isinstance(objective, Fake)
    first, second = (np.concatenate(objective.seen[k : k + 5]) for k in (0, 5))
    assert sorted(first) == sorted(second) == list(range(30))
    assert list(first) != list(second)


def test_another_seed_draws_other_batches(slices: Slices, tmp_path: Path) -> None:
    fakes = [Fake(), Fake()]
    for seed, fake in enumerate(fakes):
        chosen = settings(steps=1)
        run = Run(tmp_path / str(seed), {})
        loop.train(fake, slices, SAMPLING, chosen, run, launch.launch(chosen, "cpu"), seed=seed)
    assert fakes[0].seen != fakes[1].seen


KEEPING = Sampling(kind="slices", batch_size=8, last="keep")  # 30 slices: three steps of 8 and one of 6


def test_the_smaller_last_batch_is_a_step_of_its_own(slices: Slices, tmp_path: Path) -> None:
    objective, run = train(tmp_path, slices, sampling=KEEPING, steps=None, epochs=2)
    assert isinstance(objective, Fake)
    assert [len(rows) for rows in objective.seen] == [8, 8, 8, 6] * 2
    first, second = (np.concatenate(objective.seen[k : k + 4]) for k in (0, 4))
    assert sorted(first) == sorted(second) == list(range(30))
    assert [line["epoch"] for line in lines(run)] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("accumulate", "sizes"), [(3, [8, 8, 8, 6]), (6, [8, 8, 8, 6]), (7, [8, 8, 8])])
def test_a_last_batch_with_less_than_a_row_for_each_part_is_dropped(
    slices: Slices, tmp_path: Path, accumulate: int, sizes: list[int]
) -> None:
    objective, _ = train(tmp_path, slices, sampling=KEEPING, steps=None, epochs=1, accumulate=accumulate)
    assert isinstance(objective, Fake)
    assert [
        sum(map(len, objective.seen[k : k + accumulate])) for k in range(0, len(objective.seen), accumulate)
    ] == sizes
    assert all(objective.seen), "no part is empty"


@given(
    rows=st.integers(1, 60), whole=st.integers(1, 5), parts=st.integers(1, 3), world=st.integers(1, 4),
    in_pairs=st.booleans(),
)  # fmt: skip
def test_processes_and_parts_share_a_last_batch(rows: int, whole: int, parts: int, world: int, in_pairs: bool) -> None:
    unit = world * parts * (2 if in_pairs else 1)
    sampling = Sampling(kind="slices", batch_size=whole * unit, last="keep", in_pairs=in_pairs)
    drawn = cut(np.arange(rows), sampling)
    found = guards.shareable(drawn, sampling, parts, world)
    assert len(drawn) - 1 <= len(found) <= len(drawn)
    assert found
    for one, other in zip(drawn, found, strict=False):
        assert np.array_equal(one[: len(other)], other)
    if len(drawn) == 1:
        assert found[0] is drawn[0], "what is the only batch, refuse_batch judges"
        return
    for batch in found:
        guards.refuse_batch(len(batch), parts, world)  # as for a whole one
        for rank in range(world):
            mine = batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]
            for part in range(parts):
                assert world == 1 or not in_pairs or len(mine[part::parts]) % 2 == 0
    left_out = rows - sum(map(len, found))
    assert left_out < (unit if world > 1 and in_pairs else world * parts)


def test_stopped_and_resumed_at_a_smaller_last_batch_equals_uninterrupted(slices: Slices, tmp_path: Path) -> None:
    whole, once = train(tmp_path / "whole", slices, sampling=KEEPING, steps=None, epochs=3)
    for cut_at in (3, 4):  # before it and after it
        path = tmp_path / f"cut {cut_at}"
        with pytest.raises(Interrupted):
            train(path, slices, Signalling(cut_at, signal.SIGTERM), sampling=KEEPING, steps=None, epochs=3)
        halves, twice = train(path, slices, sampling=KEEPING, steps=None, epochs=3)
        assert isinstance(halves, Fake)
        assert len(halves.seen) == 12 - cut_at
        assert_same(weights(whole), weights(halves))
        assert [line["loss"] for line in lines(once)] == [line["loss"] for line in lines(twice)]


# ------------------------------------------------------------------------------------------------------- log


def test_figures_are_means_since_the_last_line(slices: Slices, tmp_path: Path) -> None:
    _, every = train(tmp_path / "every", slices, steps=10)
    _, some = train(tmp_path / "some", slices, steps=10, log_every_steps=4)
    losses = [line["loss"] for line in lines(every)]
    expected = [np.mean(losses[0:4]), np.mean(losses[4:8]), np.mean(losses[8:10])]
    assert [line["step"] for line in lines(some)] == [4, 8, 10]
    # The loss of two epochs of five: a mean never looks back over the end of the epoch's verdict.
    assert [line["loss"] for line in lines(some)] == pytest.approx(expected, rel=1e-5)


def test_the_status_names_the_steps_that_were_done(slices: Slices, tmp_path: Path) -> None:
    _, run = train(tmp_path, slices, steps=7)
    assert (run.status().step, run.status().steps) == (7, 7)


def test_losses_and_score_of_a_step_share_a_line(slices: Slices, tmp_path: Path) -> None:
    _, run = train(tmp_path, slices, steps=7, log_every_steps=2, scoring=Scoring(lambda _: {"score": 1.0}, 2, 1.0))
    scored = {line["step"]: "score" in line for line in lines(run)}
    assert scored == {2: False, 3: True, 4: False, 6: True, 7: True}


def test_precision_names() -> None:
    assert launch.precision(settings(precision="32"), "cpu") == "32-true"
    assert launch.precision(settings(precision="bf16"), "cpu") == "bf16-mixed"
    assert launch.precision(settings(precision="16"), "cuda") == "16-mixed"
    assert launch.precision(settings(precision="auto"), "cpu") in ("32-true", "bf16-mixed")
    assert settings(precision=32).precision == "32"  # a number, as YAML reads it


def test_half_precision_on_a_cpu_is_refused_and_never_replaced() -> None:
    with pytest.raises(UsageError, match="precision=16 on a CPU") as caught:
        launch.launch(settings(precision="16"), "cpu")
    assert caught.value.next == "precision=bf16"


def test_three_dimensions_are_float32_on_a_cpu() -> None:
    assert launch.precision(settings(precision="auto"), "cpu", 3) == "32-true"
    assert launch.precision(settings(precision="bf16"), "cpu", 2) == "bf16-mixed"
    assert launch.precision(settings(precision="bf16"), "cuda", 3) == "bf16-mixed"
    with pytest.raises(UsageError, match="precision=bf16 for a network of three dimensions on a CPU"):
        launch.launch(settings(precision="bf16"), "cpu", 3)


def test_bf16_trains_close_to_float32(slices: Slices, tmp_path: Path) -> None:
    _, exact = train(tmp_path / "32", slices)
    _, rough = train(tmp_path / "bf16", slices, precision="bf16")
    one, other = ([line["loss"] for line in lines(run)] for run in (exact, rough))
    assert other != one
    assert other == pytest.approx(one, rel=0.03)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(UsageError, match="--device cuda") as caught:
        launch.launch(settings(), "cuda")
    assert caught.value.next == "lemis doctor"


# ----------------------------------------------------------------------------------------------------- stopping


class Exploding(Fake):
    """A loss that is infinite at one step, or weights that are."""

    def __init__(self, step: int, *, weights: bool = False) -> None:
        super().__init__()
        self.step, self.weights = step, weights

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        outcome = super().forward(batch, rng)
        if len(self.seen) == self.step:
            # sqrt has an infinite slope at 0: the value is finite, its gradient is not.
            spoilt = (0 * self.layer.weight).sum().sqrt() if self.weights else math.inf
            return outcome._replace(losses={"square": outcome.losses["square"] + spoilt})
        return outcome


def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(
    slices: Slices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Exploding(4)
    run = Run(tmp_path, {})
    chosen = settings(checkpoint_minutes=1e-9)
    with pytest.raises(TrainingStopped, match="the loss of step 4 is not finite: square = inf") as caught:
        loop.train(objective, slices, SAMPLING, chosen, run, launch.launch(chosen, "cpu"), seed=3)
    ids = {slices.store.scans[int(slices.scan[row])].id for row in objective.seen[3]}
    assert all(id in str(caught.value) for id in ids)
    assert str(run.checkpoint) in str(caught.value)
    state = run.load_checkpoint(CPU)
    assert state is not None
    assert state["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in state["objective"].values())
    assert_same(state["objective"], weights(objective))  # step 4 changed nothing


def test_a_first_step_that_is_not_finite_says_that_there_is_no_checkpoint(slices: Slices, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="last good checkpoint: none yet"):
        train(tmp_path, slices, Exploding(1))


@pytest.mark.parametrize("step", [4, 10])  # before a checkpoint, and at the end
def test_weights_that_are_not_finite_are_never_written(slices: Slices, tmp_path: Path, step: int) -> None:
    minutes = 1e-9 if step == 4 else 10
    with pytest.raises(TrainingStopped, match=f"after step {step} the weights are not finite") as caught:
        train(tmp_path, slices, Exploding(step, weights=True), checkpoint_minutes=minutes)
    assert ("resume.ckpt" in str(caught.value)) == (step == 4)
    state = Run(tmp_path, {}).load_checkpoint(CPU)
    assert (state is None) if step == 10 else (state is not None and state["step"] == 3)


class Signalling(Fake):
    """Sends itself a signal in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__()
        self.step, self.number = step, number

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        if len(self.seen) + 1 == self.step:
            os.kill(os.getpid(), self.number)
        return super().forward(batch, rng)


def test_sigusr1_writes_a_checkpoint_and_goes_on(slices: Slices, tmp_path: Path) -> None:
    _, run = train(tmp_path, slices, Signalling(4, signal.SIGUSR1))
    state = run.load_checkpoint(CPU)
    assert state is not None
    assert state["step"] == 4
    assert lines(run)[-1]["step"] == 10


def test_sigterm_writes_a_checkpoint_and_stops_and_the_same_command_goes_on(slices: Slices, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 4, with a checkpoint"):
        train(tmp_path / "cut", slices, Signalling(4, signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before
    resumed, run = train(tmp_path / "cut", slices)
    assert isinstance(resumed, Fake)
    assert len(resumed.seen) == 6
    whole, _ = train(tmp_path / "whole", slices)
    assert_same(weights(resumed), weights(whole))
    assert [line["step"] for line in lines(run)] == list(range(1, 11))


@pytest.mark.parametrize("times", [1, 2])  # at the end, and in the middle
def test_told_to_end_while_it_scores_it_stops_there_and_scores_first_when_it_goes_on(
    slices: Slices, tmp_path: Path, times: int
) -> None:
    def told(stop: Stop) -> dict[str, float]:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        if stop():
            raise StoppedScoringError
        raise AssertionError("it was told")

    asked: list[int] = []

    def score(_: Stop) -> dict[str, float]:
        asked.append(1)
        return {"score": 1.0}

    with pytest.raises(Interrupted, match=f"stopped after step {10 // times}, with a checkpoint"):
        train(tmp_path / "cut", slices, scoring=Scoring(told, times, 1.0))
    resumed, run = train(tmp_path / "cut", slices, scoring=Scoring(score, times, 1.0))
    whole, once = train(tmp_path / "whole", slices, scoring=Scoring(score, times, 1.0))
    assert len(asked) == 2 * times
    assert_same(weights(resumed), weights(whole))
    for one, other in zip(lines(run), lines(once), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_training_works_outside_the_main_thread(slices: Slices, tmp_path: Path) -> None:
    results: list[Run] = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path, slices, steps=2)[1]))
    thread.start()
    thread.join()
    assert lines(results[0])[-1]["step"] == 2


class Resting(Fake, Trained):
    """The bias takes no step from a half to three quarters of training, though it has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()))
        self.biases: list[torch.Tensor] = []

    def resting(self) -> list[nn.Parameter]:
        return [self.layer.bias] if 0.5 <= float(self.progress) < 0.75 else []  # type: ignore[list-item]

    def after_step(self, progress: float) -> None:
        assert self.layer.bias is not None
        self.progress.fill_(progress)
        self.biases.append(self.layer.bias.detach().clone())


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_what_rests_is_not_moved_by_decay_or_momentum(
    slices: Slices, tmp_path: Path, kind: str, clip_norm: float | None
) -> None:
    objective, _ = train(tmp_path, slices, Resting(), steps=20, optimiser=kind, weight_decay=0.1, clip_norm=clip_norm)
    assert isinstance(objective, Resting)
    biases = objective.biases
    moved = [step for step in range(2, 21) if not torch.equal(biases[step - 1], biases[step - 2])]
    assert moved == [*range(2, 11), *range(16, 21)]


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("cut", [4, 5])  # inside an epoch and at its end
def test_stopped_and_resumed_equals_uninterrupted_in_all_state(
    slices: Slices, tmp_path: Path, kind: str, cut: int
) -> None:
    whole, once = train(tmp_path / "whole", slices, Signalling(9, signal.SIGUSR1), optimiser=kind)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", slices, Signalling(cut, signal.SIGTERM), optimiser=kind)
    halves, twice = train(tmp_path / "cut", slices, Signalling(9 - cut, signal.SIGUSR1), optimiser=kind)
    assert_same(weights(whole), weights(halves))
    one, other = once.load_checkpoint(CPU), twice.load_checkpoint(CPU)  # both of step 9
    assert one is not None
    assert other is not None
    assert one["step"] == other["step"] == 9
    assert_same(one["objective"], other["objective"])
    assert one["optimiser"]["param_groups"] == other["optimiser"]["param_groups"]
    for place, state in one["optimiser"]["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["optimiser"]["state"][place][name])), name
    drop = {"seconds"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in lines(once)] == [
        {k: v for k, v in line.items() if k not in drop} for line in lines(twice)
    ]


def test_what_was_logged_beyond_the_checkpoint_is_forgotten(slices: Slices, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, slices, Signalling(4, signal.SIGTERM))
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 9.0}\n{"step": 6, "lo')  # a process killed while it wrote
    _, run = train(tmp_path, slices)
    assert [line["step"] for line in lines(run)] == list(range(1, 11))
    assert all(line["loss"] != 9.0 for line in lines(run))


# ----------------------------------------------------------------------------------------------- method hooks


def test_hooks_of_a_method_are_called_once_a_step_and_once_an_epoch(slices: Slices, tmp_path: Path) -> None:
    from lemis import contracts

    class Hooked(contracts.Method):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fake()
            self.steps: list[float] = []
            self.epochs: list[float] = []

        def forward(self, batch: Batch, rng: Draw) -> Outcome:
            outcome: Outcome = self.inner(batch, rng)
            return outcome

        def after_step(self, progress: float) -> None:
            self.steps.append(progress)

        def after_epoch(self, progress: float) -> None:
            self.epochs.append(progress)

    hooked = Hooked()
    train(tmp_path, slices, hooked, steps=12)
    assert hooked.steps == [(step + 1) / 12 for step in range(12)]
    assert hooked.epochs == [5 / 12, 10 / 12, 1.0]


# ----------------------------------------------------------------------------------------------- slower weights


def slow_and_fast(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    two = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    chosen = settings(optimiser=kind, weight_decay=0.01, learning_rate=0.1, warm_up_steps=2, schedule="poly", steps=6)
    optimiser = schedule.build_optimiser(two, chosen, schedule.Slower(list(two[0].parameters()), 0.25))
    for step in range(6):
        schedule.set_rate(optimiser, schedule.learning_rate(chosen, step, 6))
        rates = [group["lr"] for group in optimiser.param_groups]
        assert rates == pytest.approx(
            [schedule.learning_rate(chosen, step, 6), schedule.learning_rate(chosen, step, 6) / 4]
        )
        two(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return two, optimiser


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_slower_weights_move_as_with_a_schedule_of_their_own(kind: str) -> None:
    two, _ = slow_and_fast(kind)
    torch.manual_seed(0)
    again = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=0.01),
            "adam": lambda p: torch.optim.Adam(p, weight_decay=0.01),
            "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.01)}[kind]  # fmt: skip
    slow, fast = make(again[0].parameters()), make(again[1].parameters())
    for step in range(6):
        rate = 0.1 * ((step + 1) / 2 if step < 2 else (1 - (step - 2) / 4) ** 0.9)
        slow.param_groups[0]["lr"], fast.param_groups[0]["lr"] = rate / 4, rate
        again(torch.ones(1, 3)).square().sum().backward()
        for optimiser in (slow, fast):
            optimiser.step()
            optimiser.zero_grad()
    for one, other in zip(two.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_share_of_slower_weights_is_in_the_checkpoint() -> None:
    _, optimiser = slow_and_fast("sgd")
    assert [group.get("share") for group in optimiser.state_dict()["param_groups"]] == [None, 0.25]


def test_weights_that_are_all_slow_or_none_are_in_one_group() -> None:
    layer = nn.Linear(2, 2)
    slow = list(layer.parameters())
    for slower in (schedule.ALIKE, schedule.Slower(slow, 1.0), schedule.Slower((), 0.1)):
        (group,) = schedule.build_optimiser(layer, settings(), slower).param_groups
        assert "share" not in group
    (group,) = schedule.build_optimiser(layer, settings(), schedule.Slower(slow, 0.1)).param_groups
    assert group["share"] == 0.1
    slow[0].requires_grad_(False)
    (group,) = schedule.build_optimiser(layer, settings(), schedule.Slower(slow, 0.1)).param_groups
    assert [id(p) for p in group["params"]] == [id(slow[1])]
