"""Decides which arrays in JAX's nested dicts are the model's, and names them.

A name is the path of keys to an array, joined by dots, from where the model's tree starts. The first of these that
applies:

- ``params``, the key that has a meaning in Flax. Names below it are bare (``Dense_0.kernel``), as in a ``TrainState``.
  Other arrays (``opt_state``, ``ema_params``) are not the model's;
- if linen's other collections (`COLLECTIONS`, such as ``batch_stats``) are beside ``params``, a model computes with
  them, so they are the model's as well, and all names start with their collection: ``params.BatchNorm_0.scale``;
- the only entry with trees beside an optimizer's (`OPTIMIZERS`), as in NNX's ``{"model": …, "optimizer": …}``; numbers
  beside these are not the model's;
- ``params`` in the only entry with arrays: ``{"epoch": 3, "state": {"params": …}}``;
- the root: all arrays are the model's, as in the hub's ``flax_model.msgpack``.

Keys that torch users give a model (``model``, ``net``) have no meaning here: they are modules, as in ``{"model": …,
"lm_head": …}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckptconv.core.names import NameBudget
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Path = tuple[Any, ...]

Value = Any
"""Dicts, lists and tuples; readers put their own objects in place of tensors."""

PARAMS = "params"

COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations", "_overwrite_with_gradient")
"""linen's collections beside params (flax/linen: module.py, normalization.py, attention.py, fp8_ops.py)."""

OPTIMIZERS = ("optimizer", "optimizer_state", "opt_state", "opt", "optim")
"""Usual keys for the state of an optimizer beside a model; no library defines them."""

_PLAIN = frozenset([int, str, float, bool, bytes, type(None)])

FLAX_KEYS = ("kernel", "embedding")
"""Flax's names for what torch's layers call ``weight``."""


class StateMapping(NamedTuple):
    """A dict that is the model's state_dict, or a part of it: its path in the tree, and the prefix of its tensors'
    names.
    """

    path: Path
    tensors: dict[str, Value]
    prefix: str


class NestedModel:
    """The model's tensors in a nested tree.

    tensors:  by name; those of a dict come before those of inner dicts.
    mappings: the dicts that directly hold them, outermost first.
    """

    def __init__(self, root: Value, is_tensor: Callable[[Value], bool]) -> None:
        self.tensors: dict[str, Value] = {}
        self.mappings: list[StateMapping] = []
        self._is_tensor = is_tensor
        self._name_budget = NameBudget()
        self._holds: dict[int, bool] = {}
        self._seen: set[int] = set()
        self._prefix_of: list[tuple[str, str]] = []
        self._is_in_dicts_only = True
        if self._holds_tensors(root, 0):
            self._starts = self._find_starts(root, ()) or {(): ""}
            self._collect(root, (), None)

    def is_of_flax(self) -> bool:
        """Whether the keys are those of Flax's layers. This is how a file that could hold any tree shows that its tree
        is Flax's.
        """
        keys = {key for mapping in self.mappings for key in mapping.tensors}
        return any(key in keys for key in FLAX_KEYS) and not any("." in key for key in keys)

    def is_clear(self) -> bool:
        """Whether each tensor is in exactly one mapping, and that is the one with the longest prefix of its name.

        Lists of tensors, and keys with dots, can break this.
        """
        return self._is_in_dicts_only and are_clear(self._prefix_of, [mapping.prefix for mapping in self.mappings])

    def _holds_tensors(self, value: Value, depth: int) -> bool:
        """Whether the value is or contains a tensor. Remembers the answer for each container."""
        if self._is_tensor(value):
            return True
        if id(value) in self._holds or depth > MAX_DEPTH:
            return self._holds.get(id(value), False)
        if not isinstance(value, (dict, list, tuple)):
            return False
        self._holds[id(value)] = found = False  # for a container that contains itself
        for child in value.values() if isinstance(value, dict) else value:
            if type(child) not in _PLAIN and self._holds_tensors(child, depth + 1):
                found = True
        self._holds[id(value)] = found
        return found

    def _find_starts(self, node: Value, path: Path) -> dict[Path, str]:
        """The paths at which the model's trees start, with the prefixes of names; empty if no key decides it."""
        if not isinstance(node, dict) or len(path) > MAX_DEPTH:
            return {}
        if self._holds.get(id(node.get(PARAMS))):
            beside = [key for key in COLLECTIONS if self._holds.get(id(node.get(key)))]
            if beside:
                return {(*path, key): f"{key}." for key in (PARAMS, *beside)}
            below = (*path, PARAMS)
            return self._find_starts(node[PARAMS], below) or {below: ""}
        inside = [key for key, child in node.items() if self._is_tensor(child) or self._holds.get(id(child))]
        trees = [key for key in inside if not self._is_tensor(node[key])]
        others = [key for key in trees if key not in OPTIMIZERS]
        if len(others) == 1 and len(trees) > 1:
            below = (*path, others[0])
            return self._find_starts(node[others[0]], below) or {below: ""}
        return self._find_starts(node[inside[0]], (*path, inside[0])) if len(inside) == 1 else {}

    def _collect(self, value: Value, path: Path, prefix: str | None) -> None:
        """Collect the model's tensors below `path`, where names start with `prefix`; None outside of the model."""
        prefix = self._starts.get(path, prefix)
        if self._is_tensor(value):
            self._is_in_dicts_only &= prefix is None
        if not self._holds.get(id(value)) or len(path) > MAX_DEPTH:
            return
        if id(value) in self._seen:
            self._is_in_dicts_only &= prefix is None
            return
        self._seen.add(id(value))
        mapping = StateMapping(path, value, prefix) if prefix is not None and self._is_state_dict(value) else None
        if mapping is not None:
            self._add(mapping)
        for key, child in _entries(value):
            if mapping is None or not self._is_tensor(child):
                self._collect(child, (*path, key), None if prefix is None else f"{prefix}{key!s}.")

    def _add(self, mapping: StateMapping) -> None:
        self.mappings.append(mapping)
        for key, child in mapping.tensors.items():
            if self._is_tensor(child):
                name = self._name_budget.counted(mapping.prefix + key)
                self.tensors[name] = child
                self._prefix_of.append((name, mapping.prefix))

    def _is_state_dict(self, node: Value) -> bool:
        return (
            isinstance(node, dict)
            and any(map(self._is_tensor, node.values()))
            and all(type(key) is str for key in node)
        )


def are_clear(prefix_of: list[tuple[str, str]], prefixes: list[str]) -> bool:
    """Whether the longest prefix of each name is the one that it was made with, and all names and prefixes are unique.

    prefix_of: names with the prefixes that they were made with.
    """
    known = set(prefixes)
    if len({name for name, _ in prefix_of}) != len(prefix_of) or len(known) != len(prefixes):
        return False
    lengths = sorted({len(prefix) for prefix in known}, reverse=True)
    return all(next(name[:n] for n in lengths if name[:n] in known) == prefix for name, prefix in prefix_of)


def _entries(value: Value) -> Iterable[tuple[Any, Value]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()
