"""What a dialect asks of one tensor, and the edits that do it to all of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor, TensorInfo

Shape = tuple[int, ...]

_BLOCK = 1 << 22
"""Bytes of two tensors that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one tensor, in this order.

    unpack: blocks become floats, since they would have to be taken apart.
    shape:  it is given this shape.
    halves: its first dimension is these, of which the last two change places: the rotary halves of heads.
    axes:   its dimensions change places.
    names:  its name; several where its first dimension is taken apart.
    twin:   the tensor of which it is a copy by its name. Where it is one, it is dropped.
    """

    names: tuple[str, ...]
    unpack: bool = False
    shape: Shape | None = None
    halves: Shape | None = None
    axes: Shape | None = None
    twin: str = ""

    @classmethod
    def to(cls, name: str, shape: Shape | None = None, axes: Shape | None = None) -> Change:
        """Another name, shape, or order of dimensions."""
        return cls(names=(name,), shape=shape, axes=axes)


def outputs_first(rank: int) -> Shape | None:
    """The axes of a kernel with its outputs, then its inputs, before what they are convolved over."""
    return None if rank < 2 else (rank - 1, rank - 2, *range(rank - 2))


def halves_of(name: str, info: TensorInfo, heads: int) -> Shape:
    """The rows of q or k as heads of neighbours, which become two halves. Raises EditError where they are none."""
    rows = info.shape[0] if info.shape else 0
    if not rows or rows % (2 * heads):
        raise EditError(
            f"{name!r} has {rows} rows, which are no {heads} heads of two halves", hint="the number of heads is wrong"
        )
    return (heads, rows // heads // 2, 2)


def without_heads(
    path: tuple[str, ...], shape: Shape, shapes: Mapping[tuple[str, ...], Shape], names: tuple[str, str, str, str]
) -> Shape | None:
    """The shape without a dimension of heads, for the parts of an attention; None for all others.

    path:   of the tensor: modules, and its own word. shapes: of all tensors, by their paths.
    names:  what query, key, value and output are called. A kernel of three dimensions may as well be a convolution's:
            it is attention's where these stand side by side and their shapes agree.
    """
    if len(path) < 2:
        return None
    *attention, part, word = path
    kernels = [shapes.get((*attention, name, "kernel"), ()) for name in names]
    if [len(kernel) for kernel in kernels] != [3, 3, 3, 3]:
        return None
    query, key, value, output = kernels
    if query[1:] != key[1:] or value[1:] != output[:2]:
        return None
    if part in names[:3]:
        if word == "kernel":
            return (shape[0], prod(shape[1:]))
        return (prod(shape),) if word == "bias" else None
    return (prod(shape[:2]), shape[2]) if part == names[3] and word == "kernel" else None


def copies(changes: Mapping[str, Change], tensors: Mapping[str, LazyTensor]) -> list[str]:
    """The tensors that are copies of their twins, bit for bit. Reads those that could be."""
    return [name for name, change in changes.items() if change.twin and _equal(tensors[name], tensors[change.twin])]


def _equal(a: LazyTensor, b: LazyTensor) -> bool:
    return a.info == b.info and all(
        a.read(at, min(at + _BLOCK, a.info.nbytes)) == b.read(at, min(at + _BLOCK, a.info.nbytes))
        for at in range(0, a.info.nbytes, _BLOCK)
    )


def edits_of(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    """The edits, one for all tensors to which the same is done."""

    def each(kind: Kind, details: Callable[[str, Change], Mapping[str, Json] | None]) -> Iterator[Edit]:
        groups: dict[str, list[Step]] = defaultdict(list)
        found: dict[str, Mapping[str, Json]] = {}
        for name, change in changes.items():
            wanted = details(name, change)
            if wanted is not None:
                found[repr(wanted)] = wanted
                targets = change.names if kind in ("unstack", "rename") else (name,)
                groups[repr(wanted)].append(Step((name,), targets))
        for key, steps in groups.items():
            yield Edit(kind, steps[0].sources, steps[0].targets, found[key], tuple(steps))

    yield from each("cast", lambda name, c: {"from": tensors[name].dtype.name, "dtype": "F32"} if c.unpack else None)
    yield from each("reshape", lambda name, c: _reshape(c, tensors[name].shape))
    yield from each("permute", lambda name, c: _permute(c))
    yield from each("transpose", lambda name, c: None if c.axes is None else {"axes": list(c.axes)})
    yield from each("unstack", lambda name, c: {"axis": 0} if len(c.names) > 1 else None)
    yield from each("rename", lambda name, c: {} if len(c.names) == 1 and c.names[0] != name else None)


def _reshape(change: Change, before: Shape) -> Mapping[str, Json] | None:
    return None if change.shape is None else {"shape": list(change.shape), "from": list(before)}


def _permute(change: Change) -> Mapping[str, Json] | None:
    if change.halves is None:
        return None
    *front, a, b = range(len(change.halves))
    return {"axis": 0, "shape": list(change.halves), "axes": [*front, b, a]}
