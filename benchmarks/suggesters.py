"""(p) How long a way to choose takes: ten of 250 and of 1,000 subjects with 32 features, some of them labelled."""

from __future__ import annotations

import statistics
import time

import numpy as np

from lemis import plugins
from lemis.promises import suggesters

TITLE = "(p) ten subjects chosen of many with 32 features, 20 of them labelled: core-seconds"
ROUNDS = 3
FEW, MANY = 250, 1000


def rows() -> list[dict[str, object]]:
    """One row a way to choose; medians over interleaved rounds."""
    ways = plugins.names(suggesters.FOLDER)
    took: dict[tuple[str, int], list[float]] = {(way, size): [] for way in ways for size in (FEW, MANY)}
    for number in range(ROUNDS):
        for (way, size), seconds in took.items():
            seconds.append(_core_seconds(suggesters.Subject(way), size, number))
    return [
        {
            "way": way,
            **{f"of {size:,}": f"{statistics.median(took[way, size]):.3f}" for size in (FEW, MANY)},
            "most of the rounds": f"{max(took[way, MANY]):.3f}",
        }
        for way in ways
    ]


<<<<<<< HEAD
def _core_seconds(subject: suggesters.Subject, size: int, seed: int) -> float:
    features = np.random.default_rng(seed).normal(size=(size, 32))
    given = suggesters.pool(size, 20)._replace(embedding=features)
    begin = time.process_time()
    subject.suggest(given, 10)
    return time.process_time() - begin
