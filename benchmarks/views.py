"""Views against four libraries that do the same chain: flips, rotation, scale and elastic on 32 slices with labels.

    python benchmarks/views.py        # prints a Markdown table

Every row is a function from one batch (32 float32 images of 352 x 352 and their labels) to an augmented batch. The
strengths are those of the PCL protocol, with every part always on: rotation by any angle, scale 0.7 to 1.3, elastic
with a smoothing of 15.5 px and a few pixels of displacement; linear for images, nearest for labels, zero outside. All
run in one process on ``THREADS`` threads, in interleaved rounds, so that they share whatever else the machine does.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lemis.contracts import Batch
from lemis.data import views
from lemis.data.draw import Rows

THREADS, ROUNDS, SLICES, SIZE_PX = 2, 5, 32, 352
SIGMA_PX, ALPHA_PX = (
    15.5,
    225.0,
)  # middle of the protocol's ranges; the displacement's standard deviation is 2.4 px
DISPLACEMENT_PX = ALPHA_PX / np.sqrt(3) / (2 * SIGMA_PX * np.sqrt(np.pi))

Pass = Callable[[], Any]


def rows(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row a library: ``name``, ``slices_per_s`` (median), ``low``, ``high``, ``ratio`` (ours / theirs), ``note``.

    A library that is not installed has ``slices_per_s`` None and says so in ``note``.
    """
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((SLICES, SIZE_PX, SIZE_PX), dtype=np.float32)
    label = rng.integers(0, 4, (SLICES, SIZE_PX, SIZE_PX), dtype=np.uint8)
    passes: dict[str, list[Pass]] = {}
    missing: list[str] = []
    for name, (module, make) in PEERS.items():
        if module is None or importlib.util.find_spec(module):
            passes[name] = make(image, label)
        else:
            missing.append(name)
    chosen = {name: _fastest(options) for name, options in passes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, one in chosen.items():
            seconds[name].append(_seconds(one))
    ours = statistics.median(seconds["Lemis"])
    table = [
        {
            "name": name,
            "slices_per_s": SLICES / statistics.median(times),
            "low": SLICES / max(times),
            "high": SLICES / min(times),
            "ratio": statistics.median(times) / ours,
            "note": "",
        }
        for name, times in seconds.items()
    ]
    absent = {"slices_per_s": None, "low": None, "high": None, "ratio": None, "note": "not installed"}
    return table + [{"name": name, **absent} for name in missing]


def lemis(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    spatial = views.Spatial(
        p_spatial=1.0, elastic_sigma_px=(SIGMA_PX, SIGMA_PX), elastic_alpha_px=(ALPHA_PX, ALPHA_PX)
    )
    zero = torch.zeros(SLICES, dtype=torch.int64)
    batch = Batch(
        torch.from_numpy(image)[:, None],
        zero,
        zero,
        zero,
        zero.float(),
        zero,
        label=torch.from_numpy(label).long(),
    )
    steps = iter(range(10**9))
    return [lambda: views.random_view(spatial, batch, SIZE_PX, Rows(0, next(steps), "cpu"))]


def batchgeneratorsv2(image: np.ndarray, label: np.ndarray) -> list[Pass]:
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    # It normalises each field to a largest displacement; of 124,000 correlated Gaussian numbers that is about 4 sigma.
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

    # Three resamplings and not one, which is how the library works. uint8 labels, and no conversion to tensors.
    chain = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(scale=(0.7, 1.3), rotate=(-180, 180), p=1),
            A.ElasticTransform(alpha=ALPHA_PX, sigma=SIGMA_PX, approximate=approximate, p=1),
        ]
    )
    images = [np.ascontiguousarray(one) for one in image]

    def one(k: int) -> Any:
        return chain(image=images[k], mask=label[k])

    def with_cv2_threads(threads: int, run: Pass) -> Pass:
        def timed() -> Any:
            cv2.setNumThreads(threads)
            return run()

        return timed

    serial, pooled = _serial_and_pooled(one)
    return [with_cv2_threads(THREADS, serial), with_cv2_threads(1, pooled)]


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

    # One resampling, displacement on a coarse grid as ours; meta data switched off, which it is faster without.
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


def _serial_and_pooled(one: Callable[[int], Any]) -> list[Pass]:
    """Slice after slice with the library's own threads, or ``THREADS`` workers with one thread each."""
    pool = ThreadPoolExecutor(THREADS, initializer=lambda: torch.set_num_threads(1))
    return [lambda: [one(k) for k in range(SLICES)], lambda: list(pool.map(one, range(SLICES)))]


def _fastest(options: list[Pass]) -> Pass:
    """The way of running a library that is fastest here, after warming each up."""
    for option in options:
        option()
    return min(options, key=lambda option: min(_seconds(option), _seconds(option)))


def _seconds(one: Pass) -> float:
    start = time.perf_counter()
    one()
    return time.perf_counter() - start


def _print(table: list[dict[str, Any]]) -> None:
    print(
        f"\n{SLICES} slices of {SIZE_PX} x {SIZE_PX} with labels, {THREADS} threads, median of {ROUNDS} rounds\n"
    )
    print("| library | slices/s | lowest to highest | Lemis is faster by |\n|---|---|---|---|")
    for row in table:
        if row["slices_per_s"] is None:
            print(f"| {row['name']} | {row['note']} | | |")
        else:
            spread = f"{row['low']:.0f} to {row['high']:.0f}"
            print(f"| {row['name']} | {row['slices_per_s']:.0f} | {spread} | {row['ratio']:.1f}x |")


if __name__ == "__main__":
    _print(rows())
