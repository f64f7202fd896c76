"""Promises of every segmentation network."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lemis import contracts, plugins
from lemis.errors import UsageError
from lemis.promises import trying
from lemis.promises.trying import Broken, expect, known, names, of_module
from lemis.settings import resolve

FOLDER = "backbones"
# What a network has of these is made small. What is dropped is another in every pass; what begins at 0 learns late.
SMALL = {
    "base_width": 4, "pairs": 1, "keypoint_width": 16,
    "feature_size": 12, "embedding": 12, "window": 3, "drop_path": 0.0, "dropout": 0.0, "begin_as_identity": False,
}  # fmt: skip
CLASSES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """A network.

    Args:
        dims: Those that it is built for.
        folder: Where its weights are stored.
    """

    FOLDER = FOLDER

    dims: int
    folder: Path

    def build(self, in_channels: int = 1, seed: int = 0) -> contracts.Backbone:
        """The network, small."""
        torch.manual_seed(seed)
        settings = resolve(self.module.Settings, known(self.module, {**SMALL, "dims": self.dims}))
        network: contracts.Backbone = self.module.Backbone(settings, in_channels=in_channels, num_classes=CLASSES)
        return network


def image(network: contracts.Backbone, rows: int = 2, channels: int = 1, seed: int = 0) -> Tensor:
    """Sides that differ, and hold two cells of the coarsest map at least."""
    times = (2, 3) if network.dims == 2 else (1, 2, 3)
    sides = [many * divisor for many, divisor in zip(times, network.divisors, strict=True)]
    return torch.randn(rows, channels, *sides, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`Backbone` inherits from `lemis.contracts.Backbone`, defines `encode`, `decode` and `part_of`, has a `head`, and
    is made of (settings, *, in_channels, num_classes). The file says `DIMS = (2,)`, `(3,)` or `(2, 3)` in plain values.
    """
    module = of_module(FOLDER, name)
    expect(inspect.isclass(module.Backbone) and issubclass(module.Backbone, contracts.Backbone),
           "Backbone does not inherit from lemis.contracts.Backbone")  # fmt: skip
    lacking = getattr(module.Backbone, "__abstractmethods__", ())
    expect(not lacking, f"Backbone does not define {names(lacking)}")
    parameters = list(inspect.signature(module.Backbone).parameters)
    expect(parameters == ["settings", "in_channels", "num_classes"], f"Backbone takes ({', '.join(parameters)})")
    said = plugins.describe(FOLDER, name)
    expect(bool(said.get("dims")), "no DIMS")
    expect(isinstance(said["dims"], tuple) and set(said["dims"]) <= {2, 3}, f"DIMS = {said['dims']}")
    expect(said["dims"] == module.DIMS, "DIMS changes when the file runs")


def the_file_has_no_other_public_classes_and_cites_its_paper(name: str) -> None:
    """`Settings` and `Backbone` are all that the file shows; nothing inherits from `Backbone`: `@final`; the docstring
    of the file names the paper's address.
    """
    module = of_module(FOLDER, name)
    defined = {
        key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
    }
    public = {key for key in defined if not key.startswith("_")}
    expect(public == {"Settings", "Backbone"}, f"it shows {names(public)}")
    expect(getattr(module.Backbone, "__final__", False), "Backbone is not @final")
    expect("https://" in (module.__doc__ or ""), "no address of a paper")


# ------------------------------------------------------------------------------------------------- the network


