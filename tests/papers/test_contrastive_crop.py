"""ContrastiveCrop (Peng et al., CVPR 2022): where crops lie, where boxes come from, and when they are made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc
from torch import Tensor

from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods import simclr
from lemis.methods.contrastive_crop import Method, Settings, Views, symmetric_beta
from lemis.sampling import correspondence, geometries, warping
from lemis.sampling.draw import Rows

RNG = (0, 0, "cpu")
SMALL: dict[str, Any] = {"size_px": 32, "embedding": 8, "boxes": 32}
WHOLE = torch.tensor([[0.0, 0.0], [1.0, 1.0]])


@pytest.fixture
def batch(make_batch: Any) -> Batch:
    made: Batch = make_batch({0: [1, 4, 7, 11, 20]}, of={0: 24})
    return made


# ------------------------------------------------------------------------------------------ the distribution


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.6, 1.0, 2.0, 7.0])
def test_quantiles_of_beta(alpha: float) -> None:
    quantile = torch.linspace(0, 1, 1001, dtype=torch.float64)
    x = symmetric_beta(quantile, alpha)
    assert float(x[0]) == 0
    assert float(x[-1]) == 1
    assert x.diff().min() >= 0
    assert float(x[500]) == pytest.approx(0.5, abs=1e-9)
    torch.testing.assert_close(x, 1 - x.flip(0), rtol=0, atol=1e-12)
    # The other way round: how much of Beta lies below x.
    found = torch.from_numpy(betainc(alpha, alpha, x[:501].numpy()))  # above, 1 - x is lost in floating point
    torch.testing.assert_close(found, quantile[:501], rtol=0, atol=1e-4)
    if alpha == 1:
        torch.testing.assert_close(x, quantile, rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------- the boxes


def test_a_view_of_a_box() -> None:
    image = torch.randn(2, 1, 8, 12)
    whole = geometries.of_box(torch.full((2, 2), -0.5), torch.tensor([[8.0, 12.0]] * 2), (8, 12))
    torch.testing.assert_close(warping.apply(whole, image).image, image, rtol=1e-4, atol=1e-4)
    part = geometries.of_box(torch.tensor([[1.5, 2.5]] * 2), torch.tensor([[4.0, 6.0]] * 2), (4, 6))
    torch.testing.assert_close(warping.apply(part, image).image, image[:, :, 2:6, 3:9], rtol=1e-4, atol=1e-4)
    mirrored = geometries.of_box(
        torch.tensor([[1.5, 2.5]] * 2), torch.tensor([[4.0, 6.0]] * 2), (4, 6), torch.tensor([[1.0, -1.0]] * 2)
    )
    expected = image[:, :, 2:6, 3:9].flip(-1)
    torch.testing.assert_close(warping.apply(mirrored, image).image, expected, rtol=1e-4, atol=1e-4)
    # The edges of any view of a box lie on the edges of the box.
    view = geometries.of_box(torch.tensor([[0.3, 1.7]]), torch.tensor([[5.2, 3.1]]), (16, 9))
    edges = correspondence.source_of(view, torch.tensor([[[-0.5, -0.5], [15.5, 8.5]]]))[0]
    torch.testing.assert_close(edges, torch.tensor([[0.3, 1.7], [5.5, 4.8]]))


def told_heat(told: Any, places: list[tuple[int, int]]) -> Any:
    """An encoder whose coarsest map is 1 at some cells of the image and 0 elsewhere."""

    def say(x: Tensor, stride: int) -> Tensor:
        heat = torch.zeros(len(x), 2, x.shape[2] // stride, x.shape[3] // stride)
        if stride == 16:
            for row, col in places:
                heat[:, :, row, col] = 1.0
        return heat

    return told(say, 2)


def test_the_box_is_where_the_heat_exceeds_the_threshold(told: Any) -> None:
    method = Method(told_heat(told, [(1, 2)]), Settings(**SMALL))
    box = method.box_of(torch.zeros(3, 1, 80, 96))
    heat = torch.zeros(1, 1, 5, 6)
    heat[..., 1, 2] = 1
    pixels = torch.nn.functional.interpolate(heat, (80, 96), mode="bilinear", align_corners=False)[0, 0]
    rows = [r for r in range(80) if float(pixels[r].max()) > 0.1]
    cols = [c for c in range(96) if float(pixels[:, c].max()) > 0.1]
    expected = [[rows[0] / 80, cols[0] / 96], [(rows[-1] + 1) / 80, (cols[-1] + 1) / 96]]
    torch.testing.assert_close(box, torch.tensor([expected] * 3))
    assert 16 <= rows[0] + 16 <= 32 <= rows[-1] <= 48, "about the cell"


def test_a_slice_that_no_stride_divides(told: Any) -> None:
    box = Method(told_heat(told, [(0, 0), (4, 5)]), Settings(**SMALL)).box_of(torch.zeros(1, 1, 72, 90))
    torch.testing.assert_close(box, WHOLE[None])  # the last cells reach beyond the slice, the box does not
    box = Method(told_heat(told, [(2, 2)]), Settings(**SMALL)).box_of(torch.zeros(1, 1, 72, 90))
    assert float(box[0, 0, 0]) * 72 == pytest.approx(round(float(box[0, 0, 0]) * 72), abs=1e-4)
    assert 0.2 < float(box[0, 0, 0]) < 2.5 * 16 / 72 < float(box[0, 1, 0]) < 0.9


def test_a_flat_heat_map_is_a_whole_slice(told: Any) -> None:
    method = Method(told(lambda x, stride: x.new_ones(len(x), 2, 5, 5), 2), Settings(**SMALL))
    torch.testing.assert_close(method.box_of(torch.zeros(2, 1, 80, 80)), WHOLE.expand(2, 2, 2))


# -------------------------------------------------------------------------------------------------- the crops


def crops(box: Tensor, shape: tuple[int, int], settings: Settings, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Lower edges and sizes (B, 2) of random crops, in source pixels from the slice's edge."""
    geometry = Views(settings).crop(box, shape, Rows(0, seed, "cpu"))
    side = settings.size_px
    corners = torch.tensor([[[-0.5, -0.5], [side - 0.5, side - 0.5]]]).expand(len(box), 2, 2)
    ends = correspondence.source_of(geometry, corners) + 0.5
    return ends.amin(1), ends.amax(1) - ends.amin(1)


