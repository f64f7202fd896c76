"""(i) Prediction of a volume by tiles: Lemis, MONAI and nnU-Net with one network, time and memory, in fresh processes.

    python -m benchmarks prediction

From a prepared volume (float16, memory-mapped) to the most probable class of each of its voxels: everybody reads the
same file, predicts tiles of one size that overlap by half and are weighted by a Gaussian, one tile at a time, no mirror
images, and takes the largest of the classes. Lemis blends probabilities and so, in the first of its rows, does MONAI:
these two compute the same. In the other rows logits are blended, which saves the softmax; nnU-Net adds them up in
float16. nnU-Net's predictor (``predict_sliding_window_return_logits``) is given the network by hand, without its plans,
preprocessing and export; the classes are its logits' ``argmax``, as in its export. The peers need the volume as a
float32 tensor, which is part of their memory.

Then a whole export by Lemis: a volume of 600 x 512 x 512 and 9 classes by a network of one 1 x 1 x 1 convolution, at
its own resolution, by ``predict_scan``, with its label map written as ``.nii.gz``.

Memory is the most that the process held at once, less what it held before it opened the volume: the maps of one forward
pass (0.4 GB here, which everybody needs), and what the way keeps of the volume. The latter grows with the number of
slices but for Lemis, so that the ratio does too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.fresh import measured
from lemis.cli import keep_freed_memory
from lemis.preparation.settings import Settings

ROUNDS, THREADS = 3, 1
CLASSES, BASE_WIDTH = 9, 8
SIZE, PATCH_PX = (512, 256, 256), (64, 128, 128)
LARGE, LARGE_PATCH_PX = (600, 512, 512), (64, 128, 128)
TITLE = (
    f"(i) a volume of {' x '.join(map(str, SIZE))} by tiles of {' x '.join(map(str, PATCH_PX))}, {CLASSES} classes, "
    f"3D U-Net of base width {BASE_WIDTH}, {THREADS} thread"
)

Map = np.ndarray


def rows(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row a way, medians over interleaved rounds; then the export of a large volume."""
    here = {name: needs is None or importlib.util.find_spec(needs) is not None for name, (needs, _) in WAYS.items()}
    with tempfile.TemporaryDirectory() as folder:
        _volume(SIZE, Path(folder) / "volume.npy")
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if here[name]}
        for _ in range(rounds):
            for name, of in runs.items():
                of.append(measured("prediction", name, folder))
        maps = {name: np.load(Path(folder) / f"{name}.npy") for name in runs}
        same = {name: float(np.mean(found == maps["Lemis"])) for name, found in maps.items()}
        table = [_row(name, of, runs["Lemis"], same[name]) for name, of in runs.items()]
        table += [{"way": f"{name}: not installed"} for name in WAYS if not here[name]]
        _volume(LARGE, Path(folder) / "volume.npy")
        return [*table, _export_row(measured("prediction", "export", folder))]


