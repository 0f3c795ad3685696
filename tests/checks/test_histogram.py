"""Histograms of relative changes: counted as logarithms would, whatever the pieces, and only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.checks.histogram import BINS, FIRST, count_bins

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.checks.compare_values import Values


def by_logarithm(changes: np.ndarray) -> list[int]:
    """The same counts by numpy's own histogram."""
    usable = changes[np.isfinite(changes) & (changes > 0)]
    places = np.clip(np.floor(np.log2(usable)), FIRST, FIRST + BINS - 1)
    return np.histogram(places, np.arange(FIRST, FIRST + BINS + 1))[0].tolist()


def values(tmp_path: Path, a: torch.Tensor, b: torch.Tensor, **options: object) -> Values:
    torch.save({"w": a}, tmp_path / "a.pth")
    torch.save({"w": b}, tmp_path / "b.pth")
    result = ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth", **options)  # type: ignore[arg-type]
    found, *_ = result.values.values()
    return found


def test_bins_are_powers_of_two_and_the_outer_ones_take_the_rest() -> None:
    counts = count_bins(np.array([2.0**-54, 2.0**-53, 1.0, 1.999, 2.0, 1e-300, 1e300, 0.0, np.inf, np.nan, -np.nan]))
    assert {FIRST + i: n for i, n in enumerate(counts.tolist()) if n} == {-54: 2, -53: 1, 0: 2, 1: 1, 9: 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_every_float_is_counted_as_numpy_counts_it(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(70_001, generator=generator, dtype=torch.float64)
    b = a * (1 + 10 ** (6 * torch.rand(70_001, generator=generator, dtype=torch.float64) - 6))
    a[:3], b[:3] = torch.tensor([0.0, 1.0, float("nan")]), torch.tensor([1.0, 1.0, 1.0])
    a, b = a.to(dtype), b.to(dtype)
    found = values(tmp_path, a, b, histograms=True)
    x, y = (t.to(torch.complex128 if dtype.is_complex else torch.float64).numpy() for t in (a, b))
    with np.errstate(all="ignore"):
        wanted = by_logarithm(np.abs(y - x) / np.abs(x))
    assert list(found.bins or ()) == wanted
    assert sum(wanted) == found.differing - found.nan - 1


def test_the_quick_way_and_the_careful_one_count_the_same(tmp_path: Path) -> None:
    a = torch.linspace(-3, 3, 300_001)
    b = torch.where(torch.arange(len(a)) % 3 == 0, a, a * 1.01)
    quick = values(tmp_path, a, b, histograms=True)
    careful = values(tmp_path, a, b, histograms=True, ulp=1)
    cast = values(tmp_path, a.double(), b, histograms=True)
    assert quick.bins == careful.bins
    assert sum(quick.bins or ()) == quick.differing
    assert sum(cast.bins or ()) == cast.differing


def test_integers_are_counted(tmp_path: Path) -> None:
    found = values(tmp_path, torch.tensor([8, 8, 0, 5]), torch.tensor([9, 16, 3, 5]), histograms=True)
    assert {FIRST + i: n for i, n in enumerate(found.bins or ()) if n} == {-3: 1, 0: 1}


def test_none_is_counted_unless_asked_for_and_json_has_none(tmp_path: Path) -> None:
    a, b = torch.ones(5), torch.full((5,), 2.0)
    plain, counted = values(tmp_path, a, b), values(tmp_path, a, b, histograms=True)
    assert plain.bins is None
    assert counted.bins is not None
    assert plain.to_dict() == counted.to_dict()
