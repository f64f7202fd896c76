"""``lemis finetune``: train a segmentation network on the labelled scans of a split, pre-trained or not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lemis import plugins
from lemis.contracts import Backbone
from lemis.datasets import index
from lemis.datasets.index import Index
from lemis.datasets.split import BUDGET_SEED, Split, choose
from lemis.errors import UsageError, first_of
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import components
from lemis.preparation import exposure
from lemis.preparation.exposure import Likeness, MeasuredField
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store import Store
from lemis.runs import folders, material, told
from lemis.runs.material import TrainedOn
from lemis.runs.run import Run, fill, is_done, load_model, messages
from lemis.sampling.samples import Source
from lemis.sampling.spatial import shape_of
from lemis.settings import plain, resolve
from lemis.training import beside, build, guards, launch, loop, paired, pairing, pool, run_names, run_settings, sources
from lemis.training import held_out as held_out_score
from lemis.training.pseudo_labels import PseudoLabels
from lemis.training.run_settings import Asked, Finetuning
from lemis.training.schedule import Slower
from lemis.training.transfer import Row, Start, load_start, loaded_parameters, print_table, rest
from lemis.work_files.run import WEIGHTS, FinetunedModel, PretrainedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Times during training that the held-out fold is scored: of slices for the ``paper`` protocol's best epoch, of volumes
# once, as it takes long.
SCORES, SCORES_OF_VOLUMES = 5, 1


def finetune(
    work: Path,
    *,
    pretrained: Path | None = None,
    fold: int | None = None,
    labelled: int | None = None,
    subjects: Sequence[str] | None = None,
    split: str | None = None,
    selection_seed: int = BUDGET_SEED,
    backbone: str | None = None,
    auxiliary: str | None = None,
    semi: str | None = None,
    second: Path | None = None,
    pseudo_labels: Path | None = None,
    name: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    seed: int = 0,
    device: str = "auto",
    prefix: str = "",
    trust: Trust = NO_TRUST,
) -> Path:
    """Train on the labelled subjects of a fold; score the held-out ones as training goes on.

    The weights that are kept are those of the last step, or their average; nothing is chosen by the held-out score.

    Args:
        work: A folder that ``lemis prepare`` has filled.
        pretrained: Folder of the finished pre-training run to start from; by default random weights.
        fold: Hold out this fold's test subjects; by default hold out none. Then every labelled subject is trained on.
        labelled: Use the labels of this many subjects only, of those that the fold trains on; by default all.
        subjects: Use the labels of these subjects only, of those that the fold trains on; by default those that
            ``labelled`` and ``selection_seed`` draw.
        split: Whose folds (``datasets/split.py``); by default the data set's own splits_final.json, else pcl.
        selection_seed: Of the choice of M subjects; by default the protocol's.
        backbone: The network, by default the pre-trained one, else the preset's, else unet2d. `lemis list` shows all; a
            dotted name loads your own module.
        auxiliary: An extra loss, by default the preset's, else none. `lemis list` shows all, or your own module.
        semi: A way to learn from scans without labels too, and from subjects beyond ``labelled``; by default the
            preset's, where there are such scans; ``none`` for labels alone. `lemis list` shows all; a dotted name loads
            your own module.
        second: Folder of the finished pre-training run of the same network that the second network of ``semi=cps``
            starts from; by default as the first does.
        pseudo_labels: Folder of label maps that ``semi=self_training`` learns from: what ``lemis predict`` has made of
            the scans without labels, as it stands or corrected by hand; by default none.
        name: Of the run's folder in WORK/runs; by default from the settings, as ``pcl-bcp-m2-fold0``, with a suffix
            where a run with other settings has that name.
        preset: Settings by name (`lemis list`) or by file; by default none.
        settings_file: Settings that win over the preset; by default none.
        overrides: Settings over the preset: ``epochs=200``, ``objective.KEY=VALUE``, ``backbone.KEY=VALUE``,
            ``auxiliary.KEY=VALUE``, ``semi.KEY=VALUE``; `lemis list --json` shows them.
        seed: All randomness follows from it: same seed, same result.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        prefix: What the user typed before the schedule's keys, for messages.
        trust: Import modules that ``pretrained`` names, even if they are not of Lemis; by default none but those of
            ``backbone`` and the preset.

    Returns:
        The run folder.

    Raises:
        UsageError: Another network than the pre-trained one, no keypoints for it, no unlabelled scan for ``semi``, a
            ``second`` where one network is trained, or ``pseudo_labels`` that are missing, or by networks that had seen
            labels which this training may not use.
    """
    asked = Asked(
        backbone=backbone, auxiliary=auxiliary, semi=semi, preset=preset, settings_file=settings_file,
        overrides=overrides, prefix=prefix,
    )  # fmt: skip
    start, other = (load_start(run, trust.also(*asked.backbones)) for run in (pretrained, second))
    settings = _settings(asked, pretrained, start, other, work, pseudo_labels)
    store, keypoints = sources.store_for(work, settings)
    fabric = launch.launch(settings.schedule, device, settings.dims, prefix)
    listed = index.load(work / "index.json")
    sides = choose(
        store.scans, fold=fold, labelled=labelled, subjects=subjects, root=Path(listed.root), seed=selection_seed,
        scheme=split,
    )  # fmt: skip
    settings = settings.with_pool(_pool(settings, store, sides))
    if settings.left_out:
        messages().print(f"note: {settings.left_out}")
    torch.manual_seed(seed)
    beginning = _Beginning(settings, store, start, other)
    tuning = _Tuning(
        settings, store, sides, listed.ignored, beginning.objective.predicts, keypoints.most if keypoints else 0,
        fabric, start, other, beginning.slower, _pseudo_labels(pseudo_labels, settings, store, listed, sides),
        {"seed": seed, "fold": fold, "split": split, "selection_seed": selection_seed}
        | ({} if subjects is None else {"subjects": list(subjects)}),
    )  # fmt: skip
    return _brought_up_to_date(tuning.folder(work, name), tuning, beginning, prefix)


def _settings(
    asked: Asked, pretrained: Path | None, start: Start | None, other: Start | None, work: Path,
    pseudo_labels: Path | None,
) -> Finetuning:  # fmt: skip
    """Resolved; a second pre-training and label maps of a teacher are refused where they do not go with them."""
    settings = run_settings.of_finetuning(asked, pretrained, start and start.model)
    beside.expect_pseudo_labels(work, pseudo_labels, settings.semi, plugins.load)
    if other is not None:
        beside.refuse_second(other.run, settings.semi, plugins.load)
        pairing.refuse_other_network(other.run, other.model, settings.backbone)
    return settings


@final
class _Beginning:
    """What is trained, as it begins: networks with random weights, and those of a pre-training over them where there is
    one.
    """

    def __init__(self, settings: Finetuning, store: Store, start: Start | None, other: Start | None) -> None:
        self.rows: dict[Path, list[Row]] = {}  # what each pre-training gave
        self._loaded: list[nn.Parameter] = []  # by any of them, to any network
        self._settings, self._store = settings, store
        self.objective = build.objective(settings, self._network(start), store, lambda: self._network(other or start))

    @property
    def slower(self) -> Slower:
        """The weights that pre-trainings gave."""
        return Slower(self._loaded, self._settings.schedule.loaded_rate)

    def _network(self, start: Start | None) -> Backbone:
        network = build.network(self._settings, self._store)
        if start is not None:
            rows = self.rows[start.run] = start.fill(network, self._settings.schedule.load)
            self._loaded += loaded_parameters(network, rows)
            if self._settings.schedule.loaded_rate == 0:
                rest(network, rows)
        return network


def _pool(settings: Finetuning, store: Store, sides: Split) -> list[int]:
    """Positions of the scans whose images are seen without their labels."""
    if settings.semi is None:
        return []
    return pool.chosen([(facts.subject, facts.labelled) for facts in store.scans], sides, settings.pool)


def _pseudo_labels(
    folder: Path | None, settings: Finetuning, store: Store, listed: Index, sides: Split
) -> PseudoLabels | None:
    """Label maps of the pool, where they are wanted and there is one."""
    scans = _pool(settings, store, sides)
    return PseudoLabels(folder, store, listed, scans, sides) if folder is not None and scans else None


class _Tuning(NamedTuple):
    """All that a fine-tuning is made of."""

    settings: Finetuning
    store: Store
    sides: Split
    ignored: tuple[int, ...]  # further values in the labels
    network: Backbone  # that is scored and kept
    keypoints: int  # of a slice, at most
    fabric: Fabric
    begun: Start | None  # the pre-training that it begins with
    second: Start | None  # the one that a second network begins with, where that has its own
    slower: Slower  # the weights that they gave
    taught: PseudoLabels | None  # label maps of its pool, by a teacher
    chosen: Mapping[str, Any]  # seeds, fold and scheme of the folds

    @property
    def method(self) -> str:
        """Of the pre-training."""
        return pairing.SCRATCH if self.begun is None else self.begun.model.method

    @property
    def start(self) -> str | None:
        """Name of the run that it begins with."""
        return self.begun.run.name if self.begun else None

    @property
    def starts(self) -> list[PretrainedModel]:
        """What its pre-trainings made."""
        return [start.model for start in (self.begun, self.second) if start is not None]

    @property
    def patch_px(self) -> tuple[int, ...] | None:
        """Of volumes; None where it sees slices."""
        return shape_of(self.settings.objective.size_px, 3) if self.settings.dims == 3 else None

    @property
    def train(self) -> list[int]:
        """Positions of its scans."""
        return _scans_of(self.store, self.sides.labelled_subjects)

    @property
    def pool(self) -> list[int]:
        """Positions of the scans whose images it sees without their labels."""
        return _pool(self.settings, self.store, self.sides)

    @property
    def held_out(self) -> list[int]:
        """Positions of the scans that it is scored on."""
        return _scans_of(self.store, self.sides.test_subjects)

    def usual_name(self) -> str:
        """Where nobody names it."""
        return run_names.of_finetuning(
            self.settings, *(self.begun[:2] if self.begun else (None, None)),
            labelled=len(self.sides.labelled_subjects), fold=self.chosen["fold"], seed=self.chosen["seed"],
            second=self.second.run if self.second else None,
        )  # fmt: skip

    def folder(self, work: Path, name: str | None) -> Path:
        """Where it goes."""
        return folders.choose(work / "runs", name, self.usual_name(), self.stored())

    def stored(self) -> dict[str, Any]:
        """``settings.yaml``."""
        second = {"second": self.second.run.name} if self.second else {}
        teachers = {"pseudo_labels": list(self.taught.runs)} if self.taught else {}
        return {
            **self.settings.stored(), "seed": self.chosen["seed"], "pretrained": self.start, **second, **teachers,
            **self.chosen,
            "labelled": list(self.sides.labelled_subjects), "prepare": self.store.asked,
            "prepared": plain(self.store.settings),
        }  # fmt: skip

    def trained_on(self, was: TrainedOn | None) -> TrainedOn:
        """``trained_on.json``; what is known from before is not read again."""
        known = {**was.scans, **was.held_out} if was else None
        return TrainedOn(
            facts=material.facts_of(self.store),
            scans={
                **material.seen(self.store, self.train, labels=True, known=known),
                **material.seen(self.store, self.pool, labels=False, known=known),
            },
            held_out=material.seen(self.store, self.held_out, labels=True, known=known),
            pseudo_labels=self.taught.told(was.pseudo_labels if was else {}) if self.taught else {},
            start=_weights_of(self.begun),
            second=_weights_of(self.second),
            code=run_settings.code(
                backbone=self.settings.backbone, auxiliary=self.settings.auxiliary, semi=self.settings.semi
            ),
        )

    def _label(self, scan: int) -> NDArray[np.uint8]:
        label = self.store.label(scan)
        assert label is not None, "it is trained on"
        return label

    @property
    def marked(self) -> frozenset[int]:
        """Classes that its labels mark, without the background."""
        return frozenset(number for scan in self.train for number in np.unique(self._label(scan)).tolist() if number)

    @property
    def unmarked(self) -> list[str]:
        """Structures of the data set that no label marks that it is trained on."""
        marked = self.marked
        return [name for number, name in enumerate(self.store.label_names) if number and number not in marked]

    @property
    def field_of_view(self) -> MeasuredField | None:
        """Where it is measured on labels."""
        if self.store.asked is None:
            return None
        asked = resolve(Preparation, self.store.asked)
        field_mm = self.store.settings["field_of_view_mm"]
        sides = self.sides
        return exposure.measured_field(self.store.scans, asked, field_mm, sides.train_subjects, sides.labelled_subjects)

    def model(self, now: TrainedOn) -> FinetunedModel:
        """``model.json``."""
        taught = self.taught
        pretrained_on = {subject for start in self.starts for subject in start.subjects}
        unlabelled = {self.store.scans[i].subject for i in self.pool}
        known = [exposure.known(self.store.scans), *(start.known for start in self.starts)]
        patch_px = None if self.patch_px is None else (self.patch_px[0], self.patch_px[1], self.patch_px[2])
        return FinetunedModel(
            **build.described(self.settings, self.store), verb="finetune", method=self.method,
            auxiliary=self.settings.auxiliary, patch_px=patch_px,
            labelled_subjects=tuple(self.sides.labelled_subjects), test_subjects=tuple(self.sides.test_subjects),
            pretraining_subjects=tuple(sorted(pretrained_on | (taught.pretraining_subjects if taught else set()))),
            semi=self.settings.semi, semi_settings=plain(self.settings.semi_settings) if self.settings.semi else {},
            unlabelled_subjects=tuple(sorted(unlabelled | (taught.unlabelled_subjects if taught else set()))),
            teacher=taught.teacher(now.pseudo_labels) if taught else None,
            pretrained=self.start, second=self.second.run.name if self.second else None,
            start_is_known=all(start.imported is None for start in self.starts),
            seed=self.chosen["seed"], fold=self.chosen["fold"], split=self.sides.source,
            known=exposure.joined(known),
            like=_like([self.store.scans[i] for i in (*self.train, *self.pool)], self.starts),
            ignored_values=tuple(self.ignored),
            mirrored_axes=tuple(range(self.settings.dims if self.settings.objective.spatial.p_mirror > 0 else 0)),
            one_piece=components.learned(map(self._label, self.train), self.store.label_names),
            field_of_view=self.field_of_view,
        )  # fmt: skip


def _brought_up_to_date(path: Path, tuning: _Tuning, beginning: _Beginning, prefix: str) -> Path:
    """Train what is not trained on the present state of the data; score again what was scored on another."""
    if not tuning.train:
        raise UsageError(
            f"none of the subjects {', '.join(tuning.sides.labelled_subjects)} has a label",
            allowed="at least one labelled subject to train on",
            next="label a scan, or choose another --fold",
        )
    was = material.read(path)
    now = tuning.trained_on(was)
    if was is None or not is_done(path) or material.changes(was, now):
        guards.refuse_nothing_marked(tuning.sides.labelled_subjects, bool(tuning.marked))
        _train(path, tuning, beginning, now, prefix)
    elif folders.is_current(was, now):
        told.nothing_to_do(path)
    else:
        _score_again(path, tuning, was, now)
    return path


def _score_again(path: Path, tuning: _Tuning, was: TrainedOn, now: TrainedOn) -> None:
    messages().print(
        f"note: {path}: scored again ({'; '.join(folders.held_out_changes(was, now))}); "
        "its weights do not depend on that"
    )
    run = Run(path, tuning.stored())
    with run.alone():
        fill(tuning.network, load_model(path)[0], path)
        tuning.network.to(tuning.fabric.device)
        run.replace_scores(
            f"{held_out_score.HELD_OUT}/", _scorer(path, tuning)(lambda: False) if tuning.held_out else {}
        )
        material.write(path, now)


def _scorer(path: Path, tuning: _Tuning) -> Callable[[held_out_score.Stop], dict[str, float]]:
    """What scores the held-out scans with the network as it is then."""
    scans, console = tuning.held_out, messages()
    scores = held_out_score.scorer(
        tuning.network, tuning.store, scans, tuning.fabric.device, patch_px=tuning.patch_px, keypoints=tuning.keypoints
    )

    def score(stop: held_out_score.Stop) -> dict[str, float]:
        if tuning.patch_px is not None:
            console.print(f"{path.name}: scoring {count(len(scans), 'held-out scan')}, tile by tile")
        with tuning.fabric.autocast():
            found = scores(stop)
        return held_out_score.figures(found, tuning.store.label_names[1:])

    return score


def _train(path: Path, tuning: _Tuning, beginning: _Beginning, now: TrainedOn, prefix: str) -> None:
    settings, store, fabric, patch_px, scans = (
        tuning.settings, tuning.store, tuning.fabric, tuning.patch_px, tuning.train,
    )  # fmt: skip
    labelled, sampling = sources.of_labels(
        store, scans, fabric.device, settings.objective, patch_px, tuning.keypoints, in_pairs=bool(tuning.pool)
    )
    times = settings.schedule.evaluations
    if times is None:
        times = SCORES if patch_px is None else SCORES_OF_VOLUMES
    scoring = None
    if tuning.held_out and times:
        steps = held_out_score.steps(store, tuning.held_out, sampling.batch_size, patch_px)
        scoring = held_out_score.Scoring(_scorer(path, tuning), times, steps)
    guards.refuse_batch(sampling.batch_size, settings.schedule.accumulate, fabric.world_size, prefix)
    fabric.barrier()  # all have read the folder before one of them changes it
    run = Run(path, tuning.stored(), now)
    for start, loaded in beginning.rows.items():
        if told.is_new((start, tuple(loaded))):
            print_table(loaded, start, run.console)
    size, people = sources.size(labelled, scans), tuning.sides.labelled_subjects
    others = f", and {count(len(tuning.pool), 'scan')} without labels: {settings.semi} " if tuning.pool else " "
    run.console.print(
        f"fine-tuning {path.name} on {sources.said(size)}, {count(len(people), 'subject')}: {', '.join(people)}{others}"
        f"({fabric.device}, {fabric.strategy.precision.precision})"
    )
    pseudo_labels = nullcontext() if tuning.taught is None else tuning.taught.prepared(path, fabric.barrier)
    with run.alone(), pseudo_labels as taught:
        run.set_status(verb="finetune", method=tuning.method, state="running", **size)
        source: Source = labelled
        if tuning.pool:
            source = paired.with_pool(labelled, tuning.pool, settings.objective, sampling, tuning.keypoints, taught)
        loop.train(
            beginning.objective, source, sampling, settings.schedule, run, fabric, seed=tuning.chosen["seed"],
            scoring=scoring, slower=tuning.slower, prefix=prefix,
        )  # fmt: skip
        model = tuning.model(now)
        if not model.start_is_known:
            labels = any(start.imported is not None and start.imported.saw_labels for start in tuning.starts)
            learned = ", which had learned from labels of others" if labels else ""
            run.warn(f"it began with imported weights{learned}: whether they had seen these scans is not known")
        if unmarked := tuning.unmarked:
            run.warn(f"no label that it was trained on marks {first_of(unmarked, 5)}: it has not learned what that is")
        if model.field_of_view is not None and model.field_of_view.leak is not None:
            run.warn(model.field_of_view.leak)
        run.finish(tuning.network.state_dict(), model)


def _like(scans: Sequence[Facts], starts: Sequence[PretrainedModel]) -> Likeness:
    """What the scans were like that any of its weights were learned from."""
    likes = (start.like for start in starts if start.like is not None)
    return functools.reduce(exposure.wider, likes, exposure.likeness(scans))


def _weights_of(start: Start | None) -> str | None:
    return None if start is None else material.digest_of_file(start.run / WEIGHTS)


def _scans_of(store: Store, subjects: Sequence[str]) -> list[int]:
    """Labelled scans of the given subjects."""
    return [i for i, facts in enumerate(store.scans) if facts.labelled and facts.subject in set(subjects)]
