"""``reporting.comparison`` on made-up results: the numbers in the tables, what is missing or published, the page."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lemis.errors import UsageError
from lemis.measure import paired, published
from lemis.reporting import comparison, comparison_tables
from lemis.reporting.figures import against_labels as figures
from lemis.reporting.outcome import read
from pages import parsed

# A title that would break a page, a Markdown table or LaTeX that does not escape what it shows.
NASTY = r"SAL & <b>_x_|50% $\t$ #"
STRUCTURES = ("RV", "Myo")
NUMBERS = ("pooled_dice_best", "pooled_dice_last", "dice", "hd95_mm", "assd_mm")
COSTS = {
    "pretraining_core_seconds": 600.0, "finetuning_core_seconds": 120.0, "pretraining_seconds": 300.0,
    "finetuning_seconds": 60.0, "peak_memory_gb": 2.5,
}  # fmt: skip
RESULTS = (
    "row", "method", "backbone", "auxiliary", "labelled", "fold", "seed", "structure", *NUMBERS, "scans", "missed",
    *COSTS, "transductive", "cell",
)  # fmt: skip
CASES = (
    "row", "labelled", "fold", "seed", "subject", "scan", "structure", "dice", "hd95_mm", "assd_mm", "status", "cell",
)  # fmt: skip


def dice_of(row: str, labelled: int, subject: int, structure: int) -> float:
    """Rises with M; every row but the first gains, the later the less; some noise of its own."""
    place = 0 if row == "scratch" else 5
    noise = math.sin(12.9898 * subject + 78.233 * len(row) + labelled) * 0.02
    return 0.9 - 0.5 * labelled**-0.6 + place * 0.01 + 0.02 * math.sin(7 * subject) + noise - 0.03 * structure


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(lines)


def make(
    folder: Path,
    *,
    rows: Sequence[str] = ("scratch", "sal"),
    labelled: Sequence[int] = (2, 6, 10),
    folds: int = 5,
    seeds: int = 1,
    subjects: int = 8,
    missing: Sequence[tuple[str, int, int, int]] = (),
    structures: Sequence[str] = STRUCTURES,
    dice: Any = dice_of,
    plan: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a comparison; ``subjects`` are tested in each fold, one scan each."""
    folder.mkdir(parents=True, exist_ok=True)
    results, cases = [], []
    cells = [(r, m, f, s) for r in rows for m in labelled for f in range(folds) for s in range(seeds)]
    for row, m, fold, seed in cells:
        if (row, m, fold, seed) in missing:
            continue
        common = {"row": row, "labelled": m, "fold": fold, "seed": seed, "cell": f"{row}{m}{fold}{seed}"}
        tested = range(fold * subjects, (fold + 1) * subjects)
        values = {name: [dice(row, m, n, k) for n in tested] for k, name in enumerate(structures)}
        for name, found in values.items():
            for n, value in zip(tested, found, strict=True):
                place = {"subject": f"p{n:03}", "scan": f"p{n:03}-ed", "structure": name, "status": "scored"}
                text = "" if math.isnan(value) else value
                cases.append({**common, **place, "dice": text, "hd95_mm": 5.0, "assd_mm": 1.0})
        if len(structures) > 1:
            values["mean"] = [float(np.nanmean(v)) for v in zip(*values.values(), strict=True)]
        else:
            values = {"mean": values[structures[0]], structures[0]: values[structures[0]]}
        for name, found in values.items():
            mean = float(np.nanmean(found))
            scores = dict(zip(NUMBERS, (mean + 0.05, mean + 0.04, mean, 9 - mean, 2 - mean), strict=True))
            scores = {key: "" if math.isnan(value) else value for key, value in scores.items()}
            results.append({**common, "method": row, "structure": name, **scores, **COSTS, "scans": len(found)})
    write_csv(folder / "results.csv", RESULTS, results)
    write_csv(folder / "cases.csv", CASES, cases)
    resolved = {
        "title": "Is it worth it?", "protocol": "paper", "rows": [{"title": row, "method": "sal"} for row in rows],
        "baseline": rows[0], "labelled": list(labelled), "budget": {"images": None, "minutes": None},
        **(plan or {}),
    }  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    said = {
        "title": resolved["title"], "data": "ACDC", "scans": 100, "subjects": 50, "labelled_subjects": 50,
        "command": "lemis compare scans/ -o work/ --plan plan.yaml", "machine": "2 cores", "lemis": "0.1.0",
        "torch": "2.13.0", "date": "2026-11-21", "transductive": True, "published": None, "upstream": None,
        "core_seconds": 7200.0, "citations": {"sal": "Li, Ouyang, Wan. ISBI 2024."},
        "missing": [
            {"row": r, "labelled": m, "fold": f, "seed": s, "reason": "loss is not finite"} for r, m, f, s in missing
        ],
        **(facts or {}),
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def written(folder: Path) -> dict[str, str]:
    comparison.write(folder)
    names = ("table.md", "table.tex", "figure.svg", "index.html")
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def in_markdown(folder: Path) -> str:
    """``table.md`` without the cost of drawing."""
    outcome = read(folder)
    compared = comparison_tables.compared(outcome)
    found = [*comparison_tables.our_tables(outcome, compared), *comparison_tables.published_tables(outcome)]
    return comparison_tables.markdown(
        outcome, [gain.sentence for gain in comparison.verdicts(outcome, compared)], found
    )


def constant(row: str, labelled: int, subject: int, structure: int) -> float:
    """Folds of 8 subjects have 0.70, 0.71, ...; the first row 0.1 less."""
    return 0.7 + 0.01 * (subject // 8) - 0.1 * (row == "scratch")


def section(text: str, title: str) -> str:
    """Of Markdown, under a heading that begins so."""
    return next(part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(title))


# ---------------------------------------------------------------- tables


def test_means_and_spreads_over_folds(tmp_path: Path):
    text = in_markdown(make(tmp_path, dice=constant))
    paper = section(text, "Dice, protocol “paper”\n")
    # 0.70 ... 0.74 over five folds, and 0.05 more at the best epoch: std is that of 0 ... 4 hundredths, sqrt(2).
    assert "| scratch | 0.670 (0.014) | 0.670 (0.014) | 0.670 (0.014) |" in paper
    assert "| sal | **0.770 (0.014)** | **0.770 (0.014)** | **0.770 (0.014)** |" in paper
    assert "| sal | **0.720 (0.014)** |" in section(text, "Dice, protocol “default”\n")
    assert text.index("protocol “paper”") < text.index("## Dice, protocol “default”")
    assert "over 5 folds and 1 seed" in paper
    assert "Tested on 40 scans of 40 subjects." in paper


def test_distances_are_best_when_small(tmp_path: Path):
    text = in_markdown(make(tmp_path, dice=constant))
    assert "| scratch | 8.38 (0.01) | 8.38 (0.01) |" in section(text, "HD95, mm")
    assert "| sal | **8.28 (0.01)** |" in section(text, "HD95, mm")


def test_the_plan_says_which_score_comes_first(tmp_path: Path):
    text = in_markdown(make(tmp_path, plan={"protocol": "default"}))
    assert text.index("## Dice, protocol “default”") < text.index("## Dice, protocol “paper”")
    assert "of slices, px" not in text


def test_the_papers_other_scores_have_tables_of_their_own(tmp_path: Path):
    folder = make(tmp_path, plan={"protocol": "paper"}, dice=constant)
    assert "of slices, px" not in in_markdown(folder), "trained before they were taken"
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    more = [",jaccard_best,hd95_px_best,asd_px_best", *(len(lines) - 1) * [",0.5,7.25,1.125"]]
    (folder / "results.csv").write_text(
        "".join(f"{a}{b}\n" for a, b in zip(lines, more, strict=True)), encoding="utf-8"
    )
    text = in_markdown(folder)
    assert "| sal | 0.500 (0.000) |" in section(text, "Jaccard, protocol “paper”")
    hd95 = section(text, "HD95 of slices, px")
    assert "| sal | 7.25 (0.00) |" in hd95
    assert "a missed structure has the best distance" in hd95
    assert "1.12 (0.00)" in section(text, "ASD of slices, px")


def test_one_table_for_each_structure(tmp_path: Path):
    text = in_markdown(make(tmp_path))
    assert [name for name in STRUCTURES if f"## {name}: Dice, protocol “paper”\n" in text] == list(STRUCTURES)
    alone = in_markdown(make(tmp_path / "one", structures=("RV",)))
    assert "RV:" not in alone


def test_exposure_is_said_in_every_caption(tmp_path: Path):
    text = written(make(tmp_path, facts={"upstream": "chd"}))["table.tex"]
    captions = [line for line in text.splitlines() if ": Dice" in line or line.startswith(r"\caption{Dice")]
    assert len(captions) >= 4
    for caption in captions:
        assert "Transductive: pre-training saw the images of test subjects" in caption
        assert "Pre-trained on other data (chd)" in caption
    fair = in_markdown(make(tmp_path / "fair", facts={"transductive": False}))
    assert "Not transductive" in section(fair, "Dice, protocol “paper”\n")


def test_missing_runs_are_marked_and_never_best(tmp_path: Path):
    gone = [("sal", 6, 4, 0), *(("sal", 10, fold, 0) for fold in range(5))]
    text = written(make(tmp_path, dice=constant, missing=gone))
    paper = section(text["table.md"], "Dice, protocol “paper”\n")
    assert "| sal | **0.770 (0.014)** | 0.765 (0.011) [4 of 5] | missing |" in paper
    assert "of only k of the n runs" in paper
    assert "6 runs missing" in text["table.md"]
    assert "sal (M = 6, fold 4, seed 0, M = 10, fold 0, seed 0" in text["table.md"]
    page = parsed(text["index.html"]).said
    assert "Missing runs" in page
    assert "loss is not finite" in page
    assert "Runs finished 24 of 30, in 2.0 core-hours" in page
    complete = written(make(tmp_path / "whole"))
    assert "Missing runs" not in parsed(complete["index.html"]).said
    assert "k of the n" not in complete["table.md"]


def test_an_incomplete_entry_is_not_best_even_where_it_prints_the_same(tmp_path: Path):
    def equal(row: str, labelled: int, subject: int, structure: int) -> float:
        return 0.7

    text = in_markdown(make(tmp_path, rows=("scratch", "sal", "pcl"), dice=equal, missing=[("sal", 2, 4, 0)]))
    paper = section(text, "Dice, protocol “paper”\n")
    assert "| scratch | **0.750 (0.000)** |" in paper
    assert "| sal | 0.750 (0.000) [4 of 5] | **0.750 (0.000)** |" in paper


def test_a_loss_has_a_minus(tmp_path: Path):
    folder = make(tmp_path, plan={"baseline": "sal"}, dice=dice_of)
    assert re.search(r"\*\*−\d\.\d \[−\d\.\d, −\d\.\d\], p", in_markdown(folder))
    outcome = read(folder)
    found = comparison_tables.difference_tables(outcome, comparison_tables.compared(outcome))
    text = comparison_tables.latex(outcome, found)
    assert re.search(r"\\textbf\{\$-\$\d", text)


def test_a_scan_tested_in_two_folds_counts_twice_for_its_subject(tmp_path: Path):
    folder = make(tmp_path, folds=2)
    text = (folder / "cases.csv").read_text(encoding="utf-8")
    (folder / "cases.csv").write_text(
        re.sub(r"p0(08|09|1\d)", lambda m: f"p{int(m[1]) - 8:03}", text), encoding="utf-8"
    )
    outcome = read(folder)
    (found, *_) = comparison_tables.compared(outcome)
    assert (found.difference.subjects, found.difference.scans) == (8, 16)


def test_a_row_without_any_finished_run(tmp_path: Path):
    gone = [("sal", m, fold, 0) for m in (2, 6, 10) for fold in range(5)]
    text = written(make(tmp_path, missing=gone))
    assert "| sal | missing | missing | missing |" in text["table.md"]
    assert "scratch" in text["figure.svg"]


def test_one_row_from_scratch_is_measured_and_compared_with_nothing(tmp_path: Path):
    text = written(make(tmp_path, rows=("scratch",), facts={"transductive": None}))
    page = parsed(text["index.html"]).said
    assert "Nothing to compare" not in page
    assert "scratch was measured." in page
    assert "Nothing was pre-trained." in page
    assert "ransductive" not in page
    assert "all rows had" not in page


@pytest.mark.parametrize(("subjects", "bold"), [(6, True), (5, False)])
def test_no_winner_is_in_bold_where_nothing_can_be_said(tmp_path: Path, subjects: int, bold: bool):
    text = in_markdown(make(tmp_path, folds=1, subjects=subjects, dice=constant))
    assert ("cannot say" in text) != bold
    assert ("**" in text) == bold


def test_pretrainings_that_learned_nothing_are_counted_beside_every_number(tmp_path: Path):
    why = "the contrast loss is 3.4340, what a network that knows nothing has (3.4340)"
    text = written(make(tmp_path, facts={"learned_nothing": {"sal": {"runs": 2, "of": 5, "why": why}}}))
    said = f"2 of its 5 pre-trainings learned nothing ({why})"
    assert f"; {said}." in text["table.md"]  # the verdict
    assert text["table.md"].count(f"sal: {said}.") >= 2  # captions of the scores
    page = parsed(text["index.html"]).said
    assert page.count(said) >= 4  # and the paragraph for a paper


def test_before_anything_is_finished(tmp_path: Path):
    gone = [(row, 2, 0, 0) for row in ("scratch", "sal")]
    folder = make(tmp_path, labelled=[2], folds=1, missing=gone)
    comparison.write(folder)
    assert "| sal | missing |" in (folder / "table.md").read_text(encoding="utf-8")
    assert "Nothing to compare with scratch yet" in parsed((folder / "index.html").read_text(encoding="utf-8")).said
    assert not (folder / "figure.svg").exists()


@pytest.mark.parametrize(
    ("labelled", "folds", "seeds"), [((2,), 1, 1), ((2,), 5, 1), ((2, 6), 2, 2), ((2, 4, 8, 15, 25), 3, 1)]
)
def test_any_number_of_columns_folds_and_seeds(tmp_path: Path, labelled: tuple[int, ...], folds: int, seeds: int):
    text = written(make(tmp_path, labelled=labelled, folds=folds, seeds=seeds))
    first = section(text["table.md"], "Dice, protocol “paper”\n")
    heads = [line for line in first.splitlines() if line.startswith("| Method")]
    assert heads == ["| Method | " + " | ".join(f"M = {m}" for m in labelled) + " |"]
    assert ("(0." in first) == (folds * seeds > 1)
    page = parsed(text["index.html"]).said
    assert ("Would more labels help?" in page) == (len(labelled) >= 3)
    ET.fromstring(text["figure.svg"].encode())


def test_scores_that_do_not_exist(tmp_path: Path):
    def without_myo(row: str, labelled: int, subject: int, structure: int) -> float:
        return math.nan if structure and subject % 2 else constant(row, labelled, subject, structure)

    text = written(make(tmp_path, dice=without_myo))
    assert "nan" not in parsed(text["index.html"]).said.lower().replace("finance", "")
    assert "nan" not in text["table.md"]
    assert "0.770 (0.014)" in text["table.md"]


# ---------------------------------------------------------------- LaTeX


def test_latex_has_the_form_of_latex(tmp_path: Path):
    text = written(make(tmp_path, rows=("scratch", NASTY), missing=[(NASTY, 2, 0, 0)]))["table.tex"]
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for environment in ("table", "tabular"):
        assert code.count(rf"\begin{{{environment}}}") == code.count(rf"\end{{{environment}}}") > 3
    bare = re.sub(r"\\[\\{}&%$#_]", "", code).replace("$-$", "")
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    assert "$" not in bare
    assert "#" not in bare
    assert "_" not in re.sub(r"\\label\{[^}]*\}", "", bare)
    bodies = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end", bare, flags=re.DOTALL)
    for columns, body in bodies:
        lines = [line for line in body.splitlines() if "&" in line]
        assert lines
        assert {line.count("&") for line in lines} == {len(columns) - 1}
    labels = re.findall(r"\\label\{(.*?)\}", code)
    assert len(labels) == len(set(labels))


# ---------------------------------------------------------------- published


def test_published_figures_stand_alone(tmp_path: Path):
    text = written(make(tmp_path, facts={"published": "kaf-table1-acdc"}))
    plain = written(make(tmp_path / "without"))
    md = section(text["table.md"], "Published: KAF, Table 1")
    assert "Published, not measured here" in md
    assert "0.588(.07)" in md
    assert "| Method | M = 2 | M = 6 | M = 10 |" in md
    # Everything else is what it is without the published table.
    assert text["table.md"].replace(f"\n## {md}", "") == plain["table.md"]
    assert text["figure.svg"] == plain["figure.svg"]
    assert text["index.html"].count("0.588(.07)") == 1
    assert "What the paper printed" in parsed(text["index.html"]).said
    assert "What the paper printed" not in parsed(plain["index.html"]).said


def test_every_published_figure_has_a_place_of_its_own(tmp_path: Path):
    outcome = read(make(tmp_path, folds=1, labelled=[2]))
    for name in published.tables():
        facts = outcome.facts.model_copy(update={"published": name})
        (table,) = comparison_tables.published_tables(dataclasses.replace(outcome, facts=facts))
        shown = [cell for row in table.rows for key, cell in row.items() if key != "Method"]
        assert len(shown) == len(published.load(name)), name


# ---------------------------------------------------------------- verdicts and forecast


def test_a_clear_gain_is_told_first(tmp_path: Path):
    text = written(make(tmp_path, rows=("scratch", "sal", "pcl")))
    page = parsed(text["index.html"]).said
    assert page.index("sal gains") < page.index("Dice against labelled subjects")
    assert "reliable gain" in page
    line = next(line for line in text["table.md"].splitlines() if line.startswith("- sal gains"))
    assert "over scratch" in line
    table = section(text["table.md"], "Difference from scratch")
    assert "| scratch |" not in table
    assert re.search(r"\| sal \| \*\*\+\d\.\d \[\d\.\d, \d\.\d\], p (?:=|\\<) 0\.\d+\*\* \|", table)


def test_no_gain_where_there_is_none(tmp_path: Path):
    def same(row: str, labelled: int, subject: int, structure: int) -> float:
        sign = 1 if (subject + len(row)) % 2 else -1
        return 0.7 + sign * 0.03

    text = written(make(tmp_path, dice=same))
    assert "no reliable gain" in text["table.md"]
    assert [gain.kind for gain in _gains(tmp_path)] == ["none"]
    assert "**+" not in section(text["table.md"], "Difference")


def _gains(folder: Path) -> list[comparison.Gain]:
    outcome = read(folder)
    return comparison.verdicts(outcome, comparison_tables.compared(outcome))


def test_too_few_subjects_to_say(tmp_path: Path):
    folder = make(tmp_path, folds=2, subjects=2)
    assert [gain.kind for gain in _gains(folder)] == ["unknown"]
    assert "cannot say" in in_markdown(folder)
    assert "**+" not in section(in_markdown(folder), "Difference")


def test_the_forecast_is_dashed_beyond_what_was_measured(tmp_path: Path):
    def steady(row: str, labelled: int, subject: int, structure: int) -> float:
        return 0.9 - 0.5 * labelled**-0.7 + 0.01 * math.sin(7 * subject) + 0.02 * (row != "scratch")

    folder = make(tmp_path, labelled=(2, 4, 8, 16), dice=steady)
    outcome = read(folder)
    ahead = comparison.forecasts(outcome, comparison_tables.compared(outcome))
    assert [found.row for found in ahead] == ["sal", "scratch"]
    lines = comparison.figure_lines(outcome, ahead)
    for line in lines:
        assert line.ahead
        assert line.ahead[0][0] == 16
        assert line.ahead[-1][0] == 64
        means = [mean for _, mean, _, _ in line.ahead]
        assert means == sorted(means)
    text = written(folder)
    assert "stroke-dasharray" in text["figure.svg"]
    assert re.search(r"\n- sal: With 32 labelled subjects, expect a mean Dice of 0\.\d{3} ", text["table.md"])
    assert "stroke-dasharray" not in written(make(tmp_path / "two", labelled=(2, 4), dice=steady))["figure.svg"]


# ---------------------------------------------------------------- page and figure


def test_titles_are_escaped_everywhere(tmp_path: Path):
    text = written(make(tmp_path, rows=("scratch", NASTY), plan={"title": NASTY}))
    assert NASTY in parsed(text["index.html"]).said
    assert "<b>_x" not in text["index.html"]
    assert "SAL & \\<b>\\_x\\_\\|50% \\$\\\\t\\$ #" in text["table.md"]
    drawn = " ".join(ET.fromstring(text["figure.svg"].encode()).itertext())
    assert NASTY in drawn


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path):
    text = written(make(tmp_path, facts={"published": "kaf-table1-acdc"}, missing=[("sal", 2, 0, 0)]))["index.html"]
    reader = parsed(text)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "img")
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith("#")
        if tag == "svg":
            assert "sal: 0." in str(attributes["aria-label"])
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    links = [str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"]
    assert set(links) <= set(ids)
    assert "Li, Ouyang, Wan" in text
    assert "10.0" in text  # core-minutes of a pre-training of 600 core-seconds


def test_writing_twice_gives_the_same_bytes(tmp_path: Path):
    folder = make(tmp_path)
    assert written(folder) == written(folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_figure_stands_alone(tmp_path: Path):
    text = written(make(tmp_path))["figure.svg"]
    root = ET.fromstring(text.encode())
    assert "inherit" not in text
    assert root.attrib["color"].startswith("#")
    width = float(root.attrib["width"].removesuffix("pt")) / 72
    assert width < 3.7  # inches: a column
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)]
    assert min(sizes) >= 7
    for word in ("scratch", "sal", "labelled subjects"):
        assert word in " ".join(root.itertext())


