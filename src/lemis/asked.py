"""Checks what a command asks for, before PyTorch is imported, which takes seconds: a line to read, or a refusal.

One function for each verb that runs a network, with all that the verb is given, by the same names. The verb asks it
again, of the same functions, with the modules themselves in place of their outlines; what is refused here is what can
be known from what was typed, from the names of files and from what earlier commands have written. Nothing here imports
PyTorch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lemis import outline, plugins
from lemis.comparison import plan_files, plans
from lemis.datasets import index as index_file
from lemis.datasets.index import Scan
from lemis.datasets.recognition import recognise
from lemis.datasets.split import Split, choose, number_of_folds
from lemis.errors import DataFault, UsageError
from lemis.exchange import dicom_seg, requests
from lemis.formats.paths import file_of
from lemis.measure.tables import count
from lemis.one_image import image_request
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation.store import open_store
from lemis.selection import asking
from lemis.settings import parse_overrides, resolve
from lemis.training import beside, pairing, predicting, run_settings
from lemis.training.pairing import SCRATCH
from lemis.training.run_settings import Asked
from lemis.work_files.run import read_finetuned, read_model, read_pretrained, refuse_modules

LIGHT = plugins.outlined


def demo(*, output: Path, seed: int = 0, **typed: Any) -> str:
    """As ``verbs.demo``."""
    _device(typed)
    return f"demo in {output}, seed {seed}"


def fit(folder: Path, *, output: Path, **typed: Any) -> str:
    """As ``verbs.fit``."""
    refuse_processes("fit")
    refuse_inductive(**typed)
    _there(folder)
    asked = Asked.among(typed)
    way = run_settings.whole_way(asked, load=LIGHT)
    _device(typed)
    if typed.get("fold") is not None or typed.get("labelled") is not None:
        listed = recognise(folder).index
        splits(listed.scans, Path(listed.root), **typed)
    after = way.finetuning
    names = (way.method, after.backbone, after.auxiliary, after.semi, asked.second)
    return _with_notes(f"fit {folder} into {output}: {_network(*names)}, preset {asked.preset}", asked, *names)


def pretrain(work: Path, **typed: Any) -> str:
    """As ``verbs.pretrain``."""
    asked = Asked.among(typed)
    settings = run_settings.of_pretraining(asked, load=LIGHT)
    _device(typed)
    _prepared(work, **typed)
    names = (settings.method, settings.backbone)
    return _with_notes(f"pretrain in {work}: {_network(*names)}", asked, *names)


def finetune(
    work: Path, *, pretrained: Path | None = None, second: Path | None = None, pseudo_labels: Path | None = None,
    trust: Trust = NO_TRUST, **typed: Any,
) -> str:  # fmt: skip
    """As ``verbs.finetune``."""
    asked = Asked.among(typed)
    before, other = (
        None if run is None else read_pretrained(run, trust.also(*asked.backbones)) for run in (pretrained, second)
    )
    settings = run_settings.of_finetuning(asked, pretrained, before, load=LIGHT)
    beside.expect_pseudo_labels(work, pseudo_labels, settings.semi, LIGHT)
    if second is not None and other is not None:
        beside.refuse_second(second, settings.semi, LIGHT)
        pairing.refuse_other_network(second, other, settings.backbone)
    _device(typed)
    _prepared(work, **typed)
    names = (before.method if before else SCRATCH, settings.backbone, settings.auxiliary, settings.semi)
    said = _network(*names, other.method if other else None)
    return _with_notes(f"finetune in {work}: {said}", asked, *names[1:])


def predict(
    runs: Sequence[Path], *, inputs: Path | None = None, overrides: Sequence[str] = (), trust: Trust = NO_TRUST,
    also: str | None = None, codes: Path | None = None, **typed: Any,
) -> str:  # fmt: skip
    """As ``verbs.predict``."""
    dicom_seg.asked(also, codes, "--also dicom-seg")
    if not runs:
        raise UsageError("no run", allowed="one fine-tuned run, or several", next="lemis predict WORK/runs/NAME")
    given = parse_overrides(overrides)
    resolve(LIGHT("prediction", "settings").Settings, given)
    for run in runs:
        predicting.settings(2 if read_finetuned(run, trust).patch_px is None else 3, {}, given, load=LIGHT)
    if inputs is None:
        index_file.load(runs[0].parent.parent / "index.json")
    else:
        _there(inputs)
    _device(typed)
    return f"predict with {' + '.join(run.name for run in runs)}"


def compare(
    scans: Path, *, output: Path, plan: str | Path, name: str | None = None, upstream: Path | None = None,
    cell: str | None = None, **typed: Any,
) -> str:  # fmt: skip
    """As ``verbs.compare``."""
    title = name or plan_files.short_name(plan)
    if cell is not None:
        return f"compare in {output}: cell {cell} of {title}"
    asked = plans.load_plan(plan, typed.get("overrides", ()), load=LIGHT)
    plans.refuse_contradictions(asked, upstream, typed.get("jobs", 1), typed.get("on"), typed.get("emit"))
    for folder in (scans, upstream):
        if folder is not None:
            _there(folder)
    _device(typed)
    names = [name for row in asked.rows for name in (row.method, row.backbone, row.auxiliary, row.semi, row.second)]
    notes = (
        [] if asked.kind == "single" else run_settings.without_a_section(asked.preset, plans.sections(asked), *names)
    )
    said = f"compare {scans} into {output}: {title}, {', '.join(row.title for row in asked.rows)}"
    return "\n".join([said, *notes])


def segment_one(image: Path | None = None, *, output: Path, **typed: Any) -> str:
    """As ``verbs.segment_one``."""
    asked = image_request.Asked.among(typed)
    batch, references = typed.get("batch"), [typed.get(key) for key in ("reference", "references")]
    image_request.refuse_contradictions(image, batch, typed.get("pick"), typed.get("click"))
    image_request.refuse_other_references(batch, *references)
    name = asked.method or image_request.METHOD
    image_request.settings_of(name, asked.preset, asked.overrides, LIGHT)
    image_request.refuse_unreadable(asked)
    for file in (image, batch, *references):
        if file is not None:
            _there(file)
    _device(typed)
    return f"segment-one {image or batch} into {output}: {name}"


def suggest(
    work: Path, *, method: str | None = None, overrides: Sequence[str] = (), runs: Sequence[str] = (), **typed: Any
) -> str:
    """As ``verbs.suggest``."""
    _prepared(work)
    index = index_file.load(work / "index.json")
    asking.refuse_unprepared(index, open_store(work / "prepared"), work)
    asking.refuse_all_labelled(index, work)
    given = parse_overrides(overrides)
    if method is not None:
        resolve(LIGHT("suggesters", method).Settings, given)
    _device(typed)
    return f"suggest in {work}" + (f": {method}" if method else "") + (f", with {', '.join(runs)}" if runs else "")


def export(
    run: Path, *, output: Path, to: str = "torch", licence: str | None = None, codes: Path | None = None,
    trust: Trust = NO_TRUST, **_: Any,
) -> str:  # fmt: skip
    """As ``verbs.export``."""
    if requests.segmentations(to, licence, codes) is not None:
        dicom_seg.read_record(run)
        return f"export {run} into {output}: {to}"
    requests.refuse_export(run, output, to)
    model = read_model(run)
    requests.refuse_imported(run, model)
    requests.refuse_network(run, model, to)
    if to == "monai":
        requests.finetuned(run, model)
    refuse_modules(run, model, trust, next=f"lemis export {run} -o {output} --trust")
    return f"export {run} into {output}: {to}"


def import_weights(
    file: Path, *, output: Path, backbone: str | None = None, plans: Path | None = None,
    configuration: str | None = None, mapping: Path | None = None, channels: int = 1, overrides: Sequence[str] = (),
    least: float = 0.5, **_: Any,
) -> str:  # fmt: skip
    """As ``verbs.import_weights``."""
    requests.refuse_import(file, channels, least)
    planned = requests.refuse_plan(backbone, plans, configuration)
    name = backbone or (planned.backbone if planned else None)
    if name is not None:
        requests.network_settings(name, overrides, planned.settings if planned else None, LIGHT)
    requests.rules(mapping)
    return f"import {file} into {output}: network {name or 'as the file says'}"


def refuse_processes(verb: str) -> None:
    """Refuse ``torchrun`` for a verb that is one process.

    Raises:
        UsageError: There are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"{verb} in {os.environ['WORLD_SIZE']} processes",
            allowed="one process; pretrain and finetune take several",
            next="this command without torchrun; torchrun --no-python lemis pretrain WORK for many GPUs",
        )


