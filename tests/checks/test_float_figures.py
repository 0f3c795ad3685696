"""The fast way to the figures gives those of the careful one."""

from __future__ import annotations

import numpy as np
import pytest

from ckptconv.checks.figures import Figures, figures
from ckptconv.checks.float_figures import BLOCK, FAST, FloatFigures
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.arrays import numpy_dtype
from ckptconv.core.dtypes import DType

SUMS = ("dd", "aa", "bb", "ab")

CASES = {
    "a little": lambda a, r: a * (1 + 1e-3 * r),
    "signs": lambda a, r: -a,
    "equal": lambda a, r: a.copy(),
    "one": lambda a, r: np.where(np.arange(len(a)) == 5, 0.0, a),
    "zeros of either sign": lambda a, r: np.where(a > 1, a, np.where(a < 0, -0.0, 0.0)),
    "another": lambda a, r: r,
    "huge": lambda a, r: a * 1e30,
    "tiny": lambda a, r: a * 1e-38,
}


@pytest.mark.parametrize("dtype", FAST, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8191, 8193, BLOCK])
@pytest.mark.parametrize("case", CASES)
def test_both_ways_agree(dtype: DType, count: int, case: str) -> None:
    kind = numpy_dtype(dtype)
    rng = np.random.default_rng(count)
    a = rng.standard_normal(count).astype(kind)
    if case == "zeros of either sign":
        a = np.where(a < 0, 0.0, a).astype(kind)
    with np.errstate(all="ignore"):
        b = CASES[case](a.astype(np.float64), rng.standard_normal(count)).astype(kind)
    left, right = memoryview(a.tobytes()), memoryview(b.tobytes())
    fast = FloatFigures(dtype)
    fast(right, left, count)  # what is left in the buffers does not matter
    found, expected = fast(left, right, count), figures(left, right, dtype, dtype, count, Tolerance(0.0, 0.0, 0))
    if not np.isfinite(b.astype(np.float64)).all():  # 1e30 in F16
        assert found is None
        return
    assert found is not None
    for name in Figures.__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours == pytest.approx(theirs, rel=1e-12, abs=0.0) if name in SUMS else ours == theirs, name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_to_the_careful_way(value: float) -> None:
    a = np.ones(100, np.float32)
    b = a.copy()
    b[7] = value
    fast = FloatFigures(DType.F32)
    assert fast(memoryview(a.tobytes()), memoryview(b.tobytes()), 100) is None
