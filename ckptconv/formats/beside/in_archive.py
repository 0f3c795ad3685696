"""A folder inside an archive as a `Place`, without unpacking it.

`ckptconv.io.archive` bounds how much a small archive can expand to.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from ckptconv.errors import located
from ckptconv.formats.beside.files import SKIPPED, Listing
from ckptconv.formats.beside.members import EXTRAS, MODEL
from ckptconv.formats.beside.places import decoded, opened_below
from ckptconv.io.archive import Archive, Member, MemberFolder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.folder import Folder

_TENSORS = (MODEL, EXTRAS)


class InArchive:
    """A folder of an archive, or with ``inner=""`` all of it. The caller keeps the archive open."""

    def __init__(self, archive: Archive, inner: str = "") -> None:
        self.path = archive.source.path / inner
        self._archive = archive
        self._start = f"{inner}/" if inner else ""

    @property
    def is_spent(self) -> bool:
        return self._archive.is_spent

    def listing(self) -> Listing:
        paths = (path.removeprefix(self._start) for path in self._archive.members if path.startswith(self._start))
        return Listing(sorted(path for path in paths if SKIPPED.isdisjoint(path.split("/")[:-1])))

    def open(self, path: str) -> Source:
        home, _, name = (self._start + path).rpartition("/")
        return self._archive.shared(home).open_unshared(name)

    def text(self, path: str) -> str:
        with located(self.path / path), self.open(path) as source:
            text = decoded(source)
            source.spend(source.size)
            return text

    def folder(self, path: str) -> Folder:
        return self._archive.shared((self._start + path).rstrip("/"))

    def below(self, path: str) -> InArchive:
        return InArchive(self._archive, self._start + path)

    def member(self, path: str) -> str:
        """The name of a file in the archive."""
        return self._start + path

    def opened(self, checkpoint: Checkpoint) -> set[str]:
        members = {member.name for member in checkpoint.notes.members if member.use in _TENSORS}
        return members or opened_below(checkpoint, self.path)


def home_in_archive(checkpoint: Checkpoint) -> InArchive:
    """The folder in its archive that a checkpoint is, or lies in."""
    file = checkpoint.file
    folder = file.beside if isinstance(file, Member) else file
    if isinstance(folder, MemberFolder):
        return InArchive(folder.archive, folder.inner)
    assert isinstance(file, Source)
    homes = [member.name.rpartition("/")[0] for member in checkpoint.notes.members if member.use == MODEL]
    return InArchive(Archive.of(file), posixpath.commonpath(homes) if homes else "")


def archive_of(path: Path, checkpoint: Checkpoint) -> InArchive | None:
    """The archive or the folder in one that `path` names; None for a single file in an archive, or for no archive."""
    file = checkpoint.file
    if checkpoint.notes.members and isinstance(file, Source) and not isinstance(file, Member):
        return InArchive(Archive.of(file))
    folder = file.beside if isinstance(file, Member) and file.path != path else file
    return InArchive(folder.archive, folder.inner) if isinstance(folder, MemberFolder) else None
