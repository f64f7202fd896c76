"""Folders of public data sets, as they unpack: recognised, checked, prepared; and what is wrong with some of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from folders_made import touch
from lemis import phantom
from lemis.checking import check
from lemis.datasets.layouts.recognised import PUBLIC_TITLES
from lemis.datasets.layouts.structures import LABELS
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.formats.paths import file_of, label_suffix
from lemis.phantom import public_sets
from lemis.verbs.prepare import prepare

SMALL = (32, 28, 3)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory):
    """A data set of two subjects, written once; to be read only."""
    made: dict[str, Path] = {}

    def write(layout: str) -> Path:
        if layout not in made:
            folder = tmp_path_factory.mktemp("public") / "data"
            made[layout] = public_sets.write(folder, layout, subjects=2, shape=SMALL)
        return made[layout]

    return write


def listed(root: Path, layout: str | None = None) -> dict[str, tuple[str, bool]]:
    return {scan.id: (scan.subject, scan.label is not None) for scan in recognise(root, layout).index.scans}


# Scans, labelled ones, and what the labels are called there.
CONTENT = {
    "gibson": (2, 2, None),
    "acdc": (12, 4, "acdc"),
    "acdc_ed_es": (6, 4, "acdc"),
    "chd": (2, 2, "chd"),
    "mmwhs": (3, 2, "mmwhs"),
    "mmwhs_mr": (3, 2, "mmwhs"),
    "hvsmr": (2, 2, "hvsmr"),
    "chaos": (2, 2, "chaos"),
    "chaos_t1": (2, 2, "chaos"),
    "chaos_ct": (2, 2, "chaos_ct"),
    "synapse": (2, 2, "synapse"),
    "brats": (2, 2, "brats"),
    "kits": (2, 2, "kits"),
    "isic": (2, 2, "isic"),
    "isic_grey": (2, 2, "isic"),
}


def test_every_layout_is_tested() -> None:
    assert set(CONTENT) == set(PUBLIC_TITLES)


@pytest.mark.parametrize("layout", CONTENT)
def test_a_layout_is_recognised_checked_and_prepared(written, layout: str, tmp_path: Path) -> None:
    scans, labelled, names = CONTENT[layout]
    asked = layout if layout in ("acdc_ed_es", "isic_grey") else None  # there, another one is found first
    found = check.examine(recognise(written(layout), asked).index, jobs=1)
    assert found.index.layout == layout
    assert not found.faults
    assert len(found.index.scans) == scans
    assert sum(scan.label is not None for scan in found.index.scans) == labelled
    if names:
        assert found.index.labels == LABELS[names]
    store = prepare(tmp_path, index=found.index, jobs=1)
    assert store.label_values == (0, *sorted(set(found.index.labels.values()) - {0}))
    assert store.channels == found.index.channels
    classes = {value for i in range(scans) if (label := store.label(i)) is not None for value in np.unique(label)}
    assert classes <= set(range(store.num_classes))
    assert len(classes) > 1


@pytest.mark.parametrize("name", ["msd_spleen", "msd_heart", "msd_hippocampus"])
def test_decathlon_phantoms(written, name: str) -> None:
    found = check.examine(recognise(written(name)).index, jobs=1)
    assert found.index.layout == "msd"
    assert not found.faults


def test_a_phantom_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"phantom of 'acdcs'(.|\n)*'acdc'"):
        public_sets.write(tmp_path, "acdcs")
    with pytest.raises(UsageError, match=r"subjects=11\n.*1 to 10"):
        public_sets.write(tmp_path, "acdc", subjects=11)


# ---------------------------------------------------------------- ACDC


def test_acdc_has_every_frame_once(written) -> None:
    patient = {f"{{0}}_{moment}": True for moment in ("ED", "ES")} | {"{0}_frame02": False, "{0}_frame04": False}
    wanted = {name.format(p): (p, label) for p in ("patient001", "patient002") for name, label in patient.items()}
    wanted |= {name.format("patient101"): ("patient101", False) for name in patient}  # of testing/
    assert listed(written("acdc")) == wanted
    assert set(listed(written("acdc"), "acdc_ed_es")) == {name for name in wanted if not name[-7:].startswith("frame")}


def test_acdc_wherever_one_points(written) -> None:
    root = written("acdc")
    assert listed(root / "database") == listed(root)
    assert {subject for subject, _ in listed(root / "database" / "training").values()} == {"patient001", "patient002"}
    # Labels of the test set: only where somebody asks for that folder.
    unused = recognise(root).left_out
    assert [Path(part.file).name for part in unused] == [f"patient101_frame0{n}_gt.nii.gz" for n in (1, 3)]
    tested = listed(root / "database" / "testing")
    assert tested["patient101_ED"] == ("patient101", True)


def test_a_frame_is_what_its_own_file_holds(written) -> None:
    folder = written("acdc") / "database" / "training" / "patient001"
    alone = volume.read(folder / "patient001_frame03.nii.gz")
    frame = volume.read(Path(f"{folder / 'patient001_4d.nii.gz'}#frame=3"))
    assert np.array_equal(alone.array, frame.array)
    assert alone.array.dtype == frame.array.dtype
    assert np.allclose(alone.affine, frame.affine)


@pytest.fixture
def patient(written, tmp_path: Path) -> Path:
    shutil.copytree(written("acdc"), tmp_path / "acdc")
    return tmp_path / "acdc" / "database" / "training" / "patient002"


def test_acdc_without_the_frame_that_it_names(patient: Path) -> None:
    (patient / "patient002_frame03.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"patient002_frame03\.nii\.gz is not there, but .* names frame 3 as ES"):
        recognise(patient.parents[2])


def test_acdc_with_facts_that_are_none(patient: Path) -> None:
    (patient / "Info.cfg").write_text("ED: 1\nES: end\n")
    with pytest.raises(UsageError, match=r"Info\.cfg has ES: end(.|\n)*whole numbers"):
        recognise(patient.parents[2])


def test_acdc_with_more_frames_stated_than_there_are(patient: Path) -> None:
    (patient / "Info.cfg").write_text("ED: 1\nES: 3\nNbFrame: 5\n")
    found = check.examine(recognise(patient.parent).index, jobs=1)
    assert [(fault.scan, fault.kind) for fault in found.faults] == [("patient002_frame05", "unreadable file")]


def test_without_the_cine_file_there_are_two_frames(patient: Path) -> None:
    (patient / "patient002_4d.nii.gz").unlink()
    assert [name for name in listed(patient.parent) if name.startswith("patient002")] == [
        "patient002_ED",
        "patient002_ES",
    ]


# ---------------------------------------------------------------- CHAOS


def test_chaos_labels_lie_on_their_slices(written) -> None:
    # The first file of the series is the highest slice.
    index = recognise(written("chaos")).index
    scan = index.scans[0]
    assert scan.id == "chaos_20"
    made = phantom.make("abdomen", subject=2, shape=SMALL)
    label = volume.read(Path(index.root) / str(scan.label))
    image = volume.read(Path(index.root) / scan.images[0])
    assert np.allclose(label.affine, image.affine)
    # The stored axes are LPS: the canonical array has the first two the other way round.
    assert np.array_equal(image.array, made.image[::-1, ::-1])
    assert np.array_equal(label.array > 0, made.label[::-1, ::-1] > 0)


def test_chaos_by_sequence(tmp_path: Path) -> None:
    for kind in ("chaos", "chaos_t1", "chaos_ct"):
        public_sets.write(tmp_path, kind, subjects=1, shape=SMALL)
    listing = recognise(tmp_path)
    assert listing.index.layout == "chaos"
    assert [part.reason for part in listing.left_out] == [
        "other images: --layout chaos_t1",
        "other images: --layout chaos_ct",
    ]
    assert recognise(tmp_path, "chaos_t1").index.channels == ("in phase", "out of phase")
    assert recognise(tmp_path / "Train_Sets" / "CT").index.layout == "chaos_ct"


def test_chaos_with_a_picture_missing_or_of_another_size(tmp_path: Path) -> None:
    public_sets.write(tmp_path, "chaos_ct", subjects=1, shape=SMALL)
    ground = tmp_path / "Train_Sets/CT/1/Ground"
    picture = sorted(ground.iterdir())[0]
    Image.new("L", (5, 5)).save(picture)
    with pytest.raises(DataFault, match=r"is of shape \(5, 5\)(.|\n)*\(28, 32\)"):
        volume.read(Path(f"{ground}#grid=DICOM_anon"))
    picture.unlink()
    with pytest.raises(DataFault, match="holds 2 pictures, and the series 3 slices"):
        volume.read(Path(f"{ground}#grid=DICOM_anon"))


# ---------------------------------------------------------------- the others


def test_label_values_that_do_not_count(written) -> None:
    index = recognise(written("chd")).index
    assert set(range(8, 256)) == set(index.ignored)
    label = volume.read(Path(index.root) / str(index.scans[0].label))
    assert 12 in label.array
    assert recognise(written("mmwhs_mr")).index.ignored == (421,)


def test_mmwhs_with_both_modalities(tmp_path: Path) -> None:
    names = [f"{m}_train/{m}_train_1001_{part}.nii.gz" for m in ("ct", "mr") for part in ("image", "label")]
    touch(*[tmp_path / name for name in names], tmp_path / "ct_train/ct_train_1002_label.nii.gz")
    listing = recognise(tmp_path)
    assert [scan.id for scan in listing.index.scans] == ["ct_train_1001"]
    assert [part.reason for part in listing.left_out] == [
        "a label without an image of the same name",
        "the MR scans: --layout mmwhs_mr",
    ]
    assert set(listed(tmp_path, "mmwhs_mr")) == {"mr_train_1001"}


def test_hvsmr_in_other_views(tmp_path: Path) -> None:
    touch(tmp_path / "training_axial_crop_pat0.nii.gz", tmp_path / "training_axial_crop_pat0-label.nii.gz")
    touch(tmp_path / "training_sa_crop_pat0.nii.gz", tmp_path / "testing_axial_crop_pat10.nii.gz")
    listing = recognise(tmp_path)
    assert {scan.id: scan.label for scan in listing.index.scans} == {
        "pat0": "training_axial_crop_pat0-label.nii.gz",
        "pat10": None,
    }
    assert [part.reason for part in listing.left_out] == ["the same heart, cropped"]


def test_masks_of_the_isic_test_set_are_left_alone(tmp_path: Path) -> None:
    for part in ("Training", "Test"):
        touch(tmp_path / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_000000{len(part)}.jpg")
        touch(tmp_path / f"ISIC2018_Task1_{part}_GroundTruth" / f"ISIC_000000{len(part)}_segmentation.png")
    assert listed(tmp_path) == {"ISIC_0000004": ("ISIC_0000004", False), "ISIC_0000008": ("ISIC_0000008", True)}
    assert set(listed(tmp_path / "ISIC2018_Task1-2_Test_Input")) == {"ISIC_0000004"}


def test_grey_pictures(written) -> None:
    index = recognise(written("isic"), "isic_grey").index
    path = Path(index.root) / index.scans[0].images[0]
    assert path.name.endswith(".jpg#grey")
    header = volume.read_header(path)
    assert (header.channels, header.dtype) == (1, "L")
    colours = volume.read(file_of(path)).array.astype(float)
    grey = volume.read(path).array
    assert np.abs(grey - colours @ [0.299, 0.587, 0.114]).max() < 1.5
    assert label_suffix(path) == ".png"


def test_brats_without_a_channel(tmp_path: Path) -> None:
    name = "Brats18_2013_0_1"
    touch(*[tmp_path / "HGG" / name / f"{name}_{part}.nii.gz" for part in ("t1", "t2", "flair", "seg")])
    with pytest.raises(UsageError, match=r"Brats18_2013_0_1 has no t1ce(.|\n)*t1, t1ce, t2, flair"):
        recognise(tmp_path)
    touch(tmp_path / "HGG" / name / f"{name}_t1ce.nii.gz")
    assert listed(tmp_path) == {name: (name, True)}


def test_one_scan_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "ct_1001_image.nii.gz", tmp_path / "b" / "ct_1001_image.nii.gz")
    with pytest.raises(UsageError, match=r"ct_1001 has 2 images: a/ct_1001_image\.nii\.gz, b/"):
        recognise(tmp_path)


def test_kits_without_a_label_is_for_pretraining(tmp_path: Path) -> None:
    touch(*[tmp_path / "data" / f"case_00{n}" / "imaging.nii.gz" for n in ("001", "250")])
    touch(tmp_path / "data" / "case_00001" / "segmentation.nii.gz")
    assert listed(tmp_path) == {"case_00001": ("case_00001", True), "case_00250": ("case_00250", False)}


def test_axial_however_thin_the_slices(tmp_path: Path) -> None:
    thin, zeros = np.diag([0.8, 0.8, 0.5, 1.0]), np.zeros((5, 6, 4), np.int16)
    nibabel.save(nibabel.Nifti1Image(zeros, thin), tmp_path / "ct_1001_image.nii.gz")
    assert scan_folder(tmp_path, jobs=1).scans[0].slice_axis == 2


# ---------------------------------------------------------------- parts of files


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("scaled", [False, True])
def test_frames_are_those_of_the_whole_file(tmp_path: Path, suffix: str, scaled: bool) -> None:
    array = np.random.default_rng(0).integers(0, 900, (5, 4, 3, 6)).astype(np.int16)
    kind = nibabel.MGHImage if suffix == ".mgz" else nibabel.Nifti1Image
    image = kind(array, np.diag([-2.0, 2.0, 8.0, 1.0]))
    if scaled and suffix != ".mgz":
        image.header.set_slope_inter(0.5, 3.0)
    file = tmp_path / f"film{suffix}"
    nibabel.save(image, file)
    whole = volume.read(file).array
    for frame in (6, 1, 2):
        one = volume.read(Path(f"{file}#frame={frame}"))
        assert np.array_equal(one.array, whole[..., frame - 1])
        assert one.array.dtype == whole.dtype
        assert (one.source.channels, one.source.shape) == (1, (5, 4, 3))


def test_a_label_map_of_a_frame_lies_on_its_grid(tmp_path: Path) -> None:
    file = tmp_path / "film.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3, 6), np.int16), np.diag([-2.0, 2.0, 8.0, 1.0])), file)
    frame = Path(f"{file}#frame=2")
    assert label_suffix(frame) == ".nii.gz"
    labels = np.arange(60).reshape(5, 4, 3).astype(np.uint8)
    out = volume.write_labels(labels, volume.read_header(frame), tmp_path / "label.nii.gz")
    assert np.array_equal(volume.read(out).array, labels)
    assert nibabel.load(out).shape == (5, 4, 3)


def test_frames_in_a_list(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3, 6), np.int16), np.eye(4)), tmp_path / "film.nii.gz")
    (tmp_path / "list.csv").write_text("id,image\na,film.nii.gz#frame=2\nb,film.nii.gz#frame=3\n")
    scans = scan_folder(tmp_path, jobs=1).scans
    assert [(scan.id, scan.images, scan.shape) for scan in scans] == [
        ("a", ("film.nii.gz#frame=2",), (5, 4, 3)),
        ("b", ("film.nii.gz#frame=3",), (5, 4, 3)),
    ]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "film.nii.gz"
    for value in (1, 2):
        nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2, 3), value, np.int16), np.eye(4)), file)
        assert volume.read(Path(f"{file}#frame=1")).array.max() == value


@pytest.mark.parametrize(("frame", "allowed"), [(0, "frames 1 to 6"), (7, "frames 1 to 6")])
def test_a_frame_that_is_not_there(tmp_path: Path, frame: int, allowed: str) -> None:
    file = tmp_path / "film.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3, 6), np.int16), np.eye(4)), file)
    with pytest.raises(DataFault, match=rf"has shape \(5, 4, 3, 6\)\n.*{allowed}"):
        volume.read_header(Path(f"{file}#frame={frame}"))


def test_a_frame_of_what_has_no_frames(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataFault, match="a frame of a file with four axes"):
        volume.read(Path(f"{tmp_path / 'a.nii'}#frame=1"))
    Image.new("L", (5, 5)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png#frame=1(.|\n)*#grey of pictures"):
        volume.read(Path(f"{tmp_path / 'a.png'}#frame=1"))
    with pytest.raises(UsageError, match=r"b\.nii#frame=1 does not exist"):
        volume.read(Path(f"{tmp_path / 'b.nii'}#frame=1"))
