"""Made-up scans in the folders that public data sets unpack to: for tests of what is to be run on the real ones.

Hearts and abdomens are those of ``scans.py``, few and small. Where a data set has more structures than the phantom,
its labelled part is cut into as many pieces from one side to the other: every value occurs, none means an organ.
Subjects have numbers that the data set has, of both sides of the splits of ``datasets/split.py``.
"""

from __future__ import annotations

import json
import locale
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis import phantom
from lemis.datasets.layouts.structures import LABELS
from lemis.errors import UsageError
from lemis.formats.grids import LPS_TO_RAS
from lemis.formats.volume import write_volume
from lemis.plugins import nearest

Array = NDArray[Any]

PHASES = 4  # of a heart beat of ACDC; the third is end-systole
_ED, _ES = 1, 3
# The first subjects of MACL's training and test lists by turns; others count from one.
_CHAOS_NUMBERS = (5, 20, 10, 1, 21, 8, 32, 39, 2, 3)


class _Scan(NamedTuple):
    number: int  # from 0
    seed: int
    image: Array  # (X, Y, Z) int16
    label: Array  # (X, Y, Z) with the values of the phantom
    affine: NDArray[np.float64]  # voxel -> mm RAS


def write(
    root: Path, layout: str, *, subjects: int = 5, seed: int = 0, shape: tuple[int, int, int] = (48, 48, 4)
) -> Path:
    """Write a tiny data set.

    Args:
        root: Where to; made when it is not there.
        layout: A public one of ``layouts/recognised.py``, or ``msd_spleen``, ``msd_heart``, ``msd_hippocampus``.
        subjects: How many, all with a label; some layouts get one without.
        seed: Another seed, other subjects.
        shape: (X, Y, Z) of every scan.

    Returns:
        ``root``.

    Raises:
        UsageError: An unknown layout, or a number of subjects that is not between 1 and 10.
    """
    if layout not in _WRITERS:
        raise UsageError(
            f"a phantom of {layout!r}",
            allowed=", ".join(_WRITERS),
            next=f"write(root, {nearest(layout, _WRITERS) or 'acdc'!r})",
        )
    if not 1 <= subjects <= 10:
        raise UsageError(f"subjects={subjects}", allowed="1 to 10", next="subjects=5")
    kind, writer = _WRITERS[layout]
    root.mkdir(parents=True, exist_ok=True)
    with _same_locale():
        for number in range(subjects):
            made = phantom.make(kind, subject=number + 1, seed=seed, shape=shape)
            writer(root, _Scan(number, seed, made.image, made.label, made.affine))
    return root


# ---------------------------------------------------------------- one function per layout


def _acdc(root: Path, scan: _Scan) -> None:
    _acdc_patient(root / "database" / "training", f"patient{scan.number + 1:03d}", scan)
    if scan.number == 0:
        _acdc_patient(root / "database" / "testing", "patient101", scan._replace(number=100))


def _acdc_patient(folder: Path, name: str, scan: _Scan) -> None:
    shape = scan.image.shape
    phases = [
        phantom.make("heart", subject=scan.number + 1, seed=scan.seed, shape=shape, phase=phase, phases=PHASES)
        for phase in range(PHASES)
    ]
    affine = phases[0].affine
    write_volume(np.stack([one.image for one in phases], axis=3), affine, folder / name / f"{name}_4d.nii.gz")
    for number in (_ED, _ES):
        one = phases[number - 1]
        write_volume(one.image, affine, folder / name / f"{name}_frame{number:02d}.nii.gz")
        write_volume(one.label, affine, folder / name / f"{name}_frame{number:02d}_gt.nii.gz")
    facts = f"ED: {_ED}\nES: {_ES}\nGroup: NOR\nHeight: 170.0\nNbFrame: {PHASES}\nWeight: 70.0\n"
    (folder / name / "Info.cfg").write_text(facts, encoding="utf-8")


def _chd(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["chd"])
    label[0, 0, 0] = 12  # real labels hold values above 7
    _pair(root, scan, label, f"ct_{1001 + scan.number}_image.nii.gz", f"ct_{1001 + scan.number}_label.nii.gz")


def _mmwhs(root: Path, scan: _Scan) -> None:
    _whole_heart(root, scan, "ct")


def _mmwhs_mr(root: Path, scan: _Scan) -> None:
    _whole_heart(root, scan, "mr")


