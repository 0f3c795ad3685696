"""The layers that tensors belong to, by their names: ``model.layers.3`` and ``attn.q.weight``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.cli.text.diff_parts import change_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.checks.compare_values import Values

MOST_DIGITS = 9
"""A number of more digits in a name is a hash, not a layer's index."""


def split_name(name: str) -> tuple[str, str]:
    """The layer, and the tensor's name within it: split after the first component that is a number, or before the last
    component where none is.
    """
    parts = name.split(".")
    split = next((i for i, part in enumerate(parts[:-1]) if is_number(part)), len(parts) - 2)
    return ".".join(parts[: split + 1]), ".".join(parts[split + 1 :])


def is_number(part: str) -> bool:
    """Whether a component of a name counts layers."""
    return part.isdigit() and part.isascii() and len(part) <= MOST_DIGITS


@dataclass(slots=True)
class Layer:
    """What changed in a layer: how many tensors, the largest change, and where that is."""

    name: str
    tensors: int = 0
    change: float = -1.0
    largest: str = ""


def changed_layers(changed: Iterable[tuple[str, Values | None]]) -> list[Layer]:
    """The layers of tensors whose values changed, the largest change first, else in the order of the names."""
    layers: dict[str, Layer] = {}
    for name, values in changed:
        key, parameter = split_name(name)
        layer = layers.setdefault(key, Layer(key))
        layer.tensors += 1
        change = change_of(values)
        if change > layer.change:
            layer.change, layer.largest = change, parameter
    return sorted(layers.values(), key=lambda layer: -layer.change)
