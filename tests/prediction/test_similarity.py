"""The self-similarity figure's maps: cosines done by hand, a network that knows places, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lemis.contracts import Backbone, View
from lemis.errors import UsageError
from lemis.prediction import similarity as engine
from lemis.prediction.inference import build_backbone
from lemis.prediction.padding import padded_maps
from lemis.prediction.similarity import Query, parse, similarity
from lemis.preparation.facts import inside_field
from lemis.preparation.store import open_store
from lemis.runs.run import Run, load_model
from lemis.sampling import correspondence, geometries, warping
from lemis.settings import plain
from work_files_made import ENVIRONMENT, model, model_of

CPU = torch.device("cpu")


def make_run(work: Path, name: str, *, seed: int = 0, weights_of: int = 1, verb: str = "pretrain", **more: Any) -> None:
    """A finished run: its network began as ``seed`` has it, and ended as ``weights_of`` has it."""
    store = open_store(work / "prepared")
    facts = {
        **model(verb), "method": "pcl", "backbone_settings": {"base_width": 2}, "channels": list(store.channels),
        "label_names": list(store.label_names), "label_values": list(store.label_values),
        "prepared": plain(store.settings), "seed": seed, **more,
    }  # fmt: skip
    torch.manual_seed(weights_of)
    Run(work / "runs" / name, {"seed": seed}).finish(
        build_backbone(model_of(facts)).state_dict(), model_of(facts), verb=verb
    )


def a_query(work: Path) -> Query:
    facts = open_store(work / "prepared").scans[0]
    return Query(facts.id, 2, facts.prepared_shape[0] // 2, facts.prepared_shape[1] // 3)


# ---------------------------------------------------------------- the query


def test_a_query_is_read_from_the_right():
    assert parse("patient:1_ED:3:20,7") == Query("patient:1_ED", 3, 20, 7)


@pytest.mark.parametrize("text", ["", "a", "a:1", "a:1:2", "a:1:2,3,4", "a:one:2,3", "a:1:2.5,3", "a:2,3:1"])
def test_refuses_a_query_that_is_not_written_so(text: str):
    with pytest.raises(UsageError, match="SCAN:SLICE:ROW,COL"):
        parse(text)


# ---------------------------------------------------------------- the other view


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_other_view_shows_the_whole_slice(height: int, width: int):
    geometry = engine._other_view((height, width), CPU)
    edges = torch.tensor([[[r, c] for r in (-0.5, height - 0.5) for c in (-0.5, width - 0.5)]])
    seen = correspondence.view_of(geometry, edges)
    assert (seen >= -0.51).all()
    assert (seen <= torch.tensor(geometry.shape) - 0.49).all()


def test_the_other_view_is_turned_clockwise_and_shrunk():
    geometry = engine._other_view((65, 65), CPU)
    middle, above = correspondence.view_of(geometry, torch.tensor([[[32.0, 32.0], [20.0, 32.0]]]))[0]
    angle = np.radians(engine.TURN_DEGREES)
    wanted = 12 / engine.ZOOM * np.array([-np.cos(angle), np.sin(angle)])  # what was above is above and to the right
    assert (above - middle).numpy() == pytest.approx(wanted, abs=1e-4)


# ---------------------------------------------------------------- one network


class Places(Backbone):
    """Knows where it is: every cell's feature is one-hot in the brightness of the image, whichever way it is turned."""

    dims, channels, strides = 2, (8, 8, 8), (1, 2, 4)
    decoder_channels, decoder_strides = (1,), (1,)

    def encode(self, x: Tensor) -> list[Tensor]:
        pooled = torch.nn.functional.avg_pool2d(x[:, :1], 4).clamp(0, 7)
        away = pooled - torch.arange(8.0)[:, None, None]
        return [x, x, torch.exp(-away.square())]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def forward(self, x: Tensor) -> Tensor:
        return x

    def part_of(self, parameter_name: str) -> str:
        return "encoder"


