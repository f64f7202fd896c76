"""Scans that one can go through in a report: what the page carries, what it may do, and what a reader sees of them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import lemis
from chromium import Browser, needs_chromium, opened
from lemis import cli
from lemis.datasets import index as indexing
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.reporting.figures.svg import structure_colours
from lemis.reporting.viewer import library, scans
from lemis.verbs.evaluate import evaluate
from lemis.verbs.report import report
from lemis.work_files import quality
from pages import check_accessible, parsed
from report_folders import NASTY

SHAPE = (40, 48, 16)
# Stored from right to left and from head to foot, and turned by about 5 degrees.
AFFINE = np.array([[-1.5, 0.13, 0, 40.0], [-0.13, 1.5, 0, -25.0], [0, 0, -3.0, 60.0], [0, 0, 0, 1]])
ORGAN, CUP = (slice(8, 18), slice(8, 20), slice(3, 9)), (slice(20, 28), slice(8, 20), slice(3, 9))
MARKER = (slice(1, 6), slice(42, 47), slice(1, 4))  # at the right, the front and the head of the body
NOISE = 10.0


def made(reference: bool = True) -> dict[str, NDArray[np.generic]]:
    image = np.random.default_rng(0).normal(100, NOISE, SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    labels[ORGAN], labels[CUP] = 1, 3
    return {"image": image, "label": labels}


def work_of(folder: Path, *, unlabelled: bool = False, mark: bool = True) -> Path:
    """Two scans: of ``bad`` the prediction misses the organ in one slice and has a part of the cup too much."""
    data, work = folder / "data", folder / "work"
    listed = []
    for scan in ("good", "bad"):
        image, labels = made().values()
        if mark:
            image[MARKER] = 400
        predicted = labels.copy()
        if scan == "bad":
            predicted[ORGAN[0], ORGAN[1], 5] = 0
            predicted[28:30, 8:20, 3:9] = 3
        volume_path, label_path = data / f"{scan}_img.nii.gz", data / f"{scan}.nii.gz"
        for array, path in (
            (image, volume_path),
            (labels, label_path),
            (predicted, work / "predictions" / f"{scan}.nii.gz"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, AFFINE), path)
        source = volume.read_header(volume_path)
        listed.append(
            indexing.Scan(
                id=scan, subject=scan, images=(f"{scan}_img.nii.gz",), label=None if unlabelled else f"{scan}.nii.gz",
                shape=source.canonical_shape, spacing_mm=source.spacing_mm, slice_axis=2,
            )
        )  # fmt: skip
    index = indexing.Index(
        root=str(data),
        layout="flat",
        channels=("MR",),
        labels={"background": 0, "organ": 1, NASTY: 3},
        scans=tuple(listed),
    )
    indexing.save(index, work / "index.json")
    if not unlabelled:
        evaluate(work)
    return work


def queue_of(work: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Measure both scans: views of ``bad`` differ most in slices without the structure, of ``good`` about the cup."""
    slices = {"bad": {"organ": (2, 12), NASTY: (1, 10)}, "good": {NASTY: (2, 4)}}
    percentiles = ((-1.0, -0.9, -0.5, 0.0, 0.5, 1.0, 2.0),)
    shape = quality.StoredShape(ml=10.0, extra=0.0, pieces=1, holes=0.0, cut=(0.0,) * 6, step=0.9)
    rows = []
    for scan, places in slices.items():
        look_at = {name: quality.LookAt(axis=axis, slice=number) for name, (axis, number) in places.items()}
        looks = quality.Scan(
            subject=scan, shapes={"organ": shape, NASTY: shape}, extent_mm=(1.0, 1.0, 1.0), percentiles=percentiles
        )
        measured = quality.Measured(
            scan=looks, own=True, agreement={}, runs=("f0",), labelled_runs=("f0",), look_at=look_at
        )
        quality.add(work / "predictions", scan, measured, {})
        for name in ("organ", NASTY):
            place = look_at.get(name)
            rows.append(
                quality.Row(
                    scan=scan, structure=name, agreement=0.5, expected_dice=0.5, low=0.4, high=0.6, verdict="look",
                    flags="", look_at_axis=place and place.axis, look_at_slice=place and place.slice,
                )
            )  # fmt: skip
    basis = quality.Basis(subjects=6, labelled=6, level=0.8, structures=("organ", NASTY))
    quality.save(work / "predictions", basis, rows)
    return slices


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, tuple[int, int]]]]:
    """A page of scans without a reference, and the slices of their files in which views differ most."""
    work = work_of(tmp_path_factory.mktemp("queue"), unlabelled=True)
    slices = queue_of(work)
    return report(work), slices


