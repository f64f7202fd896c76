"""The moving average of the weights of fine-tuning, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lemis.contracts import Batch, Draw, Outcome, Semi
from lemis.parts.unlabelled import Beside
from lemis.promises import semis
from lemis.sampling.draw import Rows
from lemis.semi import cps, mean_teacher
from lemis.training import loop
from lemis.training.averaged import Averaged
from lemis.training.supervised import Objective
from semi_made import total

State = dict[str, Tensor]


def steps(averaged: Averaged, count: int) -> list[State]:
    """The weights of the network in training after each step."""
    found = []
    trained = [p for p in averaged.parameters() if p.requires_grad]
    for step in range(count):
        for parameter in trained:
            parameter.grad = None
        total(averaged(semis.batch(2), Rows(0, step, "cpu"))).backward()
        torch.optim.SGD(trained, lr=0.1).step()
        averaged.after_step((step + 1) / count)
        found.append({name: value.clone() for name, value in averaged.inner.predicts.state_dict().items()})
    return found


@pytest.mark.parametrize(
    ("decay", "share"),
    [(1.0, (1 / 4, 1 / 4, 1 / 4, 1 / 4)), (0.5, (1 / 8, 1 / 8, 1 / 4, 1 / 2)), (0.6, (0.18, 0.18, 0.24, 0.4))],
)
def test_it_is_the_mean_that_the_formula_says(decay: float, share: tuple[float, ...]) -> None:
    averaged = Averaged(semis.objective(2), decay)
    weights = steps(averaged, 4)
    assert not torch.equal(weights[0]["encoder.0.0.weight"], weights[3]["encoder.0.0.weight"])
    for name, value in averaged.predicts.state_dict().items():
        of_each = [one[name] for one in weights]
        if value.is_floating_point():
            mean = sum(part * one.double() for part, one in zip(share, of_each, strict=True))
            torch.testing.assert_close(value.double(), mean, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, of_each[-1]), "what counts is not averaged"


def test_training_does_not_notice_it() -> None:
    plain, averaged = semis.objective(2), Averaged(semis.objective(2), 0.9)
    one, other = (objective(semis.batch(2), Rows(0, 0, "cpu")) for objective in (plain, averaged))
    assert one.losses.keys() == other.losses.keys()
    assert all(torch.equal(loss, other.losses[name]) for name, loss in one.losses.items())
    total(other).backward()
    assert all(p.grad is None and not p.requires_grad for p in averaged.predicts.parameters())
    trained = [p for p in averaged.parameters() if p.requires_grad]
    assert len(trained) == len(list(plain.parameters()))


@pytest.mark.parametrize("way", ["labels", "cps", "mean_teacher"])
def test_it_follows_what_would_predict(way: str) -> None:
    inner: Objective | Semi = semis.objective(2)
    if way == "cps":
        inner = cps.Semi(semis.objective(2), cps.Settings())
    elif way == "mean_teacher":
        inner = mean_teacher.Semi(semis.objective(2), mean_teacher.Settings(predicts="teacher"))
    averaged = Averaged(inner, 0.5)
    weights = steps(averaged, 2)
    for name, value in averaged.predicts.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (weights[0][name] + weights[1][name]) / 2)
    if isinstance(inner, mean_teacher.Semi):
        assert (int(inner.steps), float(inner.progress)) == (2, 1.0)


def test_what_rests_in_training_rests_with_an_average_too() -> None:
    class Rests(Beside[None]):
        def forward(self, batch: Batch, rng: Draw) -> Outcome:
            return self.labelled(batch, rng)

        def resting(self) -> list[nn.Parameter]:
            return [next(self.labelled.backbone.parameters())]

    inner = Rests(semis.objective(2), None)
    averaged = Averaged(inner, 0.5)
    (rests,) = averaged.resting()
    total(averaged(semis.batch(2), Rows(0, 0, "cpu"))).backward()
    loop.rest(averaged)
    assert rests.grad is None
    assert next(inner.labelled.backbone.parameters()) is rests


def test_it_goes_on_where_it_was() -> None:
    one, other = Averaged(semis.objective(2), 0.9), Averaged(semis.objective(2), 0.9)
    steps(one, 3)
    other.load_state_dict(one.state_dict())
    for averaged in (one, other):
        steps(averaged, 1)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
