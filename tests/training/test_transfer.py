"""Weights from a pre-training run: what is loaded, what stays fresh, what is left behind."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import save_file

from lemis.backbones import unet2d
from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.runs.run import messages
from lemis.training.transfer import Row, Start, load_pretrained, loaded_parameters, print_table, rest, transfer
from lemis.work_files.run import PretrainedModel
from work_files_made import model

SOURCE = Path("work/runs/sal")


def network(seed: int, *, width: int = 4, classes: int = 3, channels: int = 1) -> Backbone:
    torch.manual_seed(seed)
    return unet2d.Backbone(unet2d.Settings(base_width=width), in_channels=channels, num_classes=classes)


def size(backbone: Backbone, part: str) -> int:
    return sum(value.numel() for name, value in backbone.state_dict().items() if backbone.part_of(name) == part)


def test_only_the_trained_parts_are_loaded() -> None:
    source, own = network(0), network(1)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    rows = {row.part: row for row in transfer(own, source.state_dict(), ("encoder",), SOURCE)}
    for name, value in own.state_dict().items():
        expected = source.state_dict()[name] if own.part_of(name) == "encoder" else before[name]
        assert torch.equal(value, expected), name
    assert list(rows) == ["encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4", "head"]
    assert rows["encoder"] == Row(part="encoder", loaded=size(own, "encoder"))
    decoder = size(own, "decoder 1")
    assert rows["decoder 1"] == Row(
        part="decoder 1", fresh=decoder, skipped=decoder, reason="not trained by the method"
    )


def test_what_is_left_out_stays_fresh_though_it_was_trained() -> None:
    own = network(1)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    source = Start(
        SOURCE, cast(PretrainedModel, SimpleNamespace(trained=("encoder", "decoder 1"))), network(0).state_dict()
    )
    rows = {row.part: row for row in source.fill(own, "encoder")}
    assert rows["encoder"] == Row(part="encoder", loaded=size(own, "encoder"))
    decoder = size(own, "decoder 1")
    assert rows["decoder 1"] == Row(part="decoder 1", fresh=decoder, skipped=decoder, reason="left out")
    assert rows["decoder 2"].reason == "not trained by the method"
    for name, value in own.state_dict().items():
        if own.part_of(name) != "encoder":
            assert torch.equal(value, before[name]), name


def test_every_value_is_counted_once() -> None:
    own = network(1)
    rows = transfer(own, network(0).state_dict(), ("encoder", "decoder 1"), SOURCE)
    assert sum(row.loaded + row.fresh for row in rows) == sum(value.numel() for value in own.state_dict().values())


def test_another_number_of_classes_keeps_a_fresh_head() -> None:
    own = network(1, classes=5)
    head = own.state_dict()["head.weight"].clone()
    rows = {row.part: row for row in transfer(own, network(0).state_dict(), ("encoder", "head"), SOURCE)}
    assert torch.equal(own.state_dict()["head.weight"], head)
    assert rows["head"] == Row(part="head", fresh=20, skipped=12, reason="shape (3, 4, 1, 1) there, (5, 4, 1, 1) here")


def test_what_the_source_lacks_stays_fresh() -> None:
    weights = {name: value for name, value in network(0).state_dict().items() if not name.startswith("head")}
    rows = {row.part: row for row in transfer(network(1), weights, ("encoder", "head"), SOURCE)}
    assert rows["head"].reason == "not in the source"
    assert rows["head"].skipped == 0


def test_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing of work/runs/sal fits this network") as caught:
        transfer(network(1, width=8), network(0).state_dict(), ("encoder",), SOURCE)
    assert "the same backbone" in caught.value.allowed


def test_nothing_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing of"):
        transfer(network(1), network(0).state_dict(), (), SOURCE)


def test_the_table_joins_parts_that_fared_alike(capsys: pytest.CaptureFixture[str]) -> None:
    own = network(1)
    print_table(transfer(own, network(0).state_dict(), ("encoder",), SOURCE), SOURCE, messages())
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines() if line.strip()]
    rest = sum(value.numel() for value in own.state_dict().values()) - size(own, "encoder")
    assert said[0] == "weights from sal loaded fresh skipped why"
    assert said[2:] == [
        f"encoder {size(own, 'encoder'):,} 0 0",
        f"decoder 1 to head 0 {rest:,} {rest:,} not trained by the method",
    ]


@pytest.mark.parametrize(("start", "next"), [("sal", "--pretrained"), (None, "leave out --pretrained")])
def test_a_fine_tuned_run_is_no_start(tmp_path: Path, start: str | None, next: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(model("finetune", pretrained=start)))
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="has learned from labels") as caught:
        load_pretrained(tmp_path)
    assert caught.value.next.startswith(next)


def test_one_channel_takes_the_weights_of_several_as_if_its_image_were_in_each() -> None:
    source, own = network(0, channels=4), network(1)
    rows = {row.part: row for row in transfer(own, source.state_dict(), ("encoder",), SOURCE)}
    assert rows["encoder"] == Row(
        part="encoder", loaded=size(own, "encoder"), reason="4 input channels summed, for one"
    )
    image = torch.rand(2, 1, 16, 16)
    for ours, theirs in zip(own.eval().encode(image), source.eval().encode(image.repeat(1, 4, 1, 1)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_loaded_parameters_are_those_that_were_loaded() -> None:
    own = network(1, classes=5)
    rows = transfer(own, network(0).state_dict(), ("encoder", "head"), SOURCE)
    found = {id(parameter) for parameter in loaded_parameters(own, rows)}
    assert found == {id(p) for name, p in own.named_parameters() if own.part_of(name) == "encoder"}
    assert loaded_parameters(own, []) == []


def test_what_was_loaded_rests_in_training_and_so_do_copies_of_it() -> None:
    own = network(1)
    rows = transfer(own, trained_a_little(network(0)).state_dict(), ("encoder", "decoder 1"), SOURCE)
    rest(own, rows)
    loaded = {name for name in own.state_dict() if own.part_of(name) in ("encoder", "decoder 1")}
    assert {name for name, parameter in own.named_parameters() if not parameter.requires_grad} < loaded
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for copy in (own, deepcopy(own)):
        before = {name: value.clone() for name, value in copy.state_dict().items()}
        learned = copy.eval().encode(x)
        copy.train()
        maps = copy.encode(x)
        assert all(torch.equal(one, other) for one, other in zip(maps, learned, strict=True))
        copy.head(copy.decode(maps)).sum().backward()
        changed = {name for name, value in copy.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert not changed & loaded, "only what is fresh follows batches"


def trained_a_little(backbone: Backbone) -> Backbone:
    """Its running statistics are no longer those that it began with."""
    backbone.train()
    backbone.head(backbone.decode(backbone.encode(torch.randn(4, 1, 32, 32) * 3 + 1)))
    return backbone
