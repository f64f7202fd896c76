"""PCL (Zeng et al., MICCAI 2021): its numbers, its loss done slowly, its network's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.backbones import unet2d
from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods.pcl import Method, Settings, Views
from lemis.parts.contrast import near
from lemis.sampling import warping
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial

RNG = (0, 0, "cpu")
POSITIONS = [0.1, 0.2, 0.6, 0.9]


def slow(z: Tensor, position: Sequence[float], threshold: float, tau: float, tau_base: float | None) -> float:
    """L_PCL from the paper, one logarithm at a time."""
    n = len(z)
    sim = nn.functional.cosine_similarity(z[:, None], z[None], dim=2).double()
    anchors = []
    for i in range(n):
        near_i = [j for j in range(n) if j != i and abs(position[i] - position[j]) < threshold - 1e-9]
        below = sum(math.exp(sim[i, k] / tau) for k in range(n) if k != i)
        terms = [math.log(math.exp(sim[i, j] / tau) / below) for j in near_i]
        anchors.append(-sum(terms) / len(terms))
    return (tau / (tau_base or tau)) * sum(anchors) / n


def at(positions: Sequence[float], side: int = 32) -> Batch:
    n = len(positions)
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(n, 1, side, side, generator=generator), index=torch.arange(n), scan=torch.arange(n),
        subject=torch.arange(n), position=torch.tensor(positions), spacing_mm=torch.ones(n, 2),
    )  # fmt: skip


def loss_of(z: Tensor, says: Any, make_unet: Any, **settings: Any) -> tuple[float, dict[str, float]]:
    """The method's loss where its head answers ``z``."""
    method = Method(make_unet(), Settings(size_px=32, **settings))
    method.project = says(z)
    outcome = method(at(POSITIONS), Rows(*RNG))
    return outcome.losses["contrast"].item(), outcome.uninformed


# --------------------------------------------------------------------------------------------- known numbers


def test_each_of_the_four_slices_has_three_positives() -> None:
    close = near(torch.tensor(POSITIONS * 2), 0.35) & ~torch.eye(8, dtype=torch.bool)
    assert close.sum(1).tolist() == [3] * 8


@pytest.mark.parametrize("threshold", [0.05, 0.35, 1.5])
def test_equal_embeddings(threshold: float, says: Any, make_unet: Any) -> None:
    loss, uninformed = loss_of(torch.ones(8, 6), says, make_unet, threshold=threshold)
    assert math.log(7) / 0.7 == pytest.approx(2.77987, abs=1e-5)
    assert loss == pytest.approx(2.77987, abs=1e-5)
    assert uninformed == {"contrast": pytest.approx(2.77987, abs=1e-5)}


def test_identity_embeddings_with_one_positive_each(says: Any, make_unet: Any) -> None:
    z = torch.eye(4).repeat(2, 1)
    expected = (math.log(math.exp(10) + 6) - 10) / 0.7
    assert expected == pytest.approx(3.8909e-4, rel=1e-4)
    assert loss_of(z, says, make_unet, threshold=0.05)[0] == pytest.approx(expected, abs=1e-6)


def test_a_threshold_above_one_makes_all_positive(says: Any, make_unet: Any) -> None:
    close = near(torch.tensor(POSITIONS * 2), 1.01) & ~torch.eye(8, dtype=torch.bool)
    assert close.sum(1).tolist() == [7] * 8
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    loss = loss_of(z, says, make_unet, threshold=1.01)[0]
    assert loss == pytest.approx(slow(z, POSITIONS * 2, 1.01, 0.1, 0.07), rel=1e-5)


def test_the_other_view_is_always_a_positive() -> None:
    position = torch.linspace(0.02, 1, 20).repeat(2)
    close = near(position, 1e-3)
    assert all(close[i, (i + 20) % 40] for i in range(40))


def test_what_a_batch_of_32_costs_when_nothing_is_known(says: Any, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(size_px=16))
    method.project = says(torch.ones(64, 4))
    outcome = method(at([(k + 1) / 32 for k in range(32)], side=16), Rows(*RNG))
    assert outcome.uninformed["contrast"] == pytest.approx(5.9187, abs=1e-4)
    assert outcome.losses["contrast"].item() == pytest.approx(5.9187, abs=1e-4)


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize("tau_base", [0.07, None])
@pytest.mark.parametrize(("tau", "threshold"), [(0.1, 0.35), (0.1, 0.1), (0.5, 0.35)])
def test_the_loss_is_the_papers(
    tau: float, threshold: float, tau_base: float | None, says: Any, make_unet: Any
) -> None:
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    layer = {"temperature": tau, "threshold": threshold, "temperature_base": tau_base}
    loss, uninformed = loss_of(z, says, make_unet, **layer)
    assert loss == pytest.approx(slow(z, POSITIONS * 2, threshold, tau, tau_base), rel=1e-5)
    assert uninformed["contrast"] == pytest.approx(math.log(7) * tau / (tau_base or tau))


def test_the_method_from_images_to_loss(make_unet: Any) -> None:
    method, batch = Method(make_unet(), Settings(size_px=32, embedding=6)), at(POSITIONS)
    pair = method.views(batch, Rows(*RNG))
    z = method.project(method.backbone.encode(torch.cat([pair["first"].image, pair["second"].image]))[-1])
    expected = slow(z.detach(), POSITIONS * 2, 0.35, 0.1, 0.07)
    assert method(batch, Rows(*RNG)).losses["contrast"].item() == pytest.approx(expected, rel=1e-4)


def test_slices_of_different_subjects_are_compared() -> None:
    first, second = torch.tensor([0.3, 0.8]), torch.tensor([0.4, 0.9])  # two subjects
    close = near(torch.cat([first, second]), 0.35)
    assert close[0, 2]
    assert close[1, 3]
    assert not close[0, 3]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.5])
