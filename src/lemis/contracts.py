"""What the parts of Lemis promise each other. Each promise is one screen; nothing here computes more than the
other promises make of it.

Axis letters: B batch, C channels, d = 2 or 3 spatial dimensions, ``*space`` the spatial axes
((row, col) in 2D, (slice, row, col) in 3D). Coordinates are pixel indices in that order, pixel centres at integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


class Batch(NamedTuple):
    """Prepared slices or patches, already on the device. Immutable; a NamedTuple so that DDP and Fabric can walk it."""

    image: Tensor  # (B, C, *space) float, prepared intensities
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which slice or patch of the data set; not tuple.index
    scan: Tensor  # (B,) int64
    subject: Tensor  # (B,) int64
    position: Tensor  # (B,) float in (0, 1], (slice index + 1) / number of slices of the scan
    spacing_mm: Tensor  # (B, d) float
    inside: Tensor | None = None  # (B, 1, *space) bool, False where a slice was padded to the batch's shape
    label: Tensor | None = None  # (B, *space) int64
    keypoints: Tensor | None = None  # (B, K, d) float, pixels of ``image``; NaN rows are no keypoints
    descriptors: Tensor | None = None  # (B, K, D) float, of the keypoints; 0 where there is none
    neighbour: Batch | None = None  # one neighbouring slice of each slice, row by row
    unlabelled: Batch | None = None  # of scans whose labels are not read, a row for each row; ``label`` of a teacher


class Elastic(NamedTuple):
    """A smooth random displacement: white noise on a coarse grid, blurred by a Gaussian; exact at any real point.

    e(y)_k = sum_c  noise[k, c] * prod_a exp(-(y_a - origin_a - c_a * step)^2 / (2 sigma^2))
    """

    noise: Tensor  # (B, d, *coarse) float, amplitude already applied, in source pixels before the affine
    sigma_px: Tensor  # (B,) float
    step_px: float
    origin_px: Tensor  # (d,) float, view coordinates of coarse grid point 0


class Geometry(NamedTuple):
    """Where each pixel y of a view was read from: x = A [y; 1] + A_linear e(y), in source pixels."""

    to_source: Tensor  # (B, d, d + 1) float: A
    shape: tuple[int, ...]  # the view's *out
    elastic: Elastic | None = None  # e; zero where None


class View(NamedTuple):
    """An image read through a geometry. Every correspondence between two views follows from ``geometry`` alone."""

    image: Tensor  # (B, C, *out)
    geometry: Geometry
    label: Tensor | None = None  # (B, *out) int64
    inside: Tensor | None = None  # (B, 1, *out) bool, real (not padded, not outside) pixels of the source
    keypoints: Tensor | None = (
        None  # (B, K, d) float, pixels of ``image``, row by row those of the batch; NaN: not seen
    )


How = TypeVar("How")


class Views(ABC, Generic[How]):
    """What a method sees of a batch: built from its settings; drawn for the whole batch, then applied."""

    def __init__(self, settings: How) -> None:
        self.settings = settings

    @abstractmethod
    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """Views by name, each row by row of the batch."""


class Draw(Protocol):
    """Random numbers for the rows of this process: rows of one global draw, whatever the number of processes."""

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape) float32 in [low, high) on the device."""

    def normal(self, rows: int, *shape: int) -> Tensor:
        """(rows, *shape) float32, mean 0, standard deviation 1, on the device."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a method's batches are drawn.

    ``slices``: ``batch_size`` slices, shuffled over all scans.
    ``groups``: up to ``per_scan`` slices of one scan, then of a scan of another subject, until the batch is full;
    without replacement, slices of one scan side by side in the batch. With ``scans_per_batch`` it is full when it has
    so many scans: then ``batch_size`` is the most, and batches differ in size where scans are short.
    ``neighbours``: as ``slices``, and with each slice one of its scan at most ``reach`` of the scan's slices away, and
    at most ``reach_slices`` slices (but one slice at least is in reach; a scan of one slice is its own neighbour).

    Where the network is three-dimensional, the same words are of patches: ``patch_px`` (slices, rows, cols) is the
    shape of the views that will be cut, and ``image`` is the region around a random place that such a view can reach.
    In a share ``foreground_share`` of a batch's rows the place is a labelled voxel, all structures of a scan alike.

    ``last``: the rows of an epoch that do not fill a batch are dropped, as a contrast over fewer rows is another loss;
    or kept as a smaller batch, as in fine-tuning. ``groups`` have no such rows: each batch is filled anew.
    ``in_pairs``: rows 2j and 2j + 1 of a batch belong together, so that several processes must not part them.
    """

    kind: Literal["slices", "groups", "neighbours"]
    batch_size: int
    per_scan: int = 16
    scans_per_batch: int | None = None
    reach: float = 0.05
    reach_slices: int | None = None
    patch_px: tuple[int, ...] | None = None
    foreground_share: float = 0.0
    last: Literal["drop", "keep"] = "drop"
    in_pairs: bool = False


