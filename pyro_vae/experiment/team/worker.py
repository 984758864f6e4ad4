"""What a worker of a team does: it opens what it works on, then does one piece after another until it is ended."""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from copy import copy
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae import progress

_OFTEN = 0.3  # seconds between two words on how far a piece is


class Piece(NamedTuple):
    """A piece of work: the step that it belongs to, and its place among the pieces of that."""

    step: str
    number: int = 0


Work = Callable[[Piece, tuple[Any, ...]], Any]
Opener = Callable[[], Work]


class Outcome(NamedTuple):
    """What came of a piece: its answer or its error, and the seconds that it took."""

    value: Any
    error: Exception | None
    seconds: float


class ElsewhereError(Exception):
    """The traceback of an error in another process, which pickle loses: the cause of the error here."""


class Failed(NamedTuple):
    """An error that is sent, and its traceback."""

    error: Exception
    traceback: str

    def here(self) -> Exception:
        """The error, to be raised in this process."""
        self.error.__cause__ = ElsewhereError(f"\n{self.traceback}")
        return self.error


def send(connection: Connection, what: Any) -> None:
    """Sends a value. A tensor is copied; `Connection.send` would share its memory, under the system's limits."""
    connection.send_bytes(pickle.dumps(what))


def outcome_of(work: Work, piece: Piece, given: tuple[Any, ...]) -> Outcome:
    """Does a piece."""
    begun = time.perf_counter()
    try:
        value, error = work(piece, given), None
    except Exception as raised:
        value, error = None, raised
    return Outcome(value, error, time.perf_counter() - begun)


def serve(connection: Connection, opener: Opener) -> None:
    """Opens what it works on, then does each piece that comes; the process is ended from outside.

    Args:
        connection: to the process that started this one.
        opener: returns what does a piece.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    voice = _Voice(connection)
    try:
        # The first process has opened the same, and has said what there was to say.
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            work = opener()
    except Exception as error:
        voice.tell("failed", _failed(error))
        return
    voice.tell("ready", None)
    out, err = _Written(voice, "stdout"), _Written(voice, "stderr")
    with redirect_stdout(out), redirect_stderr(err), progress.watched(_Far(voice)):
        while True:
            try:
                piece, given = connection.recv()
            except (EOFError, OSError):
                return
            with progress.stage("", total=1):
                outcome = outcome_of(work, piece, given)
            voice.tell("done", _packed(outcome))


class _Voice:
    """Sends words to the first process."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def tell(self, kind: str, what: Any) -> None:
        with self._lock:
            send(self._connection, (kind, what))


class _Written:
    """A stream whose text the first process prints."""

    def __init__(self, voice: _Voice, name: str) -> None:
        self._voice, self._name = voice, name

    def write(self, text: str) -> int:
        self._voice.tell("said", (self._name, text))
        return len(text)

    def flush(self) -> None:
        """Does nothing: no text waits."""


class _Far(progress.Watcher):
    """Reports to the first process how far a piece is, a few times a second."""

    def __init__(self, voice: _Voice) -> None:
        super().__init__()
        self._voice, self._due = voice, 0.0

    def changed(self) -> None:
        now = time.monotonic()
        if now >= self._due and self.stages:
            self._due = now + _OFTEN
            self._voice.tell("share", self.fractions()[0][1])


def _packed(outcome: Outcome) -> Any:
    """What can be sent of an outcome: its error as `Failed`."""
    if outcome.error is not None:
        return outcome._replace(error=None, value=_failed(outcome.error))
    try:
        pickle.dumps(outcome)
    except Exception as error:
        return outcome._replace(value=_failed(error))
    return outcome


def _failed(error: Exception) -> Failed:
    told = "".join(traceback.format_exception(error))
    try:
        is_sent = bool(pickle.dumps(error)) and str(copy(error)) == str(error)
    except Exception:
        is_sent = False
    if is_sent:
        return Failed(error, told)
    # A ValueError refuses a question, which an evaluation then leaves out with the words of the error.
    is_refusal = isinstance(error, ValueError)
    return Failed(ValueError(str(error)) if is_refusal else RuntimeError(f"{type(error).__name__}: {error}"), told)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)
