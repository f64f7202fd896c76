"""A MONAI bundle segments a scan as ``lemis predict`` does, with MONAI and without Lemis, voxel by voxel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import lemis
from lemis import plugins
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.exchange import monai_bundle, requests, torch_files
from lemis.exchange.expected import expected
from lemis.prediction.loaded import LoadedRun
from lemis.promises import backbones
from lemis.work_files.run import FinetunedModel
from work_files_made import model, model_of

# MONAI warns of programs that it could use and of its own changes.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai.*", "ignore::FutureWarning:monai.*")

RUN = Path("work/runs/a")
TURNED = [[0.8, 0.6, 0.0], [0.0, 0.0, 1.0], [0.6, -0.8, 0.0]]  # a frame far from the axes of the body
BODY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
SMALL = {
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "window": 2},
    "plainconv_unet": {"dims": 3, "n_stages": 3, "base_width": 4, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]},
}


def frame(axes: list[list[float]] = BODY, *stacks: int) -> dict[str, Any]:
    each = [{"axis": axis, "scans": 3, "direction": axes[axis], "within_degrees": 2.0} for axis in stacks or (2,)]
    return {"axes": axes, "stacks": each}


# What differs from the defaults: of the network, of ``model.json``, of the preparation.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "slices": ("unet2d", {"mirrored_axes": [0, 1], "one_piece": {"foreground": True, "structures": ["a"]}},
               {"spacing_mm": 1.9, "field_of_view_mm": 50.0, "slice_axis": "own"}),
    "oblique": ("unet2d", {"channels": ["T1", "T2"], "label_values": [0, 7, 300], "frame": frame(TURNED, 0)},
                {"spacing_mm": "native", "field_of_view_mm": 31.0, "clip_percentiles": [2, 97], "slice_axis": 0}),
    "tiles": ("unet3d", {"patch_px": [8, 16, 16], "mirrored_axes": [2]},
              {"spacing_mm": 1.7, "slice_spacing_mm": 2.5, "clip_values": [-60, 900], "antialias": True,
               "image_order": 1, "slice_axis": 1}),
    "strides": ("plainconv_unet", {"patch_px": [6, 16, 12]}, {"spacing_mm": 1.9, "slice_axis": 2}),
    "whole": ("swin_unetr", {"one_piece": {"foreground": False, "structures": ["b"]}},
              {"whole_px": [5, 40, 33], "slice_axis": 2}),
}  # fmt: skip


def made(case: str, tmp_path: Path) -> tuple[FinetunedModel, Backbone]:
    """A run as it would be after a training, and its network with weights and running statistics of noise."""
    name, facts, prepared = CASES[case]
    own = SMALL.get(name, {"base_width": 4})
    channels = facts.get("channels", ["MR"])
    found = model_of(
        model("finetune", backbone=name, backbone_settings=own, label_names=["background", "a", "b"],
              **{"label_values": [0, 1, 2], "frame": frame(), "channels": channels, **facts}, prepared=prepared)
    )  # fmt: skip
    assert isinstance(found, FinetunedModel)
    torch.manual_seed(3)
    network = plugins.load("backbones", name).Backbone(
        torch_files.settings_of(found), in_channels=len(channels), num_classes=3
    )
    network(backbones.image(network, channels=len(channels)))
    return found, network.eval()


def scan(folder: Path, channels: int, axes: Any) -> Path:
    """Blobs on a grid along other axes than Lemis stores it, a few degrees off them."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    angle = np.radians(4)
    off = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    turned = np.array(axes).T @ off @ np.array([[0.0, -1, 0], [0, 0, 1], [1, 0, 0]])
    affine[:3] = np.column_stack([turned * [4.0, 1.3, 1.6], [5.0, -40.0, 12.0]])
    for channel in range(channels):
        coarse = torch.from_numpy(rng.normal(300, 200, (1, 1, 3, 7, 6)))
        image = torch.nn.functional.interpolate(coarse, (6, 37, 30), mode="trilinear")[0, 0].numpy()
        volume = nib.Nifti1Image((image + rng.normal(0, 10, image.shape)).astype(np.float32), affine)
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / f"new_{channel:04d}.nii.gz")
    return folder


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``scripts`` of a bundle, as Python finds it in the folder in which it runs."""

    def at(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))

    yield at
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]


def written(case: str, tmp_path: Path) -> tuple[Path, FinetunedModel, Backbone]:
    facts, network = made(case, tmp_path)
    folder = tmp_path / "bundle"
    monai_bundle.write(folder, RUN, facts, network, expected(facts, network), None)
    return folder, facts, network


def segmented(folder: Path, scans: Path, masks: Path) -> Path:
    """What ``python -m monai.bundle run`` does, step by step."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["dataset_dir"], parser["output_dir"] = str(scans), str(masks)
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    (item,) = parser.get_parsed_content("dataset")
    with torch.inference_mode():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network.eval())[0]
    parser.get_parsed_content("postprocessing")(item)
    (mask,) = masks.iterdir()
    return mask


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_segments_a_scan_as_lemis_does(case: str, tmp_path: Path, imported: Any) -> None:
    folder, facts, network = written(case, tmp_path)
    imported(folder)
    assert facts.frame is not None
    scans = scan(tmp_path / "scans", len(facts.channels), facts.frame.axes)
    there = nib.load(segmented(folder, scans, tmp_path / "masks"))
    here = LoadedRun(RUN, network, facts, torch.device("cpu")).predict(scans)
    expected_map = nib.load(here.save(tmp_path / "ours.nii.gz"))
    assert np.allclose(there.affine, expected_map.affine, atol=1e-5)
    ours, theirs = (np.asanyarray(one.dataobj) for one in (expected_map, there))
    assert set(np.unique(ours)) <= set(facts.label_values)
    assert len(np.unique(ours)) > 1
    assert (ours != 0).mean() > 0.05
    assert np.mean(ours == theirs) > 0.999


