"""Which places of a slice look alike to a network: the self-similarity figure of KAF (NeurIPS 2023).

The feature at one query pixel is compared by cosine with that of every place of its slice, and of another view of the
slice, turned and shrunk, in which the query has moved. A network that knows anatomy answers alike in both.

``form="paper"`` is as the paper has it: two views at random, the dot product in place of the cosine, and the maps of
two levels, of strides 4 and 8.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import ceil, cos, pi, sin
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone, Geometry, View
from lemis.errors import UsageError
from lemis.layers.basic import unit
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction.inference import build_backbone
from lemis.prediction.padding import padded_maps
from lemis.preparation.facts import inside_field
from lemis.preparation.store import Store, open_store
from lemis.runs.device import chosen_device
from lemis.runs.run import fill, load_model
from lemis.runs.same_scans import refuse_other_scans
from lemis.sampling import correspondence, geometries, spatial, warping
from lemis.sampling.draw import Rows
from lemis.work_files.run import Model, PretrainedModel, read_environment, read_model, refuse_modules

TURN_DEGREES = 60.0  # of the other view, clockwise
ZOOM = 1.2  # slice pixels per pixel of the other view
FINEST_STRIDE = 4  # the map that is compared: the finest of at least this stride, where the papers' losses act
LEVELS_OF_PAPER = 2  # from there
TRIES = 200  # to draw two views that both show the query
Form = Literal["cosine", "paper"]


class Query(NamedTuple):
    """A pixel of a prepared slice."""

    scan: str
    slice_number: int  # from 1, as the report counts
    row: int  # from 0
    col: int


class Maps(NamedTuple):
    """One network's answer: likeness in [-1, 1] to the query at every pixel, NaN outside the scan."""

    method: str
    run: str | None  # None: fresh weights
    backbone: str
    strides: tuple[int, int]  # pixels of one place of the map, along rows and columns
    of_slice: NDArray[np.float32]  # (H, W), or of the first view
    of_view: NDArray[np.float32]  # (h, w)
    best_in_view: tuple[float, float]  # row and column of the place of the view that is most alike
    away_px: float  # from there to the query, in pixels of the slice


class Similarity(NamedTuple):
    """What the figure shows."""

    query: Query
    slices: int  # of the scan
    aspect: float  # height of a pixel over its width, in the body
    image: NDArray[np.float32]  # (H, W) first channel of the slice, or of a first view; NaN outside the scan
    view: NDArray[np.float32]  # (h, w) the same of its other view
    place_in_image: tuple[float, float]  # row and column of the query
    place_in_view: tuple[float, float]  # row and column of the query there
    maps: tuple[Maps, ...]


def parse(text: str) -> Query:
    """``SCAN:SLICE:ROW,COL``.

    Raises:
        UsageError: It is not written so.
    """
    scan, *rest = text.rsplit(":", 2)
    try:
        number, place = rest
        row, col = place.split(",")
        return Query(scan, int(number), int(row), int(col))
    except ValueError:
        raise UsageError(
            f"--similarity {text}",
            allowed="SCAN:SLICE:ROW,COL, the slice counted from 1, row and column of the prepared slice from 0",
            next="--similarity patient001:5:48,48",
        ) from None


def of(query: Query) -> str:
    """As ``parse`` reads it."""
    return f"{query.scan}:{query.slice_number}:{query.row},{query.col}"


