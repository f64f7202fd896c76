"""Does the label forecast hold: Dice with many labelled subjects, foretold from few and then measured.

    lemis compare SCANS -o WORK --plan benchmarks/plans/acdc-curve.yaml
    python -m benchmarks.forecast WORK/comparisons/acdc-curve [--known 2 4 8]

For each row of the comparison a curve is fitted to the known numbers of labelled subjects; the others are foretold, by
all folds together and by the test subjects of each fold alone. A fold is one training at each M where the mean is of
all of them, so its trainings vary by the root of that number more.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from lemis.measure import forecast
from lemis.measure.tables import markdown
from lemis.reporting import outcome
from lemis.reporting.comparison import by_subject


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="WORK/comparisons/NAME")
    parser.add_argument("--known", nargs="+", type=int, default=[2, 4, 8], help="what the curve is fitted to")
    given = parser.parse_args()
    found = outcome.read(given.comparison)
    folds = sorted({case.fold for case in found.cases})
    lines = []
    for row in found.rows:
        lines += foretold(f"{row}, all folds", by_subject(found, row), given.known, forecast.Settings())
        alone = forecast.Settings(training_std=forecast.Settings().training_std * math.sqrt(len(folds)))
        for fold in folds:
            own = dataclasses.replace(found, cases=tuple(case for case in found.cases if case.fold == fold))
            lines += foretold(f"{row}, fold {fold}", by_subject(own, row), given.known, alone)
    print(markdown(lines))


def foretold(
    title: str, values: Mapping[int, Mapping[str, float]], known: list[int], settings: forecast.Settings
) -> list[dict[str, object]]:
    """A line for each number of labelled subjects that the curve has not seen."""
    fitted = forecast.fit({labelled: values[labelled] for labelled in known}, settings)
    lines: list[dict[str, object]] = []
    for labelled in sorted(set(values) - set(known)):
        measured = outcome.mean_of(values[labelled].values())
        mean, low, high = fitted.predict(labelled)
        lines.append({
            "row": title, "M": labelled, "foretold": f"{mean:.3f} [{low:.3f}, {high:.3f}]",
            "measured": f"{measured:.3f}", "error": f"{mean - measured:+.3f}",
            "inside": "yes" if low <= measured <= high else "no",
        })  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
