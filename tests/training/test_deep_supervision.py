"""Losses on inner maps of the decoder, against their formula."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_supervised import Counts, labelled_batch
from torch.nn import functional as F

from lemis.backbones import unet2d, unet3d
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial
from lemis.training import run_settings
from lemis.training.deep_supervision import DeepSupervision, label_at, weights
from lemis.training.supervised import Objective, Settings
from semi_made import total

STILL = Spatial(p_mirror=0, p_spatial=0, crop="centre")
CLASSES = 3
VIEW_PX: dict[int, Any] = {2: 32, 3: (16, 16, 32)}


def network(dims: int = 2) -> Backbone:
    torch.manual_seed(0)
    if dims == 2:
        return unet2d.Backbone(unet2d.Settings(base_width=4), in_channels=1, num_classes=CLASSES)
    return unet3d.Backbone(unet3d.Settings(base_width=4, norm="group"), in_channels=1, num_classes=CLASSES)


def objective(dims: int = 2, loss: Any = "cross_entropy", auxiliary: Counts | None = None) -> Objective:
    backbone = network(dims)
    settings = Settings(size_px=VIEW_PX[dims], loss=loss, spatial=STILL)
    return Objective(backbone, settings, auxiliary, deep=DeepSupervision(backbone, CLASSES))


def batch_of(dims: int) -> Any:
    return labelled_batch(*((32, 32) if dims == 2 else VIEW_PX[3]))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (3, (2 / 3, 1 / 3, 0)),
        (4, (0.571, 0.286, 0.143, 0)),
        (5, (0.533, 0.267, 0.133, 0.067, 0)),
    ],
)
def test_weights_of_so_many_levels_are_nnunets(levels: int, expected: tuple[float, ...]) -> None:
    assert weights(levels) == pytest.approx(expected, abs=5e-4)


@given(st.integers(3, 12))
def test_weights_are_halved_from_level_to_level_and_add_up_to_one(levels: int) -> None:
    *counted, last = weights(levels)
    assert last == 0
    assert sum(counted) == pytest.approx(1)
    assert all(finer == pytest.approx(2 * coarser) for finer, coarser in pairwise(counted))


def test_a_label_is_that_of_the_middle_of_a_cell() -> None:
    label = torch.arange(64).view(1, 8, 8)
    assert label_at(label, (4, 4))[0, 0].tolist() == [9, 11, 13, 15]  # row 1 of 0 and 1, columns 1, 3, 5, 7
    assert label_at(label, (2, 2))[0].tolist() == [[18, 22], [50, 54]]
    assert torch.equal(label_at(label, (8, 8)), label)
    assert label_at(torch.arange(9).view(1, 3, 3), (1, 1)).item() == 4


@given(st.lists(st.sampled_from([1, 2, 3, 4, 8, 16]), min_size=3, max_size=3), st.integers(0, 99))
def test_labels_of_volumes_are_every_so_many_voxels(strides: list[int], seed: int) -> None:
    cells = (2, 3, 1)
    shape = [cell * stride for cell, stride in zip(cells, strides, strict=True)]
    label = torch.randint(300, (2, *shape), generator=torch.Generator().manual_seed(seed))
    n, r, c = strides
    expected = label[:, n // 2 :: n, r // 2 :: r, c // 2 :: c]
    assert torch.equal(label_at(label, cells), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_losses_equal_the_formula(dims: int) -> None:
    tuned, batch = objective(dims), batch_of(dims)
    assert tuned.deep is not None
    losses = tuned(batch, Rows(0, 0, "cpu")).losses
    backbone, label = tuned.backbone, batch.label
    blocks = len(backbone.decoder_channels)
    maps = backbone.encode(batch.image)
    expected = {"cross_entropy": F.cross_entropy(backbone.head(backbone.decode(maps)), label)}
    for level in range(1, blocks - 1):
        said, step = tuned.deep.heads[level - 1](backbone.decode(maps, blocks - level)), 2**level
        truth = label[(slice(None), *[slice(step // 2, None, step)] * dims)]
        expected[f"level {level}/cross_entropy"] = F.cross_entropy(said, truth)
    shares = [2.0**-level for level in range(blocks - 1)]
    assert list(losses) == list(expected)
    for (name, loss), share in zip(expected.items(), shares, strict=True):
        torch.testing.assert_close(losses[name], loss * share / sum(shares))


@pytest.mark.parametrize("loss", ["dice_and_cross_entropy", "dice_squared"])
def test_every_level_has_the_terms_of_the_objective(loss: str) -> None:
    losses = objective(loss=loss)(batch_of(2), Rows(0, 0, "cpu")).losses
    plain = [name for name in losses if not name.startswith("level")]
    assert list(losses) == [*plain, *(f"level {level}/{name}" for level in (1, 2) for name in plain)]
    assert len(plain) == (2 if loss == "dice_and_cross_entropy" else 1)


def test_levels_that_know_nothing_cost_together_what_one_does() -> None:
    tuned = objective()
    assert tuned.deep is not None
    for head in (tuned.backbone.head, *tuned.deep.heads):
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    losses = tuned(batch_of(2), Rows(0, 0, "cpu")).losses
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_inner_blocks_learn_from_it_and_the_network_is_as_without() -> None:
    backbone, tuned, batch = network(), objective(), batch_of(2)
    for name, value in tuned.backbone.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name]), "the same weights to begin with"
    plain = Objective(backbone, tuned.settings)(batch, Rows(0, 0, "cpu"))
    deep = tuned(batch, Rows(0, 0, "cpu"))
    torch.testing.assert_close(deep.losses["cross_entropy"], plain.losses["cross_entropy"] * 4 / 7)
    total(plain).backward()
    total(deep).backward()
    for (name, one), other in zip(tuned.backbone.named_parameters(), backbone.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if one.dim() == 1:
            continue  # gradients of biases before a normalisation are 0 but for rounding
        # The last block hears of its own level alone.
        alone = tuned.backbone.part_of(name) in ("decoder 4", "head")
        assert torch.allclose(one.grad, other.grad * 4 / 7, rtol=1e-4, atol=1e-7) == alone, name


def test_an_extra_loss_is_given_the_logits_of_the_network() -> None:
    extra = Counts()
    tuned, batch = objective(auxiliary=extra), batch_of(2)
    losses = tuned(batch, Rows(0, 0, "cpu")).losses
    assert list(losses) == ["cross_entropy", "level 1/cross_entropy", "level 2/cross_entropy", "count"]
    torch.testing.assert_close(extra.given[2], tuned.backbone(batch.image))


def test_a_network_with_one_inner_map_is_refused() -> None:
    small = unet3d.Backbone(unet3d.Settings(base_width=2, levels=3), in_channels=1, num_classes=CLASSES)
    with pytest.raises(UsageError, match="a network of 2 decoder blocks") as caught:
        DeepSupervision(small, CLASSES)
    assert caught.value.next.startswith("objective.deep_supervision=false")


def test_it_is_for_labels_alone() -> None:
    with pytest.raises(UsageError, match=r"finetune\.objective\.deep_supervision=true with --semi bcp") as caught:
        run_settings.finetuning("unet2d", {}, ["objective.deep_supervision=true"], semi="bcp", prefix="finetune.")
    assert caught.value.next == "finetune.objective.deep_supervision=false, or leave out --semi bcp"
    run_settings.finetuning("unet2d", {}, ["objective.deep_supervision=false"], semi="bcp")
    run_settings.finetuning("unet2d", {}, ["objective.deep_supervision=true"], auxiliary="supervised_contrast")


@pytest.mark.parametrize("value", ["3", "often", "0.5"])
def test_it_is_on_or_off(value: str) -> None:
    with pytest.raises(UsageError, match=r"objective\.deep_supervision"):
        run_settings.finetuning("unet2d", {}, [f"objective.deep_supervision={value}"])
