"""Builds a tree from its list of entries, and restores tuples if the list states them.

    _METADATA   {"tree_metadata": {"('params', 'w')": {"key_metadata": [{"key": "params", "key_type": 2}, …],
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": false}}, …},
                "value_metadata_tree": text of JSON, or absent, "custom_metadata": …}

A key's type is 1 in a list or a tuple, else 2. An empty container is an entry; it may remain after other entries came
into it. ``value_metadata_tree`` repeats the tree with its containers: apart from lists and dicts, there are tuples,
``{"category": "custom", "clazz": "tuple", "entries": […]}``, and namedtuples, which become dicts of their fields. It is
ignored if its shape differs from that of the list.

Source: orbax/checkpoint/_src/metadata (tree.py, tree_rich_types.py, empty_values.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.orbax.damage import bad, too_much
from ckptconv.formats.flax.orbax.documents import parse_json
from ckptconv.io.limits import MAX_DEPTH, MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.spelling import Json

Value = Any
"""Dicts, lists and tuples, whose leaves are the values of entries."""

_SEQUENCE, _DICT = 1, 2

EMPTY: dict[str, Callable[[], Value]] = {
    "None": lambda: None, "Dict": dict, "List": list, "Tuple": tuple, "NamedTuple": dict,
}  # fmt: skip
"""Makes empty containers, by the type of their entries. A namedtuple becomes a dict of its fields, here none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf of the tree.

    path:       the keys down to it.
    in_sequence: for each key, whether it is an index into a sequence.
    kind:       its type.
    skipped:    whether the store has no value for it.
    """

    path: tuple[str, ...]
    in_sequence: tuple[bool, ...]
    kind: str
    skipped: bool

    @property
    def name(self) -> str:
        """The name of its array."""
        return ".".join(self.path)


@dataclass(slots=True)
class _Node:
    sequence: bool
    children: dict[str, _Node | _Leaf] = field(default_factory=dict)


@dataclass(slots=True)
class _Leaf:
    value: Value
    empty: bool


def read_entries(document: Json) -> list[Entry]:
    """The entries in a ``_METADATA``, in order. Raises CorruptFileError, LimitError."""
    listed = document.get("tree_metadata") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise bad("its _METADATA lists no tree")
    return [_parse_entry(text, entry) for text, entry in listed.items()]


def _parse_entry(text: str, entry: Json) -> Entry:
    try:
        keys, value = entry["key_metadata"], entry["value_metadata"]
        path = tuple(key["key"] for key in keys)
        types = [key["key_type"] for key in keys]
        kind, skipped = value["value_type"], value.get("skip_deserialize", False)
    except (TypeError, KeyError, AttributeError) as error:
        raise bad(f"its _METADATA has the entry {text!r}, which does not say what it is") from error
    valid = all(type(key) is str for key in path) and all(type(n) is int and n in (_SEQUENCE, _DICT) for n in types)
    if not valid or not isinstance(kind, str):
        raise bad(f"its _METADATA has the entry {text!r}, whose keys or type are none")
    if len(path) > MAX_DEPTH:
        raise too_much(f"its _METADATA has an entry {len(path):,} levels deep")
    return Entry(path, tuple(n == _SEQUENCE for n in types), kind, bool(skipped))


def build_tree(entries: list[Entry], values: list[Value]) -> Value:
    """The tree of entries with their values. Raises CorruptFileError if two entries contradict each other."""
    top = _Node(sequence=False)
    for entry, value in zip(entries, values, strict=True):
        node = top
        *parents, last = ("", *entry.path)
        for key, is_sequence in zip(parents, entry.in_sequence, strict=True):
            node = _child_node(node, key, is_sequence, entry)
        known = node.children.get(last)
        empty = entry.skipped and entry.kind in EMPTY
        if known is not None and not empty:
            if not isinstance(known, _Leaf) or not known.empty:
                raise bad(f"its _METADATA has two entries for {entry.name!r}")
            known = None
        if known is None:
            node.children[last] = _Leaf(value, empty)
    return _to_value(top.children.get("") or _Leaf({}, empty=True))


def _child_node(node: _Node, key: str, sequence: bool, entry: Entry) -> _Node:
    """The container under this key; it replaces the entry of an empty one."""
    child = node.children.get(key)
    if child is None or (isinstance(child, _Leaf) and child.empty):
        child = node.children[key] = _Node(sequence)
    if isinstance(child, _Leaf) or child.sequence != sequence:
        raise bad(f"its _METADATA has an entry within {entry.name!r} that is a value, or of two kinds")
    return child


def _to_value(node: _Node | _Leaf) -> Value:
    """Nodes as dicts and lists. A sequence with gaps becomes a dict."""
    if isinstance(node, _Leaf):
        return node.value
    values = {key: _to_value(child) for key, child in node.children.items()}
    if node.sequence and values.keys() == {str(i) for i in range(len(values))}:
        return [values[str(i)] for i in range(len(values))]
    return values


def restore_tuples(value: Value, document: Json) -> Value:
    """The tree, with tuples in place of lists if the document states them."""
    text = document.get("value_metadata_tree")
    if not isinstance(text, str):
        return value
    try:
        return _apply_shape(value, parse_json(text.encode("utf-8", "surrogatepass"), "value_metadata_tree"))
    except (_OtherShapeError, CkptconvError):
        return value


class _OtherShapeError(Exception):
    """The two trees differ in shape."""


def _apply_shape(value: Value, shape: Json) -> Value:
    category = shape.get("category") if isinstance(shape, dict) else None
    clazz = shape.get("clazz") if category else None
    if category == "custom" and clazz == "tuple":
        return tuple(_pairwise(value, shape.get("entries")))
    if category == "custom":
        return value
    if category == "namedtuple":
        entries = shape.get("entries")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise _OtherShapeError
        shape = {str(entry.get("key")): entry.get("value") for entry in entries}
    if isinstance(shape, list):
        return list(_pairwise(value, shape))
    if not isinstance(shape, dict) or not isinstance(value, dict) or shape.keys() != value.keys():
        raise _OtherShapeError
    return {key: _apply_shape(child, shape[key]) for key, child in value.items()}


def _pairwise(value: Value, shapes: Json) -> Iterator[Value]:
    if not isinstance(value, list) or not isinstance(shapes, list) or len(value) != len(shapes):
        raise _OtherShapeError
    return (_apply_shape(child, shape) for child, shape in zip(value, shapes, strict=True))


def entries_from_names(names: list[str]) -> list[Entry]:
    """Entries for arrays without a list. Names are split at dots, unless one name would be a container of another."""
    if sum(name.count(".") + 1 for name in names) > MAX_NODES:
        raise too_much(f"it has {len(names):,} arrays, whose names have more than {MAX_NODES:,} parts")
    paths = [tuple(name.split(".")) if name.count(".") < MAX_DEPTH else () for name in names]
    is_nested = any(longer[: len(path)] == path for path, longer in pairwise(sorted(paths)))
    if is_nested or not all(path and all(path) for path in paths):
        paths = [(name,) for name in names]
    return [Entry(path, (False,) * len(path), "jax.Array", skipped=False) for path in paths]
