"""Zip and tar archives as folders: members are opened by name, and read in place.

Names are those of the members without a leading ``./``. In a zip, backslashes count as slashes, as on Windows, and
names that are not UTF-8 are in code page 437 (APPNOTE.TXT, appendix D). Files that macOS adds (``__MACOSX/…``,
``._name``, ``.DS_Store``) are ignored. Nothing is extracted: stored members are ranges of the archive; compressed data
is inflated into an unnamed temporary file, for a member of a zip when it is first read, for a gzip file when it is
opened.

Refused: names that lead out of the archive (``../``, ``/``), two members with the same name, a name that is both a file
and a folder, links and devices, members or archives that inflate to far more than their size, and archives in archives.
A gzip file that is not a tar archive has one member, named like the file without ``.gz``; it may lie in an archive. A
llamafile, which is a program, counts as the zip archive at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.errors import COPY_ARCHIVE_AGAIN, CorruptFileError, FileAccessError, LimitError, located
from ckptconv.io.archive_kinds import Packed, kind_of, most_inflated, nested, open_directory
from ckptconv.io.checksum import crc32
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_DEPTH, MAX_FILES
from ckptconv.io.source import Source
from ckptconv.io.spool import check_parsed

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan

_MACOS_FOLDERS = ("__MACOSX",)


@dataclass(slots=True)
class _Level:
    """A folder in the archive: the paths of its files and of its subfolders, by name."""

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


class Archive:
    """An archive and its members.

    source:   the archive's file.
    kind:     "zip", "tar" or "gzip".
    members:  by their paths, in the archive's order.
    is_spent: whether a limit on what may be parsed or inflated was exceeded.
    """

    def __init__(self, source: Source) -> None:
        """Read the archive's directory. Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError."""
        if isinstance(source, Member) and kind_of(source) != "gzip":
            raise nested()
        self.source = source
        self.members: dict[str, Packed] = {}
        self.kind, listed, self._span = open_directory(source, is_member=isinstance(source, Member))
        self._levels: dict[str, _Level] = {"": _Level()}
        self._spent, self._inflated, self.is_spent = 0, 0, False
        for member in listed:
            self._add(member)

    @classmethod
    def of(cls, source: Source) -> Archive:
        """The archive of a source. Its directory is read once, and kept with the source. Raises as opening does."""
        return source.once(cls, lambda: cls(source))

    def _add(self, member: Packed) -> None:
        parts = _split_path(member.name or member.own)
        if not parts or parts[0] in _MACOS_FOLDERS or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
            return
        if len(self.members) >= MAX_FILES or len(parts) > MAX_DEPTH:
            raise LimitError(f"the archive has more than {MAX_FILES:,} files, or folders too deep")
        path, folder = "/".join(parts), ""
        for name in parts[:-1]:
            level = self._levels[folder]
            folder = f"{folder}/{name}" if folder else name
            level.folders[name] = folder
            self._levels.setdefault(folder, _Level())
            if name in level.files:
                raise _duplicate_error(folder)
        level = self._levels[folder]
        if parts[-1] in level.files or parts[-1] in level.folders:
            raise _duplicate_error(path)
        level.files[parts[-1]] = path
        self.members[path] = member

    def folder(self, path: str) -> MemberFolder:
        """A folder in the archive; "" is the whole archive."""
        return MemberFolder(self, path)

    def shared(self, path: str) -> MemberFolder:
        """A folder for one of several readers: closing it leaves the archive open."""
        return _SharedFolder(self, path)

    def level(self, path: str) -> _Level | None:
        """The contents of a folder; None if there is no such folder."""
        return self._levels.get(path)

    def span(self, path: str) -> ByteSpan:
        """Where a member's contents lie; reading them may inflate the member first. Costs one small read.

        Raises CorruptFileError, LimitError, UnsupportedError, KeyError.
        """
        span = self._span(self.members[path].own)
        if span.file is not self.source and self.kind == "zip" and span.length > most_inflated(self.source):
            raise LimitError(f"{path!r} inflates to {span.length:,} bytes, in an archive of {self.source.size:,}")
        return span

    def spend(self, count: int) -> None:
        """`Source.spend` for all members together."""
        self._spent += count
        self.is_spent = True
        check_parsed(self._spent, self.source.size)
        self.is_spent = False

    def inflate(self, count: int) -> None:
        """`Source.inflate` for all members together that hold compressed data."""
        self._inflated += count
        if self._inflated > most_inflated(self.source):
            self.is_spent = True
            raise LimitError(
                f"what is compressed in its members inflates to more than {most_inflated(self.source):,} bytes",
                hint="unpack it, and name what it holds",
            )

    def open(self, path: str) -> Member:
        """Open a member as a file. Raises as `span` does, with the member's path."""
        with located(self.source.path / path):
            return Member(self, path)

    def text(self, path: str, limit: int) -> bytes:
        """Read a small member, and check its CRC-32. Raises LimitError past `limit` bytes, and as `open` does."""
        span = self.span(path)
        if span.length > limit:
            raise LimitError(f"{path!r} has {span.length:,} bytes; the limit is {limit:,}")
        data = bytes(span.file.read_at(span.offset, span.length))
        if span.recorded_crc32 is not None and crc32(data) != span.recorded_crc32:
            raise CorruptFileError(f"{path!r} fails its CRC-32", hint=COPY_ARCHIVE_AGAIN)
        return data


