"""Files between verbs: what is written is read, and what is damaged is refused with its field and what to do."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lemis import files
from lemis.errors import UsageError
from lemis.preparation import store_files
from lemis.records import plain, read_table
from lemis.work_files import audit, checks, comparison, evaluation, one_image, predictions, run
from lemis.work_files.one_image import SummaryRow
from lemis.work_files.predictions import Prediction, Predictions
from work_files_made import ENVIRONMENT, FINETUNED, MASK_RECORD, META, PRETRAINED, SUMMARY

FAULT = {"severity": "error", "scan": "a", "file": "f", "kind": "k", "seen": "s", "repair": "r"}
PREDICTIONS: dict[str, Any] = {
    "version": 1, "pretraining_subjects": ["s"], "known_labels": {"0": "s"}, "run_folders": {"r": "work/runs/r"},
    "scans": {"a": {"file": "a.nii.gz", "runs": ["r"], "weights": ["0"], "labelled_subjects": [], "images": []}},
}  # fmt: skip
RESULT: dict[str, Any] = {
    "version": 1,
    "run": "r",
    "seconds": 1.0,
    "core_seconds": 1.0,
    "peak_memory_gb": None,
    "cases": [],
}
FACTS: dict[str, Any] = {
    "version": 1, "title": "t", "data": "d", "scans": 2, "subjects": 2, "labelled_subjects": 2, "upstream": None,
    "command": "lemis compare", "machine": "m", "lemis": "0.1.0", "torch": "2.13.0", "date": "2026-11-29",
    "published": None, "core_seconds": 1.0, "learned_nothing": {"sal": {"runs": 1, "of": 2, "why": "w"}},
    "missing": [{"row": "sal", "labelled": 1, "fold": 0, "seed": 0, "reason": "r"}],
    "transductive": None, "citations": {"sal": "c"},
}  # fmt: skip
CELL_STATUS: dict[str, Any] = {"version": 1, "started": 1.0, "ended": None, "state": "running", "message": ""}
PLAN: dict[str, Any] = {"title": "t", "rows": [{"title": "a"}, "b"], "baseline": "a", "budget": {"images": 3}}

# A file in a folder, its content, what reads it, and the beginning of what makes it anew.
FILES: dict[str, tuple[str, dict[str, Any], Callable[[Path], Any], str]] = {
    "pre-training": ("model.json", PRETRAINED, run.read_model, "delete this folder"),
    "fine-tuning": ("model.json", FINETUNED, run.read_model, "delete this folder"),
    "status": ("status.json", {"version": 1, "verb": "pretrain", "step": 3}, run.read_status, "delete "),
    "environment": ("environment.json", ENVIRONMENT, run.read_environment, "delete "),
    "metrics": ("metrics.jsonl", {"step": 1, "loss": 0.5}, run.read_metrics, "delete "),
    "predictions": ("predictions.json", PREDICTIONS, predictions.read, "delete "),
    "summary": ("summary.json", SUMMARY, evaluation.read_summary, "lemis evaluate "),
    "audit": ("audit.json", {"version": 1, "drawn": [{"subject": "s", "scan": "a", "of": 9}]}, audit.read, "delete "),
    "check": ("check.json", {"version": 1, "faults": [FAULT]}, checks.read, "lemis check SCANS -o "),
    "meta": ("meta.json", META, store_files.read_meta, "lemis prepare "),
    "result": ("cells/k/result.json", RESULT, lambda f: comparison.read_result(f, "k"), "delete "),
    "cell status": ("cells/k/status.json", CELL_STATUS, lambda f: comparison.read_cell_status(f, "k"), "delete "),
    "facts": ("facts.json", FACTS, comparison.read_facts, "delete "),
    "plan": ("plan.yaml", PLAN, comparison.read_plan, "run the same "),
    "mask": ("mask.json", MASK_RECORD, lambda folder: one_image.read(folder / "mask.json"), "move mask.json, or "),
}
# What writes a file again, as its reader gave it.
WRITERS: dict[str, Callable[[Path, Any], None]] = {
    "pre-training": run.write_model,
    "fine-tuning": run.write_model,
    "status": run.write_status,
    "environment": run.write_environment,
    "metrics": run.write_metrics,
    "predictions": lambda folder, record: predictions.add(folder, "a", record.scans["a"], record),
    "summary": lambda folder, summary: evaluation.write(folder, summary, []),
    "result": lambda folder, result: comparison.write_result(folder, "k", result),
    "cell status": lambda folder, status: comparison.write_cell_status(folder, "k", status),
    "facts": comparison.write_facts,
    "audit": lambda folder, record: audit.remember(folder, record.drawn),
    "check": lambda folder, found: checks.write(folder, plain(found)),
    "mask": lambda folder, record: one_image.write(folder / "mask.json", record),
}


def write(folder: Path, kind: str, text: str | bytes) -> Path:
    path = folder / FILES[kind][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def line(facts: Any) -> str:
    return json.dumps(facts) + "\n"


@pytest.mark.parametrize("kind", FILES)
def test_a_whole_file_is_read(kind: str, tmp_path: Path) -> None:
    _, facts, reader, _ = FILES[kind]
    write(tmp_path, kind, line(facts))
    assert reader(tmp_path)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("text", [b"\xff\xfe\n", b"[]\n", b"7\n", b'"x"\n', b"[" * 5000 + b"\n", b'{"a": \n'])
def test_a_text_of_something_else_is_refused(kind: str, text: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, kind, text)
    with pytest.raises(UsageError, match=path.name) as caught:
        FILES[kind][2](tmp_path)
    assert caught.value.next.startswith(FILES[kind][3])


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "metrics"])
def test_an_empty_file_is_refused(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind, "")
    with pytest.raises(UsageError, match="is empty"):
        FILES[kind][2](tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_read_back_equal_and_holds_what_was_there(kind: str, tmp_path: Path) -> None:
    name, facts, reader, _ = FILES[kind]
    path = write(tmp_path, kind, line(facts))
    first = reader(tmp_path)
    path.unlink()
    WRITERS[kind](tmp_path, first)
    assert reader(tmp_path) == first
    assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == facts


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind not in ("metrics", "predictions", "audit")])
def test_what_could_not_be_read_is_not_written_over_a_good_file(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, line(FILES[kind][1]))
    damaged = FILES[kind][2](tmp_path).model_copy(update={"version": 99})
    with pytest.raises(ValidationError):
        WRITERS[kind](tmp_path, damaged)
    assert path.read_text(encoding="utf-8") == line(FILES[kind][1])


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("pre-training", "trained"),
        ("environment", "command"),
        ("summary", "protocols"),
        ("check", "faults"),
        ("meta", "scans"),
        ("facts", "machine"),
        ("plan", "baseline"),
        ("mask", "slices"),
        ("mask", "environment"),
    ],
)
def test_a_missing_field_is_named_with_its_file(kind: str, field: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, line({key: value for key, value in FILES[kind][1].items() if key != field}))
    with pytest.raises(UsageError, match=rf"{path.name}: (\w+\.)?{field} is nothing") as caught:
        FILES[kind][2](tmp_path)
    assert caught.value.next.startswith(FILES[kind][3])


@pytest.mark.parametrize("kind", [kind for kind in FILES if "version" in FILES[kind][1]])
def test_another_version_is_refused(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind, line({**FILES[kind][1], "version": 99}))
    with pytest.raises(UsageError, match="is of version 99"):
        FILES[kind][2](tmp_path)


WRONG = st.sampled_from([-1, 0.5, "x", [], {}, None, True, float("nan"), float("inf"), "../../x", [[]], {"x": -1}])


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_any_field_with_any_value_is_read_or_refused(
    kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("one")
    facts = json.loads(json.dumps(FILES[kind][1]))
    holder, key = data.draw(st.sampled_from(list(parts(facts))))
    if data.draw(st.booleans()):
        holder[key] = data.draw(WRONG)
    else:
        del holder[key]
    path = write(folder, kind, line(facts))
    refusal = None
    try:
        FILES[kind][2](folder)
    except UsageError as error:
        refusal = error
    assert refusal is None or path.name in refusal.given
    assert refusal is None or refusal.next.startswith(FILES[kind][3])


def parts(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from parts(tree[key])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("backbone", -1, "backbone is -1"),
        ("channels", [], r"channels is \[\]"),
        ("label_names", "x", "label_names is 'x'"),
        ("label_values", [0, 0], r"label_values \[0, 0\]"),
        ("patch_px", [1, 2], r"patch_px"),
        ("patch_px", [1, 2, 0], r"patch_px.2 is 0"),
        ("prepared", {"spacing_mm": "x"}, "prepared.spacing_mm='x'"),
        ("pretrained", "../x", r"pretrained is '\.\./x'"),
        ("seed", -1, "seed is -1"),
        ("verb", "other", "verb"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_was_found(field: str, value: Any, says: str, tmp_path: Path) -> None:
    write(tmp_path, "fine-tuning", line({**FINETUNED, field: value}))
    with pytest.raises(UsageError, match=says):
        run.read_model(tmp_path)


@pytest.mark.parametrize("field", ["labelled_subjects", "pretraining_subjects", "test_subjects", "patch_px"])
def test_what_decides_on_leaks_and_tiles_may_not_be_missing(field: str, tmp_path: Path) -> None:
    write(tmp_path, "fine-tuning", line({key: value for key, value in FINETUNED.items() if key != field}))
    with pytest.raises(UsageError, match=f"{field} is nothing"):
        run.read_model(tmp_path)


def test_what_a_later_version_adds_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "status", line({"version": 1, "step": 3, "colour": "red"}))
    run.write_status(tmp_path, run.read_status(tmp_path).with_facts({"step": 4}))
    assert json.loads((tmp_path / "status.json").read_text()) == {"version": 1, "step": 4, "colour": "red"}


def test_a_log_says_which_line(tmp_path: Path) -> None:
    write(tmp_path, "metrics", line({"step": 1}) + line({"step": "x"}))
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 2: step is 'x'"):
        run.read_metrics(tmp_path)
    write(tmp_path, "metrics", line({"step": 1}) + line({"loss": 1.0}))
    with pytest.raises(UsageError, match="line 2: step is None"):
        run.read_metrics(tmp_path)


# ----------------------------------------------------------------------------------------- the mask of one image


def test_a_record_of_a_mask_keeps_its_keys_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "mask", json.dumps(MASK_RECORD, indent=1) + "\n")
    before, record = path.read_text(), one_image.read(path)
    assert record is not None
    one_image.write(path, record)
    assert path.read_text() == before


def test_a_record_of_a_mask_may_say_less_and_more(tmp_path: Path) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "version"}  # as the first ones were
    (whole,) = MASK_RECORD["slices"]
    unscored = {key: value for key, value in whole.items() if key != "scores"}
    made_from = {**MASK_RECORD["made_from"], "size": "native", "stored_axis": 0, "colour": "red"}
    said = {**MASK_RECORD, "made_from": made_from, "slices": [unscored], "means": None, "environment": environment}
    path = write(tmp_path, "mask", line(said))
    record = one_image.read(path)
    assert record is not None
    assert (record.made_from.size, record.made_from.stored_axis, record.slices[0].scores) == ("native", 0, None)
    one_image.write(path, record)
    assert json.loads(path.read_text()) == said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slices": [{**MASK_RECORD["slices"][0], "chosen": ["2"]}]}, r"slices\.0\.chosen\.0 is '2'"),
        ({"made_from": {**MASK_RECORD["made_from"], "size": "big"}}, r"made_from\.size\S* is 'big'"),
        ({"made_from": {"method": "kmeans"}}, r"made_from\.image is nothing"),
        ({"files": {"mask": "mask.png"}}, r"files\.labels is nothing"),
    ],
)
def test_a_damaged_record_of_a_mask_names_the_field(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write(tmp_path, "mask", line({**MASK_RECORD, **change}))
    with pytest.raises(UsageError, match=rf"mask\.json: {says}") as caught:
        one_image.read(path)
    assert caught.value.next == "move mask.json, or choose another name after -o"


def test_no_record_beside_a_mask(tmp_path: Path) -> None:
    assert one_image.read(tmp_path / "mask.json") is None


def test_the_summary_of_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        SummaryRow(
            image="=a", slice=1, status="done", clusters=2, chosen="1+2", share=0.25, iterations=7, restarts=0,
            seconds=1.5, protocol="honest", best_cluster=None, dice=0.912345, hammoude=1e-06, xor=1.0,
            chosen_dice=1.0, chosen_hammoude=0.0, chosen_xor=0.0,
        ),
        SummaryRow(image="b", status="failed", problem="b.png cannot be read"),
    ]  # fmt: skip
    path = one_image.write_summary(tmp_path / "masks", rows)
    assert one_image.read_summary(tmp_path / "masks", next="again") == rows
    assert path.read_text().splitlines() == [
        "image,slice,status,clusters,chosen,share,iterations,restarts,seconds,protocol,best_cluster,dice,hammoude,xor,"
        "chosen_dice,chosen_hammoude,chosen_xor,problem",
        "'=a,1,done,2,1+2,0.25,7,0,1.5,honest,,0.912345,1e-06,1.0,1.0,0.0,0.0,",
        "b,,failed,,,,,,,,,,,,,,,b.png cannot be read",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.5", "x", "line 2: dice is 'x'"),
        ("done", "lost", "line 2: status is 'lost'"),
        ("dice", "size", "no column dice"),
    ],
)
def test_a_damaged_summary_of_a_folder_names_line_and_column(old: str, new: str, says: str, tmp_path: Path) -> None:
    path = one_image.write_summary(tmp_path, [SummaryRow(image="a", slice=1, status="done", dice=0.5)])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=rf"summary\.csv.*{says}") as caught:
        one_image.read_summary(tmp_path, next="again")
    assert caught.value.next == "again"


# ---------------------------------------------------------------------------------------------------- predictions.json


def _add(folder: Path, first: int) -> None:
    for number in range(first, first + 20):
        shared = Predictions(version=1, known_labels={f"digest{first}": f"s{first}"})
        predictions.add(folder, f"scan{number}", Prediction(file=f"scan{number}.nii.gz"), shared)


@pytest.mark.slow
def test_two_that_predict_at_once_lose_no_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_add, args=(tmp_path, first)) for first in (0, 100)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    record = predictions.read(tmp_path)
    assert record is not None
    assert len(record.scans) == 40
    assert record.known_labels == {"digest0": "s0", "digest100": "s100"}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a\\b", "a\0"])
def test_no_name_in_a_record_leaves_the_folder(name: str, tmp_path: Path) -> None:
    write(tmp_path, "predictions", line({"version": 1, "scans": {name: {}}}))
    with pytest.raises(UsageError, match=r"predictions\.json"):
        predictions.read(tmp_path)
    write(tmp_path, "predictions", line({"version": 1, "scans": {"a": {"file": name}}}))
    with pytest.raises(UsageError, match=r"predictions\.json"):
        predictions.read(tmp_path)


# --------------------------------------------------------------------------------------------------------------- tables

HEAD = "scan,subject,structure,dice,hd95_mm,assd_mm,nsd,reference_ml,predicted_ml,status\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column scan"),
        (HEAD.replace("dice,", ""), "no column dice"),
        (HEAD.replace("dice", "scan"), "more than one column scan"),
        (HEAD + "a,b\n", "line 2: 2 cells"),
        (HEAD + "a,s,pool,x,1,1,1,1,1,scored\n", "line 2: dice is 'x'"),
        (HEAD + "a,s,pool,-1,1,1,1,1,1,scored\n", "line 2: dice is '-1'"),
        (HEAD + "a,s,pool,1,1,1,1,1,1,lost\n", "line 2: status is 'lost'"),
        (HEAD + 'a,"s\n', "is no table"),
    ],
)
def test_a_table_of_something_else_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "per_case.csv").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        evaluation.read_cases(tmp_path)
    assert caught.value.next == f"lemis evaluate {tmp_path.parent}"


def test_a_cell_of_any_length_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "x" * 200_000 + "\n")
    with pytest.raises(UsageError, match=r"t\.csv"):
        read_table(tmp_path / "t.csv", ("a",), next="write it again")


# ---------------------------------------------------------------------------------------------------------- the disc


def test_a_file_is_on_the_disc_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def renamed(*paths: Any) -> None:
        replace(*paths)
        happened.append("renamed")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write(tmp_path / "a.json", "{}")
    assert [word for word in happened if word != "folder"] == ["file", "renamed"]
    assert happened.index("renamed") < len(happened) - 1
