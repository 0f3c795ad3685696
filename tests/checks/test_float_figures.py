"""The fast way to the figures gives those of the careful one."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from ckptconv.checks.figures import Figures, figures
from ckptconv.checks.float_blocks import BLOCK, FAST, FEW
from ckptconv.checks.float_figures import FloatFigures
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
    fast = FloatFigures(dtype, dtype)
    fast(right, left, count)  # what is left in the buffers does not matter
    found, expected = fast(left, right, count), figures(left, right, dtype, dtype, count, Tolerance(0.0, 0.0, 0))
    if not np.isfinite(b.astype(np.float64)).all():  # 1e30 in F16
        assert found is None
        return
    assert found is not None
    assert_same(found, expected, digits=1e-12 if dtype is DType.F64 else 5e-7)
    exact = FloatFigures(dtype, dtype, exact=True)(left, right, count)
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
    fast = FloatFigures(DType.F32, DType.F32)
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
        found = FloatFigures(dtype, dtype)(left, right, rows.shape[1])
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
    found = FloatFigures(dtype, dtype)(memoryview(a.tobytes()), memoryview(b.tobytes()), BLOCK)
    x, y = (one.astype(np.longdouble) for one in (a, b))
    apart = 1 - (x @ y) / np.sqrt((x @ x) * (y @ y))
    assert found is not None
    assert found.cosine is not None
    assert 1 - found.cosine == pytest.approx(float(apart), rel=1e-5)


MANY = 1 << 14

PAIRS = [(a, b) for a in FAST for b in FAST if a is not b]


@pytest.mark.parametrize("types", PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.parametrize("count", [7, FEW + 1, BLOCK])
@pytest.mark.parametrize(
    "case", ["cast", "one off", "another", "zeros of either sign", "too large", "tiny", "half way"]
)
def test_both_ways_agree_across_types(types: tuple[DType, DType], count: int, case: str) -> None:
    a_kind, b_kind = (numpy_dtype(dtype) for dtype in types)
    rng = np.random.default_rng(count)
    values = rng.standard_normal(count)
    if case == "too large":
        values *= 1e30
    if case == "tiny":
        values *= 1e-42
    if case == "half way":  # between two BF16, or two F16: ties go to the even one
        values = np.round(values * 64) / 64 + 2.0**-7
    with np.errstate(all="ignore"):
        a = values.astype(a_kind)
        if case == "zeros of either sign":
            a[::3] = 0.0
            a[0] = -0.0
        b = a.astype(np.float64).astype(b_kind)
        if case == "zeros of either sign":
            b = np.where(b == 0, -b, b).astype(b_kind)
        if case == "one off":
            b[count // 2] = np.nextafter(b[count // 2], b_kind.type(9))
        if case == "another":
            b = rng.standard_normal(count).astype(b_kind)
    left, right = memoryview(a.tobytes()), memoryview(b.tobytes())
    found = FloatFigures(*types)(left, right, count)
    finite = all(np.isfinite(each.astype(np.float64)).all() for each in (a, b))
    if found is None:
        assert not finite
        return
    assert finite
    assert_same(found, figures(left, right, *types, count, Tolerance()), digits=1e-12 if DType.F64 in types else 5e-7)


@pytest.mark.parametrize("case", ["every code", "between"])
def test_f32_rounds_to_bf16_as_ml_dtypes_has_it(case: str) -> None:
    """Every upper half with every kind of lower half beside it, and one that is a step off."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    if case == "every code":
        lower = lower[:1]
    a = (upper[:, None] | lower).ravel().view(np.float32)
    bf16 = numpy_dtype(DType.BF16)
    with np.errstate(all="ignore"):
        a = a[np.isfinite(a.astype(bf16).astype(np.float32))]
    for block in np.array_split(a, 8):
        b = block.astype(bf16)
        small = np.abs(block) < 1e15  # whose squares F32 and F64 can add up
        for one, other, is_cast in ((block, b, True), (block[small], np.nextafter(b, bf16.type(9))[small], False)):
            found = FloatFigures(DType.F32, DType.BF16)(
                memoryview(one.tobytes()), memoryview(other.tobytes()), len(one)
            )
            assert found is not None
            assert found.narrowed is (is_cast or not found.differing)


TOLERANCES = [
    Tolerance(atol=0.5),
    Tolerance(rtol=1e-3),
    Tolerance(rtol=1e-3, atol=1e-4),
    Tolerance(ulp=2),
    Tolerance(atol=1e-3, ulp=40),
    Tolerance(rtol=inf),
    Tolerance(atol=inf),
]


@pytest.mark.parametrize("types", [*zip(FAST, FAST, strict=True), *PAIRS], ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.parametrize("case", ["a little", "signs", "one", "zeros of either sign", "steps"])
def test_both_ways_count_the_same_outside_a_tolerance(types: tuple[DType, DType], case: str) -> None:
    rng = np.random.default_rng(4)
    kinds = [numpy_dtype(dtype) for dtype in types]
    a = rng.standard_normal(MANY).astype(kinds[0])
    if case == "zeros of either sign":
        a[::2] = 0.0
    if case == "steps":
        b = a.astype(kinds[1])
        for _ in range(3):
            b = np.where(rng.random(MANY) < 0.5, np.nextafter(b, kinds[1].type(9)), b)
        b[::1000] = -b[::1000]  # few of them
    else:
        b = CASES[case](a.astype(np.float64), rng.standard_normal(MANY)).astype(kinds[1])
    left, right = memoryview(a.tobytes()), memoryview(b.tobytes())
    for tolerance in TOLERANCES:
        found = FloatFigures(*types)(left, right, MANY, tolerance)
        if found is None:
            assert tolerance.rtol == inf
            continue
        expected = figures(left, right, *types, MANY, tolerance)
        assert_same(found, expected, digits=1e-12)
        if case == "a little" and tolerance == Tolerance(rtol=1e-3) and DType.BF16 not in types:
            assert 0 < found.outside < found.differing
