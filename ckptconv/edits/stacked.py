"""Tensors that are one with a dimension more on the other side: the experts of a layer, each by itself or all in one.

Each may have been joined of parts first: gate and up of every expert as one, and those of all experts as one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.parts import Parts, find_parts, frame
from ckptconv.edits.patterns import ANY, indices, open_indices, with_indices
from ckptconv.edits.through import cut
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content

    Tensors = Mapping[str, LazyTensor]


@dataclass(frozen=True, slots=True)
class Stacked:
    """A tensor whose first dimension counts others.

    whole: its name. names: those of the others, in order. views: each of them, as it lies in the whole.
    joins: how each is made of parts, by the others' names, which are names of nothing then; else empty.
    """

    whole: str
    names: tuple[str, ...]
    views: tuple[LazyTensor, ...]
    joins: Mapping[str, Parts]


def find_stacked(
    wholes: Tensors, parts: Tensors, content: Content | None, taken: Container[str], *, by_names: bool = True
) -> list[Stacked]:
    """Which of `wholes` is which of `parts`, stacked: by content, else by names that are counted and shapes that fit.

    Each part is used once, and no name is `taken`. Without `by_names`, content alone decides. Reads a few bytes of what
    lies at each index of each whole.
    """
    left = dict(parts)
    found: list[Stacked] = []
    if content is not None:
        found += _taken(_ByContent(left, content), wholes, left)
        found += _joined(_without(wholes, found), left, content, taken)
    return found + (_taken(_ByNames(left, content), _without(wholes, found), left) if by_names else [])


def _without(wholes: Tensors, found: Sequence[Stacked]) -> Tensors:
    done = {one.whole for one in found}
    return {name: whole for name, whole in wholes.items() if name not in done}


def _taken(index: _ByContent | _ByNames, wholes: Tensors, left: dict[str, LazyTensor]) -> list[Stacked]:
    """What the index finds, one after another; the parts are left no more."""
    shapes = {tensor.info.shape for tensor in left.values()}
    found = []
    for name, whole in wholes.items():
        shape = whole.info.shape
        asked = shape and shape[0] > 1 and shape[1:] in shapes and (len(shape) > 1 or index.tells_numbers(whole))
        names = index.names_of(name, whole) if asked else None
        views = _views(whole) if names else None
        if names and views:
            found.append(Stacked(name, tuple(names), tuple(views), {}))
            for part in names:
                del left[part]
    return found


def _view(whole: LazyTensor, i: int) -> LazyTensor | None:
    """What lies at an index of the first dimension; None where that cannot be read."""
    view = cut(whole, 0, i, i + 1)
    return None if view is None else reshaped(view, whole.info.shape[1:])


def _views(whole: LazyTensor) -> list[LazyTensor] | None:
    views = [_view(whole, i) for i in range(whole.info.shape[0])]
    return [view for view in views if view is not None] if None not in views else None


class _ByContent:
    """Names by what their tensors hold, and among those of one content by their indices."""

    def __init__(self, left: Tensors, content: Content) -> None:
        self._content = content
        self._names: dict[Hashable, dict[str, None]] = defaultdict(dict)
        self._kin: dict[Hashable, dict[str, None]] = defaultdict(dict)
        for name, tensor in left.items():
            self._give(self._key(tensor), name)

    def _key(self, tensor: LazyTensor) -> Hashable:
        return self._content.kind(tensor), tensor.info.shape, self._content(tensor)

    def _give(self, key: Hashable, name: str) -> None:
        self._names[key][name] = None
        self._kin[key, tuple(indices(name))][name] = None

    def tells_numbers(self, whole: LazyTensor) -> bool:
        """Whether a vector may be told to be made of single numbers: by several values, in the order of their names."""
        return self._content.is_telling(whole)

    def names_of(self, name: str, whole: LazyTensor) -> list[str] | None:
        """A name for each index, with the whole's indices and that one if there is such; None where one has none."""
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
            self._give(key, part)
        return None


class _ByNames:
    """Names that the last of their indices counts from 0 on, by all that they have in common."""

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
        """Never: any vector of a few elements would fit as many numbers."""
        return False

    def names_of(self, name: str, whole: LazyTensor) -> list[str] | None:
        """The only ones that fit the whole; of several, those of which most have what lies at their index."""
        kind = whole.info.dtype.name if self._content is None else self._content.kind(whole)
        groups = self._groups.get((tuple(indices(name)), whole.info.shape, kind), [])
        fitting = [names for names in groups if all(one in self._left for one in names)]
        if len(fitting) < 2 or self._content is None:
            return fitting[0] if len(fitting) == 1 else None
        views = _views(whole) or []
        alike = [
            sum(self._content(self._left[one]) == self._content(view) for one, view in zip(names, views, strict=False))
            for names in fitting
        ]
        most = max(alike)
        return fitting[alike.index(most)] if alike.count(most) == 1 else None


