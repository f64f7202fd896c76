"""imagesTr/, labelsTr/, imagesTs/ and dataset.json: what nnU-Net's layout and the Decathlon's have in common.

Labels of imagesTs (labelsTs) are left alone, so that nobody trains on a test set by accident. A label may also be a
segmentation of 3D Slicer (``.seg.nrrd``), whatever dataset.json says that files end in.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lemis.datasets import dataset_json
from lemis.datasets.listing import LeftOut, files_in, shown
from lemis.errors import UsageError
from lemis.formats.paths import suffix_of

SLICER = ".seg.nrrd"


class ImagesTr(NamedTuple):
    """The folders that nnU-Net and the Decathlon have in common."""

    train: list[Path]
    labels: list[Path]
    test: list[Path]
    declared: dataset_json.Declared
    left_out: tuple[LeftOut, ...]


def read(root: Path) -> ImagesTr | None:
    """The files of a data set; None where neither imagesTr nor imagesTs is there.

    Raises:
        UsageError: The ``file_ending`` of dataset.json is no image's.
    """
    if not (root / "imagesTr").is_dir() and not (root / "imagesTs").is_dir():
        return None
    declared = dataset_json.read(root / "dataset.json")
    ending = declared.file_ending.lower()
    inside = {part: files_in(root / part) for part in ("imagesTr", "labelsTr", "imagesTs")}
    kept = {part: [file for file in files if file.name.lower().endswith(ending)] for part, files in inside.items()}
    kept["labelsTr"] = [file for file in inside["labelsTr"] if file.name.lower().endswith((ending, SLICER))]
    images = inside["imagesTr"] + inside["imagesTs"]
    if images and not kept["imagesTr"] + kept["imagesTs"]:
        endings = sorted({suffix_of(file) for file in images})
        raise UsageError(
            f'{root / "dataset.json"}: "file_ending" is "{declared.file_ending}", but no image ends so',
            allowed=f"what the images end in: {', '.join(endings)}",
            next=f'write "file_ending": "{endings[0]}" into dataset.json, or remove it',
        )
    others = [file for part, files in inside.items() for file in files if file not in kept[part]]
    reason = f"does not end in {declared.file_ending}, the file_ending of dataset.json"
    left_out = tuple(LeftOut(shown(root, file), reason) for file in others)
    return ImagesTr(kept["imagesTr"], kept["labelsTr"], kept["imagesTs"], declared, left_out)
