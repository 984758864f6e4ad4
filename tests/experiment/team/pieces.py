"""Pieces of work that need no torch, for processes that start in a moment."""

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

from pyro_vae.errors import DivergenceError
from pyro_vae.progress import through


class OddError(Exception):
    """Cannot be made again from what it says."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


class OddValueError(OddError, ValueError):
    """A refusal of that kind."""


def open_quietly(kind=""):
    """An opener: what it prints has been said before."""
    print("opening")
    warnings.warn("opening", stacklevel=1)
    if kind == "refuses":
        raise DivergenceError("it cannot be opened")
    if kind == "ends":
        os._exit(3)
    return work


def work(piece, given):
    """Does what the name of the step says."""
    return _WORK[piece.step](piece, *given)


def _square(piece, *given):
    return piece.number**2, os.getpid(), given


def _slow(piece, seconds=0.2):
    for _ in through("", range(10)):
        time.sleep(seconds / 10)
    return os.getpid()


def _forever(piece, folder):
    """Notes who does it, and waits to be ended."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def _killed(piece):
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_soon(piece):
    time.sleep(0.3)
    _killed(piece)


def _fails(piece, *given):
    raise DivergenceError("an estimate is not finite")


def _fails_oddly(piece, *given):
    raise OddError("one", "other")


def _refuses_oddly(piece, *given):
    raise OddValueError("one", "other")


def _ends(piece, *given):
    os._exit(3)


def _tells(piece):
    logging.getLogger("pieces").warning("a line of a log")
    warnings.warn("a warning", stacklevel=1)
    print("a printed line")
    return os.getpid()


def _unsendable(piece, *given):
    return sys._getframe()


_WORK = {
    "square": _square, "slow": _slow, "forever": _forever, "killed": _killed, "killed_soon": _killed_soon,
    "fails": _fails, "fails_oddly": _fails_oddly, "tells": _tells, "unsendable": _unsendable,
    "refuses_oddly": _refuses_oddly, "ends": _ends,
}  # fmt: skip
