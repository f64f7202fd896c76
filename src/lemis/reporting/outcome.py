"""The folder of a comparison, read: its plan, its facts, and the scores of the finished cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lemis.errors import UsageError
from lemis.measure import clusters, paired, slices
from lemis.measure.statistics import known_mean
from lemis.measure.tables import count
from lemis.records import each_row, read_table
from lemis.reporting.numbers import listed
from lemis.work_files.comparison import FACTS, MEAN, PLAN, Facts, Missing, PlannedRow, StoredPlan, read_facts, read_plan

FILES = (PLAN, "results.csv", "cases.csv", FACTS)
_COLUMNS = ("row", "labelled", "fold", "seed", "structure")  # of ``results.csv``, beside the scores


class Metric(NamedTuple):
    """A column of ``results.csv`` that a table is made of."""

    key: str
    title: str
    what: str  # how it is measured
    digits: int = 3
    more_is_better: bool = True


PAPER = Metric(
    "pooled_dice_best",
    "Dice, protocol “paper”",
    "Dice pooled over all slices of a fold's test scans on the network's grid, at the best epoch on these very scans, "
    "as the papers report it (optimistic)",
)
DEFAULT = Metric(
    "dice",
    "Dice, protocol “default”",
    "mean Dice per scan on its own grid after the last step, a missed structure counted as 0",
)
FURTHER = (
    Metric("pooled_dice_last", "Dice, pooled, last epoch", "as protocol “paper”, but after the last step"),
    Metric("hd95_mm", "HD95, mm", "95th percentile Hausdorff distance per scan, in millimetres", 2, False),
    Metric("assd_mm", "ASSD, mm", "average symmetric surface distance per scan, in millimetres", 2, False),
    Metric("hm", "Hammoude distance", "1 - intersection over union, per image", 3, False),
    Metric("xor", "XOR", "pixels of only one of the two over those of the reference, per image", 3, False),
)
_PX = f"after the step of the best Dice, as the MACL article has it: {slices.DEFINITION}"
BESIDE = (  # where the plan's protocol is ``paper``
    Metric("jaccard_best", "Jaccard, protocol “paper”", _PX),
    Metric("hd95_px_best", "HD95 of slices, px", _PX, 2, False),
    Metric("asd_px_best", "ASD of slices, px", _PX, 2, False),
)


class Score(NamedTuple):
    """One line of ``results.csv``: what one cell scored for one structure."""

    row: str
    labelled: int
    fold: str
    seed: str
    structure: str
    numbers: Mapping[str, float]  # NaN where there is none


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything the folder of a comparison says."""

    plan: StoredPlan
    facts: Facts
    scores: tuple[Score, ...]
    cases: tuple[paired.Case, ...]  # one per scan (row, M and seed): its mean over structures

    @cached_property
    def rows(self) -> list[str]:
        """Titles, in the plan's order."""
        known = dict.fromkeys([*(score.row for score in self.scores), *(gap.row for gap in self.missing)])
        ordered = [title for title in map(title_of, self.plan.rows) if title in known]
        return list(dict.fromkeys([*ordered, *known]))

    @cached_property
    def labelled(self) -> list[int]:
        """Numbers of labelled subjects M, rising."""
        found = {score.labelled for score in self.scores} | {gap.labelled for gap in self.missing}
        return sorted(found)

    @cached_property
    def structures(self) -> list[str]:
        """Without the mean of them."""
        return [name for name in dict.fromkeys(score.structure for score in self.scores) if name != MEAN]

    @property
    def missing(self) -> Sequence[Missing]:
        """Cells that are planned and not there."""
        return self.facts.missing

    @property
    def baseline(self) -> str:
        """Title of the row that the others are compared with."""
        return self.plan.baseline

    @property
    def single(self) -> bool:
        """Images segmented one by one, without labels: no M, no folds, no training."""
        return self.plan.kind == "single"

    @property
    def headline(self) -> Metric:
        """The metric that stands first, by the plan's protocol."""
        if self.single:
            protocol = "released" if self.plan.protocol == "released" else "honest"
            return Metric("dice", f"Dice, protocol “{protocol}”", f"Dice per image; {clusters.PROTOCOLS[protocol]}")
        return PAPER if self.plan.protocol == "paper" else DEFAULT

    @property
    def folds(self) -> int:
        """How many folds have at least one finished cell."""
        return len({score.fold for score in self.scores})

    @property
    def seeds(self) -> int:
        """How many seeds have at least one finished cell."""
        return len({score.seed for score in self.scores})

    @cached_property
    def tested(self) -> str:
        """How many scans, of how many subjects, have a score."""
        scans, subjects = {case.scan for case in self.cases}, {case.subject for case in self.cases}
        if self.single:
            return count(len(scans), "image")
        return f"{count(len(scans), 'scan')} of {count(len(subjects), 'subject')}"


