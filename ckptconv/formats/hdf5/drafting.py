"""A tree of groups and datasets as the bytes that stand before the elements of an HDF5 file.

    superblock      version 2, which HDF5 1.8 (2008) and later read; the root group is the first object
    objects         headers of version 2, each with its checksum, every 8 bytes; a group has its links in its header,
                    a large one in a heap and two B-trees behind all headers
    global heaps    the texts of attributes
    elements        of each dataset as one run, each on a boundary of 64 bytes; empty ones are nowhere

Groups track the order in which their members were made, which is the tensors'. There are no times. A dataset that two
names share is linked twice, and its header counts that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.formats.hdf5 import dense, headers
from ckptconv.formats.hdf5.checksum import lookup3
from ckptconv.formats.hdf5.messages import (
    HEADER_ROOM,
    UNDEFINED,
    Said,
    spell_attribute,
    spell_datatype,
    spell_headers,
    spell_message,
    spell_space,
)
from ckptconv.formats.hdf5.superblock import MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.tensor import TensorInfo

ALIGNMENT = 64

_SUPERBLOCK = 48
_MOST_IN_HEAP = 60_000
"""Texts of one heap: their numbers have 16 bits."""

_LEAST_HEAP = 4096
_HEAP_HEAD, _TEXT_HEAD = 16, 16
_TRACKED, _INDEXED = 1, 2
_ORDERED, _UTF8 = 1 << 2, 1 << 4
_LATE, _IF_SET = 2, 2 << 2
_CONTIGUOUS = 1
_LINK_ROOM = 21
"""Bytes of a link message besides the name, at most."""


@dataclass(slots=True)
class Dataset:
    """A dataset that is to be written. `links`: how many names it has."""

    info: TensorInfo
    attributes: dict[str, Said] = field(default_factory=dict)
    links: int = 1


@dataclass(slots=True)
class Group:
    """A group, with its members in their order."""

    members: dict[str, Group | Dataset] = field(default_factory=dict)
    attributes: dict[str, Said] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """A file as it will be.

    head:  all of it up to the elements. size: of the whole file.
    spots: by dataset (its identity) where its elements go.
    texts: where each text of an attribute stands in `head`.
    """

    head: bytearray
    size: int
    spots: dict[int, int]
    texts: dict[bytes, int]


def draft(root: Group) -> Draft:
    """Decide where everything goes. Texts that are equal are stored once."""
    objects = list(_objects(root))
    drafter = _Drafter()
    for one in objects:
        drafter.collect(one)
    at = _SUPERBLOCK
    for one in objects:
        drafter.places[id(one)] = at
        at += _padded(HEADER_ROOM + len(drafter.messages(one)), 8)
    for one in objects:
        at = drafter.place_links(one, at)
    at = drafter.place_heaps(at)
    head, size = _padded(at, ALIGNMENT), _padded(at, ALIGNMENT)
    for one in objects:
        if isinstance(one, Dataset) and one.info.nbytes:
            start = _padded(size, ALIGNMENT)
            drafter.spots[id(one)], size = start, start + one.info.nbytes
    data = bytearray(head)
    data[:_SUPERBLOCK] = _superblock(size)
    for one, spelled in zip(objects, spell_headers([drafter.messages(one) for one in objects]), strict=True):
        place = drafter.places[id(one)]
        data[place : place + len(spelled)] = spelled
        drafter.spell_links(one, data)
    return Draft(data, size, drafter.spots, drafter.spell_heaps(data))


def _objects(root: Group) -> Iterator[Group | Dataset]:
    """Every object once, groups before what is in them."""
    waiting: list[Group | Dataset] = [root]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            if isinstance(one, Group):
                waiting += reversed(one.members.values())


def _padded(size: int, boundary: int) -> int:
    return size + -size % boundary


def _shape_and_type(info: TensorInfo) -> bytes:
    """The messages that all datasets of that header have."""
    found = spell_message(headers.DATASPACE, spell_space(info.shape))
    found += spell_message(headers.DATATYPE, spell_datatype(info.dtype), constant=True)
    return found + spell_message(headers.FILL, bytes([3, _LATE | _IF_SET]), constant=True)


def _superblock(end: int) -> bytes:
    head = MAGIC + pack("<4B4Q", 2, 8, 8, 0, 0, UNDEFINED, end, _SUPERBLOCK)
    return head + pack("<I", lookup3(head))


class _Drafter:
    """Knows where objects are; before it does, their messages have the same length."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.spots: dict[int, int] = {}
        self._links: dict[int, dense.Places] = {}
        self._fixed: dict[TensorInfo, bytes] = {}
        self._texts: dict[bytes, int] = {}
        self._heaps: list[int] = []

    def collect(self, one: Group | Dataset) -> None:
        """Note the texts of its attributes, each by its number."""
        for value in one.attributes.values():
            for text in value.texts:
                if text:
                    self._texts.setdefault(text, len(self._texts))

    def messages(self, one: Group | Dataset) -> bytes:
        """The messages of an object's header."""
        own = self._group(one) if isinstance(one, Group) else self._dataset(one)
        said = (spell_attribute(name, value, self._in_heap) for name, value in one.attributes.items())
        return own + b"".join(spell_message(headers.ATTRIBUTE, message) for message in said)

    def _group(self, group: Group) -> bytes:
        apart = self._links.get(id(group))
        addresses = (apart.heap, apart.names, apart.orders) if apart else (UNDEFINED,) * 3
        found = spell_message(headers.LINK_INFO, pack("<BBq3Q", 0, _TRACKED | _INDEXED, len(group.members), *addresses))
        found += spell_message(headers.GROUP_INFO, b"\0\0", constant=True)
        links = [] if self._are_apart(group) else self._link_messages(group)
        return found + b"".join(spell_message(headers.LINK, link) for link in links)

    def _are_apart(self, group: Group) -> bool:
        """Whether its links are in a heap of their own."""
        longest = max(map(len, group.members), default=0) * 4 + _LINK_ROOM
        return dense.FEWEST <= len(group.members) <= dense.MOST and longest <= dense.MOST_MESSAGE

    def _link_messages(self, group: Group) -> list[bytes]:
        found = []
        for order, (name, member) in enumerate(group.members.items()):
            raw, place = name.encode("utf-8"), self.places.get(id(member), 0)
            width = 0 if len(raw) < 256 else 1
            link = pack("<BBqB", 1, width | _ORDERED | _UTF8, order, 1) + len(raw).to_bytes(1 << width, "little")
            found.append(link + raw + pack("<Q", place))
        return found

    def place_links(self, one: Group | Dataset, at: int) -> int:
        """Give the links of a large group their places, from `at` on; where they end."""
        if isinstance(one, Dataset) or not self._are_apart(one):
            return at
        self._links[id(one)] = found = dense.places(self._link_messages(one), at)
        return found.end

    def spell_links(self, one: Group | Dataset, data: bytearray) -> None:
        """Put these links into their places."""
        if isinstance(one, Group) and id(one) in self._links:
            names = [name.encode("utf-8") for name in one.members]
            dense.spell(names, self._link_messages(one), self._links[id(one)], data)

    def _dataset(self, dataset: Dataset) -> bytes:
        info = dataset.info
        place = self.spots.get(id(dataset), 0) if info.nbytes else UNDEFINED
        fixed = self._fixed.get(info)
        if fixed is None:
            fixed = self._fixed[info] = _shape_and_type(info)
        found = fixed + spell_message(headers.LAYOUT, pack("<BBQQ", 3, _CONTIGUOUS, place, info.nbytes))
        if dataset.links > 1:
            found += spell_message(headers.LINK_COUNT, pack("<BI", 0, dataset.links))
        return found

    def _in_heap(self, text: bytes) -> tuple[int, int]:
        number = self._texts[text]
        heap, index = divmod(number, _MOST_IN_HEAP)
        return self._heaps[heap] if self._heaps else 0, index + 1

    def _parts(self) -> Iterator[list[bytes]]:
        texts = list(self._texts)
        for start in range(0, len(texts), _MOST_IN_HEAP):
            yield texts[start : start + _MOST_IN_HEAP]

    def place_heaps(self, at: int) -> int:
        """Give the heaps their places, from `at` on; where they end."""
        for texts in self._parts():
            self._heaps.append(at)
            at += max(_LEAST_HEAP, _HEAP_HEAD + sum(_TEXT_HEAD + _padded(len(text), 8) for text in texts))
        return at

    def spell_heaps(self, data: bytearray) -> dict[bytes, int]:
        """Put the heaps into their places; where each text is."""
        found: dict[bytes, int] = {}
        for start, texts in zip(self._heaps, self._parts(), strict=True):
            at = start + _HEAP_HEAD
            for index, text in enumerate(texts, 1):
                data[at : at + _TEXT_HEAD] = pack("<HH4xQ", index, 0, len(text))
                found[text] = at + _TEXT_HEAD
                data[at + _TEXT_HEAD : at + _TEXT_HEAD + len(text)] = text
                at += _TEXT_HEAD + _padded(len(text), 8)
            size = max(_LEAST_HEAP, at - start)
            data[start : start + _HEAP_HEAD] = b"GCOL\1\0\0\0" + pack("<Q", size)
            if (left := start + size - at) >= _TEXT_HEAD:
                data[at : at + _TEXT_HEAD] = pack("<HH4xQ", 0, 0, left)
        return found
