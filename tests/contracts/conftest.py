"""What plug-ins are shown, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lemis.promises.material import Material
from lemis.promises.trying import NotTried


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without instructions for bfloat16 a processor takes seconds for convolutions of volumes."""
    for item in items:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if getattr(given.get("promise"), "__name__", "").endswith("in_mixed_precision"):
            _, dims = given.get("case") or (None, given["dims"])
            if dims == 3:
                item.add_marker(pytest.mark.slow)


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
