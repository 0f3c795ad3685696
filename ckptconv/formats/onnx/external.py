"""External data: tensor data in files beside the model. The entries of a tensor:

    location   a path relative to the model's folder, with forward slashes
    offset     decimal; 0 if absent
    length     decimal; if absent, the size that follows from the tensor's type and shape
    checksum   ignored, as every reader of ONNX does

A location that is absolute, that contains ``..``, a backslash or a NUL, or that a link leads out of the folder, is
refused: a model from a stranger has no business in other folders.

Source: github.com/onnx/onnx, docs/ExternalData.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, FileAccessError, UnsupportedError
from ckptconv.io.handles import MAX_HANDLES, Handles, PooledSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptconv.core.tensor import SpanFile
    from ckptconv.io.source import Source

_DIGITS = 19
_FORBIDDEN = "\0\\" if os.name != "nt" else "\0\\:"


class ModelFiles:
    """The model's file and its files of external data, each opened when a tensor first names it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._folder = os.path.dirname(os.path.abspath(source.path))
        self._others: dict[str, Source] = {}
        self._handles = Handles(MAX_HANDLES)  # some exporters write a file for each tensor

    @property
    def path(self) -> Path:
        """The path of the model's own file."""
        return self.source.path

    @property
    def size(self) -> int:
        """The size of all files that are open, in bytes."""
        return self.source.size + sum(other.size for other in self._others.values())

    def close(self) -> None:
        """Close all files."""
        self.source.close()
        for other in self._others.values():
            other.close()

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if any file was written to since it was opened."""
        self.source.check_unchanged()
        for other in self._others.values():
            other.check_unchanged()

    def locate(self, name: str, entries: Mapping[str, str], nbytes: int) -> tuple[SpanFile, int]:
        """The file and the offset of a tensor's `nbytes` bytes. Raises UnsupportedError, CorruptFileError."""
        offset = _parse_size(name, "offset", entries.get("offset", "0"))
        length = _parse_size(name, "length", entries.get("length", str(nbytes)))
        if length != nbytes:
            raise _bad(name, f"its length is {length:,}, and its type and shape ask for {nbytes:,}")
        file = self._open(name, entries.get("location", ""))
        if offset + length > file.size:
            raise _bad(name, f"it ends at byte {offset + length:,} of a file of {file.size:,}, {file.path.name!r}")
        return file, offset

    def _open(self, name: str, location: str) -> Source:
        if location in self._others:
            return self._others[location]
        path = self._resolve(name, location)
        try:
            self._others[location] = PooledSource(path, self._handles)
        except FileAccessError as error:
            raise FileAccessError(
                f"the data of {name!r} is in {location!r}, which does not open: {error.message}",
                hint="a model with external data is moved together with those files",
            ) from error
        return self._others[location]

    def _resolve(self, name: str, location: str) -> str:
        parts = location.split("/")
        if not location or location.startswith("/") or ".." in parts or any(c in location for c in _FORBIDDEN):
            raise _unsafe(name, location)
        path = os.path.realpath(os.path.join(self._folder, *parts))
        if not path.startswith(os.path.join(os.path.realpath(self._folder), "")):
            raise _unsafe(name, location)
        return path


def _parse_size(name: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise _bad(name, f"its {key} {text[:40]!r} is not a size")
    return int(text)


def _bad(name: str, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"the external data of {name!r} is invalid: {what}", hint="copy the model and its data files again"
    )


def _unsafe(name: str, location: str) -> UnsupportedError:
    return UnsupportedError(
        f"the data of {name!r} should be in {location[:200]!r}, which is not inside the model's folder",
        hint="put the data file itself, not a link, into the model's folder, if you trust the model",
    )
