"""Reads and writes at a position, from any thread, also on systems without pread and pwrite (Windows)."""

from __future__ import annotations

import os
from collections import defaultdict
from threading import Lock

_LOCKS: defaultdict[int, Lock] = defaultdict(Lock)
"""A lock for each handle, whose position two threads must not move at once. Systems reuse handles: they stay few."""


def _seek_and_read(fd: int, buffer: memoryview, offset: int) -> int:
    with _LOCKS[fd]:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _seek_and_write(fd: int, data: memoryview, offset: int) -> int:
    with _LOCKS[fd]:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from `offset`. Returns the number of bytes read, 0 at the end of the file. Raises OSError."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    return _seek_and_read(fd, buffer, offset)


def write(fd: int, data: memoryview, offset: int) -> int:
    """Write `data`, or the first part of it, at `offset`. Returns the number of bytes written. Raises OSError."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    return _seek_and_write(fd, data, offset)