def test_many_rows_get_a_legend():
    lines = [figures.Line(f"row {k}", [2, 6], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], k == 0) for k in range(14)]
    text = figures.against_labels("many", lines, label="Dice", alt="a")
    words = " ".join(ET.fromstring(text).itertext())
    assert all(f"row {k}" in words for k in range(14))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_keep_apart_and_in_order(wanted: list[float]):
    room = 0.08
    found = figures.spread(wanted, room=room)
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    gaps = np.diff([found[place] for place in order])
    assert (gaps >= room - 1e-9).all()
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9
    if len(wanted) == 1:
        assert found == pytest.approx(wanted)


def test_images_without_labels(tmp_path: Path):
    def of_image(row: str, labelled: int, subject: int, structure: int) -> float:
        return 0.6 + 0.1 * (row == "sal") + 0.05 * math.sin(7 * subject)

    plan = {"kind": "single", "protocol": "released", "title": "One by one"}
    folder = make(tmp_path, labelled=(0,), folds=1, seeds=3, structures=("object",), dice=of_image, plan=plan)
    text = written(folder)
    md = text["table.md"]
    assert "as the authors' code" in section(md, "Dice, protocol “released”")
    assert "over 3 seeds" in md
    assert "| Method | no labels |" in md
    assert "Tested on 8 images." in md
    assert "- sal gains 10.0 [10.0, 10.0] Dice points over scratch." in md
    page = parsed(text["index.html"]).said
    for word in ("labelled subject", "ransductive", "fold"):
        assert word not in md.replace(paired.DEFINITION, ""), word
    assert "Every image was segmented by itself" in page
    assert "All images, core-minutes" in page


# ---------------------------------------------------------------- refusals


def test_refuses_another_folder(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no plan\.yaml, results\.csv, cases\.csv and facts\.json"):
        comparison.write(tmp_path)


def test_refuses_files_of_something_else(tmp_path: Path):
    folder = make(tmp_path)
    (folder / "results.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"results\.csv has no column row"):
        comparison.write(folder)
