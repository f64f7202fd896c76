"""A memory bank: what a method keeps of every slice of the data set, in a table that is the same in all processes."""

from __future__ import annotations

from torch import Tensor

from lemis import processes
from lemis.errors import UsageError


def entries(index: Tensor, size: int, setting: str) -> Tensor:
    """Rows of the table for the slices of this step, of all processes: (B,) -> (count * B,).

    A method is built before it sees the data, so its table has a fixed size; it must hold every slice.

    Args:
        index: (B,) int64, ``Batch.index`` of this process.
        size: Rows of the table.
        setting: The name of the setting that gives the size, for the message.

    Raises:
        UsageError: A slice beyond the table; says which size would do.
    """
    index = processes.gather(index)
    last = int(index.max())
    if last >= size:
        raise UsageError(
            f"slice {last} of the data set, and {setting}={size}",
            allowed="one entry for each slice",
            next=f"method.{setting}={1 << last.bit_length()}",
        )
    return index