def _whole_heart(root: Path, scan: _Scan, modality: str) -> None:
    label = _pieces(scan.label, LABELS["mmwhs"])
    if modality == "mr":
        label[0, 0, 0] = 421
    name = f"{modality}_train/{modality}_train_{1001 + scan.number}"
    _pair(root, scan, label, f"{name}_image.nii.gz", f"{name}_label.nii.gz")
    if scan.number == 0:
        test = root / f"{modality}_test" / f"{modality}_test_2001_image.nii.gz"
        # Another scan, not the mirror image of this one.
        noise = np.random.default_rng(2001).normal(0, scan.image.std(), scan.image.shape)
        write_volume((scan.image[::-1] + noise).astype(scan.image.dtype), scan.affine, test)


def _hvsmr(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["hvsmr"])
    name = f"training_axial_full_pat{scan.number}"
    _pair(root, scan, label, f"Training dataset/{name}.nii.gz", f"Ground truth/{name}-label.nii.gz")
    cropped = f"Training dataset/training_axial_crop_pat{scan.number}.nii.gz"
    write_volume(scan.image[4:-4, 4:-4].copy(), scan.affine, root / cropped)


def _synapse(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["synapse"])
    folder, number = "RawData/Training", f"{scan.number + 1:04d}"
    _pair(root, scan, label, f"{folder}/img/img{number}.nii.gz", f"{folder}/label/label{number}.nii.gz")


def _gibson(root: Path, scan: _Scan) -> None:
    organs = {str(value): value for value in (0, 1, 3, 4, 5, 6, 7, 11, 14)}
    label, number = _pieces(scan.label, organs), f"{scan.number // 2 + 1:04d}"
    if scan.number % 2:
        _pair(root, scan, label, f"Pancreas-CT/PANCREAS_{number}.nii.gz", f"label_tcia_multiorgan/label{number}.nii.gz")
    else:
        _pair(root, scan, label, f"RawData/img/img{number}.nii.gz", f"label_btcv_multiorgan/label{number}.nii.gz")


def _brats(root: Path, scan: _Scan) -> None:
    name = f"BraTS20_Training_{scan.number + 1:03d}"
    label, bright = _pieces(scan.label, LABELS["brats"]), int(scan.image.max())
    channels = {
        "t1": scan.image,
        "t1ce": scan.image + (200 * (label == 4)).astype(np.int16),
        "t2": bright - scan.image,
        "flair": bright - scan.image + (100 * (label == 2)).astype(np.int16),
    }
    for channel, image in channels.items():
        write_volume(image, scan.affine, root / name / f"{name}_{channel}.nii.gz")
    write_volume(label, scan.affine, root / name / f"{name}_seg.nii.gz")


def _kits(root: Path, scan: _Scan) -> None:
    # The real files run through the slices along their first axis.
    affine = scan.affine[:, [2, 1, 0, 3]]
    label = _pieces(scan.label, LABELS["kits"])
    folder = root / f"case_{scan.number:05d}"
    write_volume(np.ascontiguousarray(scan.image.T), affine, folder / "imaging.nii.gz")
    write_volume(np.ascontiguousarray(label.T), affine, folder / "segmentation.nii.gz")


def _isic(root: Path, scan: _Scan) -> None:
    from PIL import Image

    middle = scan.image.shape[2] // 2
    plane, label = scan.image[:, :, middle].T.astype(np.float64), scan.label[:, :, middle].T > 0
    grey = 255 * (plane - plane.min()) / max(1.0, float(np.ptp(plane)))
    colours = np.stack([grey, 0.8 * grey, 0.6 * grey], axis=2).astype(np.uint8)
    folder, name = "ISIC2018_Task1-2_Training_Input", f"ISIC_{scan.number:07d}"
    masks = "ISIC2018_Task1_Training_GroundTruth"
    for part in (folder, masks):
        (root / part).mkdir(exist_ok=True)
    Image.fromarray(colours).save(root / folder / f"{name}.jpg", quality=95)
    Image.fromarray((255 * label).astype(np.uint8)).save(root / masks / f"{name}_segmentation.png")


def _chaos(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["chaos"])
    folder = root / "Train_Sets" / "MR" / str(_CHAOS_NUMBERS[scan.number]) / "T2SPIR"
    _write_series(folder / "DICOM_anon", scan.image, scan.affine, f"1.2.{scan.number}.1", "MR")
    _write_pictures(folder / "Ground", label)


def _chaos_t1(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["chaos"])
    folder = root / "Train_Sets" / "MR" / str(_CHAOS_NUMBERS[scan.number]) / "T1DUAL"
    out_of_phase = (scan.image.max() - scan.image).astype(np.int16)
    for part, image in (("InPhase", scan.image), ("OutPhase", out_of_phase)):
        _write_series(folder / "DICOM_anon" / part, image, scan.affine, f"1.2.{scan.number}.{len(part)}", "MR")
    _write_pictures(folder / "Ground", label)


