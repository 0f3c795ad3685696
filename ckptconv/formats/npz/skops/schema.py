"""Turns the schema of a skops archive into metadata: objects as data, and what loading them would run.

Every node of ``schema.json`` is an object with

    "__module__", "__class__"   the type, or the function itself
    "__loader__"                how the object is made: "ObjectNode" and so on (`_LOADERS`)
    "__id__"                    a number; a later node with the number of an earlier one is that node, whatever it says
    "content", …                what the object is made from, depending on the loader: nodes, names of files

skops loads an object only if its type is trusted for the loader (`trusted`), or the caller trusts it; other types are
reported as code that runs if they are trusted. For operators and methods, releases before 0.12 asked about another type
than they loaded (CVE-2025-54412, CVE-2025-54413); before 0.16, anything in numpy.random that was named as a bit
generator was called without asking. Such nodes are reported as calls; no honest file has them.

Refused: unknown loaders, objects that contain themselves, keys without a type, files that are missing.

Source: skops/io/_audit.py (`get_tree`), _general.py, _numpy.py, _scipy.py, _sklearn.py, old/.
"""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.collisions import Collisions
from ckptconv.core.metadata import FACTORIES, MetaNode, Opaque, spell_path
from ckptconv.core.names import NameBudget
from ckptconv.core.notes import Program
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.npz.skops.nodes import bad, parse_key, text, type_of, where
from ckptconv.formats.npz.skops.trusted import GENERATORS, TRUSTED
from ckptconv.io.limits import FREE_NODES, MAX_DEPTH, MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.npz.skops.nodes import Files, Node, Path

BY = "skops"
OLD = "older releases of skops"
"""Who loads an object: skops, or only releases that did so without asking."""

TRUST = "trusted=[…]"

BYTES_A_NODE = 16
"""The schema needs this many bytes for each value beyond `FREE_NODES`. A real node takes ten times as many, but may be
in several places."""


