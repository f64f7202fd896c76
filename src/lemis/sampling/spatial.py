"""Spatial augmentation: its settings, and the geometry of a batch of views drawn by them.

Mirror, rotation, scale, elastic displacement, crop and padding are one map from each pixel y of the view to
the place x of the source that it is read from (``contracts.Geometry``); images, labels and points follow it:

    x = offset + c + M S R (y - c + e(y))      c centre of the view, M mirror, S scale, R rotation, e elastic

2D and 3D are one implementation; d is the number of spatial axes. Pixels are taken as squares or cubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lemis.contracts import Draw, Elastic, Geometry
from lemis.errors import UsageError
from lemis.sampling.geometries import about_centre, centred, full_precision, rotation_in_plane
from lemis.settings import PositiveRange, Probability, Range

Interpolation = Literal["bilinear", "bicubic"]
_Side = Annotated[int, Field(gt=0)]
Size = _Side | tuple[_Side, _Side, _Side]  # of a view: one side for all axes, or (slices, rows, cols) in 3D


@dataclass(frozen=True, kw_only=True)
class Spatial:
    """How the geometry of a view is drawn. [C]: the PCL authors' code, for pre-training and for ACDC."""

    # Place in the slice; all integer places alike [C]. In 3D the place is drawn with the patch (``patches.py``), and
    # "random" moves the view by up to a quarter of its side from there.
    crop: Literal["random", "centre"] = "random"
    p_mirror: Probability = 0.5  # each axis on its own [C]
    p_spatial: Probability = 0.67  # of elastic, rotation, scale and translation, together [C]
    p_elastic: Probability = 1.0  # given the above [C]
    elastic_sigma_px: PositiveRange = (14.0, 17.0)  # of the Gaussian that smooths the displacement [C]
    elastic_alpha_px: Range = (100.0, 350.0)  # batchgenerators' factor [C]; 1 to 4 px standard deviation
    p_rotation: Probability = 1.0  # [C]
    rotation_degrees: Range = (0.0, 360.0)  # in the plane of the slice [C]
    tilt_row_degrees: Range = (-15.0, 15.0)  # 3D only, about the row axis; small, since volumes are flat
    tilt_column_degrees: Range = (-15.0, 15.0)  # 3D only, about the column axis
    p_scale: Probability = 1.0  # [C]
    p_enlarge: Probability = 0.5  # given a scale: from ``enlarge``, else from ``shrink`` [C]
    enlarge: PositiveRange = (0.7, 1.0)  # source pixels per view pixel [C]
    shrink: PositiveRange = (1.0, 1.3)  # source pixels per view pixel [C]
    translate_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the side: moved by up to so much on each axis
    interpolation: Interpolation = "bilinear"  # of images; [C] is cubic: "bicubic" is the nearest, in 2D only


CROP_ONLY = Spatial(p_mirror=0.0, p_spatial=0.0)

_POINTS_PER_SIGMA = 1.5  # of the coarse noise: the blurred field's variance is then constant to 1e-9
_MARGIN_SIGMAS = 3.0  # noise around the view, so that the field is as strong at its border as inside
_ANGLES = 25  # tried in each plane for the reach of a view
_ELASTIC_SPREADS = 3.0  # standard deviations of a displacement that count for the reach


def draw(
    settings: Spatial,
    rows: int,
    source_shape: Sequence[int],
    out_shape: Sequence[int],
    rng: Draw,
    box: Tensor | None = None,
) -> Geometry:
    """Parameters of ``rows`` views.

    Args:
        settings: What is drawn, and how strong.
        rows: B.
        source_shape: Of the images, (rows, cols) or (slices, rows, cols).
        out_shape: Of the views; where it is larger than the source, the source lies in the middle of zeros.
        rng: Random numbers; their device is the geometry's.
        box: (B, 2, d) first pixel and size of the part of each source to crop from; all of it by default.
    """
    d = len(source_shape)
    spatial = rng.uniform(rows) < settings.p_spatial
    mirror = 1 - 2 * (rng.uniform(rows, d) < settings.p_mirror).float()  # (B, d)
    with full_precision(mirror):
        rotation = _draw_rotation(settings, spatial, d, rng)
        scale = _draw_scale(settings, spatial, rng)
        linear = mirror[:, :, None] * scale[:, None, None] * rotation  # (B, d, d)
        if box is None:
            whole = torch.tensor([[0] * d, list(source_shape)], device=linear.device)
            box = whole.expand(rows, 2, d)
        offset = _draw_offset(settings, box, out_shape, rng) + _draw_translation(settings, spatial, out_shape, rng)
        to_source = about_centre(linear, offset, out_shape)
        return Geometry(to_source, tuple(out_shape), _draw_elastic(settings, spatial, out_shape, rng))


