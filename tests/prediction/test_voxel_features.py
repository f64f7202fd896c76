"""Features of voxels in two dimensions: cells and their classes by hand, the projection by NumPy, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemis.errors import UsageError
from lemis.prediction.inference import build_backbone
from lemis.prediction.loaded import load
from lemis.prediction.voxel_features import MOST_CELLS, _cells, _some, clouds, in_the_middle
from lemis.preparation.store import Store, open_store
from lemis.runs.run import Run
from lemis.settings import plain
from lemis.verbs.report import report
from work_files_made import model, model_of


def labelled(store: Store) -> list[str]:
    return sorted({facts.subject for facts in store.scans if facts.labelled})


def make_run(work: Path, name: str, *, verb: str = "finetune", **more: Any) -> None:
    store = open_store(work / "prepared")
    facts = {
        **model(verb), "method": "scratch", "backbone_settings": {"base_width": 4}, "channels": list(store.channels),
        "label_names": list(store.label_names), "label_values": list(store.label_values),
        "prepared": plain(store.settings), **more,
    }  # fmt: skip
    torch.manual_seed(0)
    Run(work / "runs" / name, {}).finish(build_backbone(model_of(facts)).state_dict(), model_of(facts), verb=verb)


@pytest.fixture
def tuned(work: Path) -> Path:
    """Prepared scans and two finished fine-tunings, which held out the same subject."""
    held_out = labelled(open_store(work / "prepared"))[-1:]
    make_run(work, "alone", test_subjects=held_out)
    make_run(work, "beside", test_subjects=held_out, auxiliary="voxel_siamese")
    return work


def test_the_class_of_a_cell_is_that_of_the_voxel_in_its_middle() -> None:
    label = torch.arange(7 * 5).view(1, 7, 5)
    found = in_the_middle(label, (2, 2), (4, 4))
    assert found.tolist() == [[[label[0, row, col].item() for col in (2, 4)] for row in (2, 6)]], "the last one ends"
    assert torch.equal(in_the_middle(label, (7, 5), (1, 1)), label)


def test_of_each_class_so_many_cells_evenly_spread() -> None:
    label = np.array([0] * 1000 + [1] * 3)
    vectors, kept = _some(np.arange(1003.0)[:, None], label)
    assert np.bincount(kept).tolist() == [MOST_CELLS, 3]
    assert (vectors[0, 0], vectors[MOST_CELLS - 1, 0], vectors[-1, 0]) == (0, 999, 1002)


def test_the_projection_is_that_of_the_singular_vectors(tuned: Path) -> None:
    found = clouds(tuned, 2, device="cpu")
    assert [(cloud.run, cloud.auxiliary) for cloud in found.clouds] == [("alone", None), ("beside", "voxel_siamese")]
    store = open_store(tuned / "prepared")
    scans = [store.index_of(name) for name in found.scans]
    assert {store.scans[scan].subject for scan in scans} == set(labelled(store)[-1:])
    run = load(tuned / "runs" / "alone", device="cpu")
    parts = [_cells(run, store, scan, 2) for scan in scans]
    vectors, label = _some(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
    centred = vectors - vectors.mean(0)
    _, strength, axes = np.linalg.svd(centred, full_matrices=False)
    cloud = found.clouds[0]
    np.testing.assert_allclose(np.abs(cloud.places), np.abs(centred @ axes[:2].T), atol=1e-8)
    assert cloud.explained == pytest.approx((strength[:2] ** 2).sum() / (strength**2).sum())
    np.testing.assert_array_equal(cloud.label, label)


def test_the_page_shows_each_run_and_is_the_same_twice(tuned: Path, tmp_path: Path) -> None:
    pages = [report(tuned, features=2, output=tmp_path / f"{k}.html", device="cpu").read_text("utf-8") for k in (1, 2)]
    assert pages[0] == pages[1]
    for said in ("Voxel features", "map 2, counted from the coarsest one", "with voxel_siamese", "of the variance"):
        assert said in pages[0]


@pytest.mark.parametrize(
    ("layer", "runs", "match"),
    [
        (9, (), r"--features 9 of alone\n.*1 to 5"),
        (2, ("before",), r"features of before\n.*learned structures"),
        (2, ("alone", "elsewhere"), r"alone, elsewhere all held out\n.*\n.*--run alone"),
    ],
)
def test_what_cannot_be_shown_is_refused(layer: int, runs: tuple[str, ...], match: str, tuned: Path) -> None:
    make_run(tuned, "before", verb="pretrain")
    make_run(tuned, "elsewhere", test_subjects=labelled(open_store(tuned / "prepared"))[:1])
    with pytest.raises(UsageError, match=match):
        clouds(tuned, layer, runs=runs or ("alone", "beside"), device="cpu")
