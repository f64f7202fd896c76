"""Prepared scans that are changed, as if their files had been and ``prepare`` had run again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from lemis.preparation import store, store_files


def replace_prepared(work: Path, id: str, *, image: bool = False, label: bool = False) -> None:
    """Turn the image of a prepared scan upside down, or its label, which has one."""
    opened = store.open_store(work / "prepared")
    i = opened.index_of(id)
    pixels, classes = np.array(opened.image(i)), opened.label(i)
    marked = None if classes is None else np.array(classes)
    if image:
        pixels = pixels[:, :, ::-1]
    if label:
        assert marked is not None, "a labelled scan"
        marked = marked[:, ::-1]
    facts = dataclasses.replace(opened.scans[i], fingerprint=f"{opened.scans[i].fingerprint}, and again")
    store_files.write_scan(opened.path, facts, pixels, marked)


def lose_keypoints(work: Path) -> None:
    """As if the scans had been prepared without keypoints."""
    meta = work / "prepared" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text(encoding="utf-8")), "keypoints": None}))
