"""Mean Teacher against its formula, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from lemis.sampling.draw import Rows
from lemis.semi.mean_teacher import Semi, Settings, consistency
from semi_made import Labelled, Scale, batch, total


def late(**settings: object) -> Semi:
    semi = Semi(Labelled(), Settings(**settings))  # type: ignore[arg-type]
    semi.after_step(0.5)
    torch.nn.init.constant_(semi.teacher.weight, -0.7)
    return semi


def test_the_loss_equals_the_formula() -> None:
    here, semi = batch(), late(weight=2.0)
    assert here.unlabelled is not None
    found = semi(here, Rows(0, 0, "cpu")).losses
    noise = (0.1 * Rows(0, 0, "cpu").normal(*here.image.shape)).clamp(-0.2, 0.2)
    p = Scale()(here.unlabelled.image).detach().softmax(1).flatten().tolist()
    q = Scale(weight=-0.7)(here.unlabelled.image + noise).detach().softmax(1).flatten().tolist()
    mean = sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p)
    assert found["consistency"].item() == pytest.approx(2.0 * math.exp(-5 * 0.25) * mean, rel=1e-6)
    plain = Labelled()(here, Rows(0, 0, "cpu")).losses["loss"]
    assert found["loss"].item() == pytest.approx(plain.item(), abs=1e-12)


def test_two_pixels_that_are_sure_of_other_classes_are_as_far_as_can_be() -> None:
    first, second = torch.zeros(2, 1, 4, 1, 1)
    first[0, 0], second[0, 3] = 100, 100
    assert consistency(first, second).item() == pytest.approx(0.5)


def test_a_teacher_that_is_the_student_and_no_noise_cost_nothing_and_teach_nothing() -> None:
    here, semi = batch(), Semi(Labelled(), Settings(noise=0.0, weight=1.0))
    semi.after_step(1.0)
    semi(here, Rows(0, 0, "cpu")).losses["consistency"].backward()
    assert semi(here, Rows(0, 0, "cpu")).losses["consistency"].item() == 0
    assert semi.labelled.backbone.weight.grad.item() == 0


def test_no_gradient_reaches_the_teacher() -> None:
    semi = late(weight=1.0)
    semi(batch(), Rows(0, 0, "cpu")).losses["consistency"].backward()
    assert semi.teacher.weight.grad is None
    assert semi.labelled.backbone.weight.grad.abs() > 0


def test_before_the_delay_there_is_no_consistency() -> None:
    semi = Semi(Labelled(), Settings(delay=0.6))
    torch.nn.init.constant_(semi.teacher.weight, -0.7)
    assert semi(batch(), Rows(0, 0, "cpu")).losses["consistency"].item() == 0
    semi = late(delay=0.4)
    assert semi(batch(), Rows(0, 0, "cpu")).losses["consistency"].item() > 0


def test_the_teacher_is_the_true_mean_at_first_and_predicts_where_asked() -> None:
    semi = Semi(Labelled(), Settings(predicts="teacher", weight=0.0))
    assert semi.predicts is semi.teacher
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        torch.nn.init.constant_(semi.labelled.backbone.weight, value)
        semi.after_step(value / 5)
    assert semi.teacher.weight.item() == pytest.approx(3)
    total(semi(batch(), Rows(0, 0, "cpu"))).backward()
    assert not semi.teacher.seen, "averaging of weights alone asks no teacher"
    assert Semi(Labelled(), Settings()).predicts is not semi.teacher


def test_modes_of_the_teacher() -> None:
    for mode in ("train", "eval"):
        semi = late(teacher_mode=mode)
        semi(batch(), Rows(0, 0, "cpu"))
        assert semi.teacher.seen[0][1] is (mode == "train")
