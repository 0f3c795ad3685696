"""What the configuration in a Keras file says about its layers, by their names.

    {"class_name": "GRU", "config": {"name": "gru_1", "reset_after": true, …}}      at any depth

In an archive it is the document ``config.json``, in HDF5 the attribute ``model_config``, a string.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCUMENTS = ("config.json", "model_config")
"""The metadata keys of configurations."""


_RECURRENT = {"LSTM", "GRU", "SimpleRNN"}
_MAX_PARENTS = 64
"""How many enclosing objects are considered."""


@dataclass(slots=True)
class Configuration:
    """What a configuration says about each name. Layers in different submodels may share a name.

    classes: the classes of the layers of that name.
    resets:  the values of ``reset_after`` of GRUs of that name, or inside something of that name; under "", of all
             GRUs.
    wrapped: the classes of the layers that are run in both directions.
    by_name: whether layers can be found by name; in archives of Keras 2 they cannot.
    """

    classes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    resets: dict[str, set[bool | None]] = field(default_factory=lambda: defaultdict(set))
    wrapped: set[str] = field(default_factory=set)
    by_name: bool = True

    @classmethod
    def of(cls, metadata: Mapping[object, object]) -> Configuration:
        """Read from a file's metadata; it is empty if there is no configuration, or none that can be parsed."""
        has_names = DOCUMENTS[0] not in metadata or any(str(key).endswith("/vars") for key in metadata)
        configuration = cls(by_name=has_names)
        for key in DOCUMENTS:
            for layer in layers_in(metadata.get(key)):
                configuration._add(layer)
        return configuration

    def _add(self, layer: Layer) -> None:
        name = layer.settings.get("name")
        if isinstance(name, str):
            self.classes[name].add(layer.class_name)
        if layer.parent is not None and layer.parent.class_name == "Bidirectional":
            self.wrapped.add(layer.class_name)
        if layer.class_name in ("GRU", "GRUCell"):
            reset_after = layer.settings.get("reset_after")
            for name in ("", *layer.names()):
                self.resets[name].add(reset_after if isinstance(reset_after, bool) else None)

    def class_of(self, name: str) -> str:
        """The class of the layer of that name, spelled as in Keras' names, ``lstm_cell``; "" if it is not certain."""
        classes = self.classes.get(name, set())
        return snake(next(iter(classes))) if len(classes) == 1 else ""

    def resets_after(self, modules: Iterable[str]) -> bool | None:
        """Whether ``reset_after`` is set in the innermost of these layers that is, or contains, a GRU. None if the
        configuration does not say it, as before the setting existed.
        """
        for name in ("", *modules) if self.by_name else ("",):
            values = self.resets.get(name, set())
            if values in ({True}, {False}):
                return values == {True}
        return None

    @property
    def wraps_only_builtin(self) -> bool:
        """Whether everything that is run in both directions is a recurrent layer of Keras' own."""
        return bool(self.wrapped) and self.wrapped <= _RECURRENT


@dataclass(slots=True)
class Layer:
    """A layer or another object: its class, its ``config``, the shapes it was built for (``build_config``), and the
    object that contains it.
    """

    class_name: str
    settings: Mapping[object, object]
    built: Mapping[object, object]
    parent: Layer | None

    @property
    def name(self) -> str:
        """Its own name; "" if it has none."""
        name = self.settings.get("name")
        return name if isinstance(name, str) else ""

    def names(self) -> Iterator[str]:
        """Its name, and those of the objects that contain it."""
        layer: Layer | None = self
        for _ in range(_MAX_PARENTS):
            if layer is None:
                return
            if isinstance(name := layer.settings.get("name"), str):
                yield name
            layer = layer.parent


def _parsed(document: object) -> object:
    if not isinstance(document, (str, bytes)):
        return document
    try:
        return json.loads(document)
    except (ValueError, RecursionError):  # Keras would not read it either
        return None


def layers_in(document: object) -> Iterator[Layer]:
    """Every object in a document, or in a text that is JSON, that names its class."""
    waiting: list[tuple[object, Layer | None]] = [(_parsed(document), None)]
    while waiting:
        node, parent = waiting.pop()
        if isinstance(node, Mapping):
            name, settings = node.get("class_name"), node.get("config")
            if isinstance(name, str) and isinstance(settings, Mapping):
                built = node.get("build_config")
                parent = Layer(name.rpartition(">")[2], settings, built if isinstance(built, Mapping) else {}, parent)
                yield parent
            waiting += [(child, parent) for child in node.values()]
        elif isinstance(node, (list, tuple)):
            waiting += [(child, parent) for child in node]


def snake(name: str) -> str:
    """``SimpleRNNCell`` becomes ``simple_rnn_cell`` (keras/src/utils/naming.py, `to_snake_case`)."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
