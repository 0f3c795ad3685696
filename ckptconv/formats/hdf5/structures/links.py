"""The members of a group, as links.

    symbol table   a B-tree of version 1 whose leaves are "SNOD", 1, 0, entries u16, then for each: its name's offset in
                   a local heap, its header's address, type u32 (2: a soft link), 4 bytes, 16 bytes
    link           1, flags, [type], [creation order], [character set], size of the name, name; then
                   type 0 hard: address; 1 soft: size u16, path; 64 external: size u16, 0, file, NUL, path, NUL
    link info      0, flags, [largest creation order], a fractal heap of link messages and the B-trees of version 2
                   that list them by name and by creation order

Names are UTF-8 or ASCII. Other encodings, in old files, are kept byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ckptconv.formats.hdf5.structures import headers
from ckptconv.formats.hdf5.structures.btree import GROUP, btree1_entries, btree2_records
from ckptconv.formats.hdf5.structures.cursor import Cursor, damaged
from ckptconv.formats.hdf5.structures.fractal import FractalHeap
from ckptconv.formats.hdf5.structures.heaps import LocalHeap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.structures.headers import Header


class Kind(IntEnum):
    """The types of link messages."""

    HARD = 0
    SOFT = 1
    EXTERNAL = 64


_BY_NAME, _BY_ORDER = 5, 6
_SOFT_ENTRY = 2


@dataclass(frozen=True, slots=True)
class Link:
    """A member of a group, which has one of the first three.

    address:     of the object header that a hard link points to.
    path:        the path that a soft link points to.
    description: of any other link, in words.
    order:       the creation order, if the group tracks it.
    """

    name: str
    address: int | None = None
    path: str | None = None
    description: str = ""
    order: int | None = None


def is_group(header: Header) -> bool:
    """Whether the object is a group, which may be empty."""
    return header.has(headers.SYMBOL_TABLE, headers.LINK_INFO, headers.LINK, headers.GROUP_INFO)


def links_of(header: Header) -> list[Link]:
    """The members of a group, in creation order if that is tracked, else sorted by name, with numbers by value.

    Raises CorruptFileError, UnsupportedError.
    """
    links = [*_symbol_table_links(header), *_message_links(header), *_dense_links(header)]
    if links and all(link.order is not None for link in links):
        links.sort(key=lambda link: link.order or 0)
    else:
        links.sort(key=lambda link: natural_key(link.name))
    names = {link.name for link in links}
    if len(names) != len(links):
        raise damaged("a group has two members of one name")
    return links


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``dense_2`` before ``dense_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _symbol_table_links(header: Header) -> Iterator[Link]:
    cursor = header.cursor(headers.SYMBOL_TABLE, "a group's symbol table")
    if cursor is None:
        return
    file, tree, address = header.file, cursor.address(), cursor.address()
    if tree is None or address is None:
        raise damaged("a group's symbol table has no address")
    heap = LocalHeap(file, address)
    size, last = file.lengths + file.offsets + 24, b""
    for _, node in btree1_entries(file, tree, GROUP, file.lengths):
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
                yield Link(_decode_name(name), path=_decode(heap.text(scratch.uint(4))))
            elif target is None:
                raise damaged("a member of a group has no address")
            else:
                yield Link(_decode_name(name), target)


def _message_links(header: Header) -> Iterator[Link]:
    for cursor in header.cursors(headers.LINK, "a link"):
        yield _parse_link(cursor)


def _dense_links(header: Header) -> Iterator[Link]:
    cursor = header.cursor(headers.LINK_INFO, "a group's links")
    if cursor is None:
        return
    cursor.expect(b"", 0)
    cursor.skip(8 * (cursor.uint(1) & 1))
    heap_address, tree = cursor.address(), cursor.address()
    if heap_address is None or tree is None:
        return
    heap = FractalHeap(header.file, heap_address)
    for record in btree2_records(header.file, tree, _BY_NAME):
        record.skip(4)
        yield _parse_link(heap.object(record.take(record.left)))


def _parse_link(cursor: Cursor) -> Link:
    cursor.expect(b"", 1)
    flags = cursor.uint(1)
    kind = cursor.uint(1) if flags & 8 else Kind.HARD
    order = cursor.uint(8) if flags & 4 else None
    cursor.skip(flags >> 4 & 1)
    name = _decode_name(cursor.take(cursor.uint(1 << (flags & 3))))
    match kind:
        case Kind.HARD:
            address = cursor.address()
            if address is None:
                raise damaged("a member of a group has no address")
            return Link(name, address, order=order)
        case Kind.SOFT:
            return Link(name, path=_decode(cursor.take(cursor.uint(2))), order=order)
        case Kind.EXTERNAL:
            target = cursor.part(cursor.uint(2), "a link to another file")
            target.skip(1)
            file, path = _decode(target.text()), _decode(target.text())
            return Link(name, description=f"a link to {path!r} in the other file {file!r}", order=order)
        case _:
            return Link(name, description=f"a link of a kind of its own ({kind})", order=order)


def _decode_name(raw: bytes) -> str:
    name = _decode(raw)
    if not name or "/" in name or "\0" in name:
        raise damaged(f"a member of a group is called {name!r}")
    return name


def _decode(raw: bytes) -> str:
    """A name or a path; bytes that are not UTF-8 become what h5py gives."""
    return raw.decode("utf-8", "surrogateescape")
