"""Lists of scans and subjects.csv, as people write them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folders_made import QUICK, Normal, cohorts, flags, found, touch, wanted
from lemis.datasets.recognition import Listing, recognise
from lemis.errors import DataFault, UsageError


@QUICK
@given(
    cohort=cohorts,
    labelled=flags,
    named=st.booleans(),
    columns=st.sampled_from([["image"], ["image_t1", "image_t2"]]),
)
def test_csv(folder, cohort, labelled, named, columns) -> None:
    root, scans = folder(), wanted(cohort, labelled)
    rows = [[*columns, "Label", "subject" if named else "sex"]]
    for number, (name, (_, has_label)) in enumerate(scans.items()):
        files = [f"deep/{name}.nii.gz", *[f"more/{name}_{c}.nii.gz" for c in columns[1:]]]
        label = f"other/{number}.nrrd" if has_label else ""
        touch(*[root / file for file in files], *([root / label] if label else []))
        rows.append([*files, label, f"person {number}" if named else "f"])
    (root / "list.csv").write_text("\n".join(",".join(row) for row in rows) + "\n,,\n", encoding="utf-8-sig")
    for path in (root, root / "list.csv"):
        listing = recognise(path)
        assert listing.index.layout == "csv"
        assert listing.index.root == str(root)
        seen = {scan.id: (scan.subject, scan.label is not None) for scan in listing.index.scans}
        if named:
            assert sorted(subject for subject, _ in seen.values()) == sorted(f"person {n}" for n in range(len(scans)))
        else:
            assert seen == scans
        assert listing.index.channels == (("t1", "t2") if len(columns) == 2 else ())


def test_csv_with_one_name_in_many_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a/scan.nii.gz", tmp_path / "b/scan.nii.gz")
    (tmp_path / "list.csv").write_text("image\na/scan.nii.gz\nb/scan.nii.gz\n")
    assert [scan.id for scan in recognise(tmp_path).index.scans] == ["a_scan", "b_scan"]


def test_csv_that_is_wrong(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,label\nnothing.nii.gz,\n")
    with pytest.raises(DataFault, match=r"list\.csv, line 2: image nothing\.nii\.gz"):
        recognise(tmp_path)
    table.write_text("image,label\n,\n,a\n")
    with pytest.raises(DataFault, match="line 3: image is empty"):
        recognise(tmp_path)
    table.write_text("scan,label\na,b\n")
    with pytest.raises(UsageError, match=r"columns scan, label(.|\n)*rename the column 'scan' to `image`"):
        recognise(table)
    table.write_text("image\n")
    (tmp_path / "again.csv").write_text("image\n")
    with pytest.raises(UsageError, match=r"2 lists of images: again\.csv, list\.csv"):
        recognise(tmp_path)


def test_a_table_of_patients_is_no_list_of_scans(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("image_name,age\nISIC_1,55\n")
    touch(tmp_path / "ISIC_1.png")
    found(tmp_path, "flat")


def listed(folder: Path, text: str) -> Listing:
    touch(*[folder / f"{name}.nii.gz" for name in ("a", "b", "a_seg")], folder / "deep" / "a.nii.gz")
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return recognise(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,mask\na.nii.gz,a_seg.nii.gz\n", r"'mask' is not understood(.|\n)*rename the column 'mask' to `label`"),
        ("image,patient_id\na.nii.gz,p\n", r"'patient_id' is not understood(.|\n)*to `subject`"),
        ("image,Patient\na.nii.gz,p\n", "'patient' is not understood"),
        ("image,mask_path\na.nii.gz,a_seg.nii.gz\n", r"'mask_path' is not understood(.|\n)*to `label`"),
        ("image,Subject No.\na.nii.gz,p\n", r"'subject no.' is not understood(.|\n)*to `subject`"),
        ("image,label\na.nii.gz,nan\n", "leave the cell empty where there is no label"),
        ("image,case\na.nii.gz,p\n", "'case' is not understood"),
        ("filename,label\na.nii.gz,\n", r"'filename' is not understood(.|\n)*to `image`"),
        ("image,image\na.nii.gz,b.nii.gz\n", "2 columns 'image'"),
        ("image,image_t2\na.nii.gz,b.nii.gz\n", "the columns image and image_t2, all of files"),
        ("image,subject\na.nii.gz,p,q\n", "line 2: a value without a column"),
        ("image\n", "lists no scan"),
        ("image,id\na.nii.gz,../../x\n", r"ids that cannot be used: ../../x \(holds /\)"),
        ("image,id\na.nii.gz,meta\n", "is the name of a file of ours"),
        (f"image,id\na.nii.gz,{'x' * 300}\n", "has 300 bytes, more than 200"),
        ("image,subject\na.nii.gz,p\x1b[31m\n", r"subjects that cannot be used: p\\x1b\[31m"),
        ("image\ndeep\\a.nii.gz\n", r"line 2: image deep\\a\.nii\.gz(.|\n)*write deep/a\.nii\.gz"),
        (f"image\n{'x' * 5000}\n", "line 2: image xxx"),
    ],
)
def test_a_list_that_would_be_guessed_at_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        listed(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("image,subject\na.nii.gz,NA\nb.nii.gz,NA\n", ["placeholder as subject"]),
        ("image,subject\na.nii.gz,p\nb.nii.gz,\n", ["missing subjects"]),
        ("image,label\na.nii.gz,a_seg.nii.gz\nb.nii.gz,a_seg.nii.gz\n", ["label of several subjects"]),
        ("image,label,subject\na.nii.gz,a_seg.nii.gz,p\nb.nii.gz,a_seg.nii.gz,p\n", []),
        ("image,subject\na.nii.gz,NA\nb.nii.gz,q\n", []),
    ],
)
def test_a_list_with_what_may_be_a_slip(text: str, kinds: list[str], tmp_path: Path) -> None:
    assert [doubt.kind for doubt in listed(tmp_path, text).doubts] == kinds


@pytest.mark.parametrize(("image", "label"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_accents_that_are_one_letter_or_two_are_one_name(image: Normal, label: Normal, tmp_path: Path) -> None:
    """macOS and archives write them as two, Windows and people as one."""
    name = "Müller"
    scan, mask = unicodedata.normalize(image, name), unicodedata.normalize(label, name)
    touch(tmp_path / "flat" / f"{scan}.nii.gz", tmp_path / "flat" / f"{mask}_seg.nii.gz")
    touch(*[tmp_path / "raw" / "imagesTr" / f"{scan}_000{number}.nii.gz" for number in (0, 1)])
    touch(tmp_path / "raw" / "labelsTr" / f"{mask}.nii.gz")
    lists = tmp_path / "list.csv"
    lists.write_text(f"image,label\nflat/{mask}.nii.gz,flat/{scan}_seg.nii.gz\n", encoding="utf-8")
    (tmp_path / "flat" / "subjects.csv").write_text(f"id,subject\n{mask},Anna\n", encoding="utf-8")
    for root in (tmp_path / "flat", tmp_path / "raw", lists):
        (one,) = recognise(root).index.scans
        assert one.id == unicodedata.normalize("NFC", name)
        assert one.label is not None
        assert all(
            (root.parent if root.is_file() else root).joinpath(file).exists() for file in (*one.images, one.label)
        )
    assert recognise(tmp_path / "flat").index.scans[0].subject == "Anna"


def test_a_folder_of_labels_under_another_usual_name(tmp_path: Path) -> None:
    touch(*[tmp_path / folder / f"p{number}.nii.gz" for folder in ("Images", "Ground Truth") for number in range(3)])
    scans = recognise(tmp_path).index.scans
    assert [(scan.id, scan.label) for scan in scans] == [(f"p{n}", f"Ground Truth/p{n}.nii.gz") for n in range(3)]


def test_other_folders_beside_images_and_labels_are_no_subjects(tmp_path: Path) -> None:
    folders = ("images", "labels", "predictions")
    touch(*[tmp_path / folder / f"p{number}.nii.gz" for folder in folders for number in range(3)])
    listing, scans = found(tmp_path, "flat")
    assert scans == {f"p{number}": (f"p{number}", True) for number in range(3)}
    assert [part.file for part in listing.left_out] == ["predictions/ (3 images)"]


def lists(*names: str) -> dict[str, list[dict[str, str]]]:
    return {"training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]}


ELSEWHERE = {"dataset": {"a": {"images": ["../raw/a.nii.gz"], "label": "../raw/a_seg.nii.gz"}}}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"numTraining": 2}, []),
        ({"numTraining": 1}, []),  # of two scans, one has a label
        ({"numTraining": "many"}, []),
        (lists("a.nii.gz", "b.nii.gz"), []),
        (lists("a.nii.gz"), []),
        ({"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}}, []),
        ({"training": [1, None, {"image": None}, {"image": [3]}], "dataset": [1]}, []),
        ({"numTraining": 30}, ['"numTraining" is 30, but imagesTr holds 2, 1 of them labelled']),
        (lists("a.nii.gz", "c.nii.gz"), ["./imagesTr/c.nii.gz is not there (1 of 2 listed files)"]),
        (ELSEWHERE, ["../raw/a.nii.gz is not there (1 of 1 listed files)"]),
    ],
)
def test_what_a_dataset_json_lists_is_held_against_what_is_there(
    facts: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    touch(*[tmp_path / "imagesTr" / f"{name}_0000.nii.gz" for name in "ab"], tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    assert [doubt.seen for doubt in recognise(tmp_path).doubts] == words


def test_labels_that_came_since_are_no_doubt_and_lost_ones_are(tmp_path: Path) -> None:
    scans = "abcd"
    touch(*[tmp_path / "imagesTr" / f"{name}_0000.nii.gz" for name in scans])
    touch(*[tmp_path / "labelsTr" / f"{name}.nii.gz" for name in "ab"])
    doubted = []
    for number in range(6):
        (tmp_path / "dataset.json").write_text(json.dumps({"numTraining": number}), encoding="utf-8")
        doubted += [number for doubt in recognise(tmp_path).doubts if "2 of them labelled" in doubt.seen]
    assert doubted == [3, 5]


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    text = "image;label;subject;case;age;image_name\na.nii.gz;a_seg.nii.gz;p;1;50,5;Anna\nb.nii.gz;;q;2;60,0;Bert\n"
    listing = listed(tmp_path, text)
    assert [(scan.subject, scan.label) for scan in listing.index.scans] == [("p", "a_seg.nii.gz"), ("q", None)]
    assert [part.file for part in listing.left_out] == ["list.csv: case", "list.csv: age", "list.csv: image_name"]


@pytest.mark.parametrize(
    "content", ["name,Größe\na,1\n".encode("latin-1"), b"\xff\xfe\x00", b'image_name\n"', b"\x00" * 9]
)
def test_a_table_of_other_things_is_no_concern(content: bytes, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "clinical.csv").write_bytes(content)
    found(tmp_path, "nnunet")


def test_a_list_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "list.csv").write_bytes("image,subject\na.nii.gz,Müller\n".encode("cp1252"))
    with pytest.raises(UsageError, match=r"list\.csv is not UTF-8: the byte 0xfc in line 2(.|\n)*CSV UTF-8"):
        recognise(tmp_path)
    (tmp_path / "list.csv").write_bytes("image\tsubject\na.nii.gz\tMüller\n".encode("utf-16"))
    assert [scan.subject for scan in recognise(tmp_path).index.scans] == ["Müller"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject,id\np1\n", "line 2: no id"),
        ("id,subject\na,p\na,q\n", "line 3: the subject 'q' for 'a', which had 'p' before"),
        ("id,id\na,p\n", "2 columns 'id'"),
        ("id;person\na;p\n", "columns id, person"),
    ],
)
def test_a_table_of_subjects_that_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "subjects.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"subjects\.csv(.|\n)*{words}"):
        recognise(tmp_path)


def test_ids_in_the_table_of_subjects_that_nobody_has_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "a1.nii.gz", tmp_path / "b1.nii.gz")
    (tmp_path / "subjects.csv").write_text("id,subject\na1.nii,p\nb1,p\n")
    (doubt,) = recognise(tmp_path).doubts
    assert (doubt.kind, doubt.seen) == ("unknown ids", "a1.nii: no scan has this id (1 of 2 ids)")
