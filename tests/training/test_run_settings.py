"""All settings of a run from its layers; every preset that ships."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lemis import outline, plugins
from lemis.errors import UsageError
from lemis.preparation.keypoints import preparation
from lemis.sampling.spatial import reach_px
from lemis.settings import load_preset, of_dims, plain, presets, resolve
from lemis.training import pairing, predicting, run_settings, schedule, supervised
from work_files_made import PRETRAINED, model_of


def test_defaults_are_the_protocols() -> None:
    settings = run_settings.pretraining("pcl", "unet2d", {}, ())
    assert settings.schedule == schedule.Settings()
    assert (settings.method_settings.batch_size, settings.method_settings.temperature) == (32, 0.1)
    tuned = run_settings.finetuning("unet2d", {}, ())
    assert tuned.objective == supervised.Settings()
    given = tuned.schedule
    assert (given.optimiser, given.learning_rate, given.floor, given.epochs) == ("adam", 5e-4, 5e-5, 200)


def test_layers_win_in_order() -> None:
    tree = {
        "pretrain": {"epochs": 10, "learning_rate": 0.2, "momentum": 0.5},
        "schedules": {"sal": {"learning_rate": 0.3, "momentum": 0.6}},
        "methods": {"sal": {"window": 2}, "pcl": {"embedding": 8}},
        "backbones": {"unet2d": {"base_width": 8}, "fcn": {"base_width": 2}},
    }
    sal = run_settings.pretraining("sal", "unet2d", tree, ["momentum=0.7", "method.window=3", "backbone.base_width=16"])
    assert (sal.schedule.epochs, sal.schedule.learning_rate, sal.schedule.momentum) == (10, 0.3, 0.7)
    assert (sal.method_settings.window, sal.backbone_settings.base_width) == (3, 16)
    pcl = run_settings.pretraining("pcl", "unet2d", tree, {"epochs": 4})
    assert (pcl.schedule.epochs, pcl.schedule.learning_rate, pcl.method_settings.embedding) == (4, 0.2, 8)
    assert pcl.backbone_settings.base_width == 8
    assert run_settings.pretraining("pcl", "fcn", tree, ()).backbone_settings.base_width == 2


def test_an_imported_network_has_the_settings_of_its_import_unless_others_are_typed(tmp_path: Path) -> None:
    network = plain(plugins.load("backbones", "swin_unetr").Settings(dims=3, feature_size=24))
    made = {**PRETRAINED, "backbone": "swin_unetr", "backbone_settings": network}
    imported = {"file": "t.pt", "digest": "1", "share": 1.0}

    def tuned(*overrides: str, facts: dict[str, Any]) -> Any:
        asked = run_settings.Asked(preset="tiny", overrides=overrides)
        return run_settings.of_finetuning(asked, tmp_path / "theirs", model_of(facts)).backbone_settings

    theirs = {**made, "imported": imported}
    assert plain(tuned(facts=theirs)) == network
    assert tuned("backbone.feature_size=12", facts=theirs).feature_size == 12
    assert tuned(facts=made).dims == 2  # pre-trained here, where the same preset says both


def test_finetune_has_its_own_section() -> None:
    tree = {"finetune": {"steps": 5, "objective": {"batch_size": 3}}, "backbones": {"unet2d": {"base_width": 8}}}
    tuned = run_settings.finetuning("unet2d", tree, ["objective.size_px=64", "floor=0"])
    assert (tuned.schedule.steps, tuned.schedule.floor, tuned.schedule.learning_rate) == (5, 0.0, 5e-4)
    assert (tuned.objective.batch_size, tuned.objective.size_px, tuned.backbone_settings.base_width) == (3, 64, 8)
    assert tree["finetune"]["objective"] == {"batch_size": 3}  # layers are not changed


def test_a_network_may_be_fine_tuned_in_its_own_way() -> None:
    tree = {
        "finetune": {"steps": 5, "learning_rate": 0.2, "objective": {"batch_size": 3, "size_px": 64}},
        "tunings": {"kaf_unet": {"learning_rate": 0.1, "objective": {"batch_size": 2}}},
    }
    plain, own = (run_settings.finetuning(name, tree, ()) for name in ("unet2d", "kaf_unet"))
    assert (plain.schedule.learning_rate, plain.objective.batch_size) == (0.2, 3)
    assert (own.schedule.learning_rate, own.objective.batch_size) == (0.1, 2)
    assert (own.schedule.steps, own.objective.size_px) == (5, 64)
    assert run_settings.finetuning("kaf_unet", tree, ["learning_rate=0.3"]).schedule.learning_rate == 0.3


def test_what_is_stored_is_plain_and_complete() -> None:
    stored = run_settings.pretraining("sal", "unet2d", {}, ()).stored()
    assert stored["method"]["name"] == "sal"
    assert stored["method"]["spatial"]["p_mirror"] == 0.5
    assert stored["backbone"] == {"name": "unet2d", "base_width": 48}
    assert stored["learning_rate"] == 0.1
    assert run_settings.finetuning("unet2d", {}, ()).stored()["objective"]["loss"] == "cross_entropy"


def test_a_settings_file_wins_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("backbones: {unet2d: {base_width: 6}}\npretrain: {epochs: 2}\n")
    tree = run_settings.base("tiny", file)
    assert tree["backbones"]["unet2d"]["base_width"] == 6
    assert tree["backbones"]["kaf_unet"] == load_preset("tiny")["backbones"]["kaf_unet"]
    assert tree["pretrain"] == {**load_preset("tiny")["pretrain"], "epochs": 2}


def test_an_unknown_section_is_refused_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pretrian: {epochs: 2}\n")
    with pytest.raises(UsageError, match="section 'pretrian'") as caught:
        run_settings.base(None, file)
    assert caught.value.next == "pretrain:"
    assert "finetune" in caught.value.allowed


def test_the_section_of_one_network_is_refused_and_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("backbone: {base_width: 16}\n")
    with pytest.raises(UsageError, match="section 'backbone' of") as caught:
        run_settings.base(None, file)
    assert caught.value.next == "backbones: {unet2d: {base_width: 16}}"
    file.write_text("volumes: {auxiliary: {weight: 1}}\n")
    with pytest.raises(UsageError, match=r"section .auxiliary. of .* in volumes") as caught:
        run_settings.base(None, file)
    assert caught.value.next == "auxiliaries: {NAME: {weight: 1}}"


@pytest.mark.parametrize(
    ("text", "given", "next"),
    [
        ("backbones: {unet_2d: {base_width: 16}}", "section backbones.unet_2d of", "unet2d:"),
        ("methods: {salt: {window: 2}}", "section methods.salt of", "sal:"),
        ("schedules: {salt: {epochs: 2}}", "section schedules.salt of", "sal:"),
        ("tunings: {kaf_nut: {steps: 2}}", "section tunings.kaf_nut of", "kaf_unet:"),
        ("auxiliaries: {voxel_siames: {weight: 2}}", "section auxiliaries.voxel_siames of", "voxel_siamese:"),
        ("volumes: {methods: {salt: {window: 2}}}", "section methods.salt of .*, in volumes", "sal:"),
        ("volumes: {pretrian: {epochs: 2}}", "section 'pretrian' of .*, in volumes", "pretrain:"),
    ],
)
def test_an_unknown_name_in_a_section_is_refused_with_the_nearest(
    text: str, given: str, next: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=given) as caught:
        run_settings.base("tiny", file)
    assert caught.value.next == next


def test_a_section_of_a_module_from_outside_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("backbones: {my_lab.net: {base_width: 16}}")
    assert run_settings.base(None, file)["backbones"]["my_lab.net"] == {"base_width": 16}


@pytest.mark.parametrize(
    ("overrides", "next"),
    [
        ("epoch=3", "epochs=..."),
        ("method.windw=3", "method.window=..."),
        ("backbone.width=3", "backbone.base_width=..."),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(overrides: str, next: str) -> None:
    with pytest.raises(UsageError, match="unknown setting") as caught:
        run_settings.pretraining("sal", "unet2d", {}, [overrides])
    assert caught.value.next == next


def test_an_unknown_setting_of_fine_tuning_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown setting objective\.batchsize") as caught:
        run_settings.finetuning("unet2d", {}, ["objective.batchsize=3"])
    assert caught.value.next == "objective.batch_size=..."


@pytest.mark.parametrize(("override", "next"), [("method=pcl", "--method pcl"), ("backbone=x", "--backbone x")])
def test_a_choice_is_no_setting(override: str, next: str) -> None:
    with pytest.raises(UsageError, match="settings below it") as caught:
        run_settings.pretraining("sal", "unet2d", {}, [override])
    assert caught.value.next == next


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(UsageError, match="finetune=3"):
        run_settings.finetuning("unet2d", {"finetune": 3}, ())


def test_method_and_network_are_the_users_else_the_presets_else_ours() -> None:
    assert run_settings.choose(None, None, {}) == ("sal", "unet2d")
    assert run_settings.choose(None, None, load_preset("paper/pcl-acdc")) == ("pcl", "unet2d")
    assert run_settings.choose(None, None, load_preset("paper/kaf-acdc")) == ("kaf", "kaf_unet")
    assert run_settings.choose("pcl", None, load_preset("paper/kaf-acdc")) == ("pcl", "unet2d")
    assert run_settings.choose(None, "unet3d", load_preset("small")) == ("scratch", "unet3d")
    assert run_settings.choose("mae", "unet3d", load_preset("small")) == ("mae", "unet3d")
    assert run_settings.choose(None, None, load_preset("small")) == ("pcl", "unet2d")
    assert run_settings.choose(None, "swin_unetr", load_preset("small")) == ("pcl", "swin_unetr")
    assert run_settings.choose(None, "swin_unetr", load_preset("small"), ["backbone.dims=3"]) == (
        "scratch",
        "swin_unetr",
    )
    assert run_settings.choose(None, None, load_preset("paper/voxel-siamese")) == ("scratch", "unet3d")


def test_volumes_have_their_own_section() -> None:
    tree = {
        "finetune": {"steps": 5, "objective": {"size_px": 64, "batch_size": 3}},
        "methods": {"pcl": {"size_px": 64, "embedding": 8}},
        "volumes": {
            "finetune": {"objective": {"size_px": [8, 16, 16]}},
            "methods": {"pcl": {"size_px": 16}},
            "backbones": {"unet3d": {"base_width": 4}},
        },
    }
    flat, solid = (run_settings.finetuning(name, tree, ()) for name in ("unet2d", "unet3d"))
    assert (flat.objective.size_px, solid.objective.size_px) == (64, (8, 16, 16))
    assert flat.objective.batch_size == solid.objective.batch_size == 3
    assert (flat.schedule.steps, solid.schedule.steps, solid.backbone_settings.base_width) == (5, 5, 4)
    slices, patches = (run_settings.pretraining("pcl", name, tree, ()).method_settings for name in ("unet2d", "unet3d"))
    assert (slices.size_px, patches.size_px, patches.embedding) == (64, 16, 8)
    assert run_settings.dims_of("swin_unetr", tree) == 2
    assert run_settings.dims_of("swin_unetr", tree, ["backbone.dims=3"]) == 3
    assert run_settings.dims_of("swin_unetr", {"backbones": {"swin_unetr": {"dims": 3}}}) == 3


def test_an_auxiliary_loss_has_settings_where_it_is_named() -> None:
    tree = {"auxiliaries": {"voxel_siamese": {"layers": 2, "weight": 3.0}}}
    plain = run_settings.finetuning("unet2d", tree, ())
    assert plain.auxiliary is None
    assert "auxiliary" not in plain.stored()
    named = run_settings.finetuning("unet2d", tree, ["auxiliary.weight=5"], auxiliary="voxel_siamese")
    assert (named.auxiliary_settings.layers, named.auxiliary_settings.weight) == (2, 5.0)
    assert named.stored()["auxiliary"]["name"] == "voxel_siamese"
    assert run_settings.finetuning("unet2d", {**tree, "auxiliary": "voxel_siamese"}, ()).auxiliary_settings.layers == 2
    with pytest.raises(UsageError, match=r"auxiliary\.weight without an auxiliary loss") as caught:
        run_settings.finetuning("unet2d", tree, ["auxiliary.weight=5"])
    assert caught.value.next == "--auxiliary voxel_siamese"
    with pytest.raises(UsageError, match=r"auxiliary\.wieght"):
        run_settings.finetuning("unet2d", tree, ["auxiliary.wieght=5"], auxiliary="voxel_siamese")


def test_a_way_to_use_unlabelled_scans_has_settings_where_it_is_named() -> None:
    tree = {"semis": {"bcp": {"alpha": 0.25, "transductive": True}}}
    plainly = run_settings.finetuning("unet2d", tree, ())
    assert plainly.semi is None
    assert "semi" not in plainly.stored()
    named = run_settings.finetuning("unet2d", tree, ["semi.stage_1=0"], semi="bcp")
    assert (named.semi_settings.alpha, named.semi_settings.stage_1, named.pool.transductive) == (0.25, 0.0, True)
    assert named.stored()["semi"] | {"name": "bcp", "transductive": True, "alpha": 0.25} == named.stored()["semi"]
    assert run_settings.finetuning("unet2d", {**tree, "semi": "bcp"}, ()).semi_settings.alpha == 0.25
    with pytest.raises(UsageError, match=r"semi\.alpha without a way to use unlabelled scans") as caught:
        run_settings.finetuning("unet2d", tree, ["semi.alpha=1"])
    assert caught.value.next == "--semi bcp"
    with pytest.raises(UsageError, match=r"semi\.alfa"):
        run_settings.finetuning("unet2d", tree, ["semi.alfa=1"], semi="bcp")
    with pytest.raises(UsageError, match=r"section semis\.bpc of"):
        run_settings.base(None, None, {"semis": {"bpc": {}}})
    given = run_settings.by_section(["semi.alpha=1", "finetune.steps=3"])
    assert given["finetune"] == {"steps": 3, "semi": {"alpha": 1}}


def test_prediction_s_settings_are_those_that_are_no_defaults() -> None:
    tree = {"predict": {"largest_components": False}, "volumes": {"predict": {"overlap": 0.25, "blend": "gaussian"}}}
    assert run_settings.by_section(["predict.overlap=0"])["predict"] == {"overlap": 0}
    assert predicting.settings(2, tree, {}) == {"largest_components": False}
    assert predicting.settings(3, tree, {"largest_components": "auto"}) == {"overlap": 0.25}
    assert predicting.settings(3, {}, {"overlap": 0.5, "at_once": 1}) == {}
    with pytest.raises(UsageError, match=r"predict\.at_once=1 for a network that sees whole slices"):
        predicting.settings(2, tree, {"at_once": 1}, prefix="predict.")
    with pytest.raises(UsageError, match="unknown setting overlp") as caught:
        predicting.settings(3, {}, {"overlp": 0.5})
    assert caught.value.next == "overlap=..."
    with pytest.raises(UsageError, match=r"setting predict\.overlap of finetune") as caught:
        run_settings.finetuning("unet2d", {}, ["predict.overlap=0"])
    assert caught.value.next == "lemis predict WORK/runs/NAME overlap=0"
    with pytest.raises(UsageError, match="section 'predct' of settings") as caught:
        run_settings.base(None, None, {"predct": {}})
    assert caught.value.next == "predict:"


def test_an_extra_loss_and_unlabelled_scans_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--semi bcp with --auxiliary voxel_siamese"):
        run_settings.finetuning("unet2d", {"auxiliary": "voxel_siamese"}, (), semi="bcp")


@pytest.mark.parametrize("name", presets())
def test_every_preset_resolves_for_every_method_and_network_it_names(name: str) -> None:
    tree = run_settings.base(name, None)
    method, backbone = run_settings.choose(None, None, tree)
    for dims in (2, 3):
        preparation(of_dims(tree, dims).get("prepare", {}))
        assert not of_dims(tree, dims).keys() & {"volumes"}
    for network in {backbone, *tree["backbones"]}:
        run_settings.finetuning(network, tree, ())
    methods = {method, *tree.get("methods", {}), *tree.get("schedules", {})} - {pairing.SCRATCH}
    assert methods <= set(plugins.names("methods"))
    for one in methods:
        run_settings.pretraining(one, None, tree, ())
    for one in of_dims(tree, 3).get("methods", {}):
        if one in pairing.methods_of(3):
            run_settings.pretraining(one, "unet3d", tree, ())


@pytest.mark.parametrize("name", [name for name in presets() if not name.startswith("paper/")])
def test_presets_of_ours_serve_every_method_and_network(name: str) -> None:
    tree = run_settings.base(name, None)
    assert set(tree["methods"]) == set(plugins.names("methods"))
    assert set(tree["backbones"]) == set(plugins.names("backbones"))
    assert set(tree["volumes"]["methods"]) == set(pairing.methods_of(3))


def test_the_preset_of_voxel_siamese_has_the_papers_values() -> None:
    tree = run_settings.base("paper/voxel-siamese", None)
    images, _ = preparation(run_settings.for_network(tree, "unet3d")["prepare"])
    assert (images.whole_px, images.clip_values) == ((64, 128, 128), (-200, 250))
    tuned = run_settings.finetuning("unet3d", tree, ())
    given = tuned.schedule
    assert (given.optimiser, given.learning_rate, given.weight_decay, given.epochs) == ("adam", 1e-3, 1e-5, 500)
    assert given.schedule == "poly"
    assert (tuned.objective.loss, tuned.objective.batch_size) == ("dice_squared", 4)
    assert tuned.objective.size_px == (64, 128, 128)
    assert reach_px(tuned.objective.spatial, (64, 128, 128)) == (64, 128, 128)
    assert tuned.auxiliary == "voxel_siamese"
    how = tuned.auxiliary_settings
    assert (how.layers, how.voxels, how.false_negatives, how.hidden) == (3, 1700, 1000, 64)


PROTOCOL = [name for name in presets() if name.endswith(("-acdc", "-chd")) and not name.startswith("paper/macl-")]


@pytest.mark.parametrize("name", PROTOCOL)
def test_presets_of_papers_have_the_papers_values(name: str) -> None:
    method, data = name.removeprefix("paper/").split("-")
    tree = run_settings.base(name, None)
    settings = run_settings.pretraining(method, None, tree, ())
    assert run_settings.choose(None, None, tree)[0] == method
    assert settings.method_settings.threshold == {"acdc": 0.35, "chd": 0.1}[data]
    assert settings.backbone_settings.base_width == {"acdc": 48, "chd": 32}[data]
    assert settings.method_settings.size_px == {"acdc": 352, "chd": 512}[data]
    given = settings.schedule
    assert (given.optimiser, given.learning_rate, given.epochs) == (
        ("sgd", 0.002, 50) if method == "kaf" else ("sgd", 0.1, 300)
    )
    tuned = run_settings.finetuning(settings.backbone, tree, ())
    assert tuned.schedule.learning_rate == {"acdc": 5e-4, "chd": 5e-5}[data]
    assert tuned.objective.spatial.p_spatial == {"acdc": 0.67, "chd": 0.0}[data]


# --- before PyTorch is imported


@pytest.mark.parametrize("folder", ["methods", "backbones", "auxiliary", "semi", "single"])
def test_an_outline_has_the_settings_of_the_module(folder):
    for name in plugins.names(folder):
        real = plugins.load(folder, name)
        light = outline._outlined(f"lemis.{folder}.{name}", Path(real.__file__))
        assert plain(resolve(light.Settings)) == plain(resolve(real.Settings)), name
        for constant in ("DIMS", "BACKBONES", "PRESETS"):
            assert plain(getattr(light, constant, None)) == plain(getattr(real, constant, None)), name


@pytest.mark.parametrize(
    ("room", "name"),
    [("training", "schedule"), ("training", "supervised"), ("prediction", "tiles"), ("prediction", "settings")],
)
def test_an_outline_has_the_settings_of_the_loop_and_of_tiles(room, name):
    real = plugins.load(room, name)
    light = outline._outlined(f"lemis.{room}.{name}", Path(real.__file__))
    assert plain(resolve(light.Settings)) == plain(resolve(real.Settings))
    with pytest.raises(AttributeError, match="has no Nothing"):
        light.Nothing  # noqa: B018


def test_all_that_ships_is_resolved_without_pytorch():
    code = (
        "import sys\n"
        "from lemis import plugins\n"
        "from lemis.training import run_settings\n"
        "from lemis.comparison.plans import load_plan\n"
        "before, light = run_settings.pretraining, plugins.outlined\n"
        "for method in plugins.names('methods'): before(method, None, {}, {}, load=light)\n"
        "for network in plugins.names('backbones'): run_settings.finetuning(network, {}, {}, load=plugins.outlined)\n"
        "for name in ('default', 'paper/kaf-table1-acdc'): load_plan(name, load=plugins.outlined)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_that_a_preset_says_nothing_of_is_named() -> None:
    tree = run_settings.base("tiny", None, {"methods": {"my_lab.known": {"size_px": 32}}})
    names = ("my_lab.idea", "my_lab.known", "pcl", None, "my_lab.net", "my_lab.idea")
    assert run_settings.without_a_section("tiny", tree, *names) == [
        "preset tiny has no section for my_lab.idea: its own defaults are used",
        "preset tiny has no section for my_lab.net: its own defaults are used",
    ]
    assert run_settings.without_a_section(None, {}, *names) == []
    volumes = {"volumes": {"backbones": {"my_lab.net": {}}}}
    assert run_settings.without_a_section("tiny", volumes, "my_lab.net") == []