def refuse_inductive(*, inductive: bool = False, fold: int | None = None, **_: Any) -> None:
    """Refuse to leave out held-out subjects where none are.

    Raises:
        UsageError: There is no fold.
    """
    if inductive and fold is None:
        raise UsageError("--inductive without a fold", allowed="--inductive with --fold", next="--fold 0 --inductive")


def refuse_errors(errors: int, folder: Path) -> None:
    """Refuse scans in which ``check`` has found errors, which it has listed.

    Raises:
        DataFault: There are any.
    """
    if errors:
        raise DataFault(
            f"{count(errors, 'error')} in {folder}, listed above",
            allowed="scans without errors",
            next="repair or remove what is listed, then run the same command again",
        )


def splits(
    scans: Sequence[Scan], root: Path, *, fold: int | None = None, labelled: int | None = None, **_: Any
) -> list[tuple[int | None, Split]]:
    """The one fold that ``fit`` was asked for, or all; a single labelled subject trains one network on everything.

    Raises:
        UsageError: There are no labels, not that fold, or fewer subjects than that.
    """
    folds = number_of_folds(scans, root=root)
    numbers: list[int | None] = [fold] if fold is not None else list(range(folds)) if folds > 1 else [None]
    return [(number, choose(scans, fold=number, labelled=labelled, root=root)) for number in numbers]


