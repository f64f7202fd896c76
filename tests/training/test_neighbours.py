"""Training on pairs of slices: parts of a batch keep their neighbours, and messages name their scans."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lemis.contracts import Batch, Draw, Outcome, Sampling
from lemis.errors import TrainingStopped
from lemis.preparation.store import open_store
from lemis.runs.run import Run
from lemis.sampling.samples import Slices, draw_batches
from lemis.settings import resolve
from lemis.training import launch, loop, schedule

SAMPLING = Sampling(kind="neighbours", batch_size=6, reach=0.3)


class Fake(nn.Module):
    """The distance of slices to their neighbours; what it sees is written down. Not finite at step ``at``."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 4, 3)
        self.at = at
        self.seen: list[list[list[int]]] = []

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        assert batch.neighbour is not None
        self.seen.append(torch.stack([batch.index, batch.neighbour.index], 1).tolist())
        one, other = (self.layer(slices.image).mean((2, 3)) for slices in (batch, batch.neighbour))
        loss = (one - 2 * other - 1).square().mean()
        return Outcome({"apart": loss * math.inf if len(self.seen) == self.at else loss})


@pytest.fixture(scope="module")
def slices(prepared_work: Path) -> Slices:
    opened = open_store(prepared_work / "prepared")
    return Slices(opened, range(len(opened.scans)), torch.device("cpu"))


def train(path: Path, slices: Slices, fake: Fake, **given: object) -> None:
    plain = {"learning_rate": 0.05, "precision": "32", "optimiser": "sgd", "log_every_steps": 1}
    chosen = resolve(schedule.Settings, {**plain, **given})
    loop.train(fake, slices, SAMPLING, chosen, Run(path, {}), launch.launch(chosen, "cpu"), seed=3)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_of_pairs_equal_the_whole(slices: Slices, tmp_path: Path, parts: int) -> None:
    whole, split = Fake(), Fake()
    train(tmp_path / "whole", slices, whole, steps=1)
    train(tmp_path / "split", slices, split, steps=1, accumulate=parts)
    torch.testing.assert_close(split.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)
    assert whole.seen == [draw_batches(SAMPLING, slices.scan, slices.subject, seed=3, epoch=0)[0].tolist()]
    assert len(split.seen) == parts
    assert sorted(pair for part in split.seen for pair in part) == sorted(whole.seen[0])


def test_a_loss_that_is_not_finite_names_the_scans_of_the_pairs(slices: Slices, tmp_path: Path) -> None:
    fake = Fake(at=2)
    with pytest.raises(TrainingStopped, match="the loss of step 2 is not finite") as caught:
        train(tmp_path, slices, fake, steps=3)
    ids = {slices.store.scans[int(slices.scan[row])].id for pair in fake.seen[1] for row in pair}
    assert f"scans of the batch: {', '.join(sorted(ids))}\n" in str(caught.value)
