"""Where a checkpoint's metadata states the params of an architecture: at its root, or in settings that it keeps.

What a network was made with stands under many a key: Lightning has ``hyper_parameters``, nanoGPT ``model_args``,
Whisper ``dims``, scripts put their whole ``args`` or ``config`` there. So settings are known by what they say: a dict,
an object's attributes or a JSON text, up to two levels below the root. What they say of a spec counts only where they
say all that it requires; a lone ``hidden`` or ``layers`` in them may be about anything.
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
"""Keys of a dict of settings; an optimizer's state has more."""

MAX_STATEMENTS = 256
"""Dicts and objects that are looked at."""

MAX_TEXT = 1_000_000
"""Characters of a string that is read as JSON."""

CONFIG = "config.json"
"""What the file beside a checkpoint is called, in which huggingface_hub's mixin puts what a class was called with."""

PARAMS = "params.json"
"""What the file is called in which Meta and Mistral put what a model was made with."""

CLASS_NAME = "_class_name"
"""The key by which a config.json of diffusers names the class."""

QUANTIZATION = "quantization_config"
"""The key by which a config.json says how weights are quantized."""

_LEVELS = 2


@dataclass(frozen=True, slots=True)
class Statement:
    """Values that metadata states in one place, or a configuration beside it.

    name:   the place, for people: "metadata", "hyper_parameters", "config.model", "config.json".
    values: what it says, by key.
    python: the place as Python, where ``checkpoint`` is the loaded file; "" where nothing can be assigned there.
    attributes: whether the values are attributes there, not items.
    """

    name: str
    values: Mapping[object, MetaNode]
    python: str = ""
    attributes: bool = False

    def states_all(self, spec: Spec) -> bool:
        """Whether it says all that the spec requires, under its names or aliases, whatever the values.

        A spec that has formulas for a configuration reads it by them alone.
        """
        if self.name == CONFIG and spec.config.params:
            return False
        keys = [{param, *spec.params[param].aliases} for param in spec.required]
        return bool(keys) and all(any(key in self.values for key in names) for names in keys)

    def place(self, key: object) -> str:
        """The value of that key as Python that can be assigned to; "" where it can't be."""
        if not self.python or (self.attributes and not str(key).isidentifier()):
            return ""
        return f"{self.python}.{key}" if self.attributes else f"{self.python}[{key!r}]"


def root_statement(metadata: Mapping[object, MetaNode]) -> Statement:
    """What the metadata says at its root, where a key counts by itself."""
    return Statement("metadata", metadata, "checkpoint")


def settings_in(
    metadata: Mapping[object, MetaNode], plain: Callable[[Opaque], MetaNode] = lambda node: node
) -> tuple[Statement, ...]:
    """What stands below the root, in the order of the file, outer before inner.

    plain: makes plain values of an object of settings, where its class has a form of its own for them.
    """
    found: list[Statement] = []
    outer: list[tuple[tuple[str, ...], Statement]] = [((), root_statement(metadata))]
    for _ in range(_LEVELS):
        inner = [
            ((*path, key), below)
            for path, statement in outer
            for key, node in statement.values.items()
            if isinstance(key, str) and (below := _below(statement, (*path, key), node, plain)) is not None
        ]
        found += [statement for _, statement in inner]
        outer = inner
    return tuple(found[:MAX_STATEMENTS])


def _below(
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
        place = ""  # what stands in a text is not assigned to
        try:
            node = strict_json.loads(node)
        except ValueError:
            return None
    if not isinstance(node, Mapping) or len(node) > MAX_SETTINGS or not any(isinstance(key, str) for key in node):
        return None
    return Statement(spell_path(path), node, place, attributes)


def _contents(node: Opaque) -> MetaNode:
    """The items of an object that is a dict as well, or else its attributes."""
    if node.pairs:
        return {key: value for key, value in node.pairs if isinstance(key, str)}
    if isinstance(node.state, tuple):  # of a class with slots: what is in its dict, and what is in them
        return {key: value for part in node.state if isinstance(part, Mapping) for key, value in part.items()}
    return node.state


def method_of(config: Mapping[str, object]) -> str:
    """The method by which a configuration says that the weights are quantized; "" where it says nothing of that."""
    quantization = config.get(QUANTIZATION)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return method[:80] if isinstance(method, str) else ""
