"""Networks side by side: PyTorch's layers one by one, an image alone and beside others, stopping and starting anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from how_many import examples
from lemis.errors import UsageError
from lemis.one_image import solo
from lemis.one_image.solo import RESTART_STRIDE, Networks, Step, distinct, generators, self_labelling, train

SEEDS = [3, 8, 5]
CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 0, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 1, "dilation": 2},
    {"kernel_size": 1},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "depthwise": True},
    {"kernel_size": 7, "padding": 9, "dilation": 3, "depthwise": True, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Plan:
    learning_rate: float = 0.2
    momentum: float = 0.9
    max_iterations: int = 12
    stop_labels: int = 3
    least_iterations: int = 2
    restarts: int = 2
    starts: int = 1


def plain(seed: int, of: dict[str, Any], channels: int) -> nn.Conv2d:
    torch.manual_seed(seed)
    given = {key: value for key, value in of.items() if key != "depthwise"}
    return nn.Conv2d(channels, channels, groups=channels if of.get("depthwise") else 1, **given)


@pytest.mark.parametrize("of", CONVS)
def test_a_convolution_is_pytorchs_in_each_network(of: dict[str, Any]) -> None:
    own = solo.Conv(generators(SEEDS), 4, 4, **of).double()
    x = noise(3, 4, 11, 13).requires_grad_()
    single = [plain(seed, of, 4).double() for seed in SEEDS]
    for row, conv in enumerate(single):
        assert torch.equal(own.weight[row], conv.weight)
        if conv.bias is not None and own.bias is not None:
            assert torch.equal(own.bias[row], conv.bias)
    expected = torch.cat([conv(x[row : row + 1]) for row, conv in enumerate(single)])
    torch.testing.assert_close(own(x), expected)
    weigh = noise(*expected.shape, seed=1)
    theirs = torch.autograd.grad((expected * weigh).sum(), [x, *(conv.weight for conv in single)])
    ours = torch.autograd.grad((own(x) * weigh).sum(), [x, own.weight])
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], torch.stack(theirs[1:]))


@examples(20)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([3, 5, 7]), st.integers(1, 4), st.integers(1, 3))
def test_dilated_convolutions_of_any_size(height: int, width: int, kernel: int, dilation: int, n: int) -> None:
    padding = kernel // 2 * dilation
    own = solo.Conv(generators(range(n)), 2, 2, kernel, padding=padding, dilation=dilation, depthwise=True).double()
    x = noise(n, 2, height, width)
    of = {"padding": padding, "dilation": dilation, "groups": 2}
    each = [F.conv2d(x[i : i + 1], own.weight[i], own.bias[i], **of) for i in range(n)]  # type: ignore[index,arg-type]
    torch.testing.assert_close(own(x), torch.cat(each))


def test_depthwise_keeps_the_number_of_channels() -> None:
    with pytest.raises(ValueError, match="depthwise: 2 channels in, 4 out"):
        solo.Conv(generators([0]), 2, 4, 3, depthwise=True)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_is_pytorchs_in_each_network(bias: bool) -> None:
    own = solo.Linear(generators(SEEDS), 5, 4, bias=bias).double()
    x = noise(3, 7, 5)
    for row, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        torch.testing.assert_close(own(x)[row], nn.Linear(5, 4, bias=bias).double()(x[row]))


@pytest.mark.parametrize("space", [(6, 5), (1, 9), (30,)])
def test_normalisation_is_that_of_a_batch_of_one_image(space: tuple[int, ...]) -> None:
    own, single = solo.Norm(2, 3).double(), nn.BatchNorm2d(3).double()
    nn.init.uniform_(own.weight)
    nn.init.uniform_(own.bias)
    x = noise(2, 3, *space)
    for row in range(2):
        single.weight.data, single.bias.data = own.weight[row].data, own.bias[row].data
        image = x[row : row + 1].reshape(1, 3, -1, space[-1])
        torch.testing.assert_close(own(x)[row], single(image)[0].view(3, *space))


@pytest.mark.parametrize("n", [1, 3])
def test_gradients_of_normalisation_whatever_the_layout(n: int) -> None:
    norm, rows, weigh = solo.Norm(n, 8).double(), noise(n, 16, 8).requires_grad_(), noise(n * 16, 8, seed=1)
    nn.init.uniform_(norm.weight)

    def formula(x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        deviation = (centred.square().mean((2, 3), keepdim=True) + norm.eps).sqrt()
        return centred / deviation * norm.weight[..., None, None] + norm.bias[..., None, None]

    def gradients(function: Any, *, image_first: bool, pixels_last: bool) -> tuple[Tensor, ...]:
        x = rows.transpose(1, 2).reshape(n, 8, 4, 4)  # strides of channels last
        out = function(x.contiguous() if image_first else x)
        pixels = out.flatten(2).transpose(1, 2).reshape(-1, 8) * weigh  # whose gradient has them, too
        return torch.autograd.grad(pixels.sum() if pixels_last else (out + 1).prod(1).sum(), [rows, *norm.parameters()])

    for image_first in (False, True):
        for pixels_last in (False, True):
            how = {"image_first": image_first, "pixels_last": pixels_last}
            torch.testing.assert_close(gradients(norm, **how), gradients(formula, **how))


def test_layers_of_one_network_are_drawn_in_turn() -> None:
    rngs = generators([0])
    first, second = solo.Conv(rngs, 2, 2, 3), solo.Conv(rngs, 2, 2, 3)
    assert not torch.equal(first.weight, second.weight)


class Small(Networks):
    """Two layers; half of the loss is on a copy of the image with noise, so that a step draws numbers."""

    def __init__(self, seeds: Sequence[int], clusters: int = 6) -> None:
        super().__init__(seeds)
        self.first = solo.Conv(self.rngs, 2, clusters, 3, padding=1)
        self.second = nn.Sequential(solo.Conv(self.rngs, clusters, clusters, 1), solo.Norm(len(seeds), clusters))

    def score(self, images: Tensor) -> Tensor:
        scores: Tensor = self.second(self.first(images).relu())
        return scores

    def forward(self, images: Tensor) -> Step:
        loss, labels = self_labelling(self.score(images))
        noisy = images + 0.1 * solo.normal(self.rngs, *images.shape[1:]).to(images.dtype)
        return Step({"own": loss, "noisy": 0.5 * self_labelling(self.score(noisy))[0]}, labels)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_an_image_gets_the_labels_that_it_gets_alone(optimiser: Any) -> None:
    images, seeds = F.interpolate(noise(5, 2, 4, 3), (12, 10), mode="bilinear"), [4, 0, 2, 3, 9]
    rate = 0.2 if optimiser == "sgd" else 0.05
    plan = Plan(learning_rate=rate, max_iterations=12, least_iterations=1, stop_labels=5)
    together = train(Small, images, seeds, plan, optimiser=optimiser)
    assert len(set(together.iterations)) > 1  # or nobody left early
    for row, seed in enumerate(seeds):
        alone = train(Small, images[row : row + 1], [seed], plan, optimiser=optimiser)
        assert torch.equal(alone.labels[0], together.labels[row])
        assert (alone.iterations[0], alone.restarts[0]) == (together.iterations[row], together.restarts[row])


def test_another_seed_is_another_network() -> None:
    images, plan = noise(1, 2, 12, 10), Plan(max_iterations=1)
    same, again, other = (train(Small, images, [seed], plan).labels for seed in (0, 0, 1))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


class Silent(Small):
    """Without noise."""

    def forward(self, images: Tensor) -> Step:
        loss, labels = self_labelling(self.score(images))
        return Step({"own": loss}, labels)


def test_it_is_the_plain_loop_of_single_networks() -> None:
    images, plan = noise(2, 2, 12, 10), Plan(max_iterations=8, stop_labels=1)
    labels = train(Silent, images, [4, 7], plan).labels
    for row, seed in enumerate([4, 7]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)]
        network = nn.Sequential(*layers).double()
        rule = torch.optim.SGD(network.parameters(), lr=plan.learning_rate, momentum=plan.momentum)
        for _ in range(8):
            logits = network(images[row : row + 1])
            rule.zero_grad()
            F.cross_entropy(logits, logits.argmax(1)).backward()
            rule.step()
        assert torch.equal(labels[row], network(images[row : row + 1])[0].argmax(0))


def test_no_gradient_crosses_over() -> None:
    networks, images = Silent([0, 1]).double(), noise(2, 2, 8, 8)
    networks(images).losses["own"][0].backward()
    for parameter in networks.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().max() == 0
    assert networks.first.weight.grad[0].abs().max() > 0  # type: ignore[index]


def test_a_part_draws_from_the_same_generators_and_leaves_the_others_alone() -> None:
    networks = Small([0, 1, 2])
    before = copy.deepcopy(networks.state_dict())
    part = networks.part([2, 0])
    assert torch.equal(part.first.weight, before["first.weight"][[2, 0]])
    assert part.rngs == [networks.rngs[2], networks.rngs[0]]
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())


class Told(Networks):
    """Says labels by a rule of (seed, number of the pass); one parameter, so that there is something to train."""

    rule: Any

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__(seeds)
        self.weight = nn.Parameter(torch.zeros(len(seeds)))
        self.seed = nn.Buffer(torch.tensor(seeds))
        self.passes = 0

    def forward(self, images: Tensor) -> Step:
        self.passes += 1
        counts = [type(self).rule(int(seed), self.passes) for seed in self.seed]
        pixels = torch.arange(images[0, 0].numel()).view(images.shape[2:])
        return Step({"none": 0 * self.weight}, torch.stack([pixels % count for count in counts]))


def told(rule: Any) -> type[Told]:
    return type("Rule", (Told,), {"rule": staticmethod(rule)})


@pytest.mark.parametrize(("least", "stop", "expected"), [(1, 3, 7), (9, 3, 9), (1, 5, 5), (1, 0, 12), (30, 9, 12)])
def test_it_stops_with_few_labels_but_not_before(least: int, stop: int, expected: int) -> None:
    plan = Plan(least_iterations=least, stop_labels=stop)
    done = train(told(lambda _, passes: max(10 - passes, 2)), torch.rand(1, 1, 4, 5), [0], plan)
    assert done.iterations == (expected,)
    assert distinct(done.labels) == [max(10 - expected - 1, 2)]  # those of one more pass


def test_where_all_pixels_get_one_label_it_starts_anew() -> None:
    def rule(seed: int, passes: int) -> int:
        again, image = divmod(seed, RESTART_STRIDE)
        return {0: 2, 1: 1 if again < 2 else 3, 2: 1}[image]

    done = train(told(rule), torch.rand(3, 1, 4, 5), [0, 1, 2], Plan(restarts=2))
    assert done.restarts == (0, 2, 2)
    assert distinct(done.labels) == [2, 3, 1]
    assert done.iterations == (2, 2, 2)
    none = train(told(rule), torch.rand(1, 1, 4, 5), [1], Plan(restarts=0))
    assert (none.restarts, distinct(none.labels)) == ((0,), [1])


def test_one_pixel_cannot_be_told_apart() -> None:
    with pytest.raises(UsageError, match=r"(?s)an image of one pixel.*two pixels or more.*larger size"):
        train(Small, torch.rand(2, 2, 1, 1), [0, 1], Plan())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=4))
def test_distinct_counts(rows: list[list[int]]) -> None:
    assert distinct(torch.tensor(rows).view(-1, 2, 3)) == [len(set(row)) for row in rows]


def test_self_labelling_is_cross_entropy_with_the_own_argmax() -> None:
    logits = noise(3, 5, 4, 6).requires_grad_()
    loss, labels = self_labelling(logits)
    assert torch.equal(labels, logits.argmax(1))
    for row in range(3):
        expected = F.cross_entropy(logits[row : row + 1], labels[row : row + 1])
        assert loss[row].item() == pytest.approx(expected.item())
    assert self_labelling(torch.zeros(1, 5, 2, 2))[0].item() == pytest.approx(math.log(5))
    assert self_labelling(100 * F.one_hot(labels, 5).movedim(-1, 1).float())[0].max() < 1e-6


def test_draws_of_an_image_are_its_own() -> None:
    together, alone = solo.uniform(generators([1, 2]), 3, 2, low=-1, high=2), solo.uniform(generators([2]), 3, 2)
    torch.testing.assert_close(together[1], alone[0] * 3 - 1)
    assert -1 <= together.min() < together.max() < 2
