"""Published figures: as many as the papers print, the right ones, and what is doubtful says so."""

from __future__ import annotations

import subprocess
import sys
from statistics import fmean, pstdev

import pytest

from lemis import plugins
from lemis.errors import UsageError
from lemis.measure import published
from lemis.measure.published import Entry

COUNTS = {
    "kaf-table1-acdc": 84, "kaf-table1-chd": 84, "kaf-table10-acdc": 42, "kaf-table10-chd": 42,
    "kaf-table2-acdc": 12, "kaf-table2-chd": 12, "kaf-table3-acdc": 21, "kaf-table3-chd": 21,
    "kaf-table4-acdc": 4, "kaf-table4-chd": 4, "kaf-table5-chd": 8, "kaf-table6-synapse": 8,
    "kaf-table7-acdc": 6, "kaf-table7-chd": 6, "kaf-table8-chd": 10, "kaf-table9-chd": 84,
    "macl-table1-acdc": 100, "macl-table1-chaos": 100, "macl-table1-hvsmr": 100, "macl-table1-mmwhs": 100,
    "macl-table10-acdc": 24, "macl-table11-acdc": 16, "macl-table11-chaos": 16, "macl-table11-heart": 16,
    "macl-table12-acdc": 92, "macl-table2-heart": 100, "macl-table2-hippocampus": 100, "macl-table2-isic": 100,
    "macl-table2-spleen": 100, "macl-table3-acdc": 16, "macl-table3-mmwhs": 16, "macl-table4-acdc": 20,
    "macl-table4-mmwhs": 20, "macl-table5-acdc": 16, "macl-table5-chaos": 16, "macl-table5-hvsmr": 16,
    "macl-table5-mmwhs": 16, "macl-table6-acdc": 20, "macl-table6-mmwhs": 20, "macl-table7-acdc": 8,
    "macl-table7-chaos": 8, "macl-table7-heart": 8, "macl-table7-hippocampus": 8, "macl-table7-hvsmr": 8,
    "macl-table7-isic": 8, "macl-table7-mmwhs": 8, "macl-table7-spleen": 8, "macl-table8-chd": 55,
    "s3net-table1-lung": 15, "s3net-table1-ph2": 18, "s3net-table2-ph2": 12, "s3net-text-ph2": 2, "sal-table1-acdc": 32,
    "sal-table2-chd": 32, "sal-table3-acdc": 5, "sal-table4-acdc": 5, "sgscn-sysu": 3, "voxel-siamese-figure7": 2,
    "voxel-siamese-table1": 54, "voxel-siamese-table2": 18, "voxel-siamese-table3": 9, "voxel-siamese-table4": 6,
    "voxel-siamese-table5": 9,
}  # fmt: skip


def one(name: str, **wanted: object) -> Entry:
    found = [entry for entry in published.load(name) if all(getattr(entry, key) == wanted[key] for key in wanted)]
    assert len(found) == 1, found
    return found[0]


def test_every_table_has_as_many_figures_as_are_printed() -> None:
    assert {name: len(published.load(name)) for name in published.tables()} == COUNTS


