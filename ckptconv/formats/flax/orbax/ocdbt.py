"""Reads the latest version of an OCDBT store, TensorStore's key-value store.

    manifest.ocdbt     the kind of manifest, and the versions if it is the only one
    manifest.0000…     numbered manifests, of which the highest number counts: the versions
    d/…                data files: values, nodes of the tree of keys, nodes of the tree of versions

Manifest:

    16 bytes   a uuid        u8 kind: 0 single, 1 numbered      2 varints: most bytes of a value in a node, of a node
    u8 log2 of the versions in a node        varint compression, for zstd an i32 level
    files; versions: varint n, n varints generation, n u8 height of its tree, n places of its root, n × 3 varints of
    statistics, n u64 time; older versions: nodes of a tree of them, which are not read

Node of the tree of keys; columns of `entries` numbers follow each other:

    u8 height   files   varint entries
    keys        varints for all but the first: bytes shared with the key before; varints: bytes that follow; in inner
                nodes varints: bytes of the key that all keys below share, and leave out; the bytes
    leaf        varints: bytes of each value; u8: 0 in this node, 1 in a file; for values in files varints: file,
                offset; the bytes of the others
    inner node  places of the children; varints × 3 of statistics

Keys are sorted as bytes. Refused: a node whose height or keys contradict its parent, or that is reached twice; values
past the end of their file.

Source: https://google.github.io/tensorstore/kvstore/ocdbt/index.html, kvstore/ocdbt/format (manifest.cc, config.cc,
btree.cc, btree_codec.h, version_tree_codec.h).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import COPY_ALL_AGAIN, UPGRADE, CorruptFileError, FileAccessError, UnsupportedError, located
from ckptconv.formats.flax.orbax.damage import bad, too_empty, too_much
from ckptconv.formats.flax.orbax.node import Budget, File, Place, open_node, pick_file, read_files, read_places
from ckptconv.io.limits import FREE_OCDBT_KEYS, MAX_OCDBT_KEYS, MAX_OCDBT_NODES

if TYPE_CHECKING:
    from ckptconv.formats.flax.orbax.cursor import Cursor
    from ckptconv.io.folder import Folder
    from ckptconv.io.source import Source

MANIFEST = "manifest.ocdbt"
_NUMBERED = re.compile(r"manifest\.[0-9a-f]{16}")

_MANIFEST_MAGIC = 0x0CDB3A2A
_NODE_MAGIC = 0x0CDB20DE
_MAX_KEY = 65535
_MAX_ENTRIES = 1 << 20
_MAX_INLINE = 1 << 20
"""TensorStore's limits: the bytes of a key, the entries of a node, the bytes of a value in a node."""


