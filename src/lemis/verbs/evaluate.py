"""``lemis evaluate``: score label maps against references, per scan, on the reference's own grid, in millimetres.

Refuses leakage: a scan whose subject was labelled in training is no test of anything. Says *transductive*
where pre-training saw the images of the test subjects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lemis import files, records, terminal
from lemis.datasets import index as indexing
from lemis.errors import first_of
from lemis.reporting import scores_table
from lemis.scoring import cases as pairing
from lemis.scoring import one_scan, refusals, summing_up
from lemis.scoring.summing_up import Settings
from lemis.work_files import audit, evaluation
from lemis.work_files.evaluation import Compared, Protocols, Summary
from lemis.work_files.predictions import Predictions
from lemis.work_files.predictions import read as read_predictions


def evaluate(
    predictions: Path,
    references: Path | None = None,
    *,
    work: Path | None = None,
    output: Path | None = None,
    runs: Sequence[str] | None = None,
    settings: Settings | None = None,
    jobs: int | None = None,
    json: bool = False,
) -> Summary:
    """Score the label maps of a folder and write ``per_case.csv`` and ``summary.json``.

    Args:
        predictions: Folder of label maps named ID.SUFFIX (``work/predictions``), or the work folder with it.
        references: Folder of reference label maps named alike; by default those named in ``work/index.json``, and of
            scans from elsewhere those beside the scans.
        work: The work folder; by default the parent of ``predictions`` if it has an index.
        output: Where to write; by default ``work/evaluation`` for ``work/predictions``, and of any other folder of
            label maps ``evaluation`` in it. The scores of another set are not replaced.
        runs: Score what these runs made only, by ``predictions.json``; all by default.
        settings: Tolerance and intervals.
        jobs: Threads; by default one per core.
        json: Print the summary as JSON instead of a table.

    Returns:
        The content of ``summary.json``.

    Raises:
        UsageError: Nothing to score, a scan whose subject was labelled in training, under whatever name and in
            whatever file, or the scores of another set in ``output``.
        DataFault: A prediction on another grid than its reference, or with values that no structure has.
    """
    settings = settings or Settings()
    predictions, work = _places(predictions, work)
    index = indexing.load(work / "index.json") if work is not None else None
    own = work if work is not None and predictions.resolve() == (work / "predictions").resolve() else None
    output = output or (predictions if own is None else predictions.parent) / "evaluation"
    of = Compared(
        predictions=_from(output, predictions), references=None if references is None else _from(output, references)
    )
    refusals.refuse_other_scores(output, of)
    record = read_predictions(predictions) or Predictions()
    files.require_writable(output)
    told = pairing.told(predictions, references, index, record)
    cases, not_scored = pairing.cases(predictions, told, record, runs)
    if own is not None:
        cases = refusals.with_what_all_saw(cases, own)
    refusals.refuse_leaks(cases)
    scored_on: list[str] = []
    if own is not None and index is not None and references is None:
        scored_on = refusals.scored_on(own, index, cases)
        refusals.refuse_other_weights(own, cases, record)
    structures = pairing.structures(told, cases)
    without_mm = pairing.without_millimetres(cases, record)
    how = one_scan.How(structures, told.ignored, without_mm is None, settings.scores)
    scored = one_scan.score_all(cases, how, jobs)
    _say_named_otherwise(scored)
    by_label = [refusals.by_label(case, one.label_digest, record) for case, one in zip(cases, scored, strict=True)]
    refusals.refuse_leaks(by_label)
    protocols = Protocols(default=summing_up.default(scored, structures, without_mm, settings))
    paper = summing_up.paper(record, work, sorted({run for case in cases for run in case.runs}))
    if scored_on:
        left_out = "; ".join(scored_on)
        terminal.console(stderr=True).print(f"note: no paper protocol, which is of the labels before: {left_out}")
    elif paper is not None:
        protocols = Protocols(default=protocols.default, paper=paper)
    audited = None
    if own is not None and index is not None:
        listed = {scan.subject for scan in index.scans}  # who is not among them any more will never have a label
        drawn = [one.subject for one in audit.read(own).drawn if one.subject in listed]
        with_label = {scan.subject for scan in index.scans if scan.label is not None}
        audited = summing_up.audited(drawn, with_label, scored, settings)
    summary = summing_up.summary(
        cases, not_scored, protocols, of=of, record=record, settings=settings, audited=audited
    )  # fmt: skip
    evaluation.write(output, summary, [row for one in scored for row in one.rows])
    if json:
        print(records.text_of(summary), end="")
    else:
        scores_table.show(summary, output)
    return summary


def _say_named_otherwise(scored: Sequence[one_scan.Scored]) -> None:
    found = [said for one in scored for said in one.named_otherwise]
    if found:
        said = f"structures named differently; the values count, not the names: {first_of(found, 3)}"
        terminal.warn(terminal.console(stderr=True), said)


def _places(predictions: Path, work: Path | None) -> tuple[Path, Path | None]:
    """The folder of label maps, and the work folder, if any."""
    if (predictions / "predictions").is_dir() or (predictions / "index.json").is_file():
        work, predictions = work or predictions, predictions / "predictions"
    if work is None and (predictions.parent / "index.json").is_file():
        work = predictions.parent
    if work is None:
        pairing.refuse_no_folder(predictions)
    return predictions, work


def _from(output: Path, folder: Path) -> str:
    """The path of a folder as seen from the scores, so that it holds where both are moved."""
    return Path(os.path.relpath(folder.resolve(), output.resolve())).as_posix()
