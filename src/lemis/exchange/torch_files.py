"""Weights for plain PyTorch: ``model.safetensors``, and ``network.py`` with the network and ``load``, which fills it.

Whoever has the folder needs PyTorch, and for networks of MONAI's layers MONAI; nothing of Lemis.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lemis import __version__, files, plugins
from lemis.contracts import Backbone, KeypointBackbone
from lemis.errors import LemisError, UsageError
from lemis.exchange import standalone
from lemis.runs.run import save_weights
from lemis.settings import resolve
from lemis.work_files.run import WEIGHTS, Model

CODE = "network.py"

_HEAD = '''"""{title}

{what} Needs {packages}. What an image must be like before it goes in is in expects.json. Written by Lemis {version},
whose code this is (Apache-2.0{author}).
"""

from __future__ import annotations

{imports}
'''
_LOAD = '''

def load(folder: str | Path = Path(__file__).parent) -> Backbone:
    """The network with the weights of ``model.safetensors``, in evaluation mode."""
    kinds = {{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}}
    content = (Path(folder) / "{weights}").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {{}}
    for name, one in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = one["data_offsets"]
            values = torch.frombuffer(bytearray(content[start + first : start + last]), dtype=kinds[one["dtype"]])
            weights[name] = values.reshape(one["shape"])
    network = Backbone({settings}, in_channels={channels}, num_classes={classes})
    network.load_state_dict(weights)
    return network.eval()
'''


def write(folder: Path, run: Path, model: Model, network: Backbone, weights: Mapping[str, Tensor]) -> str:
    """Write both files, and see that they give the same logits to the bit.

    Args:
        folder: Where to.
        run: Where the weights are from, for the head of the file.
        model: What the run trained.
        network: With its weights, in evaluation mode, on the CPU.
        weights: Its state.

    Returns:
        How to use them, for the card.

    Raises:
        UsageError: The network is not one that can be written as PyTorch alone.
    """
    what = f"The network of {run.name}, and ``load``, which gives it its weights."
    code, packages = source(run, model, network, what, "import json\nfrom pathlib import Path")
    tail = _LOAD.format(
        weights=WEIGHTS, settings=repr(settings_of(model)), channels=len(model.channels), classes=len(model.label_names)
    )  # fmt: skip
    save_weights(folder / WEIGHTS, weights)
    files.write(folder / CODE, code + tail)
    with imported(folder / CODE) as module:
        same_logits(module.load(folder), folder / CODE, model, network)
    needed = " and ".join(packages)
    return (
        f'Needs {needed} alone.\n\n```python\nimport sys\n\nsys.path.insert(0, "this/folder")\n'
        "from network import load\n\nnetwork = load()          # a torch.nn.Module with its weights\n"
        "logits = network(images)  # see below what images must be like\n"
        "maps = network.encode(images)  # of the encoder, finest first\n```"
    )


def settings_of(model: Model) -> Any:
    """Settings of its network."""
    return resolve(plugins.load("backbones", model.backbone).Settings, model.backbone_settings, prefix="backbone.")


def source(run: Path, model: Model, network: Backbone, what: str, imports: str = "") -> tuple[str, tuple[str, ...]]:
    """The classes ``Settings`` and ``Backbone`` of a network with all that they use, and the packages that they need.

    Args:
        run: Whose it is, for messages.
        model: What it trained.
        network: That of the run.
        what: A sentence on the file, for its head.
        imports: That the file has beside them.

    Raises:
        UsageError: The network is not one that can be written as PyTorch alone.
    """
    if isinstance(network, KeypointBackbone):
        raise UsageError(
            f"{run}: {model.backbone} looks for keypoints in each image, with other libraries than PyTorch",
            allowed="networks of an image alone, such as unet2d or unet3d",
            next=f"in Python, lemis.load({str(run)!r}) gives this one with its weights",
        )
    settings = settings_of(model)
    try:
        found = standalone.collect(plugins.load("backbones", model.backbone).__name__, ("Settings", "Backbone"))
        if any(dataclasses.is_dataclass(getattr(settings, one.name)) for one in dataclasses.fields(settings)):
            raise standalone.CannotCollect("it has settings within settings")
    except standalone.CannotCollect as error:
        raise UsageError(
            f"{run}: {model.backbone} cannot be written as one file: {error}",
            allowed="a network of definitions and imports at the top of its files",
            next=f"in Python, lemis.load({str(run)!r}) gives it with its weights",
        ) from None
    title = plugins.describe("backbones", model.backbone)["title"]
    names = {"torch": "PyTorch", "monai": "MONAI"}
    packages = tuple(names.get(name, name) for name in sorted(found.packages, key=lambda name: name != "torch"))
    head = _HEAD.format(
        title=title, what=what, packages=" and ".join(packages) + " alone", version=__version__, imports=imports,
        author=f"; {model.backbone} is its author's" if plugins.is_own(model.backbone) else "",
    )  # fmt: skip
    return head + found.code, packages


def same_logits(theirs: nn.Module, where: Path, model: Model, network: Backbone) -> None:
    """Raise where a network that was written gives other logits than the run's.

    Raises:
        LemisError: It does; a mistake of ours.
    """
    sides = [2 * divisor for divisor in network.divisors]
    image = torch.randn(2, len(model.channels), *sides, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.equal(theirs(image), network(image))
    if not same:
        raise LemisError(f"{where} gives other logits than the run: please report this with its model.json")


@contextmanager
def imported(file: Path) -> Iterator[ModuleType]:
    """A Python file as a module, until it is let go."""
    spec: Any = importlib.util.spec_from_file_location(f"_exported_{id(file)}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[module.__name__]
