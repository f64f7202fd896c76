"""The plan of a comparison: methods x labelled subjects x folds x seeds, checked before anything runs.

```yaml
title: Is pre-training worth it on ACDC?
rows: [scratch, pcl, {title: "PCL, tau 0.5", method: pcl, settings: {method: {temperature: 0.5}}}]
baseline: scratch
labelled: [2, 6]
folds: all
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lemis import plugins
from lemis.comparison import external_rows, plan_files, rounds
from lemis.comparison.rounds import Rounds
from lemis.datasets.recognition import recognise
from lemis.errors import UsageError, shown
from lemis.preparation import keypoints as detection
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import Seed, merge, of_dims, parse_overrides, resolve
from lemis.training import pairing, predicting, run_settings

PRESETS = "preset"  # as the method or the `semi` of a row: the one that the preset names

Count = Annotated[int, Field(gt=0)]
Number = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    title: str  # by default the method, its network where that is not the usual one, and what is beside it
    method: str  # file name in ``methods/``, a dotted name, ``scratch``, or ``preset``: the one the preset names
    backbone: str | None = None  # by default the preset's, else the method's
    auxiliary: str | None = None  # an extra loss in fine-tuning; none by default, whatever the preset names
    semi: str | None = (
        None  # a way to use unlabelled scans in fine-tuning; none by default, ``preset``: the one it names
    )
    semi_is_preset: bool | None = None  # true: on labels alone where no scan is without a label; set by ``preset``
    second: str | None = None  # the method that a second network is pre-trained with; by default it begins as the first
    suggest: Rounds | None = None  # how it comes to its labelled subjects (rounds.py); by default they are drawn
    settings: dict[str, Any] = field(default_factory=dict)  # pretrain, method, backbone, finetune, auxiliary, semi
    external: str | None = None  # another program that trains instead (external_rows.py); ``method`` names it too
    python: str | None = None  # of its own environment


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long every row is pre-trained; one of the two."""

    images: Count | None = None  # that the network sees, different ones of a step counted
    minutes: Annotated[float, Field(gt=0)] | None = None  # on this machine, by a probe's rate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared, on what, and how it is scored."""

    title: str = "Comparison"  # what the reader wants to know
    kind: Literal["comparison", "single"] = "comparison"  # single: images without labels, one by one
    data: str | None = None  # the layout that the scans must have; any by default
    preset: str | None = "small"  # of settings, for all rows
    protocol: Literal["default", "paper", "honest", "released"] = "default"  # which score is the headline
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    baseline: str | None = None  # title of the row that the others are compared with; the first by default
    labelled: Literal["auto"] | tuple[Count | Literal["all"], ...] = "auto"  # M; few, some and all
    folds: Literal["all"] | Annotated[tuple[Number, ...], Field(min_length=1)] = "all"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    split: Literal["pcl", "macl", "voxel_siamese"] | None = None  # scheme; the data set's own file, else pcl
    selection: Literal["protocol", "seeded"] = "protocol"  # of the M subjects; seeded: others for each seed
    inductive: bool = False  # pre-training leaves out the fold's test subjects
    budget: Budget = field(default_factory=Budget)
    upstream: str | None = None  # layout of another data set, to pre-train on
    upstream_prepare: dict[str, Any] | None = None  # how that one is prepared, where there is one; else as the scans
    size_px: Count | Literal["native"] | None = None  # of kind single: the square to work at; segment-one's by default
    published: str | None = None  # the published table to print beside ours
    settings: dict[str, Any] = field(default_factory=dict)  # sections over the preset, for all rows


class Way(NamedTuple):
    """A row with all its settings."""

    row: Row
    pretraining: run_settings.Pretraining | None  # None from scratch
    finetuning: run_settings.Finetuning
    second: run_settings.Pretraining | None = None  # of a second network, where that has one of its own
    predict: Mapping[str, Any] = MappingProxyType({})  # settings of prediction that are not at their defaults


# ------------------------------------------------------------------------------------------------------------ reading


