"""Signals that ask a script to end while it has work to keep first."""

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
    """Records whether a signal has come. Call it to ask.

    Args:
        agree: makes one number from the signals that many processes got, 0 for none.

    Attributes:
        number: the number of the signal; None before it.
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
    """Notes the first SIGINT or SIGTERM in the block; a second one ends the block at once.

    The signal acts at the end of the block, when there was time to keep things. Only the main thread of a process gets
    signals: in other threads nothing is ever noted.

    Args:
        agree: see `Interruption`. Where one of many processes got a signal, all of them get it at the end of the block.

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
        with suppress(OSError, AttributeError, ValueError):  # no one may be listening: the step is kept all the same
            # Not print: the signal can interrupt another print.
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
