"""``lemis suggest``: which scans to label next, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lemis import files, plugins, terminal
from lemis.contracts import Pick
from lemis.datasets import index as index_file
from lemis.datasets import label_places
from lemis.datasets.index import Index, Scan
from lemis.datasets.label_places import Place
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation.store import Store, open_store
from lemis.reporting import suggestions as page
from lemis.runs.device import chosen_device
from lemis.runs.run import messages
from lemis.selection import asking, auditing, measuring, networks, pool, proposals
from lemis.selection.networks import Used
from lemis.selection.pool import Seen, Subjects
from lemis.settings import parse_overrides, plain, resolve
from lemis.verbs.predict import predict
from lemis.work_files import audit as audit_file
from lemis.work_files import suggestions
from lemis.work_files.audit import Drawn
from lemis.work_files.run import read_environment
from lemis.work_files.suggestions import Coverage, Suggestion, Suggestions

PAGE = "index.html"


def suggest(
    work: Path,
    *,
    number: int = 5,
    method: str | None = None,
    overrides: Sequence[str] = (),
    runs: Sequence[str] = (),
    output: Path | None = None,
    audit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Path:
    """Say which subjects are worth labelling next, which scan of each, and why.

    It works before there is any label, and after: once scans are prepared, better once an encoder was pre-trained on
    them, and with the networks of ``lemis fit`` it also knows where these disagree. Nothing is promised: whether a way
    to choose beats subjects drawn at random (`random`) differs from data set to data set.

    Args:
        work: The work folder.
        number: How many subjects.
        method: How to choose, by default cover_uncertain where two networks or more have segmented the unlabelled scans
            and three subjects are labelled, else cover. `lemis list` shows all; a dotted name loads your own module.
        overrides: Settings of the method; `lemis list --json` shows them.
        runs: A run to look with, of pre-training or fine-tuning; several are allowed; by default the runs that
            segmented the unlabelled scans last, and the pre-training that they began with.
        output: Folder for the list; by default WORK/suggestions.
        audit: How many of them are drawn at random, so that some labels are of subjects like all others: scores on
            these hold for the rest. By default one of every five; none of ``random``, which draws them all. They are
            remembered in ``audit.json``; until they are labelled, a later list draws them again and nobody else.
        seed: All randomness follows from it: same seed, same list.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        trust: Import modules that the runs name, even if they are not part of Lemis.

    Returns:
        The page, ``index.html``. Beside it are ``suggestions.csv`` and ``suggestions.json``, and in ``proposals`` a
        label map of each scan to correct: what the networks make of it, or an empty one.

    Raises:
        UsageError: Nothing is prepared, every subject is labelled, a method that needs networks that are not there,
            runs that do not belong together, or more to audit than to label.
    """
    index, store = index_file.load(work / "index.json"), open_store(work / "prepared")
    asking.refuse_unprepared(index, store, work)
    asking.refuse_all_labelled(index, work)
    used = networks.chosen(work, index, store, runs)
    name = method or asking.usual(index, len(used.finetuned))
    module = plugins.load("suggesters", name)
    settings = resolve(module.Settings, parse_overrides(overrides))
    needed: int = getattr(module, "NETWORKS", 0)
    asking.refuse_without_networks(name, needed, len(used.finetuned), work)
    left = len({scan.subject for scan in index.scans} - asking.labelled_subjects(index))
    drawn = auditing.share(audit, number, left, name)
    if drawn:
        files.require_writable(work)  # what is drawn is remembered
    output = output or work / suggestions.FOLDER
    files.require_writable(output)
    asked = used if needed else used._replace(finetuned=())  # networks are asked only where it matters
    target = torch.device(chosen_device(device))
    told = pool.subjects(*_seen(work, index, store, asked, output, target, trust), len(asked.finetuned))
    waiting = {one.subject: one.of for one in audit_file.read(work).drawn}
    picks = auditing.chosen(
        told.pool, number, drawn, lambda pool, left: module.suggest(pool, left, settings, seed), seed, waiting
    )
    by_id = {scan.id: scan for scan in index.scans}
    chosen = [by_id[told.scans[pick.subject]] for pick in picks]
    proposed = _proposed(work, index, chosen, used.finetuned, output / proposals.FOLDER, device, trust)
    record = Suggestions(
        version=1, method=name, settings=plain(settings), seed=seed, subjects=len(told.pool.names),
        labelled=int(told.pool.labelled.sum()), embedding=used.pretrained, networks=asked.finetuned,
        explained=told.explained, coverage=_coverage(told, picks), notes=tuple(_notes(told, used, number)),
        suggestions=tuple(
            _suggestion(pick, told, index, scan, proposed.get(scan.id, ()), audit=place < drawn)
            for place, (pick, scan) in enumerate(zip(picks, chosen, strict=True))
        ),
    )  # fmt: skip
    audit_file.remember(
        work, [Drawn(subject=one.subject, scan=one.scan, of=left) for one in record.suggestions if one.audit]
    )
    suggestions.save(output, record)
    again = _again(work, index, used)
    files.write(output / PAGE, _page(record, told, picks, index, output, again))
    _say(record, output, again)
    return output / PAGE


def _again(work: Path, index: Index, used: Used) -> str:
    """The command that learns from new labels: the one that trained the networks, as others have other settings."""
    made = [read_environment(work / "runs" / run) for run in used.finetuned]
    whole = [one for one in made if one is not None and one.command.startswith(("lemis fit ", "lemis demo"))]
    if whole:
        return max(whole, key=lambda one: one.started).command
    return shlex.join(["lemis", "fit", index.root, "-o", str(work)])


def _seen(
    work: Path, index: Index, store: Store, used: Used, output: Path, device: torch.device, trust: Trust
) -> tuple[list[Seen], tuple[str, ...]]:
    """What is known of every scan, and the structures of the networks."""
    people = asking.labelled_subjects(index)
    doubtful = [scan.id for scan in index.scans if scan.subject not in people] if used.finetuned else []
    found = measuring.measure(work, store, used, doubtful, output, device, trust)
    seen = [
        Seen(scan.id, scan.subject, scan.label is not None, found.features[scan.id], found.uncertainties.get(scan.id))
        for scan in index.scans
    ]
    return seen, found.structures


def _proposed(
    work: Path, index: Index, scans: Sequence[Scan], runs: Sequence[str], folder: Path, device: str, trust: Trust
) -> dict[str, tuple[str, ...]]:
    """Label maps to begin with, by scan; none where nobody knows what structures there are."""
    structures = {name: value for name, value in index.labels.items() if value != 0}
    if not structures:
        return {}
    ours = proposals.untouched(folder, index, scans)
    if ours and runs:
        predict([work / "runs" / run for run in runs], scans=[scan.id for scan in ours], output=folder, device=device,
                overrides={"quality": False}, trust=trust)  # fmt: skip
    elif ours:
        proposals.write_empty(folder, index, ours)
    proposals.write_beside(folder, index, ours, structures, page.structure_colours([*structures]))
    return {scan.id: proposals.there(folder, index, scan) for scan in scans}


def _page(
    record: Suggestions, told: Subjects, picks: Sequence[Pick], index: Index, output: Path, again: str
) -> str:  # fmt: skip
    by_id = {scan.id: scan for scan in index.scans}
    pictures = {
        one.scan: page.one_slice(index, by_id[one.scan], output / one.proposals[0] if one.proposals else None).picture
        for one in record.suggestions
    }
    chosen = [pick.subject for pick in picks]
    alt = f"{len(told.pool.names)} subjects by their two largest principal components, {len(chosen)} of them suggested."
    places = page.subject_map("map", told.flat, told.pool.labelled, chosen, alt=alt)
    return page.render(record, title=Path(index.root).name, pictures=pictures, places=places, again=again)


def _coverage(told: Subjects, picks: Sequence[Pick]) -> Coverage:
    after = pool.covered(told.pool, [pick.subject for pick in picks])
    return Coverage(before=pool.covered(told.pool), after=after)


def _notes(told: Subjects, used: Used, number: int) -> Iterator[str]:
    yield from used.left_out
    left = int((~told.pool.labelled).sum())
    if number > left:
        yield f"{number} were asked for, and {count(left, 'subject')} {'has' if left == 1 else 'have'} no label"
    if len(told.pool.names) < pool.FEW:
        yield (
            f"{count(len(told.pool.names), 'subject')}: with fewer than {pool.FEW}, which of them are alike is mostly "
            "chance, and random does as well"
        )
    if used.pretrained is None:
        yield (
            "nothing was pre-trained on these scans, so they are compared by their grid and intensities alone, which "
            "tells scanners apart rather than people; lemis pretrain comes first"
        )


def _suggestion(
    pick: Pick, told: Subjects, index: Index, scan: Scan, proposed: Sequence[str], *, audit: bool
) -> Suggestion:  # fmt: skip
    subjects, name = told.pool, told.pool.names[pick.subject]
    near = pool.nearest_labelled(subjects, pick.subject)
    doubts = None if subjects.disagreement is None else subjects.disagreement[pick.subject].tolist()
    place = label_places.of(index, scan)
    return Suggestion(
        scan=scan.id, subject=name, why=pick.why, audit=audit, score=float(pick.score),
        nearest_labelled=near and near.name, distance=near and near.distance,
        disagreement=None if doubts is None else dict(zip(subjects.structures, doubts, strict=True)),
        entropy=None if subjects.entropy is None else float(subjects.entropy[pick.subject]),
        images=tuple(str(index_file.locate(index, file)) for file in scan.images),
        other_scans=tuple(other.id for other in index.scans if other.subject == name and other.id != scan.id),
        proposals=tuple(f"{proposals.FOLDER}/{file}" for file in proposed),
        label=None if place.label is None else str(place.label), place=_place_in_words(place, bool(proposed)),
    )  # fmt: skip


def _place_in_words(place: Place, is_proposed: bool) -> str:
    what = "the corrected map" if is_proposed else "its label map"
    if place.label is None:
        return f"save {what} where you like, and {place.then}"
    slicer = "" if place.label.suffix == ".png" else f", or from 3D Slicer as {place.slicer}"
    return f"save {what} as {place.label}{slicer}" + (f"; and {place.then}" if place.then else "")


def _say(record: Suggestions, output: Path, again: str) -> None:
    console = messages()
    for note in record.notes:
        console.print(f"note: {note}")
    looked = f"the encoder of {record.embedding}" if record.embedding else "grids and intensities"
    console.print(
        f"{record.method}, by {looked}: {count(len(record.suggestions), 'subject')} to label next, of "
        f"{record.subjects - record.labelled} without a label"
    )
    for rank, one in enumerate(record.suggestions, start=1):
        console.print(f"{rank}. {terminal.visible(one.scan)}: {terminal.visible(one.why)}")
        if one.proposals:
            console.print(f"   correct {terminal.visible(' or '.join(str(output / file) for file in one.proposals))}")
        console.print(f"   {terminal.visible(one.place)}")
    before, after = record.coverage.before, record.coverage.after
    console.print(f"near to a labelled subject: {before:.0%} of the unlabelled now, {after:.0%} with these")
    console.print(f"next: label them as {output / PAGE} shows, then {again}")
