"""When held-out scans are scored while a network is trained, and what becomes of a step that lacks its scores."""

from __future__ import annotations

from typing import final

from lemis import processes
from lemis.training.checkpoints import Checkpoints
from lemis.training.guards import Signals
from lemis.training.held_out import Scoring, StoppedScoringError
from lemis.training.schedule import due


@final
class Scores:
    """Of held-out scans, at equal distances and at the end; none where nothing is scored."""

    def __init__(self, scoring: Scoring | None, total: int, checkpoints: Checkpoints) -> None:
        self._scoring, self._total, self._checkpoints = scoring, total, checkpoints
        self._every = max(1, total // scoring.times) if scoring else total + 1

    def are_due(self, step: int) -> bool:
        """Whether held-out scans are scored after a step."""
        return self._scoring is not None and due(self._every, step, self._total)

    def steps_left(self, step: int) -> float:
        """After a step, with the time of scoring as steps."""
        left = self._total - step
        return left + (left // self._every * self._scoring.steps if self._scoring else 0.0)

    def added(self, step: int, figures: dict[str, float], signals: Signals) -> dict[str, float]:
        """The figures of a step, with its scores if they are due."""
        return self.taken(step, figures, signals) if self.are_due(step) else figures

    def taken(self, step: int, figures: dict[str, float], signals: Signals) -> dict[str, float]:
        """The figures of a step with its scores; a checkpoint without them where somebody ends it meanwhile."""
        if self._scoring is None:
            return figures
        try:
            return figures | self._scoring.figures(lambda: signals.stop and processes.count() == 1)
        except StoppedScoringError:
            self._checkpoints.save(step, figures)
            raise self._checkpoints.stopped(step) from None
