"""Splits: which subjects train, which of them with labels, which are tested. By subject, never by scan.

Schemes:

- ``pcl``, which SAL and KAF use too, on any data: scikit-learn's ``KFold`` over the sorted subjects, then
  ``random.sample`` of M of the fold's training subjects.
- ``macl``, on its eight data sets: one split each, which is one fold of the same ``KFold`` over all subjects of the
  data set (their published lists of subjects are these to the last number), and the same way to draw M. Subjects are
  recognised by their number, so a part of the data set is split as the whole of it is.
- ``voxel_siamese``, on its 90 CTs (layout ``gibson``): 20 tested, 70 to train on. Which ones was not published; ours
  are in the order of a hash of their names, so they stay where they are when a scan is missing, and M are nested.

A ``splits_final.json`` in the folder is used where no scheme is named.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from lemis import files
from lemis.errors import UsageError, first_of, shown
from lemis.formats.names import readable
from lemis.plugins import nearest

Item = TypeVar("Item")

FOLDS = 5  # PCL
FOLD_SEED = 12345  # PCL
BUDGET_SEED = 1234  # PCL
FILE = "splits_final.json"  # nnU-Net
_SIDES = ("train", "val")
SCHEMES = ("pcl", "macl", "voxel_siamese")


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


class _Cohort(NamedTuple):
    """One of MACL's data sets: which fold of its subjects is the test set."""

    subject: str  # pattern of a subject's name; the group is its number
    fold: int
    numbers: tuple[int, ...] = ()  # all subjects in the order that was split; empty: those there are, sorted as text
    size: int = 0  # of the whole data set


_CHAOS = (1, 10, 13, 15, 19, 2, 20, 21, 22, 3, 31, 32, 33, 34, 36, 37, 38, 39, 5, 8)  # sorted as text
_MACL = {
    "ACDC": _Cohort(r"(?:patient|acdc)_?(\d+)", 0, tuple(range(1, 101)), 100),
    "MMWHS": _Cohort(r"(?:ct|mr)_train_(\d+)", 1, tuple(range(1001, 1021)), 20),
    "HVSMR": _Cohort(r"pat(\d)", 1, tuple(range(10)), 10),
    "CHAOS": _Cohort(r"chaos_(\d+)", 2, _CHAOS, 20),
    # Their lists count places, not the numbers in file names: by place in the names sorted as text, as CHAOS is.
    "MSD Spleen": _Cohort(r"spleen_(\d+)", 2, size=41),
    "MSD Heart": _Cohort(r"la_(\d+)", 1, size=20),
    # INFERRED: of these two the lists are too long to be printed, so the fold is not known.
    "MSD Hippocampus": _Cohort(r"hippocampus_(\d+)", 0, size=260),
    "ISIC2018": _Cohort(r"ISIC_(\d+)", 0, size=2594),
}
_GIBSON_SUBJECT = r"(?:btcv|pancreas)_\d+"
_VOXEL_SIAMESE_TEST = 20 / 90


class _Scheme(NamedTuple):
    """The folds of a data set, the published order of each fold's training subjects where there is one, and words."""

    folds: list[Fold]
    orders: list[tuple[str, ...]]  # empty, or one per fold: M subjects are the first M
    source: str


