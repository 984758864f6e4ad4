"""train.lock: one process at a time trains in a folder. Anyone who only reads needs no lock.

The data are read after looking into a folder and before locking it, which can take long. A mark, taken before that
look, shows whether another process has trained in the folder meanwhile.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_vae import system
from pyro_vae.errors import StorageError, UsageError
from pyro_vae.experiment.run import files


def mark(folder: Path) -> bytes:
    """Takes a mark of a folder, which changes as soon as a process trains in it."""
    with suppress(OSError):
        return (folder / "run.json").read_bytes()
    return b""


@contextmanager
def locked(folder: Path, before: bytes | None = None) -> Iterator[None]:
    """Holds a folder, so that no other process trains in it.

    Args:
        folder: the folder of the run, which is made where it is missing.
        before: the mark from when it was decided what to do in it; None where that does not matter.

    Raises:
        UsageError: another process trains in it, or has trained in it since that was decided.
        StorageError: the folder cannot be written to.
    """
    files.make_folder(folder)

    def refusal(named: str) -> str:
        return (
            f"another training is at work in {folder} (process {named}): wait for it, or end it by "
            f"{system.BY_HAND}, which keeps its step; or use another `folder`"
        )

    with files.locked(folder / "train.lock", refusal, remove=True) as lock:
        lock.sign(f"{os.getpid()} on {platform.node()}")
        if before not in (None, mark(folder)):
            raise UsageError(
                f"another training has written to {folder} since this one began: repeat the command, or "
                "use another `folder`"
            )
        yield


def holder(folder: Path) -> str:
    """Returns who trains in a folder now, as "123 on this-computer"; "" where no one does.

    The lock that a killed training left is removed.

    Raises:
        StorageError: the folder cannot be written to.
    """
    path = folder / "train.lock"
    if not path.exists():
        return ""
    try:
        with files.locked(path, lambda named: named or "that has just begun", remove=True):
            return ""
    except UsageError as refusal:
        return str(refusal)


def sweep(folder: Path) -> None:
    """Removes the lock that a killed training left."""
    with suppress(StorageError):
        holder(folder)
