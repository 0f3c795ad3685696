"""Layers that were removed from, or inserted into, a numbered stack, and those behind them that moved up or down."""

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
    _ItemOf = Callable[[LazyTensor, Content], tuple[object, ...]]

Item = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Aligned:
    """New names by old ones for tensors that stay; those that go; those that come; and all this as edits."""

    renamed: Mapping[str, str]
    removed: frozenset[str]
    inserted: frozenset[str]
    edits: tuple[Edit, ...]


def rename_stacks(a: Tensors, b: Tensors, content: Content) -> list[tuple[str, str]]:
    """Stacks that go by another name, as starts of names: those that share most of their tensors' contents."""
    ours, theirs = ({stack: set(numbers) for stack, numbers in numbered_blocks(names).items()} for names in (a, b))
    mine = {stack for stack in ours if stack not in theirs and not any(c.isdigit() for c in stack)}
    other = {stack for stack in theirs if stack not in ours and not any(c.isdigit() for c in stack)}
    if not mine or not other:
        return []
    homes: dict[Item, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for stack, name in _within(b, other):
        if content.is_telling(b[name]):
            homes[_item(b[name], content)][stack] += 1
            sizes[stack] += 1
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for stack, name in _within(a, mine):
        if content.is_telling(a[name]):
            sizes[stack] += 1
            votes[stack].update(homes.get(_item(a[name], content), {}).keys())
    found: list[tuple[str, str]] = []
    for stack, counts in votes.items():
        for best, count in counts.most_common(1):
            enough = 3 * count >= min(sizes[stack], sizes[best]) and best not in dict(found).values()
            layers = _layers(a, stack), _layers(b, best)
            if enough and not any(_is_regrouped(*layers, content, item) for item in (_bytes, _item)):
                found.append((stack, best))
    return found


def _within(names: Tensors, stacks: set[str]) -> list[tuple[str, str]]:
    return [(stack, name) for name in names for stack, _ in numbers_in(name)[:1] if stack in stacks]


def _item(tensor: LazyTensor, content: Content) -> Item:
    """What two layers have in common even where one of them has its tensors transposed and fused."""
    return (content.kind(tensor), content.first(tensor))


def _bytes(tensor: LazyTensor, content: Content) -> Item:
    return (content.kind(tensor), content(tensor))


def align(a: Tensors, b: Tensors, content: Content | None) -> list[Aligned]:
    """For each stack that has other layers on one side, outermost first, which layer is which.

    Layers are told by their tensors' contents; without these, and where they say nothing, by their order. A layer whose
    tensors all stand outside of the stack on the other side, under new names, went there: it is not removed.
    """
    found: list[Aligned] = []
    done: list[str] = []
    ours, theirs = numbered_blocks(a), numbered_blocks(b)
    for stack in sorted(ours.keys() & theirs.keys(), key=len):
        if ours[stack].keys() == theirs[stack].keys() or stack.startswith(tuple(done)):
            continue
        here, there = _layers(a, stack), _layers(b, stack)
        done.append(stack)
        if content is None or not _is_regrouped(here, there, content, _bytes):
            found.append(
                _align(stack, here, there, content, (_news(a, b, stack, content), _news(b, a, stack, content)))
            )
    return found


_Layers = dict[int, dict[str, "LazyTensor"]]


def _is_regrouped(a: _Layers, b: _Layers, content: Content, item: _ItemOf) -> bool:
    """Whether tensors of one layer are in several of the other side, so that the numbers do not count the same."""
    ours, theirs = _places(a, content, item), _places(b, content, item)
    pairs = {(ours[item], theirs[item]) for item in ours.keys() & theirs.keys()}
    met = min(len({i for i, _ in pairs}), len({j for _, j in pairs}))
    return len(pairs) > 2 * met


def _places(layers: _Layers, content: Content, item: _ItemOf) -> dict[Item, int]:
    """The layer of each content that only one of them has."""
    homes = _homes(layers, content, item)
    return {one: next(iter(numbers)) for one, numbers in homes.items() if len(numbers) == 1}


def _homes(layers: _Layers, content: Content, item: _ItemOf) -> dict[Item, set[int]]:
    """The layers that have a content, of each that tells something."""
    homes: dict[Item, set[int]] = defaultdict(set)
    for number, tensors in layers.items():
        for tensor in tensors.values():
            if content.is_telling(tensor):
                homes[item(tensor, content)].add(number)
    return homes


def _layers(tensors: Tensors, stack: str) -> _Layers:
    layers: _Layers = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.startswith(stack):
            number, dot, _ = name[len(stack) :].partition(".")
            if dot and number.isdigit() and number.isascii() and len(number) < 10:
                layers[int(number)][name] = tensor
    return dict(sorted(layers.items()))


def _news(a: Tensors, b: Tensors, stack: str, content: Content | None) -> set[Item]:
    """What the names hold that `b` alone has, outside of the stack."""
    if content is None:
        return set()
    return {_whole(tensor, content) for name, tensor in b.items() if name not in a and not name.startswith(stack)}


def _whole(tensor: LazyTensor, content: Content) -> Item:
    return (content.kind(tensor), tensor.info.shape, content(tensor))


def _went(layer: Tensors, news: set[Item], content: Content | None) -> bool:
    """Whether all of a layer is among `news`, and says something: several values, or a number by itself."""
    if content is None or not news or any(_whole(tensor, content) not in news for tensor in layer.values()):
        return False
    return any(tensor.info.numel == 1 or content.is_telling(tensor) for tensor in layer.values())


def _align(stack: str, a: _Layers, b: _Layers, content: Content | None, news: tuple[set[Item], set[Item]]) -> Aligned:
    pairs = _fill(list(a), list(b), _alike(a, b, content) if content else [])
    moved = {i: j for i, j in pairs if i != j}
    kept, met = {i for i, _ in pairs}, {j for _, j in pairs}
    gone = [i for i in a if i not in kept and not _went(a[i], news[0], content)]
    new = [j for j in b if j not in met and not _went(b[j], news[1], content)]
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
    """Numbers in order, runs as ranges: ``0-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _alike(a: _Layers, b: _Layers, content: Content) -> list[tuple[int, int]]:
    """Layers that share contents, in an order that both sides have."""
    homes = _homes(b, content, _item)
    best: dict[int, tuple[int, int]] = {}  # by the layer of `b`, the votes for that of `a` that has most, and which
    for i, tensors in a.items():
        votes = Counter(j for tensor in tensors.values() for j in homes.get(_item(tensor, content), ()))
        if votes:
            j = max(votes, key=lambda j: (votes[j], j == i))
            best[j] = max(best.get(j, (0, 0)), (votes[j], i))  # first elements of few bits are the same by chance too
    return _increasing(sorted((i, j) for j, (_, i) in best.items()))


def _increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest choice of pairs whose second numbers increase (patience sorting)."""
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


def _fill(a: list[int], b: list[int], anchors: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The anchors, and in the gaps between them equal numbers, then the others in order."""
    pairs: list[tuple[int, int]] = []
    low_a, low_b = -1, -1
    for i, j in [*anchors, (1 << 40, 1 << 40)]:
        here, there = [n for n in a if low_a < n < i], [n for n in b if low_b < n < j]
        shared = [n for n in here if n in there] if len(here) != len(there) else []
        pairs += zip(shared, shared, strict=True) if shared else zip(here, there, strict=False)
        pairs.append((i, j))
        low_a, low_b = i, j
    return pairs[:-1]