class Outcome(NamedTuple):
    """What one forward pass of a method (or of fine-tuning) says."""

    losses: dict[str, Tensor]  # named terms; their plain sum is minimised (weights applied inside)
    embeddings: dict[str, Tensor] = {}  # noqa: RUF012  (of a NamedTuple, never changed)  detached (N, D) vectors that the loop watches for collapse
    uninformed: dict[str, float] = {}  # noqa: RUF012  per loss term, its value when the network knows nothing


class Segmented(NamedTuple):
    """What a method of ``single/`` makes of N images, each without a label and on its own.

    Such a method is a function ``segment(images, settings, seeds)`` of images (N, C, H, W) in [0, 1] and N seeds; what
    it gives for an image does not depend on the others.
    """

    labels: Tensor  # (N, H, W) int64; numbers mean nothing
    iterations: tuple[int, ...]  # of training, of the run that gave the labels
    restarts: tuple[int, ...]  # because all pixels had got one label


class Backbone(nn.Module, ABC):
    """A segmentation network cut into an encoder and a decoder."""

    dims: int  # 2 or 3
    channels: tuple[int, ...]  # per map of ``encode``, finest first
    strides: tuple[int, ...]  # along all axes; where they differ, along the coarsest
    decoder_channels: tuple[int, ...]  # per decoder block, deepest first
    decoder_strides: tuple[int, ...]
    head: nn.Module  # the map after the last decoder block -> logits (B, classes, *space)

    @property
    def axis_strides(self) -> tuple[tuple[int, ...], ...]:
        """Of each map of ``encode`` the stride along each axis: that of ``strides``, unless a network says its own."""
        return tuple((stride,) * self.dims for stride in self.strides)

    @property
    def decoder_axis_strides(self) -> tuple[tuple[int, ...], ...]:
        """Likewise after each decoder block, deepest first."""
        return tuple((stride,) * self.dims for stride in self.decoder_strides)

    @property
    def divisors(self) -> tuple[int, ...]:
        """What the sides of an image are to be multiples of, along each axis."""
        return tuple(max(along) for along in zip(*self.axis_strides, strict=True))

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *space) -> maps, finest first; the last one is the bottleneck."""

    @abstractmethod
    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Maps of ``encode`` -> the map after ``depth`` decoder blocks (all of them by default)."""

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Maps of ``encode`` -> the map after each decoder block, deepest first, for losses on all of them.

        By default ``decode`` to every depth, which runs the first blocks several times; write it where that is slow.
        """
        for blocks, _ in enumerate(self.decoder_channels, start=1):
            yield self.decode(maps, blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *space) -> logits (B, classes, *space): encoder, decoder, head, as fine-tuning goes through them."""
        logits: Tensor = self.head(self.decode(self.encode(x)))
        return logits

    @abstractmethod
    def part_of(self, parameter_name: str) -> str:
        """Which part a key of ``state_dict`` belongs to: ``encoder``, ``decoder 1`` ... ``decoder n``, or ``head``."""