def similarity(
    work: Path,
    query: Query,
    *,
    form: Form = "cosine",
    runs: Sequence[str] = (),
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Similarity:
    """Compare networks at one query pixel: each network with fresh weights, then with those of its runs.

    Args:
        work: A work folder with a prepared store.
        query: Where.
        form: How.
        runs: Names of finished runs; by default every finished pre-training, in the order they were begun.
        device: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that runs may name.

    Raises:
        UsageError: A scan, slice or pixel that does not exist, no finished run, or one that needs other scans.
    """
    store = open_store(work / "prepared")
    scan = store.scans[store.index_of(query.scan)]
    image, inside = _slice(store, query)
    names = list(runs) or _pretrained(work / "runs")
    target = torch.device(chosen_device(device))
    x = torch.from_numpy(image)[None].to(target)  # (1, C, H, W)
    seen = torch.from_numpy(inside)[None, None].to(target)
    place = torch.tensor([[[float(query.row), float(query.col)]]], device=target)
    if form == "paper":
        here, there = (warping.apply(geometry, x, inside=seen) for geometry in _two_views(x.shape[2:], place))
    else:
        here = View(x, geometries.identity(1, x.shape[2:], device=target), inside=seen)
        there = warping.apply(_other_view(x.shape[2:], target), x, inside=seen)
    loaded = [(name, *load_model(work / "runs" / name)) for name in names]
    for name, _, model in loaded:
        refuse_modules(work / "runs" / name, model, trust, next=f"lemis report {work} --similarity {of(query)} --trust")
        refuse_other_scans(name, model, store, next="name the other runs: --run NAME")
    return Similarity(
        query,
        scan.slices,
        scan.prepared_spacing_mm[1] / scan.prepared_spacing_mm[2],
        _seen(here.image[:, :1], here),
        _seen(there.image[:, :1], there),
        _pair(correspondence.view_of(here.geometry, place)),
        _pair(correspondence.view_of(there.geometry, place)),
        tuple(
            _maps(name, model, network.to(target), here, there, query, level=level, dot=form == "paper")
            for name, model, network in _networks(work / "runs", loaded)
            for level in _levels(network, LEVELS_OF_PAPER if form == "paper" else 1)
        ),
    )


# ---------------------------------------------------------------- what is compared


def _slice(store: Store, query: Query) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(C, H, W) and, False where the field of view left the scan, (H, W)."""
    scan = store.index_of(query.scan)
    facts = store.scans[scan]
    inside = inside_field(facts)
    rows, cols = (np.flatnonzero(inside.any(axis=1 - axis)) for axis in (0, 1))
    if not (1 <= query.slice_number <= facts.slices and query.row in rows and query.col in cols):
        middle = f"{(facts.slices + 1) // 2}:{(rows[0] + rows[-1]) // 2},{(cols[0] + cols[-1]) // 2}"
        raise UsageError(
            f"slice {query.slice_number}, row {query.row}, column {query.col} of {query.scan}",
            allowed=f"slices 1 to {facts.slices}, rows {rows[0]} to {rows[-1]}, columns {cols[0]} to {cols[-1]}",
            next=f"--similarity {query.scan}:{middle}",
        )
    return np.asarray(store.image(scan)[query.slice_number - 1], dtype=np.float32), inside


def _other_view(shape: Sequence[int], device: torch.device) -> Geometry:
    """The slice turned and shrunk about its centre, all of it in sight; the same for every network."""
    angle = TURN_DEGREES * pi / 180
    turn = ZOOM * torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]], device=device)
    size = torch.tensor(shape, device=device, dtype=torch.float32)
    out = tuple(ceil(side) for side in (turn.mT.abs() @ size / ZOOM**2).tolist())
    middle = (size - 1) / 2 - turn @ (torch.tensor(out, device=device, dtype=torch.float32) - 1).div(2)
    return Geometry(torch.cat([turn, middle[:, None]], 1)[None], out)


def _two_views(shape: Sequence[int], place: Tensor) -> list[Geometry]:
    """Two views at random of the slice's size, as pre-training draws them, that both show ``place`` (1, 1, 2)."""
    found: list[Geometry] = []
    for step in range(TRIES):
        drawn = spatial.draw(spatial.Spatial(p_spatial=1.0), 1, shape, shape, Rows(0, step, place.device))
        if not correspondence.shown_at(drawn, place).isnan().any():
            found.append(drawn)
        if len(found) == 2:
            return found
    raise UsageError(
        f"row and column {place[0, 0].tolist()} so far out that views at random do not show it",
        allowed="a pixel nearer to the middle of the slice",
        next=f"--similarity SCAN:SLICE:{shape[0] // 2},{shape[1] // 2}",
    )


def _levels(network: Backbone, count: int) -> list[int]:
    """The finest maps of at least ``FINEST_STRIDE``."""
    return [k for k, stride in enumerate(network.strides) if stride >= FINEST_STRIDE][:count]


def _pretrained(folder: Path) -> list[str]:
    """Names of the finished pre-training runs, in the order they were begun."""
    found = []
    for path in folder.glob("*/model.json"):
        run = path.parent
        if isinstance(read_model(run), PretrainedModel):
            environment = read_environment(run)
            found.append((environment.started if environment else "", run.name))
    if not found:
        raise UsageError(
            f"no finished pre-training run in {folder}",
            allowed="at least one to compare with a fresh network",
            next=f"lemis pretrain {folder.parent}",
        )
    return [name for _, name in sorted(found)]


def _networks(
    folder: Path,
    loaded: Sequence[tuple[str, dict[str, Tensor], Model]],
) -> Iterator[tuple[str | None, Model, Backbone]]:
    """Runs of one network side by side, after it with the weights that the first of them began with."""
    kinds: dict[str, list[tuple[str, dict[str, Tensor], Model]]] = {}
    for name, weights, model in loaded:
        kinds.setdefault(json.dumps([model.backbone, model.backbone_settings]), []).append((name, weights, model))
    for group in kinds.values():
        for number, (name, weights, model) in enumerate(group):
            torch.manual_seed(model.seed)  # as pre-training did before it built its network
            network = build_backbone(model)
            if number == 0:
                yield None, model, network
            fill(network, weights, folder / name)
            yield name, model, network


# ---------------------------------------------------------------- one network


@torch.inference_mode()
def _maps(
    run: str | None,
    model: Model,
    network: Backbone,
    here: View,
    there: View,
    query: Query,
    *,
    level: int,
    dot: bool = False,
) -> Maps:
    network.eval()
    row_stride, col_stride = strides = network.axis_strides[level]
    own, other = (padded_maps(network, view.image)[level] for view in (here, there))  # (1, C, rows, cols)
    if not dot:
        own, other = unit(own), unit(other)
    place = torch.tensor([[[float(query.row), float(query.col)]]], device=own.device)
    seen_at = zip(_pair(correspondence.view_of(here.geometry, place)), strides, strict=True)
    row, col = (int(at + 0.5) // stride for at, stride in seen_at)
    wanted = own[0, :, row, col]
    alike = [torch.einsum("c,chw->hw", wanted, cells[0])[None, None] for cells in (own, other)]
    if dot:  # in the unit of the largest, so that networks can be seen side by side
        largest = max(float(cells.abs().max()) for cells in alike)
        alike = [cells / (largest or 1.0) for cells in alike]
    of_slice, of_view = (
        _seen(_pixels(cells, strides, view), view) for cells, view in zip(alike, (here, there), strict=True)
    )
    best = np.unravel_index(np.nanargmax(of_view), of_view.shape)
    centre = tuple(float(k // by * by + (by - 1) / 2) for k, by in zip(best, strides, strict=True))
    source = _pair(correspondence.source_of(there.geometry, torch.tensor([[centre]], device=wanted.device)))
    away = float(np.hypot(source[0] - query.row, source[1] - query.col))
    method = "scratch" if run is None else model.method
    return Maps(method, run, model.backbone, (row_stride, col_stride), of_slice, of_view, (centre[0], centre[1]), away)


def _pixels(cells: Tensor, strides: Sequence[int], view: View) -> Tensor:
    """(1, 1, rows, cols) -> the pixels of ``view``, each cell repeated over its own."""
    height, width = view.image.shape[2:]
    return cells.repeat_interleave(strides[0], 2).repeat_interleave(strides[1], 3)[..., :height, :width]


def _seen(values: Tensor, view: View) -> NDArray[np.float32]:
    """(1, 1, H, W) -> (H, W), NaN outside the scan."""
    assert view.inside is not None
    seen: NDArray[np.float32] = values.masked_fill(~view.inside, torch.nan)[0, 0].cpu().numpy()
    return seen


def _pair(points: Tensor) -> tuple[float, float]:
    """The one point of (1, 1, 2)."""
    row, col = points[0, 0].tolist()
    return row, col
