"""What is unusual about a folder of scans that can be read: it may be intended, but the user should know it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lemis.datasets import identity
from lemis.datasets.dataset_json import Declared
from lemis.datasets.index import Scan
from lemis.datasets.label_names import LABEL_FOLDER
from lemis.datasets.listing import Case, Doubt, Found, LeftOut, Tree, known, shown, stem_of
from lemis.datasets.subjects_csv import FILE as SUBJECTS
from lemis.errors import first_of
from lemis.formats.dicom import folders as dicom
from lemis.formats.dicom.choice import divided
from lemis.formats.names import readable
from lemis.formats.paths import file_of, may_be_dicom, series_of, strange_format, suffix_of

# Names that we look for, and that a slip of the pen or another system's capitals hide from us.
_OURS = ("imagesTr", "imagesTs", "labelsTr", "dataset.json", "splits_final.json", SUBJECTS)
_NEARLY_SUBJECTS = re.compile(r"subjects?\.(?:csv|tsv|txt|xlsx?|ods)", re.IGNORECASE)
_TEXTS = ("README", "LICENSE", "LICENCE", "CHANGES", "CHANGELOG", "AUTHORS", "CITATION", "NOTICE", "VERSION")
_NOT_A_STRUCTURE = re.compile(
    r"back|^bg|unlabel|not label|none|clear|outside|exterior|other|normal|rest|null|void|empty|air|0", re.IGNORECASE
)


def dangling_links(tree: Tree) -> list[Doubt]:
    """Links of the folder to files that are not there, as they are left by a download that was not finished."""
    links = [tree.root / file for file in tree.files if (tree.root / file).is_symlink()]
    return [
        Doubt(
            readable(shown(tree.root, link)),
            "broken link",
            f"points to {readable(os.readlink(link))[-120:]}, which is not there",
            "fetch the files (git annex get, datalad get), or remove the links",
        )
        for link in links
        if not link.exists() and (suffix_of(link) or ("." not in link.name and link.name not in _TEXTS))
    ]


def unused(tree: Tree, found: Found) -> tuple[LeftOut, ...]:
    """Image files of the folder that no scan of it uses; of a folder that holds nothing else, the folder."""
    cases = [file_of(file) for case in found.cases for file in (*case.images, *([case.label] if case.label else []))]
    used = {shown(tree.root, file) for file in cases} | {part.file for part in found.left_out}
    busy = {parent.as_posix() for file in used for parent in Path(file).parents}
    idle: dict[str, list[str]] = {}
    for file in tree.files:
        parents = [parent.as_posix() for parent in reversed(Path(file).parents)]
        there = (known(Path(file)) or strange_format(Path(file))) and (tree.root / file).exists()
        if there and "__MACOSX" not in parents and file not in used and not used.intersection(parents):
            idle.setdefault(next((parent for parent in parents if parent not in busy), file), []).append(file)
    return tuple(
        LeftOut(
            readable(name if files == [name] else f"{name}/ ({len(files)} image{'s' * (len(files) > 1)})"),
            _reason(name, files),
        )
        for name, files in idle.items()
    )


def _reason(name: str, files: Sequence[str]) -> str:
    if all(strange := [strange_format(Path(file)) for file in files]):
        return f"{strange[0]} are not read"
    if files == [name]:
        return "an image that belongs to no scan"
    if name == "labelsTs":
        return "labels of the test set are left alone"
    if LABEL_FOLDER.match(Path(name).name) and len(files) > 1:
        return (
            "label maps that belong to no scan; merge masks of single structures into one label map beside the image "
            "(image.nii.gz, label.nii.gz), with one value per structure"
        )
    return "images that belong to no scan"


def not_as_declared(root: Path, declared: Declared, cases: Sequence[Case]) -> list[Doubt]:
    """What a ``dataset.json`` says of its files, and what there is: a copy that was not finished, or files elsewhere.

    Args:
        root: Its folder.
        declared: What it says.
        cases: Scans to train on, as the folders hold them.
    """
    there = {os.path.normpath(file) for case in cases for file in case.images}
    ids = {os.path.normpath(case.images[0].with_name(case.id)) for case in cases}  # nnU-Net's first lists had no _0000
    files = {file: os.path.normpath(root / file) for file in declared.images}
    lost = [file for file, path in files.items() if path not in there and str(_bare(Path(path))) not in ids]
    labelled = sum(case.label is not None for case in cases)
    found = []
    if lost:
        why = "is not a scan that is read" if (root / lost[0]).exists() else "is not there"
        found.append(
            Doubt(
                "dataset.json",
                "listed files that are not read",
                f"{lost[0]} {why} ({len(lost)} of {len(files)} listed files)",
                "copy the missing files; if they are elsewhere, list them in a CSV (image, label, subject)",
            )
        )
    elif declared.scans > labelled and declared.scans != len(cases):  # fewer: somebody labelled more since
        found.append(
            Doubt(
                "dataset.json",
                "different number of scans",
                f'"numTraining" is {declared.scans}, but imagesTr holds {len(cases)}, {labelled} of them labelled',
                "copy the missing scans or labels, or correct the number; fine if you meant to leave some out",
            )
        )
    return found


def _bare(file: Path) -> Path:
    return file.with_name(stem_of(file))


def one_patient(root: Path, scans: Sequence[Scan]) -> list[Doubt]:
    """Subjects whose DICOM files name one patient, and those of several patients. Patients' numbers are not shown.

    Where all scans name the same one it was put there in place of their own, and says nothing.
    """
    people: dict[str, set[str]] = {}  # by patient
    patients: dict[str, set[str]] = {}  # by subject
    for scan, image in ((one, image) for one in scans for image in one.images):
        file = file_of(root / image)
        if file.is_dir() or may_be_dicom(file):
            patient = dicom.patient(file, divided(series_of(root / image))[0])
            people.setdefault(patient, set()).add(scan.subject)
            patients.setdefault(scan.subject, set()).add(patient)
    people.pop("", None)
    groups = [tuple(sorted(some)) for some in people.values() if len(some) > 1]
    return (_one_person(groups, "one Patient ID") if len(people) > 1 else []) + [
        Doubt(
            subject,
            "subject of several patients",
            f"its DICOM files name {len(some - {''})} patients (Patient ID): taken for one person",
            f"if they are several, say so in a {SUBJECTS} (columns id,subject), or give each a folder",
        )
        for subject, some in patients.items()
        if len(some - {""}) > 1
    ]


def shared_labels(scans: Sequence[Scan]) -> list[Doubt]:
    """A label of scans of several subjects: a line that was copied and not corrected."""
    owners: dict[str, list[Scan]] = {}
    for scan in scans:
        if scan.label is not None:
            owners.setdefault(scan.label, []).append(scan)
    return [
        Doubt(
            label,
            "label of several subjects",
            f"is listed as the label of {first_of((scan.id for scan in some), 4)}",
            "give every scan the label map that was drawn on it",
        )
        for label, some in owners.items()
        if len({scan.subject for scan in some}) > 1
    ]


def perhaps_one_person(subjects: Iterable[str]) -> list[Doubt]:
    """Subjects, of whom nobody says who they are, whose names look like one person's."""
    return _one_person(identity.doubts(subjects), "")


