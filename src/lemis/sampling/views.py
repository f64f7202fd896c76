"""Views: a geometry is drawn first, for the whole batch, and applied once, in one resampling on the device.

Mirror, rotation, scale, elastic displacement, crop and padding are one map from each pixel y of the view to
the place x of the source that it is read from (``contracts.Geometry``); images, labels and points follow it:

    x = offset + c + M S R (y - c + e(y))      c centre of the view, M mirror, S scale, R rotation, e elastic

2D and 3D are one implementation; d is the number of spatial axes. Pixels are taken as squares or cubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import Annotated, Literal, Protocol, final

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from lemis.contracts import Batch, Draw, Elastic, Geometry, View
from lemis.errors import UsageError
from lemis.layers.basic import precise
from lemis.settings import ordered


def _positive(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] <= 0:
        raise ValueError("both ends of this range are above 0")
    return ends


Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(ordered)]
PositiveRange = Annotated[tuple[float, float], AfterValidator(ordered), AfterValidator(_positive)]
Interpolation = Literal["bilinear", "bicubic"]
Side = Annotated[int, Field(gt=0)]
Size = Side | tuple[Side, Side, Side]  # of a view: one side for all axes, or (slices, rows, cols) in 3D
Follow = Literal["exact", "index_map"]


@dataclass(frozen=True, kw_only=True)
class Spatial:
    """How the geometry of a view is drawn. [C]: the PCL authors' code, for pre-training and for ACDC."""

    # Place in the slice; all integer places alike [C]. In 3D the place is drawn with the patch (``patches.py``), and
    # "random" moves the view by up to a quarter of its side from there.
    crop: Literal["random", "centre"] = "random"
    p_mirror: Probability = 0.5  # each axis on its own [C]
    p_spatial: Probability = 0.67  # of elastic, rotation and scale, together [C]
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
    interpolation: Interpolation = "bilinear"  # of images; [C] is cubic: "bicubic" is the nearest, in 2D only


CROP_ONLY = Spatial(p_mirror=0.0, p_spatial=0.0)

_POINTS_PER_SIGMA = 1.5  # of the coarse noise: the blurred field's variance is then constant to 1e-9
_MARGIN_SIGMAS = 3.0  # noise around the view, so that the field is as strong at its border as inside
_NEWTON_STEPS = 4  # from a fixed-point start; at the strongest default 3e-5 of all points miss 1e-3 px
_ANGLES = 25  # tried in each plane for the reach of a view
_ELASTIC_SPREADS = 3.0  # standard deviations of a displacement that count for the reach
_FOUND_PX = 0.5  # of the source: a keypoint whose place in a folded view leads back further away than this is dropped


# ---------------------------------------------------------------------------------------------------- drawing


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
    with _full_precision(mirror):
        rotation = _draw_rotation(settings, spatial, d, rng)
        scale = _draw_scale(settings, spatial, rng)
        linear = mirror[:, :, None] * scale[:, None, None] * rotation  # (B, d, d)
        if box is None:
            whole = torch.tensor([[0] * d, list(source_shape)], device=linear.device)
            box = whole.expand(rows, 2, d)
        offset = _draw_offset(settings, box, out_shape, rng)
        to_source = _about_centre(linear, offset, out_shape)
        return Geometry(to_source, tuple(out_shape), _draw_elastic(settings, spatial, out_shape, rng))