# Read off the notes by hand, one or more of every table.
@pytest.mark.parametrize(
    ("name", "where", "printed"),
    [
        ("sal-table1-acdc", {"row": "SAL", "labelled": "2"}, "0.723(.04)"),
        ("sal-table1-acdc", {"row": "CCrop", "labelled": "10"}, "0.853(.02)"),
        ("sal-table2-chd", {"row": "GCL", "labelled": "15"}, "0.676(.04)"),
        ("sal-table2-chd", {"row": "SAL", "labelled": "51"}, "0.772(.03)"),
        ("sal-table3-acdc", {"row": "lambda 80"}, "0.869(.02)"),
        ("sal-table4-acdc", {"row": "window 6"}, "0.867(.01)"),
        ("kaf-table1-chd", {"row": "KAF", "group": "SSL", "labelled": "51"}, "0.788(.03)"),
        ("kaf-table1-chd", {"row": "GLCL-global", "labelled": "2"}, "0.255(.10)"),
        ("kaf-table1-acdc", {"row": "KAF", "group": "Random", "labelled": "15"}, "0.897(.01)"),
        ("kaf-table1-acdc", {"row": "SimCLR", "labelled": "2"}, "0.352(.06)"),
        ("kaf-table2-chd", {"row": "G: T = 6, levels 1 2 3 4"}, "0.690(.03)"),
        ("kaf-table2-acdc", {"row": "L: T = 9, levels 1 2 3 4, weights 1 / 1 / 0.01"}, "0.873(.01)"),
        ("kaf-table3-chd", {"row": "PCL (Swin-Unet)", "labelled": "51"}, "0.783(.03)"),
        ("kaf-table3-acdc", {"row": "SwinUNETR-3d", "labelled": "80"}, "0.735(.01)"),
        ("kaf-table4-chd", {"row": "SuperPoint", "group": "SSL"}, "0.703(.03)"),
        ("kaf-table5-chd", {"row": "theta 35"}, "0.690(.037)"),
        ("kaf-table6-synapse", {"row": "KAF", "group": "SSL"}, "0.322(.06)"),
        ("kaf-table6-synapse", {"row": "SwinUNETR+PCL"}, "0.304(.06)"),
        ("kaf-table7-chd", {"row": "UNet(c2)", "metric": "parameters"}, "27.9"),
        ("kaf-table7-acdc", {"row": "UNet(c2)", "metric": "dice"}, "0.796(.03)"),
        ("kaf-table8-chd", {"row": "weights 0 / 1 / 0.02"}, "0.707(.03)"),
        ("kaf-table9-chd", {"row": "FCN + KAF", "labelled": "10", "fold": 1}, "0.5632"),
        ("kaf-table10-acdc", {"labelled": "80", "fold": 5}, "0.9328"),
        ("kaf-table10-acdc", {"labelled": "2", "fold": None}, "0.741(.034)"),
        ("macl-table1-acdc", {"row": "MACL", "labelled": "10 %", "metric": "hd95"}, "5.23"),
        ("macl-table1-mmwhs", {"row": "MACL", "labelled": "10 %", "metric": "dice"}, "79.28"),
        ("macl-table1-hvsmr", {"row": "SwAV", "labelled": "25 %", "metric": "asd"}, "4.62"),
        ("macl-table1-chaos", {"row": "Scratch", "labelled": "100 %", "metric": "jaccard"}, "79.84"),
        ("macl-table2-spleen", {"row": "DeSD", "labelled": "10 %", "metric": "hd95"}, "7.18"),
        ("macl-table2-isic", {"row": "SimSiam", "labelled": "25 %", "metric": "dice"}, "87.29"),
        ("macl-table2-heart", {"row": "BYOL", "labelled": "10 %", "metric": "jaccard"}, "58.00"),
        ("macl-table2-hippocampus", {"row": "DiRA", "labelled": "25 %", "metric": "asd"}, "0.33"),
        ("macl-table3-mmwhs", {"row": "L_g + decoder", "metric": "dice"}, "88.19"),
        ("macl-table4-acdc", {"row": "3 blocks", "metric": "jaccard"}, "72.17"),
        ("macl-table5-chaos", {"row": "lambda2 0.75, lambda3 0.5"}, "66.36"),
        ("macl-table5-acdc", {"row": "lambda2 0.5, lambda3 1.0"}, "86.63"),
        ("macl-table6-mmwhs", {"row": "one stage, EMA encoder", "labelled": "25 %", "metric": "hd95"}, "4.49"),
        ("macl-table7-mmwhs", {"labelled": "25 %", "metric": "dice"}, "86.98"),
        ("macl-table7-heart", {"labelled": "10 %", "metric": "asd"}, "2.60"),
        ("macl-table8-chd", {"row": "DeSD", "metric": "parameters"}, "36.76"),
        ("macl-table8-chd", {"row": "MACL", "metric": "total"}, "7.92"),
        ("macl-table10-acdc", {"row": "MACL", "group": "noisy labels: missing", "metric": "dice"}, "62.95"),
        ("macl-table10-acdc", {"row": "PCL", "group": "class imbalance: 0.1", "metric": "jaccard"}, "14.30"),
        ("macl-table11-chaos", {"row": "nnSSL", "labelled": "10 %", "metric": "dice"}, "90.66"),
        ("macl-table12-acdc", {"row": "MACL+BCP", "labelled": "20 %", "metric": "dice"}, "89.76"),
        ("voxel-siamese-table1", {"row": "Ours", "structure": "gallbladder"}, "0.793"),
        ("voxel-siamese-table2", {"row": "VNet", "metric": "hd95"}, "5.861"),
        ("voxel-siamese-table3", {"row": "2 layers", "metric": "assd"}, "0.761"),
        ("voxel-siamese-table4", {"row": "without class weight", "metric": "dice"}, "0.800"),
        ("voxel-siamese-table5", {"row": "width 256", "metric": "hd95"}, "3.089"),
        ("voxel-siamese-figure7", {"row": "Ours"}, "0.548"),
        ("s3net-table1-ph2", {"row": "k-means", "metric": "hm"}, "130.8"),
        ("s3net-table1-lung", {"row": "S3-Net", "metric": "xor"}, "13.1"),
        ("s3net-table2-ph2", {"row": "CE + S", "metric": "dice"}, "85.9"),
        ("s3net-text-ph2", {"row": "deformable convolution replaced"}, "-0.8"),
        ("sgscn-sysu", {"metric": "xor"}, "52.3"),
    ],
)  # fmt: skip
def test_figures_are_those_that_are_printed(name: str, where: dict[str, object], printed: str) -> None:
    entry = one(name, **where)
    assert entry.printed == printed
    assert entry.value == float(printed.split("(")[0])


