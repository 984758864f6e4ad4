"""Shows progress to a person who waits: on a terminal two lines that change in place, elsewhere lines.

    ⠹ section 7 of 13 ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  62 %, 0:21 left
      annealing 100 data simulated from the model, in both directions  40 %

The display is on standard output where that is a terminal, and what is printed meanwhile stands above it, unbroken. The
lines go to standard error, at most one a minute, each when a stage goes on.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from pyro_vae import progress

_MINUTE = 60.0  # seconds between two lines
_PER_SECOND = 4  # looks of the terminal
_EARLY = 0.02  # the share of work before which no one can say how long the rest will take
_NARROW = 60  # columns, below which words are left out
_COUNTED = 1000  # units, above which a share says more
_BAR = (4, 40)  # columns of the bar


@contextmanager
def shown(says: str = "starting") -> Iterator[None]:
    """A context whose progress is shown, unless it is shown already, or another of several processes speaks.

    Args:
        says: what is done until the first stage begins.
    """
    if progress.is_watched() or not _speaks():
        yield
    elif _can_change_lines(sys.stdout):
        with _on_terminal(says):
            yield
    else:
        with progress.watched(Lines()):
            yield


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"  # torchrun numbers the processes that it starts


def _can_change_lines(stream: Any) -> bool:
    return _is_terminal(stream) and os.environ.get("TERM") not in ("dumb", "unknown")


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


class Lines(progress.Watcher):
    """Prints a line when a stage goes on, if a minute has passed since the last.

    Args:
        write: prints a line; by default to standard error.
        clock: gives the seconds.
    """

    def __init__(self, write: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._write, self._clock = write or _print, clock
        self._due = clock() + _MINUTE

    def changed(self) -> None:
        """Prints how far it has come, if a minute has passed."""
        now = self._clock()
        if now >= self._due and self.stages:
            self._due = now + _MINUTE
            self._write(str(view(self, now)))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class View(NamedTuple):
    """How far work has come, in words.

    Attributes:
        whole: what it is.
        share: the share of it that is done; None where that is not known.
        far: how far that is, and how long the rest will take; or else how long it has taken.
        inner, inner_far: the same of the innermost stage that has a name; or else how the whole stands.
    """

    whole: str
    share: float | None
    far: str
    inner: str = ""
    inner_far: str = ""

    def __str__(self) -> str:
        inner = f"{self.inner} {self.inner_far}".strip()
        return f"{self.whole} {self.far}" + (f", {inner}" if inner else "")


def view(watcher: progress.Watcher, now: float, *, narrow: bool = False) -> View:
    """Puts into words how far work has come.

    Args:
        watcher: it knows the stages.
        now: in seconds of `time.monotonic`.
        narrow: whether there is little room.
    """
    named = [(stage, share) for stage, share in watcher.fractions() if stage.says or isinstance(stage, progress.Plan)]
    if not named:
        return View("working", None, "")
    inner, inner_share = named[-1]
    counted = [(stage, share) for stage, share in named if stage.total]
    if not counted:
        return View(inner.says, None, _duration(now - inner.begun))
    whole, share = counted[0]
    left = _left(whole, share, now)
    time_of_it = f"{_duration(now - whole.begun)} so far" if left is None else f"{_duration(left)} left"
    far = f"{100 * share:.0f} %, {time_of_it}"
    about = (inner.note, "") if inner is whole else (inner.says, _far(inner, inner_share, now))
    return View(_head(whole, narrow=narrow), share, far, *about)


def _far(inner: progress.Stage, share: float, now: float) -> str:
    if not inner.total:
        return _duration(now - inner.begun)
    return f"{inner.done:.0f} of {inner.total:.0f}" if 1 < inner.total <= _COUNTED else f"{100 * share:.0f} %"


def _head(whole: progress.Stage, *, narrow: bool) -> str:
    if isinstance(whole, progress.Plan):
        place = max(1, whole.place)
        return f"{place}/{whole.size}" if narrow else f"section {place} of {whole.size}"
    if (whole.total or 0) <= 1:
        return "" if narrow else whole.says
    counts = f"{whole.done:.0f}/{whole.total:.0f}"
    return counts if narrow else f"{whole.says} {counts}"


def _left(whole: progress.Stage, share: float, now: float) -> float | None:
    """The seconds that the rest will take if it goes on as before; None where that cannot be said yet."""
    already = whole.already / whole.total if whole.total else 0.0
    gained = share - already
    return (now - whole.begun) * (1 - share) / gained if gained > _EARLY else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _on_terminal(says: str) -> Iterator[None]:
    from rich.console import Console  # here, since a pipe does not need it
    from rich.live import Live

    console = Console(file=sys.stdout)
    watcher = _OnTerminal()
    display = Live(
        watcher, console=console, transient=True, refresh_per_second=_PER_SECOND,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with ExitStack() as until_the_end:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if _is_terminal(stream):
                above = until_the_end.enter_context(closing(_Above(stream, console)))
                until_the_end.enter_context(redirect(above))
        with progress.watched(watcher), progress.stage(says), display:
            yield


class _OnTerminal(progress.Watcher):
    """What rich draws at each look: the two lines."""

    shows_notes = True

    def __init__(self) -> None:
        super().__init__()
        self._looks = itertools.count()

    def changed(self) -> None:
        """Changes what is said between two stages, once there was one."""
        if len(self.stages) > 1:
            self.stages[0].says = "working"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        width, plain = options.max_width, options.ascii_only
        now = view(self, time.monotonic(), narrow=width < _NARROW)
        signs = "-\\|/" if plain else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        line = Text(f"{signs[next(self._looks) % len(signs)]} {now.whole} ", no_wrap=True, overflow="ellipsis")
        if now.share is not None:
            line.append_text(_bar(now.share, width - line.cell_len - len(now.far) - 2, plain=plain))
        yield line.append(now.far)
        if now.inner:
            inner = f"  {now.inner[: width - len(now.inner_far) - 4]}  {now.inner_far}"
            yield Text(inner, style="dim", no_wrap=True, overflow="ellipsis")


def _bar(share: float, room: int, *, plain: bool) -> Any:
    from rich.text import Text

    least, most = _BAR
    if room < least:
        return Text()
    size = min(room, most)
    full = round(share * size)
    done, rest = "=-" if plain else "━━"
    bar = Text(done * full, style="cyan")
    return bar.append((" " if plain else rest) * (size - full), style="bright_black").append("  ")


class _Above:
    """A terminal whose whole lines stand above the display.

    Args:
        stream: the terminal.
        console: of the display.
    """

    def __init__(self, stream: Any, console: Any) -> None:
        self._stream, self._console, self._begun = stream, console, ""

    def write(self, text: str) -> int:
        """Prints what is whole lines, and keeps the rest."""
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._console.out("\n".join(lines), highlight=False)  # which breaks no line
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Prints several pieces."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Keeps a line that is not whole: the display would be drawn over it."""

    def close(self) -> None:
        """Prints the rest, when there is no display any more."""
        self._stream.write(self._begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
