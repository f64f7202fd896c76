"""The ramp by its values."""

from __future__ import annotations

import pytest
import torch

from lemis.parts.ramp import ramp_up


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.006738), (0.25, 0.060055), (0.5, 0.286505), (0.75, 0.731616), (1.0, 1.0)]
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_values(progress: float, expected: float, share: float) -> None:
    found = ramp_up(torch.tensor(progress * share, dtype=torch.float64), share)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_it_stays_where_it_arrived_and_no_share_is_no_ramp() -> None:
    assert float(ramp_up(torch.tensor(0.9), 0.5)) == 1
    assert float(ramp_up(torch.tensor(0.0), 0.0)) == 1
