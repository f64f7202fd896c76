"""Scans as other programs write them, on any grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813

from lemis.formats import volume
from lemis.formats.paths import FORMATS, suffix_of


def affine_of(permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Stored axis k runs along world axis permutation[k], in direction signs[k]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, size) in enumerate(zip(permutation, signs, spacing, strict=True)):
        affine[world, axis] = sign * size
    affine[:3, 3] = (-7.0, 11.0, 3.5)
    return affine


def write_itk(
    array: np.ndarray, affine: np.ndarray, path: Path, said: Mapping[str, str] | None = None, *, packed: bool = False
) -> None:
    """As NRRD or MetaImage: ITK's own axes and LPS; with further fields of its header, packed or not."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for key, value in (said or {}).items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), useCompression=packed)


def write(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    if FORMATS[suffix_of(path)] in ("nrrd", "meta"):
        write_itk(array, affine, path)
    elif path.suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(array, affine), path)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)


def write_part(label: volume.Volume, structures: dict[str, int], path: Path) -> None:
    """A segmentation of 3D Slicer, which covers what is marked of a label map alone."""
    inside = [np.flatnonzero(np.moveaxis(label.array, axis, 0).any(axis=(1, 2))) for axis in range(3)]
    box = tuple(slice(places[0], places[-1] + 1) for places in inside)
    first = np.eye(4)
    first[:3, 3] = [places[0] for places in inside]
    part = label.array[box]
    grid = dataclasses.replace(label.source, shape=part.shape, affine=label.affine @ first)
    volume.write_segmentation(part, grid, structures, dict.fromkeys(structures, "#ff0000"), path)
