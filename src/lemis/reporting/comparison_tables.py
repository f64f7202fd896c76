"""The tables of a comparison, in the papers' form: scores, differences, cost, and published figures by themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lemis.measure import paired, published, tables
from lemis.measure.tables import Written, count
from lemis.reporting.numbers import listed
from lemis.reporting.outcome import (
    BESIDE,
    DEFAULT,
    FURTHER,
    PAPER,
    Metric,
    Outcome,
    by_another_program,
    exposure,
    learned_nothing,
    missing,
    over,
)
from lemis.work_files.comparison import MEAN

POINTS = 100  # Dice points in a Dice of 1
MINUS = "−"  # a hyphen is shorter than the plus beside it
_ANOTHERS_COST = "Of rows that another program trains: its training alone, without its own preparation and prediction. "
_FOLDS = "The folds share training subjects, which no interval over test subjects can show. "


class Entry(NamedTuple):
    """One entry of a table: over the folds and seeds that are there."""

    mean: float
    std: float  # population form (ddof 0), as the papers print it
    done: int
    planned: int


class Table(NamedTuple):
    """A table as it goes into Markdown, LaTeX and the page."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str | Written], ...]


# ---------------------------------------------------------------- tables of scores


def entry(outcome: Outcome, metric: str, row: str, labelled: int, structure: str = MEAN) -> Entry:
    """Mean and spread of a metric over the folds and seeds that are there."""
    own = [score for score in outcome.scores if (score.row, score.labelled) == (row, labelled)]
    done = len({(score.fold, score.seed) for score in own})
    gaps = sum((gap.row, gap.labelled) == (row, labelled) for gap in outcome.missing)
    values = [score.numbers.get(metric, math.nan) for score in own if score.structure == structure]
    values = [value for value in values if not math.isnan(value)]
    mean, std = (float(np.mean(values)), float(np.std(values))) if values else (math.nan, math.nan)
    # Of a metric that a row does not have, nothing is missing: of another program, what Lemis scores in training.
    return Entry(mean, std, len(values), (done if values else 0) + gaps)


def our_tables(outcome: Outcome, comparisons: Sequence[paired.Comparison]) -> list[Table]:
    """Everything that was measured here: the headline first."""
    return [*score_tables(outcome, comparisons), *difference_tables(outcome, comparisons), cost_table(outcome)]


def score_tables(outcome: Outcome, comparisons: Sequence[paired.Comparison]) -> list[Table]:
    """Rows are methods, columns M: the headline first, then the other protocol, the structures, and distances."""
    other = DEFAULT if outcome.headline is PAPER else PAPER
    judged = frozenset(labelled for labelled in outcome.labelled if can_say(comparisons, labelled))
    found = [score_table(outcome, outcome.headline, judged)]
    if not outcome.single:
        found.append(score_table(outcome, other, judged))
    if len(outcome.structures) > 1:
        found += [score_table(outcome, outcome.headline, judged, structure) for structure in outcome.structures]
    if outcome.headline is PAPER:
        # Nothing of them in bold: who misses a structure would win.
        found += [score_table(outcome, metric, frozenset()) for metric in BESIDE]
    found += [score_table(outcome, metric, judged) for metric in FURTHER]
    return [table for table in found[:1] if table] + [table for table in found[1:] if _has_numbers(table)]


def can_say(comparisons: Sequence[paired.Comparison], labelled: int) -> bool:
    """Whether there are test subjects enough at M for a verdict, good or bad."""
    return any(one.labelled == labelled and paired.enough(one.difference) for one in comparisons)


def score_table(outcome: Outcome, metric: Metric, judged: frozenset[int], structure: str = MEAN) -> Table:
    """One metric of one structure, mean (standard deviation) over folds and seeds.

    The best of each M is in bold where M is in ``judged``: a winner beside "cannot say" would say it all the same.
    """
    columns = {labelled: _heading(labelled) for labelled in outcome.labelled}
    rows: list[dict[str, str | Written]] = [{"Method": row} for row in outcome.rows]
    for labelled, heading in columns.items():
        entries = [entry(outcome, metric.key, row, labelled, structure) for row in outcome.rows]
        best = _best(entries, metric)
        for row, found in zip(rows, entries, strict=True):
            wins = labelled in judged and _whole(found) and _printed(found, metric) == best
            row[heading] = Written(_text(found, metric.digits), bold=wins)
    of = "" if structure == MEAN else f"{structure}: "
    key = metric.key if structure == MEAN else f"{metric.key}-{structure}"
    caption = score_caption(outcome, metric, structure)
    return Table(key, f"{of}{metric.title}", caption, ("Method", *columns.values()), tuple(rows))


def _heading(labelled: int) -> str:
    return f"M = {labelled}" if labelled else "no labels"


