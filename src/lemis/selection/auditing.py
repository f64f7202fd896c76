"""Some of what is labelled next is drawn at random, whatever way chooses the rest.

Subjects that were chosen are no sample of the others: uncertain ones are harder, typical ones easier, so a score on
them does not hold for the rest, nor does an interval that was calibrated on them. A score on those that are drawn, from
all that have no label, does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lemis.contracts import Pick, Pool
from lemis.errors import UsageError

ONE_IN = 5  # INFERRED: one of five suggested subjects, none of fewer
RANDOM = "random"  # the way that draws all of them


def share(asked: int | None, number: int, left: int, way: str) -> int:
    """How many are drawn.

    Args:
        asked: As the user gave it.
        number: How many subjects are suggested.
        left: How many have no label. Where all of these are suggested, none is left that a drawn one could speak for.
        way: That chooses the others.

    Raises:
        UsageError: More than there are, or fewer than none.
    """
    if asked is None:
        return 0 if way == RANDOM or number >= left else number // ONE_IN
    if not 0 <= asked <= number:
        raise UsageError(
            f"--audit {asked} of {number}", allowed=f"0 to {number}", next=f"--audit {min(max(asked, 0), number)}"
        )
    return asked


def chosen(
    pool: Pool, number: int, drawn: int, way: Callable[[Pool, int], list[Pick]], seed: int,
    waiting: Mapping[str, int] = {},
) -> list[Pick]:  # fmt: skip
    """Those that are drawn, then those that a way adds as if they were labelled: so it looks for what they lack.

    Those that were drawn before and have no label yet come first: a draw that is repeated until it pleases is none.

    Args:
        pool: What is chosen from.
        number: How many are chosen in all.
        drawn: How many of them at random.
        way: Gives picks of a pool, so many.
        seed: Of the draw.
        waiting: Subjects that were drawn before, each with how many were unlabelled then.
    """
    unlabelled = np.flatnonzero(~pool.labelled)
    before = [pool.names.index(name) for name in waiting if name in pool.names]
    order = [subject for subject in before if not pool.labelled[subject]]
    fresh = np.random.default_rng([seed, len(unlabelled)]).permutation(unlabelled).tolist()
    order = [*order, *(subject for subject in fresh if subject not in order)][:drawn]
    picks = [_drawn(subject, waiting.get(pool.names[subject], len(unlabelled))) for subject in order]
    marked = pool.labelled.copy()
    marked[order] = True
    return picks + (way(pool._replace(labelled=marked), number - len(picks)) if number > len(picks) else [])


def _drawn(subject: int, of: int) -> Pick:
    return Pick(
        subject, f"drawn at random from all {of} unlabelled, as an audit: a score on it holds for the others", 1 / of
    )
