"""The metadata tree: everything in a checkpoint that is neither a tensor nor bookkeeping, with its types.

A node is one of

    None bool int float complex str bytes bytearray
    list tuple set frozenset dict OrderedDict defaultdict Counter        (Python's own)
    TorchSize TorchValue NumpyScalar NumpyArray                          (values of other libraries, as data)
    TensorRef                                                            (stands for a tensor of the checkpoint)
    StateDict                                                            (stands for the model's tensors)
    Opaque                                                               (an object that we refuse to build, as data)

Nodes are data: holding one imports neither torch nor numpy. Trees have no cycles: if an object is a part of itself, an
`Opaque` there refers to the enclosing object.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterable, Iterator

MetaNode = object
"""Any node of the list above. Python's type system cannot say this recursive, invariant union usefully."""

N = TypeVar("N")
Key = object
"""A dictionary key or a sequence index on the path to a node."""


class TorchSize(tuple[int, ...]):
    """A ``torch.Size``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"


@dataclass(frozen=True, slots=True)
class TorchValue:
    """A named torch constant or a device: ``TorchValue("dtype", "float32")``, ``TorchValue("device", "cuda:0")``."""

    kind: Literal["dtype", "device", "layout", "qscheme", "memory_format"]
    name: str

    def __repr__(self) -> str:
        return f"torch.device({self.name!r})" if self.kind == "device" else f"torch.{self.name}"


@dataclass(frozen=True, slots=True)
class NumpyScalar:
    """A numpy scalar: its dtype as numpy's array protocol spells it (``"<f8"``), and its bytes."""

    dtype: str
    data: bytes


@dataclass(frozen=True, slots=True)
class NumpyArray:
    """A numpy array of a plain dtype; `data` is in C order, or in Fortran order if `fortran`."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    fortran: bool = False


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Stands in the place of a tensor; `name` is its name in the checkpoint or its extras."""

    name: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands in a written file for a value whose bytes are in the tensor `name`; `like` is the value without them."""

    name: str
    like: bytes | bytearray | NumpyArray


MAX_DEPTH = 64
"""How deep metadata may be nested. Python's recursion limit is 1,000 frames; spelling one level takes up to nine."""

StateDictType = Literal["OrderedDict", "dict"]


@dataclass(frozen=True, slots=True)
class StateDict:
    """Stands in the place of the model's tensors: those whose names start with `prefix`, in the checkpoint's order.

    container: the type of the mapping.
    plain:     its entries that are not tensors: (position among all entries, key, value).
    versions:  its ``_metadata`` attribute (module versions), which is bookkeeping; None if it had none.
    """

    prefix: str = ""
    container: StateDictType = "OrderedDict"
    plain: tuple[tuple[int, str, MetaNode], ...] = ()
    versions: MetaNode = None


How = Literal["named", "object", "constructed", "called", "handed", "enclosing", "unread"]

RUNS = ("called", "handed")
"""The values of `Opaque.how` that mean that loading the file may run code."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An object of a class that is not built here, as data.

    name: ``module.qualified_name``.
    how:  how the file would make it:
          "named", only mentioned; "object", created without a call of its own (``__new__``);
          "constructed", by a constructor known to be harmless; "called", by a call that would run code;
          "handed", a name that can run anything, passed to something that may call it; data never needs such a name;
          "enclosing", a reference to the object that contains this place; its path is the only argument;
          "unread", a tensor of a kind that is not read.
    """

    name: str
    how: How
    args: tuple[MetaNode, ...] = ()
    kwargs: dict[str, MetaNode] = field(default_factory=dict)
    state: MetaNode = None
    items: list[MetaNode] = field(default_factory=list)
    pairs: list[tuple[MetaNode, MetaNode]] = field(default_factory=list)


FACTORIES: dict[str, Callable[[], object] | None] = {
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.str": str,
    "builtins.bool": bool,
    "collections.OrderedDict": OrderedDict,
}
"""The factories that a ``defaultdict`` may have; with any other, it is Opaque."""

FACTORY_NAMES = {factory: name for name, factory in FACTORIES.items()}


def children(node: MetaNode) -> Iterator[tuple[Key, MetaNode]]:
    """The nodes directly under `node`, each with its key. Keys of dictionaries count too, but for plain values."""
    match node:
        case dict():
            yield from node.items()
            yield from _keys(node)
        case TorchSize():
            return
        case list() | tuple() | set() | frozenset():
            yield from enumerate(node)
        case Opaque():
            yield from ((f"args[{i}]", child) for i, child in enumerate(node.args))
            yield from node.kwargs.items()
            if node.state is not None:
                yield "state", node.state
            yield from ((f"items[{i}]", child) for i, child in enumerate(node.items))
            yield from ((f"pairs[{key!r}]", child) for key, child in node.pairs)
            yield from _keys(key for key, _ in node.pairs)
        case StateDict():
            yield from ((key, value) for _, key, value in node.plain)


_PLAIN = frozenset([str, int, float, bool, bytes, type(None)])


def _keys(keys: Iterable[Key]) -> Iterator[tuple[Key, MetaNode]]:
    """The keys of a mapping that may have nodes under them, such as tuples."""
    yield from ((f"keys[{i}]", key) for i, key in enumerate(keys) if type(key) not in _PLAIN)


def is_too_deep(node: MetaNode) -> bool:
    """Whether anything lies deeper than MAX_DEPTH under `node`. Does not recurse."""
    waiting = [(node, 0)]
    while waiting:
        parent, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return True
        waiting += [(child, depth + 1) for _, child in children(parent)]
        if isinstance(parent, StateDict):
            waiting.append((parent.versions, depth + 1))
    return False


