"""What is wrong with a folder of scans: each is read once, each fault names file, values seen and repair.

An error is what would make training or scores wrong: geometry that does not match, values that cannot be
used, labels that nobody declared. A warning is what may be meant so, and should be known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lemis import __version__
from lemis.checking import duplicates
from lemis.datasets import frame
from lemis.datasets.index import Index, Scan, unfit_names
from lemis.datasets.scan_facts import complete, with_grid
from lemis.datasets.scans import channel_digests, file_stamps, joined_digest
from lemis.datasets.split import FILE as SPLITS
from lemis.datasets.split import faults_of_splits, in_no_fold
from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import labels, segments, volume
from lemis.formats.grids import corner_distance_mm, is_sheared
from lemis.formats.paths import file_of, suffix_of
from lemis.formats.pictures import TRANSPARENT
from lemis.formats.source import Source
from lemis.settings import plain

# Headers hold rounded numbers; beyond a twentieth of a voxel a label no longer lies where it was drawn.
GRID_TOLERANCE_VOXELS = 0.05
# Of a voxel: from micro-CT to a scout.
PLAUSIBLE_MM = (1e-3, 100.0)
# Two stacks that cross at a wider angle show different views of the body.
OTHER_VIEW_DEGREES = 45.0
# A mask may have contours in one or two values of their own; a softened edge has more.
FEWEST_SOFT = 3
_BLACK = "#000000"
# Raised whenever scans may be judged otherwise, so that those that were found right before are read again.
_RULES = 3
# Scans of any kind hold more grey values, label maps of most studies fewer. A structure counts from 1 up; a label map
# with more of them than an atlas of the brain has is a scan.
FEWEST_GREYS = 16
MOST_STRUCTURES = 256
# What programs write for "this is it" in a mask of one structure.
_WHITES = (1, 255, 65535)
_MOST_COUNTED = 100  # of structures that are counted from 1; beyond are grey values
# More volumes than any protocol has contrasts: time points.
MOST_CHANNELS = 8


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    severity: Literal["error", "warning"]
    scan: str  # id; "" where no single scan is meant
    file: str
    kind: str
    seen: str
    repair: str


class Seen(NamedTuple):
    """What one scan turned out to be."""

    scan: Scan  # with its grid and label values; as listed where it could not be read
    faults: tuple[Fault, ...]
    channels: int = 0
    intensities: tuple[tuple[float, float], ...] = ()  # (min, max) per channel
    content: str = ""  # image_digest of all channels; "" for a constant scan
    segments: dict[str, int] = {}  # noqa: RUF012  (never written to)
    sketch: duplicates.Sketch = ()  # of the first channel
    palette: dict[int, str] = {}  # noqa: RUF012  colours of the label's values, where it is a palette picture


@dataclass(frozen=True)
class Findings:
    """All of a folder."""

    index: Index  # complete
    faults: tuple[Fault, ...]  # errors first
    seen: tuple[Seen, ...] = field(repr=False)
    known: Mapping[str, Seen] = field(repr=False, default_factory=dict)  # scans without errors, by what they depend on

    @property
    def errors(self) -> int:
        """Number of faults that are errors."""
        return sum(map(_is_error, self.faults))


def faults(index: Index, jobs: int | None = None) -> list[Fault]:
    """Faults of the scans of an index, errors first."""
    return list(examine(index, jobs).faults)


def examine(
    index: Index,
    jobs: int | None = None,
    done: Callable[[], Any] = lambda: None,
    known: Mapping[str, Seen] = {},
) -> Findings:
    """Read every scan and its label, once.

    Args:
        index: As ``recognise`` lists it, or complete.
        jobs: Scans read at a time; the number of processors (8 at most) where None. They are threads: reading
            and unpacking release Python's lock.
        done: Called after each scan.
        known: The ``known`` of findings of before; scans whose files are those of then are not read.
    """
    folder = repr(plain(dataclasses.replace(index, scans=())))

    def task(scan: Scan) -> tuple[str, Seen]:
        key = _fingerprint(index, scan, folder)  # before it is read: what changes meanwhile is read again next time
        result = known.get(key) or _examine_scan(index, scan)
        done()
        return key, result

    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        keys, seen = zip(*pool.map(task, index.scans), strict=True) if index.scans else ((), ())
    read = [one for one in seen if one.channels]
    filled = complete(index, (s.scan for s in seen), (s.channels for s in read), (s.segments for s in seen))
    found = [fault for one in seen for fault in one.faults]
    splits = (Path(index.root) / SPLITS).is_file()
    found += _channel_faults(filled, read) + _label_faults(index, filled, read) + _duplicates(index, read, splits)
    found += _names(filled) + _splits(index) + _slice_directions(filled) + _not_parallel(filled)
    found.sort(key=lambda fault: fault.severity)  # "error" < "warning"; stable
    # What is wrong may be mended without a file's changing, by its permissions for one.
    right = {key: one for key, one in zip(keys, seen, strict=True) if key and not any(map(_is_error, one.faults))}
    return Findings(filled, tuple(found), seen, right)


def _is_error(fault: Fault) -> bool:
    return fault.severity == "error"


def _fingerprint(index: Index, scan: Scan, folder: str) -> str:
    """Of all that decides on what is seen of a scan: its files, and what the folder says; "" where one is gone."""
    try:
        facts = (__version__, _RULES, file_stamps(index, scan), plain(scan), folder)
    except OSError:
        return ""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- one scan


class _Report(NamedTuple):
    """Collects the faults of one file."""

    scan: str
    file: str
    found: list[Fault]

    def error(self, kind: str, seen: str, repair: str) -> None:
        self.found.append(Fault("error", self.scan, self.file, kind, seen, repair))

    def warning(self, kind: str, seen: str, repair: str) -> None:
        self.found.append(Fault("warning", self.scan, self.file, kind, seen, repair))


def _examine_scan(index: Index, scan: Scan) -> Seen:
    found: list[Fault] = []
    sources: list[Source] = []
    ranges: list[tuple[float, float]] = []
    digests: list[str] = []
    sketch: duplicates.Sketch = ()
    for image in scan.images:
        report = _Report(scan.id, image, found)
        path = Path(index.root) / image
        if not file_of(path).exists():
            _missing(scan, report)
            continue
        image_volume = _read(path, report)
        if image_volume is not None:
            sources.append(image_volume.source)
            _header_faults(image_volume.source, report)
            ranges += _intensity_faults(image_volume.array, report)
            if image_volume.source.dtype not in ("P", "PA"):  # has an error of its own
                _few_greys(image_volume.array, report)
            digests += channel_digests(image_volume.array)
            sketch = sketch or duplicates.sketch(_first_channel(image_volume))
    if len(sources) < len(scan.images) or not sources:
        return Seen(scan, tuple(found))
    for image, source in zip(scan.images[1:], sources[1:], strict=True):
        _grid_faults(source, sources[0], "channel", scan.images[0], _Report(scan.id, image, found))
    label = _Label()
    if scan.label is not None:
        label = _examine_label(index, scan, sources[0], digests, _Report(scan.id, scan.label, found))
    return Seen(
        scan=with_grid(index, scan, sources[0], label.values),
        faults=tuple(found),
        channels=sum(source.channels for source in sources),
        intensities=tuple(ranges),
        content="" if all(low == high for low, high in ranges) else joined_digest(digests),
        segments=label.segments,
        sketch=sketch,
        palette=label.palette,
    )


def _first_channel(scan: volume.Volume) -> npt.NDArray[Any]:
    return scan.array if scan.array.ndim == 3 else scan.array[..., 0]


def _missing(scan: Scan, report: _Report) -> None:
    others = [image for image in scan.images if image != report.file]
    if others:
        report.error(
            "channel that is missing",
            f"is not there, but {others[0]} is",
            "put the file into the folder, or move the other files of this scan out of it",
        )
    else:
        report.error(
            "label without its image",
            f"is not there, but its label {scan.label} is",
            "put the image into the folder, or move the label out of it",
        )


def _read(path: Path, report: _Report) -> volume.Volume | None:
    try:
        return volume.read(path)
    except UsageError as error:
        kind = "DICOM series" if path.is_dir() or suffix_of(path) in ("", ".dcm") else "unreadable file"
        report.error(kind, error.given.removeprefix(str(path)).lstrip("/: "), error.next)
    except (LemisError, OSError, MemoryError) as error:
        report.error("unreadable file", f"{path}: {error}", "copy or export the file again")
    return None


def _header_faults(source: Source, report: _Report) -> None:
    for note in source.notes:
        report.warning(*note)
    if source.format != "picture" and not all(PLAUSIBLE_MM[0] <= mm <= PLAUSIBLE_MM[1] for mm in source.spacing_mm):
        report.warning(
            "implausible spacing",
            f"voxels of {_plain(source.spacing_mm)} mm; scans have {PLAUSIBLE_MM[0]:g} to {PLAUSIBLE_MM[1]:g} mm",
            "fine if it is so (microscopy); otherwise write the spacing into the header anew, in mm",
        )
    if source.codes == (0, 0):
        report.warning(
            "unknown orientation",
            "qform_code and sform_code are 0: left, right, up and down are a guess",
            "fine if all scans lie alike; otherwise convert the originals again (dcm2niix)",
        )
    elif source.codes is not None and min(source.codes) > 0:
        _compare_forms(source, report)
    if is_sheared(source.affine):
        report.warning(
            "sheared grid",
            f"axes not at right angles (gantry tilt): affine {np.round(source.affine[:3, :3], 4).tolist()}",
            "kept as it is; distances in mm are approximate, resample the scan if they matter",
        )
    if source.channels > MOST_CHANNELS:
        report.warning(
            "time series",
            f"{source.channels} volumes in one file are taken as channels",
            "extract the volumes that you mean into files of their own",
        )
    if source.format == "picture" and source.dtype in ("P", "PA"):
        report.error(
            "palette picture",
            "its pixels are indices into a palette, not intensities",
            "save it as greyscale or RGB",
        )


def _compare_forms(source: Source, report: _Report) -> None:
    qform, sform = source.header.get_qform(), source.header.get_sform()
    off = corner_distance_mm(qform, sform, source.shape) * source.unit_mm
    # A qform cannot hold a shear, so a sheared sform always differs from it; that has its own warning.
    if off > GRID_TOLERANCE_VOXELS * min(source.spacing_mm) and not is_sheared(source.affine):
        spacings = [np.linalg.norm(form[:3, :3], axis=0) * source.unit_mm for form in (qform, sform)]
        report.warning(
            "qform and sform disagree",
            f"they place a corner {off:.3g} mm apart, with voxels of {_plain(spacings[0])} and {_plain(spacings[1])} "
            "mm; we and nibabel take the sform, other programs may not",
            "make them equal (FSL: fslorient -copysform2qform), after checking which is right",
        )


def _intensity_faults(array: npt.NDArray[Any], report: _Report) -> list[tuple[float, float]]:
    """Checks one file; returns (min, max) of each of its channels."""
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            report.error(
                "voxels that are not numbers",
                f"{bad} of {array.size} voxels are NaN or infinite",
                "find where they come from; outside the body, replace them by the background value",
            )
            array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    axes = (0, 1, 2)
    low, high = np.atleast_1d(array.min(axis=axes)), np.atleast_1d(array.max(axis=axes))
    ranges = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    for number, (a, b) in enumerate(ranges):
        if a == b:
            which = f"channel {number} of the file" if len(ranges) > 1 else "the scan"
            report.error("constant scan", f"{which} is {a:g} everywhere", "export it again, or leave it out")
    return ranges


def _few_greys(array: npt.NDArray[Any], report: _Report) -> None:
    """Warn of a scan that may be a label map which its name does not give away."""
    flat = array.reshape(-1)
    some = np.unique(flat[:: max(1, flat.size // 4096)])  # sorting all voxels takes seconds, and is hardly ever needed
    if len(some) >= FEWEST_GREYS:
        return
    values = np.unique(flat)
    if 1 < len(values) < FEWEST_GREYS and np.isfinite(values).all() and (values == np.rint(values)).all():
        report.warning(
            "scan that looks like a label map",
            f"holds {len(values)} values only: {', '.join(f'{value:g}' for value in values[:6])}"
            + ", ..." * (len(values) > 6),
            "if it is one, name it like its scan with _seg at the end (p01.nii.gz, p01_seg.nii.gz), put it into "
            "labels/ beside images/, or list both in a CSV (image, label, subject); fine if it is a scan",
        )


def _grid_faults(source: Source, image: Source, what: str, image_file: str, report: _Report) -> None:
    """Compare a label or a further channel with the first image, in the order of the image."""
    source = dataclasses.replace(source, along=image.axes)  # on its own, its rounded header may fall to another axis
    shape, wanted = source.canonical_shape, image.canonical_shape
    if shape != wanted:
        report.error(
            f"{what} on another grid",
            f"shape {shape}, but {image_file} has {wanted} (both in RAS+ order)",
            f"resample the {what} to the image (labels: nearest neighbour), or find its own image",
        )
        return
    affine, wanted_affine = source.canonical_affine, image.canonical_affine
    off = corner_distance_mm(affine, wanted_affine, wanted)
    if off <= GRID_TOLERANCE_VOXELS * min(image.spacing_mm):
        return
    if source.axis_codes != image.axis_codes:
        report.error(
            f"{what} orientation",
            f"axes {source.axis_codes}, but {image_file} has {image.axis_codes}; corners {off:.3g} mm apart",
            f"if the voxels match, copy the image's affine into the {what}; if not, reorient the {what}",
        )
        return
    spacing, wanted_spacing = np.round(source.spacing_mm, 4), np.round(image.spacing_mm, 4)
    report.error(
        f"{what} in another place",
        f"spacing {_plain(spacing)} and origin {_plain(affine[:3, 3])} mm, but {image_file} has "
        f"{_plain(wanted_spacing)} and {_plain(wanted_affine[:3, 3])} mm; corners lie {off:.3g} mm apart",
        f"if the voxels match, copy the image's affine into the {what}; if not, resample it to the image",
    )


class _Label(NamedTuple):
    """What a label turned out to hold."""

    values: tuple[int, ...] = ()  # as the file numbers them
    segments: dict[str, int] = {}  # noqa: RUF012  (never written to)
    palette: dict[int, str] = {}  # noqa: RUF012


def _examine_label(index: Index, scan: Scan, image: Source, image_digests: Sequence[str], report: _Report) -> _Label:
    label = _read(Path(index.root) / report.file, report)
    if label is None:
        return _Label()
    try:
        label = labels.single(label)
    except DataFault as fault:
        transparent = any(note.kind == TRANSPARENT for note in label.source.notes)
        kind = "mask with transparency" if transparent else "label with channels"
        report.error(kind, fault.given.removeprefix(str(label.source.path)).strip(), fault.next)
        return _Label()
    for note in label.source.notes:
        report.warning(*note)
    label = labels.placed(label, image)
    _grid_faults(label.source, image, "label", scan.images[0], report)
    values = _label_values(label.array, report)
    if len(values) > FEWEST_GREYS and channel_digests(label.array)[0] in image_digests:
        report.error(
            "label that is its scan",
            f"holds the voxels of {scan.images[0]}, voxel by voxel",
            "find the label map that belongs there",
        )
    elif len(values) > MOST_STRUCTURES and not index.labels:
        report.error(
            "label with too many values",
            f"{len(values)} different values, from {values[0]} to {values[-1]}: it looks like a scan",
            "find the label map that belongs there (are images and labels swapped?), or name its values in "
            "dataset.json",
        )
    if len(values) == 1 and values[0] == 0:
        report.warning("empty label", "no structure is marked", "fine if none is there; otherwise finish the label")
    if label.source.format == "picture" and not index.labels:
        _soft_edges(label, report)
    for name in segments.repeated(label.source.segments):
        same = [f"{value} ({one})" for one, value in label.source.segments.items() if one.startswith(name)]
        report.warning(
            "segments of one name",
            f"the values {', '.join(same)} have the name {name}; the numbers in brackets are ours",
            "give them names of their own, or merge them, in 3D Slicer",
        )
    palette = labels.palette(label.source, values)
    if palette.get(0, _BLACK) != _BLACK:
        report.warning(
            "palette picture as label",
            f"index 0 is {palette[0]}, which viewers do not show black; it is taken as background",
            "fine if it is; otherwise save the mask in grey values, background 0",
        )
    return _Label(values, label.source.segments, palette)


def _soft_edges(label: volume.Volume, report: _Report) -> None:
    lossy = label.source.path.suffix.lower() in (".jpg", ".jpeg")
    soft = labels.soft_values(label.array, lossy=lossy)
    if not soft:
        return
    shown = ", ".join(map(str, soft[:6])) + (", ..." if len(soft) > 6 else "")
    if lossy or len(soft) >= FEWEST_SOFT:
        report.error(
            "mask with soft edges",
            f"{len(soft)} values ({shown}) lie between others only at their edges: "
            + ("JPEG changes values" if lossy else "a drawing program softened them, or JPEG did before"),
            "save the mask without smoothing, as PNG, one value for each structure; or name its values in dataset.json",
        )
    else:
        report.warning(
            "values at edges only",
            f"{shown}: taken as structures of their own",
            "fine if they are (contours); otherwise save the mask without smoothing",
        )


def _label_values(array: npt.NDArray[Any], report: _Report) -> tuple[int, ...]:
    unique = np.unique(array)
    if unique.dtype.kind == "f":
        if not np.isfinite(unique).all():
            report.error(
                "label values that are not numbers",
                "NaN or infinite values",
                "replace them by 0 (background)",
            )
            unique = unique[np.isfinite(unique)]
        off = np.abs(unique - np.rint(unique))
        if off.max(initial=0) > labels.INTEGER_TOLERANCE:
            report.error(
                "label values between integers",
                f"values such as {_plain(unique[off > labels.INTEGER_TOLERANCE][:4])}",
                "the label was interpolated: make it again with nearest neighbour",
            )
        elif off.max(initial=0) > 0:
            report.warning(
                "label values near integers",
                f"up to {off.max():.2g} away from an integer",
                "they will be rounded",
            )
    within = (unique >= labels.SMALLEST) & (unique <= labels.LARGEST)
    if not within.all():
        report.error(
            "label values beyond 32 bits",
            f"values such as {_plain(unique[~within][:4])}",
            "replace what is no label by 0 (background); no label map can hold these",
        )
    return tuple(sorted({int(value) for value in np.rint(unique[within])}))


# ---------------------------------------------------------------- all scans together


def _channel_faults(index: Index, read: Iterable[Seen]) -> list[Fault]:
    return [
        Fault(
            "error",
            one.scan.id,
            one.scan.images[0],
            "number of channels",
            f"{one.channels} channel(s) in {len(one.scan.images)} file(s), expected {len(index.channels)} "
            f"({', '.join(index.channels)})",
            "give every scan the same channels, or correct channel_names in dataset.json",
        )
        for one in read
        if one.channels != len(index.channels)
    ]


def _label_faults(declared: Index, index: Index, read: Iterable[Seen]) -> list[Fault]:
    """Values of all labels against each other, and against what ``dataset.json`` declares.

    Args:
        declared: The index as listed.
        index: With labels that are named, and values as it numbers them.
        read: What each scan turned out to be, its values as its own file numbers them.
    """
    seen = [one for one in read if one.scan.label_values]
    found = _segment_faults(index, seen) + _palette_faults(seen)
    if not declared.labels:
        return found + _named_by_others(index, seen) + _undeclared_values(seen)
    known = {*declared.labels.values(), *declared.ignored}
    found += [
        Fault(
            "error",
            scan.id,
            scan.label or "",
            "label values that are not declared",
            f"value(s) {', '.join(map(str, unknown))}; declared are "
            + ", ".join(f"{value} {name}" for name, value in declared.labels.items()),
            "correct the label, or declare the values in dataset.json",
        )
        for scan in index.scans
        if (unknown := sorted(set(scan.label_values) - known))
    ]
    present = {value for scan in index.scans for value in scan.label_values}
    missing = [f"{value} {name}" for name, value in declared.labels.items() if value and value not in present]
    if present and missing:
        absent = f"{', '.join(missing)} occur(s) in no label"
        found.append(Fault("warning", "", "dataset.json", "structure never labelled", absent, "it cannot be learned"))
    return found


def _undeclared_values(read: Sequence[Seen]) -> list[Fault]:
    """Values whose meaning would be a guess: below 0, and the white of masks in black and white."""
    found = [
        _label_fault(
            "error",
            one,
            "label values below 0",
            f"value(s) {', '.join(map(str, below))}, which mark no structure that a name or number says",
            "replace them by 0 if they are background, or name them in dataset.json",
        )
        for one in read
        if (below := [value for value in one.scan.label_values if value < 0])
    ]
    return found + _kinds_of_white(read) + _void(read) + _without_background(read)


def _kinds_of_white(read: Sequence[Seen]) -> list[Fault]:
    """Masks of one structure each, of which some mark it by another number than others."""
    if any(len({0, *one.scan.label_values}) > 2 for one in read):
        return []
    marked = {
        value: [one for one in read if value in one.scan.label_values]
        for one in read
        for value in one.scan.label_values
        if value
    }
    whites = [value for value in _WHITES if value in marked]
    if len(whites) > 1:
        usual, other = whites[0], marked[whites[1]][0]
        return [
            _label_fault(
                "error",
                other,
                "two kinds of black and white",
                f"holds 0 and {whites[1]}, as {len(marked[whites[1]])} label(s) do; {len(marked[usual])} hold 0 and "
                f"{usual} ({marked[usual][0].scan.label}): is that one structure?",
                f"save all masks with the same value, or name {usual} and {whites[1]} in dataset.json",
            )
        ]
    if len(marked) > 1 and whites and whites[0] > 1:
        odd = next(value for value in sorted(marked) if value != whites[0])
        return [
            _label_fault(
                "warning",
                marked[odd][0],
                "masks of different values",
                f"marks {odd}, others {whites[0]}, and none both: taken as different structures",
                "fine if they are; otherwise save all masks with the same value",
            )
        ]
    return []


def _void(read: Sequence[Seen]) -> list[Fault]:
    """255 beside small numbers: in many data sets the rim of an object, or what nobody could tell."""
    one = next(
        (
            one
            for one in read
            if {1, 255} <= set(one.scan.label_values)
            and all(value == 255 or value < _MOST_COUNTED for value in one.scan.label_values)
        ),
        None,
    )
    if one is None:
        return []
    return [
        _label_fault(
            "warning",
            one,
            "255 beside small numbers",
            f"holds {', '.join(map(str, one.scan.label_values[:6]))}{', ...' * (len(one.scan.label_values) > 6)}: "
            "255 and each of the others are taken as structures of their own",
            "fine if they are; replace by 0 what marks nothing (255 often means: to be ignored; beside 255, 1 may be a "
            "slip of the pen that nobody sees)",
        )
    ]


def _without_background(read: Sequence[Seen]) -> list[Fault]:
    """Label maps that mark every voxel: numbered from 1, or shifted by an intercept of their header."""
    marked = [one for one in read if one.scan.label_values]
    if not marked or any(0 in one.scan.label_values for one in marked):
        return []
    values = {value for one in marked for value in one.scan.label_values}
    lowest = min(values)
    return [
        _label_fault(
            "warning",
            marked[0],
            "no background",
            f"no label holds the value 0, which is background; the lowest is {lowest}",
            f"fine if every voxel is of a structure; otherwise replace {lowest} by 0"
            if len(values) > 1
            else "find the label maps that belong there: these mark all of every scan (the field of view?)",
        )
    ]


def _segment_faults(index: Index, read: Sequence[Seen]) -> list[Fault]:
    """Files that name their structures: what has another number in other files, and what cannot be told apart."""
    found = []
    ours = {value: name for name, value in index.labels.items()}
    for one in read:
        moves = labels.moved(one.segments, index.labels)
        names = ", ".join(f"{value} {name}" for name, value in one.segments.items())
        if clash := labels.clashing(one.scan.label_values, moves):
            found.append(
                _label_fault(
                    "error",
                    one,
                    "label value without a known name",
                    f"value(s) {', '.join(map(str, clash))} beside {names}; in the data set that is {ours[clash[0]]}",
                    "name all structures alike in every file",
                )
            )
            continue
        if any(old != new for old, new in moves.items()):
            now = ", ".join(f"{new} {ours[new]}" for new in moves.values())
            found.append(
                _label_fault(
                    "warning",
                    one,
                    "structures numbered differently",
                    f"the file has {names}; by their names they become {now}",
                    "nothing, if the names are right",
                )
            )
        others = {value: name for name, value in one.segments.items() if value not in moves and value in ours}
        if others:
            found.append(
                _label_fault(
                    "warning",
                    one,
                    "structures named differently",
                    "the value decides: "
                    + ", ".join(
                        f"{value} is {name} in the file and {ours[value]} here" for value, name in others.items()
                    ),
                    "name the structures as dataset.json does",
                )
            )
    return found


def _named_by_others(index: Index, read: Sequence[Seen]) -> list[Fault]:
    """A label that names no structures, among others that do: their numbers need not be its own."""
    naming = next((one for one in read if one.segments), None)
    if naming is None:
        return []
    names = {value: name for name, value in index.labels.items()}
    taken = {one.scan.id: [value for value in one.scan.label_values if value] for one in read if not one.segments}
    return [
        _label_fault(
            "warning",
            one,
            "structures without names",
            f"has no names of its own; {', '.join(f'{value} is taken as {names[value]}' for value in values)}, as in "
            f"{naming.scan.label}",
            "fine if it is so numbered; otherwise name the structures in all files, or in dataset.json",
        )
        for one in read
        if (values := taken.get(one.scan.id))
    ]


def _palette_faults(read: Sequence[Seen]) -> list[Fault]:
    """One index of palette pictures with two colours: the same number would be two structures."""
    first: dict[int, tuple[str, str]] = {}  # colour, and the label that has it
    found = []
    for one in read:
        for value, colour in one.palette.items():
            usual, label = first.setdefault(value, (colour, one.scan.label or ""))
            if usual != colour:
                found.append(
                    _label_fault(
                        "error",
                        one,
                        "palettes differ",
                        f"index {value} is {colour}, but {usual} in {label}",
                        "save all masks with one palette, or in grey values, one for each structure",
                    )
                )
                break
    return found


def _label_fault(severity: Literal["error", "warning"], one: Seen, kind: str, seen: str, repair: str) -> Fault:
    return Fault(severity, one.scan.id, one.scan.label or "", kind, seen, repair)


def _duplicates(index: Index, read: Sequence[Seen], splits: bool) -> list[Fault]:
    """Scans that are another one. ``splits``: a file of splits is there, and has to follow the repair."""
    first: dict[str, Seen] = {}
    found = []
    for one in read:
        twin = first.setdefault(one.content or one.scan.id, one)
        if twin is not one:
            found.append(_duplicate(one.scan, twin.scan, splits))
    by_id = {one.scan.id: one.scan for one in first.values()}
    subject_of = {id: scan.subject for id, scan in by_id.items()}
    told: set[str] = set()
    for twin_id, id in duplicates.partners({one.scan.id: one.sketch for one in first.values()}, subject_of):
        relation = None if id in told else _relation(index, by_id[twin_id], by_id[id])
        if relation is not None:
            told.add(id)
            found.append(_duplicate(by_id[id], by_id[twin_id], splits, relation))
    return found


def _relation(index: Index, one: Scan, other: Scan) -> duplicates.Relation | None:
    try:
        arrays = [_first_channel(volume.read(Path(index.root) / scan.images[0])) for scan in (one, other)]
    except (LemisError, OSError, MemoryError):  # it was read before, and is gone
        return None
    return duplicates.relation(*arrays, same_subject=one.subject == other.subject)


def _duplicate(scan: Scan, twin: Scan, splits: bool, relation: duplicates.Relation | None = None) -> Fault:
    """``scan`` is ``twin``: voxel by voxel, or related to it."""
    removed = f"remove one of them{f', also from {SPLITS}' * splits}"
    joined = f"name one subject in subjects.csv (id,subject){f' and put both on one side in {SPLITS}' * splits}"
    same_subject, almost = twin.subject == scan.subject, relation is not None and not relation.exact
    how = f", {relation}" if relation is not None and str(relation) else ""
    whose = "of the same subject" if same_subject else f"of subject {twin.subject}: a test set would leak"
    return Fault(
        "warning" if same_subject or almost else "error",
        scan.id,
        scan.images[0],
        "almost the same voxels" if almost else "same voxels twice",
        f"{'almost ' * almost}the voxels of {twin.id} ({twin.images[0]}){how}, {whose}",
        removed if same_subject else f"{removed}, or {joined}",
    )


def _names(index: Index) -> list[Fault]:
    """Names inside of files (segments, series) that no later command could write down."""
    return [
        Fault("error", "", "", "name that cannot be used", words, "rename it in the file that states it")
        for words in unfit_names(index)
    ]


def _splits(index: Index) -> list[Fault]:
    """What every later command will say of the folder's own splits."""
    file = Path(index.root) / SPLITS
    subject_of = {scan.id: scan.subject for scan in index.scans if scan.label is not None}
    if not file.is_file() or not subject_of:
        return []
    wrong = [
        Fault("error", "", SPLITS, "splits that cannot be used", fault.given, fault.next)
        for fault in faults_of_splits(file, subject_of)
    ]
    if wrong:
        return wrong
    alone = in_no_fold(file, subject_of)
    if not alone:
        return []
    shown = ", ".join(alone[:5]) + ", ..." * (len(alone) > 5)
    seen = f"{len(alone)} of {len(set(subject_of.values()))} labelled subjects are in no fold: {shown}"
    return [Fault("warning", "", SPLITS, "labels that no fold uses", seen, f"add their scans to {SPLITS}")]


