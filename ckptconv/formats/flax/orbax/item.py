"""Reads an item that is a tree of arrays: the list of its entries, the store of its arrays, and other values.

    _METADATA          the entries (`tree`)
    manifest.ocdbt, d/ a store of all arrays; without them, each array has a folder (`store`)
    checkpoint         by older versions: the tree in msgpack, with small values in it; others are replaced by
                       ``PLACEHOLDER://`` and an array's name
    _strings.json      texts, under the names that arrays would have
    array_metadatas/   {"array_metadatas": [{"array_metadata": {"param_name": …, "ext_metadata": …}}, …]}, which marks
                       random keys

Sources: orbax/checkpoint/_src/serialization (type_handlers.py, jax_array_handlers.py), metadata/array_metadata.py,
aggregate_handlers.py, utils.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque
from ckptconv.core.report import Finding, unreadable
from ckptconv.core.text import quoted
from ckptconv.errors import UnsupportedError, located
from ckptconv.formats.flax.arrays import FlaxUnpacker
from ckptconv.formats.flax.orbax.arrays import Arrays
from ckptconv.formats.flax.orbax.damage import bad
from ckptconv.formats.flax.orbax.documents import parse_json, read_json
from ckptconv.formats.flax.orbax.ocdbt import MANIFEST, Ocdbt
from ckptconv.formats.flax.orbax.places import AGGREGATE, METADATA
from ckptconv.formats.flax.orbax.store import LooseFiles, Store
from ckptconv.formats.flax.orbax.tree import (
    EMPTY,
    Entry,
    Value,
    build_tree,
    entries_from_names,
    read_entries,
    restore_tuples,
)
from ckptconv.io.limits import MAX_ORBAX_TEXT

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.formats.flax.orbax.chunks import Cache
    from ckptconv.io.folder import Folder

STRINGS = "_strings.json"
_ARRAY_METADATAS = "array_metadatas"
_PROCESS = "ocdbt.process_"
_RANDOM_KEY = b'"random_key_impl"'
PLACEHOLDER = "PLACEHOLDER://"
_ARRAYS = ("jax.Array", "np.ndarray", "numpy.ndarray")
_INDEX = re.compile(r"[0-9]{1,9}")
"""An index into a list, as part of a path."""

_MISSING = object()


class _Placeholder:
    """Stands for an array of the store in an aggregate file."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Aggregate(FlaxUnpacker):
    """Reads the tree in msgpack, with placeholders for arrays that are not in it."""

    def string(self, text: str) -> Value:
        return _Placeholder(text.removeprefix(PLACEHOLDER)) if text.startswith(PLACEHOLDER) else text