def walk(node: MetaNode, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], MetaNode]]:
    """`node` and every node under it, parents first, each with its path."""
    yield path, node
    for key, child in children(node):
        if type(child) in _PLAIN:  # without recursion: lists may hold a million of these
            yield (*path, key), child
        else:
            yield from walk(child, (*path, key))


def nodes_of(root: MetaNode, kind: type[N]) -> Iterator[N]:
    """Every node of that kind in the tree, parents first."""
    return (node for _, node in walk(root) if isinstance(node, kind))


def objects_in(document: MetaNode, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], dict[str, MetaNode]]]:
    """Every object in a JSON document, parents first, each with its path.

    Does not recurse, since an untrusted document may be nested deeply.
    """
    waiting: list[tuple[tuple[Key, ...], MetaNode]] = [(path, document)]
    while waiting:
        where, node = waiting.pop()
        entries: list[tuple[Key, MetaNode]] = []
        if isinstance(node, dict):
            yield where, node
            entries = [*node.items()]
        elif isinstance(node, list):
            entries = [*enumerate(node)]
        waiting += [((*where, key), child) for key, child in reversed(entries) if isinstance(child, (dict, list))]


def opaque_wholes(root: MetaNode) -> Iterator[tuple[tuple[Key, ...], Opaque]]:
    """Every Opaque that is not inside another one, and every call wherever it is, each with its path."""
    inside: tuple[Key, ...] | None = None
    for path, node in walk(root):
        if inside is not None and path[: len(inside)] != inside:
            inside = None
        if isinstance(node, Opaque) and (inside is None or node.how in RUNS):
            yield path, node
            inside = path if inside is None else inside


_ACCESS = re.compile(r"(args|items|pairs|keys)\[[\x20-\x7e]*\]")
"""The keys that `children` gives to parts of an Opaque, and to dictionary keys."""


def spell_path(path: tuple[Key, ...]) -> str:
    """A path as text: ``("hidden", 0, "a b")`` is ``hidden[0]['a b']``."""
    parts: list[str] = []
    for key in path:
        plain = isinstance(key, str) and key.replace(".", "_").isidentifier()
        if plain or (isinstance(key, str) and _ACCESS.fullmatch(key)):
            parts.append(f".{key}" if parts else str(key))
        else:
            parts.append(f"[{_spelled(key)}]")
    return "".join(parts)


def _spelled(key: Key) -> str:
    """A key that is no name; of an object its class alone, also within a tuple."""
    match key:
        case Opaque():
            return f"<{key.name}>"
        case tuple() if any(isinstance(one, (Opaque, tuple)) for one in key):
            return f"({', '.join(map(_spelled, key))}{',' if len(key) == 1 else ''})"
    return repr(key)


def rebuilt(node: MetaNode, replace: Callable[[MetaNode], MetaNode]) -> MetaNode:
    """A copy of the tree with `replace` applied to every leaf that is not a container."""

    def again(child: MetaNode) -> MetaNode:
        return rebuilt(child, replace)

    match node:
        case Counter():
            return Counter({key: again(value) for key, value in node.items()})
        case OrderedDict():
            return OrderedDict((key, again(value)) for key, value in node.items())
        case defaultdict():
            return defaultdict(node.default_factory, {key: again(value) for key, value in node.items()})
        case dict():
            return {key: again(value) for key, value in node.items()}
        case list():
            return [again(child) for child in node]
        case TorchSize() | set() | frozenset():
            return node
        case tuple():
            return tuple(again(child) for child in node)
        case Opaque():
            return Opaque(
                node.name,
                node.how,
                tuple(again(child) for child in node.args),
                {key: again(child) for key, child in node.kwargs.items()},
                again(node.state),
                [again(child) for child in node.items],
                [(key, again(child)) for key, child in node.pairs],
            )
        case StateDict():
            plain = tuple((position, key, again(value)) for position, key, value in node.plain)
            return StateDict(node.prefix, node.container, plain, node.versions)
        case _:
            return replace(node)


NOTHING = object()
"""What `without_model` returns for a part of the tree that holds only tensors of the model."""


def without_model(node: MetaNode, model: Container[str]) -> MetaNode:
    """The tree without the model's tensors, and without containers that held nothing else.

    A list or tuple that held one becomes a dictionary of its other entries by position.
    """
    match node:
        case StateDict(plain=plain):
            entries = {key: without_model(value, model) for _, key, value in plain}
            return {key: value for key, value in entries.items() if value is not NOTHING} or NOTHING
        case TensorRef(name) if name in model:
            return NOTHING
        case dict():
            values = {key: without_model(value, model) for key, value in node.items()}
            if all(values[key] is value for key, value in node.items()):
                return node
            kept = {key: value for key, value in values.items() if value is not NOTHING}
            if not kept:
                return NOTHING
            is_special = type(node) is not dict and not hasattr(node, "default_factory")  # an OrderedDict, say
            return type(node)(kept) if is_special else kept
        case list() | tuple():
            items = [without_model(child, model) for child in node]
            if all(new is old for new, old in zip(items, node, strict=True)):
                return node
            return {i: item for i, item in enumerate(items) if item is not NOTHING} or NOTHING
        case _:
            return node


def hashable(node: MetaNode) -> Hashable:
    """The node itself, if it may be a dictionary key. Raises TypeError otherwise."""
    hash(node)
    return node
