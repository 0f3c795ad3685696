"""Writing a file so that it is either not there, the old one, or whole.

The data goes into an unfinished file in the target's folder, which is synced, and then gets its name (`unfinished`).

A signal may raise KeyboardInterrupt right after any step, before a line here could note that it was taken. So names are
noted before there is anything under them, and whether a file is in its place is asked of the disk.
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
    """The file to be written. A context manager: leaving it without `commit` leaves the disk as it was.

    path:    as it was given.
    replace: whether an existing file may be replaced; it keeps its mode. A symlink keeps pointing where it points.
    folders: how many of the last folders of its path are made for it where they are not there, and taken away again
             where nothing is committed.
    """

    def __init__(self, path: str | os.PathLike[str], *, replace: bool = False, folders: int = 0) -> None:
        """Check that `path` can be written, and touch nothing. Raises TargetExistsError, FileAccessError."""
        if os.fspath(path) == "-":
            raise UsageError("writing to standard output is not supported", hint="give the path of a file")
        self.path = Path(path)
        self.replace = replace
        self.size = 0
        self._beside: list[Target] = []
        self._superseded: list[Path] = []
        self._placed = False
        self._writeback = Writeback()
        self._kept: Path | None = None
        self._made: list[Path] = []
        with translated(self.path):
            self._real = Path(os.path.realpath(self.path))
            self._file = Unfinished(self._real)
            self._old = self._look()
            missing_folders = (one for one in self._real.parents[:folders] if not os.path.lexists(one))
            self._made = [*missing_folders][::-1]
            parent = self._made[0].parent if self._made else self._real.parent
            if not parent.is_dir():
                typed = self.path.parent
                missing = shlex.quote(os.fspath(parent if os.path.lexists(typed) else typed))
                raise FileAccessError("the target's folder does not exist", path=self.path, hint=f"mkdir -p {missing}")

    def _look(self) -> os.stat_result | None:
        try:
            status = os.stat(self._real)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:  # as a path goes on behind an archive's where it is read
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
        for made, folder in enumerate(self._made):
            try:
                os.mkdir(folder)
            except FileExistsError:  # another run's, which is not ours to remove
                del self._made[made:]
                raise

    def beside(self, path: str | os.PathLike[str], *, folders: int = 0) -> Target:
        """Another file that is written with this one, `path` relative to this one's folder. It is put in its place
        before this one, which points at it, and stays as it was where this one is not committed.

        Raises FileAccessError where the system takes that name for something else.
        """
        if access.leads_elsewhere(os.fspath(path)):
            raise FileAccessError(
                f"{os.fspath(path)!r} is no name of a file on this system", path=self.path, hint=_RENAME
            )
        other = Target(self.path.parent / path, replace=self.replace, folders=folders)
        if other._real == self._real:
            raise UsageError(f"{self.path.name!r} cannot be its own data file", hint="give another name")
        self._beside.append(other)
        other.__enter__()
        return other

    @property
    def companions(self) -> tuple[Target, ...]:
        """The files that are written with this one."""
        return tuple(self._beside)

    def supersede(self, names: Iterable[str]) -> None:
        """Files in this one's folder that nothing points at any more once it is in its place, and that are removed
        then. What cannot be removed stays: it is not part of anything.
        """
        self._superseded += [self.path.parent / name for name in names]

    def reserve(self, size: int) -> None:
        """Set the file's size. Raises FileAccessError where the disk has less room than that."""
        self.size = size
        self.check_room(size)
        with translated(self.path):
            os.ftruncate(self._file.fd, size)

    def check_room(self, size: int) -> None:
        """Raise FileAccessError where the disk has less room than `size` bytes."""
        with translated(self.path):
            free = shutil.disk_usage(self._real.parent).free
            if size > free:
                raise FileAccessError(
                    f"no space left: {size:,} bytes are needed and {free:,} are free",
                    path=self.path,
                    hint="free some space, or write to another disk",
                )

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data` at `offset`; from any thread."""
        view = memoryview(data)
        done = 0
        with translated(self.path):
            while done < len(view):
                done += positional.write(self._file.fd, view[done:], offset + done)
        self._writeback.wrote(self._file.fd, offset, offset + done)

    def write_whole(self, data: bytes) -> None:
        """Write a small file, and give it its name; the target is not to be entered yet."""
        with self:
            self.reserve(len(data))
            self.write_at(0, data)
            self.commit()

    @property
    def real(self) -> Path:
        """Where the file will be, symlinks followed."""
        return self._real

    def link_as(self, name: Path) -> None:
        """Give the unfinished file one more name, on the same file system. Keep it until after `commit`: Linux never
        again links a file that has lost its last name. Raises OSError.
        """
        self._file.link(name)

    @property
    def readable_path(self) -> Path:
        """A path under which the unfinished file can be opened for reading by another library."""
        return self._file.readable_path

    def commit(self) -> None:
        """Make the file whole on disk and put it in its place, those beside it first. What takes long is done before
        any of them has its name; where this one does not get it, the others' old files come back.
        """
        try:
            for one in (*self._beside, self):
                one._finish()
            placed: set[tuple[int, int]] = set()
            folders: set[Path] = set()
            for other in self._beside:
                other._check_apart(placed)
                other._keep_old()
                other._commit(durable=False)
                placed.add(_identity(other._real))
                folders.add(other._real.parent)
            for folder in folders:
                _sync_folder(folder)
            self._commit()
        except BaseException:
            if not self._in_place():
                for other in self._beside:
                    other._withdraw()
            raise
        self._beside.clear()
        self._remove_superseded()

    def _in_place(self) -> bool:
        """Whether the file has its name."""
        return self._placed or self._file.is_in_place()

    def _withdraw(self) -> None:
        """Take a file away again, because the one that points at it could not be placed."""
        if not self._in_place():
            return
        with suppress(OSError):
            if self._old is None:
                os.unlink(self._real)
            elif self._kept is not None:
                os.replace(self._kept, self._real)

    def _check_apart(self, placed: Container[tuple[int, int]]) -> None:
        """Raise FileAccessError where its name is that of one that is in its place: ``A`` and ``a``, on many drives."""
        try:
            found = _identity(self._real)
        except OSError:  # nothing has it yet
            return
        if found[1] and found in placed:  # 0 where a file system has no such numbers
            message = "another one of these files has this name here, where letters have no case"
            raise FileAccessError(message, path=self.path, hint=_RENAME)

    def _keep_old(self) -> None:
        """Give an old file a second name until all are in their places; where there are no links it is not kept."""
        if self._old is not None:
            self._kept = leftovers.beside(self._real)
            with suppress(OSError):
                os.link(self._real, self._kept)

    def _remove_superseded(self) -> None:
        while self._superseded:
            with suppress(OSError):
                os.unlink(self._superseded[-1])
            self._superseded.pop()

    def flush(self) -> None:
        """Wait until what has been written so far is on the disk; from any thread."""
        with translated(self.path):
            os.fsync(self._file.fd)

    def _finish(self) -> None:
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
            self._made.clear()
            self._discard()
        else:  # its old file is kept until the one that points at it is in its place
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
        for other in reversed(self._beside):  # the first has made the folder that the others are in
            other._discard()
        self._file.discard()
        if self._kept is not None:
            with suppress(OSError):
                os.unlink(self._kept)
            self._kept = None
        while self._made:
            with suppress(OSError):  # something else may have come into it meanwhile
                os.rmdir(self._made[-1])
            self._made.pop()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _exists(path: Path) -> TargetExistsError:
    return TargetExistsError("the target exists already", path=path, hint="add --force to replace it")


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system lets a folder be synced
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
