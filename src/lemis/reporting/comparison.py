"""The results of a comparison: tables as in the papers, a figure, verdicts, and one page that holds them all.

``write`` reads what the cells left in the comparison's folder and runs nothing, so it can be called at any time; cells
that are not there yet are marked. Published figures stand in tables of their own and are never mixed with ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from lemis import files
from lemis.measure import forecast, paired, statistics, tables
from lemis.measure.statistics import known_mean
from lemis.measure.tables import count
from lemis.records import plain
from lemis.reporting.comparison_tables import (
    Table,
    can_say,
    compared,
    entry,
    latex,
    markdown,
    our_tables,
    published_tables,
)
from lemis.reporting.figures.against_labels import COLUMN, PAGE, Line, against_labels
from lemis.reporting.figures.svg import standing_alone
from lemis.reporting.numbers import flat, listed
from lemis.reporting.outcome import (
    Outcome,
    by_another_program,
    exposure,
    learned_nothing,
    missing,
    over,
    read,
    title_of,
)
from lemis.reporting.templating import page
from lemis.work_files.comparison import PlannedBudget, PlannedRow

AHEAD = 4  # a forecast goes on to so many times the largest number of labelled subjects
TARGETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)  # Dice that people name


class Gain(NamedTuple):
    """What one row gains over the baseline, in words."""

    row: str
    sentence: str
    kind: str  # gain, loss, mixed, none, unknown


def write(folder: Path) -> str:
    """Write ``table.md``, ``table.tex``, ``figure.svg`` and ``index.html`` from what the cells left in ``folder``.

    While no cell is finished there is no figure.

    Returns:
        The first table, the verdicts and the forecasts, for the terminal.

    Raises:
        UsageError: A file is missing or cannot be read.
    """
    outcome = read(folder)
    comparisons = compared(outcome)
    gains = verdicts(outcome, comparisons)
    ahead = forecasts(outcome, comparisons)
    lines = figure_lines(outcome, ahead)
    chosen, printed = our_tables(outcome, comparisons), published_tables(outcome)
    said = [gain.sentence for gain in gains]
    said += [f"{found.row}: {sentence}" for found in ahead for sentence in found.sentences]
    html = render(outcome, gains=gains, ahead=ahead, lines=lines, chosen=chosen, printed=printed)
    files.write(folder / "table.md", markdown(outcome, said, [*chosen, *printed]))
    files.write(folder / "table.tex", latex(outcome, [*chosen, *printed]))
    if lines:
        files.write(folder / "figure.svg", standing_alone(draw(outcome, lines, "figure", COLUMN)))
    files.write(folder / "index.html", html)
    return "\n".join([tables.markdown(chosen[0].rows, chosen[0].columns), *said])


# ---------------------------------------------------------------- verdicts


def verdicts(outcome: Outcome, comparisons: Sequence[paired.Comparison]) -> list[Gain]:
    """A sentence for each row but the baseline."""
    there = {comparison.row for comparison in comparisons}
    return [
        Gain(row, _verdict(outcome, comparisons, row), _kind(comparisons, row)) for row in outcome.rows if row in there
    ]


def _verdict(outcome: Outcome, comparisons: Sequence[paired.Comparison], row: str) -> str:
    said = paired.verdict(comparisons, row=row).replace(" at 0 labelled subjects", "")
    nothing = learned_nothing(outcome, row)
    return _sentence(f"{said}; {nothing}" if nothing else said)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _kind(comparisons: Sequence[paired.Comparison], row: str) -> str:
    own = [comparison.difference for comparison in comparisons if comparison.row == row]
    signs = {math.copysign(1, found.mean) for found in own if paired.reliable(found)}
    if signs:
        return "mixed" if len(signs) > 1 else "gain" if 1.0 in signs else "loss"
    return "none" if any(map(paired.enough, own)) else "unknown"


# ---------------------------------------------------------------- forecast and figure


class Ahead(NamedTuple):
    """What a row would reach with more labels."""

    row: str
    forecast: forecast.Forecast
    sentences: tuple[str, ...]


def best_row(outcome: Outcome) -> str | None:
    """The row, baseline aside, with the highest mean Dice over the M that it shares with all others."""
    means = {row: [_row_mean(outcome, row, labelled) for labelled in outcome.labelled] for row in outcome.rows}
    means = {
        row: values for row, values in means.items() if row != outcome.baseline and not all(map(math.isnan, values))
    }
    shared = [place for place in range(len(outcome.labelled)) if not any(math.isnan(v[place]) for v in means.values())]
    if not means or not shared:
        return None
    return max(means, key=lambda row: sum(means[row][place] for place in shared))


def _row_mean(outcome: Outcome, row: str, labelled: int) -> float:
    return known_mean(case.value for case in outcome.cases if (case.row, case.labelled) == (row, labelled))


def forecasts(outcome: Outcome, comparisons: Sequence[paired.Comparison]) -> list[Ahead]:
    """What more labels would bring, for the best row and the baseline, where there are at least three M."""
    best = best_row(outcome)
    rows = [row for row in (best, outcome.baseline) if row is not None]
    values = {row: found for row in rows if len(found := by_subject(outcome, row)) >= 3}
    reached = max(
        (known_mean(subjects.values()) for found in values.values() for subjects in found.values()),
        default=1.0,
    )
    target = next((target for target in TARGETS if target > reached), None)
    fitted = {row: forecast.fit(found) for row, found in values.items()}
    sentences = {row: _ahead_in_words(one, target) for row, one in fitted.items()}
    if outcome.baseline in fitted and best is not None and can_say(comparisons, outcome.labelled[0]):
        sentences[outcome.baseline] = [*_saved(outcome, best, fitted[outcome.baseline]), *sentences[outcome.baseline]]
    return [Ahead(row, fitted[row], tuple(sentences[row])) for row in fitted]


def _ahead_in_words(fitted: forecast.Forecast, target: float | None) -> list[str]:
    said = []
    if not fitted.reason:
        twice = 2 * fitted.labelled[-1]
        found = fitted.predict(twice)
        said.append(f"With {twice} labelled subjects, expect a mean Dice of {found.mean:.3f} {_interval(found)}.")
    return [*said, _sentence(fitted.sentence(target))] if target else said


def _saved(outcome: Outcome, best: str, fitted: forecast.Forecast) -> list[str]:
    """How many labels the baseline takes for what the best row reaches with the fewest."""
    fewest = outcome.labelled[0]
    ours, theirs = (_row_mean(outcome, row, fewest) for row in (best, outcome.baseline))
    needed = fitted.needed(ours) if ours > theirs else None
    if needed is None or needed.reason:
        return []
    interval = f"[{needed.low:g}, {needed.high:g}]" if math.isfinite(needed.high) else f"(at least {needed.low:g})"
    return [
        f"What {best} reaches with {count(fewest, 'labelled subject')} ({ours:.3f}), {outcome.baseline} reaches with "
        f"about {needed.best:g} {interval}."
    ]


def _interval(found: forecast.Prediction) -> str:
    return f"[{found.low:.3f}, {found.high:.3f}]"


def by_subject(outcome: Outcome, row: str) -> dict[int, dict[str, float]]:
    """Mean Dice of each subject over its scans and the seeds, for each M."""
    found: dict[int, dict[str, list[float]]] = {}
    for case in outcome.cases:
        if case.row == row and case.labelled and not math.isnan(case.value):
            found.setdefault(case.labelled, {}).setdefault(case.subject, []).append(case.value)
    return {
        labelled: {subject: known_mean(values) for subject, values in subjects.items()}
        for labelled, subjects in sorted(found.items())
    }


def _curve_ahead(fitted: forecast.Forecast, last: int) -> list[tuple[float, float, float, float]]:
    """(labelled, mean, low, high) from the largest measured M on."""
    if fitted.reason:
        return []
    steps = (float(m) for m in np.geomspace(last, AHEAD * last, 25))
    return [(m, *fitted.predict(m)) for m in steps]


def figure_lines(outcome: Outcome, ahead: Sequence[Ahead]) -> list[Line]:
    """Mean Dice per scan with its interval over subjects, for each row and M that is there."""
    curves = {found.row: _curve_ahead(found.forecast, outcome.labelled[-1]) for found in ahead}
    lines = []
    for row in outcome.rows:
        points = {}
        for labelled in outcome.labelled:
            own = [case for case in outcome.cases if (case.row, case.labelled) == (row, labelled)]
            found = statistics.estimate([case.value for case in own], [case.subject for case in own], within=(0, 1))
            if found.scans:
                points[labelled] = found
        if points:
            mean, low, high = ([getattr(p, name) for p in points.values()] for name in ("mean", "low", "high"))
            lines.append(Line(row, list(points), mean, low, high, row == outcome.baseline, curves.get(row, ())))
    return lines


def draw(outcome: Outcome, lines: Sequence[Line], name: str, size: tuple[float, float]) -> str:
    """The figure as an ``<svg>`` element."""
    return against_labels(
        name,
        lines,
        label=f"Dice, mean over {'images' if outcome.single else 'scans'}",
        alt=_alt(outcome, lines),
        size=size,
    )


def _alt(outcome: Outcome, lines: Sequence[Line]) -> str:
    rows = (
        f"{line.title}: " + ", ".join(f"{mean:.3f} at {m}" for m, mean in zip(line.labelled, line.mean, strict=True))
        for line in lines
    )
    what = "Mean Dice per image" if outcome.single else "Mean Dice per scan against labelled subjects"
    return f"{what}, {outcome.facts.data}. {'; '.join(rows)}."


# ---------------------------------------------------------------- the page


def render(
    outcome: Outcome,
    *,
    gains: Sequence[Gain],
    ahead: Sequence[Ahead],
    lines: Sequence[Line],
    chosen: Sequence[Table],
    printed: Sequence[Table],
) -> str:
    """The page, whole: it fetches nothing."""
    by_key = {table.key: table for table in chosen}
    first = [table for key in (chosen[0].key, "differences") if (table := by_key.get(key))]
    facts = outcome.facts
    return page(
        "comparison.html",
        lemis=facts.lemis,
        facts=facts,
        cards=cards(outcome),
        gains=gains,
        others=len(outcome.rows) > 1,
        exposure=exposure(outcome),
        another=by_another_program(outcome),
        missing=missing(outcome),
        figure=Markup(draw(outcome, lines, "against", PAGE)) if lines else None,
        single=outcome.single,
        one_column=len(outcome.labelled) == 1,
        baseline=outcome.baseline,
        forecasts=ahead,
        first=first,
        further=[table for table in chosen if table not in first and table.key != "cost"],
        cost=by_key["cost"],
        published=printed,
        methods=methods_paragraph(outcome),
        references=[f"{method}: {text}" for method, text in facts.citations.items()],
        rows=[(title_of(row), _settings(row)) for row in outcome.plan.rows],
        plan=flat({key: value for key, value in plain(outcome.plan).items() if key != "rows"}),
        made=[
            ("Command", facts.command), ("Machine", facts.machine), ("Lemis", facts.lemis), ("PyTorch", facts.torch),
            ("Date", facts.date),
        ],
    )  # fmt: skip


def _settings(row: str | PlannedRow) -> list[tuple[str, str]]:
    if isinstance(row, str):
        return [("method", row)]
    return flat({key: value for key, value in plain(row).items() if key != "title"})


def cards(outcome: Outcome) -> list[tuple[str, str, str]]:
    """(what, figure, explanation) of what one wants to know first."""
    best, most = best_row(outcome), outcome.labelled[-1:]
    rows = [row for row in (outcome.baseline, best) if row is not None]
    found = []
    for labelled in dict.fromkeys([*outcome.labelled[:1], *most]):
        scores = [entry(outcome, outcome.headline.key, row, labelled) for row in rows]
        figure = " → ".join(f"{score.mean:.3f}" if score.done else "–" for score in scores)
        part = "" if all(score.done == score.planned for score in scores) else "; not all runs are there"
        heading = count(labelled, "labelled subject") if labelled else "Without labels"
        found.append((heading, figure, f"{' → '.join(rows)}; {outcome.headline.title}{part}"))
    done = len({score[:4] for score in outcome.scores})
    core_hours = outcome.facts.core_seconds / 3600
    cost = f"{core_hours:.1f} core-hours" if core_hours >= 1 else f"{60 * core_hours:.1f} core-minutes"
    planned = f"of {done + len(outcome.missing)}, in {cost}"
    scans, _, subjects = outcome.tested.partition(" of ")
    number, noun = (subjects or scans).split()
    return [
        *found,
        ("Tested on", number, f"{noun}, {scans}" if subjects else noun),
        ("Runs finished", str(done), planned),
    ]


def methods_paragraph(outcome: Outcome) -> str:
    """A paragraph for the methods section of a paper; only what the files prove."""
    facts, plan = outcome.facts, outcome.plan
    others = [row for row in outcome.rows if row != outcome.baseline]
    what = f"{listed(others)} {'was' if len(others) == 1 else 'were'} compared with {outcome.baseline}"
    if not others:
        what = f"{outcome.baseline} was measured"
    numbers = listed(map(str, outcome.labelled))
    if outcome.single:
        data = f"On {count(facts.scans, 'image')} ({facts.data})"
        how = f"Every image was segmented by itself, without labels, with {over(outcome)}."
    else:
        data = (
            f"On {facts.data} ({count(facts.scans, 'scan')} of {count(facts.subjects, 'subject')}, "
            f"{facts.labelled_subjects} of them labelled)"
        )
        how = (
            f"Networks were fine-tuned on the labels of {numbers} {'subject' if numbers == '1' else 'subjects'}, in "
            f"{count(outcome.folds, 'fold')} split by subject, with {count(outcome.seeds, 'seed')}"
            f"{'; all rows had the same folds, labelled subjects and seeds' if others else ''}."
        )
    said = [
        f"{data}, {what}. {how}",
        _budget(plan.budget or PlannedBudget()),
        exposure(outcome),
        *(f"{row}: {nothing}." for row in others if (nothing := learned_nothing(outcome, row))),
        *by_another_program(outcome),
        f"Scores are {outcome.headline.what}, as mean and population standard deviation over {over(outcome)}.",
        f"Differences are of the mean Dice of each scan over its structures. {paired.DEFINITION}" if others else "",
        f"All runs used Lemis {facts.lemis} and PyTorch {facts.torch} on {facts.machine}.",
    ]
    return " ".join(part for part in said if part)


def _budget(budget: PlannedBudget) -> str:
    if budget.images:
        return f"Every pre-training saw {budget.images} images."
    return f"Every pre-training had {budget.minutes:g} minutes." if budget.minutes else ""
