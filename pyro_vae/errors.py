"""The user's mistakes and the machine's, one class per exit code of the scripts.

A message names the thing, the value and the cure. Everything here that a user's input can cause is a
`ValueError` as well, so that library code needs no import from this file to catch it.
"""


class PyroVAEError(Exception):
    """Base of all errors that the scripts turn into one sentence and an exit code."""

    exit_code = 1


class UsageError(PyroVAEError, ValueError):
    """A flag, a name or a combination of them that makes no sense."""

    exit_code = 2


class DataError(PyroVAEError, ValueError):
    """Data that are missing, damaged, of the wrong shape or outside the support of the likelihood."""

    exit_code = 3


class CheckpointError(PyroVAEError, ValueError):
    """A checkpoint that is missing, damaged, altered or from a newer version."""

    exit_code = 4


class DivergenceError(PyroVAEError, ArithmeticError):
    """A loss or gradient that is not finite; the step was not applied."""

    exit_code = 5


class StorageError(PyroVAEError, OSError):
    """A file that could not be written or read: disk full, no permission, read-only."""

    exit_code = 6
