"""What is measured of a scan as its label map is made: how well views of it agree, and what both look like.

How far it is from the labelled scans, ``distances.py`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lemis import files
from lemis.datasets.index import Index
from lemis.datasets.index import Scan as Listed
from lemis.datasets.scans import file_stamps, label_on
from lemis.formats.source import Source
from lemis.measure import anatomy
from lemis.measure.looks import PERCENTILES
from lemis.prediction import components, views
from lemis.prediction.ensemble import Ensemble
from lemis.prediction.new_scan import prepared
from lemis.preparation.classes import to_classes
from lemis.preparation.facts import Facts, inside_field
from lemis.preparation.settings import Settings as Preparation
from lemis.quality.distances import Distances
from lemis.runs.material import digest_of_file
from lemis.settings import resolve
from lemis.work_files import quality
from lemis.work_files.quality import HeldOut, LookAt, Measured, Scan
from lemis.work_files.run import WEIGHTS, FinetunedModel


class Predicted(NamedTuple):
    """A scan and the label map that was made of it."""

    scan: Listed
    image: NDArray[np.float16]  # (n, C, h, w) prepared slices
    facts: Facts
    source: Source
    classes: NDArray[Any]  # (X, Y, Z)
    known_as: frozenset[str]  # subjects of the runs' data set with this very image


@final
class Measuring:
    """The networks that make label maps, and what they know.

    Args:
        ensemble: The networks.
        beside: Further runs of the same cross-validation, whose held-out scans are told as well.
    """

    def __init__(self, ensemble: Ensemble, beside: Sequence[Path]) -> None:
        self._ensemble, self.runs, self._models = ensemble, ensemble.runs, ensemble.models
        self._beside = tuple(dict.fromkeys([*self.runs, *beside]))
        self._weights = [digest_of_file(run / WEIGHTS) for run in self.runs]
        self._open = [files.is_writable(run) for run in self.runs]
        self.distances = Distances(
            self.runs, self._weights, self._open, ensemble.networks, ensemble.model, ensemble.device
        )

    def learn(self, index: Index | None) -> list[Path]:
        """What the labelled scans of each run are like, once for each run.

        Args:
            index: Of the work folder that the runs lie in, in their frame; None where it is gone.

        Returns:
            Runs that do not know it and cannot keep it, as their folders must not be written to.
        """
        if index is not None and self._names_alike(index) and len(index.channels) == len(self._models[0].channels):
            self._draw(index)
            self.distances.look(index)
        self.distances.keep()
        return [] if index is None else self.distances.unable

    def _draw(self, index: Index) -> None:
        """The labelled scans of each run, as they were drawn."""
        siblings = [path.parent for path in self.runs[0].parent.glob(f"*/{quality.OF_RUN}")]
        known = {one.stamp: one for run in siblings for one in quality.find_of_run(run).labelled.values()}
        for run, weights, model, is_open in zip(self.runs, self._weights, self._models, self._open, strict=True):
            if not is_open or quality.of_run(run, weights).labelled:
                continue
            found = {}
            for scan in index.scans:
                if scan.label is not None and scan.subject in model.labelled_subjects:
                    stamped = _stamp(index, scan)
                    known[stamped] = found[scan.id] = known.get(stamped) or _drawn(index, scan, model, stamped)
            quality.add_to_run(run, weights, labelled=found)

    def _names_alike(self, index: Index) -> bool:
        """Whether labels there mean what they meant in training; else nothing is learned from them."""
        return dict(zip(self._models[0].label_names, self._models[0].label_values, strict=True)) == dict(index.labels)

    def measure(self, output: Path, index: Index, made: Predicted, *, own: bool) -> None:
        """One label map, into the record of its folder; and into that of the run, where the run held it out.

        Args:
            output: Folder of label maps.
            index: That lists the scan.
            made: The label map.
            own: The index is that of the runs' work folder.
        """
        names, people = self._models[0].label_names, {*made.known_as, *([made.scan.subject] if own else [])}
        unseen = [place for place, model in enumerate(self._models) if people.isdisjoint(model.learned_from)]
        alone, together = self._agreement(made, unseen)
        agreement = {
            self.runs[place].name: dict(zip(names[1:], one.dice.tolist(), strict=True))
            for place, one in zip(unseen, alone, strict=True)
        }
        scan = described(made.image, made.facts, made.classes, names)
        names_of = tuple(run.name for run in self._beside)
        measured = Measured(
            scan=scan, own=own, agreement=agreement, runs=names_of, labelled_runs=tuple(run.name for run in self.runs),
            ensemble={} if together is None else _where_shown(together, names[1:]),
            look_at=_look_at(alone, made, names[1:]),
            distance=self.distances.of(made.image, made.facts, unseen, people),
        )  # fmt: skip
        quality.add(output, made.scan.id, measured, {run.name: str(run.resolve()) for run in self._beside})
        can_keep = len(self.runs) == 1 and self._open[0]
        if own and self._names_alike(index) and made.scan.label is not None and can_keep and unseen:
            reference = _classes(index, made.scan, made.source, self._models[0])
            dice = components.dice(made.classes, reference, len(names)).tolist()
            there = {name: value for name, value in zip(names[1:], dice, strict=True) if scan.shapes[name].ml > 0}
            held = HeldOut(subject=made.scan.subject, agreement=agreement[self.runs[0].name], dice=there)
            quality.add_to_run(self.runs[0], self._weights[0], held_out={made.scan.id: held})

    def _agreement(self, made: Predicted, places: Sequence[int]) -> tuple[list[views.Agreed], views.Agreed | None]:
        """Of the views of a scan by each of these networks, and by them together; None without any."""
        if not places:
            return [], None
        by = self._ensemble
        return views.agreement(
            [by.networks[place] for place in places], made.image, made.facts, by.device, by.patch_px, by.settings,
            by.mirrored,
        )  # fmt: skip


def _where_shown(found: views.Agreed, structures: Sequence[str]) -> dict[str, float]:
    """Agreement by structure; views of an ensemble that lack one, as its networks do not agree on it, agree in vain."""
    told = zip(structures, found.dice.tolist(), found.shown, strict=True)
    return {name: dice for name, dice, is_shown in told if is_shown}


def _look_at(agreed: Sequence[views.Agreed], made: Predicted, structures: Sequence[str]) -> dict[str, LookAt]:
    """The slice in which views differ most about each structure, all networks together; the first of equal ones."""
    if not agreed:
        return {}
    found = {}
    for name, apart in zip(structures, np.sum([one.apart for one in agreed], axis=0), strict=True):
        if apart.any():
            own = (2 * int(apart.argmax()) + 1) * made.facts.canonical_slices // (2 * made.facts.slices)
            axis, number = made.source.stored_slice(made.facts.slice_axis, own)
            found[name] = LookAt(axis=axis, slice=number)
    return found


def described(
    image: NDArray[np.float16], facts: Facts, classes: NDArray[Any], names: Sequence[str], stamped: str = ""
) -> Scan:
    """What a scan and its label map are like.

    Args:
        image: (slices, channels, rows, columns), prepared.
        facts: Of the prepared scan.
        classes: Class indices on the scan's canonical grid.
        names: Of the classes, the background's first.
        stamped: What tells whether the files are still the same.
    """
    inside = inside_field(facts)
    spread = [
        tuple(np.percentile(np.asarray(channel, np.float32)[:, inside], PERCENTILES).tolist())
        for channel in np.moveaxis(image, 1, 0)
    ]
    extent = [mm * size for mm, size in zip(facts.canonical_spacing_mm, facts.canonical_shape, strict=True)]
    shapes = anatomy.shapes(classes, names, facts.canonical_spacing_mm, facts.slice_axis)
    return Scan(
        subject=facts.subject, shapes=quality.stored_shapes(shapes), extent_mm=(extent[0], extent[1], extent[2]),
        percentiles=tuple(spread), stamp=stamped,
    )  # fmt: skip


def _drawn(index: Index, scan: Listed, model: FinetunedModel, stamped: str) -> Scan:
    """A labelled scan, with what was drawn."""
    image, facts, source = prepared(scan, index, resolve(Preparation, model.prepared))
    return described(image, facts, _classes(index, scan, source, model), model.label_names, stamped)


def _classes(index: Index, scan: Listed, source: Source, model: FinetunedModel) -> NDArray[np.uint8]:
    return to_classes(label_on(index, scan, source), model.label_values, model.ignored_values)


def _stamp(index: Index, scan: Listed) -> str:
    return " ".join(stamp for _, stamp in file_stamps(index, scan))
