"""Which file is what: a folder is recognised as one of the layouts, and its scans are listed by their names.

The layouts are the files of ``layouts/``, in the order of ``layouts/recognised.py``.

A subject is, first of all, what a CSV's ``subject`` column or a ``subjects.csv`` (columns id, subject) in the folder
says, or ``sub-XX`` of ``bids``. Otherwise it is the id, or the folder of ``subjects``, without trailing parts that name
a time, a session or a slice (``acdc001_ED`` -> ``acdc001``; see ``identity.subject_of``).
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from pathlib import Path

from lemis.datasets import dataset_json, doubts, subjects_csv
from lemis.datasets.dicom_labels import with_segmentations
from lemis.datasets.identity import subject_of
from lemis.datasets.index import Index, Scan, refuse_names
from lemis.datasets.layouts.recognised import LAYOUTS, TITLES, Layout
from lemis.datasets.listing import Case, Doubt, Found, LeftOut, Tree, shown
from lemis.errors import UsageError, first_of
from lemis.formats import packed
from lemis.formats.names import is_utf8, readable
from lemis.formats.paths import FORMATS, file_of, is_picture, series_of, strange_format
from lemis.plugins import nearest


@dataclasses.dataclass(frozen=True)
class Listing:
    """What file names say; nothing is read yet (shapes, spacings and label values are empty)."""

    index: Index  # ``channels`` and ``labels`` are empty where nothing declares them
    left_out: tuple[LeftOut, ...] = ()
    doubts: tuple[Doubt, ...] = ()  # what ``check`` warns of


def recognise(root: Path, layout: str | None = None) -> Listing:
    """List the scans of a folder from its file names. Arguments and errors as in ``scan_folder``."""
    given, series = Path(root).expanduser(), series_of(Path(root))
    # Path.resolve raises where links run in a circle.
    root = Path(os.path.realpath(file_of(given) if series and not given.exists() else given))
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
    tree = Tree(root, series)
    for known_layout in LAYOUTS:
        if layout in (None, known_layout.name):
            find = known_layout.asked if layout is not None and known_layout.asked else known_layout.find
            found = find(tree)
            if found is not None and found.cases:
                _refuse_unused(tree, known_layout, found)
                if not known_layout.public and known_layout.name != "csv":  # these say themselves what is a label
                    found = with_segmentations(tree, found)
                if not known_layout.public:
                    found = _as_declared(tree, found)
                return _listing(tree, known_layout, found)
    raise _nothing(tree, layout)


def _listing(tree: Tree, layout: Layout, found: Found) -> Listing:
    """The scans by id, each with its subject, and what there is to say of the folder.

    Args:
        tree: The folder, or a file that says itself what is meant.
        layout: Of the scans.
        found: What it made of the folder.

    Raises:
        UsageError: Ids, subjects or paths that cannot be used, or a ``subjects.csv`` that cannot.
    """
    root = tree.root if tree.root.is_dir() else tree.root.parent
    table = subjects_csv.read(root)
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
        layout=layout.name,
        channels=found.channels,
        labels=found.labels,
        scans=scans,
        ignored=found.ignored,
    )
    odd = subjects_csv.strangers(table, said) + doubts.structure_at_zero(found.labels)
    odd += list(found.doubts)
    odd += doubts.shared_labels(scans)
    guessed = [scan for scan in scans if not said[scan.id]]
    odd += doubts.perhaps_one_person(scan.subject for scan in guessed) + doubts.one_patient(root, guessed)
    left_out = found.left_out
    if tree.root.is_dir() and layout.name != "csv":  # a list says itself what is meant
        odd += doubts.misnamed(root) + doubts.dangling_links(tree)
        left_out += () if layout.public else doubts.unused(tree, found)
    return Listing(index, tuple(LeftOut(readable(file), reason) for file, reason in left_out), tuple(odd))


def _as_declared(tree: Tree, found: Found) -> Found:
    """The same, with the names that a ``dataset.json`` in the folder gives channels and structures, where nothing else
    names them: in whatever way the scans lie, what is declared must not be lost without a word.

    Raises:
        UsageError: It says what cannot be used.
    """
    if tree.root.is_file() and tree.root.suffix.lower() != ".csv":  # one scan, whatever lies around it
        return found
    folder = tree.root if tree.root.is_dir() else tree.root.parent
    declared = dataset_json.read(folder / "dataset.json")
    return dataclasses.replace(
        found, channels=found.channels or declared.channel_names, labels=found.labels or declared.labels
    )


def _guessed(case: Case) -> str:
    if case.folder is not None:
        return subject_of(case.folder)
    return subject_of(case.id, picture=is_picture(case.images[0]))


def _refuse_unused(tree: Tree, layout: Layout, found: Found) -> None:
    """Refuse a series that is named where a layout does not look for any."""
    if tree.series and not any(series_of(image) for case in found.cases for image in case.images):
        raise UsageError(
            f"#series={tree.series} after {tree.root}, which is of the layout {layout.name}",
            allowed="folders of DICOM series, one for each subject or as they come from a scanner",
            next="leave #series= out, or name the layout: "
            f"lemis check '{tree.root}#series={tree.series}' --layout dicom",
        )


def _refuse_collection(root: Path) -> None:
    inside = sorted(part.parent.name for part in root.glob("*/imagesTr")) if root.is_dir() else []
    if inside and not (root / "imagesTr").exists():
        raise UsageError(
            f"{root} holds {len(inside)} data set(s): {first_of(inside, 4)}",
            allowed="one data set at a time",
            next=f"give {root / inside[0]}",
        )


def _nothing(tree: Tree, layout: str | None) -> UsageError:
    """Why nothing is recognised, as far as what lies there tells."""
    root = tree.root
    if root.is_file():
        seen = f"{root} is a file"
    else:
        names = [readable(part.name) + ("/" if part.is_dir() else "") for part in sorted(root.iterdir())]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        seen = f"{root} holds {', '.join(names[:8]) or 'nothing'}{more}"
    wanted = f"the layout {TITLES[layout]}" if layout else "a layout that we know"
    links = doubts.dangling_links(tree)
    if links:
        return UsageError(
            f"{seen}: {links[0].file}, one of {len(links)} links, {links[0].seen}",
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
