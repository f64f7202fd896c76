"""What the weights of a run expect of an image, as values and in words."""

from __future__ import annotations

from math import lcm

from lemis import __version__
from lemis.contracts import Backbone
from lemis.formats.directions import BODY, as_axes
from lemis.layers.unet import all_parts
from lemis.layers.unet3d import multiples
from lemis.preparation.settings import Settings
from lemis.settings import resolve
from lemis.work_files.exported import Class, Expects
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel


def expected(model: Model, network: Backbone) -> Expects:
    """Of a run, with its network."""
    how: Settings = resolve(Settings, model.prepared)
    tuned = isinstance(model, FinetunedModel)
    named = zip(model.label_names, model.label_values, strict=True)
    spacing = how.spacing_mm
    assert how.field_of_view_mm != "auto", "a run has settled settings"
    assert how.slice_axis != "common", "likewise"
    return Expects(
        lemis=__version__,
        verb=model.verb,
        method=model.method,
        backbone=model.backbone,
        backbone_settings=model.backbone_settings,
        trained=model.trained if isinstance(model, PretrainedModel) else (*all_parts(network), "head"),
        dims=2 if network.dims == 2 else 3,
        channels=model.channels,
        classes=tuple(Class(index=i, name=n, value=v) for i, (n, v) in enumerate(named)) if tuned else (),
        multiple_of=lcm(*network.divisors),
        multiples_of=network.divisors,
        patch_px=model.patch_px if isinstance(model, FinetunedModel) else None,
        axes=model.frame.axes if model.frame and model.frame.axes else as_axes(BODY),
        slice_axis=None if how.slice_axis == "own" else how.slice_axis,
        spacing_mm=float(spacing) if isinstance(spacing, int | float) else spacing,
        slice_spacing_mm=_millimetres(how.slice_spacing_mm),
        field_of_view_mm=_millimetres(how.field_of_view_mm),
        whole_px=how.whole_px,
        clip_percentiles=how.clip_percentiles,
        clip_values=how.clip_values,
        normalise=how.normalise,
        image_order=how.image_order,
        antialias=how.antialias,
        steps=(*_steps(model, how), _given(network, model)),
    )


def _millimetres(value: float | None) -> float | None:
    return None if value is None else float(value)


def _steps(model: Model, how: Settings) -> list[str]:
    frame = model.frame.axes if model.frame else None
    where = "the three directions in axes (mm, Right Anterior Superior)" if frame else "Right, Anterior and Superior"
    across = "the axis of its widest spacing" if how.slice_axis == "own" else f"its axis {how.slice_axis}"
    said = [
        f"Permute and flip the array of the scan so that its axes run as nearly as they can along {where}.",
        f"Take slices across {across}. Rows run along the later of the other two axes, columns along the earlier one, "
        "both reversed.",
    ]
    splines = "cubic splines" if how.image_order == 3 else "linear interpolation"
    by = f"by {splines}, edges repeated" + (", after a blur where they shrink" if how.antialias else "")
    if how.whole_px is not None:
        said.append(f"Resample the scan to {' x '.join(map(str, how.whole_px))} (slices, rows, columns) {by}.")
    elif isinstance(how.spacing_mm, int | float):
        said.append(f"Resample each slice to pixels of {how.spacing_mm:g} mm {by}.")
    if how.slice_spacing_mm is not None:
        said.append(f"Resample across slices to {how.slice_spacing_mm:g} mm {by}.")
    if how.clip_values is not None:
        said.append(f"Clip to {how.clip_values[0]:g} ... {how.clip_values[1]:g} of the stored values.")
    if how.clip_percentiles is not None:
        low, high = how.clip_percentiles
        said.append(f"Clip each channel to its percentiles {low:g} and {high:g}, over the whole scan.")
    said.append("Of each channel subtract its mean and divide by its standard deviation, over the whole scan.")
    if how.field_of_view_mm is not None:
        said.append(f"Cut the central square of {how.field_of_view_mm:g} mm; what lies beyond the slice is 0.")
    return said


def _given(network: Backbone, model: Model) -> str:
    channels, divisor = len(model.channels), multiples(network.divisors)
    if network.dims == 2:
        return (
            f"Give slices as (batch, {channels}, rows, columns) float32, padded with zeros to multiples of {divisor}."
        )
    tile = model.patch_px if isinstance(model, FinetunedModel) else None
    tiles = (
        f" Training saw tiles of {' x '.join(map(str, tile))}; larger ones are other than what it knows."
        if tile
        else ""
    )
    return (
        f"Give volumes as (batch, {channels}, slices, rows, columns) float32, padded with zeros to multiples of "
        f"{divisor}.{tiles}"
    )
