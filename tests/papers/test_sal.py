"""SAL (Li et al., ISBI 2024): windowed alignment of neighbouring slices, done slowly, and what keeps it honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemis.contracts import Batch
from lemis.methods import pcl
from lemis.methods.sal import Method, Settings, Views
from lemis.sampling import warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial
from lemis.settings import load_preset, resolve

RNG = (0, 0, "cpu")
STILL = Spatial(p_mirror=0, p_spatial=0, crop="centre")
CHOSEN, OF = {0: [0, 7, 8, 6], 1: [1, 3]}, {0: 20, 1: 9}  # slices 0 and 7 of 20 are exactly t = 0.35 apart
SMALL: dict[str, Any] = {"size_px": 64, "embedding": 8}


def l_wla(x_i: Tensor, x_j: Tensor, window: int | None, valid_i: Tensor, valid_j: Tensor) -> list[float]:
    """|1 - max_b <x_i[a], x_j[b]>| of every cell a, windows one by one: (c, h, w) twice."""
    _, height, width = x_i.shape
    side = window or max(height, width)
    terms = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            here = np.s_[top : top + side, left : left + side]
            mine, theirs = x_i[:, *here][:, valid_i[here]], x_j[:, *here][:, valid_j[here]]
            if theirs.shape[1]:
                terms += [abs(1 - float((a @ theirs).max())) for a in mine.T]
    return terms


def slow(method: Method, batch: Batch, x: Tensor, valid: Tensor) -> float:
    """Mean over P, scan by scan, from the unit local vectors (2N, c, h, w), view after view."""
    n, given = len(batch.scan), method.settings
    count = [OF[int(s)] for s in batch.scan] * 2
    number = [int(k) % 100 for k in batch.index] * 2
    scan, view = [int(s) for s in batch.scan] * 2, [0] * n + [1] * n
    total, pairs = 0.0, 0
    for s in set(scan):
        terms: list[float] = []
        of_scan = 0
        for i in range(2 * n):
            for j in range(2 * n):
                if scan[i] != s or scan[j] != s:
                    continue
                apart = abs(number[i] - number[j])
                if apart:
                    wanted = apart * 100 < round(given.threshold * 100) * count[i]
                    wanted &= given.geometry == "independent" or view[i] == view[j]
                else:
                    wanted = given.geometry == "independent" and given.same_slice and view[i] != view[j]
                if wanted:
                    terms += l_wla(x[i], x[j], given.window, valid[i], valid[j])
                    of_scan += 1
        total, pairs = total + of_scan * float(np.mean(terms)) if terms else total, pairs + of_scan
    return total / pairs


def local_of(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    drawn = list(method.views(batch, Rows(*RNG)).values())
    maps = method.backbone.encode(torch.cat([view.image for view in drawn]))
    x, valid = method.local(maps[method.settings.level], drawn, batch)
    return x.detach(), valid


def alignment(method: Method, batch: Batch) -> float:
    return method(batch, Rows(*RNG)).losses["alignment"].item()


def plain_embedding(method: Method) -> Method:
    """E is the identity, so that the local vectors are what the encoder says."""
    with torch.no_grad():
        method.embed_local.weight.copy_(torch.eye(method.embed_local.weight.shape[0])[..., None, None])
        method.embed_local.bias.zero_()
    return method


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"window": None},
        {"window": 3},
        {"level": 4, "window": 2},
        {"threshold": 0.1},
        {"centring": "batch"},
        {"geometry": "independent"},
        {"geometry": "independent", "same_slice": True, "window": 3, "centring": "mean"},
    ],
    ids=str,
)
def test_the_alignment_is_the_papers(layer: dict[str, Any], make_unet: Any, make_batch: Any) -> None:
    method, batch = Method(make_unet(), Settings(**SMALL, **layer)), make_batch(CHOSEN, of=OF)
    x, valid = local_of(method, batch)
    torch.testing.assert_close(x.norm(dim=1), torch.ones_like(x[:, 0]), rtol=1e-4, atol=1e-4)
    assert alignment(method, batch) == pytest.approx(80 * slow(method, batch, x, valid), rel=1e-3)


def test_lambda_is_80_and_weighs_the_alignment_only(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    losses = [
        Method(make_unet(), Settings(**SMALL, **layer))(batch, Rows(*RNG)).losses
        for layer in ({}, {"alignment_weight": 2.0})
    ]
    torch.testing.assert_close(losses[0]["alignment"], 40 * losses[1]["alignment"])
    assert torch.equal(losses[0]["contrast"], losses[1]["contrast"])


def test_without_lambda_only_the_global_loss_is_left_and_it_is_pcls(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    method = Method(make_unet(), Settings(**SMALL, alignment_weight=0.0, spatial=STILL))
    theirs = pcl.Method(make_unet(), pcl.Settings(**SMALL, spatial=STILL))
    theirs.project.load_state_dict(method.project.state_dict())
    losses = method(batch, Rows(*RNG)).losses
    assert list(losses) == ["contrast"]
    torch.testing.assert_close(losses["contrast"], theirs(batch, Rows(*RNG)).losses["contrast"])


def test_what_a_batch_of_32_costs_when_nothing_is_known(make_unet: Any, make_batch: Any, says: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=4, window=2))
    method.project = says(torch.ones(64, 4))
    outcome = method(make_batch({0: list(range(16)), 1: list(range(16))}, of={0: 16, 1: 16}, side=32), Rows(*RNG))
    assert outcome.uninformed == {"contrast": pytest.approx(5.9187, abs=1e-4)}
    assert outcome.losses["contrast"].item() == pytest.approx(5.9187, abs=1e-4)


def test_slices_that_are_alike_cost_nothing_under_one_geometry(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    assert alignment(method, make_batch(CHOSEN, of=OF, alike=True)) < 80 * 1e-5
    assert alignment(method, make_batch(CHOSEN, of=OF)) > 80 * 1e-4


def test_larger_windows_match_at_least_as_well(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    losses = [alignment(Method(make_unet(), Settings(**SMALL, window=w)), batch) for w in (1, 2, 4, None)]
    assert losses == sorted(losses, reverse=True)
    assert 0 <= losses[-1] < losses[0] <= 2 * 80


@pytest.mark.parametrize(
    ("window_mm", "spacing_mm", "cells"),
    [
        (40, (1.25, 1.25), (4, 4)),  # ACDC in the paper
        (40, (2, 2), (3, 3)),  # 2.5 cells
        (16, (1, 2), (2, 1)),
        (1, (2, 2), (1, 1)),
    ],
)
def test_windows_in_millimetres(
    window_mm: float, spacing_mm: Any, cells: tuple[int, int], make_unet: Any, make_batch: Any
) -> None:
    method = Method(make_unet(), Settings(**SMALL, window_mm=window_mm))
    assert method.window(torch.tensor(spacing_mm, dtype=torch.float32)) == cells
    batch = make_batch(CHOSEN, of=OF)
    batch = batch._replace(spacing_mm=torch.tensor(spacing_mm, dtype=torch.float32).expand(len(batch.scan), 2))
    if cells[0] == cells[1]:
        in_cells = alignment(Method(make_unet(), Settings(**SMALL, window=cells[0])), batch)
        assert alignment(method, batch) == pytest.approx(in_cells, rel=1e-6)


def test_each_scan_has_windows_by_its_own_pixels(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [4, 5], 1: [2, 3]}, of=OF)
    spacing_mm = torch.where(batch.scan[:, None] == 0, 1.0, 2.0).expand(-1, 2)
    method = Method(make_unet(), Settings(**SMALL, window_mm=16, alignment_weight=1.0, spatial=STILL))
    found = alignment(method, batch._replace(spacing_mm=spacing_mm))
    x, valid = local_of(method, batch)
    terms = [
        np.mean(l_wla(x[i], x[j], side, valid[i], valid[j]))
        for side, (i, j) in ((2, (0, 1)), (2, (1, 0)), (1, (2, 3)), (1, (3, 2)))
    ]
    assert found == pytest.approx(float(np.mean(terms)), rel=1e-3)


@pytest.mark.parametrize("geometry", ["shared", "independent"])
def test_no_neighbour_in_the_batch(geometry: Any, make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, geometry=geometry))
    outcome = method(make_batch({0: [1], 1: [2]}, of=OF), Rows(*RNG))
    assert outcome.losses["alignment"].item() == 0
    torch.stack(list(outcome.losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert method.embed_local.weight.grad is not None


# ------------------------------------------------------------------------------------------------ the geometry


def test_slices_of_one_scan_share_the_geometry_of_a_view(make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    pair = Views(Settings(**SMALL, spatial=Spatial(p_spatial=1.0)))(batch, Rows(*RNG))
    for view in pair.values():
        to_source, elastic = view.geometry.to_source, view.geometry.elastic
        for i in range(len(batch.scan)):
            for j in range(i):
                alike = bool(batch.scan[i] == batch.scan[j])
                assert torch.equal(to_source[i], to_source[j]) == alike
                assert torch.equal(elastic.noise[i], elastic.noise[j]) == alike
        torch.testing.assert_close(view.image, warping.apply(view.geometry, batch.image).image)
    first, second = (pair[key].geometry.to_source for key in ("first", "second"))
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True)), "the two views differ"


def test_or_every_slice_and_view_has_its_own(make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    given = Settings(**SMALL, geometry="independent", spatial=Spatial(p_spatial=1.0))
    pair = Views(given)(batch, Rows(*RNG))
    drawn = torch.cat([view.geometry.to_source for view in pair.values()]).flatten(1)
    assert len(drawn.unique(dim=0)) == 2 * len(batch.scan)


def test_the_geometry_of_a_scan_does_not_depend_on_the_others_in_the_batch(make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    shuffled = Batch(*(None if v is None else v[[4, 0, 1, 5, 2, 3]] for v in batch))  # scans mixed
    drawn = Views(Settings(**SMALL))(shuffled, Rows(*RNG))["first"].geometry.to_source
    for s in (0, 1):
        assert len(drawn[shuffled.scan == s].flatten(1).unique(dim=0)) == 1


def brightness(x: Tensor, stride: int) -> Tensor:
    """A feature of what is seen alone: a fixed function of each pixel, averaged over the cell."""
    return F.avg_pool2d(torch.cat([x, (2 * x).sin(), (2 * x).cos(), torch.ones_like(x)], 1), stride)


def place(x: Tensor, stride: int) -> Tensor:
    """A feature of where in the view a cell lies alone."""
    cells = [side // stride for side in x.shape[2:]]
    return torch.randn(1, 16, *cells, generator=torch.Generator().manual_seed(0)).expand(len(x), -1, -1, -1)


@pytest.mark.parametrize("window", [4, 2])
def test_only_independent_geometry_tells_anatomy_from_the_place_in_the_view(
    window: int, told: Any, make_batch: Any
) -> None:
    batch = make_batch({0: [4, 5, 6], 1: [2, 3]}, of=OF, side=128, blobs=4, alike=True)
    loss = {}
    for name, (say, channels) in {"brightness": (brightness, 4), "place": (place, 16)}.items():
        for geometry in ("shared", "independent"):
            spatial = Spatial(p_spatial=1.0)
            given = Settings(
                size_px=128, embedding=4, alignment_weight=1.0, window=window, geometry=geometry, same_slice=True,
                spatial=spatial,
            )  # fmt: skip
            loss[name, geometry] = alignment(plain_embedding(Method(told(say, channels), given)), batch)
    assert loss["place", "shared"] < 1e-6, "aligned perfectly, and says nothing of anatomy"
    assert loss["place", "independent"] > 0.3
    assert loss["brightness", "shared"] < 1e-6
    assert loss["brightness", "independent"] < 0.02


def test_maps_are_compared_on_the_grid_of_the_source(told: Any, make_batch: Any) -> None:
    batch = make_batch({0: [4, 5]}, of=OF, side=96, blobs=4)
    given = Settings(size_px=128, embedding=4, geometry="independent", spatial=Spatial(p_spatial=1.0))
    x, valid = local_of(plain_embedding(Method(told(brightness, 4), given)), batch)
    assert x.shape == (4, 4, 12, 12)
    expected = F.normalize(brightness(batch.image, 8), dim=1).repeat(2, 1, 1, 1)
    cosine = (x * expected).sum(1)[valid]
    assert valid.float().mean() > 0.7
    assert cosine.mean() > 0.98


# ------------------------------------------------------------------------------------- what the paper has not


def test_warm_up(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    full = alignment(Method(make_unet(), Settings(**SMALL)), batch)
    method = Method(make_unet(), Settings(**SMALL, warm_up=0.4))
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)):
        method.after_step(progress)
        method.zero_grad()
        assert alignment(method, batch) == pytest.approx(share * full, rel=1e-4)
        assert float(method.state_dict()["progress"]) == pytest.approx(progress), "a resumed run goes on from there"


def test_stop_gradient_holds_the_matched_slice_still(make_unet: Any, make_batch: Any) -> None:
    batch, gradients, losses = make_batch({0: [4, 5]}, of=OF), [], []
    for stop in (True, False):
        given = Settings(**SMALL, window=None, alignment_weight=1.0, stop_gradient=stop, spatial=STILL)
        method = Method(make_unet(), given)
        loss = method(batch, Rows(*RNG)).losses["alignment"]
        gradients.append(torch.autograd.grad(loss, method.embed_local.weight)[0])
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert not torch.allclose(*gradients, rtol=1e-2, atol=0)

    method = Method(make_unet(), Settings(**SMALL, spatial=STILL))
    drawn = list(method.views(batch, Rows(*RNG)).values())
    maps = method.backbone.encode(torch.cat([view.image for view in drawn]))
    x = method.local(maps[3], drawn, batch)[0].flatten(2)  # (4, c, hw): slices 4, 5 of view 1, then of view 2
    terms = [(1 - (x[i].T @ x[j].detach()).amax(1)).abs().mean() for i, j in ((0, 1), (1, 0), (2, 3), (3, 2))]
    by_hand = torch.autograd.grad(torch.stack(terms).mean(), method.embed_local.weight)[0]
    torch.testing.assert_close(gradients[0], by_hand, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("geometry", ["shared", "independent"])
def test_centring_takes_the_constant_answer_away(geometry: Any, told: Any, make_batch: Any) -> None:
    def nearly_constant(x: Tensor, stride: int) -> Tensor:
        noise = torch.randn(len(x), 8, *(n // stride for n in x.shape[2:]), generator=torch.Generator().manual_seed(0))
        return 1 + 1e-3 * noise

    batch, loss = make_batch(CHOSEN, of=OF), {}
    for centring in ("none", "mean", "batch"):
        given = Settings(**SMALL, alignment_weight=1.0, geometry=geometry, centring=centring)
        loss[centring] = alignment(plain_embedding(Method(told(nearly_constant, 8), given)), batch)
    assert loss["none"] < 1e-4, "collapsed, and the loss is content"
    assert loss["mean"] > 0.1
    assert loss["batch"] > 0.1


@pytest.mark.parametrize("centring", ["none", "mean", "batch"])
def test_what_each_centring_is(centring: Any, make_unet: Any, make_batch: Any) -> None:
    batch = make_batch(CHOSEN, of=OF)
    method = Method(make_unet(), Settings(**SMALL, centring=centring))
    images = [view.image for view in method.views(batch, Rows(*RNG)).values()]
    e = method.embed_local(method.backbone.encode(torch.cat(images))[3]).detach()
    over = (0, 2, 3)  # both views of the batch, and space
    if centring != "none":
        e = e - e.mean(over, keepdim=True)
    if centring == "batch":
        e = e / (e.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(local_of(method, batch)[0], F.normalize(e, dim=1), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------- the parts


def test_the_defaults() -> None:
    given, protocol = Settings(), pcl.Settings()
    assert (given.alignment_weight, given.window, given.level, given.per_scan) == (80.0, 4, 3, 16)
    assert (given.geometry, given.centring, given.stop_gradient, given.warm_up) == ("shared", "none", False, 0.0)
    for name in ("batch_size", "temperature", "temperature_base", "threshold", "embedding", "size_px", "spatial"):
        assert getattr(given, name) == getattr(protocol, name)


@pytest.mark.parametrize(("level", "channels", "stride"), [(3, 32, 8), (4, 64, 16)])
def test_the_local_embedding(level: int, channels: int, stride: int, make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(4), Settings(**SMALL, level=level))  # f = 4: level 3 has 8f channels at 1/8
    assert method.embed_local.weight.shape == (channels, channels, 1, 1)
    assert method.embed_local.bias is not None
    assert method.backbone_strides() == (stride, stride)
    x, valid = local_of(method, make_batch(CHOSEN, of=OF))
    assert x.shape == (12, channels, 64 // stride, 64 // stride)
    assert valid.all()
    narrow = Method(make_unet(4), Settings(**SMALL, level=level, local_channels=5, local_bias=False)).embed_local
    assert narrow.weight.shape == (5, channels, 1, 1)
    assert narrow.bias is None


def test_the_global_head_and_the_batches(make_unet: Any) -> None:
    mlp = Method(make_unet(4), Settings())
    linear = Method(make_unet(4), Settings(projection="linear"))
    assert [m.weight.shape for m in mlp.project.modules() if isinstance(m, nn.Linear)] == [(64, 64), (512, 64)]
    assert [m.weight.shape for m in linear.project.modules() if isinstance(m, nn.Linear)] == [(512, 64)]
    assert (mlp.sampling.kind, mlp.sampling.batch_size, mlp.sampling.per_scan) == ("groups", 32, 16)
    assert mlp.sampling.scans_per_batch is None
    assert mlp.trains == ("encoder",)


@pytest.mark.parametrize("name", ["acdc", "chd", "synapse", "sal-acdc", "sal-chd"])
def test_the_papers_presets_have_its_sampling_and_its_head(name: str, make_unet: Any) -> None:
    given = resolve(Settings, load_preset(f"paper/{name}")["methods"]["sal"])
    assert (given.scans_per_batch, given.projection, given.alignment_weight) == (2, "linear", 80.0)
    assert Method(make_unet(), given).sampling.scans_per_batch == 2
