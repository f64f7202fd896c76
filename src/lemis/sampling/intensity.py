"""Changes of intensity, batched on the device: every row has its own parameters, all rows change together.

Made for z-scored images: no change assumes that values are positive or that 0 is air. Nothing moves a pixel,
so labels and geometry stay as they are. 2D and 3D are one implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.contracts import Draw
from lemis.settings import PositiveRange, Probability, Range


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How intensities are changed, in the order of the fields. All probabilities are 0: PCL's recipe.

    Ranges are nnU-Net v2's, which were chosen on z-scored CT and MR. Every row is drawn on its own; all
    channels of a row share its parameters, while noise differs in every pixel.
    """

    p_bias_field: Probability = 0.0
    bias_field_strength: Range = (0.0, 0.5)  # largest coefficient of log gain, a cubic polynomial (TorchIO)
    p_noise: Probability = 0.0
    noise_std: Range = (0.0, 0.3)  # in z-scored units; nnU-Net's variance of up to 0.1
    p_blur: Probability = 0.0
    blur_sigma_px: PositiveRange = (0.5, 1.0)
    p_brightness: Probability = 0.0
    brightness_factor: PositiveRange = (0.75, 1.25)  # multiplies values
    brightness_shift: Range = (0.0, 0.0)  # then added with a random sign, in z-scored units
    p_contrast: Probability = 0.0
    contrast_factor: PositiveRange = (0.75, 1.25)  # stretches values about their mean, within their range
    p_low_resolution: Probability = 0.0
    low_resolution_scale: PositiveRange = (0.5, 1.0)  # of rows and columns, in 3D too
    p_gamma: Probability = 0.0
    gamma: PositiveRange = (0.7, 1.5)  # exponent on values scaled to [0, 1]; mean and deviation are restored
    p_gamma_inverted: Probability = 0.25  # given a gamma: applied to the negative; nnU-Net's 0.1 against 0.3


def augment(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """(B, C, *space) z-scored -> the same shape in float32, each row changed by its own draw.

    A change of probability 0 draws no random number; with all of them 0 the image itself comes back.
    """
    changes: list[tuple[float, Callable[[Tensor, Intensity, Draw], Tensor]]] = [
        (settings.p_bias_field, bias_field),
        (settings.p_noise, noise),
        (settings.p_blur, blur),
        (settings.p_brightness, brightness),
        (settings.p_contrast, contrast),
        (settings.p_low_resolution, low_resolution),
        (settings.p_gamma, gamma),
    ]
    with torch.autocast(image.device.type, enabled=False):
        for probability, change in changes:
            if probability > 0:
                image = image.float()
                on = rng.uniform(len(image)) < probability
                image = torch.where(_rows(on, image), change(image, settings, rng), image)
    return image


def bias_field(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """A slow change of gain, as of MR coils: values above the darkest times exp(cubic polynomial)."""
    rows, space = len(image), image.shape[2:]
    powers = [p for p in product(range(4), repeat=len(space)) if 0 < sum(p) <= 3]
    strength = _between(settings.bias_field_strength, rows, rng)
    coefficients = rng.uniform(rows, len(powers), low=-1.0, high=1.0) * strength[:, None]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n, device=image.device) for n in space], indexing="ij")
    monomials = [[x**p for x, p in zip(axes, power, strict=True)] for power in powers]
    terms = torch.stack([torch.stack(factors).prod(0) for factors in monomials])
    field = (coefficients @ terms.flatten(1)).exp().view(rows, 1, *space)
    darkest = image.amin(_inner(image), keepdim=True)
    return (image - darkest) * field + darkest


