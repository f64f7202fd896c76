"""What several folders of tests share: one thread, and made-up scans, checked and prepared once."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch; test processes share the cores

import draws  # noqa: F401  (after the number of threads is set)
from dicoms import write_series  # noqa: F401  (a fixture)

# How long an example takes, or how long it takes to draw one, is the machine's matter.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=20)  # `make check`
settings.load_profile("any machine")

SUBJECTS, LABELLED, SHAPE = 6, 3, (40, 40, 5)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected lives to the end: the garbage collector need not go through it again and again."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session")
def phantom_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six made-up hearts in nnU-Net's layout, three of them labelled. Read only."""
    from lemis import phantom

    return phantom.write_dataset(
        tmp_path_factory.mktemp("phantom") / "scans", subjects=SUBJECTS, labelled=LABELLED, shape=SHAPE
    )


@pytest.fixture(scope="session")
def prepared_work(phantom_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with those scans, checked and prepared with the ``tiny`` preset, keypoints too. Read only."""
    from lemis.preparation import keypoints
    from lemis.preparation.settings import Settings
    from lemis.settings import load_preset, resolve
    from lemis.verbs.check import check
    from lemis.verbs.prepare import prepare

    work = tmp_path_factory.mktemp("phantom-work")
    check(phantom_scans, output=work, jobs=1)
    images = resolve(Settings, load_preset("tiny")["prepare"])
    prepare(work, settings=images, keypoints=keypoints.Settings(most=16), jobs=1)
    return work


@pytest.fixture
def work(prepared_work: Path, tmp_path: Path) -> Path:
    """A copy of the prepared work folder, to train in."""
    return Path(shutil.copytree(prepared_work, tmp_path / "work"))


@pytest.fixture
def fresh_work(prepared_work: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Further copies of the prepared work folder, by name."""
    return lambda name: Path(shutil.copytree(prepared_work, tmp_path / name))
