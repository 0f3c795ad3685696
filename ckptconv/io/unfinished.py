"""A file that is being written, before it has its name.

It is an unnamed one in the target's folder (``O_TMPFILE``), which the kernel frees if the process is killed. Where a
file system has none, it is a named one beside the target, held by a lock; the next run removes those that nobody holds.
One link or rename gives it its name. Where there are no links (FAT, many network drives), a new file's name is taken by
an empty file first, which the whole one then replaces.

A signal may raise KeyboardInterrupt right after any of these steps, before a line here could note that it was taken. So
names are noted before there is anything under them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from ckptconv.io import leftovers

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Unfinished:
    """The file that is to become `real`. Its methods raise OSError."""

    def __init__(self, real: Path) -> None:
        """Touch nothing yet."""
        self.fd = -1
        self._real = real
        self._temp: Path | None = None
        self._named: Path | None = None

    def open(self) -> None:
        """Make it, empty."""
        folder = self._real.parent
        if hasattr(os, "O_TMPFILE"):
            with suppress(OSError):
                self.fd = os.open(folder, _FLAGS | os.O_TMPFILE, 0o666)
                if self.readable_path.exists():  # by which it gets its name; not every container has a /proc
                    return
                self.close()
        while self.fd < 0:
            self._temp = leftovers.beside(self._real)
            self.fd = leftovers.create(self._temp, _FLAGS)

    @property
    def readable_path(self) -> Path:
        """A path under which it can be opened for reading."""
        return self._temp or Path(f"/proc/self/fd/{self.fd}")

    def finish(self, old: os.stat_result | None) -> None:
        """Make it whole on the disk, with the mode of the file that it replaces."""
        if old is not None:
            os.chmod(self.fd if os.chmod in os.supports_fd else self.readable_path, stat.S_IMODE(old.st_mode))
        os.fsync(self.fd)

    def is_in_place(self) -> bool:
        """Whether it has its name; False once it is closed."""
        if self.fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self._real))
        except OSError:
            return False

    def link(self, name: Path) -> None:
        """Give it one more name, on the same file system."""
        if self._temp is not None:
            os.link(self._temp, name)
        else:  # the unnamed file is reached through a symlink, which link(2) follows only by way of linkat(2)
            os.link(self.readable_path, name, src_dir_fd=self.fd, follow_symlinks=True)

    def place_new(self) -> None:
        """Give it its name, in one atomic step. FileExistsError where something has that by now."""
        try:
            self.link(self._real)
        except FileExistsError:
            raise
        except OSError:
            if self._temp is None:
                raise
            self._place_without_links(self._temp)
            return
        if self._temp is not None:
            os.unlink(self._temp)

    def place_over(self) -> None:
        """Give it its name, in one atomic step, whatever has that by now."""
        os.replace(self._temp or self._name(), self._real)

    def _name(self) -> Path:
        """Give the unnamed file a name beside the target."""
        self._named = leftovers.beside(self._real)
        leftovers.lock(self.fd)
        self.link(self._named)
        return self._named

    def _place_without_links(self, temp: Path) -> None:
        """An empty file takes the name, which fails where the target has appeared meanwhile, and is replaced."""
        try:
            os.close(os.open(self._real, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.replace(temp, self._real)
        except FileExistsError:
            raise
        except BaseException:
            with suppress(OSError):
                if not os.stat(self._real).st_size:
                    os.unlink(self._real)
            raise

    def close(self) -> None:
        """Let go of it; what it held is synced, or is thrown away."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):
                os.close(fd)

    def discard(self) -> None:
        """Close it and take away the names that it had on its way."""
        self.close()
        for name in (self._temp, self._named):
            if name is not None:
                with suppress(OSError):
                    os.unlink(name)
        self._temp = self._named = None
