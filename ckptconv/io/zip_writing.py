"""Writing a zip archive as torch.save lays one out: stored entries, each with its data on a 64-byte boundary, where
it can be mapped into memory.

Offsets are planned from the sizes; contents are streamed to their places; headers, which need the CRC-32, go in last.
There are no time stamps: every entry has the earliest one that zip has, 1980-01-01.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.io.zip import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    ZIP64_EXTRA,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.io.target import Target

RECORD_ALIGNMENT = 64
"""torch.save pads each record so that mapped storages stay aligned (its ``storage_alignment``)."""

PADDING_EXTRA = 0x4246  # "FB": the id under which torch pads

DATE = 0x21  # 1980-01-01
VERSION, VERSION64 = 20, 45
UTF8_NAMES = 1 << 11


@dataclass(frozen=True, slots=True)
class Planned:
    """An entry to be written: `header` and `data` are the offsets of its local header and of its data."""

    name: bytes
    size: int
    header: int
    data: int

    @property
    def is_wide(self) -> bool:
        """Whether its size needs zip64."""
        return self.size >= FULL32


def plan_entries(sizes: Sequence[tuple[str, int]]) -> list[Planned]:
    """Plan entries of these names and sizes, one after the other."""
    entries, position = [], 0
    for name, size in sizes:
        raw = name.encode("utf-8")
        wide = 20 if size >= FULL32 else 0
        data = position + LOCAL.size + len(raw) + wide + 4
        data += -data % RECORD_ALIGNMENT
        entries.append(Planned(raw, size, position, data))
        position = data + size
    return entries


def end_of(entries: Sequence[Planned]) -> int:
    """Where the central directory starts."""
    return entries[-1].data + entries[-1].size if entries else 0


def write_headers(target: Target, entries: Sequence[Planned], crcs: Mapping[bytes, int]) -> int:
    """Write the local headers, the central directory and the end records. Returns the size of the archive."""
    for entry in entries:
        target.write_at(entry.header, local_header(entry, crcs[entry.name]))
    tail = directory(entries, crcs)
    target.write_at(end_of(entries), tail)
    return end_of(entries) + len(tail)


def directory(entries: Sequence[Planned], crcs: Mapping[bytes, int]) -> bytes:
    """The central directory and the end records."""
    start = end_of(entries)
    tail = b"".join(_central(entry, crcs[entry.name]) for entry in entries)
    return tail + _end(start, len(tail), len(entries))


def directory_size(entries: Sequence[Planned]) -> int:
    """Bytes that the central directory and the end records will take."""
    size = sum(len(_central(entry, 0)) for entry in entries)
    return size + len(_end(end_of(entries), size, len(entries)))


def local_header(entry: Planned, crc: int) -> bytes:
    """An entry's local header, up to its data."""
    size = FULL32 if entry.is_wide else entry.size
    wide = _extra(ZIP64_EXTRA, entry.size.to_bytes(8, "little") * 2) if entry.is_wide else b""
    room = entry.data - entry.header - LOCAL.size - len(entry.name) - len(wide)
    extra = wide + _extra(PADDING_EXTRA, b"Z" * (room - 4))
    version = VERSION64 if entry.is_wide else VERSION
    fixed = LOCAL.pack(LOCAL_MAGIC, version, UTF8_NAMES, 0, 0, DATE, crc, size, size, len(entry.name), len(extra))
    return fixed + entry.name + extra


def _central(entry: Planned, crc: int) -> bytes:
    size, header, values = entry.size, entry.header, []
    if entry.is_wide:
        values, size = [entry.size, entry.size], FULL32
    if header >= FULL32:
        values, header = [*values, entry.header], FULL32
    extra = _extra(ZIP64_EXTRA, b"".join(value.to_bytes(8, "little") for value in values)) if values else b""
    version = VERSION64 if values else VERSION
    fixed = CENTRAL.pack(
        CENTRAL_MAGIC, version, version, UTF8_NAMES, 0, 0, DATE, crc, size, size, len(entry.name), len(extra),
        0, 0, 0, 0, header,
    )  # fmt: skip
    return fixed + entry.name + extra


def _extra(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data


def _end(start: int, size: int, count: int) -> bytes:
    narrow = END.pack(END_MAGIC, 0, 0, min(count, FULL16), min(count, FULL16), min(size, FULL32), min(start, FULL32), 0)
    if count < FULL16 and size < FULL32 and start < FULL32:
        return narrow
    wide = END64.pack(END64_MAGIC, END64.size - 12, VERSION64, VERSION64, 0, 0, count, count, size, start)
    return wide + LOCATOR64.pack(LOCATOR64_MAGIC, 0, start + size, 1) + narrow
