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
"""The outcomes for a tensor, the least important first; a cell for several tensors shows the most important."""

_SIGNS = {"same": "=", "type": "T", "shape": "S", "removed": "−", "added": "+"}
_MARKS = {"removed": "removed", "added": "added", "shape-changed": "shape"}
_WORDS = {
    "same": "unchanged", "type": "another element type", "shape": "another shape", "removed": "removed",
    "added": "added",
}  # fmt: skip


@dataclass(slots=True)
class Cell:
    """The outcome for a parameter of a layer, or of several layers."""

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
        """The text in the cell: the power of ten of a change, or a sign."""
        if self.kind != "changed":
            return _SIGNS[self.kind]
        if not isfinite(self.change):
            return "!"
        return "0" if not self.change else str(floor(log10(self.change))).replace("-", "−")

    @property
    def text(self) -> str:
        """The outcome in words."""
        if self.kind != "changed":
            return _WORDS[self.kind]
        return f"changed by {figure(self.change)}" if isfinite(self.change) else "changed beyond measure (NaN or Inf)"

    def add(self, kind: str, change: float, tensors: int = 1) -> None:
        """Add other tensors to the cell."""
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
    outcomes = _outcomes(result)
    if len(outcomes) < 2 or all(kind == "same" for kind, _ in outcomes.values()):
        return None
    grid: dict[str, dict[str, Cell]] = defaultdict(dict)
    for name, (kind, change) in outcomes.items():
        layer, parameter = split_name(name)
        grid[layer].setdefault(open_numbers(parameter), Cell()).add(kind, change)
    parameters, left = _columns(grid)
    runs = _runs(list(grid))
    rows = [_row(run, grid, parameters) for run in runs]
    return HeatMap([short_name(name) for name in parameters], rows, left, len(runs) < len(grid))


def _outcomes(result: Difference) -> dict[str, tuple[str, float]]:
    """The outcome for every tensor, by its name, and by how much it changed. Layers that an edit removed have no
    partner, and those that one inserted have no finding.
    """
    outcomes = {name: ("removed" if partner is None else "same", 0.0) for name, partner in result.partners.items()}
    for edit in result.edits:
        if edit.kind == "insert-layers":
            outcomes |= {name: ("added", 0.0) for step in edit.steps for name in step.targets}
    for finding in result.findings:
        values = result.values.get(finding)
        if finding.code in _MARKS:
            outcomes[finding.where] = (_MARKS[finding.code], 0.0)
        elif finding.code == "dtype-changed" and (values is None or not values.differing):
            outcomes[finding.where] = ("type", 0.0)
        elif finding.code in ("value-changed", "dtype-changed"):
            before = outcomes.get(finding.where, ("same", 0.0))[1]
            outcomes[finding.where] = ("changed", max(before, change_of(values)))
    return outcomes


def _columns(grid: dict[str, dict[str, Cell]]) -> tuple[list[str], int]:
    """The parameters in their order; where they are too many, those that changed most, and how many are left out."""
    most: dict[str, tuple[int, float]] = {}
    for cells in grid.values():
        for parameter, cell in cells.items():
            rank = (_RANKS.index(cell.kind), cell.change)
            most[parameter] = max(most.get(parameter, (0, -inf)), rank)
    kept = set(sorted(most, key=lambda parameter: most[parameter], reverse=True)[:MOST_PARAMETERS])
    return [parameter for parameter in most if parameter in kept], len(most) - len(kept)


def _runs(layers: Sequence[str]) -> list[Sequence[str]]:
    """The layers of each row: as few to a row as leave no more than `MOST_LAYERS` rows."""
    length = -(-len(layers) // MOST_LAYERS)
    return [layers[at : at + length] for at in range(0, len(layers), length)]


def _row(run: Sequence[str], grid: dict[str, dict[str, Cell]], parameters: Sequence[str]) -> HeatRow:
    first, last = short_name(run[0]) or "(no layer)", short_name(run[-1])
    label = first if len(run) == 1 else f"{first} … {last}"
    cells: list[Cell | None] = []
    for parameter in parameters:
        found = [grid[layer][parameter] for layer in run if parameter in grid[layer]]
        cell = Cell() if found else None
        for entry in found:
            assert cell is not None
            cell.add(entry.kind, entry.change, entry.tensors)
        if cell is not None:
            many = f" ({plural(cell.tensors, 'tensor')})" if cell.tensors > 1 else ""
            cell.title = f"{label}, {short_name(parameter)}: {cell.text}{many}"
        cells.append(cell)
    return HeatRow(label, f"{first}." if len(run) == 1 and run[0] else "", cells)
