"""Whole files of a work folder as plain values, for tests that need one and care for a field or two of it."""

from __future__ import annotations

import json
from typing import Any

from lemis.records import plain
from lemis.verbs.evaluate import evaluate as evaluate_verb
from lemis.work_files.run import FinetunedModel, Model, PretrainedModel

_TRAINED: dict[str, Any] = {
    "version": 1, "method": "sal", "backbone": "unet2d", "backbone_settings": {}, "channels": ["MR"],
    "label_names": ["background", "pool"], "label_values": [0, 1], "labelled_subjects": [], "prepared": {}, "seed": 0,
}  # fmt: skip
PRETRAINED: dict[str, Any] = {**_TRAINED, "verb": "pretrain", "trained": ["encoder"], "subjects": []}
FINETUNED: dict[str, Any] = {
    **_TRAINED, "verb": "finetune", "auxiliary": None, "patch_px": None, "test_subjects": [],
    "pretraining_subjects": [], "pretrained": None, "fold": None, "split": "pcl",
}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {
    "version": 1, "lemis": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.13.0"}, "platform": "Linux",
    "processor": "CPU", "cores": 2, "threads": 1, "gpu": None, "command": "lemis fit", "started": "2026-01-01",
}  # fmt: skip
_OVERLAP: dict[str, Any] = {"dice": 0.9, "hammoude": 0.181818, "xor": 0.2}
MASK_RECORD: dict[str, Any] = {
    "version": 1, "image": "image.png",
    "made_from": {
        "image": {"name": "image.png", "stamp": "b9b84d59ab634acc"}, "method": "kmeans",
        "settings": {"clusters": 2, "scale": [0.8, 1.2]}, "seed": 0, "size": 256, "slices": None, "window": None,
    },
    "notes": ["an alpha channel is left out"], "left_empty": [2], "chosen_by": "proposal",
    "slices": [{
        "slice": 1, "iterations": 7, "restarts": 0, "seconds": 1.5, "side_by_side": 1, "worked_at_px": [256, 256],
        "clusters": [
            {"label": 1, "share": 0.75, "border": 1.0, "distance": 2.5, "contrast": 0.7, "compactness": 0.6,
             "score": 0.0, "network_label": 3},
            {"label": 2, "share": 0.25, "border": 0.0, "distance": 2.5, "contrast": 0.7, "compactness": 1.0,
             "score": 0.7, "network_label": 0},
        ],
        "proposed": 2, "why": "it does not touch the border", "chosen": [2], "mask_share": 0.25,
        "scores": {"protocol": "honest", "best_cluster": 2, **_OVERLAP, "chosen": _OVERLAP},
    }],
    "means": {"protocol": "honest", "what": "whole", "scored": 1, "best": _OVERLAP, "chosen": _OVERLAP},
    "files": {"mask": "mask.png", "labels": "mask.labels.png", "overlay": "mask.overlay.png"},
    "environment": ENVIRONMENT,
}  # fmt: skip
META: dict[str, Any] = {
    "version": 2, "settings": {"spacing_mm": 1.25, "normalise": "zscore"}, "keypoints": None, "channels": ["MR"],
    "label_names": ["background", "pool"], "label_values": [0, 1], "scans": ["a"],
}  # fmt: skip

ESTIMATE: dict[str, Any] = {
    "mean": 0.9,
    "low": None,
    "high": None,
    "median": 0.9,
    "std": 0.0,
    "scans": 1,
    "subjects": 1,
}
SCORES: dict[str, Any] = {
    **dict.fromkeys(("dice", "hd95_mm", "assd_mm", "nsd", "hd95_pooled_mm", "assd_of_means_mm"), ESTIMATE),
    **dict.fromkeys(("scored", "missed", "invented", "absent"), 1),
}
SUMMARY: dict[str, Any] = {
    "version": 1, "scans": 1, "subjects": 1, "not_scored": {}, "runs": ["a"], "transductive": False,
    "training_not_recorded": [], "subjects_tested": ["s"], "subjects_labelled_in_training": [],
    "subjects_in_pretraining": [], "versions": {},
    "settings": {"scores": {"tolerance_mm": 2.0}, "intervals": {"level": 0.95}},
    "protocols": {"default": {
        "what": "w", "definitions": {"hd95_mm": "d", "interval": "i"}, "tolerance_mm": 2.0,
        "without_millimetres": None, "structures": {"pool": SCORES}, "overall": SCORES,
    }},
}  # fmt: skip


def model_of(facts: dict[str, Any]) -> Model:
    """A ``model.json`` as the model that its reader gives."""
    kind = PretrainedModel if facts["verb"] == "pretrain" else FinetunedModel
    found: Model = kind.model_validate_json(json.dumps(facts))
    return found


def model(verb: str, **more: Any) -> dict[str, Any]:
    """``model.json`` of a run of this verb."""
    return {**(PRETRAINED if verb == "pretrain" else FINETUNED), **more}


def evaluate(*arguments: Any, **more: Any) -> dict[str, Any]:
    """What the verb gives, as ``summary.json`` has it."""
    return plain(evaluate_verb(*arguments, **more))