def _one_person(groups: Sequence[Sequence[str]], why: str) -> list[Doubt]:
    if not groups:
        return []
    shown_groups = "; ".join(", ".join(group[:4]) + ", ..." * (len(group) > 4) for group in groups[:5])
    more = f"; and {len(groups) - 5} more" if len(groups) > 5 else ""
    because = f" have {why}" if why else ""
    return [
        Doubt(
            SUBJECTS,
            "subjects that may be one person",
            f"{shown_groups}{more}{because}: taken for different people, who may end up on both sides of a split",
            f"put a {SUBJECTS} (columns id,subject) into the folder that says which subject each scan is of, the same "
            "for scans of one person; it also ends this warning where they are different people",
        )
    ]


def misnamed(root: Path) -> list[Doubt]:
    """Files and folders that are called nearly as those that we look for."""
    ours = {name.casefold(): name for name in _OURS}
    there = {part.name: SUBJECTS if _NEARLY_SUBJECTS.fullmatch(part.name) else "" for part in sorted(root.iterdir())}
    meant = {name: near or ours.get(name.casefold(), "") for name, near in there.items()}
    return [
        Doubt(readable(name), "misspelt name", f"is not read; did you mean {near}?", f"rename it to {near}")
        for name, near in meant.items()
        if near and name != near and near not in there
    ]


def structure_at_zero(labels: Mapping[str, int]) -> list[Doubt]:
    """A name for value 0 that does not sound like background."""
    return [
        Doubt(
            "dataset.json",
            "structure with value 0",
            f"0 is named {name!r}, but always counts as background",
            "fine if it is the background; otherwise give it another value, in the labels and in dataset.json",
        )
        for name, value in labels.items()
        if value == 0 and not _NOT_A_STRUCTURE.search(name)
    ]
