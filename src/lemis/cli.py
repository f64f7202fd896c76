"""The command line: arguments to verbs, errors to exit codes. No logic; verbs are imported when they run."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from lemis import plugins
from lemis.errors import Interrupted, LemisError, UsageError, of_disk
from lemis.plugins import Trust

DeviceName = Literal["auto", "cpu", "cuda"]

# Verbs that train a network or run one: they allocate and free large tensors all the time.
HEAVY = {"pretrain", "finetune", "predict", "fit", "demo", "compare", "segment-one"}

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of Lemis, or what was tried did not come off (a training that diverged, a cell of "
    "compare, something to fix that doctor or check-method found); 2 your input or your disk; 3 scans that must be "
    "repaired; 130 interrupted (Ctrl-C, SIGTERM): the same command goes on."
)

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

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings over the preset; `lemis list --json` shows them.",
        show_default=False,
    ),
]
Scans = Annotated[
    Path,
    typer.Argument(metavar="SCANS", help="A folder of scans, or a CSV that lists them.", show_default=False),
]
Work = Annotated[
    Path,
    typer.Argument(metavar="WORK", help="The work folder: index, prepared scans, runs, results.", show_default=False),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        help="How to pre-train; `lemis list` shows all. A dotted name loads your own module.",
        show_default="the preset's, else sal",
    ),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="The network; `lemis list` shows all. A dotted name loads your own module.",
        show_default="the method's, else unet2d",
    ),
]
AuxiliaryName = Annotated[
    str | None,
    typer.Option(
        "--auxiliary",
        help="An extra loss of fine-tuning; `lemis list` shows all. A dotted name loads your own module.",
        show_default="the preset's, else none",
    ),
]
RunName = Annotated[
    str | None,
    typer.Option("--name", help="Of the run's folder in WORK/runs.", show_default="from the settings"),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="Settings by name (`lemis list`) or by file.", show_default="none"),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE.yaml", help="Settings that win over the preset.", show_default="none"),
]
Labelled = Annotated[
    int | None,
    typer.Option("--labelled", min=1, help="Use the labels of this many subjects only.", show_default="all"),
]
SplitName = Annotated[
    Literal["pcl", "macl", "voxel_siamese"] | None,
    typer.Option("--split", help="Whose folds.", show_default="the data set's own splits_final.json, else pcl"),
]
_LARGEST_SEED = 2**32 - 1  # settings.Seed, which is not imported for a help text
Seed = Annotated[int, typer.Option("--seed", min=0, max=_LARGEST_SEED, help="Same seed, same result.")]
Device = Annotated[DeviceName, typer.Option("--device", help="Where to compute; auto takes a GPU when there is one.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Processes that work in parallel.", show_default="all cores"),
]
Trusting = Annotated[
    bool, typer.Option("--trust", help="Import modules that a run folder names, even if they are not of Lemis.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def main() -> None:
    """Entry point of ``lemis``: runs a verb and ends the process.

    Exit codes: see ``EXIT_CODES``.
    """
    if HEAVY.intersection(sys.argv[1:2]):
        keep_freed_memory()
    with contextlib.suppress(FileNotFoundError):  # the folder was deleted
        plugins.search(Path.cwd())
    again = shlex.join(["lemis", *sys.argv[1:]])
    try:
        with _told_to_end():
            try:
                app(prog_name="lemis")
            except SystemExit as ended:
                sys.stdout.flush()  # here, where a full disk behind it can still be said
                if ended.code == 130:  # what Ctrl-C becomes on its way through the parser of the command line
                    raise KeyboardInterrupt from None
                raise
    except Interrupted as error:
        _end(f"{error}; the same command goes on from there\n  next:    {again}", error.exit_code)
    except KeyboardInterrupt:
        _end(f"interrupted; what is finished is kept, and the same command goes on\n  next:    {again}", 130)
    except LemisError as error:
        _end(f"error: {error}", error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and (fault := of_disk(error, again=again)):
            _end(f"error: {fault}", fault.exit_code)
        traceback.print_exc()
        print(
            "\nThis is a fault of Lemis, not yours: please report it with the lines above.",
            file=sys.stderr,
        )
        sys.exit(1)


def _end(said: str, exit_code: int) -> NoReturn:
    print(said, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # whoever reads it is gone or full, which was said; Python would say it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends everything as Ctrl-C does; SIGUSR1 asks a training for a checkpoint, and means nothing elsewhere.

    Threads that write (TensorBoard's) leave errors of the disk to the main one, which meets them too.
    """
    before = threading.excepthook

    def unless_of_disk(unraised: threading.ExceptHookArgs) -> None:
        if not (isinstance(unraised.exc_value, OSError) and of_disk(unraised.exc_value)):
            before(unraised)

    handlers: dict[str, Any] = {"SIGTERM": signal.default_int_handler, "SIGUSR1": signal.SIG_IGN}
    there = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    were = {number: signal.signal(number, handler) for number, handler in there.items()}
    threading.excepthook = unless_of_disk
    try:
        yield
    finally:
        threading.excepthook = before
        for number, handler in were.items():
            signal.signal(number, handler)


