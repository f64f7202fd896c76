"""Which file is what: the folder layouts we recognise, and the rules from file names to scans and subjects.

- ``nnunet``: imagesTr/ID_0000.EXT (one file per channel), labelsTr/ID.EXT, imagesTs/, dataset.json
- ``msd``: imagesTr/ID.EXT (channels inside the file), labelsTr/ID.EXT, imagesTs/, dataset.json
- ``bids``: sub-XX/[ses-YY/]anat/*; labels (``_dseg``, ``_mask``, ``_label-*``) there or in derivatives/
- ``subjects``: one folder per subject; a word such as seg, label, mask or gt ends the name of a label
- ``flat``: ID.EXT with ID_seg.EXT beside it, or images/ID.EXT with labels/ID.EXT; one DICOM series; one file
- ``csv``: a CSV file with the columns image (or image_NAME, one per channel), label, subject, id
- the folders that public data sets unpack to: see ``public.py``

Labels of imagesTs (labelsTs) are left alone, so that nobody trains on a test set by accident.

A subject is, first of all, what a CSV's ``subject`` column or a ``subjects.csv`` (columns id, subject) in the folder
says, or ``sub-XX`` of ``bids``. Otherwise it is the id, or the folder of ``subjects``, without trailing parts that name
a time, a session or a slice (``acdc001_ED`` -> ``acdc001``; see ``identity.subject_of``).
"""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lemis.datasets import channel_files, csv_list, dataset_json, doubts, frame, public
from lemis.datasets.identity import subject_of
from lemis.datasets.index import Index, Scan, refuse_names
from lemis.datasets.listing import (
    LABEL_FOLDER,
    Case,
    Doubt,
    Found,
    LeftOut,
    Tree,
    files_in,
    known,
    only_image,
    shown,
    stem_of,
)
from lemis.errors import UsageError
from lemis.formats import labels as label_maps
from lemis.formats import packed, spreadsheet, volume
from lemis.formats.dicom import folders as dicom
from lemis.formats.names import is_utf8, readable, unfit_text
from lemis.formats.paths import FORMATS, is_picture, strange_format, suffix_of
from lemis.formats.source import Source
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

