"""``lemis report``: everything a work folder knows, as one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemis import files, terminal
from lemis.errors import UsageError
from lemis.plugins import NO_TRUST, Trust
from lemis.reporting.numbers import listed
from lemis.reporting.work_facts import Keypoints, RunFacts, Similarity, VoxelFeatures
from lemis.reporting.work_folder import read_work

DISTANCE_PX = 20.0  # theta of KAF where no run of it says another


def report(
    work: Path,
    *,
    runs: Sequence[str] = (),
    similarity: str | None = None,
    similarity_form: str = "cosine",
    features: int | None = None,
    keypoints: str | None = None,
    viewer_mb: float = 20.0,
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
        similarity_form: ``cosine``: of the slice and of a view of it, turned and shrunk; ``paper``: as KAF's figures,
            dot products, of two views at random, on two levels.
        keypoints: ``SCAN:SLICE``: also show the keypoints of this slice and of the next one, and which of them match
            at half, once and twice the distance of KAF's pre-training. Imports PyTorch.
        viewer_mb: Megabytes of the page for scans that one can go through in it, the worst first; larger ones are shown
            smaller, and those without room left out. 0: none, for a page that is passed on, as it holds whole scans.
        output: HTML file to write; by default ``work/report/index.html``.
        device: Where networks run for ``similarity`` and ``features``: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that runs may name; only ``similarity`` and ``features`` import any.

    Returns:
        The file.

    Raises:
        UsageError: ``work`` is no work folder, a run of that name does not exist, ``similarity`` names no pixel,
            ``features`` no layer of all networks, ``keypoints`` no slice, or ``viewer_mb`` is negative.
    """
    if not 0 <= viewer_mb < float("inf"):
        raise UsageError(f"viewer_mb={viewer_mb:g}", allowed="0 (no viewer) or more", next="--viewer-mb 20")
    output = output or work / "report" / "index.html"
    files.require_writable(output.parent)
    facts = read_work(work, runs, viewer_mb=viewer_mb)
    for line in facts.out_of_date:
        terminal.console(stderr=True).print(f"warning: out of date: {line}")
    if similarity is not None:
        facts = replace(facts, similarity=_similarity(work, similarity, similarity_form, runs, device, trust))
    if features is not None:
        facts = replace(facts, features=_features(work, features, runs, device, trust))
    if keypoints is not None:
        facts = replace(facts, keypoints=_keypoints(work, keypoints, facts.runs))
    from lemis.reporting import page  # here, as it imports matplotlib, which takes longer than a refusal may

    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(output, page.render(facts))
    return output


def _similarity(work: Path, text: str, form: str, runs: Sequence[str], device: str, trust: Trust) -> Similarity:
    from lemis.prediction import (
        similarity as seen,  # here, as it imports PyTorch, which no other part of a report needs
    )
    from lemis.reporting.figures import similarity as figures

    query = seen.parse(text)
    if form not in ("cosine", "paper"):
        raise UsageError(f"the form {form!r} of similarity", allowed="cosine or paper", next="--similarity-form paper")
    paper = form == "paper"
    found = seen.similarity(work, query, form="paper" if paper else "cosine", runs=runs, device=device, trust=trust)
    several = len({maps.backbone for maps in found.maps}) > 1
    networks = [
        figures.Maps(
            maps.method,
            _note(maps.method, maps.run, maps.backbone, several) + (f" at 1/{max(maps.strides)}" if paper else ""),
            maps.of_slice,
            maps.of_view,
            maps.best_in_view,
            maps.away_px,
        )
        for maps in found.maps
    ]
    strides = listed(dict.fromkeys(f"{maps.strides[0]} × {maps.strides[1]} pixels" for maps in found.maps))
    where = f"row {query.row}, column {query.col} of slice {query.slice_number} of {found.slices}, scan {query.scan}"
    place = figures.Query(found.place_in_image, found.place_in_view, found.aspect)
    matches = "; ".join(f"{maps.title} {maps.note} {maps.away_px:.0f} pixels away" for maps in networks)
    return Similarity(
        where=where,
        view=(
            "Both pictures are views of the same slice, turned, mirrored, scaled and warped at random as in "
            "pre-training; the rings mark the same point."
            if paper
            else f"The other view is the same slice, turned by {seen.TURN_DEGREES:g}° clockwise and made {seen.ZOOM:g} "
            "times smaller; the ring in it marks the same point."
        ),
        turned="the two views were drawn apart" if paper else "the slice was turned",
        second="second" if paper else "other",
        measure="dot product, over the largest one," if paper else "cosine",
        stride=strides,
        places=figures.places(
            "similarity-places", found.image, found.view, place,
            alt=f"The query, {where}, and the same place in the other view.",
            titles=figures.TWO_VIEWS if paper else figures.SLICE_AND_VIEW,
        ),
        maps=figures.maps(
            "similarity-maps", networks, place,
            alt=f"Maps of {'dot products' if paper else 'cosine similarity'} with the query. Best match in the other "
            f"view: {matches}.",
            titles=figures.TWO_VIEWS if paper else figures.SLICE_AND_VIEW,
            measure="dot product over the largest" if paper else "cosine similarity",
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


def _keypoints(work: Path, text: str, runs: Sequence[RunFacts]) -> Keypoints:
    from lemis.prediction import keypoint_pairs  # here, as it imports PyTorch
    from lemis.reporting.figures import keypoints as figures

    query = keypoint_pairs.parse(text)
    own = _of_kaf(runs)
    theta, mutual = float(own.get("distance_px", DISTANCE_PX)), bool(own.get("mutual", True))
    found = keypoint_pairs.pair(work, query, [theta / 2, theta, 2 * theta], mutual=mutual)
    sides = [
        figures.Side(f"slice {side.slice_number} of {found.slices}", side.image, side.place)
        for side in (found.first, found.second)
    ]
    where = f"slices {found.first.slice_number} and {found.second.slice_number} of {found.slices}, scan {query.scan}"
    counts = "; ".join(f"{len(pairs)} matches less than {px:g} pixels apart" for px, pairs in found.found.items())
    alt = f"Keypoints of {where}: {len(found.first.place)} and {len(found.second.place)}; {counts}."
    drawn = figures.matches("keypoint-matches", (sides[0], sides[1]), found.found, found.aspect, alt=alt)
    return Keypoints(where=where, mutual=mutual, drawn=drawn)


def _of_kaf(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """The settings of the first pre-training that matches keypoints; none where there is none."""
    found = (run.settings.get("method") for run in runs if run.verb == "pretrain")
    return next((dict(one) for one in found if isinstance(one, dict) and "distance_px" in one), {})
