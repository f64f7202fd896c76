"""Which keypoints are used in training: a share of each pair, or as many as the poorest view has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.errors import UsageError
from lemis.parts.keypoint_share import Share, kept, some, some_of_pairs
from lemis.sampling.draw import Rows
from lemis.settings import resolve
from lemis.training.supervised import Settings

NAN = float("nan")


class Given:
    """A draw whose share is known."""

    def __init__(self, share: float) -> None:
        self.share = share

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.full((rows, *shape), self.share)

    def normal(self, rows: int, *shape: int) -> Tensor:
        raise AssertionError


def pairs(seed: int, rows: int, most: int, missing: float, mutual: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, which are keypoints, and matches between some of them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(2 * most, generator=generator).view(2, most) for _ in range(rows)]) / (2 * most)
    seen = torch.rand(rows, 2, most, generator=generator) >= missing
    found = torch.full((rows, most), -1)
    for row in range(rows):
        there = seen[row, 1].nonzero()[:, 0].tolist()
        for a in seen[row, 0].nonzero()[:, 0].tolist():
            if there and torch.rand((), generator=generator) < 0.6:
                b = there[int(torch.randint(len(there), (), generator=generator))]
                found[row, a] = b
                if mutual:
                    there.remove(b)
    return order, seen, found


def slow(
    order: Tensor, seen: Tensor, found: Tensor, share: float | None
) -> tuple[list[list[set[int]]], list[set[int]]]:
    """Keypoints of each pair that are used and matches (a, b) that are left, by sorting lists as the authors do."""
    images = [seen[row, k] for row in range(len(seen)) for k in range(2)]
    poorest = min((int(image.sum()) for image in images if image.any()), default=0)
    used, left = [], []
    for row in range(len(seen)):
        matches = {a: int(b) for a, b in enumerate(found[row]) if b >= 0}
        number = [dict(enumerate(order[row, k].tolist())) for k in range(2)]
        for a, b in matches.items():
            number[0][a] = number[1][b]
        of_row = []
        for k, with_match in enumerate((set(matches), set(matches.values()))):
            there = [p for p in number[k] if seen[row, k, p]]
            if share is None:
                there.sort(key=lambda p: (p not in with_match, number[k][p]))
                of_row.append(set(there[:poorest]))
            else:
                of_row.append({p for p in there if number[k][p] < share})
        whole = {a: b for a, b in matches.items() if a in of_row[0] and b in of_row[1]}
        of_row[0] -= matches.keys() - whole.keys()
        of_row[1] -= set(matches.values()) - set(whole.values())
        used.append(of_row)
        left.append(set(whole.items()))
    return used, left  # type: ignore[return-value]


@examples(80)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 4), most=st.integers(1, 8), missing=st.floats(0, 1),
    mutual=st.booleans(), share=st.one_of(st.none(), st.floats(0, 1)),
)  # fmt: skip
def test_what_is_used_of_pairs_equals_the_slow_way(
    seed: int, rows: int, most: int, missing: float, mutual: bool, share: float | None
) -> None:
    order, seen, found = pairs(seed, rows, most, missing, mutual)
    how: Share = "poorest" if share is None else (share, share)
    used, still = some_of_pairs(order, seen, found, how, Given(share or 0.0))
    expected, left = slow(order, seen, found, None if share is None else float(torch.tensor(share)))
    for row in range(rows):
        assert [set(used[row, k].nonzero()[:, 0].tolist()) for k in range(2)] == expected[row]
        assert {(a, int(b)) for a, b in enumerate(still[row]) if b >= 0} == left[row]


def test_a_match_keeps_both_of_its_keypoints() -> None:
    order, seen, found = pairs(3, 50, 40, 0.3, mutual=True)
    for share in ("poorest", (0.2, 1.0)):
        used, still = some_of_pairs(order, seen, found, share, Rows(0, 0, "cpu"))  # type: ignore[arg-type]
        has = found >= 0
        assert torch.equal((used[:, 0] & has), still >= 0)
        assert used[:, 1].gather(1, still.clamp(min=0))[still >= 0].all()
        assert 0 < (still >= 0).sum() < has.sum()


def test_as_many_as_the_poorest_image_that_has_any() -> None:
    seen = torch.zeros(4, 9, dtype=torch.bool)
    seen[0, :5], seen[1, 2:9], seen[2, ::3] = True, True, True  # 5, 7, 3 and none
    left = kept(torch.rand(4, 9, generator=torch.Generator().manual_seed(0)), seen, "poorest", Rows(0, 0, "cpu"))
    assert left.sum(1).tolist() == [3, 3, 3, 0]
    assert not (left & ~seen).any()
    assert kept(torch.rand(2, 9), torch.zeros(2, 9, dtype=torch.bool), "poorest", Rows(0, 0, "cpu")).sum() == 0


def test_every_keypoint_is_as_likely_as_another() -> None:
    keypoints = torch.rand(1, 10, 2).repeat(2, 1, 1)
    keypoints[1, 4:] = NAN
    times = torch.zeros(2, 10)
    for step in range(600):
        found = some(keypoints, "poorest", Rows(0, step, "cpu"))
        assert found is not None
        times += ~found.isnan().any(-1)
    assert times[1].tolist() == [600] * 4 + [0] * 6
    assert (times[0] / 600 - 0.4).abs().max() < 0.08
    assert times[0].sum() == 4 * 600


def test_all_are_left_as_they_are() -> None:
    keypoints = torch.rand(2, 10, 2)
    assert some(keypoints, (1.0, 1.0), Rows(0, 0, "cpu")) is keypoints
    assert some(None, "poorest", Rows(0, 0, "cpu")) is None


def test_a_share_is_a_range_or_the_poorest() -> None:
    assert resolve(Settings, {"keypoint_share": "poorest"}).keypoint_share == "poorest"
    with pytest.raises(UsageError):
        resolve(Settings, {"keypoint_share": "richest"})
