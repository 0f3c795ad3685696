"""A folder whose files are one checkpoint: shards with their index, or the parts of a distributed checkpoint.

Files, and folders in it, are opened by plain names alone: a name that an index or a pickle gives can never lead out of
the folder. A thousand of them may be open (`handles`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, FileAccessError, LimitError, located
from ckptconv.io.handles import MAX_HANDLES, Handles, Resting
from ckptconv.io.limits import MAX_FILES
from ckptconv.io.source import Source, reason

if TYPE_CHECKING:
    from collections.abc import Iterable


class Folder:
    """The files of one folder, each opened when it is asked for, once. A context manager.

    path: as it was given.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Touches nothing; `names` lists the folder."""
        self.path = Path(path)
        self._open: dict[str, Source] = {}
        self._inside: dict[str, Folder] = {}
        self._handles = Handles(MAX_HANDLES)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Its regular files, sorted; symlinks to such included. Raises FileAccessError, LimitError."""
        return self._listed[0]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in it, likewise."""
        return self._listed[1]

    @property
    def others(self) -> tuple[str, ...]:
        """What is neither, likewise: pipes, and links that lead nowhere or to where one may not look."""
        return self._listed[2]

    @cached_property
    def _listed(self) -> tuple[tuple[str, ...], ...]:
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
        """One of its files; closed with the folder.

        Raises CorruptFileError where `name` is not a plain file name, FileAccessError where there is no such file.
        """
        if name not in self._open:
            self._check_plain(name)
            self._open[name] = Resting(self.path / name, self._handles)
        return self._open[name]

    def open_all(self, names: Iterable[str]) -> tuple[dict[str, Source], list[str]]:
        """Those of these files that are there, by name, and the names of those that are not. Raises as `open` does."""
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
        """A folder in it, which shares the handles and is closed with this one; touches nothing.

        Raises CorruptFileError where `name` is not a plain name.
        """
        if name not in self._inside:
            self._check_plain(name)
            self._inside[name] = Folder(self.path / name)
            self._inside[name]._handles = self._handles
        return self._inside[name]

    def _check_plain(self, name: str) -> None:
        if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise CorruptFileError(
                f"{name!r} is not a name of a file in this folder", path=self.path,
                hint="do not trust this checkpoint: it names files elsewhere",
            )  # fmt: skip

    @classmethod
    def around(cls, source: Source) -> Folder:
        """The folder of a file that is open already and stands for all of them: closing either closes both."""
        if source.beside is not None:
            return source.beside
        made = cls(source.path.parent)
        made._open[source.path.name] = source
        source.companions = made
        return made

    def glance(self, name: str) -> Source:
        """One of its files for whoever closes it at once; it is none of those that the folder has open."""
        self._check_plain(name)
        return Source(self.path / name)

    @property
    def size(self) -> int:
        """Bytes of the files that have been opened."""
        return sum(one.size for one in self._parts)

    @property
    def bytes_read(self) -> int:
        """Bytes that have been read of them."""
        return sum(one.bytes_read for one in self._parts)

    @property
    def _parts(self) -> tuple[Source | Folder, ...]:
        return (*self._open.values(), *self._inside.values())

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the files that have been opened, in that order."""
        return tuple(self._open)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of the files that have been opened, those in folders in it included."""
        inside = (path for folder in self._inside.values() for path in folder.paths)
        return (*(one.path for one in self._open.values()), *inside)

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if one of them was written to since it was opened."""
        for one in self._parts:
            with located(one.path):
                one.check_unchanged()

    def close(self) -> None:
        """Close them all. Closing twice is harmless."""
        for one in self._parts:
            one.close()


def _kind(entry: os.DirEntry[str]) -> str:
    with suppress(OSError):  # a symlink in a circle, or to where nobody may look
        return "file" if entry.is_file() else "folder" if entry.is_dir() else ""
    return ""


def folder_of(path: Path) -> Path:
    """The folder that a checkpoint is, or lies in."""
    return path if path.is_dir() else path.parent
