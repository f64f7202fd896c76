"""What a MONAI bundle of ours carries as ``scripts/scans.py``: steps of preparation and prediction that MONAI has not.

Never imported by Lemis itself: ``standalone.collect`` writes the classes that a bundle needs into its file, with the
functions of Lemis that they call, so that both programs compute with the same lines. Transforms are on dictionaries, as
MONAI's, with one ``MetaTensor`` for each key; those of geometry are inverted by MONAI's ``Invertd``.

Axis letters: C channels, or K classes on the way back; n slices, H rows, W columns; X, Y, Z the axes of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from scipy import ndimage
from torch import Tensor

from lemis.formats import directions, grids
from lemis.prediction import components, inference, mirroring, padding
from lemis.preparation import crops, resampling


class Geometry(MapTransform, InvertibleTransform):
    """Something that moves voxels, and moves maps of classes back."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(C, *space) of each key -> (C, *space) on another grid."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            array, step, extra = self.moved(image)
            moved = MetaTensor(array, meta=image.meta, applied_operations=image.applied_operations)
            extra = {**extra, "affine": torch.as_tensor(image.affine, dtype=torch.float64)}
            out[key] = self.push_transform(
                moved, orig_size=tuple(image.shape[1:]), affine=torch.from_numpy(step), extra_info=extra
            )
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(K, *space) of each key on that grid -> (K, *space) on the grid from which it came."""
        out = dict(data)
        for key in self.key_iterator(out):
            maps = out[key]
            done = self.pop_transform(maps)
            sides = tuple(int(side) for side in done["orig_size"])
            array = self.moved_back(maps.as_tensor(), sides, done["extra_info"])
            back = MetaTensor(array, meta=maps.meta, applied_operations=maps.applied_operations)
            back.affine = done["extra_info"]["affine"]
            out[key] = back
        return out

    def moved(self, image: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """(C, *space), (4, 4) voxel there -> voxel here, and what the way back needs."""
        raise NotImplementedError

    def moved_back(self, maps: Tensor, sides: tuple[int, ...], extra: Mapping[str, Any], /) -> Tensor:
        """(K, *space) -> (K, *sides)."""
        raise NotImplementedError


class OrientationToFramed(Geometry):
    """(C, X, Y, Z) -> (C, n, H, W): axes permuted and flipped until they lie as near as they can to three directions.

    MONAI's ``Orientationd`` takes the axes of the body; oblique scans may lie nearer to other directions.
    """

    def __init__(self, keys: Any, axes: Sequence[Sequence[float]], slice_axis: int) -> None:
        """Args:
        keys: Of the images.
        axes: Three directions, mm Right Anterior Superior.
        slice_axis: The one across which slices run. Rows run along the later of the others, columns along the earlier
            one, both reversed.
        """
        super().__init__(keys)
        self.frame, self.slice_axis = directions.as_matrix(axes), slice_axis

    def moved(self, image: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """As of ``Geometry``."""
        own = directions.of_affine(np.asarray(image.affine))
        turn = directions.turn_to(own, self.frame)
        low, high = (axis for axis in range(3) if axis != self.slice_axis)
        wanted = turn[:, [self.slice_axis, high, low]] * [1, -1, -1]  # column: the axis that it was, and its sense
        order = [int(axis) for axis in np.abs(wanted).argmax(axis=0)]
        flipped = [place for place, axis in enumerate(order) if wanted[axis, place] < 0]
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for place, axis in enumerate(order):
            step[axis, place] = wanted[axis, place]
            step[axis, 3] = image.shape[1 + axis] - 1 if place in flipped else 0
        array = image.as_tensor().permute(0, *(1 + axis for axis in order)).flip([1 + place for place in flipped])
        return array, step, {"order": order, "flipped": flipped}

    def moved_back(self, maps: Tensor, _sides: tuple[int, ...], extra: Mapping[str, Any], /) -> Tensor:
        """As of ``Geometry``."""
        order, flipped = ([int(axis) for axis in extra[name]] for name in ("order", "flipped"))
        return maps.flip([1 + place for place in flipped]).permute(0, *(1 + order.index(axis) for axis in range(3)))


class ResampleSharingEdgesd(Geometry):
    """(C, n, H, W) by B-splines to round(old spacing / new spacing * old size) voxels, by linear maps back.

    The two grids share their outer edges, where MONAI's ``Spacingd`` keeps the new spacing to the digit.
    """

    def __init__(
        self,
        keys: Any,
        spacing_mm: float | None = None,
        slice_spacing_mm: float | None = None,
        whole_px: Sequence[int] | None = None,
        order: int = 3,
        antialias: bool = False,
    ) -> None:
        """Args:
        keys: Of the images.
        spacing_mm: Of rows and columns; None: as it is.
        slice_spacing_mm: Between slices; None: as it is.
        whole_px: (slices, rows, columns) of every scan, in place of spacings.
        order: Of the splines, 1 or 3.
        antialias: Blur before shrinking.
        """
        super().__init__(keys)
        self.spacing_mm = (slice_spacing_mm, spacing_mm, spacing_mm)
        self.whole_px, self.order, self.antialias = whole_px, order, antialias

    def moved(self, image: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """As of ``Geometry``."""
        own = grids.spacing_of(np.asarray(image.affine))
        slices, rows, cols = self.whole_px or (
            side if new is None else resampling.resampled_size(side, old, new)
            for side, old, new in zip(image.shape[1:], own, self.spacing_mm, strict=True)
        )
        array: Any = image.as_tensor().numpy()
        array = resampling.resample_in_plane(array, (rows, cols), order=self.order, antialias=self.antialias)
        array = np.moveaxis(array, 1, 0)
        array = resampling.resample_slices(array, slices, order=self.order, antialias=self.antialias)
        array = np.ascontiguousarray(np.moveaxis(array, 0, 1))
        scale = np.array([old / new for old, new in zip(image.shape[1:], array.shape[1:], strict=True)])
        step = np.diag([*scale, 1.0])
        step[:3, 3] = (scale - 1) / 2
        return torch.from_numpy(array), step, {}

    def moved_back(self, maps: Tensor, sides: tuple[int, ...], _extra: Mapping[str, Any], /) -> Tensor:
        """As of ``Geometry``."""
        if maps.shape[1] != sides[0]:
            lower, upper, share = (
                torch.from_numpy(part).to(maps.device) for part in inference.between(maps.shape[1], sides[0])
            )
            maps = torch.lerp(maps[:, lower], maps[:, upper], share[:, None, None])
        if tuple(maps.shape[2:]) != sides[1:]:
            maps = F.interpolate(maps, sides[1:], mode="bilinear", align_corners=False)
        return maps


class CentralFieldd(Geometry):
    """(C, n, H, W) -> the central square of every slice; zeros where it leaves the slice, back there background."""

    def __init__(self, keys: Any, side_mm: float, spacing_mm: float | None = None) -> None:
        """Args:
        keys: Of the images.
        side_mm: Of the square.
        spacing_mm: Of rows and columns, as it was asked for; None: that of each scan.
        """
        super().__init__(keys)
        self.side_mm, self.spacing_mm = side_mm, spacing_mm

    def moved(self, image: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """As of ``Geometry``."""
        own = grids.spacing_of(np.asarray(image.affine))[1:]
        rows, cols = (max(1, round(self.side_mm / (self.spacing_mm or mm))) for mm in own)
        field = crops.field_of_view(image.shape[2:], (rows, cols))
        step = np.eye(4)
        step[1:3, 3] = field.row0, field.col0
        return torch.from_numpy(crops.crop_field(image.as_tensor().numpy(), field)), step, {"corner": step[1:3, 3]}

    def moved_back(self, maps: Tensor, sides: tuple[int, ...], extra: Mapping[str, Any], /) -> Tensor:
        """As of ``Geometry``."""
        row0, col0 = (int(place) for place in extra["corner"])
        height, width = maps.shape[2:]
        margins = [col0, sides[2] - col0 - width, row0, sides[1] - row0 - height]
        return torch.cat([F.pad(maps[:1], margins, value=1.0), F.pad(maps[1:], margins)])


class KeepLargestPiecesd(MapTransform):
    """(1, X, Y, Z) classes without islands: of all structures together, then of one after another.

    Of pieces of the same size all are kept. Where the largest piece holds less than a share of the voxels, all are.
    """

    def __init__(self, keys: Any, together: bool, classes: Sequence[int], least_share: float = 0.0) -> None:
        """Args:
        keys: Of the label maps.
        together: Keep the largest piece of all structures together.
        classes: Keep the largest piece of each of these.
        least_share: See above.
        """
        super().__init__(keys)
        self.together, self.classes, self.least_share = together, classes, least_share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Islands become background."""
        out = dict(data)
        for key in self.key_iterator(out):
            found = out[key].as_tensor().cpu().numpy().astype(np.uint8)[0]
            if self.together and found.any():
                self._remove(found, found > 0)
            for number, box in enumerate(ndimage.find_objects(found), start=1):
                if box is not None and number in self.classes:
                    self._remove(found[box], found[box] == number)
            out[key] = MetaTensor(torch.from_numpy(found[None]), meta=out[key].meta)
        return out

    def _remove(self, found: Any, mask: Any) -> None:
        small = components.islands(mask, self.least_share)
        if small is not None:
            found[small] = 0


