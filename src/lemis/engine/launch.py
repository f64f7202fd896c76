"""Devices, precision and processes, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric

from lemis.engine.schedule import Settings
from lemis.errors import UsageError


def launch(settings: Settings, device: str) -> Fabric:
    """Fabric for ``auto``, ``cpu`` or ``cuda``; processes are those that torchrun started, else this one.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    accelerator = chosen_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the verbs say device and precision themselves
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=precision(settings, accelerator),
    )
    fabric.launch()
    return fabric


def chosen_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` -> ``cpu`` or ``cuda``.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", allowed="auto or cpu: PyTorch sees no CUDA device", next="lemis doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def precision(settings: Settings, accelerator: str) -> Any:
    """Fabric's name of the precision. ``auto`` is decided by the hardware, not by timing, so that it is repeatable.

    Raises:
        UsageError: Half precision on a CPU.
    """
    if settings.precision == "16" and accelerator == "cpu":  # Fabric would take bf16 instead
        raise UsageError("precision=16 on a CPU", allowed="auto, 32 or bf16", next="precision=bf16")
    if settings.precision == "auto":
        has_bf16 = (
            torch.cuda.is_bf16_supported() if accelerator == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        return "bf16-mixed" if has_bf16 else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[settings.precision]
