"""A run folder: settings, weights, log, versions. Complete: whoever has its path needs nothing else.

    settings.yaml  trained_on.json  environment.json  status.json  metrics.jsonl  tensorboard/
    model.safetensors  model.json  resume.ckpt

Every file is written under a temporary name and renamed, so a killed process leaves nothing half-written.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lemis import __version__, files, processes, terminal
from lemis.errors import UsageError
from lemis.runs import folders, material
from lemis.runs.material import TrainedOn
from lemis.runs.memory import peak_memory_gb
from lemis.settings import write_yaml
from lemis.work_files import run as records
from lemis.work_files.run import Environment, Model, Status

_PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic")
CHECKPOINT = ("step", "objective", "optimiser", "precision")  # what it holds
_PLAIN_EVERY_S = 15.0  # a line of progress where there is no terminal


@final
class Run:
    """One training run on disk.

    Args:
        path: The folder; made where it is missing.
        settings: Resolved settings as plain YAML types. A folder that holds others is refused.
        trained_on: The state of the data, which is written down; ``folders.set_aside`` comes first where it changed.

    Raises:
        UsageError: The folder belongs to a run with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], trained_on: TrainedOn | None = None) -> None:
        self.path = path
        self.checkpoint = path / "resume.ckpt"
        self.console = messages()
        self._writer: Any = None
        self._started, self._core_started = time.monotonic(), time.process_time()
        self._seconds_before = self._core_seconds_before = 0.0
        folders.refuse_other(path, settings)
        if processes.rank() == 0:
            self._take(settings, trained_on)

    def _take(self, settings: Mapping[str, Any], trained_on: TrainedOn | None) -> None:
        """Make the folder this run's own: what an earlier run on other data, or a failed one, left there goes."""
        stored = self.path / "settings.yaml"
        ours = stored.exists() and not folders.differences(self.path, settings)
        if ours and trained_on is not None and (changed := material.changes(material.read(self.path), trained_on)):
            self.console.print(f"note: {folders.set_aside(self.path, changed)}")
            ours = False
        if ours:
            status = self.status()
            self._seconds_before, self._core_seconds_before = status.seconds, status.core_seconds
        if not ours:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in ("metrics.jsonl", "status.json"):
                (self.path / leftover).unlink(missing_ok=True)
            records.write_environment(self.path, environment())
            write_yaml(dict(settings), stored)
        if trained_on is not None:
            material.write(self.path, trained_on)

    # -- state ------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """``status.json``, without any fact where the run has not begun."""
        return records.read_status(self.path)

    @property
    def done(self) -> bool:
        """Training reached its end and the weights are there."""
        return is_done(self.path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process trains this run meanwhile; the system lets go of the lock where this one is killed.

        However it ends, nothing of this run writes into its folder afterwards, so that it may be moved or deleted.

        Raises:
            UsageError: Another one does.
        """
        lock = FileLock(self.path / folders.LOCK, timeout=0)
        try:
            if processes.rank() == 0:
                lock.acquire()
        except Timeout:
            raise folders.another_trains(self.path) from None
        try:
            yield
        finally:
            try:
                self._end_tensorboard()
            finally:
                lock.release()

    def set_status(self, **facts: Any) -> None:
        """Merge ``facts`` into ``status.json``, and the time so far: on the clock, and of this process's cores."""
        if processes.rank() == 0:
            seconds = self._seconds_before + time.monotonic() - self._started
            core_seconds = self._core_seconds_before + time.process_time() - self._core_started
            times = {"seconds": round(seconds, 1), "core_seconds": round(core_seconds, 1)}
            records.write_status(self.path, self.status().with_facts({**facts, **times}))

    def note(self, text: str) -> None:
        """Say it on the console, once."""
        if processes.rank() == 0:
            self.console.print(f"note: {text}")

    def warn(self, text: str) -> None:
        """Say it on the console and keep it in ``status.json``."""
        if processes.rank() == 0:
            terminal.warn(self.console, text)
            self.set_status(warnings=[*self.status().warnings, text])

    # -- metrics ----------------------------------------------------------------------------------------------------

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One line of ``metrics.jsonl``, and the same for TensorBoard."""
        if processes.rank() != 0:
            return
        seconds = self._seconds_before + time.monotonic() - self._started
        records.add_metrics(self.path, {"step": step, **figures, "seconds": round(seconds, 2)})
        with files.naming(self.path / "tensorboard"):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # here, because it costs a second to import

                self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def _end_tensorboard(self) -> None:
        """End the thread that writes for TensorBoard; what is logged later begins a file of its own."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with files.naming(self.path / "tensorboard"):
                writer.close()

    def forget_after(self, step: int) -> None:
        """Drop what was logged beyond the checkpoint that training goes on from."""
        if (self.path / records.METRICS).exists() and processes.rank() == 0:
            records.keep_metrics_until(self.path, step)

    def replace_scores(self, prefix: str, figures: Mapping[str, float]) -> None:
        """Figures that begin with ``prefix`` are dropped from ``metrics.jsonl``; these are those of the last step."""
        lines = records.read_metrics(self.path)
        kept = [{key: value for key, value in line.items() if not key.startswith(prefix)} for line in lines]
        kept[-1:] = [{**line, **figures} for line in kept[-1:]]
        records.write_metrics(self.path, kept)

    @contextmanager
    def progress(
        self, total: int, done: int, left: Callable[[int], float] | None = None
    ) -> Iterator[Callable[[int, float], None]]:
        """A bar with rate and time left on a terminal, a plain line now and then elsewhere.

        Args:
            total: Steps.
            done: Of them, before.
            left: What is left after a step, in steps, where there is more to do than those.
        """
        start, begun, last = done, time.monotonic(), [time.monotonic()]
        if processes.rank() != 0:
            yield lambda *_: None
            return

        def rate(step: int) -> float:
            return (step - start) / max(1e-9, time.monotonic() - begun)

        if self.console.is_terminal:
            fields = ("{task.fields[rate]}", "loss {task.fields[loss]:.4f}")
            with terminal.progress(self.console, self.path.name, *fields) as bar:
                task = bar.add_task("", total=total, completed=done, rate="", loss=float("nan"))
                yield lambda step, loss: bar.update(task, completed=step, rate=f"{rate(step):.1f} steps/s", loss=loss)
            return

        def line(step: int, loss: float) -> None:
            if time.monotonic() - last[0] > _PLAIN_EVERY_S or step in (start + 1, total):
                last[0] = time.monotonic()
                seconds = (left(step) if left else total - step) / max(1e-9, rate(step))
                speed = f"{rate(step):.1f} steps/s, {seconds:.0f} s left"
                self.console.print(f"{self.path.name}: step {step}/{total}, loss {loss:.4f}, {speed}")

        yield line

    # -- weights ----------------------------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Everything needed to go on: tensors and plain types only."""
        if processes.rank() == 0:
            with files.replacing(self.checkpoint) as temporary:
                torch.save(dict(state), temporary)
            self.set_status(step=state["step"])

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, or None where there is none.

        Raises:
            UsageError: It is damaged: nothing is thrown away without a word.
        """
        if not self.checkpoint.exists():
            return None
        try:
            state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # what a damaged file raises is anybody's guess, EOFError among it
            raise self.damaged_checkpoint(f"{type(error).__name__} {str(error).partition(chr(10))[0]}") from error
        if not isinstance(state, dict) or not {*CHECKPOINT} <= state.keys():
            raise self.damaged_checkpoint(f"it does not hold {', '.join(CHECKPOINT)}")
        return state

    def damaged_checkpoint(self, reason: str) -> UsageError:
        """The error for a checkpoint that training cannot go on from."""
        return UsageError(
            f"{self.checkpoint} is damaged: {reason}",
            allowed="the checkpoint as it was written",
            next=f"delete {self.checkpoint} and run the same command again: training then begins anew",
        )

    def finish(self, weights: Mapping[str, Tensor], model: Model, **status: Any) -> None:
        """Write ``model.safetensors`` and ``model.json``, mark the run done, and drop the checkpoint."""
        self._end_tensorboard()
        if processes.rank() == 0:
            save_weights(self.path / records.WEIGHTS, weights)
            records.write_model(self.path, model)
            self.set_status(**status, peak_memory_gb=peak_memory_gb(), state="done")
            self.checkpoint.unlink(missing_ok=True)
            for leftover in self.path.glob(f"*{files.PART}"):  # of a process that was killed while it wrote
                leftover.unlink()


def is_done(path: Path) -> bool:
    """Whether the run in a folder reached its end and its weights are there."""
    there = all((path / name).is_file() for name in (records.MODEL, records.WEIGHTS))
    return there and records.read_status(path).state == "done"


def save_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors by name as safetensors."""
    with files.replacing(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def load_model(path: Path) -> tuple[dict[str, Tensor], Model]:
    """Weights of a finished run, and what they are.

    Raises:
        UsageError: The folder is not a finished run, or its files are damaged.
    """
    model = records.read_model(path)
    return _finite_weights(path / records.WEIGHTS), model


def fill(network: nn.Module, weights: Mapping[str, Tensor], run: Path) -> None:
    """Load all weights of a run into the network that its ``model.json`` describes.

    Raises:
        UsageError: They are those of another network.
    """
    own = network.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [name for name in own if not _alike(own[name], weights[name])]
    if odd:
        here, there = (_form(tensors.get(odd[0])) for tensors in (own, weights))
        raise UsageError(
            f"{run / records.WEIGHTS} is not of the network that {records.MODEL} describes: "
            f"{odd[0]} is {there}, and {here} in the network",
            allowed="both files of one training",
            next=records.ANEW,
        )
    network.load_state_dict(weights)


def _finite_weights(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"{file} cannot be read: {str(error).partition(chr(10))[0]}", allowed="whole weights", next=records.ANEW
        ) from None
    if not weights:
        raise UsageError(f"{file} holds no weights", allowed="those of a network", next=records.ANEW)
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor.double()).all()):
            raise UsageError(
                f"{file} holds weights that are not finite ({name})", allowed="finite weights", next=records.ANEW
            )
    return weights


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _form(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"


def messages() -> Console:
    """``terminal.messages`` of verbs that train or predict: of the first process only."""
    return terminal.messages(quiet=processes.rank() != 0)


def environment() -> Environment:
    """Machine and versions."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Environment(
        version=1,
        lemis=__version__,
        python=platform.python_version(),
        packages=packages,
        platform=platform.platform(),
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=gpu,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The model, where the system tells."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.M)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()
