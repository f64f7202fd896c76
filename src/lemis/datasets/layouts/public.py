"""Public data sets whose files are found by the pattern of their paths, as they unpack.

- ``chd``: ct_1001_image.nii.gz, ct_1001_label.nii.gz (ImageCHD, Xu et al., MICCAI 2020); label values above 7 count as
  background, as in the code of PCL
- ``mmwhs``: ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz, ct_test_2001_image.nii.gz (MM-WHS 2017, Zhuang et
  al., MedIA 2019), the CT scans; ``mmwhs_mr``: the MR scans (mr_train_..., mr_test_...)
- ``hvsmr``: training_axial_full_pat0.nii.gz, training_axial_full_pat0-label.nii.gz (HVSMR 2016, Pace et al.); where
  there are no full scans, axial_crop, then sa_crop
- ``synapse``: RawData/Training/{img/img0001, label/label0001}.nii.gz (Synapse multi-atlas abdomen, 2015)
- ``brats``: BraTS20_Training_001/BraTS20_Training_001_{t1, t1ce, t2, flair, seg}.nii.gz (2018 to 2020; four channels)
- ``kits``: case_00000/{imaging, segmentation}.nii.gz (Heller et al., 2019)
- ``isic``: ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg with
  ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png; ``isic_grey``: the same as grey pictures

Folders above those that are named do not matter.
"""

from __future__ import annotations

from pathlib import Path

from lemis.datasets.layouts.by_pattern import NIFTI, by_pattern, cases_of, orphans
from lemis.datasets.layouts.structures import IGNORED, LABELS
from lemis.datasets.listing import Case, Found, LeftOut, Tree, only_image, shown
from lemis.errors import UsageError


def chd(tree: Tree) -> Found | None:
    """Images and labels with the number of a scan."""
    images, labels = (by_pattern(tree, rf"(ct_\d{{4}})_{part}{NIFTI}") for part in ("image", "label"))
    if not images:
        return None
    left_out = orphans(tree, images, labels)
    return Found(cases_of(tree, images, labels), ("CT",), dict(LABELS["chd"]), left_out, IGNORED["chd"])


def mmwhs(tree: Tree, modality: str) -> Found | None:
    """The scans of one modality, ``ct`` or ``mr``."""
    images, labels = (
        by_pattern(tree, rf"({modality}_(?:train|test)_\d{{4}})_{part}{NIFTI}") for part in ("image", "label")
    )
    if not images:
        return None
    left_out = orphans(tree, images, labels)
    if modality == "ct" and by_pattern(tree, rf"(mr_(?:train|test)_\d{{4}})_image{NIFTI}"):
        left_out += (LeftOut("mr_train", "the MR scans: --layout mmwhs_mr"),)
    cases, channels = cases_of(tree, images, labels), (modality.upper(),)
    return Found(cases, channels, dict(LABELS["mmwhs"]), left_out, IGNORED["mmwhs"])


def hvsmr(tree: Tree) -> Found | None:
    """The first of full scans, axial crops and short-axis crops."""
    views = r"axial_full", r"axial_crop(?:ped)?", r"sa_crop(?:ped)?"
    found = [by_pattern(tree, rf"(?:training|testing)_{view}_(pat\d+){NIFTI}") for view in views]
    chosen = next((number for number, images in enumerate(found) if images), None)
    if chosen is None:
        return None
    images = found[chosen]
    labels = by_pattern(tree, rf"(?:training|testing)_{views[chosen]}_(pat\d+)[-_]label{NIFTI}")
    others = [file for more in found[chosen + 1 :] for files in more.values() for file in files]
    left_out = tuple(LeftOut(shown(tree.root, file), "the same heart, cropped") for file in others)
    left_out += orphans(tree, images, labels)
    return Found(cases_of(tree, images, labels), ("MR",), dict(LABELS["hvsmr"]), left_out)


def synapse(tree: Tree) -> Found | None:
    """Images in img/, labels in label/."""
    images, labels = by_pattern(tree, rf"img/img(\d{{4}}){NIFTI}"), by_pattern(tree, rf"label/label(\d{{4}}){NIFTI}")
    if not images:
        return None
    cases, left_out = cases_of(tree, images, labels, "btcv_{}"), orphans(tree, images, labels)
    return Found(cases, ("CT",), dict(LABELS["synapse"]), left_out)


def kits(tree: Tree) -> Found | None:
    """A folder for each case."""
    images, labels = (by_pattern(tree, rf"(case_\d{{5}})/{part}{NIFTI}") for part in ("imaging", "segmentation"))
    if not images:
        return None
    return Found(cases_of(tree, images, labels), ("CT",), dict(LABELS["kits"]), orphans(tree, images, labels))


def isic(tree: Tree, grey: bool = False) -> Found | None:
    """Pictures of the skin, in colour or in ``grey``; labels of the training set only."""
    images = by_pattern(tree, r"ISIC2018_Task1-2_(?:Training|Validation|Test)_Input/(ISIC_\d{7})\.jpg$")
    if not images:
        return None
    # Of Validation and Test the masks are left alone, so that nobody trains on them by accident.
    labels = by_pattern(tree, r"ISIC2018_Task1_Training_GroundTruth/(ISIC_\d{7})_segmentation\.png$")
    cases, left_out = cases_of(tree, images, labels), orphans(tree, images, labels)
    if grey:
        cases = [case._replace(images=(Path(f"{case.images[0]}#grey"),)) for case in cases]
    return Found(cases, ("grey",) if grey else ("red", "green", "blue"), dict(LABELS["isic"]), left_out)


def brats(tree: Tree) -> Found | None:
    """A folder for each patient, with four channels."""
    channels = ("t1", "t1ce", "t2", "flair")
    files = {part: by_pattern(tree, rf"(brats[^/]*)/\1_{part}{NIFTI}") for part in (*channels, "seg")}
    people = sorted({name for part in channels for name in files[part]})
    if not people:
        return None
    cases = []
    for name in people:
        missing = [part for part in channels if name not in files[part]]
        if missing:
            raise UsageError(
                f"{name} has no {', '.join(missing)}",
                allowed=f"the channels {', '.join(channels)} of every patient",
                next="unpack the archive again, or move the folder of this patient away",
            )
        images = tuple(only_image(tree.root, f"{name} {part}", files[part][name]) for part in channels)
        label = files["seg"].get(name)
        cases.append(Case(name, images, only_image(tree.root, f"the label of {name}", label) if label else None, name))
    return Found(cases, channels, dict(LABELS["brats"]))
