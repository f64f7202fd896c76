"""Intensity: each change does what it says, to the rows that were drawn, with each row's own parameters."""

import dataclasses
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from lemis.errors import UsageError
from lemis.sampling import intensity
from lemis.sampling.draw import Rows
from lemis.sampling.intensity import Intensity, augment
from lemis.settings import resolve

PROBABILITIES = [
    field.name
    for field in dataclasses.fields(Intensity)
    if field.name.startswith("p_") and field.name != "p_gamma_inverted"
]
# Colour distortion of SimCLR (Chen et al. 2020, appendix A) as far as it exists for grey values: brightness
# and contrast of strength 0.8 with probability 0.8 (brightness shifts, since 0 is the mean, not black), blur
# of sigma 0.1 to 2 with probability 0.5.
SIMCLR = Intensity(
    p_blur=0.5,
    blur_sigma_px=(0.1, 2.0),
    p_brightness=0.8,
    brightness_factor=(1.0, 1.0),
    brightness_shift=(0.0, 0.8),
    p_contrast=0.8,
    contrast_factor=(0.2, 1.8),
)

# nnU-Net v2's default for training with labels.
FINE_TUNING = Intensity(
    p_noise=0.1,
    p_blur=0.2,
    p_brightness=0.15,
    p_contrast=0.15,
    p_low_resolution=0.25,
    p_gamma=0.37,
    p_gamma_inverted=0.25,
)

EVERYTHING = Intensity(**dict.fromkeys(PROBABILITIES, 0.7), brightness_shift=(0.0, 0.5))


