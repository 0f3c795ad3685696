"""The tensors that an archive of Keras has by its own configuration: those that Keras asks for when it loads the model.

Layers of a model are in ``layers``, called by their classes and numbered in the order of the configuration; a model in
a model has its own ``layers`` below its group. Layers of other packages, and those whose variables are not in
`keras_variables`, are not checked. Source: keras/src/saving/saving_lib.py (`_save_container_state`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.keras_config import DOCUMENTS, snake
from ckptconv.edits.dialects.keras_einsum import einsum_variables
from ckptconv.edits.dialects.keras_quantized import mode_of
from ckptconv.edits.dialects.keras_variables import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.keras_variables import Groups, Shape

    Node = Mapping[object, object]
    Infos = Mapping[str, TensorInfo]

_DEPTH = 32
"""How deep models in models and wrappers are followed."""

_CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell")
_SEED = "seed_generator"
_BIDIRECTIONAL, _EACH_STEP = "Bidirectional", "TimeDistributed"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that is expected: the layer's name, Keras' word for the variable, its shape."""

    layer: str
    word: str
    shape: Shape


@dataclass(slots=True)
class Expected:
    """What a model's configuration asks for.

    model:     the model's name.
    variables: by the name of the tensor.
    unchecked: the layers of which nothing is known, by the path of their group: name, and why not.
    paths:     the paths of all layers.
    """

    model: str
    variables: dict[str, Variable] = field(default_factory=dict)
    unchecked: dict[str, tuple[str, str]] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)


def expected(tensors: Infos, metadata: Mapping[object, object]) -> Expected | None:
    """What the configuration in an archive asks for; None if there is none, or it does not list layers."""
    document = metadata.get(DOCUMENTS[0])
    if not isinstance(document, Mapping) or not any(name.rpartition("/")[0].endswith("vars") for name in tensors):
        return None
    settings = document.get("config")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("layers"), (list, tuple)):
        return None
    found = Expected(_text(settings.get("name")))
    _Walk(tensors, _recorded_paths(metadata), found).model(settings, "", 0)
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _recorded_paths(metadata: Mapping[object, object]) -> dict[str, list[str]]:
    """The paths of groups, by the name of the layer that an attribute states."""
    found: dict[str, list[str]] = {}
    for key, value in metadata.items():
        path, _, last = str(key).rpartition("/")
        if last == "vars" and isinstance(value, Mapping) and isinstance(name := value.get("name"), str):
            found.setdefault(name, []).append(path)
    return found


@dataclass(slots=True)
class _Walk:
    tensors: Infos
    recorded: Mapping[str, list[str]]
    found: Expected

    def model(self, settings: Node, prefix: str, depth: int) -> None:
        """Add the layers of a model whose group is `prefix`, with a slash behind it."""
        used: Counter[str] = Counter()
        layers = settings.get("layers")
        for node in layers if isinstance(layers, (list, tuple)) else ():
            if not isinstance(node, Mapping):
                continue
            path = f"{prefix}layers/{_numbered(_class(node), used)}"
            self._layer(node, self._path(node, path, prefix), depth + 1)

    def _path(self, node: Node, path: str, prefix: str) -> str:
        """The path of a layer's group: the one that has its name, if that is one of this model, else the given one."""
        recorded = self.recorded.get(_name(node), [])
        here = [one for one in recorded if one.rpartition("/")[0] == f"{prefix}layers"]
        return here[0] if len(here) == 1 else path

    def _layer(self, node: Node, path: str, depth: int, built: Node | None = None) -> None:
        settings = node.get("config")
        self.found.paths.add(path)
        if not isinstance(settings, Mapping) or depth > _DEPTH:
            return
        if isinstance(own_built := node.get("build_config"), Mapping) and own_built:
            built = own_built
        if isinstance(settings.get("layers"), (list, tuple)):
            self.model(settings, f"{path}/", depth)
            return
        inner = settings.get("layer")
        if _class(node) == _EACH_STEP and isinstance(inner, Mapping):
            self._layer(inner, f"{path}/layer", depth + 1, _each_step(built or {}))
            return
        try:
            groups = _groups(node, settings, built)
        except ValueError:
            groups = None
        if groups is None:
            if not _is_in_keras(node) or any(True for _ in self._below(path)):
                self.found.unchecked[path] = _name(node), _why_unknown(node, settings)
            return
        for group, variables in groups.items():
            place = f"{path}/{group}/vars" if group else f"{path}/vars"
            for number, (word, shape) in enumerate(variables):
                around = f"{group.replace('/', '.')}." if group else ""
                self.found.variables[f"{place}/{number}"] = Variable(_name(node), around + word, shape)

    def _below(self, path: str) -> Iterator[str]:
        return (name for name in self.tensors if name.startswith(f"{path}/") and f"/{_SEED}" not in name)


