"""Rotation (Gidaris et al., ICLR 2018): four turns of every slice in one batch, and their cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods.rotation import Method, Settings, Views
from lemis.sampling import warping
from lemis.sampling.draw import Rows

RNG = (0, 0, "cpu")


def slices(count: int, side: int = 40) -> Batch:
    numbers = torch.arange(count)
    return Batch(
        image=torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1)), index=numbers,
        scan=numbers, subject=numbers, position=(numbers + 1) / count, spacing_mm=torch.ones(count, 2),
    )  # fmt: skip


def test_the_views_are_quarter_turns_of_one_crop() -> None:
    batch = slices(3)
    turned = Views(Settings(size_px=32))(batch, Rows(*RNG))
    assert list(turned) == ["0", "1", "2", "3"]
    for turns in range(4):
        assert torch.equal(turned[str(turns)].image, torch.rot90(turned["0"].image, turns, (-2, -1)))
        geometry = turned[str(turns)].geometry
        seen = warping.apply(geometry, batch.image).image
        torch.testing.assert_close(seen, turned[str(turns)].image, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(geometry.to_source[..., :2].det().abs(), torch.ones(3)), "no scale"


def test_the_crop_is_a_piece_of_the_slice_as_it_is() -> None:
    batch = slices(3)
    view = Views(Settings(size_px=32))(batch, Rows(*RNG))["0"]
    for image, source, to_source in zip(view.image, batch.image, view.geometry.to_source, strict=True):
        top, left = (round(float(v)) for v in to_source[:, 2])
        torch.testing.assert_close(image, source[:, top : top + 32, left : left + 32], rtol=1e-4, atol=1e-4)


def test_every_slice_in_four_turns_with_the_turn_as_class(make_unet: Any, says: Any) -> None:
    method, logits = Method(make_unet(), Settings(size_px=32)), torch.randn(12, 4)
    method.classify = says(logits)
    loss = method(slices(3), Rows(*RNG)).losses["rotation"].item()
    assert method.classify.asked[0].shape[0] == 12
    terms = []
    for turn in range(4):
        for row in range(3):
            values = logits[turn * 3 + row].double()
            terms.append(math.log(sum(math.exp(v) for v in values)) - float(values[turn]))
    assert loss == pytest.approx(sum(terms) / 12, rel=1e-5)


def test_limits(make_unet: Any, says: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32))
    right = 100 * torch.eye(4).repeat_interleave(3, 0)
    for logits, expected in ((torch.zeros(12, 4), math.log(4)), (right, 0.0), (-right, 100 + math.log(3))):
        method.classify = says(logits)
        outcome = method(slices(3), Rows(*RNG))
        assert outcome.losses["rotation"].item() == pytest.approx(expected, rel=1e-6, abs=1e-5)
        assert outcome.uninformed == {"rotation": math.log(4)}


def test_the_right_images_meet_the_right_classes(make_unet: Any, told: Any) -> None:
    # Slices bright in their top left corner; the encoder says which corner is bright.
    batch = slices(3)._replace(image=torch.zeros(3, 1, 32, 32))
    batch.image[:, :, :8, :8] = 1.0

    def corners(x: torch.Tensor, stride: int) -> torch.Tensor:
        a, b, c, d = x[..., :8, :8], x[..., 24:, :8], x[..., 24:, 24:], x[..., :8, 24:]  # counter-clockwise
        return 100 * torch.cat([corner.mean((-2, -1), keepdim=True) for corner in (a, b, c, d)], 1)

    method = Method(told(corners, 4), Settings(size_px=32))
    with torch.no_grad():
        for layer in (method.classify.layers[0], method.classify.layers[2]):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
    assert method(batch, Rows(*RNG)).losses["rotation"].item() == pytest.approx(0, abs=1e-5)


def test_the_head_and_the_defaults(make_unet: Any) -> None:
    method = Method(make_unet(4), Settings())
    assert [layer.weight.shape for layer in method.classify.layers if isinstance(layer, nn.Linear)] == [
        (64, 64),
        (4, 64),
    ]
    assert (Settings().batch_size, Settings().size_px) == (16, 352)
    assert (method.sampling.kind, method.sampling.batch_size) == ("slices", 16)


def test_in_3d_patches_turn_in_the_plane_of_the_slices(make_unet3d: Any, make_volumes: Any, says: Any) -> None:
    batch, size_px = make_volumes(3), (8, 16, 16)
    turned = Views(Settings(size_px=size_px))(batch, Rows(*RNG))
    for turns in range(4):
        view = turned[str(turns)]
        assert view.image.shape == (3, 1, *size_px)
        for number in range(8):
            whole = turned["0"].image[:, :, number]
            assert torch.equal(view.image[:, :, number], torch.rot90(whole, turns, (-2, -1)))
        torch.testing.assert_close(warping.apply(view.geometry, batch.image).image, view.image, rtol=1e-3, atol=1e-3)
    method, logits = Method(make_unet3d(), Settings(size_px=size_px)), torch.randn(12, 4)
    method.classify = says(logits)
    loss = method(batch, Rows(*RNG)).losses["rotation"].item()
    log_p = logits.double().log_softmax(1)
    assert loss == pytest.approx(-sum(float(log_p[i, i // 3]) for i in range(12)) / 12, rel=1e-5)


def test_a_patch_that_a_turn_would_change_in_shape_is_refused(make_unet3d: Any) -> None:
    with pytest.raises(UsageError, match="quarter turn") as error:
        Method(make_unet3d(), Settings(size_px=(8, 16, 12)))
    assert error.value.next == "method.size_px=[8,12,12]"
    assert Method(make_unet3d(), Settings(size_px=16)).sampling.patch_px == (16, 16, 16)
