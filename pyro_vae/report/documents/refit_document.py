"""The document of a refit: one encoder and decoder under the prior before and the prior after."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pyro_vae.report.cells import fixed
from pyro_vae.report.document import Column, Document, Notes, Section, Table


class Change(NamedTuple):
    """A quantity under both priors, and its change.

    Attributes:
        label: what it is.
        before: the estimate under the old prior, as JSON has it.
        after: the same under the new prior.
        mean: the mean change.
        error: its standard error over the data.
    """

    label: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    mean: float
    error: float


def refit_document(old: str, new: str, tables: Sequence[Table]) -> Document:
    """Makes the document of a refit: the two priors by name, and a table for each set of data."""
    about = f"prior {old} -> {new}, nats per datum"
    return Document("Refit", (Section("", (Notes.of([about]), *tables)),))


def change_table(name: str, changes: Sequence[Change], foot: Iterable[str]) -> Table:
    """Makes a table of one set of data.

    Args:
        name: the name of the set.
        changes: its rows.
        foot: sentences below it.
    """
    first = changes[0].before
    head = f"{name}, {first['num_data']} data, K = {first['num_samples']}"
    heads = (("before", 10), ("± MC", 8), ("after", 10), ("± MC", 8), ("change", 10), ("± data", 8))
    columns = (Column(head, width=34), *(Column(text, True, width) for text, width in heads))
    return Table(name, columns, [_row(change) for change in changes], foot=tuple(foot))


def _row(change: Change) -> tuple[Any, ...]:
    sides = ((side["mean"], side["monte_carlo_error"]) for side in (change.before, change.after))
    numbers = (fixed(number) for side in sides for number in side)
    return (change.label, *numbers, fixed(change.mean, 3, "+"), fixed(change.error))
