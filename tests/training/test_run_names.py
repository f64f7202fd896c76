"""What runs are called where nobody names them."""

from pathlib import Path

import pytest

from lemis.training import run_names, run_settings


def test_runs_of_different_networks_have_different_names() -> None:
    names = [("pcl", "unet2d"), ("pcl", "fcn"), ("kaf", "kaf_unet"), ("kaf", "fcn"), ("scratch", "kaf_unet")]
    assert [run_names.start(*name) for name in names] == ["pcl", "pcl-fcn", "kaf", "kaf-fcn", "scratch-kaf_unet"]
    assert run_names.start("scratch", "my_lab.net") == "scratch-my_lab.net"
    assert run_names.start("scratch", "unet3d", "voxel_siamese") == "scratch-unet3d-voxel_siamese"
    assert run_names.start("pcl", "unet2d", None) == "pcl"


@pytest.mark.parametrize(
    ("fold", "seed", "name"),
    [(None, 0, "pcl"), (2, 0, "pcl-without-fold2"), (None, 1, "pcl-seed1"), (0, 3, "pcl-without-fold0-seed3")],
)
def test_a_pretraining_is_named_by_what_is_not_usual(fold: int | None, seed: int, name: str) -> None:
    settings = run_settings.pretraining("pcl", "unet2d", {}, ())
    assert run_names.of_pretraining(settings, fold=fold, seed=seed) == name


@pytest.mark.parametrize(
    ("start", "fold", "seed", "name"),
    [
        (None, 0, 0, "scratch-m2-fold0"),
        (None, None, 3, "scratch-seed3-m2-all"),
        ("pcl", 1, 0, "pcl-m2-fold1"),
        ("pcl", 1, 2, "pcl-m2-fold1-seed2"),
        ("pcl-seed2", None, 2, "pcl-seed2-m2-all"),
    ],
)
def test_a_seed_is_named_once(start: str | None, fold: int | None, seed: int, name: str) -> None:
    class Before:
        seed = 2 if start == "pcl-seed2" else 0

    settings = run_settings.finetuning("unet2d", {}, ())
    made = (None, None) if start is None else (Path("runs") / start, Before())
    assert run_names.of_finetuning(settings, *made, labelled=2, fold=fold, seed=seed) == name