def _joined(wholes: Tensors, left: dict[str, LazyTensor], content: Content, taken: Container[str]) -> list[Stacked]:
    """Those of which every index is made of parts: looked for at the first index alone, and then at the others."""
    frames = {frame(t, axis, content) for t in left.values() for axis in range(min(2, len(t.info.shape)))}
    firsts: dict[str, str] = {}
    rows: dict[str, LazyTensor] = {}
    for name, whole in wholes.items():
        view = _view(whole, 0) if len(whole.info.shape) > 2 and whole.info.shape[0] > 1 else None
        fits = view is not None and any(frame(view, axis, content) in frames for axis in (0, 1))
        if view is not None and fits and f"{name}.0" not in taken:
            firsts[f"{name}.0"], rows[f"{name}.0"] = name, view
    hits = [firsts[one.whole] for one in find_parts(rows, left, content, by_sizes=False)] if rows else []
    found = []
    for name in hits:
        views = _views(wholes[name])
        names = tuple(f"{name}.{i}" for i in range(wholes[name].info.shape[0]))
        if views is None or any(one in taken for one in names):
            continue
        joins = {
            one.whole: one for one in find_parts(dict(zip(names, views, strict=True)), left, content, by_sizes=False)
        }
        if joins:
            joins = _filled_up(names, joins, left)
        if len(joins) == len(names):
            found.append(Stacked(name, names, tuple(views), joins))
            for part in [part for one in joins.values() for part in one.parts]:
                del left[part]
    return found


def _filled_up(names: Sequence[str], joins: dict[str, Parts], left: Tensors) -> dict[str, Parts]:
    """With those whose content has changed, by the names that the others' parts have; the given where that fails."""
    first = next(i for i, name in enumerate(names) if name in joins)
    model = joins[names[first]]
    used = {part for one in joins.values() for part in one.parts}
    made: dict[str, Parts] = {}
    for i, name in enumerate(names):
        parts = tuple(_counted_on(part, first, i) for part in model.parts)
        if name in joins:
            made[name] = joins[name]
        elif all(
            one in left and one not in used and left[one].info.shape == left[part].info.shape
            for one, part in zip(parts, model.parts, strict=True)
        ):
            made[name] = Parts(name, parts, model.axis, model.blocks)
            used |= {*parts}
        else:
            return joins
    return made


def _counted_on(name: str, before: int, after: int) -> str:
    """The name with another number in place of its last index, if that is the number `before`."""
    numbers = indices(name)
    return with_indices(name, [*numbers[:-1], str(after)]) if numbers and numbers[-1] == str(before) else name


def stack_edits(steps: Sequence[tuple[tuple[str, ...], str]], *, reverse: bool = False) -> list[Edit]:
    """The edits that stack these names, in order, as that one; with `reverse`, those that take them apart."""
    groups: dict[Hashable, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for names, whole in steps:
        place = _place(names, whole)
        same = (open_indices(names[0]), place, len(names), open_indices(whole))
        groups[(names, whole) if place is None else same].append((names, whole))
    found = []
    for group in groups.values():
        place = _place(*group[0])
        many, one = group[0] if place is None else _patterns(group, place)
        made = [Step((whole,), names) if reverse else Step(names, (whole,)) for names, whole in group]
        if reverse:
            found.append(Edit("unstack", (one,), many, {"axis": 0}, tuple(made)))
        else:
            found.append(Edit("stack", many, (one,), {"axis": 0}, tuple(made)))
    return found


def _place(names: Sequence[str], whole: str) -> int | None:
    """Which of a name's indices counts the names from 0 on, where all others are those of the whole."""
    numbers = indices(whole)
    if len({open_indices(name) for name in names}) > 1:
        return None
    for place in range(len(numbers) + 1):
        wanted = ([*numbers[:place], str(i), *numbers[place:]] for i in range(len(names)))
        if all(indices(name) == row for name, row in zip(names, wanted, strict=True)):
            return place
    return None


def _patterns(group: Sequence[tuple[tuple[str, ...], str]], place: int) -> tuple[tuple[str], str]:
    """``layers.{*}.experts.{0-7}.up`` and ``layers.{*}.up``."""
    names, whole = group[0]
    columns = zip(*(indices(one) for _, one in group), strict=True)
    numbers = [column[0] if len(set(column)) == 1 else ANY for column in columns]
    count = f"{{0-{len(names) - 1}}}"
    return (with_indices(names[0], [*numbers[:place], count, *numbers[place:]]),), with_indices(whole, numbers)
