"""nnU-Net, trained by its own code on the scans of one cell of a comparison; its masks of the test scans.

A script for the interpreter of another environment, which has nnunetv2 and need not have Lemis: it imports nothing of
ours and knows paths and JSON only (``external_runs.py`` writes what it reads).

    python -I nnunet_train.py versions              # {"nnunetv2": "2.8.1", ...} on standard output
    python -I -u nnunet_train.py train REQUEST.json

``REQUEST.json``: folder, threads, device, seed, plan (null: the planner's own), steps or core_seconds. ``folder`` holds
``nnUNet_raw/Dataset001_Cell`` in nnU-Net's layout. What is written there: ``steps.json`` once their number is decided,
the label maps in ``predicted/``, and at the end ``answer.json``.

Training ends when standard input does, which is when the process that holds its other end has ended.

Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature Methods
18, 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATASET, CONFIGURATION, PLANS = "Dataset001_Cell", "2d", "nnUNetPlans"
WARM_UP, TIMED = 2, 20  # steps, before and while a step's core-seconds are measured; they vary, as augmentation does


def versions() -> dict[str, str]:
    """Of what trains."""
    return {name: version(name) for name in ("nnunetv2", "torch")} | {"python": platform.python_version()}


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    if arguments[0] == "versions":
        print(json.dumps(versions()))
        return
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    request = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
    folder = Path(request["folder"])
    _surroundings(folder, request["threads"])
    answer = _work(folder, request)
    _write(folder / "answer.json", answer)


def _write(path: Path, facts: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(part, path)


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _surroundings(folder: Path, threads: int) -> None:
    """What nnU-Net reads of its environment when it is imported."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(exist_ok=True)
        os.environ[name] = str(folder / name)
    counts = ("nnUNet_def_n_proc", "nnUNet_n_proc_DA", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(counts, str(threads)))