class Scanned(Protocol):
    """What a split needs to know of a scan; ``index.Scan`` and ``facts.Facts`` both fit."""

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
    subjects: Sequence[str] | None = None,
    root: Path | None = None,
    seed: int = BUDGET_SEED,
    scheme: str | None = None,
) -> Split:
    """The split of one run.

    Args:
        scans: All scans; only subjects with a label are split.
        fold: Which fold is tested; None trains on everything that has labels and tests nothing.
        labelled: How many of the training subjects give their labels (M); all of them by default.
        subjects: Those that give their labels, by name; by default ``labelled`` ones that are drawn.
        root: Folder of the data set; a ``splits_final.json`` there gives the folds, unless a scheme is named.
        seed: Of the choice of M subjects; the default is the protocol's own choice.
        scheme: One of ``SCHEMES``; ``pcl`` where neither it nor a file says otherwise.

    Raises:
        UsageError: No labels at all, a fold that is not there, more subjects than there are, subjects that the fold
            does not train on, a file of splits with a subject on both sides, or a scheme for other subjects.
    """
    with_label = [scan for scan in scans if scan.label is not None]
    people = in_order({scan.subject for scan in with_label})
    if not people:
        raise UsageError(
            "no scan has a label",
            allowed="at least one labelled scan",
            next="label a few scans, put the label maps beside them, and run `lemis check` again",
        )
    order: tuple[str, ...] = ()
    if fold is None:
        sides, source = Fold(people, ()), "every labelled subject, none held out"
    else:
        found = _folds_of(with_label, people, root, scheme)
        if not 0 <= fold < len(found.folds):
            last = len(found.folds) - 1
            raise UsageError(
                f"fold {fold}", allowed=f"0 to {last} ({found.source})" if last else "0", next=f"--fold {last}"
            )
        sides = found.folds[fold]
        order = found.orders[fold] if found.orders and seed == BUDGET_SEED else ()
        source = f"fold {fold} of {len(found.folds)}, {found.source}"
    if subjects is not None:
        _refuse_others(subjects, sides, source)
        chosen = tuple(subjects)
    else:
        chosen = sides.train if labelled is None else labelled_subset(sides.train, labelled, seed=seed, order=order)
    return Split(train_subjects=sides.train, labelled_subjects=chosen, test_subjects=sides.test, source=source)


def _refuse_others(subjects: Sequence[str], sides: Fold, source: str) -> None:
    strangers = [one for one in subjects if one not in sides.train]
    if strangers or not subjects or len(set(subjects)) < len(subjects):
        given = f"the labels of {shown(strangers[0])}" if strangers else f"labels of {', '.join(subjects) or 'nobody'}"
        raise UsageError(
            f"{given}, trained on {source}",
            allowed=f"{len(sides.train)} subjects, each once: {first_of(sides.train, 3)}",
            next=f"take subjects from these, for example [{sides.train[0]!r}]",
        )


def number_of_folds(scans: Iterable[Scanned], *, root: Path | None = None, scheme: str | None = None) -> int:
    """How many folds ``choose`` knows; 1 for one labelled subject, none of it held out; 0 without labels."""
    with_label = [scan for scan in scans if scan.label is not None]
    subjects = in_order({scan.subject for scan in with_label})
    return len(_folds_of(with_label, subjects, root, scheme).folds) if len(subjects) > 1 else len(subjects)


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


def labelled_subset(
    train: Sequence[str], m: int, *, seed: int = BUDGET_SEED, order: Sequence[str] = ()
) -> tuple[str, ...]:
    """``m`` of the training subjects: the first ones of ``order``, or as ``random.sample`` draws them.

    Raises:
        UsageError: ``m`` is not between 1 and the number of subjects.
    """
    if not 1 <= m <= len(train):
        raise UsageError(
            f"{m} labelled subjects",
            allowed=f"1 to {len(train)}, the labelled subjects that may be trained on",
            next=f"--labelled {len(train)}",
        )
    return tuple(order[:m]) if order else tuple(random.Random(seed).sample(list(train), k=m))


def read_splits(path: Path, subject_of: Mapping[str, str]) -> list[Fold]:
    """Folds of an nnU-Net ``splits_final.json``, from scans to subjects.

    Args:
        path: A list of ``{"train": [ids], "val": [ids]}``.
        subject_of: Subject of each labelled scan id.

    Raises:
        UsageError: The first of ``faults_of_splits``.
    """
    entries = _entries(path)
    for fault in _faults_of_folds(path, entries, subject_of):
        raise fault
    return [_fold(entry, subject_of) for entry in entries]


def faults_of_splits(path: Path, subject_of: Mapping[str, str]) -> list[UsageError]:
    """Why ``read_splits`` refuses a file: it is no list of folds, a side has no scan, a scan has no label here, or a
    subject is on both sides. Arguments as there; empty for a sound file.
    """
    try:
        return list(_faults_of_folds(path, _entries(path), subject_of))
    except UsageError as error:
        return [error]