def _groups(node: Node, settings: Node, built: object) -> Groups | None:
    """The variables of a layer; None if they are not known. Raises ValueError."""
    built = built if isinstance(built, Mapping) else {}
    called, inner = _class(node), settings.get("layer")
    if not _is_keras(node) or mode_of(settings.get("dtype")):
        return None
    if called == "EinsumDense":
        return einsum_variables(settings, built)
    if called == _BIDIRECTIONAL and isinstance(inner, Mapping):
        back = settings.get("backward_layer")
        sides = {"forward_layer": inner, "backward_layer": back if isinstance(back, Mapping) else inner}
        found: Groups = {}
        for side, one in sides.items():
            inside = one.get("config")
            groups = _groups(one, inside, built) if isinstance(inside, Mapping) else None
            if groups is None:
                return None
            found |= {f"{side}/{group}".rstrip("/"): variables for group, variables in groups.items()}
        return found
    cell = settings.get("cell")
    if called == "RNN" and isinstance(cell, Mapping):
        return _cells(cell, built)
    return LAYERS[called](settings, built) if called in LAYERS else None


def _cells(cell: Node, built: Node) -> Groups | None:
    """The variables of a cell, or of several that are stacked, each with the outputs of the one before as inputs."""
    settings = cell.get("config")
    if not isinstance(settings, Mapping) or not _is_keras(cell):
        return None
    if _class(cell) in _CELLS:
        return LAYERS[_class(cell).removesuffix("Cell")](settings, built)
    cells = settings.get("cells")
    if _class(cell) != "StackedRNNCells" or not isinstance(cells, (list, tuple)):
        return None
    found: Groups = {}
    used: Counter[str] = Counter()
    for one in cells:
        inside = one.get("config") if isinstance(one, Mapping) and _class(one) in _CELLS else None
        groups = _cells(one, built) if isinstance(inside, Mapping) else None
        if groups is None or not isinstance(inside, Mapping):
            return None
        found[f"cell/cells/{_numbered(_class(one), used)}"] = groups["cell"]
        built = {"input_shape": [None, inside.get("units")]}
    return found


def _numbered(class_name: str, used: Counter[str]) -> str:
    """How Keras calls a group in a list: by its class, and from the second one on with a number."""
    called = snake(class_name)
    used[called] += 1
    return called if used[called] == 1 else f"{called}_{used[called] - 1}"


def _each_step(built: object) -> Node:
    """The shape of one step, of that of all."""
    shape = built.get("input_shape") if isinstance(built, Mapping) else None
    return {"input_shape": [*shape[:1], *shape[2:]]} if isinstance(shape, (list, tuple)) else {}


def _class(node: Node) -> str:
    return _text(node.get("class_name")).rpartition(">")[2]


def _name(node: Node) -> str:
    settings = node.get("config")
    return _text(settings.get("name")) if isinstance(settings, Mapping) else ""


def _is_keras(node: Node) -> bool:
    """Whether it is a class of Keras' own, and not registered."""
    return _is_in_keras(node) and not node.get("registered_name")


def _is_in_keras(node: Node) -> bool:
    """Whether Keras itself has the class, if only as an operation of its graphs (keras.src.ops.numpy's Add)."""
    return _text(node.get("module")).partition(".")[0] == "keras"


def _why_unknown(node: Node, settings: Node) -> str:
    if mode := mode_of(settings.get("dtype")):
        return f"it is quantized ({mode[:20]}), and the quantized weights in the file cannot all be read"
    return f"it is not known here what variables {_class(node)} has"
