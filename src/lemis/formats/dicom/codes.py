"""Coded terms of structures in DICOM SEG objects: what a name means in SNOMED CT, so that any program understands it.

A name is looked up among common ones, with abbreviations of public data sets; left and right of a paired organ are a
modifier. A name that is not known keeps its text as the segment's label, and is coded as tissue. ``codes.csv`` says
what our table does not, or says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lemis.errors import UsageError, shown
from lemis.formats import spreadsheet
from lemis.formats.segments import key_of

COLUMNS = ("name", "category", "type", "modifier", "colour")


class Code(NamedTuple):
    """One term of a coding scheme."""

    scheme: str  # designator, such as SCT
    value: str
    meaning: str


class Term(NamedTuple):
    """What a segment is, as DICOM asks for it."""

    category: Code
    type: Code
    modifier: Code | None = None
    colour: str = ""  # #rrggbb, where somebody chose one


# Names as pydicom's dictionary of SNOMED CT spells them; beside each, what else people call it.
_ANATOMY: Mapping[str, tuple[str, ...]] = {
    # heart
    "Heart": ("whole heart",),
    "LeftVentricle": ("lv", "lv cavity", "lv blood pool", "left ventricular cavity", "heart ventricle left"),
    "RightVentricle": ("rv", "rv cavity", "rv blood pool", "right ventricular cavity", "heart ventricle right"),
    "LeftAtrium": ("la", "heart atrium left"),
    "RightAtrium": ("ra", "heart atrium right"),
    "LeftVentricleMyocardium": ("lv myocardium", "lv myo", "left ventricular myocardium"),
    "Aorta": ("ao",),
    "PulmonaryArtery": ("pa",),
    "PulmonaryVein": (),
    "InferiorVenaCava": ("ivc", "postcava"),
    "SuperiorVenaCava": ("svc",),
    "Pericardium": (),
    # abdomen
    "Liver": (),
    "Spleen": (),
    "Kidney": (),
    "Pancreas": (),
    "Stomach": (),
    "Gallbladder": ("gall bladder",),
    "Esophagus": ("oesophagus",),
    "Duodenum": (),
    "SmallIntestine": ("small bowel",),
    "LargeIntestine": ("large bowel",),
    "Colon": (),
    "Rectum": (),
    "AdrenalGland": ("adrenal", "suprarenal gland"),
    "PortalVein": (),
    # pelvis
    "Bladder": ("urinary bladder",),
    "Prostate": (),
    "Uterus": (),
    # chest and neck
    "Lung": (),
    "Trachea": (),
    "Bronchus": ("bronchi",),
    "Thyroid": ("thyroid gland",),
    "Breast": (),
    "ParotidGland": ("parotid",),
    "SubmandibularGland": (),
    # head
    "Brain": (),
    "BrainVentricle": ("ventricles of the brain",),
    "BrainStem": (),
    "Cerebellum": (),
    "Hippocampus": (),
    "Amygdala": (),
    "Thalamus": (),
    "CaudateNucleus": ("caudate",),
    "Putamen": (),
    "GlobusPallidus": ("pallidum",),
    "NucleusAccumbens": ("accumbens",),
    "WhiteMatter": (),
    "GrayMatter": ("grey matter",),
    "OpticNerve": (),
    "OpticChiasm": (),
    "Eye": (),
    "SpinalCord": (),
    # bones
    "Bone": (),
    "Skull": (),
    "Mandible": (),
    "Vertebra": (),
    "Sacrum": (),
    "Rib": (),
    "Sternum": (),
    "Clavicle": (),
    "Humerus": (),
    "Femur": (),
    # others
    "LymphNode": (),
    "BloodVessel": ("vessel", "vessels"),
    "Skin": (),
}
_ABNORMAL: Mapping[str, tuple[str, ...]] = {
    "Neoplasm": ("tumour", "tumor", "whole tumour", "whole tumor"),
    "Lesion": (),
    "Nodule": (),
    "Cyst": (),
    "Edema": ("oedema",),
    "Necrosis": (),
    "Hematoma": ("haematoma",),
    "Hemorrhage": ("haemorrhage",),
    "Thrombus": (),
    "Effusion": (),
    "PleuralEffusion": (),
    "Pneumothorax": (),
}
_OTHER_TISSUE: Mapping[str, tuple[str, ...]] = {
    "SoftTissue": (),
    "Muscle": (),
    "Fat": (),
    "Cartilage": (),
}
_SUBSTANCES: Mapping[str, tuple[str, ...]] = {"CerebrospinalFluid": ("csf",)}
_GROUPS = {
    "AnatomicalStructure": _ANATOMY,
    "MorphologicallyAbnormalStructure": _ABNORMAL,
    "Tissue": _OTHER_TISSUE,
    "BodySubstance": _SUBSTANCES,
}
# In SNOMED CT, and not in pydicom's dictionary.
_MYOCARDIUM = Code("SCT", "74281007", "Myocardium")
_MORE = {"myocardium": _MYOCARDIUM, "myo": _MYOCARDIUM}
# Whose side is a modifier; the sides of the heart have codes of their own.
_PAIRED = (
    *("Kidney", "Lung", "AdrenalGland", "Bronchus", "Breast", "ParotidGland", "SubmandibularGland", "Hippocampus"),
    *("Amygdala", "Thalamus", "CaudateNucleus", "Putamen", "GlobusPallidus", "NucleusAccumbens", "OpticNerve", "Eye"),
    *("Rib", "Clavicle", "Humerus", "Femur"),
)
_SIDE = re.compile(r"\b(left|right)\b")
_CELL = re.compile(r"([^^]+)\^([^^]+)\^([^^]+)")
_LONGEST = (16, 16, 64)  # characters of scheme, value and meaning, as DICOM holds them


def term(name: str, own: Mapping[str, Term]) -> Term | None:
    """What a structure's name means; None for a name that nobody knows.

    Args:
        name: Of a structure; capitals, and ``_``, ``-`` or ``.`` between words, do not matter.
        own: From ``read``.
    """
    if (said := own.get(key_of(name))) is not None:
        return said
    plain = " ".join(re.sub(r"[_\-.]+", " ", name).split()).casefold()
    known = _known()
    if plain in known:
        return known[plain]
    sides = set(_SIDE.findall(plain))
    whole = known.get(" ".join(_SIDE.sub(" ", plain).split()))
    if len(sides) != 1 or whole is None or whole.type not in _paired():
        return None
    return whole._replace(modifier=_sides()[sides.pop()])


def unknown() -> Term:
    """What a structure is of which only the name is known."""
    return Term(_of_dictionary("Tissue"), _of_dictionary("Tissue"))


def read(file: Path) -> dict[str, Term]:
    """The terms of a ``codes.csv``, by ``key_of`` the name.

    Its columns are name, type and, where wanted, category, modifier and colour (``#rrggbb``). A code is written as
    ``SCT^10200004^Liver``: scheme, value and meaning.

    Raises:
        UsageError: A column or cell that is not as above, or a name twice.
    """
    table = spreadsheet.read(file)
    odd = [name for name in table.columns if name not in COLUMNS]
    if odd or "name" not in table.columns or "type" not in table.columns:
        raise UsageError(
            f"{file} has the columns {', '.join(table.columns)}",
            allowed=f"name and type, and of {', '.join(COLUMNS[1:])} those that are wanted",
            next="name the columns in its first line: name,category,type,modifier,colour",
        )
    found: dict[str, Term] = {}
    for row in table.rows:
        where, name = f"{file}, line {row.line}", row.cells["name"]
        if not name or key_of(name) in found:
            raise UsageError(
                f"{where}: the name {shown(name)}{' again' * bool(name)}",
                allowed="each name once",
                next="remove the line",
            )
        kind, category = (_cell(where, column, row.cells.get(column, "")) for column in ("type", "category"))
        if kind is None:
            raise UsageError(f"{where}: {name} without a type", allowed="a code for each name", next=_EXAMPLE)
        found[key_of(name)] = Term(
            category or _of_dictionary("AnatomicalStructure"),
            kind,
            _cell(where, "modifier", row.cells.get("modifier", "")),
            _colour(where, row.cells.get("colour", "")),
        )
    return found


_EXAMPLE = "write it as SCT^10200004^Liver (scheme, value, meaning)"


def _cell(where: str, column: str, text: str) -> Code | None:
    if not text:
        return None
    match = _CELL.fullmatch(text)
    parts = tuple(part.strip() for part in match.groups()) if match else ()
    fits = all(0 < len(part) <= most and "\\" not in part for part, most in zip(parts, _LONGEST, strict=False))
    if not parts or not fits:
        raise UsageError(
            f"{where}: the {column} {shown(text)}",
            allowed="scheme, value (16 characters at most) and meaning (64 at most) of a code, with ^ between",
            next=_EXAMPLE,
        )
    return Code(*parts)


def _colour(where: str, text: str) -> str:
    if text and not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UsageError(f"{where}: the colour {shown(text)}", allowed="#rrggbb", next="#e69f00")
    return text.lower()


@cache
def _known() -> dict[str, Term]:
    """Terms by what a structure may be called, in small letters."""
    found = {}
    for category, group in _GROUPS.items():
        for keyword, others in group.items():
            spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword).casefold()
            one = Term(_of_dictionary(category), _of_dictionary(keyword))
            found.update(dict.fromkeys((spelt, *others), one))
    anatomy = _of_dictionary("AnatomicalStructure")
    return found | {name: Term(anatomy, code) for name, code in _MORE.items()}


def _paired() -> set[Code]:
    return {_of_dictionary(keyword) for keyword in _PAIRED}


def _sides() -> dict[str, Code]:
    return {"left": _of_dictionary("Left", "cid244"), "right": _of_dictionary("Right", "cid244")}


def _of_dictionary(keyword: str, group: str = "SCT") -> Code:
    from pydicom.sr.codedict import codes

    found: Any = getattr(getattr(codes, group), keyword)
    return Code(found.scheme_designator, found.value, found.meaning)
