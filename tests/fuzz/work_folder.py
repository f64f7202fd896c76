"""Files of a finished work folder that were cut, emptied or changed in one field, and the verbs that read them."""

from __future__ import annotations

import atexit
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from fuzz.harness import Case

# A finished work folder of three labelled hearts and one without, and beside its runs one that was interrupted.
_MAKE = """
import sys
from pathlib import Path

from lemis import phantom
from lemis.runs.run import Run
from lemis.verbs.fit import fit
from lemis.verbs.pretrain import pretrain

folder = Path(sys.argv[1])
scans = phantom.write_dataset(folder / "scans", subjects=4, labelled=3, shape=(24, 24, 4))
given = ["pretrain.steps=2", "finetune.steps=2"]
fit(scans, output=folder / "work", preset="tiny", method="pcl", fold=0, overrides=given, device="cpu")
Run.finish = lambda *_, **__: sys.exit(0)  # ended before its end: the checkpoint is there
half = ["steps=3", "precision=32", "checkpoint_minutes=1e-9"]
pretrain(folder / "work", method="pcl", name="half", preset="tiny", overrides=half, device="cpu")
"""
_PRETRAINED, _TUNED, _HALF = "work/runs/pcl", "work/runs/pcl-m2-fold0", "work/runs/half"

_REPORT = ("report", "work")
_EVALUATE = ("evaluate", "work")
_PREPARE = ("prepare", "work", "field_of_view_mm=auto")
_PREDICT = ("predict", _TUNED, "--device", "cpu")
_AGAIN = ("pretrain", "work", "--method", "pcl", "--name", "half", "--preset", "tiny", "steps=3", "precision=32")
_RESUME = (*_AGAIN, "checkpoint_minutes=1e-9", "--device", "cpu")
_ANEW = ("finetune", "work", "--name", "new", "--fold", "0", "--preset", "tiny", "steps=1", "precision=32")
_SCRATCH = (*_ANEW, "--device", "cpu")
_TRANSFER = (*_SCRATCH, "--pretrained", _PRETRAINED)
_ALIKE = ("report", "work", "--similarity", "heart_001:2:6,6", "--device", "cpu")
_FIT = ("fit", "scans", "-o", "work", "--preset", "tiny", "--method", "pcl", "--fold", "0", "--device", "cpu")
_FIT_AGAIN = (*_FIT, "pretrain.steps=2", "finetune.steps=2")


class Read(NamedTuple):
    """A file, and a command that reads it."""

    file: str
    command: tuple[str, ...]
    renews: bool = False  # the command makes the file anew where it is damaged


_TEXTS = (
    Read("work/index.json", _REPORT), Read("work/index.json", _PREPARE), Read("work/index.json", _EVALUATE),
    Read("work/index.json", _PREDICT), Read("work/index.json", _SCRATCH),
    Read("work/check.json", _REPORT), Read("work/checked.json", ("check", "scans", "-o", "work"), renews=True),
    Read("work/prepared/meta.json", _SCRATCH), Read("work/prepared/meta.json", _PREPARE, renews=True),
    Read("work/prepared/meta.json", _REPORT),
    Read("work/prepared/heart_001.json", _SCRATCH), Read("work/prepared/heart_001.json", _PREPARE, renews=True),
    Read(f"{_TUNED}/model.json", _PREDICT), Read(f"{_TUNED}/model.json", _REPORT),
    Read(f"{_PRETRAINED}/model.json", _TRANSFER), Read(f"{_PRETRAINED}/model.json", _ALIKE),
    Read(f"{_TUNED}/status.json", _REPORT), Read(f"{_HALF}/status.json", _RESUME),
    Read(f"{_TUNED}/status.json", _FIT_AGAIN),
    Read(f"{_TUNED}/environment.json", _REPORT), Read(f"{_PRETRAINED}/environment.json", _ALIKE),
    Read(f"{_TUNED}/settings.yaml", _REPORT), Read(f"{_HALF}/settings.yaml", _RESUME),
    Read(f"{_TUNED}/settings.yaml", _FIT_AGAIN, renews=True),
    Read(f"{_TUNED}/metrics.jsonl", _REPORT), Read(f"{_TUNED}/metrics.jsonl", _EVALUATE),
    Read(f"{_HALF}/metrics.jsonl", _RESUME), Read(f"{_TUNED}/trained_on.json", _FIT_AGAIN),
    Read(f"{_HALF}/trained_on.json", _RESUME),
    Read("work/predictions/predictions.json", _EVALUATE), Read("work/predictions/predictions.json", _REPORT),
    Read("work/predictions/predictions.json", _PREDICT), Read("work/predictions/predictions.json", _FIT_AGAIN),
    Read("work/evaluation/summary.json", _REPORT), Read("work/evaluation/per_case.csv", _REPORT),
)  # fmt: skip
_ARRAYS = (
    Read("work/prepared/heart_001.npy", _SCRATCH), Read("work/prepared/heart_001.npy", _PREPARE, renews=True),
    Read("work/prepared/heart_001.label.npy", _SCRATCH), Read("work/prepared/heart_002.label.npy", _PREPARE, True),
    Read("work/prepared/heart_004.npy", _RESUME), Read("work/prepared/heart_001.npy", _ALIKE),
)  # fmt: skip
_WEIGHTS = (
    Read(f"{_TUNED}/model.safetensors", _PREDICT), Read(f"{_PRETRAINED}/model.safetensors", _TRANSFER),
    Read(f"{_PRETRAINED}/model.safetensors", _ALIKE), Read(f"{_HALF}/resume.ckpt", _RESUME),
)  # fmt: skip

