"""Promises of every segmentation network. A file dropped into ``backbones/`` is tested here without being named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lemis import plugins
from lemis.promises import backbones

BACKBONES = plugins.names("backbones")
SLOW = {("swin_unetr", 3)}  # its smallest volume that is not a cube has 200,000 voxels
CASES = [
    pytest.param((name, dims), id=f"{name}-{dims}d", marks=[pytest.mark.slow] if (name, dims) in SLOW else [])
    for name in BACKBONES
    for dims in plugins.describe("backbones", name)["dims"]
]


@pytest.mark.parametrize("promise", [*backbones.FILE, *backbones.FILE_OF_OURS], ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", BACKBONES)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", backbones.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES)
def test_a_network(case: tuple[str, int], promise: Callable[[backbones.Subject], None], tmp_path: Path) -> None:
    promise(backbones.Subject(*case, tmp_path))
