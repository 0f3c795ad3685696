"""How the C library treats memory that has been freed."""

from __future__ import annotations

import gc

_KEPT = {-3: 32 << 20, -1: 64 << 20, -8: 1}
"""glibc's malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX. The first is as large as may be (mallopt(3)): of
what is gathered, pieces of 16 MiB and a little are on their way.
"""


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for what is asked for next, by whichever thread. Other C libraries are left alone.

    It gives the end of its heap back whenever 128 KiB of it are free (mallopt(3)). Taking it again, page by page, took
    as long as what is computed in it, and several times as long where that is F64. Each thread has a heap of its own
    else, so that what one of them has let go of would be kept beside what another one takes.
    """
    for parameter, value in _KEPT.items():
        _call("mallopt", parameter, value)


def give_back_freed_memory() -> None:
    """Have glibc give the system all that is free. Other C libraries are left alone.

    It keeps what is free below anything in use: once blocks of 16 MiB have been freed, the next ones come of its heap,
    and of a network that had been let go of all was kept (mallopt(3), M_MMAP_THRESHOLD).
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
