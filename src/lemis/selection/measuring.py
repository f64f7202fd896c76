"""Every prepared scan seen by the networks, once: what was measured before, of the same scan by the same weights, is
read from ``suggestions/measured-*.npz``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lemis import files, terminal
from lemis.formats import npz
from lemis.plugins import Trust
from lemis.prediction.inference import load_network, trained
from lemis.preparation.store import Store
from lemis.runs.material import digest_of_file
from lemis.runs.run import messages
from lemis.selection import appearance, embedding, uncertainty
from lemis.selection.networks import Used
from lemis.selection.uncertainty import Uncertainty
from lemis.work_files.run import WEIGHTS, read_pretrained

Array = NDArray[np.float64]
_AS_MEASURED = "1"  # another number where what is measured becomes something else


class Measured(NamedTuple):
    """Of scans by id."""

    features: Mapping[str, Array]
    uncertainties: Mapping[str, Uncertainty]  # of the unlabelled scans; empty where no way asks for it
    structures: tuple[str, ...]


def measure(
    work: Path, store: Store, used: Used, unlabelled: Sequence[str], folder: Path, device: torch.device, trust: Trust
) -> Measured:
    """What networks make of the scans.

    Args:
        work: The work folder.
        store: Its prepared scans; all of them get features.
        used: The runs.
        unlabelled: Ids of the scans whose uncertainty is asked for.
        folder: For what is measured.
        device: Where to compute.
        trust: Modules that runs may name.
    """
    ids = [facts.id for facts in store.scans]
    features = _once(
        folder / "measured-features.npz", store, ids, *_embedder(work, store, used.pretrained, device, trust)
    )
    if not unlabelled:
        return Measured(features, {}, ())
    loaded = [load_network(work / "runs" / name, device, trust) for name in used.finetuned]
    model = loaded[0][1]
    networks = [network for network, _ in loaded]

    def doubts(scan: int) -> Array:
        found = uncertainty.of_scan(networks, store.image(scan), store.scans[scan], device, model.patch_px)
        return np.array([*found.disagreement, found.entropy])

    key = _digest(work, used.finetuned)
    told = _once(folder / "measured-doubts.npz", store, unlabelled, "segmenting", key, doubts)
    return Measured(
        features, {id: Uncertainty(row[:-1], float(row[-1])) for id, row in told.items()}, model.label_names[1:]
    )


def _embedder(
    work: Path, store: Store, run: str | None, device: torch.device, trust: Trust
) -> tuple[str, str, Callable[[int], Array]]:
    """What is done, what it depends on, and the function of a scan's place in the store."""
    if run is None:
        return "looking at scans", "appearance", lambda scan: appearance.of_scan(store.image(scan), store.scans[scan])
    path = work / "runs" / run
    network = trained(path, read_pretrained(path, trust), device)
    return (
        f"looking at scans with {run}",
        _digest(work, [run]),
        lambda scan: embedding.of_scan(network, store.image(scan), store.scans[scan], device),
    )


def _digest(work: Path, runs: Sequence[str]) -> str:
    return " ".join(digest_of_file(work / "runs" / run / WEIGHTS) for run in runs)


def _once(
    file: Path, store: Store, ids: Sequence[str], what: str, key: str, of: Callable[[int], Array]
) -> dict[str, Array]:
    """What ``of`` gives for each scan, in order of ids; kept in a file, from which only what is the same is taken."""
    stamps = {id: f"{_AS_MEASURED} {key} {store.scans[store.index_of(id)].fingerprint}" for id in sorted(ids)}
    before = _read(file)
    rows: dict[str, Array] = {}
    with terminal.progress(messages(), what, transient=True) as bar:
        for id, stamp in bar.track(stamps.items(), total=len(stamps)):
            known = before.get(id)
            rows[id] = known[1] if known is not None and known[0] == stamp else of(store.index_of(id))
    if any(before.get(id, ("",))[0] != stamp for id, stamp in stamps.items()):
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(file) as temporary, temporary.open("wb") as out:
            np.savez(out, ids=np.array([*rows]), stamps=np.array([*stamps.values()]), rows=np.stack([*rows.values()]))
    return rows


def _read(file: Path) -> dict[str, tuple[str, Array]]:
    if not file.exists():
        return {}
    try:
        ids, stamps, rows = npz.read(file, ("ids", "stamps", "rows")).values()
        return {str(id): (str(stamp), row) for id, stamp, row in zip(ids, stamps, rows, strict=True)}
    except (npz.Damaged, ValueError, TypeError) as error:
        again = f"delete {file} and run the same command again: it measures the scans anew"
        raise npz.damaged(file, error, again) from None
