"""Which tensors of a pickled object are the model's, what they are called, and the tree of all the rest.

A well-known key (`WELL_KNOWN`, in that order) wins, and the names under it are bare; other tensors are extras, named by
their path. Without one, a root that holds tensors itself is the state_dict; else a single dict of tensors, wherever it
stands, is; and where several stand side by side, each keeps its path as prefix.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from ckptconv.core.metadata import (
    MetaNode,
    NumpyArray,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
    TorchValue,
    spell_path,
    walk,
)
from ckptconv.errors import LimitError, UnsafeError, UnsupportedError
from ckptconv.formats.torch.numpy_values import NumpyDType, NumpyStub
from ckptconv.formats.torch.pickle import Budget, Global, StateOrderedDict, Thing, Value
from ckptconv.formats.torch.stubs import RefusedTensor, StorageStub, TensorStub
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

WELL_KNOWN = ("state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "params", "weights")

Path = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Hole:
    """A mapping that is (part of) the state_dict: where it stands, and what its names are prefixed with."""

    path: Path
    mapping: dict[str, Value]
    prefix: str


def find_state_dicts(root: Value) -> tuple[list[Hole], bool]:
    """The mappings that hold the model's tensors, and whether tensors outside of them are the model's as well.

    No mapping where no dict in the file has tensors under string keys, or where names would not tell them apart.
    """
    base, found = _locate(root, ())
    if len(found) == 1:
        path, mapping = found[0]
        return [Hole(path, mapping, "")], False
    holes = [Hole(path, mapping, "".join(f"{key}." for key in path[len(base) :])) for path, mapping in found]
    return (holes if _prefixes_are_clear(holes) else []), not base


def _locate(node: Value, base: Path) -> tuple[Path, list[tuple[Path, dict[str, Value]]]]:
    """The path of the innermost well-known key, and the dicts of tensors under it."""
    if isinstance(node, dict) and len(base) < MAX_DEPTH:
        for key in WELL_KNOWN:
            below = node.get(key)
            if isinstance(below, dict) and any(True for _ in _tensor_dicts(below, (), set())):
                return _locate(below, (*base, key))
    found = list(_tensor_dicts(node, base, set()))
    if len(found) > 1 and found[0][1] is node and _is_itself_the_state_dict(node, found):
        return base, found[:1]
    return base, found


def _is_itself_the_state_dict(node: dict[str, Value], found: list[tuple[Path, dict[str, Value]]]) -> bool:
    """A dict with tensors of its own *and* dicts of tensors in it: dotted names, or more tensors, decide."""
    own = [key for key, value in node.items() if isinstance(value, TensorStub)]
    nested = sum(isinstance(value, TensorStub) for _, mapping in found[1:] for value in mapping.values())
    return any("." in key for key in own) or len(own) >= nested


def _tensor_dicts(node: Value, path: Path, seen: set[int]) -> Iterator[tuple[Path, dict[str, Value]]]:
    """Every dict that holds tensors directly and has string keys only, outermost first, each once."""
    if isinstance(node, dict):
        below = node.items()
    elif isinstance(node, (list, tuple)):
        below = enumerate(node)  # type: ignore[assignment]
    else:
        return
    if id(node) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(node))
    if isinstance(node, dict) and _holds_tensors(node):
        yield path, node
    for key, value in below:
        yield from _tensor_dicts(value, (*path, key), seen)


def _holds_tensors(node: dict[Value, Value]) -> bool:
    return any(isinstance(value, (TensorStub, RefusedTensor)) for value in node.values()) and all(
        type(key) is str for key in node
    )


def _prefixes_are_clear(holes: list[Hole]) -> bool:
    """Whether a name's longest matching prefix always says which mapping it came from, and no name comes twice."""
    names = [
        (hole.prefix + key, hole.prefix)
        for hole in holes
        for key, value in hole.mapping.items()
        if isinstance(value, TensorStub)
    ]
    prefixes = sorted((hole.prefix for hole in holes), key=len, reverse=True)
    if len({name for name, _ in names}) != len(names) or len(set(prefixes)) != len(prefixes):
        return False
    return all(next(p for p in prefixes if name.startswith(p)) == prefix for name, prefix in names)


