"""Signals that ask a script to end, where the work in hand is to be kept first."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pyro_vae import system


class Interruption:
    """Whether a signal has come: called, it says so.

    Args:
        agree: of many processes, makes one number of those that each of them got, 0 where none came.

    Attributes:
        number: of the signal, None before it.
    """

    def __init__(self, agree: Callable[[int], int] = lambda number: number) -> None:
        self._agree = agree
        self.number: int | None = None

    def __call__(self) -> bool:
        if agreed := self._agree(self.number or 0):
            self.number = agreed
        return agreed != 0


@contextmanager
def noted(agree: Callable[[int], int] = lambda number: number) -> Iterator[Interruption]:
    """The first SIGINT or SIGTERM inside is noted; a second one ends the block at once.

    What the signal would have done is done at the end of the block, when there was time to keep things. Only the main
    thread of a process gets signals: in others nothing is ever noted.

    Args:
        agree: see `Interruption`; where one of many processes got a signal, all of them do at the end of the block.

    Example:
        >>> try:
        ...     with noted() as stop:
        ...         signal.raise_signal(signal.SIGINT)
        ...         print("saved:", stop())
        ... except KeyboardInterrupt:
        ...     print("interrupted")
        saved: True
        interrupted
    """
    interruption = Interruption(agree)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.number:
            _put_back(before)
            signal.raise_signal(number)
        interruption.number = number
        with suppress(OSError, AttributeError, ValueError):  # nobody may be listening: the step is kept all the same
            # Not print: the signal may have come in the middle of one.
            os.write(sys.stderr.fileno(), b"interrupted: keeping this step; a second signal ends at once\n")

    before |= {number: signal.signal(number, note) for number in system.STOPPING}
    try:
        yield interruption
    finally:
        _put_back(before)
    if interruption.number is not None:
        signal.raise_signal(interruption.number)


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
