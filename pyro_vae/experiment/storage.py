"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed.

A lock is that of `flock`: it ends with the last process that has the file open, however that one ends. Where the file
system has none, nobody is stopped.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TextIO

from pyro_vae.errors import StorageError, UsageError

LARGEST_JSON = 1 << 24  # bytes; the manifest of a large model has some ten thousand
_TEMPORARY = ".pyro_vae-partial"
_LONGEST_HOLDER = 1000  # characters; a team has some hundred


def write(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash at any moment the old or the new content is there, never a part.

    Processes that write one file at the same time do not disturb each other: the last one's content stays.

    Raises:
        StorageError: the disk is full, or the place can not be written to; an older file is left as it was.
    """
    sweep(path.parent, path.name)
    with _storage_errors(path), _partial(path) as partial:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)


def append(path: Path, line: str) -> None:
    """Adds one line and flushes it to the disk. A crash can leave a last line without its end, which readers drop."""
    with _storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Removes a file, if it is there."""
    with _storage_errors(path):
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents."""
    with _storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def sweep(folder: Path, name: str = "") -> None:
    """Removes what an interrupted `write` left behind, of one file or of all; what another is writing stays."""
    for partial in folder.glob(f"{glob.escape(name)}*{_TEMPORARY}"):
        with _storage_errors(partial), suppress(BlockingIOError, FileNotFoundError):
            lock = _lock(partial, fcntl.LOCK_SH | fcntl.LOCK_NB, os.O_RDONLY | os.O_NONBLOCK)
            try:
                partial.unlink()
            finally:
                os.close(lock)


@contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Iterator[TextIO]:
    """Holds a file, which is made where it is not there: one process at a time can, and those that inherit it.

    Args:
        path: of the file. Whoever holds it may write into it who that is, and may remove it.
        refusal: from what the file says, the sentence for everyone else.

    Raises:
        UsageError: another process holds it.
        StorageError: it can not be made.
    """
    with _storage_errors(path):
        lock = _held(path, refusal)
    with open(path, "r+", encoding="utf-8", opener=lambda *_: lock) as file:
        yield file


def sign(file: TextIO, holder: str) -> None:
    """Says in a file of `locked` who holds it."""
    with _storage_errors(Path(file.name)):
        file.seek(0)
        file.truncate()
        file.write(f"{holder}\n")
        file.flush()


def remove_held(file: TextIO) -> None:
    """Removes a file of `locked` while it is held, unless another has come to its place."""
    with suppress(OSError):
        if _is_at(file.fileno(), Path(file.name)):
            Path(file.name).unlink()


def to_json(value: Any) -> bytes:
    """JSON in one form only: sorted keys, no NaN, a line end. Equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def from_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds anything else, or is too deep or too large to be one of ours.
        OSError: it can not be read.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{size} bytes are more than any file of this kind has")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} where an object is expected")
    return found


def sha256(content: bytes) -> str:
    """Hexadecimal digest.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    # It is locked for `sweep`, which could not tell otherwise whether its writer, on another machine too, is alive.
    partial = path.with_name(f"{path.name}.{token_hex(4)}{_TEMPORARY}")
    lock = _lock(partial, fcntl.LOCK_EX)
    try:
        yield partial
    except BaseException:  # a signal, too
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def _held(path: Path, refusal: Callable[[str], str]) -> int:
    while True:  # once more where it is removed before it is read
        try:
            return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
                raise UsageError(refusal(file.read(_LONGEST_HOLDER).strip())) from None


def _lock(path: Path, how: int, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Opens and locks a file. Raises BlockingIOError where another holds it."""
    while True:  # once more where it is removed before it is locked
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                os.close(descriptor)
                raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Use another --out"
        raise StorageError(f"can not write {path}: {error.strerror or error}. {cure}.") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
