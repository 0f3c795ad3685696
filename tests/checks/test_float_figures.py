"""The fast way to the figures gives those of the careful one."""

from __future__ import annotations

import numpy as np
import pytest

from ckptconv.checks.figures import Figures, figures
from ckptconv.checks.float_figures import BLOCK, FAST, FEW, FloatFigures
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.arrays import numpy_dtype
from ckptconv.core.dtypes import DType

ROUNDED = ("dd", "aa", "bb", "max_abs", "max_rel")

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
@pytest.mark.parametrize("count", [1, 7, FEW - 1, FEW + 1, BLOCK])
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
    assert_same(found, expected, digits=1e-12 if dtype is DType.F64 else 5e-7)
    exact = FloatFigures(dtype, exact=True)(left, right, count)
    assert exact is not None
    assert_same(exact, expected, digits=1e-12)


def assert_same(found: Figures, expected: Figures, *, digits: float) -> None:
    """Sums to so many digits, and the largest of what differs by less than that; all else exactly."""
    for name in Figures.__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if name == "ab":
            assert abs(ours - theirs) <= 4 * digits * (expected.aa * expected.bb) ** 0.5, name
        elif name in ROUNDED:
            assert ours == pytest.approx(theirs, rel=digits, abs=0.0), name
        else:
            assert ours == theirs, name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_to_the_careful_way(value: float) -> None:
    a = np.ones(100, np.float32)
    b = a.copy()
    b[7] = value
    fast = FloatFigures(DType.F32)
    assert fast(memoryview(a.tobytes()), memoryview(b.tobytes()), 100) is None


@pytest.mark.parametrize("dtype", FAST, ids=str)
def test_every_pair_of_bits_has_its_distance(dtype: DType) -> None:
    """Each code beside a random one: subnormal numbers, both zeros, and every exponent; all finite."""
    rng = np.random.default_rng(3)
    bits = dtype.bits
    codes = rng.integers(0, 1 << min(bits, 63), (2, 1 << 16), dtype=np.uint64).astype(f"<u{bits // 8}")
    if bits == 16:
        codes[0] = np.arange(1 << 16)
    with np.errstate(all="ignore"):
        finite = np.isfinite(codes.view(numpy_dtype(dtype)).astype(np.float64)).all(axis=0)
    for rows in [*np.array_split(codes[:, finite], 1000, axis=1), codes[:, finite]]:
        left, right = (memoryview(row.tobytes()) for row in rows)
        found = FloatFigures(dtype)(left, right, rows.shape[1])
        expected = figures(left, right, dtype, dtype, rows.shape[1], Tolerance(0.0, 0.0, 0))
        if found is not None:
            assert_same(found, expected, digits=1e-12 if dtype is DType.F64 else 5e-7)
        else:
            assert dtype is DType.F64  # whose squares are out of range


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_the_cosine_of_nearly_equal_tensors_keeps_its_digits(dtype: DType, size: float) -> None:
    """1 - cosine beside a sum of long doubles: some 1e-9 of a change of one in a thousand numbers."""
    rng = np.random.default_rng(7)
    a = (size * rng.standard_normal(BLOCK)).astype(numpy_dtype(dtype))
    b = a.copy()
    b[::1000] = (b[::1000].astype(np.float32) * np.float32(1.01)).astype(a.dtype)
    found = FloatFigures(dtype)(memoryview(a.tobytes()), memoryview(b.tobytes()), BLOCK)
    x, y = (one.astype(np.longdouble) for one in (a, b))
    apart = 1 - (x @ y) / np.sqrt((x @ x) * (y @ y))
    assert found is not None
    assert found.cosine is not None
    assert 1 - found.cosine == pytest.approx(float(apart), rel=1e-5)
