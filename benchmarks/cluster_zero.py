"""How much of a score under the protocol `released` is the number of a cluster: cluster 0 of a network is never the
object there, and which cluster has that number is chance.

    lemis segment-one --batch SET -o MASKS --method s3net --preset small seed=0
    python -m benchmarks.cluster_zero SET MASKS

Nothing is trained: the label maps that are there are scored as they are, and with all numbers one higher, so that none
is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from lemis.measure import clusters
from lemis.measure.tables import markdown
from lemis.one_image import image_request, mask_record, single_image, single_sets
from lemis.work_files import one_image


def main() -> None:
    """Print the means over the images of a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="the set that was segmented, with its references")
    parser.add_argument("masks", type=Path, help="what `lemis segment-one --batch` wrote")
    given = parser.parse_args()
    references = {str(pair.image): pair.reference for pair in single_sets.find(given.images.absolute()).pairs}
    found = []
    for path in sorted(given.masks.rglob("*.json")):
        record = one_image.read(path)
        reference = references.get(str(Path(record.image).absolute())) if record is not None else None
        if record is not None and reference is not None:
            found += _of_image(record, path, reference)
    if not found:
        raise SystemExit(f"no mask of {given.images} in {given.masks}")
    print(markdown([{
        "slices": len(found),
        "released DSC": f"{100 * mean(as_they_are for as_they_are, _ in found):.1f}",
        "with cluster 0 too": f"{100 * mean(shifted for _, shifted in found):.1f}",
        "slices that differ": sum(one != other for one, other in found),
    }]))  # fmt: skip


def compared(labels: NDArray[np.int64], reference: NDArray[np.bool_]) -> tuple[float, float] | None:
    """DSC of `released` with a network's numbers (H, W), and with all of them one higher; None without a reference."""
    both = (clusters.best(labels, reference, "released"), clusters.best(labels + 1, reference, "released"))
    return None if both[0] is None or both[1] is None else (both[0].overlap.dice, both[1].overlap.dice)


def _of_image(record: one_image.MaskRecord, path: Path, reference: Path) -> list[tuple[float, float]]:
    """Of the slices that have a reference, at the size that the method worked at."""
    job = image_request.opened(Path(record.image), path.parent / record.files.mask, record.made_from)
    planes, marked = mask_record.label_map(record, job), mask_record.reference(reference, job.stack)
    assert marked is not None
    scored = []
    for one in record.slices:
        names = np.array([0, *(cluster.network_label for cluster in one.clusters)])
        labels, wanted = (
            single_image.nearest(plane, one.worked_at_px) for plane in (names[planes[one.slice]], marked[one.slice])
        )
        scored.append(compared(labels, wanted))
    return [one for one in scored if one is not None]


if __name__ == "__main__":
    main()
