"""From what was measured to the table: the Dice to expect, with an interval, and what is unlike the labelled scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np

from lemis import files
from lemis.measure import anatomy, distance, looks
from lemis.measure.anatomy import Units
from lemis.measure.expected import Calibration, Held, as_of_one
from lemis.measure.statistics import known_mean
from lemis.preparation.exposure import Strange
from lemis.runs.material import digest_of_file
from lemis.work_files import embedded, predictions, quality
from lemis.work_files.quality import Apart, Basis, Measured, OfRun, Row, Scan, Verdict
from lemis.work_files.run import WEIGHTS

# Expected Dice below the median of the held-out scans. Not the low end of the interval: where subjects are few, the
# worst of them alone decides how wide all intervals are.
POOR = 0.15
LOWEST = 0.25  # share of the held-out scans with the lowest agreement
_ORDER: tuple[Verdict, ...] = ("look", "unknown", "check", "usual")


@final
@dataclass(frozen=True, eq=False)
class Known:
    """What runs know, by which scans are judged."""

    held: Sequence[Held]
    labelled: Mapping[str, Scan]
    channels: Sequence[str]
    level: float
    apart: Mapping[str, Mapping[str, Apart]] = field(default_factory=dict)  # by network, by labelled scan

    @cached_property
    def calibration(self) -> Calibration:
        """Of all that was held out."""
        return Calibration(self.held, self.level)

    def unlike(self, told: Mapping[str, float], own: str | None) -> list[str]:
        """Whether a scan is far from the labelled ones, as a sentence, by the networks that say how far it is.

        Args:
            told: Distance by network.
            own: The scan's subject, whose scans do not count.
        """
        usual: dict[str, list[float]] = {}
        subjects = set()
        able = [run for run in told if self.apart.get(run)]  # others know nothing, or were trained anew since
        for run in able:
            for scan, one in self.apart[run].items():
                if one.subject != own:
                    usual.setdefault(scan, []).append(one.distance)
                    subjects.add(one.subject)
        said = distance.unlike(
            known_mean(told[run] for run in able), [float(np.mean(each)) for each in usual.values()], len(subjects)
        )
        return [said] if said else []


def save(output: Path, level: float) -> list[Row]:
    """Write the table of a folder of label maps anew, of all that was measured there.

    Args:
        output: The folder.
        level: Share of intervals that are to hold the true Dice.
    """
    record, made = quality.read(output), predictions.read(output)
    if record is None or made is None:
        return []
    there = {name: Path(path) for name, path in record.run_folders.items() if (Path(path) / WEIGHTS).exists()}
    runs = {name: quality.of_run(path, digest_of_file(path / WEIGHTS)) for name, path in there.items()}
    rows: list[Row] = []
    bases: dict[tuple[tuple[str, ...], ...], Known] = {}
    for id, one in record.scans.items():
        if id not in made.scans:
            continue
        key = (one.runs, one.labelled_runs)
        if key not in bases:
            bases[key] = Known(
                held_by([(name, runs[name]) for name in one.runs if name in runs]),
                {
                    scan: told for name in one.labelled_runs if name in runs
                    for scan, told in runs[name].labelled.items()
                },
                made.channels, level, {name: runs[name].apart for name in one.labelled_runs if name in runs},
            )  # fmt: skip
        units = anatomy.PIXELS if made.are_pixels(id) else anatomy.MILLIMETRES
        rows += rows_of(id, one, bases[key], made.scans[id].strange, units)
    rows = in_order(rows)
    basis = Basis(
        subjects=max((known.calibration.subjects for known in bases.values()), default=0),
        labelled=max((len(known.labelled) for known in bases.values()), default=0),
        level=level, structures=tuple(made.structures),
        without_distance=_without_distance([record.scans[id] for id in record.scans if id in made.scans], there, runs),
    )  # fmt: skip
    quality.save(output, basis, rows)
    return rows


def _without_distance(scans: Sequence[Measured], there: Mapping[str, Path], runs: Mapping[str, OfRun]) -> int:
    """Scans whose distance from the labelled ones was not measured, and can be: their label maps are from before.

    A network that has looked at the labelled scans, and knows no distance among them, has too few subjects to say any;
    and one that has not looks at them at the next prediction, where its work folder and its own can be used.
    """
    able = {name for name, told in runs.items() if told.apart or _will_look(there[name], told.weights)}
    return sum(not one.distance and not able.isdisjoint(one.agreement) for one in scans)


def _will_look(run: Path, weights: str) -> bool:
    has_scans = (run.parent.parent / "index.json").is_file()
    return has_scans and files.is_writable(run) and embedded.find(run, weights) is None


def held_by(runs: Sequence[tuple[str, OfRun]]) -> list[Held]:
    """What several runs held out; of a scan that several did, the means."""
    found: dict[tuple[str, str, str], list[tuple[str, float, float]]] = {}
    for run, told in runs:
        for scan, one in told.held_out.items():
            for structure, dice in one.dice.items():
                key = (one.subject, scan, structure)
                found.setdefault(key, []).append((run, one.agreement[structure], dice))
    return [
        Held(
            subject, tuple(run for run, _, _ in each), structure,
            float(np.mean([s for _, s, _ in each])), float(np.mean([y for _, _, y in each])),
        )
        for (subject, _, structure), each in found.items()
    ]  # fmt: skip


def rows_of(
    id: str, measured: Measured, known: Known, strange: Sequence[Strange] = (), units: Units = anatomy.MILLIMETRES
) -> list[Row]:
    """A row for each structure of one scan.

    Args:
        id: Of the scan.
        measured: What was measured of it.
        known: From held-out and labelled scans; of the scan's own subject neither is used.
        strange: In what it is far from all that the networks were trained on.
        units: In which sizes are said.
    """
    scan, own = measured.scan, measured.scan.subject if measured.own else None
    calibration = known.calibration if own is None else known.calibration.without(own)
    others = [one for one in known.labelled.values() if not measured.own or one.subject != own]
    subjects = len({one.subject for one in others})
    of_scan = [f"{one.kind}: {one.seen}" for one in strange]
    shapes = scan.anatomy()
    of_structure: Mapping[str, Sequence[str]] = dict.fromkeys(shapes, ())
    if others:
        of_scan += looks.unlike(scan.looks(), [one.looks() for one in others], subjects, known.channels, units)
        of_scan += known.unlike(measured.distance, own)
        of_structure = anatomy.unlike(shapes, [one.anatomy() for one in others], subjects, units)
    rows = []
    for structure, shape in shapes.items():
        place = measured.look_at.get(structure)
        agreement = {run: told[structure] for run, told in measured.agreement.items()}
        flags = [*of_scan, *(f"{structure} {said}" for said in of_structure[structure])]
        # What was never seen is beyond what held-out scans can tell; nor is there a Dice of what the map lacks.
        may_say = agreement and not of_scan and shape.ml > 0
        of_one = as_of_one(agreement, measured.ensemble.get(structure)) if may_say else {}
        expected = calibration.expected(structure, of_one) if may_say else None
        mean = known_mean(agreement.values())
        rows.append(
            Row(
                scan=id, structure=structure, agreement=mean,
                expected_dice=expected.dice if expected else math.nan, low=expected.low if expected else math.nan,
                high=expected.high if expected else math.nan, flags=". ".join(flags),
                verdict=_verdict(structure, mean, expected and expected.dice, bool(flags), calibration),
                distance=known_mean(measured.distance.values()),
                look_at_axis=place.axis if place else None, look_at_slice=place.slice if place else None,
            )
        )  # fmt: skip
    return rows


def _verdict(structure: str, agreement: float, dice: float | None, flagged: bool, calibration: Calibration) -> Verdict:
    own = [one for one in calibration.held if one.structure == structure]
    if flagged or (dice is not None and dice < np.median([one.dice for one in own]) - POOR):
        return "look"
    if dice is None:
        return "unknown"
    return "check" if agreement < np.quantile([one.agreement for one in own], LOWEST) else "usual"


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Scans by their worst row, those to look at first on top; the rows of a scan stay together."""

    def place(row: Row) -> tuple[int, float]:
        reached = row.agreement if math.isnan(row.expected_dice) else row.expected_dice
        return _ORDER.index(row.verdict), -1.0 if math.isnan(reached) else reached

    worst: dict[str, tuple[int, float]] = {}
    for row in rows:
        worst[row.scan] = min(worst.get(row.scan, (len(_ORDER), 0.0)), place(row))
    return sorted(rows, key=lambda row: (worst[row.scan], row.scan, place(row)))
