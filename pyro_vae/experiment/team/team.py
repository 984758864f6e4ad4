"""A team: this process and some workers that do pieces of work, each when it has nothing else to do.

    with Team(opener, workers=3) as team:
        team.offer(Piece("annealing", 0), cost=2.0, says="annealing 100 test data")
        team.answer(Piece("annealing", 0), work)

A piece is done by `work(piece, given)`. Each worker makes its own `work`, once, by `opener()`: it gets plain values,
and no program. The answer must not depend on who does the piece. The process that asks works too, on whatever is next,
until the answer that it asks for is there. Without workers each piece is done when it is asked for.

A worker starts from the beginning, by "spawn": a copy of a process in which torch has run its threads would hang.
"""

import multiprocessing
import signal
import sys
import threading
from _thread import interrupt_main
from bisect import insort
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from pyro_vae import progress, system
from pyro_vae.errors import ProcessError, first_line
from pyro_vae.experiment.team.spoken import Spoken
from pyro_vae.experiment.team.worker import (
    Failed,
    Opener,
    Outcome,
    Piece,
    Work,
    outcome_of,
    send,
    serve,
)

Say = Callable[[str], None]

_LOOK = 0.25  # seconds between two looks of a process that only waits: the display, and signals on Windows


class _Order(NamedTuple):
    """A piece that is offered: what `work` is given with it, what it costs, its share of its step, and what it is."""

    piece: Piece
    given: tuple[Any, ...]
    first: bool
    cost: float
    share: float
    says: str


@dataclass(eq=False)
class _Worker:
    """A worker, what it is at, how far that is, and the units that it has finished."""

    number: int
    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    order: _Order | None = None
    finished: float = 0.0
    units: float = 0.0
    share: float = 0.0


