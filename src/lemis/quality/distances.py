"""How far scans are from the labelled ones, in what networks see: what runs keep of these, and new scans beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from lemis.contracts import Backbone
from lemis.datasets.index import Index
from lemis.datasets.index import Scan as Listed
from lemis.datasets.scans import is_there, source_fingerprint
from lemis.errors import UsageError
from lemis.measure import distance
from lemis.measure.distance import Seen
from lemis.prediction.new_scan import prepared
from lemis.preparation import store_files
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.settings import slice_axis_of
from lemis.preparation.store import Store, open_store
from lemis.selection import embedding
from lemis.settings import resolve
from lemis.work_files import embedded, quality
from lemis.work_files.quality import Apart
from lemis.work_files.run import FinetunedModel

PREPARED = "prepared"  # of a work folder


@final
class Distances:
    """Of scans from the labelled ones, in what the networks of several runs see.

    Args:
        runs: Their folders.
        weights: Digest of the weights of each.
        is_open: Whether each folder can be written to.
        networks: In evaluation mode.
        model: ``model.json`` of the first: all runs saw scans prepared alike.
        device: Where the networks are.
    """

    def __init__(
        self, runs: Sequence[Path], weights: Sequence[str], is_open: Sequence[bool], networks: Sequence[Backbone],
        model: FinetunedModel, device: torch.device,
    ) -> None:  # fmt: skip
        self._runs, self._weights, self._open = runs, weights, is_open
        self._networks, self._model, self._device = networks, model, device

    def look(self, index: Index) -> None:
        """Keep all labelled scans as each network sees them, those that it held out too; where their files are."""
        waiting = [
            place for place, run in enumerate(self._runs)
            if self._open[place] and embedded.find(run, self._weights[place]) is None
        ]  # fmt: skip
        scans = [scan for scan in index.scans if scan.label is not None and is_there(index, scan)] if waiting else []
        if not scans:
            return
        store = _store(self._runs[0].parent.parent / PREPARED, self._model)
        vectors: dict[int, list[NDArray[np.float64]]] = {place: [] for place in waiting}
        for scan in scans:
            image, facts = _seen(index, scan, self._model, store)
            for place in waiting:
                vectors[place].append(embedding.of_scan(self._networks[place], image, facts, self._device))
        for place in waiting:
            seen = Seen([scan.id for scan in scans], [scan.subject for scan in scans], np.stack(vectors[place]))
            embedded.save(self._runs[place], self._weights[place], seen)

    def keep(self) -> None:
        """How far the labelled scans are from each other goes into ``held_out.json`` of each run."""
        for place, labelled in enumerate(self._labelled):
            if self._open[place] and labelled is not None:
                self._keep_apart(place, *labelled)

    @property
    def unable(self) -> list[Path]:
        """Runs that know no labelled scan and cannot keep any, as their folders must not be written to."""
        return [
            run for run, weights, is_open in zip(self._runs, self._weights, self._open, strict=True)
            if not is_open and embedded.find(run, weights) is None
        ]  # fmt: skip

    def of(
        self, image: NDArray[np.float16], facts: Facts, places: Sequence[int], people: Collection[str]
    ) -> dict[str, float]:
        """By network, how far a scan is from the labelled ones of other people, as of ``measure.distance``.

        Args:
            image: (slices, channels, rows, columns), the prepared scan.
            facts: Of it.
            places: Which networks to ask, of those that never saw its label.
            people: Who the scan is of; their labelled scans do not count.
        """
        found = {}
        for place in places:
            if (labelled := self._labelled[place]) is not None:
                vector = embedding.of_scan(self._networks[place], image, facts, self._device)
                apart = distance.nearest(vector, labelled[0], people)
                if apart is not None:
                    found[self._runs[place].name] = apart / labelled[2]
        return found

    @cached_property
    def _labelled(self) -> list[tuple[Seen, Mapping[str, float], float] | None]:
        """Of each network the labelled scans as it sees them, their distances, and which of these is usual."""
        found: list[tuple[Seen, Mapping[str, float], float] | None] = []
        for run, weights in zip(self._runs, self._weights, strict=True):
            seen = embedded.find(run, weights)
            apart = distance.among(seen) if seen is not None else {}
            usual = distance.usual(apart)
            found.append(None if seen is None or usual is None else (seen, apart, usual))
        return found

    def _keep_apart(self, place: int, seen: Seen, apart: Mapping[str, float], usual: float) -> None:
        """How far labelled scans are from each other, where ``held_out.json`` has it not, or of others."""
        run, weights = self._runs[place], self._weights[place]
        if quality.of_run(run, weights).apart.keys() != apart.keys():
            subjects = dict(zip(seen.scans, seen.subjects, strict=True))
            known = {scan: Apart(subject=subjects[scan], distance=far / usual) for scan, far in apart.items()}
            quality.add_to_run(run, weights, apart=known)


def _seen(
    index: Index, scan: Listed, model: FinetunedModel, store: Store | None
) -> tuple[NDArray[np.float16], Facts]:  # fmt: skip
    """A labelled scan as networks see it: as it lies prepared, where its files are still those that it was made of."""
    settings = resolve(Preparation, model.prepared)
    as_prepared = dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis))
    if store is not None and (facts := next((one for one in store.scans if one.id == scan.id), None)) is not None:
        is_same = facts.source == source_fingerprint(index, as_prepared)
        if is_same and store_files.is_whole(store.path, facts, len(store.channels)):
            return store.image(store.index_of(scan.id)), facts
    image, facts, _ = prepared(scan, index, settings)
    return image, facts


def _store(folder: Path, model: FinetunedModel) -> Store | None:
    """The prepared scans, where they are prepared as those of training were; without them scans are read."""
    try:
        store = open_store(folder)
    except UsageError:  # unfinished or damaged, which is for those to say who need it
        return None
    alike = resolve(Preparation, store.settings) == resolve(Preparation, model.prepared)
    return store if alike and store.channels == tuple(model.channels) else None
