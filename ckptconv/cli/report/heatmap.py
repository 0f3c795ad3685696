"""The heat-map: a row for each layer, a column for each parameter in it; a cell says how much that changed.

Many layers share a row, and of many parameters those that changed least are left out, so that it stays readable.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import floor, inf, isfinite, log10
from typing import TYPE_CHECKING

from ckptconv.cli.text.diff_parts import change_of, figure, heat, short_name
from ckptconv.cli.text.layers import split_name
from ckptconv.core.text import plural
from ckptconv.edits.patterns import open_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.diff import Difference

MOST_LAYERS = 64
MOST_PARAMETERS = 40

_RANKS = ("same", "changed", "type", "shape", "removed", "added")
"""What can have become of a tensor, what matters least first; the cell of several shows what matters most."""

_SIGNS = {"same": "=", "type": "T", "shape": "S", "removed": "−", "added": "+"}
_MARKS = {"removed": "removed", "added": "added", "shape-changed": "shape"}
_WORDS = {
    "same": "unchanged", "type": "another element type", "shape": "another shape", "removed": "removed",
    "added": "added",
}  # fmt: skip


@dataclass(slots=True)
class Cell:
    """What became of a parameter in a layer, or in several."""

    kind: str = "same"
    change: float = 0.0
    tensors: int = 0
    title: str = ""

    @property
    def css(self) -> str:
        """The cell's class: its kind, or its heat."""
        return f"h{heat(self.change)}" if self.kind == "changed" else self.kind

    @property
    def sign(self) -> str:
        """What stands in it: the power of ten of a change, or a sign."""
        if self.kind != "changed":
            return _SIGNS[self.kind]
        if not isfinite(self.change):
            return "!"
        return "0" if not self.change else str(floor(log10(self.change))).replace("-", "−")

    @property
    def text(self) -> str:
        """What became of it, in words."""
        if self.kind != "changed":
            return _WORDS[self.kind]
        return f"changed by {figure(self.change)}" if isfinite(self.change) else "changed beyond measure (NaN or Inf)"

    def add(self, kind: str, change: float, tensors: int = 1) -> None:
        """Take in what became of other tensors."""
        self.tensors += tensors
        self.change = max(self.change, change)
        self.kind = max(self.kind, kind, key=_RANKS.index)


@dataclass(frozen=True, slots=True)
class HeatRow:
    """A layer, or a run of them, and its cells; None where it has no such parameter. `find` is what to search for."""

    label: str
    find: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Rows and columns, and how many parameters are left out; `folded`, where a row is several layers."""

    parameters: Sequence[str]
    rows: Sequence[HeatRow]
    left: int
    folded: bool


def heat_map(result: Difference) -> HeatMap | None:
    """The heat-map of a difference; None where all is equal, or where there is one tensor."""
    fates = _fates(result)
    if len(fates) < 2 or all(kind == "same" for kind, _ in fates.values()):
        return None
    grid: dict[str, dict[str, Cell]] = defaultdict(dict)
    for name, (kind, change) in fates.items():
        layer, parameter = split_name(name)
        grid[layer].setdefault(open_numbers(parameter), Cell()).add(kind, change)
    parameters, left = _columns(grid)
    runs = _runs(list(grid))
    rows = [_row(run, grid, parameters) for run in runs]
    return HeatMap([short_name(name) for name in parameters], rows, left, len(runs) < len(grid))


def _fates(result: Difference) -> dict[str, tuple[str, float]]:
    """What became of every tensor, by its name, and by how much it changed. Layers that an edit removed have no
    partner, and those that one inserted no finding.
    """
    fates = {name: ("removed" if partner is None else "same", 0.0) for name, partner in result.partners.items()}
    for edit in result.edits:
        if edit.kind == "insert-layers":
            fates |= {name: ("added", 0.0) for step in edit.steps for name in step.targets}
    for finding in result.findings:
        values = result.values.get(finding)
        if finding.code in _MARKS:
            fates[finding.where] = (_MARKS[finding.code], 0.0)
        elif finding.code == "dtype-changed" and (values is None or not values.differing):
            fates[finding.where] = ("type", 0.0)
        elif finding.code in ("value-changed", "dtype-changed"):
            before = fates.get(finding.where, ("same", 0.0))[1]
            fates[finding.where] = ("changed", max(before, change_of(values)))
    return fates


def _columns(grid: dict[str, dict[str, Cell]]) -> tuple[list[str], int]:
    """The parameters in the order of the names, of too many those that changed most, and how many are left out."""
    most: dict[str, tuple[int, float]] = {}
    for cells in grid.values():
        for parameter, cell in cells.items():
            rank = (_RANKS.index(cell.kind), cell.change)
            most[parameter] = max(most.get(parameter, (0, -inf)), rank)
    kept = set(sorted(most, key=lambda parameter: most[parameter], reverse=True)[:MOST_PARAMETERS])
    return [parameter for parameter in most if parameter in kept], len(most) - len(kept)


def _runs(layers: Sequence[str]) -> list[Sequence[str]]:
    """Layers that share a row: as few as leave no more rows than are shown."""
    length = -(-len(layers) // MOST_LAYERS)
    return [layers[at : at + length] for at in range(0, len(layers), length)]


def _row(run: Sequence[str], grid: dict[str, dict[str, Cell]], parameters: Sequence[str]) -> HeatRow:
    first, last = short_name(run[0]) or "(no layer)", short_name(run[-1])
    label = first if len(run) == 1 else f"{first} … {last}"
    cells: list[Cell | None] = []
    for parameter in parameters:
        found = [grid[layer][parameter] for layer in run if parameter in grid[layer]]
        cell = Cell() if found else None
        for one in found:
            assert cell is not None
            cell.add(one.kind, one.change, one.tensors)
        if cell is not None:
            many = f" ({plural(cell.tensors, 'tensor')})" if cell.tensors > 1 else ""
            cell.title = f"{label}, {short_name(parameter)}: {cell.text}{many}"
        cells.append(cell)
    return HeatRow(label, f"{first}." if len(run) == 1 and run[0] else "", cells)
