"""A run folder: settings, weights, log, versions. Complete: whoever has its path needs nothing else.

    settings.yaml  trained_on.json  environment.json  status.json  metrics.jsonl  tensorboard/
    model.safetensors  model.json  resume.ckpt

Every file is written under a temporary name and renamed, so a killed process leaves nothing half-written.
"""

from __future__ import annotations

import json
import os
import platform
import re
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
from rich.text import Text
from safetensors.torch import load_file, save_file
from torch import Tensor

from lemis import __version__, files, terminal
from lemis.data import material
from lemis.data.material import TrainedOn
from lemis.engine import folders
from lemis.engine.memory import peak_memory_gb
from lemis.errors import UsageError
from lemis.parts import processes
from lemis.settings import write_yaml

VERSION = 1
_PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic")
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
        """Make the folder this run's own: what another state of the data or a run that came to nothing left goes."""
        stored = self.path / "settings.yaml"
        ours = stored.exists() and not folders.differences(self.path, settings)
        if ours and trained_on is not None and (changed := material.changes(material.read(self.path), trained_on)):
            self.console.print(f"note: {folders.set_aside(self.path, changed)}")
            ours = False
        if ours and (self.path / "status.json").exists():
            self._seconds_before = float(self.status().get("seconds", 0.0))
            self._core_seconds_before = float(self.status().get("core_seconds", 0.0))
        if not ours:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in ("metrics.jsonl", "status.json"):
                (self.path / leftover).unlink(missing_ok=True)
            files.write(self.path / "environment.json", json.dumps(environment(), indent=1))
            write_yaml(dict(settings), stored)
        if trained_on is not None:
            material.write(self.path, trained_on)

    # -- state ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """``status.json``, empty where the run has not begun."""
        return _status(self.path)

    @property
    def done(self) -> bool:
        """Training reached its end and the weights are there."""
        return is_done(self.path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process trains this run meanwhile; the system lets go of the lock where this one is killed.

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
            lock.release()

    def set_status(self, **facts: Any) -> None:
        """Merge ``facts`` into ``status.json``, and the time so far: on the clock, and of this process's cores."""
        if processes.rank() == 0:
            seconds = self._seconds_before + time.monotonic() - self._started
            core_seconds = self._core_seconds_before + time.process_time() - self._core_started
            times = {"seconds": round(seconds, 1), "core_seconds": round(core_seconds, 1)}
            files.write(self.path / "status.json", json.dumps({**self.status(), **facts, **times}, indent=1))

    def note(self, text: str) -> None:
        """Say it on the console, once."""
        if processes.rank() == 0:
            self.console.print(f"note: {text}")

    def warn(self, text: str) -> None:
        """Say it on the console and keep it in ``status.json``."""
        if processes.rank() == 0:
            self.console.print(Text.assemble(("warning:", "yellow"), " ", terminal.visible(text)))
            self.set_status(warnings=[*self.status().get("warnings", []), text])

    # -- metrics ----------------------------------------------------------------------------------------------------

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One line of ``metrics.jsonl``, and the same for TensorBoard."""
        if processes.rank() != 0:
            return
        seconds = self._seconds_before + time.monotonic() - self._started
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **figures, "seconds": round(seconds, 2)}) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # here, because it costs a second to import

            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def forget_after(self, step: int) -> None:
        """Drop what was logged beyond the checkpoint that training goes on from."""
        path = self.path / "metrics.jsonl"
        if path.exists() and processes.rank() == 0:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            files.write(path, "".join(kept))

    def replace_scores(self, prefix: str, figures: Mapping[str, float]) -> None:
        """Figures that begin with ``prefix`` are dropped from ``metrics.jsonl``; these are those of the last step."""
        path = self.path / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [{key: value for key, value in line.items() if not key.startswith(prefix)} for line in lines]
        kept[-1] |= figures
        files.write(path, "".join(json.dumps(line) + "\n" for line in kept))

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[Callable[[int, float], None]]:
        """A bar with rate and time left on a terminal, a plain line now and then elsewhere."""
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
                left = (total - step) / max(1e-9, rate(step))
                speed = f"{rate(step):.1f} steps/s, {left:.0f} s left"
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
        """The last checkpoint, or None where there is none."""
        if not self.checkpoint.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=device, weights_only=True)
        return state

    def finish(self, weights: Mapping[str, Tensor], facts: Mapping[str, Any], **status: Any) -> None:
        """Write ``model.safetensors`` and ``model.json``, mark the run done, and drop the checkpoint."""
        if self._writer is not None:
            self._writer.close()
        if processes.rank() == 0:
            with files.replacing(self.path / "model.safetensors") as temporary:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)
            files.write(self.path / "model.json", json.dumps({"version": VERSION, **facts}, indent=1))
            self.set_status(**status, peak_memory_gb=peak_memory_gb(), state="done")
            self.checkpoint.unlink(missing_ok=True)
            for leftover in self.path.glob(f"*{files.PART}"):  # of a process that was killed while it wrote
                leftover.unlink()


def is_done(path: Path) -> bool:
    """Whether the run in a folder reached its end and its weights are there."""
    return _status(path).get("state") == "done" and (path / "model.safetensors").is_file()


def _status(path: Path) -> dict[str, Any]:
    file = path / "status.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def load_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and facts of a finished run.

    Raises:
        UsageError: The folder is not a finished run.
    """
    if not (path / "model.json").exists():
        raise UsageError(
            f"{path} has no model.json",
            allowed="the folder of a finished run",
            next="give work/runs/NAME, or run the same training command again to finish it",
        )
    facts: dict[str, Any] = json.loads((path / "model.json").read_text(encoding="utf-8"))
    return load_file(path / "model.safetensors"), facts


def messages() -> Console:
    """Where verbs that train or predict speak: stderr, the first process only, lines unbroken where nobody looks on."""
    return terminal.console(stderr=True, unbroken=not sys.stderr.isatty(), quiet=processes.rank() != 0)


def environment() -> dict[str, Any]:
    """Machine and versions, as plain types."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "lemis": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The model, where the system tells."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.M)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()
