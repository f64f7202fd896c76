"""What is said of several runs of one command."""

from pathlib import Path

import pytest

from lemis.runs import told


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


RUNS = [Path("work/runs") / name for name in ("a", "b", "c")]


@pytest.mark.parametrize(
    ("number", "idle", "lines"),
    [
        (3, RUNS, ["work/runs: 3 runs are up to date, nothing to do: a, b, c"]),
        (3, RUNS[:2], ["work/runs: 2 of 3 runs are up to date: a, b"]),
        (3, RUNS[:1], ["work/runs/a: 1 of 3 runs is up to date"]),
        (1, RUNS[:1], ["work/runs/a: nothing to do"]),
        (3, [], []),
        (2, [RUNS[0]] * 2, ["work/runs/a: 2 runs are up to date, nothing to do"]),
    ],
)
def test_what_is_up_to_date_is_said_once(
    number: int, idle: list[Path], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with told.together(number, "runs"):
        for path in idle:
            told.nothing_to_do(path)
        assert said(capsys) == []
    assert said(capsys) == lines


def test_alone_every_run_speaks_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for path in RUNS:
        told.nothing_to_do(path)
    assert said(capsys) == [f"{path}: nothing to do" for path in RUNS]
    assert told.is_new("table")
    assert told.is_new("table")


def test_together_the_same_is_new_once() -> None:
    with told.together(2, "runs"):
        assert [told.is_new(text) for text in ("table", "table", "another")] == [True, False, True]
    with told.together(2, "runs"):
        assert told.is_new("table")


def test_an_error_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        with told.together(2, "runs"):
            told.nothing_to_do(RUNS[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert said(capsys) == []
    told.nothing_to_do(RUNS[1])
    assert said(capsys) == ["work/runs/b: nothing to do"]
