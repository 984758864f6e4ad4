"""Memory: keeps freed tensors for the next block of the same size, and forgets the sources of graphs."""

import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import fx

# Just below 32 MiB, the largest request that glibc's allocator learns from; its own header must fit in too.
_LARGEST = (32 << 20) - (1 << 16)


@cache
def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MiB of freed memory, which it would otherwise return to the system each time.

    A block of draws allocates tensors of a few megabytes and frees them. glibc takes tensors above a threshold from the
    system, page by page, which costs more than the arithmetic on them. The threshold is the size of the largest tensor
    below 32 MiB that was freed so far (see M_MMAP_THRESHOLD in mallopt(3)). So this makes such a tensor, does not touch
    it, and frees it. Other C libraries are not affected.
    """
    torch.empty(_LARGEST, dtype=torch.uint8, device="cpu")  # whatever the default device is


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """Drops the sources of graph modules that are made inside: torch keeps each for tracebacks, forever.

    This is about 60 kB per program, even for graphs that are long gone.
    """
    sources = _sources()
    before = set(sources)
    try:
        yield
    finally:
        for name in sources.keys() - before:
            sources.pop(name, None)
            linecache.cache.pop(name, None)


def _sources() -> dict[str, Any]:
    """Returns torch's own sources; empty if another version keeps them elsewhere."""
    return getattr(getattr(fx.graph_module, "_loader", None), "eval_cache", {})
