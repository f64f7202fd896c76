"""Promises of every way to choose which scans to label next."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lemis.contracts import Pick, Pool
from lemis.promises import chance, own_settings, trying
from lemis.promises.methods import expect_known
from lemis.promises.trying import expect, expect_citation, known, of_module
from lemis.settings import resolve

FOLDER = "suggesters"
SUBJECTS, NUMBER, SEED = 24, 6, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """A way to choose."""

    FOLDER = FOLDER

    def suggest(
        self, pool: Pool, number: int = NUMBER, layer: Mapping[str, Any] | None = None, seed: int = SEED
    ) -> list[Pick]:
        """What it chooses; settings that it does not have are left out."""
        settings = resolve(self.module.Settings, known(self.module, layer or {}))
        picks: list[Pick] = self.module.suggest(pool, number, settings, seed)
        return picks


def pool(subjects: int = SUBJECTS, labelled: int = 5, *, spread: float = 1.0, seed: int = 0) -> Pool:
    """Subjects in four groups, some of them labelled, with networks that disagree on the others.

    Args:
        subjects: How many.
        labelled: How many of them have a label.
        spread: 0: all are the same to an encoder, and to the networks.
        seed: Another one, other subjects.
    """
    rng = np.random.default_rng(seed)
    marked = np.zeros(subjects, bool)
    marked[rng.permutation(subjects)[:labelled]] = True
    groups = 3 * rng.normal(size=(4, 6))[np.arange(subjects) % 4]
    disagreement, entropy = rng.uniform(0, 1, (subjects, 2)) * spread, rng.uniform(0, 1, subjects) * spread
    disagreement[marked], entropy[marked] = np.nan, np.nan
    names = tuple(f"p{number:04d}" for number in range(subjects))
    embedding = (groups + rng.normal(size=groups.shape)) * spread
    return Pool(names, embedding, marked, ("a", "b"), 3, disagreement, entropy)


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`suggest(pool, number, settings, seed)` is a function, `Settings` a dataclass; `NETWORKS`, where it is there, is
    0, 1 or 2, and `NESTED` true or false.
    """
    module = of_module(FOLDER, name)
    taken = list(inspect.signature(module.suggest).parameters)
    expect(taken == ["pool", "number", "settings", "seed"], f"suggest takes ({', '.join(taken)})")
    expect(dataclasses.is_dataclass(module.Settings), "Settings is no dataclass")
    expect(getattr(module, "NETWORKS", 0) in (0, 1, 2), f"NETWORKS is {getattr(module, 'NETWORKS', 0)!r}")
    expect(getattr(module, "NESTED", False) in (True, False), f"NESTED is {getattr(module, 'NESTED', False)!r}")


def the_file_cites_its_paper(name: str) -> None:
    """The docstring of the file names the paper, its year and its address."""
    expect_citation(FOLDER, name)


# ------------------------------------------------------------------------------------------------- the list


def expect_picks(picks: list[Pick], given: Pool, number: int) -> None:
    """What is promised of every list."""
    wanted = min(number, int((~given.labelled).sum()))
    expect(len(picks) == wanted, f"{len(picks)} picks, and {wanted} are asked")
    expect(all(isinstance(pick, Pick) for pick in picks), "not all are of lemis.contracts.Pick")
    rows = [pick.subject for pick in picks]
    expect(all(type(row) is int and 0 <= row < len(given.names) for row in rows), f"{rows} are no rows of the pool")
    expect(len(set(rows)) == len(rows), f"{rows}, one of them twice")
    expect(not given.labelled[rows].any(), "a labelled subject is chosen")
    expect(all(pick.why.strip() and "\n" not in pick.why for pick in picks), "a reason that is no line of text")
    expect(bool(np.isfinite([pick.score for pick in picks]).all()), "a score that is not finite")


