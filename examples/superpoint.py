"""SuperPoint as a detector of keypoints for KAF (its Table 4), with weights that you have.

SuperPoint: Self-Supervised Interest Point Detection and Description. D. DeTone, T. Malisiewicz, A. Rabinovich. CVPR
Workshops 2018, https://arxiv.org/abs/1712.07629. The published weights are not for commercial use; Lemis neither ships
nor fetches them. In the folder above: `SUPERPOINT_WEIGHTS=superpoint_v1.pth lemis prepare work/
keypoints.detector=examples.superpoint.detect`. Local maxima are taken once, where the authors go on among the rest.
"""

import os
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.errors import UsageError

CELL, BORDER, RADIUS = 8, 4, 4  # pixels: of a cell, without keypoints, around a maximum
THRESHOLD = 0.005  # of a keypoint's probability
WIDTHS = {"1": (1, 64), "2": (64, 64), "3": (64, 128), "4": (128, 128)}


class SuperPoint(nn.Module):
    """Eight convolutions and three poolings; a head of 64 pixels of a cell and "none"; a head of 256 numbers."""

    def __init__(self) -> None:
        super().__init__()
        for level, (inside, width) in WIDTHS.items():
            self.add_module(f"conv{level}a", nn.Conv2d(inside, width, 3, padding=1))
            self.add_module(f"conv{level}b", nn.Conv2d(width, width, 3, padding=1))
        self.convPa, self.convPb = nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, CELL**2 + 1, 1)
        self.convDa, self.convDb = nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) in [0, 1] -> probabilities (B, 1, H, W), unit descriptors (B, 256, H / 8, W / 8)."""
        for level in WIDTHS:
            x = x if level == "1" else F.max_pool2d(x, 2)
            x = F.relu(self.get_submodule(f"conv{level}b")(F.relu(self.get_submodule(f"conv{level}a")(x))))
        cells = self.convPb(F.relu(self.convPa(x))).softmax(1)[:, :-1]
        return F.pixel_shuffle(cells, CELL), F.normalize(self.convDb(F.relu(self.convDa(x))), dim=1)


@cache
def network(path: str) -> SuperPoint:
    """The network with the weights of a file; their names and shapes are those of the published ones."""
    if not os.path.isfile(path):
        raise UsageError(f"no weights of SuperPoint at {path!r}", allowed="a file", next="SUPERPOINT_WEIGHTS=FILE")
    built = SuperPoint().eval()
    built.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return built


@torch.no_grad()
def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) uint8 -> places (N, 2) as row and column, probabilities (N,) and descriptors (N, 256)."""
    rows, cols = image.shape
    x = F.pad(torch.from_numpy(image / 255).float()[None, None], (0, -cols % CELL, 0, -rows % CELL), "replicate")
    score, cells = network(os.environ.get("SUPERPOINT_WEIGHTS", "superpoint_v1.pth"))(x)
    score = score[..., :rows, :cols]
    largest = (score == F.max_pool2d(score, 2 * RADIUS + 1, 1, RADIUS)) & (score > THRESHOLD)
    inner = torch.zeros_like(largest)
    inner[..., BORDER : rows - BORDER, BORDER : cols - BORDER] = True
    row, col = (largest & inner)[0, 0].nonzero().unbind(1)
    where = torch.stack([(2 * col + 1) / x.shape[3] - 1, (2 * row + 1) / x.shape[2] - 1], 1)[None, None]
    descriptor = F.normalize(F.grid_sample(cells, where, align_corners=False)[0, :, 0].T, dim=1)
    return torch.stack([row, col], 1).numpy(), score[0, 0, row, col].numpy(), descriptor.numpy()
