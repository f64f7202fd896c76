"""What the recognition of folder layouts shares: cases, and the files of a folder."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lemis.errors import UsageError
from lemis.formats.dicom import folders as dicom
from lemis.formats.paths import file_of, may_be_dicom, suffix_of

# No archive unpacks deeper.
_DEEPEST = 8


class LeftOut(NamedTuple):
    """A file that looks like data and is not used, and why."""

    file: str
    reason: str


class Doubt(NamedTuple):
    """Something about a folder that may be intended, and should be known."""

    file: str
    kind: str
    seen: str
    repair: str


class Case(NamedTuple):
    """The files of one scan. A path may end in what ``volume`` reads of a file (``#frame=7``)."""

    id: str
    images: tuple[Path, ...]
    label: Path | None
    subject: str | None = None  # where somebody says who it is
    folder: str | None = None  # named for the subject


@dataclasses.dataclass(frozen=True)
class Found:
    """What a layout made of a folder."""

    cases: list[Case]
    channels: tuple[str, ...] = ()
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    ignored: tuple[int, ...] = ()
    doubts: tuple[Doubt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tree:
    """A folder and all files below it, walked once and only when asked for."""

    root: Path
    series: str = ""  # which DICOM series are meant, as after ``#series=``; several after commas are channels

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Relative to the folder, in order, with ``/`` and without hidden ones."""
        found = []
        for folder, files in folders_of(self.root):
            parts = folder.relative_to(self.root).parts
            found += ["/".join((*parts, file)) for file in files if not file.startswith(".")]
        return tuple(sorted(found))


def folders_of(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, also behind links, each with the names of its files; no hidden ones."""
    for name, inside, files in os.walk(root, followlinks=True):
        folder = Path(name)
        deep = len(folder.relative_to(root).parts) >= _DEEPEST
        inside[:] = [part for part in inside if not (deep or part.startswith(".") or _leads_back(folder / part))]
        yield folder, files


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def known(file: Path) -> bool:
    """True for the name of an image file."""
    return not may_be_dicom(file)


def files_in(folder: Path) -> list[Path]:
    """Image files of a folder in order of name; hidden ones (macOS leaves ``._ID.nii.gz``) are none."""
    if not folder.is_dir():
        return []
    return [f for f in sorted(folder.iterdir()) if f.is_file() and known(f) and not f.name.startswith(".")]


def stem_of(file: Path) -> str:
    """The file's name without its suffix; accents are one letter each, however the file system writes them."""
    name = file_of(file).name
    return unicodedata.normalize("NFC", name[: len(name) - len(suffix_of(file))])


def shown(root: Path, file: Path) -> str:
    """The path as the index and messages name it."""
    if file_of(file) == root and file != root:  # a part of what lies in the root itself
        return f".{str(file).removeprefix(str(root))}"
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def only_image(root: Path, name: str, files: Sequence[Path]) -> Path:
    """The one image of a scan.

    Raises:
        UsageError: There are several.
    """
    if len(files) > 1:
        raise UsageError(
            f"{name} has {len(files)} images: {', '.join(shown(root, file) for file in files)}",
            allowed="one image per scan",
            next="move the others out of the folder",
        )
    return files[0]


def one_each(files: Iterable[Path], named: Callable[[Path], str] = stem_of) -> dict[str, tuple[Path, ...]]:
    """Every file a scan of its own.

    Raises:
        UsageError: Two files of one name (``a.nii``, ``a.nii.gz``).
    """
    groups: dict[str, tuple[Path, ...]] = {}
    for file in files:
        groups[named(file)] = (*groups.get(named(file), ()), file)
    return {name: (only_image(files[0].parent, name, files),) for name, files in groups.items()}


def series_below(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Folders of DICOM series below one; and those that are no scans, where there are others, with the reason."""
    series = dicom.series_folders(folder)
    others = {one: reason for one in series if (reason := dicom.no_scan(one))} if len(series) > 1 else {}
    if len(others) == len(series):
        return series, {}
    return [one for one in series if one not in others], others
