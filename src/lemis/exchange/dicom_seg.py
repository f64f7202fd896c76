"""Label maps of a folder as DICOM SEG objects: of scans that came as DICOM, with codes and colours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from lemis import terminal
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_grid, label_on
from lemis.errors import UsageError, first_of
from lemis.formats import volume
from lemis.formats.dicom import codes, segmentation_out
from lemis.formats.dicom.codes import Term
from lemis.formats.dicom.folders import is_segmentation
from lemis.formats.dicom.segmentation_out import Maker, Segment
from lemis.formats.grids import is_sheared
from lemis.formats.paths import format_of
from lemis.measure.tables import count
from lemis.reporting.figures.svg import structure_colours
from lemis.work_files import predictions
from lemis.work_files import run as run_files
from lemis.work_files.predictions import Prediction, Predictions

FOLDER = "dicom-seg"  # beside label maps
_KINDS = {"dicom-seg": "BINARY", "dicom-labelmap": "LABELMAP"}
TARGETS = tuple(_KINDS)
_SHOWN = 5


class Asked(NamedTuple):
    """What objects are wanted."""

    target: str  # one of TARGETS
    own: Mapping[str, Term]  # codes of names


class Written(NamedTuple):
    """What became of label maps."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]  # for people


def asked(target: str | None, table: Path | None, option: str) -> Asked | None:
    """What is asked for, once it is known that it can be done; None where no object is.

    Args:
        target: One of ``TARGETS``; None: none.
        table: A ``codes.csv``.
        option: That asks for an object, for messages.

    Raises:
        UsageError: highdicom is not installed, the table is damaged, or there is one and no object is asked for.
    """
    if target is None:
        if table is not None:
            raise UsageError(
                f"--codes {table} without {option}, which alone has codes", allowed=" or ".join(TARGETS), next=option
            )
        return None
    if target not in TARGETS:
        raise UsageError(f"the format {target!r}", allowed=" or ".join(TARGETS), next="--also dicom-seg")
    segmentation_out.refuse_missing(target)
    if table is not None and not table.is_file():
        raise UsageError(f"{table} is no file", allowed="a CSV of names and codes", next="check the path")
    return Asked(target, codes.read(table) if table is not None else {})


def refuse_others(scans: Sequence[Scan], target: str) -> None:
    """Refuse scans that no DICOM SEG object can be of, by their headers: before networks run over all of them.

    Args:
        scans: With whole paths.
        target: One of ``TARGETS``.

    Raises:
        UsageError: A scan is not DICOM.
        DataFault: A series does not say what an object of it must state.
    """
    others = [scan for scan in scans if format_of(Path(scan.images[0])) != "dicom"]
    if others:
        more = f", one of {len(others)} such scans" if len(others) > 1 else ""
        raise UsageError(
            f"{target} of {others[0].id}, which is {Path(others[0].images[0]).name}{more}",
            allowed="scans that are DICOM series: a SEG object refers to their files, patient and study",
            next="lemis predict WORK/runs/NAME -i FOLDER_OF_DICOM_SERIES -o masks/ --also dicom-seg",
        )
    for scan in scans:
        volume.refuse_no_dicom_segmentation_of(Path(scan.images[0]))


def write_all(folder: Path, output: Path, wanted: Asked, ids: Sequence[str] | None = None) -> Written:
    """Write a SEG object of each label map of a folder.

    Args:
        folder: Of label maps that ``predict`` made, corrected or not.
        output: Folder for the objects, ``ID.dcm``.
        wanted: From ``asked``.
        ids: Of scans; all of the folder where None.

    Raises:
        UsageError: No label maps, or a scan that is not DICOM; nothing is written then.
        DataFault: A scan or a label map cannot be read, or its series does not say what an object of it must state.
    """
    record = read_record(folder)
    chosen = {id: record.scans[id] for id in (record.scans if ids is None else ids)}
    scans = [_scan(folder, id, made) for id, made in chosen.items()]
    refuse_others(scans, wanted.target)
    colours = structure_colours([*record.structures])
    terms = {name: codes.term(name, wanted.own) for name in record.structures}
    structures = [
        Segment(value=value, name=name, term=terms[name] or codes.unknown(), colour=colours[name])
        for name, value in record.structures.items()
    ]
    index = Index(root=str(folder), layout="", channels=record.channels, labels=record.structures, scans=())
    files, empty, tilted = [], [], []
    output.mkdir(parents=True, exist_ok=True)
    for scan in scans:
        id = scan.id
        file = output / f"{id}.dcm"
        _refuse_foreign(file)
        grid = image_grid(index, scan)
        array = label_on(index, scan, grid)
        maker = _maker(index_file.locate(index, scan.label or ""), record.made(id))
        if volume.write_dicom_segmentation(array, grid, structures, maker, _KINDS[wanted.target], file):
            files.append(file)
        else:
            empty.append(id)
        if is_sheared(grid.affine):
            tilted.append(id)
    return Written(tuple(files), tuple(_notes(terms, empty, tilted)))


