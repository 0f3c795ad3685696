"""Finds stacked tensors: several tensors of one side that are one tensor with one more dimension on the other.

An example is the experts of a layer. Each may itself be fused from parts: gate and up of every expert joined, and those
of all experts stacked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.parts import Parts, find_parts, frame
from ckptconv.edits.patterns import ANY, indices, open_indices, with_indices
from ckptconv.edits.rearrange import cut
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content

    Tensors = Mapping[str, LazyTensor]


@dataclass(frozen=True, slots=True)
class Stacked:
    """A tensor whose first dimension enumerates other tensors.

    whole: its name.
    names: the others' names, in order.
    views: the view of the whole at each index.
    joins: empty, or for every one of `names` the parts that it is joined of; `names` are then made up.
    """

    whole: str
    names: tuple[str, ...]
    views: tuple[LazyTensor, ...]
    joins: Mapping[str, Parts]


def find_stacked(
    wholes: Tensors, parts: Tensors, content: Content | None, taken: Container[str], *, by_names: bool = True
) -> list[Stacked]:
    """Which of `wholes` are which of `parts`, stacked: by content, else by numbered names and fitting shapes.

    Each part is used once. Names that are made up for what is stacked are none of `taken`. Without `by_names`, content
    alone decides. Reads a few bytes at each index of each whole.
    """
    left = dict(parts)
    found: list[Stacked] = []
    if content is not None:
        found += _take_found(_ByContent(left, content), wholes, left)
        found += _find_stacks_of_joined(_without(wholes, found), left, content, taken)
    if by_names:
        found += _take_found(_ByNames(left, content), _without(wholes, found), left)
    return found


def _without(wholes: Tensors, found: Sequence[Stacked]) -> Tensors:
    done = {stacked.whole for stacked in found}
    return {name: whole for name, whole in wholes.items() if name not in done}


def _take_found(index: _ByContent | _ByNames, wholes: Tensors, left: dict[str, LazyTensor]) -> list[Stacked]:
    """What the index finds for each whole; the parts are removed from `left`."""
    shapes = {tensor.info.shape for tensor in left.values()}
    found = []
    for name, whole in wholes.items():
        shape = whole.info.shape
        possible = shape and shape[0] > 1 and shape[1:] in shapes and (len(shape) > 1 or index.tells_numbers(whole))
        names = index.names_of(name, whole) if possible else None
        views = _views(whole) if names else None
        if names and views:
            found.append(Stacked(name, tuple(names), tuple(views), {}))
            for part in names:
                del left[part]
    return found


def _view(whole: LazyTensor, i: int) -> LazyTensor | None:
    """The view at index `i` of the first dimension; None where the tensor cannot be read that way."""
    view = cut(whole, 0, i, i + 1)
    return None if view is None else reshaped(view, whole.info.shape[1:])


def _views(whole: LazyTensor) -> list[LazyTensor] | None:
    views = [_view(whole, i) for i in range(whole.info.shape[0])]
    return [view for view in views if view is not None] if None not in views else None


class _ByContent:
    """Finds stacked tensors by content, and among those of equal content by the indices in their names."""

    def __init__(self, left: Tensors, content: Content) -> None:
        self._content = content
        self._names: dict[Hashable, dict[str, None]] = defaultdict(dict)
        self._kin: dict[Hashable, dict[str, None]] = defaultdict(dict)
        for name, tensor in left.items():
            self._add(self._key(tensor), name)

    def _key(self, tensor: LazyTensor) -> Hashable:
        return self._content.kind(tensor), tensor.info.shape, self._content(tensor)

    def _add(self, key: Hashable, name: str) -> None:
        self._names[key][name] = None
        self._kin[key, tuple(indices(name))][name] = None

    def tells_numbers(self, whole: LazyTensor) -> bool:
        """Whether it can be seen that a vector is made of single numbers: it needs several values."""
        return self._content.is_telling(whole)

    def names_of(self, name: str, whole: LazyTensor) -> list[str] | None:
        """A name for each index of the whole; None where one has none.

        Preferred are names with the whole's indices followed by that one.
        """
        numbers = tuple(indices(name))
        chosen: list[tuple[Hashable, str]] = []
        for i in range(whole.info.shape[0]):
            view = _view(whole, i)
            key = None if view is None else self._key(view)
            if view is None or key not in self._names:
                break
            fitting = self._kin.get((key, (*numbers, str(i)))) or (self._content.is_telling(view) and self._names[key])
            if not fitting:
                break
            part = next(iter(fitting))
            del self._names[key][part], self._kin[key, tuple(indices(part))][part]
            chosen.append((key, part))
        if len(chosen) == whole.info.shape[0]:
            return [part for _, part in chosen]
        for key, part in chosen:
            self._add(key, part)
        return None


class _ByNames:
    """Finds stacked tensors by names whose last index counts from 0 on, with everything else the same."""

    def __init__(self, left: Tensors, content: Content | None) -> None:
        self._left = left
        self._content = content
        counted: dict[tuple[str, tuple[str, ...], tuple[int, ...], str], dict[str, str]] = defaultdict(dict)
        for name, tensor in left.items():
            own = indices(name)
            if own:
                kind = tensor.info.dtype.name if content is None else content.kind(tensor)
                same = with_indices(name, [*own[:-1], ANY]), tuple(own[:-1]), tensor.info.shape, kind
                counted[same][own[-1]] = name
        self._groups: dict[Hashable, list[list[str]]] = defaultdict(list)
        for (_, numbers, shape, kind), names in counted.items():
            if all(str(i) in names for i in range(len(names))):
                self._groups[numbers, (len(names), *shape), kind].append([names[str(i)] for i in range(len(names))])

    def tells_numbers(self, whole: LazyTensor) -> bool:
        """Never: names alone would make any vector fit any as many numbers."""
        return False

    def names_of(self, name: str, whole: LazyTensor) -> list[str] | None:
        """The only names that fit the whole; of several sets, the one with the most tensors equal to their index's."""
        kind = whole.info.dtype.name if self._content is None else self._content.kind(whole)
        groups = self._groups.get((tuple(indices(name)), whole.info.shape, kind), [])
        fitting = [names for names in groups if all(part in self._left for part in names)]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting or self._content is None:
            return None
        views = _views(whole) or []
        counts = [self._count_equal(names, views, self._content) for names in fitting]
        most = max(counts)
        return fitting[counts.index(most)] if counts.count(most) == 1 else None

    def _count_equal(self, names: Sequence[str], views: Sequence[LazyTensor], content: Content) -> int:
        pairs = zip(names, views, strict=False)
        return sum(content(self._left[name]) == content(view) for name, view in pairs)


