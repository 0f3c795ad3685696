"""Zip and tar archives as folders: what is in them is opened by name, and read where it lies.

Names are those of the members, without ``./`` before them; in a zip backslashes are slashes, as Windows unpacks them,
and names that are not UTF-8 are of code page 437 (APPNOTE.TXT, appendix D). What macOS adds (``__MACOSX/…``,
``._name``, ``.DS_Store``) is passed over. Nothing is extracted: stored members are ranges of the archive, and what is
compressed is inflated into an unnamed temporary file, a member of a zip when it is first read, a gzip file as a whole
when it is opened.

Refused: names that lead out of the archive (``../``, ``/``), two members of one name, one that is a file and a folder,
links and devices, members or archives that inflate to far more than they take, and archives in archives. gzip files
that hold no tar archive have one member, which is called as the file without its ``.gz``; they may lie in an archive. A
llamafile, which is a program, is the zip archive at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.errors import COPY_ARCHIVE_AGAIN, CorruptFileError, FileAccessError, LimitError, located
from ckptconv.io.archive_kinds import Packed, kind_of, most_inflated, nested, opened
from ckptconv.io.checksum import crc32
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_DEPTH, MAX_FILES
from ckptconv.io.source import Source
from ckptconv.io.spool import check_parsed

if TYPE_CHECKING:
    from ckptconv.core.tensor import ByteSpan

_OF_MACOS = ("__MACOSX",)


@dataclass(slots=True)
class _Level:
    """A folder of the archive: the paths of the files in it, by their last names, and of the folders."""

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


class Archive:
    """The members of an archive by their paths in it.

    source: the archive. kind: "zip", "tar" or "gzip". members: by path, in the archive's order. is_spent: whether more
    was to be parsed of it than may be.
    """

    def __init__(self, source: Source) -> None:
        """Read the archive's directory. Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError."""
        if isinstance(source, Member) and kind_of(source) != "gzip":
            raise nested()
        self.source = source
        self.members: dict[str, Packed] = {}
        self.kind, listed, self._span = opened(source, is_member=isinstance(source, Member))
        self._levels: dict[str, _Level] = {"": _Level()}
        self._spent, self._inflated, self.is_spent = 0, 0, False
        for one in listed:
            self._add(one)

    @classmethod
    def of(cls, source: Source) -> Archive:
        """The archive of a source, opened once however many ask. Raises as opening it does."""
        return source.once(cls, lambda: cls(source))

    def _add(self, one: Packed) -> None:
        parts = _parts(one.name or one.own)
        if not parts or parts[0] in _OF_MACOS or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
            return
        if len(self.members) >= MAX_FILES or len(parts) > MAX_DEPTH:
            raise LimitError(f"the archive has more than {MAX_FILES:,} files, or folders too deep")
        path, at = "/".join(parts), ""
        for name in parts[:-1]:
            level = self._levels[at]
            at = f"{at}/{name}" if at else name
            level.folders[name] = at
            self._levels.setdefault(at, _Level())
            if name in level.files:
                raise _ambiguous(at)
        level = self._levels[at]
        if parts[-1] in level.files or parts[-1] in level.folders:
            raise _ambiguous(path)
        level.files[parts[-1]] = path
        self.members[path] = one

    def folder(self, path: str) -> MemberFolder:
        """A folder of it; all of it is the folder of no name."""
        return MemberFolder(self, path)

    def shared(self, path: str) -> MemberFolder:
        """The same for one of several who read it: whoever closes it leaves the archive open to the others."""
        return _SharedFolder(self, path)

    def level(self, path: str) -> _Level | None:
        """What is in a folder of it; None where there is no such folder."""
        return self._levels.get(path)

    def span(self, path: str) -> ByteSpan:
        """Where a member's contents lie, which may have to be inflated first. Costs one small read.

        Raises CorruptFileError, LimitError, UnsupportedError, KeyError.
        """
        span = self._span(self.members[path].own)
        if span.file is not self.source and self.kind == "zip" and span.length > most_inflated(self.source):
            raise LimitError(f"{path!r} inflates to {span.length:,} bytes, in an archive of {self.source.size:,}")
        return span

    def spend(self, count: int) -> None:
        """As `Source.spend`, for all of its members together."""
        self._spent += count
        self.is_spent = True
        check_parsed(self._spent, self.source.size)
        self.is_spent = False

    def inflate(self, count: int) -> None:
        """As `Source.inflate`, for all of its members together that are compressed themselves."""
        self._inflated += count
        if self._inflated > most_inflated(self.source):
            self.is_spent = True
            raise LimitError(
                f"what is compressed in its members inflates to more than {most_inflated(self.source):,} bytes",
                hint="unpack it, and name what it holds",
            )

    def open(self, path: str) -> Member:
        """A member as a file of its own. Raises as `span` does, with the member's path."""
        with located(self.source.path / path):
            return Member(self, path)

    def text(self, path: str, limit: int) -> bytes:
        """All of a small member, checked against its CRC-32. Raises LimitError past `limit` bytes, and as `open`."""
        span = self.span(path)
        if span.length > limit:
            raise LimitError(f"{path!r} has {span.length:,} bytes; the limit is {limit:,}")
        data = bytes(span.file.read_at(span.offset, span.length))
        if span.recorded_crc32 is not None and crc32(data) != span.recorded_crc32:
            raise CorruptFileError(f"{path!r} fails its CRC-32", hint=COPY_ARCHIVE_AGAIN)
        return data


