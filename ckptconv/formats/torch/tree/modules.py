"""Whole pickled modules (``torch.save(model)``): the tensors that their ``state_dict()`` would have, and their names.

A module is an object whose state has the dicts ``_parameters``, ``_buffers`` and ``_modules``; its class need not be
importable. Its tensors are its parameters, its buffers except those in ``_non_persistent_buffers_set``, and those of
its submodules, in that order. Changes that a class makes in its own ``state_dict()`` code are not known here.
Source: torch/nn/modules/module.py (`_save_to_state_dict`, `state_dict`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.names import NameBudget
from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.errors import LimitError
from ckptconv.formats.targets import plain
from ckptconv.formats.torch.pickle import UnbuiltObject, Value
from ckptconv.io.limits import FREE_NODES, MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable

Path = tuple[object, ...]

_QUANTIZED = re.compile(r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized\.")
_PACKED = ".LinearPackedParams"


def is_module(value: Value) -> bool:
    """Whether an object is an ``nn.Module``, by the contents of its state."""
    return isinstance(value, UnbuiltObject) and plain.is_module(value.how, value.state)


class ModuleState(dict[str, Value]):
    """The ``state_dict()`` of a pickled module.

    paths:   the name of each tensor, by its path in the pickled module.
    modules: the paths of the module itself (the empty one) and of its submodules.
    """

    def __init__(self, module: UnbuiltObject) -> None:
        """Walk through the module. Raises LimitError if it has too many submodules, or they are nested too deeply."""
        super().__init__()
        self.paths: dict[Path, str] = {}
        self.modules: list[Path] = []
        self._name_budget = NameBudget()
        self._add(module, "", ())

    def _add(self, module: UnbuiltObject, prefix: str, path: Path) -> None:
        if len(self.modules) > FREE_NODES or len(path) > 3 * MAX_DEPTH:
            raise LimitError("a module has too many modules, or they are nested too deeply")
        self.modules.append(path)
        for holder, key, value in plain.own_tensors(module.state):
            name = self._name_budget.counted(prefix + key)
            self[name] = value
            self.paths[(*path, "state", holder, key)] = name
        for key, child in module.state["_modules"].items():
            if is_module(child):
                self._add(child, f"{prefix}{key}.", (*path, "state", "_modules", key))


def quantized_layer_findings(unbuilt: Iterable[object]) -> list[Finding]:
    """A warning if layers of torch.ao.quantization are pickled in a form of their own: a tuple, or a packed object."""
    found = [
        obj
        for obj in unbuilt
        if isinstance(obj, UnbuiltObject)
        and _QUANTIZED.match(obj.name)
        and (isinstance(obj.state, tuple) or obj.name.endswith(_PACKED))
    ]
    if not found:
        return []
    message = (
        f"the weights of {plural(len(found), 'quantized layer')} are not under the names that state_dict() gives them, "
        "and so --bare may leave them out"
    )
    return [Finding("quantized-layer", "warning", "", message, hint="save model.state_dict()")]