def _row(name: str, runs: list[dict[str, float]], ours: list[dict[str, float]], same: float) -> dict[str, Any]:
    def ratio(key: str) -> str:
        ratios = [one[key] / our[key] for one, our in zip(runs, ours, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    def median(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    return {
        "way": name,
        "seconds": f"{median('seconds'):.1f}",
        "seconds of the core": f"{median('core_seconds'):.1f}",
        "of the core, over Lemis": ratio("core_seconds"),
        "memory over the start, MB": f"{median('over_start') / 1e6:.0f}",
        "memory over Lemis": ratio("over_start"),
        "process, MB": f"{median('peak') / 1e6:.0f}",
        "voxels labelled as by Lemis": f"{100 * same:.3f} %",
    }


def _export_row(run: dict[str, float]) -> dict[str, Any]:
    return {
        "way": f"Lemis, export of {' x '.join(map(str, LARGE))}",
        "seconds": f"{run['seconds']:.1f}",
        "seconds of the core": f"{run['core_seconds']:.1f}",
        "memory over the start, MB": f"{run['over_start'] / 1e6:.0f}",
        "process, MB": f"{run['peak'] / 1e6:.0f}",
    }


def _volume(size: tuple[int, int, int], path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.lib.format.open_memmap(path, "w+", np.float16, (size[0], 1, *size[1:]))
    for number in range(size[0]):
        image[number, 0] = rng.standard_normal(size[1:], np.float32)


# ------------------------------------------------------------------------------------------- in the fresh processes


def _network() -> Any:
    import torch

    from lemis.backbones import unet3d

    torch.manual_seed(0)
    settings = unet3d.Settings(base_width=BASE_WIDTH)
    return unet3d.Backbone(settings, in_channels=1, num_classes=CLASSES).eval()


def _lemis(network: Any, file: Path) -> Map:
    import torch

    from lemis.prediction import tiles

    return tiles.classes([network], np.load(file, mmap_mode="r"), PATCH_PX, tiles.Settings(), torch.device("cpu"))


def _monai(network: Any, file: Path, softmax: bool = True, buffer_steps: int | None = None) -> Map:
    import torch
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        found = sliding_window_inference(
            _float32(file)[None],
            PATCH_PX,
            1,
            (lambda x: network(x).softmax(1)) if softmax else network,
            overlap=0.5,
            mode="gaussian",
            buffer_steps=buffer_steps,
            buffer_dim=0,
        )
        assert isinstance(found, torch.Tensor)
        return found[0].argmax(0).to(torch.uint8).numpy()


def _nnunet(network: Any, file: Path) -> Map:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(io.StringIO()):  # it says that it does not work on a CUDA device
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.network = network
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH_PX)
    with torch.inference_mode():
        logits = predictor.predict_sliding_window_return_logits(_float32(file))
        assert isinstance(logits, torch.Tensor)
        return logits.argmax(0).to(torch.uint8).numpy()


def _float32(file: Path) -> Any:
    import torch

    return torch.from_numpy(np.load(file, mmap_mode="r")[:, 0].astype(np.float32))[None]


WAYS: dict[str, tuple[str | None, Callable[[Any, Path], Map]]] = {
    "Lemis": (None, _lemis),
    "MONAI": ("monai", _monai),
    "MONAI, logits": ("monai", lambda network, file: _monai(network, file, softmax=False)),
    "MONAI, logits, buffered": ("monai", lambda network, file: _monai(network, file, False, buffer_steps=1)),
    "nnU-Net": ("nnunetv2", _nnunet),
}


def _pointwise() -> Any:
    import torch
    from torch import nn

    class Pointwise(nn.Module):
        strides = (1,)

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv3d(1, CLASSES, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x)

    torch.manual_seed(0)
    return Pointwise().eval()


def _export(network: Any, file: Path) -> Map:
    import torch

    from lemis.formats import volume
    from lemis.formats.source import Source
    from lemis.prediction.inference import predict_scan
    from lemis.preparation import preprocess

    image = np.load(file, mmap_mode="r")
    shape = (LARGE[2], LARGE[1], LARGE[0])
    scan = file.with_name("scan.nii.gz")
    volume.write_volume(np.zeros((*shape[:2], 1), np.uint8), np.eye(4), scan)
    header = volume.read_header(scan)
    source = Source(**{**vars(header), "shape": shape})
    source.header.set_data_shape(shape)
    facts = preprocess.describe(
        id="large", subject="large", images=("large.nii.gz",), label=None, shape=shape, spacing_mm=(0.8, 0.8, 0.8),
        slice_axis=2, settings=Settings(spacing_mm="native"),
    )  # fmt: skip
    classes = predict_scan([network], image, facts, torch.device("cpu"), LARGE_PATCH_PX)
    volume.write_labels(classes, source, file.with_name("label.nii.gz"))
    return classes


def _one(name: str, folder: Path) -> dict[str, float]:
    import torch

    torch.set_num_threads(THREADS)
    network, way = (_pointwise(), _export) if name == "export" else (_network(), WAYS[name][1])
    modules = {"MONAI": "monai.inferers", "nnU-Net": "nnunetv2.inference.predict_from_raw_data"}
    importlib.import_module(modules.get(name.split(",")[0], "lemis.prediction.inference"))
    start = _resident_bytes()
    begin, core = time.perf_counter(), time.process_time()
    found = way(network, folder / "volume.npy")
    seconds, core_seconds = time.perf_counter() - begin, time.process_time() - core
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(folder / f"{name}.npy", found)
    return {"seconds": seconds, "core_seconds": core_seconds, "peak": peak, "over_start": peak - start}


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    keep_freed_memory()  # as the command line does
    print(json.dumps(_one(sys.argv[1], Path(sys.argv[2]))))
