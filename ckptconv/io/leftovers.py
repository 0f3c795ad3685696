"""Unfinished files and folders beside a target: their names, the locks that hold them, and what killed runs left."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ckptconv.io import access

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "win32":
    import fcntl

_MARK = ".ckptconv-tmp-"


def beside(path: Path) -> Path:
    """A name of our own in the same folder, within the 255 bytes that file systems allow."""
    stem = os.fsencode(path.name)[:200].decode("utf-8", "ignore")
    return path.with_name(f".{stem}{_MARK}{secrets.token_hex(6)}")


def lock(fd: int) -> bool:
    """Hold a file or a folder until it is closed; False where another run does, or the file system has no locks."""
    if sys.platform == "win32" or access.HELD_BY_HANDLES:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def create(place: Path, flags: int) -> int:
    """An empty file under a name that `beside` gave, open and held; -1 where it is gone again. Raises OSError."""
    fd = os.open(place, flags | os.O_CREAT | os.O_EXCL, 0o666)
    lock(fd)
    if os.path.lexists(place):
        return fd
    os.close(fd)  # another run's sweep was faster than our lock, and removed it
    return -1


def sweep(path: Path) -> None:
    """Remove what killed runs left beside `path`; what a live run holds stays, or nobody can hold."""
    start = beside(path).name.rsplit(_MARK, 1)[0] + _MARK
    for name in _names(path.parent):
        if not name.startswith(start):
            continue
        leftover = path.parent / name
        with suppress(OSError):
            if access.HELD_BY_HANDLES:
                os.unlink(leftover)
                continue
            fd = os.open(leftover, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if lock(fd):
                    shutil.rmtree(leftover) if stat.S_ISDIR(os.fstat(fd).st_mode) else os.unlink(leftover)
            finally:
                os.close(fd)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder of our own beside `path`, held by a lock; it has to be empty again when the context ends."""
    folder, fd = beside(path), -1
    try:
        with access.translated(path):
            folder.mkdir(mode=0o700)
            if not access.HELD_BY_HANDLES:
                fd = os.open(folder, os.O_RDONLY)
        if fd >= 0:
            lock(fd)
        yield folder
    finally:
        if fd >= 0:
            os.close(fd)
        with suppress(OSError):
            folder.rmdir()


def _names(folder: Path) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
