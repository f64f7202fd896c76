"""What a CUDA device must give: the views of the CPU, losses near it, and predictions like it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lemis import contracts, plugins
from lemis.contracts import Batch, View
from lemis.formats.volume import read
from lemis.parts import components
from lemis.preparation.store import open_store
from lemis.promises.material import take
from lemis.promises.semis import LATE
from lemis.runs.run import load_model
from lemis.sampling import intensity, views, warping
from lemis.sampling.draw import Rows
from lemis.sampling.patches import Patches
from lemis.sampling.samples import Slices, draw_batches
from lemis.sampling.spatial import Interpolation, Spatial
from lemis.training import launch, pairing, run_settings, schedule
from lemis.training.supervised import Objective
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.pretrain import pretrain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """TF32 has ten bits: far coarser than what is compared here."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def batch_of(work: Path, device: torch.device, *, with_labels: bool = False) -> Batch:
    """Eight slices of two scans, the same on every device, each with its neighbour and with keypoints."""
    store = open_store(work / "prepared")
    scans = [i for i, facts in enumerate(store.scans) if facts.labelled or not with_labels]
    slices = Slices(store, scans, device, with_labels=with_labels, keypoints=16, descriptors=True)
    assert slices.resident
    sampling = contracts.Sampling(kind="neighbours", batch_size=8, reach=0.2)
    rows = draw_batches(sampling, slices.scan, slices.subject, seed=0, epoch=0)[:1]
    return next(slices.stream(rows))


