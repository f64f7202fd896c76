"""The command line is wiring: each verb gets what was typed, and each ending has its exit code."""

import ctypes
import errno
import importlib
import inspect
import os
import shlex
import signal
import subprocess
import sys
import time
import types
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lemis import cli, plugins
from lemis.cli import commands, derived
from lemis.errors import DataFault, Interrupted, TrainingStopped, UsageError

VERBS = [
    "demo",
    "doctor",
    "list",
    "fit",
    "compare",
    "check",
    "prepare",
    "pretrain",
    "finetune",
    "predict",
    "evaluate",
    "suggest",
    "report",
    "segment-one",
    "check-method",
    "export",
    "import",
]
RESULT = types.SimpleNamespace(errors=0, healthy=True, failed=(), folder=Path("comparison"))


def module_of(verb):
    return {"import": "import_weights"}.get(verb, verb.replace("-", "_"))


@pytest.fixture
def called(monkeypatch):
    """Every verb replaced by a recorder: a list of (verb, positional, keyword)."""
    calls = []
    monkeypatch.setattr(commands, "_ask", lambda *given, **words: None)  # there are no scans
    for verb in VERBS:
        module = types.ModuleType(f"lemis.verbs.{module_of(verb)}")

        def record(*args, _verb=verb, **words):
            calls.append((_verb, args, words))
            return RESULT

        setattr(module, module_of(verb), record)
        monkeypatch.setitem(sys.modules, f"lemis.verbs.{module_of(verb)}", module)
    return calls


def where(verb):
    """Module and name of a verb's function."""
    command = commands.COMMANDS[verb]
    name = command.function or verb.replace("-", "_")
    return command.module or f"lemis.verbs.{name}", name


def exit_code(result):
    """As the command line ends: a refusal of ours has its own."""
    return result.exception.exit_code if isinstance(result.exception, UsageError) else result.exit_code


def run(*words):
    return CliRunner().invoke(commands.app, list(words))


def example(verb):
    """The example at the end of a verb's help, as words after ``lemis``."""
    text = run(verb, "--help").output
    assert "Example: lemis" in text, f"lemis {verb} --help has no example"
    words = shlex.split(" ".join(text.split("Example:")[1].split()))
    assert words[0] == "lemis"
    return words[1:]


def test_the_list_of_verbs_is_complete():
    assert {typer.main.get_command(commands.app).commands[verb].name for verb in VERBS} == set(VERBS)
    assert set(typer.main.get_command(commands.app).commands) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_in_the_help_runs(verb, called):
    words = example(verb)
    assert words[0] == verb
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert [call[0] for call in called] == [verb]


def test_what_is_typed_reaches_the_verb(called):
    assert run(
        "fit", "scans", "-o", "out", "--method", "pcl", "--labelled", "4", "--fold", "1", "--preset", "tiny",
        "--settings", "mine.yaml", "--seed", "7", "--device", "cpu", "--inductive",
        "epochs=3", "method.threshold=0.2",
    ).exit_code == 0  # fmt: skip
    ((verb, args, words),) = called
    assert (verb, args) == ("fit", (Path("scans"),))
    assert words["overrides"] == ["epochs=3", "method.threshold=0.2"]
    assert {
        key: words[key]
        for key in (
            "output",
            "method",
            "labelled",
            "fold",
            "preset",
            "settings_file",
            "seed",
            "device",
            "inductive",
        )
    } == {
        "output": Path("out"),
        "method": "pcl",
        "labelled": 4,
        "fold": 1,
        "preset": "tiny",
        "settings_file": Path("mine.yaml"),
        "seed": 7,
        "device": "cpu",
        "inductive": True,
    }


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_training_knows_whose_folds(called, verb):
    assert run(verb, "work", "--fold", "1", "--split", "macl").exit_code == 0
    assert (called[0][2]["fold"], called[0][2]["split"]) == (1, "macl")
    assert exit_code(run(verb, "work", "--split", "mine")) == 2


