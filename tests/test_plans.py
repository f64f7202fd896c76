"""The plans that ship: one for every table of the five papers, each with rows and columns as the table has them."""

from __future__ import annotations

import dataclasses
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lemis import plugins
from lemis.comparison import plan_files
from lemis.comparison.plans import Plan, Row, Way, load_plan, preparation, single_settings, ways
from lemis.datasets.layouts.recognised import TITLES
from lemis.measure import published
from lemis.methods import macl, pirl
from lemis.settings import PRESETS, load_preset, resolve
from lemis.single import s3net
from lemis.training import pairing, run_settings

BENCHMARKS = Path(__file__).parents[1] / "benchmarks/plans"
PAPER = [name for name in plan_files.shipped() if name.startswith("paper/")]
SINGLE = [name for name in PAPER if name.startswith("paper/s3net-")]
COMPARISONS = [name for name in PAPER if name not in SINGLE]
# Every plan is resolved in `make test`, one of each paper in `make check`.
QUICK = ("paper/sal-table3-acdc", "paper/kaf-table4-chd", "paper/macl-table3-mmwhs", "paper/voxel-siamese-table1")
RESOLVED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMPARISONS]

# Rows of a published table that its plan cannot have, and why.
NOT_RUN = {
    "lambda lost": "a heading that is lost",
    "window lost": "a heading that is lost",
    "SuperPoint": "a licence that forbids to ship it",
    "two stages": "a form that Lemis does not have",
    "upper bound": "all labels: `all` has to be added to the plan",
    **dict.fromkeys(("UA-MT", "SASSNet", "DTC", "URPC", "MC-Net+", "PLGCL"), "a way that Lemis does not have"),
}


@cache
def plan_of(name: str) -> Plan:
    return load_plan(name)


@cache
def ways_of(name: str) -> tuple[Way, ...]:
    return ways(plan_of(name))


def settings_of(name: str) -> dict[str, Any]:
    """Of the method of every row that has one, by the row's title."""
    return {way.row.title: way.pretraining.method_settings for way in ways_of(name) if way.pretraining is not None}


def test_every_published_table_has_a_plan_or_a_reason() -> None:
    planned = {name.removeprefix("paper/") for name in PAPER}
    left = [table for table in published.tables() if table not in planned]
    assert planned <= set(published.tables())
    for table in left:
        assert [start for start in published.WITHOUT_PLAN if table.startswith(start)], table
    for start, why in published.WITHOUT_PLAN.items():
        assert why
        assert [table for table in left if table.startswith(start)], start