def _slice_directions(index: Index) -> list[Fault]:
    """Scans whose slices do not lie as those of most scans do, by the angle between them."""
    found = frame.stacks(index.scans)
    if not found:
        return []
    usual = found[0]
    angles = [(scan, frame.degrees_from(scan, usual.direction)) for scan in index.scans if scan.axes]
    return [
        Fault(
            "warning",
            scan.id,
            scan.images[0],
            "other slice direction",
            f"spacing {_plain(scan.spacing_mm)} mm: {frame.view(scan.axes[scan.slice_axis])} slices (axis "
            f"{scan.slice_axis}), {degrees:.0f} degrees from those of most scans, {frame.view(usual.direction)} (axis "
            f"{usual.axis})",
            "networks on slices will see another view of the body; leave it out if that is not meant",
        )
        for scan, degrees in angles
        if degrees > OTHER_VIEW_DEGREES
    ]


def _not_parallel(index: Index) -> list[Fault]:
    scans = frame.not_parallel(index)
    if not scans:
        return []
    return [
        Fault(
            "warning",
            "",
            scans[0].images[0],
            "nearly parallel, stored turned",
            f"{len(scans)} scans such as {' and '.join(scan.id for scan in scans[:2])} lie within "
            f"{frame.NEARLY_PARALLEL_DEGREES:.0f} degrees of others, and no frame stores all of them alike",
            "fine where pictures may be turned or mirrored; otherwise prepare these scans in a folder of their own",
        )
    ]


def _plain(numbers: Iterable[float]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"