def _network(
    method: str, backbone: str, auxiliary: str | None = None, semi: str | None = None, second: str | None = None
) -> str:
    start = "no pre-training" if method == SCRATCH else f"pre-training {method}"
    extra = f", extra loss {auxiliary}" if auxiliary else ""
    extra += f", unlabelled scans by {semi}" if semi else ""
    return f"{start}, network {backbone}{extra}" + (f", its second network after {second}" if second else "")


def _there(path: Path) -> None:
    if not path.exists() and not file_of(path).exists():
        raise UsageError(f"{path} does not exist", allowed="a file or folder that is there", next="check the path")


def _with_notes(said: str, asked: Asked, *names: str | None) -> str:
    return "\n".join([said, *run_settings.without_a_section(asked.preset, asked.tree(), *names)])


def _prepared(
    work: Path, *, fold: int | None = None, labelled: int | None = None, split: str | None = None, **_: Any
) -> None:
    """Refuse a work folder that is not prepared, and a choice of subjects that its scans do not have."""
    store = open_store(work / "prepared")
    index = index_file.load(work / "index.json")
    if fold is not None or labelled is not None:
        choose(store.scans, fold=fold, labelled=labelled, root=Path(index.root), scheme=split)


def _device(typed: Mapping[str, Any]) -> None:
    if typed.get("device") == "cuda" and not _may_have_cuda():
        raise UsageError("--device cuda", allowed="auto or cpu: there is no CUDA device here", next="lemis doctor")


def _may_have_cuda() -> bool:
    """Whether this PyTorch is built for a GPU and, where that is one by NVIDIA, its driver is there."""
    build = outline.read("torch.version")
    if build.hip is not None or build.cuda is None:
        return build.hip is not None
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True
