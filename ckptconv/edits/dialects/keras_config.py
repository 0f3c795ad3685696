"""What the configuration in a file of Keras' says of its layers, by their names.

    {"class_name": "GRU", "config": {"name": "gru_1", "reset_after": true, …}}      at any depth

In an archive it is the document ``config.json``, in HDF5 the attribute ``model_config``, a text.
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

_DOCUMENTS = ("config.json", "model_config")

Settings = Mapping[object, object]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The class and the settings of each layer with a name; several where layers in models of their own share one."""

    layers: Mapping[str, list[tuple[str, Settings]]] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[object, object]) -> Configuration:
        """That of a file's metadata; one that says nothing where there is none, or none that is read."""
        found: dict[str, list[tuple[str, Settings]]] = defaultdict(list)
        for key in _DOCUMENTS:
            for name, settings in _objects(_parsed(metadata.get(key))):
                if isinstance(called := settings.get("name"), str):
                    found[called].append((name, settings))
        return cls(dict(found))

    def class_of(self, name: str) -> str:
        """The class of that layer as Keras makes a name of it, ``lstm_cell``; "" where that is not known for sure."""
        classes = {called for called, _ in self.layers.get(name, ())}
        return _snake(classes.pop()) if len(classes) == 1 else ""

    def resets_after(self, modules: Iterable[str]) -> bool | None:
        """Whether the innermost of these layers, which is a GRU or is made of one, has ``reset_after``."""
        for name in modules:
            said = {
                settings.get("reset_after")
                for called, around in self.layers.get(name, ())
                for inner, settings in ((called, around), *_objects(around))
                if inner.startswith("GRU")
            }
            if said in ({True}, {False}):  # files of before there was such a setting do not say
                return said == {True}
        return None


def _parsed(document: object) -> object:
    if not isinstance(document, (str, bytes)):
        return document
    try:
        return json.loads(document)
    except (ValueError, RecursionError):  # Keras would not read it either
        return None


def _objects(document: object) -> Iterator[tuple[str, Settings]]:
    """The class and the settings of every object in a document."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            name, settings = node.get("class_name"), node.get("config")
            if isinstance(name, str) and isinstance(settings, Mapping):
                yield name.rpartition(">")[2], settings
            waiting += node.values()
        elif isinstance(node, (list, tuple)):
            waiting += node


def _snake(name: str) -> str:
    """``SimpleRNNCell`` is ``simple_rnn_cell`` (keras/src/utils/naming.py, `to_snake_case`)."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
