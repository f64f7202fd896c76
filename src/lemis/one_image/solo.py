"""Many small networks side by side, one per image: what methods without a training set are built from.

Each image has its own network, which starts from the image's own seed and learns from this image alone. N of them run
at once: every parameter has a leading dimension N, a convolution of N networks is one grouped convolution, and batch
normalisation of a batch of one image is normalisation per image and channel. The losses stay apart, (N,), and backward
runs on their sum, so no gradient crosses over. The labels of an image are those that it gets alone.

With ``torch.manual_seed(seed)`` and PyTorch's own layers, made in the same order, the networks would be the same ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from math import sqrt
from typing import Any, Literal, NamedTuple, Protocol, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.contracts import Segmented
from lemis.errors import UsageError
from lemis.one_image import starts

RESTART_STRIDE = 1_000_003  # from a seed to the next try's; large, so that it is no other image's seed


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image; the layers of its network draw from it in turn."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniform(rngs: Sequence[torch.Generator], *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(N, *shape) float32 in [low, high), on the CPU, each row from its own generator."""
    return torch.stack([torch.rand(shape, generator=rng) for rng in rngs]).mul_(high - low).add_(low)


def normal(rngs: Sequence[torch.Generator], *shape: int) -> Tensor:
    """(N, *shape) float32, mean 0, standard deviation 1, on the CPU, each row from its own generator."""
    return torch.stack([torch.randn(shape, generator=rng) for rng in rngs])