def say(written: Written) -> None:
    """Print what became of label maps."""
    console = terminal.messages()
    for note in written.notes:
        console.print(f"note: {terminal.visible(note)}")
    where = f": {written.files[0].parent}" if written.files else ""
    console.print(f"{count(len(written.files), 'DICOM SEG object')} written{where}")


def read_record(folder: Path) -> Predictions:
    """What is known of the label maps of a folder.

    Raises:
        UsageError: Nothing is.
    """
    if (folder / run_files.MODEL).exists():
        raise UsageError(
            f"{folder} is a run, and SEG objects are made of label maps",
            allowed="a folder of label maps that `lemis predict` or `lemis fit` wrote",
            next=f"lemis predict {folder} -i FOLDER_OF_DICOM_SERIES -o masks/ --also dicom-seg",
        )
    if not folder.is_dir():
        raise UsageError(f"{folder} is not there", allowed="a folder of label maps", next="check the path")
    record = predictions.read(folder)
    if record is None or not record.scans or not record.structures:
        raise UsageError(
            f"{folder} without {predictions.RECORD}, which says what its label maps are of",
            allowed="a folder of label maps that `lemis predict` or `lemis fit` wrote",
            next=f"lemis predict WORK/runs/NAME -i SCANS -o {folder}",
        )
    return record


def _scan(folder: Path, id: str, made: Prediction) -> Scan:
    """The scan, with its label map as its label."""
    if made.scan is None or made.file is None or not (folder / made.file).is_file():
        raise UsageError(
            f"{folder} knows no label map of {id}, or not which scan it is of",
            allowed="label maps that lie where they were written",
            next=f"delete {folder} and predict again",
        )
    return dataclasses.replace(made.scan, id=id, label=made.file)


def _refuse_foreign(file: Path) -> None:
    """Refuse to write over a file that is no SEG object: a scan, perhaps."""
    if file.exists() and not is_segmentation(file):
        raise UsageError(f"{file} is there, and is no DICOM SEG object", allowed="a new folder", next="-o dicom-seg/")


def _maker(file: Path, made: Prediction) -> Maker:
    runs = made.runs or ((made.run,) if made.run else ())
    return Maker(
        runs=" + ".join(runs),
        digest="+".join(made.weights),
        version=version("lemis"),
        when=datetime.fromtimestamp(file.stat().st_mtime).replace(microsecond=0),
    )


def _notes(terms: Mapping[str, Term | None], empty: Sequence[str], tilted: Sequence[str]) -> list[str]:
    coded = [f"{name} = {_shown(term)}" for name, term in terms.items() if term is not None]
    found = [f"coded as: {', '.join(coded)}"] if coded else []
    if plain := [name for name, term in terms.items() if term is None]:
        found.append(
            f"no code is known of {first_of(plain, _SHOWN)}: coded as tissue, "
            "with this name; --codes FILE.csv says more"
        )
    if empty:
        found.append(
            f"nothing is marked in {count(len(empty), 'label map')} ({first_of(empty, _SHOWN)}): no object "
            "of it, as viewers open none without a segment"
        )
    if tilted:
        found.append(
            f"{count(len(tilted), 'scan')} with a tilted gantry ({first_of(tilted, _SHOWN)}): each frame lies where "
            "its slice does, which viewers that stack slices do not show; check it in yours"
        )
    return found


def _shown(term: Term) -> str:
    side = "" if term.modifier is None else f", {term.modifier.meaning.lower()}"
    return f"{term.type.meaning}{side} ({term.type.scheme} {term.type.value})"
