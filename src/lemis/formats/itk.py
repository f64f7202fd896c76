"""NRRD (``.nrrd``, ``.nhdr``) and MetaImage (``.mha``, ``.mhd``), by SimpleITK, whose LPS is turned into RAS.

SimpleITK sees only files whose headers have been checked (``headers.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.formats import headers, segments
from lemis.formats.faults import not_an_intensity, reading
from lemis.formats.grids import LPS_TO_RAS
from lemis.formats.notes import Note
from lemis.formats.paths import FORMATS, suffix_of
from lemis.formats.source import Source, spatial, usable

Array = npt.NDArray[Any]


_NO_SPACING = Note(
    "no spacing",
    "the header states no distance of voxels; 1 mm is assumed",
    "fine if lengths do not matter; otherwise export it with its spacing",
)
_NO_SPACE = Note(
    "unknown orientation",
    "the header names no space of the body: left, right, up and down are a guess",
    "fine if all scans lie alike; otherwise export it with its space (LPS or RAS)",
)


def read(path: Path, with_voxels: bool) -> tuple[Source, Array | None]:
    """A file, or a header whose voxels lie beside it. Raises like ``volume.read``."""
    import SimpleITK as sitk  # noqa: N813

    kind = FORMATS[suffix_of(path)]
    with reading(path):
        header = headers.read(path, kind)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if kind == "nrrd" else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in pixel:
        raise not_an_intensity(path, f"complex numbers ({pixel})", "save the magnitude as float32")
    size, vector = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    shape, channels = spatial(path, (*size, vector) if vector > 1 and len(size) > 2 else size)
    channels = vector if vector > 1 else channels
    source = usable(
        Source(
            path=path,
            format=kind,
            shape=shape,
            channels=channels,
            affine=LPS_TO_RAS @ _affine_lps(reader),
            dtype=pixel,
            segments=segments.read(path, header.pairs, channels),
            notes=(*(() if header.spaced else (_NO_SPACING,)), *(() if header.oriented else (_NO_SPACE,))),
            header={
                "dimension": len(size),
                "spacing": reader.GetSpacing(),
                "origin": reader.GetOrigin(),
                "direction": reader.GetDirection(),
            },
        )
    )
    if not with_voxels:
        return source, None
    with reading(path):
        unpacked = headers.unpack(header)
        if unpacked is None:
            headers.verify(header)
            stored = sitk.GetArrayFromImage(reader.Execute())  # (T, Z, Y, X), vector components last
        else:
            stored = unpacked.reshape((*reversed(size), vector) if vector > 1 else tuple(reversed(size)))
    axes = tuple(reversed(range(len(size)))) + ((len(size),) if vector > 1 else ())
    return source, stored.transpose(axes).reshape(shape if channels == 1 else (*shape, channels))


def _affine_lps(image: Any) -> npt.NDArray[np.float64]:
    """(4, 4) voxel -> mm LPS of a SimpleITK image or reader of 2, 3 or 4 dimensions."""
    n = image.GetDimension()
    keep = min(n, 3)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:keep, :keep]
    affine[:keep, :keep] = direction * np.array(image.GetSpacing())[:keep]
    affine[:keep, 3] = image.GetOrigin()[:keep]
    return affine


def write_segmentation(stored: Array, like: Source, lines: Mapping[str, str], path: Path) -> None:
    """A label map in stored order as a ``.seg.nrrd``, whatever the format of the scan; ``lines`` name its segments."""
    import SimpleITK as sitk  # noqa: N813

    affine = np.linalg.inv(LPS_TO_RAS) @ like.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(stored.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    for key, text in lines.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path), useCompression=True)


def write_labels(stored: Array, like: Source, path: Path) -> None:
    """A label map in stored order, packed."""
    import SimpleITK as sitk  # noqa: N813

    dimensions = min(like.header["dimension"], 3)
    image = sitk.GetImageFromArray((stored[:, :, 0] if dimensions == 2 else stored).T)
    image.SetSpacing(like.header["spacing"][:dimensions])
    image.SetOrigin(like.header["origin"][:dimensions])
    full = like.header["dimension"]
    image.SetDirection(
        np.array(like.header["direction"]).reshape(full, full)[:dimensions, :dimensions].ravel().tolist()
    )
    sitk.WriteImage(image, str(path), useCompression=True)
