"""Which files are labels, and of which image: what their names say.

A label is named like its image, with a word such as ``_seg`` or ``-label`` at its end, or begins with one
(``segmentation-0`` is the label of ``volume-0``); or it has the image's own name and lies in a folder for labels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from lemis.datasets import channel_files
from lemis.datasets.listing import Case, LeftOut, files_in, shown, stem_of
from lemis.errors import UsageError

_LABEL_FIRST = re.compile(r"^(?:segmentation|seg|label|mask|gt)(?:([_.\- ])|(?=\d))(.+)$", re.I)
_IMAGE_FIRST = ("volume", "vol", "image", "img", "scan", "ct", "mr", "case", "patient", "pat")
_LABEL_WORD = re.compile(
    r"(?:^|[_.\- ])(?:d?seg|segm|segmentation|labels?|labelmap|masks?|gt|groundtruth|annotation)$",
    re.I,
)
IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?|scans?|volumes?)$", re.I)
LABEL_FOLDER = re.compile(
    r"^(?:labels?|labelsTr|masks?|seg|segs|segmentations?|annotations?|gts?|ground[-_ ]?truths?)$", re.I
)


def ends_like_a_label(file: Path) -> bool:
    """True for ``ID_seg``, ``ID-label``, ``ID_gt`` and the like."""
    return _LABEL_WORD.search(stem_of(file)) is not None


def names_in(stem: str, *, numbered: bool = False) -> Iterator[str]:
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


def labels_among(files: Sequence[Path]) -> list[Path]:
    """Files whose names end in a word for a label, or begin with one where the image that they name is there too."""
    stems = {stem_of(file) for file in files}
    return [
        file
        for file in files
        if ends_like_a_label(file)
        or (_LABEL_FIRST.match(stem_of(file)) and stems.intersection(names_in(stem_of(file))) - {stem_of(file)})
    ]


def labelled(
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
        owner = next((name for name in names_in(stem_of(file), numbered=numbered) if name in groups), None)
        if owner is None:
            orphans.append(orphan(root, file))
        else:
            owned.setdefault(owner, []).append(file)
    cases = [Case(name, files, only_label(name, owned.get(name, []))) for name, files in groups.items()]
    return cases, tuple(orphans)


def pairs(images: Sequence[Path], labels: Sequence[Path]) -> dict[str, Path]:
    """Labels by the stem of the one image that they name (``frame01_gt`` -> ``frame01``)."""
    stems = {stem_of(image) for image in images}
    owners = {label: next((name for name in names_in(stem_of(label)) if name in stems), None) for label in labels}
    return {stem: label for label, stem in owners.items() if stem is not None}


def references(folder: Path, ids: Collection[str]) -> dict[str, Path]:
    """Reference label maps of a folder by the scan that they are of.

    A file is named like its scan, or like it with ``_seg``, ``-label``, ``_0000`` and the like at its end. Where its
    name tells of one that it is a label, the one that is named like the scan is the scan, which lies beside it, as in
    the layout ``flat``; otherwise the one that is named exactly like the scan goes before others.

    Args:
        folder: Of label maps.
        ids: Scans that are looked for; what is of none of them stands under its own name.

    Raises:
        UsageError: Two files are of one scan.
    """
    found: dict[str, list[Path]] = {}
    for file in files_in(folder):
        stem = stem_of(file).removesuffix(".seg")
        found.setdefault(next((name for name in names_in(stem, numbered=True) if name in ids), stem), []).append(file)
    for name, files in found.items():
        chosen = labels_among(files) or files
        exact = [file for file in chosen if stem_of(file).removesuffix(".seg") == name]
        found[name] = exact or chosen
        if len(found[name]) > 1:
            raise UsageError(
                f"{name} has {len(found[name])} references: {', '.join(file.name for file in found[name])}",
                allowed="one label map of each scan",
                next=f"move the others out of {folder}",
            )
    return {name: files[0] for name, files in found.items()}


def only_label(name: str, labels: Sequence[Path]) -> Path | None:
    """The one label of a scan; None where there is none.

    Raises:
        UsageError: There are several.
    """
    if len(labels) > 1:
        raise UsageError(
            f"{name} has {len(labels)} labels: {', '.join(label.name for label in labels)}",
            allowed="one label map per scan",
            next="move the others away, or list the files that you mean in a CSV (image, label, subject)",
        )
    return labels[0] if labels else None


def orphan(root: Path, label: Path) -> LeftOut:
    """A label that is nobody's."""
    return LeftOut(shown(root, label), "a label without an image of the same name")
