"""Rows that choose what is labelled: rounds, who they may choose from, and trainings that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lemis.comparison import cells, choosing, rounds
from lemis.comparison.cells import Cell, Grid, Material
from lemis.comparison.places import places
from lemis.comparison.plans import Plan, load_plan, refuse_contradictions, ways
from lemis.comparison.rounds import Choice, Question
from lemis.errors import UsageError


class Scan(NamedTuple):
    """As much of a scan as a split needs."""

    id: str
    subject: str
    label: str | None = "label"


SCANS = [Scan(f"s{i}", f"s{i}") for i in range(10)] + [Scan("s10", "s10", None)]
ROUNDS = {"start": 1, "add": [1, 2]}


def row(name: str, method: str = "pcl", **more: Any) -> dict[str, Any]:
    return {"title": name, "method": method, "suggest": {"name": name, **ROUNDS, **more}}


def plan_of(tmp_path: Path, **changed: Any) -> Plan:
    path = tmp_path / "plan.yaml"
    usual = {"preset": "tiny", "rows": [row("random"), row("cover")], "folds": [0, 1]}
    path.write_text(yaml.safe_dump(usual | changed), encoding="utf-8")
    return load_plan(path)


def grid_of(plan: Plan, answers: dict[str, tuple[str, ...]] | None = None, **images: str) -> Grid:
    image = {scan.id: images.get(scan.id, f"image of {scan.id}") for scan in SCANS}
    label = {scan.id: images.get(f"{scan.id}_label", "label") for scan in SCANS if scan.label}
    here = Material({"prepared": {}}, {scan.id: scan.subject for scan in SCANS}, image, label)
    return cells.expand(plan, ways(plan), places(plan, SCANS, None), here, None, (answers or {}).get)


def first_left(question: Question) -> tuple[str, ...]:
    """The first by name, whatever the way says."""
    return tuple(sorted(set(question.pool) - set(question.labelled)))[: question.number]


def followed(plan: Plan, answer: Any = first_left) -> tuple[Grid, list[Question]]:
    answers: dict[str, tuple[str, ...]] = {}
    asked: list[Question] = []
    while (grid := grid_of(plan, answers)).questions:
        asked += grid.questions
        answers |= {question.key: answer(question) for question in grid.questions}
    return grid, asked


def of(grid: Grid, row: str, fold: int = 0) -> list[Cell]:
    return [grid.cells[use.cell] for use in grid.uses if use.row == row and use.fold == fold]


def test_rows_begin_with_the_same_subjects_and_share_that_training(tmp_path: Path) -> None:
    grid = grid_of(plan_of(tmp_path))
    assert [len(of(grid, name)) for name in ("random", "cover")] == [1, 1]
    assert of(grid, "random") == of(grid, "cover")
    assert [(question.way, question.number, len(question.labelled)) for question in grid.questions] == [
        ("random", 1, 1), ("random", 1, 1), ("cover", 1, 1), ("cover", 1, 1),
    ]  # fmt: skip


def test_a_row_goes_on_from_whom_it_chose_to_its_last_budget(tmp_path: Path) -> None:
    grid, asked = followed(plan_of(tmp_path))
    for name in ("random", "cover"):
        one, two, four = of(grid, name)
        assert [len(cell.labelled) for cell in (one, two, four)] == [1, 2, 4]
        assert set(one.labelled) < set(two.labelled) < set(four.labelled)
        assert four.call["subjects"] == list(four.labelled) == sorted(four.labelled)
        assert "labelled" not in four.call
    assert [question.number for question in asked] == [1] * 4 + [2] * 4
    # They chose the same, so all is trained once: three budgets in two folds after one pre-training.
    assert sorted(cell.kind for cell in grid.cells.values()) == ["finetune"] * 6 + ["pretrain"]


def test_who_is_tested_is_never_in_the_pool_and_no_label_is_known_to_a_question(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[row("cover"), row("disagreement")])
    for question in followed(plan)[1]:
        tested = next(
            set(place.split.test_subjects)
            for place in places(plan, SCANS, None)
            if place.split.train_subjects == question.pool
        )
        assert tested
        assert not tested & set(question.pool)
        assert "s10" not in question.pool  # nobody could open its label
        assert set(question.labelled) < set(question.pool)
    usual = [question.key for question in grid_of(plan).questions if not question.networks]
    start = of(grid_of(plan), "cover")[0].labelled[0]
    unlabelled = next(scan.id for scan in SCANS if scan.id != start)
    others = grid_of(plan, **{f"{unlabelled}_label": "another"}).questions
    assert [question.key for question in others if not question.networks] == usual
    assert [question.key for question in grid_of(plan, s3="another image").questions if not question.networks] != usual


def test_a_way_that_looks_at_networks_waits_for_two_that_differ_in_their_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[row("random", "scratch"), row("disagreement", "scratch")], folds=[0])
    grid = grid_of(plan)
    alone, looks = grid.questions
    assert (alone.networks, alone.after, alone.pretrained) == ((), (), None)
    one, other = (grid.cells[key] for key in looks.after)
    assert one == of(grid, "random")[0]
    assert (one.labelled, one.call["seed"]) == (other.labelled, 0)
    assert other.call["seed"] == 1
    assert looks.networks == (one.run, other.run)
    assert other.key not in {use.cell for use in grid.uses}  # it is trained, and stands in no table
    assert other in cells.missing(tmp_path, tmp_path, grid)


def test_a_choice_depends_on_the_way_its_settings_and_its_seed(tmp_path: Path) -> None:
    def keys(**changed: Any) -> set[str]:
        return {question.key for question in grid_of(plan_of(tmp_path, **changed)).questions}

    usual = keys(rows=[row("cover")])
    assert usual == keys(rows=[row("cover")])
    assert usual == keys(rows=[row("cover", settings={"width": 0.5})])
    assert not usual & keys(rows=[row("cover", settings={"width": 0.1})])
    assert not usual & keys(rows=[row("cover", add=[3])])
    assert not usual & keys(rows=[row("cover")], seeds=[1])


def test_beside_rows_whose_labels_are_drawn_each_has_its_own_budgets(tmp_path: Path) -> None:
    grid, _ = followed(plan_of(tmp_path, rows=["pcl", row("cover")], labelled=[2, 3]))
    assert [(use.row, use.labelled) for use in grid.uses if use.fold == 0] == [
        ("pcl", 2), ("pcl", 3), ("cover", 1), ("cover", 2), ("cover", 4),
    ]  # fmt: skip


def test_what_is_left_of_the_rounds_is_told(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert "on top come the 8 places of later rounds" in choosing.later_rounds(plan, grid_of(plan))
    assert choosing.later_rounds(plan, followed(plan)[0]) == ""


def test_a_choice_is_found_again_and_a_damaged_one_refused(tmp_path: Path) -> None:
    assert rounds.choice_of(tmp_path, "abc") is None
    rounds.write_choice(tmp_path, "abc", Choice(way="cover", labelled=("a",), chosen=("b", "c"), why=("x", "y")))
    assert rounds.choice_of(tmp_path, "abc") == ("b", "c")
    (tmp_path / "choices" / "abc.json").write_text('{"version": 1, "chosen": "b"}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"abc\.json[\s\S]*it chooses anew"):
        rounds.choice_of(tmp_path, "abc")


EXTERNAL = {"external": "nnunet", "python": "python"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"rows": [{"method": "pcl", "suggest": {"start": 1}}]}, "a mapping with `name`"),
    "no mapping": ({"rows": [{"method": "pcl", "suggest": 3}]}, "suggest: 3 of a row"),
    "unknown way": ({"rows": [{"method": "pcl", "suggest": "covr"}]}, r"'covr' is not in suggesters[\s\S]*cover"),
    "unknown setting": ({"rows": [row("cover", settings={"widht": 1})]}, r"suggest\.settings\.widht"),
    "unknown key": ({"rows": [row("cover", rounds=3)]}, "rounds"),
    "nothing added": ({"rows": [row("cover", add=[])]}, "add"),
    "single": ({"kind": "single", "rows": [{"method": "kmeans", "suggest": "cover"}]}, "way to choose labels"),
    "nnU-Net": ({"rows": [row("cover"), EXTERNAL]}, "which chooses its own labels"),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_rounds_that_cannot_be_run_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_of(tmp_path, **changed)


def test_more_labels_than_there_are_and_another_data_set_are_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[row("cover", add=[3, 9])])
    with pytest.raises(UsageError, match=r"row 'cover' comes to 13 labelled subjects[\s\S]*at most 8"):
        places(plan, SCANS, None)
    with pytest.raises(UsageError, match="--upstream with row 'cover'"):
        refuse_contradictions(plan, tmp_path, 1, None, None)
