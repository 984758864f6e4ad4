"""A busy machine: loops in plain Python, each in a process of its own, that use a core if they get one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOOP = """
import os
while os.getppid() == {parent}:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def beside(loops: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A context beside so many loops. They end with it, and also if this process is killed.

    Example:
        >>> with beside(1) as (loop,):
        ...     loop.poll() is None
        True
        >>> loop.poll() is None
        False
    """
    command = [sys.executable, "-c", _LOOP.format(parent=os.getpid())]
    with ExitStack() as stack:
        processes = []
        for _ in range(loops):
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(_end, processes[-1])
        yield processes


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
