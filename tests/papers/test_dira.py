"""DiRA (Haghighi et al., CVPR 2022): the three losses by loops, and which way the adversary pushes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.methods import dira, pcl
from lemis.methods.dira import TRAINS, Method, Settings
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "queue": 10}


def test_the_losses_by_loops(says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(1)
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    q, k, said, judged = torch.randn(3, 6), torch.randn(3, 6), torch.randn(3, 1, 32, 32), torch.randn(6, 1, 2, 2)
    method = Method(make_unet(), Settings(**SMALL, discrimination_weight=2.0, restoration_weight=7.0))
    method.project, method.slow_project, method.restore = says(q), says(k), says(said)
    method.discriminate = says(judged)
    queue = method.queue.keys.clone()
    target = method.views(batch, Rows(*RNG))["target"].image
    losses = method(batch, Rows(*RNG)).losses
    discrimination = 0.0
    for i in range(3):
        e = [math.exp(float(torch.cosine_similarity(q[i], key, 0)) / 0.2) for key in (k[i], *queue)]
        discrimination -= math.log(e[0] / sum(e)) / 3
    restored = said.sigmoid()
    torch.testing.assert_close(method.discriminate.asked[0], torch.cat([target, restored]))
    # The first half of what D was asked are real images, the second half restored ones.
    real, fake = ([1 / (1 + math.exp(-logit)) for logit in half.flatten().tolist()] for half in judged.chunk(2))
    l_adv = sum(math.log(d) for d in real) / len(real) + sum(math.log(1 - d) for d in fake) / len(fake)
    assert losses["discrimination"].item() == pytest.approx(2 * discrimination, rel=1e-5)
    assert losses["restoration"].item() == pytest.approx(7 * (restored - target).square().mean().item(), rel=1e-5)
    assert losses["adversarial"].item() == pytest.approx(-l_adv, rel=1e-5)


def test_known_values_of_the_adversarial_loss() -> None:
    nothing, sure = torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 30.0)
    assert dira.adversarial(nothing, nothing).item() == pytest.approx(2 * math.log(2))
    assert dira.adversarial(sure, -sure).item() == pytest.approx(0, abs=1e-6)  # D is right about all
    assert dira.adversarial(-sure, sure).item() == pytest.approx(60)  # and wrong about all


@pytest.mark.parametrize("factor", [0.0, 0.001, 2.0])
def test_reversal_changes_no_value_and_turns_the_gradient(factor: float) -> None:
    x = torch.randn(5, requires_grad=True)
    y = dira.reverse(x, factor)
    assert torch.equal(y, x)
    y.backward(torch.arange(5.0))
    torch.testing.assert_close(x.grad, -factor * torch.arange(5.0))


def gradients(batch: Any, unet: Any, progress: float, **settings: float) -> tuple[Tensor, Tensor]:
    """Of the adversarial term alone: for the network (its encoder, decoder and restoring layer), and for D."""
    torch.manual_seed(2)
    method = Method(unet, Settings(**SMALL, **settings)).double()
    method.after_step(progress)
    for p in method.parameters():
        p.grad = None
    batch = batch._replace(image=batch.image.double())
    method(batch, Rows(*RNG)).losses["adversarial"].backward()
    network = [p.grad for p in (*method.backbone.parameters(), *method.restore.parameters()) if p.grad is not None]
    assert network
    return tuple(  # type: ignore[return-value]
        torch.cat([g.flatten() for g in found])
        for found in (network, [p.grad for p in method.discriminate.parameters()])
    )


def test_the_network_climbs_where_the_discriminator_descends(
    monkeypatch: pytest.MonkeyPatch, make_unet: Any, make_batch: Any
) -> None:
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    ours, ours_d = gradients(batch, make_unet(), 0.5, adversarial_from=0.5, adversarial_weight=0.3)
    early, early_d = gradients(batch, make_unet(), 0.4, adversarial_from=0.5, adversarial_weight=0.3)
    monkeypatch.setattr(dira, "reverse", lambda x, factor: x)  # the plain gradient of -L_adv
    plain, plain_d = gradients(batch, make_unet(), 0.5, adversarial_from=0.5, adversarial_weight=0.3)
    assert plain.abs().max() > 0
    torch.testing.assert_close(ours, -0.3 * plain)  # descending this climbs -L_adv: the network minimises L_adv
    torch.testing.assert_close(ours_d, plain_d)  # D descends -L_adv
    assert early.abs().max() == 0  # before its turn nothing comes back from D,
    torch.testing.assert_close(early_d, plain_d)  # which learns already


def test_a_step_of_each_does_what_the_paper_says(make_unet: Any, make_batch: Any) -> None:
    """-L_adv falls where only D steps, and rises where only the network does."""
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    for mover, sign in (("discriminate", -1), ("restore", 1)):
        torch.manual_seed(0)
        method = Method(make_unet(), Settings(**SMALL, adversarial_from=0.0, adversarial_weight=1.0))
        before = method(batch, Rows(*RNG)).losses["adversarial"]
        before.backward()
        with torch.no_grad():
            for p in getattr(method, mover).parameters():
                p.sub_(1e-3 * p.grad / p.grad.norm())
        after = method(batch, Rows(*RNG)).losses["adversarial"]
        assert sign * (after - before).item() > 0, mover


def test_the_discriminator_is_that_of_the_released_code() -> None:
    network = dira.discriminator(1)
    weights = (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1) * 9
    assert sum(p.numel() for p in network.parameters()) == weights + 64 + 1
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 1, 4, 4)


@pytest.mark.slow
def test_it_restores_and_does_not_collapse(make_unet: Any, train: Any, make_batch: Any) -> None:
    small = {"size_px": 32, "embedding": 16, "queue": 64, "momentum": 0.99}
    method = Method(make_unet(), Settings(**small, adversarial_from=0.5, photometric="identity"))
    batch = make_batch({0: list(range(16))}, of={0: 16}, side=40)
    before = method(batch, Rows(9, 0, "cpu")).losses["restoration"].item()
    outcome = train(method, steps=100, learning_rate=0.005)
    assert float(method.progress) == 1
    assert spread(outcome.embeddings["global"]) > SMALLEST_SPREAD
    assert method(batch, Rows(9, 0, "cpu")).losses["restoration"].item() < 0.5 * before


def test_the_defaults_are_the_papers_and_the_protocols(make_unet: Any) -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.discrimination_weight, ours.restoration_weight, ours.adversarial_weight) == (1.0, 10.0, 0.001)
    assert (ours.temperature, ours.momentum, ours.embedding) == (0.2, 0.999, 128)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
    assert Method(make_unet(), Settings(**SMALL)).trains == TRAINS
