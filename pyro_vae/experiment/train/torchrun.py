"""One script in many processes, as torchrun starts it: they find each other, and only one prints."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae import system
from pyro_vae.command_lines import command_line
from pyro_vae.errors import ProcessError, UsageError, first_line

if TYPE_CHECKING:
    from pyro_vae.inference import World


_LONGEST_WAIT = timedelta(
    hours=6
)  # for the first process, which may download data or evaluate a bound while the others wait
_PATIENCE = 10.0  # seconds, in which the first process comes to its sentence
_SHORT_PATIENCE = 1.0  # the same, if all have been told to end


@contextmanager
def one_speaks() -> Iterator[None]:
    """Silences all processes except the first one. Each of them prints a traceback that leaves the block.

    torchrun ends all processes as soon as one has failed. So the others wait for that before they leave with an error,
    since the first one has a sentence to print. Enter it before torch is imported.
    """
    if "RANK" in os.environ:
        # DistributedDataParallel warns in every process that it looks for unused parameters.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except SystemExit as end:
            if end.code:
                _wait_to_be_ended(_SHORT_PATIENCE if end.code in system.INTERRUPTED else _PATIENCE)
            raise


def _wait_to_be_ended(seconds: float) -> None:
    told = threading.Event()
    for number in system.STOPPING:
        signal.signal(number, lambda *_: told.set())
    told.wait(seconds)


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Joins the processes that torchrun started, by its environment variables; without them there is one process.

    On a machine with accelerators each process takes the one with its local rank.

    Args:
        device: the device of the config.

    Raises:
        UsageError: the device cannot be shared out.
        ProcessError: the processes do not find each other.
    """
    from pyro_vae.inference import ALONE, World  # here, since torch takes a second and --help does not need it

    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    import torch.distributed as dist

    _take_device(device)
    try:
        # Numbers that the processes exchange are on the CPU, whatever device computes the gradients.
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=_LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"{size} processes were announced but do not find each other ({first_line(error)}): "
            f"start them by {command_line('train', processes=size)} ..."
        ) from error
    try:
        yield World(dist.get_rank(), size)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def leave(world: World) -> None:
    """Leaves the other processes for good if there are any."""
    if world.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


def _take_device(device: str) -> None:
    import torch

    if device == "cpu":
        return
    if device != "cuda":
        raise UsageError(
            f"`device={device!r}` cannot be shared by all processes: use cpu, or cuda, where each takes an "
            "accelerator of its own"
        )
    place, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", place + 1))
    if processes > devices:  # in all of them, since the first one prints the sentence
        raise UsageError(
            f"{processes} processes of this machine need an accelerator each, but there are {devices}: start fewer, "
            "or use `device='cpu'`"
        )
    torch.cuda.set_device(place)