def channels_and_strides_tell_the_truth(subject: Subject) -> None:
    """`channels` and `strides` are those of the maps of `encode`, finest first; `decoder_channels` and
    `decoder_strides` those after each block of `decode`, deepest first; `decode(maps, 0)` is the deepest map, and
    `decode(maps)` goes through all blocks; `decoded(maps)`, where it is written, gives the map after each in turn; with
    one input channel and with three. Where the axes of a map differ, `axis_strides` and `decoder_axis_strides` say so,
    and `strides` is that of the coarsest.
    """
    for channels in (1, 3):
        network = subject.build(channels)
        expect(network.dims == subject.dims, f"dims is {network.dims}, and was to be {subject.dims}")
        x = image(network, channels=channels)
        maps = network.encode(x)
        expect(len(maps) == len(network.channels) == len(network.strides),
               f"{len(maps)} maps, {len(network.channels)} channels, {len(network.strides)} strides")  # fmt: skip
        for features, width, strides in zip(maps, network.channels, network.axis_strides, strict=True):
            _expect_shape(features, (2, width, *_cells(x, strides)), f"the map of stride {max(strides)}")
        blocks = list(zip(network.decoder_channels, network.decoder_axis_strides, strict=True))
        for depth, (width, strides) in enumerate(blocks, start=1):
            shape = (2, width, *_cells(x, strides))
            _expect_shape(network.decode(maps, depth), shape, f"decode(maps, {depth})")
        same = torch.equal(network.decode(maps), network.decode(maps, len(blocks)))
        expect(same, f"decode(maps) is not decode(maps, {len(blocks)})")
        expect(torch.equal(network.decode(maps, 0), maps[-1]), "decode(maps, 0) is not the deepest map")
        each = list(network.decoded(maps))
        expect(len(each) == len(blocks), f"decoded(maps) gives {len(each)} maps of {len(blocks)} blocks")
        for depth, after in enumerate(each, start=1):
            same = torch.equal(after, network.decode(maps, depth))
            expect(same, f"map {depth} of decoded(maps) is not decode(maps, {depth})")
        for said, along in (
            (network.strides, network.axis_strides),
            (network.decoder_strides, network.decoder_axis_strides),
        ):
            expect(list(said) == [max(strides) for strides in along], "strides are not those of the coarsest axis")
        expect(list(network.strides) == sorted(network.strides), "strides are not finest first")
        deepest_first = sorted(network.decoder_strides, reverse=True)
        expect(list(network.decoder_strides) == deepest_first, "decoder_strides are not deepest first")


def _cells(x: Tensor, strides: Sequence[int]) -> list[int]:
    return [side // stride for side, stride in zip(x.shape[2:], strides, strict=True)]


def _expect_shape(found: Tensor, shape: tuple[int, ...], what: str) -> None:
    expect(found.shape == shape, f"{what} has the shape {tuple(found.shape)}, and {shape} is said")


def logits_have_the_inputs_size(subject: Subject) -> None:
    """`network(x)` is (B, classes, *space), as large as the image."""
    network = subject.build()
    x = image(network)
    _expect_shape(network(x), (2, CLASSES, *x.shape[2:]), "the result")


def odd_sizes_work_or_say_the_cure(subject: Subject) -> None:
    """An image of which a side is no multiple of the coarsest stride gives logits of its size, or raises a `UsageError`
    whose `given` names the size, and whose `next` a size of each side that works.
    """
    network = subject.build()
    x = image(network)[..., :-1]
    try:
        logits = network(x)
    except UsageError as error:
        message = error
    else:
        expect(logits.shape[2:] == x.shape[2:], f"{tuple(x.shape[2:])} becomes {tuple(logits.shape[2:])}")
        return
    cured = [int(word) for word in message.next.replace(".", " ").split() if word.isdigit()]
    expect(str(x.shape[-1]) in message.given, f"the size is not named: {message.given}")
    expect(len(cured) == network.dims, f"no sizes that would work: {message.next}")
    _expect_shape(network(torch.zeros(2, 1, *cured)), (2, CLASSES, *cured), "what is to work")


def part_of_covers_every_key(subject: Subject) -> None:
    """`part_of` gives `encoder`, `decoder 1` ... `decoder n` or `head` for every key of `state_dict()`, each at least
    once.
    """
    network = subject.build()
    allowed = {"encoder", "head", *(f"decoder {n + 1}" for n in range(len(network.decoder_channels)))}
    found = {network.part_of(key) for key in network.state_dict()}
    expect(found == allowed, f"only found or only asked: {names(found ^ allowed)}")


def parts_are_where_the_gradient_goes(subject: Subject) -> None:
    """After `decode(encode(x), depth)` exactly the encoder and the blocks up to that depth have gradients, all of their
    weights.
    """
    network = subject.build()
    for depth in range(len(network.decoder_channels) + 1):
        network.zero_grad(set_to_none=True)
        network.decode(network.encode(image(network)), depth).square().sum().backward()
        reached = {network.part_of(key) for key, p in network.named_parameters() if p.grad is not None}
        asked = {"encoder", *(f"decoder {n + 1}" for n in range(depth))}
        expect(reached == asked, f"through {depth} blocks, {names(reached ^ asked)} is reached, or is not")
        missed = [key for key, p in network.named_parameters() if network.part_of(key) in reached and p.grad is None]
        expect(not missed, f"through {depth} blocks, no gradient reaches {names(missed)}")


def every_parameter_learns(subject: Subject) -> None:
    """Each weight gets a gradient that is not zero from some draw of the weights. Make no layer that is not used."""
    # A ReLU may be off for a whole image, and a gate of attention shut: of several draws of the weights, one opens.
    idle: set[str] | None = None
    for seed in range(6):
        network = subject.build(seed=seed)
        network(image(network)).square().sum().backward()
        here = {key for key, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
        idle = here if idle is None else idle & here
        if not idle:
            return
    raise Broken(f"no gradient, whatever the weights: {names(idle or ())}")


def weights_survive_save_and_load(subject: Subject) -> None:
    """Another network with the stored weights predicts the same, bit for bit; running statistics are buffers."""
    network, other = subject.build().eval(), subject.build(seed=1).eval()
    x = image(network)
    network.train()(x)  # moves the running statistics away from their start
    network.eval()
    save_file(network.state_dict(), subject.folder / "model.safetensors")
    expect(not torch.equal(network(x), other(x)), "another seed draws the same weights")
    other.load_state_dict(load_file(subject.folder / "model.safetensors"))
    expect(torch.equal(network(x), other(x)), "other predictions after loading")


def predictions_do_not_depend_on_batch_mates(subject: Subject) -> None:
    """In evaluation, an image has the same logits alone and among others."""
    network = subject.build()
    network(image(network, 4))
    network.eval()
    x = image(network, 3)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(row[None]) for row in x])
    expect_close(together, alone, 1e-4, "alone and among others")


