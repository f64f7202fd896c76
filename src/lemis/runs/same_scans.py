"""Whether a run was trained on scans like those that are prepared now: with their channels, prepared as they are."""

from __future__ import annotations

from lemis.errors import UsageError
from lemis.preparation.store import Store
from lemis.settings import plain
from lemis.work_files.run import Model


def differences(model: Model, store: Store) -> list[tuple[str, object, object]]:
    """What differs, how it was in training, and how it is in the store."""
    pairs = (
        ("channels", list(model.channels), list(store.channels)),
        ("preparation", model.prepared, plain(store.settings)),
    )
    return [(what, had, has) for what, had, has in pairs if had != has]


def refuse_other_scans(name: str, model: Model, store: Store, *, next: str) -> None:
    """Refuse a run of other scans than those of a store.

    Args:
        name: Of the run.
        model: Its ``model.json``.
        store: The prepared scans.
        next: What to type instead.

    Raises:
        UsageError: Its scans had other channels, or were prepared otherwise.
    """
    for what, had, has in differences(model, store):
        raise UsageError(
            f"{name} was trained on scans with {what} {had}, those of {store.path} have {has}",
            allowed="runs that were trained on scans prepared like these",
            next=next,
        )
