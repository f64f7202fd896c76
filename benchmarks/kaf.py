"""(f) What the keypoint layers cost: a training step of KAF's network, of U-Nets without them, and of SwinUNETR."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from math import log

from benchmarks.fresh import alive, measured

TITLE = "(f) one training step of 4 slices, 256 keypoints each, base width 16, bf16: seconds and peak memory of tensors"
ROUNDS = 2
SLICES = 4
SIZES = (96, 192, 288)  # pixels along each side; SwinUNETR wants multiples of 32
KEYPOINTS = 256
NETWORKS = ("U-Net", "widened U-Net", "KAF U-Net, T = 3, 64 wide", "KAF U-Net, T = 8, 256 wide", "SwinUNETR (MONAI)")


def rows() -> list[dict[str, object]]:
    """One row a network: medians of alternating fresh processes; growth is the exponent p in cost ~ pixels^p."""
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for size in SIZES:
            for network in NETWORKS:
                runs.setdefault((network, size), []).append(measured("kaf", network, size))
    table = []
    for network in NETWORKS:
        row: dict[str, object] = {
            "network": network,
            "parameters": f"{runs[network, SIZES[0]][0]['parameters']:,.0f}",
        }
        for size in SIZES:
            seconds, plain = (_median(runs[name, size], "seconds") for name in (network, NETWORKS[0]))
            memory = _median(runs[network, size], "bytes") / 2**20
            row[f"{size} x {size}"] = f"{seconds:.2f} s ({seconds / plain:.1f}x), {memory:.0f} MiB"
        for what in ("seconds", "bytes"):
            row[f"growth of {what}"] = f"{_growth([_median(runs[network, size], what) for size in SIZES]):.2f}"
        table.append(row)
    return table


def _median(runs: list[dict[str, float]], what: str) -> float:
    return statistics.median(run[what] for run in runs)


def _growth(costs: list[float]) -> float:
    """Slope of log cost over log pixels, by least squares."""
    x, y = [log(size * size) for size in SIZES], [log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def _one(network: str, size: int) -> dict[str, float]:
    import torch

    from lemis.cli import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    built, forward = _network(network)
    built = built.to(memory_format=torch.channels_last)
    x = torch.randn(SLICES, 1, size, size).to(memory_format=torch.channels_last)
    keypoints = (torch.rand(SLICES, KEYPOINTS, 2) * size).floor()
    label = torch.randint(0, 4, (SLICES, size, size))
    optimiser = torch.optim.Adam(built.parameters())

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(x, keypoints)
        torch.nn.functional.cross_entropy(logits.float(), label).backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    _, most = alive(profile)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return {"seconds": min(times), "bytes": most, "parameters": sum(p.numel() for p in built.parameters())}


def _network(name: str) -> tuple[object, Callable]:
    import torch

    from lemis.backbones import kaf_unet, unet2d

    sizes = {"in_channels": 1, "num_classes": 4}
    if name == "U-Net":
        plain = unet2d.Backbone(unet2d.Settings(base_width=16), **sizes)
        return plain, lambda x, _: plain(x)
    if name.startswith("SwinUNETR"):
        from monai.networks.nets import SwinUNETR

        swin = SwinUNETR(in_channels=1, out_channels=4, feature_size=24, spatial_dims=2)
        return swin, lambda x, _: swin(x)
    settings = {
        "widened U-Net": {"levels": ()},
        "KAF U-Net, T = 3, 64 wide": {"pairs": 3, "keypoint_width": 64},
        "KAF U-Net, T = 8, 256 wide": {},
    }[name]
    torch.manual_seed(0)
    fused = kaf_unet.Backbone(kaf_unet.Settings(base_width=16, **settings), **sizes)
    return fused, fused


if __name__ == "__main__":
    print(json.dumps(_one(sys.argv[1], int(sys.argv[2]))))