def keep_freed_memory() -> bool:
    """Tell glibc to reuse the memory of freed tensors, not to hand it back to the system (decision 0002).

    Returns:
        Whether it was set: False where the C library is not glibc, or the user's environment already decides.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(m_mmap_threshold, 2**30)) and bool(libc.mallopt(m_trim_threshold, 2**31 - 1))


def _run(verb: str, *given: Any, **words: Any) -> Any:
    """Ask whether it can be done, and only then import the verb, and PyTorch with it, and run it."""
    _ask(verb, *given, **words)
    return getattr(importlib.import_module(f"lemis.verbs.{verb}"), verb)(*given, **words)


def _ask(verb: str, *given: Any, **words: Any) -> None:
    """Refuse what cannot be done; else say what will be, as importing takes seconds in which nothing else is said."""
    from lemis import asked, terminal

    said = getattr(asked, verb)(*given, **words)
    terminal.console(stderr=True, quiet=os.environ.get("RANK", "0") != "0").print(said)


def _version(asked: bool) -> None:
    if asked:
        print(f"lemis {installed_version('lemis')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: lemis demo -o demo/", rich_help_panel="Start here")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("demo"),
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Made-up scans through every step, in two minutes on two fast cores and five on old ones; ends with a report."""
    print(_run("demo", output=output, device=device, seed=seed))


