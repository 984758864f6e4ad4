"""The other end of `benchmarks.worker`: one live process for each row of a table."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.peer import NotAvailableError
from benchmarks.problem import Size

ROOT = Path(__file__).parents[1]


class FailedError(RuntimeError):
    """A row failed, or does other work than the rest; the table prints why in its place."""


@dataclass(frozen=True)
class Setting:
    """Where rows run: the device and the number of processor cores that each may use."""

    device: str = "cpu"
    cores: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def environment(self) -> dict[str, str]:
        """The same number of threads for OpenMP and MKL; XLA takes as many as it may run on."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": str(self.cores),
            "MKL_NUM_THREADS": str(self.cores),
            "JAX_PLATFORMS": self.device,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }


class Worker:
    """A row's process. `seconds` is how long its last answer took, measured there; `building` its first."""

    def __init__(self, task: str, key: str, size: Size, setting: Setting, environment: dict[str, str] | None = None):
        self.task, self.key, self.size, self.setting = task, key, size, setting
        self.seconds = 0.0
        self.tolerance = self.building = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", str(setting.cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**setting.environment(), **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def build(self, num_data: int) -> dict[str, float]:
        """Builds the row's peer, with parameters and so many data."""
        found: dict[str, float] = self.ask(
            "build",
            task=self.task,
            key=self.key,
            size=asdict(self.size),
            device=self.setting.device,
            num_data=num_data,
        )
        self.tolerance, self.building = found["tolerance"], self.seconds
        return found

    def call(self, method: str, **arguments: Any) -> Any:
        """A method of the peer."""
        return self.ask("call", method=method, arguments=arguments)

    def ask(self, call: str, **arguments: Any) -> Any:
        """A request and its answer.

        Raises:
            NotAvailableError, FailedError: in the words of the worker.
        """
        if self.process.stdin is None or self.process.stdout is None:
            raise FailedError("the process has no pipes")
        try:
            print(json.dumps({"call": call, "arguments": arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise FailedError(f"its process ended with code {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise (NotAvailableError if reply["kind"] == "not available" else FailedError)(reply["error"])
        self.seconds = reply["seconds"]
        return reply["value"]


@contextmanager
def assembled(
    task: str, keys: list[str], size: Size, setting: Setting, num_data: int
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """The workers that could be built, and for the others why not."""
    with ExitStack() as stack:
        ready, missing = {}, {}
        for key in keys:
            worker = Worker(task, key, size, setting)
            try:
                worker.build(num_data)
                ready[key] = stack.enter_context(worker)
            except (NotAvailableError, FailedError) as error:
                worker.__exit__(None, None, None)
                missing[key] = str(error)
        yield ready, missing
