"""All settings of a run, resolved once: defaults < preset < YAML file < ``key=value``.

A preset (and a settings file) names a ``method``, a ``backbone``, an ``auxiliary`` loss and a ``semi``, the way to use
unlabelled scans in fine-tuning, and has the sections ``prepare``, ``backbones.<name>``, ``pretrain``,
``methods.<name>``, ``schedules.<name>`` (what differs from ``pretrain`` for one method), ``finetune``,
``tunings.<name>`` (what differs from ``finetune`` for one network), ``predict``, ``auxiliaries.<name>`` and
``semis.<name>``; and ``volumes``, where networks of three dimensions differ, with all of these again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from lemis import plugins
from lemis.errors import UsageError, shown
from lemis.preparation import keypoints as detection
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import load_preset, merge, of_dims, parse_overrides, plain, read_yaml, resolve
from lemis.training import beside, pool, predicting
from lemis.training.beside import Beside
from lemis.training.pairing import SCRATCH, backbone_after, default_backbone, refuse_pair, refuse_rest_from_scratch
from lemis.training.sections import FOLDERS, NAMES, below, refuse_section, refuse_unknown
from lemis.work_files.run import PretrainedModel

if TYPE_CHECKING:
    from lemis.training import schedule, supervised

Loader = Callable[[str, str], Any]  # folder, name: ``plugins.load``, or ``plugins.outlined`` before PyTorch is imported


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for of a training; None where nothing was."""

    method: str | None = None  # file name in ``methods/``, a dotted name, or ``scratch``
    backbone: str | None = None  # file name in ``backbones/``, or a dotted name
    auxiliary: str | None = None  # file name in ``auxiliary/``, or a dotted name
    semi: str | None = None  # file name in ``semi/``, or a dotted name
    second: str | None = None  # how a second network is pre-trained: file name in ``methods/``, or a dotted name
    preset: str | None = None
    settings_file: Path | None = None
    overrides: Sequence[str] | Mapping[str, Any] = ()
    prefix: str = ""  # what was typed before the keys of the schedule

    @classmethod
    def among(cls, words: Mapping[str, Any]) -> Self:
        """From all that a verb was given."""
        return cls(**{one.name: words[one.name] for one in fields(cls) if one.name in words})

    def tree(self) -> dict[str, Any]:
        """Preset and settings file as one tree."""
        return base(self.preset, self.settings_file)

    @property
    def backbones(self) -> tuple[Any, ...]:
        """Named by the command or its preset, so that their modules may be imported."""
        return self.backbone, self.tree().get("backbone")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A method on a backbone under a schedule."""

    method: str
    method_module: ModuleType
    method_settings: Any
    backbone: str
    backbone_settings: Any
    dims: int  # of the network, which its settings may decide
    schedule: schedule.Settings

    def stored(self) -> dict[str, Any]:
        """As plain YAML types."""
        return {
            "method": {"name": self.method, **plain(self.method_settings)},
            "backbone": {"name": self.backbone, **plain(self.backbone_settings)},
            **plain(self.schedule),
        }


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A labelled objective on a backbone under a schedule."""

    objective: supervised.Settings
    backbone: str
    backbone_settings: Any
    dims: int  # of the network, which its settings may decide
    schedule: schedule.Tuning
    auxiliary: str | None  # an extra loss
    auxiliary_settings: Any
    semi: str | None  # a way to use unlabelled scans
    semi_settings: Any
    pool: pool.Settings  # which scans those are
    semi_is_preset: bool = False  # nobody asked for it: it gives way where there is no unlabelled scan
    left_out: str | None = field(default=None, compare=False)  # that it did, in words

    def stored(self) -> dict[str, Any]:
        """As plain YAML types."""
        extra = {"auxiliary": {"name": self.auxiliary, **plain(self.auxiliary_settings)}} if self.auxiliary else {}
        more = {"semi": {"name": self.semi, **plain(self.pool), **plain(self.semi_settings)}} if self.semi else {}
        return {
            "objective": plain(self.objective),
            "backbone": {"name": self.backbone, **plain(self.backbone_settings)},
            **extra,
            **more,
            **plain(self.schedule),
        }

    def labels_alone(self) -> Finetuning:
        """The same without unlabelled scans: how the teacher of a way that wants one is trained."""
        return replace(self, semi=None, semi_settings=None, pool=pool.Settings(), semi_is_preset=False)

    def with_pool(self, unlabelled: Sequence[object]) -> Finetuning:
        """The same where there are unlabelled scans; without any, on labels alone if nobody typed the way.

        Args:
            unlabelled: Of the pool.

        Raises:
            UsageError: There is none, and the way was asked for.
        """
        if self.semi is None or unlabelled:
            return self
        if not self.semi_is_preset:
            pool.refuse_empty(unlabelled, self.semi)
        said = f"{self.semi}, which the preset names, is left out, as no scan of training is without a label"
        return replace(self.labels_alone(), left_out=said)


