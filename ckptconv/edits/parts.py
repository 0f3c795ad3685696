"""Several tensors that are one on the other side: q, k and v against a fused qkv, gate and up against gate_up.

A fused tensor may also be interleaved: made of blocks (heads, or groups of them) with a piece of every part in each.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from ckptconv.edits.through import cut
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterator, Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content, Print

    Tensors = Mapping[str, LazyTensor]

_DIGITS = re.compile(r"\d+")

MOST_SIZES = 8
"""Different sizes of parts that are tried; real ones have two."""

MOST_PARTS = 64

MOST_FAILURES = 100
"""Tensors in which interleaved parts are sought in vain before the search is given up; each takes some 100 reads."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The names of the parts of `whole`, in their order along `axis`; each has a piece in every one of `blocks`."""

    whole: str
    parts: tuple[str, ...]
    axis: int
    blocks: int = 1


def part_of(whole: LazyTensor, axis: int, start: int, stop: int, blocks: int = 1) -> LazyTensor | None:
    """The part that would be at [start, stop) of `axis` if every part lay in one place.

    None where the tensor cannot be read in that way.
    """
    shape = whole.info.shape
    if blocks == 1:
        return cut(whole, axis, start, stop)
    apart = reshaped(whole, (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :]))
    part = cut(apart, axis + 1, start // blocks, stop // blocks)
    return None if part is None else reshaped(part, (*shape[:axis], stop - start, *shape[axis + 1 :]))


def find_parts(wholes: Tensors, parts: Tensors, content: Content | None, *, by_sizes: bool = True) -> list[Parts]:
    """Which of `wholes` is which of `parts` joined: by content, else by sizes among names of one parent.

    Each part is used once. Without `by_sizes`, content alone decides.
    """
    left = dict(parts)
    found: list[Parts] = []
    for how in [_ByContent(left, content)] if content is not None else []:
        for telling in (True, False):
            for name, whole in wholes.items():
                if content is not None and content.is_telling(whole) is telling:
                    found += _taken(how.parts_of(name, whole), left)
    if not by_sizes:
        return found
    done = {one.whole for one in found}
    families = _families(left, content)
    for name, whole in wholes.items():
        if name not in done:
            found += _taken(_by_sizes(name, whole, families, left, content), left)
    return found


def _taken(found: Parts | None, left: dict[str, LazyTensor]) -> Iterator[Parts]:
    if found is not None:
        for part in found.parts:
            del left[part]
        yield found


class _Alike:
    """Names of tensors of one content, of which there may be as many as there are tensors."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._left: dict[object, OrderedDict[str, None]] = {}

    def first(self, kin: object, left: Container[str], chosen: Container[str], *, others: bool) -> str | None:
        """The first name that is `kin`, with `others` else the first of all; those not in `left` are gone for good."""
        if not self._left:
            self._left[None] = OrderedDict.fromkeys(self.names)
            for name in self.names:
                self._left.setdefault(_kin(name), OrderedDict())[name] = None
        for key in (kin, None) if others else (kin,):
            names = self._left.get(key, OrderedDict())
            gone, found = [], None
            for name in names:
                if name not in left:
                    gone.append(name)
                elif name not in chosen:
                    found = name
                    break
            for name in gone:
                del names[name]
            if found is not None:
                return found
        return None


class _ByContent:
    """Parts by what they must have in common with a whole, their size, and their contents."""

    def __init__(self, left: Mapping[str, LazyTensor], content: Content) -> None:
        self._left = left
        self._content = content
        self._blocks: list[int] = []  # what was found so far, the last first
        self._failures = 0
        self._index: dict[object, dict[int, dict[Print, _Alike]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(_Alike))
        )
        for name, tensor in left.items():
            for axis in range(min(2, len(tensor.info.shape))):
                self._index[frame(tensor, axis, content)][tensor.info.shape[axis]][content(tensor)].names.append(name)

    def parts_of(self, name: str, whole: LazyTensor) -> Parts | None:
        for axis in range(min(2, len(whole.info.shape))):
            sizes = self._index.get(frame(whole, axis, self._content))
            if sizes is None or len(sizes) > MOST_SIZES:
                continue
            for blocks in (1, *self._likely_blocks(whole, axis, sizes)):
                chosen = self._cut(name, whole, axis, sizes, blocks)
                if chosen is not None:
                    if blocks > 1:
                        self._blocks = [blocks, *(one for one in self._blocks if one != blocks)]
                    return Parts(name, chosen, axis, blocks)
        return None

    def _likely_blocks(
        self, whole: LazyTensor, axis: int, sizes: Mapping[int, Mapping[Print, _Alike]]
    ) -> Iterator[int]:
        """Numbers of blocks that an interleaved tensor may have: its first dimension and its parts' are multiples."""
        rows = whole.info.shape[axis]
        if axis or not any(0 < size < rows for size in sizes) or not self._content.is_telling(whole):
            return
        step = gcd(rows, *(size for size in sizes if 0 < size < rows))
        known = [blocks for blocks in self._blocks if step % blocks == 0]
        yield from known
        if self._failures < MOST_FAILURES:
            yield from (blocks for blocks in divisors(step) if blocks > 1 and blocks not in known)
            self._failures += 1  # not reached where one of them was right

    def _cut(
        self, name: str, whole: LazyTensor, axis: int, sizes: Mapping[int, Mapping[Print, _Alike]], blocks: int
    ) -> tuple[str, ...] | None:
        chosen: list[str] = []
        at = 0
        while at < whole.info.shape[axis] and len(chosen) < MOST_PARTS:
            part = self._next(name, whole, axis, at, sizes, chosen, blocks)
            if part is None:
                return None
            chosen.append(part)
            at += self._left[part].info.shape[axis]
        return tuple(chosen) if len(chosen) > 1 and at == whole.info.shape[axis] else None

    def _next(
        self, name: str, whole: LazyTensor, axis: int, at: int, sizes: Mapping[int, Mapping[Print, _Alike]],
        chosen: list[str], blocks: int,
    ) -> str | None:  # fmt: skip
        rows = whole.info.shape[axis]
        for size in sorted(sizes, reverse=True):
            fits = 0 < size <= rows - at and size < rows and size % blocks == 0
            view = part_of(whole, axis, at, at + size, blocks) if fits else None
            alike = sizes[size].get(self._content(view)) if view is not None else None
            if view is None or alike is None:
                continue
            found = alike.first(_kin(name), self._left, chosen, others=self._content.is_telling(view))
            if found is not None:
                return found
        return None


def divisors(number: int) -> list[int]:
    """Of a number of at least 1, ascending; at most those up to 4096, which no number of heads comes near."""
    return [one for one in range(1, min(number, 4096) + 1) if number % one == 0]


def frame(tensor: LazyTensor, axis: int, content: Content | None) -> object:
    """What the parts and the whole have in common."""
    shape = tensor.info.shape
    kind = tensor.info.dtype.name if content is None else content.kind(tensor)
    return kind, axis, shape[:axis], shape[axis + 1 :]


def _kin(name: str) -> tuple[object, str]:
    """Equal for names that have the same numbers and end alike."""
    return tuple(_DIGITS.findall(name)), name.rpartition(".")[2]


def _family(name: str) -> tuple[str, str]:
    """The module's parent and the tensor's own name: ``layers.0.attn`` and ``weight`` of ``layers.0.attn.q.weight``."""
    module, _, own = name.rpartition(".")
    return module.rpartition(".")[0], own


def _families(left: Tensors, content: Content | None) -> dict[Hashable, list[str]]:
    """Names of one family that can be joined along an axis."""
    families: dict[Hashable, list[str]] = defaultdict(list)
    for name, tensor in left.items():
        for axis in range(min(2, len(tensor.info.shape))):
            families[_family(name), frame(tensor, axis, content)].append(name)
    return families


def _by_sizes(
    name: str, whole: LazyTensor, families: Mapping[Hashable, list[str]], left: Tensors, content: Content | None
) -> Parts | None:
    for axis in range(min(2, len(whole.info.shape))):
        names = families.get((_family(name), frame(whole, axis, content)), [])
        if len(names) > MOST_PARTS:  # which nothing but their sizes tells apart
            continue
        fitting = [one for one in names if one in left]
        total = sum(left[one].info.shape[axis] for one in fitting)
        if 1 < len(fitting) <= 4 and total == whole.info.shape[axis]:
            return Parts(name, tuple(fitting), axis)
    return None
