"""Finds pairs of tensors with the same name and shape whose numbers are the same, but in other places.

Only pairs whose bytes differ are examined; they are found before figures are computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.checks.compare_bytes import find_unequal
from ckptconv.core.edit import Step
from ckptconv.edits.heads import find_permutation
from ckptconv.edits.pairing import axes_between
from ckptconv.edits.patterns import edits_by_pattern
from ckptconv.edits.views import permuted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ckptconv.checks.pool import Pool
    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content
    from ckptconv.edits.explanation import Comparison
    from ckptconv.edits.heads import RowPermutation

    Group = list[Comparison]
    """The comparisons of one pair of tensors, which may have several names."""


def find_rearranged(
    groups: Sequence[Group], is_whole: Callable[[Comparison], bool], content: Content, pool: Pool
) -> tuple[list[Group], list[Edit]]:
    """The pairs that differ in other ways, and the edits that explain the rest.

    Square matrices and the like may be transposed; one that also differs in values is compared as transposed. Rows of
    attention heads may be permuted.

    is_whole: whether both tensors of a comparison are whole ones, and not parts.
    """
    whole = [group for group in groups if all(map(is_whole, group))]
    orders = {id(group): axes for group in whole if (axes := _axes(group[0], content))}
    turned = {
        id(group): _with_view(group, view) for group in whole
        if id(group) in orders and (view := permuted(group[0].a, orders[id(group)])) is not None
    }  # fmt: skip
    moved: dict[int, Group] = {}
    permutations: dict[RowPermutation, list[Group]] = {}
    for group in whole:
        if id(group) not in turned and (how := _permutation(group[0])) is not None:
            view = how.apply(group[0].a)
            if view is not None:
                moved[id(group)] = _with_view(group, view)
                permutations.setdefault(how, []).append(group)
    seen = {**turned, **moved}
    other = _unequal(seen, pool)
    found: list[Edit] = []
    for axes in dict.fromkeys(orders[key] for key in turned):
        steps = _steps(group for group in whole if id(group) in turned and orders[id(group)] == axes)
        found += edits_by_pattern("transpose", steps, {"axes": list(axes)})
    for how, permuted_groups in permutations.items():
        steps = _steps(group for group in permuted_groups if id(group) not in other)
        found += edits_by_pattern("permute", steps, {"axis": 0, "shape": list(how.shape), "axes": list(how.axes)})
    done = seen.keys() - other
    return [turned.get(id(group), group) for group in groups if id(group) not in done], found


def _axes(pair: Comparison, content: Content) -> tuple[int, ...]:
    """How a tensor with dimensions of equal size was transposed, which headers cannot show; () if it was not."""
    return axes_between(pair.a, pair.b, content) if pair.a.info.shape == pair.b.info.shape else ()


def _permutation(pair: Comparison) -> RowPermutation | None:
    return find_permutation(pair.a, pair.b) if pair.a.info.dtype == pair.b.info.dtype else None


def _with_view(group: Group, view: LazyTensor) -> Group:
    return [replace(pair, a=view) for pair in group]


def _unequal(groups: Mapping[int, Group], pool: Pool) -> set[int]:
    """The keys of the pairs that still differ, including those with different types."""
    other_types = {key for key, group in groups.items() if group[0].a.info.dtype != group[0].b.info.dtype}
    comparable = [key for key in groups if key not in other_types]
    unequal = find_unequal([(groups[key][0].a, groups[key][0].b) for key in comparable], pool)
    return other_types | {comparable[i] for i in unequal}


def _steps(groups: Iterable[Group]) -> list[Step]:
    return [Step((pair.b_name,), (pair.b_name,)) for group in groups for pair in group]
