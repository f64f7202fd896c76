"""The paragraph of a report for the methods section of a paper: only what the work folder proves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from lemis import plugins
from lemis.measure.tables import count
from lemis.preparation.settings import Settings as Preparation
from lemis.reporting.numbers import listed
from lemis.reporting.sentences import kept_of
from lemis.reporting.work_facts import RunFacts, WorkFacts
from lemis.work_files.evaluation import Summary


def methods_paragraph(work: WorkFacts) -> str:
    """A paragraph for the methods section of a paper; only what the work folder proves."""
    final = work.final_runs
    said = [_trained_how(work, final)] if final else []
    if work.prepared is not None:
        said.append(_prepared_how(work.prepared))
    said += [*_mirrored_how(work), *_kept_how(work)]
    if work.summary is not None:
        said.append(_scored_how(work.summary))
    return " ".join(said)


def references(work: WorkFacts) -> list[str]:
    """Citations of what the runs in use are made of, as the files of methods, losses and networks give them."""
    runs = work.in_use
    used = [("methods", run.method) for run in runs if run.verb == "pretrain"]
    used += [("auxiliary", str(run.auxiliary)) for run in runs]
    used += [("semi", str(run.semi)) for run in runs]
    used += [("backbones", run.model.backbone) for run in runs if run.model]
    known = [(folder, name) for folder, name in dict.fromkeys(used) if name in plugins.names(folder)]
    return [f"{name}: {plugins.describe(folder, name)['title']}" for folder, name in known]


def _trained_how(work: WorkFacts, final: Sequence[RunFacts]) -> str:
    one = final[0]
    source = next((run for run in work.runs if run.name == one.pretrained), None)
    torch = (one.environment.packages if one.environment else {}).get("torch", "of unknown version")
    tools = f"Lemis {one.environment.lemis if one.environment else version('lemis')} and PyTorch {torch}"
    several = len(final) > 1
    begun = f"A segmentation network ({one.model.backbone if one.model else 'unknown'}) was "
    if source is None:
        begun += "trained from random weights"
    else:
        begun += f"{_pretrained_how(source)} "
        begun += "without learning anything, and then fine-tuned" if source.learned_nothing else "and then fine-tuned"
    times = f" in {len(final)} runs with different training subjects" if several else ""
    extra = f" and with the extra loss {one.auxiliary}" if one.auxiliary else ""
    if one.semi:
        sizes = sorted({len(run.unlabelled_subjects) for run in final})
        most = f"{sizes[0]}–{sizes[-1]} subjects" if len(sizes) > 1 else count(sizes[0], "subject")
        extra = f" and, by {one.semi}, on the images of {most} without their labels"
    if any(run.teachers for run in final):
        extra += ", which a network trained on the labels alone had segmented"
    second = next((run for run in work.runs if run.name == one.second), None)
    if second is not None:
        extra += f", beside a second network, {_pretrained_how(second)}, which was not kept"
    how = f"{begun}{times} on the labelled scans of {_labelled(final)} ({_steps(final)}){extra}, with {tools}."
    if several and work.summary is not None and not work.summary.training_not_recorded:
        how += " Every scan was segmented by networks that had not seen a label of its subject."
    return how


def _pretrained_how(run: RunFacts) -> str:
    if run.imported is not None:
        how = "trained elsewhere" + (", with labels" if run.imported.saw_labels else "")
        return f"given the weights of {run.imported.file}, which were {how},"
    seen = count(len(run.pretrained_on), "subject")
    return f"pre-trained without labels by {run.method} on the images of {seen} ({_steps([run])})"


def _labelled(runs: Sequence[RunFacts]) -> str:
    sizes = sorted({len(run.model.labelled_subjects) if run.model else 0 for run in runs})
    return count(sizes[0], "subject") if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]} subjects"


def _steps(runs: Sequence[RunFacts]) -> str:
    steps = sorted({run.steps for run in runs})
    return count(steps[0], "step") if len(steps) == 1 else f"{steps[0]}–{steps[-1]} steps"


def _prepared_how(settings: Preparation) -> str:
    normalised = {"zscore": "each scan was normalised to zero mean and unit variance"}
    how = normalised.get(settings.normalise, f"normalisation: {settings.normalise}")
    limits = settings.clip_values
    clipped = f"intensities were clipped to {limits[0]:g} ... {limits[1]:g}; " if limits else ""
    return f"{_resampled_how(settings)}; {clipped}{how}."


def _resampled_how(settings: Preparation) -> str:
    whole, spacing, through = settings.whole_px, settings.spacing_mm, settings.slice_spacing_mm
    if whole:
        return f"Scans were resampled to {' × '.join(map(str, whole))} voxels (slices, rows, columns)"
    in_plane = f"resampled in their plane to {spacing:g} mm" if isinstance(spacing, int | float) else ""
    across = f"resampled across it to {through:g} mm" if through else ""
    done = listed(part for part in (in_plane, across) if part)
    return f"Slices were {done or 'kept at their own spacing'}"


def _mirrored_how(work: WorkFacts) -> list[str]:
    made = work.predictions.scans.values() if work.predictions else ()
    images = sorted({2 ** len(one.mirrored) for one in made if one.mirrored})
    several = " or ".join(map(str, images))
    return [f"The logits of each network were averaged over {several} mirror images."] if images else []


def _kept_how(work: WorkFacts) -> list[str]:
    made = work.predictions.scans.values() if work.predictions else ()
    kept = dict.fromkeys(kept_of(one.kept) for one in made if one.kept is not None)
    if not kept:
        return []
    several = " (by what the labelled scans of each network show)" if len(kept) > 1 else ""
    return [f"Of the segmentations, only the largest connected component was kept of {' or '.join(kept)}{several}."]


def _scored_how(summary: Summary) -> str:
    default = summary.protocols.default
    distances = (
        f"The 95th percentile Hausdorff distance is the {default.definitions.hd95_mm}. "
        if not default.without_millimetres
        else "No distances are given, because the spacing is not known. "
    )
    exposure = f"The evaluation is transductive: test images, not their labels, were used in {summary.exposed_in}. "
    return (
        f"Segmentations were compared with the reference in {count(summary.scans, 'scan')} of "
        f"{count(summary.subjects, 'subject')} by the Dice coefficient, per scan on its native grid. "
        f"{distances}"
        "A structure that was missed or invented counts as Dice 0 and as the diagonal of the image in every "
        "mean. "
        f"{exposure if summary.transductive else ''}"
        f"Intervals: {default.definitions.interval}."
    )
