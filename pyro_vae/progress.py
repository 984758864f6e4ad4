"""What long work says of itself while it goes on: what is done, how much there is, and how far it has come.

    for block in through("annealing", blocks): ...                   a loop whose length is known
    with stage("fitting", total=500) as fitting: ... fitting.step()  anything else that can be counted
    with planned({"elbo": 1.0, "iwae": 10.0}): ...                   sections in a row, and what each may take
        with section("elbo", "ELBO of 360 test data"): ...
        with piece("iwae", "log p(x)", 0.5): ...                     a half of one; other processes may do the rest

Stages lie within one another, and each that is counted fills one unit of the stage around it: in the loop over blocks,
the steps of the current block count as a part of that block. No one listens unless `watched` says so, and until then
nothing is kept. No number that is computed depends on any of it.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Stage:
    """Work that goes on.

    Attributes:
        says: what it is, for a person who waits; empty for a part of the stage around it that has no name.
        total: how many units there are; None where that is not known.
        done: how many of them are done.
        parts: how many stages fill one unit, one after another.
        note: how it stands, in words.
        begun: when it began, in seconds of `time.monotonic`, and `already` is what was done then.
    """

    def __init__(self, says: str, total: float | None = None, done: float = 0.0, parts: int = 1) -> None:
        self.says, self.total, self.done, self.parts = says, total, done, parts
        self.note, self.begun, self.already = "", time.monotonic(), done
        self._filled = 0.0  # of the current unit, by stages within it that have ended

    def step(self, number: float = 1.0) -> None:
        """Reports that this many more units are done."""
        self.reach(self.done + number)

    def reach(self, done: float, note: str = "") -> None:
        """Reports the total number of units done, and how it stands."""
        self.done, self.note, self._filled = done, note, 0.0
        if (watcher := _watcher.get()) is not None:
            watcher.changed()

    def fraction(self, within: float) -> float:
        """Returns the share that is done.

        Args:
            within: the share that is done of the stage within it, 0 where there is none.
        """
        if not self.total:
            return 0.0
        return min(1.0, (self.done + self._unit() * min(1.0, self._filled + within / self.parts)) / self.total)

    def fill(self) -> None:
        """Reports that a stage within the current unit has ended."""
        self._filled += 1 / self.parts

    def _unit(self) -> float:
        return 1.0


class Plan(Stage):
    """Sections in a row, whose units are what each is expected to take.

    Attributes:
        expected: name -> what it is expected to take, of those that are still to come.
        place: the number of the current section, from 1.
        beside: process -> how many units another process has done.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        super().__init__("", sum(expected.values()))
        self.expected, self.place, self._current = dict(expected), 0, 0.0
        self.beside: dict[int, float] = {}
        self._in_pieces: dict[str, float] = {}
        self._taking = threading.Lock()  # a thread hands out the pieces of other processes

    @property
    def size(self) -> int:
        """The number of sections: those that were begun, and those to come."""
        return self.place + len(self.expected)

    def begin(self, name: str) -> None:
        """Begins a section. Those planned before it that were not begun are left out of the plan."""
        self.place += 1
        for earlier in list(self.expected)[: list(self.expected).index(name)] if name in self.expected else ():
            self.leave_out(earlier)
        self._current = self.expected.pop(name, 0.0)

    def take(self, name: str, share: float) -> float:
        """Begins a piece of a section, in any order, and returns its units.

        Args:
            name: that of the section.
            share: how much of it the piece is.
        """
        with self._taking:
            if name not in self._in_pieces:
                self.place += 1
                self._in_pieces[name] = self.expected.pop(name, 0.0)
            return share * self._in_pieces[name]

    def begin_piece(self, name: str, share: float) -> None:
        """Begins a piece of a section in this process, until `end`."""
        self._current, self._filled = self.take(name, share), 0.0

    def leave_out(self, name: str) -> None:
        """Takes a section that is not asked for out of the plan."""
        self.total = (self.total or 0.0) - self.expected.pop(name, 0.0)

    def fraction(self, within: float) -> float:
        """Returns the share that is done, here and by others."""
        others = sum(list(self.beside.values()))  # of a copy, for a thread listens to the others
        return min(1.0, super().fraction(within) + others / self.total) if self.total else 0.0

    def end(self) -> None:
        """Ends the current section or piece."""
        ended, self._current = self._current, 0.0
        self.step(ended)

    def _unit(self) -> float:
        return self._current


