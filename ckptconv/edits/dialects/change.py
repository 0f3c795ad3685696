"""What a dialect asks of one tensor, and the edits that do it to all of them."""

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
"""A dimension seen as several, and the order in which they are one again."""

MOST_PARTS = 1 << 17
"""Tensors that all of a file's are cut into; the largest mixtures of experts have some 70,000."""

FREE_PARTS, BYTES_A_PART = 1 << 14, 1 << 10
"""What even a small file's may be cut into, and of how many bytes each is past that: those of models have a million."""

_BLOCK = 1 << 22
"""Bytes of two tensors that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Join:
    """Tensors that become one, `target`, along `axis`; `blocks` as an edit of kind concat has it.

    Then dimension `merge` and the next are one, and then the dimensions change places.
    """

    target: str
    sources: tuple[str, ...]
    kind: Literal["concat", "stack"]
    axis: int
    blocks: int = 1
    merge: int | None = None
    axes: Shape | None = None

    def details(self) -> Mapping[str, Json]:
        """What an edit says besides names."""
        return {"axis": self.axis, **({"blocks": self.blocks} if self.blocks > 1 else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one tensor, in this order.

    unpack:   it becomes F32: blocks that would have to be taken apart, and what is computed with.
    shape:    it is given this shape.
    permute:  its dimension `axis` is these, which change places: the rotary halves of heads, a fused q, k and v.
    axes:     its dimensions change places.
    names:    its name; several where its first dimension is taken apart, into pieces of `sizes` where these are given.
    turned:   the dimensions of these names change places, after that.
    function: its values become this of them, as an edit of kind map says it.
    flips:    along these dimensions its elements come in reverse order.
    parts:    its first dimension is cut into so many equal parts, each called as it is and by its number, ``NAME.0``.
    copies:   names of new tensors beside it, that are what it is then.
    shared:   names of new tensors that share it then.
    zeros:    names of new tensors beside it, of its type and shape, whose elements are all 0.
    joined:   names of tensors that are made of these, one after another along the first dimension. The changes of all
              tensors are at that point.
    into:     what it, or what it was taken apart into, becomes a part of, before that.
    twin:     the tensor of which it is a copy by its name. Where it is one, it is dropped.
    tied:     it has to be that copy: what reads it knows no other.
    left:     why it stays as it is but for its name, for people.
    gone:     it is dropped: the other framework has it not, or makes it anew.
    """

    names: tuple[str, ...]
    unpack: bool = False
    shape: Shape | None = None
    permute: Permutation | None = None
    axis: int = 0
    axes: Shape | None = None
    sizes: Shape | None = None
    turned: Mapping[str, Shape] = field(default_factory=dict)
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
    left: str = ""
    gone: bool = False

    @classmethod
    def to(cls, name: str, shape: Shape | None = None, axes: Shape | None = None) -> Change:
        """Another name, shape, or order of dimensions."""
        return cls(names=(name,), shape=shape, axes=axes)

    @classmethod
    def cut(cls, names: Sequence[str], name: str, info: TensorInfo, sizes: Shape = ()) -> Change:
        """Several names for parts of its rows. Raises EditError where it has other rows."""
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
        """Another name, and the halves of its rows the other way round. Raises EditError where there are no halves."""
        rows = info.shape[0] if info.shape else 0
        if not rows or rows % 2:
            raise EditError(
                f"{name!r} has {rows} rows, which are not two halves", hint="ckptconv inspect shows its shape"
            )
        halves = parts_of(new, 2)
        return cls(names=(new,), unpack=info.dtype.kind == "block", parts=2, joined={new: halves[::-1]})

    @classmethod
    def piece(cls, whole: str, number: int, count: int) -> Change:
        """A part of the rows of another tensor."""
        parts = parts_of(whole, count)
        return cls(names=(parts[number],), into=Join(whole, parts, "concat", 0))

    def under(self, prefix: str) -> Change:
        """The same with a prefix before its names."""
        joined = {prefix + name: tuple(prefix + part for part in parts) for name, parts in self.joined.items()}
        into = self.into and replace(
            self.into, target=prefix + self.into.target, sources=tuple(prefix + part for part in self.into.sources)
        )
        return replace(self, names=tuple(prefix + name for name in self.names), joined=joined, into=into)


def unchanged(tensors: Mapping[str, TensorInfo]) -> dict[str, Change]:
    """All of them as they are."""
    return {name: Change.to(name) for name in tensors}


def inverse(table: Mapping[str, str]) -> dict[str, str]:
    """A table of names, read from the other side."""
    return {new: old for old, new in table.items()}


def outputs_first(rank: int) -> Shape | None:
    """The axes of a kernel with its outputs, then its inputs, before what they are convolved over."""
    return None if rank < 2 else (rank - 1, rank - 2, *range(rank - 2))


