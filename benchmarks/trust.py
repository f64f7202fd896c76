"""Does the expected Dice hold: networks of few labelled subjects, and the labels of the others kept aside.

python -m benchmarks.trust Dataset101_ACDCdev -o WORK [--draws 3 --labelled 6 --steps 250 --tested 30]
python -m benchmarks.trust Dataset101_ACDCdev -o WORK --preset-as-is --steps 5000
python -m benchmarks.trust Dataset102_Hippocampus -o WORK --backbone unet3d --steps 500
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lemis.datasets.index import Index, locate
from lemis.datasets.scan_facts import scan_folder
from lemis.measure import anatomy, expected
from lemis.measure.expected import Calibration, Expected, Held, risk_curve
from lemis.measure.tables import markdown
from lemis.preparation.classes import to_classes
from lemis.preparation.settings import Settings as Preparation
from lemis.quality import table
from lemis.settings import load_preset, of_dims, resolve
from lemis.training.beside import LABELS_ALONE
from lemis.training.run_settings import dims_of
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.work_files import quality
from lemis.work_files.quality import Row
from lemis.work_files.run import read_model

LEVELS = (0.8, 0.9)
RESAMPLED = 40  # times
ODD = 8  # scans of each kind
ALTERED: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mirrored left to right": lambda image: image[::-1],
    "mirrored bottom to top": lambda image: image[:, :, ::-1],
    "inverted": lambda image: image.max() - image,
    "upper half missing": lambda image: image[:, :, : image.shape[2] // 2],
    "lower half missing": lambda image: image[:, :, image.shape[2] // 2 :],
}
REASONS = {
    "missing;": "missing", "ml; labelled": "volume", "pieces,": "pieces", "holes of": "holes", "cut by": "cut",
    "jumps": "jumps", "empty slice": "gaps", "is the scan mirrored": "order", "is spread otherwise": "intensities",
    "the scan covers": "extent", "pixel size:": "pixel size", "distance of slices:": "distance of slices",
    "slice direction:": "slice direction", "intensities:": "intensity values", "channel:": "channel",
}  # fmt: skip

PRESET = "small"
# Than the preset, of networks of slices: what two slow cores allow.
SMALLER_PREPARED, SMALLER = {"spacing_mm": 3.0}, ("backbone.base_width=8", "objective.size_px=64")


class Draw(NamedTuple):
    """One set of labelled subjects."""

    data: Index  # all scans, with their labels
    work: Path
    runs: list[Path]
    labelled: list[str]  # scans
    tested: list[str]  # scans whose labels are kept aside

    @property
    def structures(self) -> dict[str, int]:
        """Values in the files by name."""
        return structures_of(self.data)

    def image(self, scan: str) -> Path:
        """Of the first channel."""
        return locate(self.data, next(one.images[0] for one in self.data.scans if one.id == scan))

    def label(self, scan: str) -> Path:
        """Drawn by a person."""
        return locate(self.data, next(one.label for one in self.data.scans if one.id == scan and one.label))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What networks, and of which scans; they are trained where they are not there yet."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="a folder in nnU-Net's layout, every scan labelled")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1], help="numbers of the sets of labelled subjects")
    parser.add_argument("--labelled", type=int, default=6, help="subjects")
    parser.add_argument("--backbone", default="unet2d", help="the network, of slices or of volumes")
    parser.add_argument(
        "--preset-as-is", action="store_true",
        help=f"networks of slices as the preset {PRESET} has them, as those of volumes always are; by default they are "
        "smaller, on pixels of 3 mm",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=250, help="of fine-tuning")
    parser.add_argument("--semi", default=LABELS_ALONE, help="of fine-tuning; its pool are the scans that are tested")
    parser.add_argument("--tested", type=int, default=30, help="subjects beside the labelled ones")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="data sets of other scanners or organs")
    return parser


def main() -> None:
    """Train, predict, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--labels", action="store_true", help="only: which labels themselves are flagged beside others")
    parser.add_argument(
        "--rise", type=float, default=expected.STEADIER, help="share that counts of what ensembles gain"
    )
    given = parser.parse_args()
    expected.STEADIER = given.rise
    if given.labels:
        print(markdown(flagged_labels(scan_folder(given.scans))))
        return
    data = scan_folder(given.scans)
    lines: list[dict[str, object]] = []
    odd: list[dict[str, object]] = []
    again: list[dict[str, object]] = []
    for seed in given.draws:
        draw = trained(data, given.output / f"draw{seed}", seed, given)
        predicted(draw)
        lines += [judged(draw, level, seed) for level in LEVELS]
        again += resampled(draw, seed)
        odd += strange(draw, given.others) if given.others else []
    print(f"{markdown(lines)}\n{markdown(again)}")
    if odd:
        print(f"\n{markdown(odd)}")


