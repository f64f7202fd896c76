"""One folder per subject: an image and its label, several images as channels, several pairs, or DICOM series.

A word such as seg, label, mask or gt ends the name of a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.datasets import dicom_series
from lemis.datasets.channel_files import common_channels
from lemis.datasets.label_names import IMAGE_FOLDER, LABEL_FOLDER, labels_among, only_label, orphan, pairs
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, known, series_below, shown, stem_of
from lemis.errors import UsageError
from lemis.formats.dicom import folders as dicom

_CINE = re.compile(r"_4d$", re.I)
# Folders and files that count or are named by a UID, not by what is in them: SE000001, IM0002, 3, 1.2.840.
_COUNTED = re.compile(r"(?:S|SE|SER|SERIES|IM|IMG|IMAGE|I|SR)?[-_ ]?[0-9.]+(?:[.]dcm)?", re.I)


def find(tree: Tree) -> Found | None:
    """Folders that are not called images or labels, most images in one of them."""
    root = tree.root
    if not root.is_dir():
        return None
    folders = [part for part in sorted(root.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    if tree.series:
        return _named_series(tree, folders)
    parts = [part for folder in folders for part in _scans_of(folder) if part.images]
    plain = all(IMAGE_FOLDER.match(part.subject) or LABEL_FOLDER.match(part.subject) for part in parts)
    beside = all(any(word.match(folder.name) for folder in folders) for word in (IMAGE_FOLDER, LABEL_FOLDER))
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
        LeftOut(shown(root, series), reason) for folder in folders for series, reason in series_below(folder)[1].items()
    )
    if any(pairs(part.images, part.labels) or _single_dicom(part.images) for part in parts):
        cases, orphans = _paired(root, parts)
        return Found(cases, left_out=cine + others + orphans)
    _refuse_mixed(root, folders, parts)
    groups = _by_name(root, folders, parts)
    channels = common_channels(groups, "files")
    cases = []
    for part in parts:
        if part.images:
            images = tuple(groups[part.id][name] for name in channels)
            cases.append(Case(part.id, images, only_label(part.id, part.labels), folder=part.subject))
    return Found(cases, channels if len(channels) > 1 else (), left_out=cine + others)


class _Part(NamedTuple):
    """Files of one scan, or of several that their labels tell apart, below a subject's folder."""

    id: str
    subject: str
    images: list[Path]
    labels: list[Path]


def _scans_of(folder: Path) -> list[_Part]:
    """What lies in a subject's folder: one scan, or one for each DICOM study where those have folders of their own."""
    files = files_in(folder)
    labels = labels_among(files)
    images = [file for file in files if file not in labels]
    series, _ = series_below(folder)
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


def _named_series(tree: Tree, folders: Sequence[Path]) -> Found | None:
    """Of each subject and study, the series that the user names."""
    found = {folder: dicom_series.studies_below(folder) for folder in folders if not LABEL_FOLDER.match(folder.name)}
    studies = [study for some in found.values() for study in some]
    if not studies:
        return None
    cases: list[Case] = []
    others: list[LeftOut] = []
    channels: tuple[str, ...] = ()
    for folder, some in found.items():
        chosen = [dicom_series.scans_of(study, tree.series) for study in some]
        several = sum(map(bool, chosen)) > 1
        for number, (study, scans) in enumerate(zip(some, chosen, strict=True), start=1):
            others += dicom_series.left_out(tree.root, study, scans.values())
            if not scans:
                continue
            top = study.folder.relative_to(folder).parts[:1]
            name = f"{folder.name}_{_short(top[0] if top else '', number)}" if several else folder.name
            labels = labels_among(files_in(study.folder if several and top else folder))
            images = tuple(dicom_series.path_of(one, what) for what, one in scans.items())
            cases.append(Case(name, images, only_label(name, labels), folder=folder.name))
            channels = tuple(scans) if len(scans) > 1 else ()
    if not cases:
        raise dicom_series.which(tree.root, studies, tree.series)
    return Found(cases, channels, left_out=tuple(others))


def _refuse_mixed(root: Path, folders: Sequence[Path], parts: Sequence[_Part]) -> None:
    """Ask which series is meant where files of several that may be a scan lie in one folder."""
    for image in (image for part in parts for image in part.images if image.is_dir()):
        if dicom.looks_mixed(image) and sum(not one.first.no_scan for one in dicom.series_in(image)) > 1:
            raise _which(root, folders)


def _which(root: Path, folders: Sequence[Path]) -> UsageError:
    return dicom_series.which(root, [study for folder in folders for study in dicom_series.studies_below(folder)])


def _short(name: str, number: int) -> str:
    """A study's folder is often named by 60 digits."""
    return name if 0 < len(name) <= 24 else f"study{number}"


def _single_dicom(images: Iterable[Path]) -> bool:
    return any(image.is_file() and not known(image) and not dicom.is_enhanced(image) for image in images)


def _by_name(root: Path, folders: Sequence[Path], parts: Sequence[_Part]) -> dict[str, dict[str, Path]]:
    """The images of each scan by channel: DICOM series by what they call themselves, others by their names.

    Raises:
        UsageError: DICOM series that neither their descriptions nor their folders tell apart.
    """
    if all(len(part.images) <= 1 for part in parts):  # one image each: its name does not matter
        return {part.id: dict(zip(["image"], part.images, strict=False)) for part in parts}
    named = {part.id: {_without(stem_of(image), part.subject): image for image in part.images} for part in parts}
    described = {
        part.id: {dicom.description(image): image for image in part.images if _is_series(image)} for part in parts
    }
    all_series = all(_is_series(image) for part in parts for image in part.images)
    if any(_is_torn(part.images) for part in parts):
        raise _which(root, folders)
    for groups in (described, named):
        complete_names = all(len(groups[part.id]) == len(part.images) and "" not in groups[part.id] for part in parts)
        alike = len({tuple(sorted(group)) for group in groups.values() if group}) == 1
        counted = (
            all_series
            and groups is named
            and any(_COUNTED.fullmatch(name) for group in named.values() for name in group)
        )
        if complete_names and alike and not counted:
            return groups
    if all_series:
        raise _which(root, folders)
    paths = {part.id: {"_".join(image.relative_to(root).parts[1:]): image for image in part.images} for part in parts}
    return named if all(len(named[part.id]) == len(part.images) for part in parts) else paths


def _is_torn(images: Sequence[Path]) -> bool:
    """Whether two of the images are of one series: parts of it, or copies."""
    headers = [header for image in images if _is_series(image) and (header := dicom.header_of(image)) is not None]
    names = [(*one.series, one.text("SeriesNumber"), one.text("SeriesDescription")) for one in headers if one.series[0]]
    return len(set(names)) < len(names)


def _is_series(image: Path) -> bool:
    return image.is_dir() or not known(image)


def _without(stem: str, folder: str) -> str:
    return stem.removeprefix(folder).lstrip("_-. ") or stem


def _paired(root: Path, parts: Sequence[_Part]) -> tuple[list[Case], tuple[LeftOut, ...]]:
    cases, used = [], set()
    for part in parts:
        label_of = pairs(part.images, part.labels)
        used |= set(label_of.values())
        for image in part.images:
            stem = stem_of(image)
            name = stem if stem.startswith(part.id) else part.id if len(part.images) == 1 else f"{part.id}_{stem}"
            cases.append(Case(name, (image,), label_of.get(stem), folder=part.subject))
    unused = [label for part in parts for label in part.labels if label not in used]
    return cases, tuple(orphan(root, label) for label in unused)
