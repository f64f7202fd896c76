"""Keypoints: one per pixel, strongest first, the same every time; whatever finds them."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from how_many import examples
from lemis.errors import UsageError
from lemis.preparation import keypoints
from lemis.preparation.keypoints import Settings, find, find_all, preparation
from lemis.preparation.settings import Settings as Preparation


def blobs(*shape, seed=0, sigma=2.0):
    """Smooth random intensities of mean 0 and standard deviation 1 over the last two axes."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (0,) * (len(shape) - 2) + (sigma, sigma))
    return (smooth - smooth.mean()) / smooth.std()


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """Installs a module ``my_lab_KEY`` whose ``detect(image)`` returns what is given; returns its dotted name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(key, returned, setup=""):
        name = f"my_lab_{key}"
        text = f"import numpy as np\n{setup}\n\n\ndef detect(image):\n    return {returned}\n"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}.detect"

    return install


# ------------------------------------------------------------------------------------------------------ SIFT


def test_sift_finds_whole_pixels_inside_the_slice_once_each():
    place, descriptor = find(blobs(1, 60, 90), Settings(most=1000))
    assert 20 < len(place) < 1000
    assert place.dtype == np.float32
    np.testing.assert_array_equal(place, np.rint(place))
    assert (place >= 0).all()
    assert (place < (60, 90)).all()
    assert len(np.unique(place, axis=0)) == len(place)
    assert descriptor.shape == (len(place), 128)


def test_places_are_rows_and_columns():
    image = np.zeros((1, 64, 96), np.float32)
    image[0] += np.exp(-((np.arange(64)[:, None] - 20) ** 2 + (np.arange(96) - 70) ** 2) / 18)
    place, _ = find(image, Settings(most=1))
    np.testing.assert_allclose(place, [[20, 70]], atol=1)


def test_bytes_lose_nothing_of_a_sift_descriptor():
    import cv2

    grey = keypoints.to_bytes(blobs(1, 80, 80))
    _, descriptor = cv2.SIFT.create().detectAndCompute(grey, None)
    np.testing.assert_array_equal(descriptor.astype(np.uint8), descriptor)
    assert keypoints.load_detector("sift")(grey)[2].dtype == np.uint8


def test_the_strongest_come_first_and_most_cuts_the_rest():
    image = blobs(1, 80, 80)
    place, descriptor = find(image, Settings(most=10_000))
    response = dict[tuple[float, ...], float]()
    found, strength, _ = keypoints.load_detector("sift")(keypoints.to_bytes(image))
    for where, strong in zip(np.rint(found).tolist(), strength, strict=True):
        response[tuple(where)] = max(strong, response.get(tuple(where), 0))
    assert (np.diff([response[tuple(where)] for where in place.tolist()]) <= 0).all()
    assert len(place) == len(response)
    few = find(image, Settings(most=7))
    np.testing.assert_array_equal(few.place, place[:7])
    np.testing.assert_array_equal(few.descriptor, descriptor[:7])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (2, 40, 1), (1, 2, 3)])
def test_slices_too_small_for_a_keypoint_have_none(shape):
    place, descriptor = find(np.random.default_rng(0).normal(size=shape), Settings())
    assert place.shape == (0, 2)
    assert descriptor.shape == (0, 128)


@pytest.mark.parametrize("value", [0.0, -1.7, np.nan])
def test_a_constant_slice_has_none(value):
    assert len(find(np.full((1, 50, 50), value), Settings()).place) == 0


def test_channels_are_averaged():
    two = blobs(2, 70, 70)
    both, mean = find(two, Settings()), find(two.mean(axis=0, keepdims=True), Settings())
    assert len(both.place) > 5
    np.testing.assert_array_equal(both.place, mean.place)
    assert not np.array_equal(both.place, find(two[:1], Settings()).place)


def test_values_that_are_not_finite_count_as_the_mean_intensity():
    image = blobs(1, 70, 70)
    image[0, :5, :5] = np.nan
    image[0, 60:, 60:] = np.inf
    clean = np.where(np.isfinite(image), image, 0)
    np.testing.assert_array_equal(find(image, Settings()).place, find(clean, Settings()).place)


def test_precision_and_intensity_scale_do_not_matter():
    # Training reads float16 arrays, prediction hands over float32 tensors of the same values.
    image = blobs(2, 70, 70).astype(np.float16)
    stored, tensor = find(image, Settings()), find(image.astype(np.float32), Settings())
    np.testing.assert_array_equal(stored.place, tensor.place)
    np.testing.assert_array_equal(stored.descriptor, tensor.descriptor)
    np.testing.assert_array_equal(find(image.astype(float) * 4 + 8, Settings()).place, stored.place)


def test_the_whole_range_of_bytes_is_used():
    grey = keypoints.to_bytes(np.array([[[-3.0, 1.0], [2.0, 0.0]]]))
    np.testing.assert_array_equal(grey, [[0, 204], [255, 153]])


def test_the_number_of_threads_does_not_matter():
    import cv2

    image, before = blobs(1, 128, 128, sigma=1.5), cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(find(image, Settings(most=10_000)))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0].place, found[1].place)
    np.testing.assert_array_equal(found[0].descriptor, found[1].descriptor)


def test_a_scan_is_its_slices_one_after_the_other():
    images = np.stack([blobs(1, 60, 50, seed=1), np.zeros((1, 60, 50)), blobs(1, 60, 50, seed=2)])
    scan = find_all(images, Settings(most=9))
    assert scan.count.tolist() == [9, 0, 9]
    assert (scan.count.dtype, scan.place.dtype, scan.descriptor.dtype) == (np.int32, np.int16, np.uint8)
    last = find(images[2], Settings(most=9))
    np.testing.assert_array_equal(scan.place[9:], last.place)
    np.testing.assert_array_equal(scan.descriptor[9:], last.descriptor)


# -------------------------------------------------------------------------------------- detectors from outside


def test_a_detector_from_outside(detector):
    name = detector("own", "np.array([[1.4, 2.6], [3, 0], [3.2, 0.1]]), [1, 2, 3], np.eye(3) / 3")
    place, descriptor = find(np.arange(20.0).reshape(1, 4, 5), Settings(detector=name))
    np.testing.assert_array_equal(place, [[3, 0], [1, 3]])  # of the two at (3, 0) the stronger one
    np.testing.assert_array_equal(descriptor, (np.eye(3) / 3).astype(np.float16)[[2, 0]])


@examples(40)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 60), most=st.integers(1, 40))
def test_order_does_not_depend_on_the_detector_s(seed, n, most):
    rng = np.random.default_rng(seed)
    place, response = rng.uniform(-0.5, (5.5, 7.5), (n, 2)), rng.permutation(n).astype(float)

    def found(order):
        with pytest.MonkeyPatch.context() as patch:
            answer = place[order], response[order], response[order, None]
            patch.setattr(keypoints, "load_detector", lambda name: lambda image: answer)
            return find(np.arange(48.0).reshape(1, 6, 8), Settings(most=most))

    one, other = found(np.arange(n)), found(rng.permutation(n))
    np.testing.assert_array_equal(one.place, other.place)
    np.testing.assert_array_equal(one.descriptor, other.descriptor)
    strength = one.descriptor[:, 0].tolist()
    assert strength == sorted(strength, reverse=True)
    pixels = {tuple(pixel) for pixel in np.clip(np.rint(place), 0, (5, 7)).tolist()}
    assert len(one.place) == min(most, len(pixels))
    assert {tuple(pixel) for pixel in one.place.tolist()} <= pixels


def test_equal_strengths_go_by_row_and_column(detector):
    name = detector("ties", "[[2, 1], [0, 3], [2, 0], [0, 3]], [1, 1, 1, 1], [[0], [1], [2], [3]]")
    place, descriptor = find(np.arange(20.0).reshape(1, 4, 5), Settings(detector=name))
    np.testing.assert_array_equal(place, [[0, 3], [2, 0], [2, 1]])
    assert descriptor[:, 0].tolist() == [1, 2, 0]


def test_a_constant_slice_has_none_whatever_the_detector_says(detector):
    name = detector("eager", "[[1, 1]], [1], np.ones((1, 6), np.uint8)")
    scan = find_all(np.stack([np.zeros((1, 4, 4)), np.arange(16.0).reshape(1, 4, 4)]), Settings(detector=name))
    assert scan.count.tolist() == [0, 1]
    assert scan.descriptor.shape == (1, 6)
    assert scan.descriptor.dtype == np.uint8


@pytest.mark.parametrize(
    "name", ["surf", "no_such_lab.detect", "json.no_such_function", "json.__doc__", ".detect", "a b.c"]
)
def test_a_detector_that_there_is_not_is_refused(name):
    with pytest.raises(UsageError, match="detector '") as caught:
        find(np.zeros((1, 4, 4)), Settings(detector=name))
    assert "dotted name" in caught.value.allowed


def test_what_a_detector_s_module_lacks_is_not_hidden(detector):
    name = detector("broken", "None", setup="import no_such_dependency")
    with pytest.raises(UsageError, match=r"my_lab_broken.py, line 2: ModuleNotFoundError: .*'no_such_dependency'"):
        keypoints.load_detector(name)


@pytest.mark.parametrize("name", ["os.system", "os.path.join", "builtins.len", "sys.exit", "json.dumps", "glob.glob"])
def test_a_function_that_is_no_detector_is_refused_with_what_it_lacks(name):
    with pytest.raises(UsageError, match=f"detector .*{name}") as error:
        keypoints.preparation({"keypoints": {"detector": name}})
    assert "sift" in error.value.next
    assert "sift" in error.value.allowed or "place (N, 2)" in error.value.allowed


def test_an_error_inside_a_detector_is_told_as_its_author_s(detector):
    name = detector("fails", "1 / 0")
    with pytest.raises(UsageError, match=r"my_lab_fails.detect returns nothing: it ends with ZeroDivisionError"):
        keypoints.load_detector(name)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "something else than three arrays"),
        ("[[1, 2]], [1]", "something else than three arrays"),
        ("[['a', 'b']], [1], [[1]]", "something else than three arrays"),
        ("[[1, 2, 3]], [1], [[1]]", r"arrays of shapes \(1, 3\), \(1,\), \(1, 1\)"),
        ("[[1, 2]], [1, 2], [[1]]", r"arrays of shapes \(1, 2\), \(2,\), \(1, 1\)"),
        ("[[1, 2]], [[1]], [[1]]", r"arrays of shapes \(1, 2\), \(1, 1\), \(1, 1\)"),
        ("[[1, 2]], 1.0, [[1]]", r"arrays of shapes \(1, 2\), \(\), \(1, 1\)"),
        ("[[1, 2]], [1], [1]", r"arrays of shapes \(1, 2\), \(1,\), \(1,\)"),
        ("[[1, 2]], [1], [[1], [2]]", r"arrays of shapes \(1, 2\), \(1,\), \(2, 1\)"),
        ("[[1, np.nan]], [1], [[1]]", "not finite"),
        ("[[1, 1]], [np.inf], [[1]]", "not finite"),
        ("[[1, 1]], [1], [[1e6]]", "not finite in float16"),
        ("[[4, 1]], [1], [[1]]", r"a place \[4\.0, 1\.0\] in an image of shape \(4, 5\)"),
    ],
)
def test_a_detector_that_returns_something_else_is_refused(detector, returned, said):
    name = detector("wrong", returned)
    with pytest.raises(UsageError, match=said) as caught:
        find(np.arange(20.0).reshape(1, 4, 5), Settings(detector=name))
    assert name in str(caught.value)


def test_descriptors_of_different_lengths_are_refused(detector):
    name = detector("lengths", "[[0, 0]], [1], np.ones((1, 1 + int(image[0, 0])))")
    images = np.stack([np.arange(4.0).reshape(1, 2, 2), np.array([[[1, 0], [0, 0.0]]])])
    with pytest.raises(UsageError, match="descriptors of 1 and 256 numbers"):
        find_all(images, Settings(detector=name))


# -------------------------------------------------------------------------------------------------- settings


def test_the_keys_of_prepare_are_split():
    images, none = preparation({"spacing_mm": 2.0}, {})
    assert (images, none) == (Preparation(spacing_mm=2.0), None)
    images, found = preparation({"spacing_mm": 2.0, "keypoints": {"most": 9}}, {"keypoints": {"detector": "sift"}})
    assert (images.spacing_mm, found) == (2.0, Settings(most=9))
    assert preparation({"keypoints": {}})[1] == Settings()
    assert preparation({"keypoints": {"most": 9}}, {"keypoints": None})[1] is None


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"keypoints": "sift"}, "prepare.keypoints='sift'"),
        ({"keypoints": {"most": 0}}, "prepare.keypoints.most=0"),
        ({"keypoints": {"mosst": 1}}, "unknown setting prepare.keypoints.mosst"),
        ({"keypoints": {"detector": "surf"}}, "detector 'surf'"),
        ({"spacing": 1}, "unknown setting prepare.spacing"),
        ({"keypoint": {"most": 1}}, "next: +prepare.keypoints="),
    ],
)
def test_wrong_keys_of_prepare_are_refused(layer, said):
    with pytest.raises(UsageError, match=said):
        preparation(layer, prefix="prepare.")
