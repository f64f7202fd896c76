"""Every network as a file that needs PyTorch alone: the same maps and logits, where Lemis cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lemis import plugins
from lemis.contracts import Backbone, KeypointBackbone
from lemis.errors import UsageError
from lemis.exchange import standalone, torch_files
from lemis.promises import backbones
from lemis.settings import plain
from work_files_made import model, model_of

CASES = [
    (name, dims)
    for name in plugins.names("backbones")
    for dims in plugins.describe("backbones", name)["dims"]
    if name not in ("fcn", "kaf_unet")
]

# What a reader has: Python, PyTorch, NumPy, which it asks for, and MONAI where the card says so.
READER = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"lemis", "safetensors", "pydantic", "scipy", *([] if MONAI else ["monai"])}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Without())
for case in CASES:
    sys.path.insert(0, case)
    import torch, network
    given = torch.load(f"{case}/given.pt", weights_only=True)
    loaded = network.load()
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(given["image"]), given["logits"]), case
        assert all(map(torch.equal, loaded.encode(given["image"]), given["maps"])), case
    assert {loaded.part_of(key) for key in loaded.state_dict()} >= {"encoder", "decoder 1", "head"}
    sys.path.remove(case)
    del sys.modules["network"]
try:
    import lemis
except ImportError:
    print("as they were, without lemis")
"""


def small(name: str, dims: int, tmp_path: Path) -> tuple[Backbone, object]:
    """A network whose running statistics are not those that it began with."""
    network = backbones.Subject(name, dims, tmp_path).build(2)
    network(backbones.image(network, channels=2))
    settings = backbones.resolve(
        plugins.load("backbones", name).Settings,
        backbones.known(plugins.load("backbones", name), {**backbones.SMALL, "dims": dims}),
    )
    facts = model("pretrain", backbone=name, backbone_settings=plain(settings), channels=["T1", "T2"],
                  label_names=["a", "b", "c"], label_values=[0, 1, 2])  # fmt: skip
    return network.eval(), model_of(facts)


def written(name: str, dims: int, tmp_path: Path) -> Path:
    folder = tmp_path / f"{name}{dims}"
    folder.mkdir()
    network, facts = small(name, dims, tmp_path)
    torch_files.write(folder, Path("work/runs/a"), facts, network, network.state_dict())  # type: ignore[arg-type]
    image = backbones.image(network, channels=2)
    with torch.inference_mode():
        given = {"image": image, "logits": network(image), "maps": network.encode(image)}
    torch.save(given, folder / "given.pt")
    return folder


def read_elsewhere(folders: list[Path], *, monai: bool) -> None:
    code = f"MONAI, CASES = {monai}, {[str(folder) for folder in folders]}\n{READER}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folders[0], env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "as they were, without lemis"


@pytest.mark.slow  # a process that imports PyTorch anew
def test_networks_need_pytorch_alone(tmp_path: Path) -> None:
    folders = [written(name, dims, tmp_path) for name, dims in CASES if not name.startswith("swin")]
    assert len(folders) >= 6
    read_elsewhere(folders, monai=False)


@pytest.mark.slow
def test_networks_of_monais_layers_need_monai_too(tmp_path: Path) -> None:
    assert find_spec("monai") is not None
    read_elsewhere([written(name, dims, tmp_path) for name, dims in CASES if name.startswith("swin")], monai=True)


def test_the_loader_is_short_and_says_what_it_needs(tmp_path: Path) -> None:
    text = (written("unet2d", 2, tmp_path) / "network.py").read_text(encoding="utf-8")
    assert "Needs PyTorch alone." in text
    assert "https://arxiv.org/abs/1505.04597" in text
    loader = text.partition("def load(")[2]
    assert len(loader.strip().splitlines()) <= 16
    assert "Settings(base_width=4), in_channels=2, num_classes=3" in loader


def test_a_module_of_the_users_is_written_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "lab_of_mine"
    lab.mkdir()
    (lab / "width.py").write_text("def doubled(width):\n    return [2 * one for one in [width]][0]\n")
    (lab / "net.py").write_text(
        "from lemis.backbones.unet2d import Settings\nfrom lemis.layers import unet\n"
        "from lab_of_mine.width import doubled as twice\n\n\n"
        "class Backbone(unet.UNet2d):\n"
        "    def __init__(self, settings, *, in_channels, num_classes):\n"
        "        channels = unet.channels_of(twice(settings.base_width))\n"
        "        encoder = unet.encoder(in_channels, channels)\n"
        "        decoder = [unet.Up(2 * width, width) for width in channels[-2::-1]]\n"
        "        super().__init__(channels, encoder, decoder, num_classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = standalone.collect("lab_of_mine.net", ("Settings", "Backbone"))
    assert found.packages == ("torch",)
    assert "lemis" not in found.code.replace("LemisError", "").replace("lemis fit", "")
    scope: dict[str, object] = {"__name__": __name__}
    exec(compile("from __future__ import annotations\n" + found.code, "collected", "exec"), scope)
    network = scope["Backbone"](scope["Settings"](base_width=2), in_channels=1, num_classes=2)  # type: ignore[operator]
    assert network.channels == (4, 8, 16, 32, 64)


def test_what_cannot_stand_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "lab_that_hides"
    lab.mkdir()
    (lab / "net.py").write_text(
        "from lemis.backbones.unet2d import Backbone as Theirs, Settings\n\n\n"
        "class Backbone(Theirs):\n    def forward(self, x):\n        from lab_that_hides import more\n\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    network = backbones.Subject("unet2d", 2, tmp_path).build(1).eval()
    facts = model_of(model("pretrain", backbone="lab_that_hides.net", backbone_settings={"base_width": 4}))
    with pytest.raises(UsageError, match="imports lab_that_hides when it runs"):
        torch_files.write(tmp_path, Path("work/runs/a"), facts, network, network.state_dict())


def test_locals_and_fields_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pieces_of_mine.py").write_text(
        "SIZE = 3\n\n\ndef width(size, SIZE=SIZE):\n    return SIZE + size\n\n\n"
        "def height():\n    try:\n        return [SIZE for SIZE in range(SIZE)]\n"
        "    except ValueError as error:\n        return error\n\n\n"
        "def depth():\n    return sum(SIZE * each for each in range(2))\n"
    )
    (tmp_path / "whole_of_mine.py").write_text(
        "import pieces_of_mine as pieces\nfrom pieces_of_mine import height as tall\n\n\n"
        "class Whole:\n    width = pieces.width(1)\n\n    def all(self):\n"
        "        pieces_width = self.width\n        return pieces_width, tall(), pieces.depth(), pieces.SIZE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(standalone, "_OURS", "pieces_of_mine")
    found = standalone.collect("whole_of_mine", ("Whole",))
    scope: dict[str, object] = {}
    exec(found.code, scope)
    assert scope["Whole"]().all() == (4, [0, 1, 2], 3, 3)  # type: ignore[operator]


def test_a_network_that_looks_for_keypoints_is_refused(tmp_path: Path) -> None:
    network = backbones.Subject("kaf_unet", 2, tmp_path).build(1).eval()
    assert isinstance(network, KeypointBackbone)
    facts = model_of(model("pretrain", backbone="kaf_unet"))
    with pytest.raises(UsageError, match="looks for keypoints in each image") as caught:
        torch_files.write(tmp_path, Path("work/runs/kaf"), facts, network, network.state_dict())
    assert "lemis.load('work/runs/kaf')" in caught.value.next
