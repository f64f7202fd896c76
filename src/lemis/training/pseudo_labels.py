"""Label maps that networks have made of unlabelled scans, as the labels of a training: who made them, and prepared.

They are files between verbs: what ``lemis predict`` wrote of the scans of a pool, each on its scan's own grid, and a
person may have corrected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from lemis import processes
from lemis.datasets.index import Index
from lemis.datasets.scans import image_grid, label_on
from lemis.datasets.split import Split
from lemis.errors import UsageError
from lemis.formats.paths import stamp
from lemis.preparation import array_files, preprocess
from lemis.preparation.array_files import Form
from lemis.preparation.classes import to_classes
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store import Store
from lemis.runs import material
from lemis.runs.material import Told
from lemis.settings import resolve
from lemis.work_files import predictions
from lemis.work_files.predictions import Prediction, Predictions
from lemis.work_files.run import Teacher

FOLDER = "pseudo_labels"  # in WORK, of label maps by teacher; in a run that is being trained, of prepared ones


def folder_of(work: Path, teacher: str) -> Path:
    """Where ``fit`` and ``compare`` put the label maps of a teacher.

    Args:
        work: The work folder.
        teacher: Name of its run.
    """
    return work / FOLDER / teacher


@dataclass(frozen=True, kw_only=True)
class TaughtStore(Store):
    """Prepared scans whose labels are label maps of a teacher: their own are not opened.

    Args:
        maps: Folder of the prepared label maps.
    """

    maps: Path

    def label(self, i: int) -> NDArray[np.uint8]:
        """(n, H, W) class indices of scan ``i``, memory-mapped, read-only."""
        facts = self.scans[i]
        return array_files.read(_map_of(self.maps, facts), Form((facts.slices, *facts.prepared_shape), np.uint8))


@final
class PseudoLabels:
    """The label maps of a pool.

    Args:
        folder: That ``lemis predict`` has written.
        store: Prepared scans.
        index: The same scans as they are stored.
        pool: Whose label maps are wanted, as positions in ``store.scans``.
        sides: Whose labels the training may use.

    Raises:
        UsageError: The folder is none of those, lacks a scan, has other structures, or was made by networks that had
            seen labels which this training may not use.
    """

    def __init__(self, folder: Path, store: Store, index: Index, pool: Sequence[int], sides: Split) -> None:
        record = predictions.read(folder)
        if record is None:
            raise UsageError(
                f"--pseudo-labels {folder} without {predictions.RECORD}",
                allowed="a folder that lemis predict has written, as it stands or with corrected label maps",
                next=f"lemis predict {store.path.parent}/runs/NAME -o {folder}",
            )
        self.folder, self._record, self._store, self._index = folder, record, store, index
        self._facts = [store.scans[i] for i in pool]
        self._made = {facts.id: record.made(facts.id) for facts in self._facts}
        self._refuse_other_structures()
        self._refuse_missing()
        _refuse_leaks(record, self._made, store, sides)

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(sorted({run for made in self._made.values() for run in _runs_of(made)}))

    @property
    def pretraining_subjects(self) -> set[str]:
        """Whose images the pre-trainings of the teachers saw."""
        return {subject for made in self._made.values() for subject in made.pretraining_subjects or ()}

    @property
    def unlabelled_subjects(self) -> set[str]:
        """Whose images the teachers saw in fine-tuning, without their labels."""
        return {subject for made in self._made.values() for subject in made.unlabelled_subjects}

    def teacher(self, told: Mapping[str, Told]) -> Teacher:
        """What ``model.json`` says of them.

        Args:
            told: From ``told``.
        """
        labelled = {subject for made in self._made.values() for subject in made.labelled_subjects or ()}
        labels = material.digest({id: one.label for id, one in told.items()})
        return Teacher(runs=self.runs, labelled_subjects=tuple(sorted(labelled)), digest=labels)

    def told(self, known: Mapping[str, Told]) -> dict[str, Told]:
        """Digests of the label maps.

        Args:
            known: From before; a file with the same stamp is not read again.

        Raises:
            DataFault: One cannot be read, lies on another grid, or has values that are none of the data set's.
        """
        found = {}
        for facts in self._facts:
            made, file = self._made[facts.id], self._file(facts)
            now, before = stamp(file), known.get(facts.id)
            if before is None or before.stamp != now:
                classes = to_classes(self._read(facts), self._store.label_values, self._index.ignored)
                label = hashlib.sha256(f"{classes.shape}".encode() + classes.tobytes()).hexdigest()
            else:
                label = before.label
            found[facts.id] = Told(_runs_of(made), made.weights, label, now)
        return found

    @contextmanager
    def prepared(self, run: Path, barrier: Callable[[], None]) -> Iterator[TaughtStore]:
        """The store with these label maps as labels, prepared as ``lemis prepare`` does it; gone after the block.

        Args:
            run: Folder of the training, which is alone in it.
            barrier: Waits for the other processes of the training.
        """
        maps = run / FOLDER
        if processes.rank() == 0:
            maps.mkdir(exist_ok=True)
            settings = resolve(Preparation, self._store.settings)
            for facts in self._facts:
                label = preprocess.prepare_label(
                    self._read(facts), facts, settings, self._store.label_values, self._index.ignored
                )
                array_files.write(_map_of(maps, facts), label)
        barrier()
        fields = {field.name: getattr(self._store, field.name) for field in dataclasses.fields(Store)}
        yield TaughtStore(**fields, maps=maps)
        if processes.rank() == 0:
            shutil.rmtree(maps)

    def _read(self, facts: Facts) -> NDArray[Any]:
        """(X, Y, Z) of a scan as it is stored, numbered as the data set is."""
        scan = next(scan for scan in self._index.scans if scan.id == facts.id)
        scan = dataclasses.replace(scan, label=str(self._file(facts).resolve()))
        return label_on(self._index, scan, image_grid(self._index, scan))

    def _file(self, facts: Facts) -> Path:
        file = self._made[facts.id].file
        assert file is not None, "those without one were refused"
        return self.folder / file

    def _refuse_other_structures(self) -> None:
        store = self._store
        own = {name: value for name, value in zip(store.label_names, store.label_values, strict=True) if value}
        if self._record.structures != own:
            raise UsageError(
                f"--pseudo-labels {self.folder} of {_named(self._record.structures)}",
                allowed=f"the structures of the scans: {_named(own)}",
                next=f"lemis predict with a network that was trained on {store.path.parent}",
            )

    def _refuse_missing(self) -> None:
        lacking = [id for id, made in self._made.items() if made.file is None or not (self.folder / made.file).exists()]
        if lacking:
            runs = " ".join(self._record.run_folders.values()) or "RUN"
            raise UsageError(
                f"no pseudo-label in {self.folder} of {material.named(lacking)}",
                allowed=f"a label map of each of the {len(self._made)} scans that are trained on without their labels",
                next=f"lemis predict {runs} -i {self._index.root} -o {self.folder}",
            )
        for facts in self._facts:
            digest = self._made[facts.id].digest
            if digest and facts.image_digest and digest != facts.image_digest:
                raise UsageError(
                    f"the pseudo-label of {facts.id} in {self.folder} is of another image than the scan's",
                    allowed="label maps of the scans as they are now",
                    next=f"delete {self.folder / str(self._made[facts.id].file)} and predict again",
                )


def _refuse_leaks(record: Predictions, made: Mapping[str, Prediction], store: Store, sides: Split) -> None:
    """Refuse teachers that saw labels of test subjects, or of subjects of the pool, whose labels are not used."""
    others = [facts for facts in store.scans if facts.subject not in sides.labelled_subjects]
    for id, one in made.items():
        if one.labelled_subjects is None:
            raise UsageError(
                f"nobody wrote down whose labels the networks had seen that made the pseudo-label of {id}",
                allowed="label maps that lemis predict has made",
                next="predict again with lemis",
            )
        seen = set(one.labelled_subjects)
        leaked = {
            facts.subject for facts in others if facts.subject in seen or _by_label(record, facts) in seen
        }  # a label tells whose it is under another name too
        if leaked:
            test = sorted(leaked & set(sides.test_subjects))
            whose = f"the test subjects {material.named(test)}" if test else f"{material.named(sorted(leaked))}"
            raise UsageError(
                f"the pseudo-labels are by {' + '.join(_runs_of(one))}, which had seen labels of {whose}",
                allowed=f"label maps of networks that saw no label here but those of {_named(sides.labelled_subjects)}",
                next="train the teacher with the same --fold and --labelled, and predict with that one",
            )


def _by_label(record: Predictions, facts: Facts) -> str | None:
    """Who a scan is among the teacher's, by its label."""
    return record.known_labels.get(facts.label_digest) if facts.label_digest else None


def _runs_of(made: Prediction) -> tuple[str, ...]:
    return made.runs or ((made.run,) if made.run else ())


def _map_of(maps: Path, facts: Facts) -> Path:
    return maps / f"{facts.id}.npy"


def _named(structures: Mapping[str, int] | Sequence[str]) -> str:
    if isinstance(structures, Mapping):
        structures = [f"{name} {value}" for name, value in structures.items()]
    return material.named(list(structures)) or "none"