def load_plan(
    name: str | Path = plan_files.DEFAULT,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    load: run_settings.Loader = plugins.load,
) -> Plan:
    """A plan that ships, a YAML file or a Python function, with everything checked that needs no data.

    Args:
        name: See ``plan_files.read``.
        overrides: ``key=value`` over the plan: ``seeds=[0,1]``, ``preset=tiny``, ``settings.finetune.steps=100``.
        load: ``plugins.outlined`` before PyTorch is imported; then all is checked but the keypoints of networks.

    Raises:
        UsageError: No such plan, or something in it that is unknown, contradictory or missing.
    """
    over = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    tree = merge(plan_files.read(name), over)
    rows = tree.get("rows")
    if not isinstance(rows, list | tuple) or not rows:
        raise UsageError(
            f"rows of plan {name}: {shown(rows)}", allowed="a list of methods", next="rows: [scratch, pcl]"
        )
    single = tree.get("kind") == "single"
    named = {} if single else _named(tree.get("preset", "small"), tree.get("settings"))
    tree["rows"] = _rows(rows, named, single=single)
    plan = resolve(Plan, tree)
    titles = [row.title for row in plan.rows]
    plan = dataclasses.replace(plan, baseline=plan.baseline or titles[0])
    _check_rows(titles, str(plan.baseline))
    external_rows.refuse_contradictions(plan.rows, plan.protocol)
    _check_budget(plan.budget)
    _check_kind(plan)
    for row in plan.rows:
        if single:
            single_settings(row, load)
        else:
            _refuse_prepared(row)
            if row.suggest is not None:
                rounds.settings_of(row.suggest, load)
    if not single and load is plugins.load:
        preparation(plan, upstream=True)
    elif not single:
        _images(plan, ways(plan, load))
    return plan


def sections(plan: Plan) -> dict[str, Any]:
    """Preset and the plan's own settings, as one tree. A row names its method and extra loss itself."""
    return _nameless(_named(plan.preset, plan.settings))


def ways(plan: Plan, load: run_settings.Loader = plugins.load) -> tuple[Way, ...]:
    """Every row that Lemis trains, with all its settings.

    Raises:
        UsageError: A setting that does not exist, or a network that the method does not work on.
    """
    tree = sections(plan)
    return tuple(_way(row, tree, load) for row in plan.rows if row.external is None)


def single_settings(row: Row, load: run_settings.Loader = plugins.load) -> Any:
    """Those of a method for one image by itself.

    Raises:
        UsageError: Settings of something else, or that do not exist.
    """
    others = [key for key in row.settings if key != "method"]
    if others or row.backbone or row.auxiliary or row.semi or row.second or row.suggest:
        raise UsageError(
            f"row {row.title!r} with {others[0] if others else 'a network, extra loss or way to choose labels'}, in a "
            "plan of single images",
            allowed="settings of the method",
            next="settings: {method: ...}",
        )
    return resolve(load("single", row.method).Settings, row.settings.get("method", {}), prefix="method.")


def preparation(
    plan: Plan, *, upstream: bool = False
) -> tuple[Preparation, detection.Settings | None, detection.Settings | None]:
    """How the scans are prepared, the same for all rows: images, the keypoints asked for, those that rows look at.

    Args:
        plan: What is compared.
        upstream: Of the data set to pre-train on, which may have keys of its own.

    Raises:
        UsageError: Rows whose networks want other preparations, or a key that does not exist.
    """
    found = ways(plan)
    images = _images(plan, found)
    wanted: dict[str, detection.Settings] = {}
    for way in found:
        looked_at = pairing.keypoints_of(way.finetuning.backbone, way.finetuning.backbone_settings)
        if looked_at is not None:
            wanted[way.row.title] = looked_at
    detectors = sorted({one.detector for one in wanted.values()})
    if len(detectors) > 1:
        raise UsageError(
            f"keypoints of {', '.join(detectors)}",
            allowed="one detector for all rows of a plan",
            next="a plan for each detector",
        )
    most = max(wanted.values(), key=lambda one: one.most, default=None)
    if upstream and plan.upstream_prepare is not None:
        return *detection.preparation(plan.upstream_prepare, prefix="upstream_prepare."), most
    return *images, most


def _images(plan: Plan, found: Sequence[Way]) -> tuple[Preparation, detection.Settings | None]:
    """How the images are prepared, the same for all rows."""
    tree = sections(plan)
    asked = {
        way.row.title: detection.preparation(
            of_dims(tree, way.finetuning.dims).get("prepare", {}), prefix="settings.prepare."
        )
        for way in found
    }
    first = found[0].row.title
    for title, settings in asked.items():
        if settings != asked[first]:
            raise UsageError(
                f"rows {first!r} and {title!r} want the scans prepared in different ways",
                allowed="networks of one number of dimensions in one plan, prepared alike",
                next="a plan for networks of two dimensions, another for those of three",
            )
    return asked[first]


