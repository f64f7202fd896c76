"""Plans and cells: everything is checked before anything runs, and a cell's key says all that decides on its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lemis.comparison import cells, facts, pace, plan_files, plans, results
from lemis.comparison.cells import Grid, Material, Use
from lemis.comparison.places import _labelled, places
from lemis.comparison.plans import Plan, load_plan, ways
from lemis.errors import UsageError
from lemis.phantom import public_sets
from lemis.training import run_settings
from lemis.work_files.comparison import Nothing, Result, write_result

TINY: dict[str, Any] = {"preset": "tiny", "rows": ["scratch", "pcl"], "labelled": [1, 2], "folds": [0, 1]}


class Scan(NamedTuple):
    """As much of a scan as a split needs."""

    id: str
    subject: str
    label: str | None = "label"


SCANS = [Scan(f"s{i}", f"s{i}") for i in range(1, 7)] + [Scan("s7", "s7", None)]


def plan_of(tmp_path: Path, **changed: Any) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(TINY | changed), encoding="utf-8")
    return load_plan(path)


# ---------------------------------------------------------------------------------------------------------- reading


def test_the_default_plan_compares_what_fit_does_with_less() -> None:
    plan = load_plan()
    assert [(row.method, row.backbone, row.semi) for row in plan.rows] == [
        ("scratch", "unet2d", None), ("pcl", "unet2d", None), ("pcl", "unet2d", "fixmatch")
    ]  # fmt: skip
    assert (plan.baseline, plan.labelled, plan.folds) == ("scratch", "auto", "all")
    assert load_plan(overrides=["preset=paper/sal-acdc"]).rows[1].title == "sal"


def test_rows_are_named_by_what_is_not_usual(tmp_path: Path) -> None:
    rows = ["scratch", "kaf", {"method": "scratch", "backbone": "kaf_unet"}, {"title": "Mine", "method": "pcl"}]
    rows += [{"method": "scratch", "auxiliary": "supervised_contrast"}, {"method": "pcl", "semi": "bcp"}]
    titles = [row.title for row in plan_of(tmp_path, rows=rows).rows]
    usual = ["scratch", "kaf", "scratch (kaf_unet)", "Mine", "scratch + supervised_contrast", "pcl + bcp"]
    assert titles == usual


def test_the_presets_extra_loss_is_not_one_of_every_row(tmp_path: Path) -> None:
    rows = [{"method": "scratch", "title": "U-Net"}, {"method": "scratch", "auxiliary": "voxel_siamese"}]
    plain, extra = ways(plan_of(tmp_path, preset="paper/voxel-siamese", rows=rows))
    assert plain.finetuning.backbone == extra.finetuning.backbone == "unet3d"
    assert (plain.finetuning.auxiliary, extra.finetuning.auxiliary) == (None, "voxel_siamese")


def test_settings_of_a_row_win_over_the_plans_and_those_over_the_preset(tmp_path: Path) -> None:
    row = {"method": "pcl", "title": "mine", "settings": {"method": {"temperature": 0.5}, "finetune": {"steps": 5}}}
    settings = {"methods": {"pcl": {"temperature": 0.2}}, "finetune": {"steps": 6}, "pretrain": {"epochs": 3}}
    usual, mine = ways(plan_of(tmp_path, rows=["pcl", row], settings=settings))
    assert usual.pretraining is not None
    assert mine.pretraining is not None
    assert (usual.pretraining.method_settings.temperature, usual.finetuning.schedule.steps) == (0.2, 6)
    assert (mine.pretraining.method_settings.temperature, mine.finetuning.schedule.steps) == (0.5, 5)
    assert mine.pretraining.schedule.epochs == usual.pretraining.schedule.epochs == 3
    assert mine.pretraining.method_settings.size_px == 32  # the preset's


def test_a_python_function_and_the_command_line_give_plans_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plans.py").write_text(
        "def few(): return {'preset': 'tiny', 'rows': ['scratch', 'pcl'], 'seeds': [0, 1]}\ndef wrong(): return 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = load_plan("my_plans:few", ["seeds=[4]", "settings.finetune.steps=7"])
    assert (plan.seeds, ways(plan)[0].finetuning.schedule.steps) == ((4,), 7)
    with pytest.raises(UsageError, match="returned a int"):
        load_plan("my_plans:wrong")
    with pytest.raises(UsageError, match="has no attribute 'none'"):
        load_plan("my_plans:none")


def test_shipped_plans_have_titles_and_short_names() -> None:
    assert plan_files.shipped()["default"].startswith("Is pre-training worth it")
    assert plan_files.short_name("paper/kaf-table1-acdc") == "kaf-table1-acdc"
    assert plan_files.short_name(Path("here/mine.yaml")) == "mine"
    assert plan_files.short_name("my_lab:few") == "few"


TWO_DETECTORS = [
    {"method": "scratch", "backbone": "kaf_unet", "title": name, "settings": {"backbone": {"keypoints": detector}}}
    for name, detector in (("a", {"detector": "sift"}), ("b", {"detector": "my_lab.points"}))
]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"lables": [2]}, r"unknown setting lables\n.*\n.*labelled"),
    "no rows": ({"rows": []}, "a list of methods"),
    "row without method": ({"rows": [{"title": "x"}]}, "a mapping with `method`"),
    "unknown method": ({"rows": ["scratch", "pcll"]}, "'pcll' is not in methods"),
    "unknown setting": ({"rows": [{"method": "pcl", "settings": {"method": {"tau": 1}}}]}, r"method\.tau"),
    "unknown section": ({"settings": {"finetun": {"steps": 3}}}, "section 'finetun' of settings"),
    "preparation elsewhere": ({"upstream_prepare": {"spacing": 1}}, r"upstream_prepare\.spacing"),
    "settings no mapping": ({"settings": 3}, "sections over the preset"),
    "network": ({"rows": ["scratch", {"method": "macl", "backbone": "unet3d"}]}, "method macl on the network unet3d"),
    "one title twice": ({"rows": ["scratch", "pcl", "pcl"]}, "2 rows are called 'pcl'"),
    "baseline": ({"baseline": "scrach"}, r"baseline 'scrach'[\s\S]*baseline: scratch"),
    "two budgets": ({"budget": {"images": 5, "minutes": 1}}, "one of the two"),
    "protocol": ({"protocol": "released"}, "default or paper"),
    "twice": ({"seeds": [1, 1]}, "each once"),
    "none": ({"labelled": []}, "one or more"),
    "prepare of a row": ({"rows": [{"method": "pcl", "settings": {"prepare": {"a": 2}}}]}, "settings of prepare"),
    "scratch pre-trained": ({"rows": [{"method": "scratch", "settings": {"pretrain": {}}}]}, "from scratch has"),
    "2D and 3D": ({"rows": ["scratch", {"method": "scratch", "backbone": "unet3d"}]}, "prepared in different ways"),
    "single": ({"kind": "single", "rows": [{"method": "kmeans", "settings": {"finetune": {}}}]}, "of single images"),
    "unknown of prediction": ({"settings": {"predict": {"overlp": 1}}}, "unknown setting overlp"),
    "prediction no mapping": ({"settings": {"predict": 1}}, "predict=1"),
    "tiles of slices": (
        {"rows": ["scratch", {"title": "t", "method": "scratch", "settings": {"predict": {"overlap": 0}}}]},
        "overlap=0 for a network that sees whole slices",
    ),
    "size of no image": ({"size_px": 96}, r"size_px: 96 of a plan of kind comparison"),
    "two detectors": ({"rows": TWO_DETECTORS}, "one detector for all rows"),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_of(tmp_path, **changed)


def test_an_unknown_plan_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="--plan default"):
        load_plan("defalt")
    with pytest.raises(UsageError, match=r"next: +lemis compare --list"):
        load_plan("my-own.yaml")


def test_plans_are_listed_in_the_order_of_their_tables() -> None:
    names = list(plan_files.shipped())
    assert names.index("paper/kaf-table2-acdc") < names.index("paper/kaf-table10-acdc")


# ------------------------------------------------------------------------------------------------- with the data there


def test_two_things_of_one_name_are_both_cited() -> None:
    found = facts._citations({("semi", "entropy"), ("suggesters", "entropy"), ("methods", "pcl")})
    assert [*found] == ["entropy (semi)", "entropy (suggesters)", "pcl"]
    assert found["entropy (semi)"] != found["entropy (suggesters)"]


def test_places_are_seeds_times_labels_times_folds(tmp_path: Path) -> None:
    found = places(plan_of(tmp_path, labelled=[1, "all"], folds="all", seeds=[0, 3]), SCANS, None)
    assert len(found) == 2 * 2 * 5
    assert {place.labelled for place in found if place.wanted is None} == {5}  # the most that a fold has
    assert {subject for place in found for subject in place.split.test_subjects} == {f"s{i}" for i in range(1, 7)}
    first, second = ({place.split.labelled_subjects for place in found if place.seed == seed} for seed in (0, 3))
    assert first == second


def test_seeded_selection_draws_other_subjects_for_each_seed_and_the_protocols_for_seed_0(tmp_path: Path) -> None:
    protocol, seeded = (
        places(plan_of(tmp_path, seeds=[0, 1, 2], selection=name), SCANS, None) for name in ("protocol", "seeded")
    )
    drawn = [{p.split.labelled_subjects for p in seeded if p.seed == seed} for seed in (0, 1, 2)]
    assert drawn[0] == {p.split.labelled_subjects for p in protocol}
    assert not drawn[0] == drawn[1] == drawn[2]


@given(most=st.integers(1, 500))
def test_auto_is_few_some_and_all(most: int) -> None:
    plan = Plan(rows=(plans.Row(title="scratch", method="scratch"),))
    found = _labelled(plan, most)
    assert all(m is not None and 1 <= m <= most for m in found)
    assert sorted(set(found), key=lambda m: m or 0) == found
    assert found[-1] == most
    assert len(found) == min(3, most - 1) or most <= 4


def test_what_the_data_do_not_allow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"labelled: 5\n.*1 to 4[\s\S]*labelled: \[1\]"):
        places(plan_of(tmp_path, labelled=[1, 5]), SCANS, None)
    with pytest.raises(UsageError, match="fold 7"):
        places(plan_of(tmp_path, folds=[7]), SCANS, None)
    with pytest.raises(UsageError, match="1 labelled subject\n"):
        places(plan_of(tmp_path), SCANS[:1], None)


def test_scans_are_read_in_the_layout_that_the_plan_is_for(tmp_path: Path, phantom_scans: Path) -> None:
    assert plans.require_layout(plan_of(tmp_path), phantom_scans) is None
    assert plans.require_layout(plan_of(tmp_path, data="nnunet"), phantom_scans) == "nnunet"
    plan = plan_of(tmp_path, data="acdc", upstream="chd")
    with pytest.raises(UsageError, match=r"in the layout nnunet, where the plan is for acdc[\s\S]*data=null"):
        plans.require_layout(plan, phantom_scans)
    with pytest.raises(UsageError, match="upstream=null"):
        plans.require_layout(plan, phantom_scans, upstream=True)
    isic = public_sets.write(tmp_path / "isic", "isic")
    assert plans.require_layout(plan_of(tmp_path, data="isic_grey"), isic) == "isic_grey"


# ---------------------------------------------------------------------------------------------------------------- cells


def material(**digests: str) -> Material:
    image = {scan.id: digests.get(scan.id, f"image of {scan.id}") for scan in SCANS}
    label = {scan.id: digests.get(f"{scan.id}_label", "label") for scan in SCANS if scan.label}
    return Material({"prepared": {}}, {scan.id: scan.subject for scan in SCANS}, image, label)


def grid_of(plan: Plan, here: Material | None = None, there: Material | None = None) -> cells.Grid:
    return cells.expand(plan, ways(plan), places(plan, SCANS, None), here or material(), there)


def kinds(grid: cells.Grid) -> tuple[int, int]:
    found = [cell.kind for cell in grid.cells.values()]
    return found.count("pretrain"), found.count("finetune")


def test_one_pretraining_serves_all_labels_and_where_transductive_all_folds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert kinds(grid_of(plan)) == (1, 2 * 2 * 2)
    assert kinds(grid_of(plan_of(tmp_path, seeds=[0, 1]))) == (2, 2 * 2 * 2 * 2)
    inductive = plan_of(tmp_path, inductive=True)
    assert kinds(grid_of(inductive)) == (2, 2 * 2 * 2)
    assert {use.transductive for use in grid_of(plan).uses if use.row == "pcl"} == {True}
    assert not any(use.transductive for use in grid_of(inductive).uses)
    assert not any(use.transductive for use in grid_of(plan, there=material()).uses)
    assert kinds(grid_of(inductive, there=material())) == (1, 8)


def test_a_row_may_ask_for_the_way_of_the_preset(tmp_path: Path) -> None:
    rows = ["scratch", {"method": "preset"}, {"method": "preset", "semi": "preset"}]
    named = tmp_path / "named.yaml"
    named.write_text("method: pcl\nsemi: entropy\nvolumes: {method: scratch, semi: none}\n", encoding="utf-8")
    found = plan_of(tmp_path, preset=str(named), rows=rows)
    assert [(row.title, row.semi) for row in found.rows] == [
        ("scratch", None), ("pcl", None), ("pcl + entropy", "entropy")
    ]  # fmt: skip
    assert [row.title for row in plan_of(tmp_path, preset="tiny", rows=rows).rows] == ["scratch", "sal"], (
        "it names none"
    )
    volumes = [rows[0], {"method": "preset", "backbone": "unet3d", "semi": "preset"}]
    assert [row.title for row in plan_of(tmp_path, preset=str(named), rows=volumes).rows] == [
        "scratch",
        "scratch (unet3d)",
    ]


def test_the_way_of_the_preset_is_left_out_where_all_are_labelled(tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("method: scratch\nsemi: entropy\n", encoding="utf-8")
    rows = ["scratch", {"method": "scratch", "semi": "preset"}]
    labelled = [scan for scan in SCANS if scan.label]
    all_labelled = Material(
        {"prepared": {}}, {scan.id: scan.subject for scan in labelled}, material().image, material().label
    )
    plan = plan_of(tmp_path, preset=str(named), rows=rows, labelled=[2, "all"], folds=[0])
    found: dict[tuple[str, int], str] = {}
    for use in cells.expand(plan, ways(plan), places(plan, labelled, None), all_labelled, None).uses:
        found[use.row, use.labelled] = use.cell
    most = max(number for _, number in found)
    assert found["scratch + entropy", most] == found["scratch", most]
    assert found["scratch + entropy", 2] != found["scratch", 2]
    asked = plan_of(tmp_path, preset=str(named), rows=["scratch", {"method": "scratch", "semi": "entropy"}], folds=[0],
                    labelled=["all"])  # fmt: skip
    with pytest.raises(UsageError, match="--semi entropy without an unlabelled scan"):
        cells.expand(asked, ways(asked), places(asked, labelled, None), all_labelled, None)


def test_rows_with_equal_pretraining_share_it(tmp_path: Path) -> None:
    more = {"method": "pcl", "title": "longer", "settings": {"finetune": {"steps": 9}}}
    hotter = {"method": "pcl", "title": "hotter", "settings": {"method": {"temperature": 0.5}}}
    assert kinds(grid_of(plan_of(tmp_path, rows=["scratch", "pcl", more]))) == (1, 12)
    assert kinds(grid_of(plan_of(tmp_path, rows=["scratch", "pcl", hotter]))) == (2, 12)


ISLANDS: dict[str, Any] = {
    "title": "islands", "method": "scratch", "settings": {"predict": {"largest_components": False}},
}  # fmt: skip


def test_rows_that_differ_in_prediction_alone_share_each_training_and_come_after_the_first(tmp_path: Path) -> None:
    usual = grid_of(plan_of(tmp_path)).cells
    every = {"title": "every", "method": "scratch", "settings": {"predict": {"largest_components": True}}}
    grid = grid_of(plan_of(tmp_path, rows=["scratch", "pcl", ISLANDS, every]))
    assert kinds(grid) == (1, 4 * 4)
    assert set(usual) <= set(grid.cells), "keys without such settings are what they were"
    for use in grid.uses:
        if use.row in ("islands", "every"):
            cell, first = grid.cells[use.cell], next(
                grid.cells[other.cell] for other in grid.uses
                if other.row == "scratch" and other[1:4] == use[1:4]
            )  # fmt: skip
            assert (cell.run, cell.needs) == (first.run, (first.key,))
            assert cell.predict == {"largest_components": use.row == "every"}
            assert {**cell.made_of, "predict": None} == {**first.made_of, "predict": None}
            assert cell.call == first.call
    alone = grid_of(plan_of(tmp_path, rows=[ISLANDS, "pcl"])).cells
    assert set(alone) <= set(grid.cells), "whoever trains"
    assert not any(cell.needs for cell in alone.values() if cell.predict)


def test_a_default_of_prediction_that_is_named_is_no_other_cell(tmp_path: Path) -> None:
    named = {"method": "scratch", "settings": {"predict": {"largest_components": "auto"}}}
    settings = {"predict": {"largest_components": "auto"}, "volumes": {"predict": {"overlap": 0.25}}}
    usual = grid_of(plan_of(tmp_path)).cells
    assert set(grid_of(plan_of(tmp_path, rows=[named, "pcl"], settings=settings)).cells) == set(usual)
    other = grid_of(plan_of(tmp_path, settings={"predict": {"largest_components": False}})).cells
    assert not {key for key, cell in other.items() if cell.kind == "finetune"} & set(usual)
    assert {cell.run for cell in other.values()} == {cell.run for cell in usual.values()}


def test_a_training_that_cells_share_is_paid_once(tmp_path: Path) -> None:
    grid = grid_of(plan_of(tmp_path, rows=["scratch", ISLANDS], labelled=[1], folds=[0]))
    first, second = grid.cells.values()
    assert (pace._is_trained_before(grid, first.key), pace._is_trained_before(grid, second.key)) == (False, True)
    for cell in grid.cells.values():
        (tmp_path / "cells" / cell.key).mkdir(parents=True)
        write_result(tmp_path, cell.key, Result(version=1, run=cell.run, core_seconds=7.0))
    assert results.core_seconds(tmp_path, grid) == 7.0


def test_cells_come_after_what_they_need(tmp_path: Path) -> None:
    order = list(grid_of(plan_of(tmp_path, inductive=True)).cells.values())
    for i, cell in enumerate(order):
        assert set(cell.needs) <= {before.key for before in order[:i]}
        assert cell.kind == "finetune" or not cell.needs
        assert (cell.kind == "pretrain") == (not cell.test)


CHANGES: dict[str, tuple[dict[str, Any], dict[str, str], tuple[int, int]]] = {
    # what changes of the plan and the data, and how many pre-trainings and fine-tunings are other ones then
    "nothing": ({}, {}, (0, 0)),
    "how often it is logged": ({"settings": {"finetune": {"log_every_steps": 3}}}, {}, (0, 0)),
    "the title": ({"title": "another"}, {}, (0, 0)),
    "fine-tuning": ({"settings": {"finetune": {"steps": 9}}}, {}, (0, 8)),
    "pre-training": ({"settings": {"pretrain": {"epochs": 9}}}, {}, (1, 4)),
    "the seed": ({"seeds": [5]}, {}, (1, 8)),
    "an unlabelled scan": ({}, {"s7": "other"}, (1, 4)),
    "a labelled scan": ({}, {"s1": "other"}, (1, -1)),
    "a label": ({}, {"s1_label": "other"}, (0, -1)),
}


@pytest.mark.parametrize(("plan", "data", "others"), CHANGES.values(), ids=CHANGES)
def test_a_key_changes_with_what_decides_on_the_result_and_nothing_else(
    tmp_path: Path, plan: dict[str, Any], data: dict[str, str], others: tuple[int, int]
) -> None:
    before = grid_of(plan_of(tmp_path)).cells
    after = grid_of(plan_of(tmp_path, **plan), material(**data)).cells
    new = [cell for key, cell in after.items() if key not in before]
    pretrained, tuned = (sum(cell.kind == kind for cell in new) for kind in ("pretrain", "finetune"))
    assert pretrained == others[0]
    if others[1] >= 0:
        assert tuned == others[1]
    else:  # those that train or test on it: from scratch by what they see, pre-trained all
        touched = [cell for cell in before.values() if "s1" in (*cell.labelled, *cell.test) and not cell.needs]
        assert len([cell for cell in new if cell.kind == "finetune" and not cell.needs]) == len(touched) > 0


def test_an_upstream_data_set_decides_and_the_scans_own_images_do_not(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    one, other = (grid_of(plan, there=material(s1=digest)).cells for digest in ("a", "b"))
    assert [cell.kind for key, cell in other.items() if key not in one] == ["pretrain"] + 4 * ["finetune"]
    assert {cell.work for cell in one.values() if cell.kind == "pretrain"} == {"upstream"}


def test_the_source_of_a_dotted_name_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "my_other_lab"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "idea.py").write_text("from lemis.methods.pcl import Method, Settings\n", encoding="utf-8")
    plan = plan_of(tmp_path, rows=["scratch", "my_other_lab.idea"])
    before = set(grid_of(plan).cells)
    (package / "idea.py").write_text("from lemis.methods.pcl import Method, Settings\n# better\n", encoding="utf-8")
    new = [cell.kind for key, cell in grid_of(plan).cells.items() if key not in before]
    assert new == ["pretrain"] + 4 * ["finetune"]


def test_who_is_in_the_pool_decides_and_their_labels_do_not(tmp_path: Path) -> None:
    rows = [{"method": "scratch"}, {"method": "scratch", "semi": "bcp"}]
    plan = plan_of(tmp_path, rows=rows, labelled=[1])
    before = grid_of(plan).cells
    assert {"semi" in cell.call for cell in before.values()} == {True, False}
    pools = {cell.key: set(cell.made_of) & {"pool"} for cell in before.values()}
    assert all(bool(pools[cell.key]) == ("semi" in cell.call) for cell in before.values())
    assert {cell.run.rsplit("-", 3)[0] for cell in before.values()} == {"scratch", "scratch-bcp"}
    after = grid_of(plan, material(s7="other")).cells
    new = [cell for key, cell in after.items() if key not in before]
    assert [cell.call.get("semi") for cell in new] == ["bcp"] * 2, "an unlabelled scan"
    for name, scan in {scan.subject: scan.id for scan in SCANS if scan.label}.items():
        cell_of = {cell.key for cell in before.values() if name in cell.labelled or scan in cell.test}
        after = grid_of(plan, material(**{f"{scan}_label": "other"})).cells
        assert {key for key in before if key not in after} == cell_of
    wider = plan_of(tmp_path, rows=[{**rows[1], "settings": {"semi": {"transductive": True}}}], labelled=[1])
    assert {use.semi_transductive for use in grid_of(wider).uses} == {True}
    assert {use.semi_transductive for use in grid_of(plan).uses} == {False}
    assert not any(key in before for key in grid_of(wider).cells)


def test_a_row_without_an_unlabelled_scan_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=[{"method": "scratch", "semi": "bcp"}], labelled=["all"])
    scans = [scan for scan in SCANS if scan.label]
    here = material()
    facts = here._replace(subject_of={scan.id: scan.subject for scan in scans})
    with pytest.raises(UsageError, match=r"--semi bcp without an unlabelled scan, in row 'scratch \+ bcp'"):
        cells.expand(plan, ways(plan), places(plan, scans, None), facts, None)


def test_the_presets_way_to_use_unlabelled_scans_is_not_one_of_every_row(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("semi: bcp\nsemis: {bcp: {alpha: 0.1}}\n", encoding="utf-8")
    rows = [{"method": "scratch", "title": "U-Net"}, {"method": "scratch", "semi": "bcp"}]
    plain, semi = ways(plan_of(tmp_path, preset=str(preset), rows=rows))
    assert (plain.finetuning.semi, semi.finetuning.semi) == (None, "bcp")
    assert semi.finetuning.semi_settings.alpha == 0.1
    overrides = run_settings.as_overrides(semi.finetuning.stored())
    assert run_settings.finetuning("unet2d", {}, overrides, semi="bcp") == semi.finetuning


@pytest.mark.parametrize(
    ("method", "preset"), [("kaf", "small"), ("macl", "tiny"), ("sal", "paper/sal-acdc"), ("mae", "small")]
)
def test_resolved_settings_given_as_overrides_resolve_to_the_same(method: str, preset: str) -> None:
    tree = run_settings.base(preset, None)
    before = run_settings.pretraining(method, None, tree, {"epochs": 3})
    again = run_settings.pretraining(method, before.backbone, {}, run_settings.as_overrides(before.stored()))
    assert again == before
    auxiliary = "supervised_contrast"
    tuned = run_settings.finetuning(before.backbone, tree, {"auxiliary": {"weight": 0.3}}, auxiliary=auxiliary)
    assert (
        run_settings.finetuning(before.backbone, {}, run_settings.as_overrides(tuned.stored()), auxiliary=auxiliary)
        == tuned
    )


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(facts: dict[str, Any]) -> None:
    assert cells.digest(facts) == cells.digest(dict(reversed(facts.items())))


def test_pretrainings_that_learned_nothing_are_counted_by_row(tmp_path: Path) -> None:
    uses = tuple(
        Use(row, 2, fold, 0, f"{row}{fold}", before, True)
        for fold, before in enumerate(["a", "b", "c", None])
        for row in ("pcl", "sal")
        if row == "pcl" or before == "a"
    )
    for key, why in (("a", None), ("b", "its loss stood still")):
        (tmp_path / "cells" / key).mkdir(parents=True)
        (tmp_path / "cells" / key / "result.json").write_text(json.dumps({"run": key, "learned_nothing": why}))
    found = results.learned_nothing(tmp_path, Grid({}, uses))
    assert found == {"pcl": Nothing(runs=1, of=2, why="its loss stood still")}