@pytest.mark.parametrize("name", PAPER)
def test_a_plan_says_what_the_reader_wants_to_know(name: str) -> None:
    text = (plan_files.PLANS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert plan_files.read(name)["title"].endswith("?") or name == "paper/voxel-siamese-table2"


@pytest.mark.parametrize("name", PAPER)
def test_rows_and_columns_are_those_of_the_published_table(name: str) -> None:
    plan = plan_files.read(name)
    assert plan["published"] == name.removeprefix("paper/")
    rows = {row["title"]: row for row in plan["rows"]}
    assert plan["baseline"] in rows
    entries = published.load(plan["published"])
    found = set()
    for entry in entries:
        if entry.row.startswith(tuple(NOT_RUN)):
            continue
        scratch = f"{entry.row}, from scratch"
        title = scratch if entry.group == "Random" and scratch in rows else entry.row
        row = rows[title]
        found.add(title)
        assert (row["method"], row.get("auxiliary", "")) == (entry.method, entry.auxiliary), title
        if entry.subjects:
            assert entry.subjects in plan["labelled"], title
            assert row.get("backbone", pairing.default_backbone(row["method"])) == entry.backbone, title
    # What the published table does not have says so, or is a row to compare with.
    for title in rows.keys() - found - {plan["baseline"]}:
        assert "(ours)" in title or "window" in title or rows[title]["method"] in ("scratch", "kaf", "iic"), title
    printed = {entry.subjects for entry in entries if entry.subjects}
    if name != "paper/voxel-siamese-figure7":
        assert set(plan.get("labelled", [])) == printed
    else:
        assert printed < {7, 14} == set(plan["labelled"])


@pytest.mark.parametrize("name", COMPARISONS)
def test_data_and_protocol_fit(name: str) -> None:
    plan = plan_files.read(name)
    paper = name.removeprefix("paper/").split("-")[0]
    assert plan["data"] in TITLES
    assert plan["split"] == {"sal": "pcl", "kaf": "pcl", "macl": "macl", "voxel": "voxel_siamese"}[paper]
    assert plan["folds"] == ("all" if plan["split"] == "pcl" else [0])
    assert plan["protocol"] == ("default" if paper == "voxel" else "paper")
    assert ("upstream" in plan) == (paper == "macl")
    assert plan.get("upstream", "chd") in TITLES
    assert load_preset(plan["preset"])


@pytest.mark.parametrize("name", SINGLE)
def test_plans_of_single_images_name_a_method_and_its_settings(name: str) -> None:
    plan = plan_of(name)
    assert (plan.kind, plan.protocol, plan.seeds) == ("single", "released", (0, 1, 2))
    for row in plan.rows:
        assert set(row.settings) <= {"method"}
        resolve(plugins.load("single", row.method).Settings, row.settings.get("method", {}))


@pytest.mark.parametrize("name", RESOLVED)
def test_every_row_resolves_is_built_and_prepared_alike(name: str) -> None:
    plan = plan_of(name)
    images, _, keypoints = preparation(plan)
    looks = {"kaf_unet", "fcn"} & {way.finetuning.backbone for way in ways_of(name)}
    assert (keypoints is not None) == bool(looks)
    assert (images.whole_px is not None) == (plan.data in ("gibson", "isic_grey"))
    for way in ways_of(name):
        width = getattr(way.finetuning.backbone_settings, "base_width", None)
        if way.finetuning.dims == 2 and width is not None:
            assert width == (48 if plan.preset == "paper/acdc" else 32), way.row.title
        if way.finetuning.backbone == "kaf_unet" and "table2" not in name:
            assert way.finetuning.backbone_settings.pairs == 8
        if way.pretraining is not None:
            _build(way)


def _build(way: Way) -> None:
    settings = way.pretraining
    assert settings is not None
    kind = plugins.load("backbones", settings.backbone).Backbone
    with torch.device("meta"):
        network = kind(settings.backbone_settings, in_channels=1, num_classes=4)
        method = settings.method_module.Method(network, settings.method_settings)
    assert method.sampling.batch_size % settings.schedule.accumulate == 0


@pytest.mark.slow
@pytest.mark.parametrize(("data", "size", "threshold", "rate"), [("acdc", 352, 0.35, 5e-4), ("chd", 512, 0.1, 5e-5)])
def test_methods_of_the_pcl_protocol_are_trained_by_it(data: str, size: int, threshold: float, rate: float) -> None:
    own = {"kaf": (50, 0.002), "caid": (300, 0.03), "glcl": (300, 1e-3)}
    for way in ways_of(f"paper/kaf-table1-{data}"):
        tuned = way.finetuning
        assert (tuned.schedule.learning_rate, tuned.objective.size_px, tuned.objective.batch_size) == (rate, size, 10)
        if way.pretraining is not None:
            how, given = way.pretraining.method_settings, way.pretraining.schedule
            assert (how.size_px, getattr(how, "threshold", threshold)) == (size, threshold)
            assert (given.epochs, given.learning_rate) == own.get(way.row.method, (300, 0.1))


@pytest.mark.parametrize(("method", "data"), [("sal", "acdc"), ("sal", "chd"), ("kaf", "acdc"), ("kaf", "chd")])
def test_a_method_gets_what_its_own_preset_gives_it(method: str, data: str) -> None:
    here, own = (
        ways(Plan(rows=(Row(title="own", method=method),), preset=preset))[0]
        for preset in (f"paper/{data}", f"paper/{method}-{data}")
    )
    assert here.pretraining == own.pretraining
    assert here.finetuning.schedule == own.finetuning.schedule
    share = own.finetuning.objective.keypoint_share  # which a network without keypoint layers does not look at
    assert dataclasses.replace(here.finetuning.objective, keypoint_share=share) == own.finetuning.objective


def test_macl_and_its_rivals_have_the_articles_values() -> None:
    brats, chd = (
        ways(Plan(rows=tuple(Row(title=m, method=m) for m in ("pcl", "macl")), preset=f"paper/macl-{data}"))
        for data in ("hippocampus", "acdc")
    )
    for found, slices, size, threshold in ((brats, 64, 192, 0.05), (chd, 32, 512, 0.1)):
        for way in found:
            assert way.pretraining is not None
            how, given = way.pretraining.method_settings, way.pretraining.schedule
            assert (how.batch_size, how.size_px, how.threshold) == (slices, size, threshold)
            assert (given.optimiser, given.learning_rate, given.epochs) == ("sgd", 0.1, 100)
            tuned = way.finetuning.schedule
            assert (tuned.optimiser, tuned.learning_rate, tuned.floor, tuned.epochs) == ("adam", 5e-4, 5e-6, 100)
    assert [found[1].finetuning.objective.size_px for found in (brats, chd)] == [32, 352]
    for way in brats:  # every method has the views of the released code on BraTS
        assert way.pretraining is not None
        given = way.pretraining.method_settings.spatial
        assert (given.rotation_degrees, given.p_elastic, given.translate_share) == ((-20, 20), 0, 0.1)


@pytest.mark.parametrize(
    "name", [name for name in PAPER if name.startswith(("paper/macl-table1-", "paper/macl-table2-"))]
)
def test_macl_is_also_run_with_the_released_learning_rate_and_with_a_loss_that_is_learned(name: str) -> None:
    rows = {row["title"]: row.get("settings", {}) for row in plan_files.read(name)["rows"]}
    assert rows["MACL, released learning rate 0.01 (ours)"] == {"pretrain": {"learning_rate": 0.01}}
    assert rows["MACL, L_g across branches (ours)"] == {"method": {"form": "article"}}


@pytest.mark.slow
def test_switches_of_the_ablations_are_the_papers() -> None:
    networks = {way.row.title[0]: way.finetuning.backbone_settings for way in ways_of("paper/kaf-table2-chd")}
    assert [tuple(networks[row].levels) for row in "BCDEF"] == [
        (1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4), (1, 2, 3, 4),
    ]  # fmt: skip
    assert [networks[row].pairs for row in "FGHIJKL"] == [9, 6, 3, 9, 9, 9, 9]
    weights = [
        (how.weight_cnn, how.weight_kaf, how.weight_local) for how in settings_of("paper/kaf-table2-chd").values()
    ]
    assert weights == [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 0.01)]
    for title, how in settings_of("paper/kaf-table8-chd").items():
        assert title == f"weights {how.weight_cnn:g} / {how.weight_kaf:g} / {how.weight_local:g}"
    assert [how.distance_px for how in settings_of("paper/kaf-table5-chd").values()] == [5, 10, 15, 20, 25, 30, 35, 40]
    for title, how in settings_of("paper/macl-table5-chaos").items():
        assert title == f"lambda2 {how.weight_dense}, lambda3 {how.weight_equivariance}"
        assert how.weight_global == 1
    blocks = [getattr(how, "blocks", 0) for how in settings_of("paper/macl-table4-acdc").values()]
    assert blocks == [0, 1, 2, 3, 4]
    assert [how.encoder for how in settings_of("paper/macl-table6-acdc").values()] == ["shared", "independent", "ema"]
    assert [how.window for how in settings_of("paper/sal-table4-acdc").values()][1:] == [3, 4, 5, 6]


