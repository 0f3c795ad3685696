"""Lays out a tree of groups and datasets as an HDF5 file, and makes the bytes that come before its elements.

    superblock      version 2, which HDF5 1.8 (2008) and later read; the root group is the first object
    objects         headers of version 2 with checksums, aligned to 8 bytes; a group has its links in its header, a
                    large group in a heap and two B-trees behind all headers
    global heaps    the texts of attributes
    elements        of each dataset in one piece, aligned to 64 bytes; empty datasets have none

Groups track the creation order of their members, which is the order of the tensors. There are no times. A dataset with
two names is linked twice, and its header has the number of links.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.formats.hdf5.structures import headers
from ckptconv.formats.hdf5.structures.checksum import lookup3
from ckptconv.formats.hdf5.structures.superblock import MAGIC
from ckptconv.formats.hdf5.writer import dense
from ckptconv.formats.hdf5.writer.messages import (
    HEADER_ROOM,
    UNDEFINED,
    AttributeValue,
    encode_attribute,
    encode_datatype,
    encode_headers,
    encode_message,
    encode_space,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.core.tensor import TensorInfo

ALIGNMENT = 64

_SUPERBLOCK = 48
_MAX_IN_HEAP = 60_000
"""The most texts in one heap: their numbers have 16 bits."""

_LEAST_HEAP = 4096
_HEAP_HEAD, _TEXT_HEAD = 16, 16
_TRACKED, _INDEXED = 1, 2
_ORDERED, _UTF8 = 1 << 2, 1 << 4
_LATE, _IF_SET = 2, 2 << 2
_CONTIGUOUS = 1
_LINK_ROOM = 21
"""The most bytes that a link message takes besides the name."""


@dataclass(slots=True)
class Dataset:
    """A dataset to be written; `links` is the number of its names."""

    info: TensorInfo
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    links: int = 1


@dataclass(slots=True)
class Group:
    """A group to be written, with its members in order."""

    members: dict[str, Group | Dataset] = field(default_factory=dict)
    attributes: dict[str, AttributeValue] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """The layout of a file to be written.

    head:  the bytes before the elements.
    size:  the size of the whole file.
    spots: the offset of each dataset's elements, by the dataset's identity.
    texts: the offset in `head` of each text of an attribute.
    """

    head: bytearray
    size: int
    spots: dict[int, int]
    texts: dict[bytes, int]


def draft(root: Group) -> Draft:
    """Decide where everything goes. Equal texts are stored once."""
    objects = list(_objects(root))
    drafter = _Drafter()
    for item in objects:
        drafter.collect_texts(item)
    at = _SUPERBLOCK
    for item in objects:
        drafter.places[id(item)] = at
        at += _padded(HEADER_ROOM + len(drafter.messages(item)), 8)
    for item in objects:
        at = drafter.place_links(item, at)
    at = drafter.place_heaps(at)
    head = _padded(at, ALIGNMENT)
    size = drafter.place_elements(objects, head)
    data = bytearray(head)
    data[:_SUPERBLOCK] = _superblock(size)
    for item, encoded in zip(objects, encode_headers([drafter.messages(item) for item in objects]), strict=True):
        place = drafter.places[id(item)]
        data[place : place + len(encoded)] = encoded
        drafter.write_links(item, data)
    return Draft(data, size, drafter.spots, drafter.write_heaps(data))


def _objects(root: Group) -> Iterator[Group | Dataset]:
    """Every object once, groups before their members."""
    waiting: list[Group | Dataset] = [root]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield item
            if isinstance(item, Group):
                waiting += reversed(item.members.values())


def _padded(size: int, boundary: int) -> int:
    return size + -size % boundary


def _shape_and_type(info: TensorInfo) -> bytes:
    """The messages that all datasets of one shape and dtype share."""
    messages = encode_message(headers.DATASPACE, encode_space(info.shape))
    messages += encode_message(headers.DATATYPE, encode_datatype(info.dtype), constant=True)
    return messages + encode_message(headers.FILL, bytes([3, _LATE | _IF_SET]), constant=True)


def _superblock(end: int) -> bytes:
    head = MAGIC + pack("<4B4Q", 2, 8, 8, 0, 0, UNDEFINED, end, _SUPERBLOCK)
    return head + pack("<I", lookup3(head))


class _Drafter:
    """Collects the places of objects. An object's messages have the same length before places are known."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.spots: dict[int, int] = {}
        self._dense_links: dict[int, dense.Places] = {}
        self._shared_messages: dict[TensorInfo, bytes] = {}
        self._texts: dict[bytes, int] = {}
        self._heaps: list[int] = []

    def collect_texts(self, item: Group | Dataset) -> None:
        """Number the texts of an object's attributes."""
        for value in item.attributes.values():
            for text in value.texts:
                if text:
                    self._texts.setdefault(text, len(self._texts))

    def messages(self, item: Group | Dataset) -> bytes:
        """The messages of an object's header."""
        own = self._group_messages(item) if isinstance(item, Group) else self._dataset_messages(item)
        attributes = (encode_attribute(name, value, self._heap_place) for name, value in item.attributes.items())
        return own + b"".join(encode_message(headers.ATTRIBUTE, message) for message in attributes)

    def _group_messages(self, group: Group) -> bytes:
        places = self._dense_links.get(id(group))
        addresses = (places.heap, places.names, places.orders) if places else (UNDEFINED,) * 3
        info = pack("<BBq3Q", 0, _TRACKED | _INDEXED, len(group.members), *addresses)
        messages = encode_message(headers.LINK_INFO, info)
        messages += encode_message(headers.GROUP_INFO, b"\0\0", constant=True)
        links = [] if self._has_dense_links(group) else self._link_messages(group)
        return messages + b"".join(encode_message(headers.LINK, link) for link in links)

    def _has_dense_links(self, group: Group) -> bool:
        """Whether the group's links are in a heap of their own."""
        longest = max(map(len, group.members), default=0) * 4 + _LINK_ROOM
        return dense.MIN_LINKS <= len(group.members) <= dense.MAX_LINKS and longest <= dense.MAX_MESSAGE

    def _link_messages(self, group: Group) -> list[bytes]:
        messages = []
        for order, (name, member) in enumerate(group.members.items()):
            raw, place = name.encode("utf-8"), self.places.get(id(member), 0)
            width = 0 if len(raw) < 256 else 1
            link = pack("<BBqB", 1, width | _ORDERED | _UTF8, order, 1) + len(raw).to_bytes(1 << width, "little")
            messages.append(link + raw + pack("<Q", place))
        return messages

    def place_links(self, item: Group | Dataset, at: int) -> int:
        """Place the links of a large group, from `at` on. Returns where they end."""
        if isinstance(item, Dataset) or not self._has_dense_links(item):
            return at
        self._dense_links[id(item)] = places = dense.plan_places(self._link_messages(item), at)
        return places.end

    def write_links(self, item: Group | Dataset, data: bytearray) -> None:
        """Write the links of a large group into `data`, at their places."""
        if isinstance(item, Group) and id(item) in self._dense_links:
            names = [name.encode("utf-8") for name in item.members]
            dense.write_links(names, self._link_messages(item), self._dense_links[id(item)], data)

    def _dataset_messages(self, dataset: Dataset) -> bytes:
        info = dataset.info
        place = self.spots.get(id(dataset), 0) if info.nbytes else UNDEFINED
        shared = self._shared_messages.get(info)
        if shared is None:
            shared = self._shared_messages[info] = _shape_and_type(info)
        messages = shared + encode_message(headers.LAYOUT, pack("<BBQQ", 3, _CONTIGUOUS, place, info.nbytes))
        if dataset.links > 1:
            messages += encode_message(headers.LINK_COUNT, pack("<BI", 0, dataset.links))
        return messages

    def place_elements(self, objects: Sequence[Group | Dataset], at: int) -> int:
        """Place the elements of all datasets, from `at` on. Returns where they end."""
        for item in objects:
            if isinstance(item, Dataset) and item.info.nbytes:
                start = _padded(at, ALIGNMENT)
                self.spots[id(item)], at = start, start + item.info.nbytes
        return at

    def _heap_place(self, text: bytes) -> tuple[int, int]:
        """The address of the heap with a text, and the text's number in it."""
        number = self._texts[text]
        heap, index = divmod(number, _MAX_IN_HEAP)
        return self._heaps[heap] if self._heaps else 0, index + 1

    def _texts_by_heap(self) -> Iterator[list[bytes]]:
        texts = list(self._texts)
        for start in range(0, len(texts), _MAX_IN_HEAP):
            yield texts[start : start + _MAX_IN_HEAP]

    def place_heaps(self, at: int) -> int:
        """Place the heaps, from `at` on. Returns where they end."""
        for texts in self._texts_by_heap():
            self._heaps.append(at)
            at += max(_LEAST_HEAP, _HEAP_HEAD + sum(_TEXT_HEAD + _padded(len(text), 8) for text in texts))
        return at

    def write_heaps(self, data: bytearray) -> dict[bytes, int]:
        """Write the heaps into `data`, at their places. Returns the offset of each text."""
        offsets: dict[bytes, int] = {}
        for start, texts in zip(self._heaps, self._texts_by_heap(), strict=True):
            at = start + _HEAP_HEAD
            for index, text in enumerate(texts, 1):
                data[at : at + _TEXT_HEAD] = pack("<HH4xQ", index, 0, len(text))
                offsets[text] = at + _TEXT_HEAD
                data[at + _TEXT_HEAD : at + _TEXT_HEAD + len(text)] = text
                at += _TEXT_HEAD + _padded(len(text), 8)
            size = max(_LEAST_HEAP, at - start)
            data[start : start + _HEAP_HEAD] = b"GCOL\1\0\0\0" + pack("<Q", size)
            if (left := start + size - at) >= _TEXT_HEAD:
                data[at : at + _TEXT_HEAD] = pack("<HH4xQ", 0, 0, left)
        return offsets