def in_no_fold(path: Path, subject_of: Mapping[str, str]) -> tuple[str, ...]:
    """Subjects with labels that no fold of a sound ``splits_final.json`` names, so that nobody learns from them."""
    folds = read_splits(path, subject_of)
    return in_order(set(subject_of.values()) - {subject for fold in folds for side in fold for subject in side})


class _Entry(NamedTuple):
    """One fold of the file."""

    train: list[str]
    val: list[str]


def _entries(path: Path) -> list[_Entry]:
    again = _correct(path)
    content = files.read_json(path, next=again)
    folds = content if isinstance(content, list) else []
    if not folds or not all(
        isinstance(fold, dict) and all(_is_names(fold.get(side)) for side in _SIDES) for fold in folds
    ):
        raise UsageError(f"{path} is not a list of folds", allowed='[{"train": [ids], "val": [ids]}, ...]', next=again)
    return [_Entry(*([str(id) for id in fold[side]] for side in _SIDES)) for fold in folds]


def _is_names(ids: Any) -> bool:
    return isinstance(ids, list) and all(type(id) in (str, int) for id in ids)


def _faults_of_folds(path: Path, entries: Sequence[_Entry], subject_of: Mapping[str, str]) -> Iterator[UsageError]:
    again = _correct(path)
    for number, entry in enumerate(entries):
        unknown = [id for id in (*entry.train, *entry.val) if id not in subject_of]
        empty = [side for side, ids in zip(_SIDES, entry, strict=True) if not ids]
        both = set.intersection(*({subject_of[id] for id in ids if id in subject_of} for ids in entry))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield UsageError(
                f"fold {number} of {path} names {readable(unknown[0])!r}{more}, which has no label here",
                allowed=f"{len(subject_of)} labelled scans, {', '.join(sorted(subject_of)[:3])}, ...",
                next=again,
            )
        if empty:
            yield UsageError(
                f"fold {number} of {path} has nobody in {empty[0]!r}", allowed="a scan on every side", next=again
            )
        if both:
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            yield UsageError(
                f"fold {number} of {path} trains and tests on subject {in_order(both)[0]!r}{more}: a leak",
                allowed="every subject on one side of a fold",
                next=again,
            )


def _fold(entry: _Entry, subject_of: Mapping[str, str]) -> Fold:
    return Fold(*(in_order({subject_of[id] for id in ids}) for ids in entry))


def _correct(path: Path) -> str:
    return f"correct {path.name}, or move it away to use our folds by subject"


def in_order(subjects: Iterable[str]) -> tuple[str, ...]:
    """Sorted as people count: ``p2`` before ``p10``."""
    return tuple(sorted(subjects, key=_natural))


def _natural(subject: str) -> tuple[Any, ...]:
    parts = re.split(r"(\d+)", subject)  # text and digits by turns; the text itself decides between 01 and 1
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], subject


def _folds_of(
    with_label: Sequence[Scanned], subjects: tuple[str, ...], root: Path | None, scheme: str | None
) -> _Scheme:
    if scheme is None and root is not None and (root / FILE).is_file():
        return _Scheme(read_splits(root / FILE, {scan.id: scan.subject for scan in with_label}), [], FILE)
    makers: dict[str, Callable[[tuple[str, ...]], _Scheme]] = {
        "pcl": _pcl,
        "macl": _macl,
        "voxel_siamese": _voxel_siamese,
    }
    if (scheme or "pcl") not in makers:
        raise UsageError(
            f"split {scheme!r}", allowed=", ".join(SCHEMES), next=f"--split {nearest(scheme or '', SCHEMES) or 'pcl'}"
        )
    return makers[scheme or "pcl"](subjects)


def _pcl(subjects: tuple[str, ...]) -> _Scheme:
    k = min(FOLDS, len(subjects))
    words = f"KFold(n_splits={k}, shuffle=True, random_state={FOLD_SEED}) over {len(subjects)} subjects"
    return _Scheme(folds(subjects, k=k), [], words)


