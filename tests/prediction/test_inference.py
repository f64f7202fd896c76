"""Prediction of one scan: known logits land where they belong, whatever the slab, the field and the resampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lemis.contracts import Backbone, KeypointBackbone
from lemis.errors import UsageError
from lemis.prediction import costs, inference, tiles
from lemis.prediction.inference import predict_scan
from lemis.prediction.padding import padded_logits
from lemis.preparation import preprocess
from lemis.preparation.crops import crop_field
from lemis.preparation.facts import Facts
from lemis.preparation.resampling import resample_in_plane
from lemis.preparation.settings import Settings
from lemis.preparation.slices import slices_first
from lemis.runs.run import Run
from work_files_made import PRETRAINED, model_of

CPU = torch.device("cpu")
CLASSES = 4


class Reader(Backbone):
    """The image's own value is its class: the logits say so, and count how they were asked."""

    channels, strides = (1,), (1, 16)
    decoder_channels, decoder_strides = (1,), (1,)

    def __init__(self, certainty: float = 20.0, shift: int = 0, dims: int = 2) -> None:
        super().__init__()
        self.dims = dims
        self.certainty, self.shift = certainty, shift
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        wanted = (x[:, 0].round().long() + self.shift) % CLASSES
        return self.certainty * torch.nn.functional.one_hot(wanted, CLASSES).movedim(-1, 1).float()

    def part_of(self, parameter_name: str) -> str:
        return "encoder"