class TreeReader:
    """Reads the tree in a folder.

    custom: what the saving program added to the list of entries.
    """

    def __init__(self, folder: Folder, item: str, cache: Cache, findings: list[Finding]) -> None:
        self._folder = folder
        self._prefix = f"{item}." if item else ""
        self._cache = cache
        self._findings = findings
        self._read_as_integers: list[str] = []
        self.custom: Json = None

    def read(self) -> Value:
        """The tree as dicts and lists, with a tensor for each array. Raises CkptconvError."""
        folder = self._folder
        has_list = METADATA in folder.names
        document = read_json(folder.open(METADATA)) if has_list else {}
        entries = read_entries(document) if has_list else []
        self.custom = document.get("custom_metadata")
        aggregate = self._read_aggregate()
        if MANIFEST not in folder.names and any(name.startswith(_PROCESS) for name in folder.folders):
            raise bad("it has the parts of single processes, and no manifest.ocdbt that joins them: it is unfinished")
        store: Store = Ocdbt(folder) if MANIFEST in folder.names else LooseFiles(folder)
        complete = document.get("store_array_data_equal_to_fill_value") is True
        self._arrays = Arrays(store, self._cache, complete=complete)
        self._strings = self._read_strings()
        self._random_keys = self._read_random_keys()
        value = self._listed_tree(entries, document, aggregate) if has_list else self._unlisted_tree(aggregate)
        self._arrays.check_unwritten()
        self._report_random_keys()
        return value

    def _report_random_keys(self) -> None:
        """One finding for all random keys: a network has one in each dropout layer."""
        if not (names := self._read_as_integers):
            return
        kinds = ", ".join(sorted({self._random_keys[name] for name in names}))
        found = [self._prefix + name for name in names]
        message = f"{found[0]!r} is a JAX random key ({kinds}): read as its integers"
        if len(found) > 1:
            message = f"{len(found):,} JAX random keys ({kinds}) are read as their integers: {quoted(found)}"
        self._findings.append(Finding("read-as", "info", found[0], message, kinds))

    def _listed_tree(self, entries: list[Entry], document: Json, aggregate: Value) -> Value:
        """The tree that ``_METADATA`` lists."""
        value = restore_tuples(build_tree(entries, [self._value(entry, aggregate) for entry in entries]), document)
        if unused := self._arrays.unused():
            message = f"the array {quoted(unused, 1)} of the store is in no tree, and is left out"
            self._findings.append(Finding("unlisted-array", "warning", self._prefix + unused[0], message))
        return value

    def _read_aggregate(self) -> Value:
        """The tree in the aggregate file; `_MISSING` without one."""
        if AGGREGATE not in self._folder.names:
            return _MISSING
        source = self._folder.open(AGGREGATE)
        unpacker = _Aggregate(source)
        with located(source.path):
            tree = unpacker.unpack()
        self._findings += [unreadable(self._prefix + name, kind) for name, kind in unpacker.unread.items()]
        return tree

    def _read_strings(self) -> dict[str, Json]:
        strings = read_json(self._folder.open(STRINGS)) if STRINGS in self._folder.names else {}
        if not isinstance(strings, dict):
            raise bad(f"{STRINGS} is not an object")
        return strings

    def _read_random_keys(self) -> dict[str, str]:
        """The kinds of the random keys, by array name. Files without random keys are not parsed."""
        if _ARRAY_METADATAS not in self._folder.folders:
            return {}
        folder = self._folder.inside(_ARRAY_METADATAS)
        found: dict[str, str] = {}
        left = MAX_ORBAX_TEXT
        for name in folder.names:
            source = folder.open(name)
            left -= source.size
            if left < 0:
                break
            data = source.read_all(MAX_ORBAX_TEXT)
            if _RANDOM_KEY in data:
                found |= _random_key_kinds(parse_json(data, name))
        return found

    def _value(self, entry: Entry, aggregate: Value) -> Value:
        """The value of an entry."""
        if entry.skipped:
            if entry.kind in EMPTY:
                return EMPTY[entry.kind]()
            stored = _lookup(aggregate, entry.path)
            if stored is not _MISSING and not isinstance(stored, _Placeholder):
                return stored
        if entry.kind == "string":
            text = self._strings.get(entry.name)
            if not isinstance(text, str):
                raise bad(f"the text {entry.name!r} is not in {STRINGS}")
            return text
        return self._array(entry)

    def _array(self, entry: Entry) -> Value:
        """The tensor or the number of an entry; an `Opaque` if it cannot be read."""
        name = entry.name
        header = self._arrays.header(name)
        if header is None:
            if entry.kind in (*_ARRAYS, "scalar"):
                raise bad(f"the array {name!r} is not there")
            return self._unread(entry, f"of the type {entry.kind!r}, which its own handler reads,")
        if header.dtype is None:
            return self._unread(entry, f"of the element type {header.kind!r}", header.shape, header.kind)
        if entry.kind == "scalar":
            return self._arrays.number(name, header)
        if name in self._random_keys:
            self._read_as_integers.append(name)
        return self._arrays.tensor(name, header)

    def _unread(self, entry: Entry, kind: str, *args: MetaNode) -> Opaque:
        self._findings.append(unreadable(self._prefix + entry.name, kind))
        return Opaque(entry.kind, "unread", args)

    def _unlisted_tree(self, aggregate: Value) -> Value:
        """A tree without ``_METADATA``: that of the aggregate file, or else one from the arrays' names."""
        if aggregate is _MISSING:
            entries = entries_from_names(self._arrays.unused())
            return build_tree(entries, [self._array(entry) for entry in entries])
        value = self._fill_placeholders(aggregate)
        if unused := self._arrays.unused():
            raise UnsupportedError(
                f"the array {unused[0]!r} is in no tree: the file {AGGREGATE!r} was not made by Orbax",
                hint="T5X's own checkpoints are not read: restore it, and save it with orbax.checkpoint",
            )
        return value

    def _fill_placeholders(self, node: Value) -> Value:
        """The tree of an aggregate file, with arrays in place of placeholders."""
        match node:
            case _Placeholder(name=name) if name in self._strings:
                return self._value(Entry((name,), (False,), "string", skipped=False), _MISSING)
            case _Placeholder(name=name):
                return self._array(Entry((name,), (False,), "jax.Array", skipped=False))
            case dict():
                return {key: self._fill_placeholders(child) for key, child in node.items()}
            case list() | tuple():
                return type(node)(self._fill_placeholders(child) for child in node)
            case _:
                return node


def _lookup(tree: Value, path: tuple[str, ...]) -> Value:
    """The value at a path in a tree; `_MISSING` if there is none."""
    for key in path:
        if isinstance(tree, dict) and key in tree:
            tree = tree[key]
        elif isinstance(tree, (list, tuple)) and _INDEX.fullmatch(key) and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return _MISSING
    return tree


def _random_key_kinds(document: Json) -> dict[str, str]:
    """The kinds of the random keys that a file in ``array_metadatas`` lists, by array name."""
    listed = document.get("array_metadatas") if isinstance(document, dict) else None
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        inner = entry.get("array_metadata") if isinstance(entry, dict) else None
        extra = inner.get("ext_metadata") if isinstance(inner, dict) else None
        kind = extra.get("random_key_impl") if isinstance(extra, dict) else None
        if isinstance(kind, str) and isinstance(inner, dict) and isinstance(inner.get("param_name"), str):
            found[inner["param_name"]] = kind
    return found