def identity(
    rows: int,
    source_shape: Sequence[int],
    out_shape: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Geometry:
    """The view that is the source itself, or its centre padded and cropped to ``out_shape``."""
    out_shape = source_shape if out_shape is None else out_shape
    d = len(source_shape)
    box = torch.tensor([[0] * d, list(source_shape)], device=device).expand(rows, 2, d)
    linear = torch.eye(d, device=device).expand(rows, d, d)
    return Geometry(_about_centre(linear, _centred(box, out_shape), out_shape), tuple(out_shape))


def of_box(first: Tensor, size: Tensor, out_shape: Sequence[int], mirror: Tensor | None = None) -> Geometry:
    """The view that shows a box of the source, enlarged or shrunk to ``out_shape``, each axis on its own.

    Args:
        first: (B, d) source coordinate of the box's lower edges: -0.5 is the edge of the image.
        size: (B, d) source pixels, need not be whole.
        out_shape: Of the views.
        mirror: (B, d), -1 where an axis is mirrored and else 1.
    """
    out = torch.tensor(out_shape, device=size.device)
    scale = size / out if mirror is None else size / out * mirror
    # Centre of the view on centre of the box.
    shift = first + size / 2 - scale * (out - 1) / 2
    return Geometry(torch.cat([scale.diag_embed(), shift[..., None]], dim=-1), tuple(out_shape))


def _draw_rotation(settings: Spatial, spatial: Tensor, d: int, rng: Draw) -> Tensor:
    """(B, d, d), the unit matrix where nothing is drawn."""
    rows = len(spatial)
    on = (spatial & (rng.uniform(rows) < settings.p_rotation)).float()
    total = torch.eye(d, device=spatial.device).expand(rows, d, d)
    for plane, (low, high) in _planes(settings, d):
        total = total @ _turn(on * rng.uniform(rows, low=low * pi / 180, high=high * pi / 180), plane, d)
    return total


def _planes(settings: Spatial, d: int) -> list[tuple[tuple[int, int], Range]]:
    """The planes of rotation, in their order, and the degrees in each."""
    planes = [((d - 2, d - 1), settings.rotation_degrees)]
    if d == 3:
        planes += [((0, 2), settings.tilt_row_degrees), ((0, 1), settings.tilt_column_degrees)]
    return planes


def _turn(angle: Tensor, plane: tuple[int, int], d: int) -> Tensor:
    """(B,) radians -> (B, d, d)."""
    i, j = plane
    turn = torch.eye(d, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, i, i] = turn[:, j, j] = angle.cos()
    turn[:, i, j], turn[:, j, i] = -angle.sin(), angle.sin()
    return turn


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
    centred = _centred(box, out_shape)
    if settings.crop == "centre":
        return centred
    places = (box[:, 1] - torch.tensor(out_shape, device=box.device) + 1).clamp(min=1)
    chosen = (rng.uniform(len(box), len(out_shape)) * places).long()
    chosen = torch.minimum(chosen, places - 1)  # float32 can round up to ``places`` itself
    return torch.where(places > 1, box[:, 0] + chosen, centred)


def _centred(box: Tensor, out_shape: Sequence[int]) -> Tensor:
    spare = box[:, 1] - torch.tensor(out_shape, device=box.device)
    return box[:, 0] + spare.div(2, rounding_mode="trunc")  # the odd pixel lies behind, padding and cropping alike


def _about_centre(linear: Tensor, offset: Tensor, out_shape: Sequence[int]) -> Tensor:
    """(B, d, d + 1): y -> offset + c + linear (y - c), c the centre of the view."""
    centre = (torch.tensor(out_shape, device=linear.device) - 1) / 2
    with _full_precision(linear):
        return torch.cat([linear, (offset + centre - linear @ centre)[..., None]], dim=-1)


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


# --------------------------------------------------------------------------------------------------- applying


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


def reach_px(settings: Spatial, out_shape: Sequence[int]) -> tuple[int, ...]:
    """Sides of the box around a place from which any view of ``out_shape`` drawn there is read, in source pixels."""
    d = len(out_shape)
    spread = torch.eye(d)
    if settings.p_spatial * settings.p_rotation > 0:
        planes = _planes(settings, d)
        steps = [torch.linspace(low, high, _ANGLES) * pi / 180 for _, (low, high) in planes]
        turns = [_turn(angles, plane, d) for angles, (plane, _) in zip(steps, planes, strict=True)]
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
    sides = [ceil(float(r) - 1e-3) + m for r, m in zip(reach, moved, strict=True)]
    # As even or odd as the view, so that both have one middle.
    return tuple(side + (side - n) % 2 for side, n in zip(sides, out_shape, strict=True))


def random_view(settings: Spatial, batch: Batch, size_px: Size, rng: Draw, *, follow: Follow = "exact") -> View:
    """One view of every image of a batch, with its label, mask and keypoints where the batch has them.

    Args:
        settings: How geometry is drawn.
        batch: In 2D its ``inside`` says which part of each image a random crop is taken from; in 3D its images are
            regions around the places that views are taken at.
        size_px: Of the view.
        rng: Random numbers.
        follow: How keypoints come along, see ``apply``.
    """
    source_shape = tuple(batch.image.shape[2:])
    out_shape = shape_of(size_px, len(source_shape))
    box: Tensor | None
    if len(source_shape) == 3:
        box = _middle(len(batch.image), source_shape, out_shape, batch.image.device)
    else:
        box = None if batch.inside is None else _box_of(batch.inside)
    geometry = draw(settings, len(batch.image), source_shape, out_shape, rng, box)
    return apply(
        geometry,
        batch.image,
        batch.label,
        batch.inside,
        interpolation=settings.interpolation,
        keypoints=batch.keypoints,
        follow=follow,
    )


def two_views(settings: Spatial, batch: Batch, size_px: Size, rng: Draw) -> dict[str, View]:
    """``first`` and ``second``: two views of every image of a batch, drawn one after the other."""
    return {name: random_view(settings, batch, size_px, rng) for name in ("first", "second")}


class HowTwo(Protocol):
    """What ``TwoViews`` reads of a method's settings."""

    @property
    def spatial(self) -> Spatial:
        """How the geometry of each view is drawn."""

    @property
    def size_px(self) -> Size:
        """Of a view."""


@final
class TwoViews:
    """Two independent geometric views of every slice or patch, intensities as they are: those of the PCL protocol."""

    def __init__(self, settings: HowTwo) -> None:
        self.settings = settings

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first`` and ``second``, each (B, C, *size_px)."""
        return two_views(self.settings.spatial, batch, self.settings.size_px, rng)


def all_inside(batch: Batch) -> Batch:
    """A batch that says which pixels are real: where it has no ``inside``, every pixel of its images is."""
    if batch.inside is not None:
        return batch
    return batch._replace(inside=torch.ones_like(batch.image[:, :1], dtype=torch.bool))


def apply(
    geometry: Geometry,
    image: Tensor,
    label: Tensor | None = None,
    inside: Tensor | None = None,
    *,
    interpolation: Interpolation = "bilinear",
    keypoints: Tensor | None = None,
    follow: Follow = "exact",
) -> View:
    """Read images through a geometry; zero outside the source.

    Args:
        geometry: Of B views.
        image: (B, C, *space) of any float type; the view is float32 or float64.
        label: (B, *space) integers, read at the nearest pixel.
        inside: (B, 1, *space) bool, read at the nearest pixel.
        interpolation: Of the image.
        keypoints: (B, K, d) float, pixels of ``image``, NaN rows where there are fewer. A keypoint that the view does
            not show is NaN in it.
        follow: ``exact``: each keypoint goes where its source pixel is seen. ``index_map``, KAF's way: the keypoints'
            numbers are drawn into a label image, which is read at the nearest pixel, and a keypoint lies at the mean of
            the pixels with its number, cut to whole pixels; one that no pixel was read from is lost, and of several
            at one source pixel only the first is kept.

    Raises:
        UsageError: Bicubic in 3D.
    """
    d = image.dim() - 2
    if interpolation == "bicubic" and d == 3:
        raise UsageError(
            "bicubic interpolation of a 3D image",
            allowed="bilinear in 3D (it is trilinear there)",
            next="method.spatial.interpolation=bilinear, or objective.spatial.interpolation=bilinear to fine-tune",
        )
    if image.dtype != torch.float64:
        image = image.float()
    drawn: dict[str, Tensor] = {}  # (B, 1, *space) each, read at the nearest pixel
    if label is not None:
        drawn["label"] = label[:, None]
    if inside is not None:
        drawn["inside"] = inside
    if keypoints is not None and follow == "index_map":
        drawn["index"] = _index_map(keypoints, image.shape[2:])
    with _full_precision(image):
        grid = _grid(geometry, image.shape[2:]).to(image.dtype)
        seen = F.grid_sample(image, grid, interpolation, align_corners=False)
        if drawn:
            stacked = torch.cat([values.to(image.dtype) for values in drawn.values()], dim=1)
            nearest = F.grid_sample(stacked, grid, "nearest", align_corners=False)
            drawn = dict(zip(drawn, nearest.split(1, dim=1), strict=True))
    moved = None
    if keypoints is not None:
        moved = _read_indices(drawn["index"], keypoints) if "index" in drawn else _seen_at(geometry, keypoints)
    return View(
        seen,
        geometry,
        label=drawn["label"][:, 0].long() if "label" in drawn else None,
        inside=drawn["inside"] > 0.5 if "inside" in drawn else None,
        keypoints=moved,
    )


def quarter_turns(view: View, turns: int) -> View:
    """A view turned by ``turns`` times 90 degrees in the plane of its last two axes; its geometry follows."""
    for _ in range(turns % 4):
        view = View(
            view.image.rot90(1, (-2, -1)),
            _quarter_turn(view.geometry),
            None if view.label is None else view.label.rot90(1, (-2, -1)),
            None if view.inside is None else view.inside.rot90(1, (-2, -1)),
            None if view.keypoints is None else _turned(view.keypoints, view.geometry.shape[-1]),
        )
    return view


def _turned(points: Tensor, columns: int) -> Tensor:
    """Points of a view that many columns wide, a quarter turn later."""
    *before, row, column = points.unbind(-1)
    return torch.stack([*before, columns - 1 - column, row], dim=-1)


def _quarter_turn(geometry: Geometry) -> Geometry:
    """new[i, j] = old[j, n - 1 - i]: old position = turn @ new position + shift."""
    *_, n = geometry.shape
    d = len(geometry.shape)
    old = geometry.to_source
    turn, shift = torch.eye(d, device=old.device), torch.zeros(d, device=old.device)
    turn[-2:, -2:] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], device=old.device)
    shift[-1] = n - 1
    with _full_precision(old):
        to_source = torch.cat([old[..., :d] @ turn, old[..., :d] @ shift[:, None] + old[..., d:]], dim=-1)
    shape = (*geometry.shape[:-2], n, geometry.shape[-2])
    elastic = geometry.elastic
    if elastic is not None:
        noise = elastic.noise.rot90(1, (-2, -1))
        *before, row, column = noise.unbind(1)
        origin = elastic.origin_px.clone()
        origin[-2] = n - 1 - elastic.origin_px[-1] - (elastic.noise.shape[-1] - 1) * elastic.step_px
        origin[-1] = elastic.origin_px[-2]
        elastic = elastic._replace(noise=torch.stack([*before, -column, row], dim=1), origin_px=origin)
    return Geometry(to_source, shape, elastic)


def _grid(geometry: Geometry, source_shape: Sequence[int]) -> Tensor:
    """(B, *out, d) as grid_sample wants it: last axis first, -1 and 1 at the image's outer edges."""
    to_source, d = geometry.to_source, len(geometry.shape)
    size = torch.tensor(source_shape, device=to_source.device)
    centre_px = torch.cat([torch.zeros(d, d, device=size.device), (size[:, None] - 1) / 2], dim=1)
    affine = ((to_source - centre_px) * (2 / size)[:, None]).flip(1)  # (B, d, d + 1), normalised on the small side
    places = [torch.arange(n, device=size.device, dtype=torch.float32) for n in geometry.shape]
    grid = affine[..., d].reshape(-1, d, *[1] * d)
    for axis, place in enumerate(places):
        along = place.view([-1 if a == axis else 1 for a in range(d)])
        grid = grid + affine[..., axis].reshape(-1, d, *[1] * d) * along
    if geometry.elastic is not None:
        noise = torch.einsum("bij,bj...->bi...", affine[..., :d], geometry.elastic.noise)
        grid += _field(geometry.elastic._replace(noise=noise), places)
    return grid.movedim(1, -1)


def _field(elastic: Elastic, places: Sequence[Tensor]) -> Tensor:
    """e on the regular grid of ``places`` (one (n,) a axis): (B, d, *n), one small matrix product an axis."""
    field = elastic.noise
    for axis, place in enumerate(places):
        weights = _weights(elastic, axis, place.expand(len(field), -1))  # (B, n, coarse)
        # The first coarse axis is contracted, its pixels appended; after d rounds the axes are in order.
        rest = field.shape[3:]
        field = (field.flatten(3).mT @ weights.mT[:, None]).view(*field.shape[:2], *rest, -1)
    return field


def patch_px(size_px: Size, d: int, *, square: bool = False) -> tuple[int, ...] | None:
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


# ----------------------------------------------------------------------------------------------------- points


def source_of(geometry: Geometry, points: Tensor) -> Tensor:
    """Points (B, K, d) of the view -> the places (B, K, d) of the source that they were read from."""
    d = points.shape[-1]
    with _full_precision(points):
        if geometry.elastic is not None:
            points = points + _displacement(geometry.elastic, points)
        moved: Tensor = points @ geometry.to_source[..., :d].mT + geometry.to_source[:, None, :, d]
        return moved


def view_of(geometry: Geometry, points: Tensor) -> Tensor:
    """Points (B, K, d) of the source -> where in the view (B, K, d) they are seen; also outside the view.

    Exact without elastic; with it y + e(y) = z is solved by Newton's method, to better than 1e-3 px wherever
    the displacement does not fold the image (at the default strength: practically everywhere).
    """
    d = points.shape[-1]
    linear, shift = geometry.to_source[..., :d], geometry.to_source[:, None, :, d]
    with _full_precision(points):
        straight: Tensor = (points - shift) @ torch.linalg.inv(linear).mT
        elastic = geometry.elastic
        if elastic is None:
            return straight
        y = straight - _displacement(elastic, straight)
        longest = elastic.sigma_px[:, None, None] / 2  # a step further than this leaves where the slope is known
        for _ in range(_NEWTON_STEPS):
            value, slope = _displacement_and_slope(elastic, y)
            step = _solve(slope + torch.eye(d, device=y.device), y + value - straight)
            length = step.norm(dim=-1, keepdim=True)
            y = y - step * (longest / length.clamp(min=1e-12)).clamp(max=1)
        return y


def _seen_at(geometry: Geometry, keypoints: Tensor) -> Tensor:
    """``view_of`` (B, K, d), NaN where the view does not show the keypoint or there is none."""
    points = keypoints.to(geometry.to_source.dtype)
    seen = view_of(geometry, points)
    # Every comparison with NaN is false, so what was NaN is not kept.
    kept = ((seen >= -0.5) & (seen < torch.tensor(geometry.shape, device=seen.device) - 0.5)).all(-1)
    if geometry.elastic is not None:
        kept &= (source_of(geometry, seen) - points).norm(dim=-1) < _FOUND_PX
    return seen.masked_fill(~kept[..., None], torch.nan).to(keypoints.dtype)


def _index_map(keypoints: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, 1, *shape) int64: 1 + the number of the first keypoint in each pixel, 0 where there is none."""
    rows, k, _ = keypoints.shape
    size = torch.tensor(shape, device=keypoints.device)
    pixel = keypoints.round()
    there = ((pixel >= 0) & (pixel < size)).all(-1)  # also False for NaN
    pixel = pixel.masked_fill(~there[..., None], 0).long()
    flat = torch.zeros_like(pixel[..., 0])
    for axis, n in enumerate(shape):
        flat = flat * n + pixel[..., axis]
    none = k + 1
    number = torch.arange(1, none, device=flat.device).expand(rows, k).masked_fill(~there, none)
    drawn = torch.full((rows, int(size.prod())), none, device=flat.device)
    drawn = drawn.scatter_reduce(1, flat, number, "amin")
    return drawn.masked_fill(drawn == none, 0).view(rows, 1, *shape)


def _read_indices(index: Tensor, keypoints: Tensor) -> Tensor:
    """Mean place of the pixels of each number in ``index`` (B, 1, *out): (B, K, d) whole pixels, NaN where none is."""
    rows, k, d = keypoints.shape
    row, _, *place = index.nonzero().unbind(1)  # few pixels have a number; whole numbers add up exactly, in any order
    slot = row * k + index[index != 0].long() - 1
    total = torch.zeros(rows * k, d, dtype=torch.long, device=index.device).index_add_(0, slot, torch.stack(place, 1))
    count = torch.zeros(rows * k, 1, dtype=torch.long, device=index.device)
    count.index_add_(0, slot, torch.ones_like(slot)[:, None])
    mean = (total // count.clamp(min=1)).to(keypoints.dtype).masked_fill(count == 0, torch.nan)
    return mean.view(rows, k, d)


def carry_back(
    features: Tensor,
    geometry: Geometry,
    stride: int,
    source_shape: Sequence[int],
    out_cells: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Feature maps of views, carried back to one regular grid over the source, where they can be compared.

    Args:
        features: (B, C, *f); cell k covers the view's pixels [k stride, (k + 1) stride).
        geometry: Of the views.
        stride: View pixels per feature cell, and source pixels per cell of the result.
        source_shape: Of the source, d numbers.
        out_cells: Cells g of the result along each axis, centred on the source; ``source_shape // stride`` by
            default.

    Returns:
        (B, C, *g) float32, read bilinearly, and (B, 1, *g) bool, False where a cell's centre is not in view.
    """
    d, device = len(source_shape), features.device
    cells = tuple(out_cells) if out_cells is not None else tuple(max(1, n // stride) for n in source_shape)
    with _full_precision(features), torch.no_grad():
        centres = [
            (n - 1) / 2 + stride * (torch.arange(g, device=device) - (g - 1) / 2)
            for n, g in zip(source_shape, cells, strict=True)
        ]
        points = torch.cartesian_prod(*centres).view(1, -1, d).expand(len(features), -1, -1)
        seen = view_of(geometry, points)  # (B, K, d)
        shape = torch.tensor(geometry.shape, device=device)
        inside = ((seen >= -0.5) & (seen <= shape - 0.5)).all(-1)
        covered = torch.tensor(features.shape[2:], device=device) * stride
        grid = ((seen + 0.5) * (2 / covered) - 1).flip(-1).view(-1, *cells, d)
    with _full_precision(features):
        # ``border``: between the outermost cell centres and the view's edge there is only the outermost cell.
        features = precise(features)
        carried = F.grid_sample(features, grid.to(features.dtype), "bilinear", "border", align_corners=False)
    return carried, inside.view(-1, 1, *cells)


def _displacement(elastic: Elastic, points: Tensor) -> Tensor:
    """e at any points (B, K, d), in view pixels: (B, K, d)."""
    return _evaluate(elastic.noise, [_weights(elastic, axis, points[..., axis]) for axis in range(points.shape[-1])])


def _displacement_and_slope(elastic: Elastic, points: Tensor) -> tuple[Tensor, Tensor]:
    """e (B, K, d) and its derivative (B, K, d, d), component first, direction last."""
    d = points.shape[-1]
    away = [_away(elastic, axis, points[..., axis]) for axis in range(d)]
    weights = [(-0.5 * u * u).exp() for u in away]
    slopes = []
    for axis, u in enumerate(away):
        rising = u * weights[axis] / -elastic.sigma_px[:, None, None]
        slopes.append(_evaluate(elastic.noise, [*weights[:axis], rising, *weights[axis + 1 :]]))
    return _evaluate(elastic.noise, weights), torch.stack(slopes, dim=-1)


def _evaluate(noise: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Sum over coarse points c of noise[:, k, c] prod_a weights_a[:, point, c_a].

    ``noise`` is (B, d, *coarse), ``weights`` d times (B, K, coarse_a); the result is (B, K, d).
    """
    first, *others = weights
    b, d = noise.shape[:2]
    value = (first @ noise.movedim(2, 1).flatten(2)).view(b, -1, d, *noise.shape[3:])  # (B, K, d, *other axes)
    for weight in others:
        value = torch.einsum("bkn,bkdn...->bkd...", weight, value)
    return value


def _weights(elastic: Elastic, axis: int, places: Tensor) -> Tensor:
    """exp(-(y - coarse point)^2 / (2 sigma^2)) along one axis: (B, N) -> (B, N, coarse)."""
    away = _away(elastic, axis, places)
    return (-0.5 * away * away).exp()


def _away(elastic: Elastic, axis: int, places: Tensor) -> Tensor:
    """(y - coarse point) / sigma along one axis: (B, N) -> (B, N, coarse)."""
    points = torch.arange(elastic.noise.shape[2 + axis], device=places.device) * elastic.step_px
    per_sigma = 1 / elastic.sigma_px[:, None, None]
    return places[..., None] * per_sigma - (points + elastic.origin_px[axis]) * per_sigma


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """(..., d, d) and (..., d) -> (..., d) by Cramer's rule, 0 where singular; LAPACK is slow when tiny."""
    a = matrix.unbind(-1)  # columns
    if len(a) == 2:
        det = a[0][..., 0] * a[1][..., 1] - a[1][..., 0] * a[0][..., 1]
        rows = [
            torch.stack([a[1][..., 1], -a[1][..., 0]], -1),
            torch.stack([-a[0][..., 1], a[0][..., 0]], -1),
        ]
    else:
        rows = [torch.linalg.cross(a[(k + 1) % 3], a[(k + 2) % 3]) for k in range(3)]
        det = (a[0] * rows[0]).sum(-1)
    solved = torch.stack([(row * right).sum(-1) for row in rows], dim=-1) / det[..., None]
    return solved.nan_to_num(0.0, 0.0, 0.0)


def _middle(rows: int, source_shape: Sequence[int], out_shape: Sequence[int], device: torch.device) -> Tensor:
    """(B, 2, d) first pixel and size of the middle of a region: a view, and a quarter of its side before and behind."""
    size = [min(n, out + 2 * (out // 4)) for n, out in zip(source_shape, out_shape, strict=True)]
    first = [(n - used) // 2 for n, used in zip(source_shape, size, strict=True)]
    return torch.tensor([first, size], device=device).expand(rows, 2, len(size))


def _box_of(inside: Tensor) -> Tensor:
    """(B, 1, *space) bool -> (B, 2, d) first pixel and size of the smallest box around what is inside."""
    d = inside.dim() - 2
    first, size = [], []
    for axis in range(d):
        used = inside.amax(dim=[1, *(a + 2 for a in range(d) if a != axis)]).int()  # (B, n)
        start, end = used.argmax(1), used.shape[1] - used.flip(1).argmax(1)
        first.append(start)
        size.append(end - start)
    return torch.stack([torch.stack(first, dim=1), torch.stack(size, dim=1)], dim=1)


def _full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Geometry needs float32 even where networks run in bfloat16, which cannot tell pixel 351 from 350."""
    return torch.autocast(like.device.type, enabled=False)
