"""Compares numbered stacks of layers: stacks that were renamed; layers removed, inserted, and therefore renumbered."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.match import numbered_blocks, numbers_in
from ckptconv.edits.patterns import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content

    Tensors = Mapping[str, LazyTensor]
    _MarkOf = Callable[[LazyTensor, Content], tuple[object, ...]]

Mark = tuple[object, ...]
"""Something by which a tensor is recognised."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """What happened to the layers of a stack: names, and all of it as edits.

    renamed: old name → new name, for tensors that stay.
    """

    renamed: Mapping[str, str]
    removed: frozenset[str]
    inserted: frozenset[str]
    edits: tuple[Edit, ...]


def find_renamed_stacks(a: Tensors, b: Tensors, content: Content) -> list[tuple[str, str]]:
    """(old, new) prefixes of stacks that were renamed: those that share the most tensors' first elements."""
    ours, theirs = ({stack: set(numbers) for stack, numbers in numbered_blocks(names).items()} for names in (a, b))
    mine = {stack for stack in ours if stack not in theirs and not any(c.isdigit() for c in stack)}
    other = {stack for stack in theirs if stack not in ours and not any(c.isdigit() for c in stack)}
    if not mine or not other:
        return []
    homes: dict[Mark, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for stack, name in _names_in(b, other):
        if content.is_telling(b[name]):
            homes[_first_mark(b[name], content)][stack] += 1
            sizes[stack] += 1
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for stack, name in _names_in(a, mine):
        if content.is_telling(a[name]):
            sizes[stack] += 1
            votes[stack].update(homes.get(_first_mark(a[name], content), {}).keys())
    found: list[tuple[str, str]] = []
    for stack, counts in votes.items():
        for best, count in counts.most_common(1):
            enough = 3 * count >= min(sizes[stack], sizes[best]) and best not in dict(found).values()
            layers = _layers(a, stack), _layers(b, best)
            if enough and not any(_is_regrouped(*layers, content, mark) for mark in (_content_mark, _first_mark)):
                found.append((stack, best))
    return found


def _names_in(names: Tensors, stacks: set[str]) -> list[tuple[str, str]]:
    """(stack, name) of the names whose outermost stack is one of these."""
    return [(stack, name) for name in names for stack, _ in numbers_in(name)[:1] if stack in stacks]


def _first_mark(tensor: LazyTensor, content: Content) -> Mark:
    """The first element: two layers share it even where one has its tensors transposed or fused."""
    return (content.kind(tensor), content.first(tensor))


def _content_mark(tensor: LazyTensor, content: Content) -> Mark:
    return (content.kind(tensor), content(tensor))


def align_stacks(a: Tensors, b: Tensors, content: Content | None) -> list[Aligned]:
    """Which layer became which, for each stack whose layer numbers differ between the sides, outermost first.

    Layers are recognised by their tensors' contents, or by their order if there is no content or it tells nothing.
    Where all tensors of a layer are found outside of the stack on the other side, under new names, the layer was moved
    there and does not count as removed.
    """
    found: list[Aligned] = []
    done: list[str] = []
    ours, theirs = numbered_blocks(a), numbered_blocks(b)
    for stack in sorted(ours.keys() & theirs.keys(), key=len):
        if ours[stack].keys() == theirs[stack].keys() or stack.startswith(tuple(done)):
            continue
        here, there = _layers(a, stack), _layers(b, stack)
        done.append(stack)
        if content is None or not _is_regrouped(here, there, content, _content_mark):
            outside = _new_outside(a, b, stack, content), _new_outside(b, a, stack, content)
            found.append(_align(stack, here, there, content, outside))
    return found


_Layers = dict[int, dict[str, "LazyTensor"]]


def _is_regrouped(a: _Layers, b: _Layers, content: Content, mark: _MarkOf) -> bool:
    """Whether layers were regrouped: one layer's tensors are in several layers of the other side, so that the numbers
    of the two sides count different things.
    """
    ours, theirs = _unique_homes(a, content, mark), _unique_homes(b, content, mark)
    pairs = {(ours[found], theirs[found]) for found in ours.keys() & theirs.keys()}
    met = min(len({i for i, _ in pairs}), len({j for _, j in pairs}))
    return len(pairs) > 2 * met


def _unique_homes(layers: _Layers, content: Content, mark: _MarkOf) -> dict[Mark, int]:
    """The layer that has a mark, for marks that only one layer has."""
    homes = _homes(layers, content, mark)
    return {found: next(iter(numbers)) for found, numbers in homes.items() if len(numbers) == 1}


def _homes(layers: _Layers, content: Content, mark: _MarkOf) -> dict[Mark, set[int]]:
    """The layers that have a mark, for the marks of tensors that tell something."""
    homes: dict[Mark, set[int]] = defaultdict(set)
    for number, tensors in layers.items():
        for tensor in tensors.values():
            if content.is_telling(tensor):
                homes[mark(tensor, content)].add(number)
    return homes


def _layers(tensors: Tensors, stack: str) -> _Layers:
    """The tensors of each layer of a stack, by layer number, in order."""
    layers: _Layers = defaultdict(dict)
    for name, tensor in tensors.items():
        number = _layer_of(name, stack)
        if number is not None:
            layers[number][name] = tensor
    return dict(sorted(layers.items()))


def _layer_of(name: str, stack: str) -> int | None:
    """The number of the layer of a stack that the tensor is in."""
    if not name.startswith(stack):
        return None
    number, dot, _ = name[len(stack) :].partition(".")
    return int(number) if dot and number.isdigit() and number.isascii() and len(number) < 10 else None


def _new_outside(a: Tensors, b: Tensors, stack: str, content: Content | None) -> set[Mark]:
    """The content of tensors outside of the stack whose names `b` has and `a` has not."""
    if content is None:
        return set()
    return {
        _exact_mark(tensor, content) for name, tensor in b.items() if name not in a and _layer_of(name, stack) is None
    }


def _exact_mark(tensor: LazyTensor, content: Content) -> Mark:
    return (content.kind(tensor), tensor.info.shape, content(tensor))


def _is_moved_out(layer: Tensors, outside: set[Mark], content: Content | None) -> bool:
    """Whether all tensors of a layer are `outside`, and at least one of them is telling: varied, or a single number."""
    if content is None or not outside or any(_exact_mark(tensor, content) not in outside for tensor in layer.values()):
        return False
    return any(tensor.info.numel == 1 or content.is_telling(tensor) for tensor in layer.values())


def _align(
    stack: str, a: _Layers, b: _Layers, content: Content | None, outside: tuple[set[Mark], set[Mark]]
) -> Aligned:
    """`outside`: what is outside of the stack in `b`, and in `a`, under names that the other side does not have."""
    pairs = _fill_gaps(list(a), list(b), _match_layers(a, b, content) if content else [])
    moved = {i: j for i, j in pairs if i != j}
    kept, met = {i for i, _ in pairs}, {j for _, j in pairs}
    gone = [i for i in a if i not in kept and not _is_moved_out(a[i], outside[0], content)]
    new = [j for j in b if j not in met and not _is_moved_out(b[j], outside[1], content)]
    removed = [name for i in gone for name in a[i]]
    inserted = [name for j in new for name in b[j]]
    renamed = {name: f"{stack}{j}{name[len(stack) + len(str(i)) :]}" for i, j in moved.items() for name in a[i]}
    edits = []
    if gone:
        sources = f"{stack}{_braced(gone)}.{ANY}"
        steps = tuple(Step((name,), ()) for name in removed)
        edits.append(Edit("remove-layers", (sources,), (), {"stack": stack, "layers": gone}, steps))
    if moved:
        sides = [f"{stack}{_braced(list(numbers))}.{ANY}" for numbers in (moved, moved.values())]
        steps = tuple(Step((old,), (name,)) for old, name in renamed.items())
        details = {"stack": stack, "renumbered": [[i, j] for i, j in moved.items()]}
        edits.append(Edit("rename", (sides[0],), (sides[1],), details, steps))
    if new:
        targets = f"{stack}{_braced(new)}.{ANY}"
        steps = tuple(Step((), (name,)) for name in inserted)
        edits.append(Edit("insert-layers", (), (targets,), {"stack": stack, "layers": new}, steps))
    return Aligned(renamed, frozenset(removed), frozenset(inserted), tuple(edits))


def _braced(numbers: Sequence[int]) -> str:
    text = spell_numbers(numbers)
    return text if len(numbers) == 1 else f"{{{text}}}"


def spell_numbers(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs as ranges: ``0-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _match_layers(a: _Layers, b: _Layers, content: Content) -> list[tuple[int, int]]:
    """Pairs of layers that share first elements, ascending on both sides."""
    homes = _homes(b, content, _first_mark)
    # layer of `b` → most votes for it, and the layer of `a` that gave them; few votes may be chance: few bits collide
    best: dict[int, tuple[int, int]] = {}
    for i, tensors in a.items():
        votes = Counter(j for tensor in tensors.values() for j in homes.get(_first_mark(tensor, content), ()))
        if votes:
            j = max(votes, key=lambda j: (votes[j], j == i))
            best[j] = max(best.get(j, (0, 0)), (votes[j], i))
    return _longest_increasing(sorted((i, j) for j, (_, i) in best.items()))


def _longest_increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest subsequence of pairs whose second numbers increase (patience sorting)."""
    tops: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for at, (_, j) in enumerate(pairs):
        place = bisect_left(tops, j)
        before.append(ends[place - 1] if place else -1)
        tops[place : place + 1] = [j]
        ends[place : place + 1] = [at]
    chosen = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chosen.append(pairs[at])
        at = before[at]
    return chosen[::-1]


def _fill_gaps(a: list[int], b: list[int], anchors: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The anchors, and between them pairs of other numbers: equal ones if the gaps differ in length, else in order."""
    pairs: list[tuple[int, int]] = []
    low_a, low_b = -1, -1
    for i, j in [*anchors, (1 << 40, 1 << 40)]:
        here, there = [n for n in a if low_a < n < i], [n for n in b if low_b < n < j]
        shared = [n for n in here if n in there] if len(here) != len(there) else []
        pairs += zip(shared, shared, strict=True) if shared else zip(here, there, strict=False)
        pairs.append((i, j))
        low_a, low_b = i, j
    return pairs[:-1]
