"""Finds where a checkpoint's metadata states the params of an architecture: at its root, or in settings below it.

What a network was made with has many names: Lightning saves ``hyper_parameters``, nanoGPT ``model_args``, Whisper
``dims``, and scripts save their whole ``args`` or ``config``. So settings are recognised by their form: a dict, an
object's attributes, or a JSON text, up to two levels below the root. They count for a spec only if they state
everything that it requires; a single ``hidden`` or ``layers`` in them may mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import MetaNode, Opaque, spell_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.arch.spec import Spec

MAX_SETTINGS = 4_096
"""The most keys of a dict of settings; an optimizer's state has more."""

MAX_STATEMENTS = 256
"""The most dicts and objects that are looked at."""

MAX_TEXT = 1_000_000
"""The most characters of a string that is read as JSON."""

CONFIG = "config.json"
"""The configuration beside a checkpoint; huggingface_hub's mixin writes a class's arguments there."""

PARAMS = "params.json"
"""The file in which Meta and Mistral write what a model was made with."""

CLASS_NAME = "_class_name"
"""The key of diffusers' config.json that names the class."""

QUANTIZATION = "quantization_config"
"""The key of config.json that says how weights are quantized."""

_LEVELS = 2


@dataclass(frozen=True, slots=True)
class Statement:
    """Values that the metadata, or a configuration beside it, states in one place.

    name:       the place, for people: "metadata", "hyper_parameters", "config.model", "config.json".
    values:     key → value.
    python:     the place as a Python expression, with ``checkpoint`` for the loaded file; "" if nothing can be assigned
                there.
    attributes: whether the values are attributes there, instead of items.
    """

    name: str
    values: Mapping[object, MetaNode]
    python: str = ""
    attributes: bool = False

    def states_all(self, spec: Spec) -> bool:
        """Whether it has a key for everything that the spec requires, under names or aliases, whatever the values.

        A spec with formulas for a configuration reads the configuration by these alone.
        """
        if self.name == CONFIG and spec.config.params:
            return False
        keys = [{param, *spec.params[param].aliases} for param in spec.required]
        return bool(keys) and all(any(key in self.values for key in names) for names in keys)

    def place(self, key: object) -> str:
        """The place of a key's value as Python that can be assigned to; "" if that is not possible."""
        if not self.python or (self.attributes and not str(key).isidentifier()):
            return ""
        return f"{self.python}.{key}" if self.attributes else f"{self.python}[{key!r}]"


def root_statement(metadata: Mapping[object, MetaNode]) -> Statement:
    """What the metadata says at its root, where each key counts by itself."""
    return Statement("metadata", metadata, "checkpoint")


def settings_in(
    metadata: Mapping[object, MetaNode], plain: Callable[[Opaque], MetaNode] = lambda node: node
) -> tuple[Statement, ...]:
    """What is stated below the root, in the order of the file, outer places first.

    plain: turns an object of settings into plain values, for classes with a form of their own for them.
    """
    found: list[Statement] = []
    outer: list[tuple[tuple[str, ...], Statement]] = [((), root_statement(metadata))]
    for _ in range(_LEVELS):
        inner = [
            ((*path, key), below)
            for path, statement in outer
            for key, node in statement.values.items()
            if isinstance(key, str) and (below := _statement_in(statement, (*path, key), node, plain)) is not None
        ]
        found += [statement for _, statement in inner]
        outer = inner
    return tuple(found[:MAX_STATEMENTS])


def _statement_in(
    outer: Statement, path: tuple[str, ...], node: MetaNode, plain: Callable[[Opaque], MetaNode]
) -> Statement | None:
    """What a node states, if it is a mapping of any kind that is not too large."""
    place = outer.place(path[-1])
    attributes = False
    if isinstance(node, Opaque):
        values = plain(node)
        attributes = values is not node or not node.pairs
        node = _contents(node) if values is node else values
    elif isinstance(node, str) and node[:1] == "{" and len(node) <= MAX_TEXT:
        place = ""  # nothing can be assigned inside a text
        try:
            node = strict_json.loads(node)
        except ValueError:
            return None
    if not isinstance(node, Mapping) or len(node) > MAX_SETTINGS or not any(isinstance(key, str) for key in node):
        return None
    return Statement(spell_path(path), node, place, attributes)


def _contents(node: Opaque) -> MetaNode:
    """The items of an object that is also a dict, or else its attributes."""
    if node.pairs:
        return {key: value for key, value in node.pairs if isinstance(key, str)}
    if isinstance(node.state, tuple):  # of a class with slots: (its dict, its slots)
        return {key: value for part in node.state if isinstance(part, Mapping) for key, value in part.items()}
    return node.state


def quantization_method(config: Mapping[str, object]) -> str:
    """The method by which the weights are quantized, by a configuration; "" if it does not say."""
    quantization = config.get(QUANTIZATION)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return method[:80] if isinstance(method, str) else ""