@given(
    edges=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    shape=st.tuples(st.integers(20, 200), st.integers(20, 200)),
    alpha=st.floats(0.1, 3),
    seed=st.integers(0, 1000),
)
def test_crops_lie_in_the_slice_and_their_centres_in_the_box(
    edges: list[float], shape: tuple[int, int], alpha: float, seed: int
) -> None:
    r, c = sorted(edges[:2]), sorted(edges[2:])
    box = torch.tensor([[[r[0], c[0]], [r[1], c[1]]]]).expand(40, 2, 2)
    whole = torch.tensor(shape).float()
    first, size = crops(box, shape, Settings(size_px=16, alpha=alpha), seed)
    assert (first > -1e-2).all()
    assert (first + size < whole + 1e-2).all()
    ratio = size[:, 1] / size[:, 0]
    assert ((ratio > 0.749) & (ratio < 1.334)).all()
    centre = first + size / 2
    low = (box[:, 0] * whole).maximum(size / 2).minimum(whole - size / 2)
    high = (box[:, 1] * whole).minimum(whole - size / 2).maximum(size / 2)
    in_box = ((centre > low - 1e-2) & (centre < high + 1e-2)).all(1)
    middle = (centre - whole / 2).abs().amax(1) < 1e-2  # where none of ten fits
    assert (in_box | middle).all()


