"""Converting between nested state_dicts and torch's flat names, and keeping what torch's flattening loses.

torch flattens dicts and lists that hold tensors or dicts, joins the path with dots, and turns every key into a string.
That loses the types of dicts, keys that are not strings, and empty dicts. Our record has the tree with a `TensorRef` to
a flat name in place of each leaf, and the path as a `StateDict`'s prefix, from which our reader rebuilds everything.
torch ignores the record.

Source: torch/distributed/checkpoint/_traverse.py, _nested_dict.py.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import MetaNode, Opaque, StateDict, TensorRef, TorchSize, walk
from ckptconv.core.names import free_name, numbered
from ckptconv.core.spelling import dumps, to_json
from ckptconv.formats.targets.plain import as_plain
from ckptconv.formats.torch.dcp.listing import malformed
from ckptconv.formats.torch.pickle import StateOrderedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.formats.torch.dcp.listing import Entry, Step
    from ckptconv.formats.torch.pickle import Budget, Value

Path = tuple["Step", ...]

_ABSENT = object()


def nested(entries: Sequence[Entry], values: Mapping[str, Value], budget: Budget) -> Value:
    """Rebuild the nested dicts and lists from the entries' paths, like torch.

    Raises CorruptFileError if two paths contradict each other, LimitError if list indices are far apart.
    """
    root: dict[Step, Value] = {}
    result: dict[int, Value] = {id(root): root}  # containers made from paths; a path may not lead into any other value
    for entry in entries:
        inner: Value = root
        for step, below in zip(entry.path, entry.path[1:], strict=False):
            found = _get(inner, step)
            if found is _ABSENT:
                found = {} if isinstance(below, str) else []
                result[id(found)] = found
                _set(inner, step, found, entry, budget)
            if id(found) not in result:
                raise malformed(f"the path of {entry.name!r} leads through a value")
            inner = found
        if _get(inner, entry.path[-1]) is not _ABSENT:
            raise malformed(f"the path of {entry.name!r} is that of another entry as well")
        _set(inner, entry.path[-1], values[entry.name], entry, budget)
    return root


def _get(container: Value, step: Step) -> Value:
    if isinstance(container, list):  # torch fills a list with None up to the index that it needs
        found = container[step] if isinstance(step, int) and step < len(container) else None
        return _ABSENT if found is None else found
    return container.get(step, _ABSENT)


def _set(container: Value, step: Step, value: Value, entry: Entry, budget: Budget) -> None:
    if isinstance(container, list) != isinstance(step, int):
        raise malformed(f"the path of {entry.name!r} takes a list for a dict, or a dict for a list")
    if isinstance(container, list):
        missing = int(step) + 1 - len(container)
        if missing > 0:
            budget.take(missing)
            container.extend([None] * missing)
        container[int(step)] = value
    else:
        container[step] = value


def restored(root: MetaNode, entries: Sequence[Entry], values: Mapping[str, Value]) -> Value:
    """The tree of a record, with the values in place. Raises CorruptFileError if the two do not fit."""
    return _Restorer(entries, values).restore(root)


class _Restorer:
    def __init__(self, entries: Sequence[Entry], values: Mapping[str, Value]) -> None:
        self._values = values
        self._left = {entry.name for entry in entries}
        self._below: dict[Path, list[tuple[str, str]]] = defaultdict(list)
        for entry in entries:
            if entry.dtype is not None:
                self._below[entry.path[:-1]].append((str(entry.path[-1]), entry.name))

    def restore(self, root: MetaNode) -> Value:
        value = self._node(root)
        if self._left:
            raise malformed(f"its record leaves out {min(self._left)!r}")
        return value

    def _take(self, name: str) -> Value:
        if name not in self._left:
            raise malformed(f"its record names {name!r}, which it has not, or has been used")
        self._left.discard(name)
        return self._values[name]

    def _node(self, node: MetaNode) -> Value:
        match node:
            case TensorRef(name):
                return self._take(name)
            case StateDict():
                return self._state_dict(node)
            case Counter():
                return Counter({key: self._node(value) for key, value in node.items()})
            case OrderedDict():
                return OrderedDict((key, self._node(value)) for key, value in node.items())
            case defaultdict():
                return defaultdict(node.default_factory, {key: self._node(value) for key, value in node.items()})
            case dict():
                return {key: self._node(value) for key, value in node.items()}
            case list():
                return [self._node(item) for item in node]
            case tuple() if not isinstance(node, TorchSize):
                return tuple(self._node(item) for item in node)
            case _:
                raise malformed("its record holds something else than containers and names")

    def _state_dict(self, node: StateDict) -> Value:
        items = [(key, self._take(name)) for key, name in self._below.get(_path(node.prefix), [])]
        for position, key, value in node.plain:
            items.insert(position, (key, self._node(value)))
        if node.container == "dict":
            return dict(items)
        state_dict = StateOrderedDict(items)
        if node.versions is not None:
            state_dict.state = {"_metadata": node.versions}
        return state_dict


def _path(prefix: str) -> Path:
    """The path of a `StateDict` in our record, which is its prefix, as JSON."""
    try:
        path = strict_json.loads(prefix) if prefix else []
    except ValueError as error:
        raise malformed(f"a state_dict in its record has no path: {error}") from error
    if not isinstance(path, list) or not all(isinstance(step, (str, int)) for step in path):
        raise malformed("a state_dict in its record has no path")
    return tuple(path)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf, which becomes an entry: its flat name, its path, and a `TensorRef` or a value."""

    name: str
    path: Path
    node: MetaNode


