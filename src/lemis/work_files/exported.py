"""``expects.json`` beside weights that left Lemis: what the network is given, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lemis.formats.directions import Axes
from lemis.records import Count, Record, Size, write

FILE = "expects.json"


class Class(Record):
    """A channel of the logits."""

    index: Count
    name: str
    value: int  # in the label files of training


class Expects(Record):
    """What the weights of a run expect. Nobody is named in it."""

    version: Literal[1] = 1
    lemis: str  # version that wrote it
    verb: Literal["pretrain", "finetune"]
    method: str
    backbone: str
    backbone_settings: dict[str, Any]
    trained: tuple[str, ...]  # parts of the network that hold what was learned; the others are random
    dims: Literal[2, 3]
    channels: Annotated[tuple[str, ...], Field(min_length=1)]  # of the image, in this order
    classes: tuple[Class, ...]  # of the logits; of a pre-training, which has no classes, none
    multiple_of: Size  # of every side of an input
    multiples_of: tuple[Size, ...]  # of each, in the order of the axes: where these differ, less is enough
    patch_px: tuple[Size, Size, Size] | None  # (slices, rows, cols) of training's tiles
    axes: Axes  # directions, mm RAS, along which the array of a scan runs; () are Right, Anterior and Superior
    slice_axis: int | None  # of that array; None: the one of the widest spacing
    spacing_mm: float | Literal["native"] | None  # within slices; None: see ``whole_px``
    slice_spacing_mm: float | None  # None: as stored
    field_of_view_mm: float | None  # side of the central square; None: the whole slice
    whole_px: tuple[Size, Size, Size] | None  # (slices, rows, cols) to which every scan was resampled
    clip_percentiles: tuple[float, float] | None
    clip_values: tuple[float, float] | None
    normalise: Literal["zscore"]  # mean 0, standard deviation 1 over the whole scan, channel by channel
    image_order: Literal[1, 3]  # of the splines that resample
    antialias: bool
    steps: tuple[str, ...]  # the same in words, in their order


def write_expects(folder: Path, expects: Expects) -> None:
    """Write it."""
    write(folder / FILE, expects)
