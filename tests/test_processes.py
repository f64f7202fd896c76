"""Two processes that share a batch compute what one process with the whole batch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import draws  # noqa: F401  (the second process has the seeds of the first)
from lemis import processes
from lemis.layers.basic import BatchNorm, centre
from lemis.parts.contrast import contrast, same

WORLD = 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def share(x: Tensor) -> Tensor:
    """Rows of this process."""
    size = len(x) // processes.count()
    return x[processes.rank() * size : (processes.rank() + 1) * size].clone()


def compute() -> dict[str, Any]:
    """All figures, from the rows of this process."""
    found: dict[str, Any] = {}

    z = share(random(8, 5)).requires_grad_()
    group = processes.gather(share(torch.tensor([0, 1, 0, 2, 1, 2, 0, 1])))
    loss = contrast(processes.gather(z), same(group), 0.2)
    loss.backward()
    found["contrast"] = {"loss": loss.detach(), "rows z": z.grad / processes.count()}  # DDP divides by their number
    found["gather"] = {"flags": processes.gather(share(random(8, 3)) > 1), "numbers": group}

    x = share(random(8, 3)).requires_grad_()
    (processes.gather(x).T * random(3, 8, seed=9)).square().sum().backward()  # the gradient comes back transposed
    found["transposed"] = {"rows x": x.grad / processes.count()}

    for dims, shape in ((2, (8, 3, 4, 5)), (3, (8, 3, 2, 4, 5))):
        norm = BatchNorm(3)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        x = share(random(*shape, seed=dims)).requires_grad_()
        y = norm(x)
        y = norm(y + x)
        (y * share(random(*shape, seed=9))).sum().backward()
        found[f"norm {dims}"] = {
            "rows y": y.detach(),
            "rows x": x.grad,
            "sum weight": norm.weight.grad,
            "sum bias": norm.bias.grad,
            **dict(norm.named_buffers()),
            "rows eval": norm.eval()(x).detach(),
        }

    for scale in (False, True):
        x = share(random(8, 3, 4, 5)).requires_grad_()
        y = centre(x, scale=scale)
        (y * share(random(8, 3, 4, 5, seed=9))).sum().backward()
        found[f"centre {scale}"] = {"rows y": y.detach(), "rows x": x.grad}
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    assert (processes.rank(), processes.count()) == (rank, WORLD)
    torch.save(compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_one_process_is_left_alone() -> None:
    x = random(3, 2)
    assert (processes.rank(), processes.count()) == (0, 1)
    assert processes.gather(x) is x
    assert processes.total(x) is x


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["contrast", "gather", "transposed", "norm 2", "norm 3", "centre False", "centre True"]
)
def test_two_processes_equal_one(what: str, of_two: list[dict[str, Any]]) -> None:
    for name, expected in compute()[what].items():
        values = [found[what][name] for found in of_two]
        if name.startswith("rows "):
            whole = torch.cat(values)
        elif name.startswith("sum "):
            whole = torch.stack(values).sum(0)
        else:
            assert torch.equal(*values), f"{name}: the processes disagree"
            whole = values[0]
        torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
