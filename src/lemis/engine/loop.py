"""The one training loop, for pre-training and fine-tuning alike, visible from top to bottom.

Everything random in step N is a function of (seed, N), so a checkpoint needs no random state, and step N after a resume
equals step N without one, to the bit on a CPU.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from types import FrameType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from lemis.contracts import Batch, Method, Outcome, Sampling
from lemis.data.draw import Rows
from lemis.data.samples import Slices, draw_batches
from lemis.engine.collapse import Watch
from lemis.engine.run import Run
from lemis.errors import TrainingStopped, UsageError
from lemis.parts import processes

# `precision=32` is a number to YAML.
Precision = Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Optimiser and schedule; the defaults are those of the PCL protocol's pre-training."""

    epochs: Annotated[int, Field(gt=0)] = 300  # passes over the slices
    steps: Annotated[int, Field(gt=0)] | None = None  # optimiser steps; where given, the length instead of ``epochs``
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    floor: Annotated[float, Field(ge=0)] = 0.0  # the learning rate never goes below; not where the cosine ends
    schedule: Literal["cosine", "poly", "constant"] = "cosine"  # poly: (1 - T / T_total)^0.9
    warm_up_steps: Annotated[int, Field(ge=0)] = 0  # linear from 0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of SGD
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    accumulate: Annotated[int, Field(gt=0)] = (
        1  # a batch is taken in this many parts; a contrast sees one part at a time
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient
    precision: Precision = "auto"  # auto: bf16 where the hardware has it, else 32
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    log_every_steps: Annotated[int, Field(gt=0)] = 10


def train(
    objective: nn.Module,
    slices: Slices,
    sampling: Sampling,
    settings: Settings,
    run: Run,
    fabric: Fabric,
    *,
    seed: int,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every_steps: int | None = None,
) -> None:
    """Minimise the plain sum of ``objective(batch, rng).losses``, from the run's last checkpoint if it has one.

    Args:
        objective: A method, or the fine-tuning objective; only parameters that require a gradient are trained.
        slices: Where batches come from.
        sampling: How they are drawn.
        settings: Optimiser and schedule.
        run: Where metrics and checkpoints go.
        fabric: Devices, precision and processes.
        seed: All randomness follows from it and the step.
        evaluate: Called every ``evaluate_every_steps`` and at the end; its figures go to the metrics.
        evaluate_every_steps: None is never.

    Raises:
        UsageError: A batch that cannot be spread over the processes and parts.
        TrainingStopped: The loss or the weights are not finite, or the run was told to stop by SIGTERM.
    """
    _refuse_batch(sampling.batch_size, settings.accumulate, fabric.world_size)
    per_epoch = len(draw_batches(sampling, slices.scan, slices.subject, seed=seed, epoch=0))
    total = settings.steps or settings.epochs * per_epoch
    # Convolutions in bf16 run up to 2.6 times as fast on a CPU.
    inner = objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(inner, settings)
    model, optimiser = fabric.setup(inner, optimiser)
    step = _resume(run, inner, optimiser, fabric)
    watch = Watch(run, settings.warm_up_steps)
    last_saved = time.monotonic()
    with run.progress(total, step) as advance, _Signals() as signals:
        while step < total:
            epoch = step // per_epoch
            batches = draw_batches(sampling, slices.scan, slices.subject, seed=seed, epoch=epoch)
            mine = [_rows_of_process(rows, fabric) for rows in batches[step % per_epoch :]]
            for rows, batch in zip(mine, slices.stream(mine), strict=True):
                rate = learning_rate(settings, step, total)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                outcome = _gradient(model, batch, settings, step, seed, fabric)
                late = time.monotonic() - last_saved > 60 * settings.checkpoint_minutes
                outcome, save, stop = _together(outcome, late, signals)
                loss = torch.stack(list(outcome.losses.values())).sum().detach()
                if not bool(torch.isfinite(loss)):
                    raise _not_finite(outcome, step, rows, slices, run)
                if settings.clip_norm is not None:
                    fabric.clip_gradients(model, optimiser, max_norm=settings.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
                step += 1
                _after_step(inner, step / total)
                watch.see(outcome)
                figures: dict[str, float] = {}
                if _due(settings.log_every_steps, step, total):
                    figures |= {"learning_rate": rate, **watch.figures(outcome)}
                if evaluate is not None and _due(evaluate_every_steps, step, total):
                    figures |= evaluate()
                if figures:
                    run.log(step, {"epoch": epoch, **figures})
                advance(step, float(loss))
                if _due(per_epoch, step, total):
                    watch.end_of_epoch(epoch, step)
                    _after_epoch(inner, step / total)
                if save and step < total:
                    _save(run, step, inner, optimiser, fabric)
                    last_saved = time.monotonic()
                    if stop:
                        raise TrainingStopped(
                            f"SIGTERM: stopped after step {step}; the same command goes on from there"
                        )
                if step == total:
                    break
    _refuse_not_finite_weights(inner, step, run)


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """Of step ``step``, counted from 0, of ``total``."""
    if step < settings.warm_up_steps:
        return settings.learning_rate * (step + 1) / settings.warm_up_steps
    share = (step - settings.warm_up_steps) / max(1, total - settings.warm_up_steps)
    factors: dict[str, float] = {"cosine": 0.5 * (1 + cos(pi * share)), "poly": (1 - share) ** 0.9, "constant": 1.0}
    return max(settings.learning_rate * factors[settings.schedule], settings.floor)


def launch(settings: Settings, device: str) -> Fabric:
    """Fabric for ``auto``, ``cpu`` or ``cuda``; processes are those that torchrun started, else this one.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    accelerator = chosen_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the verbs say device and precision themselves
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=precision(settings, accelerator),
    )
    fabric.launch()
    return fabric


def chosen_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` -> ``cpu`` or ``cuda``.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", allowed="auto or cpu: PyTorch sees no CUDA device", next="lemis doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def precision(settings: Settings, accelerator: str) -> Any:
    """Fabric's name of the precision. ``auto`` is decided by the hardware, not by timing, so that it is repeatable.

    Raises:
        UsageError: Half precision on a CPU.
    """
    if settings.precision == "16" and accelerator == "cpu":  # Fabric would take bf16 instead
        raise UsageError("precision=16 on a CPU", allowed="auto, 32 or bf16", next="precision=bf16")
    if settings.precision == "auto":
        has_bf16 = (
            torch.cuda.is_bf16_supported() if accelerator == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        return "bf16-mixed" if has_bf16 else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[settings.precision]


def _gradient(model: Any, batch: Batch, settings: Settings, step: int, seed: int, fabric: Fabric) -> Outcome:
    """Forward and backward of one step, in ``accumulate`` parts; mean losses over them, embeddings of the last."""
    parts = settings.accumulate
    losses: dict[str, Tensor] = {}
    for part in range(parts):
        piece = Batch._make(None if values is None else values[part::parts] for values in batch)
        share = len(piece.image) / len(batch.image)
        torch.manual_seed(hash((seed, step, part, fabric.global_rank)) % 2**63)  # dropout and the like
        rng = Rows(seed, step * parts + part, fabric.device, fabric.global_rank, fabric.world_size)
        with fabric.no_backward_sync(model, enabled=part < parts - 1):
            outcome: Outcome = model(piece, rng)
            fabric.backward(torch.stack(list(outcome.losses.values())).sum() * share)
        for name, loss in outcome.losses.items():
            losses[name] = losses.get(name, 0) + loss.detach() * share
    return outcome._replace(losses=losses)


def _together(outcome: Outcome, late: bool, signals: _Signals) -> tuple[Outcome, bool, bool]:
    """Losses averaged over the processes; whether any of them wants to save, and whether any wants to stop."""
    save, stop = signals.take()
    save = save or late
    if processes.count() == 1:
        return outcome, save, stop
    terms = torch.stack([loss.float() for loss in outcome.losses.values()])
    shared = processes.total(torch.cat([terms, terms.new_tensor([save, stop])]))
    means = shared[:-2] / processes.count()
    return outcome._replace(losses=dict(zip(outcome.losses, means, strict=True))), bool(shared[-2]), bool(shared[-1])


def _due(every: int | None, step: int, total: int) -> bool:
    return bool(every) and (step % (every or 1) == 0 or step == total)


def _optimiser(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay)


def _resume(run: Run, module: nn.Module, optimiser: Any, fabric: Fabric) -> int:
    state = run.load_checkpoint(fabric.device)
    if state is None:
        run.forget_after(0)
        return 0
    module.load_state_dict(state["objective"])
    optimiser.load_state_dict(state["optimiser"])
    fabric.strategy.precision.load_state_dict(state["precision"])
    run.forget_after(state["step"])
    return int(state["step"])


def _save(run: Run, step: int, module: nn.Module, optimiser: Any, fabric: Fabric) -> None:
    _refuse_not_finite_weights(module, step, run)
    run.save_checkpoint(
        {
            "step": step,
            "objective": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
        }
    )
    fabric.barrier()


def _rows_of_process(rows: np.ndarray, fabric: Fabric) -> np.ndarray:
    size = len(rows) // fabric.world_size
    return rows[fabric.global_rank * size : (fabric.global_rank + 1) * size]


def _not_finite(outcome: Outcome, step: int, rows: np.ndarray, slices: Slices, run: Run) -> TrainingStopped:
    terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in outcome.losses.items())
    scans = sorted({slices.store.scans[int(scan)].id for scan in slices.scan[rows]})
    return TrainingStopped(
        f"the loss of step {step + 1} is not finite: {terms}\n"
        f"  scans of the batch: {', '.join(scans)}\n"
        f"  last good checkpoint: {_kept(run)}\n"
        f"  next:    run `lemis check` on these scans; then a smaller learning_rate, clip_norm=1, or precision=32"
    )


def _refuse_not_finite_weights(module: nn.Module, step: int, run: Run) -> None:
    # A gradient can overflow where its loss does not; such weights must never replace good ones on disk.
    for name, values in module.state_dict().items():
        if not bool(torch.isfinite(values).all()):
            raise TrainingStopped(
                f"after step {step} the weights are not finite ({name})\n"
                f"  last good checkpoint: {_kept(run)}\n"
                f"  next:    a smaller learning_rate, clip_norm=1, or precision=32"
            )


def _kept(run: Run) -> str:
    return str(run.checkpoint) if run.checkpoint.exists() else "none yet"


def _refuse_batch(batch_size: int, parts: int, world: int) -> None:
    if batch_size % world:
        raise UsageError(
            f"a batch of {batch_size} on {world} processes",
            allowed="a batch size that the number of processes divides",
            next=f"batch_size={-(-batch_size // world) * world}",
        )
    if parts > batch_size // world:
        raise UsageError(
            f"accumulate={parts} for a batch of {batch_size // world} in each process",
            allowed=f"1 to {batch_size // world}",
            next=f"accumulate={batch_size // world}",
        )


def _after_step(module: nn.Module, progress: float) -> None:
    if isinstance(module, Method):
        module.after_step(progress)


def _after_epoch(module: nn.Module, progress: float) -> None:
    if isinstance(module, Method):
        module.after_epoch(progress)


class _Signals:
    """SIGUSR1 asks for a checkpoint; SIGTERM asks for one and for the end. Outside the main thread nothing is heard."""

    def __init__(self) -> None:
        self._save = self._stop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for name in ("SIGTERM", "SIGUSR1"):
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = getattr(signal, name)
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._save, self._stop = True, self._stop or number == signal.SIGTERM

    def take(self) -> tuple[bool, bool]:
        """Was a checkpoint asked for, and the end? A request is given out once; that for the end stays."""
        asked, self._save = self._save, False
        return asked or self._stop, self._stop
