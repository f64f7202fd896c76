"""GLCL (Chaitanya et al., NeurIPS 2020): the local loss done slowly, its regions, and who learns from what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods import gcl
from lemis.methods.glcl import PLACES, Method, Settings, Views, cut, nearest
from lemis.sampling.draw import Rows
from lemis.training import loop

RNG = (0, 0, "cpu")
SMALL: dict[str, Any] = {"size_px": 32, "embedding": 8, "local_embedding": 8}
CHOSEN, OF = {0: [0, 2, 7], 1: [1, 5, 9]}, {0: 8, 1: 10}


@pytest.fixture
def batch(make_batch: Any) -> Batch:
    made: Batch = make_batch(CHOSEN, of=OF)
    return made


def nearest_slowly(r: int, count: int) -> list[int]:
    def away(k: int) -> float:
        return math.dist(PLACES[r], PLACES[k])

    return sorted((k for k in range(13) if k != r), key=away)[:count]  # sorted keeps the order of equals


def slow_local(z: Tensor, tau: float, count: int) -> float:
    """Mean over slices, views and regions of l(f_r, f'_r); z is (B, 26, D), the second view's regions last."""
    terms = []
    for vectors in z.double():
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        for view in range(2):
            for r in range(13):
                anchor = unit[13 * view + r]
                above = math.exp(float(anchor @ unit[13 * (1 - view) + r]) / tau)
                against = [13 * v + k for v in range(2) for k in nearest_slowly(r, count)]
                below = above + sum(math.exp(float(anchor @ unit[k]) / tau) for k in against)
                terms.append(-math.log(above / below))
    return sum(terms) / len(terms)


# ------------------------------------------------------------------------------------------------- the regions


def test_thirteen_regions() -> None:
    side = 16
    rows = torch.arange(side).view(1, 1, side, 1).expand(1, 1, side, side)
    found = cut(torch.cat([rows, rows.mT], 1).float()).view(13, 2, 3, 3)
    corners = [tuple(int(v) for v in region[:, 0, 0]) for region in found]
    grid = [(r, c) for r in (0, 6, 12) for c in (0, 6, 12)]
    assert corners == [*grid, (3, 3), (3, 9), (9, 3), (9, 9)], "top left from 0 to side - 4"
    for axis, along in enumerate((torch.arange(3.0).view(3, 1), torch.arange(3.0).view(1, 3))):
        assert torch.equal(found[:, axis], (found[:, axis, :1, :1] + along).expand(13, 3, 3))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 20), (176, 176)])
def test_no_two_regions_are_the_same_and_all_lie_in_the_map(height: int, width: int) -> None:
    x = torch.arange(float(height * width)).view(1, 1, height, width)
    regions = cut(x)[0]
    assert regions.shape == (13, 9)
    assert len({tuple(region.tolist()) for region in regions}) == 13


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_nearest_regions(count: int) -> None:
    mask = nearest(count)
    for r in range(13):
        assert mask[r].nonzero()[:, 0].tolist() == sorted(nearest_slowly(r, count))
    # The five of the first corner: the next quarter, the two edge middles, the centre, and a farther quarter.
    assert {PLACES[k] for k in nearest_slowly(0, 5)} == {(1, 1), (0, 2), (2, 0), (2, 2), (1, 3)}


# -------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize(("tau", "count"), [(0.1, 5), (0.5, 3)])
def test_the_local_loss(tau: float, count: int, batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, temperature=tau, neighbours=count))
    z = torch.randn(6, 26, 8, generator=torch.Generator().manual_seed(0))
    method.regions = lambda drawn: z  # type: ignore[method-assign]
    outcome = method(batch, Rows(*RNG))
    assert outcome.losses["local"].item() == pytest.approx(slow_local(z, tau, count), rel=1e-5)
    assert outcome.uninformed["local"] == pytest.approx(math.log(1 + 2 * count))


def test_limits_of_the_local_loss(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    for z, expected in (
        (torch.ones(6, 26, 13), math.log(11)),
        (torch.eye(13).repeat(6, 2, 1), math.log(1 + 10 * math.exp(-10))),
    ):
        method.regions = lambda drawn, z=z: z  # type: ignore[method-assign,misc]
        assert method(batch, Rows(*RNG)).losses["local"].item() == pytest.approx(expected, rel=1e-4)


def test_the_regions_of_a_slice_come_from_its_two_local_views(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL)).eval()  # in evaluation a row does not depend on the others
    drawn = method.views(batch, Rows(*RNG))
    z = method.regions(drawn)
    assert z.shape == (6, 26, 8)
    for k, name in enumerate(("local first", "local second")):
        maps = method.backbone.encode(drawn[name].image[2:3])
        x = method.local(method.backbone.decode(maps, 3))
        assert x.shape == (1, 8, 16, 16), "half of the view after three blocks"
        expected = method.embed_region(cut(x))[0]
        torch.testing.assert_close(z[2, 13 * k : 13 * (k + 1)], expected, rtol=1e-3, atol=1e-5)


def test_the_global_loss_is_gcls(batch: Batch, make_unet: Any) -> None:
    ours = Method(make_unet(), Settings(**SMALL))
    theirs = gcl.Method(make_unet(), gcl.Settings(form="domain", size_px=32, embedding=8))
    theirs.project.load_state_dict(ours.project.state_dict())
    expected = theirs(batch, Rows(*RNG))
    outcome = ours(batch, Rows(*RNG))
    assert outcome.losses["global"].item() == pytest.approx(expected.losses["contrast"].item(), rel=1e-5)
    assert outcome.uninformed["global"] == pytest.approx(expected.uninformed["contrast"])


# ------------------------------------------------------------------------------------------ who learns from what


def touched(method: Method, loss: Tensor) -> set[str]:
    """Parts that ``loss`` gives a gradient other than 0."""
    method.zero_grad()
    loss.backward()
    return {
        method.backbone.part_of(name)
        for name, parameter in method.backbone.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_encoder_learns_from_the_global_and_the_decoder_from_the_local_loss(
    dtype: torch.dtype | None, batch: Batch, make_unet: Any
) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    for loss, expected in (("global", {"encoder"}), ("local", {"decoder 1", "decoder 2", "decoder 3"})):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            losses = method(batch, Rows(*RNG)).losses
        assert touched(method, losses[loss]) == expected


@pytest.mark.parametrize(("progress", "works"), [(0.0, "global"), (0.49, "global"), (0.5, "local"), (0.9, "local")])
def test_one_after_the_other(progress: float, works: str, batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, stages="one after the other"))
    method.after_step(progress)
    outcome = method(batch, Rows(*RNG))
    rests = {"global": "local", "local": "global"}[works]
    assert outcome.losses[works].item() > 0
    assert outcome.losses[rests].item() == 0
    assert list(outcome.uninformed) == [works]
    torch.stack(list(outcome.losses.values())).sum().backward()
    for name, parameter in method.named_parameters():
        trained = not name.startswith("backbone.") or method.backbone.part_of(name.removeprefix("backbone.")) in (
            method.trains
        )
        assert (parameter.grad is not None) == trained, "several processes need a gradient, be it 0"
    before = method.backbone.encoder[0][0].weight.grad
    assert before is not None
    assert bool(before.any()) == (works == "global")


@pytest.mark.parametrize(("progress", "rests"), [(0.2, "decoder"), (0.7, "encoder")])
def test_what_rests_keeps_its_weights_and_its_statistics(
    progress: float, rests: str, batch: Batch, make_unet: Any
) -> None:
    method = Method(make_unet(), Settings(**SMALL, stages="one after the other"))
    for name, parameter in method.backbone.named_parameters():
        parameter.requires_grad_(method.backbone.part_of(name) in method.trains)
    heads = {"encoder": ("project",), "decoder": ("local", "embed_region")}

    def still(name: str) -> bool:
        head = name.startswith(heads[rests])
        return head or (name.startswith("backbone.") and method.backbone.part_of(name[9:]).startswith(rests))

    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step(progress)
    optimiser = torch.optim.Adam((p for p in method.parameters() if p.requires_grad), 1e-3, weight_decay=1e-5)
    for step in range(3):
        torch.stack(list(method(batch, Rows(0, step, "cpu")).losses.values())).sum().backward()
        loop.rest(method)
        optimiser.step()
        optimiser.zero_grad()
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if still(name)} == set()
    assert any("running_mean" in name for name in moved), "the other part's statistics follow"
    assert {name for name, p in method.named_parameters() if p.requires_grad and not still(name)} <= moved
    assert method.backbone.training


def test_an_encoder_that_rests_sees_each_slice_alone(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, stages="one after the other"))
    method.after_step(0.7)
    drawn = method.views(batch, Rows(*RNG))
    seen: list[Tensor] = []
    method.backbone.encoder[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    method.regions(drawn)
    method.regions({name: view._replace(image=view.image[:1]) for name, view in drawn.items()})
    torch.testing.assert_close(seen[1][0], seen[0][0])


def test_local_views_differ_in_intensities_only(batch: Batch) -> None:
    drawn = Views(Settings(**SMALL))(batch, Rows(*RNG))
    first, second = drawn["local first"], drawn["local second"]
    assert torch.equal(first.geometry.to_source, second.geometry.to_source)
    for a, b in zip(first.image.flatten(1), second.image.flatten(1), strict=True):
        assert (a - b).abs().max() > 0.1
        rising = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert rising > 0.97, "brightness and contrast keep the order of the pixels"


# ------------------------------------------------------------------------------------------------- the network


def test_the_local_head(make_unet: Any) -> None:
    method = Method(make_unet(4), Settings())
    assert [type(layer).__name__ for layer in method.local] == ["Conv2d", "BatchNorm", "ReLU", "Conv2d"]
    assert [tuple(p.shape) for p in method.local.parameters()] == [(8, 8, 1, 1), (8,), (8,), (8, 8, 1, 1)]
    assert method.embed_region.weight.shape == (128, 9 * 8)
    assert all(layer.bias is None for layer in (*method.local, method.embed_region) if isinstance(layer, nn.Conv2d))


def test_what_cannot_be_is_refused(make_unet: Any) -> None:
    with pytest.raises(UsageError, match="decoder_blocks=5, and the network has 4"):
        Method(make_unet(), Settings(size_px=32, decoder_blocks=5))
    with pytest.raises(UsageError, match=r"(?s)size_px=32, .* is 4 cells.*size_px=64"):
        Method(make_unet(), Settings(size_px=32, decoder_blocks=1))
    assert Method(make_unet(), Settings(size_px=64, decoder_blocks=1)).trains == ("encoder", "decoder 1")
    Method(make_unet(), Settings(size_px=16))
