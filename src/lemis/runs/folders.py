"""Which folder a run belongs in, and what happens to one that was trained on an earlier state of the data.

Names go by settings, and ``trained_on.json`` by data (docs/decisions/0012): the plain name belongs to the settings that
had it first, other settings get a suffix that is made of them, and a run whose data changed is set aside and trained
anew under its name.

```
WORK/runs/pcl/              pre-training, as first asked for
WORK/runs/pcl-3f2a/         with other settings
WORK/stale/pcl-1a2b3c4d/    as it was before its scans changed
```
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lemis.errors import UsageError
from lemis.runs import material
from lemis.runs.material import TrainedOn
from lemis.work_files.run import read_settings

WITHOUT_EFFECT = (
    "checkpoint_minutes",
    "log_every_steps",
    "evaluations",
)  # on the weights: a run may go on with other ones
FROM_DATA = ("labelled", "excluded", "prepared")  # in settings.yaml for people; ``trained_on.json`` holds it in full
LOCK = ".lock"
STALE = "stale"
_SUFFIXES = (4, 8, 16)  # characters of the digest; more only where fewer are those of another run


def effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide on the weights."""
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}


def choose(runs: Path, name: str | None, usual: str, settings: Mapping[str, Any]) -> Path:
    """The folder of a run with these settings; nothing is written.

    Args:
        runs: ``WORK/runs``.
        name: As the user gave it.
        usual: The name that runs of this kind have where nobody gave one.
        settings: All of them, as they go into ``settings.yaml``.

    Returns:
        ``name``; else the folder that has these settings already; else ``usual``, with a suffix if it is taken.

    Raises:
        UsageError: The run of that ``name`` has other settings.
    """
    if name is not None:
        refuse_other(runs / name, settings)
        return runs / name
    suffix = material.digest(_decided(settings))
    own = [runs / f"{usual}-{suffix[:length]}" for length in _SUFFIXES]
    places = [runs / usual, *own]
    there = [place for place in places if _has_settings(place) and not differences(place, settings)]
    free = [place for place in places if not is_taken(place, settings)]
    return (there or free)[0]


def refuse_other(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that belongs to a run with other settings.

    Raises:
        UsageError: It does, and that run has got as far as a checkpoint or is being trained.
    """
    if is_taken(path, settings):
        key, before, now = differences(path, settings)[0]
        raise UsageError(
            f"{path} was made with {key}={before!r}, now it is {now!r}",
            allowed="the settings that the run was made with",
            next=f"--name {path.name}-2 for a run of its own, or leave out --name; or delete {path}",
        )


def is_taken(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether another run is there, with something to lose: one that was refused or failed at once has nothing."""
    if not _has_settings(path) or not differences(path, settings):
        return False
    return has_weights(path) or _is_locked(path)


def has_weights(path: Path) -> bool:
    """Whether a run has got as far as a checkpoint."""
    return (path / "resume.ckpt").exists() or (path / "model.safetensors").exists()


def differences(path: Path, settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings of the user's in which the run in ``path`` differs: key, value there, value here."""
    before, now = flat(_decided(read_settings(path))), flat(_decided(settings))
    keys = dict.fromkeys([*now, *before])
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]


def set_aside(path: Path, changed: Sequence[str]) -> str:
    """Make room for a run that is trained anew, as its data changed; what was finished is kept.

    Args:
        path: Of the run.
        changed: What did, from ``material.changes``.

    Returns:
        What was done, for the user.

    Raises:
        UsageError: Another process is training it.
    """
    if _is_locked(path):
        raise another_trains(path)
    said = f"{path} was trained on another state of the data ({'; '.join(changed)}) and is trained anew"
    if not (path / "model.safetensors").exists():
        shutil.rmtree(path)
        return said
    state = _state(path)
    kept = path.parent.parent / STALE / f"{path.name}-{state[:8]}"
    if kept.exists():  # the same state twice
        shutil.rmtree(kept)
    kept.parent.mkdir(exist_ok=True)
    path.rename(kept)
    return f"{said}; what it was is kept in {kept}"


def _state(path: Path) -> str:
    return material.digest_of_file(path / "model.safetensors")


def another_trains(path: Path) -> UsageError:
    """The error where a run is being trained elsewhere."""
    return UsageError(
        f"{path}, which another process is training",
        allowed="one process for each run",
        next="wait until it has ended, then the same command again; or --name NEW for a run of its own",
    )


def is_current(before: TrainedOn | None, now: TrainedOn) -> bool:
    """Whether a run has seen exactly this, of the scans that it was scored on too."""
    return before is not None and not material.changes(before, now) and not held_out_changes(before, now)


def held_out_changes(before: TrainedOn, now: TrainedOn) -> list[str]:
    """What became of the scans that a run was scored on: its weights are good still, its scores are not."""
    return material.scan_changes(before.held_out, now.held_out)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + str(key): value})
    return found


def _decided(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in effective(settings).items() if key not in FROM_DATA}


def _has_settings(path: Path) -> bool:
    return (path / "settings.yaml").is_file()


def _is_locked(path: Path) -> bool:
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True
