"""`locking` of the module msvcrt, by locks of Linux that belong to one open file, as those of Windows do."""

import errno
import fcntl
import os
import struct

LK_NBLCK, LK_UNLCK = 2, 0


def locking(descriptor, mode, size):
    """Locks or unlocks so many bytes from where the file stands; as Windows does, it calls a conflict EACCES."""
    kind = fcntl.F_UNLCK if mode == LK_UNLCK else fcntl.F_WRLCK
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, size, 0))
    except BlockingIOError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
