"""Watching for collapse: figures of known embeddings, and warnings where they belong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemis.contracts import Outcome
from lemis.runs.run import Run
from lemis.training.collapse import FEWEST_STEPS, SHORT_STEPS, Watch, mean_cosine, spread

EPOCH = FEWEST_STEPS


def test_equal_vectors_have_no_spread() -> None:
    z = torch.full((8, 5), 3.0)
    assert spread(z) == pytest.approx(0, abs=1e-6)
    assert mean_cosine(z) == pytest.approx(1)


def test_axes_both_ways_are_spread_evenly() -> None:
    z = torch.cat([torch.eye(6), -torch.eye(6)])
    assert spread(z) == pytest.approx(1)
    assert mean_cosine(z) == pytest.approx(-1 / 11)  # each has one opposite among eleven others


@given(st.integers(2, 12), st.integers(2, 9), st.integers(0, 99), st.floats(0.1, 100))
def test_mean_cosine_is_that_of_all_pairs_and_length_does_not_matter(n: int, d: int, seed: int, length: float) -> None:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    directions = z / z.norm(dim=1, keepdim=True)
    pairs = [float(directions[i] @ directions[j]) for i in range(n) for j in range(n) if i != j]
    assert mean_cosine(z) == pytest.approx(np.mean(pairs), abs=1e-5)
    assert mean_cosine(length * z) == pytest.approx(mean_cosine(z), abs=1e-5)
    assert spread(length * z) == pytest.approx(spread(z), abs=1e-5)
    # Both tell the same story: spread^2 = 1 - |mean direction|^2.
    assert spread(z) ** 2 == pytest.approx((n - 1) / n * (1 - mean_cosine(z)), abs=1e-5)


def outcome(loss: float, z: torch.Tensor, name: str = "global") -> Outcome:
    return Outcome({"contrast": torch.tensor(loss)}, {name: z}, {"contrast": math.log(31)})


def watched(run: Run, seen: Outcome, *, epochs: int = 1, patience: int = FEWEST_STEPS, per_epoch: int = EPOCH) -> None:
    watch = Watch(run, patience)
    for epoch in range(epochs):
        for _ in range(per_epoch):
            watch.see(seen)
        watch.end_of_epoch(epoch, (epoch + 1) * per_epoch)


def warnings(run: Run) -> list[str]:
    return list(run.status().warnings)


HEALTHY = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
COLLAPSED = torch.ones(32, 16) + 1e-3 * HEALTHY


def test_a_healthy_run_is_left_in_peace(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    watched(run, outcome(2.0, HEALTHY), epochs=3)
    assert warnings(run) == []


def test_a_collapsed_embedding_is_named_in_the_first_epoch_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, {})
    watched(run, outcome(2.0, COLLAPSED), epochs=4)
    (text,) = warnings(run)
    assert text.startswith("epoch 1: the global embedding has collapsed")
    assert "a smaller learning rate (learning_rate=0.033)" in text
    assert capsys.readouterr().err.count("warning:") == 1


def test_a_short_training_may_only_be_too_short(tmp_path: Path) -> None:
    short, long = Run(tmp_path / "short", {}), Run(tmp_path / "long", {})
    watched(short, outcome(2.0, COLLAPSED))
    assert warnings(short)[0].endswith(f"Or {EPOCH} steps are too few to tell.")
    watched(long, outcome(2.0, COLLAPSED), per_epoch=SHORT_STEPS)
    assert warnings(long)[0].endswith("or a larger batch.")


def test_a_collapsed_local_embedding_gets_its_own_advice(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    watched(run, outcome(2.0, COLLAPSED, "local"))
    assert "method.centring=batch" in warnings(run)[0]


def test_a_loss_that_knows_nothing_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    watched(run, outcome(math.log(31) * 1.001, HEALTHY), epochs=3)
    (text,) = warnings(run)
    assert "what a network that knows nothing has (3.4340)" in text
    assert "warm_up_steps=500" in text


@pytest.mark.parametrize(("first", "said"), [(11.8, True), (9.0, True), (8.7, False), (5.919, False), (3.4, False)])
def test_a_loss_that_starts_far_above_no_information_is_told_at_once(
    first: float, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As MACL's image-level term does in the released form: one direction a branch (tests/papers/test_macl.py)."""
    run, nothing = Run(tmp_path, {}), math.log(63) / 0.7
    losses = {"global": torch.tensor(first), "dense": torch.tensor(2.0), "equivariance": torch.tensor(99.0)}
    seen = Outcome(losses, {}, {"global": nothing, "dense": 2.96})
    watch = Watch(run)
    watch.see(seen, 1)
    watch.see(seen, 2)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("above no information") == said, "at the first step alone"
    if said:
        assert told.startswith(
            f"note: step 1: the global loss starts above no information: {first:.4f}, where a network"
        )
        assert "has 5.9188" in told
        assert "method.batch_norm=true" in told
    assert warnings(run) == [], "it may be learned yet"


