"""Label maps of every make become whole numbers on the scan's grid, numbered as the data set is, or are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from how_many import examples
from lemis.errors import DataFault
from lemis.formats import labels, segments, volume
from lemis.formats.source import Source

RANDOM = np.random.default_rng(0)
SIZE = (6, 5, 4)
SPACING, ORIGIN = (0.5, 0.75, 3.0), (10.0, -20.0, 5.0)


def slicer(
    path: Path,
    array: np.ndarray,
    names: dict[str, str] | list[tuple[str, str]],
    first: tuple[int, ...] = (0, 0, 0),
    turn: np.ndarray | None = None,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Path:
    """A segmentation as 3D Slicer writes it, (X, Y, Z) from voxel ``first`` of the scan on."""
    direction = np.eye(3) if turn is None else turn
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((np.array(ORIGIN) + direction @ (np.array(SPACING) * (np.array(first) + shift))).tolist())
    for number, (name, value) in enumerate(names.items() if isinstance(names, dict) else names):
        image.SetMetaData(f"Segment{number}_ID", f"Segment_{number + 1}")
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def scan(path: Path, turn: np.ndarray | None = None) -> Source:
    return volume.read_header(slicer(path, np.zeros(SIZE, np.int16), {}, turn=turn))


def placed(path: Path, image: Source) -> volume.Volume:
    return labels.read(path, image.axes, image)


# ---------------------------------------------------------------- segments of 3D Slicer


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"liver": "1.5"}, r"gives the segment liver the value '1\.5'"),
        ({"liver": "abc"}, "gives the segment liver the value 'abc'"),
        ({"liver": ""}, "gives the segment liver the value ''"),
        ({"liver": "0"}, "gives the segment liver the value '0'"),
        ({"liver": "99999999999"}, "gives the segment liver the value '99999999999'"),
        ({"liver": "1", "spleen": "1"}, "gives the value 1 to 2 segments: liver, spleen"),
    ],
)
def test_values_of_segments_that_are_refused(names: dict[str, str], words: str, tmp_path: Path) -> None:
    file = slicer(tmp_path / "a.seg.nrrd", np.zeros(SIZE, np.uint8), names)
    for read in (volume.read, volume.read_header):
        with pytest.raises(DataFault, match=rf"a\.seg\.nrrd {words}"):
            read(file)


def test_segments_in_layers_are_refused_with_their_names(tmp_path: Path) -> None:
    layers = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True)
    for number, name in enumerate(("tumour", "oedema")):
        layers.SetMetaData(f"Segment{number}_Name", name)
        layers.SetMetaData(f"Segment{number}_LabelValue", "1")
    sitk.WriteImage(layers, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(DataFault, match="in 2 layers, as those that overlap are stored: tumour, oedema"):
        volume.read(tmp_path / "a.seg.nrrd")


def test_one_layer_is_a_label_map(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 2, SIZE).astype(np.uint8)
    head = (
        "NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 1 6 5 4\n"
        "space directions: none (0.5,0,0) (0,0.75,0) (0,0,3)\nkinds: list domain domain domain\nencoding: raw\n"
        "space origin: (10,-20,5)\nSegment0_Name:=liver\n\n"
    )
    (tmp_path / "a.seg.nrrd").write_bytes(head.encode() + array.tobytes(order="F"))
    found = placed(tmp_path / "a.seg.nrrd", scan(tmp_path / "scan.nrrd"))
    np.testing.assert_array_equal(found.array[::-1, ::-1], array)
    assert found.source.segments == {"liver": 1}


def test_every_segment_keeps_a_name(tmp_path: Path) -> None:
    file = slicer(
        tmp_path / "a.seg.nrrd",
        np.zeros(SIZE, np.uint8),
        [
            ("tumour", "1"),
            ("tumour", "3"),
            ("Tumour  ", "5"),
            ("[/red]", "2"),
            ("Background", "4"),
            ("\u0141eber", "7"),
        ],
    )
    found = volume.read_header(file).segments
    assert found == {
        "tumour": 1,
        "tumour (2)": 3,
        "Tumour (3)": 5,
        "[/red]": 2,
        "Background (2)": 4,
        "\u0141eber": 7,
    }
    assert segments.repeated(found) == ["tumour"]


@given(
    first=st.tuples(*[st.integers(0, 3)] * 3),
    size=st.tuples(*[st.integers(1, 3)] * 3),
    turned=st.booleans(),
    degrees=st.floats(-20, 20),
)
@examples(30)
def test_a_cropped_segmentation_lies_where_it_was_drawn(
    first: tuple[int, ...], size: tuple[int, ...], turned: bool, degrees: float, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("cropped")
    size = tuple(min(part, whole - begin) for part, whole, begin in zip(size, SIZE, first, strict=True))
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, -1 if turned else 1]])
    image = scan(folder / "scan.nrrd", turn)
    part = RANDOM.integers(0, 3, size).astype(np.uint8)
    whole = np.zeros(SIZE, np.uint8)
    whole[tuple(slice(a, a + b) for a, b in zip(first, size, strict=True))] = part
    cropped = placed(slicer(folder / "c.seg.nrrd", part, {"liver": "1", "spleen": "2"}, first, turn), image)
    complete = placed(slicer(folder / "w.seg.nrrd", whole, {"liver": "1", "spleen": "2"}, turn=turn), image)
    np.testing.assert_array_equal(cropped.array, complete.array)
    np.testing.assert_allclose(cropped.affine, image.canonical_affine)


@pytest.mark.parametrize(
    ("size", "first", "shift"),
    [((3, 3, 3), (4, 0, 0), (0, 0, 0)), ((3, 3, 3), (-1, 0, 0), (0, 0, 0)), ((3, 3, 3), (0, 0, 0), (0.3, 0, 0))],
)
def test_what_does_not_lie_on_the_scan_s_lattice_stays_as_it_is(size, first, shift, tmp_path: Path) -> None:
    part = slicer(tmp_path / "a.seg.nrrd", np.ones(size, np.uint8), {"liver": "1"}, first, shift=shift)
    assert placed(part, scan(tmp_path / "scan.nrrd")).array.shape == size


def test_a_smaller_label_without_segments_is_not_enlarged(tmp_path: Path) -> None:
    part = slicer(tmp_path / "a.nrrd", np.ones((3, 3, 3), np.uint8), {})
    assert placed(part, scan(tmp_path / "scan.nrrd")).array.shape == (3, 3, 3)


@pytest.mark.parametrize("first", [(0, 0, 0), (1, 2, -1), (-1, 0, 3), (40, 0, 0)])
def test_two_segmentations_that_cover_parts_of_a_scan_come_onto_one_grid(first: tuple[int, int, int], tmp_path: Path):
    one = RANDOM.integers(1, 3, (3, 2, 2)).astype(np.uint8)
    other = RANDOM.integers(1, 3, (2, 3, 1)).astype(np.uint8)
    turn = np.diag([-1.0, 1.0, 1.0])
    names = {"liver": "1", "spleen": "2"}
    files = (
        slicer(tmp_path / "a.seg.nrrd", one, names, turn=turn),
        slicer(tmp_path / "b.seg.nrrd", other, names, first, turn=turn),
    )
    a = labels.read(files[0])
    found = labels.together(a, labels.read(files[1], a.source.axes))
    assert found[0].array.shape == found[1].array.shape
    np.testing.assert_allclose(found[0].affine, found[1].affine)
    for label, array, start in zip(found, (one, other), ((0, 0, 0), first), strict=True):
        places = np.argwhere(label.array)
        assert len(places) == array.size
        lps = [-1, -1, 1] * np.array([label.affine[:3] @ [*place, 1] for place in places])
        at = np.rint((lps - ORIGIN) @ turn / SPACING - start).astype(int)
        np.testing.assert_array_equal(label.array[tuple(places.T)], array[tuple(at.T)])


def test_only_segmentations_on_one_lattice_come_onto_one_grid(tmp_path: Path):
    part = labels.read(slicer(tmp_path / "a.seg.nrrd", np.ones((3, 3, 3), np.uint8), {"liver": "1"}))
    for shift, names, first in (
        ((0.3, 0.0, 0.0), {"liver": "1"}, (0, 0, 0)),
        ((0.0, 0.0, 0.0), {}, (0, 0, 0)),
        ((0.0, 0.0, 0.0), {"liver": "1"}, (100_000, 100_000, 100_000)),
    ):
        file = slicer(tmp_path / "b.seg.nrrd", np.ones((2, 4, 3), np.uint8), names, first, shift=shift)
        assert labels.together(part, other := labels.read(file)) == (part, other)


# ---------------------------------------------------------------- one numbering


def test_the_name_decides_and_not_the_number() -> None:
    files = [{"liver": 1, "spleen": 2}, {"Spleen": 1, "liver ": 2, "kidney": 3}, {"tumour": 2}]
    numbers = labels.numbering(files)
    assert numbers == {"liver": 1, "spleen": 2, "kidney": 3, "tumour": 4}
    assert [labels.moved(names, numbers) for names in files] == [{1: 1, 2: 2}, {1: 2, 2: 1, 3: 3}, {2: 4}]


@given(st.permutations([1, 2, 3, 300]))
def test_voxels_of_every_numbering_become_the_same(values: list[int]) -> None:
    names = ("liver", "spleen", "kidney", "tumour")
    wanted = dict(zip(names, (1, 2, 3, 4), strict=True))
    truth = np.arange(5)[RANDOM.integers(0, 5, SIZE)]
    theirs = np.array([0, *values], np.uint16)[truth]
    source = Source(
        path=Path("a.seg.nrrd"),
        format="nrrd",
        shape=SIZE,
        channels=1,
        affine=np.eye(4),
        dtype="uint16",
        segments=dict(zip(names, values, strict=True)),
    )
    found = labels.renumbered(volume.Volume(array=theirs, affine=np.eye(4), source=source), wanted)
    np.testing.assert_array_equal(found.array, truth)


def test_a_value_without_a_name_is_not_taken_for_another(tmp_path: Path) -> None:
    array = np.zeros(SIZE, np.uint8)
    array[0, 0] = 1
    array[1, 1] = 2
    file = slicer(tmp_path / "a.seg.nrrd", array, {"spleen": "1"})
    with pytest.raises(DataFault, match="holds the value 2, which is none of"):
        labels.read(file, labels={"background": 0, "liver": 1, "spleen": 2})
    same = labels.read(file, labels={"background": 0, "spleen": 1, "liver": 2})
    np.testing.assert_array_equal(np.unique(same.array), [0, 1, 2])


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("value", [1e300, 2.0**31, -(2.0**31) - 1, np.nan, np.inf, 2**40, 0.5])
def test_values_that_no_label_map_can_hold(value: float, tmp_path: Path) -> None:
    array = np.zeros(SIZE, np.int64 if isinstance(value, int) else np.float64)
    array[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), dtype=array.dtype), tmp_path / "a.nii")
    with pytest.raises(DataFault, match=r"a\.nii holds values"):
        labels.read(tmp_path / "a.nii")


def test_values_close_to_an_integer_are_that_integer(tmp_path: Path) -> None:
    array = RANDOM.integers(-3, 4, SIZE)
    nibabel.save(nibabel.Nifti1Image((array + 1e-5).astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    found = labels.read(tmp_path / "a.nii").array
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, array)


# ---------------------------------------------------------------- pictures

DISC = (np.hypot(*(np.mgrid[:40, :40] - 19.5)) < 12).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_in_colour_that_is_black_and_white(mode: str, tmp_path: Path) -> None:
    Image.fromarray(DISC * 255).convert(mode).save(tmp_path / "a.png")
    found = labels.read(tmp_path / "a.png").array
    np.testing.assert_array_equal(found[:, ::-1, 0].T, DISC * 255)


def test_masks_in_colours_and_in_transparency_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.stack([DISC * 255, DISC * 0, DISC * 0], axis=2)).save(tmp_path / "a.png")
    with pytest.raises(DataFault, match=r"a\.png holds 3 values per voxel"):
        labels.read(tmp_path / "a.png")
    for mode, colour in (("RGBA", (255, 0, 0)), ("LA", (255,))):
        picture = Image.new(mode, (40, 40), (*colour, 0))
        picture.putalpha(Image.fromarray(DISC * 255))
        picture.save(tmp_path / "b.png")
        with pytest.raises(DataFault, match=r"b\.png is transparent in part"):
            labels.read(tmp_path / "b.png")
        assert [note.kind for note in volume.read(tmp_path / "b.png").source.notes] == ["transparent in part"]


def softened(mask: np.ndarray) -> np.ndarray:
    """As a drawing program softens an edge: each pixel the mean of a 3 x 3 neighbourhood."""
    padded = np.pad(mask.astype(float), 1, mode="edge")
    shifts = [padded[a : a + 40, b : b + 40] for a in range(3) for b in range(3)]
    return np.rint(np.mean(shifts, axis=0) * 255).astype(np.uint8)


def test_soft_edges_are_told_from_structures(tmp_path: Path) -> None:
    soft = softened(DISC)
    assert labels.soft_values(soft[..., None]) == tuple(np.unique(soft)[1:-1])
    Image.fromarray(soft).save(tmp_path / "a.jpg")
    lossy = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert labels.soft_values(lossy[..., None])
    assert labels.soft_values(lossy[..., None], lossy=True) == tuple(np.unique(lossy)[1:-1])
    classes = np.zeros((40, 40, 1), np.uint8)
    for number in range(12):
        classes[3 * number : 3 * number + 3] = 20 * number
    assert labels.soft_values(classes) == ()
    assert labels.soft_values(DISC[..., None] * 255) == ()
    assert labels.soft_values(RANDOM.integers(0, 30, (40, 40, 1))) == ()


def test_the_colours_of_a_palette(tmp_path: Path) -> None:
    picture = Image.fromarray(DISC).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    picture.save(tmp_path / "a.png")
    source = volume.read_header(tmp_path / "a.png")
    assert labels.palette(source, [0, 1]) == {0: "#000000", 1: "#ff0000"}
    assert labels.palette(volume.read_header(scan(tmp_path / "s.nrrd").path), [0, 1]) == {}
