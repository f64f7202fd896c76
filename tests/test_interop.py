"""Every command of the page on other programs, and those of the README's table of what goes in and out, does what is
said of it, in a folder with what it speaks of."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lemis
import segs
from lemis.backbones import plainconv_unet, unet2d
from lemis.cli import app
from lemis.exchange import nnunet_files, nnunet_names
from lemis.formats import nnunet_plans, volume
from lemis.settings import resolve
from test_documents import ROOT, in_blocks

PAGE = ROOT / "docs" / "interop.md"
ROW = re.compile(r"^\| (?:in|out) \|.*`lemis ((?:export|import|predict) [^`]*)` \|$", re.MULTILINE)
ROWS = [shlex.split(found) for found in ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
COMMANDS = [*in_blocks(PAGE), *ROWS]
# What a test adds to a row of the README, whose networks are of the usual size.
SMALLER = {"theirs.pt": ["backbone.base_width=16"], "model_swinvit.pt": ["backbone.feature_size=24"]}
FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def folder(prepared_work: Path, phantom_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    here = tmp_path_factory.mktemp("interop")
    work = Path(shutil.copytree(prepared_work, here / "work"))
    before = lemis.pretrain(work, method="pcl", name="pcl", preset="tiny", overrides=FEW, device="cpu")
    lemis.finetune(work, pretrained=before, name="pcl-fixmatch-m4-all", preset="tiny", overrides=FEW, device="cpu")
    (here / "new").mkdir()
    shutil.copy(phantom_scans / "imagesTr" / "heart_004_0000.nii.gz", here / "new")
    theirs = unet2d.Backbone(unet2d.Settings(base_width=16), in_channels=1, num_classes=2)
    torch.save({"state_dict": {f"module.{name}": one for name, one in theirs.state_dict().items()}}, here / "theirs.pt")
    renamed = {
        name.replace("encoder.", "down_").replace("decoder.", "up_"): one for name, one in theirs.state_dict().items()
    }
    torch.save(renamed, here / "renamed.pt")
    swin = SwinUNETR(in_channels=1, out_channels=2, feature_size=24)
    torch.save(swin.state_dict(), here / "swinunetr.pt")
    before_it = {f"module.{name}": one for name, one in swin.swinViT.state_dict().items()}
    torch.save({"state_dict": before_it}, here / "model_swinvit.pt")
    settings = resolve(plainconv_unet.Settings, {"base_width": 2, "n_stages": 3})
    block = nnunet_plans.architecture("plainconv_unet", nnunet_files.as_planned("plainconv_unet", settings))
    plans = {"configurations": {"2d": {}, "3d_fullres": {"architecture": block}}}
    (here / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    of_nnunet = plainconv_unet.Backbone(settings, in_channels=1, num_classes=2).state_dict()
    arguments = {"plans": plans, "configuration": "3d_fullres"}
    checkpoint = {"network_weights": nnunet_names.as_theirs(of_nnunet), "init_args": arguments}
    torch.save(checkpoint, here / "checkpoint_final.pth")
    rules = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    (here / "names.yaml").write_text(rules, encoding="utf-8")
    _dicom(here)
    return here


def _dicom(here: Path) -> None:
    """A series, label maps of it of which one was corrected, and a series with a label."""
    if find_spec("highdicom") is None:
        return
    series = segs.write_series(here / "dicom" / "p1" / "MR", (40, 40, 5))
    run = here / "work" / "runs" / "pcl-fixmatch-m4-all"
    masks = lemis.predict(run, inputs=here / "dicom", output=here / "masks-mr", device="cpu")
    header = volume.read_header(series)
    corrected = np.zeros(header.canonical_shape, np.uint8)
    corrected[10:20, 10:20, 1:4] = 1
    volume.write_labels(corrected, header, masks / "p1.nii.gz")
    segs.write(corrected, segs.write_series(here / "dicom-with-labels" / "p1" / "MR", (40, 40, 5)),
               segs.segments("LV"), here / "dicom-with-labels" / "p1" / "label.dcm")  # fmt: skip
    table = PAGE.read_text(encoding="utf-8").partition("```csv\n")[2].partition("```")[0]
    (here / "codes.csv").write_text(table, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_runs(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "onnx" in words and find_spec("onnxruntime") is None:
        pytest.skip("pip install -e '.[onnx]' -c constraints.txt")
    if "dicom-seg" in words and find_spec("highdicom") is None:
        pytest.skip("pip install -e '.[dicom]' -c constraints.txt")
    monkeypatch.chdir(folder)
    # What is typed runs as it is; a fine-tuning only gets fewer steps than the reader's.
    quick = ["--preset", "tiny", *FEW] if words[0] in ("finetune", "pretrain") else []
    quick += [one for one in SMALLER.get(words[1], []) if one not in words]
    done = CliRunner().invoke(app, [*words, *quick])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    if "-o" in words:
        assert any((folder / words[words.index("-o") + 1]).iterdir())


@pytest.mark.slow
def test_the_code_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lemis.export(Path("work/runs/pcl-fixmatch-m4-all"), output=Path("out/torch"))
    (code,) = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    scope = {"images": torch.randn(2, 1, 32, 48)}
    path = list(sys.path)
    try:
        exec(code.partition("```")[0], scope)
    finally:
        sys.path[:] = path
        sys.modules.pop("network", None)
    assert scope["logits"].shape == (2, 4, 32, 48)


def test_the_page_shows_every_direction() -> None:
    assert {words[0] for words in COMMANDS} == {"predict", "export", "import", "pretrain", "finetune", "check"}
    assert {words[words.index("--to") + 1] for words in COMMANDS if "--to" in words} == {
        "torch",
        "onnx",
        "monai",
        "nnunet",
        "nnssl",
        "dicom-seg",
    }
