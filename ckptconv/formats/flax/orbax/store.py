"""Where the documents and chunks of arrays are, by key: in an OCDBT store, or as loose files in folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckptconv.core.tensor import ByteSpan
from ckptconv.formats.flax.orbax.damage import too_much
from ckptconv.formats.flax.orbax.zarr import ZARRAY, ZARR_JSON
from ckptconv.io.limits import MAX_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.folder import Folder

_DEEPEST = 16
"""Folders in each other that are looked into for arrays."""


class Store(Protocol):
    """Values by key."""

    @property
    def size(self) -> int:
        """Bytes of its files."""

    def find(self, key: str) -> ByteSpan | None:
        """Where a value is; None where there is no such key."""

    def under(self, prefix: str) -> int:
        """How many keys start so."""

    def names(self) -> list[str]:
        """All keys, or those of documents at least."""


class Loose:
    """A folder's files by the way to them."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._known: dict[tuple[str, ...], tuple[Folder, frozenset[str], frozenset[str]] | None] = {}

    @property
    def size(self) -> int:
        return self._folder.size

    def find(self, key: str) -> ByteSpan | None:
        *steps, name = key.split("/")
        found = self._enter(tuple(steps))
        if found is None or name not in found[1]:
            return None
        source = found[0].open(name)
        return ByteSpan(source, 0, source.size)

    def under(self, prefix: str) -> int:
        found = self._enter(tuple(prefix.split("/")[:-1]))
        return sum(1 for _ in _files(found[0])) if found else 0

    def names(self) -> list[str]:
        return ["/".join(way) for way in _files(self._folder) if way[-1] in (ZARRAY, ZARR_JSON)]

    def _enter(self, steps: tuple[str, ...]) -> tuple[Folder, frozenset[str], frozenset[str]] | None:
        """A folder, the files in it and the folders in it."""
        if steps not in self._known:
            folder: Folder | None = self._folder
            if steps:
                above = self._enter(steps[:-1]) if len(steps) <= _DEEPEST else None
                folder = above[0].inside(steps[-1]) if above and steps[-1] in above[2] else None
            self._known[steps] = (folder, frozenset(folder.names), frozenset(folder.folders)) if folder else None
        return self._known[steps]


def _files(folder: Folder) -> Iterator[tuple[str, ...]]:
    """The ways to all files in a folder. Raises LimitError where links to folders lead round and round."""
    waiting: list[tuple[Folder, tuple[str, ...]]] = [(folder, ())]
    for _ in range(MAX_FILES):
        if not waiting:
            return
        one, way = waiting.pop()
        yield from ((*way, name) for name in one.names)
        if len(way) < _DEEPEST:
            waiting += ((one.inside(name), (*way, name)) for name in one.folders)
    raise too_much(f"it holds more than {MAX_FILES:,} folders")
