"""What a command asks for: said in a line, or refused, before PyTorch is imported, which takes seconds.

One function for each verb that runs a network, with the arguments of the verb. The verb asks all of it again, of the
modules themselves in place of their outlines; what is refused here is what can be known from what was typed, from the
names of files and from what earlier commands have written. Nothing here imports PyTorch.
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
from lemis.datasets.index import Index
from lemis.datasets.recognition import recognise
from lemis.datasets.split import choose, number_of_folds
from lemis.errors import UsageError
from lemis.one_image import image_request
from lemis.one_image.image_request import Asked
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation.keypoints import preparation
from lemis.preparation.store import open_store
from lemis.settings import of_dims, parse_overrides, resolve
from lemis.training import pairing, run_settings
from lemis.training.pairing import SCRATCH
from lemis.work_files.run import read_finetuned, read_pretrained

Overrides = Sequence[str] | Mapping[str, Any]
LIGHT = plugins.outlined


def demo(*, output: Path, device: str = "auto", seed: int = 0) -> str:
    """As ``verbs.demo``."""
    _device(device)
    return f"demo in {output}, seed {seed}"


def fit(
    folder: Path,
    *,
    output: Path,
    method: str | None = None,
    backbone: str | None = None,
    auxiliary: str | None = None,
    labelled: int | None = None,
    fold: int | None = None,
    preset: str | None = "small",
    settings_file: Path | None = None,
    overrides: Overrides = (),
    inductive: bool = False,
    device: str = "auto",
    **_: Any,
) -> str:
    """As ``verbs.fit``."""
    refuse_processes("fit")
    refuse_inductive(inductive, fold)
    _there(folder)
    given = run_settings.by_section(overrides)
    tree = run_settings.base(preset, settings_file)
    method, backbone = run_settings.choose(method, backbone, tree, given["finetune"])
    if method != SCRATCH:
        run_settings.pretraining(method, backbone, tree, given["pretrain"], prefix="pretrain.", load=LIGHT)
    tuning = run_settings.finetuning(
        backbone, tree, given["finetune"], auxiliary=auxiliary, prefix="finetune.", load=LIGHT
    )
    preparation(of_dims(tree, tuning.dims).get("prepare", {}), given["prepare"], prefix="prepare.")
    _device(device)
    if fold is not None or labelled is not None:
        listed = recognise(folder).index
        root = Path(listed.root)
        folds = 1 if fold is not None else number_of_folds(listed.scans, root=root)
        for number in range(folds) if folds > 1 else [fold]:
            choose(listed.scans, fold=number, labelled=labelled, root=root)
    return f"fit {folder} into {output}: {_network(method, backbone, tuning.auxiliary)}, preset {preset}"


def pretrain(
    work: Path,
    *,
    method: str | None = None,
    backbone: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Overrides = (),
    fold: int | None = None,
    split: str | None = None,
    device: str = "auto",
    prefix: str = "",
    **_: Any,
) -> str:
    """As ``verbs.pretrain``."""
    tree = run_settings.base(preset, settings_file)
    method, backbone = run_settings.choose(method, backbone, tree, overrides)
    run_settings.pretraining(method, backbone, tree, overrides, prefix=prefix, load=LIGHT)
    _device(device)
    _prepared(work, fold=fold, labelled=None, split=split)
    return f"pretrain in {work}: {_network(method, backbone)}"


def finetune(
    work: Path,
    *,
    pretrained: Path | None = None,
    fold: int | None = None,
    labelled: int | None = None,
    split: str | None = None,
    backbone: str | None = None,
    auxiliary: str | None = None,
    preset: str | None = None,
    settings_file: Path | None = None,
    overrides: Overrides = (),
    device: str = "auto",
    prefix: str = "",
    trust: Trust = NO_TRUST,
    **_: Any,
) -> str:
    """As ``verbs.finetune``."""
    tree = run_settings.base(preset, settings_file)
    before = None if pretrained is None else read_pretrained(pretrained, trust.also(backbone, tree.get("backbone")))
    backbone = pairing.backbone_after(before, pretrained, backbone, tree)
    tuning = run_settings.finetuning(backbone, tree, overrides, auxiliary=auxiliary, prefix=prefix, load=LIGHT)
    _device(device)
    _prepared(work, fold=fold, labelled=labelled, split=split)
    return f"finetune in {work}: {_network(before.method if before else SCRATCH, backbone, tuning.auxiliary)}"


def predict(
    runs: Sequence[Path],
    *,
    inputs: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    trust: Trust = NO_TRUST,
    **_: Any,
) -> str:
    """As ``verbs.predict``."""
    if not runs:
        raise UsageError("no run", allowed="one fine-tuned run, or several", next="lemis predict WORK/runs/NAME")
    resolve(LIGHT("prediction", "tiles").Settings, parse_overrides(overrides))
    for run in runs:
        read_finetuned(run, trust)
    if inputs is None:
        index_file.load(runs[0].parent.parent / "index.json")
    else:
        _there(inputs)
    _device(device)
    return f"predict with {' + '.join(run.name for run in runs)}"


def compare(
    scans: Path,
    *,
    output: Path,
    plan: str | Path,
    name: str | None = None,
    upstream: Path | None = None,
    overrides: Overrides = (),
    jobs: int = 1,
    on: str | None = None,
    emit: str | None = None,
    cell: str | None = None,
    device: str = "auto",
    **_: Any,
) -> str:
    """As ``verbs.compare``."""
    title = name or plan_files.short_name(plan)
    if cell is not None:
        return f"compare in {output}: cell {cell} of {title}"
    asked = plans.load_plan(plan, overrides, load=LIGHT)
    plans.refuse_contradictions(asked, upstream, jobs, on, emit)
    for folder in (scans, upstream):
        if folder is not None:
            _there(folder)
    _device(device)
    return f"compare {scans} into {output}: {title}, {', '.join(row.title for row in asked.rows)}"


def segment_one(
    image: Path | None = None,
    *,
    output: Path,
    batch: Path | None = None,
    method: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    size: str | None = None,
    slices: str | None = None,
    window: str | None = None,
    pick: str | None = None,
    click: str | None = None,
    reference: Path | None = None,
    references: Path | None = None,
    device: str = "auto",
    **_: Any,
) -> str:
    """As ``verbs.segment_one``."""
    image_request.refuse_contradictions(image, batch, pick, click)
    image_request.refuse_other_references(batch, reference, references)
    name = method or image_request.METHOD
    image_request.settings_of(name, preset, overrides, LIGHT)
    typed = Asked(
        method=method, preset=preset, overrides=tuple(overrides), seed=seed, size=size, slices=slices, window=window
    )
    image_request.refuse_unreadable(typed)
    for file in (image, batch, reference, references):
        if file is not None:
            _there(file)
    _device(device)
    return f"segment-one {image or batch} into {output}: {name}"


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


def refuse_inductive(inductive: bool, fold: int | None) -> None:
    """Refuse to leave out held-out subjects where none are.

    Raises:
        UsageError: There is no fold.
    """
    if inductive and fold is None:
        raise UsageError("--inductive without a fold", allowed="--inductive with --fold", next="--fold 0 --inductive")


def _network(method: str, backbone: str, auxiliary: str | None = None) -> str:
    start = "no pre-training" if method == SCRATCH else f"pre-training {method}"
    return f"{start}, network {backbone}" + (f", extra loss {auxiliary}" if auxiliary else "")


def _there(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path} does not exist", allowed="a file or folder that is there", next="check the path")


def _prepared(work: Path, *, fold: int | None, labelled: int | None, split: str | None) -> None:
    """Refuse a work folder that is not prepared, and a choice of subjects that its scans do not have."""
    store = open_store(work / "prepared")
    index: Index = index_file.load(work / "index.json")
    if fold is not None or labelled is not None:
        choose(store.scans, fold=fold, labelled=labelled, root=Path(index.root), scheme=split)


def _device(device: str) -> None:
    if device == "cuda" and not _may_have_cuda():
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
