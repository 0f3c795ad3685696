"""The heat-map of `diff --html` as data: what became of each tensor, layer by layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.cli.report import heatmap
from ckptconv.cli.report.heatmap import heat_map

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.cli.report.heatmap import HeatMap


def made(tmp_path: Path, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> HeatMap | None:
    torch.save(a, tmp_path / "a.pth")
    torch.save(b, tmp_path / "b.pth")
    return heat_map(ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth"))


def test_each_cell_says_what_became_of_its_tensor(tmp_path: Path) -> None:
    ones = torch.ones(3)
    a = {
        "x.same": ones,
        "x.type": ones,
        "x.cast": ones / 3,
        "x.shape": ones,
        "x.by": ones,
        "x.nan": ones,
        "y.gone": ones,
    }
    b = a | {
        "x.type": ones.half(), "x.cast": (ones / 3).half(), "x.shape": torch.ones(2, 2), "x.by": ones * 1.25,
        "x.nan": ones * math.nan, "z.new": torch.ones(7),
    }  # fmt: skip
    del b["y.gone"]
    found = made(tmp_path, a, b)
    assert found is not None
    cells = {
        (row.label, parameter): (cell.kind, cell.sign)
        for row in found.rows
        for parameter, cell in zip(found.parameters, row.cells, strict=True)
        if cell is not None
    }
    assert cells == {
        ("x", "same"): ("same", "="), ("x", "type"): ("type", "T"), ("x", "cast"): ("changed", "−4"),
        ("x", "shape"): ("shape", "S"), ("x", "by"): ("changed", "−1"), ("x", "nan"): ("changed", "!"),
        ("y", "gone"): ("removed", "−"), ("z", "new"): ("added", "+"),
    }  # fmt: skip
    assert (found.left, found.folded) == (0, False)
    assert [row.find for row in found.rows] == ["x.", "y.", "z."]


@pytest.mark.parametrize("layers", [4, 5, 8, 9])
def test_layers_share_rows_and_the_parameters_that_changed_least_are_left_out(
    layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heatmap, "MOST_LAYERS", 4)
    monkeypatch.setattr(heatmap, "MOST_PARAMETERS", 2)
    a = {f"h.{i}.{part}": torch.ones(3) for i in range(layers) for part in ("a", "b", "c")}
    b = a | {f"h.{layers - 1}.b": torch.ones(3) * 1.5, "h.0.c": torch.ones(3) * 3}
    found = made(tmp_path, a, b)
    assert found is not None
    assert (list(found.parameters), found.left, found.folded) == (["b", "c"], 1, layers > 4)
    assert len(found.rows) == -(-layers // -(-layers // 4)) <= 4
    assert sum(cell.tensors for row in found.rows for cell in row.cells if cell is not None) == 2 * layers
    kinds = [[cell.kind for cell in row.cells if cell is not None] for row in found.rows]
    assert kinds[0] == ["same", "changed"]
    assert kinds[-1] == ["changed", "same"]
    assert all(kind == ["same", "same"] for kind in kinds[1:-1])


def test_what_is_equal_or_has_one_tensor_has_none(tmp_path: Path) -> None:
    two = {"a.w": torch.ones(2), "b.w": torch.ones(2)}
    assert made(tmp_path, two, two) is None
    assert made(tmp_path, {"a.w": torch.ones(2)}, {"a.w": torch.zeros(2)}) is None