def _text(found: Entry, digits: int) -> str:
    if not found.planned:
        return "-"
    if not found.done:
        return "missing"
    spread = f" ({found.std:.{digits}f})" if found.planned > 1 and found.done > 1 else ""
    part = f" [{found.done} of {found.planned}]" if found.done < found.planned else ""
    return f"{found.mean:.{digits}f}{spread}{part}"


def _printed(found: Entry, metric: Metric) -> str:
    return f"{found.mean:.{metric.digits}f}"


def _whole(found: Entry) -> bool:
    return 0 < found.done == found.planned


def _best(entries: Sequence[Entry], metric: Metric) -> str | None:
    # Only entries with all their folds and seeds compete: a mean over fewer may have the easier ones.
    whole = [found for found in entries if _whole(found)]
    if len(whole) < 2:
        return None
    pick = max if metric.more_is_better else min
    return _printed(pick(whole, key=lambda found: found.mean), metric)


def _has_numbers(table: Table) -> bool:
    return any(
        isinstance(value, Written) and value.text not in ("-", "missing")
        for row in table.rows
        for value in row.values()
    )


def score_caption(outcome: Outcome, metric: Metric, structure: str = MEAN) -> str:
    """Everything one must know to read a table of scores."""
    several = outcome.folds * outcome.seeds > 1
    of = "" if outcome.single else ", mean over structures" if structure == MEAN else f", {structure}"
    said = [
        f"{outcome.facts.data}{of}: {metric.what}.",
        f"Mean (standard deviation, population form) over {over(outcome)}."
        if several
        else f"{over(outcome).capitalize()}.",
        "" if outcome.single else "M: labelled subjects.",
        f"Tested on {outcome.tested}.",
        exposure(outcome),
        *(f"{row}: {nothing}." for row in outcome.rows if (nothing := learned_nothing(outcome, row))),
        *by_another_program(outcome),
    ]
    if any(found.done < found.planned for found in _entries(outcome, metric, structure)):
        said.append("[k of n] marks entries of only k of the n runs; they are never in bold.")
    return " ".join(part for part in said if part)


def _entries(outcome: Outcome, metric: Metric, structure: str) -> Iterable[Entry]:
    return (
        entry(outcome, metric.key, row, labelled, structure) for row in outcome.rows for labelled in outcome.labelled
    )


# ---------------------------------------------------------------- differences


def compared(outcome: Outcome) -> list[paired.Comparison]:
    """Every row against the baseline; nothing while the baseline has no finished run."""
    if outcome.baseline not in {case.row for case in outcome.cases}:
        return []
    return paired.compare(outcome.cases, baseline=outcome.baseline, within=(-1, 1))  # of Dice


def difference_tables(outcome: Outcome, comparisons: Sequence[paired.Comparison]) -> list[Table]:
    """Rows x M: difference to the baseline with interval and adjusted p; none where there is nothing to compare."""
    rows = [row for row in outcome.rows if row in {comparison.row for comparison in comparisons}]
    if not rows:
        return []
    columns = {labelled: _heading(labelled) for labelled in outcome.labelled}
    found = {(comparison.row, comparison.labelled): comparison.difference for comparison in comparisons}
    lines: list[Mapping[str, str | Written]] = [
        {"Method": row, **{heading: _difference(found.get((row, m))) for m, heading in columns.items()}} for row in rows
    ]
    caption = (
        f"{outcome.facts.data}: difference from {outcome.baseline} in Dice points (hundredths of Dice; mean Dice "
        f"of each scan over its structures, protocol “default”), paired by scan. {paired.DEFINITION} "
        "In bold: reliable. "
        f"{_FOLDS if outcome.folds > 1 else ''}Tested on {outcome.tested}."
    )
    title = f"Difference from {outcome.baseline}, Dice points"
    return [Table("differences", title, caption, ("Method", *columns.values()), tuple(lines))]


def _difference(found: paired.Difference | None) -> Written:
    if found is None or math.isnan(found.mean):
        return Written("missing")
    text = f"{found.mean * POINTS:+.1f}"
    if not math.isnan(found.low):
        text += f" [{found.low * POINTS:.1f}, {found.high * POINTS:.1f}]"
    text = text.replace("-", MINUS)
    if not math.isnan(found.p_adjusted):
        text += f", {_p(found.p_adjusted)}"
    return Written(text, bold=paired.reliable(found))


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


# ---------------------------------------------------------------- cost


