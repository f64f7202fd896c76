"""Geometries, points and blobs for tests of views."""

import torch
from torch import Tensor

from lemis.contracts import Batch, Geometry
from lemis.sampling import spatial as spatial_augmentation
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial

SHAPES = [((60, 48), (52, 64)), ((10, 40, 34), (12, 36, 40))]  # source, view
AFFINE = Spatial(p_spatial=1.0, p_elastic=0.0)
ELASTIC = Spatial(p_spatial=1.0, elastic_sigma_px=(6.0, 8.0), elastic_alpha_px=(20.0, 60.0))


def draw(spatial: Spatial, rows: int, source: tuple[int, ...], out: tuple[int, ...], seed: int = 0) -> Geometry:
    return spatial_augmentation.draw(spatial, rows, source, out, Rows(seed, 0, "cpu"))


def pixels(shape: tuple[int, ...], rows: int = 1) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    return torch.cartesian_prod(*axes).expand(rows, -1, -1)


def given_affine(matrix: list[list[float]], shape: tuple[int, ...]) -> Geometry:
    return Geometry(torch.tensor([matrix]), shape)


def blobs(centres: Tensor, shape: tuple[int, ...], width: float = 2.0) -> Tensor:
    """(B, K, d) -> (B, K, *shape): channel k is a Gaussian blob at point k."""
    distance = (pixels(shape)[:, None] - centres[:, :, None]) ** 2
    return torch.exp(-distance.sum(-1) / (2 * width**2)).unflatten(-1, shape)


def centre_of_mass(image: Tensor) -> Tensor:
    """(B, K, *shape) -> (B, K, d)."""
    flat = image.flatten(2)
    return (flat @ pixels(tuple(image.shape[2:]))) / flat.sum(-1, keepdim=True)


def batch_of(image: Tensor, **more: Tensor) -> Batch:
    rows = torch.arange(len(image))
    return Batch(image, rows, rows, rows, rows / len(rows), torch.ones(len(rows), image.dim() - 2), **more)
