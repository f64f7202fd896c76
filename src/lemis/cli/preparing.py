"""``lemis prepare`` as it is typed: with a preset, a settings file and ``KEY=VALUE``, as ``lemis fit`` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemis.preparation.keypoints import preparation
from lemis.settings import load_preset, of_dims, parse_overrides, read_yaml


def prepare(
    work: Path,
    *,
    overrides: Sequence[str] = (),
    dims: int = 2,
    preset: str | None = None,
    settings_file: Path | None = None,
    jobs: int | None = None,
) -> None:
    """Settings of the section ``prepare``, resolved, for the verb.

    Args:
        work: The work folder, with the index that ``lemis check`` wrote.
        overrides: Settings over the preset; ``lemis list --json`` shows them.
        dims: Of the network; a preset may prepare volumes otherwise.
        preset: Settings by name (``lemis list``) or by file; by default none.
        settings_file: Settings that win over the preset; by default none.
        jobs: Processes that work in parallel; by default as many as the processor has, and no more than save time.
    """
    from lemis.verbs.prepare import prepare as verb  # here, where all else was refused

    layers = [load_preset(preset) if preset else {}, read_yaml(settings_file) if settings_file else {}]
    sections = [of_dims(layer, dims).get("prepare", {}) for layer in layers]
    images, keypoints = preparation(*sections, parse_overrides(overrides))
    verb(work, settings=images, keypoints=keypoints, jobs=jobs)
