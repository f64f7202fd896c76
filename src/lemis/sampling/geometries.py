"""Views as maps from their pixels to the source: of the whole image, of a box, turned by 90 degrees.

The map of a view is ``contracts.Geometry``; the one that spatial augmentation draws is in ``spatial.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lemis.contracts import Geometry


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
    return Geometry(about_centre(linear, centred(box, out_shape), out_shape), tuple(out_shape))


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


def quarter_turn(geometry: Geometry) -> Geometry:
    """new[i, j] = old[j, n - 1 - i]: old position = turn @ new position + shift."""
    *_, n = geometry.shape
    d = len(geometry.shape)
    old = geometry.to_source
    turn, shift = torch.eye(d, device=old.device), torch.zeros(d, device=old.device)
    turn[-2:, -2:] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], device=old.device)
    shift[-1] = n - 1
    with full_precision(old):
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


def rotation_in_plane(angle: Tensor, plane: tuple[int, int], d: int) -> Tensor:
    """(B,) radians -> (B, d, d)."""
    i, j = plane
    turn = torch.eye(d, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, i, i] = turn[:, j, j] = angle.cos()
    turn[:, i, j], turn[:, j, i] = -angle.sin(), angle.sin()
    return turn


def centred(box: Tensor, out_shape: Sequence[int]) -> Tensor:
    """(B, d) source pixel under pixel 0 of a view in the middle of each box, (B, 2, d) first pixel and size."""
    spare = box[:, 1] - torch.tensor(out_shape, device=box.device)
    return box[:, 0] + spare.div(2, rounding_mode="trunc")  # the odd pixel lies behind, padding and cropping alike


def about_centre(linear: Tensor, offset: Tensor, out_shape: Sequence[int]) -> Tensor:
    """(B, d, d + 1): y -> offset + c + linear (y - c), c the centre of the view."""
    centre = (torch.tensor(out_shape, device=linear.device) - 1) / 2
    with full_precision(linear):
        return torch.cat([linear, (offset + centre - linear @ centre)[..., None]], dim=-1)


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Geometry needs float32 even where networks run in bfloat16, which cannot tell pixel 351 from 350."""
    return torch.autocast(like.device.type, enabled=False)
