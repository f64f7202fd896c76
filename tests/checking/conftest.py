"""A sound folder, for tests that spoil it."""

from __future__ import annotations

from pathlib import Path

import pytest

from checked_scans import label, scan, write


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A sound folder: two scans, one label."""
    write(tmp_path / "a.nii.gz", scan(1))
    write(tmp_path / "a_seg.nii.gz", label(1, 2))
    write(tmp_path / "b.nii.gz", scan(2))
    return tmp_path
