"""Commands side by side, each a process of its own, and a folder that only one such team works in.

The process that starts the team holds a lock on the folder, and every other one inherits it. So the lock is free when
the last of them has ended. After `kill -9` of the first process its runs continue, and a second team is refused until
they end.
"""

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pyro_vae import system
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.interruption import noted

_PAUSE = 0.1  # seconds between two looks at the processes
_PAUSES = 10  # from one report of them to the next


class Job(NamedTuple):
    """A command to run.

    Attributes:
        folder: where its output goes, as train.log.
        command: the arguments of Python.
    """

    folder: Path
    command: Sequence[str]


@contextmanager
def locked(folder: Path) -> Iterator[files.Lock]:
    """Holds the folder for this process and for those that it starts.

    Args:
        folder: it is made if it is not there.

    Raises:
        UsageError: another process holds it, or one that another has left behind.
    """
    files.make_folder(folder)

    def refusal(numbers: str) -> str:
        return (
            f"another sweep is at work in {folder}, or runs that one left behind (processes {numbers}): wait for them, "
            f"or end them by {system.BY_HAND}, which keeps their steps"
        )

    with files.locked(folder / "sweep.lock", refusal) as lock:
        _write_down(lock, [])
        yield lock


def work(
    jobs: Iterable[Job],
    at_once: int,
    lock: files.Lock,
    done: Callable[[Job, int, float], None],
    looked: Callable[[Sequence[Job]], None] = lambda working: None,
) -> None:
    """Runs all jobs, this many at once, and shares the cores among them.

    At the first SIGINT or SIGTERM the jobs are asked to end, see `system.ask_to_end`, and this process ends when they
    have. At a second one they are asked again. The jobs are in process groups of their own, so that Ctrl-C reaches them
    in no other way.

    Args:
        jobs: the commands, in the order in which they are started.
        at_once: how many processes run side by side.
        lock: the lock on the folder.
        done: told of each job that has ended, its exit code and its seconds, except of those that a signal has cut.
        looked: told once a second which jobs are at work.
    """
    waiting, working = deque(jobs), dict[subprocess.Popen[bytes], tuple[Job, float]]()
    environment = {**_shared_out(at_once), **os.environ}
    pauses = itertools.count()
    with noted() as stop:
        told = False
        try:
            while working or (waiting and not stop()):
                while waiting and len(working) < at_once and not stop():
                    job = waiting.popleft()
                    working[_start(job, lock, environment)] = job, time.perf_counter()
                    _write_down(lock, working)
                if stop() and not told:
                    told = True
                    _ask_to_end(working)
                time.sleep(_PAUSE)
                if next(pauses) % _PAUSES == 0:
                    looked([job for job, _ in working.values()])
                for process in [process for process in working if process.poll() is not None]:
                    job, begun = working.pop(process)
                    _write_down(lock, working)
                    if process.returncode == 0 or not told:
                        done(job, process.returncode, time.perf_counter() - begun)
        finally:  # nothing is left to end, unless a second signal or an error has come
            _ask_to_end(working)
            for process in working:
                process.wait()


def _shared_out(at_once: int) -> dict[str, str]:
    """The environment of a job that has its share of the cores; empty where the user has set its threads."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    share = str(max(1, system.cores() // at_once))
    return {"OMP_NUM_THREADS": share, system.SHARE: share}


def _start(job: Job, lock: files.Lock, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    files.make_folder(job.folder)
    with (job.folder / "train.log").open("ab") as log:
        log.write(f"$ {shlex.join(['python', *job.command])}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            **system.child_options(lock.fileno()),
        )


def _ask_to_end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        system.ask_to_end(process)


def _write_down(lock: files.Lock, processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Writes down who holds the lock, for the sentence that refuses others."""
    lock.sign(" ".join(str(number) for number in (os.getpid(), *(process.pid for process in processes))))
