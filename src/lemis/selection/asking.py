"""What ``lemis suggest`` is asked for: a way to choose, and what is refused before any network is loaded."""

from __future__ import annotations

from pathlib import Path

from lemis.datasets.index import Index
from lemis.errors import UsageError
from lemis.preparation.store import Store

COLD, WARM = "cover", "cover_uncertain"
LEAST_LABELLED = 3  # subjects: what networks of one or two labels are unsure of is everything


def usual(index: Index, networks: int) -> str:
    """The way where nobody names one.

    Args:
        index: The scans.
        networks: How many have segmented the unlabelled ones, each by itself.
    """
    return WARM if networks > 1 and len(labelled_subjects(index)) >= LEAST_LABELLED else COLD


def labelled_subjects(index: Index) -> set[str]:
    """Subjects with a labelled scan at least."""
    return {scan.subject for scan in index.scans if scan.label is not None}


def refuse_unprepared(index: Index, store: Store, work: Path) -> None:
    """Refuse scans that are listed and not prepared.

    Raises:
        UsageError: Names the first.
    """
    prepared = {facts.id for facts in store.scans}
    missing = [scan.id for scan in index.scans if scan.id not in prepared]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(
            f"{missing[0]}{more}, not prepared", allowed="scans that are all prepared", next=f"lemis prepare {work}"
        )


def refuse_all_labelled(index: Index, work: Path) -> None:
    """Refuse a data set in which there is nothing to choose from.

    Raises:
        UsageError: Every subject is labelled.
    """
    people = {scan.subject for scan in index.scans}
    if people == labelled_subjects(index):
        raise UsageError(
            f"all {len(people)} subjects of {work} are labelled",
            allowed="a work folder with subjects that have no label",
            next=f"add scans, then lemis check {index.root} -o {work} && lemis prepare {work}",
        )


def refuse_without_networks(name: str, needed: int, there: int, work: Path) -> None:
    """Refuse a way that looks at what networks do, where too few have segmented the unlabelled scans.

    Raises:
        UsageError: There are fewer.
    """
    if there < needed:
        one = needed == 1
        raise UsageError(
            f"--method {name}, which needs {'a fine-tuned network' if one else 'two fine-tuned networks or more'}, and "
            f"there {'is none' if not there else 'is one'} that segmented the unlabelled scans of {work}",
            allowed=f"{name} after `lemis fit` of all folds, or with --run NAME --run OTHER; the other ways without",
            next=f"lemis suggest {work} --method {COLD}",
        )
