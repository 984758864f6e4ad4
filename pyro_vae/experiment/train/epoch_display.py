"""How epochs are shown during a training, and how notes are printed. The caller that starts it chooses.

By default no epochs are shown, and notes are printed as they are.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pyro_vae.inference import Record

# Takes the number of epochs and of those that are done, and gives a function that shows one record.
Display = Callable[[int, int], AbstractContextManager[Callable[[Record], None]]]


def nothing(epochs: int, done: int) -> AbstractContextManager[Callable[[Record], None]]:
    """Shows nothing."""
    return nullcontext(lambda record: None)


# Takes a note or a warning, a sentence that may name arguments in backticks.
Speak = Callable[[str], None]


def to_stderr(sentence: str) -> None:
    """Prints a note as it is."""
    print(sentence, file=sys.stderr)
