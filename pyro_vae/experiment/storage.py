"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.errors import StorageError

LARGEST_JSON = 1 << 24  # bytes; the manifest of a large model has some ten thousand
_TEMPORARY = ".pyro_vae-partial"


def write(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash at any moment the old or the new content is there, never a part.

    Raises:
        StorageError: the disk is full, or the place can not be written to; an older file is left as it was.
    """
    partial = path.with_name(f"{path.name}{_TEMPORARY}")
    with _storage_errors(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:  # a signal, too
            partial.unlink(missing_ok=True)
            raise
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


def sweep(folder: Path) -> None:
    """Removes what an interrupted `write` left behind."""
    for partial in folder.glob(f"*{_TEMPORARY}"):
        remove(partial)


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
