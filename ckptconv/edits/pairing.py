"""Which tensor of one side belongs to which of the other, by names and content; and how a pair's shapes are related."""

from __future__ import annotations

import re
from itertools import permutations
from typing import TYPE_CHECKING

from ckptconv.core.names import module_of
from ckptconv.edits.match import pair_renames
from ckptconv.edits.patterns import open_numbers
from ckptconv.edits.views import permuted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content
    from ckptconv.edits.match import Shape

    Tensors = Mapping[str, LazyTensor]

_DIGITS = re.compile(r"\d+")

MOST_AXES = 4
"""Dimensions of which all permutations are tried."""


def equal(wanted: object, shape: object) -> bool:
    """Whether the shapes are the same."""
    return wanted == shape


def reversed_shape(wanted: Shape, shape: tuple[int, ...]) -> bool:
    """Whether both are matrices, one as the other is transposed."""
    return len(shape) == 2 and wanted == shape[::-1]


def one_to_one(here: Tensors, there: Tensors, *, _zip: bool) -> list[tuple[str, str]]:
    """Pairs of names of equal content: the likeliest names first; with `_zip`, the others as they come."""
    if len(here) == len(there) == 1 and _zip:
        return [(next(iter(here)), next(iter(there)))]
    shapes: tuple[dict[str, tuple[int, ...]], ...] = tuple(dict.fromkeys(side, ()) for side in (there, here))
    pairs = pair_renames(shapes[0], shapes[1], equal)
    if _zip:
        used = {name for pair in pairs for name in pair}
        pairs += zip([n for n in here if n not in used], [n for n in there if n not in used], strict=False)
    return pairs


def likewise(pairs: list[tuple[str, str]], lost: Tensors, new: Tensors) -> list[tuple[str, str]]:
    """Further renames that are as those found: a module whose weight has another name gives its bias that one too."""
    changes: dict[str, str] = {}
    modules: dict[str, str] = {}
    for a, b in pairs:
        modules.setdefault(module_of(a), module_of(b))
        if _DIGITS.findall(a) == _DIGITS.findall(b):
            changes.setdefault(module_of(open_numbers(a)), module_of(open_numbers(b)))
    used = {name for pair in pairs for name in pair}
    homes = {(open_numbers(name), *_DIGITS.findall(name)): name for name in new if name not in used}
    found = []
    for name, tensor in lost.items():
        if name in used:
            continue
        module, _, own = name.rpartition(".")
        wanted = _key(modules[module], own) if module in modules else ("",)
        if wanted not in homes:
            module, _, own = open_numbers(name).rpartition(".")
            wanted = (_key(changes[module], own)[0], *_DIGITS.findall(name)) if module in changes else ("",)
        target = homes.get(wanted)
        if target is not None and new[target].info.shape == tensor.info.shape:
            found.append((name, target))
            del homes[wanted]
    return found


def _key(module: str, own: str) -> tuple[str, ...]:
    """A name as its text and its numbers."""
    name = f"{module}.{own}" if module else own
    return (open_numbers(name), *_DIGITS.findall(name))


def permutation(a: LazyTensor, b: LazyTensor, content: Content | None) -> tuple[int, ...]:
    """How the dimensions of `a` were permuted to give `b`; () where they were not."""
    shape, wanted = a.info.shape, b.info.shape
    if len(shape) != len(wanted) or not 2 <= len(shape) <= MOST_AXES or sorted(shape) != sorted(wanted):
        return ()
    if shape == wanted and len({n for n in shape if n != 1}) == len([n for n in shape if n != 1]):
        return ()
    content = content and content.of_pair(a, b)
    if content is not None and shape == wanted and content(a) == content(b):
        return ()
    if content is not None and content.is_telling(b):
        if content(a) == content(b):
            return ()
        if fitting := _by_content(a, b, content):
            probed = content
            return max(fitting, key=lambda axes: len(fitting) > 1 and probed.alike(fitting[axes], b))
    return (1, 0) if len(shape) == 2 and shape != wanted and 1 not in shape else ()


def _by_content(a: LazyTensor, b: LazyTensor, content: Content) -> dict[tuple[int, ...], LazyTensor]:
    """The permutations of `a` that have the content of `b`."""
    if content.first(a) != content.first(b):  # the first element is the first whatever is permuted
        return {}
    shape = a.info.shape
    return {
        axes: view
        for axes in permutations(range(len(shape)))
        if axes != tuple(range(len(shape)))
        and tuple(shape[axis] for axis in axes) == b.info.shape
        and (view := permuted(a, axes)) is not None
        and content(view) == content(b)
    }


def is_reshape(a: LazyTensor, b: LazyTensor, content: Content | None) -> bool:
    """Whether only the shape differs: told by content, or where dimensions of size 1 are all that differs."""
    if a.info.numel != b.info.numel:
        return False
    squeezed = [[n for n in t.info.shape if n != 1] for t in (a, b)]
    if squeezed[0] == squeezed[1]:
        return True
    return content is not None and content.kind(a) == content.kind(b) and content(a) == content(b)
