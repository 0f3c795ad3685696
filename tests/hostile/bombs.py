"""Small files that ask for much: memory, time, depth."""

from __future__ import annotations

import struct
import zlib

from tests.hostile.cases import SMALL, Case, beside, call, checkpoint, number
from tests.support.craft import FOUR_FLOATS, state_dict, tensor, text

HUGE = 1 << 62


def doubling(step: bytes, times: int) -> bytes:
    """An empty container, then `times` others that hold the one before several times over."""
    return b"q\x00" + b"".join(b"0" + step.replace(b"?", bytes([104, i])) + b"q" + bytes([i + 1]) for i in range(times))


def wide(value: int) -> bytes:
    """An int of sixteen bytes."""
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


COLLIDING = [wide(i * ((1 << 61) - 1)) for i in range(40_000)]
"""Ints of one hash (Python takes them modulo 2^61 - 1): a dict of them takes quadratic time."""

LONG_INT = b"\x8b" + struct.pack("<I", 2_100) + b"\x01" * 2_100

PICKLES: dict[str, bytes] = {
    "a billion laughs in lists": b"]" + doubling(b"](" + b"?" * 10 + b"e", 9),
    "a billion laughs in tuples": b")" + doubling(b"??\x86", 60),
    "a billion laughs in dicts": b"}" + doubling(b"}(K\x01?K\x02?u", 60),
    "a billion laughs in a key": b"})" + doubling(b"??\x86", 60) + b"Ns",
    "a billion laughs in a set": b"\x8f()" + doubling(b"??\x86", 60) + b"\x90",
    "a billion laughs in a frozenset": b"()" + doubling(b"??\x86", 60) + b"\x91",
    "a billion laughs in objects": b"N" + doubling(b"cm\nC\n)\x81(??\x86b".replace(b"(", b""), 60),
    "a billion laughs in arguments": b")" + doubling(b"cos\nsystem\n??\x86R", 60),
    "a billion laughs, thrown away": b")" + doubling(b"cos\nsystem\n??\x86R", 60) + b"0N",
    "one list copied again and again": b"](" + b"N" * 5000 + b"eq\x00cbuiltins\nlist\nq\x010" + b"h\x01h\x00\x85R0" * 20_000,
    "lists 10,000 deep": b"]" * 10_000 + b"a" * 9_999,
    "tuples 300,000 deep": b")" + b"\x85" * 300_000,
    "dicts 10,000 deep": b"}K\x01" * 10_000 + b"N" + b"s" * 10_000,
    "objects 10,000 deep": b"cm\nC\n)\x81" * 10_000 + b"b" * 9_999,
    "arguments 10,000 deep": b"cm\nC\n" * 10_000 + b")" + b"\x81\x85" * 9_999 + b"\x81",
    "marks 1,000,000 deep": b"(" * 1_000_000,
    "frozensets 5,000 deep": b"(" * 5_000 + b"\x91" * 5_000,
    "a key 300,000 deep": b"})" + b"\x85" * 300_000 + b"Ns",
    "a dtype 300,000 deep": call("numpy", "dtype", b")" + b"\x85" * 300_000, b"\x89", b"\x88"),
    "BINBYTES8 of 2^62": b"\x8e" + struct.pack("<Q", HUGE),
    "BINBYTES8 of 2^64 - 1": b"\x8e" + b"\xff" * 8,
    "BINUNICODE8 of 2^62": b"\x8d" + struct.pack("<Q", HUGE),
    "BYTEARRAY8 of 2^62": b"\x96" + struct.pack("<Q", HUGE),
    "BINBYTES of 4 GiB": b"B\xff\xff\xff\xff",
    "BINUNICODE of 4 GiB": b"X\xff\xff\xff\xff",
    "BINSTRING of -1": b"T\xff\xff\xff\xff",
    "LONG4 of 2 GiB": b"\x8b\xff\xff\xff\x7f",
    "LONG4 of -1": b"\x8b\xff\xff\xff\xff",
    "a frame of 2^62": b"\x95" + struct.pack("<Q", HUGE),
    "an int of a million decimal digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "INT of a million decimal digits": b"I" + b"9" * 1_000_000 + b"\n",
    "PUT of a million decimal digits": b"Np" + b"9" * 1_000_000 + b"\n",
    "GET of nothing": b"g123456789\n",
    "a negative PUT": b"Np-5\n0g5\n",
    "bytearray(10^10)": call("builtins", "bytearray", number(10**10)),
    "bytes(10^10)": call("builtins", "bytes", number(10**10)),
    "thirty lists, each in every other": b"".join(b"]q%c0" % i for i in range(30))
    + b"".join(b"h%c(" % i + b"".join(b"h%c" % j for j in range(30) if j != i) + b"e0" for i in range(30)) + b"h\x00",
    "state_dicts in state_dicts": (b"}" + text("w") + tensor() + b"s" + text("state_dict")) * 3_000 + b"N" + b"s" * 3_000,
    "one list as attribute of many tensors": b"](" + b"N" * 5000 + b"eq\x000]("
    + (tensor() + b"}" + text("a") + b"h\x00sb") * 1_000 + b"e",
    "popped from an empty stack": b"0" * 100,
    "a key of 5,000 decimal digits": b"}" + LONG_INT + b"Ns",
    "a key with 5,000 decimal digits in it": b"}" + LONG_INT + b"N\x86Ns",
    "a member of 5,000 decimal digits": b"\x8f(" + LONG_INT + b"\x90",
    "keys that collide": b"}(" + b"".join(key + b"N" for key in COLLIDING) + b"u",
    "keys that collide, one by one": b"}" + b"".join(key + b"Ns" for key in COLLIDING),
    "members that collide": b"\x8f(" + b"".join(COLLIDING) + b"\x90",
    "members of a frozenset that collide": b"(" + b"".join(COLLIDING) + b"\x91",
    "members of set() that collide": call("builtins", "set", b"(" + b"".join(COLLIDING) + b"l"),
    "pairs that collide": call("collections", "OrderedDict", b"(" + b"".join(k + b"N\x86" for k in COLLIDING) + b"l"),
    "lists of pairs that collide": call(
        "collections", "OrderedDict", b"(" + b"".join(b"](" + k + b"Ne" for k in COLLIDING) + b"l"),
    "a key 300,000 deep in a list of pairs": call(
        "collections", "OrderedDict", b"](](" + b")" + b"\x85" * 300_000 + b"Nee"),
}  # fmt: skip

