"""One file per channel (``ID_0000``, ``ID_0001``): whether a folder holds such files, and which make up one scan.

A name that ends in four digits may also be that of a scan (``case_0007``). The names of the labels tell: a label ``ID``
belongs to the channels of ID, a label ``case_0007`` to that one file. Labels ``ID_0000``, their names copied from an
image, belong to ID where every ID has the same few numbers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from lemis.datasets.listing import stem_of
from lemis.errors import UsageError
from lemis.formats.paths import is_picture, suffix_of

CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_MOST = 8  # channels; more numbers than any scanner has contrasts count scans or slices


def numbers(images: Sequence[Path], labels: Collection[str], declared: int = 0) -> tuple[int, ...]:
    """The numbers of the channels; empty where every file is a scan of its own.

    Args:
        images: Files of images.
        labels: Stems of the files of labels.
        declared: How many channels a dataset.json declares; 0 where it does not.

    Raises:
        UsageError: The names can be read in both ways, or a number is missing in all scans.
    """
    groups: dict[str, set[int]] = defaultdict(set)
    for image in images:
        if match := CHANNEL.match(stem_of(image)):
            groups[match[1]].add(int(match[2]))
    if not groups:
        return ()
    usual = max(Counter(tuple(sorted(group)) for group in groups.values()).items(), key=lambda item: (item[1], item[0]))
    found = usual[0]
    of_scans = groups.keys() & labels
    of_files = {stem for stem in map(stem_of, images) if CHANNEL.match(stem)} & set(labels)
    if of_scans and of_files:
        raise _both_ways(min(of_scans), min(of_files))
    if not of_scans and not _are_channels(images, groups, found, of_files, declared):
        return ()
    if found != tuple(range(len(found))):
        missing = min(set(range(max(found) + 1)) - set(found))
        raise UsageError(
            f"the channels of {min(groups)} are numbered {', '.join(f'{number:04d}' for number in found)}",
            allowed="numbers from 0000 without a gap",
            next=f"add {min(groups)}_{missing:04d} of every scan, or rename the files",
        )
    return found


def _are_channels(
    images: Sequence[Path], groups: dict[str, set[int]], found: tuple[int, ...], of_files: set[str], declared: int
) -> bool:
    """What to make of the numbers where no label is named like a scan of several files."""
    alike = sum(group == set(found) for group in groups.values()) * 2 > len(groups)
    few = len(found) <= _MOST and 0 in found
    whole = found == tuple(range(len(found)))
    if of_files:
        if not all(stem.endswith("_0000") for stem in of_files):
            return False
        if found == (0,) or len(found) == declared:
            return True
        if declared == 1 or not few or not alike:
            return False
        if len(groups) == 1 or any(map(is_picture, images)):
            raise _both_ways(CHANNEL.sub(r"\1", min(of_files)), min(of_files))
        return True
    numbered = sum(CHANNEL.match(stem_of(image)) is not None for image in images)
    return numbered * 2 > len(images) and few and alike and (len(groups) > 1 or whole)


def _both_ways(scan: str, file: str) -> UsageError:
    return UsageError(
        f"the label {file} may belong to the file {file} alone, or to all channels of {scan}",
        allowed=f"labels that are all named like their scan ({scan}), or all like their file",
        next=f"rename {file} to {scan} where the numbers count channels; else list the scans in a CSV "
        "(image, label, subject)",
    )


def by_scan(images: Sequence[Path], channels: Sequence[int]) -> dict[str, tuple[Path, ...]]:
    """The files of each scan, one for each of ``channels``, then those of further numbers.

    A channel that is not there is named all the same, by the file that it should be.

    Raises:
        UsageError: Two files for one channel.
    """
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for image in images:
        if match := CHANNEL.match(stem_of(image)):
            other = groups[match[1]].setdefault(int(match[2]), image)
            if other != image:
                raise UsageError(
                    f"{other.name} and {image.name} are both channel {match[2]} of {match[1]}",
                    allowed="one file per channel",
                    next="move one of them out of the folder",
                )
    return {
        name: tuple(_file(name, files, number) for number in _order(files, channels)) for name, files in groups.items()
    }


def _order(files: Collection[int], channels: Sequence[int]) -> list[int]:
    return [*channels, *sorted(set(files) - set(channels))]


def _file(name: str, files: dict[int, Path], number: int) -> Path:
    any_other = next(iter(files.values()))
    suffix = any_other.name[-len(suffix_of(any_other)) :]
    return files.get(number, any_other.with_name(f"{name}_{number:04d}{suffix}"))


def common_channels(groups: dict[str, dict[str, Path]], what: str) -> tuple[str, ...]:
    """The channel names that all scans share."""
    sets = Counter(tuple(sorted(group)) for group in groups.values() if group)
    if not sets:
        return ()
    usual = sets.most_common(1)[0][0]
    odd = next((name for name, group in groups.items() if group and tuple(sorted(group)) != usual), None)
    if odd is None:
        return usual
    raise UsageError(
        f"{odd} has the {what} {', '.join(sorted(groups[odd]))}; most others have {', '.join(usual)}",
        allowed="the same channels in every scan",
        next="move the others away, or list the files you mean in a CSV (image_NAME, label, subject)",
    )