@dataclass(slots=True)
class Tree:
    """What became of a pickled object: tensors by name, and the metadata tree around them."""

    root: MetaNode = None
    model: dict[str, TensorStub] = field(default_factory=dict)
    extras: dict[str, TensorStub] = field(default_factory=dict)
    objects: list[tuple[Thing, Opaque]] = field(default_factory=list)


def plant(value: Value, budget: Budget) -> Tree:
    """Turn what the pickle left into a tree. Raises UnsupportedError, UnsafeError, LimitError, naming the place."""
    return _Planter(*find_state_dicts(value), budget).plant(value)


def plant_attributes(attributes: dict[str, Value], budget: Budget) -> tuple[dict[str, MetaNode], list[str]]:
    """What was set on a tensor as Python attributes, and the names of those that hold tensors, which are left out."""
    trees = {str(key): _Planter([], False, budget).plant(value) for key, value in attributes.items()}
    kept = {key: tree.root for key, tree in trees.items() if not tree.extras}
    return kept, [key for key in trees if key not in kept]


def plant_unseen(tree: Tree, things: list[Thing], budget: Budget) -> tuple[Opaque, ...]:
    """The objects that stand nowhere in the tree: thrown away, overwritten, attributes of what does not keep them.

    Loading the file makes them all the same. One that is part of another is told with that one alone.
    """
    if not things:
        return ()
    shown = {id(node) for _, node in walk(tree.root) if isinstance(node, Opaque)}
    seen = {id(thing) for thing, opaque in tree.objects if id(opaque) in shown}
    unseen: list[Opaque] = []
    for thing in reversed(things):  # a whole is mostly made after its parts
        if id(thing) not in seen:
            planted = _Planter([], False, budget).plant(thing)
            seen.update(id(part) for part, _ in planted.objects)
            unseen.append(cast("Opaque", planted.root))
    return tuple(reversed(unseen))


