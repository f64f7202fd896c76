"""Which DICOM series of a folder are its scans: those that are named, the only one of each study, or the question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.datasets.index import Index, locate
from lemis.datasets.listing import LeftOut, shown
from lemis.errors import UsageError, first_of
from lemis.formats.dicom import choice
from lemis.formats.dicom import folders as dicom
from lemis.formats.dicom.folders import Listed
from lemis.formats.paths import file_of, may_be_dicom, series_of


class Study(NamedTuple):
    """The series of one study."""

    patient: str  # a Patient ID, not to be shown; "" where it was removed
    series: tuple[Listed, ...]

    @property
    def uid(self) -> str:
        """Study Instance UID."""
        return self.series[0].first.text("StudyInstanceUID")

    @property
    def folder(self) -> Path:
        """The deepest folder that holds all of it."""
        first, *others = (one.folder for one in self.series)
        return next(up for up in (first, *first.parents) if all(one.is_relative_to(up) for one in others))


def studies_below(folder: Path) -> list[Study]:
    """All series in a folder and below it, by patient and study."""
    found: dict[tuple[str, str], list[Listed]] = {}
    for place in (folder, *dicom.series_folders(folder)):
        for one in dicom.series_in(place):
            key = one.first.text("PatientID"), one.first.text("StudyInstanceUID")
            found.setdefault(key, []).append(one)
    return [Study(dicom.patient_of(some[0].first), tuple(some)) for some in found.values()]


def scans_of(study: Study, wanted: str) -> dict[str, Listed]:
    """The series of a study that are meant, by what they were named by; the only one where nothing is named.

    Args:
        study: To look in.
        wanted: As after ``#series=``; commas part the channels. "": the only series that may be a scan.

    Returns:
        Channel to series; empty where there is none that is meant.

    Raises:
        UsageError: Several are meant by one name, or the files of one lie in several folders.
    """
    if not wanted:
        usable = [one for one in study.series if not one.first.no_scan]
        refuse_torn(usable)
        return {"image": usable[0]} if len(usable) == 1 else {}
    found = {}
    for name in (part.strip() for part in wanted.split(",")):
        base, _ = choice.divided(name)
        headers = choice.meant([[one.first] for one in study.series], base)
        hits = [one for one in study.series if any(one.first is group[0] for group in headers)]
        hits = [one for one in hits if not one.first.no_scan] or hits
        refuse_torn(hits)
        if len(hits) > 1:
            raise UsageError(
                f"{name!r} means {len(hits)} series of one study in {study.folder}: {'; '.join(map(described, hits))}",
                allowed="one series of each study for each name: a number, a UID or a description (* for any part)",
                next="name one of them more exactly, or list the scans in a CSV "
                f"(image: {hits[0].folder.name}#series={hits[0].name or 'UID'})",
            )
        if hits:
            found[name] = hits[0]
    return found if len(found) == len(wanted.split(",")) else {}


def refuse_torn(series: Sequence[Listed]) -> None:
    """Refuse series whose files lie in several folders: slices apart from each other, or a copy.

    Raises:
        UsageError: With the folders of the first.
    """
    places: dict[tuple[str, ...], list[Listed]] = {}
    for one in series:
        if one.first.text("SeriesInstanceUID"):
            facts = (one.first.text("SeriesNumber"), one.first.text("SeriesDescription"))
            places.setdefault((*one.first.series, *facts), []).append(one)
    torn = next((some for some in places.values() if len(some) > 1), None)
    if torn:
        names = first_of((one.folder for one in torn), 3)
        raise UsageError(
            f"the files of one series, {described(torn[0])}, lie in {len(torn)} folders: {names}",
            allowed="all slices of a series in one folder, once",
            next="put its files into one folder; if these are copies, remove all but one",
        )


def path_of(one: Listed, name: str) -> Path:
    """What reads a series, and of it the stack that its name may name too.

    Raises:
        UsageError: Nothing tells it from others of its folder.
    """
    _, stack = choice.divided(name)
    if not one.name:
        raise UsageError(
            f"{described(one)} in {one.folder}, and others there, have one Series Number and one Series Instance UID",
            allowed="series that a number or a UID tells apart",
            next="move each into a folder of its own",
        )
    return Path(f"{one.path}:{stack}") if stack else one.path


def left_out(root: Path, study: Study, chosen: Iterable[Listed]) -> list[LeftOut]:
    """The series of a study that are no scans, each with what it is."""
    used = list(chosen)
    return [
        LeftOut(shown(root, one.path), one.first.no_scan or f"another series: {described(one)}")
        for one in study.series
        if one not in used
    ]


def described(one: Listed) -> str:
    """``T1 vibe (MR, series 4, 60 images)``."""
    number = one.first.text("SeriesNumber")
    facts = (one.first.text("Modality"), f"series {number}" if number else "", f"{one.images} images")
    return f"{one.title} ({', '.join(filter(None, facts))})"


def which(root: Path, studies: Sequence[Study], wanted: str = "") -> UsageError:
    """The question which series are meant.

    Args:
        root: The folder as it was given.
        studies: All in it.
        wanted: What was asked for and is not there; "" where nothing was.

    Raises:
        UsageError: The files of a series lie in several folders, whichever is meant.
    """
    for study in studies:
        refuse_torn([one for one in study.series if not one.first.no_scan])
    usable: dict[str, list[list[Listed]]] = {}  # by title: those of each study
    for study in studies:
        mine: dict[str, list[Listed]] = {}
        for one in study.series:
            if not one.first.no_scan:
                mine.setdefault(one.title, []).append(one)
        for title, some in mine.items():
            usable.setdefault(title, []).append(some)
    near = (wanted or "").strip("*").casefold()
    order = sorted(
        usable, key=lambda title: (near not in title.casefold(), -sum(len(some) == 1 for some in usable[title]), title)
    )
    lines = [
        f"{described(usable[title][0][0])} in {len(usable[title])} of {len(studies)} studies"
        + (f", up to {most} times in one" if (most := max(map(len, usable[title]))) > 1 else "")
        for title in order
    ]
    given = (
        f"{root}: {f'no series {wanted!r} in' if wanted else 'several series in a study, of'} {len(studies)} studies"
    )
    return UsageError(
        f"{given}: {choice.in_a_line(lines) or 'none that is an image of the body'}",
        allowed="one series of each study as the scan, or one for each channel, after commas; by number, UID or "
        "description, with * for any part of it; or a CSV that lists the scans (image, subject, id)",
        next=f"lemis check '{root}#series={_typed(usable[order[0]][0][0])}'" if order else "give another folder",
    )


class Used(NamedTuple):
    """A series that a scan is made of."""

    scan: str
    subject: str
    series: str  # what people call it
    modality: str
    slices: int  # 0 where it could not be read
    spacing_mm: tuple[float, ...]
    file: str  # as the index names it


def used(index: Index) -> list[Used]:
    """The DICOM series of the scans of an index, one for each channel, in its order."""
    found = []
    for scan, image in ((one, image) for one in index.scans for image in one.images):
        path = locate(index, image)
        file = file_of(path)
        if not (file.is_dir() or may_be_dicom(file)):
            continue
        header = dicom.header_of(file, choice.divided(series_of(path))[0])
        if header is not None:
            slices = scan.shape[scan.slice_axis] if scan.shape else 0
            title, modality = choice.title_of(header), header.text("Modality")
            found.append(Used(scan.id, scan.subject, title, modality, slices, scan.spacing_mm, image))
    return found


def _typed(one: Listed) -> str:
    """A name of a series that can be typed in quotes, after ``#series=``."""
    title = "".join(letter if letter not in "#,'[]" else "?" for letter in one.first.text("SeriesDescription"))
    return title or one.first.text("SeriesNumber") or one.name
