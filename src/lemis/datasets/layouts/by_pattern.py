"""Scans of a public data set, found by the pattern of their paths wherever the folder was unpacked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lemis.datasets.label_names import orphan
from lemis.datasets.listing import Case, LeftOut, Tree, only_image

NIFTI = r"\.nii(?:\.gz)?$"


def by_pattern(tree: Tree, pattern: str) -> dict[str, list[Path]]:
    """Files by what the pattern's groups say of them, joined by a space.

    The pattern is of the end of the path, the folder's own name included: so ``img/img0001`` is found from ``img`` too.
    """
    wanted = re.compile(rf"(?:^|/){pattern}", re.I)
    found: dict[str, list[Path]] = {}
    for file in tree.files:
        if match := wanted.search(f"{tree.root.name}/{file}"):
            found.setdefault(" ".join(match.groups()), []).append(tree.root / file)
    return found


def cases_of(
    tree: Tree, images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]], subject: str = "{}"
) -> list[Case]:
    """One case per image, called ``subject`` of its name; a label of the same name is its label."""
    cases = []
    for name, files in images.items():
        label = only_image(tree.root, f"the label of {name}", labels[name]) if name in labels else None
        cases.append(Case(subject.format(name), (only_image(tree.root, name, files),), label, subject.format(name)))
    return cases


def orphans(
    tree: Tree, images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]
) -> tuple[LeftOut, ...]:
    """Labels of names that no image has."""
    alone = [file for name, files in labels.items() if name not in images for file in files]
    return tuple(orphan(tree.root, file) for file in alone)
