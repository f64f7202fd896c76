"""The multi-organ reference of Gibson et al. (IEEE TMI 2018, doi.org/10.5281/zenodo.1169361), as it unpacks.

label_btcv_multiorgan/label0001.nii.gz, label_tcia_multiorgan/label0001.nii.gz; and, anywhere below the folder, the CT
scans of BTCV (img0001.nii.gz) and of Pancreas-CT (PANCREAS_0001.nii.gz, or a DICOM series in PANCREAS_0001/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lemis.datasets.layouts.structures import IGNORED, LABELS
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, folders_of, only_image, shown, stem_of
from lemis.formats.dicom import folders as dicom

# The archive label_tciapancreasct_multiorgan.tar.gz holds a folder of a shorter name.
_LABELS = {
    "label_btcv_multiorgan": "btcv",
    "label_tciapancreasct_multiorgan": "pancreas",
    "label_tcia_multiorgan": "pancreas",
}
_LABEL = re.compile(r"^label(\d{4})$")
_IMAGES = {"btcv": re.compile(r"^img(\d{4})$"), "pancreas": re.compile(r"^PANCREAS_(\d{4})$", re.I)}
_NAMES = {"btcv": "img{}.nii.gz", "pancreas": "PANCREAS_{}"}
_WITHDRAWN = "pancreas_0025"


def find(tree: Tree) -> Found | None:
    """The scans of both cohorts; None where the folders of their labels are not there."""
    root = tree.root
    if not any((root / name).is_dir() for name in _LABELS):
        return None
    labels: dict[str, Path] = {}
    images: dict[str, list[Path]] = {}
    left_out = []
    for folder, _ in sorted(folders_of(root)):
        parts = folder.relative_to(root).parts
        cohort = next((_LABELS[part] for part in parts if part in _LABELS), None)
        for file in files_in(folder):
            if match := _LABEL.match(stem_of(file)):
                if cohort is None:
                    left_out.append(LeftOut(shown(root, file), "a label of the cohort's own"))
                else:
                    labels[f"{cohort}_{match.group(1)}"] = file
            elif found := _image(stem_of(file)):
                images.setdefault(found, []).append(file)
        patient = next((found for part in reversed(parts) if (found := _image(part))), None)
        if patient is not None and dicom.is_series_folder(folder):
            images.setdefault(patient, []).append(folder)
    if _WITHDRAWN in labels and _WITHDRAWN not in images:
        left_out.append(LeftOut(shown(root, labels.pop(_WITHDRAWN)), "its scan has been withdrawn from Pancreas-CT"))
    cases = [
        Case(name, (_file(root, name, images.get(name, [])),), labels.get(name), name)
        for name in sorted({*labels, *images})
    ]
    return Found(cases, ("CT",), dict(LABELS["gibson"]), tuple(left_out), IGNORED["gibson"])


def _image(stem: str) -> str | None:
    """The id of a scan's file or folder; None for anything else."""
    found = ((cohort, name.match(stem)) for cohort, name in _IMAGES.items())
    return next((f"{cohort}_{match.group(1)}" for cohort, match in found if match), None)


def _file(root: Path, name: str, files: Sequence[Path]) -> Path:
    """The one image of an id; where there is none, the place where ``check`` will miss it."""
    cohort, _, number = name.partition("_")
    return only_image(root, name, files) if files else root / _NAMES[cohort].format(number)