class KeypointBackbone(Backbone, ABC):
    """A backbone that also looks at keypoints. Where it is given none, it finds them in the image itself."""

    keypoint_channels: tuple[int, ...]  # per keypoint layer, finest first; empty where no layer is used
    most_keypoints: int  # of an image that are used, the first ones

    @abstractmethod
    def find(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> keypoints (B, K, 2), strongest first, NaN rows where an image has fewer."""

    @abstractmethod
    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Maps as of ``encode``, and the feature (B, K, channels) of every keypoint at every keypoint layer.

        Args:
            x: (B, C, H, W).
            keypoints: (B, K, 2) in pixels of ``x``, NaN rows are none; None: found in ``x``.
        """

    def encode(self, x: Tensor, keypoints: Tensor | None = None) -> list[Tensor]:
        """Maps, finest first; the last one is the bottleneck. Arguments as of ``encode_keypoints``."""
        return self.encode_keypoints(x, keypoints)[0]

    def forward(self, x: Tensor, keypoints: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> logits (B, classes, H, W); arguments as of ``encode_keypoints``."""
        logits: Tensor = self.head(self.decode(self.encode(x, keypoints)))
        return logits


class Trained(nn.Module, ABC):
    """What the loop trains, and tells how far it is."""

    def resting(self) -> Iterable[nn.Parameter]:
        """What the step that follows leaves as it is. It has a gradient of 0 all the same, for several processes."""
        return ()

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; ``progress`` in (0, 1]."""

    def after_epoch(self, progress: float) -> None:
        """Called after each epoch."""


class Method(Trained):
    """A way to pre-train: one file, built from (backbone, settings). It never sees the optimiser, the device,
    mixed precision, the logger or the number of processes."""

    sampling: Sampling
    trains: tuple[str, ...]  # parts of the backbone that get a gradient and are worth transferring

    @abstractmethod
    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """One step: draw views, embed, compare."""


class Labelled(Protocol):
    """What fine-tuning does with labels, for a way that also has scans without."""

    @property
    def backbone(self) -> Backbone:
        """The network in training."""

    def another(self) -> Backbone:
        """A second network, begun as the first one was, or from another pre-training: and with other random weights."""

    def __call__(self, batch: Batch, rng: Draw) -> Outcome:
        """Fine-tuning on the labelled rows alone."""

    def view(self, batch: Batch, rng: Draw) -> View:
        """As fine-tuning shows a batch to its network: geometry, intensities, keypoints."""

    def weak(self, batch: Batch, rng: Draw) -> View:
        """Its geometry alone."""

    def strong(self, view: View, rng: Draw) -> View:
        """What ``view`` does to a weak view after its geometry: intensities, and which keypoints are given."""

    def logits(self, *views: View, network: Backbone | None = None) -> tuple[Tensor, ...]:
        """(B, classes, *space) of each view, all of them in one pass; of ``backbone`` where no network is named."""

    def losses(self, logits: Tensor, label: Tensor, counts: Tensor | None = None) -> dict[str, Tensor]:
        """Its loss terms; pixels count as ``counts`` (B, *space) says, all alike by default."""


class Semi(Trained):
    """A way to fine-tune with unlabelled scans too: one file, built from (labelled, settings).

    A file that asks ``labelled`` for ``another`` network says ``NETWORKS = 2`` beside its ``DIMS``; one whose
    unlabelled rows are to have label maps of their scans by a teacher, as ``label``, says ``PSEUDO_LABELS = True``.
    """

    labelled: Labelled

    @property
    def predicts(self) -> Backbone:
        """The network that is scored, kept and used; the one in training unless a file says otherwise."""
        return self.labelled.backbone

    @abstractmethod
    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """One step on a labelled batch with its ``unlabelled`` rows. Draw what is for the labelled rows first."""


class Auxiliary(nn.Module, ABC):
    """An extra loss of fine-tuning: one file, built from (backbone, settings, num_classes). Nothing of it is kept: at
    inference the network has neither its parameters nor its cost."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], label: Tensor, logits: Tensor, rng: Draw) -> Outcome:
        """Maps of ``encode``, label (B, *space) and logits (B, classes, *space) -> terms with their weights applied.

        Where there is nothing to compare, such as in a batch without foreground, the terms are 0 and have a gradient.
        """


class Pool(NamedTuple):
    """The N subjects of a data set when some of them are to be labelled next, in the order of their names.

    A way to choose is a function ``suggest(pool, number, settings, seed)`` of it, which gives ``number`` picks, or all
    unlabelled subjects where there are fewer. A file that looks at ``entropy`` says ``NETWORKS = 1``, and at
    ``disagreement`` ``NETWORKS = 2``; one whose list for n + 1 goes on with that for n says ``NESTED = True``.
    """

    names: tuple[str, ...]  # sorted
    embedding: NDArray[np.float64]  # (N, D), of one scale: plain distances between rows mean something
    labelled: NDArray[np.bool_]  # (N,); a subject with one labelled scan is labelled
    structures: tuple[str, ...] = ()  # of the label maps, without background
    networks: int = 0  # that have segmented the unlabelled subjects, each by itself
    # (N, structures) in [0, 1], 1 - Dice of two of these networks, the mean over all pairs; NaN of labelled subjects
    disagreement: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None  # (N,) nats, of their mean, over its foreground; NaN as above


class Pick(NamedTuple):
    """A subject that is worth labelling next."""

    subject: int  # row of the pool
    why: str  # in plain words, as after a colon
    score: float  # what it was chosen by; its meaning is the way's own
