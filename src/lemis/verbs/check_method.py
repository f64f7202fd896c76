"""``lemis check-method``: does a module outside the package keep what Lemis asks of it?"""

from __future__ import annotations

import json as json_format
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lemis import plugins, terminal
from lemis.errors import UsageError, shown
from lemis.measure.tables import count

if TYPE_CHECKING:
    from lemis.promises.trying import Tried

# The folder that a module would belong to -> the name in it that makes it one, and what it is called.
KINDS = {
    "methods": ("Method", "a pre-training method"),
    "backbones": ("Backbone", "a network"),
    "auxiliary": ("Auxiliary", "an extra loss of fine-tuning"),
    "semi": ("Semi", "a way to fine-tune with unlabelled scans too"),
    "single": ("segment", "a method for one image without labels"),
    "suggesters": ("suggest", "a way to choose which scans to label next"),
}
USE = {
    "methods": "lemis fit scans/ -o work/ --method {}",
    "backbones": "lemis fit scans/ -o work/ --backbone {}",
    "auxiliary": "lemis fit scans/ -o work/ --auxiliary {}",
    "semi": "lemis fit scans/ -o work/ --semi {}",
    "single": "lemis segment-one image.png -o mask.png --method {}",
    "suggesters": "lemis suggest work/ -n 5 --method {}",
}
WORDS = {"kept": "passed", "broken": "FAILED", "noted": "note"}


@dataclass(frozen=True)
class Checked:
    """What was tried on a module.

    Args:
        name: Its dotted name.
        kinds: Folders of Lemis that it would belong to.
        tried: Every promise, in order.
    """

    name: str
    kinds: tuple[str, ...]
    tried: tuple[Tried, ...]

    @property
    def failed(self) -> tuple[Tried, ...]:
        """Promises that are not kept."""
        return tuple(one for one in self.tried if one.state == "broken")


def check_method(name: str, *, json: bool = False) -> Checked:
    """Try every promise of a method, a network, or another module of your own, on made-up scans.

    A line for each promise: passed, FAILED with what was found and what is asked, or a note where it is asked of files
    of Lemis only or cannot be tried, such as other random numbers where the module draws none. What the module is
    follows from what it defines beside ``Settings``: ``Method`` (pre-training, as the files of src/lemis/methods),
    ``Backbone`` (a network), ``Auxiliary`` (an extra loss of fine-tuning), ``Semi`` (a way to use unlabelled scans),
    ``segment`` (one image without labels), or ``suggest`` (which scans to label next). It takes about a minute. A
    setting that acts only where another is set is told in the module, ``CHECKED_WITH = {"momentum": {"encoder":
    "ema"}}``, and one that cannot act in one step too, ``NOT_CHECKED = {"transfer": "acts after the last step"}``.

    Args:
        name: Dotted name of your module: my_lab.idea for my_lab/idea.py in this folder, or an installed one.
        json: Print JSON instead of lines.

    Returns:
        Every promise and whether it is kept. A script that calls this needs ``if __name__ == "__main__":``, as some
        promises take several processes.

    Raises:
        UsageError: There is no such module, it cannot be imported, or it defines nothing that Lemis knows.
    """
    kinds = _kinds_of(name)
    console = terminal.console(quiet=json)
    console.print(f"{name}: {' and '.join(KINDS[kind][1] for kind in kinds)}")
    tried: list[Tried] = []
    with tempfile.TemporaryDirectory(prefix="lemis-check-") as folder:
        for kind in kinds:
            for one in _tried(kind, name, Path(folder)):
                _say(console, one, {before.found for before in tried})
                tried.append(one)
    checked = Checked(name, kinds, tuple(tried))
    if json:
        print(json_format.dumps(asdict(checked), indent=1))
    counts = Counter(one.state for one in tried)
    console.print(f"{counts['kept']} passed, {counts['broken']} failed, {count(counts['noted'], 'note')}")
    if not checked.failed:
        console.print(f"next: {USE[kinds[0]].format(name)}")
    return checked


