"""The device that a run computes on."""

from __future__ import annotations

import torch

from lemis.errors import UsageError


def chosen_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` -> ``cpu`` or ``cuda``.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", allowed="auto or cpu: PyTorch sees no CUDA device", next="lemis doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