def _work(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(request["threads"])
    begun = _core_seconds()
    plans, dataset = _planned(folder, request["plan"])
    prepared = _core_seconds()
    if request["device"] == "cpu":
        os.environ.update({"nnUNet_n_proc_DA": "0"})  # batches are drawn in this process; its planner takes no 0

    def make(steps: int) -> Any:
        _seed(request["seed"])
        return _trainer(plans, dataset, steps, torch.device(request["device"]))

    steps = request["steps"] or _steps_within(request["core_seconds"], make)
    _write(folder / "steps.json", steps)
    trainer = make(steps)
    train_begun, train_core_begun = time.monotonic(), _core_seconds()
    trainer.run_training()
    seconds, core_seconds = time.monotonic() - train_begun, _core_seconds() - train_core_begun
    predict_begun = _core_seconds()
    _predict(folder, trainer)
    used = plans["configurations"][CONFIGURATION]
    return {
        "steps": steps, "epochs": trainer.num_epochs, "seconds": round(seconds, 1),
        "core_seconds": round(core_seconds, 1),
        "preparation_core_seconds": round(prepared - begun, 1),
        "prediction_core_seconds": round(_core_seconds() - predict_begun, 1),
        "peak_memory_gb": _peak_memory_gb(), "versions": versions(),
        "spacing_mm": [float(mm) for mm in used["spacing"]], "patch_px": [int(px) for px in used["patch_size"]],
        "batch_size": int(used["batch_size"]),
        "widths": [int(width) for width in used["architecture"]["arch_kwargs"]["features_per_stage"]],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- its plan


def _planned(folder: Path, asked: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fingerprint, plan and preprocessing, all by nnU-Net; its plans and its description of the data set."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    DatasetFingerprintExtractor(1, num_processes=1).run(overwrite_existing=True)
    if asked is None:
        planner = ExperimentPlanner(1)
    else:
        planner = _planner_at(ExperimentPlanner, asked)(1, suppress_transpose=True)
    planner.plan_experiment()
    preprocess_dataset(1, PLANS, configurations=(CONFIGURATION,), num_processes=(1,), show_progress_bar=False)
    here = folder / "nnUNet_preprocessed" / DATASET
    plans, dataset = (
        json.loads((here / name).read_text(encoding="utf-8")) for name in (f"{PLANS}.json", "dataset.json")
    )
    return plans, dataset


def _planner_at(planner: Any, asked: dict[str, Any]) -> Any:
    """Its planner with pixels, patches, width and batches given; all else, such as depth and kernels, by its rules."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    class PlannerAtGivenSizes(planner):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.UNet_base_num_features = asked["base_width"]

        def determine_fullres_target_spacing(self) -> Any:
            target = super().determine_fullres_target_spacing()
            target[1:] = asked["spacing_mm"]  # slices run across the first axis, as the files are written
            return target

        def get_plans_for_configuration(self, spacing: Any, *given: Any, **named: Any) -> Any:
            plan = super().get_plans_for_configuration(spacing, *given, **named)
            if len(spacing) != 2:
                return plan
            _, strides, kernels, patch, _ = get_pool_and_conv_props(
                spacing, asked["patch_px"], self.UNet_featuremap_min_edge_length, 999999
            )
            stages = len(strides)
            widths = [min(self.UNet_max_features_2d, asked["base_width"] * 2**stage) for stage in range(stages)]
            plan |= {"patch_size": patch, "batch_size": asked["batch_size"]}
            plan["architecture"]["arch_kwargs"] |= {
                "n_stages": stages, "features_per_stage": widths, "kernel_sizes": kernels, "strides": strides,
                "n_conv_per_stage": self.UNet_blocks_per_stage_encoder[:stages],
                "n_conv_per_stage_decoder": self.UNet_blocks_per_stage_decoder[: stages - 1],
            }  # fmt: skip
            return plan

    return PlannerAtGivenSizes


# ---------------------------------------------------------------------------------------------------------- its trainer


def _trainer(plans: dict[str, Any], dataset: dict[str, Any], steps: int, device: Any) -> Any:
    """nnU-Net's trainer on all training scans, with another number of steps and without validation."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TrainerOfSteps(nnUNetTrainer):  # type: ignore[misc]
        # Its learning rate falls from epoch to epoch, to 0 after the last: as many epochs as it has (1000), or a step
        # each, and the steps spread evenly over them.
        def on_train_epoch_start(self) -> None:
            self.num_iterations_per_epoch = steps_of(self.current_epoch, self.num_epochs, steps)
            super().on_train_epoch_start()

        def on_validation_epoch_start(self) -> None: ...

        def on_validation_epoch_end(self, val_outputs: Any) -> None: ...

        def on_epoch_end(self) -> None:
            self.current_epoch += 1

    given = json.loads(json.dumps(plans)) | {"continue_training": False}
    trainer = TrainerOfSteps(given, CONFIGURATION, "all", dataset, device)
    trainer.num_epochs, trainer.num_val_iterations_per_epoch = min(trainer.num_epochs, steps), 0
    return trainer


def steps_of(epoch: int, epochs: int, steps: int) -> int:
    """Of one epoch, so that all take ``steps`` together."""
    return steps * (epoch + 1) // epochs - steps * epoch // epochs


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _steps_within(core_seconds: float, make: Callable[[int], Any]) -> int:
    """How many steps take so long, by a few that are tried on a trainer that is thrown away."""
    trainer = make(WARM_UP + TIMED)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    for _ in range(WARM_UP):
        trainer.train_step(next(trainer.dataloader_train))
    begun = _core_seconds()
    for _ in range(TIMED):
        trainer.train_step(next(trainer.dataloader_train))
    each = (_core_seconds() - begun) / TIMED
    steps = max(1, round(core_seconds / each))
    print(f"{each:.3g} core-seconds a step: {steps} steps in {core_seconds:.0f}", flush=True)
    return steps


# ------------------------------------------------------------------------------------------------------ its predictions


def _predict(folder: Path, trainer: Any) -> None:
    """By its predictor with its defaults: half-overlapping tiles, Gaussian weights, mirroring; no post-processing.

    Its post-processing is chosen on folds of the training scans, which are too few here.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, type(trainer).__name__, trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    images = sorted((folder / "nnUNet_raw" / DATASET / "imagesTs").iterdir())
    cases: dict[str, list[str]] = {}
    for image in images:
        cases.setdefault(image.name.rsplit("_", 1)[0], []).append(str(image))
    out = folder / "predicted"
    out.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(list(cases.values()), [str(out / case) for case in cases])


# ------------------------------------------------------------------------------------------------------------ its cost


def _core_seconds() -> float:
    """Of this process and of those it started that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _peak_memory_gb() -> float | None:
    """The most that this process held, or one that it started; None on Windows, which does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # here, as Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(most * unit / 1e9, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
