"""Arrays of texts in TensorFlow's data files.

    varints   the length of each text
    4 bytes   u32 little-endian: the masked CRC-32C of these lengths
    …         the texts, one after another

The entry's CRC-32C covers the lengths, as numbers of four bytes (eight from 2^32 on) in the byte order of the file, and
the four bytes and the texts after them.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc (`ReadStringTensor`, `WriteStringTensor`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError
from ckptconv.formats.tensorflow.table import bad, varint
from ckptconv.formats.tensors.texts import nested_texts
from ckptconv.io.crc32c import crc32c

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.tensorflow.bundle import Entry


def read_texts(name: str, data: bytes, entry: Entry, *, swapped: bool) -> MetaNode:
    """Read the texts, as nested lists of bytes. `entry` must have no more texts than bytes. Raises CorruptFileError."""
    lengths, at = [], 0
    for _ in range(prod(entry.shape)):
        length, at = varint(data, at)
        lengths.append(length)
    lengths_crc, at = data[at : at + 4], at + 4
    if at + sum(lengths) != len(data):
        raise bad(f"{name!r} has {len(data):,} bytes, and its texts ask for {at + sum(lengths):,}")
    order: Literal["big", "little"] = "big" if swapped else "little"
    numbers = (length.to_bytes(4 if length < 1 << 32 else 8, order) for length in lengths)
    if crc32c(b"".join((*numbers, lengths_crc, data[at:]))) != entry.crc32c:
        raise CorruptFileError(f"the texts of {name!r} fail their recorded checksum", hint=COPY_ALL_AGAIN)
    texts = []
    for length in lengths:
        texts.append(data[at : at + length])
        at += length
    return nested_texts(texts, entry.shape) if texts else []