@final
class Conv(nn.Module):
    """A 2D convolution in each of N networks, initialised as ``torch.nn.Conv2d``.

    Args:
        rngs: Of ``generators``, one per network.
        in_channels: Of each network.
        out_channels: Of each network.
        kernel_size: Square.
        depthwise: One filter a channel; ``out_channels`` equals ``in_channels``.
    """

    def __init__(
        self,
        rngs: Sequence[torch.Generator],
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        depthwise: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if depthwise and in_channels != out_channels:
            raise ValueError(f"depthwise: {in_channels} channels in, {out_channels} out")
        self.stride, self.padding, self.dilation = stride, padding, dilation
        fan = (1 if depthwise else in_channels, kernel_size, kernel_size)
        self.weight, self.bias = _linear_map(rngs, out_channels, fan, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        n, channels = x.shape[:2]
        kernel = self.weight.shape[-1]
        if kernel == 1 and self.stride == 1 and self.padding == 0:
            return _pointwise(x, self.weight.flatten(2), self.bias)
        flat = x.reshape(1, n * channels, *x.shape[2:])
        weight, bias = self.weight.flatten(0, 1), None if self.bias is None else self.bias.flatten()
        groups = n * channels // weight.shape[1]
        same = self.stride == 1 and kernel % 2 == 1 and self.padding == kernel // 2 * self.dilation
        if self.dilation > 1 and same and x.device.type == "cpu":
            out = _by_phases(flat, weight, bias, self.dilation, groups)
        else:
            out = F.conv2d(flat, weight, bias, self.stride, self.padding, self.dilation, groups)
        return out.view(n, -1, *out.shape[2:])


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # A 1x1 convolution is a matrix product; faster on a CPU than a grouped convolution.
    flat = x.flatten(2)
    out = weight @ flat if bias is None else torch.baddbmm(bias[:, :, None], weight, flat)
    return out.view(len(x), -1, *x.shape[2:])


def _by_phases(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, groups: int) -> Tensor:
    # Every d-th row and column is an image by itself, and there the kernel is dense: a batch of d^2 small images. On a
    # CPU, with channels last, that is faster than a dilated one.
    d, (channels, height, width) = dilation, x.shape[1:]
    rows, columns = -(-height // d), -(-width // d)
    x = F.pad(x, (0, columns * d - width, 0, rows * d - height))
    phases = x.view(channels, rows, d, columns, d).permute(2, 4, 1, 3, 0).reshape(d * d, rows, columns, channels)
    out = F.conv2d(phases.movedim(-1, 1), weight, bias, padding=weight.shape[-1] // 2, groups=groups).movedim(1, -1)
    whole = out.reshape(d, d, rows, columns, -1).permute(4, 2, 0, 3, 1).reshape(1, -1, rows * d, columns * d)
    return whole[:, :, :height, :width]


@final
class Linear(nn.Module):
    """An affine map of the last axis in each of N networks, initialised as ``torch.nn.Linear``."""

    def __init__(
        self, rngs: Sequence[torch.Generator], in_features: int, out_features: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight, self.bias = _linear_map(rngs, out_features, (in_features,), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, rows, in) -> (N, rows, out)."""
        weight = self.weight.transpose(1, 2)
        return x @ weight if self.bias is None else torch.baddbmm(self.bias[:, None], x, weight)


@final
class Norm(nn.Module):
    """Batch normalisation in training mode of a batch of one image: by the statistics of each image and channel."""

    def __init__(self, n: int, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, channels))
        self.bias = nn.Parameter(torch.zeros(n, channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *space), more than one position, -> the same shape."""
        # The strides of a batch of one can fit two layouts at once, and then PyTorch 2.13's backward pass gives wrong
        # numbers on a CPU, without a word: all that it reads must be contiguous, the gradient too.
        flat = x.reshape(1, -1, *x.shape[2:]).contiguous()
        normed = F.batch_norm(flat, None, None, self.weight.flatten(), self.bias.flatten(), training=True, eps=self.eps)
        if normed.requires_grad:
            normed.register_hook(Tensor.contiguous)
        return normed.view(x.shape)


def _linear_map(
    rngs: Sequence[torch.Generator], out: int, fan: tuple[int, ...], *, bias: bool
) -> tuple[nn.Parameter, nn.Parameter | None]:
    weight, offset = torch.empty(len(rngs), out, *fan), torch.empty(len(rngs), out)
    bound = 1 / sqrt(weight[0, 0].numel())
    for row, rng in enumerate(rngs):  # weight, then bias, as PyTorch's layers draw them
        nn.init.kaiming_uniform_(weight[row], a=sqrt(5), generator=rng)
        if bias:
            offset[row].uniform_(-bound, bound, generator=rng)
    return nn.Parameter(weight), nn.Parameter(offset) if bias else None


class Step(NamedTuple):
    """What N networks say of their images in one forward pass."""

    losses: dict[str, Tensor]  # named terms (N,), weights applied; the sum of all is minimised
    labels: Tensor  # (N, H, W) int64, no gradient


class Networks(nn.Module, ABC):
    """N networks of one architecture. Every parameter and buffer has the leading dimension N.

    A subclass builds its layers from ``self.rngs``, and draws from it whatever is random in a step.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.rngs = generators(seeds)

    @abstractmethod
    def forward(self, images: Tensor) -> Step:
        """(N, C, H, W) -> losses and labels, those of an image from this image and its own network alone."""

    def keep(self, rows: list[int]) -> None:
        """Go on with these of the N networks. In place; no graph of an earlier pass may be alive."""
        self.rngs = [self.rngs[row] for row in rows]
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.grad, tensor.data = None, tensor.data[rows]

    def part(self, rows: list[int]) -> Self:
        """A copy of these of the N networks, which draws from the same generators."""
        copy = deepcopy(self, {id(self.rngs): self.rngs})  # a generator that was copied would draw the same twice
        copy.keep(rows)
        return copy


class Schedule(Protocol):
    """How the networks are trained: fields that a method's ``Settings`` has among its own."""

    @property
    def learning_rate(self) -> float:
        """Constant."""

    @property
    def momentum(self) -> float:
        """Of SGD."""

    @property
    def max_iterations(self) -> int:
        """An image stops here at the latest."""

    @property
    def stop_labels(self) -> int:
        """It stops once it has so many distinct labels or fewer."""

    @property
    def least_iterations(self) -> int:
        """But not before."""

    @property
    def restarts(self) -> int:
        """How often it starts anew from another seed because all pixels had got one label."""

    @property
    def starts(self) -> int:
        """Networks an image; the labels are those of the one whose clusters explain most of it."""


Optimiser = Literal["sgd", "adam"]


def train(
    make: Callable[[Sequence[int]], Networks],
    images: Tensor,
    seeds: Sequence[int],
    schedule: Schedule,
    *,
    optimiser: Optimiser = "sgd",
) -> Segmented:
    """Train one network per image, side by side, and label each image by its own.

    An image that has few labels left leaves the batch. The labels are those of one more forward pass, which normalises
    as in training. Where that leaves one label, the image starts anew from another seed, ``restarts`` times at most;
    then one label is what it gets. All of it happens ``starts`` times, and the best is kept.

    Args:
        make: Seeds -> untrained networks, on the CPU.
        images: (N, C, H, W) float32, or float64 and then all in float64; more than one pixel each.
        seeds: One per image.
        schedule: A method's settings; ``momentum`` is not read with Adam.
        optimiser: Of all networks, each parameter on its own.

    Raises:
        UsageError: Images of one pixel.
    """
    if images[0, 0].numel() == 1:
        raise UsageError(
            "an image of one pixel", allowed="two pixels or more, so that there is something to tell apart",
            next="give a larger image or a larger size",
        )  # fmt: skip
    run = partial(_until_told_apart, make, schedule=schedule, optimiser=optimiser)
    return starts.best_of(schedule.starts, run, images, seeds)


def _until_told_apart(
    make: Callable[[Sequence[int]], Networks],
    images: Tensor,
    seeds: Sequence[int],
    schedule: Schedule,
    optimiser: Optimiser,
) -> Segmented:
    n = len(images)
    labels = torch.zeros(n, *images.shape[2:], dtype=torch.int64, device=images.device)
    iterations, restarts = [0] * n, [0] * n
    todo = list(range(n))
    for attempt in range(schedule.restarts + 1):
        tried = [seeds[row] + attempt * RESTART_STRIDE for row in todo]
        labels[todo], done = _run(make, images[todo], tried, schedule, optimiser)
        for row, count in zip(todo, done, strict=True):
            iterations[row], restarts[row] = count, attempt
        todo = [row for row, count in zip(todo, distinct(labels[todo]), strict=True) if count == 1]
        if not todo:
            break
    return Segmented(labels, tuple(iterations), tuple(restarts))


def distinct(labels: Tensor) -> list[int]:
    """(N, *space) integers >= 0 -> how many different ones each image has."""
    flat = labels.flatten(1)
    seen = torch.zeros(len(flat), int(flat.max()) + 1, dtype=torch.bool, device=flat.device)
    counts: list[int] = seen.scatter_(1, flat, True).sum(1).tolist()
    return counts


def self_labelling(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each pixel with its own largest logit.

    Args:
        logits: (N, K, *space).

    Returns:
        (N,), a mean over the pixels of each image; and those labels (N, *space), without gradient.
    """
    labels = logits.detach().argmax(1)
    return F.cross_entropy(logits, labels, reduction="none").flatten(1).mean(1), labels


def _run(
    make: Callable[[Sequence[int]], Networks],
    images: Tensor,
    seeds: Sequence[int],
    schedule: Schedule,
    optimiser: Optimiser,
) -> tuple[Tensor, list[int]]:
    networks = make(seeds).to(images.device, images.dtype)
    rule = _optimiser(networks, schedule, optimiser)
    labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64, device=images.device)
    iterations = [0] * len(images)
    active = list(range(len(images)))  # which image a row of ``networks`` belongs to
    for iteration in range(1, schedule.max_iterations + 1):
        counts = distinct(_update(networks, images[active], rule))
        over = iteration == schedule.max_iterations
        few = schedule.stop_labels if iteration >= schedule.least_iterations else 0
        finished = [row for row, count in enumerate(counts) if over or count <= few]
        if finished:
            places = [active[row] for row in finished]
            # The others are left alone: one pass more would draw random numbers more.
            labels[places] = _label(networks.part(finished), images[places])
            for place in places:
                iterations[place] = iteration
            stay = [row for row in range(len(active)) if row not in finished]
            if not stay:
                break
            active = [active[row] for row in stay]
            _keep(networks, rule, stay)
    return labels, iterations


@torch.no_grad()
def _label(networks: Networks, images: Tensor) -> Tensor:
    step: Step = networks(images)
    return step.labels


def _update(networks: Networks, images: Tensor, rule: torch.optim.Optimizer) -> Tensor:
    step: Step = networks(images)
    rule.zero_grad()
    torch.stack(list(step.losses.values())).sum().backward()
    rule.step()
    return step.labels


def _optimiser(networks: Networks, schedule: Schedule, kind: Optimiser) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(networks.parameters(), lr=schedule.learning_rate)
    return torch.optim.SGD(networks.parameters(), lr=schedule.learning_rate, momentum=schedule.momentum)


def _keep(networks: Networks, rule: torch.optim.Optimizer, rows: list[int]) -> None:
    networks.keep(rows)
    for state in rule.state.values():
        _keep_rows(state, rows)


def _keep_rows(state: dict[str, Any], rows: list[int]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0:  # Adam's count of steps is one for all
            state[name] = value[rows]
