"""Which tensor of one side belongs to which of the other, by names and content; and how a pair's shapes are related."""

from __future__ import annotations

import re
from itertools import permutations
from typing import TYPE_CHECKING

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
    for a, b in pairs:
        if _DIGITS.findall(a) == _DIGITS.findall(b):
            changes.setdefault(open_numbers(a).rpartition(".")[0], open_numbers(b).rpartition(".")[0])
    used = {name for pair in pairs for name in pair}
    homes = {(open_numbers(name), *_DIGITS.findall(name)): name for name in new if name not in used}
    found = []
    for name, tensor in lost.items():
        module, _, own = open_numbers(name).rpartition(".")
        if name in used or module not in changes:
            continue
        target = homes.get((f"{changes[module]}.{own}" if changes[module] else own, *_DIGITS.findall(name)))
        if target is not None and new[target].info.shape == tensor.info.shape:
            found.append((name, target))
            del homes[open_numbers(target), *_DIGITS.findall(target)]
    return found


def permutation(a: LazyTensor, b: LazyTensor, content: Content | None) -> tuple[int, ...]:
    """How the dimensions of `a` were permuted to give `b`; () where they were not."""
    shape, wanted = a.info.shape, b.info.shape
    if len(shape) != len(wanted) or not 2 <= len(shape) <= MOST_AXES or sorted(shape) != sorted(wanted):
        return ()
    if shape == wanted and (len(shape) > 2 or shape[0] != shape[1] or 1 in shape):
        return ()
    if content is not None and content.kind(a) != content.kind(b):
        content = None
    if content is not None and shape == wanted and content(a) == content(b):
        return ()
    if content is not None and content.is_telling(b):
        if content(a) == content(b):
            return ()
        same_start = content.first(a) == content.first(b)  # the first element is the first whatever is permuted
        for axes in permutations(range(len(shape))) if same_start else ():
            view = permuted(a, axes) if tuple(shape[axis] for axis in axes) == wanted else None
            if view is not None and axes != tuple(range(len(shape))) and content(view) == content(b):
                return axes
    return (1, 0) if len(shape) == 2 and shape != wanted and 1 not in shape else ()


def is_reshape(a: LazyTensor, b: LazyTensor, content: Content | None) -> bool:
    """Whether only the shape differs: told by content, or where dimensions of size 1 are all that differs."""
    if a.info.numel != b.info.numel:
        return False
    squeezed = [[n for n in t.info.shape if n != 1] for t in (a, b)]
    if squeezed[0] == squeezed[1]:
        return True
    return content is not None and content.kind(a) == content.kind(b) and content(a) == content(b)
