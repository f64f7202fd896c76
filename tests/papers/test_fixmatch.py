"""FixMatch with CutMix against its formula, the threshold by its values, and its limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lemis.contracts import Outcome
from lemis.parts import paste
from lemis.sampling.draw import Rows
from lemis.sampling.intensity import Intensity
from lemis.semi.fixmatch import Semi, Settings
from semi_made import Labelled, Scale, batch, slow_loss, total

AS_IT_IS = Intensity()


def late(**settings: Any) -> Semi:
    semi = Semi(Labelled(), Settings(**{"intensity": AS_IT_IS, **settings}))
    semi.after_step(0.5)
    torch.nn.init.constant_(semi.teacher.weight, 1.7)
    return semi


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("mean_over", ["sure", "all"])
def test_the_loss_equals_the_formula(weight: float, mean_over: str) -> None:
    here, semi = batch(), late(threshold=0.6, weight=weight, mean_over=mean_over)
    assert here.unlabelled is not None
    found = semi(here, Rows(0, 0, "cpu")).losses
    rng = Rows(0, 0, "cpu")
    box = paste.box_of_area(4, (6, 6), (0.02, 0.4), 1 / 0.3, rng)
    inside = paste.mask(box, (6, 6)) & (rng.uniform(4) < 0.5)[:, None, None]
    assert inside.any()
    most, label = Scale(weight=1.7)(here.unlabelled.image).detach().softmax(1).max(1)
    partner = [1, 0, 3, 2]
    image = torch.where(inside[:, None], here.unlabelled.image[partner], here.unlabelled.image)
    target = torch.where(inside, label[partner], label)
    sure = torch.where(inside, most[partner], most) >= 0.6
    assert 0 < sure.float().mean() < 1
    share = sure.double().mean().item() if mean_over == "all" else 1.0
    pseudo = share * slow_loss(Scale()(image).detach(), target, sure)
    plain = Labelled()(here, Rows(0, 0, "cpu")).losses["loss"].item()
    assert found["loss"].item() == pytest.approx(plain / (1 + weight), rel=1e-9)
    assert found["pseudo/loss"].item() == pytest.approx(weight * pseudo / (1 + weight), rel=1e-9)


@pytest.mark.parametrize(("classes", "lead"), [(2, 2.944439), (4, 4.043051)])
def test_how_far_a_logit_leads_where_a_pixel_is_sure(classes: int, lead: float) -> None:
    for more, is_sure in ((1e-4, True), (-1e-4, False)):
        logits = torch.zeros(1, classes, 1, 1, dtype=torch.float64)
        logits[0, 1] = lead + more
        assert (logits.softmax(1).max() >= Settings().threshold).item() is is_sure


def test_where_no_pixel_is_sure_the_loss_is_0_and_has_a_gradient() -> None:
    semi = late(threshold=1.0)
    outcome = semi(batch(), Rows(0, 0, "cpu"))
    assert outcome.losses["pseudo/loss"].item() == pytest.approx(0, abs=1e-12)
    outcome.losses["pseudo/loss"].backward()
    assert semi.labelled.backbone.weight.grad.item() == pytest.approx(0, abs=1e-12)


def test_a_pool_of_the_labelled_scans_and_a_perfect_teacher_are_supervision() -> None:
    here, semi = batch(), late(p_cutmix=0.0, threshold=0.0)
    assert here.label is not None
    label = Scale(weight=1.7)(here.image).detach().argmax(1)
    here = here._replace(label=label, unlabelled=here._replace(unlabelled=None, label=None))
    losses = semi(here, Rows(0, 0, "cpu")).losses
    assert losses["loss"].item() == pytest.approx(losses["pseudo/loss"].item(), abs=1e-12)


def test_the_teacher_sees_weak_views_and_no_gradient_reaches_it() -> None:
    here, semi = batch(), late(threshold=0.5, intensity=Intensity(p_noise=1.0))
    assert here.unlabelled is not None
    total(semi(here, Rows(0, 0, "cpu"))).backward()
    ((seen, training),) = semi.teacher.seen
    assert torch.equal(seen, here.unlabelled.image)
    assert not training
    assert semi.teacher.weight.grad is None
    (student, _) = semi.labelled.backbone.seen[-1]
    assert torch.equal(student[:4], here.image)
    assert not torch.equal(student[4:], here.unlabelled.image), "the student sees strong views"


def test_boxes_come_from_partners_alone() -> None:
    here, semi = batch(), late(p_cutmix=1.0, threshold=0.0)
    assert here.unlabelled is not None
    semi(here, Rows(0, 0, "cpu"))
    shown = semi.labelled.backbone.seen[-1][0][4:]
    for row, partner in enumerate((1, 0, 3, 2)):
        own = shown[row] == here.unlabelled.image[row]
        theirs = shown[row] == here.unlabelled.image[partner]
        assert (own ^ theirs).all()
        assert theirs.any()


def test_no_box_at_all() -> None:
    here, semi = batch(), late(p_cutmix=0.0)
    assert here.unlabelled is not None
    semi(here, Rows(0, 0, "cpu"))
    assert torch.equal(semi.labelled.backbone.seen[-1][0][4:], here.unlabelled.image)


def test_half_of_the_views_have_a_box_of_a_fifth() -> None:
    here = batch(rows=400, shape=(32, 32))
    assert here.unlabelled is not None
    semi = late()
    outcome = semi(here, Rows(0, 0, "cpu"))
    assert isinstance(outcome, Outcome)
    changed = (semi.labelled.backbone.seen[-1][0][400:] != here.unlabelled.image).double().mean().item()
    assert changed == pytest.approx(0.105, abs=0.02)
    assert math.isfinite(total(outcome).item())


def test_before_the_delay_it_is_fine_tuning_on_labels_and_the_teacher_follows() -> None:
    here, semi = batch(), Semi(Labelled(), Settings(delay=0.5, threshold=0.0, intensity=AS_IT_IS))
    plain = Labelled()(here, Rows(0, 0, "cpu")).losses
    for progress, weight in ((0.25, 2.0), (0.49, 3.0)):
        found = semi(here, Rows(0, 0, "cpu")).losses
        assert found.keys() == plain.keys()
        assert found["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-12)
        torch.nn.init.constant_(semi.labelled.backbone.weight, weight)
        semi.after_step(progress)
        torch.nn.init.constant_(semi.labelled.backbone.weight, 1.0)
    assert not semi.teacher.seen
    assert semi.teacher.weight.item() == pytest.approx(2.5)


def test_from_the_delay_on_it_learns_from_the_teacher_with_full_weight() -> None:
    here = batch()
    found, at_once = (
        late(delay=delay, threshold=0.0)(here, Rows(0, 0, "cpu")).losses for delay in (0.5, Settings().delay)
    )
    assert found.keys() == at_once.keys() == {"loss", "pseudo/loss"}
    for name, loss in at_once.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-12)


def test_by_default_the_teacher_learns_before_it_teaches() -> None:
    semi = Semi(Labelled(), Settings(threshold=0.0, intensity=AS_IT_IS))
    for progress, teaches in ((0.0, False), (0.29, False), (0.31, True)):
        semi.after_step(progress)
        assert ("pseudo/loss" in semi(batch(), Rows(0, 0, "cpu")).losses) is teaches
