"""nnU-Net's own code on files of ours: a script for the interpreter of an environment that has nnunetv2, not Lemis.

    python -I nnunet_itself.py logits FOLDER
    python -I nnunet_itself.py train FOLDER

``logits``: each ``FOLDER/NAME.pt`` holds ``architecture`` (of a plan), ``channels``, ``classes``, ``network_weights``
and ``image``; nnU-Net builds the network, loads the weights strictly and says its logits, in ``NAME.answer``.
``train``: ``FOLDER/nnUNet_raw/Dataset004_Made`` is planned and preprocessed, and for each folder of an export in
``FOLDER/exports`` its script puts its network into the plan, nnU-Net loads its weights as with ``-pretrained_weights``
and takes two steps; ``FOLDER/NAME.json`` says how, and ``FOLDER/NAME/fold_all/checkpoint_final.pth`` is its checkpoint.
``encoder``: of each ``FOLDER/NAME.pth`` of nnssl the network is built by its plan, and its encoder and stem are loaded
as nnU-Net's trainer for these does, strictly.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def built(architecture: dict[str, Any], channels: int, classes: int, *, deep: bool = False) -> Any:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    return get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], channels,
        classes, deep_supervision=deep,
    )  # fmt: skip


def logits(folder: Path) -> None:
    import torch

    for file in sorted(folder.glob("*.pt")):
        asked = torch.load(file, weights_only=True)
        network = built(asked["architecture"], asked["channels"], asked["classes"]).eval()
        network.load_state_dict(asked["network_weights"], strict=True)
        with torch.inference_mode():
            said = network(asked["image"])
        count = sum(one.numel() for one in network.parameters())
        torch.save(
            {"logits": said, "parameters": count, "keys": len(network.state_dict())}, file.with_suffix(".answer")
        )


def encoder(folder: Path) -> None:
    import torch

    for file in sorted(folder.glob("*.pth")):
        content = torch.load(file, weights_only=True)
        plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
        described = plan["architecture_plans"]
        architecture = {
            "network_class_name": described["arch_class_name"], "arch_kwargs": described["arch_kwargs"],
            "_kw_requires_import": described["arch_kwargs_requiring_import"],
        }  # fmt: skip
        channels = plan["pretrain_num_input_channels"]
        network = built(architecture, channels, 2)
        assert (network.key_to_encoder, network.key_to_stem) == (plan["key_to_encoder"], plan["key_to_stem"])
        assert set(network.keys_to_in_proj) == set(plan["keys_to_in_proj"])
        for key in (plan["key_to_encoder"], plan["key_to_stem"]):
            part = {name[len(key) + 1 :]: one for name, one in weights.items() if name.startswith(key)}
            network.get_submodule(key).load_state_dict(part)
        equal = all(torch.equal(one, weights[f"encoder.{name}"]) for name, one in network.encoder.state_dict().items())
        config = next(iter(plan["pretrain_plan"]["configurations"].values()))
        said = {"encoder": equal, "patch": list(config["patch_size"]), "spacing": config["spacing"]}
        file.with_suffix(".json").write_text(json.dumps(said))


def train(folder: Path) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(exist_ok=True)
        os.environ[name] = str(folder / name)
    os.environ.update(
        {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    )
    import numpy as np
    import torch
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
    from nnunetv2.run.run_training import maybe_load_checkpoint
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    DatasetFingerprintExtractor(4, num_processes=1).run(overwrite_existing=True)
    ExperimentPlanner(4).plan_experiment()
    preprocess_dataset(
        4, "nnUNetPlans", configurations=("2d", "3d_fullres"), num_processes=(1, 1), show_progress_bar=False
    )
    os.environ.update({"nnUNet_n_proc_DA": "0"})  # batches are drawn in this process; its planner takes no 0
    here = folder / "nnUNet_preprocessed" / "Dataset004_Made"
    dataset = json.loads((here / "dataset.json").read_text())
    for export in sorted((folder / "exports").iterdir()):
        (weights,) = export.glob("*.pth")
        put = [sys.executable, "-I", str(export / "add_to_plans.py"), str(here / "nnUNetPlans.json")]
        added = subprocess.run(put, check=True, capture_output=True, text=True).stdout
        plans = json.loads((here / "nnUNetPlans.json").read_text()) | {"continue_training": False}
        torch.manual_seed(0)
        np.random.seed(0)  # its batches are drawn by NumPy
        trainer = nnUNetTrainer(plans, "lemis", "all", dataset, torch.device("cpu"))
        spoken = io.StringIO()
        with contextlib.redirect_stdout(spoken):
            maybe_load_checkpoint(trainer, False, False, str(weights))
        given = torch.load(weights, weights_only=True)["network_weights"]
        state = trainer.network.state_dict()
        taken = [name for name, one in state.items() if name in given and torch.equal(one, given[name])]
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        losses = [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(2)]
        trainer.logger.log("ema_fg_dice", 0.5, 0)
        trainer.disable_checkpointing = False
        fold = folder / export.name / "nnUNetTrainer__nnUNetPlans__lemis" / "fold_all"
        fold.mkdir(parents=True)
        trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
        trained = {name: one.clone() for name, one in trainer.network.state_dict().items()}
        torch.save(trained, fold / "trained.pt")
        answer = {
            "message": next(line for line in spoken.getvalue().splitlines() if "Loading pretrained weights" in line),
            "losses": losses, "keys": len(state), "equal": len(taken),
            "others": [name for name in state if name not in taken], "added": added,
            "patch": plans["configurations"]["lemis"]["patch_size"],
            "moved": sum(not torch.equal(one, given[name]) for name, one in trained.items()),
        }  # fmt: skip
        (folder / f"{export.name}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    {"logits": logits, "encoder": encoder, "train": train}[sys.argv[1]](Path(sys.argv[2]))
