"""suggest: which scans to label next, before any label, after a pre-training, and with networks."""

from __future__ import annotations

import csv
import html
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from lemis import asked, phantom
from lemis.datasets import index as index_file
from lemis.datasets.scans import image_grid, label_on
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.preparation.settings import Settings
from lemis.preparation.store import open_store
from lemis.settings import load_preset, resolve
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.suggest import suggest
from lemis.work_files import audit, suggestions
from lemis.work_files.suggestions import Suggestions

FEW = ("pretrain.steps=2", "pretrain.precision=32", "finetune.steps=2", "finetune.precision=32")


def suggested(work: Path, **given: Any) -> Suggestions:
    page = suggest(work, **{"number": 2, "device": "cpu", **given})
    record = suggestions.read(page.parent)
    assert record is not None
    return record


def names(record: Suggestions) -> list[str]:
    return [one.scan for one in record.suggestions]


@pytest.fixture(scope="module")
def fitted(phantom_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks, of a cross-validation, after a pre-training."""
    work = tmp_path_factory.mktemp("suggest-fitted") / "work"
    fit(phantom_scans, output=work, method="pcl", preset="tiny", device="cpu", overrides=FEW)
    return work


def test_it_works_before_anything_was_trained(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = suggested(work)
    assert (record.method, record.embedding, record.networks) == ("cover", None, ())
    assert set(names(record)) <= {"heart_004", "heart_005", "heart_006"}
    assert (record.subjects, record.labelled) == (6, 3)
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing was pre-trained on these scans" in said
    assert "6 subjects: with fewer than 20" in said
    for one in record.suggestions:
        assert one.why in said
        assert one.nearest_labelled in ("heart_001", "heart_002", "heart_003")
    table = (work / "suggestions" / "suggestions.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["scan"] for row in rows] == names(record)
    assert [row["rank"] for row in rows] == ["1", "2"]


@pytest.mark.slow
def test_it_works_before_there_is_any_label(tmp_path: Path) -> None:
    scans, work = (
        phantom.write_dataset(tmp_path / "scans", subjects=5, labelled=0, shape=(32, 32, 4)),
        tmp_path / "work",
    )
    check(scans, output=work, jobs=1)
    prepare(work, jobs=1)
    run = pretrain(work, method="pcl", preset="tiny", overrides=["steps=2", "precision=32"], device="cpu")
    for method in ("random", "cover", "farthest_point", "k_medoids", "typical"):
        record = suggested(work, method=method, number=3)
        assert (record.embedding, record.labelled, len(set(names(record)))) == (run.name, 0, 3)
        assert all(one.nearest_labelled is None for one in record.suggestions)
        assert (record.coverage.before, record.coverage.after > 0) == (0, True)


@pytest.mark.slow
def test_a_pretraining_before_there_was_a_label_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/suggest.md has it: with a preset, and the field of view as a number, as no label can be measured yet."""
    scans = phantom.write_dataset(tmp_path / "scans", subjects=5, labelled=0, shape=(32, 32, 4))
    labels = phantom.write_dataset(tmp_path / "truth", subjects=5, labelled=2, shape=(32, 32, 4))
    work, few = tmp_path / "work", ["steps=2", "precision=32"]
    check(scans, output=work, jobs=1)
    images = resolve(Settings, load_preset("tiny")["prepare"] | {"field_of_view_mm": 48})
    prepare(work, settings=images, jobs=1)
    run = pretrain(work, method="pcl", preset="tiny", overrides=few, device="cpu")
    suggest(work, number=2, device="cpu")
    shutil.copytree(labels / "labelsTr", scans / "labelsTr")
    capsys.readouterr()
    fit(scans, output=work, method="pcl", preset="tiny", device="cpu", overrides=[*FEW, "prepare.field_of_view_mm=48"])
    assert f"{run}: nothing to do" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_with_networks_it_says_where_they_disagree(fitted: Path) -> None:
    record = suggested(fitted)
    assert (record.method, record.embedding) == ("cover_uncertain", "pcl")
    assert record.networks == ("pcl-m2-fold0", "pcl-m2-fold1", "pcl-m2-fold2")
    for one in record.suggestions:
        assert one.disagreement is not None
        assert set(one.disagreement) == set(load_structures(fitted))
        assert all(0 <= value <= 1 for value in one.disagreement.values())
    alone = suggested(fitted, method="disagreement", number=3)
    told = [np.mean(list((one.disagreement or {}).values())) for one in alone.suggestions]
    assert told == sorted(told, reverse=True)
    assert "its 3 networks disagree on" in alone.suggestions[0].why
    named = suggested(fitted, method="entropy", runs=["pcl-m2-fold1"])
    assert named.networks == ("pcl-m2-fold1",)


def load_structures(work: Path) -> list[str]:
    from lemis.datasets import index

    return [name for name, value in index.load(work / "index.json").labels.items() if value]


@pytest.mark.slow
def test_the_same_again_measures_nothing(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = suggested(fitted)
    for module in ("embedding", "uncertainty"):
        monkeypatch.setattr(f"lemis.selection.{module}.of_scan", None)
    assert suggested(fitted) == first
    (fitted / "suggestions" / "measured-features.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match="is damaged") as caught:
        suggest(fitted)
    assert "delete" in caught.value.next
    (fitted / "suggestions" / "measured-features.npz").unlink()


@pytest.mark.slow
def test_the_seed_and_settings_are_those_of_the_command(work: Path) -> None:
    lists = {tuple(names(suggested(work, method="random", seed=seed))) for seed in range(12)}
    assert len(lists) > 1
    assert names(suggested(work, method="random", seed=3)) == names(suggested(work, method="random", seed=3))
    assert suggested(work, overrides=["width=0.1"], output=work / "elsewhere").settings == {"width": 0.1}


def test_more_than_there_are_is_all_there_are(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(suggested(work, number=9).suggestions) == 3
    assert "9 were asked for, and 3 subjects have no label" in " ".join(capsys.readouterr().err.split())


def test_what_was_drawn_as_an_audit_is_remembered_and_drawn_again_until_it_is_labelled(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = suggested(work, number=2, audit=1, seed=4)
    drawn = next(one for one in first.suggestions if one.audit)
    assert audit.read(work).drawn == (audit.Drawn(subject=drawn.subject, scan=drawn.scan, of=3),)
    assert suggested(work, number=2, audit=1, seed=4) == first
    for seed in range(4):  # nobody draws until it pleases
        assert [one.scan for one in suggested(work, number=2, audit=1, seed=seed).suggestions if one.audit] == [
            drawn.scan
        ]
    capsys.readouterr()
    suggested(work, number=1, audit=0, output=work / "elsewhere")
    assert len(audit.read(work).drawn) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert str(work / "elsewhere" / "proposals") in said.replace(" ", "")
    suggested(work, number=3, audit=2)
    assert audit.read(work).drawn[0].subject == drawn.subject
    assert len(audit.read(work).drawn) == 2


def test_nothing_is_drawn_where_it_cannot_be_remembered(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, elsewhere = os.access, work.parent / "elsewhere"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != work and asked(path, mode))
    with pytest.raises(UsageError, match="permission denied"):
        suggest(work, number=2, audit=1, output=elsewhere)
    assert not elsewhere.exists()
    suggest(work, number=2, audit=0, output=elsewhere)


def only_fold(work: Path) -> None:
    finetune(work, preset="tiny", fold=0, overrides=["steps=1", "precision=32"], device="cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "coverage"}, ("coverage", "cover")),
        ({"method": "cover", "overrides": ["widht=1"]}, ("widht", "width")),
        ({"method": "disagreement"}, ("needs two fine-tuned networks", "--method cover")),
        ({"method": "entropy"}, ("needs a fine-tuned network", "--method cover")),
        ({"runs": ["nobody"]}, ("--run nobody", "lemis pretrain")),
    ],
)
def test_what_it_cannot_do_is_refused_with_what_it_can(
    work: Path, given: dict[str, Any], words: tuple[str, str]
) -> None:  # fmt: skip
    with pytest.raises(UsageError) as caught:
        suggest(work, **given)
    assert all(word in str(caught.value) for word in words)
    assert not (work / "suggestions").exists()
    if "runs" not in given and given["method"] not in ("disagreement", "entropy"):
        with pytest.raises(UsageError):
            asked.suggest(work, **given)


def test_one_network_cannot_disagree_with_itself(work: Path) -> None:
    only_fold(work)
    (run,) = (work / "runs").iterdir()
    with pytest.raises(UsageError, match="there is one"):
        suggest(work, method="disagreement", runs=[run.name])
    assert suggested(work, method="entropy", runs=[run.name]).networks == (run.name,)


def test_networks_of_scans_prepared_otherwise_are_refused_by_name_and_left_out_else(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(work, method="pcl", preset="tiny", overrides=["steps=1", "precision=32"], device="cpu")
    prepare(work, settings=Settings(spacing_mm=3.0), jobs=1)
    with pytest.raises(UsageError, match="was trained on scans with preparation"):
        suggest(work, runs=[run.name])
    assert suggested(work).embedding is None
    assert f"prepared otherwise: {run.name}" in " ".join(capsys.readouterr().err.split())


def test_where_all_are_labelled_there_is_nothing_to_choose(tmp_path: Path) -> None:
    scans, work = phantom.write_dataset(tmp_path / "scans", subjects=2, shape=(32, 32, 3)), tmp_path / "work"
    check(scans, output=work, jobs=1)
    with pytest.raises(UsageError, match="no finished preparation"):
        suggest(work)
    prepare(work, jobs=1)
    for verb in (suggest, asked.suggest):
        with pytest.raises(UsageError, match="all 2 subjects"):
            verb(work)
    more = phantom.write_dataset(tmp_path / "more", subjects=3, labelled=0, shape=(32, 32, 3))
    shutil.copy(more / "imagesTr" / "heart_003_0000.nii.gz", scans / "imagesTr" / "heart_003_0000.nii.gz")
    check(scans, output=work, jobs=1)
    for verb in (suggest, asked.suggest):
        with pytest.raises(UsageError, match="heart_003, not prepared"):
            verb(work)


def test_what_is_begun_is_said(work: Path) -> None:
    said: Callable[..., str] = asked.suggest
    assert said(work, method="cover", runs=["pcl"]) == f"suggest in {work}: cover, with pcl"


# ------------------------------------------------------------------------------------------------ proposals


def edited(proposal: Path) -> tuple[sitk.Image, dict[str, str]]:
    """A proposal as somebody corrects it: a block of each structure; and what its header says."""
    image = sitk.ReadImage(str(proposal))
    told = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    pixels = sitk.GetArrayFromImage(image)
    pixels[:] = 0
    for value in (1, 2, 3):
        pixels[1:4, 10 : 20 - value, 5 * value : 5 * value + 4] = value
    made = sitk.GetImageFromArray(pixels)
    made.CopyInformation(image)
    return made, told


@pytest.mark.slow
def test_a_corrected_proposal_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = phantom.write_dataset(tmp_path / "scans", subjects=5, labelled=2, shape=(40, 40, 5))
    work = tmp_path / "work"

    def run_fit() -> None:
        fit(scans, output=work, method="pcl", preset="tiny", device="cpu", overrides=FEW, fold=0)

    monkeypatch.setattr("sys.argv", ["/bin/lemis", "fit", str(scans), "--preset", "my own.yaml"])
    run_fit()
    page = suggest(work, number=2, device="cpu")
    command = f"lemis fit {scans} --preset 'my own.yaml'"  # not another one, with other settings
    assert command in html.unescape(page.read_text(encoding="utf-8"))
    assert f"then {command}" in " ".join(capsys.readouterr().err.split())
    record = suggestions.read(page.parent)
    assert record is not None
    text = page.read_text(encoding="utf-8")
    assert "https://" not in text
    for one in record.suggestions:
        assert one.scan in text
        assert one.label is not None
        assert one.label in text
        assert one.proposals == (f"proposals/{one.scan}.nii.gz", f"proposals/{one.scan}.seg.nrrd")
        maps = [volume.read(page.parent / file, ()).array for file in one.proposals]
        assert np.array_equal(maps[0], maps[1])
    assert '"LV"' in (page.parent / "proposals" / "labels.txt").read_text(encoding="utf-8")
    first, second = record.suggestions
    by_snap, _ = edited(page.parent / first.proposals[0])
    sitk.WriteImage(by_snap, str(first.label))
    whole, told = edited(page.parent / second.proposals[1])
    by_slicer = whole[4:22, 8:22, 1:4]  # Slicer saves the filled part only
    values = {"1": "3", "2": "1", "3": "2"}
    for key, said in told.items():
        by_slicer.SetMetaData(key, values.get(said, said) if key.endswith("LabelValue") else said)
    renumbered = sitk.ChangeLabel(by_slicer, {1: 3, 2: 1, 3: 2})
    for key in by_slicer.GetMetaDataKeys():
        renumbered.SetMetaData(key, by_slicer.GetMetaData(key))
    sitk.WriteImage(renumbered, str(Path(str(second.label)).parent / f"{second.scan}.seg.nrrd"))
    run_fit()
    listed = index_file.load(work / "index.json")
    for one, wanted in ((first, by_snap), (second, whole)):
        (scan,) = (scan for scan in listed.scans if scan.id == one.scan)
        assert scan.label is not None
        grid = image_grid(listed, scan)
        stored = sitk.GetArrayFromImage(wanted).transpose(2, 1, 0)
        found = volume._as_stored(label_on(listed, scan, grid), grid)
        assert np.array_equal(found, stored)
    assert {one.scan for one in record.suggestions} <= {
        facts.id for facts in open_store(work / "prepared").scans if facts.labelled
    }
    again = suggested(work, number=5)
    assert again.labelled == 4
    assert not set(names(again)) & set(names(record))


def test_without_networks_a_proposal_is_empty_and_what_was_corrected_is_kept(work: Path) -> None:
    page = suggest(work, number=2, device="cpu")
    folder = page.parent / "proposals"
    record = suggestions.read(page.parent)
    assert record is not None
    one, other = (Path(one.scan).name for one in record.suggestions)
    for scan in (one, other):
        assert not volume.read(folder / f"{scan}.nii.gz").array.any()
        assert volume.read_header(folder / f"{scan}.seg.nrrd").segments == {"RV": 1, "MYO": 2, "LV": 3}
    mine, _ = edited(folder / f"{one}.nii.gz")
    sitk.WriteImage(mine, str(folder / f"{one}.nii.gz"))
    kept = (folder / f"{one}.nii.gz").read_bytes()
    suggest(work, number=3, device="cpu")
    assert (folder / f"{one}.nii.gz").read_bytes() == kept
    assert not volume.read(folder / f"{other}.nii.gz").array.any()
