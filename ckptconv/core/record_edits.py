"""Reading a record after other tools have edited the file that it is in.

A string that is unchanged stands for the typed value; a changed one is read as JSON and takes the old type where that
is exact (list → tuple, int → float), else it stays a string, as one that is nested too deeply does; a new one is a
string; a missing one is deleted. A reference to a tensor that is no longer there is ignored, with a finding. Keys that
cannot be strings (no str, ``ckptconv``, a tie's name) live in the record alone and are never taken for deleted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.metadata import MetaNode, StateDict, Stored, TensorRef, TorchSize, is_too_deep, nodes_of
from ckptconv.core.names import free_key
from ckptconv.core.record import FORMAT, KEY, plain_key, readable, visible
from ckptconv.core.report import Finding
from ckptconv.core.spelling import from_json, without

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ckptconv.core.record import Record


def take_edits(record: Record, strings: Mapping[str, str]) -> MetaNode:
    """The record's tree after what other tools did to the readable strings."""
    known = dict(visible(record))
    reserved = {KEY, *(dropped for dropped, _, _ in record.ties)}
    new = {key: text for key, text in strings.items() if key not in known and key not in reserved}
    if new.get("format") == FORMAT:
        del new["format"]
    if not isinstance(record.root, dict):
        return add_strings(record.root, new)
    hidden = record.root.keys() - known.keys()
    new = {key: text for key, text in new.items() if key not in hidden}
    root = {
        key: value if key not in known else _edited(strings[key], value)
        for key, value in record.root.items()
        if key not in known or key in strings
    }
    return _like(record.root, {**root, **new})


def add_values(root: MetaNode, values: Mapping[str, MetaNode]) -> MetaNode:
    """`root` with what others have put into the file, under keys that are free."""
    if not isinstance(root, dict):
        return add_strings(root, values)
    return _like(root, {**root, **{free_key(key, root): value for key, value in values.items()}})


def add_strings(root: MetaNode, strings: Mapping[str, MetaNode]) -> MetaNode:
    """`root` with string metadata beside it; the root itself where there is none."""
    if not strings:
        return root
    key = "state_dict" if isinstance(root, StateDict) else "data"
    return {**strings, key: root}


def _like(old: dict[Any, MetaNode], items: dict[Any, MetaNode]) -> MetaNode:
    if type(old) is OrderedDict:
        return OrderedDict(items)
    if type(old) is dict:
        return items
    copy = old.copy()
    copy.clear()
    copy.update(items)
    return copy


def _edited(text: str, old: MetaNode) -> MetaNode:
    if text == readable(old):
        return old
    if type(old) is str:
        return text
    try:
        made = _cast(from_json(strict_json.loads(text)), old)
    except (ValueError, TypeError, RecursionError):  # TypeError: what is not a member of a set
        return text
    return text if is_too_deep([made]) else made


def _cast(new: MetaNode, old: MetaNode) -> MetaNode:
    """`new` as the old type where that is exact. Raises ValueError elsewhere."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        items = [_cast(item, old[min(i, len(old) - 1)]) if old else item for i, item in enumerate(new)]
        return TorchSize(_sizes(items)) if isinstance(old, TorchSize) else type(old)(items)
    if isinstance(old, (set, frozenset)) and isinstance(new, list):
        return type(old)([without(item, Stored, StateDict) for item in new])
    if isinstance(old, dict) and type(new) is dict:
        keys = {plain_key(key): key for key in old}
        named = {keys.get(key, key): value for key, value in new.items()}
        return _like(old, {key: _cast(value, old[key]) if key in old else value for key, value in named.items()})
    if type(old) is float and type(new) is int and float(new) == new:
        return float(new)
    if type(new) is not type(old):
        raise ValueError("another type")
    return new


def _sizes(items: list[MetaNode]) -> list[int]:
    sizes = [item for item in items if type(item) is int]
    if len(sizes) != len(items):
        raise ValueError("not a list of ints")
    return sizes


def prune(root: MetaNode, names: Mapping[str, object], findings: list[Finding]) -> MetaNode:
    """The tree without references to tensors that are not in the file; each is a finding."""
    missing = {node.name for node in nodes_of(root, TensorRef) if node.name not in names}
    findings += [
        Finding("lost-tensor", "warning", name, f"the record mentions {name!r}, which is not in the file")
        for name in sorted(missing)
    ]
    return without_tensors(root, missing) if missing else root


def without_tensors(node: MetaNode, missing: Container[str]) -> MetaNode:
    """The tree without references to these; where one stood in a list or a tuple is None."""

    def gone(child: MetaNode) -> bool:
        return isinstance(child, TensorRef) and child.name in missing

    match node:
        case dict():
            return _like(node, {key: without_tensors(value, missing) for key, value in node.items() if not gone(value)})
        case list():
            return [None if gone(child) else without_tensors(child, missing) for child in node]
        case tuple() if not isinstance(node, TorchSize):
            return tuple(None if gone(child) else without_tensors(child, missing) for child in node)
        case _:
            return node
