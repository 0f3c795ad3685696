"""A pickled object as a tree: tensors by name, those of the model apart (`find`), and everything else as metadata."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from ckptconv.core.metadata import (
    MetaNode,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
    TorchValue,
    nodes_of,
    spell_path,
)
from ckptconv.core.names import ALONE, Names, numbered
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.torch.pickle import Budget, Elided, Global, StateOrderedDict, UnbuiltObject, Value
from ckptconv.formats.torch.tree.find import StateMapping, find_state_dicts
from ckptconv.formats.torch.tree.modules import ModuleState, Path
from ckptconv.formats.torch.tree.refused_calls import refuse_call
from ckptconv.formats.torch.values.numpy_values import NumpyDType, NumpyStub
from ckptconv.formats.torch.values.stubs import RefusedTensor, StorageStub, TensorStub, WrappedTensor, as_tensor
from ckptconv.formats.trees import tensordicts
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(slots=True)
class Tree:
    """A pickled object as tensors by name, and the metadata tree around them.

    root:     the metadata tree, with references to the tensors.
    model:    the model's tensors, by their names in the state_dict.
    extras:   all other tensors, by their path.
    objects:  unbuilt objects, each with its node in the tree.
    refused:  the kinds of tensors that are not read, by their path.
    versions: the ``_metadata`` of state_dicts other than the model's, by their path.
    """

    root: MetaNode = None
    model: dict[str, TensorStub] = field(default_factory=dict)
    extras: dict[str, TensorStub] = field(default_factory=dict)
    objects: list[tuple[UnbuiltObject, Opaque]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    versions: dict[Path, Value] = field(default_factory=dict)


def plant(value: Value, budget: Budget) -> Tree:
    """Turn an unpickled object into a tree. Raises UnsupportedError, UnsafeError, LimitError, with the path in them."""
    return _Planter(*find_state_dicts(value), budget).plant(value)


def plant_state_dict(tensors: OrderedDict[str, Value], beside: dict[Value, Value], budget: Budget) -> Tree:
    """A tree whose model is `tensors`, under their own names, with the values in `beside` next to the state_dict."""
    path: Path = ("state_dict",) if beside else ()
    value = {"state_dict": tensors, **beside} if beside else tensors
    return _Planter([StateMapping(path, tensors, "")], False, budget).plant(value)


def put(beside: dict[Value, Value], entries: Mapping[Value, Value]) -> None:
    """Add entries to the values beside a state_dict. A key that is taken already gets a number."""
    for key, value in entries.items():
        free, number = key, 2
        while free in beside or free == "state_dict":
            free, number = (f"{key}#{number}" if isinstance(key, str) else (key, number)), number + 1
        beside[free] = value


def plant_attributes(attributes: dict[str, Value], budget: Budget) -> tuple[dict[str, MetaNode], list[str]]:
    """The Python attributes that were set on a tensor, and the names of those left out because they hold tensors."""
    trees = {str(key): _Planter([], False, budget).plant(value) for key, value in attributes.items()}
    kept = {key: tree.root for key, tree in trees.items() if not tree.extras}
    return kept, [key for key in trees if key not in kept]


def plant_versions(tree: Tree, budget: Budget) -> dict[tuple[str | int, ...], MetaNode]:
    """The module versions of state_dicts other than the model's, by their path. Only those that are plain values, under
    a path of strings and ints.
    """
    kept: dict[tuple[str | int, ...], MetaNode] = {}
    for path, value in tree.versions.items():
        keys = tuple(key for key in path if isinstance(key, str) or type(key) is int)
        if len(keys) < len(path):
            continue
        planted = _Planter([], False, budget).plant(value)
        if not planted.extras and not planted.objects:
            kept[keys] = planted.root
    return kept


def plant_unseen(tree: Tree, unbuilt: list[UnbuiltObject], budget: Budget) -> tuple[Opaque, ...]:
    """The unbuilt objects that are nowhere in the tree: dropped, overwritten, or attributes of something that does not
    keep them.

    Loading the file creates them all the same. One that is part of another is not listed again.
    """
    if not unbuilt:
        return ()
    shown = {id(node) for node in nodes_of(tree.root, Opaque)}
    seen = {id(obj) for obj, opaque in tree.objects if id(opaque) in shown}
    unseen: list[Opaque] = []
    for obj in reversed(unbuilt):  # an object is mostly made after its parts
        if id(obj) not in seen:
            planted = _Planter([], False, budget).plant(obj)
            seen.update(id(part) for part, _ in planted.objects)
            unseen.append(cast("Opaque", planted.root))
    return tuple(reversed(unseen))


class _Planter:
    """Builds one tree.

    mappings:  the mappings that hold the model's tensors.
    all_model: whether tensors outside these mappings are the model's as well.
    """

    def __init__(self, mappings: list[StateMapping], all_model: bool, budget: Budget) -> None:
        self._mappings = {mapping.path: mapping for mapping in mappings}
        self._tree = Tree()
        self._strays = self._tree.model if all_model else self._tree.extras
        self._open: dict[int, Path] = {}
        self._spelled: dict[int, str] = {}
        self._names = Names()
        self._budget = budget
        self._named: dict[Path, str] = {}
        self._modules: set[Path] = set()
        # Names of the model come first: an extra with the same name gets a number.
        for mapping in mappings:
            paths = mapping.tensors.paths if isinstance(mapping.tensors, ModuleState) else {}
            places = {name: path for path, name in paths.items()}
            for key, value in mapping.tensors.items():
                if isinstance(value, TensorStub):
                    self._tree.model[self._names.made(mapping.prefix + key)] = value
                elif isinstance(value, WrappedTensor) or _is_packed(key, value):
                    self._open_wrapped(mapping.prefix + key, (*mapping.path, *places.get(key, (key,))), value)
            if isinstance(mapping.tensors, ModuleState):
                self._open_module(mapping, mapping.tensors)

    def _open_module(self, mapping: StateMapping, state: ModuleState) -> None:
        """Remember the paths of a module's tensors, so that they get their state_dict names there."""
        for key, value in state.items():
            refuse_call(key, value)
        self._named |= {(*mapping.path, *path): mapping.prefix + name for path, name in state.paths.items()}
        self._modules |= {(*mapping.path, *path) for path in state.modules}

    def _open_wrapped(self, whole: str, path: Path, value: Value) -> None:
        """Add the tensors inside a wrapped tensor of the model to the model."""
        for steps, words, stub in _wrapped(value, (), (), set()):
            name = self._free(".".join((whole, *words)))
            self._tree.model[name] = stub
            self._named[(*path, *steps)] = name

    def plant(self, value: Value) -> Tree:
        self._tree.root = self._node(value, ())
        return self._tree

    def _node(self, value: Value, path: Path) -> MetaNode:
        self._budget.take(1)
        if isinstance(value, Elided):
            return value.whole()
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, bytearray)):
            return value
        if isinstance(value, (TorchValue, TorchSize, NumpyScalar)):
            return value
        if isinstance(value, TensorStub):
            return self._ref(value, path)
        if id(value) in self._open:  # a child that refers to its parent, as in OmegaConf's trees
            spelled = self._spelled.get(id(value))
            if spelled is None:
                spelled = self._spelled[id(value)] = self._names.made(spell_path(self._open[id(value)]))
            return Opaque(_class_of(value), "enclosing", (spelled,))
        if len(path) > MAX_DEPTH:
            raise LimitError(f"the metadata is nested deeper than {MAX_DEPTH} levels")
        self._open[id(value)] = path
        node = self._container(value, path)
        del self._open[id(value)]
        self._spelled.pop(id(value), None)
        return node

    def _container(self, value: Value, path: Path) -> MetaNode:
        match value:
            case dict() if path in self._mappings:
                return self._state_dict(self._mappings[path], value, path)
            case dict() if any(isinstance(key, TensorStub) for key in value):
                return self._keyed_by_tensors(value, path)
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
        if isinstance(value, StateOrderedDict) and isinstance(value.state, dict) and "_metadata" in value.state:
            self._tree.versions[path] = value.state["_metadata"]
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

    def _keyed_by_tensors(self, value: dict[Value, Value], path: Path) -> Opaque:
        """The state of a pickled optimizer: a dict with parameters as keys, which becomes a list of pairs."""
        pairs = []
        for i, (key, item) in enumerate(value.items()):
            node = self._node(key, (*path, i, "key")) if isinstance(key, TensorStub) else self._key(key, path)
            pairs.append((node, self._node(item, (*path, i))))
        return Opaque(_class_of(value), "constructed", pairs=pairs)

    def _key(self, key: Value, path: Path) -> Any:
        """A key, or a member of a set: a plain value or a tuple of these."""
        if isinstance(key, (TensorStub, RefusedTensor, NumpyStub, StorageStub)):
            raise UnsupportedError(
                f"{spell_path(path) or 'the root'} uses a tensor as a key", hint="save plain metadata"
            )
        return self._node(key, (*path, "key"))

    def _state_dict(self, mapping: StateMapping, value: dict[str, Value], path: Path) -> StateDict:
        plain = []
        for position, (key, item) in enumerate(value.items()):
            refuse_call(key, item)
            if not isinstance(item, TensorStub):
                plain.append((position, key, self._node(item, (*path, key))))
        state = value.state if isinstance(value, StateOrderedDict) else None
        versions = None
        if isinstance(state, dict) and "_metadata" in state:
            versions = self._node(state["_metadata"], (*path, "_metadata"))
        return StateDict(
            mapping.prefix, "OrderedDict" if isinstance(value, OrderedDict) else "dict", tuple(plain), versions
        )

    def _ref(self, stub: TensorStub, path: Path) -> TensorRef:
        if path in self._named:
            return TensorRef(self._named[path])
        free = self._free(".".join(self._without_plumbing(path)) or ALONE)
        within = any(path[:i] in self._modules for i in range(len(path)))
        (self._tree.extras if within else self._strays)[free] = stub
        return TensorRef(free)

    def _free(self, name: str) -> str:
        """The name itself, or the first one with a number appended that no tensor has."""
        return numbered(self._names.made(name), self._tree.model, self._tree.extras)

    def _without_plumbing(self, path: Path) -> list[str]:
        """A path as the names that a person would use: without the internal dicts in which a pickled module keeps its
        tensors.
        """
        names = [str(key) for key in path]
        inside = [i for i, (a, b) in enumerate(pairwise(names)) if a == "state" and b in _PLUMBING]
        left_out = {
            *tensordicts.plumbing(names),
            *inside,
            *(i + 1 for i in inside),
            *(i for i in range(len(path)) if path[:i] in self._modules),
        }
        return [name for i, name in enumerate(names) if i not in left_out]

    def _other(self, value: Value, path: Path) -> MetaNode:
        match value:
            case RefusedTensor(kind=kind):
                self._tree.refused[self._names.made(".".join(str(key) for key in path))] = kind
                return self._opaque(value, path)
            case UnbuiltObject():
                return self._opaque(value, path)
            case Global():
                return Opaque(str(value), "named")
            case NumpyStub(parts=parts, state=state):
                array = parts.value() if parts else None
                return array or Opaque("numpy.ndarray", "constructed", state=self._node(state, (*path, "state")))
            case StorageStub():
                name, elements = as_tensor(value)
                return Opaque(name, "constructed", (self._ref(elements, path),))
            case NumpyDType():
                return Opaque("numpy.dtype", "constructed", (value.order + value.code,))
            case _:
                raise UnsupportedError(f"{spell_path(path)} is a {type(value).__name__}", hint="save plain metadata")

    def _opaque(self, obj: UnbuiltObject, path: Path) -> Opaque:
        opaque = Opaque(
            obj.name,
            obj.how,
            tuple(self._node(arg, (*path, f"args[{i}]")) for i, arg in enumerate(obj.args)),
            {str(key): self._node(arg, (*path, key)) for key, arg in obj.kwargs.items()},
            self._node(obj.state, (*path, "state")),
            [self._node(item, (*path, f"items[{i}]")) for i, item in enumerate(obj.items)],
            [(self._node(key, (*path, "key")), self._node(item, (*path, key))) for key, item in obj.pairs],
        )
        self._tree.objects.append((obj, opaque))
        return opaque


