"""A finished run as an object, for those who write their own PyTorch: ``lemis.load``.

    run = lemis.load("work/runs/pcl")
    maps, pooled = run.features("scan.nii.gz")      # what the encoder makes of a scan
    lemis.load("work/runs/pcl-fixmatch-m4-all").predict("scan.nii.gz").save("mask.nii.gz")

``run.network`` is an ordinary ``torch.nn.Module``; what else it promises is in ``lemis.contracts.Backbone``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone
from lemis.datasets import frame as frames
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.formats.source import Source
from lemis.layers.basic import pool
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import ensemble
from lemis.prediction.inference import trained
from lemis.prediction.new_scan import expect_channels, prepared
from lemis.prediction.padding import padded_maps
from lemis.prediction.settings import Settings
from lemis.preparation.classes import values_of
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.runs.device import chosen_device
from lemis.settings import resolve
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel, read_model, refuse_modules

_AT_ONCE = 16  # slices in one pass of ``features``


def load(run: str | Path, *, device: str = "auto", trust: Trust = NO_TRUST) -> LoadedRun:
    """A finished run: its network with the weights, its preparation, and what it makes of a scan.

    Args:
        run: Folder of a pre-training or a fine-tuning, ``work/runs/NAME``.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        trust: Modules that the run may name beside those of Lemis, such as ``Trust(frozenset(["my_lab.net"]))``.

    Raises:
        UsageError: The run is not finished, is damaged, or names a module that ``trust`` does not hold.
    """
    path = Path(run)
    model = read_model(path)
    refuse_modules(path, model, trust, next="give it Trust(every=True) of lemis.plugins, if you know who wrote it")
    target = torch.device(chosen_device(device))
    return LoadedRun(path, trained(path, model, target), model, target)


class Prepared(NamedTuple):
    """A scan as the network sees it.

    Attributes:
        image: (n, C, H, W) float32, n prepared slices; on the CPU.
        facts: Spacing, intensities, and how it goes back to the scan's own grid.
        source: The scan's own grid.
    """

    image: Tensor
    facts: Facts
    source: Source


class Features(NamedTuple):
    """What the encoder makes of a scan; on the CPU.

    Attributes:
        maps: Finest first: (n, C_k, rows, cols) of n slices, (1, C_k, slices, rows, cols) of a volume.
        pooled: (C,) mean of the coarsest map over the whole scan.
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor


@final
@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation on the scan's own grid.

    Attributes:
        array: (X, Y, Z) values as in the label files of training, axes as ``affine`` says.
        affine: (4, 4), voxel of ``array`` -> mm RAS.
        structures: Value of each name, that of the background included.
        source: The scan.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    structures: dict[str, int]
    source: Source

    def save(self, path: str | Path) -> Path:
        """Write it in the format of the scan, stored as the scan is. Raises as ``formats.volume.write_labels``."""
        return volume.write_labels(self.array, self.source, Path(path))


@final
@dataclass(frozen=True, eq=False)
class LoadedRun:
    """The network of a run with its weights, and the preparation that it was trained with.

    Attributes:
        path: Folder of the run.
        network: In evaluation mode, on ``device``.
        model: ``model.json``: channels, label names, method, subjects.
        device: Where it computes.
    """

    path: Path
    network: Backbone
    model: Model
    device: torch.device

    @cached_property
    def preparation(self) -> Preparation:
        """Spacing, field of view and intensities that the scans of training were brought to."""
        settings: Preparation = resolve(Preparation, self.model.prepared)
        return settings

    def prepare(self, scan: str | Path) -> Prepared:
        """A scan as the network saw those of training.

        Args:
            scan: An image file, a folder of one DICOM series, or a folder that holds the channels of one scan.

        Raises:
            UsageError: It is none, several scans, or has other channels than the run; or the run was imported, and it
                is not known how images were prepared for it.
        """
        if isinstance(self.model, PretrainedModel) and self.model.imported is not None:
            raise UsageError(
                f"{self.path} was imported: how images were prepared for it is not known here",
                allowed="a run that was trained here",
                next="prepare images as their authors did, and give them to run.network",
            )
        index = frames.follow(scan_folder(Path(scan)), self.model.frame.axes if self.model.frame else None)
        if len(index.scans) != 1:
            raise UsageError(
                f"{scan} holds {len(index.scans)} scans",
                allowed="one scan: a file, or a folder with its channels or its DICOM series",
                next=f"one of them: {index.scans[0].images[0]}",
            )
        expect_channels(index, self.model)
        image, facts, source = prepared(index.scans[0], index, self.preparation)
        return Prepared(torch.from_numpy(image).float(), facts, source)

    @torch.inference_mode()
    def features(self, scan: str | Path) -> Features:
        """Feature maps of the encoder, and one vector for the scan.

        Cell k of a map's axis lies over the prepared pixels from k * stride on; ``network.strides`` and
        ``network.channels`` belong to the maps in their order. A volume goes through a three-dimensional network whole.

        Args:
            scan: As of ``prepare``.
        """
        image = self.prepare(scan).image
        parts = [image.movedim(1, 0)[None]] if self.network.dims == 3 else image.split(_AT_ONCE)
        found = [[one.cpu() for one in padded_maps(self.network, part.to(self.device))] for part in parts]
        maps = tuple(torch.cat(level) for level in zip(*found, strict=True))
        return Features(maps, pool(maps[-1]).mean(0))

    def predict(self, scan: str | Path) -> LabelMap:
        """The label map that ``lemis predict`` writes with this run alone, with its default settings.

        Args:
            scan: As of ``prepare``.

        Raises:
            UsageError: As of ``prepare``, or the run is a pre-training, which has no classes yet.
        """
        model = self._finetuned()
        alone = ensemble.joined([self.path], [self.network], [model], self.device, Settings())
        image, facts, source = self.prepare(scan)
        classes, _ = alone.segment(image.numpy().astype(np.float16), facts)
        structures = dict(zip(model.label_names, model.label_values, strict=True))
        return LabelMap(values_of(model.label_values)[classes], source.canonical_affine, structures, source)

    def _finetuned(self) -> FinetunedModel:
        if isinstance(self.model, PretrainedModel):
            raise UsageError(
                f"{self.path} is a pre-training run: it has no classes yet",
                allowed="a fine-tuned run for predict, any run for features",
                next=f"lemis finetune WORK --pretrained {self.path}",
            )
        return self.model
