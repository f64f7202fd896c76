"""(o) KAF's Figure 5: operations and memory of its network, by the side of a slice and the number of attentions."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.fresh import alive

TITLE = (
    "(o) a forward pass of one slice, 256 keypoints, base width 32, float32: GFLOPs (a multiply-add is two), and "
    "memory of what training keeps"
)
SIDES = (96, 192, 352, 512)  # SwinUNETR wants multiples of 32
KEYPOINTS = 256
PAIRS = (3, 6, 9)  # T: pairs of attention layers at each of the four levels, so 8 T of them


def rows() -> list[dict[str, object]]:
    """One row a network. Operations are counted, not timed, so they are the same on every machine."""
    networks = ["U-Net", "widened U-Net", *(f"KAF U-Net, T = {pairs}" for pairs in PAIRS), "SwinUNETR (MONAI)"]
    table = []
    for name in networks:
        network, forward = _network(name)
        row: dict[str, object] = {
            "network": name,
            "attentions": 8 * int(name.rpartition(" ")[2]) if name.startswith("KAF") else "",
            "parameters": f"{sum(p.numel() for p in network.parameters()):,}",  # type: ignore[attr-defined]
        }
        for side in SIDES:
            operations, kept = _cost(forward, side)
            row[f"{side} x {side}"] = f"{operations / 1e9:.1f} GFLOPs, {kept / 2**20:.0f} MiB"
        table.append(row)
    return table


def _cost(forward: Callable, side: int) -> tuple[float, float]:
    """Operations, and bytes of tensors that are alive after the pass, which the backward pass would read."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    x = torch.randn(1, 1, side, side)
    keypoints = (torch.rand(1, KEYPOINTS, 2) * side).floor()
    # The fused attention of CPUs is one operation that is not counted; taken apart, its products are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(x, keypoints)
    with torch.profiler.profile(profile_memory=True) as profile:
        logits = forward(x, keypoints)
    kept, _ = alive(profile)
    del logits
    return counter.get_total_flops(), kept


def _network(name: str) -> tuple[object, Callable]:
    import torch

    from lemis.backbones import kaf_unet, unet2d

    torch.manual_seed(0)
    sizes = {"in_channels": 1, "num_classes": 8}  # of CHD
    if name == "U-Net":
        plain = unet2d.Backbone(unet2d.Settings(base_width=32), **sizes)
        return plain, lambda x, _: plain(x)
    if name.startswith("SwinUNETR"):
        from monai.networks.nets import SwinUNETR

        swin = SwinUNETR(in_channels=1, out_channels=8, feature_size=48, spatial_dims=2)
        return swin, lambda x, _: swin(x)
    given = {"levels": ()} if name == "widened U-Net" else {"pairs": int(name.rpartition(" ")[2])}
    fused = kaf_unet.Backbone(kaf_unet.Settings(base_width=32, **given), **sizes)
    return fused, fused
