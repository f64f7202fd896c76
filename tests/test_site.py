"""``make docs``: the site is whole, and asks nothing of the network."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lemis

ROOT = Path(__file__).parents[1]
if missing := [name for name in ("material", "mkdocstrings_handlers") if find_spec(name) is None]:
    pytest.skip(f"{', '.join(missing)}: pip install -e '.[docs]' -c constraints.txt", allow_module_level=True)

pytestmark = pytest.mark.slow  # MkDocs reads every module for the reference

# What a browser fetches by itself; a link that a reader follows is another thing.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object|input)\b[^>]*?\s(?:src|srcset|data)=[\"']?([^\"'\s>]+)"
    r"|<link\b[^>]*?\shref=[\"']?([^\"'\s>]+)",
    re.IGNORECASE,
)
STYLED = re.compile(r"(?:url\(|@import\s+)[\"']?([^\"')\s]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def outside(address):
    return re.match(r"(?:[a-z]+:)?//", address, re.IGNORECASE) is not None


def test_the_navigation_leads_to_every_page(site):
    index = (site / "index.html").read_text()
    there = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    led_to = set(re.findall(r'<a href="([^"#:]+\.html)" class="md-nav__link', index))
    assert there - led_to - {"index.html"} == set()
    written = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert {page.replace("README.html", "index.html") for page in written} <= there


def test_the_reference_shows_every_file_and_its_settings(site):
    for room in ("verbs", "methods", "backbones", "auxiliary", "semi", "single", "suggesters"):
        for file in (ROOT / "src" / "lemis" / room).glob("[!_]*.py"):
            assert f"lemis.{room}.{file.stem}" in (site / "reference" / room / f"{file.stem}.html").read_text()
    pcl = (site / "reference" / "methods" / "pcl.html").read_text()
    assert re.search(r"<code>temperature</code></td>\s*<td><code>0.1</code></td>\s*<td>tau \[C\]</td>", pcl)
    assert "Without it the labelled subjects are" in (site / "reference" / "verbs" / "fit.html").read_text()
    loaded = (site / "reference" / "load.html").read_text()
    for said in (
        "What the encoder makes of a scan",
        "mean of the coarsest map over the whole scan",
        "Folder of the run.",
    ):
        assert said in loaded
    python = (site / "reference" / "python.html").read_text()
    for name in (*lemis.VERBS, *lemis.OTHERS):
        assert f"lemis.{name}</code>" in python
    assert "(B, C, *space) float" in (site / "reference" / "contracts.html").read_text().replace("</span>", "")


def test_pages_fetch_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text()
        fetched = [one or other for one, other in FETCHED.findall(text)]
        assert len(fetched) > 3
        assert [address for address in fetched if outside(address)] == [], page
        assert [address for address in STYLED.findall(text) if outside(address)] == [], page
        # The theme's script would fetch these where a page has them.
        assert 'class="mermaid"' not in text
        assert "data-md-component=source" not in text.replace('"', "")
    for sheet in site.rglob("*.css"):
        assert [address for address in STYLED.findall(sheet.read_text()) if outside(address)] == [], sheet


def test_what_is_fetched_is_there(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its addresses begin at the root of a server
            continue
        for one, other in FETCHED.findall(page.read_text()):
            address = (one or other).partition("?")[0].partition("#")[0]
            if address and not address.startswith("data:"):
                assert (page.parent / address).exists(), f"{page}: {address}"


def test_the_search_needs_no_server(site):
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")
    assert "iframe-worker.js" in (site / "index.html").read_text()
    assert "Permission is hereby granted" in (site / "site" / "iframe-worker.js").read_text()
