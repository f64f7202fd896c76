"""Folders for the examples of one property."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return lambda: tmp_path_factory.mktemp("scans")
