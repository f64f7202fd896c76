"""What plug-ins are shown, made once."""

from __future__ import annotations

import pytest

from lemis.promises.material import Material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tmp_path_factory.mktemp("material") / "prepared")