@given(row=st.integers(8, 41), col=st.integers(8, 53))
def test_a_network_that_knows_places_finds_the_query_again(row: int, col: int):
    # One blob of its own brightness, elsewhere nothing.
    rows, cols = torch.meshgrid(torch.arange(50.0), torch.arange(62.0), indexing="ij")
    image = 7 * torch.exp(-((rows - row).square() + (cols - col).square()) / 40)[None, None]
    inside = torch.ones(1, 1, 50, 62, dtype=torch.bool)
    here = View(image, geometries.identity(1, (50, 62)), inside=inside)
    there = warping.apply(engine._other_view((50, 62), CPU), image, inside=inside)
    facts = model_of(model("pretrain", backbone="places", method="knows"))
    maps = engine._maps("run", facts, Places(), here, there, Query("a", 1, row, col), level=2)
    assert maps.away_px < 6  # a place is 4 x 4 pixels
    assert maps.of_slice.shape == (50, 62)
    assert maps.of_slice[row, col] == pytest.approx(1, abs=1e-5)
    assert maps.of_slice[0 if row > 25 else -1, 0 if col > 31 else -1] < 0.1


@dataclass
class Case:
    work: Path
    query: Query


@pytest.fixture
def case(work: Path) -> Case:
    make_run(work, "one")
    return Case(work, a_query(work))


