"""Settings of prediction, resolved for a whole way: defaults < preset < YAML file < ``predict.key=value``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.settings import merge, of_dims, plain, resolve


def settings(
    dims: int,
    tree: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    prefix: str = "",
    load: Callable[[str, str], Any] = plugins.load,
) -> dict[str, Any]:
    """Those that are not at their defaults, so that to name a default is to ask for nothing.

    Args:
        dims: Of the network, as settings of tiles are of volumes alone.
        tree: Sections of the preset and the settings file.
        given: What was typed.
        prefix: What the user typed before the keys, for messages.
        load: ``plugins.outlined`` before PyTorch is imported.

    Raises:
        UsageError: A setting that does not exist, or of tiles where the network sees slices.
    """
    asked = merge(of_dims(tree, dims).get("predict", {}), given)
    chosen, usual = (
        plain(resolve(load("prediction", "settings").Settings, layer, prefix=prefix)) for layer in (asked, {})
    )
    of_tiles = [one.name for one in fields(load("prediction", "tiles").Settings) if one.name in asked]
    if dims != 3 and of_tiles:
        said = " ".join(f"{prefix}{key}={shown(asked[key], quoted=False)}" for key in of_tiles)
        raise UsageError(
            f"{said} for a network that sees whole slices",
            allowed="settings of tiles where the network is three-dimensional; in a preset, in its section volumes",
            next="leave it out",
        )
    return {key: value for key, value in chosen.items() if value != usual[key]}
