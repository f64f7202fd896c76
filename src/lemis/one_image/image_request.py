"""One image to be segmented by a method of ``single/``: what its label map depends on, and what is recorded of it.

All that a label map was made from is one ``MadeFrom``, stored beside the mask. Where the same is asked of the
same file again, nothing is made again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.formats import paths
from lemis.formats.paths import LABEL_SUFFIXES, suffix_of
from lemis.measure import clusters
from lemis.one_image import single_image
from lemis.one_image.single_image import Stack
from lemis.one_image.single_sets import Pair
from lemis.settings import parse_overrides, plain, read_yaml, resolve
from lemis.work_files.one_image import ClusterFacts, Divided, MadeFrom, MaskRecord, Stamp

if TYPE_CHECKING:
    from lemis.one_image.side_by_side import Found

Array = NDArray[Any]

METHOD, SEED, SIZE = "s3net", 0, 256  # where nothing else is said; 256 x 256 as in the papers
PRESET = "small"
_SHOWN_PX = 800
_LEAST_SIZE, _MOST_SIZE = 8, 8192


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was typed; None where nothing was."""

    method: str | None
    preset: str | None
    overrides: tuple[str, ...]
    seed: int | None
    size: str | None
    slices: str | None
    window: str | None
    stored_axis: int | None = None  # never typed: some sets store their slices along another axis than it seems

    @classmethod
    def among(cls, words: Mapping[str, Any]) -> Asked:
        """From all that ``segment_one`` was given."""
        typed: dict[str, Any] = {one.name: words.get(one.name) for one in dataclasses.fields(cls)}
        typed["overrides"] = tuple(words.get("overrides", ()))
        return cls(**typed)


class Job(NamedTuple):
    """One image, ready to be segmented."""

    image: Path
    mask: Path
    stack: Stack  # its planes no larger than they are shown
    inputs: dict[int, Array]  # per slice number, (C, h, w) as the method sees it
    made_from: MadeFrom


def opened(image: Path, mask: Path, made_from: MadeFrom) -> Job:
    """Read an image as ``made_from`` says.

    Raises:
        UsageError: A mask in a format that cannot hold this image's, or slices that are not there.
        DataFault: An image that cannot be segmented as it is.
    """
    stack = single_image.read(
        image,
        slices=_slices(made_from.slices),
        window=_window(made_from.window),
        stored_axis=made_from.stored_axis,
    )
    allowed = LABEL_SUFFIXES[stack.source.format]
    if suffix_of(mask) not in allowed:
        raise UsageError(
            f"-o {mask} for {image.name}",
            allowed=f"a label map of this image is written as {' or '.join(allowed)}",
            next=f"-o {mask.with_name(mask.name.split('.')[0] + allowed[0])}",
        )
    size = None if made_from.size == "native" else made_from.size
    inputs = {
        number: single_image.resized(plane, size)
        for number, plane in zip(stack.numbers, stack.planes, strict=True)
        if number not in stack.constant
    }
    shown = tuple(single_image.shrunk(plane, _SHOWN_PX) for plane in stack.planes)
    return Job(image, mask, dataclasses.replace(stack, planes=shown), inputs, made_from)


def described(job: Job, answers: Mapping[int, Found]) -> tuple[list[Divided], dict[int, Array]]:
    """What is known of each slice without a reference, and its clusters, numbered by size, on the image's own grid."""
    facts, planes = [], {}
    for number in sorted(answers):
        answer = answers[number]
        labels, names = clusters.separated(answer.labels)
        proposal = clusters.propose(job.inputs[number], labels)
        planes[number] = single_image.nearest(labels, job.stack.shape)
        facts.append(
            Divided(
                slice=number,
                iterations=answer.iterations,
                restarts=answer.restarts,
                seconds=round(answer.seconds, 3),
                side_by_side=answer.at_once,
                worked_at_px=(labels.shape[0], labels.shape[1]),
                clusters=tuple(
                    ClusterFacts(**cluster._asdict(), network_label=name)
                    for cluster, name in zip(proposal.clusters, names, strict=True)
                ),
                proposed=proposal.label,
                why=proposal.reason,
            )
        )
    return facts, planes


# ------------------------------------------------------------------------------------- what it depends on


