"""Finds where two metadata trees differ in value or type: 3 is not 3.0, and a tuple is not a list."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, StateDict, TensorRef, TorchSize, rebuilt, spell_path
from ckptconv.core.spelling import canonical, dumps, to_json
from ckptconv.core.text import cut

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterator, Mapping

    from ckptconv.core.checkpoint import MetaDict

MAX_TEXT = 200
"""The most characters of a value in a finding."""

MAX_DECIMAL_BITS = 400
"""Longer ints are spelled in hexadecimal, since Python refuses to write very long ones in decimal."""


class Missing:
    """Stands for a value that is missing on one side."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


@dataclass(frozen=True, slots=True, eq=False)
class MetadataChange:
    """A path at which two trees differ, with the values on both sides, or `MISSING`."""

    path: tuple[object, ...]
    expected: MetaNode
    found: MetaNode

    @property
    def where(self) -> str:
        """The path as text."""
        return spell_path(self.path)

    def is_place_of(self, names: Container[str]) -> bool:
        """Whether nothing changed but that one side has a tensor here, and it is one of `names`."""
        values = [value for value in (self.expected, self.found) if not isinstance(value, Missing)]
        return len(values) == 1 and isinstance(values[0], TensorRef) and values[0].name in names

    @property
    def texts(self) -> tuple[str, str]:
        """Both values as text, with their types if these differ."""
        return typed(self.expected, self.found, spell(self.expected), spell(self.found))


def compare_metadata(a: MetaDict, b: MetaDict, names: Mapping[str, str]) -> list[MetadataChange]:
    """The changes from `a` to `b`. `names` maps the names of tensors in `a` to those in `b`."""

    def renamed(leaf: MetaNode) -> MetaNode:
        return TensorRef(names.get(leaf.name, leaf.name)) if isinstance(leaf, TensorRef) else leaf

    left = rebuilt(a, renamed) if any(old != new for old, new in names.items()) else a
    return list(_changes(left, b, ()))


def typed(a: MetaNode, b: MetaNode, one: str, other: str) -> tuple[str, str]:
    """The spelled values `one` and `other`, each with the name of its type in front if the types differ."""
    if type(a) is type(b) or None in (a, b) or isinstance(a, Missing) or isinstance(b, Missing):
        return one, other
    return f"{type(a).__name__} {one}", f"{type(b).__name__} {other}"


def _changes(a: MetaNode, b: MetaNode, path: tuple[object, ...]) -> Iterator[MetadataChange]:
    if canonical(a) == canonical(b):
        return
    below = list(_changes_below(a, b, path)) if type(a) is type(b) else []
    yield from below or [MetadataChange(path, a, b)]


def _changes_below(a: MetaNode, b: MetaNode, path: tuple[object, ...]) -> Iterator[MetadataChange]:
    match a, b:
        case (defaultdict(), defaultdict()) if a.default_factory is not b.default_factory:
            return
        case (dict(), dict()):
            yield from _compare_keys(a, b, path)
        case (TorchSize(), _):
            return
        case (list() | tuple(), list() | tuple()):
            if len(a) == len(b) or not _are_scalars((*a, *b)) or a[: len(b)] == b[: len(a)]:
                yield from _compare_keys(dict(enumerate(a)), dict(enumerate(b)), path)
        case (Opaque(), Opaque()) if (a.name, a.how) == (b.name, b.how):
            yield from _compare_keys(_opaque_parts(a), _opaque_parts(b), path)


def _compare_keys(
    a: Mapping[Hashable, MetaNode], b: Mapping[Hashable, MetaNode], path: tuple[object, ...]
) -> Iterator[MetadataChange]:
    """Compare key by key. Keys of different types differ: 1 is not True."""
    left, right = ({_typed_key(key): (key, value) for key, value in side.items()} for side in (a, b))
    for mark, (key, value) in left.items():
        if mark not in right:
            yield MetadataChange((*path, key), value, MISSING)
        else:
            yield from _changes(value, right[mark][1], (*path, key))
    for mark, (key, value) in right.items():
        if mark not in left:
            yield MetadataChange((*path, key), MISSING, value)


def _typed_key(key: Hashable) -> object:
    return key if isinstance(key, str) else (type(key), canonical(key))


def _opaque_parts(node: Opaque) -> dict[Hashable, MetaNode]:
    pairs: dict[Hashable, MetaNode] = {f"pairs[{key!r}]": value for key, value in node.pairs}
    named: list[tuple[Hashable, MetaNode]] = [("args", node.args), *node.kwargs.items(), ("state", node.state)]
    return {**dict(named), "items": node.items, **pairs}


def _are_scalars(nodes: tuple[MetaNode, ...]) -> bool:
    return all(node is None or isinstance(node, (bool, int, float, complex, str)) for node in nodes)


def spell(node: MetaNode) -> str:
    """A value in Python's spelling, cut if it is long."""
    if isinstance(node, Missing):
        return "nothing"
    if isinstance(node, int) and not isinstance(node, bool) and node.bit_length() > MAX_DECIMAL_BITS:
        text = hex(node)
    elif node is None or isinstance(node, (bool, int, float, complex, str, bytes, bytearray, Missing)):
        text = repr(node[:MAX_TEXT] if isinstance(node, (str, bytes, bytearray)) else node)
    elif isinstance(node, (list, tuple)) and type(node) in (list, tuple) and _are_scalars(tuple(node[:MAX_TEXT])):
        parts = ", ".join(spell(child) for child in node[:MAX_TEXT])
        text = f"[{parts}]" if isinstance(node, list) else f"({parts}{',' if len(node) == 1 else ''})"
    elif isinstance(node, (TensorRef, StateDict)):
        text = f"<tensor {node.name}>" if isinstance(node, TensorRef) else "<the model's tensors>"
    elif isinstance(node, (dict, list, tuple, set, frozenset, OrderedDict, Opaque)) or hasattr(node, "data"):
        text = dumps(to_json(node))
    else:
        text = repr(node)
    return cut(text, MAX_TEXT)
