"""Archives that lie about themselves, and views that lie about their storages."""

from __future__ import annotations

import io
import struct
import zipfile

from tests.hostile.cases import ONE, SMALL, SYSTEM, Case, beside, call, checkpoint, named, number
from tests.support.craft import FOUR_FLOATS, state_dict, tensor, text, zip_bytes

PICKLE = state_dict(w=tensor())
EVIL = b"\x80\x02" + SYSTEM + b"."
GOOD = [*SMALL, ("a/data.pkl", PICKLE), ("a/data/0", FOUR_FLOATS)]
WHOLE = zip_bytes(GOOD)


def central(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """The archive with a field of an entry of its central directory overwritten."""
    at = data.rindex(name) - 46 + offset
    assert data[data.rindex(name) - 46 :].startswith(b"PK\1\2")
    return data[:at] + value + data[at + len(value) :]


def local(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """The archive with a field of an entry's own header overwritten."""
    at = data.index(name) - 30 + offset
    return data[:at] + value + data[at + len(value) :]


def both(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    return local(central(data, name, offset + 2, value), name, offset, value)


def end_record(data: bytes, offset: int, value: bytes) -> bytes:
    at = data.rindex(b"PK\5\6") + offset
    return data[:at] + value + data[at + len(value) :]


def commented() -> bytes:
    """An archive whose comment is another archive, with its own end record."""
    buffer = io.BytesIO(WHOLE)
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = zip_bytes([*SMALL, ("a/data.pkl", EVIL)])
    return buffer.getvalue()


def hidden() -> bytes:
    """An archive whose comment is another archive, before a byte that its end record does not count: it is torch's."""
    inner, whole = bytearray(zip_bytes([*SMALL, ("a/data.pkl", EVIL)])), bytearray(WHOLE)
    end = inner.rindex(b"PK\5\6")
    at = start = struct.unpack_from("<I", inner, end + 16)[0]
    while at < end:
        (header,) = struct.unpack_from("<I", inner, at + 42)
        struct.pack_into("<I", inner, at + 42, header + len(WHOLE))
        at += 46 + sum(struct.unpack_from("<3H", inner, at + 28))
    struct.pack_into("<I", inner, end + 16, start + len(WHOLE))
    struct.pack_into("<H", whole, len(WHOLE) - 2, len(inner) + 1)
    return bytes(whole + inner + b"!")


def link(name: str, to: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    del to
    return info


def with_link() -> bytes:
    """data/0 is a symbolic link, as unzip would make it, to a file of the system."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in GOOD[:-1]:
            file.writestr(name, data)
        file.writestr(link("a/data/0", "/etc/passwd"), "/etc/passwd\0\0\0\0\0")
    return buffer.getvalue()


def many(count: int) -> bytes:
    return zip_bytes([*GOOD, *((f"a/x{i}", b"") for i in range(count))])


def wide(*fields: int) -> bytes:
    """The archive with a zip64 end record of these numbers."""
    at = WHOLE.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, *fields)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    return WHOLE[:at] + record + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)


def zip64_extra(value: int) -> bytes:
    """A central size of 2^32 - 1, whose zip64 field says `value`."""
    name = b"a/data/0"
    at = WHOLE.rindex(name)
    extra = struct.pack("<2HQ", 1, 8, value)
    data = central(WHOLE, name, 24, b"\xff" * 4)
    data = central(data, name, 30, struct.pack("<H", len(extra)))
    data = data[: at + len(name)] + extra + data[at + len(name) :]
    size = struct.unpack_from("<I", data, data.rindex(b"PK\5\6") + 12)[0]
    return end_record(data, 12, struct.pack("<I", size + len(extra)))


LIES: dict[str, bytes] = {
    "two data.pkl, the second would run code": zip_bytes([*GOOD, ("a/data.pkl", EVIL)]),
    "two data.pkl, the first would run code": zip_bytes([*SMALL, ("a/data.pkl", EVIL), *GOOD[2:]]),
    "two storages of one name": zip_bytes([*GOOD, ("a/data/0", bytes(16))]),
    "two checkpoints in one archive": zip_bytes([*GOOD, *((f"b{name[1:]}", data) for name, data in GOOD)]),
    "an entry outside of the folder": zip_bytes([*GOOD, ("../evil", b"x")]),
    "an absolute entry": zip_bytes([*GOOD, ("/etc/evil", b"x")]),
    "a backslash in an entry": zip_bytes([*GOOD, ("b\\data.pkl", EVIL)]),
    "a pickle at the top": zip_bytes([("data.pkl", PICKLE), ("version", b"3\n")]),
    "no version": zip_bytes(GOOD[:1] + GOOD[2:]),
    "version 99": zip_bytes([*GOOD[:1], ("a/version", b"99\n"), *GOOD[2:]]),
    "version -1": zip_bytes([*GOOD[:1], ("a/version", b"-1"), *GOOD[2:]]),
    "an unknown byte order": zip_bytes([("a/byteorder", b"middle"), *GOOD[1:]]),
    "no data.pkl": zip_bytes([*SMALL, ("a/data/0", FOUR_FLOATS)]),
    "a storage that is missing": zip_bytes(GOOD[:-1]),
    "another local name": WHOLE.replace(b"a/data/0", b"a/data/1", 1),
    "another local name of the pickle": WHOLE.replace(b"a/data.pkl", b"a/data.pkx", 1),
    "two entries on one local header": central(WHOLE, b"a/data/0", 42, struct.pack("<I", 0)),
    "a local header past the end": central(WHOLE, b"a/data/0", 42, struct.pack("<I", 0x7FFFFFFF)),
    "a packed size past the end": central(WHOLE, b"a/data/0", 20, struct.pack("<2I", 0x7FFFFFFF, 0x7FFFFFFF)),
    "a size of its own": central(WHOLE, b"a/data/0", 24, struct.pack("<I", 17)),
    "a wrong checksum of the pickle": both(WHOLE, b"a/data.pkl", 14, b"\1\2\3\4"),
    "encryption": both(WHOLE, b"a/data.pkl", 6, struct.pack("<H", 1)),
    "strong encryption": both(WHOLE, b"a/data.pkl", 6, struct.pack("<H", 1 << 6)),
    "patch data": both(WHOLE, b"a/data.pkl", 6, struct.pack("<H", 1 << 5)),
    "an unknown method": both(WHOLE, b"a/data.pkl", 8, struct.pack("<H", 93)),
    "deflate that is none": both(WHOLE, b"a/data.pkl", 8, struct.pack("<H", 8)),
    "another disk": central(WHOLE, b"a/data/0", 34, struct.pack("<H", 1)),
    "a folder's mark": central(WHOLE, b"a/data/0", 38, struct.pack("<I", 0x10)),
    "a zip64 size that is missing": central(WHOLE, b"a/data/0", 24, b"\xff" * 4),
    "a zip64 size that lies": zip64_extra(1 << 62),
    "a name that is not UTF-8": WHOLE.replace(b"a/data/0", b"a/data/\xff"),
    "a name with NUL": WHOLE.replace(b"a/data/0", b"a/data\x000"),
    "an end record with more entries": end_record(WHOLE, 8, struct.pack("<2H", 50, 50)),
    "an end record with fewer entries": end_record(WHOLE, 8, struct.pack("<2H", 1, 1)),
    "an end record that claims 65,534 entries": end_record(WHOLE, 8, struct.pack("<2H", 65534, 65534)),
    "a directory elsewhere": end_record(WHOLE, 16, struct.pack("<I", 4)),
    "a directory past the end": end_record(WHOLE, 16, struct.pack("<I", 0x7FFFFFFF)),
    "several disks": end_record(WHOLE, 4, struct.pack("<2H", 3, 3)),
    "zip64 that claims 2^63 entries": wide(1 << 63, 1 << 63, 1 << 63, 0),
    "zip64 that claims 2^32 entries": wide(1 << 32, 1 << 32, 1 << 40, 0),
    "zip64 that points elsewhere": wide(4, 4, 100, (1 << 64) - 1),
    "bytes before it": b"junk" * 4 + WHOLE,
    "bytes after it": WHOLE + b"junk",
    "an archive after an archive": zip_bytes([*SMALL, ("a/data.pkl", EVIL)]) + WHOLE,
    "an archive in the comment": commented(),
    "an archive in the comment that torch takes": hidden(),
    "two pickles that differ in case": zip_bytes([*GOOD, ("a/DATA.pkl", EVIL)]),
    "cut in the middle": WHOLE[: len(WHOLE) // 2],
    "an end record alone": b"PK\5\6" + bytes(18),
    "a symbolic link for a storage": with_link(),
}  # fmt: skip

VIEWS: dict[str, bytes] = {
    "a storage that is longer": tensor(numel=3),
    "a storage that is shorter": tensor(numel=5),
    "an offset past the end": tensor(offset=b"K\x01"),
    "a negative offset": tensor(offset=number(-1)),
    "an offset of 2^62": tensor(offset=number(1 << 62)),
    "an offset of 2^2000": tensor(offset=b"\x8a\xfb" + b"\x7f" * 251),
    "a size past the end": tensor(size=b"K\x05\x85"),
    "a negative size": tensor(size=number(-4) + b"\x85"),
    "two negative sizes": tensor(size=number(-2) * 2 + b"\x86", stride=b"K\x02K\x01\x86"),
    "a size of 2^62, stride 0": tensor(size=number(1 << 62) + b"\x85", stride=b"K\x00\x85"),
    "sizes whose product overflows": tensor(size=number(1 << 40) * 2 + b"\x86", stride=b"K\x00K\x00\x86"),
    "sizes whose product overflows to 4": tensor(size=number(1 << 62) + b"K\x04K\x05\x87", stride=b"K\x00K\x00K\x00\x87"),
    "a stride past the end": tensor(stride=b"K\x02\x85"),
    "a negative stride": tensor(stride=number(-1) + b"\x85"),
    "a stride of 2^62": tensor(stride=number(1 << 62) + b"\x85"),
    "fewer strides than sizes": tensor(stride=b")"),
    "65 dimensions": tensor(size=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"),
    "a million dimensions": tensor(size=b"(" + b"K\x01" * 1_000_000 + b"t", stride=b"(" + b"K\x01" * 1_000_000 + b"t"),
    "a size that is a float": tensor(size=b"G" + struct.pack(">d", 4.0) + b"\x85"),
    "a size that is a bool": tensor(size=b"\x88\x85"),
    "a size that is not a tuple": tensor(size=b"K\x04"),
    "an offset that is not an int": tensor(offset=b"N"),
    "a key that climbs": tensor(key="../data/0"),
    "an absolute key": tensor(key="/etc/passwd"),
    "a key with NUL": tensor(key="0\0x"),
    "an empty key": tensor(key=""),
    "a storage of an unknown class": tensor(storage="EvilStorage"),
    "one storage in two ways": tensor() + text("v") + tensor(storage="IntStorage"),
    "a storage of -4 elements": tensor(numel=-4),
    "a storage of 2^62 elements": tensor(numel=1 << 62),
    "no storage": call("torch._utils", "_rebuild_tensor_v2", b"N", b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", b"N"),
    "too few arguments": call("torch._utils", "_rebuild_tensor_v2", b"N"),
    "unknown tensor metadata": tensor()[:-2] + b"}" + text("evil") + b"\x88stR",
    "a dtype that is none": call("torch._utils", "_rebuild_tensor_v3", b"N", b"K\x00", b")", b")", b"\x89", b"N", b"K\x01"),
    "a layout that is none": call("torch.serialization", "_get_layout", text("torch.evil")),
    "a numpy array of the wrong size": call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"),
        b"K\x00\x85", b"C\x01b") + b"(K\x01" + number(1 << 40) + b"\x85" + call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
    + b"\x89C\x08" + bytes(8) + b"tb",
    "a numpy array of negative size": call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"),
        b"K\x00\x85", b"C\x01b") + b"(K\x01" + number(-1) + b"\x85" + call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
    + b"\x89C\x08" + bytes(8) + b"tb",
}  # fmt: skip


def cases() -> list[Case]:
    """All of them."""
    made = [Case(name, "zip", data) for name, data in LIES.items()]
    made += [Case(name, "views", checkpoint(state_dict(w=value))) for name, value in VIEWS.items()]
    flipped = bytearray(WHOLE)
    flipped[WHOLE.index(FOUR_FLOATS) + 5] ^= 1
    made.append(Case("a storage that fails its checksum", "zip", bytes(flipped), "plain", (0, 0, 2, 2)))
    script = [
        ("a/version", b"3\n"),
        ("a/data.pkl", EVIL),
        ("a/constants.pkl", EVIL),
        ("a/code/x.py", b"raise SystemExit"),
    ]
    made.append(
        Case(
            "a TorchScript archive with a call", "zip", zip_bytes(script), "would run code", (0, 1, 2, 2), hostile=True
        )
    )
    made.append(Case("5,000 empty entries", "zip", many(5_000), "plain", (0, 0, 0, 0)))
    made.append(Case("a call beside a storage that is missing", "zip", checkpoint(beside(SYSTEM), {}), hostile=True))
    tupled = checkpoint(state_dict(state_dict=ONE + text("m") + b"\x86"))
    made.append(Case("a state_dict in a tuple", "zip", tupled, "plain", (0, 0, 0, 0)))
    return made
