"""How a command ends: an error as one sentence and the exit code of its class, a signal as 128 and its number.

    0            done
    1            Python's own, with a traceback: an unforeseen error
    2 to 8       see `pyro_vae.errors`
    130, 143     SIGINT, SIGTERM; on Windows also 149, Ctrl-Break
    141          the reader of the output has gone

A sentence of the library, raised or logged, names arguments, which become the flags that the user of a command knows.
A setting of a run that the command does not take is a flag of training. `folder` is the place that is written to, and
no run that is only read.
"""

import atexit
import gc
import logging
import re
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from pyro_vae import system
from pyro_vae.cli import output
from pyro_vae.command_lines import script
from pyro_vae.errors import PyroVAEError, StorageError
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.config import Config
from pyro_vae.progress_display import shown

_ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")
_SETTINGS = frozenset(setting.name for setting in settings_of(Config))
# A class of the user's own, which the library takes and the command line names by its place.
_OWN_CLASS = re.compile(r"`(\w+)=\(?([\w, ]+)\)?` of '([^']+)'")
_CALLED = {"num_levels": "levels"}  # arguments whose flags have another name


@contextmanager
def exit_codes(
    left: str = "", arguments: Collection[str] = (), place: str = "out", *, noted: bool = False
) -> Iterator[None]:
    """Turns errors of this package into one sentence and their exit code, and signals into 128 + their number.

    Args:
        left: what an interrupted command leaves, and how to go on.
        arguments: the names of those that the command has.
        place: that of them which says where the command writes.
        noted: whether what interrupts it carries, as a note, the command that goes on.
    """

    def said_of(end: BaseException) -> str:
        again = getattr(end, "__notes__", [])[-1:] if noted else []
        said = kept(again[0]) if again else left
        return f": {said}" if said else ""

    atexit.register(gc.freeze)  # or Python searches all of torch for garbage, after the last word
    previous = {number: signal.signal(number, system.end) for number in system.STOPPING}
    wording = wording_of(arguments, place)
    log_as_before = log_in_words(wording)
    try:
        with shown("starting (loading PyTorch)"):
            yield
    except SystemExit as end:
        if end.code in system.INTERRUPTED:
            print(f"interrupted{said_of(end)}", file=sys.stderr)
        raise
    except BrokenPipeError as end:  # the reader of the output, e.g. head, has gone
        print(f"interrupted: no one reads the output any more{said_of(end)}", file=sys.stderr)
        output.drop()
        sys.exit(system.BROKEN_PIPE)
    except PyroVAEError as error:
        print(f"error: {wording(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # such as output that goes to a full disk
        print(f"error: {printable(str(error))}", file=sys.stderr)
        output.drop()
        sys.exit(StorageError.exit_code)
    finally:
        log_as_before()
        for number, handler in previous.items():
            signal.signal(number, handler)
        system.forget_end()


class _Worded(logging.Handler):
    """Prints what the library logs, on whatever is the standard error then."""

    def __init__(self, wording: Callable[[str], str]) -> None:
        super().__init__()
        self._wording = wording

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self._wording(self.format(record)), file=sys.stderr)
        except Exception:
            self.handleError(record)  # as all handlers do: a note ends no training


def log_in_words(wording: Callable[[str], str]) -> Callable[[], None]:
    """Prints what the library logs in the words of `wording_of`, until the function that this returns is called."""
    logger, handler = logging.getLogger("pyro_vae"), _Worded(wording)
    logger.addHandler(handler)
    return lambda: logger.removeHandler(handler)


def kept(again: str) -> str:
    """What an interrupted command leaves.

    Args:
        again: the command that goes on.
    """
    return f"what was reached is kept; {again} goes on"


def in_flags(message: str, arguments: Collection[str] = _SETTINGS, place: str = "out") -> str:
    """What the library says to a programmer, for a person who types flags.

    Args:
        message: it names arguments in backticks.
        arguments: those that the command has.
        place: that of them which the library calls `folder`.

    Example:
        >>> in_flags("Use `kl_weight=0`, `objective='iwae'`, or pass `x_shape`; leave `download` out")
        'Use --kl-weight 0, --objective iwae, or pass `x_shape`; leave --download out'
        >>> in_flags("Use another `folder`, or `data_dir`, or `download=True`", ["out", "data_dir"])
        'Use another --out, or --data-dir, or --download of pyro-vae train'
    """

    def flag(said: re.Match[str]) -> str:
        name, value = place if said[1] == "folder" else _CALLED.get(said[1], said[1]), said[2]
        if name not in _SETTINGS and name not in arguments:
            return said[0]
        value = "nan" if said[0] == "`missing=True`" else value  # a word to a command, which may take others
        words, of = name.replace("_", "-"), "" if name in arguments else f" of {script('train')}"
        if value in (None, "True", "False"):
            return f"--no-{words}{of}" if value == "False" else f"--{words}{of}"
        plain = value.strip(chr(34) + chr(39))
        return f"--{words} {shlex.quote(plain) if plain.startswith('{') else plain}{of}"

    return _ARGUMENT.sub(flag, _OWN_CLASS.sub(_by_place, message))


def _by_place(said: re.Match[str]) -> str:
    return f"`{said[1]}={said[3]}:{said[2].replace(', ', ',')}`"


def wording_of(arguments: Collection[str] = _SETTINGS, place: str = "out") -> Callable[[str], str]:
    """Returns what turns a note of the library into words for a person who types the flags of a command.

    Args:
        arguments: those that the command has.
        place: that of them which the library calls `folder`.
    """
    return lambda sentence: printable(in_flags(sentence, arguments, place))


def printable(message: str) -> str:
    """Without characters that steer a terminal; names of files and what lies in them may hold any."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in message)
