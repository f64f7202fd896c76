"""The contrastive loss against a double loop, and at the values that theory gives."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.parts.contrast import contrast, contrasted, near, same


def slow(z: Tensor, positives: Tensor, temperature: float) -> float:
    """The equation, read aloud."""
    rows = [[float(v) for v in row] for row in z]
    anchors = []
    for i in range(len(rows)):
        others = [k for k in range(len(rows)) if k != i]
        wanted = [j for j in others if positives[i, j]]
        if not wanted:
            continue
        normaliser = math.log(sum(math.exp(cosine(rows[i], rows[k]) / temperature) for k in others))
        terms = [cosine(rows[i], rows[j]) / temperature - normaliser for j in wanted]
        anchors.append(-sum(terms) / len(terms))
    return sum(anchors) / len(anchors) if anchors else 0.0


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def random(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return z, torch.rand(count, count, generator=generator) < 0.4


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 4), (5, 2), (9, 16)])
def test_equals_a_double_loop(count: int, size: int, temperature: float) -> None:
    for seed in range(3):
        z, positives = random(count, size, seed)
        expected = slow(z, positives, temperature)
        assert float(contrast(z, positives, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert float(contrast(z.float(), positives, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("count", [2, 5, 64])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_equal_embeddings_give_log_n_minus_1(count: int, temperature: float) -> None:
    z = torch.ones(count, 8)
    for positives in (torch.ones(count, count, dtype=torch.bool), random(count, 1)[1] | near(torch.zeros(count), 1.0)):
        assert float(contrast(z, positives, temperature)) == pytest.approx(math.log(count - 1), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("size", [2, 6])
def test_two_opposite_clusters(size: int, temperature: float) -> None:
    cluster = torch.arange(2).repeat_interleave(size)
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)[cluster]
    normaliser = math.log(size - 1 + size * math.exp(-2 / temperature))
    assert float(contrast(z, same(cluster), temperature)) == pytest.approx(normaliser, abs=1e-12)
    wrong = float(contrast(z, ~same(cluster), temperature))
    assert wrong == pytest.approx(normaliser + 2 / temperature, rel=1e-12)


def test_separated_pairs_approach_zero_as_the_temperature_falls() -> None:
    pair = torch.arange(4).repeat(2)
    z = torch.eye(4)[pair]
    losses = [float(contrast(z, same(pair), temperature)) for temperature in (1.0, 0.3, 0.1, 0.05)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


def test_anchors_without_positives_are_left_out() -> None:
    z, _ = random(6, 3)
    positives = torch.zeros(6, 6, dtype=torch.bool)
    positives[0, 1] = True  # one way only: anchor 1 has none
    similarity = torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(z[0], dim=0) / 0.2
    expected = torch.logsumexp(similarity[1:], 0) - similarity[1]
    assert float(contrast(z, positives, 0.2)) == pytest.approx(float(expected), rel=1e-12)


def test_no_positive_at_all_is_zero_with_a_zero_gradient() -> None:
    z = random(5, 3)[0].requires_grad_()
    loss = contrast(z, torch.eye(5, dtype=torch.bool), 0.1)  # the diagonal does not count
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0


def test_the_diagonal_is_ignored_and_lengths_do_not_matter() -> None:
    z, positives = random(7, 4)
    expected = contrast(z, positives, 0.1)
    diagonal = torch.eye(7, dtype=torch.bool)
    lengths = torch.linspace(0.01, 100, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(contrast(z * lengths, positives ^ diagonal, 0.1), expected)


def test_gradient() -> None:
    z, positives = random(6, 3)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrast(x, positives, 0.2), (z,))


def test_a_small_temperature_overflows_nowhere() -> None:
    z, positives = random(8, 4)
    z = z.float().requires_grad_()
    loss = contrast(z, positives, 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_autocast_does_not_reach_it() -> None:
    z, positives = random(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrast(z.float(), positives, 0.1)
    assert inside.dtype == torch.float32
    assert float(inside) == float(contrast(z.float(), positives, 0.1))


@pytest.mark.parametrize(("high", "low", "threshold"), [(0.65, 0.3, 0.35), (0.4, 0.3, 0.1), (0.9, 0.8, 0.1)])
def test_near_is_strict_where_floats_round_down(high: float, low: float, threshold: float) -> None:
    position = torch.tensor([high, low])
    assert position[0] - position[1] < threshold, "float32 says so; in exact arithmetic they are equal"
    assert not near(position, threshold)[0, 1]
    assert near(position, threshold + 1e-4)[0, 1]


@examples(60)
@given(first=st.integers(1, 60), second=st.integers(1, 60), threshold=st.sampled_from(["0.1", "0.35", "0.25"]))
def test_near_equals_exact_fractions(first: int, second: int, threshold: str) -> None:
    exact = [Fraction(i + 1, n) for n in (first, second) for i in range(n)]
    position = torch.tensor([(i + 1) / n for n in (first, second) for i in range(n)])
    numerator = torch.tensor([round(p * first * second) for p in exact])  # over the common denominator, exact
    limit = Fraction(threshold) * first * second
    expected = (numerator[:, None] - numerator[None]).abs() * limit.denominator < limit.numerator
    assert torch.equal(near(position, float(threshold)), expected)


def test_same() -> None:
    expected = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    assert torch.equal(same(torch.tensor([4, 2, 4])), expected)


@pytest.mark.parametrize(("base", "scale"), [(None, 1.0), (0.05, 4.0)])
def test_what_a_method_says_of_its_contrast(base: float | None, scale: float) -> None:
    z, positives = random(6, 3)
    said = contrasted(z.requires_grad_(), positives, 0.2, base)
    torch.testing.assert_close(said.losses["contrast"], scale * contrast(z, positives, 0.2))
    assert said.losses["contrast"].requires_grad
    assert torch.equal(said.embeddings["global"], z)
    assert not said.embeddings["global"].requires_grad
    alike = contrasted(torch.ones(6, 3), torch.ones(6, 6, dtype=torch.bool), 0.2, base)
    assert said.uninformed["contrast"] == pytest.approx(alike.losses["contrast"].item())
