"""A progress bar on a terminal, else lines: what a person sees while a run goes on."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyro_vae.inference import Record

_LINES = 20


@contextmanager
def progress_bar(epochs: int, done: int) -> Iterator[Callable[[Record], None]]:
    """Inside, a function that shows the record of an epoch.

    Args:
        epochs: how many there will be.
        done: how many there were before.
    """
    console = Console()
    if not console.is_terminal:
        yield lambda record: _line(record, epochs)
        return
    columns = (
        TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=epochs, completed=done)
        yield lambda record: bar.update(task, completed=record.epoch, description=_sentence(record))


def _line(record: Record, epochs: int) -> None:
    if record.epoch % max(1, epochs // _LINES) == 0 or record.epoch in (1, epochs):
        print(f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  {_sentence(record)}", flush=True)


def _sentence(record: Record) -> str:
    parts = f"reconstruction {record.valid_reconstruction:.3f}"
    if math.isfinite(record.valid_kl):  # a plain autoencoder has neither KL nor ELBO
        parts = f"ELBO {record.valid_elbo:.3f} ({parts}, KL {record.valid_kl:.3f})"
    weight = "" if record.kl_weight == 1.0 else f" at KL weight {record.kl_weight:.2f}"
    return f"loss {record.loss:.3f}{weight}  validation {parts}{'  best' if record.best else ''}"
