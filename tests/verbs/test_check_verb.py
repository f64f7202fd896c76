"""What ``check`` prints, returns and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lemis.datasets import index as indexing
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.reporting import page
from lemis.verbs.check import check

SHARED = Path(__file__).parents[2] / "../shared/data"
AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three scans of two subjects; p1 has labels."""
    folder = tmp_path / "scans"
    folder.mkdir()
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3, 1:3] = 1
    for seed, name in enumerate(["p1_ED", "p1_ES", "p2"]):
        array = np.random.default_rng(seed).integers(0, (32, 100, 1000)[seed], (6, 5, 4 + seed)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / "p1_ED_seg.nii.gz")
    return folder


def break_label(scans: Path) -> None:
    label = np.eye(6, 5, dtype=np.uint8)[:, :, None].repeat(3, axis=2)
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), scans / "p1_ED_seg.nii.gz")


def test_a_sound_folder(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(scans, output=tmp_path / "work")
    text = capsys.readouterr().out
    assert (report.errors, report.warnings) == (0, 0)
    for words in (
        f"{scans}: flat folder",
        "3 scans of 2 subjects, up to 2 per subject (p1_ED belongs to p1)",
        "1 of 3",
        "6 x 5 x 5 (4 to 6) voxels",
        "1.5 x 1.5 x 8 mm",
        "15, axial",
        "slices parallel in 3 scans; stored along the body axes",
        "image: 0 to 99",
        "scans differ in scale",
        "label 1",
        "nothing is wrong; wrote",
    ):
        assert words in text, text
    index = indexing.load(tmp_path / "work" / "index.json")
    assert index == report.index
    assert [scan.subject for scan in index.scans] == ["p1", "p1", "p2"]
    assert json.loads((tmp_path / "work" / "check.json").read_text(encoding="utf-8"))["faults"] == []


def test_shapes_of_different_slice_directions_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Medians over axes that mean different things would be of no scan at all."""
    for number, (shape, spacing) in enumerate([((6, 5, 4), (1, 1, 8)), ((6, 5, 4), (1, 1, 8)), ((3, 9, 7), (8, 1, 2))]):
        array = np.random.default_rng(number).integers(0, 99, shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), tmp_path / f"s{number}.nii.gz")
    report = check(tmp_path)
    text = capsys.readouterr().out
    assert "6 x 5 x 4 voxels in 2 scans; 3 x 9 x 7 voxels in 1 scan" in text
    assert "1 x 1 x 8 mm in 2 scans; 8 x 1 x 2 mm in 1 scan" in text
    rows = dict(page.data_rows(report.index))
    assert rows["Shape, voxels"] == "6 × 5 × 4 in 2 scans; 3 × 9 × 7 in 1 scan"
    assert rows["Spacing, mm"] == "1 × 1 × 8 in 2 scans; 8 × 1 × 2 in 1 scan"


def test_errors_are_printed_counted_and_stop_the_index(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(scans, output=tmp_path / "work")
    break_label(scans)
    report = check(scans, output=tmp_path / "work")
    text = capsys.readouterr().out
    assert report.errors == 1
    assert "error label on a different grid (1)" in text
    assert "p1_ED_seg.nii.gz: shape (6, 5, 3), but p1_ED.nii.gz has (6, 5, 4)" in text
    assert "repair: resample the label" in text
    assert "1 error and 0 warnings; no index.json written" in text
    assert not (tmp_path / "work" / "index.json").exists()
    assert json.loads((tmp_path / "work" / "check.json").read_text(encoding="utf-8"))["faults"][0]["scan"] == "p1_ED"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose voxels are read from now on."""
    names: list[str] = []
    real = volume.read

    def noted(path: Path, *how: Any) -> volume.Volume:
        names.append(Path(path).name)
        return real(path, *how)

    monkeypatch.setattr(volume, "read", noted)
    return names


def test_again_only_what_changed_is_read(scans: Path, tmp_path: Path, read: list[str]) -> None:
    work = tmp_path / "work"
    first = check(scans, output=work)
    assert sorted(read) == ["p1_ED.nii.gz", "p1_ED_seg.nii.gz", "p1_ES.nii.gz", "p2.nii.gz"]
    written = {name: (work / name).read_bytes() for name in ("check.json", "index.json", "checked.json")}
    read.clear()
    assert check(scans, output=work) == first
    assert read == []
    assert {name: (work / name).read_bytes() for name in written} == written

    array = np.full((6, 5, 6), 7, np.int16)
    array[0] = 300
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), scans / "p2.nii.gz")
    assert check(scans, output=work).intensities[0].high == 300
    assert read == ["p2.nii.gz"]
    read.clear()
    (scans / "p1_ED_seg.nii.gz").unlink()
    assert [scan.label for scan in check(scans, output=work).index.scans] == [None] * 3
    assert read == ["p1_ED.nii.gz"]
    read.clear()
    (work / "checked.json").write_text("{", encoding="utf-8")
    check(scans, output=work)
    assert len(read) == 3, "a memory that cannot be read spares nothing"
    read.clear()
    check(scans)
    assert len(read) == 3, "without a work folder there is no memory"


