"""Plans of nnU-Net and nnssl: what network they describe, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemis.backbones import plainconv_unet, residual_encoder_unet
from lemis.errors import UsageError
from lemis.exchange.nnunet_files import as_planned
from lemis.formats import nnunet_plans
from lemis.settings import resolve

KWARGS: dict[str, Any] = {
    "n_stages": 3, "features_per_stage": [8, 16, 20], "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
OLD = {
    "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 8, "unet_max_num_features": 20,
    "n_conv_per_stage_encoder": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": KWARGS["strides"], "conv_kernel_sizes": KWARGS["kernel_sizes"], "patch_size": [8, 16, 16],
}  # fmt: skip


def plans(kwargs: dict[str, Any] | None = None, name: str = PLAIN, **more: Any) -> dict[str, Any]:
    described = {"network_class_name": name, "arch_kwargs": KWARGS | (kwargs or {}), "_kw_requires_import": ["conv_op"]}
    return {
        "configurations": {
            "2d": {"patch_size": [16, 16]}, "3d_fullres": {"patch_size": [8, 16, 16], "architecture": described},
            "cascade": {"inherits_from": "3d_fullres"}, **more,
        }
    }  # fmt: skip


def test_a_plan_gives_the_settings_of_its_network(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(plans()))
    settings = resolve(
        plainconv_unet.Settings, {"base_width": 64, "n_stages": 6},
        {"plans": str(file), "configuration": "cascade", "norm_eps": 1e-3},
    )  # fmt: skip
    assert (settings.dims, settings.n_stages, settings.features_per_stage) == (3, 3, (8, 16, 20))
    assert settings.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert (settings.norm_eps, settings.norm_affine) == (1e-3, True)
    block = nnunet_plans.architecture("plainconv_unet", as_planned("plainconv_unet", settings))
    assert block["network_class_name"] == PLAIN
    assert block["arch_kwargs"] == KWARGS | {"norm_op_kwargs": {"eps": 1e-3, "affine": True}}
    assert not hasattr(settings, "plans")


def test_a_plan_before_2_4_and_one_of_nnssl() -> None:
    old = nnunet_plans.of_plans({"configurations": {"3d_fullres": OLD}}, None, "a")
    assert old == nnunet_plans.of_plans(plans(), "3d_fullres", "a")
    adapted = {"architecture_plans": {"arch_class_name": PLAIN, "arch_kwargs": KWARGS},
               "pretrain_plan": {"configurations": {"onemmiso": {}}}}  # fmt: skip
    assert nnunet_plans.of_plans(adapted, None, "a") == old._replace(configuration="onemmiso")
    named = nnunet_plans.of_plans(
        {"architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None}}, None, "a"
    )
    settings = resolve(residual_encoder_unet.Settings, named.settings)
    assert (named.backbone, residual_encoder_unet.counts_of(settings)) == ("residual_encoder_unet", (1, 3, 4, 6, 6, 6))


@pytest.mark.parametrize(
    ("found", "configuration", "given", "next"),
    [
        (plans(), None, "a has 3 configurations", "--configuration 3d_fullres"),
        (plans(), "4d", "no configuration '4d'", "--configuration 2d"),
        (plans(round={"inherits_from": "round"}), "round", "inherits from itself", "--configuration 2d"),
        (plans(), "2d", "names no network", "the plans.json"),
        (plans({"norm_op": "torch.nn.BatchNorm3d"}), "3d_fullres", "norm_op=torch.nn.BatchNorm3d", "weights of a"),
        (plans({"nonlin": "torch.nn.ReLU"}), "3d_fullres", "nonlin=torch.nn.ReLU", "weights of a network"),
        (plans({"nonlin_kwargs": {"negative_slope": 0.2}}), "3d_fullres", "negative_slope", "weights of a network"),
        (plans({"dropout_op": "torch.nn.Dropout3d"}), "3d_fullres", "dropout_op='torch.nn.Dropout3d'", "weights of a"),
        (plans({"nonlin_first": True}), "3d_fullres", "nonlin_first=True", "weights of a network"),
        (plans({"wavelets": 3}), "3d_fullres", "the argument 'wavelets'", "the plans.json"),
        (plans(name="x.PrimusM"), "3d_fullres", "a network PrimusM, which Lemis does not have", "weights of one"),
        ({"a": 1}, None, "it has no configurations", "the plans.json"),
        ({"architecture_plans": {"arch_class_name": "PrimusL"}}, None, "a network PrimusL", "weights of one"),
        ({"architecture_plans": {"arch_class_name": "NoSkipResEncL"}}, None, "network NoSkipResEncL", "weights of"),
    ],
)  # fmt: skip
def test_what_our_networks_do_not_do_is_refused(found: Any, configuration: str | None, given: str, next: str) -> None:
    with pytest.raises(UsageError, match=given) as caught:
        nnunet_plans.of_plans(found, configuration, "a")
    assert caught.value.next.startswith(next)


def test_a_plan_of_another_network_and_a_configuration_without_a_plan_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(plans()))
    with pytest.raises(UsageError, match="is a PlainConvUNet") as caught:
        resolve(residual_encoder_unet.Settings, {"plans": str(file), "configuration": "3d_fullres"})
    assert caught.value.next == "--backbone plainconv_unet"
    with pytest.raises(UsageError, match="without a plan"):
        resolve(plainconv_unet.Settings, {"configuration": "2d"})
    with pytest.raises(UsageError, match="3 configurations") as caught:
        resolve(plainconv_unet.Settings, {"plans": str(file)})
    assert caught.value.next == "backbone.configuration=3d_fullres"