def test_the_maps_are_cosines(case: Case):
    found = similarity(case.work, case.query, device="cpu")
    scratch, one = found.maps
    assert (scratch.method, scratch.run, one.method, one.run) == ("scratch", None, "pcl", "one")
    image = np.array(open_store(case.work / "prepared").image(0)[1], np.float32)
    height, width = image.shape[1:]
    padded = torch.zeros(1, *image.shape[:1], -(-height // 16) * 16, -(-width // 16) * 16)
    padded[0, :, :height, :width] = torch.from_numpy(image)
    weights, facts = load_model(case.work / "runs" / "one")
    network = build_backbone(facts)
    network.load_state_dict(weights)
    with torch.no_grad():
        cells = network.eval().encode(padded)[2][0].numpy()
    wanted = cells[:, case.query.row // 4, case.query.col // 4]
    inside = np.argwhere(~np.isnan(found.image))
    for row, col in inside[:: len(inside) // 7]:
        other = cells[:, row // 4, col // 4]
        cosine = wanted @ other / (np.linalg.norm(wanted) * np.linalg.norm(other))
        assert one.of_slice[row, col] == pytest.approx(cosine, abs=1e-5)
    assert one.of_slice[case.query.row, case.query.col] == pytest.approx(1, abs=1e-5)
    assert np.nanmax(np.abs(one.of_view)) <= 1 + 1e-5
    assert np.isnan(one.of_view[0, 0])  # a corner of the turned slice's box
    assert np.array_equal(np.isnan(found.view), np.isnan(one.of_view))


def test_as_the_paper_has_it(case: Case):
    found = similarity(case.work, case.query, form="paper", device="cpu")
    assert [(maps.run, maps.strides[0]) for maps in found.maps] == [(None, 4), (None, 8), ("one", 4), ("one", 8)]
    place = torch.tensor([[[float(case.query.row), float(case.query.col)]]])
    geometries_drawn = engine._two_views(found.image.shape, place)
    for geometry, (row, col) in zip(geometries_drawn, (found.place_in_image, found.place_in_view), strict=True):
        shown = correspondence.source_of(geometry, torch.tensor([[[row, col]]]))[0, 0]
        assert shown.tolist() == pytest.approx([case.query.row, case.query.col], abs=0.01)
    image = torch.from_numpy(np.array(open_store(case.work / "prepared").image(0)[1], np.float32))[None]
    weights, facts = load_model(case.work / "runs" / "one")
    network = build_backbone(facts)
    network.load_state_dict(weights)
    with torch.no_grad():
        cells = [padded_maps(network.eval(), warping.apply(one, image).image)[2][0] for one in geometries_drawn]
    (row, col), at = (int(k + 0.5) // 4 for k in found.place_in_image), found.maps[2]
    dots = [torch.einsum("c,chw->hw", cells[0][:, row, col], one) for one in cells]
    largest = max(float(one.abs().max()) for one in dots)
    for dot, shown in zip(dots, (at.of_slice, at.of_view), strict=True):
        pixels = dot.repeat_interleave(4, 0).repeat_interleave(4, 1)[: shown.shape[0], : shown.shape[1]] / largest
        inside = ~np.isnan(shown)
        np.testing.assert_allclose(shown[inside], pixels.numpy()[inside], atol=1e-4)


def test_the_query_is_where_the_other_view_shows_it(case: Case):
    found = similarity(case.work, case.query, device="cpu")
    geometry = engine._other_view(found.image.shape, CPU)
    place = torch.tensor([[found.place_in_view]])
    shown = correspondence.source_of(geometry, place)[0, 0]
    assert shown.tolist() == pytest.approx([case.query.row, case.query.col], abs=1e-3)
    best = correspondence.source_of(geometry, torch.tensor([[found.maps[1].best_in_view]]))[0, 0].numpy()
    assert found.maps[1].away_px == pytest.approx(np.hypot(*(best - [case.query.row, case.query.col])), abs=1e-3)


def test_fresh_weights_are_those_that_the_run_began_with(work: Path):
    make_run(work, "learnt-nothing", seed=3, weights_of=3)
    make_run(work, "learnt", seed=3, weights_of=4)
    scratch, nothing, learnt = similarity(work, a_query(work), runs=["learnt-nothing", "learnt"], device="cpu").maps
    assert np.array_equal(scratch.of_view, nothing.of_view, equal_nan=True)
    assert not np.array_equal(scratch.of_view, learnt.of_view, equal_nan=True)


def test_each_network_has_its_own_fresh_weights(case: Case):
    make_run(case.work, "kaf", backbone="kaf_unet", backbone_settings={"base_width": 2, "pairs": 1}, method="kaf")
    make_run(case.work, "two")
    found = similarity(case.work, case.query, runs=["one", "kaf", "two"], device="cpu")
    assert [(maps.run, maps.backbone) for maps in found.maps] == [
        (None, "unet2d"), ("one", "unet2d"), ("two", "unet2d"), (None, "kaf_unet"), ("kaf", "kaf_unet"),
    ]  # fmt: skip


def test_shows_finished_pretraining_in_the_order_it_was_begun(case: Case):
    make_run(case.work, "a-later-one")
    make_run(case.work, "tuned", verb="finetune")
    (case.work / "runs" / "begun").mkdir()
    for name, started in (("one", "2026-01-01"), ("a-later-one", "2026-01-02")):
        (case.work / "runs" / name / "environment.json").write_text(json.dumps({**ENVIRONMENT, "started": started}))
    assert [maps.run for maps in similarity(case.work, case.query, device="cpu").maps] == [None, "one", "a-later-one"]


def test_same_query_same_maps(case: Case):
    first, second = (similarity(case.work, case.query, device="cpu") for _ in range(2))
    for one, two in zip(first.maps, second.maps, strict=True):
        assert np.array_equal(one.of_slice, two.of_slice, equal_nan=True)
        assert np.array_equal(one.of_view, two.of_view, equal_nan=True)


# ---------------------------------------------------------------- what is refused


def test_refuses_an_unknown_scan(case: Case):
    with pytest.raises(UsageError, match="scan 'nobody' is not in"):
        similarity(case.work, case.query._replace(scan="nobody"))


@pytest.mark.parametrize(
    "other",
    [{"slice_number": 0}, {"slice_number": 6}, {"row": -1}, {"row": 500}, {"col": -1}, {"col": 500}],
)
def test_refuses_what_lies_outside(case: Case, other: dict[str, int]):
    with pytest.raises(UsageError, match=r"allowed: slices 1 to 5, rows \d+ to \d+, columns \d+ to \d+") as refused:
        similarity(case.work, case.query._replace(**other))
    similarity(case.work, parse(refused.value.next.removeprefix("--similarity ")))  # what it suggests is fine


def test_refuses_padding(case: Case):
    facts = open_store(case.work / "prepared").scans[0]
    rows = np.flatnonzero(inside_field(facts).any(axis=1))
    assert rows[0] > 0  # the made-up scans are smaller than the field of view
    found = similarity(case.work, case.query, device="cpu")
    assert np.array_equal(np.isnan(found.image), ~inside_field(facts))
    with pytest.raises(UsageError, match=f"rows {rows[0]} to {rows[-1]}, columns"):
        similarity(case.work, case.query._replace(row=int(rows[0]) - 1))


def test_refuses_a_work_folder_without_a_finished_run(work: Path):
    with pytest.raises(UsageError, match="no finished pre-training run"):
        similarity(work, a_query(work))


def test_refuses_a_named_run_that_is_not_finished(case: Case):
    (case.work / "runs" / "begun").mkdir()
    with pytest.raises(UsageError, match=r"begun has no model\.json"):
        similarity(case.work, case.query, runs=["begun"])


@pytest.mark.parametrize("other", [{"channels": ["T1", "T2"]}, {"prepared": {"spacing_mm": 9}}])
def test_refuses_a_run_that_needs_other_scans(case: Case, other: dict[str, Any]):
    make_run(case.work, "other", **other)
    with pytest.raises(UsageError, match="other was trained on scans with"):
        similarity(case.work, case.query, runs=["one", "other"])
