"""The operating system: locks, links, flushing, signals, children. Only this module knows what a system lacks.

Each function looks for the call that it needs and makes do with what there is. A lock is the first available of:

- `flock`, on Linux and macOS: held by this process and by children that inherit it, and free when the last of them
  ends, however it ends.
- `msvcrt.locking`, on Windows: the same, but without the children.
- `lockf`, on a POSIX system without `flock`: the same, but without the children, and a process can hold it twice.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

fcntl: Any = None
msvcrt: Any = None
with suppress(ImportError):
    import fcntl
with suppress(ImportError):
    import msvcrt

_BY_CTRL_BREAK = hasattr(signal, "CTRL_BREAK_EVENT")  # Windows, where SIGTERM ends a process at once
# Signals that ask a process to end, their exit codes, and how a user sends one from elsewhere.
STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.Signals["SIGBREAK"]] if _BY_CTRL_BREAK else []))
INTERRUPTED = [128 + number for number in STOPPING]
BY_HAND = "Ctrl-C where it was started" if _BY_CTRL_BREAK else "kill"
BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)  # exit code if nothing reads the output
SHARE = "PYRO_VAE_CORES"  # environment variable: the cores of a process that shares the machine with its siblings
_ended_by: list[int] = []  # the signals that `end` got
_LOCKED_BYTE = (1 << 31) - 2  # on Windows, where no one else can read a locked byte: far beyond the contents of a file


def end(number: int, frame: FrameType | None = None) -> None:
    """Ends the program with the exit code of a signal: the handler of those in `STOPPING`.

    Raises:
        SystemExit: always.
    """
    _ended_by.append(number)
    raise SystemExit(128 + number)


def end_again() -> None:
    """Raises what `end` raised, for code that gets another error in its place.

    Raises:
        SystemExit: `end` was called since `forget_end`.
    """
    if _ended_by:
        raise SystemExit(128 + _ended_by[-1])


def forget_end() -> None:
    """Lets `end_again` do nothing until the next signal."""
    _ended_by.clear()


def cores() -> int:
    """Counts the processor cores that this process may use; all of the machine if the system does not say."""
    if share := os.environ.get(SHARE, ""):
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_core() -> int:
    """Counts the hardware threads that count as cores and share one; 1 if the system does not say."""
    try:
        return 2 if Path("/sys/devices/system/cpu/smt/active").read_text(encoding="ascii").strip() == "1" else 1
    except OSError:
        return 1


@cache
def performance_cores() -> int | None:
    """Counts the faster ones of the cores of an Apple processor, on which torch computes; None elsewhere."""
    told = ""
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return int(told) if told.isdecimal() else None


def flush_folder(folder: Path) -> None:
    """Flushes the names of files in a folder to disk. Windows cannot open folders, so there it does nothing."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def child_options(descriptor: int) -> dict[str, Any]:
    """Returns arguments of `subprocess.Popen` for a child that also holds a lock and that Ctrl-C does not reach.

    On Windows the child holds no lock.
    """
    if new_group := getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0):
        return {"creationflags": new_group}
    return {"pass_fds": [descriptor], "process_group": 0}


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """A context whose children Ctrl-C does not reach; this process hears it at the end. On Windows they hear it too."""
    here: Any = signal  # Windows has none of these names
    if not hasattr(here, "pthread_sigmask"):
        yield
        return
    before = here.pthread_sigmask(here.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        here.pthread_sigmask(here.SIG_SETMASK, before)


def ask_to_end(process: "subprocess.Popen[Any]") -> None:
    """Asks a child that `child_options` started to save its step and end, by SIGTERM or, on Windows, Ctrl-Break."""
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    except OSError:  # Windows without a console to send it
        process.terminate()


def end_at_once(process: "BaseProcess") -> None:
    """Ends a child of `multiprocessing` that has nothing to save."""
    process.kill()


def hold(path: Path) -> int:
    """Locks a file, and makes it if it does not exist. `release` ends the lock.

    Returns:
        its descriptor, open for reading and writing.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened. A file system without locks stops no one.
    """
    return _opened_and_locked(path, wait=False)


def release(path: Path, descriptor: int, *, remove: bool = False) -> None:
    """Ends the lock of `hold` for this process; children that hold the file too keep it.

    Args:
        path: of the file.
        descriptor: what `hold` returned.
        remove: whether to remove the file too, unless another file has taken its place. If open files can be removed,
            it is removed while it is held. Windows removes no open file, not even that of the next holder.
    """
    if _locks_bytes():
        with suppress(OSError):
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    elif remove:
        with suppress(OSError):
            if _is_at(descriptor, path):
                path.unlink()
    os.close(descriptor)
    if remove and _locks_bytes():
        with suppress(OSError):
            path.unlink()


def _locks_bytes() -> bool:
    return fcntl is None and msvcrt is not None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name. On Windows it always does."""
    if _locks_bytes():
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def in_the_making(path: Path) -> Iterator[None]:
    """Protects a file that the block makes and renames from `remove_left`.

    It uses `flock`, which follows a file to its new name. Windows cannot rename an open file, so there it does nothing.
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
    """Removes a file that no process is making, if it can be removed. A link is removed, not followed.

    Args:
        path: of the file.
        in_doubt: whether to remove it even if there are no locks to tell.
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
    while True:  # again if it is removed before it is locked
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, wait=wait)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                os.close(descriptor)
                raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _opened(path: Path, how: int) -> int:
    """Opens a file that is not a link."""
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return os.open(path, how | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


def _lock(descriptor: int, *, wait: bool) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    elif msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    elif sys.platform != "win32":
        os.lockf(descriptor, os.F_TLOCK, 0)
