"""Checks that all layers are there: as many as the configuration states, each with all tensors of its kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

OTHER_MODEL = "it may be another model's"
"""The hint if the configuration and the tensors differ."""


def check_layers(translation: str, count: int, layers: Mapping[int, Set[str]], kinds: tuple[str, ...] = ()) -> None:
    """Raise EditError unless the layers are numbered from 0 to `count`, and those of a kind have the same tensors.

    layers: the names of each layer's tensors.
    kinds:  weights by which kinds of layers differ: two layers are of one kind if they have the same of these.
    """
    if len(layers) != count or layers.keys() != set(range(count)):
        raise missing(translation, f"{CONFIG} says {count} layers, and the tensors have {len(layers)}")
    parts: dict[tuple[bool, ...], set[str]] = defaultdict(set)
    for names in layers.values():
        parts[_kind(names, kinds)] |= names
    for number, names in sorted(layers.items()):
        if lost := sorted(parts[_kind(names, kinds)] - names):
            raise missing(translation, f"layer {number} has no {lost[0]}, which others have")


def missing(translation: str, what: str) -> EditError:
    """The error for missing tensors."""
    return EditError(f"--translate {translation}: {what}", hint=f"{OTHER_MODEL}, or a shard is missing")


def _kind(names: Set[str], kinds: tuple[str, ...]) -> tuple[bool, ...]:
    return tuple(f"{kind}.weight" in names for kind in kinds)