def check_parts(count: int, nbytes: int | None = None) -> None:
    """Raise LimitError where so many tensors are more than a model is cut into, for a while or for good; one of so many
    bytes, where these are given.
    """
    most = MOST_PARTS if nbytes is None else min(MOST_PARTS, max(FREE_PARTS, nbytes // BYTES_A_PART))
    if count > most:
        raise LimitError(f"its tensors would be cut into more than {most:,}, further than any model's of its size")


def count_parts(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> int:
    """How many tensors come to those that are there when all are cut as the changes say."""
    whole = ((tensors[name].shape, change) for name, change in changes.items())
    return sum(
        len(change.names) * change.parts
        - 1
        + (sum(shape[change.axes[axis]] for axis in change.flips) if change.axes is not None else 0)
        for shape, change in whole
    )


def dropped(changes: Mapping[str, Change], tensors: Mapping[str, LazyTensor]) -> list[str]:
    """The tensors that go, and those that are copies of their twins, bit for bit. Reads what could be one.

    Raises EditError where one that is tied is not a copy.
    """
    copies = {name for name, one in changes.items() if one.twin and _equal(tensors[name], tensors[one.twin])}
    for name, change in changes.items():
        if change.tied and name not in copies:
            raise EditError(
                f"{name!r} has other values than {change.twin!r}, to which the configuration ties it",
                hint=f"--drop {name} before --translate leaves it out; a configuration that does not tie them keeps it",
            )
    return [name for name, change in changes.items() if change.gone or name in copies]


def _equal(a: LazyTensor, b: LazyTensor) -> bool:
    if a.alias is not None and a.alias == b.alias:
        return True
    return a.info == b.info and all(
        a.read(at, min(at + _BLOCK, a.info.nbytes)) == b.read(at, min(at + _BLOCK, a.info.nbytes))
        for at in range(0, a.info.nbytes, _BLOCK)
    )


def edits_for(changes: Mapping[str, Change], tensors: Mapping[str, LazyTensor]) -> list[Edit]:
    """The edits that make the changes. Reads nothing but what a file may have twice, of which one is left out."""
    gone = dropped(changes, tensors)
    drop = [Edit("drop", (gone[0],), (), {}, tuple(Step((name,), ()) for name in gone))] if gone else []
    return [*drop, *edits_of({name: change for name, change in changes.items() if name not in gone}, infos_of(tensors))]


def edits_of(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    """The edits, one for all tensors to which the same is done."""

    def each(kind: Kind, details: Callable[[str, Change], Mapping[str, Json] | None]) -> Iterator[Edit]:
        rows = ((name, change, details(name, change)) for name, change in changes.items())
        many = kind in ("unstack", "split", "rename")
        yield from _grouped(
            (kind, wanted, (name,), change.names if many else (name,))
            for name, change, wanted in rows
            if wanted is not None
        )

    yield from each("cast", lambda name, c: {"from": tensors[name].dtype.name, "dtype": "F32"} if c.unpack else None)
    yield from each("reshape", lambda name, c: _reshape(c, tensors[name].shape))
    yield from each("permute", lambda name, c: _permute(c))
    yield from each("transpose", lambda name, c: None if c.axes is None else {"axes": list(c.axes)})
    yield from each("unstack", lambda name, c: {"axis": 0} if len(c.names) > 1 and c.sizes is None else None)
    yield from each("split", lambda name, c: None if c.sizes is None else {"axis": 0, "sizes": list(c.sizes)})
    turned = [item for change in changes.values() for item in change.turned.items()]
    yield from _grouped(("transpose", {"axes": list(axes)}, (name,), (name,)) for name, axes in turned)
    yield from each("map", lambda name, c: c.function)
    yield from each("rename", lambda name, c: {} if len(c.names) == 1 and c.names[0] != name else None)
    for axis in sorted({axis for change in changes.values() for axis in change.flips}):
        yield from _flipped(axis, changes, tensors)
    cut = [(name, change.parts) for change in changes.values() if change.parts > 1 for name in change.names]
    yield from _grouped(("split", {"axis": 0}, (name,), parts_of(name, parts)) for name, parts in cut)
    copies = [((c.names[0],), (copy,)) for c in changes.values() for copy in c.copies]
    shared = [((c.names[0],), (other,)) for c in changes.values() for other in c.shared]
    yield from _grouped(("tie", {"new": True}, name, new) for name, new in (*copies, *shared))
    yield from _grouped(("untie", {}, name, copy) for name, copy in copies)
    yield from _grouped(("zeros", {}, c.names[:1], (name,)) for c in changes.values() for name in c.zeros)
    yield from _into(changes, tensors)
    joins = [item for change in changes.values() for item in change.joined.items()]
    yield from _grouped(("concat", {"axis": 0}, parts, (name,)) for name, parts in joins)


def parts_of(name: str, parts: int) -> tuple[str, ...]:
    """What the equal parts of a tensor are called."""
    return tuple(f"{name}.{i}" for i in range(parts))


def _into(changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Iterator[Edit]:
    joins = list({change.into.target: change.into for change in changes.values() if change.into is not None}.values())
    for kind in ("concat", "stack"):
        alike = (join for join in joins if join.kind == kind)
        yield from _grouped((join.kind, join.details(), join.sources, (join.target,)) for join in alike)
    merged = ((join, _merged(join, changes, tensors)) for join in joins if join.merge is not None)
    yield from _grouped(("reshape", shape, (join.target,), (join.target,)) for join, shape in merged)
    moved = ((join.target, join.axes) for join in joins if join.axes is not None)
    yield from _grouped(("transpose", {"axes": list(axes)}, (name,), (name,)) for name, axes in moved)


def _merged(join: Join, changes: Mapping[str, Change], tensors: Mapping[str, TensorInfo]) -> Mapping[str, Json]:
    """The shape with two dimensions as one; all others are the first part's, as its change leaves them."""
    assert join.merge is not None
    shape = [*tensors[join.sources[0]].shape]
    axes = changes[join.sources[0]].axes
    shape = shape if axes is None else [shape[axis] for axis in axes if axis < len(shape)]
    if join.kind == "stack":
        shape.insert(join.axis, len(join.sources))
    shape[join.merge : join.merge + 2] = [-1]
    return {"shape": [*shape]}


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
    if change.permute is None:
        return None
    shape, axes = change.permute
    return {"axis": change.axis, "shape": list(shape), "axes": list(axes)}
