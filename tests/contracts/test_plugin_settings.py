"""Promises of the settings of every plugin: of methods, extra losses, semi-supervision, networks, single images."""

from __future__ import annotations

import dataclasses

import pytest

from lemis import plugins
from lemis.promises import own_settings

FOLDERS = ("methods", "auxiliary", "semi", "single", "suggesters", "backbones")
PLUGINS = [(folder, name) for folder in FOLDERS for name in plugins.names(folder)]


@pytest.mark.parametrize(("folder", "name"), PLUGINS)
def test_settings_are_frozen_and_have_defaults(folder: str, name: str) -> None:
    own_settings.settings_are_frozen_and_have_defaults(folder, name)
    own_settings.each_setting_says_where_its_default_is_from(folder, name)
    cls = plugins.load(folder, name).Settings
    names = [field.name for field in dataclasses.fields(cls)] or ["another"]  # of some there is nothing to set
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), names[0], None)