@pytest.mark.parametrize(("dense", "said"), [(0.6, ["global"]), (1.0, ["global", "dense"])])
def test_a_term_that_knows_nothing_is_a_reason_to_stop_where_no_other_is_learned(
    tmp_path: Path, dense: float, said: list[str]
) -> None:
    run, nothing = Run(tmp_path, {}), math.log(31)
    losses = {"global": torch.tensor(nothing), "dense": torch.tensor(dense * nothing)}
    watched(run, Outcome(losses, {"global": HEALTHY}, dict.fromkeys(losses, nothing)))
    assert [text.split()[3] for text in warnings(run)] == said
    for text in warnings(run):
        assert ("This term teaches nothing, dense does." in text) == (dense < 1)
        assert ("Nothing is being learned" in text) == (dense == 1)


def test_only_the_later_half_of_the_steps_counts(tmp_path: Path) -> None:
    run, watch = Run(tmp_path, {}), Watch(Run(tmp_path, {}))
    for step in range(EPOCH):
        watch.see(outcome(math.log(31) if step < EPOCH / 2 else 2.0, HEALTHY))
    watch.end_of_epoch(0, EPOCH)
    assert warnings(run) == []


def test_before_the_patience_ends_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that learn look the same in their first epochs: a default must not greet its user with "stop"."""
    run = Run(tmp_path, {})
    watched(run, outcome(math.log(31), COLLAPSED), epochs=4, per_epoch=10)
    watched(run, outcome(math.log(31), COLLAPSED), epochs=3, patience=170)
    assert warnings(run) == []
    assert capsys.readouterr().err == ""
    watched(run, outcome(2.0, COLLAPSED), epochs=5, per_epoch=10)
    assert warnings(run)[0].startswith("epoch 5:")


@pytest.mark.parametrize("prefix", ["", "pretrain.", "settings.pretrain."])
def test_keys_in_advice_are_those_of_the_command(tmp_path: Path, prefix: str) -> None:
    watch = Watch(run := Run(tmp_path, {}), learning_rate=0.03, prefix=prefix)
    watch.see(outcome(math.log(31), HEALTHY))
    watch.end_of_epoch(0, FEWEST_STEPS)
    assert f"({prefix}learning_rate=0.01), or {prefix}warm_up_steps=500" in warnings(run)[0]


def test_learned_nothing_is_what_holds_at_the_end(tmp_path: Path) -> None:
    watch = Watch(Run(tmp_path, {}))
    said = []
    for epoch, loss in enumerate([math.log(31), 2.0, 4.0]):
        watch.see(outcome(loss, COLLAPSED))
        watch.end_of_epoch(epoch, (epoch + 1) * FEWEST_STEPS)
        said.append(watch.learned_nothing)
    assert said[1] is None  # a loss that is learned is something
    assert said[0] == "the contrast loss is 3.4340, what a network that knows nothing has (3.4340)"
    assert said[2] == "the contrast loss is 4.0000, worse than what a network that knows nothing has (3.4340)"


def test_a_method_without_a_known_loss_learned_nothing_where_its_embeddings_collapse(tmp_path: Path) -> None:
    for z, nothing in ((COLLAPSED, True), (HEALTHY, False)):
        watch = Watch(Run(tmp_path, {}))
        watch.see(Outcome({"prediction": torch.tensor(-1.0)}, {"global": z}))
        watch.end_of_epoch(0, FEWEST_STEPS)
        assert (watch.learned_nothing is not None) == nothing


def test_figures_name_every_term_and_embedding(tmp_path: Path) -> None:
    watch = Watch(Run(tmp_path, {}))
    for loss in (1.0, 2.0, 6.0):
        watch.see(outcome(loss, COLLAPSED))
    figures = watch.figures(outcome(6.0, COLLAPSED))
    assert figures["loss"] == figures["loss/contrast"] == pytest.approx(3.0)
    assert figures["embedding/global/std"] == pytest.approx(spread(COLLAPSED))
    assert figures["embedding/global/cosine"] == pytest.approx(mean_cosine(COLLAPSED))
    watch.see(outcome(8.0, HEALTHY))
    assert watch.figures(outcome(8.0, HEALTHY))["loss"] == pytest.approx(8.0)  # since the last call
