"""Boxes by their sizes and places, and pasting against loops over pixels and keypoints."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from lemis import processes
from lemis.contracts import Geometry, View
from lemis.errors import UsageError
from lemis.parts import paste
from lemis.parts.paste import Box
from lemis.sampling.draw import Rows


def view(seed: int, shape: tuple[int, ...], keypoints: int = 5, rows: int = 3) -> View:
    generator = torch.Generator().manual_seed(seed)
    d = len(shape)
    places = torch.rand(rows, keypoints, d, generator=generator) * torch.tensor(shape)
    places[torch.rand(rows, keypoints, generator=generator) < 0.3] = torch.nan
    return View(
        image=torch.randn(rows, 2, *shape, generator=generator),
        geometry=Geometry(torch.randn(rows, d, d + 1, generator=generator), shape),
        label=torch.randint(0, 4, (rows, *shape), generator=generator),
        inside=torch.rand(rows, 1, *shape, generator=generator) < 0.8,
        keypoints=places,
    )


@pytest.mark.parametrize(("side", "expected"), [(256, 170), (112, 74), (96, 64), (80, 53), (64, 42)])
def test_sides_of_bcp(side: int, expected: int) -> None:
    box = paste.box_of_sides(500, (side, side), 2 / 3, Rows(0, 0, "cpu"))
    assert set(box.size.flatten().tolist()) == {expected}
    assert box.first.min() == 0
    assert box.first.max() == side - expected - 1, "the last place is never drawn"
    share = (expected / side) ** 2
    assert paste.mask(box, (side, side)).float().mean().item() == pytest.approx(share, rel=1e-5)


def test_a_box_that_is_all() -> None:
    box = paste.box_of_sides(4, (6, 5), 1.0, Rows(0, 0, "cpu"))
    assert paste.mask(box, (6, 5)).all()


@pytest.mark.parametrize(("shape", "share"), [((200, 200), 0.21), ((60, 100), 0.21), ((80, 80, 80), 0.21)])
def test_boxes_of_cutmix(shape: tuple[int, ...], share: float) -> None:
    box = paste.box_of_area(3000, shape, (0.02, 0.4), 1 / 0.3, Rows(0, 0, "cpu"))
    sides = torch.tensor(shape)
    assert (box.first >= 0).all()
    assert (box.first + box.size <= sides).all()
    taken = (box.size / sides).prod(1)
    assert taken.mean().item() == pytest.approx(share, abs=0.012)
    assert 0.015 < taken.min() < 0.03
    assert 0.37 < taken.max() <= 0.4
    if len(shape) == 2 and shape[0] == shape[1]:
        ratio = box.size[:, 0] / box.size[:, 1]
        assert 0.28 < ratio.min() < 0.35
        assert 2.8 < ratio.max() < 3.6


@pytest.mark.parametrize("shape", [(7, 6), (4, 5, 6)])
def test_pasting_equals_a_loop(shape: tuple[int, ...]) -> None:
    inner, outer = view(0, shape), view(1, shape)
    box = paste.box_of_sides(3, shape, 0.6, Rows(0, 0, "cpu"))
    found = paste.paste(inner, outer, box)
    assert found.label is not None and inner.label is not None and outer.label is not None  # noqa: PT018
    assert found.inside is not None and inner.inside is not None and outer.inside is not None  # noqa: PT018
    for row in range(3):
        first, size = box.first[row].tolist(), box.size[row].tolist()
        for place in product(*map(range, shape)):
            in_box = all(f <= p < f + s for p, f, s in zip(place, first, size, strict=True))
            source = inner if in_box else outer
            assert source.label is not None
            assert source.inside is not None
            assert torch.equal(found.image[(row, slice(None), *place)], source.image[(row, slice(None), *place)])
            assert found.label[(row, *place)] == source.label[(row, *place)]
            assert found.inside[(row, 0, *place)] == source.inside[(row, 0, *place)]


def test_each_place_keeps_its_keypoints_strongest_first() -> None:
    inner, outer = view(0, (20, 20), keypoints=7), view(1, (20, 20), keypoints=5)
    box = paste.box_of_sides(3, (20, 20), 0.7, Rows(1, 0, "cpu"))
    found = paste.paste(inner, outer, box).keypoints
    assert found is not None
    assert found.shape == (3, 5, 2)
    for row in range(3):
        first, size = box.first[row], box.size[row]
        ranked = []
        for k in range(7):
            for source, in_box in ((inner, True), (outer, False)):
                assert source.keypoints is not None
                if k < source.keypoints.shape[1] and not source.keypoints[row, k].isnan().any():
                    place = source.keypoints[row, k]
                    within = bool(((place >= first - 0.5) & (place < first + size - 0.5)).all())
                    ranked += [place.tolist()] if within == in_box else []
        kept = [place.tolist() for place in found[row] if not place.isnan().any()]
        assert kept == ranked[:5]


def test_without_labels_and_keypoints() -> None:
    bare = View(image=torch.zeros(2, 1, 4, 4), geometry=Geometry(torch.zeros(2, 2, 3), (4, 4)))
    found = paste.paste(bare._replace(image=torch.ones(2, 1, 4, 4)), bare, Box(*torch.ones(2, 2, 2).long()))
    assert found.image.sum() == 2
    assert (found.label, found.inside, found.keypoints) == (None, None, None)


def test_rows_of_a_view() -> None:
    one = view(0, (4, 4))
    some = paste.rows(one, slice(0, None, 2))
    assert torch.equal(some.image, one.image[[0, 2]])
    assert torch.equal(some.geometry.to_source, one.geometry.to_source[[0, 2]])


def test_partners() -> None:
    assert paste.partners(6, torch.device("cpu")).tolist() == [1, 0, 3, 2, 5, 4]
    assert paste.partners(5, torch.device("cpu")).tolist() == [1, 0, 3, 2, 4], "the last one is its own"


def test_odd_rows_on_several_processes_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    paste.refuse_odd_rows(6)
    with pytest.raises(UsageError, match=r"5 rows of a batch on each of 2 processes") as error:
        paste.partners(5, torch.device("cpu"))
    assert error.value.next == "objective.batch_size=12"


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_numbers_in_register_are_those_of_a_pair_and_come_again(rows: int) -> None:
    places, plain = paste.InRegister(Rows(0, 3, "cpu")), Rows(0, 3, "cpu")
    found = [places.uniform(rows, 2, low=-1.0, high=3.0), places.normal(rows, 3), places.uniform(rows)]
    expected = [plain.uniform(rows, 2, low=-1.0, high=3.0), plain.normal(rows, 3), plain.uniform(rows)]
    for numbers, own in zip(found, expected, strict=True):
        for row in range(rows):
            torch.testing.assert_close(numbers[row], own[row // 2 * 2])
    again = places.again()
    assert torch.equal(again.uniform(rows, 2, low=-1.0, high=3.0), found[0])
    assert torch.equal(again.normal(rows, 3), found[1])
    assert torch.equal(again.uniform(rows), found[2])
    assert len(places.normal(rows, 7)) == rows, "and goes on with new ones"
