"""Writes a file atomically: at any time it is absent, the old one, or complete.

The data goes into an unfinished file in the target's folder, which is synced, and then gets its name (`unfinished`).

A signal may raise KeyboardInterrupt right after any step, before the next line could record the step. So names are
recorded before the files are made, and the disk is asked whether a file is in its place.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError, TargetExistsError, UsageError
from ckptconv.io import access, leftovers, positional
from ckptconv.io.access import translated
from ckptconv.io.unfinished import Unfinished
from ckptconv.io.writeback import Writeback

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

_RENAME = "give it another name where it lies, or convert on another system"


class Target:
    """A file to write. A context manager: leaving it without `commit` leaves the disk as it was.

    path:    as it was given.
    replace: whether an existing file may be replaced; the new one gets its mode. A symlink keeps pointing where it
             points.
    folders: how many of the last folders in the path are made if they are missing, and removed again if nothing is
             committed.
    """

    def __init__(self, path: str | os.PathLike[str], *, replace: bool = False, folders: int = 0) -> None:
        """Check that `path` can be written, and touch nothing. Raises TargetExistsError, FileAccessError."""
        if os.fspath(path) == "-":
            raise UsageError("writing to standard output is not supported", hint="give the path of a file")
        self.path = Path(path)
        self.replace = replace
        self.size = 0
        self._companions: list[Target] = []
        self._superseded: list[Path] = []
        self._placed = False
        self._writeback = Writeback()
        self._backup: Path | None = None
        self._new_folders: list[Path] = []
        with translated(self.path):
            self._real = Path(os.path.realpath(self.path))
            self._file = Unfinished(self._real)
            self._old = self._check_existing()
            missing_folders = [folder for folder in self._real.parents[:folders] if not os.path.lexists(folder)]
            self._new_folders = missing_folders[::-1]  # the outermost first
            parent = self._new_folders[0].parent if self._new_folders else self._real.parent
            if not parent.is_dir():
                typed = self.path.parent
                missing = shlex.quote(os.fspath(parent if os.path.lexists(typed) else typed))
                raise FileAccessError("the target's folder does not exist", path=self.path, hint=f"mkdir -p {missing}")

    def _check_existing(self) -> os.stat_result | None:
        """The status of the file that is replaced, if there is one. Raises if it may not be replaced."""
        try:
            status = os.stat(self._real)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:  # a path into an archive, which can only be read
            file = next((parent for parent in self._real.parents if parent.is_file()), self._real.parent)
            raise FileAccessError(
                f"{file.name!r} is a file: nothing is written into one", path=self.path,
                hint=f"give a path outside of it, such as {self._real.name}",
            ) from error  # fmt: skip
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise FileAccessError(f"the target is {what}", path=self.path, hint="give the path of a file")
        if not self.replace:
            raise _exists(self.path)
        return status

    def __enter__(self) -> Target:
        try:
            with translated(self.path):
                self._make_folder()
                leftovers.sweep(self._real)
                self._file.open()
            return self
        except BaseException:
            self._discard()
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._in_place():
            self._remove_superseded()
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"{self.path} is written, and whole")
        self._discard()

    def _make_folder(self) -> None:
        for result, folder in enumerate(self._new_folders):
            try:
                os.mkdir(folder)
            except FileExistsError:  # another process made it, so it must not be removed
                del self._new_folders[result:]
                raise

    def beside(self, path: str | os.PathLike[str], *, folders: int = 0) -> Target:
        """Open another file to be written together with this one, which points at it.

        It gets its name before this one, and stays as it was if this one is not committed. `path` is relative to this
        one's folder. Raises FileAccessError if the name means something else on this system.
        """
        if access.leads_elsewhere(os.fspath(path)):
            raise FileAccessError(
                f"{os.fspath(path)!r} is not a valid file name on this system", path=self.path, hint=_RENAME
            )
        other = Target(self.path.parent / path, replace=self.replace, folders=folders)
        if other._real == self._real:
            raise UsageError(f"{self.path.name!r} cannot be its own data file", hint="give another name")
        self._companions.append(other)
        other.__enter__()
        return other

    @property
    def companions(self) -> tuple[Target, ...]:
        """The files that are written together with this one."""
        return tuple(self._companions)

    def supersede(self, names: Iterable[str]) -> None:
        """Remove these files in this one's folder after the commit, when nothing points at them any more.

        One that cannot be removed stays, which does no harm.
        """
        self._superseded += [self.path.parent / name for name in names]

    def reserve(self, size: int) -> None:
        """Set the file's size. Raises FileAccessError if the disk has less room."""
        self.size = size
        self.check_room(size)
        with translated(self.path):
            os.ftruncate(self._file.fd, size)

    def check_room(self, size: int) -> None:
        """Raise FileAccessError if the disk has less room than `size` bytes."""
        with translated(self.path):
            free = shutil.disk_usage(self._real.parent).free
            if size > free:
                raise FileAccessError(
                    f"no space left: {size:,} bytes are needed and {free:,} are free",
                    path=self.path,
                    hint="free some space, or write to another disk",
                )

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data` at `offset`. May be called from any thread."""
        view = memoryview(data)
        done = 0
        with translated(self.path):
            while done < len(view):
                done += positional.write(self._file.fd, view[done:], offset + done)
        self._writeback.wrote(self._file.fd, offset, offset + done)

    def write_whole(self, data: bytes) -> None:
        """Write and commit a small file. The target must not have been entered yet."""
        with self:
            self.reserve(len(data))
            self.write_at(0, data)
            self.commit()

    @property
    def real(self) -> Path:
        """Where the file will be, symlinks followed."""
        return self._real

    def link_as(self, name: Path) -> None:
        """Give the unfinished file another name, on the same file system. Raises OSError.

        Keep that name until after `commit`: Linux cannot link a file that has lost its last name.
        """
        self._file.link(name)

    @property
    def readable_path(self) -> Path:
        """A path by which another library can open the unfinished file for reading."""
        return self._file.readable_path

    def commit(self) -> None:
        """Sync the file and give it its name, its companions first.

        All files are synced, which takes long, before any gets its name. If this one does not get its name, the
        companions' old files are restored.
        """
        try:
            for target in (*self._companions, self):
                target._make_whole()
            placed: set[tuple[int, int]] = set()
            folders: set[Path] = set()
            for other in self._companions:
                other._check_apart(placed)
                other._back_up_old()
                other._commit(durable=False)
                placed.add(_identity(other._real))
                folders.add(other._real.parent)
            for folder in folders:
                _sync_folder(folder)
            self._commit()
        except BaseException:
            if not self._in_place():
                for other in self._companions:
                    other._take_back()
            raise
        self._companions.clear()
        self._remove_superseded()

    def _in_place(self) -> bool:
        """Whether the file has its name."""
        return self._placed or self._file.is_in_place()

    def _take_back(self) -> None:
        """Remove a companion again, or restore its old file, because the main file could not be placed."""
        if not self._in_place():
            return
        with suppress(OSError):
            if self._old is None:
                os.unlink(self._real)
            elif self._backup is not None:
                os.replace(self._backup, self._real)

    def _check_apart(self, placed: Container[tuple[int, int]]) -> None:
        """Raise FileAccessError if its name is that of a file just placed: ``A`` and ``a`` are one on many drives."""
        try:
            identity = _identity(self._real)
        except OSError:  # there is no such file yet
            return
        if identity[1] and identity in placed:  # the inode is 0 on file systems without inode numbers
            message = "another one of these files has this name here, where letters have no case"
            raise FileAccessError(message, path=self.path, hint=_RENAME)

    def _back_up_old(self) -> None:
        """Link the old file to a backup until all files are placed; without hard links, there is no backup."""
        if self._old is not None:
            self._backup = leftovers.beside(self._real)
            with suppress(OSError):
                os.link(self._real, self._backup)

    def _remove_superseded(self) -> None:
        while self._superseded:
            with suppress(OSError):
                os.unlink(self._superseded[-1])
            self._superseded.pop()

    def flush(self) -> None:
        """Wait until what has been written so far is on disk. May be called from any thread."""
        with translated(self.path):
            os.fsync(self._file.fd)

    def _make_whole(self) -> None:
        with translated(self.path):
            self._file.finish(self._old)

    def _commit(self, *, durable: bool = True) -> None:
        with translated(self.path):
            if access.HELD_BY_HANDLES:
                self._file.close()
            self._place()
            self._placed = True
            if durable:
                _sync_folder(self._real.parent)
        if durable:
            self._new_folders.clear()
            self._discard()
        else:  # the backup of its old file is kept until the main file is placed
            self._file.close()

    def _place(self) -> None:
        if self._old is not None or self.replace:
            self._file.place_over()
            return
        try:
            self._file.place_new()
        except FileExistsError:
            raise _exists(self.path) from None

    def _discard(self) -> None:
        for other in reversed(self._companions):  # the first made the folder that the others are in
            other._discard()
        self._file.discard()
        if self._backup is not None:
            with suppress(OSError):
                os.unlink(self._backup)
            self._backup = None
        while self._new_folders:
            with suppress(OSError):  # another process may have put something into it
                os.rmdir(self._new_folders[-1])
            self._new_folders.pop()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _exists(path: Path) -> TargetExistsError:
    return TargetExistsError("the target exists already", path=path, hint="add --force to replace it")


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can sync a folder
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
