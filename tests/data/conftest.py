"""Made-up DICOM series."""

from __future__ import annotations

import locale
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

SeriesWriter = Callable[..., list[Path]]


@pytest.fixture
def write_series() -> Iterator[SeriesWriter]:
    """Write (columns, rows, slices) int16 values as one file per slice."""
    before = locale.setlocale(locale.LC_ALL)

    def write(
        folder: Path,
        array: np.ndarray,
        *,
        positions: Sequence[Sequence[float]] | None = None,
        orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
        uid: str = "1.2.3",
        names: Sequence[str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        positions = positions or [(-10.0, -20.0, 5.0 + 2.0 * z) for z in range(array.shape[2])]
        files = []
        for z, position in enumerate(positions):
            image: Any = sitk.GetImageFromArray(np.ascontiguousarray(array[:, :, z : z + 1].T))
            image.SetSpacing((0.5, 0.75, 2.0))
            facts = {
                "0008|0060": "CT",
                "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
                "0008|0018": f"{uid}.{z + 1}",
                "0020|000d": "1.2.9",
                "0020|000e": uid,
                "0020|0032": "\\".join(map(str, position)),
                "0020|0037": "\\".join(map(str, orientation)),
                "0028|1052": "-1024",
                "0028|1053": "1",
            } | (tags or {})
            for key, value in facts.items():
                image.SetMetaData(key, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            files.append(folder / (names[z] if names else f"{z}.dcm"))
            writer.SetFileName(str(files[-1]))
            writer.SetImageIO("GDCMImageIO")
            writer.Execute(image)
        return files

    yield write
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the process in the locale C (reading does not)
