"""KAF's pre-training (Yang et al., NeurIPS 2023): matches, transport, the three losses and their ablations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.backbones import fcn, kaf_unet, unet2d
from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.methods.kaf import Method, Settings
from lemis.parts.contrast import contrast, near
from lemis.parts.matching import matches
from lemis.sampling.draw import Rows
from lemis.settings import resolve

NAN = float("nan")
SMALL = {"batch_size": 4, "size_px": 48, "embedding": 8, "distance_px": 12.0, "matcher_pairs": 1, "matcher_heads": 2}


def network(module: Any = kaf_unet, **layer: Any) -> Any:
    torch.manual_seed(0)
    small = {"base_width": 4, "keypoint_width": 16, "pairs": 1, "heads": 2, "levels": [1, 2, 3, 4]}
    return module.Backbone(resolve(module.Settings, small, layer), in_channels=1, num_classes=2)


def method(**layer: Any) -> Method:
    return Method(network(), resolve(Settings, SMALL, layer))


def half(rows: int, keypoints: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(rows)
    return Batch(
        image=torch.randn(rows, 1, 56, 60, generator=generator), index=numbers, scan=numbers, subject=numbers,
        position=(numbers + 1) / rows, spacing_mm=torch.ones(rows, 2),
        keypoints=(torch.rand(rows, keypoints, 2, generator=generator) * torch.tensor([56, 60])).floor(),
        descriptors=torch.randint(0, 256, (rows, keypoints, 8), generator=generator).float(),
    )  # fmt: skip


def pairs(rows: int = 4, keypoints: int = 10) -> Batch:
    """Slices and neighbours, the keypoints of the latter a little shifted, with like descriptors, in another order."""
    here, there = half(rows, keypoints, 0), half(rows, keypoints, 1)
    assert here.keypoints is not None
    assert here.descriptors is not None
    order = torch.randperm(keypoints, generator=torch.Generator().manual_seed(2))
    there = there._replace(keypoints=(here.keypoints + 1)[:, order], descriptors=(here.descriptors + 2)[:, order])
    return here._replace(neighbour=there)


def run(built: Method, batch: Batch) -> dict[str, float]:
    outcome = built(batch, Rows(0, 0, "cpu"))
    torch.stack(list(outcome.losses.values())).sum().backward()
    for name, parameter in built.named_parameters():
        if name.startswith("backbone.") and built.backbone.part_of(name[9:]) != "encoder":
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    return {name: loss.item() for name, loss in outcome.losses.items()}


# ------------------------------------------------------------------------------------------------------- matches


def slow_matches(a: Tensor, da: Tensor, b: Tensor, db: Tensor, theta: float, mutual: bool) -> list[int]:
    def nearest(p: Tensor, d: Tensor, others: Tensor, descriptors: Tensor) -> int:
        best, found = math.inf, -1
        for k in range(len(others)):
            close = sum(abs(float(x) - float(y)) for x, y in zip(p, others[k], strict=True)) < theta
            apart = float((d.double() - descriptors[k].double()).norm())
            if close and apart < best:
                best, found = apart, k
        return found

    out = []
    for i in range(len(a)):
        j = nearest(a[i], da[i], b, db)
        agreed = j >= 0 and (not mutual or nearest(b[j], db[j], a, da) == i)
        out.append(j if agreed else -1)
    return out


@examples(50)
@given(
    seed=st.integers(0, 10_000), m=st.integers(1, 7), n=st.integers(1, 7), theta=st.sampled_from([3.0, 8.0, 20.0]),
    mutual=st.booleans(), missing=st.floats(0, 0.9),
)  # fmt: skip
def test_matches_equal_the_slow_ones(seed: int, m: int, n: int, theta: float, mutual: bool, missing: float) -> None:
    generator = torch.Generator().manual_seed(seed)

    def points(count: int) -> tuple[Tensor, Tensor]:
        places = torch.randint(0, 16, (2, count, 2), generator=generator).float()
        places[torch.rand(2, count, generator=generator) < missing] = NAN
        return places, torch.rand(2, count, 5, generator=generator)

    (a, da), (b, db) = points(m), points(n)
    found = matches(a, da, b, db, theta, mutual=mutual)
    for k in range(2):
        assert found[k].tolist() == slow_matches(a[k], da[k], b[k], db[k], theta, mutual)


def test_the_distance_is_strict_and_manhattan() -> None:
    a, b, d = torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 1, 2)
    assert matches(a, d, b, d, 7.0, mutual=True).item() == -1
    assert matches(a, d, b, d, 7.01, mutual=True).item() == 0


def test_a_match_that_is_not_returned_counts_one_way_only() -> None:
    a, b = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 0.0]]])
    da, db = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.2]]])
    assert matches(a, da, b, db, 5.0, mutual=True).tolist() == [[0, -1]]
    assert matches(a, da, b, db, 5.0, mutual=False).tolist() == [[0, 0]]


# ---------------------------------------------------------------------------------------------------- likelihood


def test_both_forms_of_the_likelihood_by_hand() -> None:
    plan = torch.log(torch.tensor([[[0.5, 0.1, 0.4], [0.2, 0.2, 0.6], [0.3, 0.7, 2.0]]]))
    plan = torch.cat([plan, plan])  # the second sample: no keypoint in the slice, one in the neighbour
    found = torch.tensor([[0, -1], [-1, -1]])
    here, there = torch.tensor([[True, True], [False, False]]), torch.tensor([[True, True], [True, False]])
    matched, bins = -math.log(0.5), [-math.log(0.6), -math.log(0.7)]
    code = method(local_form="code").likelihood(plan, found, here, there)
    second = -math.log(0.3)
    assert float(code) == pytest.approx(0.45 * (matched + 0) / 2 + 1.0 * (sum(bins) / 2 + second) / 2)
    paper = method(local_form="paper").likelihood(plan, found, here, there)
    assert float(paper) == pytest.approx((matched + sum(bins) + second) / 2)


def test_what_is_impossible_is_clamped_and_what_is_no_keypoint_is_free() -> None:
    plan = torch.full((1, 2, 2), -torch.inf)
    built = method()
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    assert built.likelihood(plan, torch.tensor([[-1]]), nothing, nothing) == 0
    assert built.likelihood(plan, torch.tensor([[0]]), ~nothing, ~nothing).item() == pytest.approx(45)


# -------------------------------------------------------------------------------------------------------- losses


def test_the_three_terms_and_their_weights() -> None:
    batch = pairs()
    one = run(method(), batch)
    assert one.keys() == {"cnn", "keypoint", "local"}
    twice = run(method(weight_cnn=2.0, weight_kaf=2.0, weight_local=0.02), batch)
    assert twice == pytest.approx({name: 2 * value for name, value in one.items()}, rel=1e-4)


@pytest.mark.parametrize("off", ["weight_cnn", "weight_kaf", "weight_local"])
def test_a_term_without_weight_is_not_built(off: str) -> None:
    built = method(**{off: 0.0})
    assert len(run(built, pairs())) == 2
    assert len(list(built.parameters())) < len(list(method().parameters()))


def test_slices_without_keypoints_are_left_out_of_the_keypoint_contrast_only() -> None:
    batch = pairs()
    assert batch.neighbour is not None
    assert batch.keypoints is not None
    keypoints = batch.keypoints.clone()
    keypoints[1] = NAN
    built = method(spatial={"p_mirror": 0, "p_spatial": 0}).eval()
    seen: list[Tensor] = []
    built.project_keypoints.register_forward_hook(lambda module, asked, answer: seen.append(answer.detach()))
    outcome = built(batch._replace(keypoints=keypoints), Rows(0, 0, "cpu"))
    (z,) = seen
    assert z.shape == (7, 8)
    rows = [0, 2, 3, 4, 5, 6, 7]
    close = near(batch.position.repeat(2)[rows], 0.1)
    expected = 0.1 / 0.07 * contrast(z, close, 0.1)
    torch.testing.assert_close(outcome.losses["keypoint"].detach(), expected)
    assert outcome.embeddings["global"].shape == (8, 8)


@pytest.mark.parametrize("module", [kaf_unet, fcn])
@pytest.mark.parametrize("case", ["none", "one", "one slice", "constant", "all"])
def test_trains_whatever_the_keypoints(case: str, module: Any) -> None:
    rows = 1 if case == "one slice" else 4
    batch = pairs(rows)
    assert batch.neighbour is not None
    assert batch.keypoints is not None
    assert batch.neighbour.keypoints is not None
    if case in ("none", "constant"):
        batch = batch._replace(
            image=torch.zeros_like(batch.image) if case == "constant" else batch.image,
            keypoints=torch.full_like(batch.keypoints, NAN),
            neighbour=batch.neighbour._replace(keypoints=torch.full_like(batch.neighbour.keypoints, NAN)),
        )
    if case == "one":
        batch = batch._replace(keypoints=batch.keypoints.clone(), neighbour=batch.neighbour)
        assert batch.keypoints is not None
        batch.keypoints[:, 1:] = NAN
        batch.keypoints[1:] = NAN
    if case == "one slice":
        batch = batch._replace(neighbour=batch._replace(neighbour=None))  # its own neighbour
    built = Method(network(module), resolve(Settings, SMALL))
    assert all(math.isfinite(value) for value in run(built, batch).values())


def test_the_index_map_moves_keypoints_and_the_exact_way_does_not() -> None:
    batch = pairs()
    exact, by_map = (method(follow=way).views(batch, Rows(0, 3, "cpu")) for way in ("exact", "index_map"))
    apart = (exact["slice"].keypoints - by_map["slice"].keypoints).abs()  # type: ignore[operator]
    assert torch.equal(exact["slice"].image, by_map["slice"].image)
    assert apart.nan_to_num().max() > 0
    assert exact["slice"].keypoints.isnan().sum() <= by_map["slice"].keypoints.isnan().sum()  # type: ignore[union-attr]


def used(built: Method, batch: Batch, step: int = 0) -> tuple[Tensor, Tensor]:
    rng = Rows(0, step, "cpu")
    return built.seen(built.views(batch, rng), batch, rng)


@pytest.mark.parametrize("mutual", [True, False])
def test_some_of_the_keypoints_keep_the_matches_that_all_have(mutual: bool) -> None:
    batch = pairs(keypoints=40)
    still = {"spatial": {"p_mirror": 0, "p_spatial": 0, "crop": "centre"}, "mutual": mutual}
    everything, found = used(method(**still), batch)

    def matched(places: Tensor, found: Tensor) -> list[set[Any]]:
        here, there = places.chunk(2)
        return [
            {(tuple(here[row, a].tolist()), tuple(there[row, int(b)].tolist())) for a, b in enumerate(to) if b >= 0}
            for row, to in enumerate(found)
        ]

    every = matched(everything, found)
    counts = (~everything.isnan().any(-1)).sum(1)
    for share in ("poorest", [0.3, 0.6]):
        places, left = used(method(keypoint_share=share, **still), batch)
        some = (~places.isnan().any(-1)).sum(1)
        assert all(part <= whole for part, whole in zip(matched(places, left), every, strict=True))
        assert (some <= counts).all()
        assert some.max() < counts.max()
        assert places.shape[1] == some.max()
        if share == "poorest" and mutual:
            assert some.tolist() == [int(counts.min())] * 8
            most = [min(int(counts.min()), len(whole)) for whole in every]
            assert [len(part) for part in matched(places, left)] == most  # matched ones come first


def test_a_share_of_keypoints_trains() -> None:
    for share in ("poorest", [0.2, 1.0]):
        assert all(math.isfinite(value) for value in run(method(keypoint_share=share), pairs()).values())


@pytest.mark.parametrize("backbone", ["unet2d", "fcn"])
def test_a_network_without_keypoint_layers_is_refused(backbone: str) -> None:
    built: Any = (
        unet2d.Backbone(unet2d.Settings(base_width=4), in_channels=1, num_classes=2)
        if backbone == "unet2d"
        else network(fcn, levels=[])
    )
    with pytest.raises(UsageError, match="without keypoint layers"):
        Method(built, Settings())


# ----------------------------------------------------------------------------------------------------- ablations

TABLE_2 = {
    "B": ({"levels": [1, 2, 3]}, None), "C": ({"levels": [1, 2, 4]}, None), "D": ({"levels": [1, 3, 4]}, None),
    "E": ({"levels": [2, 3, 4]}, None), "F": ({}, None), "G": ({"pairs": 6}, None), "H": ({"pairs": 3}, None),
    "I": ({}, (1, 0, 0)), "J": ({}, (0, 1, 0)), "K": ({}, (1, 1, 0)), "L": ({}, (1, 1, 0.01)),
}  # fmt: skip
TABLE_8 = [
    (1, 1, 0.1), (1, 1, 0.01), (1, 1, 0.001), (0, 1, 0.08), (0, 1, 0.04), (0, 1, 0.02), (0, 1, 0.01), (0, 1, 0.005),
    (0, 1, 0.001), (0, 0, 1),
]  # fmt: skip


def weights(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("weight_cnn", "weight_kaf", "weight_local"), values, strict=True))


@pytest.mark.parametrize("row", TABLE_2)
def test_every_row_of_table_2_is_a_setting(row: str) -> None:
    of_network, of_method = TABLE_2[row]
    full = resolve(kaf_unet.Settings, {"pairs": 9, "base_width": 32}, of_network)
    assert (full.levels, full.pairs) == (tuple(of_network.get("levels", (1, 2, 3, 4))), of_network.get("pairs", 9))
    built = network(**{**of_network, "pairs": 1})
    if of_method is None:  # trained from random initialisation
        assert built(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    else:
        assert len(run(Method(built, resolve(Settings, SMALL, weights(of_method))), pairs())) == sum(
            value > 0 for value in of_method
        )


@pytest.mark.parametrize("values", TABLE_8)
def test_every_row_of_table_8_is_a_setting(values: tuple[float, float, float]) -> None:
    assert len(run(method(**weights(values)), pairs())) == sum(value > 0 for value in values)


@pytest.mark.parametrize("theta", [5, 10, 15, 20, 25, 30, 35, 40])
def test_every_column_of_table_5_is_a_setting(theta: float) -> None:
    assert run(method(distance_px=theta, **weights((0, 0, 1))), pairs()).keys() == {"local"}


@pytest.mark.parametrize("data", ["acdc", "chd"])
def test_the_presets_are_the_papers(data: str) -> None:
    from lemis.settings import load_preset

    tree = load_preset(f"paper/kaf-{data}")
    own = resolve(Settings, tree["methods"]["kaf"])
    unet = resolve(kaf_unet.Settings, tree["backbones"]["kaf_unet"])
    expected = {"acdc": (352, 0.35, 2, 48), "chd": (512, 0.1, None, 32)}[data]
    assert (own.size_px, own.threshold, own.reach_slices, unet.base_width) == expected
    assert own.keypoint_share == "poorest"
    rest = dataclasses.replace(own, size_px=512, threshold=0.1, reach=0.05, reach_slices=None, keypoint_share=(1, 1))
    assert rest == Settings()
    assert tree["method"] == "kaf"
    assert (tree["pretrain"]["learning_rate"], tree["pretrain"]["epochs"]) == (0.002, 50)
