"""``lemis.load``: the network of a run, what it makes of a scan, and nothing that ``lemis predict`` does otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lemis
from lemis.backbones import unet2d, unet3d
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.prediction.loaded import LoadedRun
from lemis.prediction.padding import padded_maps
from lemis.preparation.store import open_store

FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a pre-training ``before`` and a fine-tuning ``after``."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("loaded") / "work"))
    before = lemis.pretrain(work, method="simclr", name="before", preset="tiny", overrides=FEW, device="cpu")
    lemis.finetune(work, pretrained=before, name="after", fold=0, preset="tiny", overrides=FEW, device="cpu")
    return work


@pytest.fixture
def after(trained: Path) -> LoadedRun:
    return lemis.load(trained / "runs" / "after", device="cpu")


def test_a_scan_is_prepared_as_those_of_training_were(after: LoadedRun, trained: Path, phantom_scans: Path) -> None:
    store = open_store(trained / "prepared")
    known = store.index_of("heart_002")
    prepared = after.prepare(phantom_scans / "imagesTr" / "heart_002_0000.nii.gz")
    np.testing.assert_array_equal(prepared.image.numpy(), np.asarray(store.image(known), np.float32))
    assert prepared.facts.prepared_spacing_mm == pytest.approx(store.scans[known].prepared_spacing_mm, rel=1e-6)
    assert after.preparation.spacing_mm == store.settings["spacing_mm"]


def test_features_are_those_of_the_encoder(after: LoadedRun, phantom_scans: Path) -> None:
    scan = str(phantom_scans / "imagesTr" / "heart_004_0000.nii.gz")
    maps, pooled = after.features(scan)
    image = after.prepare(scan).image
    assert [one.shape[1] for one in maps] == list(after.network.channels)
    for one, stride in zip(maps, after.network.strides, strict=True):
        assert one.shape == (len(image), one.shape[1], *(-(-side // stride) for side in image.shape[2:]))
    divisor = max(after.network.strides)
    margins = [-side % divisor for side in image.shape[2:]]
    with torch.no_grad():
        expected = after.network.encode(torch.nn.functional.pad(image, (0, margins[1], 0, margins[0])))
    for one, other, stride in zip(maps, expected, after.network.strides, strict=True):
        rows, cols = (-(-side // stride) for side in image.shape[2:])
        torch.testing.assert_close(one, other[:, :, :rows, :cols])
    torch.testing.assert_close(pooled, maps[-1].mean((0, 2, 3)))


def test_a_label_map_is_the_one_of_the_command(
    after: LoadedRun, trained: Path, phantom_scans: Path, tmp_path: Path
) -> None:
    scan = phantom_scans / "imagesTr" / "heart_005_0000.nii.gz"
    lemis.predict([trained / "runs" / "after"], inputs=scan, output=tmp_path / "masks", device="cpu")
    (by_command,) = (tmp_path / "masks").glob("*.nii.gz")
    found = after.predict(scan)
    written = volume.read(found.save(tmp_path / "mine.nii.gz"))
    expected = volume.read(by_command)
    np.testing.assert_array_equal(written.array, expected.array)
    np.testing.assert_array_equal(written.affine, expected.affine)
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.structures == dict(zip(after.model.label_names, after.model.label_values, strict=True))


def test_a_pre_training_has_features_and_no_classes(trained: Path, phantom_scans: Path) -> None:
    before = lemis.load(str(trained / "runs" / "before"), device="cpu")
    scan = phantom_scans / "imagesTr" / "heart_001_0000.nii.gz"
    assert before.features(scan).pooled.shape == (before.network.channels[-1],)
    assert not before.network.training
    with pytest.raises(UsageError, match="it has no classes yet") as caught:
        before.predict(scan)
    assert "--pretrained" in caught.value.next


def test_several_scans_are_not_one(after: LoadedRun, phantom_scans: Path) -> None:
    with pytest.raises(UsageError, match="holds 6 scans"):
        after.prepare(phantom_scans / "imagesTr")


def test_a_module_of_somebody_else_is_not_imported(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained / "runs" / "after", tmp_path / "run"))
    text = (run / "model.json").read_text(encoding="utf-8").replace('"backbone": "unet2d"', '"backbone": "evil.net"')
    (run / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="names the module") as caught:
        lemis.load(run)
    assert "Trust(every=True)" in caught.value.next


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_of_any_size_lie_over_their_pixels(dims: int) -> None:
    torch.manual_seed(0)
    network: unet2d.Backbone | unet3d.Backbone
    if dims == 2:
        network = unet2d.Backbone(unet2d.Settings(base_width=2), in_channels=1, num_classes=2)
    else:
        network = unet3d.Backbone(unet3d.Settings(base_width=2), in_channels=1, num_classes=2)
    sides = (21, 33, 18)[-dims:]
    maps = padded_maps(network.eval(), torch.randn(2, 1, *sides))
    for one, channels, stride in zip(maps, network.channels, network.strides, strict=True):
        assert one.shape == (2, channels, *(-(-side // stride) for side in sides))