class ProbabilitiesInferer(Inferer):
    """Another inferer, which sees probabilities: of images of any size, and averaged over their mirror images.

    Each image is padded with zeros, centred, to what the network divides by. Logits are averaged, softmax comes after.
    """

    def __init__(self, inferer: Callable[..., Any], multiples_of: Sequence[int], mirrored: Sequence[int] = ()) -> None:
        """Args:
        inferer: MONAI's, which cuts the scan into slices or tiles.
        multiples_of: Of these each side of an image must be a multiple for the network.
        mirrored: Axes of a slice or a tile, from 0 on, along which mirror images are seen too.
        """
        super().__init__()
        self.inferer, self.multiples_of, self.mirrored = inferer, multiples_of, tuple(mirrored)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """(1, C, n, H, W) -> (1, K, n, H, W) probabilities."""

        def probabilities(image: Tensor) -> Tensor:
            turns = mirroring.turns(self.mirrored)
            sides = [[axis + 2 for axis in turn] for turn in turns]
            margins = padding.centred(image.shape[2:], self.multiples_of)
            each = [padding.within(network, image.flip(turn), margins).flip(turn) for turn in sides]
            return (sum(each[1:], each[0]) / len(each)).softmax(1)

        return self.inferer(inputs, probabilities, *args, **kwargs)
