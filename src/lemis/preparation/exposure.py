"""What a training has seen: which scans, recognised by their content, and how far a new scan is from them.

A name is no identity: a scan may be stored anew under another one, in another format, or turned. So a run keeps the
digests of the images and labels of its data set with their subjects, and what its scans were like.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings, settle
from lemis.preparation.slices import in_plane

# Scanners of one data set differ by so much without harm: ACDC's pixels are 0.7 to 1.9 mm wide.
MOST_SPACING_FACTOR = 1.5
# Images are normalised, so that scale alone does little; a unit or a kind of image that was never seen is beyond this.
MOST_STD_FACTOR, MOST_MEAN_STDS = 3.0, 1.0
SLICE_DIRECTION = "slice direction"
_AXES = ("sagittal", "coronal", "axial")
_UNNAMED = ("image", "channel ")  # what channels are called where nothing names them

Range = tuple[float, float]  # least and most


@dataclass(frozen=True, kw_only=True)
class Known:
    """Scans by digest (``scans.image_digest``)."""

    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # subjects; several where a scan is there twice
    labels: Mapping[str, str] = field(default_factory=dict)  # subject; without labels that several subjects share

    def subjects(self, image: str, label: str = "") -> frozenset[str]:
        """Whose scan this is, by its content; empty for a scan that was never seen."""
        return frozenset([*self.images.get(image, ()), *([self.labels[label]] if label in self.labels else [])])


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """The ranges in which the scans of a training lie."""

    pixel_mm: Range
    slice_mm: Range  # from slice to slice
    slice_axes: tuple[int, ...]
    mean: tuple[Range, ...]  # of the intensities of a scan, for each channel
    std: tuple[Range, ...]


@dataclass(frozen=True, kw_only=True)
class MeasuredField:
    """What ``field_of_view_mm: auto`` is by the labels of fewer and fewer subjects; None: the whole slice.

    Scans are prepared once for all folds, so the first one is that of the images, test subjects included.
    """

    of_all_mm: float | None
    of_training_mm: float | None  # the subjects that a run may be trained on
    of_labelled_mm: float | None  # those of them whose labels it learned from

    @property
    def leak(self) -> str | None:
        """In words, where it is another one with the labels of test subjects than without them."""
        if self.of_all_mm == self.of_training_mm:
            return None
        sides = ["the whole slice" if mm is None else f"{mm:g} mm" for mm in (self.of_all_mm, self.of_training_mm)]
        fixed = "null" if self.of_training_mm is None else f"{self.of_training_mm:g}"
        return (
            f"the field of view ({sides[0]}) was measured on labels of subjects that are not trained on, too; without "
            f"them it would be {sides[1]} (prepare.field_of_view_mm={fixed})"
        )


class Strange(NamedTuple):
    """One way in which a scan is far from all that a run was trained on."""

    kind: str
    seen: str  # with the numbers


def known(scans: Iterable[Facts]) -> Known:
    """What is known of prepared scans."""
    images: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    for scan in scans:
        for digests, digest in ((images, scan.image_digest), (labels, scan.label_digest)):
            if digest:
                digests.setdefault(digest, set()).add(scan.subject)
    return Known(
        images={digest: tuple(sorted(subjects)) for digest, subjects in images.items()},
        labels={digest: subject for digest, (subject, *others) in labels.items() if not others},
    )


def joined(parts: Iterable[Known]) -> Known:
    """All that any of them knows."""
    images: dict[str, tuple[str, ...]] = {}
    labels: dict[str, str] = {}
    for part in parts:
        labels |= part.labels
        for digest, subjects in part.images.items():
            images[digest] = tuple(sorted({*images.get(digest, ()), *subjects}))
    return Known(images=images, labels=labels)


def likeness(scans: Sequence[Facts]) -> Likeness:
    """The ranges of prepared scans, at least one."""
    pixels = [mm for scan in scans for mm in _pixel_mm(scan)]
    between = [_slice_mm(scan) for scan in scans]
    channels = list(zip(*(scan.intensity for scan in scans), strict=True))
    return Likeness(
        pixel_mm=(min(pixels), max(pixels)),
        slice_mm=(min(between), max(between)),
        slice_axes=tuple(sorted({scan.slice_axis for scan in scans})),
        mean=tuple((min(one.mean for one in channel), max(one.mean for one in channel)) for channel in channels),
        std=tuple((min(one.std for one in channel), max(one.std for one in channel)) for channel in channels),
    )


def measured_field(
    scans: Sequence[Facts],
    asked: Settings,
    field_mm: float | None,
    training: Collection[str],
    labelled: Collection[str],
) -> MeasuredField | None:
    """The field of view, as the labels of fewer subjects would have given it.

    Args:
        scans: The whole store.
        asked: How it was asked to be prepared.
        field_mm: The field of view that it was prepared with.
        training: Subjects that a run may be trained on.
        labelled: Those of them whose labels it learns from.

    Returns:
        None where it is not measured on labels, or a label was not measured.
    """
    if asked.field_of_view_mm != "auto" or any(scan.labelled and scan.extent_mm is None for scan in scans):
        return None
    planes = [in_plane(scan.canonical_shape, scan.canonical_spacing_mm, scan.slice_axis) for scan in scans]

    def by(subjects: Collection[str]) -> float | None:
        extents = [scan.extent_mm for scan in scans if scan.subject in subjects and scan.extent_mm is not None]
        field = settle(asked, planes, extents).field_of_view_mm
        assert field != "auto", "it is settled"
        # All of it lies inside the field that is there, so where that was kept from fewer labels, these keep it too.
        return field if field is None or field_mm is None else min(field, field_mm)

    return MeasuredField(of_all_mm=field_mm, of_training_mm=by(training), of_labelled_mm=by(labelled))


def wider(one: Likeness, other: Likeness) -> Likeness:
    """The ranges that hold the scans of both."""
    return Likeness(
        pixel_mm=_around(one.pixel_mm, other.pixel_mm),
        slice_mm=_around(one.slice_mm, other.slice_mm),
        slice_axes=tuple(sorted({*one.slice_axes, *other.slice_axes})),
        mean=tuple(map(_around, one.mean, other.mean)),
        std=tuple(map(_around, one.std, other.std)),
    )


def strange(scan: Facts, like: Likeness, channels: Sequence[str]) -> list[Strange]:
    """How a prepared scan differs from all that a run was trained on.

    Args:
        scan: Prepared as the run wants it.
        like: What the run was trained on.
        channels: Their names, for the words.
    """
    found = []
    for kind, seen, (low, high) in (
        ("pixel size", _pixel_mm(scan), like.pixel_mm),
        ("distance of slices", (_slice_mm(scan),), like.slice_mm),
    ):
        if min(seen) * MOST_SPACING_FACTOR < low or max(seen) > high * MOST_SPACING_FACTOR:
            found.append(Strange(kind, f"{_times(seen)} mm; trained on {_range((low, high))} mm"))
    if scan.slice_axis not in like.slice_axes:
        trained = " and ".join(_AXES[axis] for axis in like.slice_axes)
        found.append(Strange(SLICE_DIRECTION, f"{_AXES[scan.slice_axis]} slices; trained on {trained} ones"))
    for name, own, mean, std in zip(channels, scan.intensity, like.mean, like.std, strict=True):
        reach = MOST_MEAN_STDS * max(std[1], own.std)
        if (
            not mean[0] - reach <= own.mean <= mean[1] + reach
            or not std[0] / MOST_STD_FACTOR <= own.std <= std[1] * MOST_STD_FACTOR
        ):
            found.append(
                Strange(
                    "intensities",
                    f"{name} has a mean of {_short(own.mean)} and a standard deviation of {_short(own.std)}; "
                    f"trained on means of {_range(mean)} and standard deviations of {_range(std)}",
                )
            )
    return found


def other_channels(names: Sequence[str], trained: Sequence[str]) -> list[Strange]:
    """Channels with other names than those of a training; channels without names are not compared."""
    return [
        Strange("channel", f"channel {number} is {name}; trained on {before}")
        for number, (name, before) in enumerate(zip(names, trained, strict=True))
        if name.casefold() != before.casefold() and not any(one.startswith(_UNNAMED) for one in (name, before))
    ]


def _pixel_mm(scan: Facts) -> tuple[float, ...]:
    return tuple(mm for axis, mm in enumerate(scan.canonical_spacing_mm) if axis != scan.slice_axis)


def _slice_mm(scan: Facts) -> float:
    return scan.canonical_spacing_mm[scan.slice_axis]


def _around(one: Range, other: Range) -> Range:
    return min(one[0], other[0]), max(one[1], other[1])


def _times(lengths: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in lengths)


def _range(ends: Range) -> str:
    low, high = map(_short, ends)
    return low if low == high else f"{low} to {high}"


def _short(value: float) -> str:
    """Four significant digits, without an exponent where people would write none."""
    return f"{float(f'{value:.4g}'):.9g}"
