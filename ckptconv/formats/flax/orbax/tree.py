"""A tree as its list of entries says it, and its own types where that has them.

    _METADATA   {"tree_metadata": {"('params', 'w')": {"key_metadata": [{"key": "params", "key_type": 2}, …],
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": false}}, …},
                "value_metadata_tree": text of JSON, or absent, "custom_metadata": …}

A key's type is 1 in a list or a tuple, else 2. An empty container is an entry of its own, left over where others came
to be in it. ``value_metadata_tree`` has the entries in their containers: what is not a list and no dict there is
``{"category": "custom", "clazz": "tuple", "entries": […]}``, or a namedtuple, which becomes a dict of its fields. It is
left aside where it does not have the shape of the list.

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
"""Dicts, lists and tuples, in which each entry is what was made of it."""

_SEQUENCE, _DICT = 1, 2

EMPTY: dict[str, Callable[[], Value]] = {
    "None": lambda: None, "Dict": dict, "List": list, "Tuple": tuple, "NamedTuple": dict,
}  # fmt: skip
"""Entries that are not values, by their type. The fields of a namedtuple become a dict, also where it has none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf: the keys down to it, whether each is a place in a sequence, its type, and whether it has no value of its
    own in the store.
    """

    path: tuple[str, ...]
    places: tuple[bool, ...]
    kind: str
    skipped: bool

    @property
    def name(self) -> str:
        """What its array is called."""
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
    """The entries of a ``_METADATA``, in its order. Raises CorruptFileError, LimitError."""
    listed = document.get("tree_metadata") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise bad("its _METADATA lists no tree")
    return [_entry(text, one) for text, one in listed.items()]


def _entry(text: str, one: Json) -> Entry:
    try:
        keys, value = one["key_metadata"], one["value_metadata"]
        path = tuple(key["key"] for key in keys)
        types = [key["key_type"] for key in keys]
        kind, skipped = value["value_type"], value.get("skip_deserialize", False)
    except (TypeError, KeyError, AttributeError) as error:
        raise bad(f"its _METADATA has the entry {text!r}, which does not say what it is") from error
    good = all(type(key) is str for key in path) and all(type(n) is int and n in (_SEQUENCE, _DICT) for n in types)
    if not good or not isinstance(kind, str):
        raise bad(f"its _METADATA has the entry {text!r}, whose keys or type are none")
    if len(path) > MAX_DEPTH:
        raise too_much(f"its _METADATA has an entry {len(path):,} levels deep")
    return Entry(path, tuple(n == _SEQUENCE for n in types), kind, bool(skipped))


def grow(entries: list[Entry], made: list[Value]) -> Value:
    """The tree of what was made of each entry. Raises CorruptFileError where two entries contradict each other."""
    top = _Node(sequence=False)
    for entry, value in zip(entries, made, strict=True):
        node, places = top, (False, *entry.places)
        keys = ("", *entry.path)
        for i, key in enumerate(keys[:-1]):
            node = _below(node, key, places[i + 1], entry)
        known = node.children.get(keys[-1])
        empty = entry.skipped and entry.kind in EMPTY
        if known is not None and not empty:
            if not isinstance(known, _Leaf) or not known.empty:
                raise bad(f"its _METADATA has two entries for {entry.name!r}")
            known = None
        if known is None:
            node.children[keys[-1]] = _Leaf(value, empty)
    return _finished(top.children.get("") or _Leaf({}, empty=True))


def _below(node: _Node, key: str, sequence: bool, entry: Entry) -> _Node:
    """The container under this key, where an empty one may have stood before."""
    below = node.children.get(key)
    if below is None or (isinstance(below, _Leaf) and below.empty):
        below = node.children[key] = _Node(sequence)
    if isinstance(below, _Leaf) or below.sequence != sequence:
        raise bad(f"its _METADATA has an entry within {entry.name!r} that is a value, or of two kinds")
    return below


def _finished(node: _Node | _Leaf) -> Value:
    """Lists have all their places; with gaps they are dicts."""
    if isinstance(node, _Leaf):
        return node.value
    values = {key: _finished(child) for key, child in node.children.items()}
    if node.sequence and values.keys() == {str(i) for i in range(len(values))}:
        return [values[str(i)] for i in range(len(values))]
    return values


def typed(value: Value, document: Json) -> Value:
    """The tree with tuples in the places of lists, where the document says so."""
    text = document.get("value_metadata_tree")
    if not isinstance(text, str):
        return value
    try:
        return _typed(value, parse_json(text.encode("utf-8", "surrogatepass"), "value_metadata_tree"))
    except (_OtherShapeError, CkptconvError):
        return value


class _OtherShapeError(Exception):
    """The two trees are not of one shape."""


def _typed(value: Value, shape: Json) -> Value:
    category = shape.get("category") if isinstance(shape, dict) else None
    clazz = shape.get("clazz") if category else None
    if category == "custom" and clazz == "tuple":
        return tuple(_pairwise(value, shape.get("entries")))
    if category == "custom":
        return value
    if category == "namedtuple":
        entries = shape.get("entries")
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise _OtherShapeError
        shape = {str(one.get("key")): one.get("value") for one in entries}
    if isinstance(shape, list):
        return list(_pairwise(value, shape))
    if not isinstance(shape, dict) or not isinstance(value, dict) or shape.keys() != value.keys():
        raise _OtherShapeError
    return {key: _typed(child, shape[key]) for key, child in value.items()}


def _pairwise(value: Value, shapes: Json) -> Iterator[Value]:
    if not isinstance(value, list) or not isinstance(shapes, list) or len(value) != len(shapes):
        raise _OtherShapeError
    return (_typed(child, shape) for child, shape in zip(value, shapes, strict=True))


def split(names: list[str]) -> list[Entry]:
    """Entries for arrays that no list names: their keys are what dots part, unless a name is also a part of another."""
    if sum(name.count(".") + 1 for name in names) > MAX_NODES:
        raise too_much(f"it has {len(names):,} arrays, whose names have more than {MAX_NODES:,} parts")
    paths = [tuple(name.split(".")) if name.count(".") < MAX_DEPTH else () for name in names]
    within = any(below[: len(path)] == path for path, below in pairwise(sorted(paths)))
    if within or not all(path and all(path) for path in paths):
        paths = [(name,) for name in names]
    return [Entry(path, (False,) * len(path), "jax.Array", skipped=False) for path in paths]
