"""What plug-ins are shown, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lemis.promises.material import Material
from lemis.promises.trying import NotTried


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tmp_path_factory.mktemp("material") / "prepared")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """What a file has nothing for, such as other random numbers where it draws none, is skipped with the reason."""
    try:
        yield
    except NotTried as error:
        pytest.skip(str(error))
