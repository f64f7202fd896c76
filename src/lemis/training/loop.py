"""The one training loop, for pre-training and fine-tuning alike, visible from top to bottom.

Everything random in step N is a function of (seed, N), so a checkpoint needs no random state, and step N after a resume
equals step N without one, to the bit on a CPU.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lemis import processes
from lemis.contracts import Batch, Outcome, Sampling, Trained
from lemis.runs.run import Run
from lemis.sampling.draw import Rows
from lemis.sampling.samples import Source
from lemis.training.checkpoints import Checkpoints
from lemis.training.collapse import FEWEST_STEPS, PATIENCE_SHARE, Watch
from lemis.training.guards import Signals, not_finite, refuse_batch, refuse_not_finite_weights, shareable
from lemis.training.held_out import Scoring
from lemis.training.schedule import ALIKE, Settings, Slower, build_optimiser, due, learning_rate, set_rate
from lemis.training.scores import Scores

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    objective: nn.Module,
    source: Source,
    sampling: Sampling,
    settings: Settings,
    run: Run,
    fabric: Fabric,
    *,
    seed: int,
    scoring: Scoring | None = None,
    slower: Slower = ALIKE,
    prefix: str = "",
) -> str | None:
    """Minimise the plain sum of ``objective(batch, rng).losses``, from the run's last checkpoint if it has one.

    Args:
        objective: A method, or the fine-tuning objective; only parameters that require a gradient are trained.
        source: Where batches come from.
        sampling: How they are drawn.
        settings: Optimiser and schedule.
        run: Where metrics and checkpoints go.
        fabric: Devices, precision and processes.
        seed: All randomness follows from it and the step.
        scoring: Of held-out scans, at equal distances and at the end; its figures go to the metrics.
        slower: Parameters that learn at a share of the rate.
        prefix: What the user typed before the schedule's keys, for advice.

    Returns:
        Why nothing was learned, where that is so and can be told (``collapse``).

    Raises:
        UsageError: A batch that cannot be spread over the processes and parts.
        TrainingStopped: The loss or the weights are not finite.
        Interrupted: SIGTERM or Ctrl-C; there is a checkpoint.
    """
    refuse_batch(sampling.batch_size, settings.accumulate, fabric.world_size, prefix)
    per_epoch = len(_batches(source, sampling, settings, fabric, seed, 0))
    total = settings.steps or settings.epochs * per_epoch
    inner = channels_last(objective)
    model, optimiser = fabric.setup(inner, build_optimiser(inner, settings, slower))
    checkpoints = Checkpoints(run, inner, optimiser, fabric)
    step, unscored = checkpoints.resume(total)
    scores = Scores(scoring, total, checkpoints)
    watch = Watch(run, _patience(settings, total), learning_rate=settings.learning_rate, prefix=prefix)
    with run.progress(total, step, scores.steps_left) as advance, Signals() as signals:
        if unscored is not None:
            run.log(step, scores.taken(step, unscored, signals))
        while step < total:
            epoch = step // per_epoch
            left = _batches(source, sampling, settings, fabric, seed, epoch)[step % per_epoch :][: total - step]
            for rows, batch in zip(left, source.stream(left), strict=True):
                rate = set_rate(optimiser, learning_rate(settings, step, total))
                outcome = _gradient(model, batch, settings, step, seed, fabric)
                outcome, save, stop = _together(outcome, checkpoints.older_than(settings.checkpoint_minutes), signals)
                loss = torch.stack(list(outcome.losses.values())).sum().detach()
                if not bool(torch.isfinite(loss)):
                    raise not_finite(outcome, step, source.scans_of(rows), run)
                if settings.clip_norm is not None:
                    fabric.clip_gradients(model, optimiser, max_norm=settings.clip_norm)
                rest(inner)
                optimiser.step()
                optimiser.zero_grad()
                step += 1
                _after_step(inner, step / total)
                watch.see(outcome, step)
                logged = due(settings.log_every_steps, step, total)
                figures = {"learning_rate": rate, **watch.figures(outcome)} if logged else {}
                if figures or scores.are_due(step):
                    run.log(step, scores.added(step, {"epoch": epoch, **figures}, signals))
                advance(step, float(loss))
                if due(per_epoch, step, total):
                    watch.end_of_epoch(epoch, step)
                    _after_epoch(inner, step / total)
                if save and step < total:
                    checkpoints.save(step)
                    if stop:
                        raise checkpoints.stopped(step)
    refuse_not_finite_weights(inner, step, run)
    run.set_status(step=step, steps=total)
    return watch.learned_nothing


def channels_last(module: nn.Module) -> nn.Module:
    """Weights of 2D convolutions with the channels last, which is faster on a CPU (``python -m benchmarks precision``).

    Those of 3D ones stay: next to instance normalisation they only get slower.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return module