class Watcher:
    """Is told of stages as they begin, go on and end. A display derives from it.

    Attributes:
        stages: those that go on, each within the one before.
        shows_notes: whether a person sees the notes of the stages, so that nothing needs to be printed too.
    """

    shows_notes = False

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def changed(self) -> None:
        """Is called whenever a stage begins, goes on or ends."""

    def fractions(self) -> list[tuple[Stage, float]]:
        """Lists the stages that go on, the outermost first, each with the share of it that is done."""
        within, found = 0.0, []
        for each in reversed(list(self.stages)):  # of a copy, for a display may have a thread of its own
            within = each.fraction(within)
            found.append((each, within))
        return found[::-1]


_watcher: ContextVar[Watcher | None] = ContextVar("progress", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """A context in which a watcher is told of every stage.

    Args:
        watcher: it stands in for any other.

    Example:
        >>> class Printer(Watcher):
        ...     def changed(self):
        ...         print([f"{stage.says} {100 * share:.0f} %" for stage, share in self.fractions()])
        >>> with watched(Printer()):
        ...     for block in through("blocks", [1, 2]):
        ...         pass
        ['blocks 0 %']
        ['blocks 50 %']
        ['blocks 100 %']
        []
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def shows_notes() -> bool:
    """Returns whether a person sees the notes of the stages here."""
    return (watcher := _watcher.get()) is not None and watcher.shows_notes


def is_watched() -> bool:
    """Returns whether there is a watcher here."""
    return _watcher.get() is not None


@contextmanager
def stage(says: str, total: float | None = None, *, done: float = 0.0, parts: int = 1) -> Iterator[Stage]:
    """A context for a stage of the work; what it returns counts the units.

    Args:
        says: what is done inside.
        total: how many units there are; None where that is not known.
        done: how many of them are done already.
        parts: how many stages fill one unit, one after another.

    Example:
        >>> with stage("fitting", total=2) as fitting:
        ...     fitting.step()
        >>> fitting.fraction(0.0)
        0.5
    """
    with _going_on(Stage(says, total, done, parts)) as going:
        yield going


@contextmanager
def planned(expected: Mapping[str, float]) -> Iterator[None]:
    """A context for sections, see `section`.

    Args:
        expected: the sections in their order, and what each is expected to take, in any unit.
    """
    with _going_on(Plan(expected)):
        yield


@contextmanager
def section(name: str, says: str, *, parts: int = 1) -> Iterator[None]:
    """A context for one section of a plan; a stage like any other where there is no plan.

    Args:
        name: that of the plan.
        says: what is done inside.
        parts: how many stages there are inside, one after another.
    """
    plan = current_plan()
    if plan is not None:
        plan.begin(name)
    with _ended(plan), stage(says, total=1, parts=parts):
        yield


@contextmanager
def piece(name: str, says: str, share: float) -> Iterator[None]:
    """A context for one piece of a section, in any order; a stage like any other where there is no plan.

    Args:
        name: that of the section.
        says: what is done inside.
        share: how much of the section the piece is.
    """
    plan = current_plan()
    if plan is not None:
        plan.begin_piece(name, share)
    with _ended(plan), stage(says, total=1):
        yield


def current_plan() -> Plan | None:
    """Returns the plan whose next section can begin here."""
    watcher = _watcher.get()
    last = watcher.stages[-1] if watcher is not None and watcher.stages else None
    return last if isinstance(last, Plan) else None


@contextmanager
def _ended(plan: Plan | None) -> Iterator[None]:
    try:
        yield
    finally:
        if plan is not None:
            plan.end()


def through(says: str, items: Iterable[T], total: float | None = None, *, parts: int = 1) -> Iterator[T]:
    """Yields the items, and says how far it has come.

    Args:
        says: what is done with them.
        items: each is a unit.
        total: how many there are, where they have no length.
        parts: how many stages fill one unit, one after another.

    Example:
        >>> list(through("letters", "ab"))
        ['a', 'b']
    """
    size = len(items) if total is None and isinstance(items, Sized) else total
    if not is_watched() or (size == 1 and not says and parts == 1):  # what one item does fills the unit around it
        yield from items
        return
    with stage(says, size, parts=parts) as going:
        for item in items:
            yield item
            going.step()


S = TypeVar("S", bound=Stage)


@contextmanager
def _going_on(going: S) -> Iterator[S]:
    watcher = _watcher.get()
    if watcher is None:
        yield going
        return
    watcher.stages.append(going)
    watcher.changed()
    try:
        yield going
    finally:
        place = watcher.stages.index(going)  # the last one, unless loops are interleaved
        del watcher.stages[place]
        if place and going.total:
            watcher.stages[place - 1].fill()
        watcher.changed()
