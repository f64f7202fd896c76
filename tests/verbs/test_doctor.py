import builtins
import importlib
import json
from pathlib import Path

import pytest

from lemis.verbs import doctor as module
from lemis.verbs.doctor import (
    Diagnosis,
    Finding,
    disk,
    doctor,
    known_bad,
    memory_bytes,
    versions,
)


def installed(**packages):
    return lambda name: packages.get(name.replace("-", "_"))


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_it_looks_at_machine_versions_and_disk(tmp_path, capsys):
    diagnosis = doctor(output=tmp_path)
    names = {finding.name for finding in diagnosis.findings}
    assert {
        "system",
        "cores",
        "memory",
        "bfloat16 on the CPU",
        "lemis",
        "torch",
        "write access",
        "free disk",
    } <= names
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert ("All is well." in printed) == diagnosis.healthy


def test_json_is_the_diagnosis(tmp_path, capsys):
    diagnosis = doctor(output=tmp_path, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["healthy"] == diagnosis.healthy
    assert [row["name"] for row in facts["findings"]] == [finding.name for finding in diagnosis.findings]
    assert all(set(row) == {"name", "seen", "state", "fix"} for row in facts["findings"])


def test_what_must_be_fixed_comes_with_one_line_that_says_how(monkeypatch, tmp_path, capsys):
    broken = Finding(name="thing", seen="bad [value]", state="fix", fix="do this")
    monkeypatch.setattr(module, "known_bad", lambda: [broken])
    assert not doctor(output=tmp_path).healthy
    printed = capsys.readouterr().out
    assert "bad [value]" in printed
    assert "-> do this" in printed
    assert "1 to fix, each with its line above." in printed


def test_a_note_is_not_a_fault():
    assert Diagnosis(findings=(Finding(name="memory", seen="4 GB", state="note", fix="smaller batches"),)).healthy


def test_versions_out_of_range_and_missing_packages_are_named():
    wanted = ["numpy>=2", "rich>=13", "scipy", 'pytest>=8; extra == "dev"']
    found = {f.name: f for f in versions(wanted, installed(numpy="1.26.4", rich="15.0.0", lemis="0.1.0"))}
    assert {name: f.state for name, f in found.items()} == {
        "lemis": "good",
        "numpy": "fix",
        "rich": "good",
        "scipy": "fix",
    }
    assert "1.26.4, but >=2 is needed" in found["numpy"].seen
    assert found["numpy"].fix.endswith('-m pip install "numpy>=2"')
    assert "not installed" in found["scipy"].seen


@pytest.mark.parametrize("version", ["2.9.0", "2.9.1+cu128"])
def test_torch_2_9_is_refused_and_says_why(version):
    found = states_and_text(versions(["torch>=2.6,!=2.9.*"], installed(torch=version)))
    assert found["torch"][0] == "fix"
    assert "four times slower" in found["torch"][1]


@pytest.mark.parametrize("version", ["2.8.0", "2.10.0", "2.13.0+cpu"])
def test_other_versions_of_torch_are_fine(version):
    assert states(versions(["torch>=2.6,!=2.9.*"], installed(torch=version)))["torch"] == "good"


def states_and_text(findings):
    return {finding.name: (finding.state, finding.seen) for finding in findings}


@pytest.mark.parametrize(
    ("packages", "bad"),
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, {"torchvision"}),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, set()),
        ({"torch": "2.13.0", "torchvision": "0.28.0"}, set()),
        ({"torch": "2.13.0+cpu"}, set()),
        ({"opencv_python": "5.0", "opencv_python_headless": "5.0"}, {"opencv"}),
        ({"opencv_python_headless": "5.0"}, set()),
    ],
)
def test_packages_that_break_each_other(packages, bad):
    found = list(known_bad(installed(**packages)))
    assert {finding.name for finding in found} == bad
    assert all(finding.state == "fix" and "pip uninstall" in finding.fix for finding in found)


def test_a_missing_gpu_is_a_fault_only_when_asked_for(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert states(module.torch_facts("auto"))["GPU"] == "good"
    assert states(module.torch_facts("cpu"))["GPU"] == "good"
    assert states(module.torch_facts("cuda"))["GPU"] == "fix"


def test_a_torch_that_cannot_be_imported_is_reported(monkeypatch):
    def refuse(name):
        raise ImportError("libcudart.so is missing")

    monkeypatch.setattr(importlib, "import_module", refuse)
    assert states_and_text(module.torch_facts("auto")) == {
        "torch": ("fix", "cannot be imported: libcudart.so is missing")
    }


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path):
    found = {finding.name: finding for finding in disk(tmp_path / "a" / "b")}
    assert found["write access"].seen == str(tmp_path)
    assert found["write access"].state == "good"


def test_a_place_that_cannot_be_written_to_is_a_fault(tmp_path):
    (tmp_path / "file").write_text("")
    assert states(disk(tmp_path / "file" / "work")) == {"write access": "fix"}


def test_little_disk_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DISK_GB", float("inf"))
    assert states(disk(tmp_path)) == {"write access": "good", "free disk": "fix"}


def test_little_memory_is_a_note(monkeypatch):
    monkeypatch.setattr(module, "memory_bytes", lambda: 4e9)
    found = {finding.name: finding for finding in module.machine()}
    assert found["memory"].state == "note"
    assert found["memory"].seen == "4.0 GB"


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert memory_bytes(limit) == 1e6
    limit.write_text("max\n")
    assert memory_bytes(limit) == memory_bytes(tmp_path / "absent") > 1e6


def test_doctor_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doctor()
    assert list(Path().iterdir()) == []
    assert builtins.list is list
