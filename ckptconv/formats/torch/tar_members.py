"""The members of a tar archive: what their headers say, and where their contents lie. Nothing is extracted.

    header, 512 bytes   0 name[100]   124 size[12]   148 checksum[8]   156 type   257 "ustar"   345 prefix[155]
    contents            padded to blocks of 512 bytes
    …                   the next member; at the end at least one block of zeros

Numbers are octal text, or binary where the first byte is 0x80 (GNU). The checksum is the sum of the header's bytes with
its own eight taken as spaces. A member of type "x" holds lines ``LENGTH KEY=VALUE`` about the one after it; of these
``path`` and ``size`` matter here. Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError

if TYPE_CHECKING:
    from ckptconv.io.source import Source

BLOCK = 512
MAX_MEMBERS = 1000
MAX_EXTENDED = 1 << 16

_FILES, _FOLDERS = (b"0", b"\0"), (b"5",)
_BASE256 = 0x80


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in the archive: where its contents lie."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Extended:
    """What an extended header says of the member after it, where it does."""

    path: str | None = None
    size: int | None = None


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"the tar archive is damaged: {what}", hint="copy the file again from where it came")


def members(source: Source) -> dict[str, Member]:
    """The archive's regular files by name. Costs one small read for each member, and is kept for who asks again.

    Raises CorruptFileError, LimitError, and UnsupportedError where a name stands for a link or comes twice.
    """
    known = source.parsed.get(Member)
    if not isinstance(known, dict):
        known = source.parsed[Member] = _walk(source)
    return known


def _walk(source: Source) -> dict[str, Member]:
    found: dict[str, Member] = {}
    at, extended = 0, Extended()
    for _ in range(MAX_MEMBERS):
        if at >= source.size:
            return found
        header = bytes(source.read_at(at, BLOCK)) if at + BLOCK <= source.size else b""
        if not header:
            raise _bad("a header is cut short")
        if not any(header):
            return found
        _check(header)
        size = _number(header[124:136]) if extended.size is None else extended.size
        start = at + BLOCK
        at = start + -(-size // BLOCK) * BLOCK
        if at > source.size:
            raise _bad(f"a member takes {at - start:,} bytes where {source.size - start:,} are left")
        kind = header[156:157]
        if kind == b"x":
            extended = _extended(source, start, size)
            continue
        name = _name(header) if extended.path is None else extended.path
        extended = Extended()
        if kind not in _FILES:
            _pass_over(kind, name)
        elif name in found:
            raise UnsupportedError(f"the tar archive has two members {name!r}", hint="do not trust it")
        else:
            found[name] = Member(start, size)
    raise LimitError(f"the tar archive has more than {MAX_MEMBERS:,} members", hint="do not trust it")


def _check(header: bytes) -> None:
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != expected:
        raise _bad("a header fails its checksum")


def _number(field: bytes) -> int:
    if field[0] == _BASE256:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in digits):
        raise _bad("a header has a number that is none")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pass_over(kind: bytes, name: str) -> None:
    """A folder is nothing to us. A link of whatever name, or what renames or cuts up the next member, is refused."""
    if kind not in _FOLDERS:
        raise UnsupportedError(
            f"the tar archive has a member {name!r} that is a link, or no plain file (type {kind!r})",
            hint="do not trust it; torch's have plain files alone",
        )


def _extended(source: Source, start: int, size: int) -> Extended:
    """The lines of a member of type "x", the last of a key counting."""
    if size > MAX_EXTENDED:
        raise LimitError(f"a member's extended header has {size:,} bytes", hint="do not trust it")
    data = bytes(source.read_at(start, size))
    values: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 8].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : at + length].removesuffix(b"\n").partition(b"=")
        if not equals or at + length > len(data) or data[at + length - 1 : at + length] != b"\n":
            raise _bad("a member's extended header is malformed")
        values[key] = value
        at += length
    path, length_text = values.get(b"path"), values.get(b"size")
    if length_text is not None and not (length_text.isdigit() and len(length_text) < 20):
        raise _bad("a member's extended size is no number")
    return Extended(
        None if path is None else path.decode("utf-8", "surrogateescape"),
        None if length_text is None else int(length_text),
    )