def read(folder: Path) -> Outcome:
    """What the folder of a comparison says.

    Raises:
        UsageError: A file is missing or cannot be read.
    """
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise UsageError(
            f"{folder} has no {listed(absent)}",
            allowed=f"the folder of a comparison, WORK/comparisons/NAME: {', '.join(FILES)}",
            next="lemis compare SCANS -o WORK --plan PLAN",
        )
    again = "run the same `lemis compare` again: it writes them anew and trains only what is missing"
    rows = read_table(folder / "results.csv", _COLUMNS, next=again)
    scores = each_row(folder / "results.csv", rows, _score, next=again)
    cases = _per_scan(paired.read(folder / "cases.csv"))
    return Outcome(plan=read_plan(folder), facts=read_facts(folder), scores=tuple(scores), cases=tuple(cases))


def _per_scan(cases: Iterable[paired.Case]) -> list[paired.Case]:
    """The mean over its structures for each scan, as ``results.csv`` has it; structures not scored are left out."""
    found: dict[paired.Case, list[float]] = {}
    for case in cases:
        found.setdefault(case._replace(value=0.0, structure=""), []).append(case.value)
    folds: dict[str, set[str]] = {}
    for case in found:
        folds.setdefault(case.scan, set()).add(case.fold)
    # A data set's own folds may test a scan twice; each time is then a scan of its own, of the same subject.
    twice = {scan for scan, of in folds.items() if len(of) > 1}
    names = [f"{case.scan}, fold {case.fold}" if case.scan in twice else case.scan for case in found]
    means = [known_mean(values) for values in found.values()]
    return [case._replace(value=value, scan=name) for case, value, name in zip(found, means, names, strict=True)]


def _score(line: Mapping[str, str]) -> Score:
    texts = ("method", "backbone", "auxiliary", "semi", "second", "transductive", "cell")
    numbers = {key: _float(value) for key, value in line.items() if key not in (*_COLUMNS, *texts)}
    return Score(
        line["row"], labelled_number(line["labelled"]), line["fold"], line["seed"], line["structure"] or MEAN, numbers
    )


def labelled_number(value: object) -> int:
    """M as written in a file; 0 where nothing is labelled."""
    return int(str(value)) if value not in ("", None) else 0


def _float(text: str | None) -> float:
    return float(text) if text else math.nan


def title_of(row: str | PlannedRow) -> str:
    """The title of a row of the plan."""
    return row if isinstance(row, str) else row.name


# ---------------------------------------------------------------- in words


def over(outcome: Outcome) -> str:
    """What means are taken over: ``5 folds and 3 seeds``."""
    seeds = count(outcome.seeds, "seed")
    return seeds if outcome.single else f"{count(outcome.folds, 'fold')} and {seeds}"


def exposure(outcome: Outcome) -> str:
    """What pre-training saw of the test subjects, and fine-tuning of those without a label that is used."""
    if outcome.single:
        return ""
    tuning = {
        None: "",
        True: " Transductive: fine-tuning with unlabelled scans saw the images of test subjects, never their labels.",
        False: " Fine-tuning with unlabelled scans saw no image of a test subject.",
    }[outcome.facts.semi_transductive]
    upstream = outcome.facts.upstream
    if outcome.facts.transductive is None:
        return f"Nothing was pre-trained.{tuning}"
    elsewhere = f"Pre-trained on other data ({upstream}). " if upstream else ""
    if outcome.facts.transductive:
        return f"{elsewhere}Transductive: pre-training saw the images of test subjects, never their labels.{tuning}"
    return f"{elsewhere}Not transductive: pre-training saw no image of a test subject.{tuning}"


def learned_nothing(outcome: Outcome, row: str) -> str:
    """How many pre-trainings of a row learned nothing, in words; empty where all learned something."""
    found = outcome.facts.learned_nothing.get(row)
    if not found:
        return ""
    runs = "its pre-training" if found.of == 1 else f"{found.runs} of its {found.of} pre-trainings"
    return f"{runs} learned nothing ({found.why})"


def by_another_program(outcome: Outcome) -> list[str]:
    """A sentence for each row that another program trained: which, and how."""
    return [f"{row}: {how}." for row, how in outcome.facts.external.items()]


def missing(outcome: Outcome) -> list[str]:
    """What is not there and why, cells with one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for gap in outcome.missing:
        place = f"M = {gap.labelled}, fold {gap.fold}, seed {gap.seed}"
        reasons.setdefault((gap.row, gap.reason), []).append(place)
    return [f"{row} ({listed(places, most=6)}): {reason}" for (row, reason), places in reasons.items()]
