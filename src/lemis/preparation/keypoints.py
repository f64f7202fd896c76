"""Keypoints of prepared slices: where they are, and what each looks like.

Yang et al., "Keypoint-Augmented Self-Supervised Learning for Medical Image Segmentation with Limited Annotation"
(KAF), NeurIPS 2023, section 3.1, finds them with SIFT (Lowe 2004). They are found on the prepared slice: resampled,
normalised, cut to the field of view, rounded to float16 as in the store. So they depend on that slice and on
``Settings`` alone, and a new scan at prediction time has exactly those that it would have had in training.

Differences from the authors' code: one keypoint per pixel (SIFT gives one per orientation, and the index map of an
augmentation holds one), strongest first in place of a random order, and no more than ``most``.

Axis letters: C channels, H rows, W columns, n slices, N keypoints, D numbers per descriptor.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.settings import refuse_contradictions
from lemis.settings import resolve

Array = NDArray[Any]
# A bright and a dark spot, for detectors of the user's to be tried on before hundreds of scans are read.
_ROWS, _COLS = np.indices((64, 64)) - 20.0
_TRIED: NDArray[np.uint8] = (
    128 + 127 * np.exp(-(_ROWS**2 + _COLS**2) / 50) - 128 * np.exp(-((_ROWS - 24) ** 2 + _COLS**2) / 80)
).astype(np.uint8)
Detector = Callable[[NDArray[np.uint8]], tuple[Array, Array, Array]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How keypoints are found."""

    detector: str = "sift"  # KAF 3.1; or a dotted name, my_lab.superpoint.detect: a function as in load_detector
    most: Annotated[int, Field(gt=0)] = 256  # per slice, the strongest; ours: KAF has no limit, attention is quadratic


@dataclass(frozen=True, kw_only=True)
class _Preparation(Preparation):
    """The keys of ``lemis prepare``: those of the images, and one more."""

    keypoints: Settings | None = None


class Keypoints(NamedTuple):
    """Those of one slice, strongest first."""

    place: NDArray[np.float32]  # (N, 2) row and column, whole numbers
    descriptor: Array  # (N, D) uint8 (SIFT) or float16


class ScanKeypoints(NamedTuple):
    """Those of all slices of one scan, slice after slice."""

    count: NDArray[np.int32]  # type: ignore[assignment]  # (n,) of each slice; not tuple.count
    place: NDArray[np.int16]  # (sum of count, 2) row and column
    descriptor: Array  # (sum of count, D)


def preparation(*layers: Mapping[str, Any], prefix: str = "") -> tuple[Preparation, Settings | None]:
    """Both settings of ``lemis prepare`` from layers of its keys; the key ``keypoints`` holds ours.

    Args:
        layers: Mappings, later ones first in precedence: ``{"spacing_mm": 2.0, "keypoints": {"detector": "sift"}}``.
        prefix: What the user typed before the keys (``"prepare."``), for messages.

    Returns:
        The images' settings, and the keypoints' or None where no layer asks for keypoints.

    Raises:
        UsageError: An unknown key, a wrong value, a detector that there is not, or settings that contradict each
            other.
    """
    both = resolve(_Preparation, *layers, prefix=prefix)
    if both.keypoints is not None:
        load_detector(both.keypoints.detector)
    images = {field.name: getattr(both, field.name) for field in dataclasses.fields(Preparation)}
    found = Preparation(**images)
    refuse_contradictions(found, prefix)
    return found, both.keypoints


def find(image: Array, settings: Settings) -> Keypoints:
    """Keypoints of one prepared slice (C, H, W), at most one per pixel; none where it is constant.

    Channels are averaged; values that are not finite count as 0, the mean intensity of the scan.

    Raises:
        UsageError: A detector that there is not, or that returns something else than ``load_detector`` says.
    """
    detect = load_detector(settings.detector)
    grey = to_bytes(image)
    place, response, descriptor = _detected(detect, grey, settings.detector)
    place = np.clip(np.rint(place), 0, np.array(grey.shape) - 1).astype(np.int64)
    if grey.max() == 0:  # a constant slice; whatever is found in it is not there
        place, response, descriptor = place[:0], response[:0], descriptor[:0]
    # Ties in strength go by row and column, and where these are equal too by the detector's own order.
    order = np.lexsort((place[:, 1], place[:, 0], -response))
    _, first = np.unique(place[order] @ (grey.shape[1], 1), return_index=True)
    chosen = order[np.sort(first)[: settings.most]]
    return Keypoints(place[chosen].astype(np.float32), descriptor[chosen])


