"""``lemis check-method``: a good module passes, and each kind of broken one is told in words."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from lemis import plugins
from lemis.errors import UsageError
from lemis.promises import auxiliaries, backbones, methods, single
from lemis.promises.material import Material
from lemis.promises.trying import attempt
from lemis.verbs.check_method import check_method

METHOD = '''
"""Brightness: how bright is a view? An idea of our own, 2026. https://example.org"""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, Sampling
from lemis.sampling import spatial, views
from lemis.parts import heads

DIMS = (2,)
TRAINS = ("encoder",)
NOT_CHECKED = {"uninformed": "a mean has no value that means so"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    batch_size: int = 16  # slices
    size_px: int = 352  # side of a view
    weight: float = 1.0  # of the loss


@final
class Views:
    def __init__(self, settings):
        self.settings = settings

    def __call__(self, batch: Batch, rng: Draw):
        return {"one": views.random_view(spatial.CROP_ONLY, batch, self.settings.size_px, rng)}


@final
class Method(contracts.Method):
    def __init__(self, backbone, settings):
        super().__init__()
        self.settings = settings
        self.sampling = Sampling(kind="slices", batch_size=settings.batch_size)
        self.trains = TRAINS
        self.views = Views(settings)
        self.backbone = backbone
        self.guess = heads.PooledMLP(backbone.channels[-1], 1)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        view = self.views(batch, rng)["one"].image
        said = self.guess(self.backbone.encode(view)[-1]).float()[:, 0]
        return Outcome({"brightness": self.settings.weight * F.mse_loss(said, view.mean(dim=(1, 2, 3)))})
'''.lstrip()
RETURN = '        return Outcome({"brightness": self.settings.weight * F.mse_loss(said, view.mean(dim=(1, 2, 3)))})\n'


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes a module of the user's and gives its dotted name."""
    made = []

    def write(text):
        name = f"lab_{os.getpid()}_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "idea.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return f"{name}.idea"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in made]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material(tmp_path_factory.mktemp("material") / "prepared")


def changed(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.slow
def test_a_good_method_passes_and_its_name_is_all_that_is_typed(tmp_path):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "idea.py").write_text(METHOD)
    done = subprocess.run(
        [sys.executable, "-m", "lemis", "check-method", "my_lab.idea"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_lab.idea: a pre-training method" in done.stdout
    assert "passed  two processes equal one (2D)" in done.stdout
    assert "passed  it trains a network and hands its weights on (unet2d, 2D)" in done.stdout
    assert "next: lemis fit scans/ -o work/ --method my_lab.idea" in done.stdout
    assert "FAILED" not in done.stdout
    assert "note" not in done.stdout.replace("0 notes", "")
    assert done.stderr == ""


FILES = {
    "no Settings": ("class Settings:", "class Options:", "without Settings"),
    "a setting without a default": ("batch_size: int = 16", "batch_size: int", "no default: batch_size"),
    "settings that change": ("(frozen=True, kw_only=True)", "(kw_only=True)", "Settings can be changed"),
    "no networks": ("DIMS = (2,)\n", "", "no DIMS"),
    "networks of one dimension": ("DIMS = (2,)\n", "DIMS = (1,)\n", "DIMS = (1,)"),
    "no parts": ("TRAINS = (", "PARTS = (", "no TRAINS"),
    "a comma is missing": ('("encoder",)', '("encoder")', "TRAINS is no tuple"),
    "no contract": ("class Method(contracts.Method)", "class Method(torch.nn.Module)", "does not inherit"),
    "no forward": ("def forward(", "def step(", "no forward"),
    "others are asked for": ("backbone, settings):\n        super", "net, how):\n        super", "takes (net, how)"),
}


@pytest.mark.parametrize(("old", "new", "found"), FILES.values(), ids=FILES)
def test_a_file_without_what_is_needed_is_told_and_nothing_more_is_tried(lab, capsys, old, new, found):
    checked = check_method(lab(changed(METHOD, old, new)))
    assert any(found in one.found for one in checked.failed), checked.failed
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert found in printed
    assert "asked: " in printed
    assert "not tried before these are mended" in printed
    assert "next: " not in printed


STEPS = {
    "it fails": (RETURN, "        return Outcome({'a': said @ said[None]})\n", "shape", "idea.py, line "),
    "no outcome": (RETURN, "        return said.mean()\n", "the outcome", "forward gives a Tensor"),
    "a loss of the batch": ("F.mse_loss(said, ", "torch.sub(said, ", "the outcome", "has the shape (8,)"),
    "no gradient": ("F.mse_loss(said,", "F.mse_loss(said.detach(),", "the outcome", "has no gradient"),
    "not finite": ("self.settings.weight *", "float('nan') *", "it trains", "brightness nan"),
    "other random numbers": ("said = ", "view = view + torch.rand_like(view)\n        said = ", "it trains", "twice"),
    "views of other numbers": (
        'return {"one": ', 'batch = batch._replace(image=batch.image * torch.rand(()))\n        return {"one": ',
        "views are", "draw from rng",
    ),
    "a part that is not trained": (
        '("encoder",)', '("encoder", "decoder 1")', "a gradient", "not reached by a gradient everywhere: decoder 1",
    ),
    "a part that is": ("encode(view)[-1])", "encode(view)[-1] + 0 * self.backbone.decode(self.backbone.encode(view), 1)"
                       ".mean())", "a gradient", "not in TRAINS: decoder 1"),
    "a layer that is not used": (
        "self.guess =", "self.idle = heads.PooledMLP(3, 1)\n        self.guess =",
        "a gradient", "no gradient reaches idle",
    ),
    "the first row is special": (
        "weight *", "weight * (1 + said[0].detach().abs()) *", "the order", "in another order",
    ),
    "state outside of buffers": (
        RETURN,
        "        self.calls = getattr(self, 'calls', 0) + 1\n" + RETURN.replace("weight *", "weight / self.calls *"),
        "what it learned", "after loading",
    ),
    "half precision": (
        ".float()[:, 0]\n" + RETURN, "[:, 0]\n        return Outcome({'size': self.settings.weight * said.mean()})\n",
        "it works in mixed", "not float32",
    ),
    "a setting that does nothing": ("self.settings.weight *", "1.0 *", "every setting", "changes nothing: weight"),
    "words about no setting": ('{"uninformed"', '{"momentum": "", "uninformed"', "every setting", "momentum"),
    "a wrong uninformed value": (
        "dim=(1, 2, 3)))})", "dim=(1, 2, 3)))}, {}, {'brightness': 3.0})", "a network that", "and said not to be",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "promise", "found"), STEPS.values(), ids=STEPS)
@pytest.mark.slow
def test_a_method_that_breaks_a_promise_is_told(lab, material, old, new, promise, found):
    name = lab(changed(METHOD, old, new))
    module = plugins.load("methods", name)
    subject = methods.Subject(name, 2, material, excused=module.NOT_CHECKED)
    tried = [attempt(each, subject) for each in (*methods.STEP, methods.every_setting_has_an_effect)]
    broken = [one for one in tried if one.state == "broken"]
    assert any(found in one.found and (promise == "shape" or one.promise.startswith(promise)) for one in broken), broken
    assert all(one.asked for one in broken)


@pytest.mark.slow
def test_the_method_of_these_tests_keeps_what_they_break(lab, material):
    name = lab(METHOD)
    subject = methods.Subject(name, 2, material, excused=plugins.load("methods", name).NOT_CHECKED)
    tried = [attempt(each, subject) for each in (*methods.STEP, methods.every_setting_has_an_effect)]
    assert [one.state for one in tried] == ["kept"] * len(tried), tried


def of_ours(folder, name, lab):
    """A file of Lemis under a name of the user's."""
    return lab((plugins._ROOT / folder / f"{name}.py").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "name"), [("backbones", "unet2d"), ("auxiliary", "voxel_siamese"), ("semi", "bcp"), ("single", "kmeans")]
)
def test_every_kind_is_known_by_what_it_defines(lab, capsys, folder, name):
    text = of_ours(folder, name, lab)
    module = importlib.import_module(text)
    if name == "kmeans":
        module.CHECKED_WITH = {"max_iterations": {"max_iterations": 2}, "starts": {"starts": 1, "clusters": 12}}
    checked = check_method(text, json=True)
    assert checked.kinds == (folder,)
    assert not checked.failed, checked.failed
    assert len(checked.tried) > 8
    assert json.loads(capsys.readouterr().out)["kinds"] == [folder]


def test_a_network_that_breaks_promises_is_told(lab, tmp_path):
    text = """
from lemis.backbones import unet2d
DIMS = (2,)
Settings = unet2d.Settings
class Backbone(unet2d.Backbone):
    def forward(self, x):
        return self.encode(x)[0]
"""
    subject = backbones.Subject(lab(text), 2, tmp_path)
    tried = {one.promise: one for one in (attempt(each, subject) for each in backbones.STEP)}
    assert "has the shape" in tried["logits have the inputs size"].found
    assert "no gradient" in tried["every parameter learns"].found
    assert tried["part of covers every key"].state == "kept"


def test_a_loss_that_breaks_promises_is_told(lab):
    text = '''
"""A loss that looks at everything."""
from dataclasses import dataclass
from lemis import contracts
from lemis.contracts import Outcome
DIMS = (2,)
@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 1.0
class Auxiliary(contracts.Auxiliary):
    def __init__(self, backbone, settings, *, num_classes):
        super().__init__()
        self.backbone, self.weight = backbone, settings.weight
    def forward(self, maps, label, logits, rng):
        return Outcome({"size": self.weight * maps[-1].square().mean()})
'''
    subject = auxiliaries.Subject(lab(text), 2)
    tried = {one.promise: one for one in (attempt(each, subject) for each in auxiliaries.STEP)}
    assert "weights of the network" in tried["the network is no part of it"].found
    assert "size 0." in tried["nothing to compare is zero with a gradient"].found
    assert tried["more layers than maps are refused"].state == "noted"


def test_a_method_for_one_image_that_breaks_promises_is_told(lab):
    text = '''
"""Labels by luck."""
from dataclasses import dataclass
import torch
from lemis.contracts import Segmented
@dataclass(frozen=True, kw_only=True)
class Settings:
    clusters: int = 5
def segment(images, settings, seeds):
    n, _, rows, columns = images.shape
    return Segmented(torch.randint(0, settings.clusters, (n, rows, columns)), (1,) * n, (0,) * n)
'''
    subject = single.Subject(lab(text))
    tried = {one.promise: one for one in (attempt(each, subject) for each in single.STEP)}
    assert "other labels" in tried["the same seeds give the same labels whatever else is drawn"].found
    assert "alone" in tried["an image has the labels that it has alone"].found
    assert tried["a seed is any integer"].state == "kept"


LOSS = '''
"""Borders count twice: the loss of pixels where the label changes. An idea of our own, 2026, https://example.org"""
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from lemis import contracts, processes
from lemis.contracts import Outcome

DIMS = (2,)

@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 1.0  # of the loss

@final
class Auxiliary(contracts.Auxiliary):
    def __init__(self, backbone, settings, *, num_classes):
        super().__init__()
        self.weight = settings.weight

    def forward(self, maps, label, logits, rng):
        y = label[:, None].float()
        border = (F.max_pool2d(y, 3, 1, 1) != -F.max_pool2d(-y, 3, 1, 1))[:, 0]
        each = F.cross_entropy(logits.float(), label, reduction="none")
        added, count = processes.total(torch.stack([(each * border).sum(), border.sum().to(each.dtype)]))
        return Outcome({"border": self.weight * added / count.detach().clamp(min=1)})
'''.lstrip()


def test_what_compares_two_runs_waits_until_the_same_seed_gives_the_same(lab):
    name = lab(changed(LOSS, "each = F", "each = torch.rand(()) * F"))
    checked = check_method(name)
    assert [one.promise for one in checked.failed] == ["the same numbers give the same loss (2D)"]
    waiting = [
        one.promise for one in checked.tried if one.found.startswith("not tried before this is kept: the same numbers")
    ]
    assert waiting == [
        "the order of the batch does not matter (2D)",
        "every setting has an effect (2D)",
        "two processes train as one (2D)",
    ]


def of_loss(name):
    subject = auxiliaries.Subject(name, 2)
    tried = [attempt(each, subject) for each in (*auxiliaries.STEP, auxiliaries.every_setting_has_an_effect)]
    return {one.promise: one for one in tried}


def test_a_loss_without_weights_that_draws_nothing_is_noted_and_not_refused(lab):
    tried = of_loss(lab(LOSS))
    assert [one for one in tried.values() if one.state == "broken"] == []
    assert tried["losses and gradients are finite"].state == "kept"
    drawn = tried["the same numbers give the same loss"]
    assert (drawn.state, drawn.found) == ("noted", "draws nothing at random: the next step has the same losses")


LUCK = {
    "of PyTorch, with a seed of its own": (
        "each = F", "luck = torch.rand(3, generator=torch.Generator().manual_seed(0)).sum()\n        each = luck * F",
        "drawn (rand)",
    ),
    "of NumPy, with a seed of its own": (
        "each = F", "luck = numpy.random.default_rng(0).random()\n        each = luck * F",
        "drawn (default_rng, random)",
    ),
    "of the rng, without effect": ("each = F", "luck = rng.uniform(3)\n        each = F", "drawn (rand)"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "found"), LUCK.values(), ids=LUCK)
def test_a_loss_whose_random_numbers_are_the_same_at_every_step_is_told(lab, old, new, found):
    tried = of_loss(lab(changed(LOSS, old, new).replace("import torch\n", "import numpy\nimport torch\n", 1)))
    broken = tried["the same numbers give the same loss"]
    assert broken.state == "broken"
    assert broken.found.startswith("the next step has the same losses, and random numbers are drawn")
    assert found in broken.found


@pytest.mark.slow
def test_a_loss_with_weights_still_needs_a_gradient_to_them(lab):
    line = "self.weight = settings.weight"
    idle = f"{line}\n        self.idle = torch.nn.Linear(2, 2)"
    for never_asked in ("", ".requires_grad_(False)"):
        name = lab(changed(LOSS, line, idle + never_asked))
        broken = of_loss(name)["losses and gradients are finite"]
        assert broken.state == "broken"
        assert "no gradient reaches" in broken.found
    by_zero = changed(LOSS, line, idle).replace("each = F", "each = 0 * self.idle.weight.sum() + F")
    by_zero = by_zero.replace("Linear(2, 2)", "Linear(2, 2, bias=False)")
    broken = of_loss(lab(by_zero))["losses and gradients are finite"]
    assert (broken.state, broken.found) == ("broken", "no gradient reaches the weights of the loss")


THRESHOLD = '''
"""A threshold: lighter than the mean, or not. As old as images, 1979, https://example.org"""
from dataclasses import dataclass
import numpy as np
import torch
from lemis.contracts import Segmented
@dataclass(frozen=True, kw_only=True)
class Settings:
    offset: float = 0.0  # above the mean
def segment(images, settings, seeds):
    n = len(images)
    grey = images.mean(1)
    labels = (grey > grey.mean((1, 2), keepdim=True) + settings.offset).long()
    return Segmented(labels, (1,) * n, (0,) * n)
'''.lstrip()


def test_a_threshold_draws_nothing_and_one_that_ignores_its_seeds_is_told(lab):
    def of(text):
        subject = single.Subject(lab(text))
        tried = [attempt(each, subject) for each in (*single.STEP, single.every_setting_has_an_effect)]
        return {one.promise: one for one in tried}

    tried = of(THRESHOLD)
    noted = tried.pop("another seed is another start")
    assert (noted.state, noted.found) == ("noted", "draws nothing at random: the same labels for other seeds")
    assert {one.state for one in tried.values()} == {"kept"}, tried

    luck = {
        "torch.rand(1, generator=torch.Generator().manual_seed(7), dtype=images.dtype)": "(rand)",
        "np.random.default_rng(7).random()": "(default_rng, random)",
    }
    for drawn, found in luck.items():
        broken = of(changed(THRESHOLD, "n = len(images)", f"n, luck = len(images), {drawn}"))
        told = broken["another seed is another start"]
        assert told.state == "broken"
        assert told.found == f"the same labels for other seeds, and random numbers are drawn {found}"


def test_views_that_draw_nothing_are_noted(lab, material):
    old = "views.random_view(spatial.CROP_ONLY, batch, self.settings.size_px, rng)"
    new = "warping.quarter_turns(whole(batch), 1)"
    text = changed(METHOD, old, new).replace("import spatial, views", "import spatial, views, warping")
    text = text.replace("class Views:", "class Views:  # of whole slices")
    text += """

def whole(batch):
    rows, shape = len(batch.image), tuple(batch.image.shape[2:])
    geometry = contracts.Geometry(torch.eye(2, 3).expand(rows, 2, 3), shape)
    return contracts.View(batch.image, geometry)
"""
    subject = methods.Subject(lab(text), 2, material)
    tried = attempt(methods.views_are_views_and_the_same_numbers_give_the_same_ones, subject)
    assert (tried.state, tried.found) == ("noted", "draws nothing at random: the next step has the same views")


def test_names_that_are_no_module_outside_the_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "nothing.py").write_text("from lemis.contracts import Backbone, Method\n")
    with pytest.raises(UsageError, match="defines none of Method, Backbone, Auxiliary, Semi, segment"):
        check_method("labels.nothing")
    with pytest.raises(UsageError, match="is no module") as error:
        check_method("labels/nothing.py")
    assert error.value.next == "lemis check-method labels.nothing"
    for name in ("sal", "lemis.methods.sal"):
        with pytest.raises(UsageError, match="is a file of Lemis") as error:
            check_method(name)
        assert error.value.next.endswith("pytest tests/contracts -k sal")
    with pytest.raises(UsageError, match="is no module"):
        check_method("labels.nowhere")
    (tmp_path / "labels_alone.py").write_text("class Method: ...\n")
    for name in ("labels_alone", "labels_alone.py"):
        with pytest.raises(UsageError, match="lies in no package") as error:
            check_method(name)
        assert error.value.next.endswith("lemis check-method my_lab.labels_alone")
    (tmp_path / "labels" / "broken.py").write_text("class Method:\n    def (:\n")
    with pytest.raises(UsageError, match=r"cannot be imported: .*broken.py, line 2"):
        check_method("labels.broken")


@pytest.mark.slow
def test_a_method_for_volumes_alone(lab, material):
    text = (plugins._ROOT / "methods" / "rotation.py").read_text().replace("DIMS = (2, 3)", "DIMS = (3,)")
    subject = methods.Subject(lab(text), 3, material)
    tried = [attempt(each, subject) for each in (*methods.STEP, methods.every_setting_has_an_effect)]
    assert [one.state for one in tried] == ["kept"] * len(tried), tried
