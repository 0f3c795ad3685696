"""Where files lie that are looked at: in a folder of the disk here, in an archive in `in_archive`, which few need."""

from __future__ import annotations

from json import detect_encoding
from typing import TYPE_CHECKING, Protocol

from ckptconv.errors import located
from ckptconv.formats.beside.files import Listing, files_in
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint


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

    def below(self, path: str) -> Place:
        """The same as a place of its own."""

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
            return decoded(source)

    def folder(self, path: str) -> Folder:
        return Folder(self.path / path)

    def below(self, path: str) -> OnDisk:
        return OnDisk(self.path / path)

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        return opened_below(checkpoint, self.path)


def opened_below(checkpoint: Checkpoint, home: Path) -> set[str]:
    """The files of a checkpoint that lie in that folder, by their paths from there."""
    file = checkpoint.file
    paths = [file.path] if isinstance(file, Source) else getattr(file, "paths", ())
    return {path.relative_to(home).as_posix() for path in paths if path.is_relative_to(home)}


def decoded(source: Source) -> str:
    """A short text in any encoding that JSON may have. Raises LimitError."""
    data = source.read_all(MAX_CONFIG)
    return data.decode(detect_encoding(data), "replace")  # as json.loads does of bytes
