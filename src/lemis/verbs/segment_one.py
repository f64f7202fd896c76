"""``lemis segment-one``: segment one image by itself, without labels and without a training set, or a folder of such.

A method of ``single/`` divides the image into clusters; one of them is proposed as the object and is the mask. Another
is chosen by its number (``--pick``) or by a place in it (``--click``), from the label map that lies beside the mask.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json as json_text
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lemis import plugins
from lemis.contracts import Segmented
from lemis.data import single_image, volume
from lemis.data.single_image import Stack
from lemis.engine.launch import chosen_device
from lemis.engine.run import environment, messages, peak_memory_gb
from lemis.errors import LemisError, UsageError
from lemis.measure import clusters, tables
from lemis.measure.clusters import Overlap, Protocol
from lemis.report import overlay
from lemis.settings import parse_overrides, plain, read_yaml, resolve

Array = NDArray[Any]
Facts = dict[str, Any]
Choice = dict[int, tuple[int, ...]]  # per slice number, the clusters in the mask

VERSION = 1
METHOD, SEED, SIZE = "s3net", 0, 256  # where nothing else is said; 256 x 256 as in the papers
SUMMARY = "summary.csv"
_SHOWN_PX = 800
_LEAST_SIZE = 8
_MOST_AT_ONCE = {"cpu": 8, "cuda": 64}  # more networks side by side gain nothing
_SCORES = ("dice", "hammoude", "xor")
_COLUMNS = (
    "image", "slice", "status", "clusters", "chosen", "share", "iterations", "restarts", "seconds", "protocol",
    "best_cluster", *_SCORES, *(f"chosen_{name}" for name in _SCORES), "problem",
)  # fmt: skip


class Result(NamedTuple):
    """What ``segment_one`` wrote: the record of the image, or of the folder; and the images that failed."""

    record: Facts
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What was typed; None where nothing was."""

    method: str | None
    preset: str | None
    overrides: tuple[str, ...]
    seed: int | None
    size: str | None
    slices: str | None
    window: str | None


class _Job(NamedTuple):
    """One image, ready to be segmented."""

    image: Path
    mask: Path
    stack: Stack  # its planes no larger than they are shown
    inputs: dict[int, Array]  # per slice number, (C, h, w) as the method sees it
    made_from: Facts


class _Found(NamedTuple):
    """What the method made of one slice."""

    labels: Array  # (h, w)
    iterations: int
    restarts: int
    seconds: float  # shared equally by the images that were trained side by side
    at_once: int


