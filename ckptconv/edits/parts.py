"""Finds fused tensors: several tensors of one side that are one tensor of the other, as q, k and v are a fused qkv.

A fused tensor may be interleaved: made of blocks (heads, or groups of them), each with a piece of every part.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from ckptconv.edits.rearrange import cut
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterator, Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.content import Content, Print

    Tensors = Mapping[str, LazyTensor]

_DIGITS = re.compile(r"\d+")

MOST_SIZES = 8
"""With more different sizes of parts than this, none are tried; real ones have two."""

MOST_PARTS = 64

MOST_FAILURES = 100
"""After so many tensors without interleaved parts, new block counts are no longer tried: each takes some 100 reads."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The names of the parts of `whole`, in order along `axis`; each has a piece in every one of `blocks` blocks."""

    whole: str
    parts: tuple[str, ...]
    axis: int
    blocks: int = 1


def part_of(whole: LazyTensor, axis: int, start: int, stop: int, blocks: int = 1) -> LazyTensor | None:
    """The part that would be at [start, stop) of `axis` if no part were divided into blocks.

    None where the tensor cannot be read in that way.
    """
    shape = whole.info.shape
    if blocks == 1:
        return cut(whole, axis, start, stop)
    apart = reshaped(whole, (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :]))
    part = cut(apart, axis + 1, start // blocks, stop // blocks)
    return None if part is None else reshaped(part, (*shape[:axis], stop - start, *shape[axis + 1 :]))


def find_parts(wholes: Tensors, parts: Tensors, content: Content | None, *, by_sizes: bool = True) -> list[Parts]:
    """Which of `wholes` are made of which of `parts`: by content, else by sizes among tensors of one parent module.

    Each part is used once. Without `by_sizes`, content alone decides.
    """
    left = dict(parts)
    found: list[Parts] = []
    if content is not None:
        by_content = _ByContent(left, content)
        # constant tensors fit anything: they get what the others leave
        for name, whole in sorted(wholes.items(), key=lambda item: not content.is_telling(item[1])):
            found += _take(by_content.parts_of(name, whole), left)
    if not by_sizes:
        return found
    done = {entry.whole for entry in found}
    families = _families(left, content)
    for name, whole in wholes.items():
        if name not in done:
            found += _take(_find_by_sizes(name, whole, families, left, content), left)
    return found


def _take(found: Parts | None, left: dict[str, LazyTensor]) -> list[Parts]:
    """What was found as a list; its parts are removed from `left`."""
    if found is None:
        return []
    for part in found.parts:
        del left[part]
    return [found]


class _SameContent:
    """Names of tensors with the same content: all of them, if the model has just been initialized."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._by_kin: dict[object, OrderedDict[str, None]] = {}  # None: all names

    def first(self, kin: object, left: Container[str], chosen: Container[str], *, others: bool) -> str | None:
        """The first name that is `kin` and in `left` but not `chosen` yet; with `others`, else the first of all such.

        Forgets names that are no longer in `left`.
        """
        if not self._by_kin:
            self._by_kin[None] = OrderedDict.fromkeys(self.names)
            for name in self.names:
                self._by_kin.setdefault(_kin(name), OrderedDict())[name] = None
        for key in (kin, None) if others else (kin,):
            names = self._by_kin.get(key, OrderedDict())
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
    """Finds parts by content: indexed by what parts and whole have in common, by size, and by content."""

    def __init__(self, left: Mapping[str, LazyTensor], content: Content) -> None:
        self._left = left
        self._content = content
        self._blocks: list[int] = []  # block counts that were found so far, the last first
        self._failures = 0
        self._index: dict[object, dict[int, dict[Print, _SameContent]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(_SameContent))
        )
        for name, tensor in left.items():
            for axis in range(min(2, len(tensor.info.shape))):
                self._index[frame(tensor, axis, content)][tensor.info.shape[axis]][content(tensor)].names.append(name)

    def parts_of(self, name: str, whole: LazyTensor) -> Parts | None:
        """The parts that, joined, are the whole; None where there are none."""
        for axis in range(min(2, len(whole.info.shape))):
            sizes = self._index.get(frame(whole, axis, self._content))
            if sizes is None or len(sizes) > MOST_SIZES:
                continue
            for blocks in (1, *self._likely_blocks(whole, axis, sizes)):
                chosen = self._parts_along(name, whole, axis, sizes, blocks)
                if chosen is not None:
                    if blocks > 1:
                        self._blocks = [blocks, *(known for known in self._blocks if known != blocks)]
                    return Parts(name, chosen, axis, blocks)
        return None

    def _likely_blocks(
        self, whole: LazyTensor, axis: int, sizes: Mapping[int, Mapping[Print, _SameContent]]
    ) -> Iterator[int]:
        """Block counts that an interleaved tensor may have: divisors of its first dimension and of its parts'."""
        rows = whole.info.shape[axis]
        if axis or not any(0 < size < rows for size in sizes) or not self._content.is_telling(whole):
            return
        step = gcd(rows, *(size for size in sizes if 0 < size < rows))
        known = [blocks for blocks in self._blocks if step % blocks == 0]
        yield from known
        if self._failures < MOST_FAILURES:
            yield from (blocks for blocks in divisors(step) if blocks > 1 and blocks not in known)
            self._failures += 1  # not reached if one of them was right: the caller stops there

    def _parts_along(
        self, name: str, whole: LazyTensor, axis: int, sizes: Mapping[int, Mapping[Print, _SameContent]], blocks: int
    ) -> tuple[str, ...] | None:
        chosen: list[str] = []
        at = 0
        while at < whole.info.shape[axis] and len(chosen) < MOST_PARTS:
            part = self._part_at(name, whole, axis, at, sizes, chosen, blocks)
            if part is None:
                return None
            chosen.append(part)
            at += self._left[part].info.shape[axis]
        return tuple(chosen) if len(chosen) > 1 and at == whole.info.shape[axis] else None

    def _part_at(
        self, name: str, whole: LazyTensor, axis: int, at: int, sizes: Mapping[int, Mapping[Print, _SameContent]],
        chosen: list[str], blocks: int,
    ) -> str | None:  # fmt: skip
        rows = whole.info.shape[axis]
        for size in sorted(sizes, reverse=True):
            fits = 0 < size <= rows - at and size < rows and size % blocks == 0
            view = part_of(whole, axis, at, at + size, blocks) if fits else None
            same = sizes[size].get(self._content(view)) if view is not None else None
            if view is None or same is None:
                continue
            found = same.first(_kin(name), self._left, chosen, others=self._content.is_telling(view))
            if found is not None:
                return found
        return None


def divisors(number: int) -> list[int]:
    """The divisors of a positive number, ascending, up to 4096: no model comes near so many heads."""
    return [divisor for divisor in range(1, min(number, 4096) + 1) if number % divisor == 0]


def frame(tensor: LazyTensor, axis: int, content: Content | None) -> object:
    """What a whole and its parts have in common: the element type, and all dimensions but `axis`."""
    shape = tensor.info.shape
    kind = tensor.info.dtype.name if content is None else content.kind(tensor)
    return kind, axis, shape[:axis], shape[axis + 1 :]


def _kin(name: str) -> tuple[object, str]:
    """Equal for names with the same numbers and the same last component."""
    return tuple(_DIGITS.findall(name)), name.rpartition(".")[2]


def _family(name: str) -> tuple[str, str]:
    """The module's parent and the tensor's own name: ``layers.0.attn`` and ``weight`` of ``layers.0.attn.q.weight``."""
    module, _, own = name.rpartition(".")
    return module.rpartition(".")[0], own


def _families(left: Tensors, content: Content | None) -> dict[Hashable, list[str]]:
    """Names that can be joined along an axis, by their family and what they have in common."""
    families: dict[Hashable, list[str]] = defaultdict(list)
    for name, tensor in left.items():
        for axis in range(min(2, len(tensor.info.shape))):
            families[_family(name), frame(tensor, axis, content)].append(name)
    return families


def _find_by_sizes(
    name: str, whole: LazyTensor, families: Mapping[Hashable, list[str]], left: Tensors, content: Content | None
) -> Parts | None:
    """The two to four tensors of one family whose sizes add up to the whole's."""
    for axis in range(min(2, len(whole.info.shape))):
        names = families.get((_family(name), frame(whole, axis, content)), [])
        if len(names) > MOST_PARTS:  # too many that nothing but their sizes tells apart
            continue
        fitting = [part for part in names if part in left]
        total = sum(left[part].info.shape[axis] for part in fitting)
        if 1 < len(fitting) <= 4 and total == whole.info.shape[axis]:
            return Parts(name, tuple(fitting), axis)
    return None