def _kinds_of(name: str) -> tuple[str, ...]:
    _refuse_what_is_no_module_outside(name)
    module = plugins.own(name, f"the module {shown(name, quoted=False)}")
    found = tuple(kind for kind, (entry, _) in KINDS.items() if _defines(module, entry))
    if not found:
        raise UsageError(
            f"{name} defines none of {', '.join(entry for entry, _ in KINDS.values())}",
            allowed="; ".join(f"{what}: Settings and {entry}" for entry, what in KINDS.values()),
            next=f"copy the nearest file of src/lemis/{', '.join(KINDS)}, and change it",
        )
    return found


def _refuse_what_is_no_module_outside(name: str) -> None:
    stem = name.removesuffix(".py").strip("/").replace("/", ".")
    ours = name.rpartition(".")[2] if name.startswith("lemis.") else name
    if any(ours in plugins.names(folder) for folder in KINDS) and (name == ours or name.startswith("lemis.")):
        raise UsageError(
            f"{name} is a file of Lemis, and tested with it",
            allowed="the dotted name of a module outside the package",
            next=f"in a clone of Lemis: python -m pytest tests/contracts -k {ours}",
        )
    if not plugins.is_own(stem) and plugins.is_module(stem):
        raise UsageError(
            f"{shown(name)} lies in no package",
            allowed="a name with a dot, which tells your modules from those of Lemis: my_lab.idea",
            next=f"mkdir -p my_lab && mv {stem}.py my_lab/, then lemis check-method my_lab.{stem}",
        )
    if name.endswith(".py") or "/" in name or not plugins.is_module(name):
        there = stem != name and plugins.is_module(stem)
        raise UsageError(
            f"{shown(name)} is no module",
            allowed="the dotted name of a module: my_lab.idea for my_lab/idea.py in the folder where you type it, or "
            "an installed one",
            next=f"lemis check-method {stem}" if there else "look at the name, or go to the folder that holds my_lab/",
        )


def _defines(module: Any, entry: str) -> bool:
    """Whether a name is the module's own, or a full class from elsewhere; not the contract that it imports."""
    found = getattr(module, entry, None)
    return found is not None and not getattr(found, "__module__", "").startswith("lemis.contracts")


def _tried(kind: str, name: str, folder: Path) -> Iterator[Tried]:
    """Every promise of a kind; those of the file first, and the others only where it keeps them."""
    from lemis.promises import auxiliaries, backbones, methods, own_settings, semis, single, suggesters
    from lemis.promises.trying import Tried, attempt

    rooms: dict[str, Any] = {
        "methods": methods, "backbones": backbones, "auxiliary": auxiliaries, "semi": semis, "single": single,
        "suggesters": suggesters,
    }  # fmt: skip
    first = [attempt(own_settings.settings_are_frozen_and_have_defaults, kind, name)]
    first += [attempt(promise, name) for promise in rooms[kind].FILE]
    yield from first
    if any(one.state == "broken" for one in first):
        yield Tried("the rest", "noted", "not tried before these are mended")
        return
    yield attempt(own_settings.each_setting_says_where_its_default_is_from, kind, name, needed=False)
    for promise in rooms[kind].FILE_OF_OURS:
        yield attempt(promise, name, needed=False)
    module = plugins.load(kind, name)
    where, excused = getattr(module, "CHECKED_WITH", {}), getattr(module, "NOT_CHECKED", {})
    yield from _RUNS[kind](name, folder / kind, where, excused)


def _of_method(name: str, folder: Path, where: Mapping[str, Any], excused: Mapping[str, str]) -> Iterator[Tried]:
    from lemis.promises import many_processes, methods, pairs
    from lemis.promises.material import Material
    from lemis.promises.trying import attempt, in_turn

    folder.mkdir()
    material = Material(folder / "prepared")
    material.prepare()
    dims: tuple[int, ...] = plugins.describe("methods", name)["dims"]
    once = (methods.every_setting_has_an_effect, many_processes.two_processes_equal_one)
    for d in dims:
        subject = methods.Subject(name, d, material, where=where, excused=excused)
        promises = (*methods.STEP, *(once if d == dims[0] else ()))
        compared = (
            methods.what_it_learned_survives_a_checkpoint,
            methods.the_order_of_the_batch_does_not_matter,
            *once,
        )
        same = methods.it_trains_with_finite_losses_and_the_same_seed_gives_the_same
        yield from in_turn(promises, subject, of=f"{d}D", same=same, compared=compared)
    for method, backbone, d in pairs.of_method(name):
        pair = pairs.Pair(method, backbone, d, material.batch if d == 2 else material.of_each_scan)
        yield attempt(pairs.it_trains_a_network_and_hands_its_weights_on, pair, of=f"{backbone}, {d}D")


