"""safetensors, ONNX, torch's older containers, and files of no format."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import tarfile

from tests.hostile.cases import CODES, SYSTEM, Case
from tests.support.craft import FOUR_FLOATS, tensor, text

ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def header(text: bytes, data: bytes = FOUR_FLOATS, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one_tensor(**changes: object) -> bytes:
    return header(json.dumps({"w": {**ENTRY, **changes}}).encode())


def two_tensors(first: list[int], second: list[int], data: bytes = FOUR_FLOATS) -> bytes:
    entries = {
        name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for name, (begin, end) in {"a": first, "b": second}.items()
    }
    return header(json.dumps(entries).encode(), data)


WHOLE = one_tensor()

SAFETENSORS: dict[str, bytes] = {
    "a header of 2^64 - 1 bytes": header(b"{}", length=(1 << 64) - 1),
    "a header of 100 MB + 1": header(b"{}", length=100_000_001),
    "a header past the end": header(b"{}", length=1000),
    "a header of no bytes": header(b"", length=0),
    "a header that is cut": WHOLE[:20],
    "a header that is not an object": header(b"[1, 2]"),
    "no JSON": header(b"{'w': 1}"),
    "JSON 100,000 deep": header(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "objects 100,000 deep": header(b'{"w":' * 100_000 + b"1" + b"}" * 100_000),
    "invalid UTF-8": header(b'{"\xff\xfe": 1}'),
    "an overlong NUL": header(b'{"\xc0\x80": 1}'),
    "a byte order mark": header(b"\xef\xbb\xbf" + json.dumps({"w": ENTRY}).encode()),
    "UTF-16": header(json.dumps({"w": ENTRY}).encode("utf-16")),
    "a name that comes twice": header(b'{"w":' + json.dumps(ENTRY).encode() + b',"w":' + json.dumps(ENTRY).encode() + b"}"),
    "a field that comes twice": header(b'{"w":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}'),
    "100,000 times one name": header(b"{" + b",".join([b'"w":1'] * 100_000) + b"}"),
    "100,000 names, then the last again": header(
        b"{" + b",".join([f'"{i}":1'.encode() for i in range(100_000)] + [b'"99999":1']) + b"}"),
    "a record with keys that collide": header(json.dumps({"__metadata__": {"m": "?", "ckptconv": json.dumps(
        {"version": 1, "root": {"m": {"$dict": [[{"$int": hex(i * ((1 << 61) - 1))}, 1] for i in range(40_000)]},
         "state_dict": {"$state_dict": {}}}})}}).encode(), b""),
    "a record with a set that collides": header(json.dumps({"__metadata__": {"m": "?", "ckptconv": json.dumps(
        {"version": 1, "root": {"m": {"$set": [{"$int": hex(i * ((1 << 61) - 1))} for i in range(40_000)]},
         "state_dict": {"$state_dict": {}}}})}}).encode(), b""),
    "two tensors that overlap": two_tensors([0, 12], [8, 16]),
    "two tensors in one place": two_tensors([0, 16], [0, 16]),
    "a gap": two_tensors([0, 4], [8, 16]),
    "bytes after the last tensor": two_tensors([0, 4], [4, 8]),
    "bytes that are missing": two_tensors([0, 16], [16, 64]),
    "offsets past the end": one_tensor(data_offsets=[1 << 40, (1 << 40) + 16]),
    "offsets the wrong way round": one_tensor(data_offsets=[16, 0]),
    "negative offsets": one_tensor(data_offsets=[-16, 0]),
    "offsets of 2^64": one_tensor(data_offsets=[1 << 64, (1 << 64) + 16]),
    "offsets that are floats": one_tensor(data_offsets=[0.0, 16.0]),
    "offsets that are true": one_tensor(data_offsets=[False, 16]),
    "NaN offsets": header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[NaN,16]}}'),
    "infinite offsets": header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,1e999]}}'),
    "offsets of 10,000 digits": header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,' + b"9" * 10_000 + b"]}}"),
    "one offset": one_tensor(data_offsets=[0]),
    "three offsets": one_tensor(data_offsets=[0, 16, 16]),
    "offsets that are text": one_tensor(data_offsets=["0", "16"]),
    "a negative shape": one_tensor(shape=[-4]),
    "two negative dimensions": one_tensor(shape=[-2, -2]),
    "a shape whose product overflows": one_tensor(shape=[1 << 62, 1 << 62]),
    "a shape whose product overflows to 4": one_tensor(shape=[1 << 62, 4, 5]),
    "a shape of floats": one_tensor(shape=[4.0]),
    "a shape of NaN": header(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
    "a shape of a million dimensions": one_tensor(shape=[1] * 1_000_000),
    "a shape that is an object": one_tensor(shape={"0": 4}),
    "an unknown dtype": one_tensor(dtype="F33"),
    "a dtype that is a number": one_tensor(dtype=32),
    "a dtype in lower case": one_tensor(dtype="f32"),
    "no dtype": header(b'{"w":{"shape":[4],"data_offsets":[0,16]}}'),
    "a tensor that is null": header(b'{"w":null}'),
    "metadata that is a list": header(b'{"__metadata__":[]}', b""),
    "metadata of numbers": header(b'{"__metadata__":{"a":1}}', b""),
    "metadata in metadata": header(b'{"__metadata__":{"a":{"b":"c"}}}', b""),
    "half a byte": header(b'{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', bytes(2)),
    "a record of a version to come": header(b'{"__metadata__":{"ckptconv":"{\\"version\\":2}"}}', b""),
    "a record 5,000 deep": header(
        json.dumps({"__metadata__": {"ckptconv": '{"version":1,"root":' + "[" * 5000 + "]" * 5000 + "}"}}).encode(), b""),
    "a record with a constant of torch that is none": header(json.dumps({"__metadata__": {"ckptconv": json.dumps(
        {"version": 1, "root": {"x": {"$torch.dtype": "os\nsystem"}, "state_dict": {"$state_dict": {}}}}), "x": "?"}}).encode(), b""),
}  # fmt: skip

RECORDED_CALL = {
    "version": 1,
    "root": [{"$opaque": {"class": "os.system", "how": "called", "args": ["touch pwned"]}}, {"$state_dict": {}}],
}  # fmt: skip

# ONNX, spelled by hand: field number << 3 | wire type, then the value


def varint(value: int) -> bytes:
    return (bytes([value & 0x7F | 0x80]) + varint(value >> 7)) if value > 0x7F else bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


def weight(*more: bytes, dims: tuple[int, ...] = (4,), name: bytes = b"w", code: int = 1) -> bytes:
    return b"".join(field(1, n) for n in dims) + field(2, code) + field(8, name) + b"".join(more)


def external(**entries: str) -> bytes:
    pairs = b"".join(field(13, field(1, k.encode()) + field(2, v.encode())) for k, v in entries.items())
    return weight(pairs, field(14, 1))


def model(*weights: bytes, graph: bytes = b"", more: bytes = b"") -> bytes:
    return field(1, 10) + field(7, b"".join(field(5, one) for one in weights) + field(2, b"g") + graph) + more


RAW = field(9, FOUR_FLOATS)


def subgraphs(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):
            data = field(number, data)
    return field(1, 10) + field(7, data)


ONNX: dict[str, bytes] = {
    "external data one folder up": model(external(location="../secret")),
    "external data far up": model(external(location="x/../../../../../../etc/passwd")),
    "external data by an absolute path": model(external(location="/etc/passwd")),
    "external data by a Windows path": model(external(location="..\\secret")),
    "external data with NUL": model(external(location="data.bin\0.txt")),
    "external data that is a link": model(external(location="link")),
    "external data behind a link": model(external(location="linked/passwd")),
    "external data in a device": model(external(location="zero")),
    "external data without a place": model(external(offset="0")),
    "external data in a folder": model(external(location=".")),
    "external data in a file that is missing": model(external(location="nothing.bin")),
    "an offset past the end": model(external(location="data.bin", offset="100")),
    "an offset of 2^63": model(external(location="data.bin", offset=str(1 << 63))),
    "a negative offset": model(external(location="data.bin", offset="-4")),
    "an offset of 10,000 digits": model(external(location="data.bin", offset="9" * 10_000)),
    "an offset in Arabic digits": model(external(location="data.bin", offset="٠")),
    "a length that lies": model(external(location="data.bin", length="8")),
    "a length that is NaN": model(external(location="data.bin", length="NaN")),
    "negative dims": model(weight(RAW, dims=(-4,))),
    "two negative dims": model(weight(RAW, dims=(-2, -2))),
    "dims whose product overflows": model(weight(RAW, dims=(1 << 62, 1 << 62))),
    "dims whose product overflows to 4": model(weight(RAW, dims=(1 << 62, 4, 5))),
    "a million dims": model(weight(RAW, field(1, b"\x01" * 1_000_000), dims=())),
    "raw data that is short": model(weight(field(9, bytes(15)))),
    "raw data that is long": model(weight(field(9, bytes(17)))),
    "raw data of 4 GiB": model(weight(varint(9 << 3 | 2) + varint(1 << 32))),
    "raw data twice": model(weight(RAW, RAW)),
    "raw data and floats": model(weight(RAW, field(4, FOUR_FLOATS))),
    "no data": model(weight()),
    "an unknown element type": model(weight(RAW, code=1000)),
    "no name": model(weight(RAW, name=b"")),
    "a name that is not UTF-8": model(weight(RAW, name=b"\xff\xfe")),
    "one name twice": model(weight(RAW), weight(RAW)),
    "segments": model(weight(RAW, field(3, field(1, 0) + field(2, 4)))),
    "graphs 31 deep": subgraphs(31),
    "graphs 3,000 deep": subgraphs(3_000),
    "a varint of 11 bytes": b"\x08" + b"\xff" * 10 + b"\x01" + model(weight(RAW)),
    "a varint without an end": b"\x08\x0a\x3a" + b"\xff" * 20,
    "a message past the end": b"\x08\x0a\x3a\x05\x0a",
    "a message of 2^63": b"\x08\x0a\x3a" + varint(1 << 63),
    "groups": b"\x08\x0a\x3b\x3c" + model(weight(RAW)),
    "an end of no group": b"\x08\x0a\x3c" + model(weight(RAW)),
    "field number 0": b"\x08\x0a\x02\x00" + model(weight(RAW)),
    "field number 2^40": b"\x08\x0a" + varint(1 << 43) + b"\x00" + model(weight(RAW)),
    "two graphs": model(weight(RAW)) + field(7, b""),
    "metadata twice": model(weight(RAW), more=field(14, field(1, b"k") + field(2, b"a")) * 2),
    "2,000,000 empty nodes": model(weight(RAW), graph=field(1, b"") * 2_000_000),
    "numbers in 20,000 pieces": model(weight(field(4, bytes(4)) * 20_000, dims=(20_000,))),
}  # fmt: skip


def node(operator: bytes, inputs: tuple[bytes, ...], outputs: tuple[bytes, ...], *attributes: bytes) -> bytes:
    names = b"".join(field(1, one) for one in inputs) + b"".join(field(2, one) for one in outputs)
    return field(1, names + field(4, operator) + b"".join(field(5, one) for one in attributes))


def value(number: int, name: bytes) -> bytes:
    shape = field(1, field(2, b"n")) + field(1, field(1, 4))
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, shape))))


CONSTANT = node(b"Constant", (), (b"c",), field(1, b"value") + field(5, weight(RAW, name=b"")) + field(20, 4))
GRAPH = field(2, b"inner") + field(5, weight(RAW, name=b"inner")) + node(b"Add", (b"x", b"inner"), (b"z",))
WHOLE_ONNX: dict[str, bytes] = {
    "raw data": model(weight(RAW), graph=node(b"Add", (b"x", b"w"), (b"y",)) + value(11, b"x") + value(12, b"y")),
    "floats": model(weight(field(4, FOUR_FLOATS))),
    "ints in varints": model(weight(field(7, b"\x01\x02\x03\xff\x01"), code=7), weight(field(5, 3) * 4, name=b"v", code=6)),
    "external data, whole": model(external(location="data.bin", offset="0", length="16")),
    "a Constant": model(graph=CONSTANT + node(b"Add", (b"x", b"c"), (b"y",))),
    "a subgraph": model(graph=node(b"If", (b"x",), (b"y",), field(1, b"then_branch") + field(6, GRAPH) + field(20, 5))),
    "metadata": model(weight(RAW), more=field(14, field(1, b"k") + field(2, b"v")) + field(2, b"me") + field(8, field(2, 20))),
}  # fmt: skip

MAGIC = 0x1950A86A20F9469CFC6C


def legacy(obj: bytes, *, protocol: int = 1001, keys: object = ("0",), storage: bytes | None = None) -> bytes:
    """What torch before 1.6 wrote: five pickles one after the other, then the storages."""
    info = {"protocol_version": protocol, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = b"".join(pickle.dumps(one, 2) for one in (MAGIC, protocol, info))
    end = struct.pack("<q", 4) + FOUR_FLOATS if storage is None else storage
    return start + obj + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + end


def old_tensor() -> bytes:
    """A persistent id of five parts and None, as that format has it."""
    return tensor().replace(b"K\x04tQ", b"K\x04NtQ")


OLD = b"\x80\x02}" + text("w") + old_tensor() + b"s."
OLD_EVIL = b"\x80\x02}(" + text("w") + old_tensor() + text("m") + SYSTEM + b"u."


def with_a_call_in(index: int) -> bytes:
    """A whole file; one of its five pickles makes a call, throws away what it gives, and says what it said before."""
    data, starts = legacy(OLD), [0]
    stream = io.BytesIO(data)
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        starts.append(stream.tell())
    at = starts[index] + 2
    return data[:at] + SYSTEM + b"0" + data[at:]


LEGACY_CALLS = {f"a call in pickle {i + 1} of five": with_a_call_in(i) for i in range(1, 5)}

LEGACY: dict[str, bytes] = {
    "a call in the second pickle": pickle.dumps(MAGIC, 2) + b"\x80\x02" + SYSTEM + b".",
    "a call in the third pickle": pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + b"\x80\x02" + SYSTEM + b".",
    "a call for the keys": legacy(OLD)[: -len(pickle.dumps(["0"], 2)) - 24] + b"\x80\x02" + SYSTEM + b".",
    "protocol 9999": legacy(OLD, protocol=9999),
    "a key that is missing": legacy(OLD, keys=()),
    "keys that are not a list": legacy(OLD, keys=5),
    "a storage of 2^62 elements": legacy(OLD, storage=struct.pack("<q", 1 << 62) + FOUR_FLOATS),
    "a storage of -4 elements": legacy(OLD, storage=struct.pack("<q", -4) + FOUR_FLOATS),
    "a storage that is cut": legacy(OLD, storage=struct.pack("<q", 4) + FOUR_FLOATS[:5]),
    "storages that are missing": legacy(OLD, storage=b""),
    "the magic number alone": pickle.dumps(MAGIC, 2),
}


def tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, to in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            file.addfile(info)
    return buffer.getvalue()


EVIL = b"\x80\x02" + SYSTEM + b"."
TARS: dict[str, bytes] = {
    "a call for the pickle": tar({"pickle": EVIL, "storages": b"", "tensors": b""}),
    "a call for the storages": tar({"pickle": b"\x80\x02N.", "storages": EVIL, "tensors": b""}),
    "a member that climbs": tar({"../../evil": b"x", "pickle": b"\x80\x02N."}),
    "a member with an absolute path": tar({"/tmp/evil": b"x", "pickle": b"\x80\x02N."}),
    "a link for the pickle": tar({"storages": b""}, {"pickle": "/etc/passwd"}),
    "a size past the end": tar({"pickle": EVIL})[:512].replace(b"0000000", b"7777777") + bytes(1024),
    "a checksum that is wrong": tar({"pickle": EVIL}).replace(b"ustar", b"ustaR", 1),
}

NO_FORMAT: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\x80",
    "zeros": bytes(4096),
    "text": b"hello\n" * 100,
    "a script": b"#!/bin/sh\ntouch pwned\n",
    "Python": b"open('pwned', 'w')\n",
    "an executable": b"\x7fELF" + bytes(200),
    "a web page": b"<html><script>alert(1)</script></html>",
    "0xFF": b"\xff" * 1000,
    "text that starts as a class does": b"copy this\nsomewhere\nelse.",
    "text in parentheses": b"(see below)\n.",
    "JSON that is not an index": b'{"a": [1, 2]}.',
    "half a pickle": b"\x80\x04}\x94",
    "a protocol of the future": b"\x80\x06N.",
}


def cases() -> list[Case]:
    """All of them."""
    files = {"data.bin": FOUR_FLOATS}
    links = {"link": "/etc/passwd", "linked": "/etc", "zero": "/dev/zero"}
    made = [Case(name, "safetensors", data, suffix=".safetensors") for name, data in SAFETENSORS.items()]
    made += [Case(name, "onnx", data, suffix=".onnx", beside=files, links=links) for name, data in ONNX.items()]
    made += [
        Case(name, "legacy", data, live="call" in name, hostile="call" in name or None) for name, data in LEGACY.items()
    ]
    made += [
        Case(name, "legacy", data, "would run code", CODES["would run code"], True, True)
        for name, data in LEGACY_CALLS.items()
    ]
    made += [Case(name, "tar", data, hostile="call" in name or None) for name, data in TARS.items()]
    made += [Case(name, "no format", data) for name, data in NO_FORMAT.items()]
    made.append(
        Case(
            "a call in the object",
            "legacy",
            legacy(OLD_EVIL),
            "would run code",
            CODES["would run code"],
            True,
            True,
            may_be_refused=True,
        )
    )
    made.append(
        Case(
            "tensors", "whole safetensors", two_tensors([0, 4], [4, 16]), "plain", CODES["plain"], suffix=".safetensors"
        )
    )
    strings_of_others = header(b'{"__metadata__":{"format":"pt","a":"b"},"w":' + json.dumps(ENTRY).encode() + b"}")
    made.append(Case("strings", "whole safetensors", strings_of_others, "plain", CODES["plain"], suffix=".safetensors"))
    for name, data in WHOLE_ONNX.items():
        made.append(Case(name, "whole onnx", data, "plain", CODES["plain"], suffix=".onnx", beside=files))
    made.append(Case("a whole one", "legacy", legacy(OLD), "plain", CODES["plain"], may_be_refused=True))
    strings = model(weight(field(6, b"") * 1_000_000, dims=(1_000_000,), code=8))
    made.append(Case("a million strings", "onnx", strings, "plain", (0, 0, 0, 0), suffix=".onnx"))
    call = json.dumps({"__metadata__": {"ckptconv": json.dumps(RECORDED_CALL)}}).encode()
    made.append(
        Case(
            "a record of a call",
            "safetensors",
            header(call, b""),
            "would run code",
            (0, 1, 2, 2),
            suffix=".safetensors",
        )
    )
    return made