def test_the_std_is_read_from_brackets() -> None:
    entry = one("kaf-table9-chd", row="FCN", labelled="2", fold=None)
    assert (entry.value, entry.std, entry.fold) == (0.286, 0.056, None)
    assert one("macl-table1-acdc", row="PCL", labelled="25 %", metric="dice").std is None


def test_methods_networks_and_losses_are_files_of_ours() -> None:
    methods = {"scratch", "", *plugins.names("methods"), *plugins.names("single")}
    for name in published.tables():
        for entry in published.load(name):
            assert entry.method in methods
            assert entry.backbone in {"", *plugins.names("backbones")}
            assert entry.auxiliary in {"", *plugins.names("auxiliary")}
            assert entry.paper in published.PAPERS
            assert entry.table
            assert entry.data in name or name.startswith("voxel-siamese")


def test_no_figure_stands_twice() -> None:
    for name in published.tables():
        places = [
            (entry.group, entry.row, entry.labelled, entry.fold, entry.structure, entry.metric)
            for entry in published.load(name)
        ]
        assert len(places) == len(set(places)), name


def test_values_are_in_their_units() -> None:
    for name in published.tables():
        for entry in published.load(name):
            if entry.unit == "share":
                assert 0 < entry.value < 1, entry
            if entry.metric in ("dice", "jaccard") and entry.unit == "percent":
                assert 1 < entry.value < 100, entry
            assert entry.std is None or entry.std < 0.2


def test_means_of_organs_are_the_printed_averages_but_for_one() -> None:
    rows: dict[str, list[Entry]] = {}
    for entry in published.load("voxel-siamese-table1"):
        rows.setdefault(entry.row, []).append(entry)
    for row, (mean, *organs) in rows.items():
        assert (mean.structure, len(organs)) == ("mean", 8)
        found = fmean(entry.value for entry in organs)
        if row == "SCL":
            assert found == pytest.approx(0.7836, abs=0.00005)
            assert "0.7836" in mean.lemis_note
        else:
            assert found == pytest.approx(mean.value, abs=0.00051)