def made_from(image: Path, asked: Asked, stored: MaskRecord | None = None) -> MadeFrom:
    """All that a label map depends on.

    Args:
        image: The file, or the folder of a DICOM series.
        asked: What was typed.
        stored: The record of a label map in which a cluster is to be chosen: what was not typed is as it was then.

    Raises:
        UsageError: No such image, or what was typed cannot be.
    """
    stamp = _stamp(image)
    before = stored.made_from if stored is not None and stored.made_from.image == stamp else None
    as_before = before if asked.method is None and asked.preset is None and not asked.overrides else None
    method = asked.method or METHOD if as_before is None else as_before.method
    settings = settings_of(method, asked.preset, asked.overrides) if as_before is None else as_before.settings
    defaults = (SEED, SIZE, None, None, None)
    seed, size, slices, window, axis = (
        defaults if before is None else (before.seed, before.size, before.slices, before.window, before.stored_axis)
    )
    axis = axis if asked.stored_axis is None else asked.stored_axis
    said: dict[str, Any] = {} if axis is None else {"stored_axis": axis}
    return MadeFrom(
        image=stamp,
        method=method,
        settings=settings,
        seed=seed if asked.seed is None else asked.seed,
        size=size if asked.size is None else _size(asked.size),
        slices=asked.slices or slices,
        window=asked.window or window,
        **said,
    )


def settings_of(
    method: str, preset: str | None, overrides: Sequence[str], load: Callable[[str, str], Any] = plugins.load
) -> dict[str, Any]:
    """The method's settings, resolved, as plain types: its preset or a YAML file, then ``key=value``.

    Without a preset it is the method's ``small``, where it has one, as ``lemis fit`` takes the preset of that name.
    """
    module = load("single", method)
    presets = getattr(module, "PRESETS", {})
    layer: Any = {}
    if preset is None and PRESET in presets:
        preset = PRESET
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
    settings: dict[str, Any] = plain(resolve(module.Settings, layer, parse_overrides(overrides)))
    return settings


def refuse_unreadable(asked: Asked) -> None:
    """Raise UsageError now for a size, slices or a window that no image can have, not once per image."""
    _size(asked.size or str(SIZE))
    _slices(asked.slices)
    _window(asked.window)


def refuse_contradictions(image: Path | None, batch: Path | None, pick: str | None, click: str | None) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: They do.
    """
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


def refuse_other_references(batch: Path | None, reference: Path | None, references: Path | None) -> None:
    """Refuse the references of a folder for one image, and the other way round.

    Raises:
        UsageError: They are.
    """
    wrong = references if batch is None else reference
    if wrong is not None:
        given, wanted = ("--references", "--reference") if batch is None else ("--reference", "--references")
        raise UsageError(
            f"{given} {wrong} {'without' if batch is None else 'with'} --batch",
            allowed="--reference LABELMAP for one image, --references DIR for a folder of them",
            next=f"{wanted} {wrong}",
        )


def as_in_set(asked: Asked, pair: Pair) -> Asked:
    """What was typed; and where nothing was, what the set of images says of this one."""
    slices = asked.slices or (None if pair.slices is None else _ranges(pair.slices))
    window = asked.window or (None if pair.window is None else ":".join(map(_exactly, pair.window)))
    return dataclasses.replace(asked, slices=slices, window=window, stored_axis=pair.stored_axis)


def _stamp(image: Path) -> Stamp:
    """Name, time and size: another image of the same name is segmented anew, and one that was moved is not."""
    if not image.exists() and not paths.file_of(image).exists():
        raise UsageError(
            f"{image} does not exist", allowed="an image, or the folder of one DICOM series", next="check the path"
        )
    return Stamp(name=image.resolve().name, stamp=paths.stamp(image, moved_is_other=False))


def _size(text: str) -> int | Literal["native"]:
    if text == "native":
        return "native"
    if _is_number(text) and _LEAST_SIZE <= int(text) <= _MOST_SIZE:
        return int(text)
    raise UsageError(
        f"--size {shown(text, quoted=False)}",
        allowed=f"a number of pixels, {_LEAST_SIZE} to {_MOST_SIZE}, or native",
        next=f"--size {SIZE}",
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _slices(text: str | None) -> list[tuple[int, int]] | None:
    if text is None:
        return None
    ranges = [part.split(":") for part in text.split(",")]
    if not all(len(ends) <= 2 and all(map(_is_number, ends)) for ends in ranges):
        raise UsageError(
            f"--slices {text}",
            allowed="FIRST:LAST, both included, or one number, or several of these with commas; counted from 1",
            next="--slices 10:20",
        )
    return [(int(ends[0]), int(ends[-1])) for ends in ranges]


def _ranges(numbers: Sequence[int]) -> str:
    """Slice numbers as they are typed: ``3:10,12``."""
    there = np.unique(np.asarray(numbers))
    runs = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)
    return ",".join(f"{run[0]}:{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _exactly(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"--window {text}", allowed="LOW:HIGH, the lower one first", next="--window -512:512")
    return low, high
