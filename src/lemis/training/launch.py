"""Devices, precision and processes, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from lemis.errors import UsageError
from lemis.runs.device import chosen_device, has_bfloat16
from lemis.training.schedule import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(settings: Settings, device: str, dims: int = 2, prefix: str = "") -> Fabric:
    """Fabric for ``auto``, ``cpu`` or ``cuda``; processes are those that torchrun started, else this one.

    Args:
        settings: Their precision.
        device: What the user asked for.
        dims: Of the network; there is no half precision in three dimensions on a CPU.
        prefix: What the user typed before the schedule's keys, for messages.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    from lightning_fabric import Fabric  # here, as it takes longer to import than PyTorch and all else

    accelerator = chosen_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the verbs say device and precision themselves
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=precision(settings, accelerator, dims, prefix),
    )
    fabric.launch()
    return fabric


def precision(settings: Settings, accelerator: str, dims: int = 2, prefix: str = "") -> Any:
    """Fabric's name of the precision. ``auto`` is decided by the hardware, not by timing, so that it is repeatable.

    On a CPU networks of three dimensions are trained in float32: in bf16 the weight gradients of a 3x3x3 convolution
    over a map two voxels deep are memory that nobody wrote (PyTorch 2.13.0's oneDNN on AVX-512; docs/decisions/0008).

    Raises:
        UsageError: Half precision on a CPU, or bf16 there in three dimensions.
    """
    if dims == 3 and accelerator == "cpu":
        if settings.precision in ("bf16", "16"):
            raise UsageError(
                f"{prefix}precision={settings.precision} for a network of three dimensions on a CPU",
                allowed="auto or 32: PyTorch's gradients are wrong there in half precision",
                next=f"{prefix}precision=32",
            )
        return "32-true"
    if settings.precision == "16" and accelerator == "cpu":  # Fabric would take bf16 instead
        raise UsageError(f"{prefix}precision=16 on a CPU", allowed="auto, 32 or bf16", next=f"{prefix}precision=bf16")
    if settings.precision == "auto":
        return "bf16-mixed" if has_bfloat16(accelerator) else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[settings.precision]