def _macl(subjects: tuple[str, ...]) -> _Scheme:
    name, cohort = _cohort_of(subjects)
    test, train, order = _macl_lists(cohort, subjects)
    if not test or not train:
        missing = "test" if train else "training"
        raise UsageError(
            f"{len(subjects)} of the {cohort.size} subjects of {name}, none of them in MACL's {missing} list",
            allowed="subjects of both lists",
            next="--split pcl (in a plan: split=pcl)",
        )
    words = f"MACL's split of {name}"
    if len(subjects) < cohort.size:
        partly = "drawn anew from" if not cohort.numbers else "of"
        words += f", {partly} {len(subjects)} of its {cohort.size} subjects"
    return _Scheme([Fold(in_order(train), in_order(test))], [order] if order else [], words)


def _cohort_of(subjects: tuple[str, ...]) -> tuple[str, _Cohort]:
    """The one data set of MACL that all subjects belong to."""
    for name, cohort in _MACL.items():
        numbers = [_number_in(cohort, subject) for subject in subjects]
        known = not cohort.numbers or set(numbers) <= set(cohort.numbers)
        if None not in numbers and known and len(set(numbers)) == len(subjects) <= cohort.size:
            return name, cohort
    shown = ", ".join(subjects[:3]) + ", ..." * (len(subjects) > 3)
    raise UsageError(
        f"the split macl for the {len(subjects)} labelled subjects {shown}",
        allowed=f"the subjects of {', '.join(_MACL)}",
        next="--split pcl, which suits any data (in a plan: split=pcl)",
    )


def _macl_lists(cohort: _Cohort, subjects: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Tested subjects, training subjects, and these in the order in which they are drawn (empty: drawn for each M)."""
    if not cohort.numbers:
        left_out, kept = _kfold(sorted(subjects), cohort.fold)
        return tuple(left_out), tuple(kept), ()
    named = {_number_in(cohort, subject): subject for subject in subjects}
    tested, trained = _kfold(cohort.numbers, cohort.fold)
    drawn = random.Random(BUDGET_SEED).sample(trained, k=len(trained))
    test, train, order = (
        tuple(named[number] for number in numbers if number in named) for numbers in (tested, trained, drawn)
    )
    return test, train, order


def _number_in(cohort: _Cohort, subject: str) -> int | None:
    match = re.fullmatch(cohort.subject, subject)
    return int(match.group(1)) if match else None


def _kfold(items: Sequence[Item], fold: int) -> tuple[list[Item], list[Item]]:
    """Tested and training items of one fold, in their order."""
    from sklearn.model_selection import KFold

    k = min(FOLDS, len(items))
    if k < 2:
        raise UsageError(
            "a split of one labelled subject", allowed="at least two labelled subjects", next="label another subject"
        )
    parts = list(KFold(n_splits=k, shuffle=True, random_state=FOLD_SEED).split(items))
    train, test = parts[min(fold, k - 1)]
    return [items[i] for i in test], [items[i] for i in train]


def _voxel_siamese(subjects: tuple[str, ...]) -> _Scheme:
    strangers = [subject for subject in subjects if not re.fullmatch(_GIBSON_SUBJECT, subject)]
    if strangers or len(subjects) < 2:
        raise UsageError(
            f"the split voxel_siamese for {len(subjects)} labelled subjects, {(strangers or subjects)[0]} among them",
            allowed="the 90 abdominal CTs of Gibson et al., btcv_0001 ... and pancreas_0001 ...",
            next="--split pcl, which suits any data (in a plan: split=pcl)",
        )
    drawn = sorted(subjects, key=lambda subject: hashlib.sha256(f"{FOLD_SEED} {subject}".encode()).digest())
    tested = max(1, round(len(drawn) * _VOXEL_SIAMESE_TEST))
    test, order = drawn[:tested], tuple(drawn[tested:])
    words = f"{len(order)} to train on and {tested} to test on, seed {FOLD_SEED} (the paper's 70 and 20 are not known)"
    return _Scheme([Fold(in_order(order), in_order(test))], [order], words)
