"""A tree of arrays in its folder: the list of its entries, the store of its arrays, and the values beside it.

    _METADATA          the entries (`tree`)
    manifest.ocdbt, d/ a store of all arrays; without them, a folder for each (`store`)
    checkpoint         of older versions: the tree in msgpack, with small values in it, and ``PLACEHOLDER://`` and an
                       array's name for the others
    _strings.json      texts, by the names that arrays would have
    array_metadatas/   {"array_metadatas": [{"array_metadata": {"param_name": …, "ext_metadata": …}}, …]}, which says
                       what is a random key

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
from ckptconv.formats.flax.orbax.store import Loose, Store
from ckptconv.formats.flax.orbax.tree import EMPTY, Entry, Value, grow, read_entries, split, typed
from ckptconv.io.limits import MAX_ORBAX_TEXT

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.formats.flax.orbax.chunks import Kept
    from ckptconv.io.folder import Folder

STRINGS = "_strings.json"
_ARRAY_METADATAS = "array_metadatas"
_PROCESS = "ocdbt.process_"
_RANDOM_KEY = b'"random_key_impl"'
PLACEHOLDER = "PLACEHOLDER://"
_ARRAYS = ("jax.Array", "np.ndarray", "numpy.ndarray")
_PLACE = re.compile(r"[0-9]{1,9}")
"""How a path spells a place in a list."""

_MISSING = object()


class _Placeholder:
    """Stands in an aggregate file for an array in the store."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Aggregate(FlaxUnpacker):
    """The tree in msgpack, with the names of arrays in the places of those that are not in it."""

    def string(self, text: str) -> Value:
        return _Placeholder(text.removeprefix(PLACEHOLDER)) if text.startswith(PLACEHOLDER) else text


class TreeReader:
    """Reads the tree of a folder, an item of the given name.

    custom: what the program that saved it added to the list.
    """

    def __init__(self, folder: Folder, item: str, kept: Kept, findings: list[Finding]) -> None:
        self._folder = folder
        self._item = f"{item}." if item else ""
        self._kept = kept
        self._findings = findings
        self.custom: Json = None

    def read(self) -> Value:
        """Dicts and lists, with a tensor for each array. Raises CkptconvError."""
        folder = self._folder
        listed = METADATA in folder.names
        document = read_json(folder.open(METADATA)) if listed else {}
        entries = read_entries(document) if listed else []
        self.custom = document.get("custom_metadata")
        aggregate = self._aggregate()
        if MANIFEST not in folder.names and any(name.startswith(_PROCESS) for name in folder.folders):
            raise bad("it has the parts of single processes, and no manifest.ocdbt that joins them: it is unfinished")
        store: Store = Ocdbt(folder) if MANIFEST in folder.names else Loose(folder)
        self._arrays = Arrays(store, self._kept, complete=document.get("store_array_data_equal_to_fill_value") is True)
        self._strings = self._texts()
        self._random = self._random_keys()
        value = self._listed(entries, document, aggregate) if listed else self._unlisted(aggregate)
        self._arrays.check_unwritten()
        return value

    def _listed(self, entries: list[Entry], document: Json, aggregate: Value) -> Value:
        value = typed(grow(entries, [self._value(entry, aggregate) for entry in entries]), document)
        if unused := self._arrays.unused():
            message = f"the array {quoted(unused, 1)} of the store is in no tree, and is left out"
            self._findings.append(Finding("unlisted-array", "warning", self._item + unused[0], message))
        return value

    def _aggregate(self) -> Value:
        """The tree of an aggregate file; `_MISSING` without one."""
        if AGGREGATE not in self._folder.names:
            return _MISSING
        source = self._folder.open(AGGREGATE)
        unpacker = _Aggregate(source)
        with located(source.path):
            tree = unpacker.unpack()
        self._findings += [unreadable(self._item + name, kind) for name, kind in unpacker.unread.items()]
        return tree

    def _texts(self) -> dict[str, Json]:
        found = read_json(self._folder.open(STRINGS)) if STRINGS in self._folder.names else {}
        if not isinstance(found, dict):
            raise bad(f"{STRINGS} is not an object")
        return found

    def _random_keys(self) -> dict[str, str]:
        """The kinds of random keys, by their names. Files that have none are not parsed."""
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
                found |= _kinds_of_keys(parse_json(data, name))
        return found

    def _value(self, entry: Entry, aggregate: Value) -> Value:
        """What an entry stands for."""
        if entry.skipped:
            inside = _at(aggregate, entry.path)
            if entry.kind in EMPTY:
                return EMPTY[entry.kind]()
            if inside is not _MISSING and not isinstance(inside, _Placeholder):
                return inside
        if entry.kind == "string":
            text = self._strings.get(entry.name)
            if not isinstance(text, str):
                raise bad(f"the text {entry.name!r} is not in {STRINGS}")
            return text
        return self._array(entry)

    def _array(self, entry: Entry) -> Value:
        """The tensor or the number of an entry, or what says that it is not read."""
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
        if name in self._random:
            message = f"{self._item + name!r} is a JAX random key ({self._random[name]}): read as its integers"
            self._findings.append(
                Finding("read-as", "info", self._item + name, message, self._random[name], header.dtype.name)
            )
        return self._arrays.tensor(name, header)

    def _unread(self, entry: Entry, kind: str, *args: MetaNode) -> Opaque:
        self._findings.append(unreadable(self._item + entry.name, kind))
        return Opaque(entry.kind, "unread", args)

    def _unlisted(self, aggregate: Value) -> Value:
        """A tree that no ``_METADATA`` lists: that of the aggregate file, or the arrays' names."""
        if aggregate is _MISSING:
            entries = split(self._arrays.unused())
            return grow(entries, [self._array(entry) for entry in entries])
        value = self._filled(aggregate)
        if unused := self._arrays.unused():
            raise UnsupportedError(
                f"the array {unused[0]!r} is in no tree: the file {AGGREGATE!r} was not made by Orbax",
                hint="T5X's own checkpoints are not read: restore it, and save it with orbax.checkpoint",
            )
        return value

    def _filled(self, node: Value) -> Value:
        """The tree of an aggregate file, with its arrays in their places."""
        match node:
            case _Placeholder(name=name) if name in self._strings:
                return self._value(Entry((name,), (False,), "string", skipped=False), _MISSING)
            case _Placeholder(name=name):
                return self._array(Entry((name,), (False,), "jax.Array", skipped=False))
            case dict():
                return {key: self._filled(child) for key, child in node.items()}
            case list() | tuple():
                return type(node)(self._filled(child) for child in node)
            case _:
                return node


def _at(tree: Value, path: tuple[str, ...]) -> Value:
    """What is in a tree by these keys."""
    for key in path:
        if isinstance(tree, dict) and key in tree:
            tree = tree[key]
        elif isinstance(tree, (list, tuple)) and _PLACE.fullmatch(key) and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return _MISSING
    return tree


def _kinds_of_keys(document: Json) -> dict[str, str]:
    listed = document.get("array_metadatas") if isinstance(document, dict) else None
    found = {}
    for one in listed if isinstance(listed, list) else []:
        inner = one.get("array_metadata") if isinstance(one, dict) else None
        extra = inner.get("ext_metadata") if isinstance(inner, dict) else None
        kind = extra.get("random_key_impl") if isinstance(extra, dict) else None
        if isinstance(kind, str) and isinstance(inner, dict) and isinstance(inner.get("param_name"), str):
            found[inner["param_name"]] = kind
    return found
