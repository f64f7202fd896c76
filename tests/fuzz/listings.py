"""What lies beside the scans: dataset.json, lists, subjects.csv, splits_final.json, names of files and structures."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from fuzz.harness import Case

WEIGHT = 1.5

_WORDS = (
    *(
        "",
        " ",
        "x",
        "0",
        "1",
        "-1",
        "CT",
        "background",
        "ignore",
        "a\nb",
        "a\x00b",
        "\x1b[31m",
        "[/red]",
        "../../x",
        "a/b",
    ),
    *(
        "Größe",
        "\u202eabc",
        "\U0001f600",
        "=HYPERLINK(1)",
        "$\\frac$",
        "<script>",
        "meta",
        "con",
        "x" * 300,
        "9" * 5000,
    ),
    *("\ud800", "caf\udce9", ".hidden", "..", "a.label", "p01_L", "P01", "a'b\"c", "a,b;c\td", "%s%s%s", "NaN"),
)
# Those that a file system takes.
_NAMES = tuple(
    word for word in _WORDS if not set("/\0") & set(word) and word not in ("", "..", "\ud800") and len(word) < 250
)


def cases(rng: random.Random) -> Iterator[Case]:
    """Each kind in turn."""
    makers: tuple[Callable[[random.Random], Case], ...] = (
        *(
            _dataset_json,
            _dataset_json,
            _list,
            _list,
            _subjects,
            _splits,
            _file_name,
            _folder_name,
            _label_name,
            _layout,
        ),
    )
    while True:
        for make in makers:
            yield make(rng)


def _check(kind: str, name: str, build: Callable[[Path], Any], target: str = "scans") -> Case:
    return Case(kind, name[:150], lambda folder: build(_folder(folder)), ("check", target, "-o", "work"), _nonsense)


def _folder(folder: Path) -> Path:
    (folder / "scans").mkdir()
    return folder / "scans"


def _nonsense(folder: Path, said: str) -> str | None:
    """Whether an index was accepted that no later step could use, or that leaves the folder."""
    index = json.loads((folder / "work" / "index.json").read_text(encoding="utf-8"))
    ids = [scan["id"] for scan in index["scans"]]
    images = [image for scan in index["scans"] for image in scan["images"]]
    inside = all((folder / "out" / f"{id}.nii.gz").resolve().parent == (folder / "out").resolve() for id in ids)
    if not inside or len(set(ids)) < len(ids) or not all(id.isprintable() for id in ids):
        return f"the ids {ids}"
    if len(set(images)) < len(images):
        return f"one image twice: {images}"
    values = list(index["labels"].values())
    if len(set(values)) < len(values) or not all(type(value) is int for value in values):
        return f"the labels {index['labels']}"
    if any(len(scan["images"]) != len(index["channels"]) for scan in index["scans"]):
        return f"{index['channels']} for {images}"
    unlabelled = all(scan["label"] is None for scan in index["scans"])
    if unlabelled and "nothing is wrong" in said and list((folder / "scans").rglob("*seg*")):
        return "the labels are not used, and nothing is said"
    return None


# ---------------------------------------------------------------- texts


def _value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, mostly shallow."""
    kinds = ["word", "word", "number", "constant", "list", "dict", "names"]
    kind = rng.choice(kinds[: 4 if depth > 2 else None])
    if kind == "word":
        return rng.choice(_WORDS)
    if kind == "number":
        return rng.choice((0, 1, -1, 2, 255, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf")))
    if kind == "constant":
        return rng.choice((None, True, False))
    if kind == "names":
        return {name: number for number, name in enumerate(rng.sample(("background", "a", "b", "c"), 3))}
    inside = [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inside if kind == "list" else {rng.choice(_WORDS): one for one in inside}


def _damaged(rng: random.Random, text: str) -> bytes:
    """A text as texts arrive: whole, cut, nested, twice, in other encodings, with a bit flipped."""
    content = text.encode("utf-8", "surrogatepass")
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: content,
        lambda: content,
        lambda: content,
        lambda: content,
        lambda: b"\xef\xbb\xbf" + content,
        lambda: text.encode("utf-16", "replace"),
        lambda: text.encode("utf-16-le", "replace"),
        lambda: text.encode("latin-1", "replace").replace(b"x", b"\xfc"),
        lambda: content[: rng.randrange(len(content) + 1)],
        lambda: content + content,
        lambda: b"",
        lambda: content.replace(b"\n", b"\r"),
        lambda: content.replace(b"a", b"\0", 1),
        lambda: rng.randbytes(60),
        lambda: _flipped(rng, content),
        lambda: b'[{"train": ' + b"[" * 3000 + b"]" * 3000 + b"}]",
        lambda: b'{"labels": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        lambda: content.replace(b"1", b"9" * 5000, 1),
    )
    return rng.choice(ways)()


def _flipped(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


# ---------------------------------------------------------------- kinds


def _dataset_json(rng: random.Random) -> Case:
    facts: dict[str, Any] = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    key = rng.choice(["channel_names", "labels", "labels", "file_ending", "modality"])
    if key == "modality":
        del facts["channel_names"]
    facts[key] = _value(rng)
    if key == "labels" and rng.random() < 0.4:
        facts["labels"] = {"background": 0, "a": _value(rng, 3), rng.choice(_WORDS): rng.choice((2, 2, 1, "2", True))}
    text = json.dumps(rng.choice((facts, facts, facts, [facts], _value(rng))), ensure_ascii=rng.random() < 0.5)
    content = _damaged(rng, text)
    return _check("dataset.json", repr(content), lambda root: _nnunet(root, {"dataset.json": content}))


def _list(rng: random.Random) -> Case:
    columns = rng.sample(("label", "subject", "id", "age", "mask", "patient_id", "image_t2", "image", "case"), 2)
    head = [rng.choice(("image", "image", "image", "Image", "image_t1", "file")), "label", *columns[: rng.randrange(3)]]
    known = {
        "image": "{}.nii.gz",
        "Image": "{}.nii.gz",
        "file": "{}.nii.gz",
        "image_t1": "{}.nii.gz",
        "label": "{}_seg.nii.gz",
    }
    rows = [[known.get(column, rng.choice(("p{}", "{}"))).format(name) for column in head] for name in "ab"]
    for _ in range(rng.randrange(3)):
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(_WORDS)
    if rng.random() < 0.2:
        rows[-1] = rng.choice((rows[-1][:-1], [*rows[-1], "more"], ["x" * 200_000], ['"', "a"], ['a"b', '"c']))
    separator, end = rng.choice(",,,;\t"), rng.choice(("\n", "\n", "\r\n", "\r"))
    content = _damaged(rng, end.join(separator.join(row) for row in [head, *rows]) + end)
    return _check(
        "csv", repr(content), lambda root: _flat(root, {"list.csv": content}), rng.choice(("scans", "scans/list.csv"))
    )


def _subjects(rng: random.Random) -> Case:
    head = rng.choice((["id", "subject"], ["id", "subject"], ["subject", "id"], ["id"], ["id", "person"], ["id", "id"]))
    rows = [[name, rng.choice(_WORDS)] for name in rng.choice(("ab", "aab", "abz", ["a.nii.gz", "b"]))]
    if rng.random() < 0.3:
        rows.append(rng.choice((["b"], [], ["a", "p", "q"], ["", "p"], ['"a', "p"])))
    separator = rng.choice(",,;\t")
    content = _damaged(rng, "\n".join(separator.join(row) for row in [head, *rows]) + "\n")
    return _check("subjects.csv", repr(content), lambda root: _flat(root, {"subjects.csv": content}))


def _splits(rng: random.Random) -> Case:
    sides = [rng.sample(["a", "b", "a", "zz", 1, None, "", *_WORDS[:3]], rng.randrange(3)) for _ in range(2)]
    entry: Any = {"train": ["a"], "val": ["b"]}
    fold: Any = rng.choice(({"train": sides[0], "val": sides[1]}, {"train": sides[0]}, _value(rng), sides))
    text = json.dumps(rng.choice(([entry], [entry, fold], [fold], fold, {"0": entry})))
    content = _damaged(rng, text)
    return _check("splits_final.json", repr(content), lambda root: _nnunet(root, {"splits_final.json": content}))


def _file_name(rng: random.Random) -> Case:
    name = rng.choice(_NAMES)
    suffix = rng.choice((".nii.gz", "_0000.nii.gz", "_seg.nii.gz", ".NII.GZ", "_ED.nii.gz", ".seg.nii.gz"))

    def build(root: Path) -> None:
        _flat(root, {})
        _write(root / f"{name}{suffix}", 3)

    return _check("file name", ascii(name + suffix), build)


def _folder_name(rng: random.Random) -> Case:
    names = [rng.choice(_NAMES) for _ in range(2)]

    def build(root: Path) -> None:
        for number, name in enumerate(sorted({*names, "other"})):
            (root / name).mkdir(exist_ok=True)
            _write(root / name / "image.nii.gz", number)

    return _check("folder name", ascii(names), build)


def _label_name(rng: random.Random) -> Case:
    name = rng.choice(_WORDS)
    facts = json.dumps({"labels": {"background": 0, name: 1, "b": 2}}, ensure_ascii=rng.random() < 0.5)
    content = facts.encode("utf-8", "surrogatepass")
    layout = rng.choice((_nnunet, _flat, _bids, _people))
    case = _check("label name", f"{layout.__name__} {name!a}", lambda root: layout(root, {"dataset.json": content}))
    return replace(case, nonsense=lambda folder, said: _nonsense(folder, said) or _unnamed(folder))


def _unnamed(folder: Path) -> str | None:
    """Whether the structures have other names than those that dataset.json gives them."""
    declared = json.loads((folder / "scans" / "dataset.json").read_text(encoding="utf-8"))["labels"]
    named = json.loads((folder / "work" / "index.json").read_text(encoding="utf-8"))["labels"]
    return None if named == declared else f"the labels {named}, declared as {declared}"


def _layout(rng: random.Random) -> Case:
    """A folder whose files were renamed, moved, removed, doubled or replaced by links, pipes and folders."""
    kind, steps = rng.choice((_nnunet, _flat, _bids, _people)), [rng.randrange(8) for _ in range(rng.randrange(1, 4))]
    seed = rng.randrange(2**32)

    def build(root: Path) -> None:
        kind(root, {})
        own = random.Random(seed)
        for step in steps:
            files = sorted(file for file in root.rglob("*") if file.is_file() and not file.is_symlink())
            if files:
                _moved(own, root, own.choice(files), step)

    return _check("layout", f"{kind.__name__} {steps} {seed}", build)


def _moved(rng: random.Random, root: Path, file: Path, step: int) -> None:
    near = file.with_name(
        rng.choice(("b_0000.nii.gz", "a_0002.nii.gz", "a.nii.gz", "a.hdr", "a-label.nii.gz", "x.txt"))
    )
    deep = root / rng.choice(("imagesTs", "labelsTs", "scribbles", "segmentations", "sub-9/anat")) / file.name
    loop = file.parent / "loop"
    if any(os.path.lexists(place) for place in (near, deep, loop)):
        return  # another step was here
    if step == 0:
        file.unlink()
    elif step == 1:
        file.rename(near)
    elif step == 2:
        deep.parent.mkdir(parents=True, exist_ok=True)
        file.rename(deep)
    elif step == 3:
        deep.parent.mkdir(parents=True, exist_ok=True)
        deep.write_bytes(file.read_bytes())
    elif step == 4:
        file.unlink()
        file.symlink_to("../.git/annex/objects/x")
    elif step == 5:
        file.unlink()
        os.mkfifo(file)
    elif step == 6:
        file.unlink()
        file.mkdir()
    else:
        loop.symlink_to(root, target_is_directory=True)


# ---------------------------------------------------------------- good folders


def _write(file: Path, seed: int, *, label: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 3 if label else 400, (6, 5, 3))
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.diag([1.0, 1.0, 4.0, 1.0])), file)


def _beside(root: Path, others: dict[str, bytes]) -> None:
    for name, content in others.items():
        (root / name).write_bytes(content)


def _nnunet(root: Path, others: dict[str, bytes]) -> None:
    for number, name in enumerate("ab"):
        _write(root / "imagesTr" / f"{name}_0000.nii.gz", number)
        _write(root / "labelsTr" / f"{name}.nii.gz", number, label=True)
    _beside(root, others)


def _flat(root: Path, others: dict[str, bytes]) -> None:
    for number, name in enumerate("ab"):
        _write(root / f"{name}.nii.gz", number)
        _write(root / f"{name}_seg.nii.gz", number, label=True)
    _beside(root, others)


def _people(root: Path, others: dict[str, bytes]) -> None:
    for number, name in enumerate("ab"):
        _write(root / name / "image.nii.gz", number)
        _write(root / name / "label.nii.gz", number, label=True)
    _beside(root, others)


def _bids(root: Path, others: dict[str, bytes]) -> None:
    for number, name in enumerate(("sub-1", "sub-2")):
        _write(root / name / "anat" / f"{name}_T1w.nii.gz", number)
        _write(root / "derivatives" / "x" / name / "anat" / f"{name}_dseg.nii.gz", number, label=True)
    _beside(root, others)
