"""TensorFlow operators that touch files, found by their names in the bytes of a graph."""

from __future__ import annotations

import re

_WRITING = (
    "WriteFile", "DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "SaveDataset", "SaveDatasetV2",
    "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "CacheDatasetV2", "CreateSummaryFileWriter",
    "CreateSummaryDbWriter",
)  # fmt: skip
"""Operators that write a file at a path that they are given."""

_WRITING_TO_URL = (
    "PrintV2", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary",
)  # fmt: skip
"""Operators that can write to a URL, including ``file://…``."""

_READING = ("ReadFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2")


def _pattern(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![A-Za-z0-9_/])(" + "|".join(names).encode() + rb")(?![A-Za-z0-9_])")


_WRITES, _WRITES_TO_URL, _READS = map(_pattern, (_WRITING, _WRITING_TO_URL, _READING))
_FILE_URL = re.compile(rb"file://")


def writing(data: bytes | memoryview) -> list[str]:
    """The operators in a graph that write a file at a path or URL of the graph's choice."""
    names = {match[1].decode() for match in _WRITES.finditer(data)}
    if _FILE_URL.search(data):
        names |= {match[1].decode() for match in _WRITES_TO_URL.finditer(data)}
    return sorted(names)


def reading(data: bytes | memoryview) -> list[str]:
    """The operators in a graph that read a file."""
    return sorted({match[1].decode() for match in _READS.finditer(data)})
