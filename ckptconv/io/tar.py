"""The members of a tar archive: what their headers say, and where their contents lie. Nothing is extracted.

    header, 512 bytes   0 name[100]   124 size[12]   148 checksum[8]   156 type   257 "ustar"   345 prefix[155]
    contents            padded to blocks of 512 bytes
    …                   the next member; at the end at least one block of zeros

Numbers are octal text, or binary where the first byte is 0x80 (GNU). The checksum is the sum of the header's bytes with
its own eight taken as spaces. A member of type "x" holds lines ``LENGTH KEY=VALUE`` about the one after it, of which
``path`` and ``size`` matter here; one of type "g" about all after it, and may set neither; one of type "L" has the name
of the one after it (GNU). Folders are skipped.

Refused: links, devices and sparse files, by name; two members of one name; malformed numbers and wrong checksums.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_FILES

if TYPE_CHECKING:
    from ckptconv.io.source import Source

BLOCK = 512
MAX_EXTENDED = 1 << 16

MAGIC_OFFSET, MAGIC = 257, b"ustar"

_FILES, _FOLDERS = (b"0", b"\0"), (b"5",)
_EXTENDED, _GLOBAL, _LONG_NAME = b"x", b"g", b"L"
_ABOUT_OTHERS = (_EXTENDED, _GLOBAL, _LONG_NAME)
_BASE256 = 0x80


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in the archive: where its contents lie."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Extended:
    """The name and the size that an extended header gives to the member after it; None where it gives none."""

    path: str | None = None
    size: int | None = None


def _damaged(what: str) -> CorruptFileError:
    return CorruptFileError(f"the tar archive is damaged: {what}")


def members(source: Source) -> dict[str, Member]:
    """The archive's regular files by name. Costs one small read for each member, the first time that it is called.

    Raises CorruptFileError, LimitError, and UnsupportedError where a name stands for a link or comes twice.
    """
    return source.once(Member, lambda: _walk(source))


def _walk(source: Source) -> dict[str, Member]:
    found: dict[str, Member] = {}
    at, extended = 0, Extended()
    for _ in range(2 * MAX_FILES):  # a header of its own before each
        if at >= source.size:
            return found
        header = bytes(source.read_at(at, BLOCK)) if at + BLOCK <= source.size else b""
        if not header:
            raise _damaged("a header is cut short")
        if not any(header):
            return found
        _check(header)
        kind = header[156:157]
        size = extended.size if extended.size is not None and kind not in _ABOUT_OTHERS else _number(header[124:136])
        start = at + BLOCK
        at = start + -(-size // BLOCK) * BLOCK
        if at > source.size:
            raise _damaged(f"a member takes {at - start:,} bytes where {source.size - start:,} are left")
        if kind in _ABOUT_OTHERS:
            extended = _about_others(source, kind, start, size, extended)
            continue
        name = _name(header) if extended.path is None else extended.path
        extended = Extended()
        if kind not in _FILES:
            _check_folder(kind, name)
        elif name in found:
            raise UnsupportedError(f"the tar archive has two members {name!r}", hint="do not trust it")
        else:
            found[name] = Member(start, size)
    raise LimitError(f"the tar archive has more than {MAX_FILES:,} members")


def _about_others(source: Source, kind: bytes, start: int, size: int, before: Extended) -> Extended:
    """`before`, with what this member adds about the next one."""
    if size > MAX_EXTENDED:
        raise LimitError(f"a member's extended header has {size:,} bytes")
    data = bytes(source.read_at(start, size))
    if kind == _LONG_NAME:
        return Extended(data.partition(b"\0")[0].decode("utf-8", "surrogateescape"), before.size)
    extended = _extended(data)
    if kind == _GLOBAL:
        if extended != Extended():
            raise UnsupportedError("the tar archive has one name or size for all members", hint="do not trust it")
        return before
    return Extended(
        before.path if extended.path is None else extended.path, before.size if extended.size is None else extended.size
    )


def _check(header: bytes) -> None:
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != expected:
        raise _damaged("a header fails its checksum")


def _number(field: bytes) -> int:
    if field[0] == _BASE256:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in digits):
        raise _damaged("a header has a malformed number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _check_folder(kind: bytes, name: str) -> None:
    """Raise UnsupportedError for a member that is neither a file nor a folder: a link, a device, a sparse file."""
    if kind not in _FOLDERS:
        raise UnsupportedError(
            f"the tar archive has a member {name!r} that is a link, or no plain file (type {kind!r})",
            hint="do not trust it: checkpoints are packed as plain files",
        )


def _extended(data: bytes) -> Extended:
    """Parse the lines of an extended header; of lines with one key the last counts."""
    values: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 8].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : at + length].removesuffix(b"\n").partition(b"=")
        if not equals or at + length > len(data) or data[at + length - 1 : at + length] != b"\n":
            raise _damaged("a member's extended header is malformed")
        values[key] = value
        at += length
    path, length_text = values.get(b"path"), values.get(b"size")
    if length_text is not None and not (length_text.isdigit() and len(length_text) < 20):
        raise _damaged("a member's extended size is not a number")
    return Extended(
        None if path is None else path.decode("utf-8", "surrogateescape"),
        None if length_text is None else int(length_text),
    )
