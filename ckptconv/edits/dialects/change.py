"""What a dialect asks of one tensor, and the edits that do it to all of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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
    flips:  along these dimensions its elements come in reverse order.
    parts:  its first dimension is cut into so many equal parts, each called as it is and by its number, ``NAME.0``.
    zeros:  names of new tensors beside it, of its type and shape, whose elements are all 0.
    joined: names of tensors that are made of these, one after another along the first dimension. The changes of all
            tensors are at that point.
    twin:   the tensor of which it is a copy by its name. Where it is one, it is dropped.
    left:   why it stays as it is but for its name, for people.
    """

    names: tuple[str, ...]
    unpack: bool = False
    shape: Shape | None = None
    halves: Shape | None = None
    axes: Shape | None = None
    flips: Shape = ()
    parts: int = 1
    zeros: tuple[str, ...] = ()
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    twin: str = ""
    left: str = ""

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
        rows = ((name, change, details(name, change)) for name, change in changes.items())
        many = kind in ("unstack", "rename")
        yield from _grouped(
            (kind, wanted, (name,), change.names if many else (name,))
            for name, change, wanted in rows
            if wanted is not None
        )

    yield from each("cast", lambda name, c: {"from": tensors[name].dtype.name, "dtype": "F32"} if c.unpack else None)
    yield from each("reshape", lambda name, c: _reshape(c, tensors[name].shape))
    yield from each("permute", lambda name, c: _permute(c))
    yield from each("transpose", lambda name, c: None if c.axes is None else {"axes": list(c.axes)})
    yield from each("unstack", lambda name, c: {"axis": 0} if len(c.names) > 1 else None)
    yield from each("rename", lambda name, c: {} if len(c.names) == 1 and c.names[0] != name else None)
    for axis in sorted({axis for change in changes.values() for axis in change.flips}):
        yield from _flipped(axis, changes, tensors)
    cut = [(name, change.parts) for change in changes.values() if change.parts > 1 for name in change.names]
    yield from _grouped(("split", {"axis": 0}, (name,), parts_of(name, parts)) for name, parts in cut)
    yield from _grouped(("zeros", {}, c.names[:1], (name,)) for c in changes.values() for name in c.zeros)
    joins = [item for change in changes.values() for item in change.joined.items()]
    yield from _grouped(("concat", {"axis": 0}, parts, (name,)) for name, parts in joins)


def parts_of(name: str, parts: int) -> tuple[str, ...]:
    """What the equal parts of a tensor are called."""
    return tuple(f"{name}.{i}" for i in range(parts))


def _flipped(axis: int, changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    """Cut into its indices along an axis, and joined from the last to the first."""
    rows = []
    for old, change in changes.items():
        if axis in change.flips and change.axes is not None:
            rows.append((change.names[0], parts_of(change.names[0], tensors[old].shape[change.axes[axis]])))
    details: Mapping[str, Json] = {"axis": axis}
    yield from _grouped(("split", details, (name,), parts) for name, parts in rows)
    yield from _grouped(("concat", details, parts[::-1], (name,)) for name, parts in rows)


def _grouped(rows: Iterable[tuple[Kind, Mapping[str, Json], tuple[str, ...], tuple[str, ...]]]) -> Iterator[Edit]:
    """One edit for all steps of a kind with the same details."""
    groups: dict[str, list[Step]] = defaultdict(list)
    found: dict[str, tuple[Kind, Mapping[str, Json]]] = {}
    for kind, details, sources, targets in rows:
        found[repr(details)] = kind, details
        groups[repr(details)].append(Step(sources, targets))
    for key, steps in groups.items():
        kind, details = found[key]
        yield Edit(kind, steps[0].sources, steps[0].targets, details, tuple(steps))


def _reshape(change: Change, before: Shape) -> Mapping[str, Json] | None:
    return None if change.shape is None else {"shape": list(change.shape), "from": list(before)}


def _permute(change: Change) -> Mapping[str, Json] | None:
    if change.halves is None:
        return None
    *front, a, b = range(len(change.halves))
    return {"axis": 0, "shape": list(change.halves), "axes": [*front, b, a]}
