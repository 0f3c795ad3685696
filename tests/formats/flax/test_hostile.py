"""Files that contradict themselves, spelled out in msgpack's own bytes, and files of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
import numpy as np
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnknownFormatError, UnsupportedError
from tests.support.flax_files import MARK, packed_array, to_bytes
from tests.support.nodes import plain_text

if TYPE_CHECKING:
    from pathlib import Path

FLOATS = np.arange(4, dtype=np.float32)
W = b"\xa1w"
ARRAY = msgpack.packb(msgpack.ExtType(1, packed_array(FLOATS)))


def array(*parts: object) -> bytes:
    """A file of one array that says this."""
    return b"\x81" + W + bytes(msgpack.packb(msgpack.ExtType(1, msgpack.packb(list(parts)))))


def beside(*value: bytes) -> bytes:
    """A file of a good array and of something else."""
    return b"\x82" + W + ARRAY + b"\xa1x" + b"".join(value)


def in_chunks(**parts: object) -> bytes:
    whole = {MARK: True, "shape": {"0": 4}, "chunks": {"0": FLOATS[:2], "1": FLOATS[2:]}}
    return to_bytes({"w": {**whole, **parts}})


DEEP = 66
TUPLES = b"\x01"
for _ in range(DEEP):
    TUPLES = bytes(msgpack.packb(msgpack.ExtType(4, b"\x91" + TUPLES)))
BAD: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "a key twice": (b"\x82" + W + ARRAY + W + ARRAY, CorruptFileError, "comes twice"),
    "a number as key": (beside(b"\x81\x01\x02"), UnsupportedError, "not a string"),
    "a map as key": (beside(b"\x81\x80\x02"), UnsupportedError, "not a string"),
    "bytes behind the object": (beside(b"\x01") + b"\x02", CorruptFileError, "1 bytes follow"),
    "the byte that is never used": (beside(b"\xc1"), CorruptFileError, "0xc1"),
    "text that is not UTF-8": (beside(b"\xa2\xff\xfe"), CorruptFileError, "UTF-8"),
    "a key that is not UTF-8": (beside(b"\x81\xa2\xff\xfe\x01"), CorruptFileError, "UTF-8"),
    "a string of 4 GiB": (beside(b"\xdb\xff\xff\xff\xff"), CorruptFileError, "cut short"),
    "bytes of 4 GiB": (beside(b"\xc6\xff\xff\xff\xff"), CorruptFileError, "cut short"),
    "an array of 2^32 objects": (beside(b"\xdd\xff\xff\xff\xff"), CorruptFileError, "cut short"),
    "a map of 2^32 pairs": (beside(b"\xdf\xff\xff\xff\xff"), CorruptFileError, "cut short"),
    "an extension of 4 GiB": (beside(b"\xc9\xff\xff\xff\xff\x01"), CorruptFileError, "cut short"),
    "arrays too deep": (beside(b"\x91" * DEEP + b"\x01"), LimitError, "64 deep"),
    "maps too deep": (beside(b"\x81\xa1a" * DEEP + b"\x01"), LimitError, "64 deep"),
    "arrays 100,000 deep": (beside(b"\x91" * 100_000 + b"\x01"), LimitError, "64 deep"),
    "tuples too deep": (beside(TUPLES), LimitError, "64 deep"),
    "data too short": (array([5], "float32", bytes(16)), CorruptFileError, "16 bytes"),
    "data too long": (array([3], "float32", bytes(16)), CorruptFileError, "16 bytes"),
    "data of half an element": (array([4], "float32", bytes(15)), CorruptFileError, "15 bytes"),
    "a shape below 0": (array([-1], "float32", bytes(16)), CorruptFileError, "sizes"),
    "a shape of floats": (array([4.0], "float32", bytes(16)), CorruptFileError, "sizes"),
    "a shape of booleans": (array([True], "float32", bytes(4)), CorruptFileError, "sizes"),
    "a shape that is a number": (array(4, "float32", bytes(16)), CorruptFileError, "shape"),
    "a shape past all bounds": (array([2**62, 2**62], "float32", b""), CorruptFileError, "more elements"),
    "a shape whose product is past 64 bits": (array([2**32, 2**32, 0], "float32", b"\0"), CorruptFileError, "1 bytes"),
    "65 dimensions": (array([1] * 65, "float32", bytes(4)), LimitError, "65 dimensions"),
    "a dtype that is a number": (array([4], 4, bytes(16)), CorruptFileError, "dtype"),
    "a long key with line feeds": (
        b"\x81" + msgpack.packb("k\n" * 50_000) + array([5], "float32", bytes(16))[3:], CorruptFileError, "16 bytes"
    ),
    "a dtype of 65 letters": (array([4], "f" * 65, bytes(16)), CorruptFileError, "dtype"),
    "data that is a number": (array([4], "float32", 7), CorruptFileError, "data"),
    "no data": (array([4], "float32"), CorruptFileError, "shape, dtype and data"),
    "something behind the data": (array([4], "float32", bytes(16), 1), CorruptFileError, "shape, dtype and data"),
    "bytes behind the array": (b"\x81" + W + msgpack.packb(msgpack.ExtType(1, packed_array(FLOATS) + b"\0")),
                               CorruptFileError, "ends elsewhere"),
    "an array past its extension": (
        b"\x81" + W + b"\xc7\x05\x01" + packed_array(FLOATS), CorruptFileError, "ends elsewhere"
    ),
    "text of half a character": (array([1], "str40", bytes(5)), CorruptFileError, "5 bytes"),
    "a complex number of one part": (beside(b"\xd5\x02\x91\x01"), CorruptFileError, "two parts"),
    "a complex number of text": (beside(b"\xc7\x03\x02\x92\xa0\x01"), CorruptFileError, "numbers"),
    "a time of 5 bytes": (beside(b"\xc7\x05\xff" + bytes(5)), CorruptFileError, "5"),
    "a time of too many nanoseconds": (beside(b"\xd7\xff" + b"\xff" * 8), CorruptFileError, "nanoseconds"),
    "chunks too few": (in_chunks(shape={"0": 5}), CorruptFileError, "4 elements"),
    "chunks under other keys": (in_chunks(chunks={"0": FLOATS, "2": FLOATS}), CorruptFileError, "keys"),
    "chunks of two types": (
        in_chunks(chunks={"0": FLOATS[:2], "1": FLOATS[2:].astype("i4")}), CorruptFileError, "F32, I32"
    ),
    "chunks of two dimensions": (in_chunks(chunks={"0": FLOATS.reshape(2, 2)}), CorruptFileError, "one dimension"),
    "no chunks": (beside(to_bytes({MARK: True, "shape": {"0": 0}, "chunks": {}})), CorruptFileError, "dimension"),
    "chunks that are numbers": (
        beside(to_bytes({MARK: True, "shape": {}, "chunks": {"0": 3}})), CorruptFileError, "dimension"
    ),
    "a shape of text": (in_chunks(shape={"0": "4"}), CorruptFileError, "sizes"),
    "a key beside the chunks": (in_chunks(more=1), CorruptFileError, "nothing else"),
    "an array in a folder of Orbax": (beside(b"\xaf" + b"PLACEHOLDER://x"), UnsupportedError, "folder"),
    "an array in a folder of Flax": (to_bytes({"w": "//GDAPlaceholder:w"}), UnsupportedError, "folder"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "words"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused_with_the_reason(
    data: bytes, error: type[CkptconvError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        ckptconv.open(path, format="flax")
    assert words in str(caught.value)
    assert plain_text(caught.value)
    assert len(caught.value.message) < 400
    assert caught.value.hint
    if "shape, dtype and data" not in words:
        with pytest.raises(error):
            ckptconv.open(path)


OTHERS = {
    "msgpack of settings": msgpack.packb({"name": "x", "sizes": [1, 2, 3]}),
    "msgpack-numpy's arrays": msgpack.packb(
        {"w": {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [4], b"data": FLOATS.tobytes()}}
    ),
    "extensions of another program": msgpack.packb({"w": msgpack.ExtType(42, b"abc")}),
    "an empty map": b"\x80",
    "noise that starts as a map does": b"\x82\xa1" + b"\xff" * 40,
    "a map of numbers": b"\x83\x01\x02\x03\x04\x05\x06",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_msgpack_without_an_array_of_flax_is_none_of_its_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(data)
    with pytest.raises(UnknownFormatError):
        ckptconv.open(path)
    with pytest.raises(CkptconvError):
        ckptconv.open(path, format="flax")


@pytest.mark.parametrize("entries", [1, 2, 9, 10, 15, 16, 300, 70_000])
def test_a_file_is_known_by_its_bytes_whatever_its_name(entries: int, tmp_path: Path) -> None:
    tree = {**{f"k{i}": None for i in range(entries - 1)}, "w": FLOATS}
    for name in ("x.msgpack", "x.safetensors", "x.onnx", "x.pkl", "x"):
        (tmp_path / name).write_bytes(to_bytes(tree))
        with ckptconv.open(tmp_path / name) as checkpoint:
            assert (checkpoint.format, list(checkpoint)) == ("flax", ["w"])


def test_a_file_that_is_cut_before_its_first_array_is_said_to_be_cut(tmp_path: Path) -> None:
    (tmp_path / "a.msgpack").write_bytes(to_bytes({"params": {"kernel": FLOATS}})[:9])
    with pytest.raises(CorruptFileError, match="cut short"):
        ckptconv.open(tmp_path / "a.msgpack")
