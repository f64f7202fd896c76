"""Splits: the published folds number by number, and nothing leaks."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.datasets import split
from lemis.errors import UsageError

SHARED = Path(__file__).parents[2] / "../shared/data"

# (data set, fold, validation, M = 2, M = 6); ACDC by patient number, CHD by rank in the sorted ids.
PUBLISHED = [
    ("ACDC", 0, "5 10 14 21 26 29 34 36 41 43 50 52 61 64 66 70 76 79 87 89", "73 18", "73 18 1 15 95 6"),
    ("ACDC", 1, "1 3 7 9 18 27 31 38 40 46 47 48 51 53 55 58 72 77 88 93", "74 20", "74 20 2 16 95 8"),
    ("ACDC", 2, "13 17 19 20 22 23 25 28 33 49 59 63 69 75 80 84 85 86 90 96", "70 16", "70 16 1 12 94 5"),
    ("ACDC", 3, "4 6 16 24 32 45 54 56 57 62 65 67 68 71 73 91 92 94 95 97", "70 18", "70 18 1 14 90 7"),
    ("ACDC", 4, "2 8 11 12 15 30 35 37 39 42 44 60 74 78 81 82 83 98 99 100", "69 20", "69 20 1 17 92 6"),
    ("CHD", 0, "4 6 22 32 35 42 43 47 48 51 52 58 60 61", "63 31", "63 31 9 0 7 44"),
    ("CHD", 1, "2 8 12 20 21 24 25 26 28 30 40 44 45 46", "63 38", "63 38 9 0 6 51"),
    ("CHD", 2, "0 3 5 15 19 23 31 33 53 55 56 57 59 65", "62 36", "62 36 10 1 8 45"),
    ("CHD", 3, "7 9 10 11 13 16 17 18 27 38 39 50 64", "61 37", "61 37 8 0 5 48"),
    ("CHD", 4, "1 14 29 34 36 37 41 49 54 62 63 66 67", "58 31", "58 31 8 0 6 44"),
]
# MACL's own lists: name of a subject, all numbers, the test list, the shorter and the longer training list.
CHAOS = [1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39]
MACL = {
    "ACDC": ("patient{:03d}", range(1, 101), PUBLISHED[0][2], "73 18 1 15 95 6 13 16",
             "73 18 1 15 95 6 13 16 58 39 3 4 90 57 80 77 24 7 97 92"),
    "MMWHS": ("ct_train_{}", range(1001, 1021), "1001 1011 1013 1016", "1019 1003", "1019 1003 1002 1020"),
    "HVSMR": ("pat{}", range(10), "3 9", "8", "8 0"),
    "CHAOS": ("chaos_{}", CHAOS, "20 21 32 39", "5 10", "5 10 1 8"),
    # By place in the list of files; real numbers have gaps.
    "Spleen": ("spleen_{:02d}", range(41), "6 7 10 11 13 17 24 26", "36 9 0 5", "36 9 0 2 33 25 1 29"),
    "Heart": ("la_{:03d}", range(20), "0 10 12 15", "18 2", "18 2 1 19"),
}  # fmt: skip
COHORTS = {"ACDC": range(1, 101), "CHD": range(68)}
BUDGETS = {"ACDC": (2, 6, 10, 15, 20, 30, 80), "CHD": (2, 6, 10, 15, 20, 30, 51)}


@dataclasses.dataclass(frozen=True)
class Row:
    id: str
    subject: str
    label: str | None = "label"


def two_phases(subjects):
    return [Row(f"{subject}_{phase}", subject) for subject in subjects for phase in ("ED", "ES")]


@pytest.mark.parametrize("name", ["patient{:03d}", "p{}", "{}"])
@pytest.mark.parametrize(("data", "number", "test", "two", "six"), PUBLISHED)
def test_published_folds_and_budgets(name, data, number, test, two, six):
    def named(numbers):
        return tuple(name.format(int(i)) for i in numbers.split())

    fold = split.folds(name.format(i) for i in COHORTS[data])[number]
    assert fold.test == named(test)
    assert split.labelled_subset(fold.train, 2) == named(two)
    assert split.labelled_subset(fold.train, 6) == named(six)


@pytest.mark.parametrize("data", COHORTS)
def test_published_budgets_are_nested(data):
    for fold in split.folds(map(str, COHORTS[data])):
        chosen = [split.labelled_subset(fold.train, m) for m in BUDGETS[data]]
        for small, large in pairwise(chosen):
            assert set(small) < set(large)


@given(st.sets(st.text("abc019", min_size=1, max_size=5), min_size=5, max_size=30))
def test_folds_partition_the_subjects_whatever_their_order(subjects):
    found = split.folds(sorted(subjects))
    assert found == split.folds(sorted(subjects, reverse=True))
    tested = [subject for fold in found for subject in fold.test]
    assert len(tested) == len(set(tested))
    assert set(tested) == subjects
    assert all(set(fold.train) == subjects - set(fold.test) for fold in found)


def test_subjects_are_sorted_as_people_count():
    assert split.in_order(["p10", "p2", "p1b", "p1", "a7"]) == ("a7", "p1", "p1b", "p2", "p10")


def test_a_split_is_by_subject_and_of_labelled_ones_only():
    rows = [*two_phases("abcdefgh"), Row("x_ED", "x", label=None)]
    chosen = split.choose(rows, fold=1, labelled=3)
    everyone = set(chosen.train_subjects) | set(chosen.test_subjects)
    assert everyone == set("abcdefgh")
    assert not set(chosen.train_subjects) & set(chosen.test_subjects)
    assert set(chosen.labelled_subjects) < set(chosen.train_subjects)
    assert len(chosen.labelled_subjects) == 3
    assert chosen.source.startswith("fold 1 of 5, KFold")
    assert chosen == split.choose(list(reversed(rows)), fold=1, labelled=3)


def test_without_a_fold_every_label_is_used_and_nothing_is_tested():
    chosen = split.choose(two_phases("abc"))
    assert chosen.train_subjects == chosen.labelled_subjects == ("a", "b", "c")
    assert chosen.test_subjects == ()


def test_another_seed_chooses_other_subjects():
    train = [str(i) for i in range(50)]
    assert split.labelled_subset(train, 5) != split.labelled_subset(train, 5, seed=1)


def write_splits(folder, *entries):
    (folder / split.FILE).write_text(json.dumps([{"train": train, "val": val} for train, val in entries]))


def test_a_file_of_splits_is_used_and_mapped_to_subjects(tmp_path):
    write_splits(tmp_path, (["a_ED", "a_ES", "b_ED"], ["c_ES"]), (["c_ED"], ["b_ED", "a_ED"]))
    chosen = split.choose(two_phases("abc"), fold=1, root=tmp_path)
    assert chosen.train_subjects == ("c",)
    assert chosen.test_subjects == ("a", "b")
    assert chosen.source == "fold 1 of 2, splits_final.json"


def test_a_file_of_splits_that_leaks_is_refused(tmp_path):
    write_splits(tmp_path, (["a_ED", "b_ED"], ["a_ES"]))
    with pytest.raises(UsageError, match="trains and tests on subject 'a': a leak"):
        split.choose(two_phases("abc"), fold=0, root=tmp_path)


def test_all_faults_of_a_file_of_splits_are_told(tmp_path):
    scans = two_phases("abc")
    subject_of = {scan.id: scan.subject for scan in scans}
    write_splits(tmp_path, (["a_ED", "z_ED"], ["b_ED"]), (["a_ED", "b_ES"], ["a_ES", "b_ED"]), ([], ["c_ED"]))
    told = [fault.given for fault in split.faults_of_splits(tmp_path / split.FILE, subject_of)]
    assert [words.split(" of ")[0] for words in told] == ["fold 0", "fold 1", "fold 2"]
    assert "names 'z_ED'" in told[0]
    assert "trains and tests on subject 'a' and 1 more" in told[1]
    assert "has nobody in 'train'" in told[2]
    with pytest.raises(UsageError) as caught:
        split.choose(scans, fold=0, root=tmp_path)
    assert caught.value.given == told[0]


def test_who_is_in_no_fold_is_known(tmp_path):
    subject_of = {scan.id: scan.subject for scan in two_phases("abcd")}
    write_splits(tmp_path, (["a_ED"], ["c_ES"]), (["c_ED"], ["a_ES"]))
    assert split.faults_of_splits(tmp_path / split.FILE, subject_of) == []
    assert split.in_no_fold(tmp_path / split.FILE, subject_of) == ("b", "d")


def test_a_file_of_splits_that_names_a_stranger_is_refused(tmp_path):
    write_splits(tmp_path, (["a_ED"], ["z_ED"]))
    with pytest.raises(UsageError, match="names 'z_ED', which has no label here"):
        split.choose(two_phases("abc"), fold=0, root=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"{}x", b"[1]", b"3", b"[]", b"{}", b'"x"', b'[{"train": []}]', b'[{"train": ["a"], "val": "b"}]'),
        *(b'[{"train": ["a"], "val": [null]}]', b'[{"train": [["a"]], "val": ["b"]}]', b"[[]]", b"[" * 3000),
        *(b'[{"train": ["M\xfc"]}]', b'[{"train": ["a"], "val": [' + b"9" * 5000 + b"]}]"),
    ],
)
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / split.FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"splits_final\.json(.|\n)*correct splits_final\.json, or move it away"):
        split.choose(two_phases("abc"), fold=0, root=tmp_path)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(UsageError, match=rf"fold {fold}\n.*0 to 4"):
        split.choose(two_phases("abcdef"), fold=fold)


@pytest.mark.parametrize("m", [0, 5])
def test_a_budget_beyond_the_subjects_is_refused(m):
    with pytest.raises(UsageError, match=rf"{m} labelled subjects\n.*1 to 4"):
        split.labelled_subset("abcd", m)


def test_few_subjects_are_each_a_fold():
    found = [split.choose(two_phases("abc"), fold=fold) for fold in range(3)]
    assert sorted(one.test_subjects for one in found) == [("a",), ("b",), ("c",)]
    assert found[0].source.startswith("fold 0 of 3, KFold(n_splits=3")


def test_one_subject_cannot_be_folded():
    with pytest.raises(UsageError, match=r"1 folds of 1 labelled subjects\n.*at least two"):
        split.choose(two_phases("a"), fold=0)


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(UsageError, match="5 folds of 3 labelled subjects"):
        split.folds("abc")


def test_number_of_folds_is_what_choose_knows(tmp_path):
    assert split.number_of_folds(two_phases("abcdefgh")) == 5
    assert split.number_of_folds(two_phases("abc")) == 3
    assert split.number_of_folds(two_phases("a")) == 1
    assert split.number_of_folds([Row("a", "a", label=None)]) == 0
    write_splits(tmp_path, (["a_ED"], ["b_ED"]), (["b_ED"], ["a_ED"]))
    assert split.number_of_folds(two_phases("abc"), root=tmp_path) == 2


def test_no_label_at_all_is_refused():
    with pytest.raises(UsageError, match="no scan has a label"):
        split.choose([Row("a", "a", label=None)])


@pytest.mark.parametrize("data", ["Dataset101_ACDCdev", "Dataset103_SunnybrookLV"])
def test_real_files_of_splits_do_not_leak(data):
    if not (SHARED / data).is_dir():
        pytest.skip(f"{data} is not on this machine")
    ids = [path.name.removesuffix(".nii.gz") for path in (SHARED / data / "labelsTr").glob("*.nii.gz")]
    rows = [Row(id, id.rsplit("_", 1)[0]) for id in ids]
    found = [split.choose(rows, fold=fold, root=SHARED / data) for fold in range(5)]
    assert sorted(subject for one in found for subject in one.test_subjects) == sorted({row.subject for row in rows})


# ---------------------------------------------------------------- other schemes


def scans_of(name, numbers):
    return [Row(name.format(i), name.format(i)) for i in numbers]


@pytest.mark.parametrize("data", MACL)
def test_macl_lists(data):
    name, numbers, test, few, more = MACL[data]
    rows = scans_of(name, numbers)
    for listed in (few, more):
        wanted = [name.format(int(i)) for i in listed.split()]
        chosen = split.choose(rows, fold=0, labelled=len(wanted), scheme="macl")
        assert list(chosen.labelled_subjects) == wanted
        assert set(chosen.test_subjects) == {name.format(int(i)) for i in test.split()}
    assert split.number_of_folds(rows, scheme="macl") == 1
    assert chosen.source.startswith("fold 0 of 1, MACL's split of")
    assert "of its" not in chosen.source


def test_macl_lists_hold_for_a_part_of_the_data():
    chosen = split.choose(scans_of("acdc{:03d}", range(1, 101, 2)), fold=0, labelled=3, scheme="macl")
    assert chosen.test_subjects == tuple(f"acdc{i:03d}" for i in (5, 21, 29, 41, 43, 61, 79, 87, 89))
    assert chosen.labelled_subjects == ("acdc073", "acdc001", "acdc015")
    assert chosen.source == "fold 0 of 1, MACL's split of ACDC, of 50 of its 100 subjects"


def test_macl_split_of_a_part_that_is_known_by_place_says_so():
    chosen = split.choose(scans_of("la_{:03d}", range(5)), fold=0, scheme="macl")
    assert chosen.source == "fold 0 of 1, MACL's split of MSD Heart, drawn anew from 5 of its 20 subjects"
    assert len(chosen.test_subjects) == 1


def test_another_seed_draws_other_subjects_of_macl_training_list():
    rows = scans_of("patient{:03d}", range(1, 101))
    own, other = (split.choose(rows, fold=0, labelled=8, scheme="macl", seed=seed) for seed in (1234, 7))
    assert own.test_subjects == other.test_subjects
    assert set(own.labelled_subjects) != set(other.labelled_subjects)
    assert set(other.labelled_subjects) < set(own.train_subjects)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("case_{}", range(20)), ("patient{:03d}", range(95, 106)), ("chaos_{}", [4, 20, 5]), ("ct_{}", [1001, 1002])],
)
def test_macl_lists_are_of_its_data_only(name, numbers):
    with pytest.raises(UsageError, match=rf"the split macl for the {len(numbers)} (.|\n)*ACDC, MMWHS(.|\n)*pcl"):
        split.choose(scans_of(name, numbers), fold=0, scheme="macl")


def test_macl_needs_subjects_of_both_lists():
    with pytest.raises(UsageError, match=r"none of them in MACL's test list"):
        split.choose(scans_of("patient{:03d}", (1, 2, 3)), fold=0, scheme="macl")
    with pytest.raises(UsageError, match=r"none of them in MACL's training list"):
        split.choose(scans_of("patient{:03d}", (5, 10)), fold=0, scheme="macl")
    with pytest.raises(UsageError, match="a split of one labelled subject"):
        split.choose(scans_of("la_{:03d}", [3]), fold=0, scheme="macl")


def gibson():
    return scans_of("btcv_{:04d}", range(1, 48)) + scans_of("pancreas_{:04d}", range(1, 44))


def test_voxel_siamese_trains_on_70_and_tests_20():
    chosen = [split.choose(gibson(), fold=0, labelled=m, scheme="voxel_siamese") for m in (7, 14, 70)]
    assert {(len(one.train_subjects), len(one.test_subjects)) for one in chosen} == {(70, 20)}
    for small, large in pairwise(chosen):
        assert large.labelled_subjects[: len(small.labelled_subjects)] == small.labelled_subjects
    assert {one.test_subjects for one in chosen} == {chosen[0].test_subjects}
    # Frozen: another order would be another experiment.
    assert chosen[0].labelled_subjects[:3] == ("btcv_0024", "pancreas_0015", "btcv_0030")
    both = {subject[:4] for subject in chosen[0].test_subjects}
    assert both == {"btcv", "panc"}


def test_voxel_siamese_subjects_stay_on_their_side():
    whole = split.choose(gibson(), fold=0, scheme="voxel_siamese")
    without = [row for row in gibson() if row.subject != "pancreas_0025"]
    part = split.choose(without, fold=0, scheme="voxel_siamese")
    assert len(set(whole.test_subjects) ^ set(part.test_subjects) - {"pancreas_0025"}) <= 1


def test_voxel_siamese_is_of_its_data_only():
    with pytest.raises(UsageError, match=r"voxel_siamese for 3 labelled subjects, a among(.|\n)*Gibson"):
        split.choose(two_phases("abc"), fold=0, scheme="voxel_siamese")


def test_a_named_scheme_wins_over_the_file(tmp_path):
    write_splits(tmp_path, (["a_ED"], ["b_ED"]))
    rows = two_phases("abcdef")
    assert split.choose(rows, fold=0, root=tmp_path).source == "fold 0 of 1, splits_final.json"
    assert split.choose(rows, fold=0, root=tmp_path, scheme="pcl") == split.choose(rows, fold=0)
    assert split.number_of_folds(rows, root=tmp_path, scheme="pcl") == 5


def test_a_scheme_that_is_not_there():
    with pytest.raises(UsageError, match=r"split 'macl2'\n.*pcl, macl, voxel_siamese\n.*--split macl"):
        split.choose(two_phases("abcdef"), fold=0, scheme="macl2")


def test_a_fold_beyond_the_only_one():
    with pytest.raises(UsageError, match=r"fold 1\n.*allowed: 0\n.*--fold 0"):
        split.choose(gibson(), fold=1, scheme="voxel_siamese")
