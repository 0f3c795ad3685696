"""Whole pickled modules (``torch.save(model)``): which of their tensors ``state_dict()`` has, and under which names.

A module is an object whose state has the dicts ``_parameters``, ``_buffers`` and ``_modules``; its class need not be
importable. Its tensors are its parameters, its buffers but for those in ``_non_persistent_buffers_set``, and those of
the modules in it, in that order. What a class changes in ``state_dict()`` by code of its own is not known here.
Source: torch/nn/modules/module.py (`_save_to_state_dict`, `state_dict`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.torch.pickle import Thing, Value
from ckptconv.io.limits import FREE_NODES, MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[object, ...]


def is_module(value: Value) -> bool:
    """Whether the object is an ``nn.Module`` by what its state holds."""
    return (
        isinstance(value, Thing)
        and value.how == "object"
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(key), dict) for key in ("_parameters", "_buffers", "_modules"))
    )


class ModuleState(dict[str, Value]):
    """What ``state_dict()`` of a pickled module has.

    paths:   the name of each tensor by the path from the module to where it stands in the pickle.
    modules: the paths from the module to itself and to the modules in it.
    """

    def __init__(self, module: Thing) -> None:
        """Walk through the module. Raises LimitError where its modules are too many, or nested too deeply."""
        super().__init__()
        self.paths: dict[Path, str] = {}
        self.modules: list[Path] = []
        self._add(module, "", ())

    def _add(self, module: Thing, prefix: str, path: Path) -> None:
        if len(self.modules) > FREE_NODES or len(path) > 3 * MAX_DEPTH:
            raise LimitError("a module has too many modules, or they are nested too deeply", hint="do not trust it")
        self.modules.append(path)
        for holder, key, value in _own(module):
            self[prefix + key] = value
            self.paths[(*path, "state", holder, key)] = prefix + key
        for key, child in module.state["_modules"].items():
            if is_module(child):
                self._add(child, f"{prefix}{key}.", (*path, "state", "_modules", key))


def _own(module: Thing) -> Iterator[tuple[str, str, Value]]:
    """The module's own parameters and persistent buffers: the dict that holds each, its key, the tensor."""
    passing = module.state.get("_non_persistent_buffers_set")
    for holder, skipped in (
        ("_parameters", ()),
        ("_buffers", passing if isinstance(passing, (set, frozenset)) else ()),
    ):
        for key, value in module.state[holder].items():
            if value is not None and type(key) is str and key not in skipped:
                yield holder, key, value
