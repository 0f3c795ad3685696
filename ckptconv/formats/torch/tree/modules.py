"""Whole pickled modules (``torch.save(model)``): which of their tensors ``state_dict()`` has, and under which names.

A module is an object whose state has the dicts ``_parameters``, ``_buffers`` and ``_modules``; its class need not be
importable. Its tensors are its parameters, its buffers but for those in ``_non_persistent_buffers_set``, and those of
the modules in it, in that order. What a class changes in ``state_dict()`` by code of its own is not known here.
Source: torch/nn/modules/module.py (`_save_to_state_dict`, `state_dict`).
"""

from __future__ import annotations

from ckptconv.core.names import Names
from ckptconv.errors import LimitError
from ckptconv.formats.targets import plain
from ckptconv.formats.torch.pickle import Thing, Value
from ckptconv.io.limits import FREE_NODES, MAX_DEPTH

Path = tuple[object, ...]


def is_module(value: Value) -> bool:
    """Whether the object is an ``nn.Module`` by what its state holds."""
    return isinstance(value, Thing) and plain.is_module(value.how, value.state)


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
        self._names = Names()
        self._add(module, "", ())

    def _add(self, module: Thing, prefix: str, path: Path) -> None:
        if len(self.modules) > FREE_NODES or len(path) > 3 * MAX_DEPTH:
            raise LimitError("a module has too many modules, or they are nested too deeply")
        self.modules.append(path)
        for holder, key, value in plain.own_tensors(module.state):
            name = self._names.made(prefix + key)
            self[name] = value
            self.paths[(*path, "state", holder, key)] = name
        for key, child in module.state["_modules"].items():
            if is_module(child):
                self._add(child, f"{prefix}{key}.", (*path, "state", "_modules", key))
