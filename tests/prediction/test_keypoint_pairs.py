"""Keypoints of two slices side by side, as the report shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lemis.errors import UsageError
from lemis.prediction.keypoint_pairs import Query, pair, parse
from lemis.preparation.store import open_store


def test_a_slice_is_read_from_the_right() -> None:
    assert parse("a:b:3") == Query("a:b", 3)
    for text in ("", "a", ":3", "a:b", "a:-1"):
        with pytest.raises(UsageError, match="SCAN:SLICE"):
            parse(text)


def test_matches_are_near_and_choose_each_other(prepared_work: Path) -> None:
    store = open_store(prepared_work / "prepared")
    for number, beside in ((1, 2), (2, 3), (5, 4)):
        found = pair(prepared_work, Query(store.scans[0].id, number), [5.0, 20.0])
        assert (found.first.slice_number, found.second.slice_number) == (number, beside)
        counts = store.keypoints(0).count
        assert (len(found.first.place), len(found.second.place)) == (counts[number - 1], counts[beside - 1])
        before = int(counts[: beside - 1].sum())
        assert np.array_equal(found.second.place, store.keypoints(0).place[before : before + counts[beside - 1]])
        for theta, pairs in found.found.items():
            a, b = found.first.place[pairs[:, 0]], found.second.place[pairs[:, 1]]
            assert (np.abs(a - b).sum(1) < theta).all()
            assert len(set(pairs[:, 1].tolist())) == len(pairs), "each at most once"
