"""What a dialect does to one tensor (`Change`), and the edits that do it for all tensors (`edits_for`)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ckptconv.core.edit import Edit, Step
from ckptconv.core.tensor import infos_of
from ckptconv.errors import EditError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor, TensorInfo

Shape = tuple[int, ...]
Permutation = tuple[Shape, Shape]
"""A dimension split into several, and the order in which these are merged into one again."""

MOST_PARTS = 1 << 17
"""The most tensors that a file's may be cut into; the largest mixtures of experts have some 70,000."""

FREE_PARTS, BYTES_PER_PART = 1 << 14, 1 << 10
"""How many parts are always allowed, even for a small file; beyond that, each part needs this many bytes on average.
The parts of real models have a million bytes.
"""

_BLOCK = 1 << 22
"""How many bytes of two tensors are compared at a time."""


@dataclass(frozen=True, slots=True)
class Join:
    """Several tensors that become one, `target`, along `axis`. `blocks` means what it means in an edit of kind concat.

    Afterwards, dimension `merge` and the next are merged into one, and then the dimensions are transposed to `axes`.
    """

    target: str
    sources: tuple[str, ...]
    kind: Literal["concat", "stack"]
    axis: int
    blocks: int = 1
    merge: int | None = None
    axes: Shape | None = None

    def details(self) -> Mapping[str, Json]:
        """What the edit holds besides names."""
        return {"axis": self.axis, **({"blocks": self.blocks} if self.blocks > 1 else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one tensor, in this order.

    unpack:   it becomes F32, as blocks must before they are cut, and tensors before a function is applied.
    lead:     this dimension becomes the first.
    shape:    it is reshaped to this.
    permute:  dimension `axis` is split and its parts are permuted: the rotary halves of heads, a fused q, k and v.
    axes:     its dimensions are transposed.
    names:    its new name; or several, for the pieces of its first dimension, which have `sizes` if these are given.
    transposed: after that, the tensors of these names have their dimensions transposed.
    function: its values become this function of them, written as in an edit of kind map.
    flips:    along these dimensions, the order of its elements is reversed.
    parts:    its first dimension is cut into this many equal parts, each called by its name and a number, ``NAME.0``.
    copies:   names of new tensors that are copies of it as it is at this point.
    shared:   names of new tensors that share its storage at this point.
    zeros:    names of new tensors of its type and shape whose elements are all 0.
    joined:   by name, the tensors concatenated along the first dimension to make a new one. Parts may come from the
              changes of any tensor.
    into:     the tensor that it, or its pieces, become parts of; this happens before `joined`.
    twin:     by its name, it should be a copy of this tensor. If it is, it is dropped.
    tied:     it must be such a copy, because readers of the result have no other place for it.
    note:     for people: why only its name changes, or why it is dropped.
    dropped:  it is dropped: the other framework does not have it, or computes it.
    """

    names: tuple[str, ...]
    unpack: bool = False
    lead: int = 0
    shape: Shape | None = None
    permute: Permutation | None = None
    axis: int = 0
    axes: Shape | None = None
    sizes: Shape | None = None
    transposed: Mapping[str, Shape] = field(default_factory=dict)
    function: Mapping[str, Json] | None = None
    flips: Shape = ()
    parts: int = 1
    copies: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    into: Join | None = None
    twin: str = ""
    tied: bool = False
    note: str = ""
    dropped: bool = False

    @classmethod
    def to(cls, name: str, shape: Shape | None = None, axes: Shape | None = None) -> Change:
        """A new name, and optionally a new shape or order of dimensions."""
        return cls(names=(name,), shape=shape, axes=axes)

    @classmethod
    def cut(cls, names: Sequence[str], name: str, info: TensorInfo, sizes: Shape = ()) -> Change:
        """Cuts its rows into several tensors. Raises EditError if the rows do not divide like that."""
        rows = info.shape[0] if info.shape else 0
        if not rows or min(sizes, default=1) < 0 or (rows != sum(sizes) if sizes else rows % len(names)):
            raise EditError(
                f"{name!r} has {rows} rows, which are not {' + '.join(map(str, sizes)) or f'{len(names)} equal parts'}",
                hint="its weights may be packed: translate what it was made from",
            )
        equal = (rows // len(names),) * len(names)
        return cls(names=tuple(names), unpack=info.dtype.kind == "block", sizes=sizes or equal)

    @classmethod
    def swapped(cls, new: str, name: str, info: TensorInfo) -> Change:
        """A new name, with the two halves of its rows swapped. Raises EditError if its rows are not two halves."""
        rows = info.shape[0] if info.shape else 0
        if not rows or rows % 2:
            raise EditError(
                f"{name!r} has {rows} rows, which are not two halves", hint="ckptconv inspect shows its shape"
            )
        halves = parts_of(new, 2)
        return cls(names=(new,), unpack=info.dtype.kind == "block", parts=2, joined={new: halves[::-1]})

    @classmethod
    def piece(cls, whole: str, number: int, count: int) -> Change:
        """Makes it part `number` of the `count` parts of the rows of `whole`."""
        parts = parts_of(whole, count)
        return cls(names=(parts[number],), into=Join(whole, parts, "concat", 0))

    def under(self, prefix: str) -> Change:
        """The same change with a prefix before every new name."""
        joined = {prefix + name: tuple(prefix + part for part in parts) for name, parts in self.joined.items()}
        into = self.into and replace(
            self.into, target=prefix + self.into.target, sources=tuple(prefix + part for part in self.into.sources)
        )
        return replace(self, names=tuple(prefix + name for name in self.names), joined=joined, into=into)


def unchanged(tensors: Mapping[str, TensorInfo]) -> dict[str, Change]:
    """Changes that leave all tensors as they are."""
    return {name: Change.to(name) for name in tensors}


def inverse(table: Mapping[str, str]) -> dict[str, str]:
    """A table of names with keys and values exchanged."""
    return {new: old for old, new in table.items()}


def outputs_first(rank: int) -> Shape | None:
    """The axes that move a kernel's last two dimensions, inputs and outputs, to the front, outputs first."""
    return None if rank < 2 else (rank - 1, rank - 2, *range(rank - 2))


def check_parts(count: int, nbytes: int | None = None) -> None:
    """Raise LimitError if cutting tensors into this many, even temporarily, goes further than any model does.

    nbytes: the size of what is cut, which lowers the limit for small files.
    """
    most = MOST_PARTS if nbytes is None else min(MOST_PARTS, max(FREE_PARTS, nbytes // BYTES_PER_PART))
    if count > most:
        raise LimitError(f"its tensors would be cut into more than {most:,}, further than any model's of its size")


def count_parts(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> int:
    """How many more tensors there are when all are cut as the changes say."""
    added = 0
    for name, change in changes.items():
        added += len(change.names) * change.parts - 1
        if change.axes is not None:
            shape = tensors[name].shape
            added += sum(shape[change.axes[axis]] for axis in change.flips)
    return added


def names_to_drop(changes: Mapping[str, Change], tensors: Mapping[str, LazyTensor]) -> list[str]:
    """The tensors to drop: those whose change says so, and those that equal their twin byte for byte.

    Reads the tensors that have a twin. Raises EditError if one that is tied to its twin is not a copy of it.
    """
    copies = {
        name for name, change in changes.items() if change.twin and have_same_bytes(tensors[name], tensors[change.twin])
    }
    for name, change in changes.items():
        if change.tied and name not in copies:
            raise EditError(
                f"{name!r} has other values than {change.twin!r}, to which the configuration ties it",
                hint=f"--drop {name} before --translate leaves it out; a configuration that does not tie them keeps it",
            )
    return [name for name, change in changes.items() if change.dropped or name in copies]


def have_same_bytes(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors have the same type, shape and bytes. Reads both, in pieces, unless they share a storage."""
    if a.alias is not None and a.alias == b.alias:
        return True
    return a.info == b.info and all(
        a.read(at, min(at + _BLOCK, a.info.nbytes)) == b.read(at, min(at + _BLOCK, a.info.nbytes))
        for at in range(0, a.info.nbytes, _BLOCK)
    )


def edits_for(changes: Mapping[str, Change], tensors: Mapping[str, LazyTensor]) -> list[Edit]:
    """The edits that carry out the changes. Reads only tensors that may be copies of others, which are dropped."""
    dropped = dict.fromkeys(names_to_drop(changes, tensors))
    steps = tuple(Step((name,), ()) for name in dropped)
    drop = [Edit("drop", steps[0].sources, (), {}, steps)] if steps else []
    kept = {name: change for name, change in changes.items() if name not in dropped}
    return [*drop, *_edits_of_kept(kept, infos_of(tensors))]


def _edits_of_kept(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    """The edits for tensors that are not dropped; tensors to which the same is done share an edit."""

    def each(kind: Kind, details: Callable[[str, Change], Mapping[str, Json] | None]) -> Iterator[Edit]:
        rows = ((name, change, details(name, change)) for name, change in changes.items())
        renames = kind in ("unstack", "split", "rename")
        yield from grouped_by_details(
            (kind, found, (name,), change.names if renames else (name,))
            for name, change, found in rows
            if found is not None
        )

    yield from each("cast", lambda name, c: {"from": tensors[name].dtype.name, "dtype": "F32"} if c.unpack else None)
    yield from each(
        "transpose", lambda name, c: {"axes": [*_led(c, range(len(tensors[name].shape)))]} if c.lead else None
    )
    yield from each("reshape", lambda name, c: _reshape(c, _led(c, tensors[name].shape)))
    yield from each("permute", lambda name, c: _permute(c))
    yield from each("transpose", lambda name, c: None if c.axes is None else {"axes": list(c.axes)})
    yield from each("unstack", lambda name, c: {"axis": 0} if len(c.names) > 1 and c.sizes is None else None)
    yield from each("split", lambda name, c: None if c.sizes is None else {"axis": 0, "sizes": list(c.sizes)})
    transposed = [item for change in changes.values() for item in change.transposed.items()]
    yield from grouped_by_details(("transpose", {"axes": list(axes)}, (name,), (name,)) for name, axes in transposed)
    yield from each("map", lambda name, c: c.function)
    yield from each("rename", lambda name, c: {} if len(c.names) == 1 and c.names[0] != name else None)
    for axis in sorted({axis for change in changes.values() for axis in change.flips}):
        yield from _flip_edits(axis, changes, tensors)
    cut = [(name, change.parts) for change in changes.values() if change.parts > 1 for name in change.names]
    yield from grouped_by_details(("split", {"axis": 0}, (name,), parts_of(name, parts)) for name, parts in cut)
    copies = [((c.names[0],), (copy,)) for c in changes.values() for copy in c.copies]
    shared = [((c.names[0],), (other,)) for c in changes.values() for other in c.shared]
    yield from grouped_by_details(("tie", {"new": True}, name, new) for name, new in (*copies, *shared))
    yield from grouped_by_details(("untie", {}, name, copy) for name, copy in copies)
    yield from grouped_by_details(("zeros", {}, c.names[:1], (name,)) for c in changes.values() for name in c.zeros)
    yield from _join_edits(changes, tensors)
    joins = [item for change in changes.values() for item in change.joined.items()]
    yield from grouped_by_details(("concat", {"axis": 0}, parts, (name,)) for name, parts in joins)


def parts_of(name: str, parts: int) -> tuple[str, ...]:
    """The names of the equal parts of a tensor."""
    return tuple(f"{name}.{i}" for i in range(parts))


def _join_edits(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    joins = list({change.into.target: change.into for change in changes.values() if change.into is not None}.values())
    for kind in ("concat", "stack"):
        alike = (join for join in joins if join.kind == kind)
        yield from grouped_by_details((join.kind, join.details(), join.sources, (join.target,)) for join in alike)
    merged = ((join, _merged_shape(join, changes, tensors)) for join in joins if join.merge is not None)
    yield from grouped_by_details(("reshape", shape, (join.target,), (join.target,)) for join, shape in merged)
    moved = ((join.target, join.axes) for join in joins if join.axes is not None)
    yield from grouped_by_details(("transpose", {"axes": list(axes)}, (name,), (name,)) for name, axes in moved)


def _merged_shape(join: Join, changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Mapping[str, Json]:
    """The shape after two dimensions are merged; the others are those of the first part after its change."""
    assert join.merge is not None
    shape = [*tensors[join.sources[0]].shape]
    axes = changes[join.sources[0]].axes
    shape = shape if axes is None else [shape[axis] for axis in axes if axis < len(shape)]
    if join.kind == "stack":
        shape.insert(join.axis, len(join.sources))
    shape[join.merge : join.merge + 2] = [-1]
    return {"shape": [*shape]}


def _flip_edits(axis: int, changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    """Edits that cut tensors into their slices along an axis, and join these from the last to the first."""
    rows = []
    for old, change in changes.items():
        if axis in change.flips and change.axes is not None:
            rows.append((change.names[0], parts_of(change.names[0], tensors[old].shape[change.axes[axis]])))
    details: Mapping[str, Json] = {"axis": axis}
    yield from grouped_by_details(("split", details, (name,), parts) for name, parts in rows)
    yield from grouped_by_details(("concat", details, parts[::-1], (name,)) for name, parts in rows)


def grouped_by_details(
    rows: Iterable[tuple[Kind, Mapping[str, Json], tuple[str, ...], tuple[str, ...]]],
) -> Iterator[Edit]:
    """One edit for all steps that have the same details."""
    groups: dict[str, list[Step]] = defaultdict(list)
    found: dict[str, tuple[Kind, Mapping[str, Json]]] = {}
    for kind, details, sources, targets in rows:
        found[repr(details)] = kind, details
        groups[repr(details)].append(Step(sources, targets))
    for key, steps in groups.items():
        kind, details = found[key]
        yield Edit(kind, steps[0].sources, steps[0].targets, details, tuple(steps))


def _led(change: Change, dimensions: Sequence[int]) -> Shape:
    """The dimensions, with the one that leads first."""
    rest = tuple(size for axis, size in enumerate(dimensions) if axis != change.lead)
    return (*dimensions[change.lead : change.lead + 1], *rest)


def _reshape(change: Change, before: Shape) -> Mapping[str, Json] | None:
    return None if change.shape is None else {"shape": list(change.shape), "from": list(before)}


def _permute(change: Change) -> Mapping[str, Json] | None:
    if change.permute is None:
        return None
    shape, axes = change.permute
    return {"axis": change.axis, "shape": list(shape), "axes": list(axes)}
