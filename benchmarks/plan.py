"""What one run of the benchmarks measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.problem import Size, parse_size
from benchmarks.quiet import Watch
from benchmarks.team import Setting

SIZES = ("64x64", "128x400", "256x1000", "128xconv")
QUICK_SIZES = ("16x32",)
LOADS = (0, 1, 4)


@dataclass
class Plan:
    """Sizes, rounds and limits.

    Attributes:
        sizes: of the tables.
        sizes_given: whether these were asked for; else a section may have sizes of its own.
        loads: numbers of busy loops beside the rows of the section `busy`.
        repeats: rounds of each table.
        seconds: of one burst of one row.
        rows: keys of the registry; empty means all.
        quick: a look at whether everything runs: the numbers mean nothing.
        data_dir: where MNIST is.
        target: validation ELBO to reach, nats.
    """

    sizes: list[Size] = field(default_factory=lambda: [parse_size(text) for text in SIZES])
    sizes_given: bool = False
    loads: Sequence[int] = LOADS
    repeats: int = 15
    seconds: float = 0.3
    rows: list[str] = field(default_factory=list)
    quick: bool = False
    data_dir: Path = Path("data")
    target: float = -105.0
    setting: Setting = field(default_factory=Setting)

    def chosen(self, keys: list[str]) -> list[str]:
        """Those of the rows that this run is about."""
        return [key for key in keys if not self.rows or key in self.rows]

    def watch(self) -> Watch:
        """A watch over the machine, from now on."""
        return Watch(self.setting.cores)
