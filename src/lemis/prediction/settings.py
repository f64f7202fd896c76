"""Settings of a prediction, whatever the network: those of tiles, and what becomes of the label map after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lemis.prediction import tiles
from lemis.work_files.quality import LEVEL


@dataclass(frozen=True, kw_only=True)
class Settings(tiles.Settings):
    """Tiles are of volumes alone; the rest is of every network."""

    # Average the logits of a network over mirror images. auto: along the axes that its training mirrored, if any, which
    # takes 4 times the time of slices and 8 times that of volumes, as in nnU-Net; true: along all.
    mirror: Literal["auto"] | bool = "auto"
    # Islands of a structure become background. auto: of what is one piece in all labelled scans of training, and where
    # one piece is most of it; true: of every structure, whatever its pieces are.
    largest_components: Literal["auto"] | bool = "auto"
    # Say of each label map how far it can be trusted, in quality.csv: four more views of each scan by each network.
    quality: bool = True
    # Share of the intervals of the expected Dice that are to hold the true one, on average. 0.9 needs nine held-out
    # subjects, 0.8 five.
    level: Annotated[float, Field(gt=0, lt=1)] = LEVEL
