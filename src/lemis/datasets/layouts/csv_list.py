"""CSV list: a file with a line for each scan, given by its path or lying in the folder.

It has the columns ``image`` (or ``image_NAME``, one per channel), ``label``, ``subject`` and ``id``. Other columns
are not read, but named; one that looks as if it were meant for one of ours is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lemis.datasets.listing import Case, Doubt, Found, LeftOut, Tree, stem_of
from lemis.errors import DataFault, UsageError
from lemis.formats import spreadsheet
from lemis.formats.names import readable
from lemis.formats.paths import file_of

_COLUMNS = ("label", "subject", "id")
# Columns of other people's lists that may stand for ours: what they mean is for their owner to say.
_MEANT = {
    "image": ("images", "img", "imgs", "scan", "file", "files", "filename", "file_name", "path", "filepath", "volume"),
    "label": ("labels", "mask", "masks", "seg", "segs", "segmentation", "segmentations", "gt", "annotation"),
    "subject": (
        *("subjects", "subject_id", "subjectid", "patient", "patients", "patient_id", "patientid", "pid"),
        *("case", "case_id", "caseid", "person", "participant", "participant_id"),
    ),
}
# Words that may stand beside one of these without changing what the column is of: `mask_path`, `Subject No.`.
_BESIDE = {
    "image": {"path", "file", "filename"},
    "label": {"path", "file", "filename"},
    "subject": {"id", "no", "nr", "number", "code", "name"},
}
# What programs write for "nothing".
_NOTHING = ("na", "n/a", "nan", "none", "null", "-")


def find(tree: Tree) -> Found | None:
    """The scans of a list given by its path, or of the one in the folder."""
    root = tree.root
    if root.is_file():
        tables = [root] if root.suffix.lower() == ".csv" else []
    else:
        tables = [file for file in sorted(root.glob("*.csv")) if _lists_images(file)]
    if not tables:
        return None
    if len(tables) > 1:
        raise UsageError(
            f"{root} holds {len(tables)} lists of images: {', '.join(file.name for file in tables)}",
            allowed="one CSV file, or its path",
            next=f"give {tables[0]}",
        )
    table = spreadsheet.read(tables[0])
    image_columns = _image_columns(table)
    if not table.rows:
        raise UsageError(f"{table.file} lists no scan", allowed="a line for each scan", next="add lines, or remove it")
    cases = [_row(table, row, image_columns) for row in table.rows]
    twice = {name for name, count in Counter(case.id for case in cases).items() if count > 1}
    if twice and "id" not in table.columns:  # files of the same name in different folders
        cases = [
            case._replace(id=_long_id(table.file.parent, case.images[0])) if case.id in twice else case
            for case in cases
        ]
    channels = tuple(column.removeprefix("image_") for column in image_columns) if len(image_columns) > 1 else ()
    others = [name for name in table.columns if name not in (*image_columns, *_COLUMNS)]
    reason = "a column that is not read; we read image (or image_NAME), label, subject and id"
    left_out = tuple(LeftOut(f"{table.file.name}: {name}", reason) for name in others)
    return Found(cases, channels, left_out=left_out, doubts=tuple(_doubtful(cases)))


def _lists_images(file: Path) -> bool:
    """Whether a table in the folder is meant for us.

    It is where it has a column ``image``; also where all columns that could mean the same (``image_t1``, ``filename``)
    name files in its first row.
    """
    columns = spreadsheet.columns_of(file)
    if "image" in columns:
        return True
    candidates = [name for name in columns if name.startswith("image_") or name in _MEANT["image"]]
    if not candidates:
        return False
    try:
        rows = spreadsheet.read(file).rows
    except UsageError:
        return False  # a table of patients, say; what is damaged in it is no concern of ours
    return bool(rows) and all(_names_file(file, rows[0].cells[name]) for name in candidates)


def _names_file(table: Path, text: str) -> bool:
    try:
        return bool(text) and file_of(table.parent / text).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _image_columns(table: spreadsheet.Table) -> list[str]:
    """The columns of image files: ``image``, or one ``image_NAME`` for each channel.

    Raises:
        UsageError: There is none, there are both, or a column seems to be meant for one that is missing.
    """
    columns = table.columns
    several = [name for name in columns if name.startswith("image_")]
    if "image" in columns:
        both = [name for name in several if any(_names_file(table.file, row.cells[name]) for row in table.rows)]
        if both:
            raise UsageError(
                f"{table.file} has the columns image and {', '.join(both)}, all of files",
                allowed="image, or image_NAME for each channel",
                next="give `image` the name of its channel too, such as `image_t1`, or remove it",
            )
    found = ["image"] if "image" in columns else several
    missing = [name for name in _MEANT if name not in columns and not (name == "image" and found)]
    for name in missing:
        if like := [column for column in columns if _is_meant(column, name)]:
            raise UsageError(
                f"{table.file} has the columns {', '.join(columns)}: {like[0]!r} is not understood",
                allowed="image (or image_NAME, one per channel), label, subject, id",
                next=f"rename the column {like[0]!r} to `{name}`, or remove it",
            )
    if not found:
        raise UsageError(
            f"{table.file} has the columns {', '.join(columns) or 'of an empty file'}",
            allowed="image (or image_NAME, one per channel), label, subject, id",
            next="name the column of the image files `image`",
        )
    return found


def _is_meant(column: str, name: str) -> bool:
    """Whether a column seems to stand for ours of this name."""
    words = set(re.findall(r"[^\W_]+", column)) - _BESIDE[name]
    return column in _MEANT[name] or (len(words) == 1 and words <= {name, *_MEANT[name]})


def _row(table: spreadsheet.Table, row: spreadsheet.Row, image_columns: Sequence[str]) -> Case:
    files: dict[str, Path | None] = {}
    folder = table.file.parent
    for column in [*image_columns, "label"]:
        text = row.cells.get(column, "")
        text = next((one for one in _spellings(text) if _names_file(table.file, one)), text)
        files[column] = folder / text if text else None
        if (column != "label" and not text) or (text and not _names_file(table.file, text)):
            raise DataFault(
                f"{table.file.name}, line {row.line}: {column} {readable(text)[:200] or 'is empty'}",
                allowed=f"a file that exists, relative to {folder}, or a full path",
                next=_corrected(table, column, text),
            )
    images = tuple(file for column in image_columns if (file := files[column]) is not None)
    cells = row.cells
    return Case(cells.get("id") or stem_of(images[0]), images, files["label"], cells.get("subject") or None)


def _spellings(text: str) -> tuple[str, ...]:
    """A path as it stands, and with accents written as one letter or as two: file systems and editors differ in it."""
    return (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))


def _corrected(table: spreadsheet.Table, column: str, text: str) -> str:
    """What to do about a path that leads nowhere."""
    turned = text.replace("\\", "/")
    if _names_file(table.file, turned):
        return f"write {turned}"
    if column == "label" and text.casefold() in _NOTHING:
        return "leave the cell empty where there is no label"
    return "correct the path in the CSV"


def _long_id(folder: Path, file: Path) -> str:
    parents = file.relative_to(folder).parent.parts if file.is_relative_to(folder) else file.parent.parts[-1:]
    return "_".join([*parents, stem_of(file)])


def _doubtful(cases: Sequence[Case]) -> list[Doubt]:
    """What a list says of subjects that may be a slip: nothing of some, or the word for nothing of several."""
    empty = [case.id for case in cases if not case.subject]
    found = []
    if 0 < len(empty) < len(cases):
        found.append(
            Doubt(
                "the list",
                "missing subjects",
                f"{len(empty)} of {len(cases)} scans have none, such as {empty[0]}: it is taken from the file's name",
                "fill in the column subject",
            )
        )
    counts = Counter(case.subject for case in cases if case.subject and case.subject.casefold() in _NOTHING)
    found += [
        Doubt(
            "the list",
            "placeholder as subject",
            f"{count} scans have the subject {name!r} and count as one person",
            "leave the cell empty where the subject is not known, or give each person a name",
        )
        for name, count in counts.items()
        if count > 1
    ]
    return found
