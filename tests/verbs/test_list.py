import json
import re
import subprocess
import sys

import pytest

from lemis.verbs.list import count_parameters
from lemis.verbs.list import list as list_verb

PLAIN = (str, int, float, bool, type(None), list, tuple)


def test_everything_is_listed_with_its_settings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    facts = list_verb()
    assert facts["methods"][0]["name"] == "scratch"
    assert {"sal", "pcl", "simclr", "rotation"} <= {row["name"] for row in facts["methods"]}
    assert "unet2d" in {row["name"] for row in facts["backbones"]}
    assert {"supervised_contrast", "voxel_siamese"} <= {row["name"] for row in facts["auxiliaries"]}
    assert "small" in facts["presets"]
    plugged = [*facts["methods"][1:], *facts["backbones"], *facts["auxiliaries"], *facts["semi"]]
    assert all(row["title"] and row["dims"] for row in plugged)
    assert facts["single"]
    assert all(row["title"] for row in facts["single"])
    plugged += facts["single"]
    assert {"random", "cover", "disagreement"} <= {row["name"] for row in facts["suggesters"]}
    assert all(row["title"] for row in facts["suggesters"])
    for rows in [row["settings"] for row in plugged] + [*facts["settings"].values()]:
        assert rows
        assert all(set(row) == {"name", "default", "note"} and isinstance(row["default"], PLAIN) for row in rows)
    printed = capsys.readouterr().out
    assert "no pre-training: the matched baseline" in " ".join(printed.split())
    (kaf,) = (row for row in facts["methods"] if row["name"] == "kaf")
    assert kaf["backbones"] == ("kaf_unet", "fcn")
    assert "lemis list --json" in printed
    assert "Extra losses in fine-tuning (--auxiliary)" in printed
    assert "One image, no labels (segment-one --method)" in printed
    assert all(row["name"] in printed for row in [*plugged, *facts["suggesters"]])
    assert "Which scans to label next (suggest --method)" in printed
    assert "Unlabelled scans in fine-tuning too (--semi)" in printed
    papers = [*facts["methods"][1:], *facts["auxiliaries"], *facts["semi"], *facts["single"], *facts["suggesters"]]
    assert all(row["title"] in printed for row in papers)  # authors, place and year too
    assert sum(re.search(r"\d{4}, https?://", row["title"]) is not None for row in papers) > 25


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

    facts = list_verb()
    folders = {
        "methods": facts["methods"][1:],
        "backbones": facts["backbones"],
        "auxiliary": facts["auxiliaries"],
        "semi": facts["semi"],
        "single": facts["single"],
        "suggesters": facts["suggesters"],
    }
    for folder, rows in folders.items():
        for row in rows:
            fields = dataclasses.fields(plugins.load(folder, row["name"]).Settings)
            assert [listed["name"] for listed in row["settings"]] == [one.name for one in fields]


def test_dims_are_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    list_verb()
    shown = {line.split()[1]: line.split()[3] for line in capsys.readouterr().out.splitlines() if line[:1] == "│"}
    assert (shown["scratch"], shown["sal"], shown["unet3d"], shown["swin_unetr"]) == ("2D/3D", "2D", "3D", "2D/3D")


@pytest.mark.slow
def test_parameters_are_counted(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = list_verb(parameters=True)["backbones"]
    counts = {row["name"]: row["parameters"] for row in rows}
    assert all(set(counts[row["name"]]) == {f"{dims}D" for dims in row["dims"]} for row in rows)
    assert all(isinstance(count, int) and count > 0 for found in counts.values() for count in found.values())
    assert counts["swin_unetr"]["3D"] > counts["swin_unetr"]["2D"]
    printed = capsys.readouterr().out
    assert f"{counts['unet3d']['3D']:,} " in printed
    assert f"{counts['swin_unetr']['3D']:,} (3D)" in printed


def test_parameters_are_those_of_the_network_that_is_built():
    from lemis.backbones import unet2d

    network = unet2d.Backbone(unet2d.Settings(), in_channels=1, num_classes=4)
    assert count_parameters("unet2d", 2) == sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize("arguments", ["()", "(json=True)"])
def test_listing_does_not_import_torch(arguments):
    code = f"import sys; from lemis.verbs.list import list; list{arguments}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
