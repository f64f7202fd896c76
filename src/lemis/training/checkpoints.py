"""What a training goes on from after it was stopped: written now and then, and read again to the bit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

from torch import nn

from lemis.errors import Interrupted
from lemis.runs.run import Run
from lemis.training.guards import refuse_not_finite_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@final
class Checkpoints:
    """All that a training goes on from, as it is written down now and then."""

    def __init__(self, run: Run, module: nn.Module, optimiser: Any, fabric: Fabric) -> None:
        self._run, self._module, self._optimiser, self._fabric = run, module, optimiser, fabric
        self._last = time.monotonic()

    def older_than(self, minutes: float) -> bool:
        """Whether the last one was so long ago, or the beginning where there is none yet."""
        return time.monotonic() - self._last > 60 * minutes

    def resume(self, total: int) -> tuple[int, Any]:
        """The step that training goes on from, everything as it was after it, and its figures if it lacks its scores.

        Raises:
            UsageError: The checkpoint is damaged, or of another training.
        """
        run, state = self._run, self._run.load_checkpoint(self._fabric.device)
        if state is None:
            run.forget_after(0)
            return 0, None
        step, unscored = state["step"], state.get("unscored")
        if not isinstance(step, int) or not 0 < step < total + (unscored is not None):
            raise run.damaged_checkpoint(f"step {step!r} of {total}")
        try:
            self._module.load_state_dict(state["objective"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._fabric.strategy.precision.load_state_dict(state["precision"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise run.damaged_checkpoint(str(error).partition("\n")[0]) from error
        run.forget_after(step)
        return step, unscored

    def save(self, step: int, unscored: dict[str, float] | None = None) -> None:
        """After a step; ``unscored`` are its figures where it is yet to be scored."""
        refuse_not_finite_weights(self._module, step, self._run)
        self._run.save_checkpoint(
            {
                "step": step,
                "objective": self._module.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "precision": self._fabric.strategy.precision.state_dict(),
                **({} if unscored is None else {"unscored": unscored}),
            }
        )
        self._fabric.barrier()
        self._last = time.monotonic()

    def stopped(self, step: int) -> Interrupted:
        """The error of a training that was asked to end."""
        return Interrupted(f"{self._run.path}: stopped after step {step}, with a checkpoint")
