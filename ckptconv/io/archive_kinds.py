"""Which kind of archive a file is, and what its directory lists: zip, tar, and either in gzip."""

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
"""Of Cosmopolitan's programs: how they start, and less than the smallest has (cosmopolitan, ape/specification.md)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A member: its name in the archive's own directory, its size, whether it is compressed, and what its name means
    where that is not what it says.
    """

    own: str
    size: int
    compressed: bool = False
    name: str = ""


def nested() -> UnsupportedError:
    """The error for an archive in an archive."""
    return UnsupportedError("this is an archive in an archive", hint="unpack the outer one, and name this one")


def most_inflated(source: Source) -> int:
    """What may become of all its members together, where they are compressed, and of any of them."""
    return max(FREE_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO * source.size)


def is_archive(source: Source) -> bool:
    """Whether it starts as an archive does."""
    return kind_of(source) is not None


def is_program(source: Source) -> bool:
    """Whether it is a program for several systems (APE) with a zip archive at its end, such as a llamafile."""
    size = source.size
    if size < PROGRAM_BYTES or bytes(source.read_at(0, len(PROGRAM_MAGIC))) != PROGRAM_MAGIC:
        return False
    return bytes(source.read_at(size - END.size, len(END_MAGIC))) == END_MAGIC


def kind_of(source: Source) -> str | None:
    """Which of them it is, by how it starts."""
    start = bytes(source.read_at(0, min(source.size, MAGIC_OFFSET + len(MAGIC))))
    if start.startswith(LOCAL_MAGIC) or is_program(source):
        return "zip"
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    return "tar" if start[MAGIC_OFFSET:] == MAGIC else None


def opened(source: Source, *, is_member: bool) -> tuple[str, Iterator[Packed], Callable[[str], ByteSpan]]:
    """Its kind, its members under their own names, and what finds the contents of one. Raises as `Archive` does."""
    match kind_of(source):
        case "zip":
            return "zip", *_of_zip(source)
        case "tar":
            return "tar", *_of_tar(source, source)
        case "gzip":
            inflated = Gunzipped(source)
            if is_member and is_archive(inflated):
                raise nested()
            if kind_of(inflated) == "tar":
                return "gzip", *_of_tar(inflated, inflated)
            own = source.path.name.removesuffix(".gz")
            return "gzip", iter([Packed(own, inflated.size, True)]), lambda _: ByteSpan(inflated, 0, inflated.size)
    raise UnsupportedError("this is not an archive", hint="name the file itself")


def _of_zip(source: Source) -> tuple[Iterator[Packed], Callable[[str], ByteSpan]]:
    archive = ZipArchive.of(source)
    archive.limit_inflated(most_inflated(source))
    listed = (
        Packed(name, entry.size, entry.method != STORED, name.replace("\\", "/"))  # as some have on Windows
        for name, entry in archive.entries.items()
        if not name.endswith(("/", "\\"))
    )
    return listed, archive.span


def _of_tar(source: Source, file: SpanFile) -> tuple[Iterator[Packed], Callable[[str], ByteSpan]]:
    found = members(source)
    compressed = isinstance(source, Gunzipped)
    listed = (Packed(name, one.size, compressed) for name, one in found.items())
    return listed, lambda name: ByteSpan(file, found[name].offset, found[name].size)