def test_an_image_and_settings_are_told_apart(called):
    done = run("segment-one", "a.png", "clusters=4", "-o", "mask.png", "--method", "kmeans", "--window", "-512:512")
    assert done.exit_code == 0, done.output
    ((_, args, words),) = called
    assert args == (Path("a.png"),)
    assert (words["overrides"], words["method"], words["window"]) == (["clusters=4"], "kmeans", "-512:512")
    called.clear()
    assert run("segment-one", "--batch", "images", "-o", "out", "clusters=4").exit_code == 0
    assert called[0][1] == (None,)
    assert run("segment-one", "a.png", "b.png", "-o", "mask.png").exit_code == 2


@pytest.mark.parametrize("words", [("fit", "scans"), ("pretrain", "work"), ("finetune", "work")])
def test_without_overrides_the_verb_gets_none(called, words):
    assert run(*words).exit_code == 0
    assert list(called[0][2]["overrides"]) == []


def test_compare_needs_scans_unless_it_lists_its_plans(called):
    refused = run("compare").exception
    assert isinstance(refused, UsageError)
    assert refused.exit_code == 2
    assert refused.next == "lemis compare scans/ -o work/"
    listed = run("compare", "--list")
    assert listed.exit_code == 0
    assert "Is pre-training worth it" in listed.output
    assert called == []
    assert run("compare", "scans", "seeds=[0,1]", "--plan", "mine.yaml", "--jobs", "2", "--dry-run").exit_code == 0
    ((_, args, words),) = called
    assert (args, words["overrides"], words["plan"]) == ((Path("scans"),), ["seeds=[0,1]"], "mine.yaml")
    assert (words["jobs"], words["dry_run"], words["cell"], words["on"]) == (2, True, None, None)


def test_prepare_resolves_preset_then_file_then_overrides(called, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("prepare: {spacing_mm: 3.0, image_order: 1}")
    assert run("prepare", "work", "--preset", "small", "--settings", str(file), "image_order=3").exit_code == 0
    settings = called[0][2]["settings"]
    assert (settings.spacing_mm, settings.image_order, settings.field_of_view_mm) == (3.0, 3, "auto")


def test_a_mistyped_verb_gets_the_nearest():
    done = run("pretrian", "work")
    assert done.exit_code == 2
    assert "Did you mean 'pretrain'?" in done.output


def test_a_mistyped_option_gets_the_nearest():
    done = run("fit", "scans", "--labeled", "3")
    assert done.exit_code == 2
    assert "--labelled" in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("fit",),
        ("fit", "scans", "--labelled", "0"),
        ("fit", "scans", "--fold", "-1"),
        ("fit", "scans", "--device", "tpu"),
        *(
            (verb, "x", "--seed", seed)
            for verb in ("fit", "pretrain", "finetune")
            for seed in ("-1", "1e20", "4294967296")
        ),
        ("demo", "--seed", "-1"),
        ("segment-one", "a.png", "-o", "m.png", "--seed", "-1"),
        ("compare", "scans", "--gpus", "nan"),
        ("compare", "scans", "--gpus", "inf"),
        ("compare", "scans", "--gpus", "-1"),
    ],
)
def test_bad_arguments_are_the_user_s_input(words, called):
    assert exit_code(run(*words)) == 2
    assert called == []


