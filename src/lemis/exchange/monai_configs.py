"""The two configurations of a MONAI bundle: ``inference.json``, from scans to label maps, and ``metadata.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lemis import __version__
from lemis.contracts import Backbone
from lemis.datasets import frame as frames
from lemis.prediction import components, mirroring
from lemis.prediction.settings import Settings
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import plain, resolve
from lemis.work_files.exported import Expects
from lemis.work_files.run import FinetunedModel

SCRIPTS, WEIGHTS = "scripts", "models/model.pt"  # in the bundle
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)  # fmt: skip
# Slices first, rows and columns reversed, by the axis across which slices run: what slices.slices_first makes of RAS+.
_AXCODES = ("RIP", "AIL", "SPL")
_SLICES_AT_ONCE = 16
_IGNITE = "0.4.11"  # the oldest that MONAI takes


# --------------------------------------------------------------------------------------------------- inference.json


def inference(model: FinetunedModel, network: Backbone, definition: Mapping[str, Any], axis: int) -> dict[str, Any]:
    """``inference.json``: from the scans of a folder to their label maps, by the names that MONAI's programs know.

    Args:
        model: What the run trained.
        network: Its network.
        definition: As the bundle has it.
        axis: Across which slices run, of scans in the frame of the run.
    """
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "scans",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": _datalist(len(model.channels)),
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(definition),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(model, axis)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0,
        },
        "inferer": _inferer(model, network),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(model)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{WEIGHTS}'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _datalist(channels: int) -> str:
    if channels == 1:
        return "$sorted(glob.glob(@dataset_dir + '/*.nii.gz') + glob.glob(@dataset_dir + '/*.nii'))"
    others = f"[first.replace('_0000.nii', f'_{{channel:04d}}.nii') for channel in range({channels})]"
    return f"$[{others} for first in sorted(glob.glob(@dataset_dir + '/*_0000.nii*'))]"


def _preprocessing(model: FinetunedModel, axis: int) -> list[dict[str, Any]]:
    how: Preparation = resolve(Preparation, model.prepared)
    frame = model.frame.axes if model.frame else None
    steps: list[dict[str, Any]] = [{"_target_": "LoadImaged", "reader": "NibabelReader", "ensure_channel_first": True}]
    if frame is None or not frames.differ(None, frame):
        steps.append({"_target_": "Orientationd", "axcodes": _AXCODES[axis], "labels": None})
    else:
        axes = [list(one) for one in frame]
        steps.append({"_target_": f"{SCRIPTS}.scans.OrientationToFramed", "axes": axes, "slice_axis": axis})
    spacing = how.spacing_mm if isinstance(how.spacing_mm, int | float) else None
    sizes = {"spacing_mm": spacing, "slice_spacing_mm": how.slice_spacing_mm, "whole_px": how.whole_px}
    if any(size is not None for size in sizes.values()):
        steps.append({
            "_target_": f"{SCRIPTS}.scans.ResampleSharingEdgesd",
            **{name: plain(size) for name, size in sizes.items() if size is not None},
            "order": how.image_order, "antialias": how.antialias,
        })  # fmt: skip
    if how.clip_values is not None:
        low, high = how.clip_values
        ends = {"a_min": low, "a_max": high, "b_min": low, "b_max": high}
        steps.append({"_target_": "ScaleIntensityRanged", **ends, "clip": True})
    if how.clip_percentiles is not None:
        low, high = how.clip_percentiles
        steps.append({"_target_": "ClipIntensityPercentilesd", "lower": low, "upper": high, "channel_wise": True})
    steps.append({"_target_": "NormalizeIntensityd", "channel_wise": True})
    if isinstance(how.field_of_view_mm, int | float):
        field = {"side_mm": how.field_of_view_mm, **({} if spacing is None else {"spacing_mm": spacing})}
        steps.append({"_target_": f"{SCRIPTS}.scans.CentralFieldd", **field})
    # As prepared scans are stored, and trained on.
    steps += [{"_target_": "CastToTyped", "dtype": f"$torch.{kind}"} for kind in ("float16", "float32")]
    return [{"_target_": step.pop("_target_"), "keys": "image", **step} for step in steps]


def _inferer(model: FinetunedModel, network: Backbone) -> dict[str, Any]:
    usual = Settings()
    if model.patch_px is None:
        inner: dict[str, Any] = {"_target_": "SliceInferer", "roi_size": [-1, -1], "sw_batch_size": _SLICES_AT_ONCE}
        inner["spatial_dim"] = 0
    else:
        inner = {
            "_target_": "SlidingWindowInferer", "roi_size": list(model.patch_px), "sw_batch_size": usual.at_once,
            "overlap": usual.overlap, "mode": usual.blend,
        }  # fmt: skip
    return {
        "_target_": f"{SCRIPTS}.scans.ProbabilitiesInferer",
        "inferer": inner,
        "multiples_of": list(network.divisors),
        "mirrored": list(mirroring.axes(usual.mirror, [model], network.dims)),
    }


def _postprocessing(model: FinetunedModel) -> list[dict[str, Any]]:
    usual = Settings()
    steps: list[dict[str, Any]] = [
        {"_target_": "Invertd", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False,
         "to_tensor": True},
        {"_target_": "AsDiscreted", "argmax": True},
    ]  # fmt: skip
    kept = components.kept(usual.largest_components, [model])
    if kept is not None:
        steps.append({
            "_target_": f"{SCRIPTS}.scans.KeepLargestPiecesd", "together": kept.foreground,
            "classes": [model.label_names.index(name) for name in kept.structures], "least_share": kept.least_share,
        })  # fmt: skip
    values = list(model.label_values)
    if values != list(range(len(values))):
        steps.append({"_target_": "MapLabelValued", "orig_labels": list(range(len(values))), "target_labels": values})
    kind = next(name for name, most in (("uint8", 2**8), ("uint16", 2**16), ("int32", 2**31)) if max(values) < most)
    steps.append({
        "_target_": "SaveImaged", "output_dir": "@output_dir", "output_postfix": "seg", "output_ext": ".nii.gz",
        "output_dtype": f"$np.{kind}", "separate_folder": False, "resample": False,
    })  # fmt: skip
    return [{"_target_": step.pop("_target_"), "keys": "pred", **step} for step in steps]


# ---------------------------------------------------------------------------------------------------- metadata.json


def metadata(run: Path, model: FinetunedModel, expects: Expects, licence: str | None) -> dict[str, Any]:
    """``metadata.json``, by the schema of MONAI's model zoo. Nobody is named in it."""
    structures = ", ".join(one.name for one in expects.classes if one.index)
    shape: list[Any] = [f"{2 * expects.multiple_of}*n"] * 2 if model.patch_px is None else list(model.patch_px)
    axes = "slices" if expects.dims == 2 else "volumes"
    given = {
        "type": "image", "format": "magnitude", "modality": ", ".join(expects.channels),
        "num_channels": len(expects.channels), "spatial_shape": shape, "dtype": "float32", "value_range": [],
        "is_patch_data": model.patch_px is not None,
        "channel_def": {str(number): name for number, name in enumerate(expects.channels)},
    }  # fmt: skip
    answered = {
        "type": "image", "format": "segmentation", "num_channels": len(expects.classes), "spatial_shape": shape,
        "dtype": "float32", "value_range": [], "is_patch_data": model.patch_px is not None,
        "channel_def": {str(one.index): one.name for one in expects.classes},
    }  # fmt: skip
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by Lemis {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": _packages(model),
        "supported_apps": {},
        "name": run.name,
        "task": f"segmentation of {structures}",
        "description": f"{model.backbone} for {axes}: {structures}. What an image must be like is in expects.json.",
        "authors": "not stated",
        "copyright": f"licence of the weights: {licence}" if licence else "not stated",
        "data_type": "nibabel",
        "image_classes": f"{', '.join(expects.channels)}; z-scored",
        "label_classes": ", ".join(f"{one.value}: {one.name}" for one in expects.classes),
        "pred_classes": ", ".join(f"{one.index}: {one.name}" for one in expects.classes),
        "intended_use": "research; not a medical device, and not validated for any clinical use",
        "network_data_format": {"inputs": {"image": given}, "outputs": {"pred": answered}},
    }


def _packages(model: FinetunedModel) -> dict[str, str]:
    needed = {"nibabel": version("nibabel"), "scipy": version("scipy"), "pytorch-ignite": _IGNITE}
    with contextlib.suppress(PackageNotFoundError):  # Lemis does not need it
        needed["pytorch-ignite"] = version("pytorch-ignite")
    if "swin" in model.backbone:
        needed["einops"] = version("einops")
    return needed
