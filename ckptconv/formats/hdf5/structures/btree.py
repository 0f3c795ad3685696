"""Walks both kinds of B-trees from the root to the leaves, visiting each node once.

    version 1:  "TREE", type (0 members of a group, 1 chunks), level, entries u16, two siblings;
                then key, child, key, child … key
    version 2:  "BTHD", 0, type, node size u32, record size u16, depth u16, 2 bytes, root, records of the root u16,
                records in all, checksum
                "BTLF" a leaf: 0, type, records, checksum
                "BTIN" an inner node: 0, type, records; for each child its address, its number of records and, above
                the lowest inner level, the number of records below it; checksum

Siblings and total counts are not needed for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.hdf5.structures.cursor import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.hdf5.structures.cursor import Cursor
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File

GROUP, CHUNKS = 0, 1
_MOST_LEVELS = 64


def btree1_entries(file: Hdf5File, address: int, kind: int, key_size: int) -> Iterator[tuple[Cursor, int]]:
    """The keys and children in the leaves of a tree of version 1, in order. Raises CorruptFileError."""
    waiting, seen = [(address, -1)], {address}
    while waiting:
        address, level = waiting.pop()
        head = file.cursor(address, 8 + 2 * file.offsets, "a B-tree's node")
        if head.take(4) != b"TREE" or head.uint(1) != kind:
            raise damaged("a B-tree's node does not start as one")
        stated_level, count = head.uint(1), head.uint(2)
        if level not in (-1, stated_level):
            raise damaged("a B-tree's node is of another level than its parent says")
        data = file.cursor(address + 8 + 2 * file.offsets, count * (key_size + file.offsets), "a B-tree's node")
        inner = []
        for _ in range(count):
            key, child = data.part(key_size, "a B-tree's key"), data.address()
            if child is None:
                raise damaged("a B-tree has a child without an address")
            if not stated_level:
                yield key, child
            elif child in seen:
                raise damaged("a B-tree has a node twice")
            else:
                seen.add(child)
                inner.append((child, stated_level - 1))
        waiting += reversed(inner)


def btree2_records(file: Hdf5File, address: int, *kinds: int) -> Iterator[Cursor]:
    """The records of a tree of version 2, in no particular order. Raises CorruptFileError."""
    head = file.checked_cursor(address, 22 + file.offsets + file.lengths, "a B-tree's header")
    head.expect(b"BTHD", 0)
    kind, node_size, size, depth = head.uint(1), head.uint(4), head.uint(2), head.uint(2)
    head.skip(2)
    root, count = head.address(), head.uint(2)
    if kind not in kinds or not size or depth > _MOST_LEVELS:
        raise damaged("a B-tree is of another type than it should be")
    if root is not None:
        yield from _Tree(file, kind, node_size, size, depth).walk(root, count)


class _Tree:
    """A tree of version 2. Its node size and record size determine how wide the counts in nodes are."""

    def __init__(self, file: Hdf5File, kind: int, node_size: int, record_size: int, depth: int) -> None:
        self._file, self._kind, self._size, self._depth = file, kind, record_size, depth
        if node_size < 10 + record_size:
            raise damaged("a B-tree's nodes are too small for a record")
        most = (node_size - 10) // record_size
        self._count_width = _width(most)
        self._total_widths = [0]  # of the number of records below a node, by its level
        for _ in range(depth):
            pointer = file.offsets + self._count_width + self._total_widths[-1]
            in_node = max(0, node_size - 10 - pointer) // (record_size + pointer)
            most = in_node + (in_node + 1) * most
            self._total_widths.append(_width(most))

    def walk(self, root: int, count: int) -> Iterator[Cursor]:
        waiting, seen = [(root, count, self._depth)], {root}
        while waiting:
            address, count, level = waiting.pop()
            extra = 0 if level < 2 else self._total_widths[level - 1]
            pointer = self._file.offsets + self._count_width + extra if level else 0
            length = 6 + count * self._size + (count + 1) * pointer + 4
            node = self._file.checked_cursor(address, length, "a B-tree's node")
            if node.take(4) != (b"BTIN" if level else b"BTLF") or node.uint(1) or node.uint(1) != self._kind:
                raise damaged("a B-tree's node does not start as one")
            for _ in range(count):
                yield node.part(self._size, "a B-tree's record")
            inner = []
            for _ in range(count + 1 if level else 0):
                child, child_count = node.address(), node.uint(self._count_width)
                node.skip(extra)
                if child is None or child in seen:
                    raise damaged("a B-tree has a node twice, or none where there should be one")
                seen.add(child)
                inner.append((child, child_count, level - 1))
            waiting += reversed(inner)


def _width(most: int) -> int:
    """The bytes that numbers up to `most` take."""
    return max(1, (most.bit_length() + 7) // 8)
