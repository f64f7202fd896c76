"""Distorted views of slices, and what a network is to restore from them: the released code of CAiD and of DiRA."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, final

from lemis.contracts import Batch, Draw, View
from lemis.parts import corrupt
from lemis.sampling.intensity import Intensity, augment
from lemis.sampling.views import HowTwo, two_views

PUBLISHED_PX = 224  # side of a view in that code
# Colour jitter of 0.4 and blur of that code, as far as they exist for grey values in [0, 1].
JITTER = Intensity(
    p_brightness=0.8,
    brightness_factor=(0.6, 1.4),
    p_contrast=0.8,
    contrast_factor=(0.6, 1.4),
    p_blur=0.5,
    blur_sigma_px=(0.1, 2.0),
)


class HowDistorted(HowTwo, Protocol):
    """What ``DistortedViews`` reads of a method's settings."""

    @property
    def size_px(self) -> int:
        """Side of a view; slices only."""

    @property
    def photometric(self) -> Literal["released", "identity"]:
        """``JITTER``, its blur enlarged with the view, or no change of grey values."""

    @property
    def distortion(self) -> corrupt.Distortion:
        """Which boxes are cut out or swapped."""


@final
class DistortedViews:
    """Two geometric views of every slice, both jittered and distorted, and the first one before that."""

    def __init__(self, settings: HowDistorted) -> None:
        self.settings = settings
        low, high = (sigma * settings.size_px / PUBLISHED_PX for sigma in JITTER.blur_sigma_px)
        self.jitter = replace(JITTER, blur_sigma_px=(low, high))

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``query`` and ``key``, and ``target``, in grey values of [0, 1]; each (B, C, size_px, size_px)."""
        how = self.settings
        low, span = corrupt.value_range(batch.image, batch.inside)
        first, second = two_views(how.spatial, batch, how.size_px, rng).values()
        drawn = {}
        for key, view in (("query", first), ("key", second)):
            grey = changed = ((view.image - low) / span).clamp(0, 1)
            if how.photometric == "released":
                changed = augment(grey, self.jitter, rng).clamp(0, 1)
            drawn[key] = view._replace(image=low + span * corrupt.distort(changed, how.distortion, rng))
            if key == "query":
                drawn["target"] = view._replace(image=grey)
        return drawn
