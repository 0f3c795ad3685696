"""Writes the links of a large group in dense storage, in which single links are found without reading all of them.

    a fractal heap with one direct block, which holds the link messages
    two B-trees of version 2 with one leaf each: the messages by the hash of their name, and by creation order

`fractal` and `btree` describe the layout of these. The HDF5 library starts with a block of 512 bytes, and adds more; a
single block that is large enough works as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.formats.hdf5.structures.checksum import lookup3, lookup3_of_each
from ckptconv.formats.hdf5.writer.messages import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_LINKS, MAX_LINKS = 500, 65_535
"""Groups with at least, and at most, this many links are stored like this; a leaf counts its records in 16 bits."""

MAX_MESSAGE = 4096
"""The longest message, in bytes, that a heap of links holds as a managed object."""

_HEAP, _TREE, _BLOCK = 146, 38, 21
"""Bytes of a heap's header, of a tree's header, and of the start of a block."""

_BY_NAME, _BY_ORDER = 5, 6
_ID = 7
_NAME_RECORD, _ORDER_RECORD = 4 + _ID, 8 + _ID
_LEAF_ROOM = 10
_BITS = 32
_CHECKSUMMED = 2


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of the parts, which follow each other, aligned to 8 bytes; where they end; the block's size."""

    heap: int
    names: int
    orders: int
    name_leaf: int
    order_leaf: int
    block: int
    end: int
    block_size: int


def plan_places(messages: Sequence[bytes], start: int) -> Places:
    """Where the parts go, from the address `start` on."""
    count, size = len(messages), _block_size(messages)
    leaves = [_LEAF_ROOM + count * record for record in (_NAME_RECORD, _ORDER_RECORD)]
    starts = [start]
    for length in (_HEAP, _TREE, _TREE, *leaves, size):
        end = starts[-1] + length
        starts.append(end + -end % 8)
    heap, names, orders, name_leaf, order_leaf, block, end = starts
    return Places(heap, names, orders, name_leaf, order_leaf, block, end, size)


def _block_size(messages: Sequence[bytes]) -> int:
    needed = _BLOCK + sum(map(len, messages))
    return max(512, 1 << (needed - 1).bit_length())


def write_links(names: Sequence[bytes], messages: Sequence[bytes], at: Places, data: bytearray) -> None:
    """Write the parts into `data`, at their places. `messages` are in creation order; `names` has the name of each."""
    ids, offset = [], _BLOCK
    for message in messages:
        ids.append(pack("<BIH", 0, offset, len(message)))
        offset += len(message)
    block = _block(b"".join(messages), at)
    hashed = sorted(zip(lookup3_of_each(names), names, ids, strict=True))
    by_name = b"".join(pack("<I", name_hash) + heap_id for name_hash, _, heap_id in hashed)
    by_order = b"".join(pack("<Q", order) + heap_id for order, heap_id in enumerate(ids))
    for address, part in (
        (at.heap, _heap(len(messages), at)),
        (at.names, _tree(_BY_NAME, _NAME_RECORD, len(messages), at.name_leaf)),
        (at.orders, _tree(_BY_ORDER, _ORDER_RECORD, len(messages), at.order_leaf)),
        (at.name_leaf, _leaf(_BY_NAME, by_name)),
        (at.order_leaf, _leaf(_BY_ORDER, by_order)),
        (at.block, block),
    ):
        data[address : address + len(part)] = part


def _with_checksum(part: bytes) -> bytes:
    return part + pack("<I", lookup3(part))


def _heap(count: int, at: Places) -> bytes:
    """The heap's header. It states no free space: a library that adds a link will add a block."""
    size = at.block_size
    head = b"FRHP" + pack("<BHHBI", 0, _ID, 0, _CHECKSUMMED, MAX_MESSAGE)
    head += pack("<4Q", 0, UNDEFINED, 0, UNDEFINED) + pack("<8Q", size, size, size, count, 0, 0, 0, 0)
    head += pack("<HQQHHQH", 4, size, max(size, 1 << 16), _BITS, 1, at.block, 0)
    return _with_checksum(head)


def _block(objects: bytes, at: Places) -> bytes:
    head = b"FHDB" + pack("<BQI", 0, at.heap, 0)
    body = objects.ljust(at.block_size - _BLOCK, b"\0")
    return head + pack("<I", lookup3(head + bytes(4) + body)) + body


def _tree(kind: int, record: int, count: int, leaf: int) -> bytes:
    node = _LEAF_ROOM + count * record
    return _with_checksum(b"BTHD" + pack("<BBIHHBBQHQ", 0, kind, node, record, 0, 100, 40, leaf, count, count))


def _leaf(kind: int, records: bytes) -> bytes:
    return _with_checksum(b"BTLF" + pack("<BB", 0, kind) + records)
