"""Tensors as text: a tree in which repeated layers are folded, and a flat list.

    layers.0–31 ×32              consecutive numbers whose subtrees have equal names, element types and shapes
    ├─ attn.weight  F32  [64, 64]
    └─ mlp
       ├─ up        F32  [256, 64]
       └─ down      F32  [64, 256]  = layers.0.mlp.up      (one tensor under two names)

    state.0–290 ×291             an optimizer's states: equal but for their shapes, each that of its parameter
    ├─ step        F32  []
    └─ exp_avg     F32  12 shapes

Written by hand: rich takes as long to be imported as this takes for ten thousand tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import table
from ckptconv.core.text import size

SLASH = "/"
"""Separates the parts of a name in files of Keras, TensorFlow and h5py, whose parts may have dots."""

MOST_APART = 8
"""So many numbered siblings that differ only in their shapes have a line each; more of them are folded."""

MAX_LEVELS = 40
"""How many dots a name is split at; the rest of it stays in one piece."""

SUMS = ["ELEMENTS", "SIZE", "SHARE"]
"""The heads of the columns that `Weigh` fills."""

_SELF = None
"""The key, in a branch, of a tensor whose own name is the branch's (``a`` beside ``a.b``)."""

Branch = dict[str | None, "Node"]
Node = Branch | list[str] | str
"""A leaf is the tensor's full name, or the names of several that share a line."""

Cells = Callable[[str], Sequence[str]]
"""The columns behind a tensor's name, by that name."""

Weigh = Callable[[str], tuple[int, int]]
"""The elements and the bytes of a tensor, by its name; zeros for one that is counted under another name."""

Kind = Callable[[str], Hashable]
"""What must be equal for two tensors to be folded, such as the element type and shape, by a tensor's name."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns after a tensor's name: their heads, which of them are numbers, and a function to fill them."""

    heads: Sequence[str]
    numeric: frozenset[int]
    cells: Cells


def flat(names: Sequence[str], columns: Columns) -> list[str]:
    """A line for each tensor under a line of heads, full names first."""
    rows = [["NAME", *columns.heads]]
    rows += [[printable(name), *columns.cells(name)] for name in names]
    head, *lines = table(rows, {i + 1 for i in columns.numeric})
    return [style(head, "bold"), *lines]


def tree(
    names: Iterable[str],
    tied: Mapping[str, str],
    columns: Columns,
    kind: Kind,
    *,
    fold: bool,
    heads: bool,
    loose_kind: Kind | None = None,
    weigh: Weigh | None = None,
) -> list[str]:
    """The tensors by the dots in their names, or by slashes where all have one; with `fold`, numbered siblings of equal
    kinds are one line; more than `MOST_APART` of them are folded where `loose_kind` is equal. With `weigh`, every line
    has the sums of all tensors that it stands for, and their share of all bytes.
    """
    names = list(names)
    mark = SLASH if names and all(SLASH in name for name in names) else "."
    forest = _Forest(kind, tied, columns.cells, fold, mark, loose_kind if fold else None, weigh)
    if weigh is not None:
        forest.nbytes = sum(weigh(name)[1] for name in names)
    sums = [] if weigh is None else SUMS
    if heads or sums:
        forest.rows.append(["", *sums, *columns.heads])
    forest.draw(forest.groups(_build(names, mark)), "", root=True)
    numeric = [*range(len(sums)), *(i + len(sums) for i in columns.numeric)]
    lines = table(forest.rows, {i + 1 for i in numeric})
    return [style(lines[0], "bold"), *lines[1:]] if heads or sums else lines


def _build(names: Iterable[str], mark: str) -> Branch:
    root: Branch = {}
    for name in names:
        branch = root
        *path, last = name.split(mark, MAX_LEVELS)
        for part in path:
            child = branch.get(part)
            if not isinstance(child, dict):
                child = branch[part] = {} if child is None else {_SELF: child}
            branch = child
        existing = branch.get(last)
        if isinstance(existing, dict):
            existing[_SELF] = name
        else:
            branch[last] = name
    return root


@dataclass(frozen=True, slots=True)
class _Group:
    """Siblings that share a line: the first and the last of them, how many, and the first one's subtree, or with
    `merged` that of all of them.
    """

    first: str
    last: str
    count: int
    node: Node
    merged: bool = False

    @property
    def label(self) -> str:
        return self.first if self.count == 1 else f"{self.first}–{self.last}"

    @property
    def times(self) -> int:
        """How many subtrees the node stands for."""
        return 1 if self.merged else self.count


