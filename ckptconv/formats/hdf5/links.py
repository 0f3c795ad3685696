"""The members of a group.

    symbol table   a B-tree of version 1 whose leaves are "SNOD", 1, 0, entries u16, then for each: its name's offset in
                   a local heap, its header's address, type u32 (2: a soft link), 4 bytes, 16 bytes
    link           1, flags, [type], [creation order], [character set], size of the name, name; then
                   type 0 hard: address; 1 soft: size u16, path; 64 external: size u16, 0, file, NUL, path, NUL
    link info      0, flags, [largest creation order], a fractal heap of link messages and the B-trees of version 2
                   that list them by name and by creation order

Names are UTF-8, or ASCII; what other encodings old files have is kept byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ckptconv.formats.hdf5 import headers
from ckptconv.formats.hdf5.btree import GROUP, entries1, records2
from ckptconv.formats.hdf5.cursor import Cursor, damaged
from ckptconv.formats.hdf5.fractal import FractalHeap
from ckptconv.formats.hdf5.heaps import LocalHeap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.headers import Header


class Kind(IntEnum):
    """What a link message says, by its number."""

    HARD = 0
    SOFT = 1
    EXTERNAL = 64


_BY_NAME, _BY_ORDER = 5, 6
_SOFT_ENTRY = 2


@dataclass(frozen=True, slots=True)
class Link:
    """A member of a group: the address of its header, the path that it stands for, or what else it is, in words.

    order: when it was made, where the group tracks that.
    """

    name: str
    address: int | None = None
    path: str | None = None
    other: str = ""
    order: int | None = None


def is_group(header: Header) -> bool:
    """Whether the object has members, or might have."""
    return header.has(headers.SYMBOL_TABLE, headers.LINK_INFO, headers.LINK, headers.GROUP_INFO)


def links_of(header: Header) -> list[Link]:
    """The members of a group, in the order of their creation where it is tracked, else by name, numbers as such.

    Raises CorruptFileError, UnsupportedError.
    """
    found = [*_table(header), *_messages(header), *_dense(header)]
    if found and all(link.order is not None for link in found):
        found.sort(key=lambda link: link.order or 0)
    else:
        found.sort(key=lambda link: natural(link.name))
    names = {link.name for link in found}
    if len(names) != len(found):
        raise damaged("a group has two members of one name")
    return found


def natural(name: str) -> list[tuple[int, str]]:
    """A key for sorting: ``dense_2`` before ``dense_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _table(header: Header) -> Iterator[Link]:
    cursor = header.one(headers.SYMBOL_TABLE, "a group's symbol table")
    if cursor is None:
        return
    file, tree, address = header.file, cursor.address(), cursor.address()
    if tree is None or address is None:
        raise damaged("a group's symbol table has no address")
    heap = LocalHeap(file, address)
    size, last = file.lengths + file.offsets + 24, b""
    for _, node in entries1(file, tree, GROUP, file.lengths):
        head = file.cursor(node, 8, "a symbol table's node")
        head.expect(b"SNOD", 1)
        head.skip(1)
        count = head.uint(2)
        entries = file.cursor(node + 8, count * size, "a symbol table's node")
        for _ in range(count):
            name, target = heap.text(entries.length()), entries.address()
            if name <= last:
                raise damaged("the members of a group are not in the order of their names")
            last = name
            kind = entries.uint(4)
            entries.skip(4)
            scratch = entries.part(16, "a symbol table's entry")
            if kind > _SOFT_ENTRY:
                raise damaged(f"a member of a group is of a type ({kind}) that is not known")
            if kind == _SOFT_ENTRY:
                yield Link(_name(name), path=_text(heap.text(scratch.uint(4))))
            elif target is None:
                raise damaged("a member of a group has no address")
            else:
                yield Link(_name(name), target)


def _messages(header: Header) -> Iterator[Link]:
    for cursor in header.all(headers.LINK, "a link"):
        yield _link(cursor)


def _dense(header: Header) -> Iterator[Link]:
    cursor = header.one(headers.LINK_INFO, "a group's links")
    if cursor is None:
        return
    cursor.expect(b"", 0)
    cursor.skip(8 * (cursor.uint(1) & 1))
    heap_address, tree = cursor.address(), cursor.address()
    if heap_address is None or tree is None:
        return
    heap = FractalHeap(header.file, heap_address)
    for record in records2(header.file, tree, _BY_NAME):
        record.skip(4)
        yield _link(heap.object(record.take(record.left)))


def _link(cursor: Cursor) -> Link:
    cursor.expect(b"", 1)
    flags = cursor.uint(1)
    kind = cursor.uint(1) if flags & 8 else Kind.HARD
    order = cursor.uint(8) if flags & 4 else None
    cursor.skip(flags >> 4 & 1)
    name = _name(cursor.take(cursor.uint(1 << (flags & 3))))
    match kind:
        case Kind.HARD:
            address = cursor.address()
            if address is None:
                raise damaged("a member of a group has no address")
            return Link(name, address, order=order)
        case Kind.SOFT:
            return Link(name, path=_text(cursor.take(cursor.uint(2))), order=order)
        case Kind.EXTERNAL:
            target = cursor.part(cursor.uint(2), "a link to another file")
            target.skip(1)
            other, path = _text(target.text()), _text(target.text())
            return Link(name, other=f"a link to {path!r} in the other file {other!r}", order=order)
        case _:
            return Link(name, other=f"a link of a kind of its own ({kind})", order=order)


def _name(raw: bytes) -> str:
    name = _text(raw)
    if not name or "/" in name or "\0" in name:
        raise damaged(f"a member of a group is called {name!r}")
    return name


def _text(raw: bytes) -> str:
    """A name or a path; where it is not UTF-8, each odd byte as h5py gives it."""
    return raw.decode("utf-8", "surrogateescape")
