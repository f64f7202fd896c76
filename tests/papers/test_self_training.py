"""Self-training against its formula, and its limits."""

from __future__ import annotations

import pytest
import torch

from lemis.contracts import Batch
from lemis.sampling.draw import Rows
from lemis.semi.self_training import Semi, Settings
from semi_made import Labelled, Scale, batch, slow_loss, total


def taught(seed: int = 0, label: torch.Tensor | None = None) -> Batch:
    """Unlabelled rows with pseudo-labels."""
    here = batch(seed=seed)
    assert here.unlabelled is not None
    if label is None:
        label = torch.randint(0, 3, (4, 6, 6), generator=torch.Generator().manual_seed(7))
    return here._replace(unlabelled=here.unlabelled._replace(label=label))


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_the_losses_equal_the_formula(weight: float) -> None:
    here, semi = taught(), Semi(Labelled(), Settings(weight=weight))
    semi.after_step(0.5)
    found = semi(here, Rows(0, 0, "cpu")).losses
    assert here.unlabelled is not None
    for key, rows, share in (("loss", here, 1.0), ("pseudo/loss", here.unlabelled, weight)):
        assert rows.label is not None
        expected = slow_loss(Scale()(rows.image).detach(), rows.label, torch.ones(4, 6, 6))
        assert found[key].item() == pytest.approx(share / (1 + weight) * expected, rel=1e-6)


def test_right_pseudo_labels_of_the_labelled_scans_are_fine_tuning_on_labels() -> None:
    """A pool equal to the labelled scans with a perfect teacher: both halves say the same, whatever the weight."""
    here = batch()
    same = here._replace(unlabelled=here)
    plain = total(Labelled()(here, Rows(0, 0, "cpu"))).item()
    for weight in (0.3, 2.0):
        found = total(Semi(Labelled(), Settings(weight=weight))(same, Rows(0, 0, "cpu")))
        assert found.item() == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "progress", "looks"),
    [
        ({}, 0.0, True), ({}, 0.74, True), ({}, 0.75, False), ({}, 1.0, False), ({"true_only": 0}, 0.99, True),
        ({"true_only": 1}, 0.0, False), ({"weight": 0}, 0.0, False),
    ],
)  # fmt: skip
def test_the_last_part_is_on_true_labels_alone(settings: dict[str, float], progress: float, looks: bool) -> None:
    here, semi = taught(), Semi(Labelled(), Settings(**settings))  # type: ignore[arg-type]
    semi.after_step(progress)
    found = {key: loss.item() for key, loss in semi(here, Rows(0, 0, "cpu")).losses.items()}
    assert ("pseudo/loss" in found) == looks
    if not looks:
        assert found == {key: loss.item() for key, loss in Labelled()(here, Rows(0, 0, "cpu")).losses.items()}


def test_small_parts_of_a_pseudo_label_are_background_where_that_is_asked_for() -> None:
    label = torch.zeros(4, 6, 6, dtype=torch.int64)
    label[:, :2, :3], label[:, 4, 5], label[:, 3:, :2], label[:, 0, 5] = 1, 1, 2, 2
    whole = label.clone()
    whole[:, 4, 5], whole[:, 0, 5] = 0, 0

    def loss(label: torch.Tensor, largest_component: bool) -> float:
        semi = Semi(Labelled(), Settings(largest_component=largest_component))
        return semi(taught(label=label), Rows(0, 0, "cpu")).losses["pseudo/loss"].item()

    assert loss(label, True) == loss(whole, False) == loss(whole, True) != loss(label, False)


def test_the_gradient_of_half_a_batch_is_half_that_of_each() -> None:
    """With w = 1 the gradient is the mean of those of the true and of the pseudo-labels."""
    here = taught()
    assert here.unlabelled is not None
    found = []
    for rows in (here, here.unlabelled, None):
        network = Scale()
        outcome = (
            Labelled(network)(rows, Rows(0, 0, "cpu"))
            if rows
            else Semi(Labelled(network), Settings())(here, Rows(0, 0, "cpu"))
        )
        total(outcome).backward()
        assert network.weight.grad is not None
        found.append(network.weight.grad.item())
    assert found[2] == pytest.approx((found[0] + found[1]) / 2, rel=1e-9)