def _find_stacks_of_joined(
    wholes: Tensors, left: dict[str, LazyTensor], content: Content, taken: Container[str]
) -> list[Stacked]:
    """Stacked tensors of which every index is joined of parts.

    Looked for at the first index, and only where that has parts, at the others. Their parts are removed from `left`.
    """
    frames = {frame(t, axis, content) for t in left.values() for axis in range(min(2, len(t.info.shape)))}
    firsts: dict[str, str] = {}
    rows: dict[str, LazyTensor] = {}
    for name, whole in wholes.items():
        view = _view(whole, 0) if len(whole.info.shape) > 2 and whole.info.shape[0] > 1 else None
        fits = view is not None and any(frame(view, axis, content) in frames for axis in (0, 1))
        if view is not None and fits and f"{name}.0" not in taken:
            firsts[f"{name}.0"], rows[f"{name}.0"] = name, view
    hits = [firsts[join.whole] for join in find_parts(rows, left, content, by_sizes=False)] if rows else []
    found = []
    for name in hits:
        views = _views(wholes[name])
        names = tuple(f"{name}.{i}" for i in range(wholes[name].info.shape[0]))
        if views is None or any(row in taken for row in names):
            continue
        by_name = dict(zip(names, views, strict=True))
        joins = {join.whole: join for join in find_parts(by_name, left, content, by_sizes=False)}
        if joins:
            joins = _complete_by_names(names, joins, left)
        if len(joins) == len(names):
            found.append(Stacked(name, names, tuple(views), joins))
            for part in [part for join in joins.values() for part in join.parts]:
                del left[part]
    return found


def _complete_by_names(names: Sequence[str], joins: dict[str, Parts], left: Tensors) -> dict[str, Parts]:
    """`joins` for all names: where content changed, the parts follow from the names of another index's parts.

    `joins` itself where such a name does not exist.
    """
    first = next(i for i, name in enumerate(names) if name in joins)
    model = joins[names[first]]
    used = {part for join in joins.values() for part in join.parts}
    complete: dict[str, Parts] = {}
    for i, name in enumerate(names):
        parts = tuple(_with_last_index(part, first, i) for part in model.parts)
        if name in joins:
            complete[name] = joins[name]
        elif all(
            part in left and part not in used and left[part].info.shape == left[like].info.shape
            for part, like in zip(parts, model.parts, strict=True)
        ):
            complete[name] = Parts(name, parts, model.axis, model.blocks)
            used |= {*parts}
        else:
            return joins
    return complete


def _with_last_index(name: str, before: int, after: int) -> str:
    """The name with its last index changed from `before` to `after`; unchanged where that index is another."""
    numbers = indices(name)
    return with_indices(name, [*numbers[:-1], str(after)]) if numbers and numbers[-1] == str(before) else name


def stack_edits(steps: Sequence[tuple[tuple[str, ...], str]], *, reverse: bool = False) -> list[Edit]:
    """The edits that stack each (names, whole); with `reverse`, those that unstack it."""
    groups: dict[Hashable, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for names, whole in steps:
        place = _counting_index(names, whole)
        pattern = (open_indices(names[0]), place, len(names), open_indices(whole))
        groups[(names, whole) if place is None else pattern].append((names, whole))
    result = []
    for group in groups.values():
        place = _counting_index(*group[0])
        many, one = group[0] if place is None else _patterns(group, place)
        if reverse:
            unstacked = tuple(Step((whole,), names) for names, whole in group)
            result.append(Edit("unstack", (one,), many, {"axis": 0}, unstacked))
        else:
            stacked = tuple(Step(names, (whole,)) for names, whole in group)
            result.append(Edit("stack", many, (one,), {"axis": 0}, stacked))
    return result


def _counting_index(names: Sequence[str], whole: str) -> int | None:
    """Which index of the names counts them from 0 on, while all their others are those of the whole; None for none."""
    numbers = indices(whole)
    if len({open_indices(name) for name in names}) > 1:
        return None
    for place in range(len(numbers) + 1):
        wanted = ([*numbers[:place], str(i), *numbers[place:]] for i in range(len(names)))
        if all(indices(name) == row for name, row in zip(names, wanted, strict=True)):
            return place
    return None


def _patterns(group: Sequence[tuple[tuple[str, ...], str]], place: int) -> tuple[tuple[str], str]:
    """The patterns of the names and of the whole: ``layers.{*}.experts.{0-7}.up`` and ``layers.{*}.up``."""
    names, whole = group[0]
    columns = zip(*(indices(other) for _, other in group), strict=True)
    numbers = [column[0] if len(set(column)) == 1 else ANY for column in columns]
    count = f"{{0-{len(names) - 1}}}"
    return (with_indices(names[0], [*numbers[:place], count, *numbers[place:]]),), with_indices(whole, numbers)
