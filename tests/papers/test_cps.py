"""Cross pseudo supervision against its formula and values."""

from __future__ import annotations

import math

import pytest
import torch

from lemis.sampling.draw import Rows
from lemis.semi.cps import Semi, Settings, cross
from semi_made import Labelled, Scale, batch, total


def semi_of(**settings: float) -> Semi:
    semi = Semi(Labelled(Scale(), Scale(weight=-0.7)), Settings(**settings))
    semi.after_step(0.5)
    return semi


def test_values() -> None:
    p1, p2 = (torch.tensor(p, dtype=torch.float64).log().view(1, 2, 1, 1) for p in ((0.7, 0.3), (0.2, 0.8)))
    assert cross(p1, p2).item() == pytest.approx(1.203973, abs=1e-6)
    assert cross(p2, p1).item() == pytest.approx(1.609438, abs=1e-6)


def test_the_losses_equal_the_formula() -> None:
    here, semi = batch(), semi_of(weight=0.4)
    assert here.unlabelled is not None
    found = {key: loss.item() for key, loss in semi(here, Rows(0, 0, "cpu")).losses.items()}
    networks = {"": Scale(), "second/": Scale(weight=-0.7)}
    said = {
        key: one(here.unlabelled.image).detach().movedim(1, -1).reshape(-1, 3).tolist() for key, one in networks.items()
    }
    expected = {}
    for key, other in (("", "second/"), ("second/", "")):
        terms = [
            math.log(sum(map(math.exp, mine))) - mine[theirs.index(max(theirs))]
            for mine, theirs in zip(said[key], said[other], strict=True)
        ]
        expected[f"{key}pseudo"] = 0.4 * math.exp(-5 * 0.25) * sum(terms) / len(terms)
        expected[f"{key}loss"] = Labelled(networks[key])(here, Rows(0, 0, "cpu")).losses["loss"].item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_no_gradient_goes_through_a_pseudo_label() -> None:
    semi = semi_of()
    semi(batch(), Rows(0, 0, "cpu")).losses["pseudo"].backward()
    assert semi.second.weight.grad is None
    assert semi.labelled.backbone.weight.grad.abs() > 0


def test_equal_networks_sharpen_and_never_reach_0() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    own = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
    assert cross(logits, logits.clone()).item() == pytest.approx(own.item())
    assert own > 0


def test_both_networks_learn_and_the_first_is_kept() -> None:
    semi = semi_of()
    total(semi(batch(), Rows(0, 0, "cpu"))).backward()
    assert all(parameter.grad is not None for parameter in semi.parameters())
    assert semi.predicts is semi.labelled.backbone
