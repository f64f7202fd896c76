"""What is chosen of fine-tuning beside the network: an extra loss, or a way to use unlabelled scans too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lemis import plugins
from lemis.errors import UsageError
from lemis.settings import resolve
from lemis.training import pool
from lemis.training.pairing import SCRATCH, default_backbone

LABELS_ALONE = "none"  # as a way to use unlabelled scans: none, whatever the preset names
Layers = Sequence[Mapping[str, Any]]  # of settings; later ones win
Load = Callable[[str, str], Any]  # as ``run_settings.Loader``


class Beside(Protocol):
    """What is chosen of fine-tuning beside the network."""

    @property
    def auxiliary(self) -> str | None:
        """An extra loss."""

    @property
    def semi(self) -> str | None:
        """A way to use unlabelled scans."""


class Way(NamedTuple):
    """The way to use unlabelled scans."""

    name: str | None  # None: labels alone
    is_preset: bool = False  # nobody typed it: it gives way to what does not go with it
    left_out: str | None = None  # in words, where it has


def way(typed: str | None, preset: object, rival: str | None = None, *, settings_typed: bool = False) -> Way:
    """The way to use unlabelled scans: the one that was typed, else the preset's where nothing rules it out.

    Args:
        typed: By name; ``none`` for none, whatever the preset names.
        preset: What the preset or the settings file names, if it names one.
        rival: What does not go with any, as the user would know it.
        settings_typed: Settings of the way were, which asks for it.
    """
    if typed is not None or preset is None or preset == LABELS_ALONE:
        return Way(None if typed == LABELS_ALONE else typed)
    if rival is not None and not settings_typed:
        return Way(None, left_out=f"{preset}, which the preset names, is left out beside {rival}")
    return Way(str(preset), is_preset=not settings_typed)


def refuse_contradictions(
    auxiliary: str | None, semi: str | None, auxiliary_given: Mapping[str, Any], semi_given: Mapping[str, Any]
) -> None:
    """Refuse settings of what is not there, and both at once.

    Args:
        auxiliary: The extra loss.
        semi: The way to use unlabelled scans.
        auxiliary_given: Its settings, as typed.
        semi_given: Likewise.

    Raises:
        UsageError: There are such.
    """
    if auxiliary is None and auxiliary_given:
        raise UsageError(
            f"auxiliary.{next(iter(auxiliary_given))} without an auxiliary loss",
            allowed="settings of the loss that --auxiliary names",
            next=f"--auxiliary {plugins.names('auxiliary')[-1]}",
        )
    if semi is None and semi_given:
        raise UsageError(
            f"semi.{next(iter(semi_given))} without a way to use unlabelled scans",
            allowed="settings of the way that --semi names",
            next=f"--semi {plugins.names('semi')[0]}",
        )
    if auxiliary is not None and semi is not None:
        raise UsageError(
            f"--semi {semi} with --auxiliary {auxiliary}",
            allowed="one of the two: what an extra loss asks of labels, unlabelled scans do not have",
            next=f"leave out --auxiliary {auxiliary}, or --semi {semi}",
        )


def refuse_second(second: object, semi: str | None, load: Load) -> None:
    """Refuse a pre-training of a second network where one is trained.

    Args:
        second: The pre-training, as typed.
        semi: The way to use unlabelled scans.
        load: As elsewhere.

    Raises:
        UsageError: One is.
    """
    if semi is None or getattr(load("semi", semi), "NETWORKS", 1) < 2:
        two = [name for name in plugins.names("semi") if plugins.describe("semi", name).get("networks") == 2]
        raise UsageError(
            f"--second {second} " + (f"with --semi {semi}, which trains one network" if semi else "without --semi"),
            allowed=f"a way that trains two networks: {', '.join(two)}",
            next=f"--semi {two[0]}",
        )


def refuse_inner_losses(semi: str | None, prefix: str) -> None:
    """Refuse losses on inner maps of the decoder beside unlabelled scans.

    Args:
        semi: The way to use these.
        prefix: What the user typed before the keys of the objective.

    Raises:
        UsageError: There is one.
    """
    if semi is not None:
        raise UsageError(
            f"{prefix}objective.deep_supervision=true with --semi {semi}",
            allowed="one of the two: of unlabelled scans, a way knows the loss of the last map alone",
            next=f"{prefix}objective.deep_supervision=false, or leave out --semi {semi}",
        )


def is_taught(semi: str | None, load: Load) -> bool:
    """Whether a way to use unlabelled scans wants label maps of them, made by a teacher."""
    return semi is not None and bool(getattr(load("semi", semi), "PSEUDO_LABELS", False))


def expect_pseudo_labels(work: Path, folder: Path | None, semi: str | None, load: Load) -> None:
    """Refuse a way that wants label maps of a teacher without them, and these where they are not wanted.

    Args:
        work: The work folder.
        folder: Of the label maps, as typed.
        semi: The way to use unlabelled scans.
        load: As elsewhere.

    Raises:
        UsageError: It is so.
    """
    taught = is_taught(semi, load)
    if taught and folder is None:
        there = f"{work}/pseudo_labels"
        raise UsageError(
            f"--semi {semi} without label maps of the unlabelled scans",
            allowed="--pseudo-labels FOLDER, which lemis predict has written with a network trained on labels alone",
            next=f"this command with --semi {LABELS_ALONE}, which trains that network; lemis predict {work}/runs/NAME "
            f"-o {there}; then this command with --pseudo-labels {there}. lemis fit --semi {semi} does all that",
        )
    if folder is not None and not taught:
        names = [name for name in plugins.names("semi") if plugins.describe("semi", name).get("pseudo_labels")]
        raise UsageError(
            f"--pseudo-labels {folder} " + (f"with --semi {semi}, which reads none" if semi else "without --semi"),
            allowed=f"a way that learns from them: {', '.join(names)}",
            next=f"--semi {names[0]}",
        )


def settings_of_auxiliary(auxiliary: str | None, layers: Layers, load: Load) -> Any:
    """Those of an extra loss; None where there is none."""
    if auxiliary is None:
        return None
    return resolve(load("auxiliary", auxiliary).Settings, *layers, prefix="auxiliary.")


def settings_of_semi(semi: str | None, layers: Layers, dims: int, load: Load) -> Any:
    """Those of the file of a way to use unlabelled scans; None where there is none.

    Raises:
        UsageError: A setting that it does not have, or a network of other dimensions than it works in.
    """
    if semi is None:
        return None
    module = load("semi", semi)
    if dims not in getattr(module, "DIMS", (dims,)):
        raise UsageError(
            f"--semi {semi} on a network of {dims} dimensions",
            allowed=f"networks of {' or '.join(map(str, module.DIMS))}",
            next=f"--backbone {default_backbone(SCRATCH)}",
        )
    return resolve(module.Settings, *_split(layers, of_pool=False), prefix="semi.")


def settings_of_pool(semi: str | None, layers: Layers) -> pool.Settings:
    """Those that are the same for every way to use unlabelled scans."""
    return pool.Settings() if semi is None else resolve(pool.Settings, *_split(layers, of_pool=True), prefix="semi.")


def _split(layers: Layers, *, of_pool: bool) -> list[dict[str, Any]]:
    shared = {field.name for field in fields(pool.Settings)}
    return [{key: value for key, value in layer.items() if (key in shared) == of_pool} for layer in layers]