def test_switches_of_the_ablations_that_are_quick() -> None:
    assert [how.alignment_weight for how in settings_of("paper/sal-table3-acdc").values()] == [0, 80, 160, 320, 640]
    parts = [
        (how.weight_dense, how.weight_equivariance) for how in list(settings_of("paper/macl-table3-mmwhs").values())[1:]
    ]
    assert parts == [(0, 0), (0, 1), (0.5, 1)]
    layers = [way.finetuning.auxiliary_settings for way in ways_of("paper/voxel-siamese-table3")]
    assert [how and how.layers for how in layers] == [None, 1, 2, 3]
    read = [way.finetuning.auxiliary_settings for way in ways_of("paper/voxel-siamese-table4")[1:]]
    assert [(how.class_weight, how.weight, how.background) for how in read] == [
        ("none", 10, False), ("share", 10, False), ("inverse", 100, False), ("share", 10, True),
    ]  # fmt: skip


def test_the_networks_of_voxel_siamese_have_the_printed_numbers_of_parameters() -> None:
    printed = {e.row: e.value for e in published.load("voxel-siamese-table2") if e.metric == "parameters"}
    for way in ways_of("paper/voxel-siamese-table1"):
        kind = plugins.load("backbones", way.finetuning.backbone).Backbone
        with torch.device("meta"):
            network = kind(way.finetuning.backbone_settings, in_channels=1, num_classes=9)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(printed[way.row.title], abs=0.001)


def test_plans_presets_and_tables_are_in_the_package() -> None:
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["lemis"]
    package = PRESETS.parent
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    assert {path for suffix in ("yaml", "csv") for path in package.rglob(f"*.{suffix}")} <= carried


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_of_our_own_results_resolve_and_give_their_command(path: Path) -> None:
    plan = load_plan(path)
    resolved = [single_settings(row) for row in plan.rows] if plan.kind == "single" else ways(plan)
    assert len(resolved) == sum(row.external is None for row in plan.rows), "others are trained by code of their own"
    assert f"--plan benchmarks/plans/{path.name}" in path.read_text(encoding="utf-8")


