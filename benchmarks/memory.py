"""Resident memory of this process, in MiB. Not `ru_maxrss`, which a child inherits from its parent."""

import contextlib
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> float:
    """Now."""
    return _status("VmRSS")


def peak() -> float:
    """The largest since the start, or since the last `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Starts the peak anew, where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def _status(field: str) -> float:
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
