"""How the C library treats memory that has been freed."""

from __future__ import annotations

import gc

_KEPT = {-3: 32 << 20, -1: 64 << 20, -8: 1}
"""glibc's malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX. The first has its maximum (mallopt(3)), since
gathering allocates pieces of slightly more than 16 MiB.
"""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation, in any thread. Does nothing with other C libraries.

    By default, glibc returns the end of its heap whenever 128 KiB of it are free (mallopt(3)). Getting it back, page by
    page, took as long as the computation in it, and for F64 several times as long. Also, each thread would have a heap
    of its own, and could not reuse what another one has freed.
    """
    for parameter, value in _KEPT.items():
        _call("mallopt", parameter, value)


def give_back_freed_memory() -> None:
    """Make glibc return all free memory to the system. Does nothing with other C libraries.

    glibc keeps free memory below anything that is in use. Once blocks of 16 MiB have been freed, it takes the next ones
    from its heap (mallopt(3), M_MMAP_THRESHOLD), and kept all of a network that had been released.
    """
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    from ctypes import CDLL

    try:
        function = getattr(CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    function(*arguments)
