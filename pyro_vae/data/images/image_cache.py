"""Arrays that are made once and then mapped: files in the user's own cache folder."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyro_vae.errors import StorageError


def default_cache() -> Path:
    """Returns the folder for files that can be made again: `$XDG_CACHE_HOME/pyro_vae`, or the system's default."""
    windows = os.environ.get("LOCALAPPDATA", "") if sys.platform == "win32" else ""
    home = os.environ.get("XDG_CACHE_HOME", "") or windows
    return (Path(home) if home else Path.home() / ".cache") / "pyro_vae"


def mapped(cache: Path, key: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """Maps an array of uint8 that is made once: under a temporary name, and renamed when it is complete.

    Args:
        cache: the folder of such arrays; it is made.
        key: a full description of what the array is made from.
        shape: of the array.
        fill: writes the array.

    Returns:
        A read-only `np.memmap`.

    Raises:
        StorageError: there is no room or no permission.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = mapped(Path(folder), "fives", (2, 3), lambda out: out.fill(5)).tolist()
        ...     again = mapped(Path(folder), "fives", (2, 3), lambda out: out.fill(6)).tolist()
        >>> first == again == [[5, 5, 5], [5, 5, 5]]
        True
    """
    path = cache / f"{hashlib.sha256(f'{key} {shape}'.encode()).hexdigest()}.npy"
    try:
        if not _is_whole(path, shape):
            _make(path, shape, fill)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        cure = "Set XDG_CACHE_HOME to a folder with enough room."
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}). {cure}") from error


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    if not path.is_file():
        return False
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == np.uint8


def _make(path: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=object)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(0, f"{needed:,} bytes are needed, {free:,} are free")
    handle, name = tempfile.mkstemp(suffix=".pyro_vae-partial", dir=path.parent)
    os.close(handle)
    try:
        out = np.lib.format.open_memmap(name, mode="w+", dtype=np.uint8, shape=shape)
        fill(out)
        out.flush()
        del out
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
