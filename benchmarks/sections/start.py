"""Seconds from the start of a process to the end of its first training step, with cold and warm compiler caches."""

import statistics
import tempfile
import time

from benchmarks.peers.peer import NotAvailableError
from benchmarks.plan import Plan
from benchmarks.problem import Size
from benchmarks.rows import STEP
from benchmarks.tables import Cell, Table
from benchmarks.team import FailedError, Worker

REPEATS = 3
PHASES = ("imports", "first step", "in all")
COLUMNS = ["row", *(f"{phase}, s" for phase in PHASES), *(f"{phase}, warm, s" for phase in PHASES)]


def tables(plan: Plan) -> list[Table]:
    """One table, at the size 128 x 400."""
    size = plan.sizes[0] if plan.quick else Size(128, 400)
    watch, repeats = plan.watch(), 1 if plan.quick else REPEATS
    rows = []
    for key in plan.chosen(list(STEP)):
        watch.look()
        rows.append({"row": STEP[key].title, **starts(plan, key, size, repeats)})
    notes = [
        f"Medians of {repeats}, batch x hidden {size.name}. Warm: with the files that Inductor left behind the time "
        "before. The sum includes the interpreter and the building of the program.",
        watch.verdict(),
    ]
    return [Table("Time to the first step", COLUMNS, rows, notes)]


def starts(plan: Plan, key: str, size: Size, repeats: int) -> dict[str, Cell]:
    """Medians of each phase, or why there are none."""
    cold, warm = [], []
    try:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(start(plan, key, size, cache))
                warm.append(start(plan, key, size, cache))
    except (NotAvailableError, FailedError) as error:
        return {"imports, s": str(error)}
    return {
        **{f"{phase}, s": statistics.median(run[phase] for run in cold) for phase in PHASES},
        **{f"{phase}, warm, s": statistics.median(run[phase] for run in warm) for phase in PHASES},
    }


def start(plan: Plan, key: str, size: Size, cache: str) -> dict[str, float]:
    """One fresh process."""
    begin = time.perf_counter()
    with Worker("step", key, size, plan.setting, {"TORCHINDUCTOR_CACHE_DIR": cache}) as worker:
        imports = worker.build(size.batch)["imports"]
        worker.call("steps", num_steps=1)
        return {"imports": imports, "first step": worker.seconds, "in all": time.perf_counter() - begin}
