"""Small networks on top of an encoder."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lemis.layers.basic import BatchNorm, centre, pool, precise


@final
class PooledMLP(nn.Module):
    """Global average pooling, Linear, ReLU, Linear: the head of SimCLR and of the PCL protocol, in 2D and 3D.

    Pooled maps of a network that has learned nothing are nearly one vector, and this head makes one direction of them.
    Where the embeddings of two such heads are compared, these are two directions: what they learn first is to have the
    same one, all of them, and there they stay. ``batch_norm`` takes away what all pooled maps have in common.

    Args:
        channels: Of the incoming map.
        out_features: Size of the embedding, or number of classes.
        hidden: Width between the two; that of the map by default.
        batch_norm: Of the pooled map, over the batch of all processes, without a scale and shift of its own.
    """

    def __init__(
        self, channels: int, out_features: int, hidden: int | None = None, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        hidden = hidden or channels
        self.batch_norm = batch_norm
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) -> (B, out_features), not normalised."""
        # Rounded to half precision, what pooled maps have in common would leave little of what they differ in.
        pooled = centre(pool(precise(x)), scale=True) if self.batch_norm else pool(x)
        out: Tensor = self.layers(pooled)
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


@final
class Projector(nn.Module):
    """SimSiam's projector: global average pooling, then three linear layers, each normalised over the batch.

    ReLU follows the first two; the last normalisation has no scale and shift of its own.

    Args:
        channels: Of the incoming map.
        out_features: Size of the embedding.
        hidden: Width of the first two layers.
    """

    def __init__(self, channels: int, out_features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(channels, hidden), *_normed(hidden, hidden), nn.Linear(hidden, out_features, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) -> (B, out_features), of mean 0 and variance 1 over the batch in each feature."""
        return centre(self.layers(pool(x)), scale=True)


@final
class Predictor(nn.Module):
    """Linear, batch normalisation, ReLU, Linear: the predictor of SimSiam and of BYOL, whose projector is the same.

    Args:
        features: Of the incoming vectors.
        out_features: Of the outgoing ones.
        hidden: Width between the two.
        bias: Of the last layer; BYOL's has none.
    """

    def __init__(self, features: int, out_features: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_normed(features, hidden), nn.Linear(hidden, out_features, bias=bias))

    def forward(self, z: Tensor) -> Tensor:
        """(N, features) -> (N, out_features), not normalised."""
        out: Tensor = self.layers(z)
        return out


def _normed(features: int, width: int) -> tuple[nn.Module, ...]:
    # No bias: the normalisation that follows would take it away.
    return nn.Linear(features, width, bias=False), BatchNorm(width), nn.ReLU()
