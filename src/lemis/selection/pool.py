"""From scans to the subjects that are chosen from: embeddings of one scale, a row for each subject, in order of names.

Each feature is standardised over the scans, constant ones are dropped, and principal components are kept until they
hold 95 % of the variance: at most 32, and fewer than there are subjects. They are not whitened, which would make noise
as large as the rest where there are fewer scans than features. A subject is the mean of its scans, so that a study of
many time points is chosen once, and what is labelled is the scan nearest to that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.contracts import Pool
from lemis.datasets.split import in_order
from lemis.parts.coverage import distances
from lemis.selection.uncertainty import Uncertainty

MOST_COMPONENTS = 32
VARIANCE = 0.95
FEW = 20  # subjects: with fewer, which are alike is mostly chance

Array = NDArray[np.float64]


class Seen(NamedTuple):
    """What is known of a scan."""

    id: str
    subject: str
    labelled: bool
    features: Array  # (F,)
    uncertainty: Uncertainty | None = None  # None: no networks, or labelled


class Subjects(NamedTuple):
    """The pool, and which scan of each subject to label."""

    pool: Pool
    scans: Sequence[str]  # an id for each row: without a label where there is one, nearest to the subject's mean
    explained: float  # share of the variance of all features that the embedding holds
    flat: Array  # (N, 2) its first two components, for a map


def subjects(scans: Sequence[Seen], structures: Sequence[str] = (), networks: int = 0) -> Subjects:
    """The pool of these scans, in whatever order they come.

    Args:
        scans: One at least, all with the same features.
        structures: Of the networks' label maps.
        networks: How many there are; 0: none, and no scan has an uncertainty.
    """
    ordered = sorted(scans, key=lambda scan: scan.id)
    reduced, explained = reduce(np.stack([scan.features for scan in ordered]), len({scan.subject for scan in scans}))
    names = in_order({scan.subject for scan in ordered})
    rows = [[place for place, scan in enumerate(ordered) if scan.subject == name] for name in names]
    means = np.stack([reduced[own].mean(axis=0) for own in rows])
    labelled = np.array([any(ordered[place].labelled for place in own) for own in rows])
    chosen = [
        ordered[min(own, key=lambda place: (ordered[place].labelled, _apart(reduced[place], mean), place))].id
        for own, mean in zip(rows, means, strict=True)
    ]
    disagreement, entropy = None, None
    if networks:
        told = [[ordered[place].uncertainty for place in own] for own in rows]
        disagreement = np.stack([_mean([one and one.disagreement for one in own], len(structures)) for own in told])
        entropy = np.concatenate([_mean([one and np.array([one.entropy]) for one in own], 1) for own in told])
        disagreement[labelled], entropy[labelled] = np.nan, np.nan
    flat = np.zeros((len(names), 2))
    flat[:, : min(2, means.shape[1])] = means[:, :2]
    pool = Pool(names, means, labelled, tuple(structures), networks, disagreement, entropy)
    return Subjects(pool, chosen, explained, flat)


def _mean(parts: Sequence[Array | None], size: int) -> Array:
    there = [part for part in parts if part is not None]
    return np.mean(there, axis=0) if there else np.full(size, np.nan)


def _apart(one: Array, other: Array) -> float:
    return float(np.linalg.norm(one - other))


def reduce(features: Array, subjects: int) -> tuple[Array, float]:
    """(N, F) features -> (N, D) principal components of the standardised ones, and the share of variance in them.

    Args:
        features: In a fixed order, on which the last bits depend.
        subjects: How many people they are of.
    """
    centred = features - features.mean(axis=0)
    scale = centred.std(axis=0)
    varies = scale > 1e-9 * np.maximum(1.0, np.abs(features).max(axis=0))
    if not varies.any():
        return np.zeros((len(features), 1)), 1.0
    u, s, _ = np.linalg.svd(centred[:, varies] / scale[varies], full_matrices=False)
    held = np.cumsum(s**2) / (s**2).sum()
    most = max(1, min(MOST_COMPONENTS, subjects - 1, len(s)))
    kept = min(int(np.searchsorted(held, VARIANCE)) + 1, most)
    signs = np.where(u[np.abs(u[:, :kept]).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)  # else the library's own
    return u[:, :kept] * s[:kept] * signs, float(held[kept - 1])


class Near(NamedTuple):
    """The labelled subject that one is nearest to."""

    name: str
    distance: float
    rank: float  # share of the unlabelled that are nearer to a labelled one than this is


def nearest_labelled(pool: Pool, subject: int) -> Near | None:
    """Of a subject of the pool; None where none is labelled."""
    marked = np.flatnonzero(pool.labelled)
    if not len(marked):
        return None
    apart = np.linalg.norm(pool.embedding[:, None] - pool.embedding[marked], axis=2)
    near = apart.min(axis=1)
    others = near[~pool.labelled]
    best = int(apart[subject].argmin())
    return Near(pool.names[marked[best]], float(near[subject]), float((others < near[subject]).mean()))


def covered(pool: Pool, chosen: Sequence[int] = ()) -> float:
    """Share of the unlabelled subjects that are chosen, or no farther from a labelled or chosen one than half of all
    pairs are from each other.
    """
    apart = distances(pool.embedding)
    inside = pool.labelled.copy()
    inside[list(chosen)] = True
    if not inside.any() or pool.labelled.all():
        return float(inside.any())
    usual = np.median(apart[np.triu_indices(len(apart), 1)])
    return float((apart[~pool.labelled][:, inside].min(axis=1) <= usual).mean())
