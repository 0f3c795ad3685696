"""Having the disk take in a file while it is still being written, and not only when it is synced.

Linux starts by itself once a tenth of the memory waits, or after some seconds: a file of a few gigabytes is all there
when it is synced, so that first the disk and then the program waits for the other. POSIX_FADV_DONTNEED starts it at
once for a range, without waiting, and drops of it what is on the disk already (mm/fadvise.c); what has just been
written is not. On a file system in memory it does nothing. It is a hint: where there is none, syncing does all.
"""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Lock

BEHIND = 4 << 20
"""Bytes of a run that is handed over: enough that the disk gets large requests, few enough that little is left for the
end. Files below are not worth a call."""

_GAP = 1 << 20
"""Bytes between two writes of one run: another thread's, whose tensors are small too."""

_RUNS = 8
"""Runs that are followed at a time: one for each thread."""


class Writeback:
    """Follows the writes into one file, from any thread, and hands over each run that has become long enough."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        self._lock = Lock()

    def wrote(self, fd: int, start: int, stop: int) -> None:
        """Take note that [start, stop) of the file has been written."""
        with self._lock:
            for index, (first, last) in enumerate(self._runs):
                if last <= start <= last + _GAP:
                    start = first
                    del self._runs[index]
                    break
            if stop - start < BEHIND:
                self._runs = [*self._runs[-_RUNS + 1 :], (start, stop)]
                return
        _begin(fd, start, stop - start)


def _begin(fd: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)
