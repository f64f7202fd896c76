"""Which network goes with a method, and the keypoints that it looks at with those of the prepared scans."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from lemis import plugins
from lemis.errors import UsageError
from lemis.preparation import preprocess, store, store_files
from lemis.preparation.keypoints import Settings
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import plain, resolve
from lemis.training import pairing, run_settings
from lemis.training.pairing import keypoints_to_find, require_keypoints

SMALL = {"base_width": 2, "keypoint_width": 8, "pairs": 1, "heads": 1, "keypoints": {"most": 9}}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be named with a dot."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("elsewhere", "elsewhere.flat", "elsewhere.solid", "elsewhere.silent"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    source = (Path(plugins.__file__).parent / "backbones" / "unet2d.py").read_text(encoding="utf-8")
    for name, line in (("flat", "DIMS = (2,)"), ("solid", "DIMS = (3,)"), ("silent", "")):
        (tmp_path / "elsewhere" / f"{name}.py").write_text(source.replace("DIMS = (2,)", line), encoding="utf-8")
    return tmp_path


def prepared(path: Path, keypoints: Settings | None, **images: object) -> store.Store:
    """A store of one scan."""
    settings = Preparation(**images)  # type: ignore[arg-type]
    settled = dataclasses.replace(settings, spacing_mm=settings.spacing_mm or 1.0)
    facts = preprocess.describe(
        id="a", subject="a", images=("a.nii.gz",), label=None, shape=(8, 8, 2), spacing_mm=(1.0, 1.0, 5.0),
        slice_axis=2, settings=settled,
    )  # fmt: skip
    image, facts = preprocess.prepare_image(np.arange(128.0).reshape(8, 8, 2), facts, settled)
    store_files.write_scan(path, facts, image)
    store_files.write_meta(
        path, scans=["a"], channels=["c"], label_names=["background"], label_values=[0], settings=plain(settings),
        keypoints=None if keypoints is None else plain(keypoints),
    )  # fmt: skip
    return store.open_store(path)


def test_a_method_has_the_networks_it_names_and_else_all_of_its_dimensions() -> None:
    assert pairing.backbones_of("kaf") == ["kaf_unet", "fcn"]
    assert pairing.default_backbone("kaf") == "kaf_unet"
    assert set(pairing.backbones_of("pcl")) >= {"unet2d", "kaf_unet", "fcn"}
    assert pairing.default_backbone("pcl") == pairing.default_backbone("scratch") == "unet2d"
    assert run_settings.pretraining("kaf", None, {}, ()).backbone == "kaf_unet"
    assert run_settings.pretraining("pcl", None, {}, ()).backbone == "unet2d"


def test_a_wrong_network_is_refused_with_the_right_ones() -> None:
    with pytest.raises(UsageError, match="method kaf on the network unet2d") as caught:
        run_settings.pretraining("kaf", "unet2d", {}, ())
    assert (caught.value.allowed, caught.value.next) == ("kaf_unet, fcn", "--backbone kaf_unet")
    with pytest.raises(UsageError, match="method sal on the network unet3d, of 3 dimensions") as caught:
        run_settings.pretraining("sal", "unet3d", {}, ())
    assert "unet2d" in caught.value.allowed
    assert "on networks of 3 dimensions the methods mae, models_genesis" in caught.value.allowed
    with pytest.raises(UsageError, match="method sal on the network swin_unetr, of 3 dimensions") as caught:
        run_settings.pretraining("sal", "swin_unetr", {}, ["backbone.dims=3"])
    assert caught.value.next == "--method mae"


def test_methods_of_a_number_of_dimensions() -> None:
    assert pairing.methods_of(3) == ["mae", "models_genesis", "pcl", "rotation", "simclr", "swin_unetr_ssl"]
    assert set(pairing.methods_of(2)) == set(plugins.names("methods")) - {"kaf"}


def test_a_network_from_outside_is_known_by_its_dimensions_only(outside: Path) -> None:
    for name in ("flat", "silent"):
        assert run_settings.pretraining("kaf", f"elsewhere.{name}", {}, ()).backbone == f"elsewhere.{name}"
    with pytest.raises(UsageError, match=r"method sal on the network elsewhere\.solid") as caught:
        run_settings.pretraining("sal", "elsewhere.solid", {}, ())
    assert "unet2d" in caught.value.allowed


@pytest.mark.parametrize(
    ("backbone", "given", "most"),
    [
        ("unet2d", {}, None),
        ("kaf_unet", SMALL, 9),
        ("kaf_unet", {**SMALL, "levels": []}, None),
        ("fcn", SMALL, None),
        ("fcn", {**SMALL, "levels": [2]}, 9),
    ],
)
def test_who_looks_at_keypoints(backbone: str, given: dict[str, object], most: int | None) -> None:
    settings = resolve(plugins.load("backbones", backbone).Settings, given)
    found = pairing.keypoints_of(backbone, settings)
    assert found == (None if most is None else Settings(most=most))


def test_only_keypoints_that_are_needed_and_missing_are_found(tmp_path: Path) -> None:
    few, many, other = Settings(most=4), Settings(most=8), Settings(detector="my_lab.find", most=8)
    assert keypoints_to_find(tmp_path, None, None) is None
    assert keypoints_to_find(tmp_path, few, None) == few
    assert keypoints_to_find(tmp_path, None, few) == few
    assert keypoints_to_find(tmp_path, many, few) == many
    prepared(tmp_path, None)
    assert keypoints_to_find(tmp_path, None, few) == few
    prepared(tmp_path, many)
    assert keypoints_to_find(tmp_path, None, few) is None
    assert keypoints_to_find(tmp_path, None, many) is None
    assert keypoints_to_find(tmp_path, None, Settings(most=9)) == Settings(most=9)
    assert keypoints_to_find(tmp_path, None, other) == other


def test_keypoints_that_do_not_do_for_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prepare\.keypoints: sift, 4 of a slice") as caught:
        keypoints_to_find(tmp_path, Settings(most=4), Settings(most=8))
    assert caught.value.next == "prepare.keypoints.detector=sift prepare.keypoints.most=8"


def test_a_store_without_the_keypoints_is_refused_with_a_command_that_keeps_its_images(tmp_path: Path) -> None:
    wanted, path = Settings(most=8), tmp_path / "prepared"
    path.mkdir()
    require_keypoints(prepared(path, wanted), wanted)
    require_keypoints(prepared(path, Settings(most=9)), wanted)
    require_keypoints(prepared(path, None), None)
    with pytest.raises(UsageError, match="prepared: no keypoints") as caught:
        require_keypoints(prepared(path, None, spacing_mm=2.0, clip_percentiles=(1, 99)), wanted)
    assert caught.value.next == (
        f"lemis prepare {tmp_path} spacing_mm=2.0 'clip_percentiles=[1,99]' keypoints.detector=sift keypoints.most=8"
    )
    with pytest.raises(UsageError, match="prepared: keypoints of sift, 7 of a slice") as caught:
        require_keypoints(prepared(path, Settings(most=7)), wanted)
    assert caught.value.allowed == "the keypoints that the network looks at: sift, 8 of a slice"
    with pytest.raises(UsageError, match="keypoints of sift"):
        require_keypoints(prepared(path, Settings(most=8)), dataclasses.replace(wanted, detector="my_lab.find"))