@dataclass(slots=True)
class Flat:
    """A flattened checkpoint: the leaves in order, and the tree for the record."""

    leaves: list[Leaf] = field(default_factory=list)
    root: MetaNode = None


def flatten(root: MetaNode, members: Callable[[StateDict], list[tuple[str, MetaNode]]]) -> Flat:
    """Flatten a tree like torch, but also tuples that hold tensors.

    `members` gives the tensors of a `StateDict` by key, in order. If names or paths would coincide (the keys 1 and
    "1"), the second gets a ``#2``.
    """
    maker = _Flattener(members)
    flat = maker.flat
    flat.root = maker.node(root, ()) if _is_root(root) else maker.leaf(root, ("data",))
    return flat


def _is_root(root: MetaNode) -> bool:
    return isinstance(root, (dict, list, tuple, StateDict, Opaque)) and not isinstance(root, TorchSize)


class _Flattener:
    def __init__(self, members: Callable[[StateDict], list[tuple[str, MetaNode]]]) -> None:
        self._members = members
        self._names: set[str] = set()
        self._paths: set[Path] = set()
        self.flat = Flat()

    def node(self, node: MetaNode, path: Path) -> MetaNode:
        """Flatten the tree under `node`; the same tree for the record."""
        match node:
            case StateDict():
                return self._state_dict(node, path)
            case Opaque():
                return self.node(as_plain(node), path)
            case dict():
                return self._dict(node, path)
            case list() | tuple() if not path or not _is_terminal(node):
                inside = [self.node(item, self._free(path, i if path else str(i))) for i, item in enumerate(node)]
                return inside if isinstance(node, list) else tuple(inside)
            case _:
                return self.leaf(node, path)

    def leaf(self, node: MetaNode, path: Path) -> TensorRef:
        name = ".".join(map(str, path))
        free = numbered(name, self._names)
        self._names.add(free)
        self.flat.leaves.append(Leaf(free, path, node))
        return TensorRef(free)

    def _dict(self, node: dict[MetaNode, MetaNode], path: Path) -> MetaNode:
        inside = [(key, self.node(value, self._free(path, _step(key)))) for key, value in node.items()]
        match node:
            case Counter():
                return Counter(dict(inside))
            case OrderedDict():
                return OrderedDict(inside)
            case defaultdict():
                return defaultdict(node.default_factory, inside)
            case _:
                return dict(inside)

    def _state_dict(self, state_dict: StateDict, path: Path) -> StateDict:
        items = [(key, value, False) for key, value in self._members(state_dict)]
        for position, key, value in state_dict.plain:  # positions are past the end if tensors were dropped
            items.insert(position, (key, value, True))
        kept: list[tuple[int, str, MetaNode]] = []
        for position, (key, value, is_plain) in enumerate(items):
            if is_plain:
                kept.append((position, key, self.node(value, self._free(path, key))))
            else:
                self.leaf(value, self._free(path, key))
        prefix = dumps(list(path)) if path else ""
        return StateDict(prefix, state_dict.container, tuple(kept), state_dict.versions)

    def _free(self, path: Path, step: Step) -> Path:
        """A unique path for a child."""
        free = free_name((*path, step), self._paths.__contains__, lambda number: (*path, f"{step}#{number}"))
        self._paths.add(free)
        return free


def _step(key: MetaNode) -> str:
    """A dict key as torch names it, which is its `str`. That is unambiguous for all ordinary keys."""
    return str(key) if isinstance(key, (str, int, float, type(None))) else dumps(to_json(key))


def _is_terminal(node: list[MetaNode] | tuple[MetaNode, ...]) -> bool:
    """Whether a list is a single value, because there is no dict and no tensor anywhere in it."""
    if isinstance(node, TorchSize):
        return True
    if isinstance(node, tuple):
        return not any(isinstance(inner, (TensorRef, StateDict, Opaque)) for _, inner in walk(node))
    return not any(isinstance(inner, (TensorRef, StateDict, Opaque, dict)) for _, inner in walk(node))
