"""BIDS: sub-XX/[ses-YY/]anat/*; labels (``_dseg``, ``_mask``, ``_label-*``) there or in derivatives/.

The names of structures are those of a ``dseg.tsv``. The subject is ``sub-XX``.
"""

from __future__ import annotations

import re
from pathlib import Path

from lemis.datasets.channel_files import common_channels
from lemis.datasets.label_names import only_label
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, known, shown, stem_of
from lemis.errors import UsageError
from lemis.formats import spreadsheet
from lemis.formats.names import unfit_text

# What lies in anat/ and is neither an image nor a label map.
_OTHER = {"defacemask": "a mask of what defacing removed", "probseg": "probabilities, no label map"}
_TEMPLATE = re.compile(r"_space-(?:MNI|ICBM|fs|Talairach|OASIS|NIHPD|UNC|PNC)", re.I)
_LABEL = re.compile(r"^(?:dseg|mask|seg|roi)$|^(?:label|seg|lesion)-", re.I)


def find(tree: Tree) -> Found | None:
    """Folders ``sub-XX``; every modality that all scans share is a channel."""
    root = tree.root
    if not root.is_dir() or not any(root.glob("sub-*/")):
        return None
    anatomy = [file for folder in sorted(root.glob("sub-*/**/anat/")) for file in files_in(folder)]
    derived = [file for file in sorted(root.glob("derivatives/**/sub-*")) if file.is_file() and known(file)]
    labels = [file for file in anatomy + derived if any(_LABEL.match(t) for t in _stem(file).split("_")[1:])]
    left_out = {file: _OTHER.get(_suffix(file), "") for file in anatomy + derived}
    left_out |= {file: "in the space of a template" for file in labels if _TEMPLATE.search(stem_of(file))}
    left_out = {file: reason for file, reason in left_out.items() if reason}
    anatomy, labels = ([file for file in some if file not in left_out] for some in (anatomy, labels))
    groups: dict[str, dict[str, Path]] = {}
    for file in anatomy:
        name, _, modality = stem_of(file).rpartition("_")
        if file not in labels:
            groups.setdefault(name, {})[modality] = file
    channels = common_channels(groups, "suffixes")
    # The longest id that a label's name starts with is its scan's.
    owners: dict[str, list[Path]] = {name: [] for name in groups}
    for file in labels:
        matching = [name for name in groups if stem_of(file).startswith(f"{name}_")]
        if matching:
            owners[max(matching, key=len)].append(file)
        else:
            left_out[file] = "a label without an image of the same name"
    cases = []
    for name, images in groups.items():
        whole = [file for file in owners[name] if _suffix(file) == "dseg"]
        if len(whole) == 1:  # a map of all structures; the others are masks of some of them, or of the brain
            left_out |= {file: f"a mask beside {whole[0].name}" for file in owners[name] if file not in whole}
            owners[name] = whole
        label = only_label(name, owners[name])
        cases.append(Case(name, tuple(images[c] for c in channels), label, name.split("_")[0]))
    unused_files = tuple(LeftOut(shown(root, file), reason) for file, reason in left_out.items())
    return Found(cases, channels if len(channels) > 1 else (), _names(root), unused_files)


def _suffix(file: Path) -> str:
    """``T1w`` of ``sub-01_ses-1_T1w.nii.gz``."""
    return _stem(file).rpartition("_")[2]


def _stem(file: Path) -> str:
    return stem_of(file).removesuffix(".seg")  # of 3D Slicer


def _names(root: Path) -> dict[str, int]:
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
