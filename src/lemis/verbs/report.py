"""``lemis report``: everything a work folder knows, as one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lemis import files, terminal
from lemis.plugins import NO_TRUST, Trust
from lemis.reporting.numbers import listed
from lemis.reporting.work_facts import Similarity, VoxelFeatures
from lemis.reporting.work_folder import read_work


def report(
    work: Path,
    *,
    runs: Sequence[str] = (),
    similarity: str | None = None,
    features: int | None = None,
    output: Path | None = None,
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Path:
    """Write the report of a work folder, or of the label maps of scans from elsewhere.

    Args:
        work: The folder that the other verbs have filled, as far as they have; or one that ``predict`` has filled.
        runs: A run to show; several are allowed; by default all, of a folder of label maps those that made them.
        similarity: ``SCAN:SLICE:ROW,COL``: also show which places each pre-trained network takes for the same as this
            one; of the runs named in ``runs``, else of every finished pre-training. Imports PyTorch.
        features: A layer of the encoder, 1 the coarsest: also show the features of voxels there by structure, in two
            dimensions, in scans that were held out; of the fine-tuned runs named in ``runs``, else of all finished
            ones. Imports PyTorch.
        output: HTML file to write; by default ``work/report/index.html``.
        device: Where networks run for ``similarity`` and ``features``: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that runs may name; only ``similarity`` and ``features`` import any.

    Returns:
        The file.

    Raises:
        UsageError: ``work`` is no work folder, a run of that name does not exist, ``similarity`` names no pixel, or
            ``features`` no layer of all networks.
    """
    output = output or work / "report" / "index.html"
    files.require_writable(output.parent)
    facts = read_work(work, runs)
    for line in facts.out_of_date:
        terminal.console(stderr=True).print(f"warning: out of date: {line}")
    if similarity is not None:
        facts = replace(facts, similarity=_similarity(work, similarity, runs, device, trust))
    if features is not None:
        facts = replace(facts, features=_features(work, features, runs, device, trust))
    from lemis.reporting import page  # here, as it imports matplotlib, which takes longer than a refusal may

    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(output, page.render(facts))
    return output


def _similarity(work: Path, text: str, runs: Sequence[str], device: str, trust: Trust) -> Similarity:
    from lemis.prediction import (
        similarity as seen,  # here, as it imports PyTorch, which no other part of a report needs
    )
    from lemis.reporting.figures import similarity as figures

    query = seen.parse(text)
    found = seen.similarity(work, query, runs=runs, device=device, trust=trust)
    several = len({maps.backbone for maps in found.maps}) > 1
    networks = [
        figures.Maps(
            maps.method,
            _note(maps.method, maps.run, maps.backbone, several),
            maps.of_slice,
            maps.of_view,
            maps.best_in_view,
            maps.away_px,
        )
        for maps in found.maps
    ]
    strides = listed(dict.fromkeys(f"{maps.stride} × {maps.stride} pixels" for maps in found.maps))
    where = f"row {query.row}, column {query.col} of slice {query.slice_number} of {found.slices}, scan {query.scan}"
    place = figures.Query((query.row, query.col), found.place_in_view, found.aspect)
    matches = "; ".join(f"{maps.title} {maps.note} {maps.away_px:.0f} pixels away" for maps in networks)
    return Similarity(
        where=where,
        view=f"turned by {seen.TURN_DEGREES:g}° clockwise and made {seen.ZOOM:g} times smaller",
        stride=strides,
        places=figures.places(
            "similarity-places", found.image, found.view, place,
            alt=f"The query, {where}, and the same place in the other view.",
        ),
        maps=figures.maps(
            "similarity-maps", networks, place,
            alt=f"Maps of cosine similarity with the query. Best match in the other view: {matches}.",
        ),
    )  # fmt: skip


def _features(work: Path, layer: int, runs: Sequence[str], device: str, trust: Trust) -> VoxelFeatures:
    from lemis.prediction import voxel_features as seen  # here, as it imports PyTorch
    from lemis.reporting.figures import clouds as figures
    from lemis.reporting.figures.svg import structure_colours

    found = seen.clouds(work, layer, runs=runs, device=device, trust=trust)
    networks = [
        figures.Cloud(
            cloud.run, f"with {cloud.auxiliary}" if cloud.auxiliary else "without an extra loss", cloud.places,
            cloud.label, cloud.explained,
        )
        for cloud in found.clouds
    ]  # fmt: skip
    drawn = figures.clouds(
        "voxel-features", networks, found.names, structure_colours(found.names[1:]),
        alt=f"Features of voxels of {listed(found.names)} in two dimensions, for {listed(n.title for n in networks)}.",
    )  # fmt: skip
    layer_said = "the coarsest map" if layer == 1 else f"map {layer}, counted from the coarsest one,"
    return VoxelFeatures(layer=layer_said, scans=listed(found.scans), most_cells=seen.MOST_CELLS, figure=drawn)


def _note(method: str, run: str | None, backbone: str, several: bool) -> str:
    """What a method's name leaves open: which run it is, and of which network where there are several."""
    if run is None:
        return f"fresh {backbone}"
    name = "" if run == method else run
    return ", ".join(word for word in (name, backbone if several and backbone not in name else "") if word)
