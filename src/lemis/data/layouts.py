"""Which file is what: the folder layouts we recognise, and the rules from file names to scans and subjects.

- ``nnunet``: imagesTr/ID_0000.EXT (one file per channel), labelsTr/ID.EXT, imagesTs/, dataset.json
- ``msd``: imagesTr/ID.EXT (channels inside the file), labelsTr/ID.EXT, imagesTs/, dataset.json
- ``bids``: sub-XX/[ses-YY/]anat/*; labels (``_dseg``, ``_mask``, ``_label-*``) there or in derivatives/
- ``subjects``: one folder per subject; a word such as seg, label, mask or gt ends the name of a label
- ``flat``: ID.EXT with ID_seg.EXT beside it, or images/ID.EXT with labels/ID.EXT; one DICOM series; one file
- ``csv``: a CSV file with the columns image (or image_NAME, one per channel), label, subject, id
- the folders that public data sets unpack to: see ``public.py``

Labels of imagesTs (labelsTs) are left alone, so that nobody trains on a test set by accident.

A subject is, first of all, what a CSV's ``subject`` column or a ``subjects.csv`` (columns id, subject) in the
folder says, or the folder of the layouts ``bids`` and ``subjects``. Otherwise it is the id without trailing
parts that name a time, a session or a slice (``acdc001_ED`` -> ``acdc001``; see ``subject_of``).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lemis.data import dicom, frame, public, volume
from lemis.data import labels as label_maps
from lemis.data.index import Index, Scan
from lemis.data.listing import Case, Found, LeftOut, files_in, known, shown, stem_of
from lemis.errors import DataFault, UsageError
from lemis.plugins import nearest

TITLES = {
    "nnunet": "nnU-Net raw",
    "msd": "Medical Segmentation Decathlon",
    "bids": "BIDS",
    "subjects": "one folder per subject",
    "flat": "flat folder",
    "csv": "CSV list",
    **public.TITLES,
}

_LABEL_WORD = re.compile(
    r"(?:^|[_.\- ])(?:d?seg|segm|segmentation|labels?|labelmap|masks?|gt|groundtruth|annotation)$",
    re.I,
)
_LABEL_FOLDER = re.compile(r"^(?:labels?|labelsTr|masks?|seg|segs|segmentations?|annotations?|gt|groundtruth)$", re.I)
_IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?|scans?|volumes?)$", re.I)
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_BIDS_LABEL = re.compile(r"^(?:dseg|mask|seg|roi)$|^(?:label|seg|lesion)-", re.I)
_MOMENT = re.compile(r"[_-](?:ED|ES|(?:ses|session|run|frame|phase|time|tp|visit|slice)[-_]?[A-Za-z0-9]+)$", re.I)
_PATIENT_AND_SLICE = re.compile(r"^([A-Za-z].*\d)_\d+$")
_CINE = re.compile(r"_4d$", re.I)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What file names say; nothing is read yet (shapes, spacings and label values are empty)."""

    index: Index  # ``channels`` and ``labels`` are empty where nothing declares them
    left_out: tuple[LeftOut, ...] = ()


def scan_folder(root: Path, layout: str | None = None, jobs: int | None = None) -> Index:
    """Recognise a folder and read the grid of every scan and the values of every label.

    Args:
        root: The folder, a CSV file, or one scan.
        layout: A key of ``TITLES``; recognised from the folder where None.
        jobs: Threads; the number of processors (8 at most) where None.

    Raises:
        UsageError: Nothing is recognised, or a name is ambiguous.
        DataFault: A file cannot be read. ``check.examine`` collects such faults instead of stopping.
    """
    index = recognise(root, layout).index
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        read = list(pool.map(lambda scan: _read_facts(index, scan), index.scans))
    scans, counts, segments = zip(*read, strict=True)
    return complete(index, scans, counts, segments)


