"""Tensors of some megabytes are taken from memory that the process keeps, and not from the system each time."""

import platform
import subprocess
import sys

import pytest

MAPPED = """
import ctypes, torch
from pyro_vae.graphs.allocation import keep_freed_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

ask = ctypes.CDLL(None).mallinfo2
ask.restype = Info
for prepare in (lambda: None, keep_freed_memory):
    prepare()
    before = ask().hblkhd  # bytes that were taken from the system each for itself
    tensor = torch.empty(20 << 20, dtype=torch.uint8)
    print(ask().hblkhd - before)
    del tensor
"""


def has_mallinfo2():
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 33)


@pytest.mark.skipif(not has_mallinfo2(), reason="the allocator of glibc 2.33 or later says what it takes")
@pytest.mark.thorough
def test_large_tensors_are_not_taken_from_the_system_each_for_itself():
    taken = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, check=True).stdout
    given_back, kept = map(int, taken.split())
    assert given_back >= 20 << 20
    assert kept == 0