@pytest.fixture(params=[(2, 24, 30), (1, 6, 16, 18)], ids=["2d", "3d"])
def image(request: pytest.FixtureRequest) -> Tensor:
    smooth = torch.randn(6, *request.param, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    return (smooth - smooth.mean()) / smooth.std()


def rng(seed: int = 0) -> Rows:
    return Rows(seed, 0, "cpu")


class Reordered:
    """Numbers of another draw, rows in another order."""

    def __init__(self, inner: Rows, order: Tensor) -> None:
        self.inner, self.order = inner, order

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self.inner.uniform(rows, *shape, low=low, high=high)[self.order]

    def normal(self, rows: int, *shape: int) -> Tensor:
        return self.inner.normal(rows, *shape)[self.order]


def test_nothing_by_default(image: Tensor) -> None:
    assert augment(image, Intensity(), rng()) is image


@pytest.mark.parametrize("name", PROBABILITIES)
def test_each_change_changes_only_the_rows_drawn(name: str, image: Tensor) -> None:
    always = augment(image, Intensity(**{name: 1.0}), rng())
    assert always.shape == image.shape
    assert torch.isfinite(always).all()
    assert ((always - image).flatten(1).abs().amax(1) > 1e-4).all()
    many = image[:1].expand(200, *image.shape[1:])
    changed = (augment(many, Intensity(**{name: 0.3}), rng()) - many).flatten(1).abs().amax(1) > 1e-5
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize("settings", [EVERYTHING, SIMCLR, FINE_TUNING])
def test_parameters_belong_to_rows_not_to_the_batch(settings: Intensity, image: Tensor) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = augment(image, settings, rng())
    reordered = augment(image[order], settings, Reordered(rng(), order))
    torch.testing.assert_close(reordered, straight[order], atol=1e-5, rtol=1e-4)


def test_same_draw_same_image_and_half_precision(image: Tensor) -> None:
    assert torch.equal(augment(image, EVERYTHING, rng()), augment(image, EVERYTHING, rng()))
    assert not torch.equal(augment(image, EVERYTHING, rng()), augment(image, EVERYTHING, rng(1)))
    assert augment(image.half(), EVERYTHING, rng()).dtype == torch.float32


def test_constant_images_stay_finite() -> None:
    flat = torch.zeros(8, 1, 12, 12)
    assert torch.isfinite(augment(flat, Intensity(**dict.fromkeys(PROBABILITIES, 1.0)), rng())).all()


def test_brightness_is_a_factor_and_a_shift(image: Tensor) -> None:
    settings = Intensity(brightness_factor=(1.2, 1.2), brightness_shift=(0.3, 0.3))
    shift = intensity.brightness(image, settings, rng()) - image * 1.2
    torch.testing.assert_close(shift.abs(), torch.full_like(shift, 0.3), atol=1e-5, rtol=0)
    assert len(shift[:, 0].flatten(1)[:, 0].sign().unique()) == 2


def test_contrast_stretches_about_the_mean_within_the_range(image: Tensor) -> None:
    less = intensity.contrast(image, Intensity(contrast_factor=(0.5, 0.5)), rng())
    axes = tuple(range(2, image.dim()))
    torch.testing.assert_close(less.mean(axes), image.mean(axes), atol=1e-5, rtol=0)
    torch.testing.assert_close(less.std(axes), image.std(axes) / 2, atol=1e-5, rtol=0)
    more = intensity.contrast(image, Intensity(contrast_factor=(3.0, 3.0)), rng())
    torch.testing.assert_close(more.amax(axes), image.amax(axes))
    torch.testing.assert_close(more.amin(axes), image.amin(axes))


def test_gamma_keeps_moments_order_and_the_identity(image: Tensor) -> None:
    axes = tuple(range(2, image.dim()))
    for inverted in (0.0, 1.0):
        once = intensity.gamma(image, Intensity(gamma=(1.5, 1.5), p_gamma_inverted=inverted), rng())
        torch.testing.assert_close(once.mean(axes), image.mean(axes), atol=1e-4, rtol=0)
        torch.testing.assert_close(once.std(axes), image.std(axes), atol=1e-4, rtol=0)
        rank = image.flatten(2).argsort(-1)
        assert (once.flatten(2).gather(2, rank).diff(dim=-1) >= -1e-5).all()  # brighter stays brighter
        same = intensity.gamma(image, Intensity(gamma=(1.0, 1.0), p_gamma_inverted=inverted), rng())
        torch.testing.assert_close(same, image, atol=1e-4, rtol=0)
    squared = intensity.gamma(image, Intensity(gamma=(2.0, 2.0), p_gamma_inverted=0.0), rng())[0, 0]
    expected = ((image - image[0, 0].min()) ** 2)[0, 0]
    assert torch.corrcoef(torch.stack([squared.flatten(), expected.flatten()]))[0, 1] > 0.9999


def test_noise_has_the_strength_it_says() -> None:
    added = intensity.noise(torch.zeros(4, 1, 80, 80), Intensity(noise_std=(0.2, 0.2)), rng())
    assert added.std().item() == pytest.approx(0.2, rel=0.03)
    assert added.mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_blur_is_the_gaussian(sigma: float, image: Tensor) -> None:
    blurred = intensity.blur(image, Intensity(blur_sigma_px=(sigma, sigma)), rng())
    expected = image.numpy()
    for axis in range(2, image.dim()):
        expected = gaussian_filter1d(expected, sigma, axis, mode="nearest", radius=math.ceil(3 * sigma))
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


def test_low_resolution_keeps_every_other_pixel() -> None:
    image = torch.rand(1, 1, 16, 16)
    half = intensity.low_resolution(image, Intensity(low_resolution_scale=(0.5, 0.5)), rng())
    kept = image[..., 1::2, 1::2]
    expected = torch.nn.functional.interpolate(kept, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(half, expected, atol=1e-6, rtol=0)
    same = intensity.low_resolution(image, Intensity(low_resolution_scale=(1.0, 1.0)), rng())
    torch.testing.assert_close(same, image, atol=1e-6, rtol=0)


def test_bias_field_is_a_smooth_positive_gain(image: Tensor) -> None:
    axes = tuple(range(2, image.dim()))
    changed = intensity.bias_field(image, Intensity(bias_field_strength=(0.5, 0.5)), rng())
    darkest = image.amin(axes, keepdim=True)
    gain = (changed - darkest) / (image - darkest)
    real = (image - darkest) > 0.2
    assert (gain[real] > 0).all()
    assert gain[real].std() > 0.05
    log_gain = torch.where(real, gain.clamp(min=1e-3).log(), 0)
    both = real[..., 1:] & real[..., :-1]
    assert log_gain.diff(dim=-1)[both].abs().max() < 1.0
    none = intensity.bias_field(image, Intensity(bias_field_strength=(0.0, 0.0)), rng())
    torch.testing.assert_close(none, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("key", "value"), [("p_noise", 2), ("gamma", [0, 1]), ("blur_sigma_px", [2, 1])])
def test_settings_are_checked(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        resolve(Intensity, {key: value})
