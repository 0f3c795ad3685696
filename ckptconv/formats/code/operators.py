"""Operators of TensorFlow's that touch files, in the bytes of a graph, where their names stand as texts."""

from __future__ import annotations

import re

_WRITING = (
    "WriteFile", "DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "SaveDataset", "SaveDatasetV2",
    "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "CacheDatasetV2", "CreateSummaryFileWriter",
    "CreateSummaryDbWriter",
)  # fmt: skip
"""Operators that write a file at a path that they are given."""

_BY_ADDRESS = ("PrintV2", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary")
"""Those that write to an address, ``file://…`` too, where they have one."""

_READING = ("ReadFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2")


def _named(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![A-Za-z0-9_/])(" + "|".join(names).encode() + rb")(?![A-Za-z0-9_])")


_WRITES, _ADDRESSES, _READS = map(_named, (_WRITING, _BY_ADDRESS, _READING))
_ADDRESS = re.compile(rb"file://")


def writing(data: bytes | memoryview) -> list[str]:
    """Those that write a file at a path, or an address, of the graph's own."""
    found = {found[1].decode() for found in _WRITES.finditer(data)}
    if _ADDRESS.search(data):
        found |= {one[1].decode() for one in _ADDRESSES.finditer(data)}
    return sorted(found)


def reading(data: bytes | memoryview) -> list[str]:
    """Those that read one."""
    return sorted({found[1].decode() for found in _READS.finditer(data)})