class Inline:
    """A value that is in its node, as a file in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes."""
        if offset < 0 or length < 0 or offset + length > len(self._data):
            raise bad("a value is cut short")
        return memoryview(self._data)[offset : offset + length]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`."""
        buffer[:] = self.read_at(offset, len(buffer))


Value = Inline | Place
"""A value in its node, or the place of one in a data file."""


class _Root(NamedTuple):
    """The root of a tree of keys, and the tree's height."""

    place: Place
    height: int


class _Version(NamedTuple):
    """A version of the store; without a root, it has no keys."""

    root: _Root | None


class Ocdbt:
    """The keys of a store's latest version, and where their values lie. Reads all nodes, but no values.

    size: the size of the store's files, in bytes.
    """

    def __init__(self, folder: Folder) -> None:
        """Read all nodes. Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError, MissingExtraError."""
        self._folder = folder
        self._budget = Budget()
        self.size = 0
        self._values: dict[bytes, Value] = {}
        self._sources: dict[str, Source] = {}
        self._last_key = b""
        root = self._latest_root()
        if root is not None:
            self._walk(*root, b"", None)
        self._check_ends()

    def find(self, key: str) -> ByteSpan | None:
        """Where a value lies; None if there is no such key."""
        value = self._values.get(key.encode("utf-8", "surrogatepass"))
        if value is None:
            return None
        if isinstance(value, Inline):
            return ByteSpan(value, 0, len(value))
        return ByteSpan(self._source(value.file), value.offset, value.length)

    def names(self) -> list[str]:
        """All keys, sorted. Raises CorruptFileError if one is not UTF-8."""
        try:
            return [key.decode("utf-8") for key in self._values]
        except UnicodeDecodeError as error:
            raise bad(f"the key {error.object[:80]!r} is not UTF-8") from error

    def count_keys(self, prefix: str) -> int:
        """The number of keys with this prefix."""
        start = prefix.encode("utf-8", "surrogatepass")
        return bisect_left(self._sorted, start + b"\xff") - bisect_left(self._sorted, start)

    @cached_property
    def _sorted(self) -> list[bytes]:
        return list(self._values)

    def _latest_root(self) -> _Root | None:
        """The root of the latest version; None if that has no keys."""
        version = self._read_manifest(MANIFEST)
        if version is None:
            numbered = [name for name in self._folder.names if _NUMBERED.fullmatch(name)]
            version = self._read_manifest(numbered[-1]) if numbered else None
            if version is None:
                raise bad("its manifest speaks of others, and there is none")
        return version.root

    def _read_manifest(self, name: str) -> _Version | None:
        """The latest version in a manifest; None if it only says that there are numbered manifests."""
        source = self._folder.open(name)
        self.size += source.size
        cursor = open_node(source.read_all(MAX_OCDBT_NODES), _MANIFEST_MAGIC, "the manifest", self._budget)
        cursor.take(16)
        kind = cursor.byte()
        cursor.varints(2)
        arity = cursor.byte()
        compression = cursor.varint()
        if kind > 1 or compression > 1:
            raise UnsupportedError(f"the manifest is of the unknown kind {kind}", hint=UPGRADE)
        cursor.take(4 * compression)
        if kind:
            return None
        if not 0 < arity <= 16:
            raise bad("the manifest says that there are too many versions in a node")
        files = read_files(cursor, "", self._budget)
        count = cursor.varint(1 << arity)
        generations, heights = cursor.varints(count), cursor.take(count)
        roots = read_places(cursor, files, count)
        if not count or generations != sorted(set(generations)):
            raise bad("the versions in its manifest do not rise")
        return _Version(_Root(roots[-1], heights[-1]) if roots[-1] else None)

    def _walk(self, place: Place, height: int, prefix: bytes, least: bytes | None) -> None:
        """Add all keys below a node. They start with `prefix`, which nodes leave out, and none is before `least`."""
        cursor = self._read_node(place)
        if cursor.byte() != height:
            raise bad("a node is of another height than its parent says")
        files = read_files(cursor, place.file.path[: place.file.base], self._budget)
        count = cursor.varint(_MAX_ENTRIES)
        if not count:
            raise bad("a node has no entries")
        keys, shared = _read_keys(cursor, count, len(prefix), self._budget, inner=height > 0)
        if least is not None and prefix + keys[0] < least:
            raise bad("a node has keys before those that its parent says")
        if height:
            places = read_places(cursor, files, count)
            cursor.varints(3 * count)
            cursor.check_end()
            for key, common, child in zip(keys, shared, places, strict=True):
                if child is None:
                    raise bad("a node has a child that is nowhere")
                self._walk(child, height - 1, prefix + key[:common], prefix + key)
            return
        values = _read_values(cursor, files, count)
        for key, value in zip(keys, values, strict=True):
            self._add(prefix + key, value)

    def _read_node(self, place: Place) -> Cursor:
        source = self._source(place.file)
        if place.offset > source.size or place.length > source.size - place.offset:
            raise self._cut_short(place.file.path, place.offset + place.length, source.size)
        if place.length > MAX_OCDBT_NODES:
            raise too_much(f"a node has {place.length:,} bytes")
        if self._budget.stored + place.length > self.size:
            raise bad("its nodes overlap, or one is reached twice")
        data = bytes(source.read_at(place.offset, place.length))
        with located(source.path):
            return open_node(data, _NODE_MAGIC, "a node of the tree of keys", self._budget)

    def _add(self, key: bytes, value: Value) -> None:
        if self._values and key <= self._last_key:
            raise bad("its keys do not rise")
        self._last_key = key
        self._values[key] = value
        if len(self._values) > min(MAX_OCDBT_KEYS, FREE_OCDBT_KEYS + self._budget.stored):
            raise too_empty("it has more keys than its size warrants")

    def _check_ends(self) -> None:
        """Raise CorruptFileError if a data file is shorter than its values need."""
        ends: dict[str, tuple[File, int]] = {}
        for value in self._values.values():
            if isinstance(value, Place):
                path, end = value.file.path, value.offset + value.length
                if path not in ends or end > ends[path][1]:
                    ends[path] = value.file, end
        for path, (file, end) in ends.items():
            size = self._source(file).size
            if end > size:
                raise self._cut_short(path, end, size)

    def _cut_short(self, path: str, end: int, size: int) -> CorruptFileError:
        return CorruptFileError(
            f"{path!r} is cut short: it should have {end:,} bytes at least, and has {size:,}", hint=COPY_ALL_AGAIN
        )

    def _source(self, file: File) -> Source:
        """Open a data file, in the store's folder or in folders below it."""
        known = self._sources.get(file.path)
        if known is not None:
            return known
        *folders, name = file.path.split("/")
        folder = self._folder
        try:
            for step in folders:
                folder = folder.inside(step)
            source = folder.open(name)
        except FileAccessError as error:
            raise FileAccessError(
                f"a part of it is in {file.path!r}, which does not open: {error.message}", path=self._folder.path,
                hint=COPY_ALL_AGAIN,
            ) from error  # fmt: skip
        self._sources[file.path] = source
        self.size += source.size
        return source


def _read_keys(
    cursor: Cursor, count: int, left_out: int, budget: Budget, *, inner: bool
) -> tuple[list[bytes], list[int]]:
    """The keys of a node, and for each the number of bytes that all keys below share.

    left_out: the bytes at the start of all keys that the node leaves out.
    """
    prefixes = [0, *cursor.varints(count - 1, _MAX_KEY)]
    suffixes = cursor.varints(count, _MAX_KEY)
    shared = cursor.varints(count, _MAX_KEY) if inner else [0] * count
    keys: list[bytes] = []
    key = b""
    for prefix, suffix, common in zip(prefixes, suffixes, shared, strict=True):
        if prefix > len(key) or common > prefix + suffix or left_out + prefix + suffix > _MAX_KEY:
            raise bad("a node has a key that contradicts itself")
        budget.count_text(left_out + prefix + suffix)
        new = key[:prefix] + cursor.take(suffix)
        if keys and new <= key:
            raise bad("the keys of a node do not rise")
        key = new
        keys.append(key)
    return keys, shared


def _read_values(cursor: Cursor, files: list[File], count: int) -> list[Value]:
    lengths, kinds = cursor.varints(count), cursor.take(count)
    if any(kind > 1 for kind in kinds):
        raise bad("a node has a value of an unknown kind")
    in_files = sum(kinds)
    file_numbers, offsets = iter(cursor.varints(in_files)), iter(cursor.varints(in_files))
    values: list[Value] = []
    for length, kind in zip(lengths, kinds, strict=True):
        if kind:
            values.append(Place(pick_file(cursor, files, next(file_numbers)), next(offsets), length))
        elif length > _MAX_INLINE:
            raise too_much(f"a value in a node has {length:,} bytes")
        else:
            values.append(Inline(cursor.take(length)))
    cursor.check_end()
    return values
