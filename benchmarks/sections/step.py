"""Milliseconds of one training step."""

from collections.abc import Iterator

from benchmarks.agreement import StepTruth
from benchmarks.measure import Timing, Turn, alternate, tried
from benchmarks.plan import Plan
from benchmarks.problem import Size
from benchmarks.rows import STEP
from benchmarks.tables import MEMORY, Cell, Table, mebibytes
from benchmarks.team import assembled

BATCHES = 16
# What the ratios are to: the best of a group's rows.
RIVALS = {
    "stock Pyro": ("pyro",),
    "compiled torch": ("twin-compiled", "twin-compiled-update"),
    "NumPyro": ("numpyro", "numpyro-update"),
}
COLUMNS = ["row", "ms", "quartiles", *(f"x {name}" for name in RIVALS), *MEMORY]


def tables(plan: Plan) -> Iterator[Table]:
    """One for each size, as soon as it is measured."""
    return (table(plan, size) for size in plan.sizes)


def table(plan: Plan, size: Size) -> Table:
    """All rows side by side."""
    watch, truth, num_data = plan.watch(), StepTruth(size), BATCHES * size.batch
    keys = plan.chosen(list(STEP))
    with assembled("step", keys, size, plan.setting, num_data) as (workers, missing):
        agreeing, refused = tried(workers, truth.check)
        for worker in agreeing.values():
            worker.ask("start_over", num_data=num_data)
        turns = {key: Turn(worker, "steps", "num_steps") for key, worker in agreeing.items()}
        timings, failed = alternate(turns, plan.repeats, plan.seconds, watch)
        memory = {key: agreeing[key].ask("memory") for key in timings}
    reasons = {**missing, **refused, **failed}
    rows: list[dict[str, Cell]] = [
        _row(key, timings, memory[key]) if key in timings else {"row": STEP[key].title, "ms": reasons[key]}
        for key in keys
    ]
    notes = [
        f"Medians of {plan.repeats} rounds. A ratio is this row's time over that of the other, the better of its rows.",
        watch.verdict(),
    ]
    return Table(f"Training step, batch x hidden {size.name}", COLUMNS, rows, notes)


def _row(key: str, timings: dict[str, Timing], memory: dict[str, float]) -> dict[str, Cell]:
    timing = timings[key]
    low, high = timing.quartiles
    ratios: dict[str, Cell] = {f"x {name}": _ratio(timing, timings, rivals) for name, rivals in RIVALS.items()}
    return {
        "row": STEP[key].title,
        "ms": 1e3 * timing.median,
        "quartiles": f"{1e3 * low:.3f} to {1e3 * high:.3f}",
        **ratios,
        **mebibytes(memory),
    }


def _ratio(timing: Timing, timings: dict[str, Timing], rivals: tuple[str, ...]) -> float | None:
    present = [timings[rival].median for rival in rivals if rival in timings]
    return timing.median / min(present) if present else None
