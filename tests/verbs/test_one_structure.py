"""Extra losses on scans of one structure: what needs two classes is refused before preparing, or counts background."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lemis import phantom
from lemis.errors import UsageError
from lemis.verbs.compare import compare
from lemis.verbs.fit import fit

TINY: dict[str, Any] = {"backbone": "unet3d", "preset": "tiny", "device": "cpu", "fold": 0}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three made-up hearts, whose structures are one. Read only."""
    folder = phantom.write_dataset(tmp_path_factory.mktemp("one") / "scans", subjects=3, labelled=2, shape=(36, 40, 18))
    for file in (folder / "labelsTr").glob("*.nii.gz"):
        stored = nibabel.load(file)
        whole = (np.asarray(stored.dataobj) > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(whole, stored.affine, stored.header), file)
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps({**facts, "labels": {"background": 0, "heart": 1}}), "utf-8")
    return folder


def test_one_class_alone_is_refused_before_preparing(scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(UsageError, match="class_weight=inverse with one structure") as caught:
        fit(scans, output=work, auxiliary="voxel_siamese", overrides=["auxiliary.class_weight=inverse"], **TINY)
    assert caught.value.next == "--auxiliary voxel_siamese auxiliary.background=true"
    row = {
        "method": "scratch", "backbone": "unet3d", "auxiliary": "voxel_siamese",
        "settings": {"auxiliary": {"class_weight": "none"}},
    }  # fmt: skip
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"preset": "tiny", "rows": [row], "labelled": [1], "folds": [0]}), encoding="utf-8")
    with pytest.raises(UsageError, match="class_weight=none with one structure"):
        compare(scans, output=work, plan=plan, device="cpu")
    assert not (work / "prepared").exists()


@pytest.mark.slow
def test_with_background_as_a_class_it_trains(scans: Path, tmp_path: Path) -> None:
    given = ["auxiliary.background=true", "auxiliary.class_weight=inverse", "finetune.steps=2"]
    assert fit(scans, output=tmp_path / "work", auxiliary="voxel_siamese", overrides=given, **TINY).is_file()
    (run,) = (tmp_path / "work" / "runs").iterdir()
    first = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert any(first[f"loss/voxel/{number}"] != 0 for number in (1, 2, 3)), "there are two classes to tell apart"