def stored(place: list[float]) -> list[int]:
    """Voxel in the array of the file."""
    return [round(value) for value in nib.affines.apply_affine(np.linalg.inv(AFFINE), place)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return work_of(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def page(work: Path) -> Path:
    return report(work)


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def block(text: str, name: str) -> str:
    found = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return found[1]


def volume_in(text: str, name: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(block(text, name))))


# ---------------------------------------------------------------- what the page carries


def test_the_page_is_whole_accessible_and_hides_the_viewer_until_a_script_runs(text: str) -> None:
    check_accessible(text)
    tags = parsed(text).tags
    assert ("div", {"class": "viewer fresh", "id": "viewer", "hidden": None}) in tags
    assert "The pictures below are all there." in parsed(text).said
    for tag, attributes in tags:
        assert "src" not in attributes or str(attributes["src"]).startswith("data:"), tag
        assert not any(name.startswith("on") for name in attributes), "handlers in tags are refused by the policy"
    inputs = [attributes for tag, attributes in tags if tag == "input"]
    assert {one["type"] for one in inputs} == {"radio", "checkbox", "range"}
    assert text.count("<label>") >= len(inputs), "each is inside of its label"


def test_only_our_two_scripts_may_run_and_nothing_may_be_fetched(text: str) -> None:
    policy = next(a["content"] for tag, a in parsed(text).tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    niivue = gzip.decompress(base64.b64decode(block(text, "viewer-library")))
    digests = [base64.b64encode(hashlib.sha256(one).digest()).decode() for one in (niivue, script[0].encode())]
    assert len(script) == 1
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy
    assert "unsafe-eval" not in policy


def test_niivue_is_the_published_file_and_its_licences_are_in_the_page(text: str) -> None:
    niivue = gzip.decompress(base64.b64decode(block(text, "viewer-library")))
    assert hashlib.sha256(niivue).hexdigest() == library.SHA256
    assert b"</script" not in niivue.lower()
    assert "Copyright (c) 2021, Niivue" in parsed(text).said
    assert f"Shown by NiiVue {library.VERSION}." in parsed(text).said


def test_all_that_a_page_is_made_of_is_in_the_package() -> None:
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["lemis"]
    package = Path(lemis.__file__).parent
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    wanted = {path for folder in ("templates", "vendor") for path in (package / "reporting" / folder).rglob("*.*")}
    assert wanted <= carried
    assert {"viewer.js", "LICENSES.txt", "page.html"} <= {path.name for path in wanted}


def test_scans_lie_in_it_in_place_the_worst_first(work: Path, text: str) -> None:
    facts = json.loads(block(text, "viewer-facts"))
    assert [scan["id"] for scan in facts["scans"]] == ["bad", "good"]
    assert [one["name"] for one in facts["structures"]] == ["organ", NASTY]
    kept = nib.load(work / "predictions" / "bad.nii.gz")
    for kind, label in (("prediction", kept), ("reference", nib.load(work.parent / "data" / "bad.nii.gz"))):
        shown = volume_in(text, f"viewer-0-{kind}")
        assert "".join(nib.aff2axcodes(shown.affine)) == "RAS"
        for number, value in ((1, 1), (2, 3)):
            places = [
                nib.affines.apply_affine(file.affine, np.argwhere(np.asarray(file.dataobj) == wanted))
                for file, wanted in ((shown, number), (label, value))
            ]
            assert np.allclose(*(found[np.lexsort(np.round(found, 3).T)] for found in places), atol=1e-3)


def test_it_leads_to_the_worst_place_of_the_scan_and_of_each_structure(text: str) -> None:
    bad = json.loads(block(text, "viewer-facts"))["scans"][0]
    inverse = np.linalg.inv(AFFINE)
    organ, cup = (nib.affines.apply_affine(inverse, bad["places"][name]) for name in ("organ", NASTY))
    assert round(organ[2]) == 5
    assert 8 <= round(organ[0]) < 18
    assert round(cup[0]) in (28, 29)
    assert np.allclose(bad["place"], bad["places"]["organ"])


def test_rows_of_the_table_name_their_scan_and_cells_their_structure(text: str) -> None:
    tags = parsed(text).tags
    assert [a["data-scan"] for tag, a in tags if tag == "tr" and "data-scan" in a] == ["bad", "good"]
    assert [a["data-structure"] for _, a in tags if "data-structure" in a] == ["organ", NASTY] * 2


def test_what_is_not_labelled_is_shown_without_a_reference(tmp_path: Path) -> None:
    text = report(work_of(tmp_path, unlabelled=True)).read_text(encoding="utf-8")
    facts = json.loads(block(text, "viewer-facts"))
    assert [scan["reference"] for scan in facts["scans"]] == [False, False]
    assert "viewer-0-reference" not in text


def test_without_a_reference_it_leads_to_the_slice_in_which_views_differ_most(
    queued: tuple[Path, dict[str, dict[str, tuple[int, int]]]],
) -> None:
    page, slices = queued
    text = page.read_text(encoding="utf-8")
    facts = {scan["id"]: scan for scan in json.loads(block(text, "viewer-facts"))["scans"]}
    for scan, places in slices.items():
        for name, (axis, number) in places.items():
            assert stored(facts[scan]["places"][name])[axis] == number
        assert facts[scan]["place"] == facts[scan]["places"][next(iter(places))]
    organ = stored(facts["good"]["places"]["organ"])  # nothing is known of it: inside of what was found
    assert made()["label"][tuple(organ)] == 1


def test_with_a_reference_it_leads_to_the_error_whatever_views_say(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    queue_of(work)
    facts = json.loads(block(report(work).read_text(encoding="utf-8"), "viewer-facts"))["scans"]
    bad = next(scan for scan in facts if scan["id"] == "bad")
    assert stored(bad["place"])[2] == stored(bad["places"]["organ"])[2] == 5


def test_a_slice_that_the_file_no_longer_has_is_not_asked_for(tmp_path: Path) -> None:
    work = work_of(tmp_path, unlabelled=True)
    queue_of(work)
    table = work / "predictions" / quality.TABLE
    told = table.read_text(encoding="utf-8")
    assert ",2,12," in told
    table.write_text(told.replace(",2,12,", ",2,900,"), encoding="utf-8")
    facts = json.loads(block(report(work).read_text(encoding="utf-8"), "viewer-facts"))["scans"]
    bad = next(scan for scan in facts if scan["id"] == "bad")
    assert made()["label"][tuple(stored(bad["places"]["organ"]))] == 1


def test_pictures_of_the_queue_show_the_slice_in_which_views_differ_most(
    queued: tuple[Path, dict[str, dict[str, tuple[int, int]]]],
) -> None:
    text = queued[0].read_text(encoding="utf-8")
    check_accessible(text)
    said = parsed(text).said
    # Stored from head to foot and shown from foot to head: slice 12 of the file, counted from 0, is the fourth.
    assert "bad , slice 4 of 16: views differ most about organ" in said.replace("\n", " ")
    assert f"good , slice 12 of 16: views differ most about {NASTY}" in said.replace("\n", " ")


def test_room_is_kept_to_and_what_was_left_out_is_said(work: Path, tmp_path: Path) -> None:
    one = report(work, output=tmp_path / "one.html", viewer_mb=0.01).read_text(encoding="utf-8")
    assert sum(len(block(one, f"viewer-0-{kind}")) for kind in ("image", "prediction", "reference")) <= 10_000
    assert "1 of 1 scans is not shown whole" in parsed(one).said
    assert "Left out, as there was no room for them in 0.01 MB: good." in parsed(one).said
    none = report(work, output=tmp_path / "none.html", viewer_mb=0.001).read_text(encoding="utf-8")
    check_accessible(none)
    assert "Left out, as there was no room for them in 0.001 MB: bad and good." in parsed(none).said
    assert "<script" not in none


def test_without_room_there_is_neither_viewer_nor_script(work: Path, tmp_path: Path) -> None:
    text = report(work, output=tmp_path / "page.html", viewer_mb=0).read_text(encoding="utf-8")
    check_accessible(text)
    assert "<script" not in text
    assert "script-src" not in text
    assert "pictures of the scans." in parsed(text).said
    found = CliRunner().invoke(cli.app, ["report", str(work), "--viewer-mb", "0", "-o", str(tmp_path / "other.html")])
    assert found.exit_code == 0
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("room", [-1.0, float("nan"), float("inf")])
def test_room_that_is_none_is_refused(work: Path, room: float) -> None:
    with pytest.raises(UsageError, match="--viewer-mb 20"):
        report(work, viewer_mb=room)


def test_scans_that_are_gone_are_named(tmp_path: Path) -> None:
    work = work_of(tmp_path, unlabelled=True)
    (tmp_path / "data" / "bad_img.nii.gz").unlink()
    text = report(work).read_text(encoding="utf-8")
    assert [scan["id"] for scan in json.loads(block(text, "viewer-facts"))["scans"]] == ["good"]
    assert "Not here, as their files were moved or deleted: bad." in parsed(text).said


def test_each_scan_gets_its_share_of_what_is_left_and_the_first_are_kept(work: Path) -> None:
    index = indexing.load(work / "index.json")

    def kept(megabytes: float) -> list[tuple[str, bool]]:
        found = scans.viewer(work / "predictions", index, ["good"], megabytes=megabytes)
        assert found is not None
        assert sum(shown.copy.size for shown in found.scans) <= megabytes * 1e6
        return [(shown.scan, not shown.copy.said) for shown in found.scans]

    whole = scans.viewer(work / "predictions", index, ["good"], megabytes=1)
    assert whole is not None
    room = sum(shown.copy.size for shown in whole.scans) / 1e6
    assert kept(1) == kept(1.01 * room) == [("good", True), ("bad", True)]
    assert kept(0.3 * room) == [("good", False), ("bad", False)]
    assert kept(0.12 * room) == [("good", False)]


# ---------------------------------------------------------------- what a reader sees


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with opened(page) as browser:
        browser.wait("document.getElementById('viewer').dataset.state === 'closed'")
        yield browser


def ready(browser: Browser) -> None:
    browser.wait("document.getElementById('viewer').dataset.state === 'ready'")


def said(browser: Browser) -> str:
    return str(browser.run("document.getElementById('viewer-said').textContent"))


def place_said(browser: Browser) -> list[float]:
    """mm RAS, as it is written under the picture."""
    found = re.findall(r"([RLAPSI]) ([\d.]+)", said(browser))
    return [float(mm) * (1 if letter in "RAS" else -1) for letter, mm in found]


def choose(browser: Browser, **chosen: str | int) -> None:
    for name, value in chosen.items():
        if name == "mode":
            browser.run(f"document.querySelector('[name=viewer-mode][value={value}]').click()")
        else:
            browser.run(
                f"(() => {{ const e = document.getElementById('viewer-{name}'); e.value = {value};"
                "e.dispatchEvent(new Event('input')); })()"
            )


def coloured(browser: Browser, colour: str, room: int = 60) -> NDArray[np.int64]:
    """(n, 2) rows and columns of the large plane that are of a colour."""
    picture = browser.picture("#viewer-stage").astype(int)
    plane = picture[:, : round(0.62 * picture.shape[1])]
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return np.argwhere(np.abs(plane - wanted).max(axis=-1) < room)


COLOURS = structure_colours(["organ", "cup"])


@needs_chromium
@pytest.mark.slow
def test_a_page_opens_without_unpacking_fetching_or_complaining(page: Path) -> None:
    with opened(page) as browser:  # in which nobody has opened a scan yet
        browser.wait("document.getElementById('viewer').dataset.state === 'closed'")
        assert browser.run("typeof niivue") == "undefined"
        assert browser.run("document.getElementById('viewer').hidden") is False
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.complaints == []


@needs_chromium
@pytest.mark.slow
def test_a_row_opens_its_scan_at_its_worst_place_and_a_score_at_that_of_its_structure(
    browser: Browser, text: str
) -> None:
    bad, good = json.loads(block(text, "viewer-facts"))["scans"]
    browser.click("tr[data-scan=bad] button")
    ready(browser)
    assert np.allclose(place_said(browser), bad["place"], atol=0.06)
    assert said(browser).endswith("prediction: none · reference: organ")
    assert browser.run("document.activeElement.id") == "viewer-canvas"
    browser.run("document.querySelectorAll('tr[data-scan=bad] td')[1].click()")
    browser.wait("document.getElementById('viewer-said').textContent.includes('reference: none')")
    assert np.allclose(place_said(browser), bad["places"][NASTY], atol=0.06)
    assert f"prediction: {NASTY}" in said(browser)
    browser.run("document.querySelector('tr[data-scan=good]').click()")
    browser.wait("document.querySelector('tr[data-scan=good].shown') !== null")
    assert np.allclose(place_said(browser), good["place"], atol=0.06)


@needs_chromium
@pytest.mark.slow
def test_a_row_of_the_queue_opens_the_slice_in_which_views_differ_most(
    queued: tuple[Path, dict[str, dict[str, tuple[int, int]]]],
) -> None:
    page, slices = queued
    with opened(page) as browser:
        browser.wait("document.getElementById('viewer').dataset.state === 'closed'")
        for scan, places in slices.items():
            for row, name in enumerate(("organ", NASTY)):
                if name not in places:
                    continue
                axis, number = places[name]
                browser.run("document.getElementById('viewer').dataset.state = 'asked'")
                browser.run(f"document.querySelectorAll('tbody[data-scan={scan}] tr')[{row}].lastElementChild.click()")
                ready(browser)
                assert browser.run("document.getElementById('viewer-scan').selectedOptions[0].textContent") == scan
                assert stored(place_said(browser))[axis] == number
                if axis == 2:
                    assert browser.run("document.getElementById('viewer-slice').value") == str(SHAPE[2] - number)
        browser.run("document.getElementById('viewer').dataset.state = 'asked'")
        browser.click(".pictured [data-scan=bad] button")
        ready(browser)
        assert stored(place_said(browser))[2] == slices["bad"]["organ"][1]
        assert browser.complaints == []


@needs_chromium
@pytest.mark.slow
def test_structures_have_their_colours_where_they_are_and_lose_them_when_off(browser: Browser) -> None:
    browser.run("document.querySelector('tr[data-scan=good]').click()")
    browser.wait("document.querySelector('tr[data-scan=good].shown') !== null")
    choose(browser, mode="prediction", opacity=100)
    organ, cup = (coloured(browser, colour) for colour in COLOURS.values())
    assert len(organ) > 500
    assert len(cup) > 500
    assert organ[:, 1].mean() < cup[:, 1].mean(), "stored first, so at the right of the body, which is on the left"
    assert abs(cup[:, 0].mean() - organ[:, 0].mean()) < 10
    browser.run("document.querySelector('[name=viewer-structure][value=\"1\"]').click()")
    assert len(coloured(browser, COLOURS["organ"])) == 0
    assert len(coloured(browser, COLOURS["cup"])) == len(cup)
    browser.run("document.querySelector('[name=viewer-structure][value=\"1\"]').click()")
    choose(browser, opacity=0)
    assert len(coloured(browser, COLOURS["cup"])) == 0
    choose(browser, opacity=50)


@needs_chromium
@pytest.mark.slow
def test_right_is_left_front_is_up_and_a_click_says_where_in_the_body(browser: Browser) -> None:
    browser.run("document.querySelector('tr[data-scan=good]').click()")
    browser.wait("document.querySelector('tr[data-scan=good].shown') !== null")
    choose(browser, slice=SHAPE[2] - 2)  # counted from the feet: index 2 as it is stored
    bright = coloured(browser, "#ffffff", room=30)
    picture = browser.picture("#viewer-stage").shape
    row, col = np.median(bright, axis=0)
    assert row < picture[0] / 3
    assert col < 0.62 * picture[1] / 3
    x, y = browser.run(
        "(() => { const r = document.getElementById('viewer-canvas').getBoundingClientRect(); return [r.x, r.y]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, x=x + col, y=y + row, button="left", clickCount=1)
    browser.wait("!document.getElementById('viewer-said').textContent.includes('reference: organ')")
    middle = nib.affines.apply_affine(AFFINE, [3, 44, 2])
    assert np.abs(np.subtract(place_said(browser), middle)).max() < 2 * 1.5


@needs_chromium
@pytest.mark.slow
def test_the_keyboard_turns_slices_and_goes_back_to_what_was_shown(browser: Browser) -> None:
    browser.run("document.querySelector('tr[data-scan=good]').click()")
    browser.wait("document.querySelector('tr[data-scan=good].shown') !== null")
    browser.run("document.getElementById('viewer-canvas').focus()")
    before = place_said(browser)
    browser.key("ArrowUp")
    assert np.allclose(np.subtract(place_said(browser), before), [0, 0, 3], atol=0.11)
    browser.key("ArrowDown")
    assert place_said(browser) == before
    choose(browser, mode="both")
    choose(browser, mode="reference")
    browser.key(" ")
    assert browser.run("document.querySelector('[name=viewer-mode]:checked').value") == "both"


@needs_chromium
@pytest.mark.slow
def test_differences_tell_missed_from_too_much(browser: Browser) -> None:
    browser.run("document.querySelector('tr[data-scan=bad]').click()")
    browser.wait("document.querySelector('tr[data-scan=bad].shown') !== null")
    choose(browser, mode="differences", opacity=100)
    missed, invented = (coloured(browser, colour) for colour in ("#f4a200", "#4aa3ff"))
    assert len(missed) > 3 * len(invented) > 0
    assert browser.run("document.querySelector('[data-mode=differences]').hidden") is False
    assert len(browser.requests) == 1
    assert browser.complaints == []


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("script", [True, False])
def test_without_webgl_or_scripts_the_pictures_stay(page: Path, script: bool) -> None:
    refuse = "HTMLCanvasElement.prototype.getContext = () => null"
    with opened(page, before=refuse, script=script) as browser:
        if script:
            browser.wait("document.getElementById('viewer').dataset.state === 'closed'")
        shown = "getComputedStyle(document.getElementById('{}')).display"
        assert browser.run(shown.format("viewer")) == "none"
        assert (browser.run(shown.format("viewer-unable")) == "none") is not script
        assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert browser.run("document.images.length") > 0
        assert browser.run("document.querySelectorAll('.opens').length") == 0
