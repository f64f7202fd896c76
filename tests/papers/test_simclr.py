"""SimCLR (Chen et al., ICML 2020) in the PCL protocol: only the other view of the same slice is a positive."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.contracts import Batch
from lemis.methods import pcl
from lemis.methods.simclr import Method, Settings
from lemis.sampling.draw import Rows

RNG = (0, 0, "cpu")


def slow(z: Tensor, tau: float) -> float:
    """Mean of l_i = -log [exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau)] over all 2N views, view after view."""
    n = len(z) // 2
    z = z.double()
    terms = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        sims = [float(z[i] @ z[k] / z[i].norm() / z[k].norm()) for k in range(2 * n)]
        below = sum(math.exp(sims[k] / tau) for k in range(2 * n) if k != i)
        terms.append(-math.log(math.exp(sims[j] / tau) / below))
    return sum(terms) / len(terms)


def slices(count: int, side: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.arange(count)
    return Batch(
        image=torch.randn(count, 1, side, side, generator=generator), index=numbers + 3, scan=numbers * 0,
        subject=numbers * 0, position=(numbers + 1) / count, spacing_mm=torch.ones(count, 2),
    )  # fmt: skip


@pytest.mark.parametrize("tau_base", [0.07, None])
@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("count", [2, 5])
def test_nt_xent(count: int, tau: float, tau_base: float | None, says: Any, make_unet: Any) -> None:
    z = torch.randn(2 * count, 6, generator=torch.Generator().manual_seed(count))
    method = Method(make_unet(), Settings(size_px=32, temperature=tau, temperature_base=tau_base))
    method.project = says(z)
    loss = method(slices(count), Rows(*RNG)).losses["contrast"].item()
    assert loss == pytest.approx(tau / (tau_base or tau) * slow(z, tau), rel=1e-5)


def test_known_values(says: Any, make_unet: Any) -> None:
    for z, expected in (
        (torch.ones(8, 4), math.log(7) / 0.7),
        (torch.eye(4).repeat(2, 1), (math.log(math.exp(10) + 6) - 10) / 0.7),
    ):
        method = Method(make_unet(), Settings(size_px=32))
        method.project = says(z)
        outcome = method(slices(4), Rows(*RNG))
        assert outcome.losses["contrast"].item() == pytest.approx(expected, abs=1e-6)
        assert outcome.uninformed["contrast"] == pytest.approx(2.77987, abs=1e-5)
    assert 0.1 / 0.07 * math.log(63) == pytest.approx(5.9187, abs=1e-4)


def test_it_is_pcl_with_a_threshold_that_no_two_slices_meet(make_unet: Any) -> None:
    batch = slices(6)
    ours = Method(make_unet(), Settings(size_px=32, embedding=8))
    torch.manual_seed(0)
    theirs = pcl.Method(make_unet(), pcl.Settings(size_px=32, embedding=8, threshold=1e-3))
    theirs.load_state_dict(ours.state_dict())
    expected = theirs(batch, Rows(*RNG)).losses["contrast"].item()
    assert ours(batch, Rows(*RNG)).losses["contrast"].item() == pytest.approx(expected, rel=1e-6)
    theirs.settings = pcl.Settings(size_px=32, embedding=8)
    assert theirs(batch, Rows(*RNG)).losses["contrast"].item() != pytest.approx(expected, rel=1e-3)


def test_the_defaults_are_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    for name in ("batch_size", "temperature", "temperature_base", "embedding", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)


def test_in_3d_only_the_other_view_of_a_patch_is_positive(make_unet3d: Any, make_volumes: Any) -> None:
    batch = make_volumes(3)
    method = Method(make_unet3d(), Settings(size_px=(8, 16, 12), embedding=6))
    pair = method.views(batch, Rows(*RNG))
    z = method.project(method.backbone.encode(torch.cat([pair["first"].image, pair["second"].image]))[-1])
    expected = 0.1 / 0.07 * slow(z.detach(), 0.1)
    assert method(batch, Rows(*RNG)).losses["contrast"].item() == pytest.approx(expected, rel=1e-4)
