"""Settings that nobody means: key=value, YAML files of settings and plans; and markup in the names of files."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzz.harness import Case

_SCALARS = (
    *("", "x", "true", "no", "null", "12:30", "1:02:03", "010", "0x10", "2026-11-29", "-1", "0", "1", "2", "3.5"),
    *("1e20", "1e-40", "1e400", "nan", "inf", ".inf", "-.inf", ".nan", "9" * 30, "9" * 5000, "1e", "--", "[/red]"),
    *("os.system", "os.path", "torch.nn", "sys.exit", "antigravity.x", "../..", "\u202ex", "\x1b[31m", "é", "x" * 3000),
)
_TEXTS = (
    *_SCALARS,
    *("[1", "{a: 1", "[1, 2]", "[2, 1]", "[1, 2, 3]", "[true, 1]", "[]", "{}", "{a: 1}", "{1: 2}", "[[[1]]]"),
    *("[" * 3000, "{a: " * 3000, "!!python/object/apply:os.system [true]", "!!python/name:os.system", "!!binary aGk="),
    *("&a [*a]", "*a", "[&a [1, 1, 1, 1], " + "*a, " * 50_000 + "1]", "!!set {a}", "!!int 12:30", "'", "a: b: c", "\t"),
)
_FIT_KEYS = (
    *("pretrain.epochs", "pretrain.steps", "pretrain.learning_rate", "pretrain.weight_decay", "pretrain.precision"),
    *("pretrain.clip_norm", "method.temperature", "method.size_px", "method.batch_size", "method.spatial.p_mirror"),
    *("method.spatial.enlarge", "method.spatial", "backbone.base_width", "backbone.dims", "finetune.objective.size_px"),
    *("finetune.objective.loss", "finetune.objective.keypoint_share", "auxiliary.weight", "prepare.spacing_mm"),
    *("prepare.field_of_view_mm", "prepare.clip_values", "prepare.clip_percentiles", "prepare.whole_px", "prepare"),
    *("prepare.keypoints.detector", "prepare.keypoints.most", "prepare.keypoints", "epochs", "pretrain", "method"),
    *("pretrain..epochs", ".", "a" * 3000, "a." * 3000 + "a", "method.__class__", "[/red]", "pretrain.\x1b[31m"),
)
_SECTIONS = ("method", "backbone", "auxiliary", "semi", "prepare", "pretrain", "finetune", "methods", "backbones",
             "schedules", "tunings", "auxiliaries", "semis", "volumes", "pretrian")  # fmt: skip
_PLAN_KEYS = ("title", "kind", "data", "preset", "protocol", "rows", "baseline", "labelled", "folds", "seeds", "split",
              "selection", "inductive", "budget", "upstream", "size_px", "published", "settings", "row")  # fmt: skip
_FILES = (
    *(b"", b"\xff\xfe\x00\xd8", b"a: 1\na: 2", b"1: 2", b"null: 2", b"[a]: 1", b"- 1", b"text", b"a: [1", b"a: \x00"),
    *(b"\xef\xbb\xbfpretrain: {}", b"pretrain: {epochs: 3}\r\n", b"pretrain:\n\tepochs: 3", b"---\na: 1\n---\nb: 2"),
    *(
        b"methods: 5",
        b"prepare: x",
        b"methods: {pcl: [1]}",
        b"volumes: {volumes: {volumes: {}}}",
        b"x: " + b"y" * 3_000_000,
    ),
    *(b"pretrain: " + b"[" * 3000, b"pretrain: {epochs: " + b"9" * 5000 + b"}"),
    b"pretrain: {epochs: !!python/object/apply:os.system ['true']}",
)
_NAMES = (
    *("sc[/bold]", "[/red]", "[LV]", "[link=x]y", ":heart:", "{0}", "{task.x}", "%s%s", "a b", "-x", "--help", "a=b"),
    *(
        "\x1b[31mred",
        "a\nb",
        "\u202eabc",
        "caf\udce9",
        "é",
        "'",
        '"',
        "$HOME",
        "*",
        "x" * 200,
        "\\[a]",
        "#",
        "a;b",
        "~",
    ),
)


def cases(rng: random.Random) -> Iterator[Case]:
    """Each kind in turn."""
    while True:
        for make in (_override, _override, _image_override, _settings_file, _plan_file, _plan_override, _name):
            yield make(rng)


def _override(rng: random.Random) -> Case:
    key, value = rng.choice(_FIT_KEYS), rng.choice(_TEXTS)
    words = (f"{key}={value}", *((f"{key}.more=1",) if rng.random() < 0.1 else ()))
    return Case("override", _short(f"{key}={value}"), _empty_scans, ("fit", "scans", "-o", "work", *words))


def _image_override(rng: random.Random) -> Case:
    key = rng.choice(("clusters", "starts", "max_iterations", "weight_place", "cluster", "seed"))
    value = rng.choice(_TEXTS)
    words = ("segment-one", "image.png", "-o", "mask.png", "--method", "kmeans", "--size", "16", f"{key}={value}")
    return Case("override of one image", _short(f"{key}={value}"), _picture, words, nonsense=_not_as_typed(key, value))


def _settings_file(rng: random.Random) -> Case:
    content = rng.choice(_FILES) if rng.random() < 0.5 else _text(rng, _SECTIONS)
    words = ("fit", "scans", "-o", "work", rng.choice(("--settings", "--preset")), "mine.yaml")
    return Case("settings YAML", _short(repr(content)), _file("mine.yaml", content), words)


def _plan_file(rng: random.Random) -> Case:
    content = rng.choice(_FILES) if rng.random() < 0.4 else _text(rng, _PLAN_KEYS)
    if rng.random() < 0.3:
        content = b"rows: [scratch, pcl]\n" + content
    words = ("compare", "scans", "-o", "work", "--plan", "plan.yaml")
    return Case("plan YAML", _short(repr(content)), _file("plan.yaml", content), words)


def _plan_override(rng: random.Random) -> Case:
    key = rng.choice((*_PLAN_KEYS, "settings.finetune.epochs", "budget.minutes", "upstream_prepare.spacing_mm"))
    rows = ("[os.path]", "[{method: torch.nn}]", "[{method: [1]}]", "[scratch, {title: 1, method: pcl}]")
    typed = f"{key}={rng.choice((*_TEXTS, *rows))}"
    return Case("plan override", _short(typed), _empty_scans, ("compare", "scans", "-o", "work", typed))


def _name(rng: random.Random) -> Case:
    name = rng.choice(_NAMES)
    one_by_one = ("segment-one", "--batch", f"./{name}", "-o", "out", "--method", "kmeans", "--size", "16")
    verb = rng.choice((("check", f"./{name}"), ("fit", f"./{name}", "-o", "work"), one_by_one))

    def build(folder: Path) -> None:
        (folder / name).mkdir(parents=True)
        _draw(folder / name / f"{name[:20].replace('/', '')}.png")

    return Case("name with markup", f"{verb[0]} {name!r}", build, verb)


# ------------------------------------------------------------------------------------------------------------- inputs


def _empty_scans(folder: Path) -> None:
    (folder / "scans").mkdir()


def _picture(folder: Path) -> None:
    _draw(folder / "image.png")


def _draw(file: Path) -> None:
    rows, cols = np.indices((24, 24))
    Image.fromarray(np.uint8(40 + 160 * ((rows - 12) ** 2 + (cols - 10) ** 2 < 40))).save(file)


def _short(text: str) -> str:
    return text[:60]


def _file(name: str, content: bytes) -> Any:
    def build(folder: Path) -> None:
        _empty_scans(folder)
        if content == b"text":
            os.mkfifo(folder / name)
        else:
            (folder / name).write_bytes(content)

    return build


def _text(rng: random.Random, keys: tuple[str, ...]) -> bytes:
    lines = []
    for key in rng.sample(keys, rng.randint(1, 4)):
        value = rng.choice(_TEXTS)
        lines.append(f"{key}: {value}" if rng.random() < 0.5 else f"{key}: {{{rng.choice(keys)}: {value}}}")
    return "\n".join(lines).encode("utf-8", errors="replace")


# ----------------------------------------------------------------------------------------------------------- nonsense


def _not_as_typed(key: str, value: str) -> Any:
    """What was accepted must be a finite number, and the one that was typed."""

    def reason(folder: Path, _said: str) -> str | None:
        settings = json.loads((folder / "mask.json").read_text(encoding="utf-8"))["made_from"]["settings"]
        taken = settings.get(key)
        try:
            typed = float(int(value, 16)) if value.startswith("0x") else float(value)
        except ValueError:
            return f"{value!r} was taken for {key}={taken}"
        return None if math.isfinite(typed) and typed == taken else f"{value!r} was taken for {key}={taken}"

    return reason
