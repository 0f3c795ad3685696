"""Imitate other operating and file systems on Linux, as far as Python can tell the difference."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from ckptconv.io import access

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def like_windows(patch: pytest.MonkeyPatch) -> None:
    """No reading or writing at a position, no unnamed files, no handles of folders; open files cannot be moved."""
    without_unnamed_files(patch)
    for name in ("pread", "preadv", "pwrite", "pwritev", "statvfs", "fstatvfs", "fchmod"):
        patch.delattr(os, name, raising=False)
    patch.setattr(os, "supports_fd", os.supports_fd - {os.chmod})
    patch.setattr(access, "HELD_BY_HANDLES", True)
    patch.setattr(tempfile, "TemporaryFile", tempfile.NamedTemporaryFile)
    patch.setattr("shutil._use_fd_functions", False)  # it opens folders
    patch.setattr("shutil._rmtree_impl", vars(shutil)["_rmtree_unsafe"], raising=False)  # Python 3.14 chooses only once
    patch.setattr("shutil.disk_usage", lambda _path: type("usage", (), {"free": 1 << 40}))
    for name in ("unlink", "remove", "rename", "replace"):
        patch.setattr(os, name, _refused_while_open(getattr(os, name)))
    patch.setattr(os, "open", _refuses_folders(os.open))


def without_unnamed_files(patch: pytest.MonkeyPatch) -> None:
    """No unnamed files, neither for us nor for the standard library."""
    patch.delattr(os, "O_TMPFILE", raising=False)
    patch.setattr("tempfile._O_TMPFILE_WORKS", False)


def without_links(patch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    """No hard links, as on FAT or a network drive."""
    without_unnamed_files(patch)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "link", refuse)


def full(patch: pytest.MonkeyPatch) -> None:
    """No room on any disk."""
    real = os.statvfs
    patch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real(path)[:4], 0, *real(path)[5:])))


def without_locks(patch: pytest.MonkeyPatch) -> None:
    """No flock."""
    without_unnamed_files(patch)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    patch.setattr("fcntl.flock", refuse)


def _refused_while_open(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*paths: Any, **options: Any) -> Any:
        for path in paths:
            if _is_open(path):
                raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(path))
        return real(*paths, **options)

    return call


def _is_open(path: Any) -> bool:
    """Whether this process has the file open under this name; another link to the file may be removed."""
    wanted = os.path.realpath(path)
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == wanted:
                return True
        except FileNotFoundError:  # the handle with which the folder was listed
            continue
    return False


def _refuses_folders(real: Callable[..., int]) -> Callable[..., int]:
    def call(path: Any, *rest: Any, **options: Any) -> int:
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path, *rest, **options)

    return call
