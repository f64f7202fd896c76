"""What a fault is: one thing that is wrong with a folder of scans, with what was seen and how to repair it.

An error is what would make training or scores wrong: geometry that does not match, values that cannot be
used, labels that nobody declared. A warning is what may be intended, and should be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    severity: Severity
    scan: str  # id; "" where no single scan is meant
    file: str
    kind: str
    seen: str
    repair: str

    @property
    def is_error(self) -> bool:
        """False for a warning."""
        return self.severity == "error"


class FileReport(NamedTuple):
    """Collects the faults of one file."""

    scan: str
    file: str
    found: list[Fault]

    def error(self, kind: str, seen: str, repair: str) -> None:
        """Add what has to be repaired."""
        self.found.append(Fault("error", self.scan, self.file, kind, seen, repair))

    def warning(self, kind: str, seen: str, repair: str) -> None:
        """Add what may be intended."""
        self.found.append(Fault("warning", self.scan, self.file, kind, seen, repair))


def bracketed(numbers: Iterable[float]) -> str:
    """``(1, 0.5, 3)``, four digits of each."""
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"