_LABEL_FIRST = re.compile(r"^(?:segmentation|seg|label|mask|gt)(?:([_.\- ])|(?=\d))(.+)$", re.I)
_IMAGE_FIRST = ("volume", "vol", "image", "img", "scan", "ct", "mr", "case", "patient", "pat")
_LABEL_WORD = re.compile(
    r"(?:^|[_.\- ])(?:d?seg|segm|segmentation|labels?|labelmap|masks?|gt|groundtruth|annotation)$",
    re.I,
)
_IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?|scans?|volumes?)$", re.I)
# What lies in anat/ and is neither an image nor a label map.
_BIDS_OTHER = {"defacemask": "a mask of what defacing removed", "probseg": "probabilities, no label map"}
_BIDS_TEMPLATE = re.compile(r"_space-(?:MNI|ICBM|fs|Talairach|OASIS|NIHPD|UNC|PNC)", re.I)
_BIDS_LABEL = re.compile(r"^(?:dseg|mask|seg|roi)$|^(?:label|seg|lesion)-", re.I)
_CINE = re.compile(r"_4d$", re.I)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What file names say; nothing is read yet (shapes, spacings and label values are empty)."""

    index: Index  # ``channels`` and ``labels`` are empty where nothing declares them
    left_out: tuple[LeftOut, ...] = ()
    doubts: tuple[Doubt, ...] = ()  # what ``check`` warns of


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
    root = Path(os.path.realpath(Path(root).expanduser()))  # Path.resolve raises where links run in a circle
    if not root.exists():
        raise UsageError(f"{root} does not exist", allowed="a folder of scans, or a CSV file", next="check the path")
    packed.refuse_special(root)
    if not is_utf8(str(root)):
        raise UsageError(
            f"{readable(str(root))} is not UTF-8", allowed="a path that files can hold", next="rename the folder"
        )
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
                folder = root if root.is_dir() else root.parent
                return _listing(folder, name, found, None if name == "csv" or root.is_file() else Tree(root))
    raise _nothing(root, layout)


# ---------------------------------------------------------------- the layouts


class _ImagesTr(NamedTuple):
    """The folders that nnU-Net and the Decathlon have in common."""

    train: list[Path]
    labels: list[Path]
    test: list[Path]
    declared: dataset_json.Declared
    left_out: tuple[LeftOut, ...]


def _imagestr(root: Path) -> _ImagesTr | None:
    if not (root / "imagesTr").is_dir() and not (root / "imagesTs").is_dir():
        return None
    declared = dataset_json.read(root / "dataset.json")
    ending = declared.file_ending.lower()
    inside = {part: files_in(root / part) for part in ("imagesTr", "labelsTr", "imagesTs")}
    kept = {part: [file for file in files if file.name.lower().endswith(ending)] for part, files in inside.items()}
    images = inside["imagesTr"] + inside["imagesTs"]
    if images and not kept["imagesTr"] + kept["imagesTs"]:
        endings = sorted({suffix_of(file) for file in images})
        raise UsageError(
            f'{root / "dataset.json"}: "file_ending" is "{declared.file_ending}", but no image ends so',
            allowed=f"what the images end in: {', '.join(endings)}",
            next=f'write "file_ending": "{endings[0]}" into dataset.json, or remove it',
        )
    others = [file for part, files in inside.items() for file in files if file not in kept[part]]
    reason = f"does not end in {declared.file_ending}, the file_ending of dataset.json"
    left_out = tuple(LeftOut(shown(root, file), reason) for file in others)
    return _ImagesTr(kept["imagesTr"], kept["labelsTr"], kept["imagesTs"], declared, left_out)


def _nnunet(root: Path) -> Found | None:
    parts = _imagestr(root)
    if parts is None:
        return None
    images = parts.train + parts.test
    labels = {name for file in parts.labels for name in _names_in(stem_of(file))}
    channels = channel_files.numbers(images, labels, len(parts.declared.channel_names))
    if not channels:
        return None
    cases, left_out = _labelled(root, channel_files.by_scan(parts.train, channels), parts.labels, numbered=True)
    odd_json = tuple(doubts.not_as_declared(root, parts.declared, cases))
    cases += [Case(name, files, None) for name, files in channel_files.by_scan(parts.test, channels).items()]
    odd = [file for file in images if not channel_files.CHANNEL.match(stem_of(file))]
    left_out += tuple(LeftOut(shown(root, file), "has no channel number (_0000) at its end") for file in odd)
    left_out = parts.left_out + left_out
    return Found(cases, parts.declared.channel_names, parts.declared.labels, left_out, doubts=odd_json)


def _msd(root: Path) -> Found | None:
    parts = _imagestr(root)
    if parts is None:
        return None
    cases, left_out = _labelled(root, _one_each(parts.train), parts.labels)
    odd_json = tuple(doubts.not_as_declared(root, parts.declared, cases))
    cases += [Case(stem_of(file), (file,), None) for file in parts.test]
    left_out = parts.left_out + left_out
    return Found(cases, parts.declared.channel_names, parts.declared.labels, left_out, doubts=odd_json)


def _bids(root: Path) -> Found | None:
    if not root.is_dir() or not any(root.glob("sub-*/")):
        return None
    anatomy = [file for folder in sorted(root.glob("sub-*/**/anat/")) for file in files_in(folder)]
    derived = [file for file in sorted(root.glob("derivatives/**/sub-*")) if file.is_file() and known(file)]
    labels = [file for file in anatomy + derived if any(_BIDS_LABEL.match(t) for t in stem_of(file).split("_")[1:])]
    left_out = {file: _BIDS_OTHER.get(_bids_suffix(file), "") for file in anatomy + derived}
    left_out |= {file: "in the space of a template" for file in labels if _BIDS_TEMPLATE.search(stem_of(file))}
    left_out = {file: reason for file, reason in left_out.items() if reason}
    anatomy, labels = ([file for file in some if file not in left_out] for some in (anatomy, labels))
    groups: dict[str, dict[str, Path]] = {}
    for file in anatomy:
        name, _, modality = stem_of(file).rpartition("_")
        if file not in labels:
            groups.setdefault(name, {})[modality] = file
    channels = _common_channels(groups, "suffixes")
    # The longest id that a label's name starts with is its scan's.
    owners: dict[str, list[Path]] = {name: [] for name in groups}
    for file in labels:
        matching = [name for name in groups if stem_of(file).startswith(f"{name}_")]
        if matching:
            owners[max(matching, key=len)].append(file)
        else:
            left_out[file] = "a label without an image of its name"
    cases = []
    for name, images in groups.items():
        whole = [file for file in owners[name] if _bids_suffix(file) == "dseg"]
        if len(whole) == 1:  # a map of all structures; the others are masks of some of them, or of the brain
            left_out |= {file: f"a mask beside {whole[0].name}" for file in owners[name] if file not in whole}
            owners[name] = whole
        label = _only_one(name, owners[name])
        cases.append(Case(name, tuple(images[c] for c in channels), label, name.split("_")[0]))
    unused_files = tuple(LeftOut(shown(root, file), reason) for file, reason in left_out.items())
    return Found(cases, channels if len(channels) > 1 else (), _bids_names(root), unused_files)


def _bids_suffix(file: Path) -> str:
    """``T1w`` of ``sub-01_ses-1_T1w.nii.gz``."""
    return stem_of(file).rpartition("_")[2]


def _subjects(root: Path) -> Found | None:
    if not root.is_dir():
        return None
    folders = [part for part in sorted(root.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    parts = [part for folder in folders for part in _scans_of(folder) if part.images]
    plain = all(_IMAGE_FOLDER.match(part.subject) or LABEL_FOLDER.match(part.subject) for part in parts)
    beside = all(any(word.match(folder.name) for folder in folders) for word in (_IMAGE_FOLDER, LABEL_FOLDER))
    if plain or beside or len(files_in(root)) >= len(parts):
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
    others = tuple(
        LeftOut(shown(root, series), reason)
        for folder in folders
        for series, reason in _series_below(folder)[1].items()
    )
    if any(_pairs(part.images, part.labels) or _single_dicom(part.images) for part in parts):
        cases, orphans = _paired(root, parts)
        return Found(cases, left_out=cine + others + orphans)
    groups = _by_name(root, parts)
    channels = _common_channels(groups, "files")
    cases = [
        Case(part.id, tuple(groups[part.id][c] for c in channels), _only_one(part.id, part.labels), folder=part.subject)
        for part in parts
        if part.images
    ]
    return Found(cases, channels if len(channels) > 1 else (), left_out=cine + others)


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
        if LABEL_FOLDER.match(part.name):
            labels += files_in(part)
    labels += _labels_among(files)
    images = [file for file in files if file not in labels]
    names = {stem for file in labels for stem in _names_in(stem_of(file))}
    channels = channel_files.numbers(images, names)
    named = partial(_name_below, folder, images=images)
    groups = channel_files.by_scan(images, channels) if channels else _one_each(images, named)
    cases, left_out = _labelled(root, groups, labels, numbered=bool(channels))
    return Found(cases, left_out=left_out)


def _finders(root: Path) -> dict[str, Callable[[], Found | None]]:
    """What looks for each layout, in the order in which they are tried."""
    before: dict[str, Callable[[Path], Found | None]] = {
        "gibson": public.gibson,  # its folder names are nobody else's, and a table (cropping.csv) may lie beside them
        "csv": csv_list.find,
        "nnunet": _nnunet,
        "msd": _msd,
    }
    after: dict[str, Callable[[Path], Found | None]] = {"bids": _bids, "subjects": _subjects, "flat": _flat}
    general = {name: partial(find, root) for name, find in {**before, **after}.items()}
    return {name: general[name] for name in before} | public.finders(root) | {name: general[name] for name in after}


# ---------------------------------------------------------------- parts of layouts


def _one_each(files: Iterable[Path], named: Callable[[Path], str] = stem_of) -> dict[str, tuple[Path, ...]]:
    """Every file a scan of its own.

    Raises:
        UsageError: Two files of one name (``a.nii``, ``a.nii.gz``).
    """
    groups: dict[str, tuple[Path, ...]] = {}
    for file in files:
        groups[named(file)] = (*groups.get(named(file), ()), file)
    return {name: (only_image(files[0].parent, name, files),) for name, files in groups.items()}


def _labelled(
    root: Path, groups: Mapping[str, tuple[Path, ...]], labels: Sequence[Path], *, numbered: bool = False
) -> tuple[list[Case], tuple[LeftOut, ...]]:
    """The scans with their labels, and labels that are nobody's.

    Args:
        root: Of the data set.
        groups: Images of each scan by id.
        labels: Files of labels.
        numbered: Whether a label may carry the number of a channel (``ID_0000``) after the id.

    Raises:
        UsageError: Two labels of one scan.
    """
    owned: dict[str, list[Path]] = {}
    orphans = []
    for file in labels:
        owner = next((name for name in _names_in(stem_of(file), numbered=numbered) if name in groups), None)
        if owner is None:
            orphans.append(LeftOut(shown(root, file), "a label without an image of its name"))
        else:
            owned.setdefault(owner, []).append(file)
    cases = [Case(name, files, _only_one(name, owned.get(name, []))) for name, files in groups.items()]
    return cases, tuple(orphans)


def references(folder: Path, ids: Collection[str]) -> dict[str, Path]:
    """Reference label maps of a folder by the scan that they are of.

    A file is named like its scan, or like it with ``_seg``, ``-label``, ``_0000`` and the like at its end; one that is
    named exactly like it goes before others.

    Args:
        folder: Of label maps.
        ids: Scans that are looked for; what is of none of them stands under its own name.

    Raises:
        UsageError: Two files are of one scan.
    """
    found: dict[str, list[Path]] = {}
    for file in files_in(folder):
        stem = stem_of(file).removesuffix(".seg")
        found.setdefault(next((name for name in _names_in(stem, numbered=True) if name in ids), stem), []).append(file)
    for name, files in found.items():
        exact = [file for file in files if stem_of(file).removesuffix(".seg") == name]
        found[name] = exact or files
        if len(found[name]) > 1:
            raise UsageError(
                f"{name} has {len(found[name])} references: {', '.join(file.name for file in found[name])}",
                allowed="one label map of each scan",
                next=f"move the others out of {folder}",
            )
    return {name: files[0] for name, files in found.items()}


def _names_in(stem: str, *, numbered: bool = False) -> Iterator[str]:
    """What a label's name may say of its image: itself, then without ``_seg``, ``-label`` and the like, one by one;
    of one that begins so (``segmentation-0``), the rest, alone and after a word for an image (``volume-0``).
    """
    while stem:
        yield stem
        shorter = _LABEL_WORD.sub("", stem)
        if shorter == stem and numbered:
            shorter = channel_files.CHANNEL.sub(r"\1", stem)
        if shorter == stem:
            break
        stem = shorter
    if match := _LABEL_FIRST.match(stem):
        yield match[2]
        yield from (f"{word}{match[1] or ''}{match[2]}" for word in _IMAGE_FIRST)


def _labels_among(files: Sequence[Path]) -> list[Path]:
    """Files whose names end in a word for a label, or begin with one where the image that they name is there too."""
    stems = {stem_of(file) for file in files}
    return [
        file
        for file in files
        if _LABEL_WORD.search(stem_of(file))
        or (_LABEL_FIRST.match(stem_of(file)) and stems.intersection(_names_in(stem_of(file))) - {stem_of(file)})
    ]


class _Part(NamedTuple):
    """Files of one scan, or of several that their labels tell apart, below a subject's folder."""

    id: str
    subject: str
    images: list[Path]
    labels: list[Path]