def same_place(one: View, other: View) -> None:
    torch.testing.assert_close(other.geometry.to_source.cpu(), one.geometry.to_source, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(other.image.cpu(), one.image, rtol=1e-3, atol=1e-3)
    assert one.label is not None
    assert other.label is not None
    # A pixel on the border between two nearest neighbours may fall to either.
    assert float((one.label != other.label.cpu()).float().mean()) < 2e-3


def test_resident_batches_are_equal(prepared_work: Path) -> None:
    one, other = (batch_of(prepared_work, device, with_labels=True) for device in (CPU, CUDA))
    assert one.neighbour is not None
    assert other.neighbour is not None
    for here, there in ((one, other), (one.neighbour, other.neighbour)):
        for name, values in here._asdict().items():
            found = getattr(there, name)
            if name == "neighbour":
                continue
            if values is None:
                assert found is None
            else:
                assert found.device.type == CUDA.type
                torch.testing.assert_close(found.cpu(), values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_equal(prepared_work: Path, interpolation: Interpolation) -> None:
    settings = Spatial(interpolation=interpolation)
    one, other = (
        views.random_view(settings, batch_of(prepared_work, device, with_labels=True), 48, Rows(1, 2, device))
        for device in (CPU, CUDA)
    )
    same_place(one, other)
    for turns in range(4):
        same_place(warping.quarter_turns(one, turns), warping.quarter_turns(other, turns))


def test_intensities_are_equal(prepared_work: Path) -> None:
    settings = intensity.Intensity()
    one, other = (
        intensity.augment(batch_of(prepared_work, device).image, settings, Rows(1, 2, device)) for device in (CPU, CUDA)
    )
    torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-3)


def losses(work: Path, method: str, device: torch.device, *, bf16: bool) -> dict[str, float]:
    settings = run_settings.pretraining(method, None, run_settings.base("tiny", None), ())
    torch.manual_seed(0)
    module = plugins.load("backbones", settings.backbone)
    network = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=4)
    objective = settings.method_module.Method(network, settings.method_settings).to(device)
    objective.after_step(1.0)  # past the warm-up of an alignment weight
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        outcome: contracts.Outcome = objective(batch_of(work, device), Rows(3, 4, device))
    total = torch.stack(list(outcome.losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for name, p in objective.named_parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return {name: float(loss.detach()) for name, loss in outcome.losses.items()}


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_a_step_on_cuda_is_near_that_on_the_cpu(prepared_work: Path, method: str) -> None:
    exact = losses(prepared_work, method, CPU, bf16=False)
    same = losses(prepared_work, method, CUDA, bf16=False)
    rough = losses(prepared_work, method, CUDA, bf16=True)
    for name, value in exact.items():
        assert same[name] == pytest.approx(value, rel=2e-3), name
        assert rough[name] == pytest.approx(value, rel=0.05, abs=0.02), name


@pytest.mark.parametrize("method", ["pcl", "sal"])
@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_training_in_half_precision_stays_finite(work: Path, method: str, precision: str) -> None:
    overrides = ("steps=5", f"precision={precision}")
    run = pretrain(work, method=method, preset="tiny", overrides=overrides, device="cuda")
    weights, _ = load_model(run)
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_auto_takes_the_device_and_its_bf16() -> None:
    assert launch.chosen_device("auto") == "cuda"
    expected = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    assert launch.precision(schedule.Settings(), "cuda") == expected


def test_a_run_of_the_gpu_predicts_alike_on_the_cpu(work: Path) -> None:
    run = finetune(work, fold=0, preset="tiny", overrides=("steps=10", "precision=32"), device="cuda")
    found = []
    for device in ("cuda", "cpu"):
        folder = predict(run, scans=["heart_005"], output=work / device, device=device)
        found.append(read(folder / "heart_005.nii.gz").array)
    assert float(np.mean(found[0] != found[1])) < 5e-3


# ------------------------------------------------------------------------------------------------------------- volumes

PATCH = (16, 32, 32)


def patches_of(work: Path, device: torch.device) -> Batch:
    """Two labelled patches, the same on every device."""
    store = open_store(work / "prepared")
    labelled = [i for i, facts in enumerate(store.scans) if facts.labelled]
    sampling = contracts.Sampling(kind="slices", batch_size=2, patch_px=PATCH, foreground_share=0.5)
    source = Patches(store, labelled, device, sampling, Spatial(), with_labels=True)
    assert source.resident
    return next(source.stream(source.draw(sampling, seed=0, epoch=0)[:1]))


def test_patches_and_their_views_are_equal(prepared_work: Path) -> None:
    one, other = (patches_of(prepared_work, device) for device in (CPU, CUDA))
    for name, values in one._asdict().items():
        if values is not None:
            assert getattr(other, name).device.type == CUDA.type
            torch.testing.assert_close(getattr(other, name).cpu(), values, rtol=0, atol=0)
    seen = (
        views.random_view(Spatial(), batch, PATCH, Rows(1, 2, device)) for batch, device in ((one, CPU), (other, CUDA))
    )
    same_place(*seen)


def labelled_losses(work: Path, backbone: str, auxiliary: str, device: torch.device, *, bf16: bool) -> dict[str, float]:
    settings = run_settings.finetuning(backbone, run_settings.base("tiny", None), (), auxiliary=auxiliary)
    torch.manual_seed(0)
    module = plugins.load("backbones", backbone)
    network = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=4)
    loss = plugins.load("auxiliary", auxiliary)
    extra = loss.Auxiliary(network, settings.auxiliary_settings, num_classes=4)
    objective = Objective(network, settings.objective, extra).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        outcome: contracts.Outcome = objective(patches_of(work, device), Rows(3, 4, device))
    torch.stack(list(outcome.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return {name: float(value.detach()) for name, value in outcome.losses.items()}


@pytest.mark.parametrize("auxiliary", plugins.names("auxiliary"))
@pytest.mark.parametrize("backbone", ["unet3d", "residual_unet3d", "vnet", "attention_unet3d"])
def test_a_step_on_volumes_is_near_that_on_the_cpu(prepared_work: Path, backbone: str, auxiliary: str) -> None:
    exact = labelled_losses(prepared_work, backbone, auxiliary, CPU, bf16=False)
    same = labelled_losses(prepared_work, backbone, auxiliary, CUDA, bf16=False)
    rough = labelled_losses(prepared_work, backbone, auxiliary, CUDA, bf16=True)
    for name, value in exact.items():
        assert same[name] == pytest.approx(value, rel=5e-3, abs=5e-3), name
        # Which voxels are compared is decided by an argmax, so half precision compares other ones.
        near = pytest.approx(value, rel=0.1, abs=0.1) if name in ("dice", "cross_entropy") else rough[name]
        assert np.isfinite(rough[name])
        assert rough[name] == near, name


@pytest.mark.parametrize("method", pairing.methods_of(3))
def test_volumes_are_pre_trained_fine_tuned_and_predicted_alike_on_the_cpu(work: Path, method: str) -> None:
    before = pretrain(work, method=method, backbone="unet3d", preset="tiny", overrides=("steps=2",), device="cuda")
    run = finetune(work, pretrained=before, fold=0, preset="tiny", overrides=("steps=5",), device="cuda")
    found = []
    for device in ("cuda", "cpu"):
        folder = predict(run, scans=["heart_005"], output=work / device, device=device)
        found.append(read(folder / "heart_005.nii.gz").array)
    assert float(np.mean(found[0] != found[1])) < 1e-2


# ---------------------------------------------------------------------------------------------------- unlabelled scans

WITHOUT_TEACHER = [name for name in plugins.names("semi") if not plugins.describe("semi", name).get("pseudo_labels")]
# A network that was just made is sure of nothing; and which of its islands is the largest may hang on one pixel.
SEEN_ALIKE: dict[str, dict[str, object]] = {
    "bcp": {"largest_component": False},
    "fixmatch": {"threshold": 0.0},
    "self_training": {"largest_component": True},
}


def paired_losses(work: Path, semi: str, dims: int, device: torch.device, *, bf16: bool) -> dict[str, float]:
    """Of labelled rows, and the same ones in another order beside them, with their labels as those of a teacher."""
    backbone = {2: "unet2d", 3: "unet3d"}[dims]
    overrides = {"semi": SEEN_ALIKE.get(semi, {})}
    settings = run_settings.finetuning(backbone, run_settings.base("tiny", None), overrides, semi=semi)
    module = plugins.load("backbones", backbone)

    def network() -> contracts.Backbone:
        made: contracts.Backbone = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=4)
        return made

    torch.manual_seed(0)
    labelled = Objective(network(), settings.objective, another=network)
    way = plugins.load("semi", semi).Semi(labelled, settings.semi_settings).to(device)
    way.after_step(LATE)
    known = batch_of(work, device, with_labels=True) if dims == 2 else patches_of(work, device)
    batch = known._replace(neighbour=None)
    batch = batch._replace(unlabelled=take(batch, list(range(len(batch.image)))[::-1]))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        outcome: contracts.Outcome = way(batch, Rows(3, 4, device))
    torch.stack(list(outcome.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(p.grad).all()) for p in way.parameters() if p.grad is not None)
    way.after_step(1.0)
    assert all(value.device.type == device.type for value in way.state_dict().values())
    return {name: float(value.detach()) for name, value in outcome.losses.items()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("semi", plugins.names("semi"))
def test_a_step_with_unlabelled_scans_is_near_that_on_the_cpu(prepared_work: Path, semi: str, dims: int) -> None:
    exact = paired_losses(prepared_work, semi, dims, CPU, bf16=False)
    same = paired_losses(prepared_work, semi, dims, CUDA, bf16=False)
    rough = paired_losses(prepared_work, semi, dims, CUDA, bf16=True)
    assert exact.keys() == same.keys() == rough.keys()
    for name, value in exact.items():
        assert same[name] == pytest.approx(value, rel=5e-3, abs=5e-3), name
        # What is learned from is decided by an argmax, and half precision decides otherwise where two are near.
        assert rough[name] == pytest.approx(value, rel=0.1, abs=0.1), name


@pytest.mark.parametrize("shape", [(48, 40), (12, 24, 24)])
def test_largest_components_are_equal(shape: tuple[int, ...]) -> None:
    label = torch.randint(0, 4, (3, *shape), generator=torch.Generator().manual_seed(0))
    found = components.largest(label.to(CUDA))
    assert found.device.type == CUDA.type
    assert torch.equal(found.cpu(), components.largest(label))


@pytest.mark.parametrize("semi", WITHOUT_TEACHER)
def test_a_run_with_unlabelled_scans_and_averaged_weights_predicts_alike_on_the_cpu(work: Path, semi: str) -> None:
    overrides = ("steps=10", "precision=32", "average=0.9")
    run = finetune(work, fold=0, labelled=1, semi=semi, preset="tiny", overrides=overrides, device="cuda")
    found = []
    for device in ("cuda", "cpu"):
        folder = predict(run, scans=["heart_005"], output=work / device, device=device)
        found.append(read(folder / "heart_005.nii.gz").array)
    assert float(np.mean(found[0] != found[1])) < 5e-3
