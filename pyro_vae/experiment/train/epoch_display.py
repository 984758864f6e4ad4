"""How epochs are shown during a training, and how notes are printed.

The caller chooses. By default no epochs are shown, and notes are printed as they are."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pyro_vae.inference import Record

# Takes the number of epochs and of those that are done, and gives a function that shows one record.
Display = Callable[[int, int], AbstractContextManager[Callable[[Record], None]]]


def nothing(epochs: int, done: int) -> AbstractContextManager[Callable[[Record], None]]:
    """Shows nothing."""
    return nullcontext(lambda record: None)


# Turns a sentence, which may name arguments in backticks, into words for its reader.
Wording = Callable[[str], str]


def as_it_is(sentence: str) -> str:
    """Leaves a sentence in the library's own words."""
    return sentence
