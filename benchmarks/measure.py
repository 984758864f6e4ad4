"""Rows take turns within one run; what is reported is the median over rounds."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.peers.peer import NotAvailableError
from benchmarks.quiet import Watch
from benchmarks.team import FailedError, Worker

T = TypeVar("T")

SETTLE = 0.05  # seconds for the thread pool of the row before to fall asleep
TRIALS = 3  # bursts before the first that counts: compilers work in the first, and may again in the second


@dataclass
class Timing:
    """Seconds of one unit of work (a step, a pass), one number a round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass
class Turn:
    """What one row does when it is its turn: a method of its worker, which takes a number of units and may round it up.

    Attributes:
        method: of the peer; it takes `units` and `arguments`, and returns how many units it did, or nothing if
            it did as many as it was asked for.
        units: the name of the argument that is the number of units; empty for a method that does one.
    """

    worker: Worker
    method: str
    units: str = ""
    arguments: dict[str, int | str] = field(default_factory=dict)
    length: int = 1

    def burst(self) -> float:
        """Seconds for one unit, in one burst."""
        number = {self.units: self.length} if self.units else {}
        done = self.worker.call(self.method, **self.arguments, **number)
        return self.worker.seconds / (done if isinstance(done, int) else self.length)

    def prepare(self, seconds: float) -> None:
        """Warms up, and finds how many units take about so long."""
        for _ in range(TRIALS):
            unit = self.burst()
            self.length = max(1, math.ceil(seconds / unit)) if self.units else 1
        self.worker.ask("reset_peak")


def alternate(
    turns: dict[str, Turn], repeats: int, seconds: float, watch: Watch | None
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Rounds in which each row has one burst, forwards and backwards in turn; and which rows failed, and why.

    Without a watch the machine is busy on purpose.
    """
    ready, failed = tried(turns, lambda turn: turn.prepare(seconds))
    timings = {key: Timing() for key in ready}
    for i in range(repeats):
        if watch is not None:
            watch.look()
        for key in list(ready)[:: -1 if i % 2 else 1]:
            time.sleep(SETTLE)
            timings[key].seconds.append(ready[key].burst())
    return timings, failed


def tried(items: dict[str, T], action: Callable[[T], object]) -> tuple[dict[str, T], dict[str, str]]:
    """Those with which an action went well, and for the others the reason why not."""
    passed, failed = {}, {}
    for key, item in items.items():
        try:
            action(item)
            passed[key] = item
        except (NotAvailableError, FailedError) as error:
            failed[key] = str(error)
    return passed, failed