def find_all(images: Array, settings: Settings) -> ScanKeypoints:
    """Keypoints of all slices (n, C, H, W) of a scan.

    Raises:
        UsageError: As ``find``; or descriptors of different lengths.
    """
    assert max(images.shape[2:]) <= np.iinfo(np.int16).max, "rows and columns are stored as int16"
    found = [find(image, settings) for image in images]
    lengths = sorted({one.descriptor.shape[1] for one in found})
    if len(lengths) > 1:
        raise _wrong(settings.detector, f"descriptors of {' and '.join(map(str, lengths))} numbers")
    return ScanKeypoints(
        np.array([len(one.place) for one in found], np.int32),
        np.concatenate([one.place for one in found]).astype(np.int16),
        np.concatenate([one.descriptor for one in found]),
    )


def to_bytes(image: Array) -> NDArray[np.uint8]:
    """(C, H, W) -> the mean of the channels (H, W), its range stretched to 0..255; all 0 where it is constant."""
    grey = np.where(np.isfinite(image), image, 0).astype(np.float64).mean(axis=0)
    grey -= grey.min()
    scaled: NDArray[np.uint8] = np.rint(grey * (255 / (grey.max() or 1))).astype(np.uint8)
    return scaled


def load_detector(name: str) -> Detector:
    """The function of a detector: ``sift``, or a dotted name from outside the package.

    It takes any slice as an image (H, W) uint8 and returns ``place (N, 2)`` (row and column, pixel centres at whole
    numbers), ``response (N,)`` (larger is stronger) and ``descriptor (N, D)``, with one D also where N is 0.

    Raises:
        UsageError: There is no such function, or it does not do this with an image that it is tried on.
    """
    return _sift if name == "sift" else _own(name)


def _own(name: str) -> Detector:
    module, _, function = name.rpartition(".")
    found = None
    if module and plugins.is_module(module):
        found = getattr(plugins.own(module, f"detector {shown(name, quoted=False)}"), function, None)
    if not callable(found):
        raise UsageError(
            f"detector {shown(name)}",
            allowed="sift, or the dotted name of a function in an importable module",
            next="keypoints.detector=sift",
        )
    detector: Detector = found
    _try(detector, name)
    return detector


@functools.cache
def _try(detector: Detector, name: str) -> None:
    _detected(detector, _TRIED, name)


def _detected(detect: Detector, image: NDArray[np.uint8], name: str) -> tuple[Array, Array, Array]:
    try:
        found = detect(image)
    except (Exception, SystemExit) as error:
        if name == "sift":
            raise
        said = f"nothing: it ends with {type(error).__name__}: {shown(str(error), quoted=False)}"
        raise _wrong(name, said) from error
    return _checked(found, image.shape, name)


def _sift(image: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
    import cv2  # here, as training from stored keypoints does not need it

    points, descriptor = cv2.SIFT.create().detectAndCompute(image, None)
    if descriptor is None:
        return np.zeros((0, 2)), np.zeros(0), np.zeros((0, 128), np.uint8)
    place = np.array([(point.pt[1], point.pt[0]) for point in points])
    # The 128 numbers are whole and at most 255: a quarter of the bytes at no loss.
    return place, np.array([point.response for point in points]), descriptor.astype(np.uint8)


def _checked(found: Any, shape: tuple[int, ...], name: str) -> tuple[Array, Array, Array]:
    try:
        place, response, descriptor = (np.asarray(array) for array in found)
        shapes = place.shape, response.shape, descriptor.shape
        place, response = place.astype(np.float64), response.astype(np.float64)
        if descriptor.dtype != np.uint8:
            with np.errstate(over="ignore"):  # seen below
                descriptor = descriptor.astype(np.float16)
    except (TypeError, ValueError):
        raise _wrong(name, "something else than three arrays of numbers") from None
    if shapes[:2] != ((response.size, 2), (response.size,)) or shapes[2][:-1] != (response.size,):
        raise _wrong(name, f"arrays of shapes {', '.join(map(str, shapes))}")
    if not all(np.isfinite(array).all() for array in (place, response, descriptor)):
        raise _wrong(name, "numbers that are not finite in float16")
    outside = ((place < -0.5) | (place > np.array(shape) - 0.5)).any(axis=1)
    if outside.any():
        raise _wrong(name, f"a place {place[outside][0].tolist()} in an image of shape {shape}")
    return place, response, descriptor


def _wrong(name: str, returned: str) -> UsageError:
    return UsageError(
        f"detector {name} returns {returned}",
        allowed="place (N, 2) as row and column inside the image, response (N,), descriptor (N, D); finite",
        next=f"correct {name}, or keypoints.detector=sift",
    )
