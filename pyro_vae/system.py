"""The operating system: locks, links, flushing, signals, children. No other module knows what a system lacks.

Each function looks for the name that it wants and does with what is there. A lock is, by what there is:

- `flock`, on Linux and macOS: held by this process and by children that inherit it, and free when the last of them has
  ended, however it ended.
- `msvcrt.locking`, on Windows: the same, without the children.
- A file beside the locked one, whose name says process and machine: it counts as long as that process lives. Nobody can
  ask whether one of another machine does, so that such a file has to be removed by hand.
"""

import errno
import glob
import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any = None
msvcrt: Any = None
with suppress(ImportError):
    import fcntl
with suppress(ImportError):
    import msvcrt

STOPPING = (signal.SIGINT, signal.SIGTERM)  # signals that ask a process to end
INTERRUPTED = tuple(128 + number for number in STOPPING)  # exit codes of processes that they have ended
BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)  # exit code where nobody reads what is printed
_LOCKED_BYTE = (1 << 31) - 2  # of Windows, where nobody else can read a locked byte: far behind all that a file says


def cores() -> int:
    """Counts the processor cores that this process may use; all of the machine where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flush_folder(folder: Path) -> None:
    """Makes the names of files in a folder last. Windows opens no folders: there it does nothing."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def child_options(descriptor: int) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a child that holds a lock too, and that Ctrl-C does not reach.

    On Windows it holds no lock.
    """
    if new_group := getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0):
        return {"creationflags": new_group}
    return {"pass_fds": [descriptor], "process_group": 0}


def hold(path: Path) -> int:
    """Locks a file, which is made where it is not there. `release` ends it.

    Returns:
        its descriptor, open for reading and writing.

    Raises:
        BlockingIOError: another holds it.
        OSError: it cannot be opened; a file system that has no locks stops nobody.
    """
    return _opened_and_locked(path, wait=False)


def release(path: Path, descriptor: int) -> None:
    """Ends what `hold` began, for this process: children that hold the file too go on doing so."""
    if fcntl is None:
        with suppress(OSError):
            _unlock(descriptor, path)
    os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Says whether an open file still has this name. Without `flock` it says yes: no lock depends on it there."""
    if fcntl is None:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def in_the_making(path: Path) -> Iterator[None]:
    """Keeps `remove_left` from a file that the block makes and renames.

    By `flock`, which follows a file to its new name. Windows renames no file that is open: there nothing is done.
    """
    if fcntl is None:
        yield
        return
    descriptor = _opened_and_locked(path, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_left(path: Path, *, in_doubt: bool) -> None:
    """Removes a file that nobody has in the making, if it can be removed. A link is removed, and not followed.

    Args:
        path: of the file.
        in_doubt: whether also where there are no locks to tell it by.
    """
    with suppress(OSError):
        if path.is_symlink() or (in_doubt and fcntl is None):
            path.unlink()
        elif fcntl is not None:
            _remove_unlocked(path, in_doubt=in_doubt)


def _remove_unlocked(path: Path, *, in_doubt: bool) -> None:
    descriptor = _opened(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink()
    except OSError as error:
        if in_doubt and not isinstance(error, BlockingIOError):
            path.unlink()
    finally:
        os.close(descriptor)


def _opened_and_locked(path: Path, *, wait: bool) -> int:
    while True:  # once more where it is removed before it is locked
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, path, wait=wait)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                os.close(descriptor)
                raise
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _opened(path: Path, how: int) -> int:
    """Opens a file that is no link."""
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return os.open(path, how | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


def _lock(descriptor: int, path: Path, *, wait: bool) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    elif msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        _claim(path)


def _unlock(descriptor: int, path: Path) -> None:
    if msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        _claim_of(path, os.getpid()).unlink()


def _claim(path: Path) -> None:
    # Each process has a file of its own name: so nobody takes over that of a dead one twice. Two that come at once may
    # both be refused.
    ours = _claim_of(path, os.getpid())
    try:
        ours.touch(exist_ok=False)
    except FileExistsError:
        raise BlockingIOError(f"{path} is held by this process") from None
    for claim in path.parent.glob(f"{glob.escape(path.name)}.held.*"):
        if claim != ours:
            if _may_live(claim, path):
                ours.unlink()
                raise BlockingIOError(f"{path} is held, see {claim}")
            claim.unlink(missing_ok=True)


def _claim_of(path: Path, number: int | str) -> Path:
    machine = re.sub(r"[^\w.-]", "_", platform.node())
    return path.with_name(f"{path.name}.held.{number}.{machine}")


def _may_live(claim: Path, path: Path) -> bool:
    """Whether the process that a claim names is alive, as far as can be known."""
    number = claim.name.removeprefix(f"{path.name}.held.").partition(".")[0]
    if os.name != "posix" or claim != _claim_of(path, number) or not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's, or no number of a process at all
    return True