class Schema:
    """Builds the objects of a schema.

    programs: the types that skops loads only if they are trusted, each once.
    """

    def __init__(self, files: Files, size: int, protocol: int) -> None:
        self._files = files
        self._protocol = protocol
        self._most = min(MAX_NODES, max(FREE_NODES, size // BYTES_A_NODE))
        self._count = 0
        self._nodes_by_id: dict[object, Node] = {}
        self._building: set[object] = set()
        self._depth = 0
        self._name_budget = NameBudget()
        self.programs: dict[tuple[str, str], Program] = {}

    def build(self, given: object, path: Path) -> MetaNode:
        """The object that a node describes. Raises CorruptFileError, LimitError, UnsupportedError."""
        node = self._resolve(given, path)
        self._count_values(1)
        loader, type_ = text(node, "__loader__", path), type_of(node, path)
        build = _LOADERS.get(loader)
        if build is None:
            raise UnsupportedError(
                f"{where(path)} has the loader {loader!r} of the type {type_!r}, which is not known here",
                hint="load it with skops, and save it again as what is known",
            )
        mark = id(node)
        if mark in self._building:
            raise UnsupportedError(f"{where(path)} is a part of itself", hint="skops loads no such file either")
        if self._depth >= MAX_DEPTH:
            raise LimitError(f"its tree is more than {MAX_DEPTH} levels deep")
        if loader not in _OWN_TYPES and type_ not in TRUSTED.get(loader, ()):
            self._report_untrusted(type_, path)
        self._building.add(mark)
        self._depth += 1
        try:
            return build(self, node, type_, path)
        finally:
            self._depth -= 1
            self._building.discard(mark)

    def _resolve(self, given: object, path: Path) -> Node:
        """The node, or an earlier one with the same number. Raises CorruptFileError."""
        if not isinstance(given, dict):
            raise bad(path, "is not a node")
        number = given.get("__id__")
        if number is not None and type(number) not in (int, str):
            raise bad(path, "has no number for its __id__")
        if number in self._nodes_by_id:
            return self._nodes_by_id[number]
        if given.get("__loader__") == "CachedNode":
            raise bad(path, "stands for a node that was not there before")
        if number:
            self._nodes_by_id[number] = given
        return given

    def _count_values(self, count: int) -> None:
        self._count += count
        if self._count > self._most:
            raise LimitError(f"its tree has more than {self._most:,} values, those that stand in several places each")

    def _report_untrusted(self, type_: str, path: Path) -> None:
        """Report a type that is loaded only if it is trusted."""
        self._add_program(type_, BY, TRUST, path)

    def _report_call(self, name: str, path: Path) -> None:
        """Report what older releases load without asking."""
        self._add_program(name, OLD, "", path)

    def _add_program(self, name: str, by: str, only_if: str, path: Path) -> None:
        if (name, only_if) not in self.programs:
            where = self._name_budget.counted(spell_path(path))
            self.programs[name, only_if] = Program(where, Opaque(name, "called"), by, only_if)

    def _items(self, node: Node, path: Path) -> list[MetaNode]:
        content = node.get("content")
        if not isinstance(content, list):
            raise bad(path, "has no list of what is in it")
        return [self.build(item, (*path, i)) for i, item in enumerate(content)]

    def _part(self, node: Node, key: str, path: Path, name: object = None) -> MetaNode:
        """The object of the inner node under a key, at the path's end or under `name`."""
        if key not in node:
            raise bad(path, f"has no {key!r}")
        return self.build(node[key], path if name is None else (*path, name))

    def _content(self, node: Node, path: Path) -> Node:
        content = node.get("content")
        if not isinstance(content, dict):
            raise bad(path, "has nothing that it is made of")
        return content

    def _json(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = text(node, "content", path)
        self._count_values(sum(map(content.count, "[{,")))
        try:
            value: MetaNode = json.loads(content)  # as skops does
        except (ValueError, RecursionError) as error:
            raise bad(path, f"is not JSON: {error}") from error
        return value

    def _dict(self, node: Node, type_: str, path: Path) -> MetaNode:
        types = self._key_types(node, path)
        content = self._content(node, path)
        if len(types) != len(content):
            raise bad(path, f"has {len(content):,} entries, and types of {len(types):,} keys")
        keys = [parse_key(kind, key, path) for kind, key in zip(types, content, strict=True)]
        Collisions().add(node, keys)
        if len(set(keys)) < len(keys):
            raise bad(path, "has two keys that are one")
        values = [self.build(value, (*path, key)) for key, value in content.items()]
        pairs = [*zip(keys, values, strict=True)]
        if type_ == "builtins.dict":
            return dict(pairs)
        if type_ == "collections.OrderedDict":
            return OrderedDict(pairs)
        return Opaque(type_, "object", pairs=pairs)

    def _key_types(self, node: Node, path: Path) -> list[str]:
        keys = self._resolve(node.get("key_types"), path)
        if keys.get("__loader__") != "ListNode":
            raise bad(path, "has no list of the types of its keys")
        self.build(keys, path)
        return [type_of(self._resolve(key, path), path) for key in keys["content"]]

    def _defaultdict(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        main, factory = self._part(content, "main", path), self._part(content, "default_factory", path)
        name = factory.name if isinstance(factory, Opaque) else ""
        if isinstance(main, dict) and (factory is None or name in FACTORIES):
            return defaultdict(FACTORIES[name] if name else None, main)
        return Opaque(type_, "object", (factory,), state=main)

    def _list(self, node: Node, type_: str, path: Path) -> MetaNode:
        items = self._items(node, path)
        return items if type_ == "builtins.list" else Opaque(type_, "object", items=items)

    def _tuple(self, node: Node, type_: str, path: Path) -> MetaNode:
        items = self._items(node, path)
        return tuple(items) if type_ == "builtins.tuple" else Opaque(type_, "object", tuple(items))

    def _set(self, node: Node, type_: str, path: Path) -> MetaNode:
        items = self._items(node, path)
        if type_ != "builtins.set" or not all(type(item) in (str, int, float, bool, bytes) for item in items):
            return Opaque(type_, "object", items=items)
        Collisions().add(node, items)
        return set(items)

    def _bytes(self, node: Node, type_: str, path: Path) -> MetaNode:
        data = self._files.data(text(node, "file", path))
        return data if type_ == "builtins.bytes" else Opaque(type_, "object", (data,))

    def _bytearray(self, node: Node, type_: str, path: Path) -> MetaNode:
        data = bytearray(self._files.data(text(node, "file", path)))
        return data if type_ == "builtins.bytearray" else Opaque(type_, "object", (data,))

    def _slice(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        ends = tuple(content.get(key) for key in ("start", "stop", "step"))
        if any(end is not None and type(end) is not int for end in ends):
            raise bad(path, "is a slice between what are not numbers")
        return Opaque("builtins.slice", "constructed", ends)

    def _name(self, node: Node, type_: str, path: Path) -> MetaNode:
        return Opaque(type_, "named")

    def _function(self, node: Node, type_: str, path: Path) -> MetaNode:
        if self._protocol == 0:
            content = self._content(node, path)
            type_ = f"{text(content, 'module_path', path)}.{text(content, 'function', path)}"
        if type_ not in TRUSTED["FunctionNode"]:
            self._report_untrusted(type_, path)
        return Opaque(type_, "named")

    def _partial(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        func, args, kwds, attributes = (
            self._part(content, key, path, key) for key in ("func", "args", "kwds", "namespace")
        )
        return Opaque(type_, "object", (func, args, kwds), state=attributes)

    def _object(self, node: Node, type_: str, path: Path) -> MetaNode:
        state = self.build(node["content"], (*path, "state")) if node.get("content") is not None else None
        return Opaque(type_, "object", state=state)

    def _constructed(self, node: Node, type_: str, path: Path) -> MetaNode:
        return Opaque(type_, "object", (self._part(node, "content", path, "args[0]"),))

    def _method(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        owner = self._resolve(content.get("obj"), path)
        name = f"{type_of(owner, path)}.{text(content, 'func', path)}"
        if type_ == type_of(owner, path):
            self._report_untrusted(type_, path)
            self._report_untrusted(name, path)
        else:
            self._report_call(name, path)
        return Opaque(name, "object", (self.build(owner, (*path, "args[0]")),))

    def _operator(self, node: Node, type_: str, path: Path) -> MetaNode:
        called = f"operator.{text(node, '__class__', path)}"
        if type_ == called:
            self._report_untrusted(type_, path)
        else:
            self._report_call(called, path)
        return Opaque(called, "object", (self._part(node, "attrs", path, "args[0]"),))

    def _ndarray(self, node: Node, type_: str, path: Path) -> MetaNode:
        if node.get("type") == "json":
            items = self._items(node, path)
            return Opaque(type_, "object", (items, self._part(node, "shape", path)))
        if node.get("type") != "numpy":
            raise bad(path, "is an array that is stored in no known way")
        file = text(node, "file", path)
        if type_ == "numpy.ndarray":
            return self._files.array(file, path)
        if type_ in TRUSTED["NdArrayNode"]:
            return self._files.scalar(file, path)
        return Opaque(type_, "object", (self._files.array(file, (*path, "args[0]")),))

    def _masked(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        return Opaque(type_, "object", tuple(self._part(content, key, path, key) for key in ("data", "mask")))

    def _dtype(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._resolve(node.get("content"), path)
        descr = self._files.type_of(text(content, "file", path)) if content.get("type") == "numpy" else "|O"
        return Opaque(type_, "constructed", (descr,))

    def _state(self, node: Node, type_: str, path: Path) -> MetaNode:
        return Opaque(type_, "object", state=self._part(node, "content", path, "state"))

    def _generator(self, node: Node, type_: str, path: Path) -> MetaNode:
        content = self._content(node, path)
        if self._protocol == 0:
            state = content.get("bit_generator")
            name, seeds = state.get("bit_generator") if isinstance(state, dict) else None, None
        else:
            state = self._part(content, "bit_generator", path, "state")
            name = state.get("bit_generator") if isinstance(state, dict) else None
            seeds = self._part(content, "seed_seq", path, "seed") if "seed_seq" in content else None
        if not isinstance(name, str):
            raise bad(path, "is a random generator of no known kind")
        if (called := f"numpy.random.{name}") not in GENERATORS:
            self._report_call(called, path)
        return Opaque(type_, "object", (state, seeds))

    def _sparse(self, node: Node, type_: str, path: Path) -> MetaNode:
        return self._files.unread(type_, text(node, "file", path), path, "a sparse matrix in an archive of its own")

    def _reduced(self, node: Node, type_: str, path: Path) -> MetaNode:
        state = self._part(node, "content", path, "state")
        reduced = node.get("__reduce__")
        if not isinstance(reduced, dict):
            raise bad(path, "says nothing of how it is made")
        args = self._part(reduced, "args", path, "args")
        return Opaque(type_, "object", tuple(args) if isinstance(args, tuple) else (args,), state=state)

    def _tree(self, node: Node, type_: str, path: Path) -> MetaNode:
        self._report_untrusted(_TREE, path)  # whatever type the node states
        return self._reduced(node, type_, path)

    def _deprecated(self, node: Node, type_: str, path: Path) -> MetaNode:
        return Opaque(type_, "object", state=self._part(self._content(node, path), "main", path, "state"))


_TREE = "sklearn.tree._tree.Tree"

_LOADERS: dict[str, Callable[[Schema, Node, str, Path], MetaNode]] = {
    "JsonNode": Schema._json, "DictNode": Schema._dict, "DefaultDictNode": Schema._defaultdict,
    "ListNode": Schema._list, "TupleNode": Schema._tuple, "SetNode": Schema._set, "BytesNode": Schema._bytes,
    "BytearrayNode": Schema._bytearray, "SliceNode": Schema._slice, "TypeNode": Schema._name,
    "FunctionNode": Schema._function, "PartialNode": Schema._partial, "ObjectNode": Schema._object,
    "ConstructorFromReduceNode": Schema._constructed, "MethodNode": Schema._method,
    "OperatorFuncNode": Schema._operator, "NdArrayNode": Schema._ndarray, "MaskedArrayNode": Schema._masked,
    "DTypeNode": Schema._dtype, "RandomStateNode": Schema._state, "RandomGeneratorNode": Schema._generator,
    "SparseMatrixNode": Schema._sparse, "TreeNode": Schema._tree, "LossNode": Schema._reduced,
    "QuantileForestNode": Schema._reduced, "_DictWithDeprecatedKeysNode": Schema._deprecated,
}  # fmt: skip

_OWN_TYPES = frozenset(["JsonNode", "SliceNode", "FunctionNode", "MethodNode", "OperatorFuncNode"])
"""Loaders for which skops checks no type, or which check types themselves."""