@dataclass(slots=True)
class _Forest:
    kind: Kind
    tied: Mapping[str, str]
    cells: Cells
    fold: bool
    mark: str
    loose_kind: Kind | None
    weigh: Weigh | None = None
    nbytes: int = 0
    rows: list[list[str]] = field(default_factory=list)
    _ids: dict[Hashable, int] = field(default_factory=dict)

    def draw(self, groups: list[_Group], guide: str, *, root: bool = False, times: int = 1) -> None:
        """Add a row for each group, and under it those of its subtree. `times`: how many of it the rows stand for."""
        for group in groups:
            ending = group is groups[-1]
            label, counts, node, below, more = self._collapsed(group)
            mark = "" if root else "└─ " if ending else "├─ "
            own = node.get(_SELF) if isinstance(node, dict) else node
            text = guide + mark + (printable(label) or "''") + counts
            self.rows.append([text, *self._sums(group.node, times * group.times), *self._cells(own)])
            self.draw(below, guide + ("" if root else "   " if ending else "│  "), times=times * more)

    def _collapsed(self, group: _Group) -> tuple[str, str, Node, list[_Group], int]:
        """The group joined with each only child below it: ``encoder.layer.0–11``; and how many it stands for."""
        label, counts, node, times = group.label, _times(group), group.node, group.times
        while isinstance(node, dict):
            below = self.groups(node)
            if len(below) != 1 or _SELF in node:
                return label, counts, node, below, times
            (only,) = below
            label, counts, node = f"{label}{self.mark}{only.label}", counts + _times(only), only.node
            times *= only.times
        return label, counts, node, [], times

    def _sums(self, node: Node, times: int) -> list[str]:
        """The columns of `SUMS`, for so many subtrees."""
        if self.weigh is None:
            return []
        elements, nbytes = (times * total for total in _weight(node, self.weigh))
        share = f"{100 * nbytes / self.nbytes:.1f} %" if self.nbytes else ""
        return [f"{elements:,}", size(nbytes), share]

    def _cells(self, own: Node | None) -> Sequence[str]:
        """The columns of a tensor, or of several that share a line: their shapes are counted where they differ."""
        if isinstance(own, str):
            return self.cells(own)
        if not isinstance(own, list):
            return ()
        dtype, shape, *more = self.cells(own[0])
        shapes = len({shape, *(self.cells(name)[1] for name in own)})
        return [dtype, shape if shapes == 1 else f"{shapes} shapes", *more]

    def groups(self, branch: Branch) -> list[_Group]:
        """The branch's children in order, numbered ones sorted, equal runs of them as one."""
        found = self._runs(branch, self.kind)
        if self.loose_kind is None or sum(_is_number(group.first) for group in found) <= MOST_APART:
            return found
        return [
            replace(run, node=_merged([branch[str(n)] for n in range(int(run.first), int(run.last) + 1)]), merged=True)
            if run.count > 1 else run
            for run in self._runs(branch, self.loose_kind)
        ]  # fmt: skip

    def _runs(self, branch: Branch, kind: Kind) -> list[_Group]:
        numbers = sorted(int(key) for key in branch if _is_number(key))
        if len(numbers) < 2:
            return [_Group(key, key, 1, node) for key, node in branch.items() if key is not _SELF]
        found: list[_Group] = []
        upcoming = iter(numbers)
        continued, last = -1, 0  # the number that would continue the run, and the shape of the run's subtrees
        for key in branch:
            if key is _SELF:
                continue
            if not _is_number(key):
                found.append(_Group(key, key, 1, branch[key]))
                continued = -1
                continue
            number = next(upcoming)
            node = branch[str(number)]
            shape = self._shape_of(node, kind) if self.fold else 0
            if self.fold and number == continued and shape == last:
                run = found[-1]
                found[-1] = _Group(run.first, str(number), run.count + 1, run.node)
            else:
                found.append(_Group(str(number), str(number), 1, node))
            continued, last = number + 1, shape
        return found

    def _shape_of(self, node: Node, kind: Kind) -> int:
        """A number that is equal for subtrees of equal names, kinds and ties."""
        if isinstance(node, str):
            key: Hashable = (kind(node), _relative(node, self.tied[node], self.mark) if node in self.tied else 0)
        elif isinstance(node, list):
            key = frozenset([self._shape_of(name, kind) for name in node])
        else:
            key = frozenset([(name, self._shape_of(child, kind)) for name, child in node.items()])
        return self._ids.setdefault(key, len(self._ids))


def _weight(node: Node, weigh: Weigh) -> tuple[int, int]:
    """The sums over a subtree."""
    if isinstance(node, str):
        return weigh(node)
    below = [_weight(child, weigh) for child in (node.values() if isinstance(node, dict) else node)]
    return sum(elements for elements, _ in below), sum(nbytes for _, nbytes in below)


def _merged(nodes: Sequence[Node]) -> Node:
    """One subtree for several of equal names; its leaves list the names of all."""
    first = nodes[0]
    if isinstance(first, dict):
        branches = [node for node in nodes if isinstance(node, dict)]
        return {name: _merged([branch[name] for branch in branches]) for name in first}
    return [
        name for node in nodes if not isinstance(node, dict) for name in ([node] if isinstance(node, str) else node)
    ]


def _times(group: _Group) -> str:
    return f" ×{group.count}" if group.count > 1 else ""


def _is_number(key: str | None) -> TypeGuard[str]:
    return key is not None and key.isdigit() and key.isascii() and len(key) < 10 and (key == "0" or key[0] != "0")


def _relative(name: str, target: str, mark: str) -> tuple[int, tuple[str, ...]]:
    """The way from one name to another, so that ties inside of ``layers.0`` and inside of ``layers.7`` are equal."""
    here, existing = name.split(mark), target.split(mark)
    common = 0
    while common < min(len(here), len(existing)) and here[common] == existing[common]:
        common += 1
    return len(here) - common, tuple(existing[common:])