def test_in_3d_patches_at_about_the_same_height_are_positives(
    threshold: float, make_unet3d: Any, make_volumes: Any
) -> None:
    batch = make_volumes(4)._replace(position=torch.tensor(POSITIONS))
    method = Method(make_unet3d(), Settings(size_px=(8, 16, 12), embedding=6, threshold=threshold))
    pair = method.views(batch, Rows(*RNG))
    assert pair["first"].image.shape == (4, 1, 8, 16, 12)
    z = method.project(method.backbone.encode(torch.cat([pair["first"].image, pair["second"].image]))[-1])
    expected = slow(z.detach(), POSITIONS * 2, threshold, 0.1, 0.07)
    assert method(batch, Rows(*RNG)).losses["contrast"].item() == pytest.approx(expected, rel=1e-4)


def test_patches_are_refused_for_slices(make_unet: Any) -> None:
    with pytest.raises(UsageError, match="2 dimensions") as error:
        Method(make_unet(), Settings(size_px=(8, 16, 16)))
    assert error.value.next == "method.size_px=16 to pre-train, objective.size_px=16 to fine-tune"
    assert Method(make_unet(), Settings(size_px=16)).sampling.patch_px is None


# ------------------------------------------------------------------------------------------------ the protocol


def test_the_defaults_are_the_authors() -> None:
    given = Settings()
    assert (given.batch_size, given.temperature, given.temperature_base) == (32, 0.1, 0.07)
    assert (given.threshold, given.embedding, given.size_px) == (0.35, 512, 352)
    chain = given.spatial
    assert (chain.p_mirror, chain.p_spatial, chain.rotation_degrees) == (0.5, 0.67, (0, 360))
    assert (chain.elastic_sigma_px, chain.elastic_alpha_px) == ((14, 17), (100, 350))
    assert (chain.p_enlarge, chain.enlarge, chain.shrink) == (0.5, (0.7, 1.0), (1.0, 1.3))


def test_the_head(make_unet: Any) -> None:
    method = Method(make_unet(4), Settings())
    layers = [type(layer) for layer in method.project.layers]
    assert layers == [nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in method.project.layers if isinstance(layer, nn.Linear)] == [
        (64, 64),
        (512, 64),
    ]
    z = method(at(POSITIONS), Rows(*RNG)).embeddings["global"]
    assert z.shape == (8, 512)
    assert (z.norm(dim=1) - 1).abs().min() > 1e-3, "not normalised: the loss uses the cosine"


def test_views_change_geometry_only() -> None:
    batch = at(POSITIONS)
    still = Spatial(p_mirror=0, p_spatial=0, crop="centre")
    for view in Views(Settings(size_px=32, spatial=still))(batch, Rows(*RNG)).values():
        torch.testing.assert_close(view.image, batch.image, rtol=1e-4, atol=1e-4)
    pair = Views(Settings(size_px=32))(batch, Rows(*RNG))
    first, second = (pair[key].geometry.to_source for key in ("first", "second"))
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True)), "drawn independently"
    for view in pair.values():
        torch.testing.assert_close(view.image, warping.apply(view.geometry, batch.image).image)


def test_both_views_share_batch_statistics_or_do_not(make_unet: Any) -> None:
    for together, passes in ((True, 1), (False, 2)):
        method = Method(make_unet(), Settings(size_px=32, views_together=together))
        method(at(POSITIONS), Rows(*RNG))
        assert method.backbone.encoder[0][1].num_batches_tracked == passes


# ------------------------------------------------------------------------------------------------- the network


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("width", "classes", "whole", "encoder"), [(32, 8, 7_763_584, 4_713_568), (48, 4, 17_462_016, 10_602_384)]
)
def test_parameters_of_the_unet(width: int, classes: int, whole: int, encoder: int) -> None:
    with torch.device("meta"):
        network = unet2d.Backbone(unet2d.Settings(base_width=width), in_channels=1, num_classes=classes)
    assert count(network) == whole
    assert count(network.encoder) == encoder
    parts = [p.numel() for key, p in network.named_parameters() if network.part_of(key) == "encoder"]
    assert sum(parts) == encoder
    assert network.channels == tuple(width * 2**level for level in range(5))


def test_the_default_width_is_acdcs() -> None:
    assert unet2d.Settings().base_width == 48


@pytest.mark.parametrize(("side", "coarsest"), [(352, 22), (512, 32)])
def test_resolutions(side: int, coarsest: int) -> None:
    with torch.device("meta"):
        network = unet2d.Backbone(unet2d.Settings(base_width=2), in_channels=1, num_classes=2).eval()
        maps = network.encode(torch.zeros(1, 1, side, side))
    assert [m.shape[-1] for m in maps] == [side, side // 2, side // 4, side // 8, coarsest]


def test_layers_of_the_unet(make_unet: Any) -> None:
    network = make_unet(4)
    names = [type(layer).__name__ for layer in network.encoder[0]]
    assert names == ["Conv2d", "BatchNorm", "LeakyReLU"] * 2
    assert {layer.negative_slope for layer in network.modules() if isinstance(layer, nn.LeakyReLU)} == {0.01}
    assert [type(layer).__name__ for layer in network.encoder[-1]] == ["Conv2d", "ReLU"] * 2, "no normalisation here"
    assert network.head.bias is None
    up = network.decoder[0].up
    assert (up.kernel_size, up.stride, up.bias is not None) == ((2, 2), (2, 2), True)


def test_initialisation_of_the_unet(make_unet: Any) -> None:
    network = make_unet(16)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 2000:
            expected = math.sqrt(2 / (1 + 0.01**2) / layer.weight[0].numel())
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert layer.bias.abs().max() == 0