class _Planter:
    def __init__(self, holes: list[Hole], all_are_the_models: bool, budget: Budget) -> None:
        self._holes = {hole.path: hole for hole in holes}
        self._tree = Tree()
        self._strays = self._tree.model if all_are_the_models else self._tree.extras
        self._open: set[int] = set()
        self._budget = budget
        # Names of the model first: an extra whose path reads the same has to give way.
        for hole in holes:
            for key, value in hole.mapping.items():
                if isinstance(value, TensorStub):
                    self._tree.model[hole.prefix + key] = value

    def plant(self, value: Value) -> Tree:
        self._tree.root = self._node(value, ())
        return self._tree

    def _node(self, value: Value, path: Path) -> MetaNode:
        self._budget.take(1)
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, bytearray)):
            return value
        if isinstance(value, (TorchValue, TorchSize, NumpyScalar)):
            return value
        if isinstance(value, TensorStub):
            return self._ref(value, path)
        if id(value) in self._open:
            raise UnsupportedError(
                f"{spell_path(path) or 'the root'} contains itself, and a cycle has no spelling outside of a pickle",
                hint="save the state_dict and plain metadata",
            )
        if len(path) > MAX_DEPTH:
            raise LimitError(f"the metadata is nested deeper than {MAX_DEPTH} levels", hint="do not trust it")
        self._open.add(id(value))
        node = self._container(value, path)
        self._open.discard(id(value))
        return node

    def _container(self, value: Value, path: Path) -> MetaNode:
        match value:
            case dict() if path in self._holes:
                return self._hole(self._holes[path], value, path)
            case dict():
                return self._dict(value, path)
            case list():
                return [self._node(item, (*path, i)) for i, item in enumerate(value)]
            case tuple():
                return tuple(self._node(item, (*path, i)) for i, item in enumerate(value))
            case frozenset():
                return frozenset(self._key(item, path) for item in value)
            case set():
                return {self._key(item, path) for item in value}
            case _:
                return self._other(value, path)

    def _dict(self, value: dict[Value, Value], path: Path) -> MetaNode:
        items = [(self._key(key, path), self._node(item, (*path, key))) for key, item in value.items()]
        match value:
            case Counter():
                return Counter(dict(items))
            case defaultdict():
                return defaultdict(value.default_factory, items)
            case OrderedDict():
                return OrderedDict(items)
            case _:
                return dict(items)

    def _key(self, key: Value, path: Path) -> Any:
        """A key or a member of a set: plain values and tuples of them."""
        if isinstance(key, (TensorStub, RefusedTensor, NumpyStub, StorageStub)):
            raise UnsupportedError(
                f"{spell_path(path) or 'the root'} uses a tensor as a key", hint="save plain metadata"
            )
        return self._node(key, (*path, "key"))

    def _hole(self, hole: Hole, value: dict[str, Value], path: Path) -> StateDict:
        plain = []
        for position, (key, item) in enumerate(value.items()):
            if isinstance(item, Thing) and _depends_on_tensor(item):
                raise UnsafeError(
                    f"the model's {key!r} is made by a call of {item.name}, which is not made here",
                    hint="load the file in a place that you can lose, and save model.state_dict()",
                )
            if not isinstance(item, TensorStub):
                plain.append((position, key, self._node(item, (*path, key))))
        state = value.state if isinstance(value, StateOrderedDict) else None
        versions = None
        if isinstance(state, dict) and "_metadata" in state:
            versions = self._node(state["_metadata"], (*path, "_metadata"))
        return StateDict(
            hole.prefix, "OrderedDict" if isinstance(value, OrderedDict) else "dict", tuple(plain), versions
        )

    def _ref(self, stub: TensorStub, path: Path) -> TensorRef:
        name = ".".join(_without_plumbing(path)) or "tensor"
        free, number = name, 2
        while free in self._tree.model or free in self._tree.extras:
            free, number = f"{name}#{number}", number + 1
        self._strays[free] = stub
        return TensorRef(free)

    def _other(self, value: Value, path: Path) -> MetaNode:
        match value:
            case Thing():
                return self._opaque(value, path)
            case Global():
                return Opaque(str(value), "named")
            case NumpyStub(array=NumpyArray() as array):
                return array
            case NumpyStub(state=state):
                return Opaque("numpy.ndarray", "constructed", state=self._node(state, (*path, "state")))
            case RefusedTensor(kind=kind):
                raise UnsupportedError(
                    f"the tensor {'.'.join(str(key) for key in path)!r} is {kind} and cannot be read",
                    hint="save it as a plain, dense tensor",
                )
            case StorageStub():
                raise UnsupportedError(
                    f"{spell_path(path) or 'the root'} is a bare storage without a tensor", hint="save tensors"
                )
            case NumpyDType():
                return Opaque("numpy.dtype", "constructed", (value.order + value.code,))
            case _:
                raise UnsupportedError(f"{spell_path(path)} is a {type(value).__name__}", hint="save plain metadata")

    def _opaque(self, thing: Thing, path: Path) -> Opaque:
        opaque = Opaque(
            thing.name,
            thing.how,
            tuple(self._node(arg, (*path, f"args[{i}]")) for i, arg in enumerate(thing.args)),
            {str(key): self._node(arg, (*path, key)) for key, arg in thing.kwargs.items()},
            self._node(thing.state, (*path, "state")),
            [self._node(item, (*path, f"items[{i}]")) for i, item in enumerate(thing.items)],
            [(self._node(key, (*path, "key")), self._node(item, (*path, key))) for key, item in thing.pairs],
        )
        self._tree.objects.append((thing, opaque))
        return opaque


_PLUMBING = ("_parameters", "_buffers", "_modules")


def _without_plumbing(path: Path) -> list[str]:
    """A path as `state_dict` would name it: a pickled module keeps its tensors in dicts of its ``__dict__``."""
    names = [str(key) for key in path]
    inside = [i for i, (a, b) in enumerate(pairwise(names)) if a == "state" and b in _PLUMBING]
    left_out = {*inside, *(i + 1 for i in inside)}
    return [name for i, name in enumerate(names) if i not in left_out]


def _depends_on_tensor(thing: Thing) -> bool:
    """Whether a call was handed a tensor, so that its result may be one."""
    waiting: list[Value] = [thing.args, thing.state, thing.items, thing.pairs]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (TensorStub, StorageStub, RefusedTensor)):
            return thing.how == "called"
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case dict():
                waiting.extend(value.values())
            case list() | tuple() | set() | frozenset():
                waiting.extend(value)
            case Thing():
                waiting.extend([value.args, value.state, value.items, value.pairs])
    return False
