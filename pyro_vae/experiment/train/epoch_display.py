"""How epochs are shown during a training. The caller that starts it chooses; by default nothing is shown."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pyro_vae.inference import Record

# Takes the number of epochs and of those that are done, and gives a function that shows one record.
Display = Callable[[int, int], AbstractContextManager[Callable[[Record], None]]]


def nothing(epochs: int, done: int) -> AbstractContextManager[Callable[[Record], None]]:
    """Shows nothing."""
    return nullcontext(lambda record: None)
