"""Who trains, who carries labels, who is tested: by subject, never by scan, and the same in every run.

The folds and the label budget M are those of the PCL protocol, which SAL and KAF use too: scikit-learn's
``KFold`` over the sorted subjects, then ``random.sample`` of M of the fold's training subjects.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lemis.errors import UsageError

FOLDS = 5  # PCL
FOLD_SEED = 12345  # PCL
BUDGET_SEED = 1234  # PCL
FILE = "splits_final.json"  # nnU-Net


class Fold(NamedTuple):
    """Subjects of one fold, each tuple sorted."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Subjects of one run. Pre-training may see every image; labels come from ``labelled_subjects`` only."""

    train_subjects: tuple[str, ...]  # that have labels and may be used
    labelled_subjects: tuple[str, ...]  # those of them whose labels are used
    test_subjects: tuple[str, ...]  # none without a fold
    source: str  # where the fold comes from, in words


class Scanned(Protocol):
    """What a split needs to know of a scan; ``index.Scan`` and ``preprocess.Facts`` both fit."""

    @property
    def id(self) -> str:
        """Of the scan."""

    @property
    def subject(self) -> str:
        """Who it is of."""

    @property
    def label(self) -> str | None:
        """File of its label map."""


def choose(
    scans: Iterable[Scanned],
    *,
    fold: int | None = None,
    labelled: int | None = None,
    root: Path | None = None,
    seed: int = BUDGET_SEED,
) -> Split:
    """The split of one run.

    Args:
        scans: All scans; only subjects with a label are split.
        fold: Which fold is tested; None trains on everything that has labels and tests nothing.
        labelled: How many of the training subjects give their labels (M); all of them by default.
        root: Folder of the data set; a ``splits_final.json`` there gives the folds. Ignored by default.
        seed: Of the choice of M subjects.

    Raises:
        UsageError: No labels at all, a fold that is not there, more subjects than there are, or a file of
            splits with a subject on both sides.
    """
    with_label = [scan for scan in scans if scan.label is not None]
    subjects = in_order({scan.subject for scan in with_label})
    if not subjects:
        raise UsageError(
            "no scan has a label",
            allowed="at least one labelled scan",
            next="label a few scans, put the label maps beside them, and run `lemis check` again",
        )
    if fold is None:
        sides, source = Fold(subjects, ()), "every labelled subject, none held out"
    else:
        found, source = _folds_of(with_label, subjects, root)
        if not 0 <= fold < len(found):
            raise UsageError(
                f"fold {fold}", allowed=f"0 to {len(found) - 1} ({source})", next=f"--fold {len(found) - 1}"
            )
        sides = found[fold]
        source = f"fold {fold} of {len(found)}, {source}"
    chosen = sides.train if labelled is None else labelled_subset(sides.train, labelled, seed=seed)
    return Split(train_subjects=sides.train, labelled_subjects=chosen, test_subjects=sides.test, source=source)


def number_of_folds(scans: Iterable[Scanned], *, root: Path | None = None) -> int:
    """How many folds ``choose`` knows; 1 for one labelled subject, none of it held out; 0 without labels."""
    with_label = [scan for scan in scans if scan.label is not None]
    subjects = in_order({scan.subject for scan in with_label})
    return len(_folds_of(with_label, subjects, root)[0]) if len(subjects) > 1 else len(subjects)


def folds(subjects: Iterable[str], *, k: int = FOLDS, seed: int = FOLD_SEED) -> list[Fold]:
    """``k`` folds over the subjects in natural order (``p2`` before ``p10``).

    Raises:
        UsageError: Fewer subjects than folds.
    """
    from sklearn.model_selection import KFold

    ordered = in_order(set(subjects))
    if not 2 <= k <= len(ordered):
        raise UsageError(
            f"{k} folds of {len(ordered)} labelled subjects",
            allowed=f"2 to {len(ordered)} folds" if len(ordered) > 1 else "at least two labelled subjects",
            next="train without a fold, or label more subjects",
        )
    parts = KFold(n_splits=k, shuffle=True, random_state=seed).split(ordered)
    return [Fold(tuple(ordered[i] for i in train), tuple(ordered[i] for i in test)) for train, test in parts]


def labelled_subset(train: Sequence[str], m: int, *, seed: int = BUDGET_SEED) -> tuple[str, ...]:
    """``m`` of the training subjects, in the order in which ``random.sample`` draws them.

    Raises:
        UsageError: ``m`` is not between 1 and the number of subjects.
    """
    if not 1 <= m <= len(train):
        raise UsageError(
            f"{m} labelled subjects",
            allowed=f"1 to {len(train)}, the labelled subjects that may be trained on",
            next=f"--labelled {len(train)}",
        )
    return tuple(random.Random(seed).sample(list(train), k=m))


def read_splits(path: Path, subject_of: Mapping[str, str]) -> list[Fold]:
    """Folds of an nnU-Net ``splits_final.json``, from scans to subjects.

    Args:
        path: A list of ``{"train": [ids], "val": [ids]}``.
        subject_of: Subject of each labelled scan id.

    Raises:
        UsageError: Another content, an unknown scan, or a subject on both sides of a fold.
    """
    again = f"correct {path.name}, or move it away to use our folds by subject"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        pairs = [([str(id) for id in entry["train"]], [str(id) for id in entry["val"]]) for entry in content]
        if not isinstance(content, list) or not pairs:
            raise TypeError
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UsageError(
            f"{path} is not a list of folds", allowed='[{"train": [ids], "val": [ids]}, ...]', next=again
        ) from None
    found = []
    for number, (train, test) in enumerate(pairs):
        unknown = [id for id in (*train, *test) if id not in subject_of]
        if unknown:
            raise UsageError(
                f"fold {number} of {path} names {unknown[0]!r}, which has no label here",
                allowed=f"{len(subject_of)} labelled scans, {', '.join(sorted(subject_of)[:3])}, ...",
                next=again,
            )
        sides = Fold(in_order({subject_of[id] for id in train}), in_order({subject_of[id] for id in test}))
        both = in_order(set(sides.train) & set(sides.test))
        if both:
            raise UsageError(
                f"fold {number} of {path} trains and tests on subject {both[0]!r}: a leak",
                allowed="every subject on one side of a fold",
                next=again,
            )
        found.append(sides)
    return found


def in_order(subjects: Iterable[str]) -> tuple[str, ...]:
    """Sorted as people count: ``p2`` before ``p10``."""
    return tuple(sorted(subjects, key=_natural))


def _natural(subject: str) -> tuple[Any, ...]:
    parts = re.split(r"(\d+)", subject)  # text and digits by turns; the text itself decides between 01 and 1
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], subject


def _folds_of(with_label: Sequence[Scanned], subjects: tuple[str, ...], root: Path | None) -> tuple[list[Fold], str]:
    if root is not None and (root / FILE).is_file():
        return read_splits(root / FILE, {scan.id: scan.subject for scan in with_label}), FILE
    k = min(FOLDS, len(subjects))
    words = f"KFold(n_splits={k}, shuffle=True, random_state={FOLD_SEED}) over {len(subjects)} subjects"
    return folds(subjects, k=k), words