def cost_table(outcome: Outcome) -> Table:
    """What each row takes of the machine: means over its trainings, and the most memory."""
    headings = {
        "pretraining_core_seconds": "Pre-training, core-minutes",
        "finetuning_core_seconds": "Fine-tuning, core-minutes",
        "pretraining_seconds": "Pre-training, minutes",
        "finetuning_seconds": "Fine-tuning, minutes",
        "peak_memory_gb": "Peak memory, GB",
    }
    rows: list[dict[str, str | Written]] = []
    for row in outcome.rows:
        own = [score.numbers for score in outcome.scores if score.row == row and score.structure == MEAN]
        line: dict[str, str | Written] = {"Method": row}
        for key, heading in headings.items():
            values = [numbers[key] for numbers in own if not math.isnan(numbers.get(key, math.nan))]
            line[heading] = Written(_cost(key, values))
        rows.append(line)
    # Nothing is trained before in a comparison from scratch, and of single images nothing at all.
    columns = [heading for heading in headings.values() if any(row[heading] != Written("-") for row in rows)]
    if outcome.single:
        caption = f"Cost of all images with one seed, means over seeds. Machine: {outcome.facts.machine}."
        rows = [{key.replace("Fine-tuning", "All images"): value for key, value in row.items()} for row in rows]
        columns = [heading.replace("Fine-tuning", "All images") for heading in columns]
        return Table("cost", "Cost", caption, ("Method", *columns), tuple(rows))
    caption = (
        "Cost of one pre-training and of one fine-tuning, averaged over the runs of a row; one pre-training serves all "
        "fine-tunings that can share it. Core-minutes: working time summed over processor cores. Minutes: by the "
        f"clock, on a machine that may have had other work too. {_ANOTHERS_COST if outcome.facts.external else ''}"
        f"Machine: {outcome.facts.machine}."
    )
    return Table("cost", "Cost", caption, ("Method", *columns), tuple(rows))


def _cost(key: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    found = max(values) if key == "peak_memory_gb" else sum(values) / len(values) / 60
    return f"{found:.1f}" if found >= 1 else f"{found:.2f}"


# ---------------------------------------------------------------- published


def published_tables(outcome: Outcome) -> list[Table]:
    """The published table that the plan names, as printed, with its own rows and columns."""
    name = outcome.facts.published
    if not name:
        return []
    entries = published.load(str(name))
    columns = _told_apart(entries, ("labelled", "fold", "structure", "metric"))
    rows: dict[tuple[str, str], dict[str, str | Written]] = {}
    for printed, heading in zip(entries, columns, strict=True):
        title = f"{printed.group}: {printed.row}" if printed.group else printed.row
        line = rows.setdefault((printed.group, printed.row), {"Method": title})
        line[heading] = Written(printed.printed)
    first = entries[0]
    units = listed(dict.fromkeys(f"{printed.metric} ({printed.unit})" for printed in entries))
    notes = dict.fromkeys(printed.lemis_note for printed in entries if printed.lemis_note)
    caption = (
        f"Published, not measured here: {first.paper}, {first.table} ({first.data}), {units}. "
        f"{published.PAPERS[first.paper].rstrip('.')}. {' '.join(f'{note[0].upper()}{note[1:]}.' for note in notes)}"
    ).strip()
    title = f"Published: {first.paper}, {first.table}"
    return [Table("published", title, caption, ("Method", *dict.fromkeys(columns)), tuple(rows.values()))]


def _told_apart(entries: Sequence[published.Entry], names: Sequence[str]) -> list[str]:
    """A heading for each figure, of those of its facts in which the figures differ."""
    told = [name for name in names if len({getattr(printed, name) for printed in entries}) > 1]
    return [", ".join(_fact(name, getattr(printed, name)) for name in told) or "value" for printed in entries]


def _fact(name: str, value: object) -> str:
    if name == "labelled":
        return f"M = {value}" if value else "no labels"
    return f"{'all folds' if value is None else f'fold {value}'}" if name == "fold" else str(value)


# ---------------------------------------------------------------- Markdown and LaTeX


def markdown(outcome: Outcome, said: Sequence[str], found: Sequence[Table]) -> str:
    """Title, what is said of it, and every table under its caption."""
    parts = [f"# {tables.escape_markdown(outcome.facts.title)}\n"]
    if said:
        parts.append("".join(f"- {tables.escape_markdown(sentence)}\n" for sentence in said))
    if outcome.missing:
        lines = (f"- {tables.escape_markdown(text)}\n" for text in missing(outcome))
        parts.append(f"{count(len(outcome.missing), 'run')} missing:\n\n{''.join(lines)}")
    for table in found:
        title, caption = tables.escape_markdown(table.title), tables.escape_markdown(table.caption)
        parts.append(f"## {title}\n\n{caption}\n\n{tables.markdown(table.rows, table.columns)}")
    return "\n".join(parts)


def latex(outcome: Outcome, found: Sequence[Table]) -> str:
    """A ``table`` for each, to be put into a paper with ``\\input``; needs the package ``booktabs``."""
    head = f"% Made by Lemis {outcome.facts.lemis}, {outcome.facts.date}. Needs \\usepackage{{booktabs}}.\n"
    return "\n".join([head, *(_latex_table(table) for table in found)])


def _latex_table(table: Table) -> str:
    caption = tables.escape_latex(f"{table.title}. {table.caption}")
    label = re.sub(r"[^a-z0-9]+", "-", table.key.lower()).strip("-")
    body = tables.latex(table.rows, table.columns)
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}",
            f"{body}\\end{{table}}",
            "",
        ]
    )