def test_rows_with_more_starts_differ_from_those_beside_them_in_nothing_else() -> None:
    rows = {
        row.title: (row.method, single_settings(row)) for row in load_plan(BENCHMARKS / "one-image-starts.yaml").rows
    }
    several = {title: row for title, row in rows.items() if title.endswith(", three starts")}
    assert len(several) == 5
    for title, (method, settings) in several.items():
        assert rows[title.removesuffix(", three starts")] == (method, dataclasses.replace(settings, starts=1))
        assert settings.starts == rows["s3net, small"][1].starts == 3


def test_s3net_as_its_paper_has_it() -> None:
    plan = load_plan(BENCHMARKS / "s3net-paper.yaml")
    rows = {row.title: single_settings(row) for row in plan.rows}
    paper = rows["s3net, paper"]
    assert (paper.clusters, paper.starts, paper.affine, plan.size_px) == (64, 1, "feature", None), "256 px by default"
    assert dataclasses.replace(paper, affine="input") == rows["s3net, T of the image"] == s3net.PRESETS["paper"]
    assert rows["s3net, as released"] == s3net.RELEASED
    assert rows["s3net, paper, pixel values, weights for lung"] == dataclasses.replace(s3net.LUNG, affine="feature")


def test_voxel_siamese_on_whole_volumes_is_compared_with_the_patches_of_the_older_plan() -> None:
    whole, patches = (
        {way.row.title: way.finetuning for way in ways(load_plan(BENCHMARKS / f"{name}.yaml"))}
        for name in ("hippocampus-voxel-siamese", "hippocampus")
    )
    assert whole["3D U-Net, small"] == patches["scratch (unet3d)"]
    assert whole["voxel_siamese, small"] == patches["voxel_siamese, 3 layers"]
    for title, tuning in whole.items():
        paper = run_settings.finetuning("unet3d", load_preset("paper/voxel-siamese"), ()).objective
        if title.startswith("whole"):
            ours = tuning.objective
            assert (ours.batch_size, ours.loss) == (paper.batch_size, paper.loss)
            assert (ours.spatial.p_spatial, ours.spatial.p_mirror, ours.spatial.crop) == (0, 0, "centre")
            assert ours.intensity == paper.intensity, "nothing is augmented"


def test_where_the_gain_went_changes_what_a_row_says_and_no_more() -> None:
    rows = {way.row.title: way for way in ways(load_plan(BENCHMARKS / "where-the-gain-went.yaml"))}
    own = {way.row.method: way for way in rows.values() if way.row.title.lower() == way.row.method}
    assert set(own) == {"scratch", "pcl", "sal", "macl", "pirl"}
    for title, way in rows.items():
        start = own[way.row.method]
        alike = (way.pretraining == start.pretraining, way.finetuning == start.finetuning)
        assert alike == (True, True) if way is start else sorted(alike) == [False, True], title
    asked = {(way.row.method, str(way.pretraining), str(way.finetuning)) for way in rows.values()}
    assert len(asked) == len(rows), "two rows that ask the same thing"
    # MACL and PIRL as published are their files' defaults, but for the size of a view.
    for title, module in (("MACL, as published", macl), ("PIRL, as published", pirl)):
        assert rows[title].pretraining is not None
        settings = rows[title].pretraining.method_settings  # type: ignore[union-attr]
        assert dataclasses.replace(settings, size_px=module.Settings().size_px) == module.Settings()


@pytest.mark.parametrize("name", ["where-the-gain-went", "where-the-gain-went-field"])
def test_the_papers_fine_tuning_is_that_of_their_preset_in_small(name: str) -> None:
    paper = run_settings.finetuning("unet2d", load_preset("paper/acdc"), ())
    rows = [way for way in ways(load_plan(BENCHMARKS / f"{name}.yaml")) if way.row.title.startswith("papers'")]
    assert len(rows) == (4 if name == "where-the-gain-went" else 2)
    for way in rows:
        ours, objective = way.finetuning.schedule, way.finetuning.objective
        assert dataclasses.replace(ours, epochs=paper.schedule.epochs, steps=None) == paper.schedule
        share = paper.objective.keypoint_share  # which a U-Net does not look at
        assert dataclasses.replace(objective, size_px=352, keypoint_share=share) == paper.objective
        assert way.predict == {"largest_components": False, "mirror": False}


def test_rows_of_the_larger_field_of_view_are_those_of_the_smaller_one() -> None:
    small, field = (
        {way.row.title: way for way in ways(load_plan(BENCHMARKS / f"where-the-gain-went{part}.yaml"))}
        for part in ("", "-field")
    )
    assert all(small[title]._replace(row=way.row) == way for title, way in field.items())
    images, *_ = preparation(load_plan(BENCHMARKS / "where-the-gain-went-field.yaml"))
    assert (images.field_of_view_mm, images.spacing_mm) == (440, 2)
