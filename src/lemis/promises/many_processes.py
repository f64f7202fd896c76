"""Promises that take several processes: what one computes on a batch, two compute on halves of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemis.contracts import Batch, Outcome
from lemis.promises import auxiliaries, methods, semis
from lemis.promises.material import Material, in_double, take, total
from lemis.promises.trying import expect
from lemis.sampling.draw import Rows

Case = Sequence[Any]  # the arguments of a step, plain values
Found = dict[str, Tensor]
WORLD = 2


def two_processes_equal_one(subject: methods.Subject) -> None:
    """Losses, gradients and buffers of a step are those of one process that sees the whole batch. Gather what is
    compared over the batch with `lemis.processes`, and average what is averaged over the batch, not over parts.
    """
    batch = subject.material.uneven if subject.dims == 2 else subject.material.regions
    case: Case = (subject.name, subject.dims, {})
    first, second = (each[0] for each in in_two([case], subject.material.folder.parent, of_methods, batch))
    expect_of_methods(method_step(batch, *case), first, second)


def two_processes_train_as_one(subject: auxiliaries.Subject) -> None:
    """Losses, gradients and embeddings of a step are those of one process that sees the whole batch, in each of them,
    also where one of them has no foreground. Gather with `lemis.processes`.
    """
    for kind in ("random", "half without", "no foreground"):
        case: Case = (subject.name, auxiliaries.USUAL[subject.dims], {}, kind)
        expected = auxiliary_step(*case)
        for found in in_two([case], subject.folder, of_auxiliaries):
            expect_same(found[0], expected, relative=1e-6, absolute=1e-9)


def two_processes_fine_tune_as_one(subject: semis.Subject) -> None:
    """Losses and gradients of a step are those of one process that sees the whole batch, early and late in training.
    Pair rows 2j and 2j + 1 only, and let `labelled.losses` and `lemis.processes.total` add up over processes.
    """
    for progress in (0.0, semis.LATE):
        case: Case = (subject.name, subject.dims, {}, progress)
        first, second = (each[0] for each in in_two([case], subject.folder, of_semis))
        expect_of_methods(semi_step(*case), first, second)


def method_step(batch: Batch, name: str, dims: int, layer: Mapping[str, Any], rank: int = 0, world: int = 1) -> Found:
    """Losses, gradients and buffers of one step in float64; a process of several sees its share of the rows."""
    method = methods.Subject(name, dims, Material(Path())).build(layer).double()
    method.after_step(0.5)
    model = DistributedDataParallel(method) if world > 1 else method
    batch = in_double(batch)
    size = len(batch.image) // world
    outcome = model(take(batch, slice(rank * size, (rank + 1) * size)), Rows(5, 7, "cpu", rank, world))
    total(outcome).backward()
    return _found(outcome, method)


def auxiliary_step(
    name: str, network: str, layer: Mapping[str, Any], kind: str, rank: int = 0, world: int = 1
) -> Found:
    """Losses, gradients, embeddings and buffers of one step in float64; a process of several sees its share."""
    both = auxiliaries.Both(name, network, layer).double()
    model = DistributedDataParallel(both) if world > 1 else both
    image, label = auxiliaries.batch(network, kind)
    here = slice(rank * len(image) // world, (rank + 1) * len(image) // world)
    outcome = model(image[here].double(), label[here], Rows(5, 7, "cpu", rank, world))
    total(outcome).backward()
    return _found(outcome, both) | {f"embedding {key}": z for key, z in outcome.embeddings.items()}


def semi_step(name: str, dims: int, layer: Mapping[str, Any], progress: float, rank: int = 0, world: int = 1) -> Found:
    """Losses, gradients and buffers of one step in float64; a process of several sees its share of the rows."""
    subject = semis.Subject(name, dims)
    semi = subject.build(layer).double()
    if progress:
        semi.after_step(progress)
    model = DistributedDataParallel(semi) if world > 1 else semi
    batch = in_double(subject.batch)
    size = len(batch.image) // world
    outcome = model(take(batch, slice(rank * size, (rank + 1) * size)), Rows(5, 7, "cpu", rank, world))
    total(outcome).backward()
    return _found(outcome, semi)


def _found(outcome: Outcome, module: nn.Module) -> Found:
    found = {f"loss {key}": loss.detach() for key, loss in outcome.losses.items()}
    found |= {f"gradient {key}": p.grad for key, p in module.named_parameters() if p.grad is not None}
    return found | {f"buffer {key}": b for key, b in module.named_buffers()}


def expect_of_methods(expected: Found, first: Found, second: Found) -> None:
    """Each process has the losses of its rows, and both have one gradient.

    Raises:
        Broken: They are others than those of one process.
    """
    expect(first.keys() == second.keys(), "the processes have other losses, gradients or buffers than each other")
    mean = {key: (first[key] + second[key]) / 2 if key.startswith("loss") else first[key] for key in first}
    expect_same(mean, expected, relative=1e-5, absolute=1e-7)


def expect_same(found: Found, expected: Found, *, relative: float, absolute: float) -> None:
    """The same tensors up to rounding.

    Raises:
        Broken: They are not; names the first that is not.
    """
    differ = found.keys() ^ expected.keys()
    expect(not differ, f"only in one or in two processes: {', '.join(sorted(differ)[:4])}")
    for key, value in expected.items():
        try:
            torch.testing.assert_close(found[key], value, rtol=relative, atol=absolute)
        except AssertionError as error:
            expect(False, f"{key} of two processes: {' '.join(str(error).split())}")


def in_two(
    cases: Sequence[Case], folder: Path, work: Callable[[int, str], None], batch: Batch | None = None
) -> list[list[Found]]:
    """What each of two processes finds, for every case.

    Args:
        cases: Arguments of the step of ``work``.
        folder: Where the processes meet; files in it are overwritten.
        work: ``of_methods``, ``of_auxiliaries``, ``of_semis``, or a function of a module that calls it.
        batch: That of methods.
    """
    (folder / "meet").unlink(missing_ok=True)
    torch.save({"cases": list(cases), "batch": None if batch is None else _saved(batch)}, folder / "given.pt")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)  # type: ignore[attr-defined,no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def of_methods(rank: int, folder: str) -> None:
    """One of the processes that train with methods."""
    given = _met(rank, folder)
    batch = _unsaved(given["batch"])
    _leave(rank, folder, [method_step(batch, *(*case, rank, WORLD)) for case in given["cases"]])


def of_auxiliaries(rank: int, folder: str) -> None:
    """One of the processes that fine-tune with auxiliary losses."""
    given = _met(rank, folder)
    _leave(rank, folder, [auxiliary_step(*(*case, rank, WORLD)) for case in given["cases"]])


def of_semis(rank: int, folder: str) -> None:
    """One of the processes that fine-tune with unlabelled scans too."""
    given = _met(rank, folder)
    _leave(rank, folder, [semi_step(*(*case, rank, WORLD)) for case in given["cases"]])


def _met(rank: int, folder: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lemis")  # of PyTorch, of its own collectives
    dist.init_process_group("gloo", init_method=f"file://{os.path.abspath(folder)}/meet", rank=rank, world_size=WORLD)
    given: dict[str, Any] = torch.load(f"{folder}/given.pt", weights_only=True)
    return given


def _leave(rank: int, folder: str, found: list[Found]) -> None:
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _saved(batch: Batch) -> dict[str, Any]:
    """A batch as plain types, its neighbours too."""
    return {key: _saved(value) if isinstance(value, Batch) else value for key, value in batch._asdict().items()}


def _unsaved(fields: Mapping[str, Any]) -> Batch:
    values: dict[str, Any] = {
        key: _unsaved(value) if isinstance(value, dict) else value for key, value in fields.items()
    }
    return Batch(**values)
