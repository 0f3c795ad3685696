"""`Place`: a folder with files to look at, on disk or inside an archive (`in_archive`, imported only when needed)."""

from __future__ import annotations

from json import detect_encoding
from typing import TYPE_CHECKING, Protocol

from ckptconv.errors import located
from ckptconv.formats.beside.files import Listing, list_files
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint


class Place(Protocol):
    """A folder and its subfolders. Files are named by their path from the folder."""

    path: Path

    @property
    def is_spent(self) -> bool:
        """Whether to stop reading, because a small archive has expanded to its limit."""

    def listing(self) -> Listing:
        """All files in it. Raises LimitError."""

    def open(self, path: str) -> Source:
        """Open a file. Raises FileAccessError; in an archive also CorruptFileError and UnsupportedError."""

    def text(self, path: str) -> str:
        """The text of a configuration or template. Raises what `open` raises, and LimitError."""

    def folder(self, path: str) -> Folder:
        """A subfolder; no I/O."""

    def below(self, path: str) -> Place:
        """A subfolder as a place of its own."""

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        """The files here that a checkpoint was read from."""


class OnDisk:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_spent(self) -> bool:
        return False

    def listing(self) -> Listing:
        return list_files(self.path)

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
    """The files of a checkpoint that lie below the folder `home`, by their paths from there."""
    file = checkpoint.file
    paths = [file.path] if isinstance(file, Source) else getattr(file, "paths", ())
    return {path.relative_to(home).as_posix() for path in paths if path.is_relative_to(home)}


def decoded(source: Source) -> str:
    """A short text in UTF-8, -16 or -32, as JSON allows. Raises LimitError."""
    data = source.read_all(MAX_CONFIG)
    return data.decode(detect_encoding(data), "replace")  # as json.loads decodes bytes
