"""Files of h5py's in which one number of one structure is another: each is refused for what that structure is.

What is behind a checksum gets a right one again, so that it is the number that is refused.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.hdf5.structures.checksum import lookup3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOWHERE = b"\xff" * 8


def saved(fill: Callable[[h5py.File], Any], version: str) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=version) as file:
        fill(file)
    return buffer.getvalue()


def chunked(shape: tuple[int, ...], most: tuple[int | None, ...] | None, **how: Any) -> Callable[[h5py.File], Any]:
    def fill(file: h5py.File) -> None:
        file.create_dataset("w", data=np.ones(shape, "f4"), maxshape=most, chunks=(1,) * len(shape), **how)

    return fill


def written_early(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1,))
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), dcpl=properties)


def links(count: int, width: int) -> Callable[[h5py.File], Any]:
    def fill(file: h5py.File) -> None:
        for number in range(count):
            file[f"{number:0{width}}"] = h5py.SoftLink("/w")
        file["w"] = np.ones(2, "f4")

    return fill


def attributes(*names: str) -> Callable[[h5py.File], Any]:
    def fill(file: h5py.File) -> None:
        file["w"] = np.ones(2, "f4")
        for name in names:
            file["w"].attrs[name] = 1

    return fill


def plain(file: h5py.File) -> None:
    file["w"] = np.ones(2, "f4")


def typed(kind: Any) -> Callable[[h5py.File], Any]:
    def fill(file: h5py.File) -> None:
        file.create_dataset("w", (2,), kind)
        file["n"] = np.ones(2, "f4")

    return fill


FILES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "fixed": (chunked((4,), (8,)), "latest"),
    "growing": (chunked((4,), (None,)), "latest"),
    "tree": (chunked((4, 1), (None, None)), "latest"),
    "tall tree": (chunked((200, 1), (None, None)), "latest"),
    "old tree": (chunked((4,), (None,)), "earliest"),
    "filtered": (chunked((4,), (8,), compression="gzip"), "latest"),
    "early": (written_early, "latest"),
    "links": (links(9, 3), "latest"),
    "many links": (links(300, 90), "latest"),
    "attributes": (attributes("aa", "bb"), "latest"),
    "plain": (plain, "latest"),
    "old": (plain, "earliest"),
    "enum": (typed(h5py.enum_dtype({"a": 1, "b": 2}, "i4")), "latest"),
    "texts": (typed(h5py.string_dtype()), "latest"),
}


@cache
def whole(name: str) -> bytes:
    return saved(*FILES[name])


LENGTHS = {
    b"FAHD": 28, b"FADB": 14 + 8 * 8 + 4, b"EAHD": 72, b"BTHD": 38, b"FRHP": 146, b"BTLF": 6 + 4 * 24 + 4,
    b"\x89HDF": 48,
}  # fmt: skip
"""Bytes of the structures that end in a checksum, in the files above."""


@dataclass(frozen=True)
class At:
    """Bytes in the structure that has a signature, or a message of a type in the header of the dataset "w"."""

    where: bytes | int
    offset: int
    new: bytes
    flags: int | None = None
    length: int | None = None

    def done(self, data: bytes) -> bytes:
        if isinstance(self.where, int):
            return self._in_message(data, self.where)
        start = data.index(self.where)
        length = self.length or LENGTHS.get(self.where, 0)
        made = bytearray(data)
        made[start + self.offset : start + self.offset + len(self.new)] = self.new
        return sealed(bytes(made), start, length) if length else bytes(made)

    def _in_message(self, data: bytes, kind: int) -> bytes:
        header, places = header_of_w(data)
        flags, at = next((flags, at) for found, flags, at in places if found == kind)
        made = bytearray(data)
        made[at + self.offset : at + self.offset + len(self.new)] = self.new
        if self.flags is not None:
            made[flags] = self.flags
        return sealed(bytes(made), *header) if header else bytes(made)


def sealed(data: bytes, start: int, length: int) -> bytes:
    end = start + length - 4
    return data[:end] + lookup3(data[start:end]).to_bytes(4, "little") + data[end + 4 :]


def header_of_w(data: bytes) -> tuple[tuple[int, int] | None, list[tuple[int, int, int]]]:
    """Its header's start and length, if that has a checksum; every message's type, and where its flags and data are."""
    with h5py.File(io.BytesIO(data)) as file:
        start = h5py.h5o.get_info(file["w"].id).addr
    if data[start : start + 4] != b"OHDR":
        size = int.from_bytes(data[start + 8 : start + 12], "little")
        return None, [*messages(data, start + 16, start + 16 + size, wide=True)]
    flags = data[start + 5]
    first = start + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
    width = 1 << (flags & 3)
    end = first + width + int.from_bytes(data[first : first + width], "little")
    return (start, end + 4 - start), [*messages(data, first + width, end, wide=False, ordered=bool(flags & 4))]


def messages(data: bytes, at: int, end: int, *, wide: bool, ordered: bool = False) -> Iterator[tuple[int, int, int]]:
    prefix = 8 if wide else 4 + 2 * ordered
    while at + prefix <= end:
        size = int.from_bytes(data[at + 2 - (not wide) : at + 4 - (not wide)], "little")
        yield data[at], at + 4 - (not wide), at + prefix
        at += prefix + size


SPACE, TYPE, FILL, LAYOUT, FILTERS, ATTRIBUTE = 1, 3, 5, 8, 11, 12
SMALL = b"\1" + bytes(7)

CASES: dict[str, tuple[str, At, type[CkptconvError], str]] = {
    "an array of chunks of others": ("fixed", At(b"FAHD", 5, b"\1"), CorruptFileError, "entries of another kind"),
    "a block of another array": ("fixed", At(b"FADB", 6, SMALL), CorruptFileError, "block of an array of chunks bel"),
    "an array without blocks": ("growing", At(b"EAHD", 9, b"\3"), CorruptFileError, "has blocks of no size"),
    "a tree of other things": ("tree", At(b"BTHD", 5, b"\5"), CorruptFileError, "of another type than it should be"),
    "a tree of tiny nodes": ("tree", At(b"BTHD", 6, b"\1\0\0\0"), CorruptFileError, "too small for a record"),
    "a leaf of another tree": ("tree", At(b"BTLF", 5, b"\5"), CorruptFileError, "node does not start as one"),
    "a chunk twice": ("tree", At(b"BTLF", 6 + 24 + 8, bytes(8)), CorruptFileError, "'w' has a chunk twice"),
    "a chunk past the end": ("tree", At(b"BTLF", 6, b"\0\0\0\1" + bytes(4)), CorruptFileError, "runs past the end"),
    "an old tree of other things": ("old tree", At(b"TREE\1", 4, b"\0"), CorruptFileError, "does not start as one"),
    "an old child nowhere": ("old tree", At(b"TREE\1", 48, NOWHERE), CorruptFileError, "child without an address"),
    "a chunk between two": ("old tree", At(b"TREE\1", 24 + 16, SMALL), CorruptFileError, "starts within an element"),
    "chunks past the end": ("early", At(LAYOUT, 8, b"\0\0\0\1" + bytes(4)), CorruptFileError, "chunks run past the"),
    "a heap that is compressed": ("links", At(b"FRHP", 7, b"\1"), UnsupportedError, "attributes are compressed"),
    "a heap of no blocks": ("links", At(b"FRHP", 110, b"\0\0"), CorruptFileError, "blocks have no size"),
    "a heap without a block": ("links", At(b"FRHP", 132, NOWHERE), CorruptFileError, "not in its block"),
    "a heap without rows": ("many links", At(b"FRHP", 132, NOWHERE), CorruptFileError, "of a fractal heap is missing"),
    "a heap of few rows": ("many links", At(b"FRHP", 140, b"\1\0"), CorruptFileError, "past the end of its"),
    "a heap's changed block": ("links", At(b"FHDB", 40, b"?"), CorruptFileError, "heap's block fails its checksum"),
    "a block of another heap": ("links", At(b"FHDB", 5, SMALL), CorruptFileError, "heap's block belongs elsewhere"),
    "an object of a new kind": ("links", At(b"BTLF\0\5", 10, b"\x30", length=6 + 10 * 11 + 4), CorruptFileError,
                                "of a kind that is not known"),
    "a huge object that is none": ("links", At(b"BTLF\0\5", 10, b"\x10", length=6 + 10 * 11 + 4), CorruptFileError,
                                   "in a fractal heap is missing"),
    "65 dimensions": ("plain", At(SPACE, 1, b"\x41"), LimitError, "has 65 dimensions; the limit is"),
    "a space of a new kind": ("plain", At(SPACE, 3, b"\3"), CorruptFileError, "a dataspace is of type 3"),
    "smaller than it is": ("fixed", At(SPACE, 12, SMALL), CorruptFileError, "larger than it may grow to"),
    "a type of a new class": ("plain", At(TYPE, 0, b"\x1f"), CorruptFileError, "a datatype is of class 15"),
    "a type of no version": ("plain", At(TYPE, 0, b"\1"), CorruptFileError, "a datatype has version 0"),
    "an enum of other numbers": ("enum", At(TYPE, 4, b"\2"), CorruptFileError, "an enum is of another size"),
    "a text of 3 bytes": ("texts", At(TYPE, 4, b"\3"), CorruptFileError, "of varying length has 3 bytes"),
    "chunks in a new way": ("fixed", At(LAYOUT, 7, b"\x09"), CorruptFileError, "indexed in a way"),
    "chunks of no size": ("fixed", At(LAYOUT, 5, b"\0"), CorruptFileError, "chunks of a dataset have no size"),
    "elements of other chunks": ("fixed", At(LAYOUT, 6, b"\2"), CorruptFileError, "of another rank or type"),
    "200 filters": ("filtered", At(FILTERS, 1, b"\xc8"), CorruptFileError, "went through 200 filters"),
    "a value that is too long": ("attributes", At(ATTRIBUTE, 16, b"\x10"), CorruptFileError, "shape ask for 16"),
    "two attributes of one name": ("attributes", At(ATTRIBUTE, 9, b"bb"), CorruptFileError, "two attributes 'bb'"),
    "what must be known": ("plain", At(FILL, -4, b"\x30", 0x80), UnsupportedError, "a header message of type 48"),
    "types in a heap of their own": ("plain", At(TYPE, 0, b"\3\1", 2), UnsupportedError, "in a heap of their own"),
    "a type that lies nowhere": ("plain", At(TYPE, 0, b"\3\2" + NOWHERE, 2), CorruptFileError, "is shared, and has no"),
    "two types": ("old", At(FILL, -8, b"\3"), CorruptFileError, "an object has 2 messages that are"),
    "no root": ("plain", At(b"\x89HDF", 36, NOWHERE), CorruptFileError, "it has no root group"),
    "no end": ("plain", At(b"\x89HDF", 28, NOWHERE), CorruptFileError, "it has no size"),
    "old trees of no size": ("old", At(b"\x89HDF", 16, b"\0\0", length=-1), CorruptFileError, "B-trees have no size"),
    "names nowhere": ("old", At(b"HEAP", 24, NOWHERE), CorruptFileError, "a local heap has no data"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "error", "words"), CASES.values(), ids=CASES)
def test_an_impossible_number_is_refused_with_the_reason(
    name: str, change: At, error: type[CkptconvError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(whole(name))
    with ckptconv.open(path) as checkpoint:
        for tensor in checkpoint.values():
            tensor.read()
    path.write_bytes(change.done(whole(name)))
    with pytest.raises(error, match=words) as refused, ckptconv.open(path) as checkpoint:
        for tensor in checkpoint.values():
            tensor.read()
    assert refused.value.hint


CHUNKS: dict[str, tuple[dict[str, Any], bytes, int, str]] = {
    "of another size": ({"compression": "gzip"}, b"few", 1, "has another size than the others"),
    "without its checksum": ({"fletcher32": True}, b"few", 0, "is shorter than its checksum"),
    "that inflates to less": ({"compression": "gzip"}, zlib.compress(bytes(3)), 0, "has 3 bytes, and should have 4"),
    "that inflates to too much": ({"compression": "gzip"}, b"few", 0, "claims to inflate beyond"),
}


@pytest.mark.parametrize(("filters", "raw", "mask", "words"), CHUNKS.values(), ids=CHUNKS)
def test_a_damaged_chunk_is_refused_with_the_reason(
    filters: dict[str, Any], raw: bytes, mask: int, words: str, tmp_path: Path
) -> None:
    count = 1 << 16 if "beyond" in words else 1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("w", (count,), "f4", chunks=(count,), **filters)
        dataset.id.write_direct_chunk((0,), raw, mask)
    with (
        ckptconv.open(tmp_path / "x.h5") as checkpoint,
        pytest.raises(CorruptFileError, match=f"'w' is damaged.*{words}"),
    ):
        checkpoint["w"].read()