def _of_backbone(name: str, folder: Path, *_: Mapping[str, Any]) -> Iterator[Tried]:
    from lemis.promises import backbones, pairs
    from lemis.promises.material import Material
    from lemis.promises.trying import attempt

    folder.mkdir()
    material = Material(folder / "prepared")
    material.prepare()
    for d in plugins.describe("backbones", name)["dims"]:
        subject = backbones.Subject(name, d, folder)
        for promise in backbones.STEP:
            yield attempt(promise, subject, of=f"{d}D")
    for method, backbone, d in pairs.of_backbone(name):
        pair = pairs.Pair(method, backbone, d, material.batch if d == 2 else material.of_each_scan)
        yield attempt(pairs.it_trains_a_network_and_hands_its_weights_on, pair, of=f"{method}, {d}D")


def _of_auxiliary(name: str, folder: Path, where: Mapping[str, Any], excused: Mapping[str, str]) -> Iterator[Tried]:
    from lemis.promises import auxiliaries, many_processes
    from lemis.promises.trying import in_turn

    folder.mkdir()
    dims: tuple[int, ...] = plugins.describe("auxiliary", name)["dims"]
    once = (auxiliaries.every_setting_has_an_effect, many_processes.two_processes_train_as_one)
    for d in dims:
        subject = auxiliaries.Subject(name, d, folder, where=where, excused=excused)
        promises = (*auxiliaries.STEP, *(once if d == dims[0] else ()))
        compared = (auxiliaries.the_order_of_the_batch_does_not_matter, *once)
        same = auxiliaries.the_same_numbers_give_the_same_loss
        yield from in_turn(promises, subject, of=f"{d}D", same=same, compared=compared)


def _of_semi(name: str, folder: Path, where: Mapping[str, Any], excused: Mapping[str, str]) -> Iterator[Tried]:
    from lemis.promises import many_processes, semis
    from lemis.promises.trying import attempt

    folder.mkdir()
    dims: tuple[int, ...] = plugins.describe("semi", name)["dims"]
    for d in dims:
        subject = semis.Subject(name, d, folder, where=where, excused=excused)
        for promise in semis.STEP:
            yield attempt(promise, subject, of=f"{d}D")
    subject = semis.Subject(name, dims[0], folder, where=where, excused=excused)
    yield attempt(semis.every_setting_has_an_effect, subject, of=f"{dims[0]}D")
    yield attempt(many_processes.two_processes_fine_tune_as_one, subject, of=f"{dims[0]}D")


def _of_single(name: str, folder: Path, where: Mapping[str, Any], excused: Mapping[str, str]) -> Iterator[Tried]:
    from lemis.promises import single
    from lemis.promises.trying import attempt

    del folder  # it needs no files
    subject = single.Subject(name, where=where, excused=excused)
    for promise in (*single.STEP, single.every_setting_has_an_effect):
        yield attempt(promise, subject)


def _of_suggester(name: str, folder: Path, where: Mapping[str, Any], excused: Mapping[str, str]) -> Iterator[Tried]:
    from lemis.promises import suggesters
    from lemis.promises.trying import attempt

    del folder  # it needs no files
    subject = suggesters.Subject(name, where=where, excused=excused)
    for promise in (*suggesters.STEP, suggesters.every_setting_has_an_effect):
        yield attempt(promise, subject)


_RUNS: dict[str, Callable[..., Iterator[Tried]]] = {
    "methods": _of_method,
    "backbones": _of_backbone,
    "auxiliary": _of_auxiliary,
    "semi": _of_semi,
    "single": _of_single,
    "suggesters": _of_suggester,
}


def _say(console: Console, one: Tried, before: set[str]) -> None:
    console.print(f"{WORDS[one.state]:<8}{one.promise}")
    if one.state == "kept":
        return
    console.print(f"        found: {'as above' if one.found in before else one.found}")
    if one.state == "broken" and one.found not in before:
        console.print(f"        asked: {one.asked}")
