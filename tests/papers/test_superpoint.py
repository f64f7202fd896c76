"""SuperPoint (DeTone et al., CVPRW 2018) of ``examples/``, with random weights in place of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemis.errors import UsageError
from lemis.preparation.keypoints import Settings, find, load_detector

NAME = "examples.superpoint.detect"
# Names and shapes of the published weights (inputs, outputs, side).
PUBLISHED = {
    "conv1a": (1, 64, 3), "conv1b": (64, 64, 3), "conv2a": (64, 64, 3), "conv2b": (64, 64, 3), "conv3a": (64, 128, 3),
    "conv3b": (128, 128, 3), "conv4a": (128, 128, 3), "conv4b": (128, 128, 3), "convPa": (128, 256, 3),
    "convPb": (256, 65, 1), "convDa": (128, 256, 3), "convDb": (256, 256, 1),
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, (i, o, side) in PUBLISHED.items():
        scale = (2 / (i * side**2)) ** 0.5 * (4 if name == "convPb" else 1)
        made[f"{name}.weight"] = torch.randn(o, i, side, side, generator=generator) * scale
        made[f"{name}.bias"] = torch.randn(o, generator=generator) * 0.1
    torch.save(made, tmp_path / "superpoint_v1.pth")
    monkeypatch.setenv("SUPERPOINT_WEIGHTS", str(tmp_path / "superpoint_v1.pth"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return made


def test_it_has_the_published_number_of_weights(weights: dict[str, torch.Tensor]) -> None:
    assert sum(one.numel() for one in weights.values()) == 1_300_865
    from examples.superpoint import SuperPoint

    SuperPoint().load_state_dict(weights)


def slow(image: np.ndarray, w: dict[str, torch.Tensor]) -> dict[tuple[int, int], tuple[float, torch.Tensor]]:
    """Probability and descriptor of each local maximum, pixel by pixel and cell by cell; sides are multiples of 8."""

    def convolve(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    x = torch.from_numpy(image.astype(np.float32) / 255)[None, None]
    for number in (1, 2, 3, 4):
        x = convolve(convolve(x, f"conv{number}a").relu(), f"conv{number}b").relu()
        if number < 4:
            x = F.max_pool2d(x, 2)
    logits, cells = (convolve(convolve(x, f"conv{head}a").relu(), f"conv{head}b")[0] for head in "PD")
    rows, cols = image.shape
    score = np.zeros((rows, cols))
    for r in range(rows):
        for c in range(cols):
            score[r, c] = float(logits[:, r // 8, c // 8].softmax(0)[r % 8 * 8 + c % 8])
    found = {}
    for r in range(4, rows - 4):
        for c in range(4, cols - 4):
            if score[r, c] > 0.005 and score[r, c] == score[max(0, r - 4) : r + 5, max(0, c - 4) : c + 5].max():
                y, x_ = (r + 0.5) / 8 - 0.5, (c + 0.5) / 8 - 0.5  # in cells
                total = torch.zeros(256)
                for p in (int(np.floor(y)), int(np.floor(y)) + 1):
                    for q in (int(np.floor(x_)), int(np.floor(x_)) + 1):
                        if 0 <= p < rows // 8 and 0 <= q < cols // 8:
                            total += (1 - abs(y - p)) * (1 - abs(x_ - q)) * F.normalize(cells[:, p, q], dim=0)
                found[r, c] = float(score[r, c]), F.normalize(total, dim=0)
    return found


def test_it_finds_what_the_slow_way_finds(weights: dict[str, torch.Tensor]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    place, response, descriptor = load_detector(NAME)(image)
    expected = slow(image, weights)
    assert len(expected) > 5
    assert {(int(r), int(c)) for r, c in place} == expected.keys()
    for (r, c), strength, one in zip(place.tolist(), response, descriptor, strict=True):
        assert strength == pytest.approx(expected[r, c][0], rel=1e-4)
        np.testing.assert_allclose(one, expected[r, c][1].numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(41, 63), (8, 8), (5, 30)])
def test_slices_of_any_size(shape: tuple[int, int], weights: Any) -> None:
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float16)
    found = find(image, Settings(detector=NAME, most=7))
    assert len(found.place) <= 7
    assert found.descriptor.shape[1] == 256
    assert found.descriptor.dtype == np.float16


def test_without_weights_it_says_so(weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOINT_WEIGHTS", "nowhere.pth")
    from examples.superpoint import detect

    with pytest.raises(UsageError, match="no weights of SuperPoint at 'nowhere"):
        detect(np.zeros((16, 16), np.uint8))