def _scans_of(folder: Path) -> list[_Part]:
    """What lies in a subject's folder: one scan, or one for each DICOM study where those have folders of their own."""
    files = files_in(folder)
    labels = _labels_among(files)
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


def _series_below(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Folders of DICOM series below one; and those that are no scans, where there are others, with the reason."""
    series = dicom.series_folders(folder)
    others = {one: reason for one in series if (reason := dicom.no_scan(one))} if len(series) > 1 else {}
    if len(others) == len(series):
        return series, {}
    return [one for one in series if one not in others], others


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
    owners = {label: next((name for name in _names_in(stem_of(label)) if name in stems), None) for label in labels}
    return {stem: label for label, stem in owners.items() if stem is not None}


def _paired(root: Path, parts: Sequence[_Part]) -> tuple[list[Case], tuple[LeftOut, ...]]:
    cases, used = [], set()
    for part in parts:
        pairs = _pairs(part.images, part.labels)
        used |= set(pairs.values())
        for image in part.images:
            stem = stem_of(image)
            name = stem if stem.startswith(part.id) else part.id if len(part.images) == 1 else f"{part.id}_{stem}"
            cases.append(Case(name, (image,), pairs.get(stem), folder=part.subject))
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


def _bids_names(root: Path) -> dict[str, int]:
    """Label names of the first ``*dseg.tsv`` (columns index, name), the root's own or a derivative's."""
    for file in sorted([*root.glob("*dseg.tsv"), *root.glob("derivatives/**/*dseg.tsv")]):
        table = spreadsheet.read(file)
        if {"index", "name"} <= set(table.columns):
            return _structures(table)
    return {}


def _structures(table: spreadsheet.Table) -> dict[str, int]:
    names: dict[str, int] = {}
    for line, cells in table.rows:
        name, number = cells["name"], cells["index"]
        if (
            not re.fullmatch(r"-?[0-9]{1,9}", number)
            or unfit_text(name)
            or name in names
            or int(number) in names.values()
        ):
            raise UsageError(
                f"{table.file}, line {line}: index {number!r}, name {name!r}",
                allowed="a whole number and a name in every line, each of them once",
                next=f"correct {table.file.name}, or remove it to take the values that occur",
            )
        names[name] = int(number)
    return names if 0 in names.values() else {"background": 0, **names}


def _without(stem: str, folder: str) -> str:
    return stem.removeprefix(folder).lstrip("_-. ") or stem


# ---------------------------------------------------------------- files


def _listing(root: Path, layout: str, found: Found, tree: Tree | None) -> Listing:
    """The scans by id, each with its subject, and what there is to say of the folder.

    Args:
        root: What files are relative to.
        layout: Of the scans.
        found: What it made of the folder.
        tree: All that lies in the folder; None where a file or a list says itself what is meant.

    Raises:
        UsageError: Ids, subjects or paths that cannot be used, or a ``subjects.csv`` that cannot.
    """
    table = csv_list.subjects(root)
    said = {case.id: table.get(unicodedata.normalize("NFC", case.id)) or case.subject for case in found.cases}
    scans = tuple(
        Scan(
            id=case.id,
            subject=said[case.id] or _guessed(case),
            images=tuple(shown(root, image) for image in case.images),
            label=shown(root, case.label) if case.label else None,
        )
        for case in sorted(found.cases, key=lambda case: case.id)
    )
    refuse_names(scans, next="rename the files, or give a CSV with an id column")
    index = Index(
        root=str(root),
        layout=layout,
        channels=found.channels,
        labels=found.labels,
        scans=scans,
        ignored=found.ignored,
    )
    odd = csv_list.strangers(table, said) + doubts.structure_at_zero(found.labels)
    odd += list(found.doubts)
    odd += csv_list.doubtful(found.cases) if layout == "csv" else []
    odd += doubts.shared_labels(scans)
    guessed = [scan for scan in scans if not said[scan.id]]
    odd += doubts.perhaps_one_person(scan.subject for scan in guessed) + doubts.one_patient(root, guessed)
    left_out = found.left_out
    if tree is not None:
        odd += doubts.misnamed(root) + doubts.dangling_links(tree)
        left_out += () if layout in public.TITLES else doubts.unused(tree, found)
    return Listing(index, tuple(LeftOut(readable(file), reason) for file, reason in left_out), tuple(odd))


def _guessed(case: Case) -> str:
    if case.folder is not None:
        return subject_of(case.folder)
    return subject_of(case.id, picture=is_picture(case.images[0]))


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


def with_grid(index: Index, scan: Scan, source: Source, label_values: tuple[int, ...]) -> Scan:
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
        names = [readable(part.name) + ("/" if part.is_dir() else "") for part in sorted(root.iterdir())]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        seen = f"{root} holds {', '.join(names[:8]) or 'nothing'}{more}"
    wanted = f"the layout {TITLES[layout]}" if layout else "a layout that we know"
    tree = Tree(root)
    links = doubts.dangling_links(tree)
    if links:
        return UsageError(
            f"{seen}: {links[0].file}, one of {len(links)} links, {links[0].seen}, which is not there",
            allowed="files that are there",
            next=links[0].repair,
        )
    strange = [file for file in tree.files if strange_format(Path(file))]
    if strange:
        first = Path(strange[0])
        return UsageError(
            f"{seen}: {strange_format(first)} are not read ({readable(strange[0])}, {len(strange)} such files)",
            allowed=", ".join(FORMATS),
            next='convert each: python -c "import nibabel as n; '
            f"n.save(n.load('{root / first}'), '{first.stem}.nii.gz')\"",
        )
    return UsageError(
        f"{seen}: not {wanted}",
        allowed="imagesTr/ + labelsTr/ (nnU-Net, Decathlon); sub-XX/anat/ (BIDS); one folder per subject; "
        "ID.nii.gz with ID_seg.nii.gz; images/ + labels/; a CSV with columns image,label,subject",
        next="give the folder that holds these, or list your files in a CSV",
    )
