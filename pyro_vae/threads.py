"""How many threads torch computes with: one for small networks, all cores for large ones.

Threads of torch wait for each other after every operation. On a quiet machine that costs a small network what the
second thread gains. While one other process is busy, a thread has no core to run on, the others wait for it, and a step
takes several times as long. So the number follows from the size of a step. It never follows from a stopwatch, since it
is a part of the last digits of every result. What a stopwatch finds is said, see `Pace`.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch

from pyro_vae import system

MOST_ON_ONE = 100_000_000  # multiplications of a step, up to which a second thread gains next to nothing
_PASSES = 3  # forward; backward, to the weights and to the inputs
_WINDOW = 1.0  # seconds over which the time of a step is averaged
_SLOW, _IN_A_ROW = 3.0, 3  # times the best window, and how many such windows: one of them can be a compiler's

_logger = logging.getLogger(__name__)
_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


@contextmanager
def computing(number: int) -> Iterator[None]:
    """A context in which torch computes with this many threads; the caller's number is restored at its end.

    Example:
        >>> with computing(1):
        ...     torch.get_num_threads()
        1
    """
    if number > (cores := system.cores()):
        _note_many(number, cores)
    told = _told.get()
    before, token = torch.get_num_threads(), _told.set([] if told is None else told)
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _told.reset(token)


def chosen(number: Callable[[], int]) -> int:
    """Returns the caller's own number of threads, by `OMP_NUM_THREADS` or `torch.set_num_threads`, or else this one.

    Args:
        number: finds it; called only if the caller has chosen none.

    Example:
        >>> with computing(3 * system.cores()):
        ...     chosen(lambda: 1) in (1, 3 * system.cores())
        True
    """
    now = torch.get_num_threads()
    return now if _is_callers(now) else number()


def by_size(multiplications: int) -> int:
    """Returns 1 for steps of at most 100 million multiplications, and torch's own number for larger ones.

    Example:
        >>> by_size(1_000)
        1
    """
    return 1 if multiplications <= MOST_ON_ONE else torch.get_num_threads()


def multiplications(loss: Callable[[], Any]) -> int:
    """Counts the multiplications in matrix products and convolutions of one step, forward and backward.

    An error of the loss ends the count: the first step raises it too, with its place and its cure.

    Args:
        loss: computes the loss of one batch.

    Example:
        >>> layer = torch.nn.Linear(10, 20)
        >>> multiplications(lambda: layer(torch.zeros(64, 10))) == 3 * 64 * 10 * 20
        True
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, since it takes a tenth of a second to import

    counter = FlopCounterMode(display=False)
    with suppress(Exception), torch.no_grad(), counter:
        loss()
    return _PASSES * int(counter.get_total_flops()) // 2  # torch counts a multiplication and an addition


class Pace:
    """Notices if equal steps take several times what they took at their best, and says so once.

    Example:
        >>> pace = Pace()
        >>> for step in range(3):
        ...     pace.step()
        >>> pace.begin()
    """

    def __init__(self) -> None:
        self._best, self._slow, self._steps, self._spent = math.inf, 0, 0, 0.0
        self._told: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Reports that a step begins now, after other work."""
        self._last = time.perf_counter()

    def step(self) -> None:
        """Reports that one step is done, and that the next begins."""
        now = time.perf_counter()
        self._spent, self._steps, self._last = self._spent + now - self._last, self._steps + 1, now
        if self._spent >= _WINDOW:
            self._look(self._spent / self._steps)
            self._steps, self._spent = 0, 0.0

    def _look(self, each: float) -> None:
        self._best = min(self._best, each)
        self._slow = self._slow + 1 if each > _SLOW * self._best else 0
        if self._slow == _IN_A_ROW and (number := torch.get_num_threads()) > 1:
            shared = _told.get()
            told = self._told if shared is None else shared
            if not told:
                cure = "torch.set_num_threads(1)" if shared is None else "`threads=1`"
                told.append(_sentence(each, self._best, number, cure))
                _logger.warning(told[0])


@cache
def _note_many(number: int, cores: int) -> None:
    on = "1 core" if cores == 1 else f"{cores} cores"
    _logger.warning("%d threads share %s and wait for each other: `threads=%d` is faster", number, on, cores)


def _sentence(now: float, best: float, number: int, cure: str) -> str:
    return (
        f"a step takes {1e3 * now:.3g} ms, and took {1e3 * best:.3g}: most likely another process has the cores that "
        f"{number} threads of this one wait for. With {cure} a step takes about {1e3 * best * number:.3g} ms where one "
        "core is free"
    )


def _is_callers(number: int) -> bool:
    """Whether someone has chosen this number of threads, and it is not torch's own."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.partition(",")[0].strip().isdecimal():  # of anything else OpenMP says that it is invalid
        return wanted != os.environ.get(system.SHARE)
    return number not in (system.cores(), system.cores() // system.threads_per_core(), system.performance_cores())
