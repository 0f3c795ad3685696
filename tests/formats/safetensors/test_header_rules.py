"""Every rule of the header, each broken once; the reference reader refuses all of these too, but one."""

from __future__ import annotations

import json
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import SafetensorError, deserialize

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError
from ckptconv.testing.damage import limited_memory

if TYPE_CHECKING:
    from pathlib import Path


def entry(begin: int, end: int, dtype: Any = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header: str | bytes | dict[str, Any], data: bytes = bytes(8)) -> bytes:
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode("utf-8") if isinstance(text, str) else text
    return pack("<Q", len(raw)) + raw + data


GOOD = entry(0, 8)
ENTRY = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
BAD: dict[str, bytes] = {
    "a name twice": file("{" + ENTRY + "," + ENTRY + "}"),
    "a gap": file({"a": GOOD, "b": entry(12, 20)}, bytes(20)),
    "a gap at the start": file({"a": entry(4, 12)}, bytes(12)),
    "an overlap": file({"a": GOOD, "b": entry(4, 12)}, bytes(12)),
    "two tensors on the same bytes": file({"a": GOOD, "b": GOOD}),
    "bytes after the last tensor": file({"a": GOOD}, bytes(9)),
    "bytes and no tensor": file({}, bytes(1)),
    "bytes missing": file({"a": GOOD}, bytes(7)),
    "offsets turned round": file({"a": entry(8, 0)}),
    "a size that is not the product": file({"a": entry(0, 8, shape=(3,))}),
    "an unknown dtype": file({"a": entry(0, 8, dtype="F33")}),
    "a dtype in lower case": file({"a": entry(0, 8, dtype="f32")}),
    "a dtype that is not a string": file({"a": entry(0, 8, dtype=3)}),
    "a negative size": file({"a": entry(0, 8, shape=(-2,))}),
    "two negative sizes": file({"a": entry(0, 8, shape=(-1, -2))}),
    "a float size": file({"a": entry(0, 8, shape=(2.0,))}),
    "a bool size": file({"a": entry(0, 4, shape=(True,))}, bytes(4)),
    "a size past 64 bits": file({"a": entry(0, 0, shape=(2**64, 0))}, b""),
    "sizes whose product overflows": file({"a": entry(0, 0, shape=(2**40, 2**40))}, b""),
    "an offset past 64 bits": file({"a": entry(0, 2**64)}),
    "a negative offset": file({"a": entry(-8, 0)}),
    "a float offset": file({"a": {**GOOD, "data_offsets": [0.0, 8.0]}}),
    "three offsets": file({"a": {**GOOD, "data_offsets": [0, 8, 8]}}),
    "no shape": file({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "no dtype": file({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "no offsets": file({"a": {"dtype": "F32", "shape": [2]}}),
    "an entry that is not an object": file({"a": 3}),
    "metadata with an int": file({"__metadata__": {"epoch": 3}, "a": GOOD}),
    "metadata with null": file({"__metadata__": {"epoch": None}, "a": GOOD}),
    "metadata with an object": file({"__metadata__": {"epoch": {}}, "a": GOOD}),
    "metadata that is a list": file({"__metadata__": [], "a": GOOD}),
    "a list for a header": file("[]", b""),
    "a header cut short": file('{"a": ', b""),
    "NaN for a number": file('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "not UTF-8": file(b'{"\xff":' + json.dumps(GOOD).encode() + b"}"),
    "an odd number of half bytes": file({"a": entry(0, 2, "F4", (3,))}, bytes(2)),
    "a header length of 0": pack("<Q", 0) + bytes(20),
    "a header longer than the file": pack("<Q", 1000) + b'{"a": 1}',
    "a header length of 2^63": pack("<Q", 2**63) + b"{}",
    "a header length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "a header of over 100 MB": pack("<Q", 100_000_001) + b"{" + bytes(100),
    "nothing but a length": pack("<Q", 2),
    "half a length": b"\2\0\0\0",
    "JSON 100,000 deep": file('{"a":' * 100_000 + "1" + "}" * 100_000, b""),
    "lists 100,000 deep": file('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", b""),
    "an int of 100,000 digits": file('{"a":{"dtype":"F32","shape":[' + "9" * 100_000 + '],"data_offsets":[0,8]}}'),
    "a lone surrogate for a dtype": file({"a": entry(0, 8, dtype="\ud800")}),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_broken_rule_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with limited_memory(256 << 20):
        for options in ({}, {"format": "safetensors"}):
            with pytest.raises(CkptconvError) as error:
                ckptconv.open(path, **options)  # type: ignore[arg-type]
            assert len(str(error.value)) < 2000
            assert "\n" not in str(error.value)
    assert isinstance(error.value, CorruptFileError)
    if data is not BAD["a name twice"]:  # which the reference takes for the last of them
        with pytest.raises(SafetensorError):
            deserialize(data)


def test_a_header_past_the_cap_is_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD["a header of over 100 MB"])
    with pytest.raises(LimitError) as error:
        ckptconv.open(path)
    assert error.value.hint


GOOD_FILES: dict[str, bytes] = {
    "padding after the header": file(json.dumps({"a": GOOD}) + "   "),
    "a space before the header": file(" " + json.dumps({"a": GOOD})),
    "an unknown field": file({"a": {**GOOD, "note": "x"}}),
    "no tensors": file({}, b""),
    "metadata that is null, as MLX writes it": file({"__metadata__": None, "a": GOOD}),
    "metadata alone": file({"__metadata__": {"a": "b"}}, b""),
    "empty tensors between others": file({"e": entry(0, 0, shape=(0,)), "a": GOOD, "f": entry(8, 8, shape=(3, 0))}),
    "entries in another order than their bytes": file({"b": entry(8, 16), "a": GOOD}, bytes(range(16))),
    "a 0-d tensor": file({"a": entry(0, 4, shape=())}, bytes(4)),
    "an empty name": file({"": GOOD}),
    "names with escapes": file({'q"\\\n\u0000\u6743': GOOD}),
}


@pytest.mark.parametrize("data", GOOD_FILES.values(), ids=GOOD_FILES.keys())
def test_what_the_reference_reads_is_read_alike(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(data)
    theirs = {name: (e["dtype"], tuple(e["shape"]), bytes(e["data"])) for name, e in deserialize(data)}
    with ckptconv.open(path) as checkpoint:
        ours = {name: (t.info.dtype.name, t.info.shape, bytes(t.read())) for name, t in checkpoint.items()}
    assert ours == theirs