=======
def main() -> None:
    """Simulate what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("work", type=Path)
    run.add_argument("out", type=Path)
    run.add_argument("--jobs", type=int, default=1, help="splits side by side")
    run.add_argument("overrides", nargs="*", help="splits=20 draws=10 ...")
    table = commands.add_parser("table")
    table.add_argument("out", type=Path)
    table.add_argument("--figure", type=Path, help="a file for the curve")
    given = parser.parse_args()
    if given.command == "table":
        from benchmarks import suggesters_table

        print(suggesters_table.tables(given.out))
        if given.figure:
            suggesters_table.draw(given.out, given.figure)
        return
    study = resolve(Study, parse_overrides(given.overrides))
    given.out.mkdir(parents=True, exist_ok=True)
    files.write(given.out / "study.json", json.dumps(asdict(study)).encode())
    _features(given.work, given.out, study)  # once, for all splits
    _embeddings(given.work, given.out, study)
    simulate = partial(_simulate, given.work, given.out, study)
    if given.jobs == 1:
        for split in range(study.splits):
            simulate(split)
    else:
        with multiprocessing.get_context("spawn").Pool(given.jobs) as workers:
            workers.map(simulate, range(study.splits), chunksize=1)


def _simulate(work: Path, out: Path, study: Study, split: int) -> None:
    torch.set_num_threads(1)
    one = Split(work, out / f"split-{split:02}.jsonl", study, split, _features(work, out, study))
    for way, labelled in one.rounds():
        one.note({"kind": "round", "way": way, "labelled": labelled, **one.coverage(labelled)})
    print(f"split {split} is done", flush=True)


@torch.inference_mode()
def _features(work: Path, out: Path, study: Study) -> list[Tensor]:
    """Of each scan in the store (n, h, w, components + 3) float16: what the frozen encoder makes of it, and places."""
    file = out / "features.safetensors"
    store = open_store(work / "prepared")
    if not file.exists():
        run = work / "runs" / study.pretrained
        network = trained(run, read_pretrained(run, NO_TRUST), CPU)
        columns = [
            _columns(network, torch.from_numpy(np.array(store.image(i))).float()) for i in range(len(store.scans))
        ]
        some = torch.cat([rows.flatten(0, 2)[:: max(1, rows[..., 0].numel() // 300)].float() for rows in columns])
        mean, std = some.mean(0), some.std(0) + 1e-6
        _, scale, axes = torch.linalg.svd((some - mean) / std, full_matrices=False)
        kept = axes[: study.components].T / (scale[: study.components] / math.sqrt(len(some)))
        reduced = [(((rows.float() - mean) / std) @ kept).clamp(-6, 6).half() for rows in columns]
        made = {store.scans[i].id: torch.cat([rows, _places(rows.shape[:3])], -1) for i, rows in enumerate(reduced)}
        with files.replacing(file) as temporary:
            save_file(made, temporary)
    found = load_file(file)
    return [found[scan.id] for scan in store.scans]


def _embeddings(work: Path, out: Path, study: Study) -> Mapping[str, Array]:
    """Of each scan by id, as `lemis suggest` sees it."""
    used = Used(study.pretrained, ())
    return measuring.measure(work, open_store(work / "prepared"), used, (), out, CPU, NO_TRUST).features


def _columns(network: Backbone, image: Tensor) -> Tensor:
    """(n, 1, h, w) -> (n, h, w, channels of all maps) float16."""
    maps = [F.interpolate(one, image.shape[2:], mode="bilinear") for one in padded_maps(network, image)]
    return torch.cat(maps, 1).movedim(1, -1).half().contiguous()


def _places(shape: Sequence[int]) -> Tensor:
    """(n, h, w, 3) from -2 to 2 along each axis of a scan."""
    axes = [(torch.arange(size) + 0.5) / size * 4 - 2 for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).half()


class State(NamedTuple):
    """What networks of some labels say."""

    dice: dict[str, list[float]]  # of each test subject, by structure
    doubts: dict[str, Uncertainty]  # of scans of the pool without a label


@final
class Split:
    """One pool and its test subjects; what was trained is kept in a file, a line for each network."""

    def __init__(self, work: Path, file: Path, study: Study, number: int, features: list[Tensor]) -> None:
        self._work, self._file, self._study, self._number = work, file, study, number
        self.store = open_store(work / "prepared")
        self._features = features
        people = sorted({scan.subject for scan in self.store.scans})
        order = np.random.default_rng([1, number]).permutation(people).tolist()
        tested = round(study.test_share * len(people))
        self.test, self.pool = sorted(order[:tested]), sorted(order[tested:])
        self.first = order[tested:][: study.budgets[0]]
        self._known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    # ------------------------------------------------------------------------------------------------------ rounds

    def rounds(self) -> Iterator[tuple[str, list[str]]]:
        """Every way at every budget: who is labelled then, once the network is trained."""
        for draw in range(self._study.draws):
            yield from self._trained(f"random {draw}", partial(self._drawn, draw=draw))
        for way in self._study.ways:
            yield from self._trained(way, partial(self._suggested, way))
        last = [self._drawn(self.first, self._study.budgets[-1] - len(self.first), d) for d in range(self._study.draws)]
        means = [np.nanmean([*self.state([*self.first, *more]).dice.values()]) for more in last]
        best = [*self.first, *last[int(np.argmax(means))]]
        self.dice(best, member=1)
        yield "best draw, trained anew", sorted(best)

    def _trained(self, way: str, choose: Any) -> Iterator[tuple[str, list[str]]]:
        have = list(self.first)
        for budget in self._study.budgets:
            if budget > len(have):
                have = [*have, *choose(have, budget - len(have))]
            self.state(have)
            yield way, sorted(have)

    def _drawn(self, have: Sequence[str], more: int, draw: int) -> list[str]:
        left = [one for one in self.pool if one not in self.first]
        order: list[str] = np.random.default_rng([2, self._number, draw]).permutation(left).tolist()
        done = len(have) - len(self.first)
        return order[done : done + more]

    def _suggested(self, way: str, have: Sequence[str], more: int) -> list[str]:
        module = plugins.load("suggesters", way)
        doubts = self.state(have, doubts=True).doubts if getattr(module, "NETWORKS", 0) else {}
        told = self._subjects(have, doubts)
        picks = module.suggest(told.pool, more, module.Settings(), self._number)
        return [told.pool.names[pick.subject] for pick in picks]

    def _subjects(self, have: Sequence[str], doubts: dict[str, Uncertainty]) -> Subjects:
        inside, marked = set(self.pool), set(have)
        scans = [
            Seen(scan.id, scan.subject, scan.subject in marked, self._seen[scan.id], doubts.get(scan.id))
            for scan in self.store.scans
            if scan.subject in inside
        ]
        return pools.subjects(scans, self.store.label_names[1:], MEMBERS if doubts else 0)

    @cached_property
    def _seen(self) -> Mapping[str, Array]:
        return _embeddings(self._work, self._file.parent, self._study)

    # ---------------------------------------------------------------------------------------------------- training

    def note(self, line: dict[str, Any]) -> None:
        """Keep a line, once."""
        if line not in self._known:
            with self._file.open("a") as out:
                out.write(json.dumps(line) + "\n")
            self._known.append(line)

    def state(self, have: Sequence[str], *, doubts: bool = False) -> State:
        """What a network of these labels scores and, where asked for, how uncertain both are about the rest."""
        labelled = sorted(have)
        if not doubts:
            return State(self.dice(labelled, member=0), {})
        known = self._find("doubts", labelled, 0)
        if known is None:
            networks = [self._network(labelled, member) for member in range(MEMBERS)]
            begun = time.process_time()
            left = [i for i, scan in enumerate(self.store.scans) if scan.subject in {*self.pool} - {*labelled}]
            known = {
                "kind": "doubts", "labelled": labelled, "member": 0,
                "doubts": {self.store.scans[i].id: self._doubts(networks, i) for i in left},
                "core_seconds": round(time.process_time() - begun, 2),
            }  # fmt: skip
            self.note(known)
        found = {id: Uncertainty(np.array(row[:-1]), row[-1]) for id, row in known["doubts"].items()}
        return State(self.dice(labelled, member=0), found)

    def dice(self, have: Sequence[str], *, member: int) -> dict[str, list[float]]:
        """Of the test subjects, by a network that is trained where that was not done before."""
        known = self._find("dice", sorted(have), member)
        if known is None:
            self._network(sorted(have), member)
            known = self._find("dice", sorted(have), member)
            assert known is not None, "it was noted"
        found: dict[str, list[float]] = known["dice"]
        return found

    def _find(self, kind: str, labelled: list[str], member: int) -> dict[str, Any] | None:
        wanted = (kind, labelled, member)
        return next((o for o in self._known if (o["kind"], o["labelled"], o.get("member")) == wanted), None)

    def _network(self, labelled: list[str], member: int) -> nn.Module:
        """Trained on their labels; scored, where it was not."""
        begun = time.process_time()
        network = self._tuned([i for i, scan in enumerate(self.store.scans) if scan.subject in labelled], member)
        if self._find("dice", labelled, member) is None:
            dice = {subject: self._scored(network, subject) for subject in self.test}
            spent = round(time.process_time() - begun, 2)
            self.note({"kind": "dice", "labelled": labelled, "member": member, "dice": dice, "core_seconds": spent})
        return network

    def _tuned(self, scans: Sequence[int], member: int) -> nn.Module:
        study = self._study
        torch.manual_seed(member)
        points = torch.cat([self._features[i].flatten(0, 2) for i in scans])
        truth = torch.cat([self._label(i).flatten() for i in scans])
        inside = torch.nonzero(truth)[:, 0]
        classes = self.store.num_classes
        layers = [nn.Linear(points.shape[1], study.hidden), nn.ReLU(), nn.Linear(study.hidden, classes)]
        network = nn.Sequential(*layers)
        optimiser = torch.optim.AdamW(network.parameters(), study.learning_rate, weight_decay=study.weight_decay)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, study.steps)
        few = study.pixels // 4
        for _ in range(study.steps):
            anywhere = torch.randint(len(points), (study.pixels - few,))
            rows = torch.cat([anywhere, inside[torch.randint(len(inside), (few,))]])
            said, wanted = network(points[rows].float()), truth[rows]
            one_hot, probable = F.one_hot(wanted, classes).float(), said.softmax(1)
            dice = 2 * (probable * one_hot).sum(0) / (probable.sum(0) + one_hot.sum(0))
            loss = F.cross_entropy(said, wanted) + 1 - dice[1:].mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
        return network.eval()

    def _label(self, scan: int) -> Tensor:
        label = self.store.label(scan)
        assert label is not None, "all are labelled"
        return torch.from_numpy(label.astype(np.int64))

    @torch.inference_mode()
    def _doubts(self, networks: Sequence[nn.Module], scan: int) -> list[float]:
        """As ``selection.uncertainty`` measures it: disagreement on each structure, then the entropy."""
        each = torch.stack([network(self._features[scan].float()).softmax(-1) for network in networks])
        agreement = Agreement(len(networks), self.store.num_classes)
        agreement.add(each.argmax(-1).to(torch.uint8).numpy())
        mean = each.mean(0)
        there = mean[..., 0] < 0.5
        entropy = -torch.special.xlogy(mean, mean).sum(-1)[there]
        return [*map(float, agreement.disagreement()), float(entropy.mean()) if len(entropy) else 0.0]

    @torch.inference_mode()
    def _scored(self, network: nn.Module, subject: str) -> list[float]:
        """Dice of each structure on the prepared grid, the mean over the subject's scans."""
        every = []
        for i, scan in enumerate(self.store.scans):
            if scan.subject == subject:
                found, label = network(self._features[i].float()).argmax(-1), self._label(i)
                every.append([_dice(found == c, label == c) for c in range(1, self.store.num_classes)])
        return [round(float(value), 5) for value in np.nanmean(every, axis=0)]

    # ------------------------------------------------------------------------------------------------------ checks

    def coverage(self, have: Sequence[str]) -> dict[str, float]:
        """How near the pool is to what is labelled, and how much of the range of its true volumes that spans."""
        pool = self._subjects(have, {}).pool
        apart = distances(pool.embedding)
        near = apart[~pool.labelled][:, pool.labelled].min(axis=1)
        inside = [pool.names.index(one) for one in have]
        volumes = np.array([self._volumes[name] for name in pool.names])
        span = np.ptp(volumes[inside], axis=0) / np.ptp(volumes, axis=0)
        usual = float(np.median(apart[np.triu_indices(len(apart), 1)]))
        return {"near": round(float(near.mean()) / usual, 4), "volumes": round(float(span.mean()), 4)}

    @cached_property
    def _volumes(self) -> dict[str, list[float]]:
        found: dict[str, list[list[float]]] = {}
        for i, scan in enumerate(self.store.scans):
            label, thick = self._label(i), scan.canonical_spacing_mm[2]  # pixels are of one size
            voxels = [float((label == c).sum()) for c in range(1, self.store.num_classes)]
            found.setdefault(scan.subject, []).append([thick * number for number in voxels])
        return {subject: np.mean(rows, axis=0).tolist() for subject, rows in found.items()}


def _dice(found: Tensor, true: Tensor) -> float:
    both = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / both if both else math.nan


if __name__ == "__main__":
    main()
>>>>>>> 266c392 (Ways to choose: seconds on 1,000 subjects; what four picks hit, measured anew; an audit in the list that says so)
