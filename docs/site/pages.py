"""Pages of the site that are written elsewhere: the files beside ``docs/``, the examples, and the reference, which is
made of the docstrings without importing anything. A hook of MkDocs; see ``mkdocs.yml``.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import lemis
from lemis import plugins

ROOT = Path(__file__).parents[2]

# File of the repository -> page.
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
}
# What a reader may call, inherit from, or set; and the folders whose files are all shown.
MODULES = {"load": "prediction.loaded", "contracts": "contracts", "settings": "settings", "errors": "errors"}
PLUGINS = ("methods", "backbones", "auxiliary", "semi", "single", "suggesters")
ROOMS = {
    "verbs": "Verbs: each command, from Python",
    "methods": "Methods of pre-training",
    "backbones": "Networks",
    "auxiliary": "Extra losses",
    "semi": "Unlabelled scans in fine-tuning",
    "single": "Methods for one image",
    "suggesters": "Which scans to label next",
    "promises": "Promises of plug-ins",
    "parts": "Parts of methods",
    "layers": "Layers",
    "sampling": "Batches, views, random numbers",
}
_LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\])\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and name them in the navigation."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in BESIDE.items()}
    examples, decisions, reference = _examples(), _decisions(), _reference()
    for page, text in {**made, **examples, **decisions, **reference}.items():
        files.append(File.generated(config, page, content=text))
    _fill(config, "Examples", list(examples))
    _fill(config, "Decisions", ["decisions/index.md", *(f"decisions/{path.name}" for path in _decision_files())])
    rooms: dict[str, list[str]] = {}
    for page in reference:
        rooms.setdefault(page.split("/")[1], []).append(page)
    tree = [
        pages[0]
        if room.endswith(".md")
        else {ROOMS[room].split(":")[0]: [pages[0], *({Path(page).stem: page} for page in pages[1:])]}
        for room, pages in rooms.items()
    ]
    _fill(config, "Reference", tree)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to pages of the site, where there is one; other files of the repository are named without a link."""
    del config
    source = next((path for path, name in BESIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    known = {file.src_uri for file in files}

    def link(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path, sign, place = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        name = BESIDE.get(there) or there.removeprefix("docs/")
        if (ROOT / there).is_dir():
            name = next((f"{name}/{index}" for index in ("index.md", "README.md") if f"{name}/{index}" in known), name)
        if name not in known:
            if not (ROOT / there).exists():
                return found[0]  # for MkDocs to warn of
            return text.removeprefix("!").removeprefix("[").removesuffix("]")
        return f"{text}({posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or '.')}{sign}{place})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))


def _fill(config: MkDocsConfig, title: str, pages: list[Any]) -> None:
    nav: list[Any] = config.nav or []
    (section,) = (entry for entry in nav if isinstance(entry, dict) and title in entry)
    section[title] = pages


def _decision_files() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def _decisions() -> dict[str, str]:
    titles = {path: path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ") for path in _decision_files()}
    lines = [f"- [{title}]({path.name})" for path, title in titles.items()]
    return {"decisions/index.md": "# Decisions\n\nOne page each: context, choice, price.\n\n" + "\n".join(lines) + "\n"}


def _examples() -> dict[str, str]:
    pages = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        title, _, rest = (ast.get_docstring(ast.parse(text)) or path.stem).partition("\n")
        body = text.split('"""', 2)[2].strip() if '"""' in text else text
        runs = "__main__" in text
        run = f"`python examples/{path.name}` runs it; the tests do so too." if runs else "The tests do both."
        pages[f"examples/{path.stem}.md"] = (
            f"# {title.rstrip('.')}\n\n{rest.strip()}\n\n{run}\n\n```python\n{body}\n```\n"
        )
    return pages


def _reference() -> dict[str, str]:
    pages = {"reference/python.md": _from_python()}
    pages |= {f"reference/{name}.md": f"::: lemis.{module}\n" for name, module in MODULES.items()}
    pages["reference/load.md"] += "    options: {group_by_category: false}\n"  # what one calls comes first
    pages["reference/contracts.md"] += "    options: {show_source: true}\n"  # comments say what each field is
    for room, title in ROOMS.items():
        names = sorted(path.stem for path in (ROOT / "src" / "lemis" / room).glob("*.py") if path.stem != "__init__")
        lines = [f"- [`{name}`]({name}.md): {_first_line(room, name)}" for name in names]
        pages[f"reference/{room}/index.md"] = f"# {title}\n\n" + "\n".join(lines) + "\n"
        for name in names:
            pages[f"reference/{room}/{name}.md"] = f"::: lemis.{room}.{name}\n" + (
                _settings(room, name) if room in PLUGINS else ""
            )
    return pages


def _from_python() -> str:
    """All that ``import lemis`` offers, and where each is told."""
    paragraphs = [" ".join(one.split()) for one in (lemis.__doc__ or "").split("\n\n")[1:]]
    said = re.sub(r"``(.+?)``", r"`\1`", "\n\n".join(paragraphs))
    told = {verb: (f"verbs/{verb}.md", "verbs", verb) for verb in lemis.VERBS}
    others = {name: (f"{name}.md", *module.split(".")[1:]) for name, module in lemis.OTHERS.items()}
    lines = [
        f"- [`lemis.{name}`]({page}): {_first_line(room, file)}"
        for name, (page, room, file) in {**others, **told}.items()
    ]
    return f"# import lemis\n\n{said}\n\n" + "\n".join(lines) + "\n"


def _settings(room: str, name: str) -> str:
    """What a plug-in says of itself, and a table of its settings, whose comments are no docstrings."""
    said = {key: value for key, value in plugins.describe(room, name).items() if key in ("dims", "trains", "backbones")}
    facts = ", ".join(f"`{key.upper()} = {value}`" for key, value in said.items())
    rows = [
        f"| `{row['name']}` | {_cell(row['default'], code=True)} | {_cell(row['note'])} |"
        for row in plugins.settings_of(room, name)
    ]
    head = ["    options: {filters: ['!^_', '!^Settings$']}", "", "## Settings", "", facts, ""]
    return "\n".join([*head, "| setting | default | where it is from |", "| --- | --- | --- |", *rows, ""])


def _cell(value: Any, *, code: bool = False) -> str:
    text = re.sub(r"([|\[\]*_`])", r"\\\1", str(value)).replace("<", "&lt;")
    return f"`{value}`".replace("|", "\\|") if code else text


def _first_line(room: str, name: str) -> str:
    text = (ROOT / "src" / "lemis" / room / f"{name}.py").read_text(encoding="utf-8")
    said = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
    return re.sub(r"``(.+?)``", r"`\1`", said.split(". ")[0].rstrip("."))
