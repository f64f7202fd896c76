"""Networks whose strides differ along the axes: padded along each as much as it needs, and their maps in the scan."""

from __future__ import annotations

import torch

from lemis.backbones import plainconv_unet
from lemis.contracts import Geometry
from lemis.prediction.padding import padded_logits, padded_maps
from lemis.sampling.correspondence import carry_back


def network(dims: int, strides: object) -> plainconv_unet.Backbone:
    torch.manual_seed(0)
    settings = plainconv_unet.Settings(dims=dims, n_stages=3, base_width=2, strides=strides)  # type: ignore[arg-type]
    return plainconv_unet.Backbone(settings, in_channels=1, num_classes=2).eval()


def test_each_axis_is_padded_to_its_own_stride() -> None:
    built = network(3, (1, (1, 2, 2), (1, 2, 2)))
    x = torch.randn(1, 1, 5, 8, 7)
    with torch.inference_mode():
        padded = torch.nn.functional.pad(x, (0, 1))  # of eight columns; in the middle, the odd one behind
        torch.testing.assert_close(padded_logits(built, x), built(padded)[..., :7])
        maps = padded_maps(built, x)
        assert [tuple(one.shape[2:]) for one in maps] == [(5, 8, 7), (5, 4, 4), (5, 2, 2)]
        for found, expected in zip(maps, built.encode(padded), strict=True):
            torch.testing.assert_close(found, expected[..., : found.shape[-1]])


def test_maps_are_carried_back_along_each_axis() -> None:
    features = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    whole = Geometry(torch.eye(2, 3)[None], (6, 16))  # the view is the source
    carried, inside = carry_back(features, whole, (2, 4), (6, 16))
    torch.testing.assert_close(carried, features)
    assert inside.all()
    back, _ = carry_back(features, whole, (1, 4), (6, 16))
    assert back.shape == (1, 2, 6, 4)