def _chaos_ct(root: Path, scan: _Scan) -> None:
    label = _pieces(scan.label, LABELS["chaos_ct"])
    folder = root / "Train_Sets" / "CT" / str(scan.number + 1)
    _write_series(folder / "DICOM_anon", scan.image, scan.affine, f"1.2.{scan.number}.2", "CT")
    _write_pictures(folder / "Ground", label, black_and_white=True)


def _decathlon(name: str, id: str, labels: dict[str, int]) -> Callable[[Path, _Scan], None]:
    def writer(root: Path, scan: _Scan) -> None:
        file = f"{id.format(scan.number + 1)}.nii.gz"
        _pair(root, scan, _pieces(scan.label, labels), f"imagesTr/{file}", f"labelsTr/{file}")
        facts = {
            "name": name,
            "modality": {"0": "CT" if name == "Spleen" else "MRI"},
            "labels": {str(value): organ for organ, value in labels.items()},
        }
        (root / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    return writer


_WRITERS: dict[str, tuple[phantom.Kind, Callable[[Path, _Scan], None]]] = {
    "acdc": ("heart", _acdc),
    "acdc_ed_es": ("heart", _acdc),
    "chd": ("heart", _chd),
    "mmwhs": ("heart", _mmwhs),
    "mmwhs_mr": ("heart", _mmwhs_mr),
    "hvsmr": ("heart", _hvsmr),
    "chaos": ("abdomen", _chaos),
    "chaos_t1": ("abdomen", _chaos_t1),
    "chaos_ct": ("abdomen", _chaos_ct),
    "synapse": ("abdomen", _synapse),
    "gibson": ("abdomen", _gibson),
    "brats": ("heart", _brats),
    "kits": ("abdomen", _kits),
    "isic": ("heart", _isic),
    "isic_grey": ("heart", _isic),
    "msd_spleen": ("abdomen", _decathlon("Spleen", "spleen_{}", {"background": 0, "spleen": 1})),
    "msd_heart": ("heart", _decathlon("Heart", "la_{:03d}", {"background": 0, "left atrium": 1})),
    "msd_hippocampus": (
        "heart",
        _decathlon("Hippocampus", "hippocampus_{:03d}", {"background": 0, "Anterior": 1, "Posterior": 2}),
    ),
}


# ---------------------------------------------------------------- parts


def _pieces(label: Array, values: dict[str, int]) -> NDArray[np.uint16]:
    """The labelled part cut along the first axis into one piece of equal size per structure."""
    wanted = [value for value in values.values() if value]
    out = np.zeros(label.shape, np.uint16)
    where = np.nonzero(label)
    parts = np.arange(len(where[0])) * len(wanted) // max(1, len(where[0]))
    out[where] = np.asarray(wanted, np.uint16)[parts]
    return out


def _pair(root: Path, scan: _Scan, label: Array, image_file: str, label_file: str) -> None:
    write_volume(scan.image, scan.affine, root / image_file)
    write_volume(label, scan.affine, root / label_file)


def _write_pictures(folder: Path, label: Array, black_and_white: bool = False) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for place, name in _names(label.shape[2]):
        picture = Image.fromarray(np.ascontiguousarray(label[:, :, place].T.astype(np.uint8)))
        (picture.convert("1") if black_and_white else picture).save(folder / f"{name}.png")


def _write_series(folder: Path, image: Array, affine: NDArray[np.float64], uid: str, modality: str) -> None:
    import SimpleITK as sitk  # noqa: N813

    folder.mkdir(parents=True)
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    across, down = (lps[:3, :3] / spacing)[:, :2].T
    for place, name in _names(image.shape[2]):
        slice_: Any = sitk.GetImageFromArray(np.ascontiguousarray(image[:, :, place : place + 1].T))
        slice_.SetSpacing(spacing.tolist())
        position = lps[:3, 3] + place * lps[:3, 2]
        facts = {
            "0008|0060": modality,
            "0008|0016": "1.2.840.10008.5.1.4.1.1." + ("2" if modality == "CT" else "4"),
            "0008|0018": f"{uid}.{place + 1}",
            "0020|000d": "1.2.9",
            "0020|000e": uid,
            "0020|0032": _numbers(position),
            "0020|0037": _numbers([*across, *down]),
        }
        for key, value in facts.items():
            slice_.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / f"{name}.dcm"))
        writer.Execute(slice_)


def _names(slices: int) -> list[tuple[int, str]]:
    # The real files count downwards through the body: their order is not that of their positions.
    return [(place, f"IMG-0004-{slices - place:05d}") for place in range(slices)]


def _numbers(values: Iterable[float]) -> str:
    return "\\".join(f"{value:.6f}" for value in values)


@contextmanager
def _same_locale() -> Iterator[None]:
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the process in the locale C
