"""Files that are either whole or not there: written next to their place, flushed to the disk, then renamed.

A lock ends with the process that holds it, however that process ends; see `pyro_vae.system` for what children do. Where
the file system has no locks, no process is stopped.
"""

import errno
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, NamedTuple

from pyro_vae import system
from pyro_vae.errors import StorageError, UsageError

LARGEST_JSON = 1 << 24  # bytes; the manifest of a large model has about ten thousand
_TEMPORARY = ".pyro_vae-partial"
_LONGEST_HOLDER = 1000  # characters; a team has some hundred


def write(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash at any moment the old or the new content is there, never a part.

    Processes that write one file at the same time do not disturb each other: the content of the last one stays.

    Raises:
        StorageError: the disk is full, or the place cannot be written to. An older file is left as it was.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}*{_TEMPORARY}"):
        system.remove_left(left, in_doubt=False)
    with storage_errors(path), _partial(path) as partial:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        system.flush_folder(path.parent)


@contextmanager
def streamed(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write piece by piece. It takes its place at the end; where the block fails, there is none.

    Args:
        path: the path of the file.

    Raises:
        StorageError: as for `write`.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}*{_TEMPORARY}"):
        system.remove_left(left, in_doubt=False)
    with storage_errors(path), _partial(path) as partial:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        system.flush_folder(path.parent)


def append(path: Path, line: str) -> None:
    """Adds one line and flushes it to the disk. A crash can leave a torn last line, which readers drop."""
    with storage_errors(path), path.open("ab") as file:
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Removes a file if it is there."""
    with storage_errors(path):
        path.unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """Checks that `write` could write a file, before the work whose results it will hold. It leaves no trace.

    Raises:
        StorageError: its folder is not there or cannot be written to, or the path is a folder.
    """
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with _partial(path) as partial:
            partial.touch()
            partial.unlink()


def check_folder(path: Path) -> None:
    """Checks that files could be written into a folder, which need not exist yet. It leaves no trace.

    Raises:
        StorageError: they could not.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    with storage_errors(path), _partial(there / token_hex(4)) as partial:
        partial.touch()
        partial.unlink()


def make_folder(path: Path) -> None:
    """Creates a folder and its parents."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def claim_folder(path: Path) -> bool:
    """Creates a folder, and its parents. Returns False if it exists already, so another process could own it."""
    make_folder(path.parent)
    with storage_errors(path):
        try:
            path.mkdir()
        except FileExistsError:
            return False
    return True


def sweep(folder: Path) -> None:
    """Removes what an interrupted `write` left. A file that another process writes stays, where there are locks."""
    for partial in folder.glob(f"*{_TEMPORARY}"):
        system.remove_left(partial, in_doubt=True)


class Lock(NamedTuple):
    """A file that this process holds, see `locked`."""

    path: Path
    descriptor: int

    def fileno(self) -> int:
        """The descriptor, for a child process that will hold the file too."""
        return self.descriptor

    def sign(self, holder: str) -> None:
        """Writes the holder's name into the file."""
        with storage_errors(self.path):
            os.ftruncate(self.descriptor, 0)
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            os.write(self.descriptor, f"{holder}\n".encode())


@contextmanager
def locked(path: Path, refusal: Callable[[str], str], *, remove: bool = False) -> Iterator[Lock]:
    """Holds a file. One process at a time can hold it, together with those that inherit it.

    Args:
        path: the path of the file, which is made where it is missing.
        refusal: makes the sentence for everyone else, from what the file says.
        remove: whether the file goes in the end.

    Raises:
        UsageError: another process holds it.
        StorageError: it cannot be made.
    """
    with storage_errors(path):
        descriptor = _held(path, refusal)
    try:
        yield Lock(path, descriptor)
    finally:
        system.release(path, descriptor, remove=remove)


def to_json(value: Any) -> bytes:
    """Writes JSON in one form: sorted keys, no NaN, a line end. Equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def from_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        ValueError: the file holds anything else, or is too deep or too large to be one of ours.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{size} bytes are more than a file of this kind can have")
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} where an object is expected")
    return content


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    # `sweep` could not tell otherwise whether its writer, on another machine too, is alive.
    partial = path.with_name(f"{path.name}.{token_hex(4)}{_TEMPORARY}")
    with system.in_the_making(partial):
        try:
            yield partial
        except BaseException:  # a signal, too
            partial.unlink(missing_ok=True)
            raise


def _held(path: Path, refusal: Callable[[str], str]) -> int:
    while True:  # once more where it is removed before it is read
        try:
            return system.hold(path)
        except BlockingIOError:
            with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
                raise UsageError(refusal(file.read(_LONGEST_HOLDER).strip())) from None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an error of the operating system, of writing to a path, into a StorageError."""
    try:
        yield
    except OSError as error:
        cure = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Use another `folder`"
        raise StorageError(f"cannot write {path}: {error.strerror or error}. {cure}.") from error
