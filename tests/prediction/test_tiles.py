"""Prediction by tiles: MONAI's result, whatever the size, with a tile's depth of memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from how_many import examples
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.prediction import tiles
from lemis.prediction.tiles import Settings
from lemis.settings import resolve

CPU = torch.device("cpu")
CLASSES = 3


class Blurred(Backbone):
    """A convolution: what it says of a voxel depends on where the tile ends, and no axis is like another."""

    dims, channels, strides = 3, (CLASSES,), (1,)
    decoder_channels, decoder_strides = (CLASSES,), (1,)

    def __init__(self, seed: int = 0, in_channels: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Conv3d(in_channels, CLASSES, 3, padding=1)
            nn.init.normal_(self.head.weight)
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        logits: Tensor = self.head(x)
        return logits

    def part_of(self, parameter_name: str) -> str:
        return "head"


def scan(*size: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    slices, rows, cols = size
    return np.random.default_rng(seed).standard_normal((slices, channels, rows, cols)).astype(np.float16)


def blended(
    networks: Sequence[Backbone],
    image: np.ndarray,
    patch_px: tuple[int, ...],
    options: Settings | None = None,
    mirrored: Sequence[int] = (),
) -> Tensor:
    slabs = tiles.probabilities(networks, image, patch_px, options or Settings(), CPU, mirrored=mirrored)
    return torch.cat([slab.clone() for slab in slabs], 1)


def whole(network: Backbone, image: np.ndarray) -> Tensor:
    return logits(network, image).softmax(0)


def logits(network: Backbone, image: np.ndarray) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(torch.from_numpy(image).float().movedim(1, 0)[None])
        return found[0]


def monai(network: Backbone, image: np.ndarray, patch_px: tuple[int, ...], overlap: float, mode: str) -> Tensor:
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        found = sliding_window_inference(
            torch.from_numpy(image).float().movedim(1, 0)[None],
            patch_px,
            1,
            lambda x: network(x).softmax(1),
            overlap=overlap,
            mode=mode,
        )
    assert isinstance(found, Tensor)
    return found[0]


@examples(40)
@given(
    size=st.tuples(*[st.integers(1, 19)] * 3),
    patch_px=st.tuples(*[st.integers(1, 8)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    blend=st.sampled_from(["gaussian", "constant"]),
    at_once=st.integers(1, 3),
)
def test_the_result_is_monai_s(
    size: tuple[int, int, int], patch_px: tuple[int, int, int], overlap: float, blend: str, at_once: int
) -> None:
    network, image = Blurred(), scan(*size)
    found = blended([network], image, patch_px, Settings(overlap=overlap, blend=blend, at_once=at_once))  # type: ignore[arg-type]
    torch.testing.assert_close(found, monai(network, image, patch_px, overlap, blend), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(size), atol=1e-5, rtol=0)  # a mean of probabilities is one


@pytest.mark.parametrize("size", [(16, 24, 20), (17, 33, 21)])
def test_the_result_is_monai_s_with_tiles_of_usual_sides(size: tuple[int, int, int]) -> None:
    network, image, patch_px = Blurred(in_channels=2), scan(*size, channels=2), (8, 16, 16)
    found = blended([network], image, patch_px)
    torch.testing.assert_close(found, monai(network, image, patch_px, 0.5, "gaussian"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch_px", [(6, 7, 5), (8, 16, 6)])
def test_one_tile_is_the_network_itself(patch_px: tuple[int, int, int]) -> None:
    network, image = Blurred(), scan(6, 7, 5)
    lead = [(tile - side) // 2 for tile, side in zip(patch_px, (6, 7, 5), strict=True)]
    padded = np.zeros((patch_px[0], 1, *patch_px[1:]), np.float16)
    padded[lead[0] : lead[0] + 6, :, lead[1] : lead[1] + 7, lead[2] : lead[2] + 5] = image
    expected = whole(network, padded)[:, lead[0] : lead[0] + 6, lead[1] : lead[1] + 7, lead[2] : lead[2] + 5]
    torch.testing.assert_close(blended([network], image, patch_px), expected, atol=1e-6, rtol=0)
    assert network.shapes == [(1, 1, *padded.shape[:1], *padded.shape[2:])] * 2


def test_an_ensemble_is_averaged_as_probabilities_and_mirror_images_of_one_network_as_logits() -> None:
    image, patch_px = scan(7, 8, 9), (7, 8, 9)
    networks = [Blurred(seed) for seed in range(3)]
    mean = torch.stack([whole(network, image) for network in networks]).mean(0)
    torch.testing.assert_close(blended(networks, image, patch_px), mean, atol=1e-6, rtol=0)

    every = [list(axes) for number in range(4) for axes in itertools.combinations((1, 2, 3), number)]
    mirrored = []
    for axes in every:
        turned = np.flip(image, [0 if axis == 1 else axis for axis in axes]).copy()
        mirrored.append(logits(networks[0], turned).flip(axes) if axes else logits(networks[0], turned))
    found = blended(networks[:1], image, patch_px, mirrored=(0, 1, 2))
    torch.testing.assert_close(found, torch.stack(mirrored).mean(0).softmax(0), atol=1e-6, rtol=0)
    assert (found - whole(networks[0], image)).abs().max() > 0.1


def test_only_a_tile_s_depth_of_slices_is_kept() -> None:
    image, patch_px = scan(40, 6, 7), (8, 4, 4)
    places, total = set(), 0
    for slab in tiles.probabilities([Blurred()], image, patch_px, Settings(), CPU):
        places.add(slab.untyped_storage().data_ptr())
        assert slab.untyped_storage().nbytes() == tiles.ring_bytes((40, 6, 7), patch_px, CLASSES) == 4 * 4 * 8 * 6 * 7
        total += slab.shape[1]
    assert (len(places), total) == (1, 40)


def test_slices_come_as_soon_as_no_tile_reaches_them() -> None:
    network = Blurred()
    slabs = tiles.probabilities([network], scan(20, 4, 4), (8, 4, 4), Settings(), CPU)
    seen = [(slab.shape[1], len(network.shapes)) for slab in slabs]
    assert tiles.starts(20, 8, 0.5) == [0, 4, 8, 12]
    assert seen == [(4, 1), (4, 2), (4, 3), (4, 4), (4, 4)]  # the last row's slices go round the ring's end


def test_tiles_in_one_forward_pass() -> None:
    network = Blurred()
    blended([network], scan(4, 8, 8), (4, 4, 4), Settings(at_once=4))
    assert [shape[0] for shape in network.shapes] == [4, 4, 1]
    assert tiles.count((4, 8, 8), (4, 4, 4), 0.5) == 9


def test_a_memory_mapped_scan_is_read_by_tiles(tmp_path: Path) -> None:
    image = scan(9, 10, 11)
    np.save(tmp_path / "scan.npy", image)
    mapped = np.load(tmp_path / "scan.npy", mmap_mode="r")
    network = Blurred()
    assert torch.equal(blended([network], mapped, (4, 4, 4)), blended([network], image, (4, 4, 4)))


def test_classes_are_the_most_probable_ones() -> None:
    network, image = Blurred(), scan(9, 10, 11)
    found = tiles.classes([network], image, (4, 4, 4), Settings(), CPU)
    assert (found.dtype, found.shape) == (np.uint8, (9, 10, 11))
    np.testing.assert_array_equal(found, blended([network], image, (4, 4, 4)).argmax(0))
    assert len(np.unique(found)) == CLASSES


def test_the_first_of_equally_probable_classes_wins() -> None:
    maps = torch.tensor([[0.2, 0.5, 0.1, 0.0], [0.4, 0.5, 0.45, 0.0], [0.4, 0.0, 0.45, 1.0]])
    before = maps.clone()
    assert tiles.most_probable(maps).tolist() == [1, 0, 1, 2]
    assert torch.equal(maps, before)
    assert tiles.most_probable(maps[:1]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("given", "allowed"), [({"overlap": 1.0}, "less than 1"), ({"blend": "mean"}, "'gaussian'")])
def test_settings_out_of_range(given: dict[str, object], allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Settings, given)
    assert allowed in caught.value.allowed
