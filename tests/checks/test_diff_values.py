"""The figures of two tensors that differ, against numpy and torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.checks.compare_bytes import find_unequal
from ckptconv.checks.compare_values import Values, compare_values
from ckptconv.checks.pool import Pool
from ckptconv.checks.stretch import Pair
from ckptconv.checks.tolerance import Tolerance, Tolerances, parse_tolerances
from ckptconv.core.arrays import numpy_dtype
from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDE = [DType.F64, DType.F32, DType.F16, DType.BF16]
NARROW = [
    DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ, DType.F8_E8M0, DType.F6_E2M3, DType.F6_E3M2,
    DType.F4,
]  # fmt: skip
INTS = ["I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "I4", "U4", "I2", "U2"]


def tensor(data: bytes, dtype: DType, shape: tuple[int, ...]) -> LazyTensor:
    view = memoryview(data)
    return LazyTensor(TensorInfo.of(dtype, shape), lambda start, stop: view[start:stop])


def of_array(array: np.ndarray, dtype: DType) -> LazyTensor:
    return tensor(array.tobytes(), dtype, array.shape)


def compared(a: LazyTensor, b: LazyTensor, tolerance: Tolerance = Tolerance()) -> Values:
    return compare_values([Pair(a, b, tolerance)], Pool(1))[0]


def random_bytes(seed: int, count: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


def ordered(dtype: DType) -> dict[int, int]:
    """The place of each code of a narrow float among the values that there are, found by sorting them."""
    codes = np.arange(1 << dtype.bits, dtype=np.uint8)
    values = codes.view(numpy_dtype(dtype)).astype(np.float64)
    places = {value: place for place, value in enumerate(sorted({v for v in values.tolist() if v == v}))}
    return {int(code): places[value] for code, value in zip(codes, values.tolist(), strict=True) if value == value}


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_ulp_of_narrow_floats_is_how_many_values_lie_between(dtype: DType) -> None:
    from ckptconv.checks.figures import _ulp

    places = ordered(dtype)
    codes = np.array([(a, b) for a in places for b in places], dtype=np.uint8)
    wanted = [abs(places[int(a)] - places[int(b)]) for a, b in codes]
    assert _ulp(codes[:, 0], codes[:, 1], dtype).tolist() == wanted


@pytest.mark.parametrize("name", [dtype.name for dtype in WIDE])
@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_ulp_of_wide_floats_counts_steps_of_nextafter(name: str, steps: list[int], seed: int) -> None:
    kind = getattr(torch, {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}[name])
    dtype = DTYPES[name]
    generator = torch.Generator().manual_seed(seed)
    a = (torch.randn(len(steps), generator=generator) * 1e-3).to(kind)
    a[0] = 0.0
    b = a.clone()
    for i, count in enumerate(steps):
        for _ in range(count):
            b[i] = torch.nextafter(b[i], torch.tensor(float("inf"), dtype=kind))
    a[0] = -0.0  # no step from 0.0
    left, right = (one.view(torch.uint8).numpy().tobytes() for one in (a, b))
    found = compared(tensor(left, dtype, (len(steps),)), tensor(right, dtype, (len(steps),)))
    assert found.max_ulp == max(steps)
    assert found.differing == sum(count > 0 for count in steps[1:]) + 1


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "C64", "C128", "F8_E5M2", "F8_E4M3"])
@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), same=st.integers(0, 3))
def test_figures_of_floats_are_numpys(name: str, seed: int, count: int, same: int) -> None:
    dtype = DTYPES[name]  # hypothesis would spell a DType with all others that it has as attributes
    size = count * dtype.bits // 8
    left, right = bytearray(random_bytes(seed, size)), bytearray(random_bytes(seed + 1, size))
    keep = size * same // 3 // 16 * 16
    right[:keep] = left[:keep]
    found = compared(tensor(bytes(left), dtype, (count,)), tensor(bytes(right), dtype, (count,)))
    wide = np.complex128 if dtype.kind == "complex" else np.float64
    with np.errstate(all="ignore"):
        a, b = (np.frombuffer(bytes(one), numpy_dtype(dtype)).astype(wide) for one in (left, right))
        unit = dtype.bits // 8
        bits = np.array([left[i : i + unit] != right[i : i + unit] for i in range(0, size, unit)])
        valid = ~(np.isnan(a) | np.isnan(b))
        distance = np.where(a == b, 0.0, np.abs(b - a))[valid]
        relative = np.where(distance == 0, 0.0, distance / np.abs(a[valid]))
        relative = np.where(np.isinf(distance), np.inf, relative)
        finite = np.isfinite(a) & np.isfinite(b)
        x, y = a[finite], b[finite]
        dd, aa, bb = (float((np.abs(v) ** 2).sum()) for v in (y - x, x, y))
        ab = float((x * y.conj()).real.sum())
    assert found.elements == count
    assert found.differing == int(bits.sum())
    assert found.nan == int((np.isnan(a) != np.isnan(b)).sum())
    if bits.any() and (bits & valid).any() and found.max_abs is not None:
        assert found.max_abs == pytest.approx(distance.max(initial=0.0))
        assert found.max_rel == pytest.approx(relative.max(initial=0.0))
    if bits.any():
        assert found.first == (int(bits.argmax()),)
    if finite.any() and all(np.isfinite(v) and 1e-140 < v < 1e140 for v in (dd, aa, bb)):
        assert found.rms == pytest.approx((dd / finite.sum()) ** 0.5)
        assert found.change == pytest.approx((dd / aa) ** 0.5)
        assert found.cosine == pytest.approx(ab / (aa**0.5 * bb**0.5), abs=1e-9)


@pytest.mark.parametrize("name", INTS)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_distances_of_integers_are_exact(name: str, seed: int, count: int) -> None:
    dtype = DTYPES[name]
    low, high = (0, 2**dtype.bits) if dtype.kind == "uint" else (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1))
    rng = np.random.default_rng(seed)
    pick = np.uint64 if low == 0 else np.int64
    a, b = (rng.integers(low, high - 1, count, dtype=pick, endpoint=True) for _ in range(2))
    left, right = (tensor(packed(one, dtype), dtype, (count,)) for one in (a, b))
    found = compared(left, right)
    apart = [abs(x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert (found.max_abs, found.max_ulp) == (max(apart), max(apart))
    assert found.differing == sum(x > 0 for x in apart)
    if found.differing:
        at = next(i for i, x in enumerate(apart) if x)
        assert found.first == (at,)
        assert found.first_values == (a[at], b[at])


def packed(values: np.ndarray, dtype: DType) -> bytes:
    if dtype.bits >= 8:
        return values.astype(numpy_dtype(dtype)).tobytes()
    total = 0
    for i, value in enumerate(values.tolist()):
        total |= (value & ((1 << dtype.bits) - 1)) << (i * dtype.bits)
    return total.to_bytes(dtype.nbytes(len(values)), "little")


def test_bools_differ_by_one() -> None:
    a, b = np.array([True, False, True]), np.array([True, True, True])
    found = compared(of_array(a, DType.BOOL), of_array(b, DType.BOOL))
    assert (found.differing, found.max_abs, found.first, found.first_values) == (1, 1, (1,), (False, True))


def test_complex_halves_have_figures_as_well() -> None:
    a = torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])).to(torch.complex32)
    b = torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0])).to(torch.complex32)
    left, right = (tensor(one.view(torch.uint8).numpy().tobytes(), DType.C32, (2,)) for one in (a, b))
    found = compared(left, right)
    assert (found.differing, found.max_abs, found.first, found.first_values) == (1, 2.0, (1,), (2 + 1j, 2 - 1j))


def test_complex_pairs_of_bfloat16_have_figures_as_well() -> None:
    pairs = [torch.tensor([1.0, 0.0, 300.0, 1.0]), torch.tensor([1.0, 0.0, 300.0, -1.0])]
    left, right = (tensor(one.bfloat16().view(torch.uint8).numpy().tobytes(), DType.BC32, (2,)) for one in pairs)
    found = compared(left, right)
    assert (found.differing, found.max_abs, found.first, found.first_values) == (1, 2.0, (1,), (300 + 1j, 300 - 1j))


def test_quantized_values_are_compared_as_the_integers_stored() -> None:
    found = compared(tensor(b"\x01\xff", DType.QI8, (2,)), tensor(b"\x01\x01", DType.QI8, (2,)))
    assert (found.max_abs, found.first_values) == (2, (-1, 1))


def test_zeros_of_either_sign_differ_and_are_counted() -> None:
    a, b = np.array([0.0, 1.0, -0.0], "f4"), np.array([-0.0, 1.0, 0.0], "f4")
    found = compared(of_array(a, DType.F32), of_array(b, DType.F32))
    assert (found.differing, found.signs, found.max_abs, found.max_ulp, found.outside) == (2, 2, 0.0, 0, 2)
    assert str(found.first_values) == "(0.0, -0.0)"


def test_nans_of_equal_bits_are_equal_and_others_are_not() -> None:
    nan, other = np.array([0x7FC00000, 0x7FC00001], "u4").view("f4")
    same = [of_array(np.array([nan, 1.0], "f4"), DType.F32) for _ in range(2)]
    assert find_unequal([(same[0], same[1])], Pool(1)) == set()
    found = compared(of_array(np.array([nan, 1.0], "f4"), DType.F32), of_array(np.array([other, 1.0], "f4"), DType.F32))
    assert (found.differing, found.nan, found.outside) == (1, 0, 1)


@given(
    seed=st.integers(0, 10_000),
    rtol=st.sampled_from([0.0, 1e-3, 0.1]),
    atol=st.sampled_from([0.0, 1e-4, 0.05]),
)
def test_tolerances_are_numpys_isclose_with_the_first_as_reference(seed: int, rtol: float, atol: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=200).astype("f4")
    b = (a * (1 + rng.normal(size=200) * 10.0 ** rng.integers(-6, 0, 200))).astype("f4")
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], "f4")
    a[:5], b[:5] = special, rng.permutation(special)
    found = compared(of_array(a, DType.F32), of_array(b, DType.F32), Tolerance(rtol, atol))
    close = np.isclose(b.astype("f8"), a.astype("f8"), rtol, atol, equal_nan=True)
    if rtol or atol:
        assert found.outside == int((~close).sum())
    else:
        assert found.outside == found.differing


def test_ulps_are_another_way_to_be_close() -> None:
    a = np.array([1.0, 1000.0], "f4")
    b = np.nextafter(np.nextafter(a, np.float32(2000)), np.float32(2000))
    pair = of_array(a, DType.F32), of_array(b, DType.F32)
    assert compared(*pair, Tolerance(ulp=1)).outside == 2
    assert compared(*pair, Tolerance(ulp=2)).outside == 0
    assert compared(*pair, Tolerance(atol=1e-6, ulp=1)).outside == 1


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("BF16", "F32"), ("F16", "F32"), ("F32", "F64"), ("F8_E4M3", "F32"), ("F8_E5M2", "F16"), ("C64", "C128")],
)
def test_a_cast_is_told_from_a_change(narrow: str, wide: str) -> None:
    small, large = DTYPES[narrow], DTYPES[wide]
    values = np.random.default_rng(0).normal(size=(7, 9))
    a = (values + 1j * values.T.reshape(7, 9) if large.kind == "complex" else values).astype(numpy_dtype(large))
    a[0, 0] = np.nan
    b = a.astype(numpy_dtype(small))
    assert compared(of_array(a, large), of_array(b, small)).cast
    assert compared(of_array(b, small), of_array(a, large)).cast
    b[3, 3] = 3
    found = compared(of_array(a, large), of_array(b, small))
    assert not found.cast
    assert found.max_ulp is None


def test_torchs_rounding_to_bfloat16_is_a_cast() -> None:
    a = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    b = a.bfloat16()
    left = of_array(a.numpy(), DType.F32)
    right = tensor(b.view(torch.uint8).numpy().tobytes(), DType.BF16, (5000,))
    assert compared(left, right).cast
    assert b.view(torch.int16).numpy().tobytes() == a.numpy().astype(ml_dtypes.bfloat16).tobytes()


def test_many_pieces_and_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptconv.checks import compare_bytes, pool, stretch

    monkeypatch.setattr(pool, "PIECE", 1 << 12)
    monkeypatch.setattr(stretch, "STEP", 24)
    monkeypatch.setattr(pool, "GATHER_BLOCK", 1 << 9)
    monkeypatch.setattr(compare_bytes, "PIECE", 1 << 12)
    a = np.random.default_rng(0).normal(size=(3, 5000))
    b = a.copy()
    b[1, 17], b[2, 4999] = 3.0, -7.0
    pair = of_array(a, DType.F64), of_array(b, DType.F64)
    assert find_unequal([pair, (pair[0], pair[0])], Pool(1)) == {0}
    found = compared(*pair)
    assert (found.elements, found.differing, found.first) == (15000, 2, (1, 17))
    assert found.max_abs == np.abs(a - b).max()
    assert found.rms == pytest.approx(np.sqrt(((a - b) ** 2).mean()))


def test_the_last_pattern_that_matches_gives_the_tolerance() -> None:
    allowed = Tolerances(Tolerance(rtol=1.0), parse_tolerances(["*=atol:1e-3", "head.*=ulp:4, rtol:0.5"]))
    assert allowed.of("body.w") == Tolerance(atol=1e-3)
    assert allowed.of("x", "head.w") == Tolerance(rtol=0.5, ulp=4)
    assert replace(allowed, special=()).of("any") == Tolerance(rtol=1.0)


@pytest.mark.parametrize(
    "text", ["", "x", "=rtol:1", "a=rtol", "a=tol:1", "a=rtol:x", "a=ulp:1.5", "a=rtol:-1", "a=atol:nan"]
)
def test_what_is_no_tolerance_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tolerances([text])
    assert caught.value.hint


def test_progress_comes_to_an_end(values: Sequence[int] = (0, 1)) -> None:
    seen: list[tuple[int, int]] = []
    a, b = (of_array(np.full(4, fill, "f4"), DType.F32) for fill in values)
    pool = Pool(32, lambda done, total: seen.append((done, total)))
    unequal = find_unequal([(a, a), (a, b)], pool)
    compare_values([Pair(a, b, Tolerance())], pool)
    assert unequal == {1}
    assert seen == [(16, 32), (32, 32)]