class Member(Source):
    """A member of an archive, as a file: `path` goes on behind the archive's.

    whole: where its contents lie, with the checksum that the archive has for them.
    """

    def __init__(self, archive: Archive, path: str) -> None:
        self.whole = archive.span(path)
        identity = (*archive.source.identity, self.whole.offset)
        self._begin(archive.source.path / path, self.whole.length, identity)
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

    def rest(self) -> None:
        """It has no handle of its own."""

    def wake(self) -> None:
        """It has no handle of its own."""

    def _small(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return bytes(self.whole.file.read_at(self.whole.offset + offset, length))

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self.whole.file.read_into(buffer, self.whole.offset + offset)
        return len(buffer)

    def place(self, offset: int) -> tuple[Source, int] | None:
        """As `Source.place`."""
        file = self._archive.source
        return (file, self.whole.offset + offset) if self.whole.file is file else None

    def check_unchanged(self) -> None:
        """As `Source.check_unchanged`, of the archive."""
        self._archive.source.check_unchanged()


class MemberFolder(Folder):
    """A folder of an `archive`; `inner` is its path there."""

    def __init__(self, archive: Archive, inner: str) -> None:
        super().__init__(archive.source.path / inner)
        self.archive = archive
        self.inner = inner
        self._folders: dict[str, MemberFolder] = {}

    @cached_property
    def _listed(self) -> tuple[tuple[str, ...], ...]:
        level = self.archive.level(self.inner) or _Level()
        return tuple(sorted(level.files)), tuple(sorted(level.folders)), ()

    def open(self, name: str) -> Source:
        if name not in self._open:
            self._open[name] = self.glance(name)
        return self._open[name]

    def glance(self, name: str) -> Source:
        self._check_plain(name)
        level = self.archive.level(self.inner) or _Level()
        if name not in level.files:
            raise FileAccessError(
                "cannot open: there is no such file in the archive", path=self.path / name, hint="check the archive"
            ) from FileNotFoundError(name)
        return _Shared(self.archive, level.files[name])

    def text(self, name: str, limit: int) -> str:
        """All of one of its files as text, checked. Raises CorruptFileError, LimitError, and as `Archive.open`."""
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
        """The paths in the archive of all its files that have been opened."""
        start = f"{self.inner}/" if self.inner else ""
        return [*(start + name for name in self._open), *(path for one in self._folders.values() for path in one.used)]

    @property
    def size(self) -> int:
        return self.archive.source.size

    def check_unchanged(self) -> None:
        self.archive.source.check_unchanged()

    def close(self) -> None:
        self.archive.source.close()


class _Shared(Member):
    """One of several members that are open: whoever closes it leaves the archive open to the others."""

    def __init__(self, archive: Archive, path: str) -> None:
        super().__init__(archive, path)
        self.beside = archive.shared(path.rpartition("/")[0])

    def close(self) -> None:
        """The archive is closed with the folder."""


class _SharedFolder(MemberFolder):
    """A folder that is open beside others of the archive."""

    def close(self) -> None:
        """The archive is closed with whoever opened it."""


def _parts(own: str) -> list[str]:
    """A member's name, taken apart. Raises CorruptFileError where it leads out of the archive."""
    parts = [part for part in own.split("/") if part not in ("", ".")]
    if own.startswith("/") or ".." in parts or "\0" in own:
        raise CorruptFileError(f"the archive has a member {own!r}, whose name leads out of it", hint="do not trust it")
    return parts


def _ambiguous(path: str) -> CorruptFileError:
    return CorruptFileError(f"the archive has two members {path!r}", hint="do not trust it")
