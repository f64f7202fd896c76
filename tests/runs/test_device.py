"""Which device computes, and in which precision by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lemis.runs import device
from lemis.runs.device import cpu_has_bfloat16, has_bfloat16


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx512_bf16", True),
        ("fpu avx512f amx_bf16 amx_tile", True),
        ("asimd bf16", True),
        ("asimd svebf16x", False),
    ],
)
def test_bfloat16_is_read_from_the_processor_s_flags(tmp_path: Path, flags: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert cpu_has_bfloat16(tmp_path / "cpuinfo") is has


def test_no_cpuinfo_means_no_bfloat16(tmp_path: Path) -> None:
    assert cpu_has_bfloat16(tmp_path / "absent") is False


def test_a_processor_that_imitates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch supports bfloat16 on every processor with AVX-512; on some a convolution takes twice as long in it."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: False)
    assert not has_bfloat16("cpu")
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    assert has_bfloat16("cpu")


def test_a_build_of_pytorch_without_onednn_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no ``torch.ops.mkldnn`` to ask."""

    def lacking() -> bool:
        raise AttributeError

    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lacking)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16("cpu")


def test_a_gpu_that_imitates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bfloat16("cuda")
