"""BCP against its formula done pixel by pixel, the example by hand, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lemis.contracts import Batch, Draw, Geometry, View
from lemis.parts import paste
from lemis.parts.components import largest
from lemis.sampling.draw import Rows
from lemis.semi.bcp import Semi, Settings
from semi_made import Labelled, Scale, batch, slow_loss, total


def late(**settings: object) -> Semi:
    """In stage 2, with a teacher that is not the student."""
    semi = Semi(Labelled(), Settings(**settings))  # type: ignore[arg-type]
    semi.after_step(0.9)
    torch.nn.init.constant_(semi.teacher.weight, -0.7)
    return semi


def boxes(here: Batch, side: float = 2 / 3, step: int = 0) -> Tensor:
    """(B, *space) bool, as a step draws them first of all."""
    shape = tuple(here.image.shape[2:])
    return paste.mask(paste.box_of_sides(len(here.image), shape, side, Rows(0, step, "cpu")), shape)


@pytest.mark.parametrize("component", [True, False])
@pytest.mark.parametrize("alpha", [0.5, 0.0, 1.0])
def test_stage_2_equals_the_formula(alpha: float, component: bool) -> None:
    here, semi = batch(), late(alpha=alpha, largest_component=component)
    assert here.unlabelled is not None
    assert here.label is not None
    found = semi(here, Rows(0, 0, "cpu"))
    inside = boxes(here)
    student, teacher = Scale(), Scale(weight=-0.7)
    pseudo = teacher(here.unlabelled.image).argmax(1)
    pseudo = largest(pseudo) if component else pseudo
    expected = {"out/loss": 0.0, "in/loss": 0.0}
    for term, rows in (("out/loss", [0, 2]), ("in/loss", [1, 3])):
        labelled_inside = term == "out/loss"
        of_label = inside[rows] if labelled_inside else ~inside[rows]
        image = torch.where(of_label[:, None], here.image[rows], here.unlabelled.image[rows])
        target = torch.where(of_label, here.label[rows], pseudo[rows])
        logits = student(image).detach()
        expected[term] += slow_loss(logits, target, of_label)
        expected[term] += alpha * slow_loss(logits, target, ~of_label)
    assert {key: loss.item() for key, loss in found.losses.items()} == pytest.approx(expected, abs=1e-9)


def test_stage_1_mixes_labelled_rows_alone() -> None:
    here = batch()
    assert here.label is not None
    semi = Semi(Labelled(), Settings())
    found = semi(here, Rows(0, 0, "cpu"))
    inside, partner = boxes(here), [1, 0, 3, 2]
    image = torch.where(inside[:, None], here.image[partner], here.image)
    target = torch.where(inside, here.label[partner], here.label)
    logits = Scale()(image).detach()
    expected = slow_loss(logits, target, inside) + slow_loss(logits, target, ~inside)
    assert found.losses["loss"].item() == pytest.approx(expected, abs=1e-9)
    assert not semi.teacher.seen, "the teacher is not asked"


class Told(torch.nn.Module):
    """Says what it is told, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.expand(len(image), -1, -1, -1)


def test_one_row_by_hand() -> None:
    p = torch.tensor([0.2, 0.4, 0.7, 0.9], dtype=torch.float64)
    semi = Semi(Labelled(Told(torch.stack([(1 - p).log(), p.log()])[None, :, None])), Settings())
    semi.after_step(0.9)
    label = torch.tensor([[[0, 1, 1, 0]]])  # around the box what the teacher said, in it the label
    view = View(image=torch.zeros(1, 1, 1, 4), geometry=Geometry(torch.zeros(1, 2, 3), (1, 4)), label=label)
    box = paste.Box(torch.tensor([[0, 2]]), torch.tensor([[1, 2]]))
    around, inside = semi._regions(semi.labelled.logits(view)[0], view, box, (0.5, 1.0))
    assert 2 * around["loss"].item() == pytest.approx((0.266667 + 0.569717) / 2, abs=1e-6)
    assert inside["loss"].item() == pytest.approx((0.604743 + 1.329630) / 2, abs=1e-6)
    assert (around["loss"] + inside["loss"]).item() == pytest.approx(1.176283, abs=1e-6)


