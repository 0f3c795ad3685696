"""Recognizes archives and reads their directories: zip, tar, and gzip around a tar or another file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import UnsupportedError
from ckptconv.io.gzip import GZIP_MAGIC, Gunzipped
from ckptconv.io.limits import FREE_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO
from ckptconv.io.tar import MAGIC, MAGIC_OFFSET, members
from ckptconv.io.zip import END, END_MAGIC, LOCAL_MAGIC, STORED, ZipArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.tensor import SpanFile
    from ckptconv.io.source import Source

PROGRAM_MAGIC = b"MZqFpD='"
PROGRAM_BYTES = 64
"""How Cosmopolitan's programs start, and fewer bytes than the smallest has (cosmopolitan, ape/specification.md)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A member of an archive.

    own:        its name in the archive's directory.
    size:       in bytes, when inflated.
    compressed: whether it has to be inflated.
    name:       its name as a path, if that differs from `own`.
    """

    own: str
    size: int
    compressed: bool = False
    name: str = ""


def nested() -> UnsupportedError:
    """The error for an archive in an archive."""
    return UnsupportedError("this is an archive in an archive", hint="unpack the outer one, and name this one")


def most_inflated(source: Source) -> int:
    """How many bytes the compressed members may inflate to, together."""
    return max(FREE_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO * source.size)


def is_archive(source: Source) -> bool:
    """Whether the file starts like an archive."""
    return kind_of(source) is not None


def is_program(source: Source) -> bool:
    """Whether it is a program for several systems (APE) with a zip archive at its end, such as a llamafile."""
    size = source.size
    if size < PROGRAM_BYTES or bytes(source.read_at(0, len(PROGRAM_MAGIC))) != PROGRAM_MAGIC:
        return False
    return bytes(source.read_at(size - END.size, len(END_MAGIC))) == END_MAGIC


def kind_of(source: Source) -> str | None:
    """The kind of archive, by how the file starts: "zip", "tar", "gzip" or None."""
    start = bytes(source.read_at(0, min(source.size, MAGIC_OFFSET + len(MAGIC))))
    if start.startswith(LOCAL_MAGIC) or is_program(source):
        return "zip"
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    return "tar" if start[MAGIC_OFFSET:] == MAGIC else None


def open_directory(source: Source, *, is_member: bool) -> tuple[str, Iterator[Packed], Callable[[str], ByteSpan]]:
    """The archive's kind, its members, and a function from a member's own name to its contents.

    is_member: the archive lies in another one. Raises as `Archive` does.
    """
    match kind_of(source):
        case "zip":
            return "zip", *_zip_directory(source)
        case "tar":
            return "tar", *_tar_directory(source, source)
        case "gzip":
            inflated = Gunzipped(source)
            if is_member and is_archive(inflated):
                raise nested()
            if kind_of(inflated) == "tar":
                return "gzip", *_tar_directory(inflated, inflated)
            own = source.path.name.removesuffix(".gz")
            return "gzip", iter([Packed(own, inflated.size, True)]), lambda _: ByteSpan(inflated, 0, inflated.size)
    raise UnsupportedError("this is not an archive", hint="name the file itself")


def _zip_directory(source: Source) -> tuple[Iterator[Packed], Callable[[str], ByteSpan]]:
    archive = ZipArchive.of(source)
    archive.limit_inflated(most_inflated(source))
    listed = (
        Packed(name, entry.size, entry.method != STORED, name.replace("\\", "/"))  # some Windows programs write these
        for name, entry in archive.entries.items()
        if not name.endswith(("/", "\\"))
    )
    return listed, archive.span


def _tar_directory(source: Source, file: SpanFile) -> tuple[Iterator[Packed], Callable[[str], ByteSpan]]:
    entries = members(source)
    compressed = isinstance(source, Gunzipped)
    listed = (Packed(name, entry.size, compressed) for name, entry in entries.items())
    return listed, lambda name: ByteSpan(file, entries[name].offset, entries[name].size)
