"""(b) Views against four libraries that do the same chain: flips, rotation, scale and elastic, on image and label.

    python -m benchmarks views

Every library turns one batch (32 float32 images of 352 x 352 and their labels) into an augmented batch. Strengths
are those of the PCL protocol with every part always on: any rotation, scale 0.7 to 1.3, elastic with a smoothing
of 15.5 px and a few pixels of displacement; linear for images, nearest for labels, zero outside. All run in this
process, in interleaved rounds, with the allocator setting that ``lemis`` itself makes (decision 0002).
"""

from __future__ import annotations

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lemis.cli import keep_freed_memory
from lemis.contracts import Batch
from lemis.sampling import views
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial

TITLE = "(b) Views: flips, rotation, scale and elastic on 32 slices of 352 x 352 with labels"
THREADS, ROUNDS, SLICES, SIZE_PX = 2, 5, 32, 352
SIGMA_PX, ALPHA_PX = 15.5, 225.0  # middle of the protocol's ranges
DISPLACEMENT_PX = ALPHA_PX / np.sqrt(3) / (2 * SIGMA_PX * np.sqrt(np.pi))  # standard deviation, 2.4 px

Pass = Callable[[], Any]


def rows(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row a library; medians over interleaved rounds, and how many times faster Lemis is.

    Slices/s is wall time on two threads. CPU time of one slice on one thread says the same on a busy machine.
    """
    keep_freed_memory()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((SLICES, SIZE_PX, SIZE_PX), dtype=np.float32)
    label = rng.integers(0, 4, (SLICES, SIZE_PX, SIZE_PX), dtype=np.uint8)
    here = {name: needs is None or importlib.util.find_spec(needs) is not None for name, (needs, _) in PEERS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kornia's, about its own calls of PyTorch
        ways = {name: make(image, label) for name, (_, make) in PEERS.items() if here[name]}
        wall = _wall_seconds(ways, rounds)
        cpu = _cpu_seconds(ways, rounds)
    table = [_row(name, wall[name], cpu[name], wall["Lemis"], cpu["Lemis"]) for name in ways]
    return table + [{"library": f"{name}: not installed"} for name in PEERS if not here[name]]


def _row(name: str, wall: list[float], cpu: list[float], our_wall: list[float], our_cpu: list[float]) -> dict[str, Any]:
    median = statistics.median
    return {
        "library": name,
        "slices/s, 2 threads": f"{SLICES / median(wall):.0f}",
        "lowest to highest": f"{SLICES / max(wall):.0f} to {SLICES / min(wall):.0f}",
        "Lemis faster": f"{median(wall) / median(our_wall):.1f}x",
        "CPU ms/slice, 1 thread": f"{1000 * median(cpu) / SLICES:.2f}",
        "least to most": f"{1000 * min(cpu) / SLICES:.2f} to {1000 * max(cpu) / SLICES:.2f}",
        "Lemis cheaper": f"{median(cpu) / median(our_cpu):.1f}x",
    }


def _wall_seconds(ways: dict[str, list[Pass]], rounds: int) -> dict[str, list[float]]:
    """Each library in the way that is fastest for it on ``THREADS`` threads."""
    torch.set_num_threads(THREADS)
    for options in ways.values():
        for option in options:
            option()
    clock = time.perf_counter
    chosen = {
        name: min(options, key=lambda o: min(_seconds(o, clock), _seconds(o, clock))) for name, options in ways.items()
    }
    return _interleaved(chosen, rounds, clock)


def _cpu_seconds(ways: dict[str, list[Pass]], rounds: int) -> dict[str, list[float]]:
    """Slice after slice, or batch, on one thread: what the work itself costs, whoever else uses the machine."""
    torch.set_num_threads(1)
    serial = {name: options[0] for name, options in ways.items()}
    for one in serial.values():
        one()
    seconds = _interleaved(serial, rounds, time.process_time)
    torch.set_num_threads(THREADS)
    return seconds


def _interleaved(passes: dict[str, Pass], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, one in passes.items():
            seconds[name].append(_seconds(one, clock))
    return seconds


def _seconds(one: Pass, clock: Callable[[], float]) -> float:
    start = clock()
    one()
    return clock() - start


def _serial_and_pooled(one: Callable[[int], Any]) -> list[Pass]:
    """Slice after slice with the library's own threads, or ``THREADS`` workers with one thread each."""
    pool = ThreadPoolExecutor(THREADS, initializer=lambda: torch.set_num_threads(1))
    return [lambda: [one(k) for k in range(SLICES)], lambda: list(pool.map(one, range(SLICES)))]


def lemis(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    """As a method calls it, parameters drawn anew, labels int64 in and out; or half the batch to each worker."""
    spatial = Spatial(p_spatial=1.0, elastic_sigma_px=(SIGMA_PX, SIGMA_PX), elastic_alpha_px=(ALPHA_PX, ALPHA_PX))
    zero = torch.zeros(SLICES, dtype=torch.int64)
    images, labels = torch.from_numpy(image)[:, None], torch.from_numpy(label).long()
    batch = Batch(images, zero, zero, zero, zero.float(), zero, label=labels)
    parts = [Batch(*(None if v is None else v[k::THREADS] for v in batch)) for k in range(THREADS)]
    steps = iter(range(10**9))

    def one(part: Batch) -> Any:
        return views.random_view(spatial, part, SIZE_PX, Rows(0, next(steps), "cpu"))

    pool = ThreadPoolExecutor(THREADS, initializer=lambda: torch.set_num_threads(1))
    return [lambda: one(batch), lambda: list(pool.map(one, parts))]


def batchgeneratorsv2(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    # It scales each field to a largest displacement; of this many correlated normal numbers that is about 4 sigma.
    chain = ComposeTransforms(
        [
            MirrorTransform(allowed_axes=(0, 1)),
            SpatialTransform(
                (SIZE_PX, SIZE_PX),
                0,
                False,
                p_elastic_deform=1,
                elastic_deform_scale=(SIGMA_PX / SIZE_PX, SIGMA_PX / SIZE_PX),
                elastic_deform_magnitude=(4 * DISPLACEMENT_PX, 4 * DISPLACEMENT_PX),
                p_rotation=1,
                rotation=(0, 2 * np.pi),
                p_scaling=1,
                scaling=(0.7, 1.3),
                p_synchronize_scaling_across_axes=1,
                mode_seg="nearest",
            ),
        ]
    )
    images, labels = torch.from_numpy(image)[:, None], torch.from_numpy(label)[:, None]
    return _serial_and_pooled(lambda k: chain(image=images[k], segmentation=labels[k]))


def albumentations(image: np.ndarray, label: np.ndarray, approximate: bool = False) -> list[Pass]:
    import albumentations as A
    import cv2

    # Each step resamples anew, which is how the library works. uint8 labels, no conversion to tensors.
    chain = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(scale=(0.7, 1.3), rotate=(-180, 180), p=1),
            A.ElasticTransform(
                alpha=ALPHA_PX, sigma=SIGMA_PX, approximate=approximate, noise_distribution="uniform", p=1
            ),
        ]
    )
    images = [np.ascontiguousarray(one) for one in image]

    def one(k: int) -> Any:
        return chain(image=images[k], mask=label[k])

    def all_threads() -> Any:
        cv2.setNumThreads(torch.get_num_threads())
        return serial()

    def one_thread_each() -> Any:
        cv2.setNumThreads(1)
        return pooled()

    serial, pooled = _serial_and_pooled(one)
    return [all_threads, one_thread_each]


def albumentations_approximate(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    # Its ``approximate`` cuts the Gaussian to 17 pixels, which is another, rougher field than sigma 15.5 gives.
    return albumentations(image, label, approximate=True)


def kornia(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    import kornia.augmentation as K

    # Batched. A kernel of 4 sigma: at 6 sigma it is slower still. Displacement is in units of half the image.
    width = 4 * int(SIGMA_PX) + 1
    strength = ALPHA_PX / (SIZE_PX / 2)
    chain = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        K.RandomAffine(degrees=180, scale=(0.7, 1.3), p=1),
        K.RandomElasticTransform((width, width), (SIGMA_PX, SIGMA_PX), (strength, strength), p=1),
        data_keys=["input", "mask"],
    )
    images, labels = torch.from_numpy(image)[:, None], torch.from_numpy(label)[:, None].float()
    return [lambda: chain(images, labels)]


def monai(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    from monai.data import set_track_meta
    from monai.transforms import Compose, Rand2DElasticd, RandFlipd

    # One resampling, displacement on a coarse grid as ours; without meta data, since that is faster.
    set_track_meta(False)
    both = ("image", "label")
    chain = Compose(
        [
            RandFlipd(both, 0.5, 0),
            RandFlipd(both, 0.5, 1),
            Rand2DElasticd(
                both,
                spacing=2 * SIGMA_PX,
                magnitude_range=(DISPLACEMENT_PX, DISPLACEMENT_PX),
                prob=1,
                rotate_range=np.pi,
                scale_range=0.3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
        ]
    )
    images, labels = torch.from_numpy(image)[:, None], torch.from_numpy(label)[:, None]
    return _serial_and_pooled(lambda k: chain({"image": images[k], "label": labels[k]}))


PEERS: dict[str, tuple[str | None, Callable[[np.ndarray, np.ndarray], list[Pass]]]] = {
    "Lemis": (None, lemis),
    "batchgeneratorsv2": ("batchgeneratorsv2", batchgeneratorsv2),
    "albumentations": ("albumentations", albumentations),
    "albumentations, approximate elastic": ("albumentations", albumentations_approximate),
    "kornia": ("kornia", kornia),
    "MONAI": ("monai", monai),
}