def test_the_sizes_are_those_of_the_usual_random_crop() -> None:
    first, size = crops(WHOLE.expand(4000, 2, 2), (100, 100), Settings(size_px=16, alpha=1.0))
    share, ratio = size.prod(1) / 1e4, (size[:, 1] / size[:, 0]).log()
    assert float(share.min()) == pytest.approx(0.2, abs=0.01)
    assert 0.95 < float(share.max()) <= 1
    assert float(ratio.abs().max()) == pytest.approx(math.log(4 / 3), abs=0.01)
    assert float(ratio.mean()) == pytest.approx(0, abs=0.02)
    place = first / (100 - size)
    assert float(place.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(place.var()) == pytest.approx(1 / 12, abs=0.01), "alpha = 1 is uniform"


@pytest.mark.parametrize("alpha", [0.1, 0.6])
def test_a_small_alpha_favours_the_ends_of_the_box(alpha: float) -> None:
    box = torch.tensor([[0.4, 0.45], [0.6, 0.55]]).expand(4000, 2, 2)
    first, size = crops(box, (100, 100), Settings(size_px=16, alpha=alpha, area_share=(0.2, 0.3)))
    place = ((first + size / 2) / 100 - box[:, 0]) / (box[:, 1] - box[:, 0])
    assert float(place.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01), "Beta's variance"


def test_where_no_crop_fits_it_is_the_largest_allowed_in_the_middle() -> None:
    never = Settings(size_px=16, area_share=(1.5, 2.0))
    for shape, expected in (((100, 100), (100, 100)), ((90, 180), (90, 120)), ((200, 60), (80, 60))):
        first, size = crops(torch.tensor([[[0.0, 0.0], [0.1, 0.1]]]), shape, never)
        torch.testing.assert_close(size, torch.tensor([expected]).float())
        torch.testing.assert_close(first, (torch.tensor([shape]) - size) / 2, atol=1e-3, rtol=0)


def test_flips() -> None:
    for p, signs in ((0.0, {1.0}), (1.0, {-1.0}), (0.5, {1.0, -1.0})):
        geometry = Views(Settings(size_px=16, p_mirror=p)).crop(WHOLE.expand(50, 2, 2), (40, 40), Rows(*RNG))
        for axis in range(2):
            assert set(geometry.to_source[:, axis, axis].sign().tolist()) == signs


# ------------------------------------------------------------------------------------- when boxes are made


def test_boxes_are_whole_until_a_fifth_of_training_and_new_at_each_fifth(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    method(batch, Rows(*RNG))
    method.after_step(0.19)
    method(batch, Rows(*RNG))
    assert torch.equal(method.boxes, WHOLE.expand(32, 2, 2)), "too early"
    for progress, last in ((0.2, 0.2), (0.21, 0.2), (0.3999, 0.2), (0.4, 0.4), (0.6, 0.6), (0.61, 0.6), (0.8, 0.8)):
        box = torch.tensor([[0.0, 0.1], [progress, 0.9]])
        method.box_of = lambda image, box=box: box.expand(len(image), 2, 2)  # type: ignore[method-assign,misc]
        method.after_step(progress)
        method(batch, Rows(*RNG))
        expected = torch.tensor([[0.0, 0.1], [last, 0.9]])
        assert torch.equal(method.boxes[batch.index], expected.expand(5, 2, 2))
    others = [k for k in range(32) if k not in batch.index]
    assert torch.equal(method.boxes[others], WHOLE.expand(27, 2, 2)), "slices that were not drawn"


def test_a_slice_that_was_missed_has_its_box_made_later(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    method.after_step(0.2)
    first, later = (
        batch._replace(**{key: values[rows] for key, values in batch._asdict().items() if values is not None})
        for rows in (slice(0, 3), slice(3, 5))
    )
    method(first, Rows(*RNG))
    method.after_step(0.25)
    method(later, Rows(*RNG))
    assert method.made[batch.index].tolist() == [1] * 5


def test_views_are_cropped_by_the_boxes(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    method.boxes[batch.index] = torch.tensor([[0.1, 0.7], [0.1, 0.7]])
    seen: list[dict[str, Any]] = []
    inner = method.views
    method.views = lambda *given: seen.append(inner(*given)) or seen[-1]  # type: ignore[assignment,func-returns-value]
    method(batch, Rows(*RNG))
    for view in seen[0].values():
        centre = correspondence.source_of(view.geometry, torch.full((5, 1, 2), 15.5))[:, 0] + 0.5
        half = 32 * view.geometry.to_source[..., :2].diagonal(dim1=1, dim2=2).abs() / 2
        expected = (torch.tensor([0.1, 0.7]) * 72).maximum(half).minimum(72 - half)
        torch.testing.assert_close(centre, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("autocast", [False, True])
def test_looking_changes_nothing_but_the_boxes(autocast: bool, batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    method.after_step(0.2)
    before = {key: b.clone() for key, b in method.backbone.named_buffers()}
    method.refresh(batch)
    assert all(torch.equal(b, before[key]) for key, b in method.backbone.named_buffers()), "statistics"
    assert all(module.training for module in method.modules())
    method.made.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outcome = method(batch, Rows(*RNG))
    outcome.losses["contrast"].backward()
    for name, parameter in method.backbone.named_parameters():
        assert (parameter.grad is not None) == name.startswith("encoder"), name


def test_too_few_boxes_are_refused(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**{**SMALL, "boxes": 16}))
    with pytest.raises(UsageError, match=r"(?s)slice 20 of the data set, and boxes=16.*method.boxes=32"):
        method(batch, Rows(*RNG))


# ---------------------------------------------------------------------------------------------------- the loss


def test_the_loss_is_simclrs(batch: Batch, says: Any, make_unet: Any) -> None:
    z = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    found = []
    for module, layer in ((Method, Settings(**SMALL)), (simclr.Method, simclr.Settings(size_px=32))):
        method = module(make_unet(), layer)
        method.project = says(z)
        outcome = method(batch, Rows(*RNG))
        found.append((outcome.losses["contrast"].item(), outcome.uninformed))
    assert found[0] == found[1]


def test_the_defaults() -> None:
    given, protocol = Settings(), simclr.Settings()
    for name in ("batch_size", "temperature", "temperature_base", "embedding", "size_px"):
        assert getattr(given, name) == getattr(protocol, name)
    assert (given.area_share, given.alpha, given.box_threshold, given.refresh_every) == ((0.2, 1.0), 0.6, 0.1, 0.2)