def test_scans_with_errors_are_read_again(scans: Path, tmp_path: Path, read: list[str]) -> None:
    break_label(scans)
    assert check(scans, output=tmp_path / "work").errors == 1
    read.clear()
    assert check(scans, output=tmp_path / "work").errors == 1
    assert sorted(read) == ["p1_ED.nii.gz", "p1_ED_seg.nii.gz"], "it may be mended without a file's changing"


def test_many_faults_of_one_kind_are_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        (tmp_path / f"s{number}.nii").write_bytes(b"nothing")
    report = check(tmp_path)
    text = capsys.readouterr().out
    assert report.errors == 8
    assert "unreadable file (8)" in text
    assert "s4.nii" in text
    assert "s5.nii" not in text
    assert "and 3 more" in text


def test_many_structures_are_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.arange(120, dtype=np.uint8).reshape(6, 5, 4)
    nibabel.save(nibabel.Nifti1Image(255 - label, AFFINE), tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), tmp_path / "a_seg.nii")
    assert check(tmp_path).errors == 0
    assert "and 100 more" in capsys.readouterr().out


def test_files_that_are_not_used_are_named(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "other_seg.nii.gz").touch()
    report = check(scans)
    assert report.errors == 0
    assert "not used: other_seg.nii.gz: a label without an image" in capsys.readouterr().out


def test_what_is_not_used_and_what_is_in_doubt_keeps_the_folder_from_being_all_right(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "p2.nii.gz").rename(scans / "P1.nii.gz")
    (scans / "p3.nii.gz").symlink_to("../annex/p3")
    (scans / "scribbles").mkdir()
    (scans / "p1_ED_seg.nii.gz").rename(scans / "scribbles" / "p1_ED_seg.nii.gz")
    report = check(scans, output=tmp_path / "work")
    text = capsys.readouterr().out
    assert "nothing is wrong" not in text
    assert "no errors, 2 warnings, 1 item not used; wrote" in text
    assert "warning subjects that may be one person (1)\n  subjects.csv: P1, p1: taken for different people" in text
    assert "warning broken link (1)\n  p3.nii.gz: points to ../annex/p3" in text
    assert "not used: scribbles/ (1 image): images that belong to no scan" in text
    written = json.loads((tmp_path / "work" / "check.json").read_text(encoding="utf-8"))
    assert [fault["kind"] for fault in written["faults"]] == [fault.kind for fault in report.faults]


def test_json(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_label(scans)
    report = check(scans, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["errors"] == report.errors == 1
    assert (facts["scans"], facts["subjects"], facts["labelled"]) == (3, 2, 1)
    assert facts["faults"][0]["kind"] == "label on a different grid"
    assert set(facts["faults"][0]) == {"severity", "scan", "file", "kind", "seen", "repair"}


def test_ignored_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "label_btcv_multiorgan"
    folder.mkdir()
    label = np.arange(120).reshape(6, 5, 4) % 15
    image = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), AFFINE), folder / "label0001.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "img0001.nii.gz")
    report = check(tmp_path, output=tmp_path / "work")
    assert (report.errors, report.warnings) == (0, 0)
    text = capsys.readouterr().out
    assert "duodenum" in text
    assert "the values 2, 8 to 10, 12, 13 count as background" in text
    assert indexing.load(tmp_path / "work" / "index.json").ignored == (2, 8, 9, 10, 12, 13)
    assert json.loads((tmp_path / "work" / "check.json").read_text(encoding="utf-8"))["ignored"] == [
        2,
        8,
        9,
        10,
        12,
        13,
    ]


def test_layout_and_folder_are_checked(scans: Path) -> None:
    with pytest.raises(UsageError, match="not the layout BIDS"):
        check(scans, layout="bids")
    with pytest.raises(UsageError, match="does not exist"):
        check(scans / "nowhere")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here (../shared/data)")
@pytest.mark.parametrize(
    ("name", "count", "subjects"),
    [
        pytest.param("Dataset101_ACDCdev", 100, 50, marks=pytest.mark.slow),
        ("Dataset102_Hippocampus", 130, 130),
        pytest.param("Dataset103_SunnybrookLV", 60, 30, marks=pytest.mark.slow),
    ],
)
def test_real_data_sets_pass(name: str, count: int, subjects: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(SHARED / name)
    assert report.errors == report.warnings == 0
    assert f"{count} scans of {subjects} subjects" in capsys.readouterr().out
