"""``lemis predict --also dicom-seg``: from series to label maps, to objects, and back as labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import segs
from lemis.checking import check
from lemis.datasets.recognition import recognise
from lemis.datasets.scans import read_image, read_label
from lemis.errors import DataFault, UsageError
from lemis.formats import labels
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict

pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")


@pytest.fixture(scope="module")
def run(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("tuned") / "work"))
    return finetune(work, name="a", fold=0, preset="tiny", overrides=["steps=2", "precision=32"], device="cpu")


@pytest.mark.slow
def test_label_maps_and_objects_of_series_hold_the_same_voxels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / "scans"
    for number in (1, 2):
        segs.write_series(
            scans / f"p{number}" / "MR", (40, 36, 4), segs.rotation(4, 3, number), uid=f"1.2.4{number}", seed=number
        )
    masks = predict(run, inputs=scans, output=tmp_path / "masks", also="dicom-seg", device="cpu")
    objects = sorted((masks / "dicom-seg").iterdir())
    assert [file.name for file in objects] == ["p1.dcm", "p2.dcm"]
    before = [file.read_bytes() for file in objects]
    capsys.readouterr()
    predict(run, inputs=scans, output=masks, also="dicom-seg", device="cpu")  # no network runs, and nothing changes
    assert "nothing to do" in (said := capsys.readouterr().err)
    assert "2 DICOM SEG objects written" in " ".join(said.split())
    assert [file.read_bytes() for file in objects] == before
    (algorithm,) = pydicom.dcmread(objects[0]).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmParameters.startswith("runs=a,weights=")
    shutil.move(masks / "dicom-seg", scans / "labels-of-them")
    found = check.examine(recognise(scans).index)
    for scan in found.index.scans:
        back = read_label(found.index, scan, read_image(found.index, scan))
        written = labels.read(masks / f"{scan.id}.nii.gz").array
        assert back.any()
        names = {value: name for name, value in found.index.labels.items()}
        assert {names[value] for value in np.unique(back).tolist()} - {"background"} <= {"LV", "MYO", "RV"}
        np.testing.assert_array_equal(back != 0, written != 0)
        pairs = {(int(a), int(b)) for a, b in zip(back.ravel(), written.ravel(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.slow
def test_series_that_were_taken_as_channels_are_told_how_to_be_named(run: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for number in (1, 2):
        for title in ("cine sa", "T2 haste"):
            segs.write_series(scans / f"p{number}" / title, uid=f"1.2.4.{number}.{len(title)}", SeriesDescription=title)
    with pytest.raises(UsageError, match=r"scans with 2 channels \(T2 haste, cine sa\)") as caught:
        predict(run, inputs=scans, output=tmp_path / "masks", device="cpu")
    assert caught.value.next == f"name the series: -i '{scans}#series=T2 haste'"
    predict(run, inputs=Path(f"{scans}#series=T2 haste"), output=tmp_path / "masks", device="cpu")


def test_scans_of_other_formats_are_refused_before_a_network_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dicom-seg of heart_00(.|\n)*--also dicom-seg"):
        predict(run, output=tmp_path / "masks", also="dicom-seg", device="cpu")
    assert not (tmp_path / "masks" / "predictions.json").exists()


def test_a_series_without_its_uids_is_refused_before_a_network_runs(run: Path, tmp_path: Path) -> None:
    segs.write_series(tmp_path / "scans" / "p1" / "MR", uid="1.2.51")
    segs.write_series(tmp_path / "scans" / "p2" / "MR", uid="1.2.52", seed=2, FrameOfReferenceUID=None)
    with pytest.raises(DataFault, match="does not state FrameOfReferenceUID"):
        predict(run, inputs=tmp_path / "scans", output=tmp_path / "masks", also="dicom-seg", device="cpu")
    assert not (tmp_path / "masks" / "predictions.json").exists()