@pytest.mark.parametrize(
    ("typed", "given", "allowed", "corrected"),
    [
        ("export RUN -o OUT --to keras", "--to keras", "torch, onnx, monai", "export RUN -o OUT --to torch"),
        ("export RUN --to=ONX -o OUT", "--to ONX", "torch, onnx, monai", "export RUN --to=onnx -o OUT"),
        ("fit scans --device gpu", "--device gpu", "auto, cpu, cuda", "fit scans --device cpu"),
        ("prepare work --dims 4", "--dims 4", "2, 3", "prepare work --dims 2"),
        ("suggest work -n 0", "-n 0", "a whole number, 1 or more", "suggest work -n 1"),
        ("fit scans --fold one", "--fold one", "a whole number, 0 or more", "fit scans --fold 0"),
        ("compare s --gpus 2000", "--gpus 2000", "a whole number, 0 to 1024", "compare s --gpus 1024"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused_with_the_command_that_is_right(
    monkeypatch, capsys, typed, given, allowed, corrected
):
    monkeypatch.setattr(sys, "argv", ["lemis", *shlex.split(typed)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert said[0] == f"error: {given}"
    assert said[1].startswith(f"  allowed: {allowed}")
    assert said[2] == f"  next:    lemis {corrected}"


def test_every_option_with_a_closed_list_takes_what_its_help_names_and_nothing_else():
    for verb in VERBS:
        taken = derived.read(*where(verb), commands.COMMANDS[verb].python_only)
        flags = derived.flags(taken)
        for word in derived.parameters(taken, flags, {}, [], None):
            if word.name in derived.CHOICES and word.name in flags:
                (info,) = typing.get_args(word.annotation)[1:]
                assert info.metavar == "|".join(map(str, derived.CHOICES[word.name]))
                assert [info.callback(str(one)) for one in derived.CHOICES[word.name]] == [*derived.CHOICES[word.name]]
                with pytest.raises(UsageError, match="allowed: "):
                    info.callback("no such thing")


def test_a_bare_lemis_shows_the_help():
    assert "check" in run().output


def test_version():
    done = run("--version")
    assert done.exit_code == 0
    assert done.output.startswith("lemis 0.")


# --- how it ends


def end(monkeypatch, capsys, verb, behave, *words):
    """Exit code and stderr of ``lemis verb ...`` as a process would end, where the verb does ``behave``."""
    monkeypatch.setattr(commands, "_ask", lambda *given, **words: None)
    module = types.ModuleType(f"lemis.verbs.{module_of(verb)}")
    setattr(module, module_of(verb), behave)
    monkeypatch.setitem(sys.modules, f"lemis.verbs.{module_of(verb)}", module)
    monkeypatch.setattr(sys, "argv", ["lemis", verb, *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0, capsys.readouterr().err


def raising(error):
    def verb(*args, **words):
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--fold 7", allowed="folds are 0 to 4", next="--fold 0"), 2),
        (DataFault("scan_01.nii.gz", allowed="finite voxels", next="repair it"), 3),
        (TrainingStopped("the loss is not finite at step 7"), 1),
    ],
)
def test_our_errors_are_messages_without_a_traceback(monkeypatch, capsys, error, code):
    ended, stderr = end(monkeypatch, capsys, "report", raising(error), "work")
    assert ended == code
    assert stderr == f"error: {error}\n"


def test_anything_else_is_our_fault_and_says_so(monkeypatch, capsys):
    ended, stderr = end(monkeypatch, capsys, "report", raising(ZeroDivisionError("odd")), "work")
    assert ended == 1
    assert "Traceback" in stderr
    assert "ZeroDivisionError: odd" in stderr
    assert "a fault of Lemis, not yours" in stderr


def signalling(number):
    def verb(*args, **words):
        os.kill(os.getpid(), number)
        time.sleep(5)  # where the signal is met

    return verb


@pytest.mark.parametrize("verb", [raising(KeyboardInterrupt()), signalling(signal.SIGINT), signalling(signal.SIGTERM)])
def test_an_interruption_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys, verb):
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    try:
        ended, stderr = end(monkeypatch, capsys, "report", verb, "my work")
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert ended == 130
    assert stderr == (
        "interrupted; what is finished is kept, and the same command goes on\n  next:    lemis report 'my work'\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_training_says_what_is_kept(monkeypatch, capsys):
    stopped = Interrupted("work/runs/pcl: stopped after step 7, with a checkpoint")
    ended, stderr = end(monkeypatch, capsys, "report", raising(stopped), "work")
    assert ended == 130
    assert stderr == f"{stopped}; the same command goes on from there\n  next:    lemis report work\n"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")
def test_a_wish_for_a_checkpoint_means_nothing_outside_training(monkeypatch, capsys):
    verb = lambda *args, **words: os.kill(os.getpid(), signal.SIGUSR1)  # noqa: E731
    assert end(monkeypatch, capsys, "report", verb, "work") == (0, "")


def test_a_disk_that_is_full_is_the_users_and_names_the_file(monkeypatch, capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "work/report/index.html")
    ended, stderr = end(monkeypatch, capsys, "report", raising(error), "work")
    assert ended == 2
    assert stderr.startswith("error: work/report/index.html: no space left on device\n")
    assert stderr.endswith("then lemis report work, which goes on where it was\n")


def test_the_exit_codes_are_in_the_help_and_the_documentation():
    text = Path(__file__).parents[1].joinpath("docs", "getting-started.md").read_text(encoding="utf-8")
    assert " ".join(commands.EXIT_CODES.split()) in " ".join(text.split())
    assert "130 interrupted" in run("--help").output


@pytest.mark.parametrize(("errors", "code"), [(0, 0), (2, 3)])
def test_faults_in_the_data_end_check_with_3(monkeypatch, capsys, errors, code):
    verb = lambda *args, **words: types.SimpleNamespace(errors=errors)  # noqa: E731
    assert end(monkeypatch, capsys, "check", verb, "scans")[0] == code


@pytest.mark.parametrize(("failed", "code"), [((), 0), (("a.png",), 3)])
def test_images_that_failed_end_segment_one_with_3(monkeypatch, capsys, failed, code):
    verb = lambda *args, **words: types.SimpleNamespace(failed=failed)  # noqa: E731
    assert end(monkeypatch, capsys, "segment-one", verb, "--batch", "images", "-o", "out")[0] == code


@pytest.mark.parametrize(("failed", "code"), [((), 0), (("pcl: M = 2, fold 0, seed 0",), 1)])
def test_cells_that_failed_end_compare_with_1(monkeypatch, capsys, failed, code):
    verb = lambda *args, **words: types.SimpleNamespace(folder=Path("comparison"), failed=failed)  # noqa: E731
    assert end(monkeypatch, capsys, "compare", verb, "scans")[0] == code


@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 1)])
def test_doctor_ends_with_1_when_something_must_be_fixed(monkeypatch, capsys, healthy, code):
    verb = lambda *args, **words: types.SimpleNamespace(healthy=healthy)  # noqa: E731
    assert end(monkeypatch, capsys, "doctor", verb)[0] == code


# --- start-up


LIGHT = (
    ["--help"], ["fit", "--help"], ["--version"], ["list"], ["list", "--json"], ["nonsense"], ["compare", "--list"],
)  # fmt: skip


def test_torch_is_not_imported_before_a_verb_needs_it():
    code = (
        "import sys; from lemis import cli\n"
        f"for words in {LIGHT!r}:\n"
        "    sys.argv = ['lemis', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit: pass\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


REFUSED = [
    ("fit", "nowhere"),
    ("fit", ".", "--method", "simclear"),
    ("fit", ".", "--method", "kaf", "--backbone", "unet2d"),
    ("fit", ".", "--backbone", "torch.nn"),
    ("fit", ".", "--auxiliary", "voxel"),
    ("fit", ".", "--preset", "smal"),
    ("fit", ".", "--settings", "none.yaml"),
    ("fit", ".", "--inductive"),
    ("fit", ".", "--fold", "0"),
    ("fit", ".", "--seed", "-1"),
    ("fit", ".", "--device", "tpu"),
    ("fit", ".", "epochs=3"),
    ("fit", ".", "pretrain.epoch=3"),
    ("fit", ".", "pretrain.epochs=true"),
    ("fit", ".", "pretrain.learning_rate=.inf"),
    ("fit", ".", "method.temperature=0"),
    ("fit", ".", "method.spatial.p_mirror=2"),
    ("fit", ".", "backbone.base_width=x"),
    ("fit", ".", "finetune.objective.loss=l2"),
    ("fit", ".", "prepare.spacing_mm=inf"),
    ("fit", ".", "prepare.keypoints.detector=os.system"),
    ("fit", ".", "pretrain.epochs=[1"),
    ("pretrain", "nowhere"),
    ("pretrain", ".", "--method", "os.path"),
    ("pretrain", ".", "--method", "no.such.module"),
    ("pretrain", ".", "pretrain.epochs=3"),
    ("finetune", "nowhere"),
    ("finetune", ".", "--pretrained", "nowhere"),
    ("finetune", ".", "auxiliary.weight=1"),
    ("predict", "nowhere"),
    ("predict", "nowhere", "overlap=2"),
    ("compare", "nowhere"),
    ("compare", ".", "--plan", "defalt"),
    ("compare", ".", "rows=[simclear]"),
    ("compare", ".", "seeds=[-1]"),
    ("compare", ".", "settings.finetune.epochs=0"),
    ("compare", ".", "--jobs", "2", "--on", "ray"),
    ("segment-one", "nowhere.png", "-o", "mask.png"),
    ("segment-one", "nowhere.png", "-o", "mask.png", "--method", "kmean"),
    ("segment-one", "nowhere.png", "-o", "mask.png", "clusters=0"),
    ("segment-one", "nowhere.png", "-o", "mask.png", "--window", "nan:inf"),
    ("segment-one", "nowhere.png", "-o", "mask.png", "--size", "\u00b2"),
    ("segment-one", "-o", "mask.png"),
    ("export", "nowhere", "-o", "out"),
    ("import", "nowhere.pt", "-o", "run", "--backbone", "unet2d"),
    ("import", ".", "-o", "run", "--backbone", "unet2d"),
    ("evaluate", "nowhere"),
    ("report", "nowhere"),
    ("report", "nowhere", "--similarity", "a:b"),
    ("prepare", "nowhere"),
    ("check", "nowhere"),
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_refusal_is_told_before_pytorch_is_imported(words, tmp_path, monkeypatch, capsys):
    """As one process would end; that PyTorch is not there is seen by the one below."""
    monkeypatch.chdir(tmp_path)
    if words[0] in commands.HEAVY:  # the others import no PyTorch
        monkeypatch.setattr(commands, "_function", lambda *where: pytest.fail("the verb was begun"))
    monkeypatch.setattr(sys, "argv", ["lemis", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    told = capsys.readouterr().err
    assert "Traceback" not in told


@pytest.mark.slow  # dozens of commands in a process of their own
def test_no_refusal_imports_pytorch(tmp_path):
    code = (
        "import sys; from lemis import cli\n"
        f"for words in {REFUSED!r}:\n"
        "    sys.argv = ['lemis', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert end.code == 2, (words, end.code)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize(
    "words", [("fit", "scans", "--method"), ("compare", "scans", "-o", "work"), ("pretrain", "work", "--method")]
)
def test_the_first_line_says_what_a_preset_says_nothing_of(words, preset, tmp_path, monkeypatch):
    """A copy of a file of Lemis runs at full size under ``--preset tiny``, which goes by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "idea.py").write_text(Path(plugins.load("methods", "pcl").__file__).read_text())
    (tmp_path / "scans").mkdir()
    monkeypatch.setattr("lemis.asked._prepared", lambda *given, **words: None)
    monkeypatch.setattr(commands, "_function", lambda *where: lambda *given, **words: RESULT)
    own = (
        [f"preset={preset}", "rows=[scratch, my_lab.idea]"]
        if words[0] == "compare"
        else ["my_lab.idea", "--preset", preset]
    )
    done = run(*words, *own)
    assert done.exit_code == 0, done.exception
    said = " ".join(done.stderr.split())
    assert said.count(f"preset {preset} has no section for my_lab.idea: its own defaults are used") == 1


class Libc:
    def __init__(self, answer=1):
        self.answer, self.set = answer, {}

    def mallopt(self, parameter, value):
        self.set[parameter] = value
        return self.answer


@pytest.fixture
def glibc(monkeypatch):
    library = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(cli.platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return library


def test_freed_memory_is_kept(glibc):
    assert cli.keep_freed_memory()
    assert glibc.set == {-3: 2**30, -1: 2**31 - 1}


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_user_s_own_choice_of_malloc_is_left_alone(glibc, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not cli.keep_freed_memory()
    assert glibc.set == {}


def test_other_c_libraries_are_left_alone(glibc, monkeypatch):
    monkeypatch.setattr(cli.platform, "libc_ver", lambda: ("", ""))
    assert not cli.keep_freed_memory()
    assert glibc.set == {}


@pytest.mark.parametrize(("verb", "kept"), [("demo", True), ("list", False)])
def test_only_verbs_that_run_a_network_keep_memory(monkeypatch, capsys, verb, kept):
    asked = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: asked.append(True))
    end(monkeypatch, capsys, verb, lambda **words: RESULT)
    assert bool(asked) is kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_large_freed_block_is_reused_without_new_pages():
    code = (
        "import ctypes, resource\n"
        "from lemis import cli\n"
        "kept = cli.keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "size = 200 << 20\n"
        "def fill():\n"
        "    block = libc.malloc(ctypes.c_size_t(size)); ctypes.memset(block, 1, size); libc.free(block)\n"
        "fill(); before = faults(); fill()\n"
        "print(kept, faults() - before)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, env=environment
    )
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(faults) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_what_the_command_line_gives(verb, monkeypatch):
    monkeypatch.setattr(commands, "_ask", lambda *given, **words: None)
    real = getattr(importlib.import_module(f"lemis.verbs.{module_of(verb)}"), module_of(verb))
    bound = []

    def bind(*args, **words):
        bound.append(inspect.signature(real).bind(*args, **words))
        return RESULT

    monkeypatch.setattr(f"lemis.verbs.{module_of(verb)}.{module_of(verb)}", bind)
    done = run(*example(verb))
    assert done.exit_code == 0, done.exception
    assert len(bound) == 1


# --- what the command line reads of the verbs


def test_every_argument_and_option_says_what_it_is():
    for verb, command in typer.main.get_command(commands.app).commands.items():
        for one in command.params:
            assert getattr(one, "help", None), f"{one.name} of {verb}"
            assert "``" not in one.help, f"{one.name} of {verb}"


def test_a_verb_is_read_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text(
        'from torch import nothing\n\n\ndef go(\n    work: Path,\n    *,\n    name: str | None = None,\n'
        '    steps: int = 3,\n    trust: Trust = NO_TRUST,\n    prefix: str = "",\n) -> Path:\n'
        '    """Said to who calls it.\n\n    Not without ``name``.\n\n    Args:\n        work: A\n            folder.\n'
        "        name: Of it; by default the `usual`. With ``steps``.\n        steps: So many; by default few.\n"
        '        trust: As it says.\n\n    Returns:\n        name: Of nothing.\n    """\n    return syntax error\n',
        encoding="utf-8",
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    verb = derived.read("made_up", "go", ("prefix",))
    flags = derived.flags(verb)
    work, name, steps, trust = derived.parameters(verb, flags, {}, [], None)
    assert derived.as_typed(verb.description, flags) == "Not without `--name`."
    assert (work.default, name.default, steps.default, trust.default) == (inspect.Parameter.empty, None, 3, False)
    kinds = [typing.get_args(one.annotation) for one in (work, name, steps, trust)]
    assert [kind for kind, _ in kinds] == [Path, str | None, int, bool]
    assert [info.help for _, info in kinds] == ["A folder.", "Of it. With `--steps`.", "So many; by default few.",
                                                "As it says."]  # fmt: skip
    assert [info.show_default for _, info in kinds] == [False, "the usual", True, True]