def it_works_with_channels_last_and_in_mixed_precision(subject: Subject) -> None:
    """With the channels last the logits are the same; under autocast to bfloat16 near them, with finite gradients."""
    network = subject.build()
    x = image(network)
    expected = network(x)
    layout: Any = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    other: Any = copy.deepcopy(subject.build())
    other = other.to(memory_format=layout)
    expect_close(other(x.to(memory_format=layout)), expected, 1e-3, "with the channels last")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = other(x.to(memory_format=layout))
    if network.dims == 2:  # in 3D, oneDNN's bfloat16 gradient of a kernel is garbage where a map is two voxels deep
        half.float().square().sum().backward()
        wild = [key for key, p in other.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        expect(not wild, f"gradients that are not finite: {names(wild)}")
    # Compared in evaluation: batch statistics of the few keypoints of such small images magnify rounding.
    network, other = network.eval(), other.eval()
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = other(x.to(memory_format=layout))
    apart = float((half.float() - expected).abs().mean() / expected.abs().mean())
    expect(apart < 0.1, f"in bfloat16 the logits are {apart:.0%} away")


def expect_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """The same up to rounding.

    Raises:
        Broken: They are not.
    """
    try:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        raise Broken(f"{what}: {' '.join(str(error).split())}") from None


def the_same_seed_draws_the_same_weights(subject: Subject) -> None:
    """The weights of a new network depend on `torch.manual_seed` alone."""
    pairs = zip(subject.build().state_dict().items(), subject.build().state_dict().values(), strict=True)
    differ = [key for (key, a), b in pairs if not torch.equal(a, b)]
    expect(not differ, f"others for the same seed: {names(differ)}")


FILE = (the_file_has_its_names,)
FILE_OF_OURS = (the_file_has_no_other_public_classes_and_cites_its_paper,)
STEP = (
    channels_and_strides_tell_the_truth,
    logits_have_the_inputs_size,
    odd_sizes_work_or_say_the_cure,
    part_of_covers_every_key,
    parts_are_where_the_gradient_goes,
    every_parameter_learns,
    weights_survive_save_and_load,
    predictions_do_not_depend_on_batch_mates,
    it_works_with_channels_last_and_in_mixed_precision,
    the_same_seed_draws_the_same_weights,
)