class Member(Source):
    """A member of an archive as a file; its `path` continues the archive's.

    whole: where its contents lie, with the checksum that the archive records for them.
    """

    def __init__(self, archive: Archive, path: str) -> None:
        self.whole = archive.span(path)
        identity = (*archive.source.identity, self.whole.offset)
        self._initialize(archive.source.path / path, self.whole.length, identity)
        self.beside = MemberFolder(archive, path.rpartition("/")[0])
        self._archive = archive

    def spend(self, count: int) -> None:
        """For all of the archive."""
        self._archive.spend(count)

    def inflate(self, count: int) -> None:
        """For all of the archive."""
        self._archive.inflate(count)

    def close(self) -> None:
        """Close the archive."""
        self._archive.source.close()

    def release_handle(self) -> None:
        """It has no handle of its own."""

    def reopen_handle(self) -> None:
        """It has no handle of its own."""

    def _read_small(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return bytes(self.whole.file.read_at(self.whole.offset + offset, length))

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self.whole.file.read_into(buffer, self.whole.offset + offset)
        return len(buffer)

    def place(self, offset: int) -> tuple[Source, int] | None:
        """See `Source.place`."""
        file = self._archive.source
        return (file, self.whole.offset + offset) if self.whole.file is file else None

    def check_unchanged(self) -> None:
        """`Source.check_unchanged` for the archive."""
        self._archive.source.check_unchanged()


class MemberFolder(Folder):
    """A folder in an `archive`; `inner` is its path there."""

    def __init__(self, archive: Archive, inner: str) -> None:
        super().__init__(archive.source.path / inner)
        self.archive = archive
        self.inner = inner
        self._folders: dict[str, MemberFolder] = {}

    @cached_property
    def _entries(self) -> tuple[tuple[str, ...], ...]:
        level = self.archive.level(self.inner) or _Level()
        return tuple(sorted(level.files)), tuple(sorted(level.folders)), ()

    def open(self, name: str) -> Source:
        if name not in self._open:
            self._open[name] = self.open_unshared(name)
        return self._open[name]

    def open_unshared(self, name: str) -> Source:
        self._check_plain(name)
        level = self.archive.level(self.inner) or _Level()
        if name not in level.files:
            raise FileAccessError(
                "cannot open: there is no such file in the archive", path=self.path / name, hint="check the archive"
            ) from FileNotFoundError(name)
        return _SharedMember(self.archive, level.files[name])

    def text(self, name: str, limit: int) -> str:
        """Read one of its files as text, and check its CRC-32. Raises CorruptFileError, LimitError, and as
        `Archive.open` does.
        """
        path = f"{self.inner}/{name}" if self.inner else name
        try:
            return self.archive.text(path, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFileError("it is not text in UTF-8", path=self.path / name, hint="pack it again") from error

    def inside(self, name: str) -> MemberFolder:
        if name not in self._folders:
            self._check_plain(name)
            self._folders[name] = type(self)(self.archive, f"{self.inner}/{name}" if self.inner else name)
        return self._folders[name]

    @property
    def used(self) -> list[str]:
        """The paths in the archive of the files that have been opened, including those in subfolders."""
        start = f"{self.inner}/" if self.inner else ""
        in_subfolders = [path for folder in self._folders.values() for path in folder.used]
        return [*(start + name for name in self._open), *in_subfolders]

    @property
    def size(self) -> int:
        return self.archive.source.size

    def check_unchanged(self) -> None:
        self.archive.source.check_unchanged()

    def close(self) -> None:
        self.archive.source.close()


class _SharedMember(Member):
    """A member for one of several readers: closing it leaves the archive open."""

    def __init__(self, archive: Archive, path: str) -> None:
        super().__init__(archive, path)
        self.beside = archive.shared(path.rpartition("/")[0])

    def close(self) -> None:
        """Does nothing: the archive is closed together with the folder."""


class _SharedFolder(MemberFolder):
    """A folder for one of several readers."""

    def close(self) -> None:
        """Does nothing: whoever opened the archive closes it."""


def _split_path(own: str) -> list[str]:
    """The components of a member's name. Raises CorruptFileError if it leads out of the archive."""
    parts = [part for part in own.split("/") if part not in ("", ".")]
    if own.startswith("/") or ".." in parts or "\0" in own:
        raise CorruptFileError(f"the archive has a member {own!r}, whose name leads out of it", hint="do not trust it")
    return parts


def _duplicate_error(path: str) -> CorruptFileError:
    return CorruptFileError(f"the archive has two members {path!r}", hint="do not trust it")
