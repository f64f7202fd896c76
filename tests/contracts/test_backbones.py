"""Promises of every segmentation network. A file dropped into ``backbones/`` is tested here without being named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lemis import plugins
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.parts.overlap import cross_entropy
from lemis.promises import backbones
from lemis.training.deep_supervision import DeepSupervision

BACKBONES = plugins.names("backbones")
SLOW = {("swin_unetr", 3)}  # its smallest volume that is not a cube has 200,000 voxels
CASES = [
    pytest.param((name, dims), id=f"{name}-{dims}d", marks=[pytest.mark.slow] if (name, dims) in SLOW else [])
    for name in BACKBONES
    for dims in plugins.describe("backbones", name)["dims"]
]


@pytest.mark.parametrize("promise", [*backbones.FILE, *backbones.FILE_OF_OURS], ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", BACKBONES)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", backbones.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES)
def test_a_network(case: tuple[str, int], promise: Callable[[backbones.Subject], None], tmp_path: Path) -> None:
    promise(backbones.Subject(*case, tmp_path))


def runs(network: Backbone, forward: Callable[[list[Tensor]], object]) -> dict[str, int]:
    """How often each layer of the decoder that has weights of its own is run."""
    count: dict[str, int] = {}
    watched = [
        module.register_forward_hook(lambda *_, name=name: count.update({name: count.get(name, 0) + 1}))
        for name, module in network.named_modules()
        if any(
            network.part_of(f"{name}.{own}").startswith("decoder") for own, _ in module.named_parameters(recurse=False)
        )
    ]
    forward(network.encode(backbones.image(network)))
    for one in watched:
        one.remove()
    return count


@pytest.mark.parametrize("case", CASES)
def test_all_maps_of_the_decoder_are_computed_once_and_none_too_early(case: tuple[str, int], tmp_path: Path) -> None:
    network = backbones.Subject(*case, tmp_path).build()
    once = runs(network, network.decode)
    assert set(once.values()) <= {1}
    assert runs(network, lambda maps: list(network.decoded(maps))) == once
    first = runs(network, lambda maps: network.decode(maps, 1))
    assert first == runs(network, lambda maps: next(network.decoded(maps)))
    assert len(first) < len(once) or len(network.decoder_channels) == 1


@pytest.mark.parametrize("case", CASES)
def test_deep_supervision_reaches_the_inner_blocks(case: tuple[str, int], tmp_path: Path) -> None:
    network = backbones.Subject(*case, tmp_path).build()
    blocks = len(network.decoder_channels)
    if blocks < 3:
        with pytest.raises(UsageError, match=f"a network of {blocks} decoder blocks"):
            DeepSupervision(network, backbones.CLASSES)
        return
    deep = DeepSupervision(network, backbones.CLASSES)
    x = backbones.image(network)
    label = torch.randint(backbones.CLASSES, (len(x), *x.shape[2:]), generator=torch.Generator().manual_seed(0))
    maps = list(network.decoded(network.encode(x)))
    terms = deep(maps, network.head(maps[-1]), label, lambda said, truth: {"loss": cross_entropy(said, truth)})
    assert list(terms) == ["loss", *(f"level {level}/loss" for level in range(1, blocks - 1))]
    for level in range(1, blocks - 1):
        network.zero_grad(set_to_none=True)
        terms[f"level {level}/loss"].backward(retain_graph=True)
        reached = {network.part_of(key) for key, p in network.named_parameters() if p.grad is not None}
        assert reached == {"encoder", *(f"decoder {number}" for number in range(1, blocks - level + 1))}
        assert all(bool(p.grad.abs().max() > 0) for p in deep.heads[level - 1].parameters() if p.grad is not None)
    deep.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in (*network.parameters(), *deep.parameters())), "several processes would stop"
