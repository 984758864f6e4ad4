"""The epochs of a training as a person sees them: a stage of the progress, or lines where no one sees its note."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyro_vae import progress
from pyro_vae.inference import Record

_LINES = 20


@contextmanager
def progress_bar(epochs: int, done: int) -> Iterator[Callable[[Record], None]]:
    """Inside, a function that shows the record of an epoch.

    Args:
        epochs: how many there will be.
        done: how many there were before.
    """
    shows_lines = not progress.shows_notes()
    with progress.stage("epochs", total=epochs, done=done) as training:

        def show(record: Record) -> None:
            if shows_lines:
                _line(record, epochs)
            training.reach(record.epoch, _sentence(record))

        yield show
    if training.note and not shows_lines:
        print(f"epoch {training.done:.0f}/{epochs}  {training.note}", flush=True)


def _line(record: Record, epochs: int) -> None:
    if record.epoch % max(1, epochs // _LINES) == 0 or record.epoch in (1, epochs):
        print(f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  {_sentence(record)}", flush=True)


def _sentence(record: Record) -> str:
    parts = f"reconstruction {record.valid_reconstruction:.3f}"
    if math.isfinite(record.valid_kl):  # a plain autoencoder has neither KL nor ELBO
        parts = f"ELBO {record.valid_elbo:.3f} ({parts}, KL {record.valid_kl:.3f})"
    weight = "" if record.kl_weight == 1.0 else f" at KL weight {record.kl_weight:.2f}"
    return f"loss {record.loss:.3f}{weight}  validation {parts}{'  best' if record.best else ''}"
