"""`make fuzz` in short: a few inputs of every kind, another few with every seed."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest

from fuzz.harness import GOOD, Case, run, try_case
from fuzz.streams import STREAMS

A_FEW = 12


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_every_input_is_read_or_refused_in_words(name: str, tmp_path: Path) -> None:
    for number, case in enumerate(islice(STREAMS[name].cases(random.Random(f"short {name}")), A_FEW)):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = try_case(case, folder)
        assert outcome.verdict in GOOD, f"{outcome.verdict}: {case.kind}: {case.name}\n{outcome.said}"


@pytest.mark.slow
def test_a_stream_is_the_same_with_the_same_seed() -> None:
    for stream in STREAMS.values():
        one, two = ([(case.kind, case.name) for case in islice(stream.cases(random.Random(7)), 20)] for _ in range(2))
        assert one == two


@pytest.mark.slow
def test_the_harness_tells_outcomes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(("list",), tmp_path).verdict == "accepted"
    assert run(("list", "--no-such-option"), tmp_path).verdict == "clean"
    accepted = Case("list", "as it is", lambda folder: folder, ("list",), nonsense=lambda _folder, _said: "no sense")
    assert try_case(accepted, tmp_path).verdict == "nonsense"
    refused = Case("list", "not needed", lambda folder: folder, ("list", "--no-such-option"), good=True)
    assert try_case(refused, tmp_path).verdict == "refused"
    monkeypatch.setenv("LEMIS_FUZZ_PATIENCE_S", "0")
    assert run(("list",), tmp_path).verdict == "hang"
