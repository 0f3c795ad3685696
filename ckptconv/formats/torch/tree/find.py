"""Which tensors of a pickled object are the model's, and their names.

A well-known key (`WELL_KNOWN`, in that order) wins, and the names under it are bare; other tensors are extras, named by
their path. Without one, a root that holds tensors itself is the state_dict; otherwise a single dict of tensors is,
wherever it stands; and if there are several side by side, each keeps its path as prefix. The state of an optimizer
beside them is not the model's: Ultralytics' epochs are ``{"model": None, "ema": …, "optimizer": …}``. A whole pickled
module counts as the dict that its ``state_dict()`` would be (`modules`). Trees of Flax have rules of their own
(`formats.trees.nested`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.names import NameBudget
from ckptconv.formats.torch.pickle import UnbuiltObject, Value
from ckptconv.formats.torch.tree.modules import ModuleState, Path, is_module
from ckptconv.formats.torch.values.stubs import RefusedTensor, TensorStub, WrappedTensor
from ckptconv.formats.trees.nested import NestedModel, StateMapping, are_clear
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WELL_KNOWN = (
    "state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "params_ema", "params",
    "weights",
)  # fmt: skip
"""BasicSR has both `params_ema` and `params`; upscalers (Real-ESRGAN, spandrel) load the first."""

FITTED = "module_"
"""skorch's attribute for the fitted module; its `module` is what that was made from."""

_OPTIMIZER = {"state", "param_groups"}
"""The keys of an optimizer's ``state_dict()`` in torch."""


def find_state_dicts(root: Value) -> tuple[list[StateMapping], bool]:
    """The mappings that hold the model's tensors, and whether all other tensors are the model's too.

    There is no mapping if no dict in the file has tensors under string keys, or if names would be ambiguous.
    """
    nested = NestedModel(root, lambda value: isinstance(value, TensorStub))
    if nested.is_of_flax() and nested.is_clear():
        return nested.mappings, False
    base, found, is_whole_file = _locate(root, ())
    if len(found) == 1:
        path, mapping = found[0]
        return [StateMapping(path, mapping, "")], False
    mappings = [StateMapping(path, mapping, "".join(f"{key}." for key in path[len(base) :])) for path, mapping in found]
    return (mappings if _prefixes_are_clear(mappings) else []), is_whole_file


def _locate(node: Value, base: Path) -> tuple[Path, list[tuple[Path, dict[str, Value]]], bool]:
    """The path of the innermost well-known key, the dicts of tensors under it, and whether they are the whole file."""
    if isinstance(node, dict) and len(base) < MAX_DEPTH:
        for key in WELL_KNOWN:
            below = node.get(key)
            if (isinstance(below, dict) or is_module(below)) and any(True for _ in _tensor_dicts(below, (), set())):
                return _locate(below, (*base, key))
    found = list(_tensor_dicts(node, base, set())) or list(_modules_within(node, base, set()))
    if len(found) > 1 and found[0][1] is node and _is_itself_the_state_dict(node, found):
        return base, found[:1], not base
    models = [(path, mapping) for path, mapping in found if not _is_in_an_optimizer(node, path[len(base) :])]
    return base, models or found, not base and len(models) in (0, len(found))


def _is_in_an_optimizer(node: Any, path: tuple[Any, ...]) -> bool:
    """Whether the path from a node leads through an optimizer's ``state_dict()``."""
    for key in path:
        if isinstance(node, dict) and node.keys() >= _OPTIMIZER:
            return True
        if not isinstance(node, (dict, list, tuple)):
            return False
        node = node[key]
    return False


def _is_itself_the_state_dict(node: dict[str, Value], found: list[tuple[Path, dict[str, Value]]]) -> bool:
    """Whether a dict with tensors *and* dicts of tensors in it is the state_dict: if its names have dots, or if it has
    at least as many tensors as the dicts in it.
    """
    own = [key for key, value in node.items() if isinstance(value, TensorStub)]
    nested = sum(isinstance(value, TensorStub) for _, mapping in found[1:] for value in mapping.values())
    return any("." in key for key in own) or len(own) >= nested


def _tensor_dicts(node: Value, path: Path, seen: set[int]) -> Iterator[tuple[Path, dict[str, Value]]]:
    """Every dict that holds tensors directly and has string keys only, and every module, outermost first, each once."""
    if is_module(node):
        if state := ModuleState(node):
            yield path, state
        return
    below: Iterable[tuple[Any, Value]]
    if isinstance(node, dict):
        below = node.items()
    elif isinstance(node, (list, tuple)):
        below = enumerate(node)
    else:
        return
    if id(node) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(node))
    if isinstance(node, dict) and _holds_tensors(node):
        yield path, node
    for key, value in below:
        yield from _tensor_dicts(value, (*path, key), seen)


def _modules_within(node: Value, path: Path, seen: set[int]) -> Iterator[tuple[Path, dict[str, Value]]]:
    """The modules inside other objects, such as the model in a trainer."""
    if is_module(node):
        yield from _tensor_dicts(node, path, set())
        return
    if isinstance(node, dict):
        below = list(node.items())
    elif isinstance(node, (list, tuple)):
        below = list(enumerate(node))
    elif isinstance(node, UnbuiltObject) and isinstance(node.state, dict) and is_module(node.state.get(FITTED)):
        below = [("state", {FITTED: node.state[FITTED]})]
    elif isinstance(node, UnbuiltObject):
        below = [("state", node.state)]
    else:
        return
    if id(node) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(node))
    for key, value in below:
        yield from _modules_within(value, (*path, key), seen)


def _holds_tensors(node: dict[Value, Value]) -> bool:
    return any(isinstance(value, (TensorStub, RefusedTensor, WrappedTensor)) for value in node.values()) and all(
        type(key) is str for key in node
    )


def _prefixes_are_clear(mappings: list[StateMapping]) -> bool:
    """Whether each name's longest matching prefix is that of its own mapping, and no name comes twice."""
    budget = NameBudget()
    names = [
        (budget.counted(mapping.prefix + key), mapping.prefix)
        for mapping in mappings
        for key, value in mapping.tensors.items()
        if isinstance(value, TensorStub)
    ]
    return are_clear(names, [mapping.prefix for mapping in mappings])
