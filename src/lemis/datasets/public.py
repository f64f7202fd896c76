"""The folders that public data sets unpack to, with the names and values of their structures.

- ``acdc``: [database/]training/patient001/{Info.cfg, patient001_4d, patient001_frame01, patient001_frame01_gt}.nii.gz
  (Bernard et al., IEEE TMI 2018). The frames of end-diastole and end-systole are the labelled scans patient001_ED and
  patient001_ES; every other frame of the cine file is a scan without a label, for pre-training. Labels of testing/ are
  left alone unless that folder itself is given. ``acdc_ed_es``: the same without the other frames.
- ``chd``: ct_1001_image.nii.gz, ct_1001_label.nii.gz (ImageCHD, Xu et al., MICCAI 2020); label values above 7 count as
  background, as in the code of PCL
- ``mmwhs``: ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz, ct_test_2001_image.nii.gz (MM-WHS 2017, Zhuang et
  al., MedIA 2019), the CT scans; ``mmwhs_mr``: the MR scans (mr_train_..., mr_test_...)
- ``hvsmr``: training_axial_full_pat0.nii.gz, training_axial_full_pat0-label.nii.gz (HVSMR 2016, Pace et al.); where
  there are no full scans, axial_crop, then sa_crop
- ``chaos``: MR/1/T2SPIR/{DICOM_anon, Ground} (CHAOS, Kavur et al., MedIA 2021): one PNG per slice, in the order of the
  names of the DICOM files; ``chaos_t1``: MR/1/T1DUAL/DICOM_anon/{InPhase, OutPhase}, two channels;
  ``chaos_ct``: CT/1/{DICOM_anon, Ground}
- ``synapse``: RawData/Training/{img/img0001, label/label0001}.nii.gz (Synapse multi-atlas abdomen, 2015)
- ``brats``: BraTS20_Training_001/BraTS20_Training_001_{t1, t1ce, t2, flair, seg}.nii.gz (2018 to 2020; four channels)
- ``kits``: case_00000/{imaging, segmentation}.nii.gz (Heller et al., 2019)
- ``isic``: ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg with
  ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png; ``isic_grey``: the same as grey pictures
- ``gibson``: the multi-organ reference of Gibson et al. (IEEE TMI 2018, doi.org/10.5281/zenodo.1169361), as unpacked:
  label_btcv_multiorgan/label0001.nii.gz, label_tcia_multiorgan/label0001.nii.gz; and, anywhere below the folder, the
  CT scans of BTCV (img0001.nii.gz) and of Pancreas-CT (PANCREAS_0001.nii.gz, or a DICOM series in PANCREAS_0001/)

Folders above those that are named do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lemis.datasets import index
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, folders_of, only_image, shown, stem_of
from lemis.errors import UsageError
from lemis.formats.dicom import folders as dicom

TITLES = {
    "gibson": "abdominal CT with the multi-organ reference of Gibson et al.",
    "acdc": "ACDC, all frames",
    "acdc_ed_es": "ACDC, end-diastole and end-systole",
    "chd": "ImageCHD",
    "mmwhs": "MM-WHS, CT",
    "mmwhs_mr": "MM-WHS, MR",
    "hvsmr": "HVSMR 2016",
    "chaos": "CHAOS, MR T2-SPIR",
    "chaos_t1": "CHAOS, MR T1-DUAL",
    "chaos_ct": "CHAOS, CT",
    "synapse": "Synapse abdominal CT (BTCV)",
    "brats": "BraTS 2018 to 2020",
    "kits": "KiTS19",
    "isic": "ISIC 2018, task 1",
    "isic_grey": "ISIC 2018, task 1, in grey",
}
# Layouts whose scans are axial however thin their slices: some slices are thinner than their pixels are wide.
AXIAL = ("gibson", "chd", "mmwhs", "mmwhs_mr", "hvsmr", "chaos_ct", "synapse", "brats", "kits")


def slice_axis(layout: str, spacing_mm: tuple[float, ...]) -> int:
    """Across which canonical axis the slices of a scan run, in a folder of that layout."""
    return 2 if layout in AXIAL else index.slice_axis(spacing_mm)


_NIFTI = r"\.nii(?:\.gz)?$"

_ORGANS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
LABELS: dict[str, dict[str, int]] = {
    "acdc": {"background": 0, "RV": 1, "MYO": 2, "LV": 3},
    "chd": {"background": 0, "LV": 1, "RV": 2, "LA": 3, "RA": 4, "MYO": 5, "AO": 6, "PA": 7},
    "mmwhs": {"background": 0, "MYO": 205, "LA": 420, "LV": 500, "RA": 550, "RV": 600, "AO": 820, "PA": 850},
    "hvsmr": {"background": 0, "myocardium": 1, "blood pool": 2},
    "chaos": {"background": 0, "liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252},
    "chaos_ct": {"background": 0, "liver": 255},
    "synapse": {"background": 0, **_ORGANS},
    "brats": {"background": 0, "necrosis and non-enhancing core": 1, "oedema": 2, "enhancing tumour": 4},
    "kits": {"background": 0, "kidney": 1, "tumour": 2},
    "isic": {"background": 0, "lesion": 255},
}
_CHD_IGNORED = tuple(range(8, 256))  # of the notes on PCL's code: labels > 7 -> 0
_MMWHS_IGNORED = (421,)  # a slip of the pen in a label of MR


def finders(root: Path) -> dict[str, Callable[[], Found | None]]:
    """Of every layout but ``gibson``, what looks for it in a folder; None where it is not there."""
    tree = Tree(root)
    find: dict[str, Callable[[Tree], Found | None]] = {
        "acdc": _acdc,
        "acdc_ed_es": partial(_acdc, cine=False),
        "chd": _chd,
        "mmwhs": partial(_mmwhs, modality="ct"),
        "mmwhs_mr": partial(_mmwhs, modality="mr"),
        "hvsmr": _hvsmr,
        "chaos": partial(_chaos, kind="chaos"),
        "chaos_t1": partial(_chaos, kind="chaos_t1"),
        "chaos_ct": partial(_chaos, kind="chaos_ct"),
        "synapse": _synapse,
        "brats": _brats,
        "kits": _kits,
        "isic": _isic,
        "isic_grey": partial(_isic, grey=True),
    }
    return {name: partial(one, tree) for name, one in find.items()}


# ---------------------------------------------------------------- by names


def _named(tree: Tree, pattern: str) -> dict[str, list[Path]]:
    """Files by what the pattern's groups say of them, joined by a space.

    The pattern is of the end of the path, the folder's own name included: so ``img/img0001`` is found from ``img`` too.
    """
    wanted = re.compile(rf"(?:^|/){pattern}", re.I)
    found: dict[str, list[Path]] = {}
    for file in tree.files:
        if match := wanted.search(f"{tree.root.name}/{file}"):
            found.setdefault(" ".join(match.groups()), []).append(tree.root / file)
    return found


def _cases(
    tree: Tree, images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]], subject: str = "{}"
) -> list[Case]:
    """One case per image, called ``subject`` of its name; a label of the same name is its label."""
    cases = []
    for name, files in images.items():
        label = only_image(tree.root, f"the label of {name}", labels[name]) if name in labels else None
        cases.append(Case(subject.format(name), (only_image(tree.root, name, files),), label, subject.format(name)))
    return cases


def _orphans(
    tree: Tree, images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]
) -> tuple[LeftOut, ...]:
    alone = [file for name, files in labels.items() if name not in images for file in files]
    return tuple(LeftOut(shown(tree.root, file), "a label without an image of its name") for file in alone)


def _chd(tree: Tree) -> Found | None:
    images, labels = (_named(tree, rf"(ct_\d{{4}})_{part}{_NIFTI}") for part in ("image", "label"))
    if not images:
        return None
    left_out = _orphans(tree, images, labels)
    return Found(_cases(tree, images, labels), ("CT",), dict(LABELS["chd"]), left_out, _CHD_IGNORED)


def _mmwhs(tree: Tree, modality: str) -> Found | None:
    images, labels = (
        _named(tree, rf"({modality}_(?:train|test)_\d{{4}})_{part}{_NIFTI}") for part in ("image", "label")
    )
    if not images:
        return None
    left_out = _orphans(tree, images, labels)
    if modality == "ct" and _named(tree, rf"(mr_(?:train|test)_\d{{4}})_image{_NIFTI}"):
        left_out += (LeftOut("mr_train", "the MR scans: --layout mmwhs_mr"),)
    cases, channels = _cases(tree, images, labels), (modality.upper(),)
    return Found(cases, channels, dict(LABELS["mmwhs"]), left_out, _MMWHS_IGNORED)


def _hvsmr(tree: Tree) -> Found | None:
    views = r"axial_full", r"axial_crop(?:ped)?", r"sa_crop(?:ped)?"
    found = [_named(tree, rf"(?:training|testing)_{view}_(pat\d+){_NIFTI}") for view in views]
    chosen = next((number for number, images in enumerate(found) if images), None)
    if chosen is None:
        return None
    images = found[chosen]
    labels = _named(tree, rf"(?:training|testing)_{views[chosen]}_(pat\d+)[-_]label{_NIFTI}")
    others = [file for more in found[chosen + 1 :] for files in more.values() for file in files]
    left_out = tuple(LeftOut(shown(tree.root, file), "the same heart, cropped") for file in others)
    left_out += _orphans(tree, images, labels)
    return Found(_cases(tree, images, labels), ("MR",), dict(LABELS["hvsmr"]), left_out)


def _synapse(tree: Tree) -> Found | None:
    images, labels = _named(tree, rf"img/img(\d{{4}}){_NIFTI}"), _named(tree, rf"label/label(\d{{4}}){_NIFTI}")
    if not images:
        return None
    cases, left_out = _cases(tree, images, labels, "btcv_{}"), _orphans(tree, images, labels)
    return Found(cases, ("CT",), dict(LABELS["synapse"]), left_out)


def _kits(tree: Tree) -> Found | None:
    images, labels = (_named(tree, rf"(case_\d{{5}})/{part}{_NIFTI}") for part in ("imaging", "segmentation"))
    if not images:
        return None
    return Found(_cases(tree, images, labels), ("CT",), dict(LABELS["kits"]), _orphans(tree, images, labels))


def _isic(tree: Tree, grey: bool = False) -> Found | None:
    images = _named(tree, r"ISIC2018_Task1-2_(?:Training|Validation|Test)_Input/(ISIC_\d{7})\.jpg$")
    if not images:
        return None
    # Of Validation and Test the masks are left alone, so that nobody trains on them by accident.
    labels = _named(tree, r"ISIC2018_Task1_Training_GroundTruth/(ISIC_\d{7})_segmentation\.png$")
    cases, left_out = _cases(tree, images, labels), _orphans(tree, images, labels)
    if grey:
        cases = [case._replace(images=(Path(f"{case.images[0]}#grey"),)) for case in cases]
    return Found(cases, ("grey",) if grey else ("red", "green", "blue"), dict(LABELS["isic"]), left_out)


def _brats(tree: Tree) -> Found | None:
    channels = ("t1", "t1ce", "t2", "flair")
    files = {part: _named(tree, rf"(brats[^/]*)/\1_{part}{_NIFTI}") for part in (*channels, "seg")}
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


# ---------------------------------------------------------------- ACDC


def _acdc(tree: Tree, cine: bool = True) -> Found | None:
    folders = [tree.root / file for file in tree.files if re.search(r"(?:^|/)patient\d{3}/Info\.cfg$", file)]
    facts = {path.parent: _read_facts(path) for path in folders}
    if not any("ED" in one for one in facts.values()):
        return None
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for folder, info in facts.items():
        tested = "testing" in folder.relative_to(tree.root).parts
        found, unused = _acdc_patient(folder, info, tested, cine)
        cases += found
        reason = "a label of the test set: give testing/ to use it"
        left_out += [LeftOut(shown(tree.root, file), reason) for file in unused]
    return Found(cases, ("MR",), dict(LABELS["acdc"]), tuple(left_out))


def _acdc_patient(folder: Path, info: dict[str, str], tested: bool, cine: bool) -> tuple[list[Case], list[Path]]:
    """The scans of one patient, and labels that are not used."""
    name, files = folder.name, {stem_of(file): file for file in files_in(folder)}
    moments = {_whole(folder, info, moment): moment for moment in ("ED", "ES")}
    cases, unused = [], []
    for number, moment in moments.items():
        frame, label = f"{name}_frame{number:02d}", files.get(f"{name}_frame{number:02d}_gt")
        if frame not in files:
            raise UsageError(
                f"{folder / frame}.nii.gz is not there, but {folder / 'Info.cfg'} names frame {number} as {moment}",
                allowed="both frames of every patient",
                next="unpack the archive again, or move the folder of this patient away",
            )
        if tested and label is not None:
            unused.append(label)
        cases.append(Case(f"{name}_{moment}", (files[frame],), None if tested else label, name))
    film = files.get(f"{name}_4d")
    if cine and film is not None:
        others = set(range(1, _whole(folder, info, "NbFrame") + 1)) - set(moments)
        cases += [Case(f"{name}_frame{n:02d}", (Path(f"{film}#frame={n}"),), None, name) for n in sorted(others)]
    return cases, unused


def _read_facts(file: Path) -> dict[str, str]:
    """``key: value`` lines."""
    lines = (line.partition(":") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def _whole(folder: Path, info: dict[str, str], key: str) -> int:
    if not info.get(key, "").isdigit():
        raise UsageError(
            f"{folder / 'Info.cfg'} has {key}: {info.get(key, 'nothing')}",
            allowed="lines ED: 1, ES: 12 and NbFrame: 30, with whole numbers",
            next="unpack the archive again",
        )
    return int(info[key])


# ---------------------------------------------------------------- CHAOS

# Below a patient's folder: the series of each channel, and the folder of the label's pictures.
_CHAOS = {
    "chaos": ("MR", {"T2-SPIR": "T2SPIR/DICOM_anon"}, "T2SPIR/Ground", "DICOM_anon"),
    "chaos_t1": (
        "MR",
        {"in phase": "T1DUAL/DICOM_anon/InPhase", "out of phase": "T1DUAL/DICOM_anon/OutPhase"},
        "T1DUAL/Ground",
        "DICOM_anon/InPhase",
    ),
    "chaos_ct": ("CT", {"CT": "DICOM_anon"}, "Ground", "DICOM_anon"),
}


def _chaos(tree: Tree, kind: str) -> Found | None:
    _, channels, ground, grid = _CHAOS[kind]
    cases = []
    for number, folders in _patients(tree, kind).items():
        name = f"chaos_ct_{number}" if kind == "chaos_ct" else f"chaos_{number}"
        folder = only_image(tree.root, name, folders)
        label = Path(f"{folder / ground}#grid={grid}") if files_in(folder / ground) else None
        cases.append(Case(name, tuple(folder / part for part in channels.values()), label, name))
    if not cases:
        return None
    others = [other for other in _CHAOS if other != kind and _patients(tree, other)]
    left_out = tuple(LeftOut(TITLES[other], f"other images: --layout {other}") for other in others)
    return Found(cases, tuple(channels), dict(LABELS["chaos_ct" if kind == "chaos_ct" else "chaos"]), left_out)


def _patients(tree: Tree, kind: str) -> dict[str, list[Path]]:
    """Folders of patients by number."""
    modality, channels, _, _ = _CHAOS[kind]
    series = next(iter(channels.values()))
    up = series.count("/") + 1
    files = _named(tree, rf"{modality}/(\d+)/{series}/[^/]+$")
    return {number: sorted({file.parents[up] for file in found}) for number, found in files.items()}


# ---------------------------------------------------------------- Gibson et al.

# The archive label_tciapancreasct_multiorgan.tar.gz holds a folder of a shorter name.
_GIBSON_LABELS = {
    "label_btcv_multiorgan": "btcv",
    "label_tciapancreasct_multiorgan": "pancreas",
    "label_tcia_multiorgan": "pancreas",
}
_GIBSON_LABEL = re.compile(r"^label(\d{4})$")
_GIBSON_IMAGES = {"btcv": re.compile(r"^img(\d{4})$"), "pancreas": re.compile(r"^PANCREAS_(\d{4})$", re.I)}
_GIBSON_NAMES = {"btcv": "img{}.nii.gz", "pancreas": "PANCREAS_{}"}
# The eight organs marked in both cohorts; right kidney, vessels and adrenal glands are marked in BTCV only.
_GIBSON_ORGANS = {
    "background": 0,
    "spleen": 1,
    "left kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "pancreas": 11,
    "duodenum": 14,
}
_GIBSON_BTCV_ONLY = (2, 8, 9, 10, 12, 13)
_WITHDRAWN = "pancreas_0025"


def gibson(root: Path) -> Found | None:
    """The layout ``gibson``; None where its label folders are not there."""
    if not any((root / name).is_dir() for name in _GIBSON_LABELS):
        return None
    labels: dict[str, Path] = {}
    images: dict[str, list[Path]] = {}
    left_out = []
    for folder, _ in sorted(folders_of(root)):
        parts = folder.relative_to(root).parts
        cohort = next((_GIBSON_LABELS[part] for part in parts if part in _GIBSON_LABELS), None)
        for file in files_in(folder):
            if match := _GIBSON_LABEL.match(stem_of(file)):
                if cohort is None:
                    left_out.append(LeftOut(shown(root, file), "a label of the cohort's own"))
                else:
                    labels[f"{cohort}_{match.group(1)}"] = file
            elif found := _gibson_image(stem_of(file)):
                images.setdefault(found, []).append(file)
        patient = next((found for part in reversed(parts) if (found := _gibson_image(part))), None)
        if patient is not None and dicom.is_series_folder(folder):
            images.setdefault(patient, []).append(folder)
    if _WITHDRAWN in labels and _WITHDRAWN not in images:
        left_out.append(LeftOut(shown(root, labels.pop(_WITHDRAWN)), "its scan has been withdrawn from Pancreas-CT"))
    cases = [
        Case(name, (_gibson_file(root, name, images.get(name, [])),), labels.get(name), name)
        for name in sorted({*labels, *images})
    ]
    return Found(cases, ("CT",), dict(_GIBSON_ORGANS), tuple(left_out), _GIBSON_BTCV_ONLY)


def _gibson_image(stem: str) -> str | None:
    """The id of a scan's file or folder; None for anything else."""
    found = ((cohort, name.match(stem)) for cohort, name in _GIBSON_IMAGES.items())
    return next((f"{cohort}_{match.group(1)}" for cohort, match in found if match), None)


def _gibson_file(root: Path, name: str, files: Sequence[Path]) -> Path:
    """The one image of an id; where there is none, the place where ``check`` will miss it."""
    cohort, _, number = name.partition("_")
    return only_image(root, name, files) if files else root / _GIBSON_NAMES[cohort].format(number)