def complete(
    index: Index, scans: Iterable[Scan], channel_counts: Iterable[int], segments: Iterable[dict[str, int]]
) -> Index:
    """The index with its scans read, in one frame; names that nothing declared come from the files, or are numbers.

    Args:
        index: As ``recognise`` lists it.
        scans: With their grids in RAS+ order, and the values that their labels hold.
        channel_counts: Of the scans that could be read.
        segments: Names and values inside the label of each scan; in other files they may be other values.
    """
    scans, segments = tuple(scans), tuple(segments)
    channels, labels = index.channels, dict(index.labels)
    if not channels:
        usual = Counter(channel_counts).most_common(1)
        count = usual[0][0] if usual else 1
        channels = ("image",) if count == 1 else tuple(f"channel {number}" for number in range(count))
    declared = bool(labels)
    if not declared:
        labels = {"background": 0} | label_maps.numbering(segments)
    scans = tuple(_numbered(scan, names, labels) for scan, names in zip(scans, segments, strict=True))
    if not declared:
        for value in sorted({value for scan in scans for value in scan.label_values} - set(labels.values())):
            labels[f"label {value}"] = value
    return frame.settle(dataclasses.replace(index, scans=scans, channels=channels, labels=labels))


def _numbered(scan: Scan, segments: Mapping[str, int], labels: Mapping[str, int]) -> Scan:
    moves = label_maps.moved(segments, labels)
    return dataclasses.replace(
        scan, label_values=tuple(sorted({moves.get(value, value) for value in scan.label_values}))
    )


def recognise(root: Path, layout: str | None = None) -> Listing:
    """List the scans of a folder from its file names. Arguments and errors as in ``scan_folder``."""
    root = Path(root).expanduser().resolve()
    if not root.exists():
        raise UsageError(f"{root} does not exist", allowed="a folder of scans, or a CSV file", next="check the path")
    if layout is not None and layout not in TITLES:
        raise UsageError(
            f"layout {layout!r}",
            allowed=", ".join(TITLES),
            next=f"--layout {nearest(layout, TITLES) or 'flat'}",
        )
    if layout is None:
        _refuse_collection(root)
    for name, find in _finders(root).items():
        if layout in (None, name):
            found = find()
            if found is not None and found.cases:
                return _listing(root if root.is_dir() else root.parent, name, found)
    raise _nothing(root, layout)


def subject_of(scan_id: str, *, picture: bool = False) -> str:
    """The subject that an id names: the id without trailing parts that name a moment of the same person.

    Dropped from the end, as often as they occur, after ``_`` or ``-``: ``ED``, ``ES``, and ``ses``,
    ``session``, ``run``, ``frame``, ``phase``, ``time``, ``tp``, ``visit``, ``slice`` with their number or
    name. Of a 2D picture also a slice number, where what is left starts with a letter and ends with a digit
    (``chd1001_0063`` -> ``chd1001``, but ``lungct_002`` stays).
    """
    subject = scan_id
    while shorter := _MOMENT.sub("", subject):
        if shorter == subject:
            break
        subject = shorter
    if picture and (match := _PATIENT_AND_SLICE.match(subject)):
        return match.group(1)
    return subject


# ---------------------------------------------------------------- the layouts


def _imagestr(root: Path) -> tuple[list[Path], dict[str, Path], list[Path], dict[str, Any]] | None:
    """Files of imagesTr, labels by id, files of imagesTs, dataset.json; None without such folders."""
    if not (root / "imagesTr").is_dir() and not (root / "imagesTs").is_dir():
        return None
    facts_file = root / "dataset.json"
    facts = _read_json(facts_file) if facts_file.is_file() else {}
    ending = facts.get("file_ending", "")
    train, test = ([f for f in files_in(root / part) if f.name.endswith(ending)] for part in ("imagesTr", "imagesTs"))
    labels = {stem_of(file): file for file in files_in(root / "labelsTr") if file.name.endswith(ending)}
    return train, labels, test, facts


def _nnunet(root: Path) -> Found | None:
    parts = _imagestr(root)
    if parts is None:
        return None
    train, labels, test, facts = parts
    files = train + test
    if (
        not files
        or not all(_CHANNEL.match(stem_of(file)) for file in files)
        or {stem_of(f) for f in files} & set(labels)
    ):
        return None
    cases = [Case(name, images, labels.get(name)) for name, images in _by_channel(train).items()]
    cases += [Case(name, images, None) for name, images in _by_channel(test).items()]
    channels, names = _declared(root / "dataset.json", facts)
    return Found(cases, channels, names, _orphans(root, cases, labels.values()))


