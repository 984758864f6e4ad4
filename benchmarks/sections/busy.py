"""Milliseconds of a training step, and seconds of the README's first line, alone and beside busy loops."""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from benchmarks.agreement import StepTruth
from benchmarks.load import beside
from benchmarks.measure import Timing, Turn, alternate, tried
from benchmarks.plan import Plan
from benchmarks.problem import Size, parse_size
from benchmarks.quiet import Watch
from benchmarks.rows import BUSY
from benchmarks.sections.step import BATCHES
from benchmarks.tables import Cell, Table
from benchmarks.team import ROOT, assembled

SIZES = ("64x64", "128x256x64", "128x400", "256x1000")  # the second is that of a run with all defaults
LINE = ("scripts/train_svi.py", "--likelihood", "bernoulli")
LINE_REPEATS = 2
LINE_LIMIT = 300.0  # seconds, after which a run is ended: it can take ten times as long as alone
OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # which a user has not set


def tables(plan: Plan) -> Iterator[Table]:
    """One for each size, as soon as it is measured, and one for the README's first line.

    One watch looks at the machine for all of them, and only while no loop runs.
    """
    watch = plan.watch()
    sizes = plan.sizes if plan.sizes_given or plan.quick else [parse_size(text) for text in SIZES]
    if keys := plan.chosen(list(BUSY)):
        yield from (table(plan, size, keys, watch) for size in sizes)
    if plan.chosen(["readme"]):
        yield first_line(plan, watch)


def table(plan: Plan, size: Size, keys: list[str], watch: Watch) -> Table:
    """All rows side by side, under one load after the other."""
    truth, num_data = StepTruth(size), BATCHES * size.batch
    timings: dict[int, dict[str, Timing]] = {}
    with assembled("busy", keys, size, plan.setting, num_data) as (workers, reasons):
        agreeing, refused = tried(workers, truth.check)
        for worker in agreeing.values():
            worker.ask("start_over", num_data=num_data)
        for load in plan.loads:
            watch.look()
            turns = {key: Turn(worker, "steps", "num_steps") for key, worker in agreeing.items()}
            with beside(load):
                timings[load], failed = alternate(turns, plan.repeats, plan.seconds, None if load else watch)
            reasons |= refused | failed
    notes = [
        f"Medians of {plan.repeats} rounds under each load, in which the rows take turns. A ratio is this row's time "
        "over NumPyro's under the same load.",
        _loads(plan),
        watch.verdict(),
    ]
    columns = ["row", *(name(load, what) for what in ("ms", "x NumPyro", "quartiles") for load in plan.loads)]
    rows = [row(key, timings, reasons.get(key, "")) for key in keys]
    return Table(f"Training step beside other work, batch x hidden {size.name}", columns, rows, notes)


def row(key: str, timings: dict[int, dict[str, Timing]], reason: str) -> dict[str, Cell]:
    """The cells of one row: under each load, or why there are none."""
    cells: dict[str, Cell] = {"row": BUSY[key].title}
    for load, found in timings.items():
        if key not in found:
            return {**cells, name(load, "ms"): reason}
        low, high = found[key].quartiles
        cells[name(load, "ms")] = 1e3 * found[key].median
        cells[name(load, "quartiles")] = f"{1e3 * low:.3f} to {1e3 * high:.3f}"
        if "numpyro" in found:
            cells[name(load, "x NumPyro")] = found[key].median / found["numpyro"].median
    return cells


def first_line(plan: Plan, watch: Watch) -> Table:
    """Seconds from the start of the README's first line to its end, with torch's own threads."""
    repeats = 1 if plan.quick else LINE_REPEATS
    seconds: dict[int, list[float]] = {load: [] for load in plan.loads}
    for _ in range(repeats):
        for load in [load for load, found in seconds.items() if math.inf not in found]:
            watch.look()
            with beside(load):
                seconds[load].append(run_line(["--epochs", "1"] if plan.quick else []))
    cells = {name(load, "s"): shown(found) for load, found in seconds.items()}
    how = f"Medians of {repeats} runs, in turn under each load. A run of more than {LINE_LIMIT:g} s is ended."
    notes = [how, _loads(plan), watch.verdict()]
    title = "The README's first line beside other work"
    return Table(title, ["row", *cells], [{"row": f"python {' '.join(LINE)}", **cells}], notes)


def run_line(more: Sequence[str]) -> float:
    """Seconds of one run, in a folder of its own; infinity for one that took too long."""
    environment = {variable: value for variable, value in os.environ.items() if variable not in OF_THREADS}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *LINE, *more, "--out", f"{folder}/run"]
        begin = time.perf_counter()
        try:
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=LINE_LIMIT)
        except subprocess.TimeoutExpired:
            return math.inf
        return time.perf_counter() - begin


def shown(seconds: Sequence[float]) -> Cell:
    """The median, or the limit where a run reached it."""
    return f"more than {LINE_LIMIT:g}" if math.inf in seconds else statistics.median(seconds)


def name(load: int, what: str) -> str:
    """The title of a column."""
    return f"beside {load}, {what}" if load else f"alone, {what}"


def _loads(plan: Plan) -> str:
    return (
        f"Beside {', '.join(map(str, filter(None, plan.loads))) or 'none'}: so many loops in plain Python, each in a "
        f"process of its own, on {plan.setting.cores} cores."
    )
