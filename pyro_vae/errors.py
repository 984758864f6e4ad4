"""The user's mistakes and the machine's: one class for each exit code of the command line.

A message names the thing, the value and the cure. It names an argument in backticks, `lr` or `kl_weight=0`, which the
command line shows as its flag, --lr or --kl-weight 0. Everything here that a user's input can cause is a `ValueError`
as well, so that library code needs no import from this file to catch it.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class PyroVAEError(Exception):
    """Base of all errors that the command line turns into one sentence and the exit code of their class."""

    exit_code: int


class UsageError(PyroVAEError, ValueError):
    """An argument, a name or a combination of them that makes no sense."""

    exit_code = 2


def unknown(kind: str, name: str, names: Iterable[str], also: str = "") -> UsageError:
    """The error for a name that is none of `names`, with the nearest one; `also` says what else would do.

    >>> print(unknown("likelihood", "bernouli", ["bernoulli", "normal"]))
    unknown likelihood 'bernouli'; did you mean 'bernoulli'? (bernoulli, normal)
    """
    names = list(names)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)[0]
    return UsageError(f"unknown {kind} {name!r}; did you mean {near!r}? ({', '.join(names)}{also})")


def uninstalled(what: str, extra: str) -> UsageError:
    """The error for a package that only some need and that is not there.

    >>> print(uninstalled("the hub", "hub"))
    the hub needs its package: pip install -e '.[hub]'
    """
    return UsageError(f"{what} needs its package: pip install -e '.[{extra}]'")


class DataError(PyroVAEError, ValueError):
    """Data that are missing, damaged, of the wrong shape or outside the support of the likelihood."""

    exit_code = 3


class CheckpointError(PyroVAEError, ValueError):
    """A checkpoint that is missing, damaged, altered or from a newer version."""

    exit_code = 4


class DivergenceError(PyroVAEError, ArithmeticError):
    """A loss or gradient that is not finite; the step was not applied."""

    exit_code = 5


@contextmanager
def divergence(what: str) -> Iterator[None]:
    """Names what can not be computed, where Pyro's validation or a check finds numbers that are not finite."""
    try:
        yield
    except PyroVAEError:
        raise
    except (ValueError, RuntimeError) as error:
        from torch.linalg import LinAlgError  # here, since torch takes a second and a sentence does not need it

        if isinstance(error, RuntimeError) and not isinstance(error, LinAlgError):
            raise
        reason = str(error).splitlines()[0]
        raise DivergenceError(f"{what} is not finite ({reason}). Use a smaller learning rate (`lr`)") from error


class StorageError(PyroVAEError, OSError):
    """A file that could not be written or read: disk full, no permission, read-only."""

    exit_code = 6


class ProcessError(PyroVAEError, RuntimeError):
    """One of several processes that has ended, or does not agree with the others."""

    exit_code = 7


class CheckError(PyroVAEError):
    """A check that found something off: an estimator beside a known truth, a refit that changed more than the prior."""

    exit_code = 8


BY_EXIT_CODE: dict[int, type[PyroVAEError]] = {
    kind.exit_code: kind
    for kind in (UsageError, DataError, CheckpointError, DivergenceError, StorageError, ProcessError, CheckError)
}