def _msd(root: Path) -> Found | None:
    parts = _imagestr(root)
    if parts is None:
        return None
    train, labels, test, facts = parts
    cases = [Case(stem_of(file), (file,), labels.get(stem_of(file))) for file in train]
    cases += [Case(stem_of(file), (file,), None) for file in test]
    channels, names = _declared(root / "dataset.json", facts)
    return Found(cases, channels, names, _orphans(root, cases, labels.values()))


def _bids(root: Path) -> Found | None:
    if not root.is_dir() or not any(root.glob("sub-*/")):
        return None
    anatomy = [file for file in sorted(root.glob("sub-*/**/anat/*")) if file in files_in(file.parent)]
    derived = [file for file in sorted(root.glob("derivatives/**/sub-*")) if file.is_file() and known(file)]
    labels = [file for file in anatomy + derived if any(_BIDS_LABEL.match(t) for t in stem_of(file).split("_")[1:])]
    groups: dict[str, dict[str, Path]] = {}
    for file in anatomy:
        name, _, modality = stem_of(file).rpartition("_")
        if file not in labels:
            groups.setdefault(name, {})[modality] = file
    channels = _common_channels(groups, "suffixes")
    # The longest id that a label's name starts with is its scan's.
    owners: dict[str, list[Path]] = {name: [] for name in groups}
    orphans = []
    for file in labels:
        matching = [name for name in groups if stem_of(file).startswith(f"{name}_")]
        if matching:
            owners[max(matching, key=len)].append(file)
        else:
            orphans.append(LeftOut(shown(root, file), "a label without an image of its name"))
    cases = []
    for name, images in groups.items():
        label = _only_one(name, owners[name])
        cases.append(Case(name, tuple(images[c] for c in channels), label, name.split("_")[0]))
    return Found(cases, channels if len(channels) > 1 else (), _bids_names(root), tuple(orphans))