def structures_of(data: Index) -> dict[str, int]:
    """Values by name, without the background's."""
    return {name: value for name, value in data.labels.items() if value}


def flagged_labels(data: Index) -> list[dict[str, object]]:
    """Shares of label maps drawn by people that are flagged beside those of other subjects, as they are and altered."""
    ways = {"as they are": lambda image: image, **{name: how for name, how in ALTERED.items() if name != "inverted"}}
    structures = structures_of(data)
    values = [0, *structures.values()]
    subject_of = {scan.id: scan.subject for scan in data.scans if scan.label is not None}
    found: dict[str, dict[str, anatomy.Shapes]] = {name: {} for name in ways}
    for scan in data.scans:
        if scan.label is None:
            continue
        image = nibabel.as_closest_canonical(nibabel.load(locate(data, scan.label)))  # type: ignore[attr-defined]
        classes, mm = to_classes(np.asarray(image.dataobj), values), tuple(map(float, image.header.get_zooms()[:3]))
        for name, alter in ways.items():
            altered = np.ascontiguousarray(alter(classes))
            found[name][scan.id] = anatomy.shapes(altered, ("background", *structures), mm, scan.slice_axis)
    people = sorted(set(subject_of.values()))
    lines: list[dict[str, object]] = []
    for labelled in (2, 6, 10, 20):
        odd: dict[str, list[bool]] = {name: [] for name in ways}
        for seed in range(10):
            known = set(random.Random(seed).sample(people, labelled))
            drawn = [one for scan, one in found["as they are"].items() if subject_of[scan] in known]
            for name, shapes in found.items():
                for scan, shape in shapes.items():
                    if subject_of[scan] not in known:
                        odd[name].append(any(anatomy.unlike(shape, drawn, labelled).values()))
        lines.append({"labelled subjects": labelled, **{name: float(np.mean(told)) for name, told in odd.items()}})
    return lines


def strange(draw: Draw, others: Sequence[Path]) -> list[dict[str, object]]:
    """A line for each way in which scans are unlike those of training: how many are flagged, and first for what."""
    folders = {name: draw.work / "strange" / name for name in [*ALTERED, *(other.name for other in others)]}
    for name, alter in ALTERED.items():
        folders[name].mkdir(parents=True, exist_ok=True)
        for scan in draw.tested[:ODD]:
            image = nibabel.load(draw.image(scan))  # type: ignore[attr-defined]
            altered = nibabel.Nifti1Image(alter(np.asarray(image.dataobj)), image.affine)  # type: ignore[attr-defined]
            nibabel.save(altered, folders[name] / f"{scan}.nii.gz")  # type: ignore[attr-defined]
    for other in others:
        folders[other.name].mkdir(parents=True, exist_ok=True)
        for file in sorted((other / "imagesTr").glob("*.nii.gz"))[:ODD]:
            linked(file, folders[other.name])
    lines = [_flagged("as they are", draw.work / "predictions", draw.tested[:ODD])]
    for name, folder in folders.items():
        output = draw.work / "strange" / f"{name} maps"
        predict(draw.runs, inputs=folder, output=output, overrides={"mirror": False})
        lines.append(_flagged(name, output, None))
    return lines


def _flagged(name: str, output: Path, chosen: Sequence[str] | None) -> dict[str, object]:
    rows = [row for row in quality.read_rows(output) if chosen is None or row.scan in chosen]
    scans = list(dict.fromkeys(row.scan for row in rows))
    flagged = {row.scan for row in rows if row.flags}
    reasons = Counter(
        kind for scan in scans for words, kind in REASONS.items()
        if any(words in row.flags for row in rows if row.scan == scan)
    )  # fmt: skip
    return {
        "scans": name, "number": len(scans), "flagged": len(flagged),
        "numbers given": f"{sum(row.has_number for row in rows)} of {len(rows)}",
        "for what (scans)": ", ".join(f"{kind} ({times})" for kind, times in reasons.most_common()),
    }  # fmt: skip


