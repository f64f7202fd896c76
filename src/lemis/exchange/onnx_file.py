"""A network as one ONNX file, of any batch and any size that its coarsest map divides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lemis import files
from lemis.contracts import Backbone, KeypointBackbone
from lemis.errors import LemisError, UsageError
from lemis.layers.unet3d import multiples
from lemis.work_files.run import Model

FILE = "model.onnx"
OPSET = 18
TOLERANCE = 1e-4  # of a logit, relative to the largest; ONNX Runtime adds up in another order than PyTorch


def write(folder: Path, run: Path, model: Model, network: Backbone) -> str:
    """Write ``model.onnx``, and see that ONNX Runtime gives the logits of PyTorch at three sizes.

    Args:
        folder: Where to.
        run: Where the weights are from, for messages.
        model: What the run trained.
        network: With its weights, in evaluation mode, on the CPU.

    Returns:
        How to use it, for the card.

    Raises:
        UsageError: PyTorch cannot write this network as ONNX for every size.
    """
    if isinstance(network, KeypointBackbone):
        raise _refused(run, model, "it looks for keypoints in each image, which no ONNX file does")
    divisors = network.divisors
    example = _images(2, model, [2 * divisor for divisor in divisors])
    with files.replacing(folder / FILE) as temporary:
        try:
            _export(network, example, divisors, temporary)
        except Exception as error:  # of torch.export, of many kinds
            said = str(error).strip().partition("\n")[0]
            raise _refused(run, model, f"{type(error).__name__}: {said}") from error
        _same_logits(temporary, model, network)
    kind = "rows, columns" if network.dims == 2 else "slices, rows, columns"
    return (
        f"Needs ONNX Runtime, or another reader of ONNX (opset {OPSET}). Input `image` (batch, channels, {kind}) "
        f"float32, of any batch, each side a multiple of {multiples(divisors)}; output `logits` of the same size."
        "\n\n```python\n"
        f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{FILE}")\n'
        '(logits,) = session.run(["logits"], {"image": image})\n```'
    )


def _export(network: nn.Module, example: torch.Tensor, divisors: Sequence[int], file: Path) -> None:
    from torch.export import Dim

    sides = [Dim(name, min=1) for name in ("slices", "rows", "columns")[-(example.dim() - 2) :]]
    sizes: dict[int, Any] = {0: Dim("batch", min=1)}
    sizes |= {axis: by * side for axis, (by, side) in enumerate(zip(divisors, sides, strict=True), start=2)}
    with _exporter_silent():
        torch.onnx.export(
            network, (example,), str(file), dynamo=True, dynamic_shapes=(sizes,), opset_version=OPSET,
            external_data=False, input_names=["image"], output_names=["logits"], verbose=False,
        )  # fmt: skip


@contextmanager
def _exporter_silent() -> Iterator[None]:
    """Without what the exporter says about itself: torchvision, which no network of ours uses, is not there."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _same_logits(file: Path, model: Model, network: Backbone) -> None:
    """Raise where ONNX Runtime gives other logits.

    Raises:
        LemisError: It does; nothing is kept.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    for batch, cells in ((1, (2, 2, 2)), (2, (2, 3, 2)), (3, (3, 2, 4))):
        image = _images(batch, model, [by * many for by, many in zip(network.divisors, cells, strict=False)])
        with torch.inference_mode():
            expected: NDArray[np.float32] = network(image).numpy()
        (found,) = session.run(["logits"], {"image": image.numpy()})
        off = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
        if not off <= TOLERANCE:
            raise LemisError(
                f"{FILE} gives other logits than the run, {off:.2g} of the largest, at {tuple(image.shape)}: it was "
                "not kept; please report this with the run's model.json"
            )


def _images(batch: int, model: Model, sides: list[int]) -> torch.Tensor:
    return torch.randn(batch, len(model.channels), *sides, generator=torch.Generator().manual_seed(batch))


def _refused(run: Path, model: Model, reason: str) -> UsageError:
    return UsageError(
        f"{run}: {model.backbone} cannot be written as ONNX: {reason}",
        allowed="networks of convolutions, such as unet2d or unet3d",
        next=f"lemis export {run} -o OUT --to torch",
    )
