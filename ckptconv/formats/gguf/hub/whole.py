"""Whether all tensors of a model are there: as many layers as its configuration says, each with all parts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

OTHERS = "it may be another model's"
"""The hint where the configuration and the tensors differ."""


def check_layers(translation: str, count: int, layers: Mapping[int, Set[str]], kinds: tuple[str, ...] = ()) -> None:
    """Raise EditError unless the layers are the first `count`, and all of a kind have the same parts. Of which kind one
    is, the weights tell that it has of those in `kinds`.
    """
    if len(layers) != count or layers.keys() != set(range(count)):
        raise missing(translation, f"{CONFIG} says {count} layers, and the tensors have {len(layers)}")
    parts: dict[tuple[bool, ...], set[str]] = defaultdict(set)
    for own in layers.values():
        parts[_kind(own, kinds)] |= own
    for at, own in sorted(layers.items()):
        if lost := sorted(parts[_kind(own, kinds)] - own):
            raise missing(translation, f"layer {at} has no {lost[0]}, which others have")


def missing(translation: str, what: str) -> EditError:
    """The error where tensors that a model of this kind has are not there."""
    return EditError(f"--translate {translation}: {what}", hint=f"{OTHERS}, or a shard is missing")


def _kind(parts: Set[str], kinds: tuple[str, ...]) -> tuple[bool, ...]:
    return tuple(f"{one}.weight" in parts for one in kinds)
