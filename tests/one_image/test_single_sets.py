"""Sets of single images, each in a made-up folder of its layout: what is found, with which reference, and how read."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.formats.paths import label_suffix
from lemis.one_image import image_request, single_image, single_sets
from lemis.one_image.single_sets import Pair

RANDOM = np.random.default_rng(0)
UPRIGHT = np.diag([1.0, 1.0, 1.0, 1.0])
FLIPPED = np.diag([-0.7, 0.7, 2.5, 1.0])
FLIPPED[0, 3] = 40.0
TURNED = np.array([[0, 0.7, 0, 0], [0, 0, 0.7, 0], [-2.5, 0, 0, 9], [0, 0, 0, 1.0]])


def pairs(folder: Path, **options) -> list[Pair]:
    return list(single_sets.find(folder, **options).pairs)


def picture(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if array is None:
        array = RANDOM.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = UPRIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def lung(
    folder: Path, name: str, marked: list[int], affine: np.ndarray = UPRIGHT, low: int = -1000, high: int = 800
) -> np.ndarray:
    """Seven slices along the first stored axis; ``marked`` (from 0) hold lung. Gives the stored volume."""
    scan = RANDOM.integers(low, high + 1, (7, 4, 5), dtype=np.int16)
    scan[0, 0, :2] = low, high
    mask = np.zeros((7, 4, 5), dtype=np.uint8)
    mask[marked, 1:3, 1:4] = 255
    nifti(folder / f"IMG_{name}.nii.gz", scan, affine)
    nifti(folder / f"MASK_{name}.nii.gz", mask, affine)
    return scan


# ---------------------------------------------------------------- lungs


@pytest.mark.parametrize("below", ["", "3d_images"])
def test_lung_volumes_are_read_where_there_is_lung(tmp_path, below):
    folder = tmp_path / below
    lung(folder, "0031", [2, 3, 5])
    lung(folder, "0002", [1])
    (tmp_path / "lung_stats.csv").write_text("not an image")
    found = single_sets.find(tmp_path)
    assert [(pair.name, pair.slices, pair.stored_axis) for pair in found.pairs] == [
        ("IMG_0002", (2,), 0),
        ("IMG_0031", (3, 4, 6), 0),
    ]
    assert found.pairs[1].reference == folder / "MASK_0031.nii.gz"
    assert found.title == "finding lungs in CT, slices with lung: 4, from IMG_0002 to IMG_0031"


@pytest.mark.parametrize("affine", [UPRIGHT, FLIPPED, TURNED])
def test_lung_slices_are_those_of_the_first_stored_axis_as_bcdu_net_prepared_them(tmp_path, affine):
    stored = lung(tmp_path, "0002", [1, 2, 5], affine).astype(np.float64)
    (pair,) = pairs(tmp_path)
    clipped = np.clip(stored, -512, 512)
    wanted = (clipped - clipped.min()) / (clipped.max() - clipped.min())
    stack = single_image.read(pair.image, slices=[(n, n) for n in pair.slices], window=pair.window, stored_axis=0)
    references = single_image.read_labels(pair.reference, stack)
    assert stack.numbers == pair.slices
    rows = []
    for number, plane in zip(stack.numbers, stack.planes, strict=True):
        assert np.count_nonzero(references[number]) == 6
        rows.append(sorted(plane.ravel()))  # the same pixels, upright
    backwards = affine[0, 0] < 0 or affine[2, 0] < 0
    order = [5, 2, 1] if backwards else [1, 2, 5]
    np.testing.assert_allclose(rows, [sorted(wanted[index].ravel()) for index in order], atol=1e-6)


@pytest.mark.parametrize(("affine", "kept"), [(UPRIGHT, (2, 3)), (FLIPPED, (5, 6))])
def test_the_first_slices_are_the_first_in_the_files(tmp_path, affine, kept):
    lung(tmp_path, "0002", [4], affine)
    lung(tmp_path, "0031", [1, 2, 5], affine)
    lung(tmp_path, "0059", [3], affine)
    found = pairs(tmp_path, lung_slices=3)
    assert [pair.name for pair in found] == ["IMG_0002", "IMG_0031"]
    assert found[1].slices == kept
    assert single_sets.MOST_LUNG_SLICES == 700


@pytest.mark.parametrize(
    ("low", "high", "window"),
    [(-1000, 800, (-512, 512)), (-300, 100, (-300, 100)), (-1000, -100, (-512, -100)), (-1000, -900, (-512, 512))],
)
def test_the_window_is_clipping_then_least_to_largest(tmp_path, low, high, window):
    lung(tmp_path, "0002", [1], low=low, high=high)
    assert pairs(tmp_path)[0].window == window


def test_a_volume_without_lung_is_left_out_and_without_a_mask_refused(tmp_path):
    lung(tmp_path, "0002", [])
    with pytest.raises(DataFault, match="every MASK_ is empty"):
        pairs(tmp_path)
    lung(tmp_path, "0031", [1])
    assert [pair.name for pair in pairs(tmp_path)] == ["IMG_0031"]
    (tmp_path / "MASK_0002.nii.gz").unlink()
    with pytest.raises(DataFault, match=r"has no MASK_0002\.nii\.gz beside it"):
        pairs(tmp_path)


def tif(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.int32)).save(path)
    return path


def test_single_slices_of_the_lung_set(tmp_path):
    values = RANDOM.integers(-2000, 2000, (6, 8))
    for name in ("ID_0000_Z_0142", "ID_0001_Z_0146"):
        tif(tmp_path / "2d_images" / f"{name}.tif", values)
        picture(tmp_path / "2d_masks" / f"{name}.tif", (values > 0).astype(np.uint8) * 255)
    (tmp_path / "2d_images" / "ID_0002_Z_0100.tif").write_bytes(b"nothing")
    found = pairs(tmp_path)
    assert found[1] == Pair(
        "ID_0001_Z_0146",
        tmp_path / "2d_images" / "ID_0001_Z_0146.tif",
        tmp_path / "2d_masks" / "ID_0001_Z_0146.tif",
        window=(-512, 512),
    )
    assert found[2].reference is None
    with pytest.raises(DataFault, match="cannot be read"):  # said when it is its turn, the others go on
        single_image.read(found[2].image, window=found[2].window)
    stack = single_image.read(found[0].image, window=found[0].window)
    np.testing.assert_allclose(stack.planes[0][0], (np.clip(values, -512, 512) + 512) / 1024, atol=1e-6)
    np.testing.assert_array_equal(single_image.read_labels(found[0].reference, stack)[1] != 0, values > 0)
    lung(tmp_path / "3d_images", "0002", [1])
    assert [pair.name for pair in pairs(tmp_path)] == ["IMG_0002"]
    assert pairs(tmp_path / "2d_images") == found


# ---------------------------------------------------------------- PH2


@pytest.mark.parametrize("given", ["", "PH2Dataset", "PH2Dataset/PH2 Dataset images"])
def test_ph2_as_it_is_unpacked(tmp_path, given):
    root = tmp_path / "PH2Dataset" / "PH2 Dataset images"
    lesion = np.zeros((6, 8), dtype=bool)
    lesion[2:4, 1:5] = True
    for name in ("IMD003", "IMD002"):
        colours = picture(root / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        picture(root / name / f"{name}_roi" / f"{name}_R1_Label4.bmp", lesion)
        picture(root / name / f"{name}_lesion" / f"{name}_lesion.bmp", lesion)
    found = single_sets.find(tmp_path / given)
    assert found.title == "PH2"
    assert [pair.name for pair in found.pairs] == ["IMD002", "IMD003"]
    stack = single_image.read(found.pairs[0].image)
    np.testing.assert_allclose(stack.planes[0], np.asarray(Image.open(colours)).transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(single_image.read_labels(found.pairs[0].reference, stack)[1], lesion)
    assert label_suffix(found.pairs[0].image) == ".png"


def test_ph2_images_without_lesion_and_twice(tmp_path):
    image = picture(tmp_path / "IMD002" / "IMD002_Dermoscopic_Image" / "IMD002.bmp")
    assert pairs(tmp_path) == [Pair("IMD002", image)]
    picture(image.with_suffix(".png"))
    with pytest.raises(DataFault, match="2 pictures named IMD002"):
        pairs(tmp_path)


# ---------------------------------------------------------------- pairs of folders, plain folders


@pytest.mark.parametrize(("ours", "theirs", "channel"), [("images", "labels", ""), ("imagesTr", "labelsTr", "_0000")])
def test_two_folders(tmp_path, ours, theirs, channel):
    for name in ("b", "a"):
        picture(tmp_path / ours / f"{name}{channel}.png")
    assert single_sets.find(tmp_path).title == f"{ours}/"
    label = picture(tmp_path / theirs / "a.tif")
    (tmp_path / "dataset.json").write_text("{}")
    found = single_sets.find(tmp_path)
    assert found.title == f"{ours}/ with {theirs}/"
    assert [(pair.name, pair.reference) for pair in found.pairs] == [(f"a{channel}", label), (f"b{channel}", None)]
    label.rename(label.with_name("z.tif"))
    with pytest.raises(UsageError, match="holds no reference for any of 2 images"):
        single_sets.find(tmp_path)


def test_images_that_lie_in_the_folder_itself_come_first(tmp_path):
    picture(tmp_path / "images" / "b.png")
    image = picture(tmp_path / "a.png")
    assert single_sets.find(tmp_path) == (None, (Pair("a", image),))


def test_names_tell_all_images_apart(tmp_path):
    for name in ("a.png", "a.bmp", "b.png"):
        picture(tmp_path / name)
    assert [pair.name for pair in pairs(tmp_path)] == ["a-bmp", "a-png", "b"]


def test_no_folder_and_no_image(tmp_path):
    with pytest.raises(UsageError, match="holds no image"):
        pairs(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        pairs(tmp_path / "none")


# ---------------------------------------------------------------- what an image's record says of it


ASKED = image_request.Asked(method=None, preset=None, overrides=(), seed=None, size=None, slices=None, window=None)


@given(st.sets(st.integers(1, 60), min_size=1), st.floats(-600, 600), st.floats(1e-3, 600))
def test_slices_and_windows_survive_their_way_through_the_record(numbers, low, width):
    pair = Pair("a", Path("a"), slices=tuple(sorted(numbers)), window=(low, low + width), stored_axis=0)
    asked = image_request.as_in_set(ASKED, pair)
    ranges = image_request._slices(asked.slices)
    assert {n for first, last in ranges for n in range(first, last + 1)} == numbers
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(ranges))
    assert image_request._window(asked.window) == pair.window
    assert asked.stored_axis == 0


def test_what_was_typed_comes_before_what_the_set_says():
    pair = Pair("a", Path("a"), slices=(1, 2), window=(-512.0, 512.0))
    assert image_request.as_in_set(ASKED, pair).window == "-512:512"
    typed = image_request.Asked(
        method=None, preset=None, overrides=(), seed=None, size=None, slices="3:4,7", window="0:1"
    )
    assert image_request.as_in_set(typed, pair) == typed
    assert image_request._slices("3:4,7") == [(3, 4), (7, 7)]


def test_a_bmp_is_a_picture_like_any_other(tmp_path):
    array = RANDOM.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    one, other = (volume.read(picture(tmp_path / name, array)) for name in ("a.bmp", "a.png"))
    np.testing.assert_array_equal(one.array, other.array)
    assert one.source.shape == other.source.shape
