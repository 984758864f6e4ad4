"""What a command prints, on any terminal and into any pipe.

A letter that the output cannot show gets a stand-in, and no UnicodeEncodeError: +- for ±, \\xfc for ü. Files that a
command writes stay UTF-8. Output that no one reads any more, as behind `| head`, ends the command without a traceback.
"""

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae import system
from pyro_vae.errors import StorageError

_STAND_INS = {
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{DAGGER}": "*",
}
_NAME = "pyro_vae.stand_ins"


@contextmanager
def output() -> Iterator[None]:
    """Inside, a command prints. All commands begin here."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, for Python's own flush at the end would only complain
    except BrokenPipeError:
        drop()
        sys.exit(system.BROKEN_PIPE)
    except OSError as error:  # such as output to a full disk
        drop()
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(StorageError.exit_code)


def drop() -> None:
    """Drops what Python still holds back, which would be written at its end, and fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _STAND_INS.get(sign) or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_NAME, _stand_in)