def segment_one(
    image: Path | None = None,
    *,
    output: Path,
    batch: Path | None = None,
    method: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    size: str | None = None,
    slices: str | None = None,
    window: str | None = None,
    pick: str | None = None,
    click: str | None = None,
    reference: Path | None = None,
    references: Path | None = None,
    protocol: Protocol = "honest",
    at_once: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write the mask of the object, the map of all clusters, an overlay to look at, and a record of how they came.

    Beside ``mask.png`` lie ``mask.labels.png``, ``mask.overlay.png`` (a folder of them where there are several slices)
    and ``mask.json``. What was made before from the same file in the same way is not made again.

    Args:
        image: A picture, a DICOM slice, a volume, or the folder of one DICOM series.
        output: The mask to write, in a format that the image's can be compared with; with ``batch``, a folder.
        batch: A folder: every image in it, several side by side. One that fails does not stop the others.
        method: File name in ``single/``, or a dotted name; ``s3net`` by default.
        preset: A name in the method's ``PRESETS``, or a YAML file of its settings.
        overrides: ``key=value`` of the method's settings.
        seed: Of the networks' first weights; 0 by default, the same for every image and slice.
        size: Side of the square that the method works at, in pixels, or ``native``; 256 by default.
        slices: Of a volume, ``10:20`` or ``12``, counted from 1; all by default.
        window: ``LOW:HIGH``, what becomes black and white, in the image's own values; by default its percentiles.
        pick: The cluster to take for the object: ``3``, ``2+3`` for both, ``12:3,13:1`` by slice.
        click: ``ROW,COL`` counted from 0: the cluster that holds this pixel, in every slice.
        reference: A label map to score against; all that is not 0 is the object.
        references: With ``batch``, a folder of such, named like the images.
        protocol: ``honest``, or ``released`` (as the authors' code scores, see ``measure/clusters.py``).
        at_once: Images side by side; by default as many as memory holds, if the first ones show a gain.
        device: ``auto``, ``cpu`` or ``cuda``.
        json: Print the record instead of tables.

    Returns:
        The record, and the images of a batch that failed.

    Raises:
        UsageError: Options that contradict each other, an unknown setting, or a cluster that is not there.
        DataFault: An image that cannot be segmented as it is.
    """
    asked = _Asked(
        method=method, preset=preset, overrides=tuple(overrides), seed=seed, size=size, slices=slices, window=window
    )
    _refuse_contradictions(image, batch, pick, click)
    _refuse_other_references(batch, reference, references)
    target = torch.device(chosen_device(device))
    pace = _Pace(at_once, target)
    if batch is not None:
        return _batch(batch, output, asked, references, protocol, pace, json)
    assert image is not None
    return Result(_one(image, output, asked, pick, click, reference, protocol, pace, json))


def _refuse_contradictions(image: Path | None, batch: Path | None, pick: str | None, click: str | None) -> None:
    if (image is None) == (batch is None):
        raise UsageError(
            "no image" if image is None else f"{image} and --batch {batch}",
            allowed="one image, or a folder of them with --batch",
            next="lemis segment-one IMAGE -o MASK",
        )
    if pick is not None and click is not None:
        raise UsageError("--pick and --click", allowed="one of them", next=f"--pick {pick}")
    if batch is not None and (pick is not None or click is not None):
        raise UsageError(
            f"--batch with --{'pick' if pick is not None else 'click'}",
            allowed="a choice for one image at a time: numbers mean something else in each",
            next="lemis segment-one IMAGE -o OUTPUT/NAME.png --pick LABEL",
        )


def _refuse_other_references(batch: Path | None, reference: Path | None, references: Path | None) -> None:
    wrong = references if batch is None else reference
    if wrong is not None:
        given, wanted = ("--references", "--reference") if batch is None else ("--reference", "--references")
        raise UsageError(
            f"{given} {wrong} {'without' if batch is None else 'with'} --batch",
            allowed="--reference LABELMAP for one image, --references DIR for a folder of them",
            next=f"{wanted} {wrong}",
        )


# ------------------------------------------------------------------------------------------------------- one image


def _one(
    image: Path, mask: Path, asked: _Asked, pick: str | None, click: str | None, reference: Path | None,
    protocol: Protocol, pace: _Pace, json: bool,
) -> Facts:  # fmt: skip
    stored = _stored(mask)
    choosing = pick is not None or click is not None
    made_from = _made_from(image, asked, stored if choosing else None)
    again = _is_made(stored, made_from, mask)
    job = _open(image, mask, made_from)
    marked = _references(reference, job.stack)
    console = messages()
    for note in job.stack.notes:
        console.print(f"{image}: {note}", markup=False)
    if again:
        assert stored is not None
        console.print(f"{stored['files']['labels']}: made before from the same image, not made again", markup=False)
        found, label_map = stored["slices"], _label_map(stored, job)
    else:
        found, label_map = _segmented(job, pace, console)
    chosen, by = _choice(job.stack, found, label_map, pick, click)
    record = _written(job, found, label_map, chosen, by, marked, protocol)
    if json:
        print(json_text.dumps(record, indent=1))
    else:
        _print(record, job)
    return record


def _open(image: Path, mask: Path, made_from: Facts) -> _Job:
    window = _numbers(made_from["window"], "--window", "LOW:HIGH")
    slices = _slices(made_from["slices"])
    size = None if made_from["size"] == "native" else int(made_from["size"])
    stack = single_image.read(image, slices=slices, window=window)
    allowed = volume.LABEL_SUFFIXES[stack.source.format]
    if volume.suffix_of(mask) not in allowed:
        raise UsageError(
            f"-o {mask} for {image.name}",
            allowed=f"a label map of this image is written as {' or '.join(allowed)}",
            next=f"-o {mask.with_name(mask.name.split('.')[0] + allowed[0])}",
        )
    inputs = {
        number: single_image.resized(plane, size)
        for number, plane in zip(stack.numbers, stack.planes, strict=True)
        if number not in stack.constant
    }
    shown = tuple(single_image.shrunk(plane, _SHOWN_PX) for plane in stack.planes)
    return _Job(image, mask, dataclasses.replace(stack, planes=shown), inputs, made_from)


def _segmented(job: _Job, pace: _Pace, console: Console) -> tuple[list[Facts], dict[int, Array]]:
    run = _runner(job.made_from, pace.device)
    shape = " x ".join(map(str, next(iter(job.inputs.values())).shape[1:]))
    many = f", {tables.count(len(job.inputs), 'slice')}" if len(job.inputs) > 1 else ""
    console.print(f"{job.image}: {job.made_from['method']} at {shape} pixels{many}", markup=False)
    answers: dict[int, _Found] = {}
    with _progress(console) as progress:
        bar = progress.add_task("segmenting", total=len(job.inputs))
        for number, answer in _side_by_side(list(job.inputs.items()), run, pace):
            if isinstance(answer, Exception):
                raise answer
            answers[number] = answer
            progress.advance(bar)
    return _described(job, answers)


def _described(job: _Job, answers: Mapping[int, _Found]) -> tuple[list[Facts], dict[int, Array]]:
    """What is known of each slice without a reference, and its clusters, numbered by size, on the image's own grid."""
    facts, planes = [], {}
    for number in sorted(answers):
        answer = answers[number]
        labels, names = clusters.numbered(answer.labels)
        proposal = clusters.propose(job.inputs[number], labels)
        planes[number] = single_image.nearest(labels, job.stack.shape)
        facts.append(
            {
                "slice": number,
                "iterations": answer.iterations,
                "restarts": answer.restarts,
                "seconds": round(answer.seconds, 3),
                "side_by_side": answer.at_once,
                "worked_at_px": list(labels.shape),
                "clusters": [
                    {**cluster._asdict(), "network_label": name}
                    for cluster, name in zip(proposal.clusters, names, strict=True)
                ],
                "proposed": proposal.label,
                "why": proposal.reason,
            }
        )
    return facts, planes


# -------------------------------------------------------------------------------------------------- which cluster


def _choice(
    stack: Stack, found: Sequence[Facts], planes: Mapping[int, Array], pick: str | None, click: str | None
) -> tuple[Choice, str]:
    chosen: Choice = {facts["slice"]: () if facts["proposed"] is None else (facts["proposed"],) for facts in found}
    if click is not None:
        row, col = _place(click, stack.shape)
        return {number: (int(planes[number][row, col]),) for number in chosen}, f"the pixel {click}"
    if pick is None:
        return chosen, "proposal"
    return {**chosen, **_picked(pick, found)}, f"--pick {pick}"


def _picked(pick: str, found: Sequence[Facts]) -> Choice:
    there = {facts["slice"]: [cluster["label"] for cluster in facts["clusters"]] for facts in found}
    chosen: Choice = {}
    for part in pick.split(","):
        which, _, labels = part.rpartition(":")
        try:
            wanted = tuple(int(label) for label in labels.split("+"))
            number = int(which) if which else next(iter(there))
        except ValueError:
            raise UsageError(
                f"--pick {pick}", allowed="3, 2+3 for both, 12:3,13:1 by slice", next=f"--pick {_example(there)}"
            ) from None
        if not which and len(there) > 1:
            raise UsageError(
                f"--pick {pick} for {len(there)} slices",
                allowed="SLICE:LABEL, as each slice has clusters of its own; or --click ROW,COL for all of them",
                next=f"--pick {_example(there)}",
            )
        if number not in there or not set(wanted) <= set(there[number]):
            raise UsageError(
                f"--pick {pick}",
                allowed=f"clusters {', '.join(map(str, there[number]))}"
                if number in there
                else f"slices {', '.join(map(str, there))}",
                next=f"--pick {_example(there)}; the overlay shows the numbers",
            )
        chosen[number] = wanted
    return chosen


def _example(there: Mapping[int, Sequence[int]]) -> str:
    number, labels = next(iter(there.items()))
    return str(labels[-1]) if len(there) == 1 else f"{number}:{labels[-1]}"


def _place(click: str, shape: tuple[int, int]) -> tuple[int, int]:
    parts = click.split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        row, col = (int(part) for part in parts)
        if row < shape[0] and col < shape[1]:
            return row, col
    raise UsageError(
        f"--click {click}",
        allowed=f"ROW,COL with rows 0 to {shape[0] - 1} and columns 0 to {shape[1] - 1}",
        next=f"--click {shape[0] // 2},{shape[1] // 2}; the overlay's axes show the pixels",
    )


# -------------------------------------------------------------------------------------------------------- training


def _runner(made_from: Facts, device: torch.device) -> Callable[[Array], Segmented]:
    """The method, as a function of images (N, C, h, w) alone."""
    name = made_from["method"]
    module = plugins.load("single", name)
    settings = resolve(module.Settings, made_from["settings"])

    def run(images: Array) -> Segmented:
        seeds = [made_from["seed"]] * len(images)
        found: Segmented = module.segment(torch.from_numpy(images).to(device), settings, seeds)
        shape = (len(images), *images.shape[2:])
        if tuple(found.labels.shape) != shape or not len(found.iterations) == len(found.restarts) == len(images):
            raise LemisError(f"{name} gave labels {tuple(found.labels.shape)} for {shape}: a fault of the method")
        return found

    return run


class _Pace:
    """How many images are trained side by side: as many as memory holds, unless one by one turns out faster.

    The first image is trained alone, which tells time and memory; nothing is computed for the probe's sake.
    """

    def __init__(self, at_once: int | None, device: torch.device) -> None:
        self.device = device
        self.fixed = at_once is not None
        self.now = at_once or 1
        self._alone: float | None = None  # seconds per iteration of one image

    def learn(self, count: int, seconds: float, iterations: int, gb: float | None) -> None:
        """What training ``count`` images took in all; ``gb`` is None where the memory is not known."""
        if self.fixed:
            return
        each = seconds / max(iterations, 1)
        if count == 1 and self._alone is None:
            self._alone = each
            fit = 1 if gb is None else int(0.5 * _free_gb(self.device) / max(gb, 0.01))
            self.now = min(max(fit, 1), _MOST_AT_ONCE[self.device.type])
        elif self._alone is not None and each > self._alone:
            self.now, self.fixed = 1, True

    def shrink(self, count: int) -> None:
        """So many were too many."""
        self.now, self.fixed = max(1, count // 2), True


def _side_by_side(
    inputs: Sequence[tuple[Any, Array]], run: Callable[[Array], Segmented], pace: _Pace
) -> Iterator[tuple[Any, _Found | Exception]]:
    """Segment images (C, h, w), those of one shape together; each comes back under its key, as a result or an error."""
    shapes: dict[tuple[int, ...], list[tuple[Any, Array]]] = {}
    for key, array in inputs:
        shapes.setdefault(array.shape, []).append((key, array))
    for rows in shapes.values():
        while rows:
            group, rows = rows[: pace.now], rows[pace.now :]
            yield from _together(group, run, pace)


def _together(
    group: Sequence[tuple[Any, Array]], run: Callable[[Array], Segmented], pace: _Pace
) -> Iterator[tuple[Any, _Found | Exception]]:
    held, began = _held_gb(pace.device), time.perf_counter()
    try:
        found = run(np.stack([array for _, array in group]))
        labels = found.labels.cpu().numpy()
    except Exception as error:
        if len(group) == 1:
            yield group[0][0], error
            return
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            pace.shrink(len(group))
        middle = len(group) // 2  # which of them it is, the halves tell
        yield from _together(group[:middle], run, pace)
        yield from _together(group[middle:], run, pace)
        return
    seconds, peak = time.perf_counter() - began, peak_memory_gb()
    gb = None if peak is None or held is None else peak - held
    pace.learn(len(group), seconds, sum(found.iterations), gb)
    for (key, _), labelled, iterations, restarts in zip(group, labels, found.iterations, found.restarts, strict=True):
        yield key, _Found(labelled, iterations, restarts, seconds / len(group), len(group))


def _held_gb(device: torch.device) -> float | None:
    """What the process holds now, 10^9 bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 1e9
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _free_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e9
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()  # there where _held_gb found its like
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024 / 1e9


# --------------------------------------------------------------------------------- what a label map was made from


def _made_from(image: Path, asked: _Asked, stored: Facts | None) -> Facts:
    """All that a label map depends on. Where a cluster is chosen, what was not typed is as it was."""
    stamp = _stamp(image)
    before = stored["made_from"] if stored is not None and stored["made_from"]["image"] == stamp else {}
    as_before = asked.method is None and asked.preset is None and not asked.overrides and "method" in before
    method = before["method"] if as_before else asked.method or METHOD
    return {
        "image": stamp,
        "method": method,
        "settings": before["settings"] if as_before else _settings(method, asked.preset, asked.overrides),
        "seed": asked.seed if asked.seed is not None else before.get("seed", SEED),
        "size": _size(asked.size) if asked.size is not None else before.get("size", SIZE),
        "slices": asked.slices or before.get("slices"),
        "window": asked.window or before.get("window"),
    }


def _settings(method: str, preset: str | None, overrides: Sequence[str]) -> Facts:
    module = plugins.load("single", method)
    presets = getattr(module, "PRESETS", {})
    layer: Any = {}
    if preset is not None and preset in presets:
        layer = plain(presets[preset])
    elif preset is not None:
        if not Path(preset).is_file():
            raise UsageError(
                f"preset {preset!r}",
                allowed=f"{', '.join(presets) or 'none'} of {method}, or the path of a YAML file",
                next=f"--preset {plugins.nearest(preset, presets) or next(iter(presets), 'FILE.yaml')}",
            )
        layer = read_yaml(Path(preset))
    settings: Facts = plain(resolve(module.Settings, layer, parse_overrides(overrides)))
    return settings


def _stamp(image: Path) -> Facts:
    """Name, time and size: another image of the same name is segmented anew."""
    if not image.exists():
        raise UsageError(
            f"{image} does not exist", allowed="an image, or the folder of one DICOM series", next="check the path"
        )
    if image.is_file():
        state = image.stat()
        return {"name": image.name, "modified_ns": state.st_mtime_ns, "bytes": state.st_size}
    files = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(image.iterdir())]
    return {"name": image.resolve().name, "files": hashlib.sha256(repr(files).encode()).hexdigest()[:16]}


def _size(text: str) -> int | str:
    if text == "native":
        return text
    if text.isdigit() and int(text) >= _LEAST_SIZE:
        return int(text)
    raise UsageError(
        f"--size {text}", allowed=f"a number of pixels, {_LEAST_SIZE} or more, or native", next=f"--size {SIZE}"
    )


def _slices(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    ends = text.split(":")
    if len(ends) <= 2 and all(end.isdigit() for end in ends):
        return int(ends[0]), int(ends[-1])
    raise UsageError(
        f"--slices {text}", allowed="FIRST:LAST, both included, or one number; counted from 1", next="--slices 10:20"
    )


def _numbers(text: str | None, option: str, form: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise UsageError(f"{option} {text}", allowed=f"{form}, the lower one first", next=f"{option} -512:512")
    return low, high


# ----------------------------------------------------------------------------------------------------------- files


def _beside(mask: Path, what: str, suffix: str | None = None) -> Path:
    own = volume.suffix_of(mask)
    return mask.with_name(mask.name[: len(mask.name) - len(own)] + what + (own if suffix is None else suffix))


def _stored(mask: Path) -> Facts | None:
    path = _beside(mask, "", ".json")
    if not path.is_file():
        return None
    try:
        record: Facts = json_text.loads(path.read_text(encoding="utf-8"))
        ours = record["version"] == VERSION and "made_from" in record
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UsageError(
            f"{path} is not a record of lemis segment-one",
            allowed="a name for the mask beside which no other file is in the way",
            next=f"move {path.name}, or choose another name after -o",
        )
    return record


def _is_made(stored: Facts | None, made_from: Facts, mask: Path) -> bool:
    return stored is not None and stored["made_from"] == made_from and _beside(mask, ".labels").is_file()


def _label_map(stored: Facts, job: _Job) -> dict[int, Array]:
    found = single_image.read_labels(_beside(job.mask, ".labels"), job.stack)
    return {facts["slice"]: found[facts["slice"]] for facts in stored["slices"]}


def _written(
    job: _Job, found: Sequence[Facts], label_map: Mapping[int, Array], chosen: Choice, by: str,
    marked: Mapping[int, Array] | None, protocol: Protocol,
) -> Facts:  # fmt: skip
    """Write everything, the record last; all of it is computed before the first file."""
    masks = {number: np.isin(label_map[number], chosen[number]).astype(np.int64) for number in chosen}
    slices = [
        {
            **{key: value for key, value in facts.items() if key != "scores"},
            "chosen": list(chosen[facts["slice"]]),
            "mask_share": float(masks[facts["slice"]].mean()),
            **_scores(facts, label_map, masks, marked, protocol),
        }
        for facts in found
    ]
    pictures = _pictures(job, slices, label_map)
    labels_path = _beside(job.mask, ".labels")
    pictured = _beside(job.mask, ".overlay", ".png" if len(pictures) == 1 else "")
    record: Facts = {
        "version": VERSION,
        "image": str(job.image),
        "made_from": job.made_from,
        "notes": list(job.stack.notes),
        "left_empty": list(job.stack.constant),
        "chosen_by": by,
        "slices": slices,
        "means": _means(slices),
        "files": {"mask": job.mask.name, "labels": labels_path.name, "overlay": pictured.name},
        "environment": environment(),
    }
    source = job.stack.source
    volume.write_labels(single_image.on_grid(job.stack, label_map), source, labels_path)
    for name, png in pictures.items():
        _write(pictured if len(pictures) == 1 else pictured / name, png)
    volume.write_labels(single_image.on_grid(job.stack, masks), source, job.mask)
    _write(_beside(job.mask, "", ".json"), (json_text.dumps(record, indent=1) + "\n").encode())
    return record


def _pictures(job: _Job, slices: Sequence[Facts], label_map: Mapping[int, Array]) -> dict[str, bytes]:
    shown = dict(zip(job.stack.numbers, job.stack.planes, strict=True))
    pictures = {}
    for facts in slices:
        number = facts["slice"]
        entries = [
            overlay.Entry(
                cluster["label"], cluster["share"], cluster["label"] == facts["proposed"],
                cluster["label"] in facts["chosen"],
            )
            for cluster in facts["clusters"]
        ]  # fmt: skip
        title = job.image.name + (f", slice {number}" if len(slices) > 1 else "") + f" ({job.made_from['method']})"
        labels = single_image.nearest(label_map[number], shown[number].shape[1:])
        pictures[f"{number:04d}.png"] = overlay.clusters(
            shown[number], labels, entries, shape=job.stack.shape, spacing=job.stack.spacing_mm, title=title
        )
    return pictures


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


# ---------------------------------------------------------------------------------------------------------- scores


def _references(path: Path | None, stack: Stack) -> dict[int, Array] | None:
    if path is None:
        return None
    return {number: plane != 0 for number, plane in single_image.read_labels(path, stack).items()}


def _scores(
    facts: Facts, label_map: Mapping[int, Array], masks: Mapping[int, Array], marked: Mapping[int, Array] | None,
    protocol: Protocol,
) -> Facts:  # fmt: skip
    """Of one slice, nothing where its reference is empty."""
    number = facts["slice"]
    if marked is None or not marked[number].any():
        return {}
    reference, labels = marked[number], label_map[number]
    if protocol == "released":  # at the size that the method worked at, with the numbers that its network gave
        names = np.array([0, *(cluster["network_label"] for cluster in facts["clusters"])])
        labels = names[single_image.nearest(labels, facts["worked_at_px"])]
        reference = single_image.nearest(reference, facts["worked_at_px"])
    best = clusters.best(labels, reference, protocol)
    mine = clusters.overlap(masks[number] != 0, marked[number])
    if best is None or mine is None:  # a reference so small that it vanishes at the working size
        return {}
    cluster = best.cluster
    if protocol == "released" and cluster is not None:
        cluster = next(one["label"] for one in facts["clusters"] if one["network_label"] == cluster)
    scored = {"protocol": protocol, "best_cluster": cluster, **_rounded(best.overlap), "chosen": _rounded(mine)}
    return {"scores": scored}


def _rounded(overlap: Overlap) -> Facts:
    return {name: round(value, 6) for name, value in overlap._asdict().items()}


def _means(slices: Sequence[Facts]) -> Facts | None:
    """Plain means over scored slices, as the papers average over images."""
    scored = [facts["scores"] for facts in slices if "scores" in facts]
    if not scored:
        return None
    return {
        "protocol": scored[0]["protocol"],
        "what": clusters.PROTOCOLS[scored[0]["protocol"]],
        "scored": len(scored),
        "best": {name: float(np.mean([one[name] for one in scored])) for name in _SCORES},
        "chosen": {name: float(np.mean([one["chosen"][name] for one in scored])) for name in _SCORES},
    }


# ---------------------------------------------------------------------------------------------------------- a folder


def _batch(
    folder: Path, output: Path, asked: _Asked, references: Path | None, protocol: Protocol, pace: _Pace, json: bool
) -> Result:
    if output.resolve() == folder.resolve():
        raise UsageError(
            f"-o {output}", allowed="another folder than that of the images", next=f"-o {folder}-segmented"
        )
    images = _named(single_image.images_in(folder))
    marked = _reference_files(references, images)
    settings = _settings(asked.method or METHOD, asked.preset, asked.overrides)  # refused now, not once per image
    _size(asked.size or str(SIZE)), _slices(asked.slices), _numbers(asked.window, "--window", "LOW:HIGH")
    console = messages()
    said = f"{tables.count(len(images), 'image')} with {asked.method or METHOD}"
    console.print(f"{folder}: {said}, {', '.join(f'{key}={value}' for key, value in settings.items())}", markup=False)
    rows: list[Facts] = []
    waiting = list(images.items())
    with _progress(console) as progress:
        bar = progress.add_task("segmenting", total=len(images))
        while waiting:
            some, waiting = waiting[: pace.now], waiting[pace.now :]
            for name, outcome in _some(dict(some), output, asked, marked, protocol, pace):
                mine = _rows(name, outcome)
                rows += mine
                progress.advance(bar)
                progress.console.print(_line(name, outcome, mine), markup=False)
    output.mkdir(parents=True, exist_ok=True)
    _write(output / SUMMARY, tables.comma_separated(rows, _COLUMNS).encode())
    record: Facts = {
        "images": len(images),
        "failed": {row["image"]: row["problem"] for row in rows if row["status"] == "failed"},
        "without_reference": [name for name in images if references is not None and name not in marked],
        "means": _means([row["facts"] for row in rows if "facts" in row]),
        "summary": str(output / SUMMARY),
    }
    print(json_text.dumps(record, indent=1)) if json else _print_batch(record)
    return Result(record, tuple(record["failed"]))


class _Outcome(NamedTuple):
    record: Facts | None
    kept: bool
    error: Exception | None


def _some(
    images: Mapping[str, Path], output: Path, asked: _Asked, references: Mapping[str, Path], protocol: Protocol,
    pace: _Pace,
) -> Iterator[tuple[str, _Outcome]]:  # fmt: skip
    """Segment some images of a folder side by side; whatever goes wrong with one of them is its own outcome."""
    jobs: dict[str, _Job] = {}
    outcomes: dict[str, _Outcome] = {}
    answers: dict[str, dict[int, _Found]] = {name: {} for name in images}
    for name, image in images.items():
        try:
            made_from = _made_from(image, asked, None)
            mask = output / f"{name}{_suffix(image)}"
            stored = _stored(mask)
            if stored is not None and _is_made(stored, made_from, mask) and mask.is_file():
                outcomes[name] = _Outcome(
                    _scored_again(stored, image, mask, references.get(name), protocol), True, None
                )
            else:
                jobs[name] = _open(image, mask, made_from)
                _references(references.get(name), jobs[name].stack)  # refused before the training, not after it
        except Exception as error:
            outcomes[name] = _Outcome(None, False, error)
    jobs = {name: job for name, job in jobs.items() if name not in outcomes}
    inputs = [((name, number), array) for name, job in jobs.items() for number, array in job.inputs.items()]
    if jobs:
        run = _runner(next(iter(jobs.values())).made_from, pace.device)
        for (name, number), answer in _side_by_side(inputs, run, pace):
            if isinstance(answer, Exception):
                outcomes.setdefault(name, _Outcome(None, False, answer))
            else:
                answers[name][number] = answer
    for name in images:
        if name not in outcomes:
            outcomes[name] = _finished(jobs[name], answers[name], references.get(name), protocol)
        yield name, outcomes[name]


def _finished(job: _Job, answers: Mapping[int, _Found], reference: Path | None, protocol: Protocol) -> _Outcome:
    try:
        found, label_map = _described(job, answers)
        chosen, by = _choice(job.stack, found, label_map, None, None)
        marked = _references(reference, job.stack)
        return _Outcome(_written(job, found, label_map, chosen, by, marked, protocol), False, None)
    except Exception as error:
        return _Outcome(None, False, error)


def _scored_again(stored: Facts, image: Path, mask: Path, reference: Path | None, protocol: Protocol) -> Facts:
    """A finished image, whose choice may have been a person's, against this reference by this protocol."""
    if reference is None:
        slices = [{key: value for key, value in facts.items() if key != "scores"} for facts in stored["slices"]]
    else:
        job = _open(image, mask, stored["made_from"])
        label_map, marked = _label_map(stored, job), _references(reference, job.stack)
        masks = {facts["slice"]: np.isin(label_map[facts["slice"]], facts["chosen"]) for facts in stored["slices"]}
        slices = [
            {
                **{key: value for key, value in facts.items() if key != "scores"},
                **_scores(facts, label_map, masks, marked, protocol),
            }
            for facts in stored["slices"]
        ]
    return {**stored, "slices": slices, "means": _means(slices)}


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Images by the name that their results get: without suffix, where that tells them apart."""
    stems = [path.name[: len(path.name) - len(volume.suffix_of(path))] for path in paths]
    return {
        stem if stems.count(stem) == 1 else path.name.replace(".", "-"): path
        for stem, path in zip(stems, paths, strict=True)
    }


def _suffix(image: Path) -> str:
    kind = volume.FORMATS.get(volume.suffix_of(image), "dicom")
    allowed = volume.LABEL_SUFFIXES[kind]
    return volume.suffix_of(image) if volume.suffix_of(image) in allowed else allowed[0]


def _reference_files(folder: Path | None, images: Mapping[str, Path]) -> dict[str, Path]:
    """The reference of each image: of the same name, or of that without nnU-Net's channel number."""
    if folder is None:
        return {}
    there = _named(single_image.images_in(folder))
    wanted = {name: next((n for n in (name, name.removesuffix("_0000")) if n in there), None) for name in images}
    found = {name: there[other] for name, other in wanted.items() if other is not None}
    if not found:
        raise UsageError(
            f"{folder} holds no reference for any of {tables.count(len(images), 'image')}",
            allowed="label maps named like the images",
            next="check --references",
        )
    return found


def _rows(name: str, outcome: _Outcome) -> list[Facts]:
    if outcome.record is None:
        return [{"image": name, "status": "failed", "problem": " ".join(str(outcome.error).split())}]
    rows = []
    for facts in outcome.record["slices"]:
        scored = facts.get("scores", {})
        mine = {f"chosen_{key}": value for key, value in scored.get("chosen", {}).items()}
        rows.append(
            {
                "image": name,
                "status": "kept" if outcome.kept else "done",
                **{key: facts[key] for key in ("slice", "iterations", "restarts", "seconds")},
                "clusters": len(facts["clusters"]),
                "chosen": "+".join(map(str, facts["chosen"])),
                "share": facts["mask_share"],
                **{key: value for key, value in scored.items() if key != "chosen"},
                **mine,
                "facts": facts,
            }
        )
    return rows


# -------------------------------------------------------------------------------------------------- on the terminal


def _progress(console: Console) -> Progress:
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _line(name: str, outcome: _Outcome, rows: Sequence[Facts]) -> str:
    if outcome.record is None:
        return f"{name}: failed: {outcome.error}"
    if outcome.kept:
        return f"{name}: made before"
    what = ", ".join(f"{row['chosen'] or 'none'} of {row['clusters']}" for row in rows[:3]) + ("..." * (len(rows) > 3))
    iterations, seconds = (sum(row[key] for row in rows) for key in ("iterations", "seconds"))
    return f"{name}: cluster {what}, {iterations} iterations, {seconds:.1f} s"


def _print(record: Facts, job: _Job) -> None:
    console = Console(highlight=False, soft_wrap=True)
    several = len(record["slices"]) > 1
    for facts in record["slices"]:
        where = f", slice {facts['slice']}" if several else ""
        again = f", {tables.count(facts['restarts'], 'restart')}" if facts["restarts"] else ""
        title = (
            f"{job.image.name}{where}: {record['made_from']['method']}, seed {record['made_from']['seed']}, "
            f"{facts['iterations']} iterations{again}, {facts['seconds']:.1f} s"
        )
        console.print(_cluster_table(facts, title))
        console.print(_said(facts, record["chosen_by"]), markup=False)
        if "scores" in facts:
            console.print(_score_line(facts["scores"]), markup=False)
    if several and record["means"]:
        _print_means(console, record["means"], "slice")
    console.print(_how_to_choose(record, job), markup=False)
    beside = ", ".join([record["files"]["labels"], record["files"]["overlay"], _beside(job.mask, "", ".json").name])
    console.print(f"written: {job.mask} (object 1, rest 0); beside it {beside}", markup=False)


def _cluster_table(facts: Facts, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("cluster", "share", "of the border", "contrast", "compactness", "score"):
        table.add_column(head, justify="right")
    table.add_column("")
    for cluster in facts["clusters"]:
        roles = [
            *(["proposed"] if cluster["label"] == facts["proposed"] else []),
            *(["mask"] if cluster["label"] in facts["chosen"] else []),
        ]
        table.add_row(
            str(cluster["label"]),
            f"{cluster['share']:.1%}",
            f"{cluster['border']:.0%}",
            *(f"{cluster[name]:.2f}" for name in ("contrast", "compactness", "score")),
            ", ".join(roles),
        )
    return table


def _said(facts: Facts, by: str) -> str:
    if facts["proposed"] is None:
        return f"nothing is proposed: {facts['why']}"
    said = f"proposed as the object: cluster {facts['proposed']}, because {facts['why']}"
    if by == "proposal":
        return said
    return f"{said}\nin the mask: cluster {' + '.join(map(str, facts['chosen']))}, by {by}"


def _score_line(scores: Facts) -> str:
    best = "none may be chosen" if scores["best_cluster"] is None else f"cluster {scores['best_cluster']}"
    return (
        f"against the reference, protocol {scores['protocol']}: best overlap {best}: {_three(scores)}; "
        f"the mask as it was written: {_three(scores['chosen'])}"
    )


def _three(scores: Facts) -> str:
    return f"DSC {scores['dice']:.3f}, HM {scores['hammoude']:.3f}, XOR {scores['xor']:.3f}"


def _how_to_choose(record: Facts, job: _Job) -> str:
    again = f"lemis segment-one {shlex.quote(str(job.image))} -o {shlex.quote(str(job.mask))}"
    facts = next((facts for facts in record["slices"] if len(facts["clusters"]) > 1), None)
    if facts is None:
        return f"to try again: {again} --seed {record['made_from']['seed'] + 1}"
    others = [cluster for cluster in facts["clusters"] if cluster["label"] not in facts["chosen"]] or facts["clusters"]
    other = max(others, key=lambda cluster: cluster["score"])["label"]
    label = other if len(record["slices"]) == 1 else f"{facts['slice']}:{other}"
    return f"to choose another, without training again: {again} --pick {label} (or --click ROW,COL)"


def _print_batch(record: Facts) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if record["means"]:
        _print_means(console, record["means"], "image")
    if record["without_reference"]:
        console.print(f"not scored, as they have no reference: {', '.join(record['without_reference'])}", markup=False)
    if record["failed"]:
        failed = tables.count(len(record["failed"]), "image")
        console.print(f"{failed} failed: {', '.join(record['failed'])}", markup=False)
    console.print(f"written: {record['summary']}", markup=False)


def _print_means(console: Console, means: Facts, noun: str) -> None:
    scored = tables.count(means["scored"], noun)
    table = Table(
        "", "DSC", "HM", "XOR", title=f"mean over {scored} with a reference", title_justify="left", box=SIMPLE_HEAD
    )
    for name, key in ((f"best-overlap cluster, protocol {means['protocol']}", "best"), ("mask as written", "chosen")):
        table.add_row(name, *(f"{means[key][score]:.3f}" for score in _SCORES))
    console.print(table)
    console.print(f"protocol {means['protocol']}: {means['what']}", markup=False)
