import json
import subprocess
import sys

import pytest

from lemis.verbs.list import list as list_verb

PLAIN = (str, int, float, bool, type(None), list, tuple)


def test_everything_is_listed_with_its_settings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    facts = list_verb()
    assert facts["methods"][0]["name"] == "scratch"
    assert {"sal", "pcl", "simclr", "rotation"} <= {row["name"] for row in facts["methods"]}
    assert "unet2d" in {row["name"] for row in facts["backbones"]}
    assert "small" in facts["presets"]
    for rows in [row["settings"] for row in facts["methods"][1:]] + [*facts["settings"].values()]:
        assert rows
        assert all(set(row) == {"name", "default", "note"} and isinstance(row["default"], PLAIN) for row in rows)
    printed = capsys.readouterr().out
    assert "no pre-training: the matched baseline" in " ".join(printed.split())
    (kaf,) = (row for row in facts["methods"] if row["name"] == "kaf")
    assert kaf["backbones"] == ("kaf_unet", "fcn")
    assert "lemis list --json" in printed


def test_the_networks_that_a_method_needs_are_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    list_verb()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    (kaf,) = (number for number, line in enumerate(lines) if line.split()[1] == "kaf")
    assert "on kaf_unet or fcn only" in lines[kaf + 1]
    assert sum("on kaf_unet" in line for line in lines) == 1
    (macl,) = (line for line in lines if line.split()[1] == "macl")
    assert "encoder, decoder 1-2" in macl


def test_json_is_what_is_returned(capsys):
    facts = list_verb(json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(facts))
    assert all("parameters" not in row for row in facts["backbones"])


def test_the_listed_settings_are_those_that_the_code_takes():
    import dataclasses

    from lemis import plugins

    for row in list_verb()["methods"][1:]:
        fields = dataclasses.fields(plugins.load("methods", row["name"]).Settings)
        assert [listed["name"] for listed in row["settings"]] == [one.name for one in fields]


def test_parameters_are_counted():
    rows = list_verb(parameters=True)["backbones"]
    counts = {row["name"]: row["parameters"] for row in rows}
    assert all(isinstance(count, int) and count > 0 for count in counts.values())


@pytest.mark.parametrize("arguments", ["()", "(json=True)"])
def test_listing_does_not_import_torch(arguments):
    code = f"import sys; from lemis.verbs.list import list; list{arguments}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
