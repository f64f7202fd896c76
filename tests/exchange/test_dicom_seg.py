"""Label maps of a folder as DICOM SEG objects, and back as labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import lemis
import segs
from lemis import asked
from lemis.checking import check
from lemis.datasets.index import Scan
from lemis.datasets.recognition import recognise
from lemis.datasets.scans import read_image, read_label
from lemis.errors import DataFault, UsageError
from lemis.exchange import dicom_seg
from lemis.formats import labels, volume
from lemis.formats.dicom import segmentation_out
from lemis.verbs.export import export
from lemis.work_files import predictions
from lemis.work_files.predictions import Prediction, Predictions

pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")
STRUCTURES = {"RV": 1, "MYO": 2, "LV": 3, "Geröll": 9}


def predicted(folder: Path, scans: Path, values: tuple[int, ...] = (1, 2, 3)) -> Path:
    """Label maps of two oblique series, as predict writes them."""
    for number, name in enumerate(("p1", "p2")):
        series = segs.write_series(
            scans / name / "MR",
            (9, 8, 5),
            segs.rotation(10, 20 * number, 5),
            uid=f"1.2.4{number}",
            reverse=bool(number),
            seed=number,
        )
        header = volume.read_header(series)
        array = np.array([0, *values])[segs.label_map(header.canonical_shape, len(values), number)]
        volume.write_labels(array, header, folder / f"{name}.nii.gz")
        made = Prediction(
            file=f"{name}.nii.gz", runs=("pcl-m4-all",), weights=("0123456789abcdef",),
            scan=Scan(id=name, subject=name, images=(str(series),), axes=header.axes),
        )  # fmt: skip
        predictions.add(folder, name, made, Predictions(version=1, structures=STRUCTURES))
    return folder


@pytest.mark.parametrize("target", dicom_seg.TARGETS)
def test_from_label_map_to_object_to_label_no_voxel_changes(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, scans = predicted(tmp_path / "masks", tmp_path / "scans"), tmp_path / "scans"
    assert asked.export(masks, output=scans / "seg", to=target).endswith(target)
    export(masks, output=scans / "seg", to=target)
    said = " ".join(capsys.readouterr().err.split())
    assert "RV = Right ventricle (SCT 53085002), MYO = Myocardium (SCT 74281007)" in said
    assert "no code is known of Geröll" in said
    assert "2 DICOM SEG objects written" in said
    found = check.examine(recognise(scans).index)
    assert [(scan.id, scan.label) for scan in found.index.scans] == [("p1", "seg/p1.dcm"), ("p2", "seg/p2.dcm")]
    assert found.faults == ()
    for scan in found.index.scans:
        back = read_label(found.index, scan, read_image(found.index, scan))
        assert {name: found.index.labels[name] for name in ("RV", "MYO", "LV")} == {"RV": 1, "MYO": 2, "LV": 3}
        np.testing.assert_array_equal(back, labels.read(masks / f"{scan.id}.nii.gz").array)


def test_codes_of_ones_own(tmp_path: Path) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans", (1, 9))
    (tmp_path / "codes.csv").write_text("name,type,colour\nGeröll,99LAB^G1^Rubble,#102030\n", encoding="utf-8")
    export(masks, output=tmp_path / "seg", to="dicom-seg", codes=tmp_path / "codes.csv")
    _, rubble = pydicom.dcmread(tmp_path / "seg" / "p1.dcm").SegmentSequence
    assert rubble.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Rubble"
    with pytest.raises(UsageError, match=r"nowhere\.csv is no file"):
        export(masks, output=tmp_path / "seg", to="dicom-seg", codes=tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("verb", "options", "said"),
    [
        ("predict", {"codes": Path("codes.csv")}, r"codes\.csv without --also dicom-seg"),
        ("export", {"output": Path("out"), "codes": Path("codes.csv")}, r"codes\.csv without --to dicom-seg"),
        ("export", {"output": Path("out"), "to": "dicom-seg", "licence": "MIT"}, "--licence 'MIT' for --to dicom-seg"),
    ],
)
def test_options_that_would_do_nothing_are_refused(verb: str, options: dict[str, Any], said: str) -> None:
    for function in (getattr(asked, verb), getattr(lemis, verb)):
        with pytest.raises(UsageError, match=said):
            function(Path("work/runs/a"), **options)


def test_where_nothing_is_marked_it_says_so_and_leaves_no_older_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    export(masks, output=tmp_path / "seg", to="dicom-seg")
    header = volume.read_header(tmp_path / "scans" / "p2" / "MR")
    volume.write_labels(np.zeros(header.canonical_shape, np.uint8), header, masks / "p2.nii.gz")
    export(masks, output=tmp_path / "seg", to="dicom-seg")
    assert [file.name for file in (tmp_path / "seg").iterdir()] == ["p1.dcm"]
    assert "nothing is marked in 1 label map (p2): no object of it" in " ".join(capsys.readouterr().err.split())


def test_scans_of_other_formats_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    volume.write_volume(np.zeros((3, 3, 3), np.int16), np.eye(4), tmp_path / "a.nii.gz")
    made = Prediction(file="p1.nii.gz", scan=Scan(id="a", subject="a", images=(str(tmp_path / "a.nii.gz"),)))
    predictions.add(masks, "a", made, Predictions(version=1))
    with pytest.raises(UsageError, match=r"dicom-seg of a, which is a\.nii\.gz(.|\n)*-i FOLDER_OF_DICOM_SERIES"):
        export(masks, output=tmp_path / "seg", to="dicom-seg")
    assert not (tmp_path / "seg").exists()


def test_what_is_no_folder_of_label_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for door in (asked.export, export):
        with pytest.raises(UsageError, match=r"without predictions\.json(.|\n)*lemis predict WORK/runs/NAME"):
            door(tmp_path / "runs", output=tmp_path / "seg", to="dicom-seg")
        with pytest.raises(UsageError, match=r"away is not there(.|\n)*check the path"):
            door(tmp_path / "away", output=tmp_path / "seg", to="dicom-seg")
    (tmp_path / "runs" / "model.json").touch()
    with pytest.raises(UsageError, match=r"runs is a run(.|\n)*lemis predict \S+runs -i FOLDER_OF_DICOM_SERIES"):
        export(tmp_path / "runs", output=tmp_path / "seg", to="dicom-seg")
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    (masks / "p2.nii.gz").unlink()
    with pytest.raises(UsageError, match="knows no label map of p2"):
        export(masks, output=tmp_path / "seg", to="dicom-seg")


def test_a_file_that_is_no_object_is_not_written_over(tmp_path: Path) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    (tmp_path / "seg").mkdir()
    (tmp_path / "seg" / "p1.dcm").write_bytes((tmp_path / "scans" / "p1" / "MR" / "0000.dcm").read_bytes())
    with pytest.raises(UsageError, match=r"p1\.dcm is there, and is no DICOM SEG object"):
        export(masks, output=tmp_path / "seg", to="dicom-seg")


def test_a_tilted_scan_is_written_with_a_word_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    series = tmp_path / "scans" / "p1" / "MR"
    segs.write_series(series, (9, 8, 5), uid="1.2.40", shift_mm=(0, 1, 0))
    header = volume.read_header(series)
    volume.write_labels(np.ones(header.canonical_shape, np.uint8), header, masks / "p1.nii.gz")
    record = predictions.read(masks)
    assert record is not None
    scan = Scan(id="p1", subject="p1", images=(str(series),), axes=header.axes)
    predictions.add(masks, "p1", record.scans["p1"].model_copy(update={"scan": scan}), record)
    export(masks, output=tmp_path / "seg", to="dicom-seg")
    assert "1 scan with a tilted gantry (p1)" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_target_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'rtstruct'(.|\n)*dicom-seg or dicom-labelmap"):
        dicom_seg.asked("rtstruct", None, "--also dicom-seg")
    monkeypatch.setattr(segmentation_out, "find_spec", lambda name: None)
    for ask in (
        lambda: asked.export(tmp_path, output=tmp_path / "s", to="dicom-seg"),
        lambda: asked.predict([tmp_path], also="dicom-seg"),
    ):
        with pytest.raises(UsageError, match=r"without highdicom(.|\n)*lemis\[dicom\](.|\n)*pip install highdicom"):
            ask()


def test_a_label_map_on_another_grid_is_refused(tmp_path: Path) -> None:
    masks = predicted(tmp_path / "masks", tmp_path / "scans")
    volume.write_volume(np.zeros((3, 3, 3), np.uint8), np.eye(4), masks / "p1.nii.gz")
    with pytest.raises(DataFault, match="one grid"):
        export(masks, output=tmp_path / "seg", to="dicom-seg")
