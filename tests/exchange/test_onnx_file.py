"""Networks as ONNX: the logits of PyTorch at several sizes and batches, from one file."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lemis.errors import LemisError, UsageError
from lemis.exchange import onnx_file
from lemis.promises import backbones
from work_files_made import model, model_of

NEEDED = ("onnx", "onnxscript", "onnxruntime")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in NEEDED), reason="pip install -e '.[onnx]' -c constraints.txt"
    ),
]

SIZES = {2: ((1, 32, 32), (3, 48, 80), (2, 16, 112)), 3: ((1, 16, 16, 16), (2, 8, 24, 16), (1, 24, 8, 40))}


@pytest.mark.parametrize(("name", "dims"), [("unet2d", 2), ("unet3d", 3)])
def test_logits_are_those_of_pytorch_at_three_sizes(
    name: str, dims: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    network = backbones.Subject(name, dims, tmp_path).build(2)
    network(backbones.image(network, channels=2))
    network.eval()
    facts = model_of(model("pretrain", backbone=name, channels=["T1", "T2"]))
    use = onnx_file.write(tmp_path, Path("work/runs/a"), facts, network)
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []  # such as of torchvision
    assert f"multiple of {max(network.strides)}" in use
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.shape[1] == 2
    assert all(isinstance(side, str) for side in (given.shape[0], *given.shape[2:]))
    for batch, *sides in SIZES[dims]:
        image = torch.randn(batch, 2, *sides)
        (found,) = session.run(["logits"], {"image": image.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(image).numpy(), atol=1e-4)


def test_other_logits_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = backbones.Subject("unet2d", 2, tmp_path).build(1).eval()
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    facts = model_of(model("pretrain", channels=["T1"]))
    with pytest.raises(LemisError, match="gives other logits than the run"):
        onnx_file.write(tmp_path, Path("work/runs/a"), facts, network)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_looks_for_keypoints_is_refused(tmp_path: Path) -> None:
    network = backbones.Subject("kaf_unet", 2, tmp_path).build(1).eval()
    facts = model_of(model("pretrain", backbone="kaf_unet"))
    with pytest.raises(UsageError, match="cannot be written as ONNX"):
        onnx_file.write(tmp_path, Path("work/runs/kaf"), facts, network)
