"""Explains how one set of tensors became another, as a person would: in a few edits instead of many adds and removes.

Explanations are tried from the most to the least certain:

1. the same names under another prefix
2. a numbered stack of layers under another name, or with layers removed or inserted
3. tensors with the same content: under another name, stacked, fused from several, or transposed
4. similar names with fitting shapes: believed only if the two sets share values, or if nearly every tensor of both
   finds a partner

Without `content`, no tensor byte is read: only names and shapes count.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.edit import Step
from ckptconv.core.tensor import shapes_of
from ckptconv.edits.kinship import NEARLY_ALL, Kinship
from ckptconv.edits.match import find_prefix, pair_renames
from ckptconv.edits.pairing import (
    analogous_renames,
    axes_between,
    is_reshape,
    is_same_shape,
    is_transposed_shape,
    pair_equal_content,
)
from ckptconv.edits.parts import find_parts
from ckptconv.edits.patterns import ANY
from ckptconv.edits.progress import Progress
from ckptconv.edits.stacked import find_stacked
from ckptconv.edits.stacks import align_stacks, find_renamed_stacks
from ckptconv.edits.views import permuted, reshaped

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content
    from ckptconv.edits.explanation import Explanation

    Tensors = Mapping[str, LazyTensor]

MOST_ROUNDS = 3
"""How often a changed prefix is looked for: there may be prefixes inside prefixes."""


def explain(a: Tensors, b: Tensors, content: Content | None = None) -> Explanation:
    """How `a` became `b`.

    With `content`, reads some 200 bytes of each tensor whose name or shape changed, and 2 kB of those that are still
    unpaired after that.
    """
    explanation = _Explainer(a, b, content).run()
    if content is None or _is_believable(explanation, a, b, Kinship(content)):
        return explanation
    return _Explainer(a, b, content, by_values_only=True).run()


def _is_believable(explanation: Explanation, a: Tensors, b: Tensors, kin: Kinship) -> bool:
    """Whether to believe pairs that were found by names and shapes alone."""
    if all(edit.kind == "drop" for edit in explanation.edits):
        return True
    pairs = [*((pair.a_name, pair.b_name) for pair in explanation.comparisons), *explanation.unlike]
    if not pairs:
        return True
    paired_a, paired_b = {a_name for a_name, _ in pairs}, {b_name for _, b_name in pairs}
    if len(paired_a) >= NEARLY_ALL * len(a) and len(paired_b) >= NEARLY_ALL * len(b):
        return True
    return kin.enough((pair.a, pair.b) for pair in explanation.comparisons)


class _Explainer:
    """Runs the searches one after another; each looks at the tensors that those before it left without a partner.

    With `by_values_only`, tensors of different names are paired only if their values agree.
    """

    def __init__(self, a: Tensors, b: Tensors, content: Content | None, *, by_values_only: bool = False) -> None:
        self.b, self.content, self.by_values_only = b, content, by_values_only
        self.kin = Kinship(content) if content is not None else None
        self.progress = Progress(a, b)

    def run(self) -> Explanation:
        self._match_prefixes()
        if self.progress.lost or self.progress.new:
            self._match_unpaired()
        self._pair_same_names()
        self._drop_lost()
        return self.progress.explanation

    def _match_unpaired(self) -> None:
        """Find partners for what has none, by the most certain evidence first."""
        if self.content is not None:
            self._match_stacks(self.content)
        for aligned in align_stacks(self.progress.current, self.b, self.content):
            self.progress.move_layers(aligned)
        if self.content is not None:
            self._match_content(self.content)
        self._match_stacked()
        if self.content is not None:
            transposed = self._match_transposed_wholes(self.content)
            self._match_parts()
            self.progress.record_in_place("transpose", transposed, {"axes": [1, 0]})
            self._match_transposed(self.content)
        else:
            self._match_parts()
        self._match_similar_names()

    def _match_prefixes(self) -> None:
        for _ in range(MOST_ROUNDS):
            lost, new = self.progress.lost, self.progress.new
            prefix = find_prefix(new.keys(), lost.keys(), self._likeness) if lost and new else None
            if prefix is None or (len(prefix.pairs) < 2 and len(lost) > 1):
                return
            if prefix.found:
                renamed = {name: name.removeprefix(prefix.found) for name in lost if name.startswith(prefix.found)}
                self.progress.rename_prefix(renamed, f"{prefix.found}{ANY}", ANY)
            else:
                starts = {name.partition(".")[0] for name, _ in prefix.pairs}
                renamed = {name: prefix.expected + name for name in lost if name.partition(".")[0] in starts}
                self.progress.rename_prefix(renamed, ANY, f"{prefix.expected}{ANY}")

    def _likeness(self, old: str, name: str) -> float:
        """1 if the tensors called `old` and `name` have the same shape and content, 0.5 for the shape alone, else 0."""
        a, b, content = self.progress.a[self.progress.original[old]], self.b[name], self.content
        if a.info.shape != b.info.shape:
            return 0.0
        same = content is not None and content.kind(a) == content.kind(b) and content(a) == content(b)
        return 1.0 if same else 0.5

    def _match_stacks(self, content: Content) -> None:
        for old, new in find_renamed_stacks(self.progress.lost, self.progress.new, content):
            renamed = {name: new + name[len(old) :] for name in self.progress.lost if name.startswith(old)}
            self.progress.rename_prefix(renamed, f"{old}{ANY}", f"{new}{ANY}")

    def _match_content(self, content: Content) -> None:
        """Pair tensors of equal content: first by telling values, then by what those renames suggest for the others."""
        pairs: list[tuple[str, str]] = []
        lost, new = self.progress.lost, self.progress.new
        groups: dict[Hashable, tuple[dict[str, LazyTensor], dict[str, LazyTensor]]] = defaultdict(lambda: ({}, {}))
        for side, tensors in enumerate((lost, new)):
            for name, tensor in tensors.items():
                groups[content.kind(tensor), tensor.info.shape, content(tensor)][side][name] = tensor
        vague = []
        for here, there in groups.values():
            if here and there and content.is_telling(next(iter(here.values()))):
                pairs += pair_equal_content(here, there, rest_in_order=True)
            elif here and there and not self.by_values_only:
                vague.append((here, there))
        pairs += analogous_renames(pairs, lost, new)
        paired = {name for pair in pairs for name in pair}
        for here, there in vague:
            ours, theirs = ({name: t for name, t in side.items() if name not in paired} for side in (here, there))
            number = len(ours) == len(theirs) == 1 and content.is_telling_number(next(iter(ours.values())))
            pairs += pair_equal_content(ours, theirs, rest_in_order=number)
        self.progress.rename(pairs)

    def _match_stacked(self) -> None:
        """Tensors that were stacked along a new first dimension; then those that were unstacked."""
        progress, by_names = self.progress, not self.by_values_only
        taken = {**progress.original, **self.b}
        wholes, parts = self._possible_wholes(progress.new), progress.lost
        progress.stack(find_stacked(wholes, parts, self.content, taken, by_names=by_names))
        wholes, parts = self._possible_wholes(progress.lost), progress.new
        progress.unstack(find_stacked(wholes, parts, self.content, taken, by_names=by_names))

    def _match_parts(self) -> None:
        """Tensors that were concatenated; then those that were split."""
        progress, by_sizes = self.progress, not self.by_values_only
        wholes = self._possible_wholes(progress.new)
        progress.concat(find_parts(wholes, progress.lost, self.content, by_sizes=by_sizes), wholes)
        wholes = self._possible_wholes(progress.lost)
        progress.split(find_parts(wholes, progress.new, self.content, by_sizes=by_sizes))

    def _possible_wholes(self, tensors: Tensors) -> Tensors:
        """Tensors that others may be parts of. By values only, that leaves out constant ones, which fit anything."""
        content = self.content
        if not self.by_values_only or content is None:
            return tensors
        return {name: tensor for name, tensor in tensors.items() if content.is_telling(tensor)}

    def _match_transposed_wholes(self, content: Content) -> list[str]:
        """Names of matrices that were concatenated and then transposed, which only content shows.

        The concatenation is recorded; the transposition is left to the caller, because its edit comes after others.
        """
        lost, new = self.progress.lost, self.progress.new
        straight = find_parts(new, lost, content, by_sizes=False)
        known = {name for found in straight for name in (found.whole, *found.parts)}
        views = {n: permuted(t, (1, 0)) for n, t in new.items() if len(t.info.shape) == 2 and n not in known}
        wholes = {name: view for name, view in views.items() if view is not None}
        parts = {name: tensor for name, tensor in lost.items() if name not in known}
        joined = find_parts(wholes, parts, content, by_sizes=False)
        self.progress.concat(joined, wholes)
        return [found.whole for found in joined]

    def _match_transposed(self, content: Content) -> None:
        """Matrices with another name whose content is that of a transposed one."""
        matrices: dict[Hashable, list[str]] = defaultdict(list)
        for name, tensor in self.progress.new.items():
            if len(tensor.info.shape) == 2 and content.is_telling(tensor):
                matrices[content.kind(tensor), tensor.info.shape, content(tensor)].append(name)
        if not matrices:
            return
        pairs = []
        for name, tensor in self.progress.lost.items():
            view = permuted(tensor, (1, 0)) if len(tensor.info.shape) == 2 else None
            names = matrices.get((content.kind(view), view.info.shape, content(view)), []) if view else []
            if names:
                pairs.append((name, names.pop(0)))
        self.progress.rename(pairs)

    def _match_similar_names(self) -> None:
        """Pair similar names: those of equal shapes, then matrices of transposed shapes."""
        if self.kin is not None:
            self._match_similar_kin(self.kin)
            return
        for fits in (is_same_shape, is_transposed_shape):
            lost, new = self.progress.lost, self.progress.new
            self.progress.rename(pair_renames(shapes_of(new), shapes_of(lost), fits))

    def _match_similar_kin(self, kin: Kinship) -> None:
        """The same where values can be read: kin first, and no transposed matrix whose values speak against it."""
        lost, new = self.progress.lost, self.progress.new
        pairs = pair_renames(shapes_of(new), shapes_of(lost), is_same_shape, lambda a, b: kin(lost[a], new[b]))
        self.progress.rename([(a, b) for a, b in pairs if not self.by_values_only or kin(lost[a], new[b])])

        left, right = self.progress.lost, self.progress.new

        def is_transposed(a: str, b: str) -> bool:
            return kin.is_transposed(left[a], right[b])

        def may_be_transposed(a: str, b: str) -> bool:
            return is_transposed(a, b) or not (self.by_values_only or kin.can_tell(left[a], right[b]))

        pairs = pair_renames(shapes_of(right), shapes_of(left), is_transposed_shape, is_transposed)
        self.progress.rename([(a, b) for a, b in pairs if may_be_transposed(a, b)])

    def _pair_same_names(self) -> None:
        """Pair the names that both sides have by now, and record how their shapes changed."""
        progress = self.progress
        permutations: dict[tuple[int, ...], list[str]] = defaultdict(list)
        reshapes: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = defaultdict(list)
        for name, old in progress.original.items():
            if name not in self.b:
                continue
            progress.explanation.names[old] = name
            a, b = progress.a[old], self.b[name]
            if a.info.shape == b.info.shape:  # a transposed square matrix is looked for only where values differ
                progress.compare(old, name, a, b)
                continue
            axes = axes_between(a, b, self.content)
            view = permuted(a, axes) if axes else None
            if view is not None:
                permutations[axes].append(name)
            elif is_reshape(a, b, self.content):
                view = reshaped(a, b.info.shape)
                reshapes[a.info.shape, b.info.shape].append(name)
            if view is None:
                progress.explanation.unlike.append((old, name))
            else:
                progress.compare(old, name, view, b)
        for axes, names in permutations.items():
            progress.record_in_place("transpose", names, {"axes": list(axes)})
        for (before, shape), names in reshapes.items():
            progress.record_in_place("reshape", names, {"shape": list(shape), "from": list(before)})

    def _drop_lost(self) -> None:
        """What has no partner in the end was removed, or added."""
        lost, explanation = self.progress.lost, self.progress.explanation
        explanation.removed.extend(self.progress.original[name] for name in lost)
        explanation.added.extend(self.progress.new)
        self.progress.record("drop", [Step((name,), ()) for name in lost])
