"""Pairs tensors of two sets by names and content, and tells how the shapes of a pair are related."""

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
"""Shapes with more dimensions are not tried for permutations."""


def is_same_shape(wanted: object, shape: object) -> bool:
    """Whether the shapes are equal."""
    return wanted == shape


def is_transposed_shape(wanted: Shape, shape: tuple[int, ...]) -> bool:
    """Whether both are shapes of matrices, one the other's transposed."""
    return len(shape) == 2 and wanted == shape[::-1]


def pair_equal_content(here: Tensors, there: Tensors, *, rest_in_order: bool) -> list[tuple[str, str]]:
    """Pairs of names whose tensors all have the same content: by similar names, and with `rest_in_order` also those
    whose names are not similar, in the order of both sides.
    """
    if len(here) == len(there) == 1 and rest_in_order:
        return [(next(iter(here)), next(iter(there)))]
    no_shapes: tuple[dict[str, tuple[int, ...]], ...] = tuple(dict.fromkeys(side, ()) for side in (there, here))
    pairs = pair_renames(no_shapes[0], no_shapes[1], is_same_shape)
    if rest_in_order:
        used = {name for pair in pairs for name in pair}
        pairs += zip([n for n in here if n not in used], [n for n in there if n not in used], strict=False)
    return pairs


def analogous_renames(pairs: list[tuple[str, str]], lost: Tensors, new: Tensors) -> list[tuple[str, str]]:
    """Further renames in the manner of `pairs`: a module whose weight was renamed takes its bias along."""
    changes: dict[str, str] = {}  # module → new module, with numbers left open
    modules: dict[str, str] = {}  # module → new module
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
    """A name as its text, with numbers left open, and its numbers."""
    name = f"{module}.{own}" if module else own
    return (open_numbers(name), *_DIGITS.findall(name))


def axes_between(a: LazyTensor, b: LazyTensor, content: Content | None) -> tuple[int, ...]:
    """How the dimensions of `a` were permuted to give `b`: dimension `i` of `b` is ``axes[i]`` of `a`. () for not."""
    shape, wanted = a.info.shape, b.info.shape
    if len(shape) != len(wanted) or not 2 <= len(shape) <= MOST_AXES or sorted(shape) != sorted(wanted):
        return ()
    sizes = [n for n in shape if n != 1]
    if shape == wanted and len(set(sizes)) == len(sizes):  # all sizes differ: any permutation would show
        return ()
    content = content and content.of_pair(a, b)
    if content is not None and shape == wanted and content(a) == content(b):
        return ()
    if content is not None and content.is_telling(b):
        if content(a) == content(b):
            return ()
        fitting = _permutations_to(a, b, content)
        if len(fitting) == 1:
            return next(iter(fitting))
        if fitting:
            probed = content
            return max(fitting, key=lambda axes: probed.count_equal(fitting[axes], b))
    return (1, 0) if len(shape) == 2 and shape != wanted and 1 not in shape else ()


def _permutations_to(a: LazyTensor, b: LazyTensor, content: Content) -> dict[tuple[int, ...], LazyTensor]:
    """The permutations of `a` whose content is that of `b`, as views by their axes."""
    if content.first(a) != content.first(b):  # no permutation moves the first element
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
    """Whether only the shape differs: in dimensions of size 1 alone, or else as the content shows."""
    if a.info.numel != b.info.numel:
        return False
    squeezed = [[n for n in t.info.shape if n != 1] for t in (a, b)]
    if squeezed[0] == squeezed[1]:
        return True
    return content is not None and content.kind(a) == content.kind(b) and content(a) == content(b)