@app.command(epilog="Example: lemis doctor -o work/", rich_help_panel="Start here")
def doctor(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where results are to be written.")] = Path(),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """This machine and these versions: one fix per line. Exit code 1 when something must be fixed."""
    from lemis.verbs.doctor import doctor as verb

    if not verb(output=output, device=device, json=json).healthy:
        raise typer.Exit(1)


@app.command(name="list", epilog="Example: lemis list --json", rich_help_panel="Start here")
def list_(
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Also count each network's weights (imports PyTorch).")
    ] = False,
    json: Json = False,
) -> None:
    """Methods, networks, auxiliary losses, single-image methods and presets, with every setting and its default."""
    from lemis.verbs.list import list as verb

    verb(parameters=parameters, json=json)


@app.command(
    epilog="Example: lemis fit scans/ -o work/ --labelled 4 --fold 0 pretrain.epochs=60",
    rich_help_panel="The whole way",
)
def fit(
    folder: Scans,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The work folder.")] = Path("work"),
    method: MethodName = None,
    backbone: BackboneName = None,
    auxiliary: AuxiliaryName = None,
    labelled: Labelled = None,
    fold: Annotated[
        int | None,
        typer.Option("--fold", min=0, help="Hold out and score this fold only.", show_default="cross-validate"),
    ] = None,
    inductive: Annotated[
        bool, typer.Option("--inductive", help="Keep held-out scans out of pre-training too; needs --fold.")
    ] = False,
    preset: Preset = "small",
    settings: SettingsFile = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """The main job: check, prepare, pretrain, finetune, predict, evaluate, report. Run again to resume."""
    report = _run(
        "fit",
        folder,
        output=output,
        method=method,
        backbone=backbone,
        auxiliary=auxiliary,
        labelled=labelled,
        fold=fold,
        inductive=inductive,
        preset=preset,
        settings_file=settings,
        overrides=overrides or [],
        seed=seed,
        device=device,
    )
    print(report)


@app.command(
    epilog="Example: lemis compare scans/ -o work/ --plan plan.yaml seeds=[0,1]", rich_help_panel="The whole way"
)
def compare(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="SCANS", help="A folder of scans, or a CSV that lists them.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings over the plan: seeds=[0,1] labelled=[2,6] preset=tiny settings.finetune.steps=100 "
            "budget.minutes=10.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The work folder.")] = Path("work"),
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            metavar="NAME|FILE.yaml|MODULE:FUNCTION",
            help="What is compared; the default: the preset's method against none, few to all labels, every fold.",
        ),
    ] = "default",
    list_: Annotated[bool, typer.Option("--list", help="Show the plans that ship: every table of the papers.")] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the folder in WORK/comparisons.", show_default="the plan's"),
    ] = None,
    upstream: Annotated[
        Path | None,
        typer.Option("--upstream", metavar="SCANS", help="Pre-train on this other data set.", show_default="the same"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Prepare, time a few steps, say what would run and what it takes, and stop."),
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes that train side by side.")] = 1,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ray|auto|ray://HOST:PORT",
            help="Train on a Ray cluster: start one here, or join one. Needs lemis[ray].",
            show_default="this machine",
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus",
            min=0,
            max=1024,
            help="Share of a GPU that a training takes.",
            show_default="a whole one if there is any",
        ),
    ] = None,
    emit: Annotated[
        Literal["slurm"] | None,
        typer.Option("--emit", help="Write the scripts of an array job, and run nothing.", show_default=False),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option("--cell", metavar="KEY", help="Run this cell only, as those scripts do.", show_default=False),
    ] = None,
    keep_predictions: Annotated[
        bool,
        typer.Option(
            "--keep-predictions",
            help="Keep every cell's label maps. Else they are deleted once scored; the weights stay, and "
            "`lemis predict WORK/runs/NAME` makes them again.",
        ),
    ] = False,
    device: Device = "auto",
    trust: Annotated[
        bool,
        typer.Option("--trust", help="With --cell: import modules that its file names, even if they are not of Lemis."),
    ] = False,
) -> None:
    """Is pre-training worth it, and how many labels? Methods x labels x folds x seeds. Run again to resume."""
    if list_:
        from lemis.comparison.plan_files import shipped

        for known, title in shipped().items():
            print(f"{known:<36}{title}")
        return
    if folder is None:
        raise UsageError(
            "compare without a folder of scans",
            allowed="a folder, or --list for the plans that ship",
            next="lemis compare scans/ -o work/",
        )
    done = _run(
        "compare",
        folder,
        output=output,
        plan=plan,
        name=name,
        upstream=upstream,
        overrides=overrides or [],
        jobs=jobs,
        on=on,
        gpus=gpus,
        emit=emit,
        cell=cell,
        dry_run=dry_run,
        keep_predictions=keep_predictions,
        device=device,
        trust=Trust(every=trust),
    )
    print(done.folder)
    if done.failed:
        raise typer.Exit(1)


@app.command(
    name="segment-one", epilog="Example: lemis segment-one lesion.png -o mask.png", rich_help_panel="Without labels"
)
def segment_one(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="MASK", help="Mask to write; with --batch, a folder."),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE|KEY=VALUE",
            help="A picture, a DICOM slice, a volume, or the folder of one DICOM series; then settings of the method.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            metavar="DIR",
            help="Every image of a folder, several side by side; or of a set with its references: images/ + labels/, "
            "imagesTr/ + labelsTr/, PH2, lung CT. Run again to resume.",
            show_default="one image",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", help="`lemis list` shows all. A dotted name loads your own module.", show_default="s3net"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="Settings of the method by name, or a YAML file.", show_default="small, if it has one"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=_LARGEST_SEED, help="Same seed, same result.", show_default="0")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="PIXELS|native", help="Side of the square that the method works at.", show_default="256"
        ),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            metavar="FIRST:LAST",
            help="Of a volume, each on its own; counted from 1. Several: 3:5,12.",
            show_default="all",
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="LOW:HIGH",
            help="What becomes black and white, in the image's own values: -512:512 for lungs.",
            show_default="8 bits as they are, else percentiles",
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="LABEL",
            help="The cluster to take for the object, without training again; 2+3 for both, 12:3 for slice 12.",
            show_default="the proposed one",
        ),
    ] = None,
    click: Annotated[
        str | None,
        typer.Option(
            "--click",
            metavar="ROW,COL",
            help="Take the cluster that holds this pixel; counted from 0.",
            show_default="the proposed one",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="LABELMAP", help="Score against it.", show_default="none"),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            metavar="DIR",
            help="With --batch: label maps named like the images.",
            show_default="those of the set",
        ),
    ] = None,
    protocol: Annotated[
        Literal["honest", "released"],
        typer.Option("--protocol", help="How to score; released is that of the authors' code, and flatters."),
    ] = "honest",
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", min=1, help="Images side by side.", show_default="by memory and speed"),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """One image, no labels, no training set: clusters, and which of them may be the object."""
    overrides = [word for word in words or [] if "=" in word and not os.path.exists(word)]
    images = [Path(word) for word in words or [] if word not in overrides]
    if len(images) > 1:
        raise typer.BadParameter(f"{len(images)} images; a folder of them is given with --batch")
    done = _run(
        "segment_one",
        images[0] if images else None,
        output=output,
        batch=batch,
        method=method,
        preset=preset,
        overrides=overrides,
        seed=seed,
        size=size,
        slices=slices,
        window=window,
        pick=pick,
        click=click,
        reference=reference,
        references=references,
        protocol=protocol,
        at_once=at_once,
        device=device,
        json=json,
    )
    if done.failed:
        raise typer.Exit(3)


@app.command(epilog="Example: lemis check scans/ -o work/", rich_help_panel="Step by step")
def check(
    folder: Scans,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Work folder to write index.json to.", show_default=False),
    ] = None,
    jobs: Jobs = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="Name of the layout.", show_default="recognised")
    ] = None,
    json: Json = False,
) -> None:
    """What is in a folder of scans, and what is wrong with it. Exit code 3 when a fault must be repaired."""
    from lemis.verbs.check import check as verb

    if verb(folder, output=output, json=json, layout=layout, jobs=jobs).errors:
        raise typer.Exit(3)


@app.command(name="check-method", epilog="Example: lemis check-method my_lab.idea", rich_help_panel="Your own modules")
def check_method(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE",
            help="Dotted name of your module: my_lab.idea for my_lab/idea.py in this folder, or an installed one.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Does your own method, network, extra loss or method for one image keep what Lemis asks of it?

    A line for each promise: passed, FAILED with what was found and what is asked, or a note where it is asked of files
    of Lemis only. What the module is follows from what it defines beside `Settings`: `Method` (pre-training, as the
    files of src/lemis/methods), `Backbone` (a network), `Auxiliary` (an extra loss of fine-tuning), or `segment` (one
    image without labels). It runs on made-up scans, in about a minute. A setting that acts only where another is set is
    told in the module, `CHECKED_WITH = {"momentum": {"encoder": "ema"}}`, and one that cannot act in one step too,
    `NOT_CHECKED = {"transfer": "acts after the last step"}`. Exit code 1 when a promise is not kept.
    """
    from lemis.verbs.check_method import check_method as verb

    if verb(module, json=json).failed:
        raise typer.Exit(1)


@app.command(
    epilog="Example: lemis prepare work/ spacing_mm=1.5 keypoints.detector=sift", rich_help_panel="Step by step"
)
def prepare(
    work: Work,
    overrides: Overrides = None,
    dims: Annotated[
        int, typer.Option("--dims", min=2, max=3, help="Of the network; a preset may prepare volumes otherwise.")
    ] = 2,
    preset: Preset = None,
    settings: SettingsFile = None,
    jobs: Jobs = None,
) -> None:
    """Resample, normalise and store every scan once. Run again: only what is missing or changed is done."""
    from lemis.preparation.keypoints import preparation
    from lemis.settings import load_preset, of_dims, parse_overrides, read_yaml
    from lemis.verbs.prepare import prepare as verb

    layers = [load_preset(preset) if preset else {}, read_yaml(settings) if settings else {}]
    sections = [of_dims(layer, dims).get("prepare", {}) for layer in layers]
    images, keypoints = preparation(*sections, parse_overrides(overrides or []))
    verb(work, settings=images, keypoints=keypoints, jobs=jobs)


@app.command(epilog="Example: lemis pretrain work/ --method pcl epochs=50", rich_help_panel="Step by step")
def pretrain(
    work: Work,
    overrides: Overrides = None,
    method: MethodName = None,
    backbone: BackboneName = None,
    name: RunName = None,
    fold: Annotated[
        int | None,
        typer.Option("--fold", min=0, help="Leave out this fold's test subjects.", show_default="learn from all"),
    ] = None,
    split: SplitName = None,
    preset: Preset = None,
    settings: SettingsFile = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Learn from all prepared scans without their labels. Run again to resume."""
    run = _run(
        "pretrain",
        work,
        method=method,
        backbone=backbone,
        name=name,
        fold=fold,
        split=split,
        preset=preset,
        settings_file=settings,
        overrides=overrides or [],
        seed=seed,
        device=device,
    )
    print(run)


@app.command(
    epilog="Example: lemis finetune work/ --pretrained work/runs/pcl --labelled 4 --fold 0",
    rich_help_panel="Step by step",
)
def finetune(
    work: Work,
    overrides: Overrides = None,
    pretrained: Annotated[
        Path | None,
        typer.Option("--pretrained", help="Run folder to start from.", show_default="random weights"),
    ] = None,
    backbone: BackboneName = None,
    auxiliary: AuxiliaryName = None,
    name: RunName = None,
    labelled: Labelled = None,
    fold: Annotated[
        int | None,
        typer.Option("--fold", min=0, help="Hold out this fold's test subjects.", show_default="hold out none"),
    ] = None,
    split: SplitName = None,
    preset: Preset = None,
    settings: SettingsFile = None,
    seed: Seed = 0,
    device: Device = "auto",
    trust: Trusting = False,
) -> None:
    """Train a segmentation network on the labelled scans. Run again to resume."""
    run = _run(
        "finetune",
        work,
        pretrained=pretrained,
        labelled=labelled,
        fold=fold,
        split=split,
        backbone=backbone,
        auxiliary=auxiliary,
        name=name,
        preset=preset,
        settings_file=settings,
        overrides=overrides or [],
        seed=seed,
        device=device,
        trust=Trust(every=trust),
    )
    print(run)


@app.command(
    epilog="Example: lemis predict work/runs/pcl-fold0 -i new-scans/ -o masks/",
    rich_help_panel="Step by step",
)
def predict(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|KEY=VALUE",
            help="Fine-tuning runs, averaged where they are several; then settings of the tiles in which 3D networks "
            "see a volume: overlap=0.5, blend=gaussian or constant, mirror=false, at_once=1.",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", "-i", help="Scan, or folder of scans.", show_default="the work folder's"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the label maps.", show_default="WORK/predictions"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how long it will take and how much memory, and write nothing.")
    ] = False,
    device: Device = "auto",
    trust: Trusting = False,
) -> None:
    """Segment scans; each label map lies on its input's own grid, in its format."""
    overrides = [word for word in runs if "=" in word and not os.path.exists(word)]
    folders = [Path(word) for word in runs if word not in overrides]
    folder = _run(
        "predict",
        folders,
        inputs=inputs,
        output=output,
        overrides=overrides,
        dry_run=dry_run,
        device=device,
        trust=Trust(every=trust),
    )
    if not dry_run:
        print(folder)


@app.command(epilog="Example: lemis evaluate masks/ --references labels/", rich_help_panel="Step by step")
def evaluate(
    work: Annotated[
        Path, typer.Argument(metavar="WORK", help="The work folder, or a folder of label maps.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the scores.", show_default="WORK/evaluation, or among the label maps"
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            help="Folder of reference labels, named like the label maps.",
            show_default="those in WORK/index.json, or beside the scans",
        ),
    ] = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """Score predictions against reference labels, per scan and structure, in millimetres."""
    from lemis.verbs.evaluate import evaluate as verb

    verb(work, references, output=output, jobs=jobs, json=json)


@app.command(
    epilog="Example: lemis report work/ --similarity patient001:5:48,48 --run sal --run pcl",
    rich_help_panel="Step by step",
)
def report(
    work: Annotated[
        Path,
        typer.Argument(
            metavar="WORK", help="The work folder, or a folder of label maps that predict made.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write.", show_default="WORK/report/index.html"),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME", help="A run to show; several are allowed.", show_default="all"),
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            "--similarity",
            metavar="SCAN:SLICE:ROW,COL",
            help="Also show what each pre-trained network takes for the same as this pixel of a prepared slice; "
            "the slice counts from 1, row and column from 0.",
            show_default="not shown",
        ),
    ] = None,
    device: Device = "auto",
    trust: Trusting = False,
) -> None:
    """One HTML file that says what was done and how good it is; opens without a network."""
    from lemis.verbs.report import report as verb

    print(verb(work, runs=run or (), similarity=similarity, output=output, device=device, trust=Trust(every=trust)))
