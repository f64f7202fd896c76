"""The tables and the curve of ``benchmarks.labelling_rounds``: each way against the random draws of the same split.

A difference belongs to a test subject and a split: the way's Dice minus the mean of the random draws'. Its interval is
a bootstrap of subjects *and* splits (``measure.paired``, splits in the place of seeds), stretched to t; p flips the
signs of whole subjects and is not below that of the interval's t test. Splits share subjects, so beside it stands the
test of Nadeau and Bengio (Machine Learning 52, 2003), whose variance has a floor that no number of splits removes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lemis.measure import paired
from lemis.measure.tables import markdown

Array = NDArray[np.float64]
PRIMARY = "cover"
BEST = "best draw, trained anew"
JUDGED = paired.Settings(interval="bootstrap")
FULL_RECIPE = {2: 0.693, 4: 0.742, 8: 0.776}  # docs/results.md, from scratch, 800 steps


class Split(NamedTuple):
    """One that is done."""

    ways: tuple[str, ...]  # no random draws
    subjects: tuple[str, ...]  # tested
    dice: Mapping[tuple[str, int], Array]  # (subjects,) by way and budget, the mean over structures
    checks: Mapping[tuple[str, int], tuple[float, float]]  # distance to the nearest labelled, range of volumes
    again: float  # mean difference between two networks of the same labels, squared


class Draws(NamedTuple):
    """The random draws of a split at one budget, or their means over several."""

    mean: Array  # (subjects,)
    each: Array  # (draws,) mean over subjects


def read(out: Path) -> tuple[dict[str, Any], list[Split]]:
    """What was asked for, and every split that is done."""
    study = json.loads((out / "study.json").read_text())
    files = [path for path in sorted(out.glob("split-*.jsonl")) if path.stem[6:].isdigit()]
    found = [_split([json.loads(line) for line in path.read_text().splitlines()]) for path in files]
    return study, [split for split in found if split is not None]


def _split(lines: Sequence[Mapping[str, Any]]) -> Split | None:
    rounds = [line for line in lines if line["kind"] == "round"]
    if not any(line["way"] == BEST for line in rounds):
        return None  # it is the last line of all
    trained = {
        (tuple(line["labelled"]), line["member"]): {one: np.nanmean(row) for one, row in line["dice"].items()}
        for line in lines
        if line["kind"] == "dice"
    }
    subjects = tuple(sorted(next(iter(trained.values()))))
    dice, checks = {}, {}
    for line in rounds:
        labelled = tuple(line["labelled"])
        member = int(line["way"] == BEST)
        dice[line["way"], len(labelled)] = np.array([trained[labelled, member][one] for one in subjects])
        checks[line["way"], len(labelled)] = (line["near"], line["volumes"])
    twice = [labelled for labelled, member in trained if member and (labelled, 0) in trained]
    apart = [np.mean([trained[one, 0][s] - trained[one, 1][s] for s in subjects]) ** 2 for one in twice]
    ways = tuple(dict.fromkeys(way for way, _ in dice if not way.startswith("random ") and way != BEST))
    return Split(ways, subjects, dice, checks, float(np.mean(apart)))


def draws_of(split: Split, budgets: Sequence[int]) -> Draws:
    """Of the random draws, the mean over some budgets."""
    names = sorted({way for way, _ in split.dice if way.startswith("random ")})
    every = np.array([[split.dice[name, budget] for budget in budgets] for name in names]).mean(axis=1)
    return Draws(every.mean(axis=0), every.mean(axis=1))


def of_way(split: Split, way: str, budgets: Sequence[int]) -> Array:
    """(subjects,) of a way, the mean over some budgets."""
    return np.mean([split.dice[way, budget] for budget in budgets], axis=0)


class Found(NamedTuple):
    """A way against random."""

    difference: paired.Difference
    corrected: float  # p of Nadeau and Bengio
    percentile: float  # among the draws of its split, 0.5 is chance; the mean over splits
    ahead: int  # splits in which it is above their mean


def against(splits: Sequence[Split], way: str, budgets: Sequence[int], test_share: float) -> Found:
    """The mean over some budgets, of a way and of the random draws."""
    ours, theirs, subjects, numbers, ranks = [], [], [], [], []
    for number, split in enumerate(splits):
        own, drawn = of_way(split, way, budgets), draws_of(split, budgets)
        ours += own.tolist()
        theirs += drawn.mean.tolist()
        subjects += split.subjects
        numbers += [number] * len(own)
        below, same = drawn.each < own.mean() - 1e-12, np.abs(drawn.each - own.mean()) <= 1e-12
        ranks.append(float(below.mean() + same.mean() / 2))
    each = [float((of_way(s, way, budgets) - draws_of(s, budgets).mean).mean()) for s in splits]
    found = paired.difference(ours, theirs, subjects, numbers, JUDGED, within=(-1.0, 1.0))
    corrected = nadeau_bengio(each, test_share / (1 - test_share))
    return Found(found, corrected, float(np.mean(ranks)), sum(value > 0 for value in each))


def nadeau_bengio(differences: Sequence[float], test_over_train: float) -> float:
    """Two-sided p of a mean over splits that share subjects: variance (1/J + n_test/n_train) s^2, t with J - 1."""
    number, spread = len(differences), float(np.std(differences, ddof=1))
    if spread == 0:
        return math.nan
    t = float(np.mean(differences)) / (spread * math.sqrt(1 / number + test_over_train))
    return float(2 * stats.t.sf(abs(t), number - 1))


def needed(splits: Sequence[Split], way: str, budgets: Sequence[int]) -> float:
    """Labelled subjects at which the way's mean curve reaches what random has at the last budget; infinite: never.

    The curve is linear in the logarithm of their number between budgets.
    """
    target = np.mean([draws_of(split, budgets[-1:]).mean.mean() for split in splits])
    curve = [float(np.mean([_mean(split, way, budget) for split in splits])) for budget in budgets]
    for k in range(1, len(budgets)):
        if curve[k] >= target:
            share = (target - curve[k - 1]) / (curve[k] - curve[k - 1])
            return float(budgets[k - 1] * (budgets[k] / budgets[k - 1]) ** max(share, 0.0))
    return math.inf


def _mean(split: Split, way: str, budget: int) -> float:
    if way == "random":
        return float(draws_of(split, [budget]).mean.mean())
    return float(of_way(split, way, [budget]).mean())


def tables(out: Path) -> str:
    """All of them, in Markdown."""
    study, splits = read(out)
    if len(splits) < 2:
        return f"{len(splits)} of {study['splits']} splits are done; two are needed"
    budgets = study["budgets"]
    chosen_at, ways = budgets[1:], splits[0].ways
    judge = partial(against, splits, test_share=study["test_share"])
    every = {way: judge(way, budgets=chosen_at) for way in ways}
    single = {(way, budget): judge(way, budgets=[budget]) for way in ways for budget in chosen_at}
    # The primary comparison stands alone; all others are corrected together.
    others = [*(("all", way) for way in ways if way != PRIMARY), *single]
    p = [every[key[1]].difference.p if key[0] == "all" else single[key].difference.p for key in others]
    adjusted = dict(zip(others, paired.holm(p), strict=True))
    adjusted["all", PRIMARY] = every[PRIMARY].difference.p
    over = f"mean of {', '.join(map(str, chosen_at))}"
    lines: list[dict[str, object]] = [
        {"way": "random", **_curve(splits, "random", budgets), over: _over(splits, "random", chosen_at)}
    ]
    for way in ways:
        found = every[way]
        lines.append({
            "way": way, **_curve(splits, way, budgets), over: _over(splits, way, chosen_at),
            "over random": _interval(found.difference), "p": f"{adjusted['all', way]:.3f}",
            "p, Nadeau-Bengio": f"{found.corrected:.2f}", "percentile": f"{found.percentile:.2f}",
            "splits ahead": f"{found.ahead} of {len(splits)}",
            "as random at the end": _number(needed(splits, way, budgets)),
        })  # fmt: skip
    by_budget = [
        {"way": way} | {f"M = {budget}": f"{_interval(single[way, budget].difference)}, p = {adjusted[way, budget]:.3f}"
                        for budget in chosen_at}
        for way in ways
    ]  # fmt: skip
    return "\n\n".join([
        f"{len(splits)} splits, {study['draws']} random draws each, "
        f"{len({one for split in splits for one in split.subjects})} subjects tested",
        markdown(lines), markdown(by_budget), markdown(_sanity(splits, ways, chosen_at)), _faithful(splits, budgets),
        _ceiling(splits, budgets[-1]),
    ])  # fmt: skip


def _curve(splits: Sequence[Split], way: str, budgets: Sequence[int]) -> dict[str, str]:
    return {f"M = {b}": f"{np.mean([_mean(split, way, b) for split in splits]):.3f}" for b in budgets}


def _over(splits: Sequence[Split], way: str, budgets: Sequence[int]) -> str:
    return f"{np.mean([[_mean(split, way, b) for b in budgets] for split in splits]):.3f}"


def _interval(found: paired.Difference) -> str:
    return f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _number(value: float) -> str:
    return "more" if math.isinf(value) else f"{value:.1f}"


def _sanity(splits: Sequence[Split], ways: Sequence[str], budgets: Sequence[int]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for way in ("random", *ways):
        line: dict[str, object] = {"way": way}
        for budget in budgets:
            told = [
                split.checks[name, budget]
                for split in splits
                for name, number in split.checks
                if number == budget and (name == way or (way == "random" and name.startswith("random ")))
            ]
            near, volumes = np.mean(told, axis=0)
            line |= {f"distance, M = {budget}": f"{near:.3f}", f"volumes, M = {budget}": f"{volumes:.2f}"}
        lines.append(line)
    return lines


def _faithful(splits: Sequence[Split], budgets: Sequence[int]) -> str:
    own = {b: float(np.mean([_mean(split, "random", b) for split in splits])) for b in budgets}
    common = [b for b in budgets if b in FULL_RECIPE]
    rises = [
        f"{b}: {100 * (own[b] - own[a]):+.1f} here, {100 * (FULL_RECIPE[b] - FULL_RECIPE[a]):+.1f} by the full recipe"
        for a, b in pairwise(common)
    ]
    spread = {b: float(np.mean([draws_of(split, [b]).each.std(ddof=1) for split in splits])) for b in budgets[1:]}
    training = math.sqrt(np.mean([split.again for split in splits]) / 2)
    return (
        f"Dice points that doubling the labels gains, to {'; to '.join(rises)}. Standard deviation over random draws "
        f"of a split: {', '.join(f'{100 * value:.1f} at {b}' for b, value in spread.items())}; of training "
        f"again on the same labels {100 * training:.1f}."
    )


def _ceiling(splits: Sequence[Split], last: int) -> str:
    gains = [float(of_way(s, BEST, [last]).mean() - draws_of(s, [last]).each.mean()) for s in splits]
    seen = [float(draws_of(s, [last]).each.max() - draws_of(s, [last]).each.mean()) for s in splits]
    return (
        f"The best of the random draws at {last}, by the test subjects, trained anew: {100 * np.mean(gains):+.1f} "
        f"points over the mean draw ({100 * np.mean(seen):+.1f} before it was trained anew)."
    )


def draw(out: Path, file: Path) -> None:
    """The curve: each way over the band of random draws."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lemis"
    from matplotlib import pyplot as plt

    study, splits = read(out)
    budgets = study["budgets"]
    figure, axes = plt.subplots(figsize=(7, 4))
    names = sorted({way for way, _ in splits[0].dice if way.startswith("random ")})
    middle = np.array([_mean_of(splits, names, budget) for budget in budgets])
    axes.axhline(0, color="black", linewidth=1.5, label="random, mean")
    apart = [
        [split.dice[name, b].mean() - draws_of(split, [b]).each.mean() for split in splits for name in names]
        for b in budgets
    ]
    low, high = np.quantile(apart, [0.1, 0.9], axis=1)
    axes.fill_between(budgets, 100 * low, 100 * high, color="0.88", label="random, 8 of 10 draws")
    for way in splits[0].ways:
        curve = np.array([np.mean([_mean(split, way, budget) for split in splits]) for budget in budgets])
        axes.plot(budgets, 100 * (curve - middle), marker="o", markersize=4, label=way.replace("_", " "))
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.set_xlabel("labelled subjects")
    axes.set_ylabel("Dice points over the mean random draw")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def _mean_of(splits: Sequence[Split], names: Sequence[str], budget: int) -> float:
    return float(np.mean([[split.dice[name, budget].mean() for name in names] for split in splits]))