def _wrapped(
    value: Value, steps: Path, words: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[Path, tuple[str, ...], TensorStub]]:
    """The tensors in the state of a wrapped tensor: for each its path (`steps`), the part of that path that makes up
    its name (`words`), and the stub.
    """
    if isinstance(value, TensorStub):
        yield steps, words, value
    if id(value) in seen or len(steps) > MAX_DEPTH or isinstance(value, TensorStub):
        return
    seen.add(id(value))
    if isinstance(value, WrappedTensor):
        # The state of a class with slots is a pair: its __dict__, and its slots.
        for i, part in enumerate(value.state) if isinstance(value.state, tuple) else ((None, value.state),):
            yield from _wrapped(part, (*steps, "state", *(() if i is None else (i,))), words, seen)
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _wrapped(child, (*steps, key), (*words, str(key)), seen)
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _wrapped(child, (*steps, i), (*words, str(i)), seen)


def _is_packed(key: str, value: Value) -> bool:
    """Whether an entry of a state_dict is a quantized layer's weight and bias, stored as a tuple
    (torch/ao/nn/quantized/modules/linear.py, `LinearPackedParams._save_to_state_dict`).
    """
    return key.rpartition(".")[2] == "_packed_params" and isinstance(value, tuple)


def _class_of(value: Value) -> str:
    """The name of an object's class."""
    if isinstance(value, UnbuiltObject):
        return value.name
    kind = OrderedDict if isinstance(value, OrderedDict) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


_PLUMBING = ("_parameters", "_buffers", "_modules")