@dataclass(frozen=True, kw_only=True)
class WholeWay:
    """All that ``fit`` does with scans."""

    pretraining: Pretraining | None  # None from scratch
    second: Pretraining | None  # of a second network, where that has one of its own
    finetuning: Finetuning
    images: Preparation
    keypoints: detection.Settings | None  # that were asked for; the network may look at some unasked
    predict: Mapping[str, Any]  # settings of prediction that are not at their defaults
    given: Mapping[str, Mapping[str, Any]]  # of what was typed, by verb

    @property
    def method(self) -> str:
        """Of the pre-training, or ``scratch``."""
        return SCRATCH if self.pretraining is None else self.pretraining.method


def as_overrides(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from ``stored`` as overrides that resolve to the same, without any preset."""
    return {
        key: {name: value for name, value in section.items() if name != "name"} if key in NAMES else section
        for key, section in stored.items()
    }


def base(preset: str | None, settings_file: Path | None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Preset, settings file and ``more`` sections as one tree.

    Raises:
        UsageError: A section, or a method or network in one, that does not exist.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = merge(tree, load_preset(preset))
    if settings_file is not None:
        tree = merge(tree, read_yaml(settings_file))
    refuse_unknown(tree, str(settings_file or preset))
    if more:
        refuse_unknown(more, "settings")
        tree = merge(tree, more)
    return tree


def by_section(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of a whole way, by verb: of ``prepare``, ``pretrain``, ``finetune`` and ``predict``.

    ``method.*`` and ``backbone.*`` go to pre-training; ``backbone.*``, ``auxiliary.*`` and ``semi.*`` to fine-tuning.

    Raises:
        UsageError: A setting in no section.
    """
    tree = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    sections = ("prepare", "pretrain", "method", "backbone", "finetune", "auxiliary", "semi", "predict")
    for key, value in tree.items():
        if key not in sections or not isinstance(value, dict):
            somewhere = f"{key}.SETTING=..." if key in sections else f"pretrain.{key}=... or finetune.{key}=..."
            raise UsageError(
                f"setting {shown(key, quoted=False)}",
                allowed="settings that begin with " + ", ".join(f"{section}." for section in sections),
                next=f"--{key} {shown(value, quoted=False)}" if key in NAMES else somewhere,
            )
    method, backbone, auxiliary, semi = ({key: tree[key]} if key in tree else {} for key in NAMES)
    return {
        "prepare": tree.get("prepare", {}),
        "pretrain": {**tree.get("pretrain", {}), **method, **backbone},
        "finetune": {**tree.get("finetune", {}), **backbone, **auxiliary, **semi},
        "predict": tree.get("predict", {}),
    }


def for_network(
    tree: Mapping[str, Any], backbone: str, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> dict[str, Any]:
    """The sections for a network: those for its number of dimensions."""
    return of_dims(tree, dims_of(backbone, tree, overrides))


def dims_of(backbone: str, tree: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> int:
    """2 or 3: of the slices or volumes that a network with these settings reads."""
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    settings = _backbone_settings(backbone, tree, below(given, "backbone"), plugins.outlined)
    return int(getattr(settings, "dims", getattr(plugins.outlined("backbones", backbone), "DIMS", (2,))[0]))


def semi_of(
    tree: Mapping[str, Any], backbone: str, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> str | None:  # fmt: skip
    """The way to use unlabelled scans that a preset names for a network, if it names one."""
    return beside.way(None, for_network(tree, backbone, overrides).get("semi")).name


def choose(
    method: str | None,
    backbone: str | None,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> tuple[str, str]:
    """The method and the network that were asked for; where not, the preset's, else ``sal`` and the method's own.

    A preset may name another method for volumes than for slices.
    """
    backbone = backbone or tree.get("backbone")
    if method is None:
        suited = tree if backbone is None else for_network(tree, backbone, overrides)
        method = str(suited.get("method", "sal"))
    return method, backbone or default_backbone(method)


def whole_way(asked: Asked, *, load: Loader = plugins.load) -> WholeWay:
    """What ``fit`` will do: every setting of every step, so that a mistyped one is refused before any work.

    Raises:
        UsageError: A setting that does not exist, or a network that the method does not work on.
    """
    given, tree = by_section(asked.overrides), asked.tree()
    method, backbone = choose(asked.method, asked.backbone, tree, given["finetune"])
    before, after = both(method, backbone, asked, tree, given, load)
    second = of_second(asked.second, backbone, after, tree, given, load)
    images, keypoints = detection.preparation(
        of_dims(tree, after.dims).get("prepare", {}), given["prepare"], prefix="prepare."
    )
    return WholeWay(
        pretraining=before, second=second, finetuning=after, images=images, keypoints=keypoints, given=given,
        predict=predicting.settings(after.dims, tree, given["predict"], prefix="predict.", load=load),
    )  # fmt: skip


def both(
    method: str, backbone: str, chosen: Beside, tree: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]],
    load: Loader = plugins.load,
) -> tuple[Pretraining | None, Finetuning]:  # fmt: skip
    """Settings of a pre-training, none from scratch, and of the fine-tuning after it.

    Args:
        method: From ``choose``, as ``backbone`` is.
        backbone: Of both.
        chosen: Of fine-tuning; by default what ``tree`` names, if it names one.
        tree: Sections of the preset and the settings file.
        given: From ``by_section``.
        load: ``plugins.outlined`` where the settings are only to be refused, not used.
    """
    before = None
    if method != SCRATCH:
        before = pretraining(method, backbone, tree, given["pretrain"], prefix="pretrain.", load=load)
    after = finetuning(
        backbone, tree, given["finetune"], auxiliary=chosen.auxiliary, semi=chosen.semi, prefix="finetune.", load=load
    )
    if before is None:
        refuse_rest_from_scratch(after.schedule.loaded_rate, "finetune.")
    return before, after


def of_second(
    method: str | None, backbone: str, tuning: Finetuning, tree: Mapping[str, Any],
    given: Mapping[str, Mapping[str, Any]], load: Loader = plugins.load,
) -> Pretraining | None:  # fmt: skip
    """Settings of the pre-training that a second network begins with: the preset's, and the schedule's that was typed.

    Args:
        method: Of it; None where there is none.
        backbone: Of both networks.
        tuning: Fine-tuning, which trains both.
        tree: Sections of the preset and the settings file.
        given: From ``by_section``.
        load: As elsewhere.

    Raises:
        UsageError: Fine-tuning trains one network, or the method does not work on this one.
    """
    if method is None:
        return None
    beside.refuse_second(method, tuning.semi, load)
    return pretraining(method, backbone, tree, typed_of_second(given), prefix="pretrain.", load=load)


def typed_of_second(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of what was typed for pre-training that which holds for any method."""
    return {key: value for key, value in given["pretrain"].items() if key != "method"}


def of_pretraining(asked: Asked, *, load: Loader = plugins.load) -> Pretraining:
    """Settings of one pre-training run, as ``pretraining`` resolves them."""
    tree = asked.tree()
    method, backbone = choose(asked.method, asked.backbone, tree, asked.overrides)
    return pretraining(method, backbone, tree, asked.overrides, prefix=asked.prefix, load=load)


def of_finetuning(
    asked: Asked, pretrained: Path | None, before: PretrainedModel | None, *, load: Loader = plugins.load
) -> Finetuning:
    """Settings of one fine-tuning run, as ``finetuning`` resolves them, on the network that was pre-trained.

    An imported network has the settings of its import, whatever a preset says of networks of its name; what was typed
    goes before both.

    Args:
        asked: For.
        pretrained: The pre-training run; None from scratch.
        before: What that made.
        load: As elsewhere.
    """
    tree = asked.tree()
    backbone = backbone_after(before, pretrained, asked.backbone, tree)
    if before is not None and before.imported is not None:
        own = {"backbones": {backbone: before.backbone_settings}}
        tree = merge(tree, {**own, "volumes": own})
    after = finetuning(
        backbone, tree, asked.overrides, auxiliary=asked.auxiliary, semi=asked.semi, prefix=asked.prefix, load=load
    )
    if pretrained is None:
        refuse_rest_from_scratch(after.schedule.loaded_rate, asked.prefix)
    return after


def without_a_section(preset: str | None, tree: Mapping[str, Any], *names: str | None) -> list[str]:
    """Modules of the user's that a preset says nothing of, as its values go by name: they have their own defaults.

    Args:
        preset: Its name.
        tree: Its sections, and those of the settings file, which may speak of them.
        names: Of methods, networks, extra losses and ways to use unlabelled scans.

    Returns:
        A sentence for each.
    """
    known = {name for section in FOLDERS for part in (tree, tree.get("volumes", {})) for name in part.get(section, {})}
    own = [name for name in dict.fromkeys(names) if name is not None and plugins.is_own(name) and name not in known]
    return [f"preset {preset} has no section for {name}: its own defaults are used" for name in own if preset]


def pretraining(
    method: str,
    backbone: str | None,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    prefix: str = "",
    load: Loader = plugins.load,
) -> Pretraining:
    """Settings of one pre-training run.

    Args:
        method: File name in ``methods/``, or a dotted name.
        backbone: File name in ``backbones/``, or a dotted name; None is the method's own.
        tree: Sections of the preset and the settings file.
        overrides: ``epochs=...``, ``method.<key>=...``, ``backbone.<key>=...``.
        prefix: What the user typed before the schedule's keys, for messages.
        load: ``plugins.outlined`` where the settings are only to be refused, not used.

    Raises:
        UsageError: A setting that does not exist, or a network that the method does not work on.
    """
    backbone = backbone or default_backbone(method)
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    dims = dims_of(backbone, tree, given)
    refuse_pair(method, backbone, dims)
    tree = of_dims(tree, dims)
    own, backbone_given = below(given, "method"), below(given, "backbone")
    timing = {key: value for key, value in given.items() if key not in ("method", "backbone")}
    refuse_section(timing, "pretrain")
    methods = load("methods", method)
    preset, special = (below(below(tree, name), method) for name in ("methods", "schedules"))
    return Pretraining(
        method=method,
        method_module=methods,
        method_settings=resolve(methods.Settings, preset, own, prefix="method."),
        backbone=backbone,
        backbone_settings=_backbone_settings(backbone, tree, backbone_given, load),
        dims=dims,
        schedule=resolve(
            load("training", "schedule").Settings, below(tree, "pretrain"), special, timing, prefix=prefix
        ),
    )


# The PCL protocol's fine-tuning on ACDC: Adam 5e-4 with a floor of 5e-5, 200 epochs.
PROTOCOL = {"optimiser": "adam", "learning_rate": 5e-4, "floor": 5e-5, "epochs": 200}


def finetuning(
    backbone: str,
    tree: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    auxiliary: str | None = None,
    semi: str | None = None,
    prefix: str = "",
    load: Loader = plugins.load,
) -> Finetuning:
    """Settings of one fine-tuning run.

    Args:
        backbone: File name in ``backbones/``, or a dotted name.
        tree: Sections of the preset and the settings file.
        overrides: ``epochs=...``, ``objective.<key>=...``, ``backbone.<key>=...``, ``auxiliary.<key>=...``,
            ``semi.<key>=...``.
        auxiliary: File name in ``auxiliary/``, or a dotted name; by default what ``tree`` names, if it names one.
        semi: File name in ``semi/``, or a dotted name; ``none`` for none; by default what ``tree`` names, if it names
            one, unless there is an extra loss, or losses on inner maps, which do not go with it.
        prefix: What the user typed before the keys of schedule and objective, for messages.
        load: ``plugins.outlined`` where the settings are only to be refused, not used.

    Raises:
        UsageError: A setting that does not exist, one of an auxiliary loss where there is none, or both an auxiliary
            loss and unlabelled scans.
    """
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    dims = dims_of(backbone, tree, given)
    tree = of_dims(tree, dims)
    backbone_given, auxiliary_given, semi_given = (below(given, key) for key in ("backbone", "auxiliary", "semi"))
    auxiliary = auxiliary or tree.get("auxiliary")
    own = {key: value for key, value in given.items() if key not in ("backbone", "auxiliary", "semi")}
    refuse_section(own, "finetune")
    layers = [below(tree, "finetune"), below(below(tree, "tunings"), backbone), own]
    objectives = [below(layer, "objective") for layer in layers]
    schedules = [{key: value for key, value in layer.items() if key != "objective"} for layer in layers]
    auxiliary_layers = [below(below(tree, "auxiliaries"), str(auxiliary)), auxiliary_given]
    objective = resolve(load("training", "supervised").Settings, *objectives, prefix=f"{prefix}objective.")
    inner = f"{prefix}objective.deep_supervision=true" if objective.deep_supervision else None
    rival = inner if auxiliary is None else f"the extra loss {auxiliary}"
    way = beside.way(semi, tree.get("semi"), rival, settings_typed=bool(semi_given))
    beside.refuse_contradictions(auxiliary, way.name, auxiliary_given, semi_given)
    if inner is not None:
        beside.refuse_inner_losses(way.name, prefix)
    semi_layers = [below(below(tree, "semis"), str(way.name)), semi_given]
    return Finetuning(
        objective=objective,
        backbone=backbone,
        backbone_settings=_backbone_settings(backbone, tree, backbone_given, load),
        dims=dims,
        schedule=resolve(load("training", "schedule").Tuning, PROTOCOL, *schedules, prefix=prefix),
        auxiliary=auxiliary,
        auxiliary_settings=beside.settings_of_auxiliary(auxiliary, auxiliary_layers, load),
        semi=way.name,
        semi_settings=beside.settings_of_semi(way.name, semi_layers, dims, load),
        pool=beside.settings_of_pool(way.name, semi_layers),
        semi_is_preset=way.is_preset,
        left_out=way.left_out,
    )


def _backbone_settings(backbone: str, tree: Mapping[str, Any], given: Mapping[str, Any], load: Loader) -> Any:
    module = load("backbones", backbone)
    return resolve(module.Settings, below(below(tree, "backbones"), backbone), given, prefix="backbone.")


def code(**named: str | None) -> dict[str, str]:
    """Digests of the files of dotted names, as of ``method="my_lab.idea"``: what is ours goes by its version."""
    found = {}
    for what, name in named.items():
        if name is not None and plugins.is_own(name):
            file = plugins.load(NAMES.get(what, what), name).__file__
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return found
