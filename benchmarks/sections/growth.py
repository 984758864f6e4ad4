"""How time and memory of a log-likelihood grow with K, N and D; each point in a process of its own."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.measure import Timing, Turn
from benchmarks.peers.peer import NotAvailableError
from benchmarks.plan import Plan
from benchmarks.problem import Size
from benchmarks.rows import LIKELIHOOD
from benchmarks.tables import MEMORY, Cell, Table, mebibytes
from benchmarks.team import FailedError, Worker

ROWS = ("eager", "compiled")
REPEATS = 3
COLUMNS = ["row", "K", "N", "D", "s", "microseconds a draw", *MEMORY]


def tables(plan: Plan) -> list[Table]:
    """One table, at the size 128 x 400."""
    size = plan.sizes[0] if plan.quick else Size(128, 400)
    watch, keys = plan.watch(), plan.chosen(list(ROWS))
    rows: list[dict[str, Cell]] = []
    for key in keys:
        for K, N, D in points(plan.quick):
            watch.look()
            rows.append({"row": LIKELIHOOD[key].title, "K": K, "N": N, "D": D, **point(plan, key, size, K, N, D)})
    notes = [f"Medians of {REPEATS} passes after one that does not count.", watch.verdict()]
    return [Table(f"Growth of a log-likelihood, hidden {size.hidden}", COLUMNS, rows, notes)]


def points(quick: bool) -> Iterator[tuple[int, int, int]]:
    """(K, N, D): one of them grows, the others stay."""
    if quick:
        yield from ((32, 4, 2), (64, 4, 2))
        return
    yield from ((K, 128, 20) for K in (10, 100, 1000, 10_000))
    yield from ((100, N, 20) for N in (128, 512, 2048, 8192))
    yield from ((1000, 128, D) for D in (2, 20, 200))


def point(plan: Plan, key: str, size: Size, K: int, N: int, D: int) -> dict[str, Cell]:
    """Time and memory of one point, or why there are none."""
    with Worker("likelihood", key, replace(size, latent_dim=D), plan.setting) as worker:
        try:
            worker.build(N)
            turn = Turn(worker, "log_likelihood", arguments={"num_samples": K})
            turn.burst()
            worker.ask("reset_peak")
            seconds = Timing([turn.burst() for _ in range(REPEATS)]).median
            memory = worker.ask("memory")
        except (NotAvailableError, FailedError) as error:
            return {"s": str(error)}
    return {"s": seconds, "microseconds a draw": 1e6 * seconds / (K * N), **mebibytes(memory)}