def _subjects(root: Path) -> Found | None:
    if not root.is_dir():
        return None
    folders = [part for part in sorted(root.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    parts = [part for folder in folders for part in _scans_of(folder) if part.images]
    plain = all(_IMAGE_FOLDER.match(part.subject) or _LABEL_FOLDER.match(part.subject) for part in parts)
    if plain or len(files_in(root)) >= len(parts):
        return None
    cine = tuple(
        LeftOut(shown(root, image), "a time series (_4d)")
        for part in parts
        for image in part.images
        if _CINE.search(stem_of(image))
    )
    parts = [
        part._replace(images=[image for image in part.images if not _CINE.search(stem_of(image))]) for part in parts
    ]
    scouts = tuple(
        LeftOut(shown(root, series), "a localiser") for folder in folders for series in _series_below(folder)[1]
    )
    if any(_pairs(part.images, part.labels) or _single_dicom(part.images) for part in parts):
        cases, orphans = _paired(root, parts)
        return Found(cases, left_out=cine + scouts + orphans)
    groups = _by_name(root, parts)
    channels = _common_channels(groups, "files")
    cases = [
        Case(part.id, tuple(groups[part.id][c] for c in channels), _only_one(part.id, part.labels), part.subject)
        for part in parts
        if part.images
    ]
    return Found(cases, channels if len(channels) > 1 else (), left_out=cine + scouts)


def _flat(root: Path) -> Found | None:
    if root.is_file():
        return Found([Case(stem_of(root), (root,), None)]) if known(root) or dicom.is_dicom(root) else None
    images = dicom.single_images(root)
    if not images and dicom.is_series_folder(root):
        return _one_series(root)
    files, labels, folder = [*files_in(root), *images], [], root
    inside = [part for part in sorted(root.iterdir()) if part.is_dir()]
    if not files:
        image_folders = [part for part in inside if _IMAGE_FOLDER.match(part.name)]
        if len(image_folders) != 1:
            return None
        folder = image_folders[0]
        files = files_in(folder) + _series_below(folder)[0]
    for part in inside + [part for part in folder.iterdir() if part.is_dir() and folder != root]:
        if _LABEL_FOLDER.match(part.name):
            labels += files_in(part)
    labels += [file for file in files if _LABEL_WORD.search(stem_of(file))]
    images = [file for file in files if file not in labels]
    by_stem: dict[str, list[Path]] = {}
    for file in labels:
        by_stem.setdefault(_LABEL_WORD.sub("", stem_of(file)), []).append(file)
    channels = _by_channel(images)
    complete_channels = channels and all(
        [stem_of(image)[-4:] for image in group] == [f"{number:04d}" for number in range(len(group))]
        for group in channels.values()
    )
    if not complete_channels or set(by_stem) & {stem_of(image) for image in images}:
        channels = {_name_below(folder, image, images): (image,) for image in images}
    cases = [Case(name, group, _only_one(name, by_stem.get(name, []))) for name, group in channels.items()]
    return Found(cases, left_out=_orphans(root, cases, labels))


def _csv(root: Path) -> Found | None:
    if root.is_file():
        tables = [root] if root.suffix.lower() == ".csv" else []
    else:
        tables = [file for file in sorted(root.glob("*.csv")) if _lists_images(file)]
    if not tables:
        return None
    if len(tables) > 1:
        raise UsageError(
            f"{root} holds {len(tables)} lists of images: {', '.join(file.name for file in tables)}",
            allowed="one CSV file, or its path",
            next=f"give {tables[0]}",
        )
    table = tables[0]
    columns, rows = _read_csv(table)
    image_columns = _image_columns(columns)
    if not image_columns:
        raise UsageError(
            f"{table} has the columns {', '.join(columns)}",
            allowed="image (or image_NAME, one per channel), label, subject, id",
            next="name the column of the image files `image`",
        )
    numbered = enumerate(rows, start=2)
    cases = [_row(table, number, row, image_columns) for number, row in numbered if any(row.values())]
    twice = {name for name, count in Counter(case.id for case in cases).items() if count > 1}
    if twice and "id" not in columns:  # files of the same name in different folders
        cases = [
            case._replace(id=_long_id(table.parent, case.images[0])) if case.id in twice else case for case in cases
        ]
    channels = tuple(column.removeprefix("image_") for column in image_columns) if len(image_columns) > 1 else ()
    return Found(cases, channels)


def _finders(root: Path) -> dict[str, Callable[[], Found | None]]:
    """What looks for each layout, in the order in which they are tried."""
    before: dict[str, Callable[[Path], Found | None]] = {
        "gibson": public.gibson,  # its folder names are nobody else's, and a table (cropping.csv) may lie beside them
        "csv": _csv,
        "nnunet": _nnunet,
        "msd": _msd,
    }
    after: dict[str, Callable[[Path], Found | None]] = {"bids": _bids, "subjects": _subjects, "flat": _flat}
    general = {name: partial(find, root) for name, find in {**before, **after}.items()}
    return {name: general[name] for name in before} | public.finders(root) | {name: general[name] for name in after}


# ---------------------------------------------------------------- parts of layouts


def _by_channel(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        match = _CHANNEL.match(stem_of(file))
        groups.setdefault(match.group(1) if match else stem_of(file), []).append(file)
    return {name: tuple(sorted(group)) for name, group in groups.items()}


class _Part(NamedTuple):
    """Files of one scan, or of several that their labels tell apart, below a subject's folder."""

    id: str
    subject: str
    images: list[Path]
    labels: list[Path]


def _scans_of(folder: Path) -> list[_Part]:
    """What lies in a subject's folder: one scan, or one for each DICOM study where those have folders of their own."""
    files = files_in(folder)
    labels = [file for file in files if _LABEL_WORD.search(stem_of(file))]
    images = [file for file in files if file not in labels]
    series, _ = _series_below(folder)
    studies = dicom.studies(series) if all(len(one.relative_to(folder).parts) > 1 for one in series) else []
    tops = [{one.relative_to(folder).parts[0] for one in study} for study in studies]
    if len(studies) > 1 and not files and sum(map(len, tops)) == len(studies) == len(set.union(*tops)):
        return [
            _Part(f"{folder.name}_{_short(top, number)}", folder.name, study, files_in(folder / top))
            for number, (study, (top,)) in enumerate(zip(studies, tops, strict=True), start=1)
        ]
    if dicom.is_series_folder(folder):
        images += dicom.single_images(folder) or [folder]
    return [_Part(folder.name, folder.name, images + series, labels)]


def _short(name: str, number: int) -> str:
    """A study's folder is often named by 60 digits."""
    return name if len(name) <= 24 else f"study{number}"


def _series_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders of DICOM series below one, and those that hold localisers only, where there are others."""
    series = dicom.series_folders(folder)
    scouts = [one for one in series if dicom.is_localiser(one)] if len(series) > 1 else []
    return ([one for one in series if one not in scouts], scouts) if len(scouts) < len(series) else (series, [])


def _single_dicom(images: Iterable[Path]) -> bool:
    return any(image.is_file() and not known(image) for image in images)


def _one_series(root: Path) -> Found:
    """A folder that is one DICOM series, with its label where one lies among the slices."""
    files = files_in(root)
    labels = [file for file in files if _LABEL_WORD.search(stem_of(file))]
    others = tuple(LeftOut(shown(root, f), "an image beside a DICOM series") for f in files if f not in labels)
    return Found([Case(root.name, (root,), _only_one(root.name, labels))], left_out=others)


def _name_below(folder: Path, image: Path, images: Sequence[Path]) -> str:
    """The id of an image: its own name, or that of the folder which holds it and no other image."""
    parts = image.relative_to(folder).parts
    if len(parts) == 1:
        return stem_of(image)
    alone = sum(other.relative_to(folder).parts[0] == parts[0] for other in images) == 1
    return parts[0] if alone else "_".join(parts)


def _by_name(root: Path, parts: Sequence[_Part]) -> dict[str, dict[str, Path]]:
    """The images of each scan by channel: by their names, or DICOM series by what they call themselves."""
    if all(len(part.images) <= 1 for part in parts):  # one image each: its name does not matter
        return {part.id: dict(zip(["image"], part.images, strict=False)) for part in parts}
    named = {part.id: [(_without(stem_of(image), part.subject), image) for image in part.images] for part in parts}
    described = {
        part.id: [(dicom.description(image), image) for image in part.images if image.is_dir()] for part in parts
    }
    paths = {part.id: [("_".join(image.relative_to(root).parts[1:]), image) for image in part.images] for part in parts}
    ways = [{name: dict(pairs) for name, pairs in way.items()} for way in (named, described, paths)]
    for groups in ways:
        complete_names = all(len(groups[part.id]) == len(part.images) and "" not in groups[part.id] for part in parts)
        if complete_names and len({tuple(sorted(group)) for group in groups.values() if group}) == 1:
            return groups
    return ways[0] if all(len(ways[0][part.id]) == len(part.images) for part in parts) else ways[2]


def _pairs(images: Sequence[Path], labels: Sequence[Path]) -> dict[str, Path]:
    """Labels by the stem of the one image that they name (``frame01_gt`` -> ``frame01``)."""
    stems = {stem_of(image) for image in images}
    return {stem: label for label in labels if (stem := _LABEL_WORD.sub("", stem_of(label))) in stems}


def _paired(root: Path, parts: Sequence[_Part]) -> tuple[list[Case], tuple[LeftOut, ...]]:
    cases, used = [], set()
    for part in parts:
        pairs = _pairs(part.images, part.labels)
        used |= set(pairs.values())
        for image in part.images:
            stem = stem_of(image)
            name = stem if stem.startswith(part.id) else part.id if len(part.images) == 1 else f"{part.id}_{stem}"
            cases.append(Case(name, (image,), pairs.get(stem), part.subject))
    unused = [label for part in parts for label in part.labels if label not in used]
    return cases, tuple(LeftOut(shown(root, label), "a label without an image of its name") for label in unused)


def _common_channels(groups: dict[str, dict[str, Path]], what: str) -> tuple[str, ...]:
    """The channel names that all scans share."""
    sets = Counter(tuple(sorted(group)) for group in groups.values() if group)
    if not sets:
        return ()
    usual = sets.most_common(1)[0][0]
    odd = next((name for name, group in groups.items() if group and tuple(sorted(group)) != usual), None)
    if odd is None:
        return usual
    raise UsageError(
        f"{odd} has the {what} {', '.join(sorted(groups[odd]))}; most others have {', '.join(usual)}",
        allowed="the same channels in every scan",
        next="move the others away, or list the files you mean in a CSV (image_NAME, label, subject)",
    )


def _only_one(name: str, labels: Sequence[Path]) -> Path | None:
    if len(labels) > 1:
        raise UsageError(
            f"{name} has {len(labels)} labels: {', '.join(label.name for label in labels)}",
            allowed="one label map per scan",
            next="move the others away, or list the files that you mean in a CSV (image, label, subject)",
        )
    return labels[0] if labels else None


def _orphans(root: Path, cases: Iterable[Case], labels: Iterable[Path]) -> tuple[LeftOut, ...]:
    used = {case.label for case in cases}
    return tuple(LeftOut(shown(root, f), "a label without an image of its name") for f in labels if f not in used)


def _declared(file: Path, facts: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Channel names and label values of a dataset.json: nnU-Net's (name: value) or MSD's ("value": name)."""
    channels = facts.get("channel_names") or facts.get("modality") or {}
    names: dict[str, int] = {}
    for key, value in (facts.get("labels") or {}).items():
        if isinstance(value, str) and key.lstrip("-").isdigit():
            names[value] = int(key)
        elif isinstance(value, int) and key != "ignore":
            names[key] = value
        else:
            raise UsageError(
                f"{file} declares the label {key!r}: {value}",
                allowed="one integer per name; regions (lists) and an ignore label are not supported",
                next="declare the single structures, or remove `labels` to take the values that occur",
            )
    if names and 0 not in names.values():
        names = {"background": 0, **names}
    return tuple(str(channels[key]) for key in sorted(channels, key=int)), names


def _bids_names(root: Path) -> dict[str, int]:
    """Label names of the first ``*dseg.tsv`` (columns index, name), the root's own or a derivative's."""
    for table in sorted([*root.glob("*dseg.tsv"), *root.glob("derivatives/**/*dseg.tsv")]):
        columns, rows = _read_csv(table, "\t")
        if {"index", "name"} <= set(columns):
            names = {row["name"]: int(row["index"]) for row in rows if row.get("name")}
            return names if 0 in names.values() else {"background": 0, **names}
    return {}


def _image_columns(columns: Sequence[str]) -> list[str]:
    return ["image"] if "image" in columns else [name for name in columns if name.startswith("image_")]


def _lists_images(table: Path) -> bool:
    """An ``image`` column, or ``image_...`` columns that name files (an ``image_name`` may be anything)."""
    columns, rows = _read_csv(table)
    found = _image_columns(columns)
    return found == ["image"] or bool(found and rows and all((table.parent / rows[0][c]).is_file() for c in found))


def _row(table: Path, number: int, row: dict[str, str], image_columns: Sequence[str]) -> Case:
    files = {}
    for column in [*image_columns, "label"]:
        text = row.get(column, "")
        files[column] = table.parent / text if text else None
        if (column != "label" and not text) or (text and not volume.file_of(table.parent / text).exists()):
            raise DataFault(
                f"{table.name}, line {number}: {column} {text or 'is empty'}",
                allowed=f"a file that exists, relative to {table.parent}, or a full path",
                next="correct the path in the CSV",
            )
    images = tuple(file for column in image_columns if (file := files[column]) is not None)
    return Case(row.get("id") or stem_of(images[0]), images, files["label"], row.get("subject") or None)


def _long_id(folder: Path, file: Path) -> str:
    parents = file.relative_to(folder).parent.parts if file.is_relative_to(folder) else file.parent.parts[-1:]
    return "_".join([*parents, stem_of(file)])


def _without(stem: str, folder: str) -> str:
    return stem.removeprefix(folder).lstrip("_-. ") or stem


# ---------------------------------------------------------------- files


def _read_json(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not JSON: {error}", allowed="a JSON object", next=f"correct {file.name}"
        ) from error
    if not isinstance(facts, dict):
        raise UsageError(f"{file} holds a {type(facts).__name__}", allowed="a JSON object", next=f"correct {file.name}")
    return facts


def _read_csv(file: Path, delimiter: str = ",") -> tuple[list[str], list[dict[str, str]]]:
    """Column names in lower case, and all rows below them, stripped; an empty row has no values."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = [[cell.strip() for cell in line] for line in csv.reader(stream, delimiter=delimiter)]
    if not lines:
        return [], []
    columns = [name.lower() for name in lines[0]]
    return columns, [dict(zip(columns, line, strict=False)) for line in lines[1:]]


def _listing(root: Path, layout: str, found: Found) -> Listing:
    twice = [name for name, count in Counter(case.id for case in found.cases).items() if count > 1]
    odd = [case.id for case in found.cases if re.search(r'[/\\:*?"<>|]', case.id)]
    if twice or odd:
        raise UsageError(
            f"ids that {'occur twice' if twice else 'are no file names'}: {', '.join((twice or odd)[:5])}",
            allowed="ids that differ and can be file names",
            next="rename the files, or give a CSV with an id column",
        )
    subjects = _subject_table(root)
    scans = tuple(
        Scan(
            id=case.id,
            subject=subjects.get(case.id)
            or case.subject
            or subject_of(case.id, picture=volume.is_picture(case.images[0])),
            images=tuple(shown(root, image) for image in case.images),
            label=shown(root, case.label) if case.label else None,
        )
        for case in sorted(found.cases, key=lambda case: case.id)
    )
    index = Index(
        root=str(root),
        layout=layout,
        channels=found.channels,
        labels=found.labels,
        scans=scans,
        ignored=found.ignored,
    )
    return Listing(index, found.left_out)


def _subject_table(root: Path) -> dict[str, str]:
    file = root / "subjects.csv"
    if not file.is_file():
        return {}
    columns, rows = _read_csv(file)
    if not {"id", "subject"} <= set(columns):
        raise UsageError(
            f"{file} has the columns {', '.join(columns)}",
            allowed="id, subject",
            next="name the columns id and subject",
        )
    return {row["id"]: row["subject"] for row in rows if row.get("subject")}


def _read_facts(index: Index, scan: Scan) -> tuple[Scan, int, dict[str, int]]:
    """The scan with its grid and label values, its number of channels, and the names inside its label."""
    root = Path(index.root)
    headers = [volume.read_header(root / image) for image in scan.images]
    values: tuple[int, ...] = ()
    segments: dict[str, int] = {}
    if scan.label is not None:
        label = label_maps.read(root / scan.label)
        values, segments = tuple(np.unique(label.array).tolist()), label.source.segments
    return with_grid(index, scan, headers[0], values), sum(header.channels for header in headers), segments


def with_grid(index: Index, scan: Scan, source: volume.Source, label_values: tuple[int, ...]) -> Scan:
    """A scan of the index with the facts of its first image."""
    spacing = tuple(round(size, 6) for size in source.spacing_mm)
    return dataclasses.replace(
        scan,
        shape=source.canonical_shape,
        spacing_mm=spacing,
        slice_axis=public.slice_axis(index.layout, spacing),
        label_values=label_values,
        axes=source.axes,
    )


def _refuse_collection(root: Path) -> None:
    inside = sorted(part.parent.name for part in root.glob("*/imagesTr")) if root.is_dir() else []
    if inside and not (root / "imagesTr").exists():
        raise UsageError(
            f"{root} holds {len(inside)} data set(s): {', '.join(inside[:4])}{', ...' * (len(inside) > 4)}",
            allowed="one data set at a time",
            next=f"give {root / inside[0]}",
        )


def _nothing(root: Path, layout: str | None) -> UsageError:
    if root.is_file():
        seen = f"{root} is a file"
    else:
        names = [part.name + ("/" if part.is_dir() else "") for part in sorted(root.iterdir())]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        seen = f"{root} holds {', '.join(names[:8]) or 'nothing'}{more}"
    wanted = f"the layout {TITLES[layout]}" if layout else "a layout that we know"
    return UsageError(
        f"{seen}: not {wanted}",
        allowed="imagesTr/ + labelsTr/ (nnU-Net, Decathlon); sub-XX/anat/ (BIDS); one folder per subject; "
        "ID.nii.gz with ID_seg.nii.gz; images/ + labels/; a CSV with columns image,label,subject",
        next="give the folder that holds these, or list your files in a CSV",
    )