class Team:
    """A context with processes that share pieces of work; at its end the workers are ended at once.

    Args:
        opener: is called once in each worker, and returns what does its pieces; it is pickled.
        workers: how many processes there are, without this one.
        say: is told what is done, when the first piece of a step begins, wherever that is.

    Attributes:
        seconds: the time that the pieces of each step took, by the name of the step.
    """

    def __init__(self, opener: Opener | None = None, workers: int = 0, say: Say = lambda sentence: None) -> None:
        self._opener, self._size, self._say = opener, workers if opener else 0, say
        self.seconds: dict[str, float] = {}
        self._changed = threading.Condition()  # guards all that follows
        self._workers: list[_Worker] = []
        self._waiting: list[_Order] = []
        self._offered, self._said, self._done = set[Piece](), set[str](), dict[Piece, Outcome]()
        self._fault: Exception | None = None
        self._is_at_work = False
        self._plan: progress.Plan | None = None
        self._spoken: Spoken | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._ends = ExitStack()

    def __enter__(self) -> "Team":
        self._plan = progress.current_plan()
        with ExitStack() as unless_begun:
            if self._size:
                self._spoken = unless_begun.enter_context(Spoken(sys.stderr))
                unless_begun.enter_context(redirect_stderr(self._spoken))
                unless_begun.callback(self._end)
                self._start()
            self._ends = unless_begun.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.close()

    @property
    def has_workers(self) -> bool:
        """Whether others work on what is offered."""
        return bool(self._workers)

    def offer(
        self,
        piece: Piece,
        *given: Any,
        cost: float = 0.0,
        share: float = 1.0,
        says: str = "",
        first: bool = False,
    ) -> None:
        """Puts a piece on the list, unless it is there.

        Args:
            piece: its name.
            given: what `work` gets with it; it is pickled for a worker.
            cost: what it is expected to take, in any unit. The largest is done first.
            share: how much of its step it is.
            says: what its step does.
            first: whether it comes before all that are not.
        """
        with self._changed:
            if piece not in self._offered:
                self._offered.add(piece)
                insort(self._waiting, _Order(piece, given, first, cost, share, says), key=_place)
                self._hand_out()

    def answer(self, piece: Piece, work: Work) -> Any:
        """Returns the answer to a piece that was offered, and works on the list until it is there.

        Raises:
            ProcessError: a worker was ended by the system.
            Exception: what the work has raised, in whichever process.
        """
        while (outcome := self._known(piece)) is None:
            if (order := self._take(piece)) is not None:
                self._do(order, work)
            else:
                self._wait(piece)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _known(self, piece: Piece) -> Outcome | None:
        with self._changed:
            if self._fault is not None:
                raise self._fault
            return self._done.get(piece)

    def _take(self, piece: Piece) -> _Order | None:
        """Takes what is next off the list; alone, that is the piece which is asked for."""
        with self._changed:
            own = [order for order in self._waiting if order.piece == piece or self._workers]
            if not own:
                return None
            self._waiting.remove(own[0])
            return own[0]

    def _do(self, order: _Order, work: Work) -> None:
        self._announce(order)
        try:
            with progress.piece(order.piece.step, order.says, order.share):
                self._is_at_work = True
                outcome = outcome_of(work, order.piece, order.given)
            with self._changed:
                self._is_at_work = False
                self._finish(order, outcome)
        except (KeyboardInterrupt, SystemExit):
            if self._fault is None:
                raise
            raise self._fault from None  # `_fail` has interrupted it

    def _wait(self, piece: Piece) -> None:
        """Waits for a piece that another process does, and shows how far that is."""
        with self._changed:
            others = [worker for worker in self._workers if worker.order and worker.order.piece == piece]
        says = others[0].order.says if others and others[0].order else "waiting for another process"
        with progress.stage(says, total=1) as going:
            while self._known(piece) is None and any(w.order and w.order.piece == piece for w in others):
                with self._changed:
                    self._changed.wait(_LOOK)
                going.reach(min(0.99, others[0].share))

    def _announce(self, order: _Order) -> None:
        with self._changed:
            is_new = order.piece.step not in self._said
            self._said.add(order.piece.step)
        if is_new and order.says:
            self._say(order.says)

    def _finish(self, order: _Order, outcome: Outcome) -> None:
        self._done[order.piece] = outcome
        self.seconds[order.piece.step] = self.seconds.get(order.piece.step, 0.0) + outcome.seconds
        self._changed.notify_all()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        try:
            for number in range(1, self._size + 1):
                pipe: tuple[Any, Any] = spawn.Pipe()  # of a kind of its own on Windows
                ours, theirs = pipe
                process = spawn.Process(target=serve, args=(theirs, self._opener), daemon=True)
                with system.deaf_to_ctrl_c():
                    process.start()
                theirs.close()
                self._workers.append(_Worker(number, process, ours))
        except Exception as error:  # whatever a system refuses
            self._go_on(f"a process could not be started ({first_line(error)})")
        self._listener.start()

    def _go_on(self, reason: str) -> None:
        size = len(self._workers) + 1
        self._say(f"{reason}: this evaluation goes on in {size} process{'es' if size > 1 else ''}")

    def _end(self) -> None:
        with self._changed:
            workers, self._workers = self._workers, []
        for worker in workers:
            system.end_at_once(worker.process)
        for worker in workers:
            worker.process.join()
        if self._listener.is_alive():
            self._listener.join()
        for worker in workers:
            worker.connection.close()

    def _listen(self) -> None:
        """Hears what the workers say, in a thread, and gives them work. An error is one of the first process."""
        try:
            while workers := list(self._workers):
                heard = wait([worker.connection for worker in workers], 1.0)
                for worker in workers:
                    if worker.connection in heard:
                        self._hear(worker)
        except Exception as error:  # such as output to a disk that is full, or given values that cannot be pickled
            with self._changed:
                self._fail(error)

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, what = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if kind == "said":
            self._repeat(worker, *what)
            return
        with self._changed:
            if kind == "ready":
                worker.is_ready = True
            elif kind == "failed":
                self._fail(what.here())
            elif kind == "share":
                worker.share = what
            else:
                self._collect(worker, what)
            if self._plan is not None:
                self._plan.beside[worker.number] = worker.finished + worker.units * worker.share
            self._hand_out()
            self._changed.notify_all()

    def _repeat(self, worker: _Worker, stream: str, text: str) -> None:
        if stream == "stdout":
            sys.stdout.write(text)
        elif self._spoken is not None:
            self._spoken.write_of(worker.number, text)

    def _collect(self, worker: _Worker, outcome: Outcome) -> None:
        order, worker.order = worker.order, None
        worker.finished += worker.units
        worker.share = worker.units = 0.0
        if isinstance(failed := outcome.value, Failed):
            outcome = outcome._replace(value=None, error=failed.here())
        if order is not None:
            self._finish(order, outcome)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.is_ready and worker.order is None and self._waiting:
                order = worker.order = self._waiting.pop(0)
                worker.units = 0.0 if self._plan is None else self._plan.take(order.piece.step, order.share)
                with suppress(OSError):  # it has ended, and `_listen` hears of that
                    send(worker.connection, (order.piece, order.given))
                self._announce(order)

    def _lose(self, worker: _Worker) -> None:
        with self._changed:
            if worker not in self._workers:
                return  # the team has ended
            self._workers.remove(worker)
            worker.process.join(1.0)
            if worker.is_ready:
                self._fail(_ended(worker))
            self._changed.notify_all()
        if not worker.is_ready and self._fault is None:
            self._go_on("a process ended before it had begun")

    def _fail(self, fault: Exception) -> None:
        """Has the first process raise an error, at once if it works on a piece."""
        self._fault = self._fault or fault
        if self._is_at_work:
            interrupt_main()
        self._changed.notify_all()


def _place(order: _Order) -> tuple[bool, float]:
    """Where an order stands on the list."""
    return not order.first, -order.cost


def _ended(worker: _Worker) -> ProcessError:
    code = worker.process.exitcode
    if code is None or code >= 0:
        return ProcessError(
            f"one of the processes of this evaluation ended with code {code} before its work was done: something that "
            "it runs has ended Python. `processes=1` shows where"
        )
    return ProcessError(
        f"one of the processes of this evaluation was ended from outside, by signal {-code} "
        f"({signal.Signals(-code).name}); most often memory was short. Start again with `processes=1`, which needs the "
        "least"
    )
