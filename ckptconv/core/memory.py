"""How much memory there is, and how the C library treats what has been freed."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still get without anything else being stopped: free and reclaimable memory of the
    system, with its free swap, or what the process's groups leave of their limits. None where the system does not say,
    as outside of Linux.

    root: where ``proc`` and ``sys`` are.

    Sources: proc_meminfo(5); the kernel's Documentation, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    system = _numbers(root / "proc/meminfo")
    if "MemAvailable" not in system:
        return None
    available = (system["MemAvailable"] + system.get("SwapFree", 0)) * 1024
    return max(min([available, *_left_in_groups(root)]), 0)


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each group of processes that this one belongs to leaves of its limit; caches of files do not count."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if kinds == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in kinds.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder == top.parent:
                break
            limit, used = (_number(folder / name) for name in names[:2])
            if limit is not None and used is not None:
                caches = _numbers(folder / "memory.stat")
                kept = sum(caches.get(f"{names[2]}{kind}_file", 0) for kind in ("active", "inactive"))
                yield limit - max(used - kept, 0)


def _numbers(path: Path) -> dict[str, int]:
    """The numbers in a file of lines such as ``MemAvailable:  123 kB`` or ``active_file 123``."""
    words = (line.replace(":", " ").split() for line in _lines(path))
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _number(path: Path) -> int | None:
    """The number that is all of a file; None if there is no such file, or it says ``max``."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text("utf-8", "replace").splitlines()
    return []


def _call(name: str, *arguments: int) -> None:
    from ctypes import CDLL

    try:
        function = getattr(CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    function(*arguments)
