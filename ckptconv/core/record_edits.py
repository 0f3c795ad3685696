"""Reads a record after other tools have edited its file.

An unchanged string stands for the typed value. A changed one is read as JSON, and gets the old type if that is exact
(list → tuple, int → float); otherwise, or if it is nested too deeply, it is a string. A new one is a string; a missing
one is deleted. A reference to a tensor that no longer exists is ignored, with a finding. Keys that cannot have a string
(those that are not strings themselves, ``ckptconv``, a tie's name) are only in the record, and never count as deleted.
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
    """The record's tree, with the changes that other tools made to the readable strings."""
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
        key: value if key not in known else _edited_value(strings[key], value)
        for key, value in record.root.items()
        if key not in known or key in strings
    }
    return _same_type(record.root, {**root, **new})


def add_values(root: MetaNode, values: Mapping[str, MetaNode]) -> MetaNode:
    """`root` with values that other tools have put into the file, under free keys."""
    if not isinstance(root, dict):
        return add_strings(root, values)
    return _same_type(root, {**root, **{free_key(key, root): value for key, value in values.items()}})


def add_strings(root: MetaNode, strings: Mapping[str, MetaNode]) -> MetaNode:
    """`root` with string metadata beside it; unchanged if there is none."""
    if not strings:
        return root
    key = "state_dict" if isinstance(root, StateDict) else "data"
    return {**strings, key: root}


def _same_type(old: dict[Any, MetaNode], items: dict[Any, MetaNode]) -> MetaNode:
    if type(old) is OrderedDict:
        return OrderedDict(items)
    if type(old) is dict:
        return items
    copy = old.copy()
    copy.clear()
    copy.update(items)
    return copy


def _edited_value(text: str, old: MetaNode) -> MetaNode:
    if text == readable(old):
        return old
    if type(old) is str:
        return text
    try:
        value = _as_old_type(from_json(strict_json.loads(text)), old)
    except (ValueError, TypeError, RecursionError):  # TypeError: a value that cannot be in a set
        return text
    return text if is_too_deep([value]) else value


def _as_old_type(new: MetaNode, old: MetaNode) -> MetaNode:
    """`new` with the type of `old`, if that is exact. Raises ValueError otherwise."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        items = [_as_old_type(item, old[min(i, len(old) - 1)]) if old else item for i, item in enumerate(new)]
        return TorchSize(_sizes(items)) if isinstance(old, TorchSize) else type(old)(items)
    if isinstance(old, (set, frozenset)) and isinstance(new, list):
        return type(old)([without(item, Stored, StateDict) for item in new])
    if isinstance(old, dict) and type(new) is dict:
        keys = {plain_key(key): key for key in old}
        named = {keys.get(key, key): value for key, value in new.items()}
        return _same_type(
            old, {key: _as_old_type(value, old[key]) if key in old else value for key, value in named.items()}
        )
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
    """The tree without references to tensors that are not in the file. Each of them gets a finding."""
    missing = {node.name for node in nodes_of(root, TensorRef) if node.name not in names}
    findings += [
        Finding("lost-tensor", "warning", name, f"the record mentions {name!r}, which is not in the file")
        for name in sorted(missing)
    ]
    return without_tensors(root, missing) if missing else root


def without_tensors(node: MetaNode, missing: Container[str]) -> MetaNode:
    """The tree without references to these tensors. In a list or a tuple, None takes their place."""

    def gone(child: MetaNode) -> bool:
        return isinstance(child, TensorRef) and child.name in missing

    match node:
        case dict():
            return _same_type(
                node, {key: without_tensors(value, missing) for key, value in node.items() if not gone(value)}
            )
        case list():
            return [None if gone(child) else without_tensors(child, missing) for child in node]
        case tuple() if not isinstance(node, TorchSize):
            return tuple(None if gone(child) else without_tensors(child, missing) for child in node)
        case _:
            return node