def test_regions_are_means_of_their_own_so_their_sum_is_no_mean_of_the_image() -> None:
    here, semi = batch(rows=1), late()
    view = semi.labelled.view(here, Rows(0, 0, "cpu"))
    (logits,) = semi.labelled.logits(view)
    box = paste.box_of_sides(1, (6, 6), 2 / 3, Rows(0, 0, "cpu"))
    regions = semi._regions(logits, view, box, (1.0, 1.0))
    whole = semi.labelled(here, Rows(0, 0, "cpu")).losses["loss"].item()
    assert sum(region["loss"].item() for region in regions) == pytest.approx(2 * whole, rel=0.3)
    assert sum(region["loss"].item() for region in regions) > 1.5 * whole


def test_alpha_0_learns_from_no_pseudo_label() -> None:
    here = batch()
    found = []
    for weight in (-0.7, 2.0):  # of teachers that say otherwise
        semi = late(alpha=0.0)
        torch.nn.init.constant_(semi.teacher.weight, weight)
        outcome = semi(here, Rows(0, 0, "cpu"))
        total(outcome).backward()
        found.append((total(outcome).item(), semi.labelled.backbone.weight.grad.item()))
    assert found[0] == found[1]


def test_a_box_that_is_all_makes_out_supervised() -> None:
    here = batch()
    assert here.label is not None
    outcome = late(box=1.0)(here, Rows(0, 0, "cpu"))
    rows = [0, 2]
    supervised = slow_loss(Scale()(here.image[rows]).detach(), here.label[rows], torch.ones(2, 6, 6))
    # Around the box there is no pixel: its cross-entropy is 0, and its Dice of nothing is perfect.
    assert outcome.losses["out/loss"].item() == pytest.approx(supervised, abs=1e-9)


def test_no_gradient_reaches_the_teacher_and_it_sees_the_plain_image() -> None:
    here, semi = batch(), late()
    assert here.unlabelled is not None
    total(semi(here, Rows(0, 0, "cpu"))).backward()
    assert semi.teacher.weight.grad is None
    assert semi.labelled.backbone.weight.grad.abs() > 0
    ((seen, training),) = semi.teacher.seen
    assert torch.equal(seen, here.unlabelled.image)
    assert training, "as the authors' code has it"
    evaluating = late(teacher_mode="eval")
    evaluating(here, Rows(0, 0, "cpu"))
    assert evaluating.teacher.seen[0][1] is False


def test_the_teacher_is_a_copy_in_stage_1_and_follows_in_stage_2() -> None:
    semi = Semi(Labelled(), Settings(stage_1=0.5, decay=0.9))
    weight = semi.labelled.backbone.weight
    expected = 1.0
    for step, progress in enumerate((0.25, 0.5, 0.75, 1.0)):
        torch.nn.init.constant_(weight, 2.0 + step)
        semi.after_step(progress)
        expected = 2.0 + step if step < 2 else 0.9 * expected + 0.1 * (2.0 + step)
        assert semi.teacher.weight.item() == pytest.approx(expected)


def test_stage_1_to_the_end_is_copy_paste_among_labelled_images() -> None:
    semi = Semi(Labelled(), Settings(stage_1=1.0))
    semi.after_step(0.999)
    outcome = semi(batch(), Rows(0, 0, "cpu"))
    assert list(outcome.losses) == ["loss"]
    assert math.isfinite(total(outcome).item())


@pytest.mark.parametrize("geometry", ["own", "shared"])
def test_images_that_are_pasted_into_each_other_may_share_a_geometry(geometry: str) -> None:
    drawn: list[Tensor] = []

    class Placed(Labelled):
        def weak(self, batch: Batch, rng: Draw) -> View:
            drawn.append(rng.uniform(len(batch.image), 2))
            return super().weak(batch, rng)

    semi = Semi(Placed(), Settings(geometry=geometry))  # type: ignore[arg-type]
    semi.after_step(0.9)
    semi(batch(), Rows(0, 0, "cpu"))
    known, unknown = drawn
    alike = [
        torch.equal(known, unknown),
        torch.equal(known[::2], known[1::2]),
        torch.equal(unknown[::2], unknown[1::2]),
    ]
    assert alike == [geometry == "shared"] * 3
    assert not torch.equal(known[0], known[2]), "pairs differ"
