"""The networks that make a label map together: fine-tuned runs of one prepared data set, or a single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from lemis.contracts import Backbone
from lemis.datasets import frame as frames
from lemis.datasets.frame import Frame
from lemis.errors import UsageError
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import components, mirroring
from lemis.prediction.inference import load_network, predict_scan
from lemis.prediction.settings import Settings
from lemis.preparation import exposure
from lemis.preparation.exposure import Known
from lemis.preparation.facts import Facts
from lemis.runs.device import chosen_device
from lemis.work_files.predictions import Kept, Pieces
from lemis.work_files.run import FinetunedModel, OnePiece

_ALIKE = ("channels", "label_values", "prepared", "patch_px")  # in which the runs of an ensemble must not differ


class Segmented(NamedTuple):
    """A scan as the networks see it: class indices on its canonical grid, and what became of their pieces."""

    classes: NDArray[np.uint8]
    pieces: Pieces | None  # None: nothing was looked at


@final
@dataclass(frozen=True, eq=False)
class Ensemble:
    """The runs whose probabilities are averaged, or the one.

    Attributes:
        runs: Their folders.
        networks: In evaluation mode, on ``device``.
        models: Their ``model.json``.
        device: Where they compute.
        settings: Of the prediction.
        frame: In which the networks saw their scans; None for runs older than frames.
        mirrored: Axes of what a network sees, whose mirror images are seen too.
        kept: Of what only the largest piece is kept; None: every piece.
    """

    runs: Sequence[Path]
    networks: Sequence[Backbone]
    models: Sequence[FinetunedModel]
    device: torch.device
    settings: Settings
    frame: Frame | None
    mirrored: tuple[int, ...]
    kept: Kept | None

    @property
    def model(self) -> FinetunedModel:
        """What they have in common: channels, label values, preparation."""
        return self.models[0]

    @property
    def names(self) -> str:
        """Of all, in a line."""
        return " + ".join(run.name for run in self.runs)

    @property
    def patch_px(self) -> tuple[int, ...] | None:
        """Size of the tiles in which volumes are seen; None where networks see slices."""
        return self.model.patch_px

    @cached_property
    def known(self) -> Known:
        """All scans that any of the runs knows by content."""
        return exposure.joined(model.known for model in self.models)

    def segment(self, slices: NDArray[np.float16], facts: Facts) -> Segmented:
        """What they make of a prepared scan.

        Args:
            slices: (n, C, H, W).
            facts: How it goes back to its own grid.
        """
        classes = predict_scan(
            self.networks, slices, facts, self.device, self.patch_px, self.settings, self.mirrored
        )  # fmt: skip
        pieces = None if self.kept is None else components.keep_largest(classes, self.model.label_names, self.kept)
        return Segmented(classes, pieces)


def load(
    runs: Sequence[Path], settings_for: Callable[[int], Settings], *, device: str = "auto", trust: Trust = NO_TRUST,
    decided: OnePiece | None = None,
) -> Ensemble:  # fmt: skip
    """The networks of runs.

    Args:
        runs: Folders of fine-tunings.
        settings_for: The settings of prediction, for networks of so many dimensions.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        trust: Modules that the runs may name beside those of Lemis.
        decided: What ``largest_components=auto`` keeps one piece of, where held-out scans say it; by default the labels
            do.

    Raises:
        UsageError: No run, one that is not finished or is no fine-tuning, or runs that do not belong together.
    """
    if not runs:
        raise UsageError("no run", allowed="one fine-tuned run, or several", next="lemis predict WORK/runs/NAME")
    target = torch.device(chosen_device(device))
    networks, models = zip(*(load_network(run, target, trust) for run in runs), strict=True)
    settings = settings_for(2 if models[0].patch_px is None else 3)
    return joined(runs, networks, models, target, settings, decided)


def joined(
    runs: Sequence[Path], networks: Sequence[Backbone], models: Sequence[FinetunedModel], device: torch.device,
    settings: Settings, decided: OnePiece | None = None,
) -> Ensemble:  # fmt: skip
    """An ensemble of networks that are loaded; arguments as of ``load`` and ``Ensemble``.

    Raises:
        UsageError: The runs do not belong together, or do not say along which axes they were mirrored.
    """
    _refuse_others(runs, models)
    mirrored = mirroring.axes(settings.mirror, models, networks[0].dims)
    kept = components.kept(settings.largest_components, models, decided)
    return Ensemble(runs, networks, models, device, settings, _frame(runs, models), mirrored, kept)


def _refuse_others(runs: Sequence[Path], models: Sequence[FinetunedModel]) -> None:
    for model, run in zip(models, runs, strict=True):
        for key in _ALIKE:
            first, other = (getattr(one, key) for one in (models[0], model))
            if first != other:
                raise UsageError(
                    f"{runs[0]} and {run} differ in {key}: {first} and {other}",
                    allowed="an ensemble of runs from one prepared data set",
                    next=f"lemis predict {run}",
                )


def _frame(runs: Sequence[Path], models: Sequence[FinetunedModel]) -> Frame | None:
    axes = [None if model.frame is None else model.frame.axes for model in models]
    for run, others in zip(runs, axes, strict=True):
        if frames.differ(axes[0], others):
            raise UsageError(
                f"{runs[0]} and {run} were trained on scans in different frames: {axes[0]} and {others}",
                allowed="an ensemble of runs that saw their scans stored alike",
                next=f"lemis predict {run}",
            )
    return models[0].frame
