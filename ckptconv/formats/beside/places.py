"""Where the files lie that are looked at: in a folder of the disk, or in an archive, which is not unpacked for it.

What a small archive can make of itself is bounded by `ckptconv.io.archive`.
"""

from __future__ import annotations

from json import detect_encoding
from typing import TYPE_CHECKING, Protocol

from ckptconv.errors import located
from ckptconv.formats.beside.files import PASSED, Listing, files_in
from ckptconv.formats.members import EXTRAS, MODEL
from ckptconv.io.archive import Archive, Member, MemberFolder
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint


_TENSORS = (MODEL, EXTRAS)


class Place(Protocol):
    """A folder with the folders in it; files in it go by their paths from there."""

    path: Path

    @property
    def is_spent(self) -> bool:
        """Whether no more is looked at, since a small archive becomes too much."""

    def listing(self) -> Listing:
        """What lies there. Raises LimitError."""

    def open(self, path: str) -> Source:
        """One of its files. Raises FileAccessError; in an archive CorruptFileError and UnsupportedError, too."""

    def text(self, path: str) -> str:
        """A configuration or a template. Raises as `open`, and LimitError."""

    def folder(self, path: str) -> Folder:
        """A folder in it; touches nothing."""

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        """The files that a checkpoint was read from."""


class OnDisk:
    """A folder of the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_spent(self) -> bool:
        return False

    def listing(self) -> Listing:
        return files_in(self.path)

    def open(self, path: str) -> Source:
        return Source(self.path / path)

    def text(self, path: str) -> str:
        with located(self.path / path), self.open(path) as source:
            return _decoded(source)

    def folder(self, path: str) -> Folder:
        return Folder(self.path / path)

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        return _opened(checkpoint, self.path)


class InArchive:
    """A folder of an archive that somebody else holds open; all of it is the folder of no name."""

    def __init__(self, archive: Archive, inner: str = "") -> None:
        self.path = archive.source.path / inner
        self._archive = archive
        self._start = f"{inner}/" if inner else ""

    @property
    def is_spent(self) -> bool:
        return self._archive.is_spent

    def listing(self) -> Listing:
        paths = (path.removeprefix(self._start) for path in self._archive.members if path.startswith(self._start))
        return Listing(sorted(path for path in paths if PASSED.isdisjoint(path.split("/")[:-1])))

    def open(self, path: str) -> Source:
        home, _, name = (self._start + path).rpartition("/")
        return self._archive.shared(home).glance(name)

    def text(self, path: str) -> str:
        with located(self.path / path), self.open(path) as source:
            text = _decoded(source)
            source.spend(source.size)
            return text

    def folder(self, path: str) -> Folder:
        return self._archive.shared((self._start + path).rstrip("/"))

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        members = {one.name for one in checkpoint.notes.members if one.use in _TENSORS}
        return members or _opened(checkpoint, self.path)


def place_of(path: Path, checkpoint: Checkpoint) -> Place | None:
    """Where the files lie that belong to what was named; None where that is one file."""
    if path.is_dir():
        return OnDisk(path)
    file = checkpoint.file
    if checkpoint.notes.members and isinstance(file, Source) and not isinstance(file, Member):
        return InArchive(Archive.of(file))
    folder = file.beside if isinstance(file, Member) and file.path != path else file
    return InArchive(folder.archive, folder.inner) if isinstance(folder, MemberFolder) else None


def _opened(checkpoint: Checkpoint, home: Path) -> set[str]:
    file = checkpoint.file
    paths = [file.path] if isinstance(file, Source) else getattr(file, "paths", ())
    return {path.relative_to(home).as_posix() for path in paths if path.is_relative_to(home)}


def _decoded(source: Source) -> str:
    data = source.read_all(MAX_CONFIG)
    return data.decode(detect_encoding(data), "replace")  # as json.loads does of bytes
