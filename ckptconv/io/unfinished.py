"""A file that is being written, before it gets its name.

It is an unnamed file in the target's folder (``O_TMPFILE``), which the kernel frees if the process is killed. On file
systems without unnamed files, it is a named one beside the target, held by a lock; the next run removes those that
nobody holds. A single link or rename gives it its name. Without hard links (FAT, many network drives), an empty file
takes a new file's name first, and is then replaced by the complete one.

A signal may raise KeyboardInterrupt right after any of these steps, before the next line could record the step. So
names are recorded before there are files with these names.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from ckptconv.io import leftovers

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Unfinished:
    """The file that will become `real`. Its methods raise OSError."""

    def __init__(self, real: Path) -> None:
        """Does not touch the disk."""
        self.fd = -1
        self._real = real
        self._temp: Path | None = None
        self._named: Path | None = None

    def open(self) -> None:
        """Create the empty file."""
        folder = self._real.parent
        if hasattr(os, "O_TMPFILE"):
            with suppress(OSError):
                self.fd = os.open(folder, _FLAGS | os.O_TMPFILE, 0o666)
                if self.readable_path.exists():  # needed to give it a name; not every container has /proc
                    return
                self.close()
        while self.fd < 0:
            self._temp = leftovers.beside(self._real)
            self.fd = leftovers.create(self._temp, _FLAGS)

    @property
    def readable_path(self) -> Path:
        """A path by which the file can be opened for reading."""
        return self._temp or Path(f"/proc/self/fd/{self.fd}")

    def finish(self, old: os.stat_result | None) -> None:
        """Sync the file, with the mode of the file that it replaces."""
        if old is not None:
            os.chmod(self.fd if os.chmod in os.supports_fd else self.readable_path, stat.S_IMODE(old.st_mode))
        os.fsync(self.fd)

    def is_in_place(self) -> bool:
        """Whether the file has its name; False once it is closed."""
        if self.fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self._real))
        except OSError:
            return False

    def link(self, name: Path) -> None:
        """Give the file another name, on the same file system."""
        if self._temp is not None:
            os.link(self._temp, name)
        else:  # an unnamed file is reached through a symlink in /proc, which only linkat(2) can follow
            os.link(self.readable_path, name, src_dir_fd=self.fd, follow_symlinks=True)

    def place_new(self) -> None:
        """Give the file its name in one atomic step. Raises FileExistsError if something has that name by now."""
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
        """Give the file its name in one atomic step, and replace whatever has that name by now."""
        os.replace(self._temp or self._name(), self._real)

    def _name(self) -> Path:
        """Give the unnamed file a name beside the target."""
        self._named = leftovers.beside(self._real)
        leftovers.lock(self.fd)
        self.link(self._named)
        return self._named

    def _place_without_links(self, temp: Path) -> None:
        """Take the name by an empty file, which fails if the target has appeared meanwhile, and replace that file."""
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
        """Close the file, after it was synced or to discard it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):
                os.close(fd)

    def discard(self) -> None:
        """Close the file, and remove its temporary names."""
        self.close()
        for name in (self._temp, self._named):
            if name is not None:
                with suppress(OSError):
                    os.unlink(name)
        self._temp = self._named = None
