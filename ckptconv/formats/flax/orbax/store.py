"""Stores of values by key, which hold the documents and chunks of arrays: an OCDBT store, or loose files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckptconv.core.tensor import ByteSpan
from ckptconv.formats.flax.orbax.damage import too_much
from ckptconv.formats.flax.orbax.zarr import ZARR_JSON, ZARRAY
from ckptconv.io.limits import MAX_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.folder import Folder

_MAX_DEPTH = 16
"""Of nested folders that are searched for arrays."""


class Store(Protocol):
    """Values by key."""

    @property
    def size(self) -> int:
        """The size of the store's files, in bytes."""

    def find(self, key: str) -> ByteSpan | None:
        """Where a value lies; None if there is no such key."""

    def count_keys(self, prefix: str) -> int:
        """The number of keys with this prefix."""

    def names(self) -> list[str]:
        """All keys, or at least those of documents."""


class _Listing(NamedTuple):
    folder: Folder
    files: frozenset[str]
    folders: frozenset[str]


class LooseFiles:
    """The files in a folder, and in folders below it, by relative path."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._listings: dict[tuple[str, ...], _Listing | None] = {}

    @property
    def size(self) -> int:
        return self._folder.size

    def find(self, key: str) -> ByteSpan | None:
        *steps, name = key.split("/")
        listing = self._list(tuple(steps))
        if listing is None or name not in listing.files:
            return None
        source = listing.folder.open(name)
        return ByteSpan(source, 0, source.size)

    def count_keys(self, prefix: str) -> int:
        listing = self._list(tuple(prefix.split("/")[:-1]))
        return sum(1 for _ in _file_paths(listing.folder)) if listing else 0

    def names(self) -> list[str]:
        return ["/".join(path) for path in _file_paths(self._folder) if path[-1] in (ZARRAY, ZARR_JSON)]

    def _list(self, steps: tuple[str, ...]) -> _Listing | None:
        """The contents of the folder at a relative path; None if there is none."""
        if steps not in self._listings:
            folder: Folder | None = self._folder
            if steps:
                parent = self._list(steps[:-1]) if len(steps) <= _MAX_DEPTH else None
                folder = parent.folder.inside(steps[-1]) if parent and steps[-1] in parent.folders else None
            listing = _Listing(folder, frozenset(folder.names), frozenset(folder.folders)) if folder else None
            self._listings[steps] = listing
        return self._listings[steps]


def _file_paths(folder: Folder) -> Iterator[tuple[str, ...]]:
    """The relative paths of all files below a folder. Raises LimitError if links between folders form a cycle."""
    waiting: list[tuple[Folder, tuple[str, ...]]] = [(folder, ())]
    for _ in range(MAX_FILES):
        if not waiting:
            return
        current, path = waiting.pop()
        yield from ((*path, name) for name in current.names)
        if len(path) < _MAX_DEPTH:
            waiting += ((current.inside(name), (*path, name)) for name in current.folders)
    raise too_much(f"it holds more than {MAX_FILES:,} folders")
