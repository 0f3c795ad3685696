"""Unfinished files and folders beside a target: their names, their locks, and cleaning up after killed runs."""

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
    """A new temporary name in the same folder, within the 255 bytes that file systems allow."""
    stem = os.fsencode(path.name)[:200].decode("utf-8", "ignore")
    return path.with_name(f".{stem}{_MARK}{secrets.token_hex(6)}")


def lock(fd: int) -> bool:
    """Lock a file or a folder until it is closed. False if another run holds it, or the file system has no locks."""
    if sys.platform == "win32" or access.HELD_BY_HANDLES:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def create(place: Path, flags: int) -> int:
    """Create and lock an empty file under a name from `beside`. Returns its handle, or -1 if it has been removed again.

    Raises OSError.
    """
    fd = os.open(place, flags | os.O_CREAT | os.O_EXCL, 0o666)
    lock(fd)
    if os.path.lexists(place):
        return fd
    os.close(fd)  # another run's sweep removed it before it was locked
    return -1


def sweep(path: Path) -> None:
    """Remove what killed runs left beside `path`. What a live run holds stays, and so does what cannot be locked."""
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
    """A temporary folder beside `path`, held by a lock. It has to be empty again when the context ends."""
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
