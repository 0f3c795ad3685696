"""A folder whose files are one checkpoint: shards with their index, or the parts of a distributed checkpoint.

Files and subfolders are opened by plain names only, so that a name from an index or a pickle cannot lead out of the
folder. A thousand files may be open at a time (`handles`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, FileAccessError, LimitError, located
from ckptconv.io.handles import MAX_HANDLES, Handles, PooledSource
from ckptconv.io.limits import MAX_FILES
from ckptconv.io.source import Source, reason

if TYPE_CHECKING:
    from collections.abc import Iterable


class Folder:
    """The files of one folder, each opened once, when it is asked for. A context manager.

    path: as it was given.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Does not touch the disk."""
        self.path = Path(path)
        self._open: dict[str, Source] = {}
        self._subfolders: dict[str, Folder] = {}
        self._handles = Handles(MAX_HANDLES)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Its regular files and symlinks to such, sorted. Raises FileAccessError, LimitError."""
        return self._entries[0]

    @property
    def folders(self) -> tuple[str, ...]:
        """Its subfolders and symlinks to folders, sorted. Raises likewise."""
        return self._entries[1]

    @property
    def others(self) -> tuple[str, ...]:
        """Everything else, sorted: pipes, and links that are broken or lead where access is denied. Raises likewise."""
        return self._entries[2]

    @cached_property
    def _entries(self) -> tuple[tuple[str, ...], ...]:
        found: dict[str, list[str]] = {"file": [], "folder": [], "": []}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    found[_kind(entry)].append(entry.name)
                    if max(len(found["file"]), len(found["folder"])) > MAX_FILES:
                        message = f"the folder holds more than {MAX_FILES:,} files"
                        raise LimitError(message, path=self.path, hint="name a file in it")
        except OSError as error:
            raise FileAccessError(
                f"cannot list this folder: {reason(error)}", path=self.path, hint="check its permissions"
            ) from error
        return tuple(tuple(sorted(names)) for names in found.values())

    def open(self, name: str) -> Source:
        """Open one of its files, which is closed together with the folder.

        Raises CorruptFileError if `name` is not a plain file name, FileAccessError if there is no such file.
        """
        if name not in self._open:
            self._check_plain(name)
            self._open[name] = PooledSource(self.path / name, self._handles)
        return self._open[name]

    def open_all(self, names: Iterable[str]) -> tuple[dict[str, Source], list[str]]:
        """Open those of these files that exist. Returns them by name, and the names of those that are missing.

        Raises as `open` does.
        """
        found: dict[str, Source] = {}
        missing: list[str] = []
        for name in names:
            try:
                found[name] = self.open(name)
            except FileAccessError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                missing.append(name)
        return found, missing

    def inside(self, name: str) -> Folder:
        """A subfolder, which shares the handles and is closed together with this one. Does not touch the disk.

        Raises CorruptFileError if `name` is not a plain name.
        """
        if name not in self._subfolders:
            self._check_plain(name)
            self._subfolders[name] = Folder(self.path / name)
            self._subfolders[name]._handles = self._handles
        return self._subfolders[name]

    def _check_plain(self, name: str) -> None:
        if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise CorruptFileError(
                f"{name!r} is not a name of a file in this folder", path=self.path,
                hint="do not trust this checkpoint: it names files elsewhere",
            )  # fmt: skip

    @classmethod
    def around(cls, source: Source) -> Folder:
        """The folder of an open file that stands for all files in it. Closing either one closes both."""
        if source.beside is not None:
            return source.beside
        folder = cls(source.path.parent)
        folder._open[source.path.name] = source
        source.companions = folder
        return folder

    def open_unshared(self, name: str) -> Source:
        """Open one of its files without keeping it: the caller has to close it."""
        self._check_plain(name)
        return Source(self.path / name)

    @property
    def size(self) -> int:
        """The size of all files that have been opened, in bytes."""
        return sum(part.size for part in self._opened_parts)

    @property
    def bytes_read(self) -> int:
        """The bytes that have been read from them."""
        return sum(part.bytes_read for part in self._opened_parts)

    @property
    def _opened_parts(self) -> tuple[Source | Folder, ...]:
        return (*self._open.values(), *self._subfolders.values())

    @property
    def opened(self) -> tuple[str, ...]:
        """The names of the files that have been opened, in that order."""
        return tuple(self._open)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the files that have been opened, including those in subfolders."""
        in_subfolders = (path for folder in self._subfolders.values() for path in folder.paths)
        return (*(source.path for source in self._open.values()), *in_subfolders)

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if one of the opened files was written to since."""
        for part in self._opened_parts:
            with located(part.path):
                part.check_unchanged()

    def close(self) -> None:
        """Close all files. Closing twice is harmless."""
        for part in self._opened_parts:
            part.close()


def _kind(entry: os.DirEntry[str]) -> str:
    with suppress(OSError):  # a circular symlink, or one to where access is denied
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
    return ""


def folder_of(path: Path) -> Path:
    """The folder that the checkpoint at `path` is, or lies in."""
    return path if path.is_dir() else path.parent
