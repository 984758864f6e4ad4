"""The user's mistakes and the machine's: one class for each exit code of the command line.

A message names the thing, the value and the cure. It names an argument in backticks, `lr` or `kl_weight=0`, which the
command line shows as its flag, --lr or --kl-weight 0. Every error here that a user's input can cause is also a
`ValueError`, so that library code needs no import from this file to catch it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class PyroVAEError(Exception):
    """Base of all errors that the command line turns into one sentence and the exit code of their class."""

    exit_code: int


class UsageError(PyroVAEError, ValueError):
    """An argument, a name or a combination of them that makes no sense."""

    exit_code = 2


def listed(names: Iterable[str], word: str = "and") -> str:
    """Writes names as a sentence lists them.

    Args:
        names: one or more.
        word: that stands before the last.

    Example:
        >>> listed(["prior"]), listed(["prior", "likelihood", "network"])
        ('prior', 'prior, likelihood and network')
    """
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def unknown(kind: str, name: str, names: Iterable[str], also: str = "") -> UsageError:
    """The error for a name that is none of `names`, with the nearest one; `also` says what else would do.

    >>> print(unknown("likelihood", "bernouli", ["bernoulli", "normal"]))
    unknown likelihood 'bernouli'; did you mean 'bernoulli'? (bernoulli, normal)
    >>> print(unknown("likelihood", "gaussian", ["bernoulli", "normal"]))
    unknown likelihood 'gaussian'; choose from bernoulli, normal
    """
    names = list(names)
    return UsageError(f"unknown {kind} {name!r}; {guess(name, names, ', '.join(names) + also)}")


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its kind if it says nothing. Torch can add many lines of C++.

    >>> first_line(RuntimeError("shapes differ\\nframe #1")), first_line(MemoryError())
    ('shapes differ', 'MemoryError')
    """
    return (str(error) or type(error).__name__).splitlines()[0]


def guess(name: str, names: Iterable[str], listed: str) -> str:
    """Returns what to write in place of a name that is none of `names`.

    Args:
        name: what was written.
        names: what can be.
        listed: these, for a reader.

    Example:
        >>> guess("ag", ["age", "height"], "age, height"), guess("weight", ["age", "x"], "age, x")
        ("did you mean 'age'? (age, height)", 'choose from age, x')
    """
    near = nearest(name, names)
    return f"did you mean {near!r}? ({listed})" if near else f"choose from {listed}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns which of `names` was probably meant, or "" where none is near.

    >>> nearest("Bernouli", ["bernoulli", "normal"]), nearest("gaussian", ["bernoulli", "normal"])
    ('bernoulli', '')
    """
    by_letters = {other.lower(): other for other in names}
    return next((by_letters[near] for near in difflib.get_close_matches(name.lower(), by_letters, n=1)), "")


def uninstalled(what: str, extra: str) -> UsageError:
    """The error for a package that only some need and that is not there.

    >>> print(uninstalled("the hub", "hub"))
    the hub needs its package: pip install 'pyro-vae[hub]'
    """
    return UsageError(f"{what} needs its package: pip install 'pyro-vae[{extra}]'")


class DataError(PyroVAEError, ValueError):
    """Data that are missing, damaged, of the wrong shape or outside the support of the likelihood."""

    exit_code = 3


@contextmanager
def of_data(name: str) -> Iterator[None]:
    """Puts the name of the data before a DataError of the block.

    Example:
        >>> with of_data("own.npy"):
        ...     raise DataError("row 3 is empty")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.DataError: own.npy: row 3 is empty
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


class CheckpointError(PyroVAEError, ValueError):
    """A checkpoint that is missing, damaged, altered or from a newer version."""

    exit_code = 4


class DivergenceError(PyroVAEError, ArithmeticError):
    """A loss or gradient that is not finite; the step was not applied."""

    exit_code = 5


# What torch.distributions says of parameters and values that it refuses, such as the output of a diverged network.
_REFUSED = re.compile(
    r"Expected (parameter|value argument) .*?(satisfy the constraint|within the support).*?(?=, but found|\n|$)",
    re.DOTALL,
)


@contextmanager
def divergence(what: str) -> Iterator[None]:
    """Turns numbers that a distribution or a factorisation refuses inside into a DivergenceError, and no other error.

    Args:
        what: what is computed inside.

    Raises:
        DivergenceError: it cannot be computed; the error says what was refused.

    Example:
        >>> with divergence("the ELBO"):
        ...     raise ValueError("num_samples must be at least 1; got 0")
        Traceback (most recent call last):
        ...
        ValueError: num_samples must be at least 1; got 0
    """
    try:
        yield
    except PyroVAEError:
        raise
    except (ValueError, RuntimeError) as error:
        from torch.linalg import LinAlgError  # here, since torch takes a second and a sentence does not need it

        refused = _REFUSED.search(str(error))
        if not refused and not isinstance(error, LinAlgError):
            raise
        raise not_finite(what, refused[0] if refused else first_line(error)) from error


def not_finite(what: str, reason: str) -> DivergenceError:
    """The error for a number that is not finite.

    >>> print(not_finite("the validation ELBO", "it is nan"))
    the validation ELBO is not finite (it is nan)
    """
    return DivergenceError(f"{what} is not finite ({reason})")


class StorageError(PyroVAEError, OSError):
    """A file that could not be written or read: disk full, no permission, read-only."""

    exit_code = 6


class ProcessError(PyroVAEError, RuntimeError):
    """One of several processes that has ended, or does not agree with the others."""

    exit_code = 7


class CheckError(PyroVAEError):
    """A check that found a fault: an estimator that misses a known truth, a refit that changed more than the prior."""

    exit_code = 8


BY_EXIT_CODE: dict[int, type[PyroVAEError]] = {
    kind.exit_code: kind
    for kind in (UsageError, DataError, CheckpointError, DivergenceError, StorageError, ProcessError, CheckError)
}