def _gradient(model: Any, batch: Batch, settings: Settings, step: int, seed: int, fabric: Fabric) -> Outcome:
    """Forward and backward of one step, in ``accumulate`` parts; mean losses over them, embeddings of the last."""
    parts = settings.accumulate
    losses: dict[str, Tensor] = {}
    for part in range(parts):
        piece = apply_to_collection(batch, Tensor, itemgetter(slice(part, None, parts)))
        share = len(piece.image) / len(batch.image)
        torch.manual_seed(hash((seed, step, part, fabric.global_rank)) % 2**63)  # dropout and the like
        rng = Rows(seed, step * parts + part, fabric.device, fabric.global_rank, fabric.world_size)
        with fabric.no_backward_sync(model, enabled=part < parts - 1):
            outcome: Outcome = model(piece, rng)
            fabric.backward(torch.stack(list(outcome.losses.values())).sum() * share)
        for name, loss in outcome.losses.items():
            losses[name] = losses.get(name, 0) + loss.detach() * share
    return outcome._replace(losses=losses)


def _together(outcome: Outcome, late: bool, signals: Signals) -> tuple[Outcome, bool, bool]:
    """Losses averaged over the processes; whether any of them wants to save, and whether any wants to stop."""
    save, stop = signals.take()
    save = save or late
    if processes.count() == 1:
        return outcome, save, stop
    terms = torch.stack([loss.float() for loss in outcome.losses.values()])
    shared = processes.total(torch.cat([terms, terms.new_tensor([save, stop])]))
    means = shared[:-2] / processes.count()
    return outcome._replace(losses=dict(zip(outcome.losses, means, strict=True))), bool(shared[-2]), bool(shared[-1])


def _batches(
    source: Source, sampling: Sampling, settings: Settings, fabric: Fabric, seed: int, epoch: int
) -> list[np.ndarray]:
    """Of one epoch, as many in each: the rows of this process."""
    drawn = source.draw(sampling, seed=seed, epoch=epoch)
    batches = shareable(drawn, sampling, settings.accumulate, fabric.world_size)
    return [_rows_of_process(rows, fabric) for rows in batches]


def _rows_of_process(rows: np.ndarray, fabric: Fabric) -> np.ndarray:
    size = len(rows) // fabric.world_size
    return rows[fabric.global_rank * size : (fabric.global_rank + 1) * size]


def _patience(settings: Settings, total: int) -> int:
    """Steps before a training may be said to learn nothing."""
    return settings.warm_up_steps + max(FEWEST_STEPS, int(PATIENCE_SHARE * total))


def rest(module: nn.Module) -> None:
    """Take their gradients from the parameters that rest, so that no optimiser moves them: not by decay or momentum.

    Adam would move one whose only gradient is its coupled decay by the whole learning rate, step after step, to 0.
    """
    if isinstance(module, Trained):
        for parameter in module.resting():
            parameter.grad = None


def _after_step(module: nn.Module, progress: float) -> None:
    if isinstance(module, Trained):
        module.after_step(progress)


def _after_epoch(module: nn.Module, progress: float) -> None:
    if isinstance(module, Trained):
        module.after_epoch(progress)
