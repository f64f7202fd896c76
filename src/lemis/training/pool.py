"""Who is in the pool: the scans whose images fine-tuning may look at and whose labels it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lemis.datasets.split import Split
from lemis.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for every way to use unlabelled scans."""

    transductive: bool = False  # test subjects are in the pool too, never their labels; every score then says so


def chosen(scans: Iterable[tuple[str, bool]], split: Split, settings: Settings) -> list[int]:
    """Positions of the scans of the pool: those without a label, and training subjects beyond the labelled ones.

    Args:
        scans: Subject of each, and whether it has a label.
        split: Whose labels are used, and who is tested.
        settings: Whether those are in it.
    """
    tested, labelled = set(split.test_subjects), set(split.labelled_subjects)
    return [
        i
        for i, (subject, has_label) in enumerate(scans)
        if not (has_label and subject in labelled) and (settings.transductive or subject not in tested)
    ]


def refuse_empty(pool: Iterable[object], semi: str, where: str = "") -> None:
    """Refuse a way to use unlabelled scans where there is none.

    Args:
        pool: From ``chosen``.
        semi: The way.
        where: In which row and column, where there are several.

    Raises:
        UsageError: There is none.
    """
    if not list(pool):
        raise UsageError(
            f"--semi {semi} without an unlabelled scan{where}",
            allowed="scans without a label, or labelled subjects that are trained on without theirs: fewer --labelled",
            next="--labelled 2 (in a plan: labelled: [2]), or add scans and check and prepare again",
        )
