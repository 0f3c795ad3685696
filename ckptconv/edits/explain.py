"""What a person would say was done to one set of tensors to get another: few edits, not many removed and added.

From the most to the least certain: names under another prefix; a numbered stack under another name, with layers
removed or inserted; tensors found by their content under another name, as parts of a fused tensor, transposed; and
last, shapes and names that are alike: these only where the two sets have something in common, or nearly all of both
finds a partner. Without `content` no tensor byte is read, and only names and shapes speak.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.explanation import Comparison, Explanation
from ckptconv.edits.kinship import ALL, Kinship
from ckptconv.edits.match import find_prefix, pair_renames
from ckptconv.edits.pairing import equal, is_reshape, likewise, one_to_one, permutation, reversed_shape
from ckptconv.edits.parts import Parts, find_parts, part_of
from ckptconv.edits.patterns import ANY, edits
from ckptconv.edits.stacked import find_stacked, stack_edits
from ckptconv.edits.stacks import align, rename_stacks
from ckptconv.edits.views import permuted, reshaped

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content
    from ckptconv.edits.stacked import Stacked

    Tensors = Mapping[str, LazyTensor]

MOST_ROUNDS = 3
"""Prefixes upon prefixes that are looked through."""


def explain(a: Tensors, b: Tensors, content: Content | None = None) -> Explanation:
    """How `a` became `b`. With `content`, reads some 200 bytes of each tensor whose name or shape is not the same, and
    2 kB of those that are then left.
    """
    found = _Explainer(a, b, content).run()
    if content is None or _is_likely(found, a, b, Kinship(content)):
        return found
    return _Explainer(a, b, content, sure=True).run()


def _is_likely(found: Explanation, a: Tensors, b: Tensors, kin: Kinship) -> bool:
    """Whether what was paired by names and shapes alone may be believed."""
    if all(edit.kind == "drop" for edit in found.edits):
        return True
    pairs = [*((one.a_name, one.b_name) for one in found.comparisons), *found.unlike]
    if all(len(set(names)) >= ALL * len(side) for names, side in zip(zip(*pairs, strict=True), (a, b), strict=False)):
        return True
    return kin.of_all((one.a, one.b) for one in found.comparisons)


class _Explainer:
    """With `sure`, tensors that have another name are paired by their values alone."""

    def __init__(self, a: Tensors, b: Tensors, content: Content | None, *, sure: bool = False) -> None:
        self.a, self.b, self.content = dict(a), dict(b), content
        self.sure = sure
        self.kin = Kinship(content) if content is not None else None
        self.now: dict[str, str] = {name: name for name in a}  # by the name after the edits so far, that in `a`
        self.gone: set[str] = set()
        self.come: set[str] = set()
        self.found = Explanation()

    def run(self) -> Explanation:
        self._prefixes()
        if self._lost or self._new:
            self._unmatched()
        self._pair_up()
        lost = self._lost
        self.found.removed.extend(self.now[name] for name in lost)
        self.found.added.extend(self._new)
        self.found.edits.extend(edits("drop", [Step((name,), ()) for name in lost]))
        return self.found

    def _unmatched(self) -> None:
        """Names without a partner: from what is most certain to what is least."""
        if self.content is not None:
            self._stacks(self.content)
        self._layers()
        if self.content is not None:
            self._same_content(self.content)
        self._stacked()
        self._parts()
        if self.content is not None:
            self._transposed_content(self.content)
        self._alike_names()

    @property
    def _lost(self) -> dict[str, LazyTensor]:
        return {name: self.a[old] for name, old in self.now.items() if name not in self.b and name not in self.gone}

    @property
    def _new(self) -> dict[str, LazyTensor]:
        return {name: tensor for name, tensor in self.b.items() if name not in self.now and name not in self.come}

    @staticmethod
    def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
        return {name: tensor.info.shape for name, tensor in tensors.items()}

    def _telling(self, wholes: Tensors) -> Tensors:
        """Those that others may be said to be parts of: where one must be sure, none whose values fit anything."""
        content = self.content
        return (
            wholes if not self.sure or content is None else {n: t for n, t in wholes.items() if content.is_telling(t)}
        )

    def _alike_names(self) -> None:
        """Names and shapes that are alike; matrices that were transposed, only if their values say so, if they can."""
        lost, new, kin = self._lost, self._new, self.kin
        shapes = self._shapes(new), self._shapes(lost)
        if kin is None:
            self._rename(pair_renames(*shapes, equal))
            self._rename(pair_renames(self._shapes(self._new), self._shapes(self._lost), reversed_shape))
            return
        pairs = pair_renames(*shapes, equal, lambda old, name: kin(lost[old], new[name]))
        self._rename([(old, name) for old, name in pairs if not self.sure or kin(lost[old], new[name])])
        lost, new = self._lost, self._new
        shapes = self._shapes(new), self._shapes(lost)
        pairs = pair_renames(*shapes, reversed_shape, lambda old, name: kin.turned(lost[old], new[name]))
        sides = [(old, name, lost[old], new[name]) for old, name in pairs]
        self._rename([(o, n) for o, n, a, b in sides if kin.turned(a, b) or not (self.sure or kin.tells(a, b))])

    def _move(self, pairs: Mapping[str, str]) -> None:
        self.now = {pairs.get(name, name): old for name, old in self.now.items()}

    def _rename(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Tensors that go by another name, of names without a partner."""
        done = dict(pairs)
        self.found.edits.extend(edits("rename", [Step((old,), (new,)) for old, new in done.items()]))
        self._move(done)

    def _prefixes(self) -> None:
        for _ in range(MOST_ROUNDS):
            lost, new = self._lost, self._new
            prefix = find_prefix(new.keys(), lost.keys(), self._alike) if lost and new else None
            if prefix is None or (len(prefix.pairs) < 2 and len(lost) > 1):
                return
            if prefix.found:
                renamed = {name: name.removeprefix(prefix.found) for name in lost if name.startswith(prefix.found)}
                sides = f"{prefix.found}{ANY}", ANY
            else:
                starts = {name.partition(".")[0] for name, _ in prefix.pairs}
                renamed = {name: prefix.expected + name for name in lost if name.partition(".")[0] in starts}
                sides = ANY, f"{prefix.expected}{ANY}"
            self._move_start(renamed, *sides)

    def _alike(self, old: str, name: str) -> float:
        """How much is the same of what is called `old` by now and of a tensor of the other side."""
        a, b, content = self.a[self.now[old]], self.b[name], self.content
        if a.info.shape != b.info.shape:
            return 0.0
        same = content is not None and content.kind(a) == content.kind(b) and content(a) == content(b)
        return 1.0 if same else 0.5

    def _move_start(self, renamed: Mapping[str, str], source: str, target: str) -> None:
        moved = {old: name for old, name in renamed.items() if name and name not in self.now}
        steps = tuple(Step((old,), (name,)) for old, name in moved.items())
        if len(steps) == 1:
            source, target = steps[0].sources[0], steps[0].targets[0]
        if steps:
            self.found.edits.append(Edit("rename", (source,), (target,), {}, steps))
            self._move(moved)

    def _stacks(self, content: Content) -> None:
        for old, new in rename_stacks(self._lost, self._new, content):
            renamed = {name: new + name[len(old) :] for name in self._lost if name.startswith(old)}
            self._move_start(renamed, f"{old}{ANY}", f"{new}{ANY}")

    def _layers(self) -> None:
        here = {name: self.a[old] for name, old in self.now.items()}
        for aligned in align(here, self.b, self.content):
            self.found.edits.extend(aligned.edits)
            self.now = {
                aligned.renamed.get(name, name): old for name, old in self.now.items() if name not in aligned.removed
            }
            self.come |= aligned.inserted

    def _same_content(self, content: Content) -> None:
        """Names with content that one of the other side's has: first what tells, then what these renames tell."""
        pairs: list[tuple[str, str]] = []
        lost, new = self._lost, self._new
        groups: dict[Hashable, tuple[dict[str, LazyTensor], dict[str, LazyTensor]]] = defaultdict(lambda: ({}, {}))
        for side, tensors in enumerate((lost, new)):
            for name, tensor in tensors.items():
                groups[content.kind(tensor), tensor.info.shape, content(tensor)][side][name] = tensor
        vague = []
        for here, there in groups.values():
            if here and there and content.is_telling(next(iter(here.values()))):
                pairs += one_to_one(here, there, _zip=True)
            elif here and there and not self.sure:
                vague.append((here, there))
        pairs += likewise(pairs, lost, new)
        done = {name for pair in pairs for name in pair}
        for here, there in vague:
            ours, theirs = ({name: t for name, t in side.items() if name not in done} for side in (here, there))
            number = len(ours) == len(theirs) == 1 and content.is_telling_number(next(iter(ours.values())))
            pairs += one_to_one(ours, theirs, _zip=number)
        self._rename(pairs)

    def _stacked(self) -> None:
        """Tensors with a dimension more, which counts others; in the one side, then in the other."""
        taken = {**self.now, **self.b}
        made = find_stacked(self._telling(self._new), self._lost, self.content, taken, by_names=not self.sure)
        self._say_parts([join for one in made for join in one.joins.values()], [])
        self.found.edits.extend(stack_edits([(one.names, one.whole) for one in made]))
        for one in made:
            self.come.add(one.whole)
            for name, view in zip(one.names, one.views, strict=True):
                self._compare_stacked(name, view, one, flipped=False)
        apart = find_stacked(self._telling(self._lost), self._new, self.content, taken, by_names=not self.sure)
        self.found.edits.extend(stack_edits([(one.names, one.whole) for one in apart], reverse=True))
        self._say_parts([], [join for one in apart for join in one.joins.values()])
        for one in apart:
            self.gone.add(one.whole)
            for name, view in zip(one.names, one.views, strict=True):
                self._compare_stacked(name, view, one, flipped=True)

    def _compare_stacked(self, name: str, view: LazyTensor, stacked: Stacked, *, flipped: bool) -> None:
        """What lies at one index of a stacked tensor beside the tensor, or the parts, that it is; these are done."""
        join = stacked.joins.get(name, Parts(name, (name,), 0))
        at = 0
        for part in join.parts:
            tensor = self.b[part] if flipped else self.a[self.now[part]]
            size = tensor.info.shape[join.axis] if len(join.parts) > 1 else 0
            seen = part_of(view, join.axis, at, at + size, join.blocks) if size else view
            at += size
            (self.come if flipped else self.gone).add(part)
            if seen is not None:
                whole = self.now[stacked.whole] if flipped else stacked.whole
                names, views = ((whole, part), (seen, tensor)) if flipped else ((self.now[part], whole), (tensor, seen))
                self.found.comparisons.append(Comparison(*names, *views))

    def _parts(self) -> None:
        turned = self._turned_wholes()
        lost, new = self._lost, self._new
        joined = find_parts(self._telling(new), lost, self.content, by_sizes=not self.sure)
        used = {name for one in joined for name in (one.whole, *one.parts)}
        lost, new = ({n: t for n, t in side.items() if n not in used} for side in (lost, new))
        cut = find_parts(self._telling(lost), new, self.content, by_sizes=not self.sure)
        self._say_parts(joined, cut)
        self._compare_parts(joined, wholes=self.b, parts=self.a, old=self.now.__getitem__, flipped=False)
        self._compare_parts(cut, wholes=self.a, parts=self.b, old=self.now.__getitem__, flipped=True)
        self._join(joined)
        for one in cut:
            self.gone.add(one.whole)
            self.come |= {*one.parts}
        names = [Step((name,), (name,)) for name in turned]
        self.found.edits.extend(edits("transpose", names, {"axes": [1, 0]}))

    def _turned_wholes(self) -> list[str]:
        """Matrices that were joined and then transposed, which content alone can tell; the transposing is said last."""
        if self.content is None:
            return []
        straight = find_parts(self._new, self._lost, self.content, by_sizes=False)
        known = {name for one in straight for name in (one.whole, *one.parts)}
        views = {n: permuted(t, (1, 0)) for n, t in self._new.items() if len(t.info.shape) == 2 and n not in known}
        wholes = {name: view for name, view in views.items() if view is not None}
        left = {name: tensor for name, tensor in self._lost.items() if name not in known}
        joined = find_parts(wholes, left, self.content, by_sizes=False)
        self._say_parts(joined, [])
        self._compare_parts(joined, wholes=wholes, parts=self.a, old=self.now.__getitem__, flipped=False)
        self._join(joined)
        return [one.whole for one in joined]

    def _join(self, joined: list[Parts]) -> None:
        for one in joined:
            self.gone |= {*one.parts}
            self.come.add(one.whole)

    def _say_parts(self, joined: list[Parts], cut: list[Parts]) -> None:
        for kind, found in (("concat", joined), ("split", cut)):
            groups: dict[tuple[int, int, tuple[int, ...]], list[Step]] = defaultdict(list)
            for one in found:
                step = Step(one.parts, (one.whole,)) if kind == "concat" else Step((one.whole,), one.parts)
                side = self.b if kind == "split" else {part: self.a[self.now[part]] for part in one.parts}
                sizes = tuple(side[part].info.shape[one.axis] for part in one.parts)
                groups[one.axis, one.blocks, sizes].append(step)
            for (axis, blocks, sizes), steps in groups.items():
                details = {"axis": axis, "sizes": list(sizes), **({"blocks": blocks} if blocks > 1 else {})}
                self.found.edits.extend(edits("concat" if kind == "concat" else "split", steps, details))

    def _compare_parts(
        self, found: list[Parts], *, wholes: Tensors, parts: Tensors, old: Callable[[str], str], flipped: bool
    ) -> None:
        for one in found:
            whole = wholes[old(one.whole) if flipped else one.whole]
            at = 0
            for part in one.parts:
                tensor = parts[part if flipped else old(part)]
                size = tensor.info.shape[one.axis]
                view = part_of(whole, one.axis, at, at + size, one.blocks)
                at += size
                if view is not None:
                    names = (old(one.whole), part) if flipped else (old(part), one.whole)
                    views = (view, tensor) if flipped else (tensor, view)
                    self.found.comparisons.append(Comparison(*names, *views))

    def _transposed_content(self, content: Content) -> None:
        homes: dict[Hashable, list[str]] = defaultdict(list)
        for name, tensor in self._new.items():
            if len(tensor.info.shape) == 2 and content.is_telling(tensor):
                homes[content.kind(tensor), tensor.info.shape, content(tensor)].append(name)
        pairs = []
        for name, tensor in self._lost.items() if homes else ():
            view = permuted(tensor, (1, 0)) if len(tensor.info.shape) == 2 else None
            names = homes.get((content.kind(view), view.info.shape, content(view)), []) if view else []
            if names:
                pairs.append((name, names.pop(0)))
        self._rename(pairs)

    def _pair_up(self) -> None:
        """Names that both sides have by now: how the shapes of each are related, and what is left to compare."""
        turned: dict[tuple[int, ...], list[str]] = defaultdict(list)
        flat: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = defaultdict(list)
        for name, old in self.now.items():
            if name not in self.b:
                continue
            self.found.names[old] = name
            a, b = self.a[old], self.b[name]
            if a.info.shape == b.info.shape:  # whether a square matrix was transposed is asked where values differ
                self.found.comparisons.append(Comparison(old, name, a, b))
                continue
            axes = permutation(a, b, self.content)
            view = permuted(a, axes) if axes else None
            if view is not None:
                turned[axes].append(name)
            elif is_reshape(a, b, self.content):
                view = reshaped(a, b.info.shape)
                flat[a.info.shape, b.info.shape].append(name)
            if view is None:
                self.found.unlike.append((old, name))
            else:
                self.found.comparisons.append(Comparison(old, name, view, b))
        for axes, names in turned.items():
            self.found.edits.extend(edits("transpose", [Step((n,), (n,)) for n in names], {"axes": list(axes)}))
        for (before, shape), names in flat.items():
            details = {"shape": list(shape), "from": list(before)}
            self.found.edits.extend(edits("reshape", [Step((n,), (n,)) for n in names], details))
