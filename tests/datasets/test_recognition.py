"""What is made of people's folders: subjects, what is refused, what is left out, what is doubted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from folders_made import found, touch
from lemis.datasets.listing import Tree
from lemis.datasets.recognition import recognise
from lemis.errors import DataFault, UsageError


def test_a_table_of_subjects_is_obeyed(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b_ED.nii.gz", tmp_path / "c.nii.gz")
    (tmp_path / "subjects.csv").write_text("id,subject\na,ann\nc,ann\n")
    assert [scan.subject for scan in recognise(tmp_path).index.scans] == ["ann", "b", "ann"]
    (tmp_path / "subjects.csv").write_text("scan,person\na,ann\n")
    with pytest.raises(UsageError, match=r"columns scan, person(.|\n)*id, subject"):
        recognise(tmp_path)


NAMED = '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}'


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("flat", ["a.nii.gz", "a_seg.nii.gz"]),
        ("flat", ["images/a.nii.gz", "labels/a.nii.gz"]),
        ("subjects", ["a/image.nii.gz", "a/label.nii.gz"]),
        ("bids", ["sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_dseg.nii.gz"]),
        ("csv", ["a.nii.gz", "a_seg.nii.gz"]),
    ],
)
def test_structures_and_channels_are_named_by_a_dataset_json_in_any_layout(
    layout: str, files: list[str], tmp_path: Path
) -> None:
    touch(*[tmp_path / file for file in files])
    (tmp_path / "dataset.json").write_text(NAMED)
    root = tmp_path
    if layout == "csv":
        root = tmp_path / "list.csv"
        root.write_text("image,label\na.nii.gz,a_seg.nii.gz\n")
    index = recognise(root).index
    assert (index.layout, index.channels, index.labels) == (layout, ("CT",), {"background": 0, "liver": 1})
    (tmp_path / "dataset.json").write_text(NAMED.replace("1}}", "[1, 2]}}"))
    with pytest.raises(UsageError, match=r"regions \(lists\)"):
        recognise(root)
    one = recognise(tmp_path / files[0])  # a scan alone: what lies around it is of others
    assert (one.index.channels, one.index.labels) == ((), {})


def test_names_of_files_are_kept_where_a_dataset_json_has_others(tmp_path: Path) -> None:
    touch(*[tmp_path / f"{name}/{channel}.nii.gz" for name in "ab" for channel in ("t1", "t2")])
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "x", "1": "y"}, "labels": {"liver": 1}}')
    index = recognise(tmp_path).index
    assert (index.channels, index.labels) == (("t1", "t2"), {"background": 0, "liver": 1})


def test_nothing_that_we_know(tmp_path: Path) -> None:
    touch(*[tmp_path / f"page{n}.txt" for n in range(9)])
    with pytest.raises(UsageError, match=r"page0\.txt(.|\n)*and 1 more(.|\n)*imagesTr(.|\n)*CSV") as caught:
        recognise(tmp_path)
    assert "page8.txt" not in str(caught.value)
    with pytest.raises(UsageError, match=r"page0\.txt is a file"):
        recognise(tmp_path / "page0.txt")
    with pytest.raises(UsageError, match="does not exist"):
        recognise(tmp_path / "nowhere")


def test_a_folder_of_data_sets(tmp_path: Path) -> None:
    touch(tmp_path / "one/imagesTr/a_0000.nii.gz", tmp_path / "two/imagesTr/a_0000.nii.gz")
    with pytest.raises(UsageError, match=r"holds 2 data set\(s\): one, two(.|\n)*give .*one"):
        recognise(tmp_path)


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path / "a_ED.nii.gz", tmp_path / "b.nii.gz")
    listing = recognise(tmp_path / "a_ED.nii.gz")
    assert [(scan.id, scan.subject, scan.images) for scan in listing.index.scans] == [("a_ED", "a", ("a_ED.nii.gz",))]


def test_a_layout_that_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match=r"not the layout BIDS"):
        recognise(tmp_path, "bids")
    with pytest.raises(UsageError, match=r"'nnunett'(.|\n)*--layout nnunet"):
        recognise(tmp_path, "nnunett")
    assert recognise(tmp_path, "flat").index.layout == "flat"


def test_two_labels_for_one_scan(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", tmp_path / "a_mask.nii.gz")
    with pytest.raises(UsageError, match=r"a has 2 labels: a_mask\.nii\.gz, a_seg\.nii\.gz"):
        recognise(tmp_path)


def test_channels_that_differ(tmp_path: Path) -> None:
    for person in ("p1", "p2", "p3"):
        touch(tmp_path / person / "t1.nii.gz", tmp_path / person / "t2.nii.gz")
    touch(tmp_path / "p3" / "dwi.nii.gz")
    with pytest.raises(UsageError, match=r"p3 has the files dwi, t1, t2; most others have t1, t2"):
        recognise(tmp_path)


def test_one_id_twice(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "imagesTs" / "a_0000.nii.gz")
    with pytest.raises(UsageError, match="ids that occur twice: a"):
        recognise(tmp_path)


def test_an_id_that_is_no_file_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "list.csv").write_text("id,image\np1/a,a.nii.gz\n")
    with pytest.raises(UsageError, match=r"ids that cannot be used: p1/a \(holds /\)"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"holds \[\]"),
        ('{"labels": {"whole": [1, 2]}}', r'declares the label "whole": \[1, 2\](.|\n)*regions'),
        ('{"labels": {"background": 0, "ignore": 2}}', r'"ignore": 2(.|\n)*ignore label'),
    ],
)
def test_a_dataset_json_that_we_cannot_use(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        recognise(tmp_path)


def test_labels_with_the_number_of_a_channel(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.nii.gz" for n in range(3) for channel in range(2)])
    touch(*[tmp_path / "labelsTr" / f"c{n}_0000.nii.gz" for n in range(2)])
    listing, seen = found(tmp_path, "nnunet")
    assert seen == {"c0": ("c0", True), "c1": ("c1", True), "c2": ("c2", False)}
    assert all(len(scan.images) == 2 for scan in listing.index.scans)


def test_a_channel_that_is_missing_keeps_its_place(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.NII.GZ" for n in range(3) for channel in range(2)])
    (tmp_path / "imagesTr" / "c1_0000.NII.GZ").unlink()
    touch(*[tmp_path / "labelsTr" / f"c{n}.nii.gz" for n in range(3)])
    scans = recognise(tmp_path).index.scans
    assert scans[1].images == ("imagesTr/c1_0000.NII.GZ", "imagesTr/c1_0001.NII.GZ")


def test_a_stray_image_does_not_turn_channels_into_patients(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"c{n}_{channel:04d}.nii.gz" for n in range(3) for channel in range(2)])
    touch(tmp_path / "imagesTr" / "atlas.nii.gz", *[tmp_path / "labelsTr" / f"c{n}.nii.gz" for n in range(3)])
    listing, seen = found(tmp_path, "nnunet")
    assert set(seen) == {"c0", "c1", "c2"}
    assert [part.file for part in listing.left_out] == ["imagesTr/atlas.nii.gz"]


@pytest.mark.parametrize("ending", [".nii.gz", ".NII.GZ", "nii.gz", None])
def test_file_ending(ending: str | None, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.NII.GZ", tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ending}))
    assert found(tmp_path, "nnunet")[1] == {"a": ("a", True)}


def test_a_file_ending_that_no_file_has(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii"}')
    with pytest.raises(UsageError, match=r'"file_ending" is "\.nii", but no image ends so(.|\n)*\.nii\.gz'):
        recognise(tmp_path)
    touch(tmp_path / "imagesTr" / "b_0000.nii")
    (left,) = recognise(tmp_path).left_out
    assert left == ("imagesTr/a_0000.nii.gz", "does not end in .nii, the file_ending of dataset.json")


@pytest.mark.parametrize(
    "label", ["a-label.seg.nrrd", "a.seg.nrrd", "a_seg_label.nii.gz", "a_SEG.nii", "a-labelmap.nrrd"]
)
def test_names_of_labels(label: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / label)
    assert found(tmp_path, "flat")[1] == {"a": ("a", True)}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("volume-{}", "segmentation-{}"),
        ("img{:04d}", "label{:04d}"),
        ("img_{:04d}", "label_{:04d}"),
        ("image_{}", "mask_{}"),
        ("p{:02d}", "seg_p{:02d}"),
        ("ct_{}", "gt_{}"),
    ],
)
@pytest.mark.parametrize("folders", [("", ""), ("images", "labels"), ("imagesTr", "labelsTr")])
def test_a_word_for_a_label_may_begin_its_name(
    image: str, label: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    touch(*[tmp_path / folders[0] / f"{image.format(number)}.nii" for number in range(3)])
    touch(*[tmp_path / folders[1] / f"{label.format(number)}.nii" for number in range(2)])
    scans = recognise(tmp_path).index.scans
    assert [scan.id for scan in scans] == [image.format(number) for number in range(3)]
    assert [scan.label is not None for scan in scans] == [True, True, False]


def test_names_that_begin_with_a_word_for_a_label_are_images_where_nothing_else_is(tmp_path: Path) -> None:
    touch(tmp_path / "mask_a.nii.gz", tmp_path / "seg_7.nii.gz")
    assert set(found(tmp_path, "flat")[1]) == {"mask_a", "seg_7"}


def test_masks_of_single_structures_are_named(tmp_path: Path) -> None:
    for person in ("s0000", "s0001"):
        touch(tmp_path / person / "ct.nii.gz")
        touch(*[tmp_path / person / "segmentations" / f"{organ}.nii.gz" for organ in ("liver", "spleen")])
    listing, seen = found(tmp_path, "subjects")
    assert seen == {"s0000": ("s0000", False), "s0001": ("s0001", False)}
    assert [part.file for part in listing.left_out] == [f"s000{n}/segmentations/ (2 images)" for n in range(2)]
    assert all("into one label map" in part.reason for part in listing.left_out)


def test_images_that_no_scan_uses_are_named_once_per_folder(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz", tmp_path / "labelsTs/b.nii.gz")
    touch(tmp_path / "extra.nii.gz", *[tmp_path / "scribblesTr" / f"{n}.nii.gz" for n in range(3)])
    touch(tmp_path / "old" / "deep" / "c.nii.gz", tmp_path / "old" / "d.hdr", tmp_path / "old" / "notes.txt")
    touch(tmp_path / "__MACOSX" / "a.nii.gz", tmp_path / ".hidden" / "a.nii.gz")
    assert recognise(tmp_path).left_out == (
        ("extra.nii.gz", "an image that belongs to no scan"),
        ("labelsTs/ (1 image)", "labels of the test set are left alone"),
        ("old/ (2 images)", "images that belong to no scan"),
        ("scribblesTr/ (3 images)", "images that belong to no scan"),
    )


def test_links_to_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "imagesTr/b_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "labelsTr/b.nii.gz").symlink_to("../.git/annex/objects/b")
    (tmp_path / "README").symlink_to("nowhere")
    listing = recognise(tmp_path)
    ((file, kind, seen, repair),) = listing.doubts
    assert (file, kind) == ("labelsTr/b.nii.gz", "broken link")
    assert seen == "points to ../.git/annex/objects/b, which is not there"
    assert "git annex get" in repair


def test_links_that_lead_back_are_not_followed_and_others_are(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.nii.gz", tmp_path / "set" / "deep" / "b.nii.gz")
    (tmp_path / "set" / "there").symlink_to(tmp_path / "elsewhere")
    for place in ("set/loop", "set/deep/loop", "elsewhere/up"):
        (tmp_path / place).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "set" / "itself").symlink_to("itself")
    assert Tree(tmp_path / "set").files == ("deep/b.nii.gz", "itself", "there/a.nii.gz")


def test_only_links_to_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to("../annex/a")
    with pytest.raises(UsageError, match=r"a\.nii\.gz, one of 1 links, points to \.\./annex/a(.|\n)*git annex get"):
        recognise(tmp_path)


@pytest.mark.parametrize("name", ["labelsTr", "IM0001", "sub-03"])
def test_a_folder_that_is_a_link_to_nothing_is_named(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz")
    (tmp_path / name).symlink_to("../annex/x")
    (doubt,) = recognise(tmp_path).doubts
    assert (doubt.file, doubt.kind) == (name, "broken link")


@pytest.mark.parametrize(
    ("name", "ours"),
    [("labelstr/a.nii.gz", "labelsTr"), ("Dataset.JSON", "dataset.json"), ("subject.csv", "subjects.csv")]
    + [(name, "subjects.csv") for name in ("subjects.xlsx", "Subjects.tsv", "SUBJECTS.CSV")],
)
def test_names_that_are_nearly_ours_are_told(name: str, ours: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / name)
    (doubt,) = recognise(tmp_path).doubts
    assert doubt == (
        name.split("/")[0],
        "misspelt name",
        f"is not read; did you mean {ours}?",
        f"rename it to {ours}",
    )
    assert recognise(tmp_path / "imagesTr" / "a_0000.nii.gz").doubts == ()


@pytest.mark.parametrize(("name", "told"), [("liver", 1), ("Background", 0), ("unlabelled", 0), ("0", 0), ("BG", 0)])
def test_a_structure_with_the_value_of_the_background_is_told(name: str, told: int, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr/a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {name: 0, "b": 1}}))
    assert [doubt.kind for doubt in recognise(tmp_path).doubts] == ["structure with value 0"] * told


def test_one_file_says_itself_what_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "others" / "c.nii.gz")
    listing = recognise(tmp_path / "a.nii.gz")
    assert (listing.left_out, listing.doubts) == ((), ())


def test_formats_that_are_not_read_are_called_by_their_name(tmp_path: Path) -> None:
    touch(*[tmp_path / f"s{n}.{end}" for n in range(2) for end in ("hdr", "img")])
    with pytest.raises(UsageError, match=r"NIfTI or Analyze pairs \(\.hdr and \.img\) are not read(.|\n)*nibabel"):
        recognise(tmp_path)
    touch(tmp_path / "a.nii.gz")
    assert {part.reason for part in recognise(tmp_path).left_out} == {
        "NIfTI or Analyze pairs (.hdr and .img) are not read"
    }


def test_bids_leaves_out_what_is_no_label_of_the_scan(tmp_path: Path) -> None:
    for person in ("sub-1", "sub-2"):
        anatomy, derived = tmp_path / person / "anat", tmp_path / "derivatives/x" / person / "anat"
        touch(anatomy / f"{person}_T1w.nii.gz", anatomy / f"{person}_mod-T1w_defacemask.nii.gz")
        touch(derived / f"{person}_dseg.nii.gz", derived / f"{person}_desc-brain_mask.nii.gz")
        touch(derived / f"{person}_label-GM_probseg.nii.gz", derived / f"{person}_space-MNI152NLin6Asym_dseg.nii.gz")
    listing, seen = found(tmp_path, "bids")
    assert seen == {"sub-1": ("sub-1", True), "sub-2": ("sub-2", True)}
    assert [scan.label for scan in listing.index.scans] == [
        f"derivatives/x/{person}/anat/{person}_dseg.nii.gz" for person in seen
    ]
    assert {part.reason for part in listing.left_out} == {
        "a mask of what defacing removed",
        "probabilities, no label map",
        "in the space of a template",
        *[f"a mask beside {person}_dseg.nii.gz" for person in seen],
    }


@pytest.mark.parametrize("row", ["1.5\tcsf", "x\tcsf", "1\t", "1\tcsf\n1\tgrey", "1\tcsf\n2\tcsf", "1"])
def test_a_table_of_structures_that_is_wrong(row: str, tmp_path: Path) -> None:
    touch(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "dseg.tsv").write_text(f"index\tname\n{row}\n")
    with pytest.raises(UsageError, match=r"dseg\.tsv, line [23]: index "):
        recognise(tmp_path)


def test_time_points_in_names_of_folders_are_of_one_person(tmp_path: Path) -> None:
    for name in ("BraTS-GLI-00006-000", "BraTS-GLI-00006-001", "BraTS-GLI-00007-000"):
        touch(*[tmp_path / name / f"{name}-{part}.nii.gz" for part in ("t1n", "t2w", "seg")])
    listing, seen = found(tmp_path, "subjects")
    assert sorted(subject for subject, _ in seen.values()) == ["BraTS-GLI-00006"] * 2 + ["BraTS-GLI-00007"]
    assert listing.doubts == ()


def test_who_may_be_one_person_is_said_until_a_table_decides(tmp_path: Path) -> None:
    touch(*[tmp_path / f"{name}.nii.gz" for name in ("p01_L", "p01_R", "P02", "p02", "p03")])
    (doubt,) = recognise(tmp_path).doubts
    assert doubt.kind == "subjects that may be one person"
    assert "P02, p02; p01_L, p01_R: taken for different people" in doubt.seen
    (tmp_path / "subjects.csv").write_text("id,subject\np01_L,p01\np01_R,p01\nP02,P02\np02,p02\n")
    listing = recognise(tmp_path)
    assert listing.doubts == ()
    assert [scan.subject for scan in listing.index.scans] == ["P02", "p01", "p01", "p02", "p03"]


def test_a_name_that_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"caf\xe9.nii.gz"))
    with pytest.raises(UsageError, match=r"ids that cannot be used: caf\\udce9 \(is not UTF-8\)"):
        recognise(tmp_path)


def test_what_is_left_out_is_named_readably(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / os.fsdecode(b"caf\xe9_seg.nii.gz"))
    assert [part.file for part in recognise(tmp_path).left_out] == [r"caf\udce9_seg.nii.gz"]


def test_a_folder_whose_path_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    touch(folder / "a.nii.gz")
    with pytest.raises(UsageError, match=r"caf\\udce9 is not UTF-8"):
        recognise(folder)


def test_a_pipe_beside_the_scans_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    for name in ("list.csv", "subjects.csv", "b.nii.gz"):
        os.mkfifo(tmp_path / name)
    assert set(found(tmp_path, "flat")[1]) == {"a"}


@pytest.mark.parametrize("name", ["meta", "keypoints", "x.keypoints", "a\nb", "a\x1b[31mb", " a", "a*b"])
def test_names_that_later_steps_cannot_use_are_refused_at_once(name: str, tmp_path: Path) -> None:
    touch(tmp_path / f"{name}.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(UsageError, match="ids that cannot be used"):
        recognise(tmp_path)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(DataFault, match=r"pipe\.nii is a named pipe"):
        recognise(tmp_path / "pipe.nii")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match="circle does not exist"):
        recognise(tmp_path / "circle")
