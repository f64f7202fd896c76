"""ACDC (Bernard et al., IEEE TMI 2018), as it unpacks.

[database/]training/patient001/{Info.cfg, patient001_4d, patient001_frame01, patient001_frame01_gt}.nii.gz

The frames of end-diastole and end-systole are the labelled scans patient001_ED and patient001_ES; every other frame of
the cine file is a scan without a label, for pre-training. Labels of testing/ are left alone unless that folder itself
is given. Folders above these do not matter.
"""

from __future__ import annotations

import re
from pathlib import Path

from lemis.datasets.layouts.structures import LABELS
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, shown, stem_of
from lemis.errors import UsageError


def find(tree: Tree, cine: bool = True) -> Found | None:
    """Folders of patients with an Info.cfg; ``cine``: also the frames between end-diastole and end-systole."""
    folders = [tree.root / file for file in tree.files if re.search(r"(?:^|/)patient\d{3}/Info\.cfg$", file)]
    facts = {path.parent: _read_facts(path) for path in folders}
    if not any("ED" in one for one in facts.values()):
        return None
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for folder, info in facts.items():
        tested = "testing" in folder.relative_to(tree.root).parts
        found, unused = _patient(folder, info, tested, cine)
        cases += found
        reason = "a label of the test set: give testing/ to use it"
        left_out += [LeftOut(shown(tree.root, file), reason) for file in unused]
    return Found(cases, ("MR",), dict(LABELS["acdc"]), tuple(left_out))


def _patient(folder: Path, info: dict[str, str], tested: bool, cine: bool) -> tuple[list[Case], list[Path]]:
    """The scans of one patient, and labels that are not used."""
    name, files = folder.name, {stem_of(file): file for file in files_in(folder)}
    moments = {_whole(folder, info, moment): moment for moment in ("ED", "ES")}
    cases, unused = [], []
    for number, moment in moments.items():
        frame, label = f"{name}_frame{number:02d}", files.get(f"{name}_frame{number:02d}_gt")
        if frame not in files:
            raise UsageError(
                f"{folder / frame}.nii.gz is not there, but {folder / 'Info.cfg'} names frame {number} as {moment}",
                allowed="both frames of every patient",
                next="unpack the archive again, or move the folder of this patient away",
            )
        if tested and label is not None:
            unused.append(label)
        cases.append(Case(f"{name}_{moment}", (files[frame],), None if tested else label, name))
    film = files.get(f"{name}_4d")
    if cine and film is not None:
        others = set(range(1, _whole(folder, info, "NbFrame") + 1)) - set(moments)
        cases += [Case(f"{name}_frame{n:02d}", (Path(f"{film}#frame={n}"),), None, name) for n in sorted(others)]
    return cases, unused


def _read_facts(file: Path) -> dict[str, str]:
    """``key: value`` lines."""
    lines = (line.partition(":") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def _whole(folder: Path, info: dict[str, str], key: str) -> int:
    if not info.get(key, "").isdigit():
        raise UsageError(
            f"{folder / 'Info.cfg'} has {key}: {info.get(key, 'nothing')}",
            allowed="lines ED: 1, ES: 12 and NbFrame: 30, with whole numbers",
            next="unpack the archive again",
        )
    return int(info[key])
