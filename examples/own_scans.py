"""From a folder of scans to a report.

The scans are made up here, so that this runs anywhere; put the path of your own folder in their place, and leave out
the preset, whose few steps are for a first look only.
"""

import sys
from pathlib import Path

import lemis
from lemis import phantom


def main(folder: Path) -> Path:
    """Write scans, look at them, learn from them; gives the report."""
    scans, work = folder / "scans", folder / "work"
    phantom.write_dataset(scans, kind="heart", subjects=8, labelled=5, shape=(48, 48, 6))

    # What is in the folder, and what is wrong with it: what `lemis check scans/` says.
    found = lemis.check(scans)
    if found.errors:
        sys.exit("repair what is listed above")

    # Learn from all scans, fine-tune on the labelled ones, score the subjects that were held out, write the report.
    # Again with the same settings, it does only what is missing.
    report = lemis.fit(scans, output=work, method="pcl", fold=0, preset="tiny")

    # A scan of tomorrow: a label map on its own grid, and which label means what.
    phantom.write_dataset(folder / "new", kind="heart", subjects=1, labelled=0, seed=7, shape=(48, 48, 6))
    masks = lemis.predict([work / "runs" / "pcl-m4-fold0"], inputs=folder / "new", output=folder / "masks")
    print("label maps:", *sorted(path.name for path in masks.glob("*.nii.gz")))
    return report


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "scratch/own_scans")))
