"""The files of a run folder: what was trained (``model.json``), its status, environment, settings and metrics.

settings.yaml  environment.json  status.json  metrics.jsonl  model.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lemis import files, plugins
from lemis.datasets.frame import StoredFrame
from lemis.errors import UsageError, shown
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation.exposure import Known, Likeness, MeasuredField
from lemis.preparation.settings import Settings as Preparation
from lemis.records import Count, Name, Record, Size, find, parse, read, write
from lemis.settings import read_yaml, resolve

VERSION = 1
MODEL, WEIGHTS, STATUS = "model.json", "model.safetensors", "status.json"
ENVIRONMENT, SETTINGS, METRICS = "environment.json", "settings.yaml", "metrics.jsonl"
RUNS = "runs"  # of a work folder
_SHOWN = 4  # of its runs, where another folder was given
# What makes a run anew where one of its files is damaged; every run folder has the command in it.
ANEW = f"delete this folder, and run the command that made it again ({ENVIRONMENT} there has it)"


def _settles(prepared: dict[str, Any]) -> dict[str, Any]:
    resolve(Preparation, prepared, prefix="prepared.")
    return prepared


class _Trained(Record):
    """What both kinds of run say of their network."""

    version: Literal[1] = 1
    verb: Literal["pretrain", "finetune"]
    method: str
    backbone: str  # file name in ``backbones/``, or a dotted name
    backbone_settings: dict[str, Any]
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    label_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]  # index 0 is the background
    label_values: tuple[int, ...]  # in the files, of each name
    labelled_subjects: tuple[str, ...]
    prepared: Annotated[dict[str, Any], AfterValidator(_settles)]  # Settings as plain values
    seed: Count
    known: Known = Known()  # the scans of its data set, by their content
    like: Likeness | None = None  # what the scans of its training were like; None: older than this record
    frame: StoredFrame | None = None  # in which it saw the scans; None: older than frames

    @model_validator(mode="after")
    def _one_value_of_each_name(self) -> Self:
        if len(set(self.label_values)) != len(self.label_names) or len(self.label_values) != len(self.label_names):
            raise ValueError(f"label_values {list(self.label_values)} for the names {list(self.label_names)}")
        if len(set(self.label_names)) != len(self.label_names):
            raise ValueError(f"label_names {list(self.label_names)}, one of them twice")
        return self


class Imported(Record):
    """Weights of somebody else, as ``lemis import`` took them."""

    file: Name
    digest: str  # of the file
    inside: str = ""  # the key of the file that held them; empty: the file itself
    prefix: str = ""  # that was taken off every name
    mapping: dict[str, str] = Field(default_factory=dict)  # patterns of names and what took their place, in order
    share: Annotated[float, Field(gt=0, le=1)]  # of the encoder's parameters that they gave
    licence: str | None = None
    made_by: str | None = None  # the program, where the file says it
    saw_labels: bool | None = None  # whether they were trained with labels, of others; None: not known


class PretrainedModel(_Trained):
    """``model.json`` of a pre-training."""

    verb: Literal["pretrain"] = "pretrain"
    trained: tuple[str, ...]  # parts of the network
    subjects: tuple[str, ...]  # whose images it saw
    learned_nothing: str | None = None  # why, in words, where that is known
    imported: Imported | None = None  # None: trained here


class OnePiece(Record):
    """What is one connected piece in every labelled scan of a training."""

    foreground: bool = False  # all structures together
    structures: tuple[str, ...] = ()  # each by itself


class Teacher(Record):
    """Networks whose label maps of unlabelled scans a training learned from."""

    runs: tuple[Name, ...]
    labelled_subjects: tuple[str, ...]  # whose labels they saw
    digest: str  # of all these label maps


class FinetunedModel(_Trained):
    """``model.json`` of a fine-tuning."""

    verb: Literal["finetune"] = "finetune"
    auxiliary: str | None
    patch_px: tuple[Size, Size, Size] | None  # (slices, rows, cols) of a tile; None for networks of slices
    test_subjects: tuple[str, ...]
    pretraining_subjects: tuple[str, ...]
    pretrained: Name | None  # the run whose weights it began with
    start_is_known: bool = True  # False: its weights began elsewhere, where they may have seen any scan
    second: Name | None = None  # the run whose weights a second network began with, which was trained beside it
    semi: str | None = None  # a way to use unlabelled scans
    semi_settings: dict[str, Any] = Field(default_factory=dict)
    unlabelled_subjects: tuple[str, ...] = ()  # whose images it saw that way, without their labels
    teacher: Teacher | None = None  # of such scans
    fold: Count | None
    split: str
    ignored_values: tuple[int, ...] = ()  # further values in its labels, which counted as background
    one_piece: OnePiece | None = None  # None: older than this record
    field_of_view: MeasuredField | None = None  # None: not measured on labels, or older than this record
    # Axes of what the network sees, (rows, cols) or (slices, rows, cols), that training mirrored; None: as above.
    mirrored_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None

    @property
    def learned_from(self) -> set[str]:
        """Subjects whose labels it learned from, by itself or by a teacher."""
        return {*self.labelled_subjects, *(self.teacher.labelled_subjects if self.teacher else ())}


Model = PretrainedModel | FinetunedModel
_MODEL = Annotated[Model, Field(discriminator="verb")]


class Status(Record):
    """``status.json``: how far a run is. All is optional, as it is filled on the way."""

    version: Literal[1] = 1
    verb: Literal["pretrain", "finetune"] | None = None
    method: str | None = None
    state: Literal["running", "done"] | None = None
    step: Count = 0
    steps: Count | None = None
    scans: Count | None = None
    slices: Count | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    core_seconds: Annotated[float, Field(ge=0)] = 0.0
    peak_memory_gb: Annotated[float, Field(ge=0)] | None = None
    warnings: tuple[str, ...] = ()
    learned_nothing: str | None = None  # why, in words, where a pre-training is known to have learned nothing

    def with_facts(self, facts: Mapping[str, Any]) -> Status:
        """With these, plain values, in place of what was there."""
        merged = {"version": VERSION, **self.model_dump(exclude_unset=True), **facts}
        return Status.model_validate_json(json.dumps(merged))


class Environment(Record):
    """``environment.json``: machine, versions and command."""

    version: Literal[1] = 1
    lemis: str
    python: str
    packages: dict[str, str]
    platform: str
    processor: str
    cores: int | None
    threads: int
    gpu: str | None
    command: str
    started: str


Figures = Mapping[str, float]  # of one line of ``metrics.jsonl``
_FIGURES = dict[str, float]


def read_model(run: Path) -> Model:
    """What a finished run trained.

    Raises:
        UsageError: The run is not finished, or the file is damaged or of another version.
    """
    if not (run / MODEL).exists():
        raise _no_finished_run(run)
    model: Model = read(run / MODEL, _MODEL, next=ANEW)
    return model


def _no_finished_run(run: Path) -> UsageError:
    made = read_environment(run)
    near = next((names for home in (run / RUNS, run, run.parent) if (names := _finished(home))), [])
    if made is not None:
        next_best = f"finish it with the command that began it: {made.command}"
    elif near:
        more = f", or {len(near) - _SHOWN} more there" if len(near) > _SHOWN else ""
        next_best = f"name a finished run: {', '.join(near[:_SHOWN])}{more}"
    else:
        next_best = "train one: lemis fit SCANS -o WORK"
    what = f"has no {MODEL}" if run.is_dir() else "is no folder" if run.exists() else "is not there"
    return UsageError(f"{run} {what}", allowed="the folder of a finished run, WORK/runs/NAME", next=next_best)


def _finished(home: Path) -> list[str]:
    return sorted(str(file.parent) for file in home.glob(f"*/{MODEL}"))


def refuse_modules(run: Path, model: Model, trust: Trust, *, next: str) -> None:
    """Refuse to build the network of a run whose folder names modules that are not ours.

    Args:
        run: Its folder, which may be from anybody.
        model: Its ``model.json``.
        trust: What the user named or allowed.
        next: The command that allows it.

    Raises:
        UsageError: It names one; nothing of it was imported.
    """
    own = plugins.names("backbones")
    named = [] if model.backbone in own else [model.backbone]
    for name in [*named, *detectors_in(model.backbone_settings)]:
        if name not in trust:
            raise UsageError(
                f"{run / MODEL} names the module {shown(name)}, which is not part of Lemis and would be run",
                allowed="modules of Lemis; those of others if you know who wrote them",
                next=next,
            )


def detectors_in(settings: Mapping[str, Any]) -> list[str]:
    """Functions from outside that settings name to find keypoints with."""
    found = [str(value) for key, value in settings.items() if key == "detector" and value != "sift"]
    return found + [name for value in settings.values() if isinstance(value, Mapping) for name in detectors_in(value)]


def read_pretrained(run: Path, trust: Trust = NO_TRUST) -> PretrainedModel:
    """What a finished pre-training trained.

    Raises:
        UsageError: As ``read_model``; or the run is a fine-tuning, or of a network that ``trust`` does not hold.
    """
    model = read_model(run)
    if isinstance(model, FinetunedModel):
        raise UsageError(
            f"{run} is a {model.verb} run: its network has learned from labels",
            allowed="the folder of a pre-training run",
            next=f"--pretrained {run.parent / model.pretrained}" if model.pretrained else "leave out --pretrained",
        )
    refuse_modules(run, model, trust, next=f"lemis finetune WORK --pretrained {run} --trust")
    return model


def read_finetuned(run: Path, trust: Trust = NO_TRUST) -> FinetunedModel:
    """What a finished fine-tuning trained.

    Raises:
        UsageError: As ``read_model``; or the run is a pre-training, without classes, or of a network that ``trust``
            does not hold.
    """
    model = read_model(run)
    if isinstance(model, PretrainedModel):
        raise UsageError(
            f"{run} is a {model.verb} run: it has no classes yet",
            allowed="the folder of a fine-tuned run",
            next=f"lemis finetune WORK --pretrained {run}",
        )
    refuse_modules(run, model, trust, next=f"lemis predict {run} --trust")
    return model


def find_model(run: Path) -> Model | None:
    """As ``read_model``; None where the run is not finished."""
    return read_model(run) if (run / MODEL).exists() else None


def write_model(run: Path, model: Model) -> None:
    """Declare what was trained; the weights are there already."""
    write(run / MODEL, model)


def read_status(run: Path) -> Status:
    """How far a run is; without any fact where it has not begun.

    Raises:
        UsageError: The file is damaged.
    """
    again = f"delete {run / STATUS} and run the same training command again: it goes on from the last checkpoint"
    found: Status | None = find(run / STATUS, Status, next=again)
    return found or Status()


def write_status(run: Path, status: Status) -> None:
    """Replace ``status.json``."""
    write(run / STATUS, status)


def read_environment(run: Path) -> Environment | None:
    """Where a run was trained; None where it does not say.

    Raises:
        UsageError: The file is damaged.
    """
    again = f"delete {run / ENVIRONMENT}: only machine, versions and command of the run are lost"
    found: Environment | None = find(run / ENVIRONMENT, Environment, next=again)
    return found


def write_environment(run: Path, environment: Environment) -> None:
    """Written once, when the run begins."""
    write(run / ENVIRONMENT, environment)


def read_settings(run: Path) -> dict[str, Any]:
    """The settings of a run, resolved, as plain YAML types.

    Raises:
        UsageError: The file is damaged.
    """
    try:
        tree = read_yaml(run / SETTINGS)
    except UsageError as error:
        raise UsageError(error.given, allowed=error.allowed, next=ANEW) from None
    return tree


def read_metrics(run: Path) -> list[Figures]:
    """The figures that a run logged, line after line, each with its ``step``; none where it logged nothing yet.

    A last line without its end is being written, or was when the machine stopped, and is left out.

    Raises:
        UsageError: A line that is none of ours.
    """
    return [figures for _, figures in _metrics(run)]


def add_metrics(run: Path, line: Figures) -> None:
    """Add one line to ``metrics.jsonl``."""
    with files.naming(run / METRICS), (run / METRICS).open("a", encoding="utf-8") as lines:
        lines.write(_line(line))


def write_metrics(run: Path, lines: Iterable[Figures]) -> None:
    """Replace ``metrics.jsonl``."""
    files.write(run / METRICS, "".join(map(_line, lines)))


def _line(figures: Figures) -> str:
    assert figures["step"] == int(figures["step"]) >= 0, "the number of a step, as the reader wants it"
    return json.dumps(dict(figures)) + "\n"


def keep_metrics_until(run: Path, step: int) -> None:
    """Drop the lines of later steps, and a last one without its end. Errors as of ``read_metrics``."""
    files.write(run / METRICS, "".join(line for line, figures in _metrics(run) if figures["step"] <= step))


def _metrics(run: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each whole line with what it says."""
    path = run / METRICS
    if not path.exists():
        return
    again = f"delete {path}: only the curves of the run are lost"
    for number, line in enumerate(files.read_text(path, next=again).splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            where = f"{path}, line {number}"
            figures = parse(line, _FIGURES, where=where, next=again)
            step = figures.get("step")
            if step is None or step < 0 or step % 1:
                raise UsageError(f"{where}: step is {step}", allowed="the number of a step", next=again)
            yield line, {**figures, "step": int(step)}
