"""Flat folder: ID.EXT with ID_seg.EXT beside it, or images/ID.EXT with labels/ID.EXT; one DICOM series; one file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lemis.datasets import channel_files
from lemis.datasets.label_names import (
    IMAGE_FOLDER,
    LABEL_FOLDER,
    ends_like_a_label,
    labelled,
    labels_among,
    names_in,
    only_label,
)
from lemis.datasets.layouts import scanner
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, known, one_each, series_below, shown, stem_of
from lemis.formats.dicom import folders as dicom


def find(tree: Tree) -> Found | None:
    """One file, one DICOM series, or a folder of images with labels beside them or in a folder of their own."""
    root = tree.root
    if root.is_file() and dicom.is_dicom(root):
        return Found([Case(stem_of(root), (Path(f"{root}#series={tree.series}") if tree.series else root,), None)])
    if root.is_file():
        return Found([Case(stem_of(root), (root,), None)]) if known(root) else None
    if tree.series:
        return scanner.find(tree)
    images = dicom.single_images(root)
    if not images and dicom.is_series_folder(root):
        return _one_series(root)
    files, labels, folder = [*files_in(root), *images], [], root
    inside = [part for part in sorted(root.iterdir()) if part.is_dir()]
    if not files:
        image_folders = [part for part in inside if IMAGE_FOLDER.match(part.name)]
        if len(image_folders) != 1:
            return None
        folder = image_folders[0]
        files = files_in(folder) + series_below(folder)[0]
    for part in inside + [part for part in folder.iterdir() if part.is_dir() and folder != root]:
        if LABEL_FOLDER.match(part.name):
            labels += files_in(part)
    labels += labels_among(files)
    images = [file for file in files if file not in labels]
    names = {stem for file in labels for stem in names_in(stem_of(file))}
    channels = channel_files.numbers(images, names)
    named = partial(_name_below, folder, images=images)
    groups = channel_files.by_scan(images, channels) if channels else one_each(images, named)
    cases, left_out = labelled(root, groups, labels, numbered=bool(channels))
    return Found(cases, left_out=left_out)


def _one_series(root: Path) -> Found:
    """A folder that is one DICOM series, with its label where one lies among the slices."""
    files = files_in(root)
    labels = [file for file in files if ends_like_a_label(file)]
    others = tuple(LeftOut(shown(root, f), "an image beside a DICOM series") for f in files if f not in labels)
    return Found([Case(root.name, (root,), only_label(root.name, labels))], left_out=others)


def _name_below(folder: Path, image: Path, images: Sequence[Path]) -> str:
    """The id of an image: its own name, or that of the folder which holds it and no other image."""
    parts = image.relative_to(folder).parts
    if len(parts) == 1:
        return stem_of(image)
    alone = sum(other.relative_to(folder).parts[0] == parts[0] for other in images) == 1
    return parts[0] if alone else "_".join(parts)
