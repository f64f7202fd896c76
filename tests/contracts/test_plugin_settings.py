"""Promises of the settings of every plugin: of methods, auxiliaries, networks, and methods for one image."""

from __future__ import annotations

import dataclasses

import pytest

from lemis import plugins
from lemis.settings import plain, resolve

FOLDERS = ("methods", "auxiliary", "single", "backbones")
PLUGINS = [(folder, name) for folder in FOLDERS for name in plugins.names(folder)]


@pytest.mark.parametrize(("folder", "name"), PLUGINS)
def test_settings_are_frozen_and_have_defaults(folder: str, name: str) -> None:
    cls = plugins.load(folder, name).Settings
    defaults = cls()
    fields = dataclasses.fields(cls)
    assert all(field.kw_only for field in fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(defaults, fields[0].name, None)
    assert resolve(cls, plain(defaults)) == defaults, "the defaults pass their own checks, and survive YAML"
    silent = [row["name"] for row in plugins.settings_of(folder, name) if not row["note"]]
    assert not silent, "each default says where it is from, at the end of its line: `lemis list` shows it"
