"""Made-up scans: reproducible, different from one another, anatomically ordered, not for a threshold."""

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from lemis import phantom
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.preparation.slices import slices_first

KINDS = ("heart", "abdomen")
SMALL = {"heart": (48, 48, 8), "abdomen": (64, 64, 24)}


def small(kind, subject=1, **changes):
    return phantom.make(kind, subject=subject, shape=SMALL[kind], **changes)


def middle(label, value):
    """Centre of a structure in patient axes: (left, posterior) in voxels; the stored axes are LPS."""
    return np.array(ndimage.center_of_mass(label == value))[:2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_arguments_give_the_same_voxels(kind):
    one, again, other, seeded = small(kind), small(kind), small(kind, subject=2), small(kind, seed=1)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.image.dtype == np.int16
    assert one.label.dtype == np.uint8
    for different in (other, seeded):
        assert (one.label != different.label).any()
        assert (one.image != different.image).mean() > 0.3
        assert not np.allclose(one.affine, different.affine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subject", range(8))
def test_every_structure_is_there_and_only_declared_ones(kind, subject):
    scan = phantom.make(kind, subject=subject)
    values, counts = np.unique(scan.label, return_counts=True)
    assert set(values) == set(phantom.LABELS[kind].values())
    assert counts.min() > 150
    assert 0.01 < (scan.label > 0).mean() < 0.3


@pytest.mark.parametrize("subject", range(8))
def test_a_heart_is_built_like_one(subject):
    label = phantom.make("heart", subject=subject).label
    right, wall, left = (middle(label, value) for value in (1, 2, 3))
    assert right[0] < left[0], "the right ventricle lies to the patient's right"
    assert np.abs(wall - left).max() < 4, "the wall surrounds the left ventricle"
    halfway = label[:, :, label.shape[2] // 2]
    cavity = ndimage.binary_dilation(halfway == 3) & (halfway != 3)
    assert (halfway[cavity] == 2).mean() > 0.95, "blood touches nothing but its wall"
    sizes = [(label[:, :, z] == 3).sum() for z in range(label.shape[2])]
    assert max(sizes[label.shape[2] // 2 :]) > 3 * sizes[1], "the ventricle narrows to the apex"
    assert (label[:, :, -1] == 0).all(), "above the valves nothing is labelled"


@pytest.mark.parametrize("subject", range(8))
def test_an_abdomen_is_built_like_one(subject):
    scan = phantom.make("abdomen", subject=subject)
    liver, right, left, spleen = (middle(scan.label, value) for value in (1, 2, 3, 5))
    assert liver[0] < spleen[0]
    assert right[0] < left[0]
    assert right[1] > liver[1], "kidneys lie behind"
    for value, low, high in ((1, 70, 160), (2, 90, 200), (3, 90, 200), (5, 70, 180)):
        assert low < np.median(scan.image[scan.label == value]) < high
    assert scan.image.min() < -900
    assert (scan.image[scan.label == 0] > 200).any(), "bone"


@pytest.mark.parametrize(("kind", "value"), [("heart", 3), ("heart", 2), ("abdomen", 1), ("abdomen", 5)])
def test_no_threshold_segments_a_structure(kind, value):
    scan = phantom.make(kind, subject=1)
    inside = scan.image[scan.label == value]
    edges = np.percentile(inside, [5, 95])
    guess = (scan.image >= edges[0]) & (scan.image <= edges[1])
    dice = 2 * (guess & (scan.label == value)).sum() / (guess.sum() + (scan.label == value).sum())
    assert dice < 0.75


def test_a_heart_beats():
    diastole, systole = (phantom.make("heart", subject=3, phase=phase, phases=2) for phase in (0, 1))
    np.testing.assert_array_equal(diastole.affine, systole.affine)
    filled, ejected = ((scan.label == 3).sum() for scan in (diastole, systole))
    assert 0.3 < ejected / filled < 0.8
    assert 0.7 < (systole.label == 2).sum() / (diastole.label == 2).sum() < 1.3


@pytest.mark.parametrize("kind", KINDS)
def test_the_affine_is_oblique_and_nearest_to_lps(kind):
    affine = small(kind).affine
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    assert (np.abs(direction).argmax(axis=0) == [0, 1, 2]).all()
    assert (np.sign(np.diag(direction)) == [-1, -1, 1]).all()
    assert np.abs(direction[0, 1]) > 1e-3


@pytest.mark.parametrize("stored", ["LSP", "PSR"])
@pytest.mark.parametrize("subject", range(6))
def test_a_short_axis_stack_is_called_so_and_shows_the_same_anatomy(stored, subject):
    plain, turned = (small("heart", subject=subject, stored=axes) for axes in ("LPS", stored))
    assert "".join(nibabel.aff2axcodes(turned.affine)) == stored
    np.testing.assert_array_equal(turned.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(turned.label, plain.label[:, ::-1])
    spacing = [np.linalg.norm(scan.affine[:3, :3], axis=0) for scan in (plain, turned)]
    np.testing.assert_allclose(*spacing)
    direction = turned.affine[:3, :3] / spacing[0]
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    normal = direction[:, 2]
    assert (np.degrees(np.arccos(np.abs(normal))) > 30).all(), "double-oblique"


def test_size_does_not_change_the_field_of_view():
    small_one, large = (
        phantom.make("heart", subject=1, shape=(40, 40, 8)),
        phantom.make("heart", subject=1, shape=(80, 80, 8)),
    )
    spacing = [np.linalg.norm(scan.affine[:3, 0]) for scan in (small_one, large)]
    assert spacing[0] == pytest.approx(2 * spacing[1])


@pytest.mark.parametrize(("kind", "phases", "names"), [
    ("heart", 1, [""]), ("heart", 2, ["_ED", "_ES"]), ("heart", 3, ["_frame01", "_frame02", "_frame03"]),
    ("abdomen", 1, [""]),
])  # fmt: skip
def test_a_data_set_is_nnunet_raw(tmp_path, kind, phases, names):
    folder = phantom.write_dataset(tmp_path / "scans", kind, subjects=3, labelled=2, shape=SMALL[kind], phases=phases)
    ids = [f"{kind}_{number:03d}{name}" for number in (1, 2, 3) for name in names]
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [f"{id}_0000.nii.gz" for id in ids]
    assert sorted(path.name for path in (folder / "labelsTr").iterdir()) == [f"{id}.nii.gz" for id in ids[: 2 * phases]]
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert facts["labels"] == phantom.LABELS[kind]
    assert facts["numTraining"] == 2 * phases
    assert facts["channel_names"] == {"0": phantom.CHANNELS[kind]}


def test_what_is_written_is_read_upright(tmp_path):
    folder = phantom.write_dataset(tmp_path, "heart", subjects=1, shape=SMALL["heart"])
    expected = small("heart")
    label = volume.read(folder / "labelsTr/heart_001.nii.gz")
    image = volume.read(folder / "imagesTr/heart_001_0000.nii.gz")
    np.testing.assert_allclose(image.affine, label.affine)
    picture = slices_first(image.array, 2)
    np.testing.assert_array_equal(picture, expected.image.transpose(2, 1, 0))
    np.testing.assert_array_equal(slices_first(label.array, 2), expected.label.transpose(2, 1, 0))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"kind": "knee"}, "phantom 'knee'"),
    ({"kind": "abdomen", "phases": 2}, "phases=2 of an abdomen"),
    ({"kind": "heart", "shape": (8, 8, 4)}, r"phantom shape \(8, 8, 4\)"),
    ({"kind": "heart", "stored": "RAS"}, "phantom stored as 'RAS'"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        phantom.make(subject=1, **arguments)


@pytest.mark.parametrize("changes", [{"subjects": 0}, {"labelled": 3}, {"phases": 0}])
def test_a_data_set_of_nothing_is_refused(tmp_path, changes):
    with pytest.raises(UsageError, match="at least one subject"):
        phantom.write_dataset(tmp_path, **{"subjects": 2, "shape": SMALL["heart"], **changes})
