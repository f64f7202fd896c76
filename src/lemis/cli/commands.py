"""The commands: for each verb what only the command line knows. Its options and help are read from the verb itself."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from lemis.cli import derived
from lemis.errors import UsageError
from lemis.plugins import Trust

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of Lemis, or what was tried did not come off (a training that diverged, a cell of "
    "compare, something to fix that doctor or check-method found); 2 your input or your disk; 3 scans that must be "
    "repaired; 130 interrupted (Ctrl-C, SIGTERM): the same command goes on."
)
START, WHOLE, WITHOUT = "Start here", "The whole way", "Without labels"  # panels of the help
STEPS, OWN = "Step by step", "Your own modules"
WEIGHTS = "Other programs"


def _version(asked: bool) -> None:
    if asked:
        print(f"lemis {installed_version('lemis')}")
        raise typer.Exit


def _list_plans() -> None:
    from lemis.comparison.plan_files import shipped

    for known, title in shipped().items():
        print(f"{known:<36}{title}")


LIST_PLANS = derived.keyword(
    "list_", Annotated[bool, typer.Option("--list", help="Show the plans that ship: every table of the papers.")], False
)


def _never(result: Any) -> bool:
    del result
    return False


@dataclass(frozen=True, kw_only=True)
class Command:
    """What only the command line knows of a verb."""

    panel: str
    summary: str  # in the list of commands
    epilog: str
    prints: Callable[[Any], Any] | None = None  # of what the verb returns, for a script that goes on with it
    silent: str | None = None  # the option with which nothing is made
    failed: Callable[[Any], Any] = _never  # whether what the verb returns ends with ``code``
    code: int = 1
    is_heavy: bool = False  # it runs networks: refused, or begun with a line, before PyTorch is imported
    module: str | None = None  # of the function, where it is not the verb's own
    function: str | None = None  # where Python cannot call it as it is typed
    python_only: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # arguments in Python, options here
    mixed: str | None = None  # the argument whose words stand among those of KEY=VALUE
    metavars: Mapping[str, str] = field(default_factory=dict)  # other than ``derived.METAVARS``
    instead: Mapping[inspect.Parameter, Callable[[], None]] = field(default_factory=dict)  # options, and what they do
    optional: Mapping[str, UsageError] = field(default_factory=dict)  # arguments that only those do without


COMMANDS: Mapping[str, Command] = {
    "demo": Command(
        panel=START,
        summary="Made-up scans through every step, in two minutes on two fast cores and five on old ones; ends with a "
        "report.",
        epilog="Example: lemis demo -o demo/",
        prints=str,
        is_heavy=True,
    ),
    "doctor": Command(
        panel=START,
        summary="This machine and these versions: one fix per line. Exit code 1 when something must be fixed.",
        epilog="Example: lemis doctor -o work/",
        failed=lambda result: not result.healthy,
    ),
    "list": Command(
        panel=START,
        summary="Methods, networks, auxiliary losses, ways to use unlabelled scans, single-image methods and presets, "
        "with every setting and its default.",
        epilog="Example: lemis list --json",
    ),
    "fit": Command(
        panel=WHOLE,
        summary="The main job: check, prepare, pretrain, finetune, predict, evaluate, report. Run again to resume.",
        epilog="Example: lemis fit scans/ -o work/ --labelled 4 --fold 0 pretrain.epochs=60",
        prints=str,
        is_heavy=True,
    ),
    "compare": Command(
        panel=WHOLE,
        summary="Is pre-training worth it, and how many labels? Methods x labels x folds x seeds. Run again to resume.",
        epilog="Example: lemis compare scans/ -o work/ --plan plan.yaml seeds=[0,1]",
        prints=attrgetter("folder"),
        failed=attrgetter("failed"),
        is_heavy=True,
        optional={
            "scans": UsageError(
                "compare without a folder of scans",
                allowed="a folder, or --list for the plans that ship",
                next="lemis compare scans/ -o work/",
            )
        },
        instead={LIST_PLANS: _list_plans},
    ),
    "segment-one": Command(
        panel=WITHOUT,
        summary="One image, no labels, no training set: clusters, and which of them may be the object.",
        epilog="Example: lemis segment-one lesion.png -o mask.png",
        failed=attrgetter("failed"),
        code=3,
        is_heavy=True,
        metavars={"output": "MASK", "image": "IMAGE|KEY=VALUE"},
        mixed="image",
    ),
    "check": Command(
        panel=STEPS,
        summary="What is in a folder of scans, and what is wrong with it. Exit code 3 when a fault must be repaired.",
        epilog="Example: lemis check scans/ -o work/",
        failed=attrgetter("errors"),
        code=3,
    ),
    "check-method": Command(
        panel=OWN,
        summary="Does your own method, network, extra loss, way to use unlabelled scans or method for one image keep "
        "what Lemis asks of it? Exit code 1 when a promise is not kept.",
        epilog="Example: lemis check-method my_lab.idea",
        failed=attrgetter("failed"),
        metavars={"name": "MODULE"},
    ),
    "prepare": Command(
        panel=STEPS,
        summary="Resample, normalise and store every scan once. Run again: only what is missing or changed is done.",
        epilog="Example: lemis prepare work/ spacing_mm=1.5 keypoints.detector=sift",
        module="lemis.cli.preparing",
    ),
    "pretrain": Command(
        panel=STEPS,
        summary="Learn from all prepared scans without their labels. Run again to resume.",
        epilog="Example: lemis pretrain work/ --method pcl epochs=50",
        prints=str,
        is_heavy=True,
        python_only=("prefix",),
    ),
    "finetune": Command(
        panel=STEPS,
        summary="Train a segmentation network on the labelled scans. Run again to resume.",
        epilog="Example: lemis finetune work/ --pretrained work/runs/pcl --labelled 4 --fold 0",
        prints=str,
        is_heavy=True,
        python_only=("prefix", "selection_seed", "subjects"),
    ),
    "predict": Command(
        panel=STEPS,
        summary="Segment scans; each label map lies on its input's own grid, in its format.",
        epilog="Example: lemis predict work/runs/pcl-fold0 -i new-scans/ -o masks/",
        prints=str,
        is_heavy=True,
        silent="dry_run",
        python_only=("scans", "decided", "beside"),
        metavars={"runs": "RUN|KEY=VALUE"},
        mixed="runs",
    ),
    "evaluate": Command(
        panel=STEPS,
        summary="Score predictions against reference labels, per scan and structure, in millimetres.",
        epilog="Example: lemis evaluate masks/ --references labels/",
        python_only=("work", "runs", "settings"),
        options=("references",),
    ),
    "suggest": Command(
        panel=WHOLE,
        summary="Which scans to label next, and why: before there is any label, and after.",
        epilog="Example: lemis suggest work/ -n 5 --method cover",
        prints=str,
        is_heavy=True,
    ),
    "report": Command(
        panel=STEPS,
        summary="One HTML file that says what was done and how good it is; opens without a network.",
        epilog="Example: lemis report work/ --similarity patient001:5:48,48 --run sal --run pcl",
        prints=str,
    ),
    "export": Command(
        panel=WEIGHTS,
        summary="For other programs: the network of a run (PyTorch, ONNX, MONAI), or label maps as DICOM SEG.",
        epilog="Example: lemis export work/runs/pcl-fixmatch-m4-all -o heart-network/ --to torch",
        prints=str,
        is_heavy=True,
        metavars={"run": "RUN"},
    ),
    "import": Command(
        panel=WEIGHTS,
        summary="Weights of another program as a run that fine-tuning starts from; says which were taken.",
        epilog="Example: lemis import model_swinvit.pt -o work/runs/swinvit --backbone swin_unetr backbone.dims=3",
        prints=str,
        is_heavy=True,
        function="import_weights",
        metavars={"file": "FILE", "mapping": "FILE.yaml"},
    ),
}
HEAVY = {name for name, command in COMMANDS.items() if command.is_heavy}

app = typer.Typer(
    name="lemis",
    help="Label-efficient medical image segmentation: learn from all scans, fine-tune on few labelled ones.",
    epilog=f"Example: lemis demo -o demo/. {EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # "rich" would take lemis[ray] for a style, and drop it
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _add(name: str, command: Command) -> None:
    verb = command.function or name.replace("-", "_")
    module = command.module or f"lemis.verbs.{verb}"
    taken = derived.read(module, verb, command.python_only)
    flags = derived.flags(taken, command.options)
    words = [*derived.parameters(taken, flags, command.metavars, [*command.optional], command.mixed), *command.instead]

    def run(**typed: Any) -> None:
        for option, other in command.instead.items():
            if typed[option.name]:
                return other()
        for left_out, fault in command.optional.items():
            if typed[left_out] is None:
                raise fault
        own = _told_apart(taken, command.mixed, typed)
        given = [own.pop(one.name) for one in taken.parameters if one.is_argument]
        if command.is_heavy:
            _ask(verb, *given, **own)
        result = _function(module, verb)(*given, **own)
        if command.prints and not (command.silent and typed[command.silent]):
            print(command.prints(result))
        if command.failed(result):
            raise typer.Exit(command.code)
        return None

    run.__signature__ = inspect.Signature(words)  # type: ignore[attr-defined]
    run.__annotations__ = {word.name: word.annotation for word in words}
    text = "\n\n".join(part for part in (command.summary, derived.as_typed(taken.description, flags)) if part)
    app.command(name=name, help=text, epilog=command.epilog, rich_help_panel=command.panel)(run)


def _function(module: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _told_apart(taken: derived.Verb, mixed: str | None, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed as the verb takes it; files and settings, typed one after the other, apart."""
    found: dict[str, Any] = {}
    for one in taken.parameters:
        value = typed.get(one.name)
        if "Trust" in one.types:
            value = Trust(every=bool(value))
        elif value is None and "Sequence[str]" in one.types:
            value = []
        found[one.name] = value
    if mixed is not None:
        words = typed[mixed] or []
        # A part of a file may be named after it: scan#series=4.
        images = {word for word in words if os.path.exists(word) or os.path.exists(word.rpartition("#")[0])}
        settings = [word for word in words if "=" in word and word not in images]
        files = [Path(word) for word in words if word not in settings]
        several = any("Sequence[Path]" in one.types for one in taken.parameters if one.name == mixed)
        if len(files) > 1 and not several:
            raise typer.BadParameter(f"{len(files)} images; a folder of them is given with --batch")
        found |= {"overrides": settings, mixed: files if several else next(iter(files), None)}
    return found


def _ask(verb: str, *given: Any, **words: Any) -> None:
    """Refuse what cannot be done; else say what will be, as importing takes seconds in which nothing else is said."""
    from lemis import asked, terminal

    said = getattr(asked, verb)(*given, **words)
    terminal.console(stderr=True, quiet=os.environ.get("RANK", "0") != "0").print(said)


for _name, _command in COMMANDS.items():
    _add(_name, _command)
