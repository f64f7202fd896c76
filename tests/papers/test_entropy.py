"""Entropy minimisation against its formula and values."""

from __future__ import annotations

import math

import pytest
import torch

from lemis.sampling.draw import Rows
from lemis.semi.entropy import Semi, Settings, entropy
from semi_made import Labelled, Scale, batch


@pytest.mark.parametrize(("p", "expected"), [((0.25,) * 4, 0.999997), ((0.7, 0.1, 0.1, 0.1), 0.678387)])
def test_values(p: tuple[float, ...], expected: float) -> None:
    logits = torch.tensor(p, dtype=torch.float64).log().view(1, 4, 1)
    assert entropy(logits, 1e-6).item() / math.log(4) == pytest.approx(expected, abs=1e-6)


def test_the_loss_equals_the_formula_over_labelled_and_unlabelled_images() -> None:
    here, semi = batch(), Semi(Labelled(), Settings(weight=0.3))
    assert here.unlabelled is not None
    semi.after_step(0.75)
    found = semi(here, Rows(0, 0, "cpu")).losses
    pixels = Scale()(torch.cat([here.image, here.unlabelled.image])).detach().softmax(1).movedim(1, -1).reshape(-1, 3)
    mean = sum(-sum(p * math.log(p + 1e-6) for p in row) for row in pixels.tolist()) / len(pixels) / math.log(3)
    assert found["entropy"].item() == pytest.approx(0.3 * math.exp(-5 * 0.0625) * mean, rel=1e-6)
    plain = Labelled()(here, Rows(0, 0, "cpu")).losses["loss"]
    assert found["loss"].item() == pytest.approx(plain.item(), abs=1e-12)


def test_it_rewards_being_sure() -> None:
    unsure, sure = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    sure[:, 1] = 50
    assert entropy(sure, 1e-6).abs().max() < 1e-5 < entropy(unsure, 1e-6).min()
