"""DICOM as a scanner, an archive or a disc leaves it: files of several patients or series in any folders.

One scan for each study. Whose it is says the Patient ID, which is shown nowhere; ids are names of folders, or of a
digest of the study's UID where several studies lie in one folder. A label is named by the id, in a folder for labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lemis.datasets import dicom_series
from lemis.datasets.dicom_series import Study
from lemis.datasets.label_names import LABEL_FOLDER, labelled
from lemis.datasets.listing import Found, Tree, files_in
from lemis.formats.dicom import folders as dicom

_LONGEST = 24  # a study's folder is often named by 60 digits


def recognised(tree: Tree) -> Found | None:
    """The scans of a folder that no other layout is made for: of a disc, of mixed files, of patients in one folder."""
    return find(tree) if tree.root.is_dir() and _is_unsorted(tree.root) else None


def find(tree: Tree) -> Found | None:
    """One scan of each study, or those series of it that are named."""
    root = tree.root
    studies = dicom_series.studies_below(root) if root.is_dir() else []
    if not studies:
        return None
    chosen = [dicom_series.scans_of(study, tree.series) for study in studies]
    if not any(chosen) or (not tree.series and any(map(_undecided, studies))):
        raise dicom_series.which(root, studies, tree.series)
    others = [
        left
        for study, scans in zip(studies, chosen, strict=True)
        for left in dicom_series.left_out(root, study, scans.values())
    ]
    used = [(study, scans) for study, scans in zip(studies, chosen, strict=True) if scans]
    names = _ids(root, [study for study, _ in used])
    groups = {
        name: tuple(dicom_series.path_of(one, what) for what, one in scans.items())
        for name, (_, scans) in zip(names, used, strict=True)
    }
    people: dict[str, str] = {}  # by Patient ID, the first study's name
    subject_of = {
        name: people.setdefault(study.patient, name) if study.patient else name
        for name, (study, _) in sorted(zip(names, used, strict=True), key=lambda pair: pair[0])
    }
    labels = [
        file
        for part in sorted(root.iterdir())
        if part.is_dir() and LABEL_FOLDER.match(part.name)
        for file in files_in(part)
    ]
    cases, orphans = labelled(root, groups, labels)
    cases = [case._replace(subject=subject_of[case.id]) for case in cases]
    channels = tuple(next(filter(None, chosen))) if "," in tree.series else ()
    return Found(cases, channels, left_out=(*others, *orphans))


def _is_unsorted(root: Path) -> bool:
    inside = [part for part in sorted(root.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    if any(part.name.upper() == "DICOMDIR" for part in root.iterdir()):
        return True
    if dicom.is_series_folder(root):
        singles = dicom.single_images(root)
        return any(map(dicom.is_enhanced, singles)) if singles else dicom.looks_mixed(root)
    holding = [part for part in inside if not LABEL_FOLDER.match(part.name) and _holds(part)]
    if len(holding) != 1 or files_in(holding[0]):
        return False
    patients = {dicom.patient(place) for place in (holding[0], *dicom.series_folders(holding[0]))} - {""}
    return len(patients) > 1


def _holds(folder: Path) -> bool:
    return dicom.is_series_folder(folder) or bool(dicom.series_folders(folder))


def _undecided(study: Study) -> bool:
    return sum(not one.first.no_scan for one in study.series) > 1


def _ids(root: Path, studies: Sequence[Study]) -> list[str]:
    """A name for each study: what its folder is called below the one that holds all, if it has one of its own."""
    folders = [study.folder.relative_to(root).parts for study in studies]
    common = 0
    while all(len(parts) > common + 1 for parts in folders) and len({parts[common] for parts in folders}) == 1:
        common += 1
    names = ["_".join(parts[common:]) for parts in folders]
    times = Counter(names)
    return [
        name if name and times[name] == 1 and len(name) <= _LONGEST else f"study-{_digest(study)}"
        for name, study in zip(names, studies, strict=True)
    ]


def _digest(study: Study) -> str:
    return hashlib.sha256(repr((study.uid, study.patient)).encode()).hexdigest()[:8]