def reach_px(settings: Spatial, out_shape: Sequence[int]) -> tuple[int, ...]:
    """Sides of the box around a place from which any view of ``out_shape`` drawn there is read, in source pixels."""
    d = len(out_shape)
    spread = torch.eye(d)
    if settings.p_spatial * settings.p_rotation > 0:
        planes = _planes(settings, d)
        steps = [torch.linspace(low, high, _ANGLES) * pi / 180 for _, (low, high) in planes]
        turns = [rotation_in_plane(angles, plane, d) for angles, (plane, _) in zip(steps, planes, strict=True)]
        total = turns[0]
        for turn in turns[1:]:
            total = (total[:, None] @ turn[None]).flatten(0, 1)
        spread = total.abs()
    reach = (spread @ torch.tensor(out_shape, dtype=torch.float32)).view(-1, d).amax(0)
    if settings.p_spatial * settings.p_scale > 0:
        reach = reach * max(1.0, settings.enlarge[1], settings.shrink[1])
    if settings.p_spatial * settings.p_elastic > 0:
        sigma, alpha = settings.elastic_sigma_px[0], settings.elastic_alpha_px[1]
        reach = reach + 2 * _ELASTIC_SPREADS * alpha / sqrt(3) * (2 * sigma * sqrt(pi)) ** (-d / 2)
    moved = [2 * (n // 4) if settings.crop == "random" else 0 for n in out_shape]
    if settings.p_spatial > 0:
        moved = [m + 2 * ceil(settings.translate_share * n) for m, n in zip(moved, out_shape, strict=True)]
    sides = [ceil(float(r) - 1e-3) + m for r, m in zip(reach, moved, strict=True)]
    # As even or odd as the view, so that both have one middle.
    return tuple(side + (side - n) % 2 for side, n in zip(sides, out_shape, strict=True))


def shape_of(size_px: Size, d: int) -> tuple[int, ...]:
    """The d sides of a view.

    Raises:
        UsageError: Three sides for a slice.
    """
    if isinstance(size_px, int):
        return (size_px,) * d
    if len(size_px) != d:
        raise UsageError(
            f"size_px={list(size_px)} for a network of {d} dimensions",
            allowed="one number for slices; one, or [slices, rows, cols], for volumes",
            next=f"method.size_px={size_px[-1]} to pre-train, objective.size_px={size_px[-1]} to fine-tune",
        )
    return tuple(size_px)


def patch_of(size_px: Size, d: int, *, square: bool = False) -> tuple[int, ...] | None:
    """What a method with views of this size says in its ``Sampling.patch_px``: their sides in 3D, None in 2D.

    Args:
        size_px: Of a view.
        d: Dimensions of the network.
        square: Whether the method makes quarter turns, in which rows and columns change places.

    Raises:
        UsageError: As ``shape_of``; rows and columns that differ where they must not.
    """
    sides = shape_of(size_px, d)
    if square and sides[-2] != sides[-1]:
        raise UsageError(
            f"size_px={list(sides)}, whose rows and columns change places in a quarter turn",
            allowed="[slices, rows, cols] with as many rows as columns",
            next=f"method.size_px=[{sides[0]},{sides[-1]},{sides[-1]}]",
        )
    return sides if d == 3 else None


def _draw_rotation(settings: Spatial, spatial: Tensor, d: int, rng: Draw) -> Tensor:
    """(B, d, d), the unit matrix where nothing is drawn."""
    rows = len(spatial)
    on = (spatial & (rng.uniform(rows) < settings.p_rotation)).float()
    total = torch.eye(d, device=spatial.device).expand(rows, d, d)
    for plane, (low, high) in _planes(settings, d):
        total = total @ rotation_in_plane(on * rng.uniform(rows, low=low * pi / 180, high=high * pi / 180), plane, d)
    return total


def _planes(settings: Spatial, d: int) -> list[tuple[tuple[int, int], Range]]:
    """The planes of rotation, in their order, and the degrees in each."""
    planes = [((d - 2, d - 1), settings.rotation_degrees)]
    if d == 3:
        planes += [((0, 2), settings.tilt_row_degrees), ((0, 1), settings.tilt_column_degrees)]
    return planes


def _draw_scale(settings: Spatial, spatial: Tensor, rng: Draw) -> Tensor:
    """(B,) source pixels per view pixel, 1 where nothing is drawn."""
    rows = len(spatial)
    on = spatial & (rng.uniform(rows) < settings.p_scale)
    enlarged = rng.uniform(rows, low=settings.enlarge[0], high=settings.enlarge[1])
    shrunk = rng.uniform(rows, low=settings.shrink[0], high=settings.shrink[1])
    scale = torch.where(rng.uniform(rows) < settings.p_enlarge, enlarged, shrunk)
    return torch.where(on, scale, torch.ones_like(scale))


def _draw_offset(settings: Spatial, box: Tensor, out_shape: Sequence[int], rng: Draw) -> Tensor:
    """(B, d) source pixel that lies under pixel 0 of the unturned view."""
    middle = centred(box, out_shape)
    if settings.crop == "centre":
        return middle
    places = (box[:, 1] - torch.tensor(out_shape, device=box.device) + 1).clamp(min=1)
    chosen = (rng.uniform(len(box), len(out_shape)) * places).long()
    chosen = torch.minimum(chosen, places - 1)  # float32 can round up to ``places`` itself
    return torch.where(places > 1, box[:, 0] + chosen, middle)


def _draw_translation(settings: Spatial, spatial: Tensor, out_shape: Sequence[int], rng: Draw) -> Tensor | float:
    """(B, d) source pixels, beyond the slice too; 0 where none is drawn."""
    if settings.p_spatial * settings.translate_share == 0:
        return 0.0
    share = rng.uniform(len(spatial), len(out_shape), low=-settings.translate_share, high=settings.translate_share)
    return share * spatial[:, None] * torch.tensor(out_shape, device=spatial.device)


def _draw_elastic(settings: Spatial, spatial: Tensor, out_shape: Sequence[int], rng: Draw) -> Elastic | None:
    """White noise of batchgenerators' strength; None where the settings allow no displacement.

    There a field of U(-1, 1) noise, one number a pixel, is blurred by a unit-sum Gaussian and multiplied by
    alpha, so each component has the standard deviation alpha sqrt(1/3) prod_a (2 sigma sqrt(pi))^(-1/2).
    Coarse noise of standard deviation s, blurred by our Gaussian of height 1, has
    s prod_a (sigma sqrt(pi) / step)^(1/2).
    """
    if settings.p_spatial * settings.p_elastic == 0 or settings.elastic_alpha_px == (0, 0):
        return None
    rows, d = len(spatial), len(out_shape)
    on = spatial & (rng.uniform(rows) < settings.p_elastic)
    sigma = rng.uniform(rows, low=settings.elastic_sigma_px[0], high=settings.elastic_sigma_px[1])
    alpha = rng.uniform(rows, low=settings.elastic_alpha_px[0], high=settings.elastic_alpha_px[1])
    step = settings.elastic_sigma_px[0] / _POINTS_PER_SIGMA
    margin = _MARGIN_SIGMAS * settings.elastic_sigma_px[1]
    coarse = [ceil((n - 1 + 2 * margin) / step) + 1 for n in out_shape]
    origin = [(n - 1 - (m - 1) * step) / 2 for n, m in zip(out_shape, coarse, strict=True)]
    strength = on * alpha / sqrt(3) * (step / (2 * pi * sigma**2)) ** (d / 2)  # (B,)
    noise = rng.normal(rows, d, *coarse) * strength.view(-1, *[1] * (d + 1))
    return Elastic(noise, sigma, step, torch.tensor(origin, device=noise.device))
