"""Signals that ask a script to end, where the work in hand is to be kept first."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a signal has come: called, it says so.

    Attributes:
        number: of the signal, None before it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None


@contextmanager
def noted() -> Iterator[Interruption]:
    """The first SIGINT or SIGTERM inside is noted; a second one ends the block at once.

    What the signal would have done is done at the end of the block, when there was time to keep things. Only the main
    thread of a process gets signals: in others nothing is ever noted.

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
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if interruption():
            _put_back(before)
            signal.raise_signal(number)
        interruption.number = number
        with suppress(OSError, AttributeError, ValueError):  # nobody may be listening: the step is kept all the same
            # Not print: the signal may have come in the middle of one.
            os.write(sys.__stderr__.fileno(), b"interrupted: keeping this step; a second signal ends at once\n")  # type: ignore[union-attr]

    before |= {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interruption
    finally:
        _put_back(before)
    if interruption.number is not None:
        signal.raise_signal(interruption.number)


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