@pytest.mark.parametrize("name", ["kaf-table9-chd", "kaf-table10-chd", "kaf-table10-acdc"])
def test_means_of_folds_are_the_printed_averages_but_for_one(name: str) -> None:
    rows: dict[tuple[str, str], list[Entry]] = {}
    for entry in published.load(name):
        rows.setdefault((entry.row, entry.labelled), []).append(entry)
    assert len(rows) == (14 if name == "kaf-table9-chd" else 7)
    for (_, labelled), entries in rows.items():
        *folds, mean = entries
        values = [entry.value for entry in folds]
        assert [entry.fold for entry in entries] == [1, 2, 3, 4, 5, None]
        assert pstdev(values) == pytest.approx(mean.std, abs=0.00051)  # the population form
        if name == "kaf-table10-chd" and labelled == "15":
            assert fmean(values) == pytest.approx(0.7076, abs=0.00005)
            assert "0.7076" in mean.lemis_note
        else:
            assert fmean(values) == pytest.approx(mean.value, abs=0.00051)


def test_jaccard_follows_from_dice_on_sets_of_one_structure_but_for_the_misprint() -> None:
    odd = []
    for data in ("spleen", "isic", "heart"):
        scores: dict[tuple[str, str], dict[str, Entry]] = {}
        for entry in published.load(f"macl-table2-{data}"):
            scores.setdefault((entry.row, entry.labelled), {})[entry.metric] = entry
        for both in scores.values():
            dice, jaccard = both["dice"].value / 100, both["jaccard"]
            if abs(100 * dice / (2 - dice) - jaccard.value) > 0.06:
                odd.append(jaccard)
    assert [(entry.row, entry.labelled, entry.data) for entry in odd] == [("BYOL", "10 %", "heart")]
    assert "misprint" in odd[0].lemis_note


def test_rows_that_are_other_tables_rows_agree() -> None:
    for name, row, other in (
        ("macl-table3-acdc", "L_g", "PCL"), ("macl-table3-mmwhs", "L_g", "PCL"),
        ("macl-table3-acdc", "L_g + decoder + L_ER + L_d", "MACL"), ("macl-table4-acdc", "0 blocks", "PCL"),
        ("macl-table4-mmwhs", "2 blocks", "MACL"),
    ):  # fmt: skip
        found = [entry for entry in published.load(name) if entry.row == row]
        assert len(found) == 4
        for entry in found:
            there = one(f"macl-table1-{entry.data}", row=other, labelled=entry.labelled, metric=entry.metric)
            assert entry.printed == there.printed


def test_hammoude_above_xor_is_marked_as_swapped() -> None:
    for data in ("ph2", "lung"):
        rows: dict[str, dict[str, Entry]] = {}
        for entry in published.load(f"s3net-table1-{data}"):
            rows.setdefault(entry.row, {})[entry.metric] = entry
        for row in rows.values():
            impossible = row["hm"].value > row["xor"].value
            assert impossible == ("swapped" in row["hm"].lemis_note) == ("swapped" in row["xor"].lemis_note)


def test_what_is_lost_says_so() -> None:
    lost = [entry for name in ("sal-table3-acdc", "sal-table4-acdc") for entry in published.load(name)]
    assert [entry.row for entry in lost if "lost" in entry.row] == [
        "lambda lost (column 3)", "lambda lost (column 4)", "lambda lost (column 5, largest)",
        "window lost (smallest)", "window lost (column 3)", "window lost (column 4)",
    ]  # fmt: skip
    assert all("lost" in entry.lemis_note for entry in lost if "lost" in entry.row)


def test_shares_of_labels_are_numbers_of_subjects() -> None:
    assert one("macl-table1-acdc", row="MACL", labelled="10 %", metric="dice").subjects == 8
    assert one("macl-table2-hippocampus", row="MACL", labelled="25 %", metric="dice").subjects == 52
    assert one("macl-table1-acdc", row="Scratch", labelled="100 %", metric="dice").subjects is None


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="published table 'kaf-tabel1-acdc'") as caught:
        published.load("kaf-tabel1-acdc")
    assert caught.value.next == "kaf-table1-acdc"


def test_reading_them_needs_no_torch() -> None:
    code = (
        "import sys; from lemis.measure import published as p; p.load('sal-table1-acdc'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
