"""Pools of subjects that are made up, for tests of ways to choose."""

from __future__ import annotations

import numpy as np

from lemis.contracts import Pool


def pool(
    subjects: int = 12, *, features: int = 3, labelled: int = 3, structures: int = 2, seed: int = 0, networks: int = 3
) -> Pool:
    """Subjects at random places, some of them labelled, with networks that disagree on the others."""
    rng = np.random.default_rng(seed)
    marked = np.zeros(subjects, bool)
    marked[rng.permutation(subjects)[:labelled]] = True
    disagreement = rng.uniform(0, 1, (subjects, structures))
    entropy = rng.uniform(0, 1, subjects)
    disagreement[marked], entropy[marked] = np.nan, np.nan
    names = tuple(f"p{number:04d}" for number in range(subjects))
    return Pool(
        names, rng.normal(size=(subjects, features)), marked, tuple(f"s{c}" for c in range(structures)), networks,
        disagreement, entropy,
    )  # fmt: skip


CLUSTERS, OUTLIERS = (40, 40, 15, 5), 3


def planted(seed: int, labelled: tuple[int, ...] = ()) -> tuple[Pool, np.ndarray]:
    """Four clusters in eight dimensions and three outliers; of each subject its cluster, -1 of outliers."""
    rng = np.random.default_rng(seed)
    centres = 8 * np.linalg.qr(rng.normal(size=(8, 8)))[0][: len(CLUSTERS)]
    points = [centre + rng.normal(size=(size, 8)) for centre, size in zip(centres, CLUSTERS, strict=True)]
    far = 40 * np.linalg.qr(rng.normal(size=(8, 8)))[0][:OUTLIERS]
    of = np.repeat([*range(len(CLUSTERS)), -1], [*CLUSTERS, OUTLIERS])
    embedding = np.concatenate([*points, far])
    marked = np.zeros(len(of), bool)
    marked[list(labelled)] = True
    return Pool(tuple(f"p{number:04d}" for number in range(len(of))), embedding, marked), of
