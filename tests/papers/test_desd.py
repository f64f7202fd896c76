"""DeSD (Ye et al., MICCAI 2022): the loss by loops, the teacher, its centre, which encoder is kept, and no collapse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.methods import pcl
from lemis.methods.desd import Method, Settings, distillation
from lemis.parts.momentum import towards_one
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "hidden": 12, "outputs": 10}


def softmax(row: Tensor) -> list[float]:
    powers = [math.exp(float(value)) for value in row]
    return [power / sum(powers) for power in powers]


def slow(logits: Tensor, answers: Tensor, centre: Tensor, tau_s: float, tau_t: float) -> float:
    """The mean over the ordered pairs of views and over slices of the cross-entropy, one logarithm at a time."""
    count, total = len(logits) // 2, 0.0
    for i in range(count):
        for student, teacher in ((i, count + i), (count + i, i)):
            target = softmax((answers[teacher] - centre) / tau_t)
            total -= sum(t * math.log(p) for t, p in zip(target, softmax(logits[student] / tau_s), strict=True))
    return total / (2 * count)


class Answers(nn.Module):
    """A head that gives the rows of ``cosines``, whatever it is asked, and remembers the question."""

    def __init__(self, cosines: Tensor) -> None:
        super().__init__()
        self.cosines = nn.Parameter(cosines)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.asked = x
        return self.cosines, self.cosines


# --------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_depth_by_loops(count: int, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(count)
    method = Method(make_unet(), Settings(**SMALL))
    centre, answers = 0.3 * torch.randn(10), torch.randn(2 * count, 10).tanh()
    method.centre.copy_(centre)
    students = [torch.randn(2 * count, 10).tanh() for _ in range(4)]
    method.heads = nn.ModuleList([Answers(cosines) for cosines in students])
    method.teacher_head = Answers(answers)
    batch = make_batch({0: list(range(count))}, of={0: 6})
    images = torch.cat([view.image for view in method.views(batch, Rows(*RNG)).values()])
    outcome = method(batch, Rows(*RNG))
    assert list(outcome.losses) == ["depth 2", "depth 3", "depth 4", "depth 5"]
    for loss, logits in zip(outcome.losses.values(), students, strict=True):
        assert loss.item() == pytest.approx(slow(logits, answers, centre, 0.1, 0.04) / 4, rel=1e-4)
    maps = method.backbone.encode(images)
    for head, level in zip(method.heads, maps[1:], strict=True):
        torch.testing.assert_close(head.asked, level, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.teacher_head.asked, maps[-1], rtol=1e-4, atol=1e-4)


def test_known_values() -> None:
    assert distillation(torch.zeros(6, 10), torch.rand(6, 10).softmax(1)).item() == pytest.approx(math.log(10))
    target = torch.eye(4)  # two slices: the teacher says 0, 1 of their first views and 2, 3 of their second
    right = torch.cat([target[2:], target[:2]]) * 100
    assert distillation(right, target).item() == pytest.approx(0, abs=1e-6)
    assert distillation(target * 100, target).item() == pytest.approx(100, abs=1e-4)


@pytest.mark.parametrize(("depths", "used"), [(1, 1), (2, 2), (4, 4), (9, 5)])
def test_the_deepest_maps_are_distilled(depths: int, used: int, make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, depths=depths))
    outcome = method(make_batch({0: [0, 1]}, of={0: 6}), Rows(*RNG))
    assert list(outcome.losses) == [f"depth {k}" for k in range(6 - used, 6)]
    assert sum(outcome.uninformed.values()) == pytest.approx(math.log(10))
    assert [head.layers[0].in_features for head in method.heads] == list(method.backbone.channels[-used:])


def test_a_head_gives_cosines(make_unet: Any) -> None:
    head = Method(make_unet(), Settings(**SMALL)).heads[-1]
    z, cosines = head(torch.randn(3, 64, 2, 2))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    expected = nn.functional.cosine_similarity(z[:, None], head.directions[None], dim=2)
    torch.testing.assert_close(cosines, expected)
    assert z.shape == (3, 6)


def test_sizes_of_the_heads() -> None:
    from lemis.backbones import unet2d

    with torch.device("meta"):
        network = unet2d.Backbone(unet2d.Settings(base_width=32), in_channels=1, num_classes=2)
        method = Method(network, Settings())
    for head, width in zip(method.heads, (64, 128, 256, 512), strict=True):
        linear = (width + 1) * 2048 + 2049 * 2048 + 2049 * 256
        assert sum(p.numel() for p in head.parameters()) == linear + 2 * 2 * 2048 + 65536 * 256


# ------------------------------------------------------------------------------------------------- the teacher


def test_the_teacher_is_a_constant_that_starts_equal(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    for slow_part, part in ((method.teacher, method.backbone), (method.teacher_head, method.heads[-1])):
        assert all(torch.equal(a, b) for a, b in zip(slow_part.parameters(), part.parameters(), strict=True))
        assert not any(p.requires_grad for p in slow_part.parameters())
    outcome = method(make_batch({0: [0, 1, 2]}, of={0: 6}), Rows(*RNG))
    torch.stack(list(outcome.losses.values())).sum().backward()
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_head.parameters()))


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_teacher_follows(progress: float, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, momentum=0.9))
    leader, behind = method.heads[-1].directions, method.teacher_head.directions
    before = behind.clone()
    with torch.no_grad():
        leader += 1
    method.after_step(progress)
    torch.testing.assert_close(behind, before + (1 - towards_one(0.9, progress)))


def test_the_centre_follows_the_answers(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, momentum_centre=0.75))
    answers = torch.randn(4, 10)
    method.teacher_head = Answers(answers)
    batch = make_batch({0: [0, 1]}, of={0: 6})
    for times in (1, 2):
        method(batch, Rows(*RNG))
        torch.testing.assert_close(method.centre, answers.mean(0) * (1 - 0.75**times))
    assert "centre" in method.state_dict()


@pytest.mark.parametrize("transfer", ["teacher", "student"])
def test_which_encoder_is_kept(transfer: Any, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, transfer=transfer))
    with torch.no_grad():
        for parameter in method.backbone.encoder.parameters():
            parameter += 1
    student = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    method.after_step(0.99)
    assert all(torch.equal(value, student[key]) for key, value in method.backbone.state_dict().items()), "not yet"
    method.after_step(1.0)
    kept = method.teacher.state_dict() if transfer == "teacher" else student
    assert all(torch.equal(value, kept[key]) for key, value in method.backbone.state_dict().items())
    assert not torch.equal(method.teacher.state_dict()["encoder.0.0.weight"], student["encoder.0.0.weight"])


@pytest.mark.slow
def test_it_learns_and_does_not_collapse(make_unet: Any, train: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=32, hidden=64, outputs=64, transfer="student"))
    outcome = train(method, steps=100, learning_rate=0.1)
    assert spread(outcome.embeddings["global"]) > 3 * SMALLEST_SPREAD
    assert sum(loss.item() for loss in outcome.losses.values()) < 0.97 * math.log(64)


@pytest.mark.slow
def test_a_head_without_batch_normalisation_collapses_here(make_unet: Any, train: Any) -> None:
    layer = {"batch_norm": False, "transfer": "student"}
    method = Method(make_unet(), Settings(size_px=32, embedding=32, hidden=64, outputs=64, **layer))
    assert spread(train(method, learning_rate=0.1).embeddings["global"]) < SMALLEST_SPREAD


def test_the_defaults_are_the_authors_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.depths, ours.outputs, ours.hidden, ours.embedding) == (4, 65536, 2048, 256)
    assert (ours.temperature, ours.temperature_teacher) == (0.1, 0.04)
    assert (ours.momentum, ours.momentum_centre, ours.transfer) == (0.996, 0.9, "teacher")
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
