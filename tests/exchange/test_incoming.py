"""Weights of others: read without running anything, and loaded where name and shape fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lemis.backbones import unet2d
from lemis.errors import UsageError
from lemis.exchange import incoming
from lemis.exchange.incoming import Found, Placed
from lemis.exchange.requests import rules

FILE = Path("theirs.pt")


def network(seed: int, channels: int = 1, width: int = 4) -> unet2d.Backbone:
    torch.manual_seed(seed)
    return unet2d.Backbone(unet2d.Settings(base_width=width), in_channels=channels, num_classes=3)


def state(seed: int, channels: int = 1, prefix: str = "", width: int = 4) -> dict[str, Tensor]:
    return {prefix + name: one for name, one in network(seed, channels, width).state_dict().items()}


def read(file: Path) -> Found:
    return incoming.largest(incoming.read(file), file)


def place(own: unet2d.Backbone, weights: dict[str, Tensor], mapping: dict[str, str] | None = None) -> Placed:
    return incoming.place(own, Found(weights, ""), mapping or {}, FILE, least=0.5)


# ------------------------------------------------------------------------------------------------------- the file


def test_the_largest_group_of_tensors_is_taken(tmp_path: Path) -> None:
    weights = state(0)
    torch.save({"epoch": 3, "optimizer": {"state": {0: torch.zeros(3)}}, "net": {"w": weights}}, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert found.inside == "net.w"
    assert all(torch.equal(found.weights[name], one) for name, one in weights.items())
    save_file(weights, tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors").weights.keys() == weights.keys()


def test_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    log = {"ema": np.float64(0.5), "losses": [np.float32(1.5), np.int64(3)]}
    torch.save({"network_weights": state(0), "logging": log}, tmp_path / "checkpoint_final.pth")
    assert read(tmp_path / "checkpoint_final.pth").inside == "network_weights"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_what_would_be_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(0), "more": Evil()}, "a.pt")
    Path("b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UsageError, match="cannot be read as tensors and plain types") as caught:
            incoming.read(Path(name))
        assert "torch.save(network.state_dict(), FILE)" in caught.value.next
        assert "weights_only" not in str(caught.value)
        assert "In PyTorch 2.6" not in str(caught.value)
    assert not Path("ran").exists()


def test_damaged_and_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read"):
        incoming.read(tmp_path / "a.safetensors")
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    with pytest.raises(UsageError, match="holds no tensors by name"):
        read(tmp_path / "b.pt")
    torch.save({"w": torch.tensor([torch.nan])}, tmp_path / "c.pt")
    with pytest.raises(UsageError, match=r"not finite \(w\)"):
        incoming.refuse_not_finite(read(tmp_path / "c.pt").weights, tmp_path / "c.pt")


# ---------------------------------------------------------------------------------------------------- into a network


def test_all_but_the_head_is_loaded() -> None:
    own, theirs = network(1), network(0)
    head = own.head.weight.clone()
    placed = place(own, state(0, prefix="module.backbone."))
    assert (placed.share, placed.prefix, placed.left, placed.adapted) == (1.0, "module.backbone.", (), {})
    assert torch.equal(own.head.weight, head)
    rows = {row.part: row for row in placed.rows}
    assert rows["encoder"].fresh == rows["decoder 4"].fresh == rows["head"].loaded == 0
    x = torch.randn(1, 1, 32, 32)
    own, theirs = own.eval(), theirs.eval()
    torch.testing.assert_close(own.decode(own.encode(x)), theirs.decode(theirs.encode(x)), rtol=0, atol=0)


def test_names_are_mapped_in_order() -> None:
    weights = {name.replace("encoder.", "down_").replace("decoder.", "up_"): one for name, one in state(0).items()} | {
        "projector.weight": torch.zeros(2)
    }
    own = network(1)
    placed = place(own, weights, {"^down_": "encoder.", "^up_": "decoder."})
    assert (placed.share, placed.left) == (1.0, ("projector.weight",))
    with pytest.raises(UsageError, match="0 % of the encoder's parameters") as caught:
        place(network(1), weights)
    assert "encoder.0.0.weight (4, 1, 3, 3): not there" in caught.value.given
    assert "down_0.0.weight" in caught.value.given
    assert "--mapping" in caught.value.next


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"both become 'same'"):
        place(network(1), state(0), {"^.*$": "same"})


def test_another_width_is_refused_with_both_shapes() -> None:
    with pytest.raises(UsageError, match=r"encoder.0.0.weight \(4, 1, 3, 3\): \(8, 1, 3, 3\) there"):
        place(network(1), state(0, width=8))


@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3)])
def test_input_channels_are_summed_up_or_shared_out(theirs: int, ours: int) -> None:
    own = network(1, ours)
    placed = place(own, state(0, theirs))
    assert placed.share == 1.0
    assert placed.adapted == {"encoder": own.state_dict()["encoder.0.0.weight"].numel()}
    image = torch.rand(2, 1, 32, 32)
    source = network(0, theirs)
    for here, there in zip(
        own.eval().encode(image.repeat(1, ours, 1, 1)), source.eval().encode(image.repeat(1, theirs, 1, 1)), strict=True
    ):
        torch.testing.assert_close(here, there)


def test_half_precision_becomes_ours() -> None:
    own = network(1)
    place(own, {name: one.half() if one.is_floating_point() else one for name, one in state(0).items()})
    assert own.state_dict()["encoder.0.0.weight"].dtype == torch.float32


def test_a_mapping_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ('"(": "a"', '"a": 3', '"a": "\\\\9"'):
        (tmp_path / "names.yaml").write_text(text)
        with pytest.raises(UsageError, match=r"names\.yaml"):
            rules(tmp_path / "names.yaml")
