"""Small networks on top of an encoder."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lemis.parts.layers import pool


@final
class PooledMLP(nn.Module):
    """Global average pooling, Linear, ReLU, Linear: the head of SimCLR and of the PCL protocol, in 2D and 3D.

    Args:
        channels: Of the incoming map; also the hidden width.
        out_features: Size of the embedding, or number of classes.
    """

    def __init__(self, channels: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) -> (B, out_features), not normalised."""
        out: Tensor = self.layers(pool(x))
        return out


@final
class PooledLinear(nn.Module):
    """Global average pooling and one linear layer."""

    def __init__(self, channels: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) -> (B, out_features), not normalised."""
        out: Tensor = self.layer(pool(x))
        return out