_VALUES: tuple[Any, ...] = (
    -1, 0, 10**30, 1e300, float("nan"), float("inf"), True, None, "", "x", "../../x", "/etc/passwd", "[/red]", [], {},
    [-1], ["x"], {"x": 1}, "os.path", "9" * 400,
)  # fmt: skip


class Changed(NamedTuple):
    """What a file became."""

    content: bytes
    how: str
    ruined: bool  # nobody can take it for the file that it was


def cases(rng: random.Random) -> Iterator[Case]:
    """Texts with a field changed mostly, whole texts, arrays and weights in turn."""
    while True:
        for read in rng.sample(_TEXTS, len(_TEXTS)):
            yield _case(read, rng, _a_field if rng.random() < 0.7 and not read.file.endswith("csv") else _a_text)
        for read in rng.sample(_ARRAYS, len(_ARRAYS)):
            yield _case(read, rng, _an_array)
        for read in rng.sample(_WEIGHTS, len(_WEIGHTS)):
            yield _case(read, rng, _weights)


def _case(read: Read, rng: random.Random, change: Callable[[bytes, random.Random], Changed]) -> Case:
    seed = rng.random()
    verb = read.command[0]
    return Case(
        kind=f"{Path(read.file).name if 'prepared' not in read.file else 'prepared'} {verb}",
        name=f"{read.file} {seed}",
        build=partial(_build, read.file, seed, change),
        argv=read.command,
        nonsense=partial(_nonsense, read, seed, change),
    )


def _build(file: str, seed: float, change: Callable[[bytes, random.Random], Changed], folder: Path) -> None:
    shutil.copytree(_finished(), folder, dirs_exist_ok=True)
    (folder / file).write_bytes(_made(file, seed, change).content)


def _made(file: str, seed: float, change: Callable[[bytes, random.Random], Changed]) -> Changed:
    return change((_finished() / file).read_bytes(), random.Random(seed))


def _nonsense(
    read: Read, seed: float, change: Callable[[bytes, random.Random], Changed], folder: Path, _said: str
) -> str | None:
    from lemis.formats import volume

    made = _made(read.file, seed, change)
    if made.ruined and not read.renews:
        return f"taken as it was: {made.how}"
    if {path.name for path in folder.iterdir()} != {"scans", "work"}:
        return f"written outside: {sorted(path.name for path in folder.iterdir())}"
    for path in (folder / "work" / "predictions").glob("*.nii.gz"):
        if not set(np.unique(volume.read(path).array)) <= {0, 1, 2, 3}:
            return f"{path.name} holds values that no structure has ({made.how})"
    return None


# ----------------------------------------------------------------------------------------------------- the folder


_MAKING = Lock()


def _finished() -> Path:
    with _MAKING:
        return _make()


