"""Counted pairs of codes give the figures that the elements themselves give."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest

from ckptconv.checks.figures import Figures, figures, is_number
from ckptconv.checks.joint_figures import BITS, BLOCK, JointFigures
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.dtypes import PLAIN, DType

COUNT = BLOCK + 3000
TYPES = sorted((dtype for dtype in PLAIN.values() if is_number(dtype) and dtype.bits <= BITS), key=str)
PAIRS = [*zip(TYPES, TYPES, strict=True), *pairwise(TYPES)]


def image(dtype: DType, rng: np.random.Generator) -> bytes:
    data: bytes = rng.integers(0, 256, dtype.nbytes(COUNT), dtype=np.uint8).tobytes()
    return data


@pytest.mark.parametrize("types", PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(0.3, 0.01, 2)], ids=["bits", "near"])
def test_figures_are_those_of_the_elements(types: tuple[DType, DType], tolerance: Tolerance) -> None:
    rng = np.random.default_rng(0)
    left, right = image(types[0], rng), image(types[1], rng)
    same = 400 if types[0] is types[1] else 0  # so many bytes at the start
    right = left[:same] + right[same:]
    joint = JointFigures(*types)
    for at in range(0, COUNT, 50_000):  # which ends within a byte of no type
        end = min(at + 50_000, COUNT)
        a, b = (
            memoryview(data)[at * dtype.bits // 8 : dtype.nbytes(end)]
            for data, dtype in zip((left, right), types, strict=True)
        )
        joint.add(a, b, end - at)
    found = joint.figures(tolerance, histogram=True)
    expected = figures(memoryview(left), memoryview(right), *types, COUNT, tolerance, histogram=True)
    for one in fields(Figures):
        ours, theirs = getattr(found, one.name), getattr(expected, one.name)
        if one.name in ("dd", "aa", "bb", "ab"):
            assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-9 * expected.aa), one.name
        else:
            np.testing.assert_equal(ours, theirs, one.name)


def test_equal_tensors_have_no_first() -> None:
    data = memoryview(bytes(range(256)))
    joint = JointFigures(DType.F8_E4M3, DType.F8_E4M3)
    joint.add(data, data, 256)
    found = joint.figures(Tolerance(), histogram=False)
    assert (found.differing, found.first, found.first_values, found.elements) == (0, None, None, 256)
