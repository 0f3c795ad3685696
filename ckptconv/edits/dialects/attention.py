"""What frameworks do to attention weights: rotate heads, fuse them with others, give them a dimension of their own."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, Join, check_parts
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Permutation, Shape


def halves_of(name: str, info: TensorInfo, heads: int) -> Permutation:
    """The permutation of the rows of q or k that turns heads with neighbouring pairs into heads of two halves. Raises
    EditError if the rows are not that many heads.
    """
    rows = info.shape[0] if info.shape else 0
    if not rows or rows % (2 * heads):
        raise EditError(
            f"{name!r} has {rows} rows, which are no {heads} heads of two halves", hint="the number of heads is wrong"
        )
    return (heads, rows // heads // 2, 2), (0, 2, 1)


def interleaved(name: str, info: TensorInfo, heads: int) -> Permutation:
    """The permutation that turns rows of all q, all k and all v into q, k and v head by head. Raises EditError if the
    rows are not that many heads.
    """
    rows = info.shape[0] if info.shape else 0
    if not rows or rows % (3 * heads):
        raise EditError(
            f"{name!r} has {rows} rows, which are no q, k and v of {heads} heads", hint="the number of heads is wrong"
        )
    return (3, heads, rows // heads // 3), (1, 0, 2)


def grouped(name: str, new: str, info: TensorInfo, heads: int, groups: int) -> Change:
    """Turns rows of all q, all k and all v into groups of several q with one k and one v. Raises EditError if the rows
    are not that many heads.
    """
    size = _rows_per_head(name, info, heads, groups)
    if groups == 1:
        return Change.to(new)
    parts = tuple(f"{new}.{part}" for part in "qkv")
    return Change(
        names=parts,
        sizes=(heads * size, groups * size, groups * size),
        into=Join(new, parts, "concat", 0, blocks=groups),
    )


def ungrouped(name: str, new: str, info: TensorInfo, heads: int, groups: int) -> Change:
    """Turns rows in groups of several q with one k and one v into all q, all k and all v. Raises EditError if the rows
    are not that many heads, LimitError if there are more groups than models have.
    """
    size = _rows_per_head(name, info, heads, groups)
    if groups == 1:
        return Change.to(new)
    check_parts(3 * groups)
    parts = [tuple(f"{new}.{part}{group}" for part in "qkv") for group in range(groups)]
    order = tuple(part for kind in zip(*parts, strict=True) for part in kind)
    return Change(
        names=tuple(part for group in parts for part in group), sizes=(heads // groups * size, size, size) * groups,
        joined={new: order},
    )  # fmt: skip


def _rows_per_head(name: str, info: TensorInfo, heads: int, groups: int) -> int:
    rows = info.shape[0] if info.shape else 0
    count = heads + 2 * groups
    if not rows or rows % count or heads % groups:
        raise EditError(
            f"{name!r} has {rows} rows, which are no {heads} heads in {groups} groups of one k and v each",
            hint="the number of heads is wrong",
        )
    return rows // count


def without_heads(
    path: tuple[str, ...], shape: Shape, shapes: Mapping[tuple[str, ...], Shape], names: tuple[str, str, str, str]
) -> Shape | None:
    """The shape with the dimension of heads merged away, for the parts of an attention; None for all other tensors.

    path:   the tensor's modules and its own word. shapes: those of all tensors, by path.
    names:  the names of query, key, value and output. A kernel of three dimensions could also be a convolution's; it
            counts as attention's if all four are there and their shapes agree.
    """
    if len(path) < 2:
        return None
    *attention, part, word = path
    kernels = [shapes.get((*attention, name, "kernel"), ()) for name in names]
    if [len(kernel) for kernel in kernels] != [3, 3, 3, 3]:
        return None
    query, key, value, output = kernels
    if query[2] != key[2] or key[1] != value[1] or (query[1], value[2]) != output[:2] or query[1] % max(key[1], 1):
        return None
    if part in names[:3]:
        if word == "kernel":
            return (shape[0], prod(shape[1:]))
        return (prod(shape),) if word == "bias" else None
    return (prod(shape[:2]), shape[2]) if part == names[3] and word == "kernel" else None
