"""The table of quality: who calibrates whom, which scans get a number, and in what order they stand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lemis.datasets.index import Scan as Listed
from lemis.measure.anatomy import Shape
from lemis.measure.distance import Seen
from lemis.preparation.exposure import Strange
from lemis.quality.table import POOR, Known, held_by, in_order, rows_of, save
from lemis.reporting.review import based_on
from lemis.runs.material import digest_of_file
from lemis.work_files import embedded, predictions, quality
from lemis.work_files.quality import Apart, HeldOut, Measured, OfRun, Row, Scan, Verdict, stored_shapes

PERCENTILES = ((-1.0, -0.9, -0.5, 0.0, 0.5, 1.0, 2.0),)


def scan(subject: str, *, ml: float = 100.0) -> Scan:
    there = Shape(ml, 0.0, 1, 0.0, (0.0,) * 6, 0.9, 0, (50.0, 50.0, 50.0))
    gone = Shape(0.0, math.nan, 0, math.nan, (math.nan,) * 6, math.nan, 0, (math.nan,) * 3)
    return Scan(
        subject=subject, shapes=stored_shapes({"wall": there if ml else gone}), extent_mm=(100.0, 100.0, 100.0),
        percentiles=PERCENTILES,
    )  # fmt: skip


def measured(subject: str, agreement: dict[str, float], *, own: bool = False, ml: float = 100.0) -> Measured:
    told = {run: {"wall": value} for run, value in agreement.items()}
    return Measured(scan=scan(subject, ml=ml), own=own, agreement=told, runs=("a", "b"), labelled_runs=("a", "b"))


def run(first: int, **dice: float) -> OfRun:
    told = {f"p{first + number}": value for number, value in enumerate(dice.values())}
    held = {
        f"{who}_scan": HeldOut(subject=who, agreement={"wall": value}, dice={"wall": value})
        for who, value in told.items()
    }
    return OfRun(weights="x", held_out=held)


RUNS = [("a", run(0, x=0.9, y=0.88, z=0.86)), ("b", run(3, x=0.92, y=0.9, z=0.84))]
KNOWN = Known(held_by(RUNS), {f"p{n}_scan": scan(f"p{n}", ml=95 + n) for n in range(6)}, ("MR",), 0.8)


def row(value: Measured, known: Known = KNOWN, strange: tuple[Strange, ...] = ()) -> Row:
    (found,) = rows_of("new", value, known, strange)
    return found


def test_a_new_scan_gets_a_number_from_all_that_was_held_out() -> None:
    found = row(measured("new", {"a": 0.9, "b": 0.92}))
    assert (found.agreement, found.verdict, found.flags) == (pytest.approx(0.91), "usual", "")
    assert found.low <= found.expected_dice <= found.high
    assert found.expected_dice == pytest.approx(0.91, abs=0.01)  # all held-out scans lie on the diagonal


def test_an_ensemble_that_agrees_better_than_its_networks_is_expected_to_be_better() -> None:
    plain = measured("new", {"a": 0.8, "b": 0.82})
    alone, steadier = row(plain), row(plain.model_copy(update={"ensemble": {"wall": 0.91}}))
    assert steadier.expected_dice == pytest.approx(alone.expected_dice + 0.05, abs=0.005)  # half of the rise; slope 1
    assert steadier.low > alone.low
    assert steadier.agreement == alone.agreement, "the column is that of the networks"


def test_what_a_scan_itself_says_is_not_used_for_it() -> None:
    worse = [*KNOWN.held, KNOWN.held[0]._replace(subject="p9", dice=0.1)]
    known = replace(KNOWN, held=worse)
    own, other = (row(measured("p9", {"a": 0.9}, own=own), known) for own in (True, False))
    assert own.low > 0.8
    assert other.low < 0.3  # a subject of another data set that is called the same is another one


def test_a_scan_that_every_network_saw_has_no_number() -> None:
    found = row(measured("p1", {}, own=True))
    assert found.verdict == "unknown"
    assert math.isnan(found.agreement)
    assert not found.has_number


def test_too_few_subjects_give_an_order_and_no_number() -> None:
    few = Known(held_by(RUNS[:1]), KNOWN.labelled, ("MR",), 0.8)
    found = row(measured("new", {"a": 0.7, "b": 0.8}), few)
    assert (found.agreement, found.verdict, found.has_number) == (0.75, "unknown", False)


def test_a_missing_structure_is_said_and_has_no_number() -> None:
    found = row(measured("new", {"a": 1.0, "b": 1.0}, ml=0))
    assert found.flags == "wall missing; all 6 labelled scans have it"
    assert (found.verdict, found.has_number) == ("look", False)


def test_a_scan_unlike_those_of_training_is_said_and_has_no_number() -> None:
    found = row(measured("new", {"a": 0.9, "b": 0.9}), strange=(Strange("pixel size", "9 mm; trained on 1 mm"),))
    assert found.flags == "pixel size: 9 mm; trained on 1 mm"
    assert (found.verdict, found.has_number) == ("look", False)


def far(distance: dict[str, float], *, subject: str = "new", own: bool = False) -> Row:
    apart = {
        run: {f"p{n}_scan": Apart(subject=f"p{n}", distance=scale * (0.9 + 0.05 * n)) for n in range(6)}
        for run, scale in (("a", 1.0), ("b", 1.1))
    }
    told = measured(subject, dict.fromkeys(distance, 0.9), own=own).model_copy(update={"distance": distance})
    return row(told, replace(KNOWN, apart=apart))


def test_a_scan_that_networks_see_far_from_all_labelled_ones_is_said_and_has_no_number() -> None:
    near, odd = far({"a": 1.0, "b": 1.2}), far({"a": 2.0, "b": 2.4})
    assert (near.distance, near.flags, near.verdict) == (pytest.approx(1.1), "", "usual")
    assert odd.flags.startswith("unlike every labelled scan in what the networks see: 2.2 times as far")
    assert "none is farther than 1.2 times" in odd.flags  # 1.15 and 1.265, the mean of both networks
    assert (odd.distance, odd.verdict, odd.has_number) == (pytest.approx(2.2), "look", False)


def test_a_distance_is_compared_with_those_that_the_same_networks_say() -> None:
    assert "none is farther than 1.3 times" in far({"b": 2.4}).flags
    for near in ({"c": 9.0}, {"a": 1.0, "c": 9.0}):  # one of them by a network that knows no labelled scan
        assert far(near).flags == ""


def test_a_scan_s_own_subject_does_not_say_how_far_labelled_scans_are() -> None:
    assert "none is farther than 1.2 times" in far({"b": 2.4}, subject="p5", own=True).flags
    assert "none is farther than 1.3 times" in far({"b": 2.4}, subject="p5").flags


def test_without_a_distance_nothing_is_said_of_it() -> None:
    found = far({})
    assert math.isnan(found.distance)
    assert "networks see" not in found.flags


def test_an_odd_shape_changes_the_words_and_not_the_number() -> None:
    usual, odd = (row(measured("new", {"a": 0.9, "b": 0.9}, ml=ml)) for ml in (98, 400))
    assert odd.flags == "wall 400 ml; labelled ones have 95 to 100 ml"
    assert (odd.verdict, odd.expected_dice) == ("look", usual.expected_dice)


def test_low_agreement_is_checked_and_a_low_dice_looked_at() -> None:
    assert row(measured("new", {"a": 0.85, "b": 0.85})).verdict == "check"
    poor = row(measured("new", {"a": 0.6, "b": 0.6}))
    assert poor.expected_dice < 0.89 - POOR
    assert poor.verdict == "look"


def test_a_scan_that_two_runs_held_out_counts_by_its_means() -> None:
    twice = held_by([("a", run(0, x=0.8)), ("b", run(0, x=0.6))])
    assert [one.runs for one in twice] == [("a", "b")]
    assert [(one.agreement, one.dice) for one in twice] == [pytest.approx((0.7, 0.7))]


def test_order_is_by_the_worst_row_of_a_scan() -> None:
    def made(id: str, verdict: Verdict, dice: float) -> Row:
        return Row(
            scan=id, structure="s", agreement=0.5, expected_dice=dice, low=0, high=1, verdict=verdict, flags=""
        )  # fmt: skip

    rows = [
        made("fine", "usual", 0.9), made("odd", "usual", 0.95), made("odd", "look", 0.7), made("edge", "check", 0.5),
        made("bad", "look", 0.3), made("dim", "unknown", math.nan),
    ]  # fmt: skip
    assert [one.scan for one in in_order(rows)] == ["bad", "odd", "odd", "dim", "edge", "fine"]


def folder_of(folder: Path, file: str, one: Measured) -> Path:
    """A folder of one label map, with the run that made it; the run."""
    trained = folder / "runs" / "run"
    trained.mkdir(parents=True)
    (trained / "model.safetensors").write_bytes(b"weights")
    quality.add_to_run(trained, digest_of_file(trained / "model.safetensors"), labelled=dict(KNOWN.labelled))
    quality.add(folder, "new", one, {"run": str(trained)})
    listed = Listed(id="new", subject="new", images=(f"/scans/{file}",), label=None)
    shared = predictions.Predictions(version=1, channels=("MR",), structures={"wall": 1})
    predictions.add(folder, "new", predictions.Prediction(scan=listed), shared)
    return trained


@pytest.mark.parametrize(("file", "said"), [("a.png", "300000 pixels; labelled"), ("a.nii.gz", "300 ml; labelled")])
def test_sizes_are_in_pixels_where_scans_are_pictures(tmp_path: Path, file: str, said: str) -> None:
    folder_of(tmp_path, file, Measured(
        scan=scan("new", ml=300.0), own=False, agreement={}, runs=("run",), labelled_runs=("run",),
    ))  # fmt: skip
    (found,) = save(tmp_path, 0.8)
    assert said in found.flags


def test_it_is_said_where_distance_was_not_measured_though_it_can_be(tmp_path: Path) -> None:
    agreement = {"run": {"wall": 0.9}}
    before = Measured(scan=scan("new"), own=False, agreement=agreement, runs=("run",), labelled_runs=("run",))
    trained = folder_of(tmp_path, "a.nii.gz", before)

    def said() -> str:
        save(tmp_path, 0.8)
        record = quality.read(tmp_path)
        assert record is not None
        assert record.basis is not None
        return based_on(record.basis)

    assert "How far" not in said()  # nor can it be, without the labelled scans
    (tmp_path / "index.json").touch()
    assert "How far 1 scan is from these was not measured when the label maps were made: delete" in said()
    weights = digest_of_file(trained / "model.safetensors")
    embedded.save(trained, weights, Seen(["p1"], ["p1"], np.ones((1, 2))))  # of one subject no distance is known
    assert "How far" not in said()
    quality.add_to_run(trained, weights, apart={"p1": Apart(subject="p1", distance=1.0)})
    assert "How far" in said()
    quality.add(tmp_path, "new", before.model_copy(update={"distance": {"run": 1.0}}), {})
    assert "How far" not in said()
