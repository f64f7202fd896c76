"""Where the label of a scan goes, so that its folder is recognised with it: by the layout of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lemis.datasets import dataset_json
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.label_names import IMAGE_FOLDER, LABEL_FOLDER
from lemis.datasets.listing import stem_of
from lemis.formats.paths import file_of, label_suffix

_ALONE = "segmentation"  # a label's name in the folder of its only scan
_LIST = "write its path into the column label of your list of scans"
_NO_PLACE = "list the scans in a CSV file with the columns image, label and subject, and give that to lemis fit"


class Place(NamedTuple):
    """Of a label."""

    label: Path | None  # with the suffix that suits the scan; None: it may lie anywhere
    then: str = ""  # what else is to be done, in words

    @property
    def slicer(self) -> Path | None:
        """Of a label saved by 3D Slicer."""
        return None if self.label is None else self.label.with_name(f"{stem_of(self.label)}.seg.nrrd")


def of(index: Index, scan: Scan) -> Place:
    """Where the label of a scan goes that has none."""
    image = index_file.locate(index, scan.images[0])
    root, suffix = Path(index.root), label_suffix(image)
    file = file_of(image)
    if index.layout in ("nnunet", "msd"):
        suffix = dataset_json.read(root / "dataset.json").file_ending or suffix
        of_test = file.parent.name != "imagesTr"
        move = f"move its image from {file.parent} to {root / 'imagesTr'}; that of test scans is left alone"
        return Place(root / "labelsTr" / f"{scan.id}{suffix}", move if of_test else "")
    if index.layout == "flat":
        return Place(_flat(root, file, scan, suffix))
    if index.layout == "subjects":
        return Place(_in_subject_folder(index, root, file, suffix))
    if index.layout == "bids":
        inside = file.relative_to(root).parent
        return Place(root / "derivatives" / "labels" / inside / f"{scan.id}_dseg{suffix}")
    return Place(None, _LIST if index.layout == "csv" else _NO_PLACE)


def _flat(root: Path, file: Path, scan: Scan, suffix: str) -> Path:
    if file == root:  # the folder is one series
        return root / f"{scan.id}_seg{suffix}"
    top = root / file.relative_to(root).parts[0]  # the file, its folder, or that of all images
    folder = top if top.is_dir() and IMAGE_FOLDER.match(top.name) else root
    places = [root, folder] if folder != root else [root]
    for_labels = [
        part for place in places for part in sorted(place.iterdir()) if part.is_dir() and LABEL_FOLDER.match(part.name)
    ]
    if for_labels or folder != root:
        return (for_labels[0] if for_labels else root / "labels") / f"{scan.id}{suffix}"
    return root / f"{scan.id}_seg{suffix}"


def _in_subject_folder(index: Index, root: Path, file: Path, suffix: str) -> Path:
    """Beside the image, named as the labels of other scans are named after theirs."""
    top = file.relative_to(root).parts[0]
    beside = [scan for scan in index.scans if Path(scan.images[0]).parts[0] == top]
    tail = _tail(index)
    if tail is not None and file.is_file():
        return file.parent / f"{stem_of(file)}{tail}{suffix}"
    if len(beside) == 1:
        return root / top / f"{_ALONE}{suffix}"
    if file.is_file():
        return file.parent / f"{stem_of(file)}_seg{suffix}"
    return root.joinpath(*file.relative_to(root).parts[:2]) / f"{_ALONE}{suffix}"


def _tail(index: Index) -> str | None:
    """What the name of a label adds to that of its image; None where no label does so."""
    for scan in index.scans:
        if scan.label is not None:
            image, label = (stem_of(Path(file)).removesuffix(".seg") for file in (scan.images[0], scan.label))
            if label.startswith(image) and len(label) > len(image):
                return label[len(image) :]
    return None
