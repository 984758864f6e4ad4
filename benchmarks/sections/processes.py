"""Milliseconds of a training step that processes of one thread each share, by who runs it."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from benchmarks.measure import Timing, Turn, alternate
from benchmarks.plan import Plan
from benchmarks.problem import Size, draw_data
from benchmarks.tables import Cell, Table
from benchmarks.team import FailedError, Setting, Worker

SIZES = (Size(128, 400), Size(1024, 1000))
# By title: the number of processes, and `compile`.
WAYS: dict[str, tuple[int, Any]] = {
    "one process, compiled": (1, True),
    "two processes, by Pyro": (2, False),
    "two processes, traced": (2, "auto"),
    "two processes, compiled": (2, True),
}
BY_PYRO = "two processes, by Pyro"
COLUMNS = ["row", "ms", "quartiles", f"x {BY_PYRO}"]


def tables(plan: Plan) -> Iterator[Table]:
    """One for each size, as soon as it is measured."""
    return (table(plan, size) for size in (plan.sizes[:1] if plan.quick else SIZES))


def table(plan: Plan, size: Size) -> Table:
    """All ways side by side."""
    watch = plan.watch()
    with ExitStack() as stack:
        teams = {way: stack.enter_context(Team(size, plan.setting, *of)) for way, of in WAYS.items()}
        turns = {way: Turn(cast(Worker, team), "steps", "num_steps") for way, team in teams.items()}
        timings, failed = alternate(turns, plan.repeats, plan.seconds, watch)
    rows: list[dict[str, Cell]] = [
        _row(way, timings) if way in timings else {"row": way, "ms": failed[way]} for way in WAYS
    ]
    notes = [f"Medians of {plan.repeats} rounds; the processes share the batch, by gloo on this machine."]
    title = f"Training step in processes of one thread, batch x hidden {size.name}"
    return Table(title, COLUMNS, rows, [*notes, watch.verdict()])


def _row(way: str, timings: dict[str, Timing]) -> dict[str, Cell]:
    low, high = timings[way].quartiles
    ratio = timings[way].median / timings[BY_PYRO].median if BY_PYRO in timings else None
    quartiles = f"{1e3 * low:.2f} to {1e3 * high:.2f}"
    return {"row": way, "ms": 1e3 * timings[way].median, "quartiles": quartiles, COLUMNS[-1]: ratio}


class Team:
    """Processes that step together, with the methods of a `Worker` that a `Turn` needs."""

    def __init__(self, size: Size, setting: Setting, processes: int, mode: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        meeting = f"file://{Path(self.folder.name) / 'meeting'}"
        pipes = [context.Pipe() for _ in range(processes)]
        self.pipes, self.seconds = [here for here, _ in pipes], 0.0
        self.members = [
            context.Process(target=_member, args=(rank, processes, meeting, size, setting.device, mode, there))
            for rank, (_, there) in enumerate(pipes)
        ]
        for member, (_, there) in zip(self.members, pipes, strict=True):
            member.start()
            there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.kill()
            member.join()
        self.folder.cleanup()

    def call(self, method: str, num_steps: int) -> None:
        """So many steps; `seconds` is how long the slowest process took.

        Raises:
            FailedError: a process has ended.
        """
        try:
            for pipe in self.pipes:
                pipe.send(num_steps)
            self.seconds = max(pipe.recv() for pipe in self.pipes)
        except (EOFError, OSError) as error:
            raise FailedError(f"one of {len(self.pipes)} processes has ended") from error

    def ask(self, call: str) -> None:
        """Memory is not measured here."""


def _member(rank: int, processes: int, meeting: str, size: Size, device: str, mode: Any, pipe: Connection) -> None:
    """Steps when it is asked to; its rate, draws and data are of no interest here."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # DistributedDataParallel warns that it looks for unused parameters
    import torch

    import pyro_vae as pv
    from benchmarks.peers.pyro_peers import program

    torch.set_num_threads(1)
    if processes > 1:
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    torch.manual_seed(0)
    vae, x = program(size).to(device), torch.from_numpy(draw_data(size.batch)).to(device)
    adam, loss = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True), pv.inference.MeanFieldELBO()
    world = pv.inference.World(rank, processes)
    svi = (
        pv.inference.SVI(vae.model, vae.guide, adam, loss, compile=mode)
        if processes == 1
        else pv.inference.SharedSVI(vae, adam, loss, world, compile=mode)
    )
    svi.expect(10_000, largest=size.batch)  # of which "auto" traces, and does not compile
    with svi.steady():
        while True:
            number, begin = pipe.recv(), time.perf_counter()
            for _ in range(number):
                svi.step(x)
            pipe.send(time.perf_counter() - begin)
