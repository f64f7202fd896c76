"""Every method on every network that it says it works on: one step, and its weights fine-tune the same network."""

from __future__ import annotations

from typing import Any

import pytest

from lemis import plugins
from lemis.errors import UsageError
from lemis.promises import pairs
from lemis.promises.material import Material
from lemis.training import pairing, run_settings

CASES = [pair for method in plugins.names("methods") for pair in pairs.of_method(method)]


# What a method or a pair needs other than the tiny preset, as its message says when it has not got it.
NEEDS: dict[Any, dict[str, Any]] = {
    "macl": {"size_px": 128},
    "pirl": {"size_px": 96},
    ("macl", "swin_unetr"): {"size_px": 256},
    ("pirl", "swin_unetr"): {"size_px": 192},
    ("glcl", "fcn"): {"decoder_blocks": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone", "dims"), CASES)
def test_a_method_trains_a_network_and_its_weights_fine_tune_it(
    name: str, backbone: str, dims: int, material: Material
) -> None:
    needs = NEEDS.get(name, {}) | NEEDS.get((name, backbone), {})
    batch = material.batch if dims == 2 else material.of_each_scan
    pairs.it_trains_a_network_and_hands_its_weights_on(pairs.Pair(name, backbone, dims, batch, needs))


UNEVEN = {2: [1, [1, 2], 2, [2, 1], 2], 3: [1, [1, 2, 2], [1, 2, 2], 2, 2]}  # strides of stages, by dimensions


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone", "dims"), [case for case in CASES if case[1] == "plainconv_unet"])
def test_a_method_trains_a_network_whose_strides_differ_along_the_axes(
    name: str, backbone: str, dims: int, material: Material
) -> None:
    batch = material.batch if dims == 2 else material.of_each_scan
    uneven = pairs.Pair(name, backbone, dims, batch, NEEDS.get(name, {}), {"strides": UNEVEN[dims]})
    pairs.it_trains_a_network_and_hands_its_weights_on(uneven)


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_a_wrong_pair_is_refused_with_the_right_ones(method: str) -> None:
    right = pairing.backbones_of(method)
    assert right
    every = [
        (name, dims) for name in plugins.names("backbones") for dims in plugins.describe("backbones", name)["dims"]
    ]
    wrong = [(name, dims) for name, dims in every if (method, name, dims) not in CASES]
    assert bool(wrong) == (len(right) < len({name for name, _ in every}))
    for name, dims in wrong:
        with pytest.raises(UsageError, match=f"{method} on the network {name}") as error:
            pairing.refuse_pair(method, name, dims)
        assert all(one in error.value.allowed for one in right)


def test_a_method_of_slices_is_refused_on_networks_of_volumes() -> None:
    with pytest.raises(UsageError, match="sal on the network unet3d") as error:
        run_settings.pretraining("sal", "unet3d", run_settings.base("tiny", None), {})
    assert "unet2d" in error.value.allowed
    with pytest.raises(UsageError, match="sal on the network swin_unetr, of 3 dimensions") as error:
        run_settings.pretraining("sal", "swin_unetr", run_settings.base("tiny", None), {"backbone": {"dims": 3}})
    assert all(name in error.value.allowed for name in ("pcl", "simclr", "rotation", "mae", "models_genesis"))
    assert (
        run_settings.pretraining("sal", "swin_unetr", run_settings.base("tiny", None), {}).backbone_settings.dims == 2
    )
