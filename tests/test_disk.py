"""What a full, foreign or vanishing disk answers becomes an error that names the path, and the same command goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lemis import files
from lemis.errors import UsageError, of_disk
from lemis.formats import volume
from lemis.verbs.check import check
from lemis.verbs.evaluate import evaluate
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.report import report

FIT = (
    "--preset", "tiny", "--method", "pcl", "--fold", "0", "--device", "cpu", "pretrain.steps=3", "finetune.steps=3",
)  # fmt: skip


def lemis(*words: str, most_bytes: int | None = None, **given: object) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "lemis", *words]
    streams: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    return subprocess.run(command, encoding="utf-8", preexec_fn=limited, timeout=120, **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO,
        errno.ENAMETOOLONG, errno.ENOTDIR, errno.EMFILE, errno.ESTALE,
    ],
)  # fmt: skip
def test_what_the_disk_answers_names_the_path_and_what_to_do(number: int) -> None:
    fault = of_disk(OSError(number, os.strerror(number), "work/runs/pcl"), again="lemis fit scans/")
    assert fault is not None
    assert fault.exit_code == 2
    assert fault.given == f"work/runs/pcl: {os.strerror(number)[0].lower()}{os.strerror(number)[1:]}"
    assert "then lemis fit scans/" in fault.next


@pytest.mark.parametrize("error", [OSError("not a gzip file"), OSError(errno.EINVAL, "Invalid argument", "x")])
def test_other_errors_are_none_of_the_disks(error: OSError) -> None:
    assert of_disk(error) is None


def fail_with(error: Exception) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    return write


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("ITK ERROR: MetaImageIO: File cannot be written\nReason: No space left on device"),
    ],
)
def test_however_a_library_says_that_the_disk_is_full_the_file_is_named(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "model").write_bytes(b"before")
    with pytest.raises(OSError, match="No space left") as caught:
        fail_with(error)(tmp_path / "model")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    assert (tmp_path / "model").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError("no fault of the disk"), OSError(errno.ENOENT, "gone", "a/scan")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        fail_with(error)(tmp_path / "model")
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


_WRITERS: dict[str, Callable[[Path], object]] = {
    "array": lambda path: np.save(path.open("wb"), np.ones(200_000)),
    "checkpoint": lambda path: torch.save({"a": torch.ones(200_000)}, path),
    "weights": lambda path: save_file({"a": torch.ones(200_000)}, path),
    "text": lambda path: path.write_bytes(bytes(500_000)),
}


@pytest.mark.parametrize("kind", _WRITERS)
@pytest.mark.slow  # a process for each kind
def test_every_kind_of_file_meets_the_limit_on_its_size(tmp_path: Path, kind: str) -> None:
    program = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_disk import _WRITERS; from lemis import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "with files.replacing(Path(sys.argv[3])) as temporary: _WRITERS[sys.argv[2]](temporary)\n"
    )
    words = [sys.executable, "-c", program, str(Path(__file__).parent), kind, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.stderr.strip().splitlines()[-1] == f"OSError: [Errno 27] File too large: '{tmp_path / 'file'}'"
    assert list(tmp_path.iterdir()) == []


def test_a_label_map_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nibabel

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nibabel, "save", full)
    with pytest.raises(OSError, match="No space left") as caught:
        volume.write_volume(np.zeros((2, 2, 2)), np.eye(4), tmp_path / "masks" / "a.nii.gz")
    assert caught.value.filename == str(tmp_path / "masks" / "a.nii.gz")
    assert list((tmp_path / "masks").iterdir()) == []


def test_a_folder_below_a_file_is_refused_before_any_work(work: Path, phantom_scans: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    below = tmp_path / "file" / "deep" / "w"
    trials: list[Callable[[], object]] = [
        lambda: check(phantom_scans, output=below),
        lambda: fit(phantom_scans, output=below, preset="tiny"),
        lambda: report(work, output=below / "page.html"),
    ]
    for trial in trials:
        with pytest.raises(UsageError, match=rf"{tmp_path / 'file'}: not a directory"):
            trial()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_refused_before_any_work(work: Path, phantom_scans: Path) -> None:
    work.chmod(0o500)
    trials: list[Callable[[], object]] = [
        lambda: check(phantom_scans, output=work),
        lambda: prepare(work),
        lambda: pretrain(work, preset="tiny"),
    ]
    try:
        for trial in trials:
            with pytest.raises(UsageError, match=rf"{work}.*: permission denied"):
                trial()
    finally:
        work.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_rights_are_asked_before_any_work(
    work: Path, phantom_scans: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a disk of that kind: what the system would answer is made up."""
    read_only = os.ST_RDONLY if number == errno.EROFS else 0
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: type("Stat", (), {"f_flag": read_only}))
    before = sorted(work.rglob("*"))
    trials: list[Callable[[], object]] = [
        lambda: check(phantom_scans, output=work),
        lambda: prepare(work),
        lambda: pretrain(work, preset="tiny"),
        lambda: evaluate(work),
        lambda: report(work),
    ]
    for trial in trials:
        with pytest.raises(UsageError) as caught:
            trial()
        assert os.strerror(number)[1:] in caught.value.given
    assert sorted(work.rglob("*")) == before


@pytest.mark.slow
def test_with_space_again_the_same_command_ends_with_the_same_bits(phantom_scans: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert lemis("fit", str(phantom_scans), "-o", str(whole), *FIT).returncode == 0
    largest = max((whole / "runs").rglob("model.safetensors"), key=lambda file: file.stat().st_size)
    refused = lemis("fit", str(phantom_scans), "-o", str(cut), *FIT, most_bytes=largest.stat().st_size // 2)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "file too large" in refused.stderr
    assert f"{cut}/" in refused.stderr
    assert f"lemis fit {phantom_scans}" in refused.stderr.splitlines()[-1]
    assert lemis("fit", str(phantom_scans), "-o", str(cut), *FIT).returncode == 0
    for file in whole.glob("runs/*/model.safetensors"):
        assert (cut / file.relative_to(whole)).read_bytes() == file.read_bytes()
    assert list(cut.rglob(f"*{files.PART}")) == []


def test_a_scan_that_is_deleted_meanwhile_is_named(phantom_scans: Path, work: Path, tmp_path: Path) -> None:
    scans = Path(shutil.copytree(phantom_scans, tmp_path / "scans"))
    check(scans, output=work)
    pretrained = pretrain(work, method="pcl", preset="tiny", overrides=["steps=1", "precision=32"], device="cpu")
    (scans / "imagesTr" / "heart_004_0000.nii.gz").unlink()
    with pytest.raises(UsageError, match="heart_004_0000") as caught:
        prepare(work)
    assert caught.value.exit_code in (2, 3)
    shutil.rmtree(pretrained)
    with pytest.raises(UsageError, match="pcl"):
        predict(pretrained)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_said_without_a_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        done = lemis("list", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the output of this command: no space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_output_that_nobody_reads_on_is_silent() -> None:
    shell = f"{sys.executable} -m lemis list | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
