"""Turns a pickled object into a tree: the model's tensors by name (`find`), other tensors by path, and metadata."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import (
    MetaNode,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
    TorchValue,
    spell_path,
)
from ckptconv.core.names import ALONE, NameBudget, numbered
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.torch.pickle import Budget, Elided, Global, StateOrderedDict, UnbuiltObject, Value
from ckptconv.formats.torch.tree.find import find_state_dicts
from ckptconv.formats.torch.tree.modules import ModuleState, Path
from ckptconv.formats.torch.tree.refused_calls import refuse_call
from ckptconv.formats.torch.tree.wrapped import is_packed, tensors_within
from ckptconv.formats.torch.values.numpy_values import NumpyDType, NumpyStub
from ckptconv.formats.torch.values.stubs import RefusedTensor, StorageStub, TensorStub, WrappedTensor, as_tensor
from ckptconv.formats.trees import tensordicts
from ckptconv.formats.trees.nested import StateMapping
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def build_tree(value: Value, budget: Budget) -> Tree:
    """The tree of an unpickled object. Raises UnsupportedError, UnsafeError, LimitError, with the path in them."""
    return _TreeBuilder(*find_state_dicts(value), budget).build(value)


def build_tree_without_model(value: Value, budget: Budget) -> Tree:
    """The tree of a value that lies beside a model: all of its tensors are extras. Raises as `build_tree` does."""
    return _TreeBuilder([], False, budget).build(value)


def build_tree_around(tensors: OrderedDict[str, Value], beside: dict[Value, Value], budget: Budget) -> Tree:
    """A tree whose model is `tensors`, under their own names, with the values in `beside` next to the state_dict."""
    path: Path = ("state_dict",) if beside else ()
    value = {"state_dict": tensors, **beside} if beside else tensors
    return _TreeBuilder([StateMapping(path, tensors, "")], False, budget).build(value)


def add_beside(beside: dict[Value, Value], entries: Mapping[Value, Value]) -> None:
    """Add entries to the values beside a state_dict. A key that is taken already gets a number."""
    for key, value in entries.items():
        free, number = key, 2
        while free in beside or free == "state_dict":
            free, number = (f"{key}#{number}" if isinstance(key, str) else (key, number)), number + 1
        beside[free] = value


class _TreeBuilder:
    """Builds one tree.

    mappings:  the mappings that hold the model's tensors.
    all_model: whether tensors outside these mappings are the model's as well.
    """

    def __init__(self, mappings: list[StateMapping], all_model: bool, budget: Budget) -> None:
        self._mappings = {mapping.path: mapping for mapping in mappings}
        self._tree = Tree()
        self._unclaimed = self._tree.model if all_model else self._tree.extras
        self._open_containers: dict[int, Path] = {}
        self._spelled_path: dict[int, str] = {}
        self._name_budget = NameBudget()
        self._budget = budget
        self._name_at: dict[Path, str] = {}
        self._module_paths: set[Path] = set()
        # Names of the model come first: an extra with the same name gets a number.
        for mapping in mappings:
            paths = mapping.tensors.paths if isinstance(mapping.tensors, ModuleState) else {}
            places = {name: path for path, name in paths.items()}
            for key, value in mapping.tensors.items():
                if isinstance(value, TensorStub):
                    self._tree.model[self._name_budget.counted(mapping.prefix + key)] = value
                elif isinstance(value, WrappedTensor) or is_packed(key, value):
                    self._add_wrapped(mapping.prefix + key, (*mapping.path, *places.get(key, (key,))), value)
            if isinstance(mapping.tensors, ModuleState):
                self._locate_module(mapping, mapping.tensors)

    def _locate_module(self, mapping: StateMapping, state: ModuleState) -> None:
        """Record where a module's tensors are, so that references to them use their state_dict names."""
        for key, value in state.items():
            refuse_call(key, value)
        self._name_at |= {(*mapping.path, *path): mapping.prefix + name for path, name in state.paths.items()}
        self._module_paths |= {(*mapping.path, *path) for path in state.modules}

    def _add_wrapped(self, whole: str, path: Path, value: Value) -> None:
        """Add the tensors inside a wrapped tensor of the model to the model."""
        for path_inside, keys, stub in tensors_within(value):
            name = self._free_name(".".join((whole, *keys)))
            self._tree.model[name] = stub
            self._name_at[(*path, *path_inside)] = name

    def build(self, value: Value) -> Tree:
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
        if id(value) in self._open_containers:  # a child that refers to its parent, as in OmegaConf's trees
            return self._enclosing(value)
        if len(path) > MAX_DEPTH:
            raise LimitError(f"the metadata is nested deeper than {MAX_DEPTH} levels")
        self._open_containers[id(value)] = path
        node = self._container(value, path)
        del self._open_containers[id(value)]
        self._spelled_path.pop(id(value), None)
        return node

    def _enclosing(self, value: Value) -> Opaque:
        """The node for a container in which it is contained itself: its class and its path."""
        key = id(value)
        if key not in self._spelled_path:
            self._spelled_path[key] = self._name_budget.counted(spell_path(self._open_containers[key]))
        return Opaque(_class_of(value), "enclosing", (self._spelled_path[key],))

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
                return self._object(value, path)

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
        """A dict with tensors as keys, as the state of a pickled optimizer; it becomes a list of pairs."""
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
        if path in self._name_at:
            return TensorRef(self._name_at[path])
        name = self._free_name(".".join(self._without_plumbing(path)) or ALONE)
        in_module = any(path[:i] in self._module_paths for i in range(len(path)))
        (self._tree.extras if in_module else self._unclaimed)[name] = stub
        return TensorRef(name)

    def _free_name(self, name: str) -> str:
        """The name itself, or the first one with a number appended that no tensor has."""
        return numbered(self._name_budget.counted(name), self._tree.model, self._tree.extras)

    def _without_plumbing(self, path: Path) -> list[str]:
        """The keys of a path, without those of the internal dicts in which modules and tensordicts keep tensors."""
        names = [str(key) for key in path]
        inside = [i for i, (a, b) in enumerate(pairwise(names)) if a == "state" and b in _PLUMBING]
        left_out = {
            *tensordicts.plumbing(names),
            *inside,
            *(i + 1 for i in inside),
            *(i for i in range(len(path)) if path[:i] in self._module_paths),
        }
        return [name for i, name in enumerate(names) if i not in left_out]

    def _object(self, value: Value, path: Path) -> MetaNode:
        match value:
            case RefusedTensor(kind=kind):
                self._tree.refused[self._name_budget.counted(".".join(str(key) for key in path))] = kind
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


def _class_of(value: Value) -> str:
    """The name of an object's class."""
    if isinstance(value, UnbuiltObject):
        return value.name
    kind = OrderedDict if isinstance(value, OrderedDict) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


_PLUMBING = ("_parameters", "_buffers", "_modules")
