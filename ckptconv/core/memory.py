"""How the C library treats memory that has been freed."""

from __future__ import annotations

_LARGER = 1 << 24


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next.

    glibc gives the end of its heap back whenever 128 KiB of it are free, until a larger block was freed once
    (mallopt(3), M_MMAP_THRESHOLD). Taking it again, page by page, took as long as what is computed in it, and several
    times as long where that is F64.
    """
    bytes(_LARGER)  # no page of which is touched: it comes from calloc, as zeros
