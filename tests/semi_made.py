"""Fine-tuning as the tests of semi-supervision see it: views are given, and networks say what they are told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lemis.contracts import Backbone, Batch, Draw, Geometry, Outcome, View
from lemis.parts.overlap import cross_entropy, soft_dice_loss


class Scale(nn.Module):
    """A network of one weight: class c of a pixel x has the logit c w x."""

    def __init__(self, classes: int = 3, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.classes = classes
        self.seen: list[tuple[Tensor, bool]] = []  # images, and whether in training mode

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append((image.detach().clone(), self.training))
        return torch.cat([c * self.weight * image for c in range(self.classes)], 1)


class Labelled(nn.Module):
    """(CE + squared Dice) / 2 of all classes, as the codes of SSL4MIS and BCP have it; views are the batch itself."""

    def __init__(self, network: nn.Module | None = None, other: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or Scale()
        self._other = [other]

    @property
    def backbone(self) -> Any:
        return self.network

    def another(self) -> Any:
        return self._other[0]

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        view = self.view(batch, rng)
        assert view.label is not None
        return Outcome(self.losses(*self.logits(view), view.label))

    def view(self, batch: Batch, rng: Draw) -> View:
        return self.strong(self.weak(batch, rng), rng)

    def strong(self, view: View, rng: Draw) -> View:
        return view

    def weak(self, batch: Batch, rng: Draw) -> View:
        shape = tuple(batch.image.shape[2:])
        return View(image=batch.image, geometry=Geometry(torch.zeros(len(batch.image), 2, 3), shape), label=batch.label)

    def logits(self, *views: View, network: Backbone | None = None) -> tuple[Tensor, ...]:
        given = (network or self.network)(torch.cat([view.image for view in views]))
        return torch.split(given, [len(view.image) for view in views])

    def losses(self, logits: Tensor, label: Tensor, counts: Tensor | None = None) -> dict[str, Tensor]:
        dice = soft_dice_loss(logits, label, squared=True, background=True, smooth=1e-10, counts=counts)
        return {"loss": (cross_entropy(logits, label, counts) + dice) / 2}


def batch(rows: int = 4, shape: tuple[int, int] = (6, 6), classes: int = 3, seed: int = 0) -> Batch:
    """Labelled rows and unlabelled ones, in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def some(label: Tensor | None) -> Batch:
        numbers = torch.arange(rows)
        image = torch.randn(rows, 1, *shape, generator=generator, dtype=torch.float64)
        return Batch(
            image=image, index=numbers, scan=numbers, subject=numbers, position=numbers / rows,
            spacing_mm=torch.ones(rows, 2), label=label,
        )  # fmt: skip

    label = torch.randint(0, classes, (rows, *shape), generator=generator)
    return some(label)._replace(unlabelled=some(None))


def slow_loss(logits: Tensor, label: Tensor, counts: Tensor) -> float:
    """(CE + squared Dice) / 2 over the pixels that count, pixel by pixel."""
    classes = logits.shape[1]
    ce = 0.0
    both, sizes, pixels = [0.0] * classes, [0.0] * classes, 0
    for row in range(len(logits)):
        for place in counts[row].nonzero().tolist():
            at = (row, *place)
            p = logits[(row, slice(None), *place)].double().softmax(0).tolist()
            pixels += 1
            ce -= float(torch.tensor(p[int(label[at])], dtype=torch.float64).log())
            for c in range(classes):
                g = float(label[at] == c)
                both[c] += p[c] * g
                sizes[c] += p[c] ** 2 + g
    dice = sum((2 * b + 1e-10) / (s + 1e-10) for b, s in zip(both, sizes, strict=True)) / classes
    return (ce / max(pixels, 1) + 1 - dice) / 2


def total(outcome: Outcome) -> Tensor:
    return torch.stack(list(outcome.losses.values())).sum()