def it_chooses_unlabelled_subjects_with_a_reason(subject: Subject) -> None:
    """`number` different unlabelled subjects, or all of them where there are fewer, each a `Pick(subject, why, score)`
    with a row of the pool, a line of text and a finite number; the pool stays as it was. Also before any label exists.
    """
    for labelled in (0, 1, 5, SUBJECTS - 2, SUBJECTS):
        given = pool(labelled=labelled)
        before = [np.copy(part) for part in given if isinstance(part, np.ndarray)]
        for number in (1, NUMBER, SUBJECTS + 3):
            expect_picks(subject.suggest(given, number), given, number)
        after = [part for part in given if isinstance(part, np.ndarray)]
        same = all(np.array_equal(one, other, equal_nan=True) for one, other in zip(before, after, strict=True))
        expect(same, "the pool was changed")


def any_pool_has_a_list(subject: Subject) -> None:
    """Also one or two subjects, and subjects that are all the same."""
    for given in (pool(1, 0), pool(2, 0), pool(2, 1), pool(9, 2, spread=0.0), pool(9, 0, spread=0.0)):
        expect_picks(subject.suggest(given, 4), given, 4)


def the_same_seed_gives_the_same_list(subject: Subject) -> None:
    """Random numbers come from a generator of the seed (`numpy.random.default_rng(seed)`), none from the generator that
    everything shares.
    """
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    first, again = (subject.suggest(pool()) for _ in range(2))
    expect(first == again, "another list for the same seed")
    same = np.array_equal(state, np.random.get_state(legacy=False)["state"]["key"])
    expect(same, "it draws from the shared generator")


def another_seed_gives_another_list(subject: Subject) -> None:
    """Of several other seeds one gives another list, unless nothing is drawn."""
    given = pool(60, 0)
    lists = {tuple(pick.subject for pick in subject.suggest(given, seed=seed)) for seed in range(8)}
    chance.expect_others(
        len(lists) > 1, "the same list for eight seeds", subject.module, lambda: subject.suggest(given)
    )  # fmt: skip


def a_longer_list_goes_on_where_a_shorter_ends(subject: Subject) -> None:
    """Where the file says `NESTED = True`, the list for n + 1 begins with that for n."""
    if getattr(subject.module, "NESTED", False):
        whole = [pick.subject for pick in subject.suggest(pool(), SUBJECTS)]
        for number in range(1, SUBJECTS - 5):
            part = [pick.subject for pick in subject.suggest(pool(), number)]
            expect(part == whole[:number], f"the list of {number} is no beginning of the whole one")


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(subject: Subject, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change."""
    lists = [subject.suggest(pool(40, labelled), 8, layer, seed) for labelled in (0, 4) for seed in (0, 1)]
    return tuple(tuple(pick) for picks in lists for pick in picks)


def setting_has_an_effect(subject: Subject, key: str) -> bool:
    """Whether other values of a setting change anything."""
    base = subject.where.get(key, {})

    def resolved(layer: Mapping[str, Any]) -> Any:
        return resolve(subject.module.Settings, base, layer)

    return own_settings.has_an_effect(resolved, key, partial(fingerprint, subject), fingerprint(subject, base))


def every_setting_has_an_effect(subject: Subject) -> None:
    """Another value of each setting changes subjects, reasons or scores. One that acts only where another is set says
    so in the file: `CHECKED_WITH = {"power": {"weigh": true}}`; one that does not act on small pools:
    `NOT_CHECKED = {"starts": "why"}`. Delete a setting that does nothing.
    """
    expect_known(subject)
    own_settings.expect_effects(subject.module.Settings, partial(setting_has_an_effect, subject), subject.excused)


FILE = (the_file_has_its_names,)
FILE_OF_OURS = (the_file_cites_its_paper,)
STEP = (
    it_chooses_unlabelled_subjects_with_a_reason,
    any_pool_has_a_list,
    the_same_seed_gives_the_same_list,
    another_seed_gives_another_list,
    a_longer_list_goes_on_where_a_shorter_ends,
)