@cache
def _make() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lemis-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder)], env=known, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert (folder / _HALF / "resume.ckpt").is_file(), "the run that was interrupted"
    index = folder / "work" / "index.json"  # the scans that each copy brings
    index.write_text(index.read_text(encoding="utf-8").replace(str(folder / "scans"), "scans"), encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------------------ the changes


def _a_text(content: bytes, rng: random.Random) -> Changed:
    """The whole of it."""
    made = {
        "empty": b"", "a list": b"[]", "an object": b"{}", "a number": b"7", "null": b"null",
        "no text": b"\xff\xfe\x00garbage", "nul": b"\x00" * 100, "cut": content[: rng.randrange(1, len(content))],
        "deep": b"[" * 100_000, "many digits": b'{"version": ' + b"9" * 5000 + b"}", "not UTF-8": b"\xe9" + content,
        "a tag": b"!!python/object/apply:os.system ['touch evil']\n", "half a letter": b'{"version": "\\ud800"}',
        "twice": content + content, "markup": b"[/red]",
    }  # fmt: skip
    how = rng.choice(sorted(made))
    harmless = ("cut", "twice", "an object", "a list", "null", "deep")  # of a log, of YAML, of nothing left out
    if content[:8] == b'{"step":':  # a log may be empty, and its last line torn
        return Changed(made[how], how, how in ("no text", "not UTF-8"))
    return Changed(made[how], how, how not in harmless)


def _a_field(content: bytes, rng: random.Random) -> Changed:
    """One field gone or with another value; of YAML and logs one line."""
    text = content.decode()
    try:
        tree = json.loads(text)
    except ValueError:
        lines = text.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        value = json.dumps(rng.choice(_VALUES))
        key = lines[place].partition(":")[0]
        lines[place] = rng.choice(["", f"{key}: {value}\n", "{" + f'"step": {value}' + "}\n", f"{value}\n", "\x00\n"])
        return Changed("".join(lines).encode(), f"line {place} is {lines[place]!r}", False)
    parts = list(_parts(tree))
    holder, key = rng.choice(parts)
    if rng.random() < 0.25:
        how = f"{key} gone"
        del holder[key]
    else:
        value = rng.choice(_VALUES)
        how = f"{key}={value!r:.40}"
        holder[key] = value
    return Changed(json.dumps(tree).encode(), how, False)


def _parts(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every field of a tree, as what holds it and its key."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _parts(tree[key])


def _an_array(content: bytes, rng: random.Random) -> Changed:
    """An array file that another one took the place of."""
    array = np.load(io.BytesIO(content))
    made = {
        "empty": b"", "cut": content[: rng.randrange(1, len(content))], "garbage": bytes(rng.randbytes(len(content))),
        "longer": content + b"\x00", "of objects": _saved(np.array([{"x": 1}], object)), "a pickle": pickle.dumps([1]),
        "another shape": _saved(array[:1]), "another type": _saved(array.astype(np.float64)),
        "no axes": _saved(np.array(7, array.dtype)), "transposed": _saved(np.asfortranarray(array)),
        "a huge shape": content[:10] + content[10:].replace(str(array.shape).encode(), b"(9999999, 9, 9999999)", 1),
        "no header": b"\x93NUMPY\x01\x00\xff\xff", "a deep header": b"\x93NUMPY\x01\x00\xf0\x0f" + b"(" * 4080,
    }  # fmt: skip
    how = rng.choice(sorted(made))
    return Changed(made[how], how, True)


def _saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _weights(content: bytes, rng: random.Random) -> Changed:
    """Weights or a checkpoint."""
    made = {
        "empty": b"", "cut": content[: rng.randrange(1, len(content))], "garbage": bytes(rng.randbytes(500)),
        "a list": b"[]", "a pickle": pickle.dumps({"step": 1}), "an evil pickle": pickle.dumps(_Evil()),
        "nul": b"\x00" * len(content),
    }  # fmt: skip
    if content[:2] != b"PK":  # a header of JSON, and its length before it
        size = int.from_bytes(content[:8], "little")
        head, body = json.loads(content[8 : 8 + size]), content[8 + size :]
        name = rng.choice([key for key in head if key != "__metadata__"])
        made |= {
            "no tensors": _packed({}, b""), "not finite": _packed(head, b"\xff" * len(body)),
            "one gone": _packed({key: value for key, value in head.items() if key != name}, body),
            "another name": _packed({("x" if key == name else key): value for key, value in head.items()}, body),
            "another type": _packed({**head, name: {**head[name], "dtype": "I32"}}, body),
            "another shape": _packed({**head, name: {**head[name], "shape": [1, *head[name]["shape"]]}}, body),
            "a huge shape": _packed({**head, name: {**head[name], "shape": [2**60]}}, body),
        }  # fmt: skip
    how = rng.choice(sorted(made))
    # Pre-training hands on the parts that fit, and says which.
    return Changed(made[how], how, how not in ("one gone", "another name", "another shape", "another type"))


def _packed(head: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("evil",)