def predicted(draw: Draw) -> None:
    """Held-out scans by the networks that never saw their labels, the others by all."""
    subject_of = {scan.id: scan.subject for scan in draw.data.scans}
    for run in draw.runs:
        seen = read_model(run).labelled_subjects
        held_out = [scan for scan in draw.labelled if subject_of[scan] not in seen]
        predict(run, scans=held_out, beside=draw.runs, overrides={"mirror": False})
    predict(draw.runs, scans=draw.tested, overrides={"mirror": False})


def judged(draw: Draw, level: float, seed: int) -> dict[str, object]:
    """One line: what was expected of the scans whose labels were kept aside, and what their Dice is."""
    output = draw.work / "predictions"
    rows = [row for row in table.save(output, level) if row.scan in draw.tested]
    truth = {scan: true_dice(draw, scan) for scan in draw.tested}
    held = table.held_by([(run.name, quality.find_of_run(run)) for run in draw.runs])
    known = {name: np.mean([one.dice for one in held if one.structure == name]) for name in draw.structures}
    told = [(row, truth[row.scan][row.structure]) for row in rows if not math.isnan(row.expected_dice)]
    rank = [spearman(rows, truth, name) for name in draw.structures]
    by_scan = {scan: [row for row in rows if row.scan == scan] for scan in draw.tested}
    risk = [1 - float(np.nanmean([truth[scan][row.structure] for row in own])) for scan, own in by_scan.items()]
    trust = [float(np.mean([row.agreement for row in own])) for own in by_scan.values()]
    best, area = risk_curve([-one for one in risk], risk), risk_curve(trust, risk)
    order = list(dict.fromkeys(row.scan for row in rows))
    worst = [list(by_scan)[place] for place in np.argsort(risk)[::-1][: math.ceil(len(risk) / 10)]]
    first = order[: math.ceil(len(order) / 4)]
    return {
        "draw": seed, "level": level, "scans": len(by_scan), "mean Dice": 1 - float(np.mean(risk)),
        "numbers given": f"{len(told)} of {len(rows)}",
        "MAE": mean(abs(row.expected_dice - dice) for row, dice in told),
        "MAE of the mean": mean(abs(known[row.structure] - dice) for row, dice in told),
        "expected - true": mean(row.expected_dice - dice for row, dice in told),
        "covered": mean(float(row.low <= dice <= row.high) for row, dice in told),
        "width": mean(row.high - row.low for row, _ in told),
        "Spearman": " / ".join(f"{one:.2f}" for one in rank),
        "AURC (random, optimum)": f"{area:.3f} ({float(np.mean(risk)):.3f}, {best:.3f})",
        "nAURC": (area - best) / (float(np.mean(risk)) - best),
        "worst tenth in the first quarter": f"{len(set(worst) & set(first))} of {len(worst)}",
        "flagged": f"{sum(any(row.flags for row in own) for own in by_scan.values())} of {len(by_scan)}",
    }  # fmt: skip