def test_preparation_is_monais_where_it_gives_the_same_voxels(tmp_path: Path) -> None:
    folder, _, _ = written("slices", tmp_path)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    names = [step["_target_"] for step in config["preprocessing"]["transforms"]]
    assert names == [
        "LoadImaged", "Orientationd", "scripts.scans.ResampleSharingEdgesd", "NormalizeIntensityd",
        "scripts.scans.CentralFieldd", "CastToTyped", "CastToTyped",
    ]  # fmt: skip
    # By these names MONAI's own programs find the parts of a bundle.
    from monai.bundle.properties import InferProperties

    needed = {name for name, one in InferProperties.items() if one["required"]}
    assert needed <= config.keys()
    assert {"preprocessing", "postprocessing", "handlers"} <= config.keys()
    text = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert "import lemis" not in text
    assert "from lemis" not in text


def test_the_metadata_hold_what_monai_asks_for(tmp_path: Path) -> None:
    folder, _, network = written("oblique", tmp_path)
    found = json.loads((folder / "configs" / "metadata.json").read_text())
    from monai.bundle.properties import MetaProperties

    for one in MetaProperties.values():
        value: Any = {"_meta_": found}
        for key in one["id"].split("::"):
            value = value[key]
    given = found["network_data_format"]["inputs"]["image"]
    assert (given["num_channels"], given["spatial_shape"]) == (2, ["32*n", "32*n"])
    answered = found["network_data_format"]["outputs"]["pred"]
    assert answered["channel_def"] == {"0": "background", "1": "a", "2": "b"}
    assert found["label_classes"] == "0: background, 7: a, 300: b"
    assert network(torch.zeros(1, 2, 32, 32)).shape == (1, 3, 32, 32)


def test_swin_unetr_is_monais_own(tmp_path: Path) -> None:
    folder, _, _ = written("whole", tmp_path)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    assert config["network_def"]["_target_"] == "monai.networks.nets.SwinUNETR"
    assert not (folder / "scripts" / "network.py").exists()
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert "swinViT.patch_embed.proj.weight" in weights
    assert "einops" in json.loads((folder / "configs" / "metadata.json").read_text())["required_packages_version"]


def test_slices_across_several_axes_are_refused(tmp_path: Path) -> None:
    facts, network = made("slices", tmp_path)
    two = facts.model_copy(update={"frame": model_of(model("finetune", frame=frame(BODY, 0, 2))).frame})
    for other, said in ((two, "2 axes"), (facts.model_copy(update={"frame": None}), "unknown axes")):
        with pytest.raises(UsageError, match=f"run across {said}") as caught:
            monai_bundle.write(tmp_path / "no", RUN, other, network, expected(other, network), None)
        assert "--to torch" in caught.value.next
    assert not (tmp_path / "no").exists()


def test_a_pre_training_is_refused() -> None:
    with pytest.raises(UsageError, match="no classes yet") as caught:
        requests.finetuned(RUN, model_of(model("pretrain")))
    assert caught.value.next == "lemis export work/runs/a -o OUT --to torch"


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("fire") and find_spec("ignite")), reason="pip install -e '.[dev]' -c constraints.txt"
)
def test_monais_own_commands_run_an_exported_bundle(work: Path, phantom_scans: Path, tmp_path: Path) -> None:
    run = lemis.finetune(work, name="a", preset="tiny", overrides=("steps=8", "precision=32"), device="cpu")
    folder = lemis.export(run, output=tmp_path / "bundle", to="monai", licence="CC-BY-4.0")
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in (4, 6):
        shutil.copy(phantom_scans / "imagesTr" / f"heart_00{number}_0000.nii.gz", scans)
    lemis.predict(run, inputs=scans, output=tmp_path / "ours", device="cpu")
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    config = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    for words in (
        ["verify_net_in_out", "network_def", *config],
        ["run", *config, "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "theirs")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "monai.bundle", *words], cwd=folder, capture_output=True, text=True, env=without
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("heart_004", "heart_006"):
        ours = np.asanyarray(nib.load(tmp_path / "ours" / f"{name}.nii.gz").dataobj)
        theirs = np.asanyarray(nib.load(tmp_path / "theirs" / f"{name}_0000_seg.nii.gz").dataobj)
        assert np.mean(ours == theirs) > 0.999
    assert "CC-BY-4.0" in (folder / "LICENSE").read_text()
    assert "python -m monai.bundle run" in (folder / "docs" / "README.md").read_text()