def _named(preset: Any, settings: Any) -> dict[str, Any]:
    if preset is not None and not isinstance(preset, str):
        raise UsageError(
            f"preset: {shown(preset)}",
            allowed="the name of a preset, the path of a YAML file, or null",
            next="preset: small",
        )
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(
            f"settings: {shown(settings)}",
            allowed="sections over the preset",
            next="settings: {finetune: {steps: 400}}",
        )
    return run_settings.base(preset, None, settings)


def _nameless(tree: Mapping[str, Any]) -> dict[str, Any]:
    # The preset's extra loss would be one of every row; its method and its `semi` are asked for by `preset`.
    kept = {key: value for key, value in tree.items() if key not in ("auxiliary", "semi")}
    return kept | ({"volumes": _nameless(kept["volumes"])} if "volumes" in kept else {})


def _rows(given: Sequence[Any], named: Mapping[str, Any], *, single: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in given:
        row = _row(one, named, single=single)
        # Where the preset names no way, a row that asks for it is one that is there already, in most plans.
        if not (isinstance(one, Mapping) and one.get("semi") == PRESETS and row in found):
            found.append(row)
    return found


def _row(given: Any, named: Mapping[str, Any], *, single: bool) -> dict[str, Any]:
    row = {"method": given} if isinstance(given, str) else given
    if isinstance(row, Mapping) and row.get("external") is not None:
        return external_rows.row(row, single=single)
    if not isinstance(row, Mapping) or not isinstance(row.get("method"), str):
        raise UsageError(
            f"row {shown(given)}", allowed="the name of a method, or a mapping with `method`", next="- {method: pcl}"
        )
    row = dict(row)
    for key in ("title", "backbone", "auxiliary", "semi", "second"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise UsageError(f"{key}: {shown(row[key])} of a row", allowed="text", next=f"{key}: NAME")
    if row.get("suggest") is not None:
        row["suggest"] = rounds.given(row["suggest"])
    if single:
        plugins.outlined("single", row["method"])
        return {"title": row["method"], **row}
    asked = None if row["method"] == PRESETS else row["method"]
    settings = row.get("settings", {})
    own = {key: value for key, value in settings.items() if key == "backbone"} if isinstance(settings, dict) else {}
    row["method"], row["backbone"] = run_settings.choose(asked, row.get("backbone"), _nameless(named), own)
    if row.get("semi") == PRESETS:
        way = run_settings.semi_of(named, row["backbone"], own)
        del row["semi"]
        row |= {"semi": way, "semi_is_preset": True} if way else {}
    beside = [row[key] for key in ("auxiliary", "semi") if row.get(key)]
    if row.get("second"):
        plugins.outlined("methods", row["second"])
        beside.append(f"second {row['second']}")
    if row.get("suggest") is not None:
        beside.append(row["suggest"]["name"])
    return {"title": _title(row["method"], row["backbone"], beside), **row}


def _title(method: str, backbone: str, beside: Sequence[str]) -> str:
    if method != pairing.SCRATCH:
        plugins.outlined("methods", method)
    text = method if backbone == pairing.default_backbone(method) else f"{method} ({backbone})"
    return " + ".join([text, *beside])


def _way(row: Row, tree: Mapping[str, Any], load: run_settings.Loader) -> Way:
    given = run_settings.by_section(row.settings)
    if row.method == pairing.SCRATCH and {"pretrain", "method"} & row.settings.keys():
        raise UsageError(
            f"row {row.title!r} from scratch has settings of pre-training",
            allowed="settings of backbone, finetune, auxiliary, semi and predict",
            next="leave them out, or name a method",
        )
    backbone = row.backbone or pairing.default_backbone(row.method)
    before, after = run_settings.both(row.method, backbone, row, tree, given, load)
    second = run_settings.of_second(row.second, backbone, after, tree, given, load)
    return Way(row, before, after, second, predicting.settings(after.dims, tree, given["predict"], load=load))


def _refuse_prepared(row: Row) -> None:
    if "prepare" in row.settings:
        raise UsageError(
            f"row {row.title!r} has settings of prepare",
            allowed="one preparation for all rows",
            next="settings: {prepare: ...} of the plan, or a plan for each",
        )


def _check_rows(titles: Sequence[str], baseline: str) -> None:
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise UsageError(
            f"{titles.count(twice[0])} rows are called {twice[0]!r}",
            allowed="a title of its own for each row",
            next=f"- {{title: another {twice[0]}, method: ...}}",
        )
    if baseline not in titles:
        raise UsageError(
            f"baseline {baseline!r}",
            allowed=f"the title of a row: {', '.join(titles)}",
            next=f"baseline: {plugins.nearest(baseline, titles) or titles[0]}",
        )


def _check_budget(budget: Budget) -> None:
    if budget.images is not None and budget.minutes is not None:
        raise UsageError(
            f"a budget of {budget.images} images and {budget.minutes:g} minutes",
            allowed="one of the two",
            next="budget: {images: ...}",
        )


def _check_kind(plan: Plan) -> None:
    known = ("honest", "released") if plan.kind == "single" else ("default", "paper")
    if plan.protocol not in known and not (plan.kind == "single" and plan.protocol == "default"):
        raise UsageError(
            f"protocol {plan.protocol} of a plan of kind {plan.kind}",
            allowed=" or ".join(known),
            next=f"protocol: {known[0]}",
        )
    if plan.size_px is not None and plan.kind != "single":
        raise UsageError(
            f"size_px: {plan.size_px} of a plan of kind {plan.kind}",
            allowed="of kind single: images that are segmented one by one",
            next="settings.finetune.objective.size_px and settings.method.size_px, for networks that are trained",
        )
    for key in ("labelled", "folds", "seeds"):
        values = getattr(plan, key)
        if isinstance(values, tuple) and (len(set(values)) < len(values) or not values):
            first = values[0] if values else 2
            raise UsageError(f"{key}: {list(values)}", allowed="one or more, each once", next=f"{key}: [{first}]")


# ------------------------------------------------------------------------------------------------- with the data there


def refuse_contradictions(plan: Plan, upstream: Path | None, jobs: int, on: str | None, emit: str | None) -> None:
    """Refuse options that contradict each other, or the plan.

    Raises:
        UsageError: They do.
    """
    if plan.upstream is not None and upstream is None:
        raise UsageError(
            f"a plan that pre-trains on {plan.upstream}, without it",
            allowed=f"the folder of that data set, in the layout {plan.upstream}",
            next="--upstream FOLDER; or, to pre-train on the same scans: upstream=null",
        )
    if upstream is not None and plan.inductive:
        raise UsageError(
            "--upstream of an inductive plan",
            allowed="either: pre-training on another data set sees no test subject anyway",
            next="inductive=false",
        )
    chosen = [row for row in plan.rows if row.suggest is not None]
    if upstream is not None and chosen:
        raise UsageError(
            f"--upstream with row {chosen[0].title!r}, which chooses by what the pre-training makes of these scans",
            allowed="pre-training on the same scans, in a plan with such rows",
            next="leave out --upstream, or the row",
        )
    if on is not None and jobs != 1:
        raise UsageError(f"--jobs {jobs} --on {on}", allowed="one of the two", next=f"--on {on}")
    if emit not in (None, "slurm"):
        raise UsageError(f"--emit {emit}", allowed="slurm", next="--emit slurm")


def require_layout(plan: Plan, folder: Path, *, upstream: bool = False) -> str | None:
    """The layout to read a folder in: the plan's, None where it names none.

    Raises:
        UsageError: The folder is in another layout.
    """
    key = "upstream" if upstream else "data"
    expected: str | None = getattr(plan, key)
    if expected is None:
        return None
    found = recognise(folder).index.layout
    if found == expected:
        return expected
    try:
        recognise(folder, expected)  # a layout may be another reading of the same files: isic, isic_grey
    except UsageError:
        raise UsageError(
            f"{folder} in the layout {found}, where the plan is for {expected}",
            allowed=f"the layout {expected} (docs/data.md)",
            next=f"give the folder as it was downloaded; or, to compare on these scans all the same: {key}=null",
        ) from None
    return expected
