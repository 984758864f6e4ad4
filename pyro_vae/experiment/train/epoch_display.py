"""How epochs are shown while a run goes on. Whoever starts a training says so; otherwise nothing is shown."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pyro_vae.inference import Record

# Of the number of epochs and of those that are done: inside, a function that shows one record.
Display = Callable[[int, int], AbstractContextManager[Callable[[Record], None]]]


def nothing(epochs: int, done: int) -> AbstractContextManager[Callable[[Record], None]]:
    """Shows nothing."""
    return nullcontext(lambda record: None)