class Finder(KeypointBackbone):
    """Its one keypoint is the brightest pixel; the logits say where the keypoints it was given are."""

    dims, channels, strides = 2, (1,), (1, 16)
    decoder_channels, decoder_strides = (1,), (1,)
    most_keypoints = 1

    def __init__(self, keypoint_channels: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.keypoint_channels = keypoint_channels
        self.given: list[Tensor | None] = []
        self.found: list[Tensor] = []

    def find(self, x: Tensor) -> Tensor:
        self.found.append(x)
        place = x[:, 0].flatten(1).argmax(1)
        return torch.stack([place // x.shape[3], place % x.shape[3]], -1)[:, None].float()

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        return [x], []

    def encode(self, x: Tensor, keypoints: Tensor | None = None) -> list[Tensor]:
        return [x]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[-1]

    def forward(self, x: Tensor, keypoints: Tensor | None = None) -> Tensor:
        self.given.append(keypoints)
        logits = torch.zeros(len(x), 2, *x.shape[2:])
        for image, places in zip(logits, [] if keypoints is None else keypoints, strict=keypoints is not None):
            for row, col in places[~places.isnan().any(1)].long():
                image[1, row, col] = 1
        return logits

    def part_of(self, parameter_name: str) -> str:
        return "encoder"


def described(
    shape: tuple[int, int, int], slice_axis: int, spacing: float | str = "native", field: float | None = None
) -> Facts:
    mm = [1.0, 1.0, 1.0]
    mm[slice_axis] = 6.0
    settings = Settings(spacing_mm=spacing, field_of_view_mm=field)  # type: ignore[arg-type]
    return preprocess.describe(
        id="a",
        subject="a",
        images=("a",),
        label=None,
        shape=shape,
        spacing_mm=mm,
        slice_axis=slice_axis,
        settings=settings,
    )


def blocks(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Classes in blocks of four voxels, none of them symmetric."""
    small = np.random.default_rng(seed).integers(0, CLASSES, [-(-n // 4) for n in shape])
    large = small.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    return large[: shape[0], : shape[1], : shape[2]]


def prepared(labels: np.ndarray, facts: Facts) -> np.ndarray:
    """What a network sees: the class values as an image, resampled and cut like one, not normalised."""
    slices = slices_first(labels[..., None].astype(np.float32), facts.slice_axis)
    slices = resample_in_plane(slices, facts.resampled_shape, order=1)
    return np.ascontiguousarray(crop_field(slices, facts.field), np.float16)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(24, 18, 9), (16, 31, 5)])
def test_native_spacing_comes_back_exactly(shape: tuple[int, int, int], slice_axis: int) -> None:
    labels, facts = blocks(shape), described(shape, slice_axis)
    found = predict_scan([Reader()], prepared(labels, facts), facts, CPU)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("field", [10.0, 64.0])  # smaller and larger than the slices of 30 x 26 pixels
def test_outside_the_field_of_view_there_is_background(field: float) -> None:
    shape = (26, 30, 4)
    labels, facts = blocks(shape), described(shape, 2, field=field)
    found = predict_scan([Reader()], prepared(labels, facts), facts, CPU)
    seen = np.zeros(shape, bool)
    half = round(field / 2)
    seen[max(0, 13 - half) : 13 + half, max(0, 15 - half) : 15 + half] = True
    np.testing.assert_array_equal(found, np.where(seen, labels, 0))


def test_a_field_of_another_shape_than_the_slice() -> None:
    shape = (12, 40, 3)  # wider than the field of 24 one way, narrower the other
    labels, facts = blocks(shape), described(shape, 2, field=24.0)
    found = predict_scan([Reader()], prepared(labels, facts), facts, CPU)
    expected = labels.copy()
    expected[:, :8] = expected[:, 32:] = 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("spacing", [0.5, 2.0])
def test_resampled_predictions_lie_where_the_structure_is(spacing: float) -> None:
    shape = (32, 40, 3)
    labels, facts = np.zeros(shape, int), described((32, 40, 3), 2, spacing=spacing)
    labels[4:12, 20:36, 1:] = 1  # edges on even pixels, so that both grids share them
    found = predict_scan([Reader()], prepared(labels, facts), facts, CPU)
    np.testing.assert_array_equal(found, labels)


def test_memory_bounds_the_slab_and_never_changes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (20, 24, 11)
    labels, facts = blocks(shape), described(shape, 2)
    image = prepared(labels, facts)
    sizes = []
    for slices in (1, 3, 100):
        monkeypatch.setattr(inference, "SLAB_BYTES", 4 * CLASSES * 20 * 24 * slices)
        reader = Reader()
        np.testing.assert_array_equal(predict_scan([reader], image, facts, CPU), labels)
        sizes.append([shape[0] for shape in reader.shapes])
    assert sizes == [[1] * 11, [1, 3, 3, 3, 1], [1, 10]]


def test_an_ensemble_averages_probabilities() -> None:
    shape = (16, 16, 2)
    labels, facts = np.ones(shape, int), described(shape, 2)
    # Two are fairly sure of class 2 (p = 0.54), one is certain of class 1: 2/3 of 0.54 against 1/3 of 1 plus the rest.
    # Logits instead (2 + 2 against 20) would follow the one that shouts.
    hesitant, certain = Reader(certainty=2.0, shift=1), Reader(certainty=20.0)
    image = prepared(labels, facts)
    p = np.exp(2) / (np.exp(2) + 3)
    assert 3 * p > 1 + 3 * (1 - p) / 3
    found = predict_scan([hesitant, hesitant, hesitant, certain], image, facts, CPU)
    assert set(np.unique(found)) == {2}
    assert set(np.unique(predict_scan([hesitant, certain], image, facts, CPU))) == {1}


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (5, 33)])
def test_logits_of_any_size_have_that_size_and_place(shape: tuple[int, int]) -> None:
    reader = Reader()
    image = torch.from_numpy(blocks((*shape, 1))[None, None, ..., 0]).float()
    logits = padded_logits(reader, image)
    assert logits.shape == (1, CLASSES, *shape)
    assert logits.dtype == torch.float32
    assert torch.equal(logits.argmax(1)[0], image[0, 0].long())
    (_, _, rows, cols) = reader.shapes[0]
    assert (rows % 16, cols % 16) == (0, 0)
    assert (rows - shape[0], cols - shape[1]) < (16, 16)


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (5, 33)])
def test_keypoints_lie_where_they_were_whatever_the_padding(shape: tuple[int, int]) -> None:
    finder, image = Finder(), torch.zeros(2, 1, *shape)
    image[0, 0, 3, 7] = image[1, 0, 4, 0] = 1
    found = padded_logits(finder, image)
    assert found[:, 1].nonzero().tolist() == [[0, 3, 7], [1, 4, 0]]
    assert finder.found[0].shape == image.shape  # looked for before the padding, which has edges of its own
    given = padded_logits(finder, image, torch.tensor([[[2.0, 5], [torch.nan] * 2], [[torch.nan] * 2, [0, 1]]]))
    assert given[:, 1].nonzero().tolist() == [[0, 2, 5], [1, 0, 1]]
    assert len(finder.found) == 1  # not looked for where they are given


def test_nothing_is_looked_for_where_nobody_looks_at_keypoints() -> None:
    finder = Finder(keypoint_channels=())
    padded_logits(finder, torch.zeros(1, 1, 16, 16))
    assert (finder.found, finder.given) == ([], [None])
    reader = Reader()
    image = torch.ones(1, 1, 17, 16)
    assert torch.equal(padded_logits(reader, image, torch.zeros(1, 1, 2)), padded_logits(reader, image))


def test_a_network_that_looks_at_keypoints_finds_them_in_every_slice_of_a_scan() -> None:
    shape = (21, 18, 3)
    labels, facts = np.zeros(shape, int), described(shape, 2)
    labels[4, 9, 0] = labels[20, 0, 1] = labels[11, 17, 2] = 1
    found = predict_scan([Finder()], prepared(labels, facts), facts, CPU)
    np.testing.assert_array_equal(found, labels)


# -------------------------------------------------------------------------------------------------------- volumes


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("patch_px", [(4, 16, 16), (32, 32, 32)])
def test_a_volume_by_tiles_comes_back_exactly(slice_axis: int, patch_px: tuple[int, int, int]) -> None:
    shape = (24, 18, 9)
    labels, facts = blocks(shape), described(shape, slice_axis)
    reader = Reader(dims=3)
    found = predict_scan([reader], prepared(labels, facts), facts, CPU, patch_px)
    np.testing.assert_array_equal(found, labels)
    assert {len(shape) for shape in reader.shapes} == {5}


@pytest.mark.parametrize("field", [10.0, 64.0])
def test_outside_the_field_of_a_volume_there_is_background(field: float) -> None:
    shape = (26, 30, 6)
    labels, facts = blocks(shape), described(shape, 2, field=field)
    by_slices = predict_scan([Reader()], prepared(labels, facts), facts, CPU)
    found = predict_scan([Reader(dims=3)], prepared(labels, facts), facts, CPU, (4, 16, 16))
    np.testing.assert_array_equal(found, by_slices)


@pytest.mark.parametrize("patch_px", [None, (4, 16, 16)])
@pytest.mark.parametrize("spacing", ["native", 0.7])
@pytest.mark.parametrize(("prepared_slices", "own"), [(9, 5), (5, 9), (6, 18), (18, 6), (1, 3), (7, 1), (12, 12)])
def test_slices_are_resampled_as_pixels_are(
    prepared_slices: int,
    own: int,
    spacing: float | str,
    patch_px: tuple[int, int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = dataclasses.replace(described((14, 18, own), 2, spacing=spacing), slices=prepared_slices)
    rng = np.random.default_rng(0)
    image = rng.integers(0, CLASSES, (prepared_slices, 1, *facts.prepared_shape)).astype(np.float16)
    reader = Reader(certainty=1.0, dims=2 if patch_px is None else 3)
    probabilities = reader(torch.from_numpy(image[:, 0])[None, None].float()).softmax(1)
    expected = torch.nn.functional.interpolate(probabilities, (own, *facts.slice_shape), mode="trilinear")[0]
    for slab_bytes in (1, inference.SLAB_BYTES):
        monkeypatch.setattr(inference, "SLAB_BYTES", slab_bytes)
        monkeypatch.setattr(tiles, "MAP_BYTES", slab_bytes)
        found = slices_first(predict_scan([reader], image, facts, CPU, patch_px), 2)
        chosen = expected.gather(0, torch.from_numpy(found.astype(np.int64))[None])[0]
        # Equal but where two classes are equally probable up to rounding.
        torch.testing.assert_close(chosen, expected.max(0).values, atol=1e-5, rtol=0)
    assert len(np.unique(found)) == CLASSES


def test_tiles_overlap_and_mirror_as_they_are_told() -> None:
    shape = (16, 16, 8)
    labels, facts = blocks(shape), described(shape, 2)
    image, reader = prepared(labels, facts), Reader(dims=3)
    options = tiles.Settings(overlap=0.0, at_once=2)
    found = predict_scan([reader], image, facts, CPU, (4, 8, 16), options, mirrored=(0, 1, 2))
    np.testing.assert_array_equal(found, labels)
    assert [shape[0] for shape in reader.shapes] == [2] * 2 * 8


# ------------------------------------------------------------------------------------------------ what it will cost


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_probe_sees_tiles_of_the_run_s_size(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "PROBE_SECONDS", 0.0)
    reader, facts = Reader(dims=3), described((40, 40, 20), 2)
    options = tiles.Settings(at_once=at_once)
    found = costs.probe([reader, reader], facts, 2, CPU, (4, 16, 16), options, mirrored=(0, 1, 2))
    assert set(reader.shapes) == {(at_once, 2, 16, 16, 16)}  # the reader divides by 16
    assert len(reader.shapes) == 2 * 8 * 2  # networks, mirror images, a warm-up and one that is timed
    assert (found.pixels, found.num_classes) == (4 * 16 * 16, CLASSES)
    assert 0 < found.seconds < 10
    assert 0.05 < found.before_gb <= found.peak_gb


@pytest.mark.parametrize(("at_once", "parts"), [(4, [1, 4]), (100, [1, 19])])
def test_a_probe_sees_as_many_slices_at_once_as_a_run(
    at_once: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(inference, "SLAB_BYTES", 4 * CLASSES * 33 * 47 * at_once)
    reader, facts = Reader(), described((33, 47, 20), 2)
    found = costs.probe([reader], facts, 1, CPU)
    assert reader.shapes == [(1, 1, 48, 48), *[(part, 1, 48, 48) for part in parts * 2]]  # a warm-up, and one timed
    assert (found.pixels, found.num_classes) == (33 * 47, CLASSES)


def test_time_and_memory_of_a_scan_follow_from_a_tile() -> None:
    facts = described((512, 512, 600), 2)
    one = costs.Probe(seconds=0.5, pixels=64 * 128 * 128, num_classes=9, before_gb=0.2, peak_gb=0.5)
    voxels, ring = 600 * 512 * 512, 4 * 10 * 64 * 512 * 512
    tiled = costs.cost(facts, one, 1, CPU, (64, 128, 128), tiles.Settings())
    assert (tiled.parts, tiled.seconds) == (18 * 7 * 7, 0.5 * 18 * 7 * 7)
    assert tiled.peak_gb == pytest.approx(max(0.2 + 24 * voxels / 1e9, 0.5 + (5 * voxels + ring) / 1e9))
    on_gpu = costs.cost(facts, one, 1, torch.device("cuda"), (64, 128, 128), tiles.Settings())
    assert on_gpu.peak_gb == pytest.approx(0.5 + ring / 1e9)
    slice_ = costs.Probe(seconds=0.01, pixels=256 * 256, num_classes=9, before_gb=0.2, peak_gb=0.5)
    assert costs.cost(facts, slice_, 1, CPU)[:2] == (600, pytest.approx(600 * 0.04))


def test_a_pretraining_run_cannot_predict(tmp_path: Path) -> None:
    run = Run(tmp_path / "sal", {})
    run.finish({"w": torch.zeros(1)}, model_of(PRETRAINED))
    with pytest.raises(UsageError, match="is a pretrain run: it has no classes yet") as caught:
        inference.load_network(run.path, CPU)
    assert caught.value.next.endswith(f"--pretrained {run.path}")
