"""Makes the disk start writing a file while the file is still being produced, and not only when it is synced.

By itself, Linux starts once a tenth of the memory is dirty, or after some seconds. So a file of a few gigabytes is
still in memory when it is synced: first the disk waits for the program, then the program for the disk.
POSIX_FADV_DONTNEED starts writing a range at once, without waiting, and drops pages that are on disk already
(mm/fadvise.c), which those just written are not. In a file system in memory it does nothing. It is only a hint: without
it, syncing does all the work.
"""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Lock

BEHIND = 4 << 20
"""How long a run of bytes must be before the disk is told to write it: enough for large requests, few enough that
little is left for the end. Smaller files are not worth a call.
"""

_GAP = 1 << 20
"""The largest gap between two writes of one run: another thread fills it, with tensors that are small as well."""

_RUNS = 8
"""How many runs are tracked at a time: one for each thread."""


class Writeback:
    """Tracks the writes to one file, from any thread, and starts writing each run that has become long enough."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        self._lock = Lock()

    def wrote(self, fd: int, start: int, stop: int) -> None:
        """Record that [start, stop) of the file has been written."""
        with self._lock:
            for index, (first, last) in enumerate(self._runs):
                if last <= start <= last + _GAP:
                    start = first
                    del self._runs[index]
                    break
            if stop - start < BEHIND:
                self._runs = [*self._runs[-_RUNS + 1 :], (start, stop)]
                return
        _start_writing(fd, start, stop - start)


def _start_writing(fd: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)