HARMLESS: dict[str, bytes] = {
    "a memo index of 2^32 - 1": b"]r\xff\xff\xff\xff",
    "a memo index of 4,300 digits": b"Np" + b"9" * 4_300 + b"\n",
    "100,000 memo entries far apart": b"".join(b"Nr" + struct.pack("<I", i * 40_000) + b"0" for i in range(100_000)) + b"N",
    "a STRING with NUL": b"S'a\0b'\n",
    "a STRING that looks like an expression": b"S'a' * 99999999999 + 'b'\n",
    "a STRING of a million parentheses": b"S'" + b"(" * 1_000_000 + b"'\n",
    "a STRING with escapes": b"S'\\x41\\101\\n\\q\\''\n",
    "an int of 65,535 bytes": b"\x8b" + struct.pack("<I", 65_535) + b"\x01" * 65_535,
    "a cycle in a list": b"]q\x00h\x00a",
    "a cycle in a dict": b"}q\x00K\x01h\x00s",
    "a cycle through a tuple": b"]q\x00h\x00\x85a",
    "a cycle as an attribute": tensor() + b"}q\x00" + text("a") + b"h\x00sb",
    "ints of every size as keys": b"\x8f(" + b"".join(wide(1 << i) for i in range(120)) + b"\x90",
}  # fmt: skip

OPAQUE: dict[str, bytes] = {
    "a cycle through an object": b"cm\nC\n)\x81q\x00h\x00b",
    "a cycle, thrown away": b"cm\nC\n)\x81q\x00h\x00b0N",
}


def archive_of(entries: list[tuple[str, bytes, int]]) -> bytes:
    """A zip of these entries: name, deflated bytes, and the size that both headers claim. No checksums."""
    out, directory = b"", b""
    for name, packed, size in entries:
        raw, at = name.encode(), len(out)
        sizes = (0, len(packed), size, len(raw))
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, 0) + raw + packed
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, 0, 0, 0, 0, 0, at) + raw
    count = len(entries)
    return out + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(out), 0)


def zeros(mebibytes: int) -> bytes:
    """So many zeros, deflated."""
    stream = zlib.compressobj(9, wbits=-15)
    block = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + b"\3\0"


def deflated(**changed: tuple[bytes, int]) -> bytes:
    """A checkpoint whose entries are deflated, some of them replaced by others and what they claim."""
    records = [*SMALL, ("a/data.pkl", state_dict(w=tensor())), ("a/data/0", FOUR_FLOATS)]
    entries = {name: (zlib.compress(data, 9)[2:-4], len(data)) for name, data in records}
    entries |= {"a/" + name.replace("_", "/"): entry for name, entry in changed.items()}
    if "data.pkl" in changed:
        entries["a/data.pkl"] = changed["data.pkl"]
    return archive_of([(name, *entry) for name, entry in entries.items()])


def cases() -> list[Case]:
    """All of them."""
    made = [Case(name, "bombs", checkpoint(beside(value))) for name, value in PICKLES.items()]
    made += [Case(name, "bombs", checkpoint(beside(value)), "plain", (0, 0, 0, 0)) for name, value in HARMLESS.items()]
    made += [Case(name, "bombs", checkpoint(beside(value)), "opaque", (0, 0, 0, 0)) for name, value in OPAQUE.items()]
    made += [
        Case("a storage of 512 MiB of zeros in 512 KiB", "bombs", deflated(data_0=(zeros(512), 512 << 20))),
        Case("a pickle of 512 MiB of zeros in 512 KiB", "bombs", deflated(**{"data.pkl": (zeros(512), 512 << 20)})),
        Case("a pickle that claims 4 GiB", "bombs", deflated(**{"data.pkl": (zeros(1), 0xFFFFFFFE)})),
        Case("a pickle that inflates to more than it claims", "bombs", deflated(**{"data.pkl": (zeros(64), 1000)})),
        Case("a version record of 64 MiB", "bombs", deflated(version=(zeros(64), 64 << 20))),
        Case("a byteorder record of 64 MiB", "bombs", deflated(byteorder=(zeros(64), 64 << 20))),
    ]
    return made
