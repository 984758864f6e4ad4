"""Freed memory stays with the process, for the next block of the same size."""

from functools import cache

import torch

# Just below 32 MiB, the largest request from which the allocator of glibc learns; its own header must fit in, too.
_LARGEST = (32 << 20) - (1 << 16)


@cache
def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MiB of freed memory, where it would give them back to the system each time.

    A block of draws takes tensors of some megabytes, and frees them. glibc takes those above a threshold from the
    system, page by page, which costs more than the arithmetic on them; the threshold is the size of the largest tensor
    of below 32 MiB that was freed so far (see M_MMAP_THRESHOLD in mallopt(3)). So one is made, untouched, and freed.
    Other C libraries do as they do.
    """
    torch.empty(_LARGEST, dtype=torch.uint8, device="cpu")  # whatever the default device is
