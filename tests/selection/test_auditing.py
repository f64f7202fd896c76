"""Some of the suggested subjects are drawn at random from all, and the way goes on from them."""

from __future__ import annotations

import numpy as np
import pytest

from lemis.contracts import Pick, Pool
from lemis.errors import UsageError
from lemis.selection import auditing
from lemis.suggesters import cover
from pools import pool


def test_one_of_five_is_drawn_by_default_and_of_a_random_choice_none_more() -> None:
    assert [auditing.share(None, number, 30, "cover") for number in (1, 4, 5, 9, 10)] == [0, 0, 1, 1, 2]
    assert auditing.share(None, 10, 30, "random") == 0
    assert [auditing.share(None, 10, left, "cover") for left in (4, 10, 11)] == [0, 0, 2]  # all: nothing is left
    assert [auditing.share(asked, 3, 30, "random") for asked in (0, 3)] == [0, 3]


@pytest.mark.parametrize("asked", [-1, 4])
def test_more_than_there_are_is_refused(asked: int) -> None:
    with pytest.raises(UsageError, match=rf"--audit {asked} of 3\n.*0 to 3\n.*--audit [03]"):
        auditing.share(asked, 3, 30, "cover")


def way(given: Pool, number: int) -> list[Pick]:
    return cover.suggest(given, number, cover.Settings(), 0)


def test_without_an_audit_it_is_what_the_way_says() -> None:
    given = pool(20, labelled=3)
    assert auditing.chosen(given, 5, 0, way, seed=0) == way(given, 5)


def test_the_way_goes_on_as_if_the_drawn_ones_were_labelled() -> None:
    given = pool(20, labelled=3)
    picks = auditing.chosen(given, 5, 2, way, seed=1)
    assert all("drawn at random from all 17 unlabelled" in pick.why for pick in picks[:2])
    marked = given.labelled.copy()
    marked[[pick.subject for pick in picks[:2]]] = True
    assert picks[2:] == way(given._replace(labelled=marked), 3)
    assert auditing.chosen(given, 5, 2, way, seed=1) == picks


def test_each_unlabelled_subject_is_drawn_as_often_whatever_the_way_likes() -> None:
    given = pool(10, labelled=4)
    counts = np.zeros(10)
    for seed in range(600):
        counts[auditing.chosen(given, 3, 1, way, seed)[0].subject] += 1
    assert counts[given.labelled].sum() == 0
    assert np.abs(counts[~given.labelled] - 100).max() < 45  # five standard deviations of a binomial are 46


def test_where_fewer_are_left_than_are_drawn_all_of_them_are() -> None:
    given = pool(6, labelled=4)
    picks = auditing.chosen(given, 5, 3, way, seed=0)
    assert sorted(pick.subject for pick in picks) == np.flatnonzero(~given.labelled).tolist()


def test_those_that_wait_for_a_label_come_first_and_are_not_drawn_again() -> None:
    given = pool(20, labelled=3)
    free = [given.names[subject] for subject in np.flatnonzero(~given.labelled)]
    taken = given.names[int(np.flatnonzero(given.labelled)[0])]
    waiting = {taken: 20, "nobody": 20, free[4]: 19, free[2]: 19}
    for seed in range(9):
        picks = auditing.chosen(given, 5, 3, way, seed, waiting)
        assert [given.names[pick.subject] for pick in picks[:2]] == [free[4], free[2]]
        assert all("from all 19 unlabelled" in pick.why for pick in picks[:2])
        assert "from all 17 unlabelled" in picks[2].why
        assert len({pick.subject for pick in picks}) == 5
    (one,) = auditing.chosen(given, 1, 1, way, 0, waiting)
    assert given.names[one.subject] == free[4]
