"""Was the machine ours alone? A fixed job on all cores, timed before and between, and the load average."""

import hashlib
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

_BYTES = bytes(4 << 20)
SLOW = 1.25  # a spin slower than this times the fastest means that somebody else was at work
LOAD = 0.5  # per core, over the last minute


def spin(cores: int) -> float:
    """Seconds that all cores take to hash 4 MiB each, at once: another busy process shows at any place."""
    with ThreadPoolExecutor(cores) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda _: hashlib.sha256(_BYTES).digest(), range(cores)))
        return time.perf_counter() - begin


@dataclass
class Watch:
    """Watches a run: `look()` between measurements, then `verdict()`."""

    cores: int
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    spins: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spins += [spin(self.cores) for _ in range(5)]

    def look(self) -> None:
        """One spin."""
        self.spins.append(spin(self.cores))

    def slow_share(self) -> float:
        """The share of spins that were slow."""
        fastest = min(self.spins)
        return statistics.fmean(s > SLOW * fastest for s in self.spins)

    def quiet(self) -> bool:
        """Whether the load was low and at most a tenth of the spins were slow."""
        return self.load_before <= LOAD * self.cores and self.slow_share() <= 0.1

    def verdict(self) -> str:
        """One sentence for a table."""
        facts = (
            f"load average {self.load_before:.2f} on {self.cores} cores before, "
            f"{self.slow_share():.0%} of {len(self.spins)} spins slower than {SLOW:g} times the fastest"
        )
        return f"The machine was quiet: {facts}." if self.quiet() else f"**The machine was NOT quiet**: {facts}."