def resampled(draw: Draw, seed: int) -> list[dict[str, object]]:
    """A line for each number of subjects to calibrate on, drawn from those that are tested, the rest of them judged.

    So there is a coverage for more held-out subjects than were labelled: of the same networks, and of their map.
    """
    output = draw.work / "predictions"
    record = quality.read(output)
    assert record is not None
    held = []
    for scan in draw.tested:
        measured, truth = record.scans[scan], true_dice(draw, scan)
        for name, shape in measured.scan.shapes.items():
            if shape.ml > 0:
                agreement = mean(told[name] for told in measured.agreement.values())
                held.append(Held(measured.scan.subject, ("all",), name, agreement, truth[name]))
    people, rng = sorted({one.subject for one in held}), np.random.default_rng(0)
    lines: list[dict[str, object]] = []
    for number, level in ((6, 0.8), (10, 0.8), (10, 0.9), (20, 0.8), (20, 0.9)):
        told: list[tuple[Expected, float, float]] = []
        for _ in range(RESAMPLED):
            known = set(rng.permutation(people)[:number].tolist())
            calibration = Calibration([one for one in held if one.subject in known], level)
            means = {
                name: mean(one.dice for one in calibration.held if one.structure == name) for name in draw.structures
            }
            for one in held:
                if one.subject not in known:
                    found = calibration.expected(one.structure, {"all": one.agreement})
                    told += [(found, one.dice, means[one.structure])] if found else []
        lines.append({
            "draw": seed, "calibrated on": number, "level": level,
            "covered": mean(float(found.low <= dice <= found.high) for found, dice, _ in told),
            "width": mean(found.high - found.low for found, _, _ in told),
            "MAE": mean(abs(found.dice - dice) for found, dice, _ in told),
            "MAE of the mean": mean(abs(usual - dice) for _, dice, usual in told),
        })  # fmt: skip
    return lines


def true_dice(draw: Draw, scan: str) -> dict[str, float]:
    """NaN of what neither map has."""
    one, other = (np.asarray(nibabel.load(path).dataobj) for path in (  # type: ignore[attr-defined]
        draw.work / "predictions" / f"{scan}.nii.gz", draw.label(scan)))  # fmt: skip
    found = {}
    for name, value in draw.structures.items():
        total = (one == value).sum() + (other == value).sum()
        found[name] = 2 * ((one == value) & (other == value)).sum() / total if total else math.nan
    return found


def spearman(rows: Sequence[Row], truth: Mapping[str, Mapping[str, float]], structure: str) -> float:
    """Of agreement and Dice, of the scans whose map has the structure."""
    own = [row for row in rows if row.structure == structure and not row.flags.count(f"{structure} missing")]
    return float(stats.spearmanr([row.agreement for row in own], [truth[row.scan][structure] for row in own]).statistic)


def mean(values: Iterable[float]) -> float:
    """NaN of none."""
    there = list(values)
    return float(np.mean(there)) if there else math.nan


def trained(data: Index, folder: Path, seed: int, given: argparse.Namespace) -> Draw:
    """The networks of a cross-validation over the labelled subjects of one draw."""
    scans = sorted(data.scans, key=lambda scan: scan.id)
    subjects = sorted({scan.subject for scan in scans})
    random.Random(seed).shuffle(subjects)
    labelled, tested = subjects[: given.labelled], subjects[given.labelled :][: given.tested]
    own = folder / "scans"
    for name in ("imagesTr", "labelsTr"):
        (own / name).mkdir(parents=True, exist_ok=True)
    for scan in scans:
        if scan.subject in labelled or scan.subject in tested:
            for image in scan.images:
                linked(locate(data, image), own / "imagesTr")
        if scan.subject in labelled and scan.label is not None:
            linked(locate(data, scan.label), own / "labelsTr")
    facts = json.loads(locate(data, "dataset.json").read_text(encoding="utf-8"))
    facts["numTraining"] = sum(scan.subject in labelled for scan in scans)
    (own / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    work = folder / "work"
    check(own, output=work)
    preset = load_preset(PRESET)
    dims = dims_of(given.backbone, preset)
    smaller = dims == 2 and not given.preset_as_is
    asked = {**of_dims(preset, dims)["prepare"], **(SMALLER_PREPARED if smaller else {})}
    prepare(work, settings=resolve(Preparation, asked))
    runs = [
        finetune(
            work,
            fold=fold,
            backbone=given.backbone,
            semi=given.semi,
            preset=PRESET,
            overrides=(*(SMALLER if smaller else ()), f"steps={given.steps}"),
            seed=seed,
            name=f"fold{fold}",
        )
        for fold in range(min(5, given.labelled))
    ]
    ids = ([scan.id for scan in scans if scan.subject in who] for who in (labelled, tested))
    return Draw(data, work, runs, *ids)


def linked(file: Path, folder: Path) -> None:
    """A link to the file in the folder, where there is none yet."""
    link = folder / file.name
    if not link.exists():
        link.symlink_to(file.resolve())


if __name__ == "__main__":
    main()