def noise(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """Independent Gaussian noise in every pixel."""
    return image + _rows(_between(settings.noise_std, len(image), rng), image) * rng.normal(*image.shape)


def blur(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """A Gaussian of unit sum along each axis; edges continue as they end."""
    sigma = _between(settings.blur_sigma_px, len(image), rng)  # (B,)
    radius = ceil(3 * settings.blur_sigma_px[1])
    away = torch.arange(-radius, radius + 1, device=image.device)
    kernel = (-0.5 * (away / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], dim=0)  # (B C, width)
    for axis in range(2, image.dim()):
        lines = image.movedim(axis, -1)
        groups = lines.reshape(1, len(kernel), -1, lines.shape[-1])  # (1, B C, other axes, n)
        padded = F.pad(groups, (radius, radius, 0, 0), mode="replicate")
        blurred = F.conv2d(padded, kernel[:, None, None], groups=len(kernel))
        image = blurred.view(lines.shape).movedim(-1, axis)
    return image.contiguous()


def brightness(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """Values times a factor, plus a shift."""
    factor = _between(settings.brightness_factor, len(image), rng)
    shift = _between(settings.brightness_shift, len(image), rng) * (rng.uniform(len(image)) - 0.5).sign()
    return image * _rows(factor, image) + _rows(shift, image)


def contrast(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """Values stretched about each channel's mean, never beyond the channel's old range."""
    factor = _rows(_between(settings.contrast_factor, len(image), rng), image)
    axes = _inner(image)
    mean, low, high = (
        image.mean(axes, keepdim=True),
        image.amin(axes, keepdim=True),
        image.amax(axes, keepdim=True),
    )
    return ((image - mean) * factor + mean).clamp(low, high)


def low_resolution(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """Only some rows and columns are kept, and the pixels between are filled in linearly."""
    scale = _between(settings.low_resolution_scale, len(image), rng)  # (B,)
    for axis in (image.dim() - 2, image.dim() - 1):
        n = image.shape[axis]
        kept = (n * scale).round().clamp(min=1)[:, None]  # (B, 1) samples along this axis
        place = ((torch.arange(n, device=image.device) + 0.5) * kept / n - 0.5).clamp(min=0)  # in kept samples
        before = place.floor().minimum(kept - 1)
        after = (before + 1).minimum(kept - 1)
        weight = _along(place - before, image, axis)
        first, second = ((((k + 0.5) * n / kept).long().clamp(max=n - 1)) for k in (before, after))
        image = torch.lerp(_pick(image, first, axis), _pick(image, second, axis), weight)
    return image


def gamma(image: Tensor, settings: Intensity, rng: Draw) -> Tensor:
    """((x - min) / range) ^ gamma, of the image or its negative; channels keep mean and deviation."""
    exponent = _rows(_between(settings.gamma, len(image), rng), image)
    sign = 1 - 2 * (rng.uniform(len(image)) < settings.p_gamma_inverted).float()
    axes = _inner(image)
    turned = image * _rows(sign, image)
    low, high = turned.amin(axes, keepdim=True), turned.amax(axes, keepdim=True)
    shaped = ((turned - low) / (high - low).clamp(min=1e-7)) ** exponent * _rows(sign, image)
    (old_std, old_mean), (std, mean) = (
        torch.std_mean(values, axes, keepdim=True, correction=0) for values in (image, shaped)
    )
    return (shaped - mean) * (old_std / std.clamp(min=1e-7)) + old_mean


def _between(ends: tuple[float, float], rows: int, rng: Draw) -> Tensor:
    return rng.uniform(rows, low=ends[0], high=ends[1])


def _rows(values: Tensor, image: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...), to act on whole rows of ``image``."""
    return values.view(-1, *[1] * (image.dim() - 1))


def _inner(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.dim()))


def _along(values: Tensor, image: Tensor, axis: int) -> Tensor:
    """(B, n) -> n along ``axis`` of ``image``, 1 elsewhere."""
    return values.view(len(image), *[image.shape[a] if a == axis else 1 for a in range(1, image.dim())])


def _pick(image: Tensor, index: Tensor, axis: int) -> Tensor:
    """Each row's own places ``index`` (B, n) along ``axis``."""
    return image.gather(axis, _along(index, image, axis).expand(image.shape))
