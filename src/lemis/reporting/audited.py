"""What the scores of subjects that ``lemis suggest`` drew at random say of scans without a label, as sentences."""

from __future__ import annotations

from lemis.measure.tables import count
from lemis.work_files.evaluation import Summary

FEW = 5  # INFERRED: with fewer subjects than a handful, one of them decides


def sentences(summary: Summary) -> list[str]:
    """A sentence or more, as one paragraph; nothing where nobody was drawn."""
    audited = summary.audited
    if audited is None:
        return []
    waiting = audited.drawn - audited.labelled
    rest = (
        f" Of {count(audited.drawn, 'subject')} drawn, {waiting} {'has' if waiting == 1 else 'have'} no label yet: "
        "label them too, as those that are left out may be the hard ones."
    )
    if audited.overall is None or audited.overall.dice.mean is None:
        return [f"Audit: no subject that was drawn at random is tested yet.{rest if waiting else ''}"]
    dice, n = audited.overall.dice, audited.overall.dice.subjects
    level = f"{100 * summary.settings.intervals.level:.0f} %"
    interval = "" if dice.low is None or dice.high is None else f" ({level} CI {dice.low:.3f} to {dice.high:.3f})"
    on = f"{count(dice.scans, 'scan')} of {count(n, 'subject')}"
    said = (
        f"Audit: Dice {dice.mean:.3f}{interval} on {on} drawn at random before they were labelled. This score holds "
        "for the scans without a label; that over all scans is also of subjects that were chosen."
    )
    few = (
        f" But {n} {'is' if n == 1 else 'are'} too few to go by: label at least {FEW} that were drawn."
        if n < FEW
        else ""
    )
    return [f"{said}{few}{rest if waiting else ''}"]
