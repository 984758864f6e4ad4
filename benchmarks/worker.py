"""The process of one row: answers requests, one JSON line each, and is silent in between.

    {"call": "build", "arguments": {...}}  ->  {"value": ..., "seconds": ...}   or   {"error": ..., "kind": ...}

Rows take turns: each keeps its own process, so that thread pools, allocators and compilers of one framework cannot
disturb another, and memory is measured for each alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import memory, rows
from benchmarks.peers.peer import NotAvailableError, Peer
from benchmarks.problem import Size, draw_data, draw_parameters, sharpen


class Server:
    """The peer of this process, and what may be asked of it."""

    def __init__(self) -> None:
        self.peer: Peer

    def build(self, task: str, key: str, size: dict[str, int], device: str, num_data: int) -> dict[str, float]:
        """Builds the peer and gives it parameters and data."""
        row = rows.TASKS[task][key]
        begin = time.perf_counter()
        self.size = Size(**size)
        row.load()
        imported = time.perf_counter() - begin
        self.base = memory.resident()
        self.peer = row.build(self.size, device)
        self.start_over(num_data)
        return {"tolerance": self.peer.tolerance, "imports": imported}

    def set_parameters(self, kind: str) -> None:
        """The parameters of `benchmarks.problem`, "ordinary" or "sharp"."""
        parameters = draw_parameters(self.size)
        self.peer.set_parameters(sharpen(parameters) if kind == "sharp" else parameters)

    def draws(self, kind: str, times: int) -> list[float]:
        """The loss of the first batch, drawn again and again at the same parameters by the step that is timed."""
        found = []
        for _ in range(times):
            self.set_parameters(kind)
            self.peer.feed(draw_data(self.size.batch, self.size.x_dim))
            found += self.peer.losses(1)
        return found

    def trajectory(self, num_data: int, num_steps: int) -> list[float]:
        """The losses of the first steps from the ordinary parameters, in a peer just built."""
        self.start_over(num_data)
        return self.peer.losses(num_steps)

    def start_over(self, num_data: int) -> None:
        """The ordinary parameters and so many data."""
        self.set_parameters("ordinary")
        self.peer.feed(draw_data(num_data, self.size.x_dim))

    def feed_file(self, path: str) -> None:
        """Data from a .npy file."""
        self.peer.feed(np.load(path))

    def save_parameters(self, path: str) -> None:
        """Parameters to a .npz file."""
        np.savez(path, allow_pickle=False, **self.peer.parameters())

    def reset_peak(self) -> None:
        """Forgets the peak so far, which belongs to compilers."""
        memory.reset_peak()

    def memory(self) -> dict[str, float]:
        """Mebibytes: the resident peak since the last reset, and what the imports alone took."""
        return {"peak": memory.peak(), "base": self.base}

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """A method of the peer."""
        return getattr(self.peer, method)(**arguments)


def answer(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    """What a request gives; an error is an answer too."""
    method: Callable[..., Any] = getattr(server, request["call"])
    begin = time.perf_counter()
    try:
        value = method(**request["arguments"])
    except NotAvailableError as error:
        return {"error": str(error), "kind": "not available"}
    except Exception as error:  # whatever a peer raises is reported in its row
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0], "kind": "failed"}
    return {"value": value, "seconds": time.perf_counter() - begin}


def confine(cores: int) -> None:
    """Keeps this process to the first so many cores, which is what XLA counts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def main() -> None:
    """Serves until the standard input ends. Libraries that print do so on the standard error."""
    confine(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        print(json.dumps(answer(server, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
