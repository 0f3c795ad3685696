"""The state of a search for an explanation: which tensors are explained so far, and by which edits."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.explanation import Comparison, Explanation
from ckptconv.edits.parts import part_of
from ckptconv.edits.patterns import edits_by_pattern
from ckptconv.edits.stacked import stack_edits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.parts import Parts
    from ckptconv.edits.stacked import Stacked
    from ckptconv.edits.stacks import Aligned

    Tensors = Mapping[str, LazyTensor]


class Progress:
    """What is explained so far of how `a` became `b`.

    Tensors of `a` go by their current names: the names that they have after the edits so far.

    original: current name → name in `a`.
    used:     current names of tensors that went into others, or were split.
    made:     names of `b` that are explained without a tensor of the same current name.
    """

    def __init__(self, a: Tensors, b: Tensors) -> None:
        self.a, self.b = dict(a), dict(b)
        self.original: dict[str, str] = {name: name for name in a}
        self.used: set[str] = set()
        self.made: set[str] = set()
        self.explanation = Explanation()

    @property
    def current(self) -> dict[str, LazyTensor]:
        """All tensors of `a`, by their current names."""
        return {name: self.a[old] for name, old in self.original.items()}

    @property
    def lost(self) -> dict[str, LazyTensor]:
        """Tensors of `a` without a partner, by their current names."""
        return {
            name: self.a[old] for name, old in self.original.items() if name not in self.b and name not in self.used
        }

    @property
    def new(self) -> dict[str, LazyTensor]:
        """Tensors of `b` without a partner."""
        return {name: tensor for name, tensor in self.b.items() if name not in self.original and name not in self.made}

    def record(self, kind: Kind, steps: Iterable[Step], details: Mapping[str, Json] | None = None) -> None:
        """Add the steps to the explanation, in as few edits as patterns allow."""
        self.explanation.edits.extend(edits_by_pattern(kind, steps, details))

    def record_in_place(self, kind: Kind, names: Iterable[str], details: Mapping[str, Json]) -> None:
        """Add edits that leave the names as they are."""
        self.record(kind, [Step((name,), (name,)) for name in names], details)

    def compare(self, a_name: str, b_name: str, a: LazyTensor, b: LazyTensor) -> None:
        """Have the values of two views compared."""
        self.explanation.comparisons.append(Comparison(a_name, b_name, a, b))

    def rename(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Record (current, new) names."""
        renamed = dict(pairs)
        self.record("rename", [Step((old,), (new,)) for old, new in renamed.items()])
        self._move(renamed)

    def rename_prefix(self, renamed: Mapping[str, str], source: str, target: str) -> None:
        """Record renames as one edit from pattern `source` to pattern `target`.

        Those that would leave no name, or one that another tensor has, are left out.
        """
        moved = {old: name for old, name in renamed.items() if name and name not in self.original}
        steps = tuple(Step((old,), (name,)) for old, name in moved.items())
        if len(steps) == 1:
            source, target = steps[0].sources[0], steps[0].targets[0]
        if steps:
            self.explanation.edits.append(Edit("rename", (source,), (target,), {}, steps))
            self._move(moved)

    def _move(self, renamed: Mapping[str, str]) -> None:
        self.original = {renamed.get(name, name): old for name, old in self.original.items()}

    def move_layers(self, aligned: Aligned) -> None:
        """Record layers that were removed, inserted or renumbered."""
        self.explanation.edits.extend(aligned.edits)
        kept = {name: old for name, old in self.original.items() if name not in aligned.removed}
        self.original = {aligned.renamed.get(name, name): old for name, old in kept.items()}
        self.made |= aligned.inserted

    def concat(self, found: Sequence[Parts], wholes: Tensors) -> None:
        """Record tensors of `b` that were joined of several; `wholes` are they, or views of them."""
        self._record_parts("concat", found)
        current = self.current
        for joined in found:
            for part, place in _places(joined, wholes[joined.whole], current):
                if place is not None:
                    self.compare(self.original[part], joined.whole, current[part], place)
            self.used |= {*joined.parts}
            self.made.add(joined.whole)

    def split(self, found: Sequence[Parts]) -> None:
        """Record tensors of `a` that were cut into several."""
        self._record_parts("split", found)
        for cut in found:
            old = self.original[cut.whole]
            for part, place in _places(cut, self.a[old], self.b):
                if place is not None:
                    self.compare(old, part, place, self.b[part])
            self.used.add(cut.whole)
            self.made |= {*cut.parts}

    def _record_parts(self, kind: Literal["concat", "split"], found: Sequence[Parts]) -> None:
        """Add edits for what was joined or cut, those of one axis and the same sizes together."""
        parts = self.current if kind == "concat" else self.b
        groups: dict[tuple[int, int, tuple[int, ...]], list[Step]] = defaultdict(list)
        for row in found:
            sizes = tuple(parts[part].info.shape[row.axis] for part in row.parts)
            step = Step(row.parts, (row.whole,)) if kind == "concat" else Step((row.whole,), row.parts)
            groups[row.axis, row.blocks, sizes].append(step)
        for (axis, blocks, sizes), steps in groups.items():
            details: dict[str, Json] = {"axis": axis, "sizes": list(sizes)}
            if blocks > 1:
                details["blocks"] = blocks
            self.record(kind, steps, details)

    def stack(self, found: Sequence[Stacked]) -> None:
        """Record tensors of `b` that were stacked of several, each of which may have been joined of parts before."""
        self._record_parts("concat", [join for stacked in found for join in stacked.joins.values()])
        self.explanation.edits.extend(stack_edits([(stacked.names, stacked.whole) for stacked in found]))
        current = self.current
        for stacked in found:
            self.made.add(stacked.whole)
            for part, place in self._places_in_stack(stacked, current):
                self.used.add(part)
                if place is not None:
                    self.compare(self.original[part], stacked.whole, current[part], place)

    def unstack(self, found: Sequence[Stacked]) -> None:
        """Record tensors of `a` that were unstacked into several, each of which may have been cut after that."""
        self.explanation.edits.extend(stack_edits([(stacked.names, stacked.whole) for stacked in found], reverse=True))
        self._record_parts("split", [join for stacked in found for join in stacked.joins.values()])
        for stacked in found:
            self.used.add(stacked.whole)
            for part, place in self._places_in_stack(stacked, self.b):
                self.made.add(part)
                if place is not None:
                    self.compare(self.original[stacked.whole], part, place, self.b[part])

    @staticmethod
    def _places_in_stack(stacked: Stacked, parts: Tensors) -> Iterator[tuple[str, LazyTensor | None]]:
        """Each part of a stacked tensor, and its place there; None where the stacked tensor cannot be read that way."""
        for name, view in zip(stacked.names, stacked.views, strict=True):
            if name in stacked.joins:
                yield from _places(stacked.joins[name], view, parts)
            else:
                yield name, view


def _places(found: Parts, whole: LazyTensor, parts: Tensors) -> Iterator[tuple[str, LazyTensor | None]]:
    """Each part, and the view of `whole` at its place; None where `whole` cannot be read that way."""
    at = 0
    for part in found.parts:
        size = parts[part].info.shape[found.axis]
        yield part, part_of(whole, found.axis, at, at + size, found.blocks)
        at += size
