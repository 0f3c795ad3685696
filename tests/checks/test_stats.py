"""Statistics of values, beside numpy's of the same values in F64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckptconv.checks.float_blocks import BLOCK, FAST, FEW
from ckptconv.checks.stats import Stats, stats, stats_of
from ckptconv.core.arrays import NUMPY_NAMES, from_bytes, numpy_dtype
from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray


def tensor(values: Array, dtype: DType) -> LazyTensor:
    return in_memory(TensorInfo.of(dtype, values.shape), values.tobytes())


def expected(values: Array) -> Stats:
    if values.dtype.kind == "V" or values.dtype.itemsize < 4:
        is_int = values.dtype.kind in "biu" or "int" in values.dtype.name
        values = values.astype(np.int64 if is_int else np.float32)
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    found = Stats(nan=int(np.isnan(wide).sum()), inf=int(np.isinf(wide).sum()), zeros=int((wide == 0).sum()))
    if finite.any():
        found.min, found.max = values[finite].min().item(), values[finite].max().item()
        found.mean, found.std = float(wide[finite].mean()), float(wide[finite].std())
    return found


def assert_same(found: Stats | None, values: Array, *, digits: float) -> None:
    wanted = expected(values)
    assert found is not None
    for name in ("min", "max", "nan", "inf", "zeros"):
        assert getattr(found, name) == getattr(wanted, name), name
        assert type(getattr(found, name)) is type(getattr(wanted, name)), name
    if wanted.mean is None or wanted.std is None:
        assert (found.mean, found.std) == (None, None)
    else:
        assert found.mean == pytest.approx(wanted.mean, rel=1e-12, abs=1e-13 * wanted.std)
        assert found.std == pytest.approx(wanted.std, rel=digits)


SPREADS: dict[str, Callable[[Array], Array]] = {
    "trained": lambda r: 0.02 * r,
    "norm": lambda r: 1 + 1e-3 * r,  # a mean far greater than the deviation
    "zeros": lambda r: np.where(r > 0, r, 0.0),
    "constant": lambda r: np.full_like(r, 0.3),
    "huge": lambda r: 1e30 * r,
    "tiny": lambda r: 1e-37 * r,
    "odd": lambda r: np.where(r > 3, np.nan, np.where(r < -3, -np.inf, r)),
    "only odd": lambda r: np.full_like(r, np.nan),
}


@pytest.mark.parametrize("dtype", FAST, ids=str)
@pytest.mark.parametrize("count", [1, 100, FEW + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("spread", SPREADS)
def test_floats_of_every_spread(dtype: DType, count: int, spread: str) -> None:
    kind = numpy_dtype(dtype)
    with np.errstate(all="ignore"):
        values = SPREADS[spread](np.random.default_rng(1).standard_normal(count)).astype(kind)
    digits = 1e-12 if dtype is DType.F64 else 1e-6
    if spread == "constant":
        assert_same(stats(tensor(values, dtype)), values, digits=1.0)
        return
    assert_same(stats(tensor(values, dtype)), values, digits=digits)


@pytest.mark.parametrize("dtype", [one for one in NUMPY_NAMES if one.kind != "complex" and one not in FAST], ids=str)
@pytest.mark.parametrize("count", [40, 200_000])
def test_every_other_type(dtype: DType, count: int) -> None:
    """Few are looked at one by one, many counted by their codes."""
    data = np.random.default_rng(2).integers(0, 256, dtype.nbytes(count), dtype=np.uint8)
    if dtype is DType.BOOL:
        data &= 1
    image = data.tobytes()
    found = stats(in_memory(TensorInfo.of(dtype, (count,)), image))
    values = from_bytes(memoryview(image), dtype, count)
    with np.errstate(all="ignore"):
        assert_same(found, values, digits=1e-9)


def test_complex_numbers_are_counted_and_types_without_numbers_left_out() -> None:
    values = np.array([0, 1j, np.nan, complex(0, np.inf)], np.complex64)
    found = stats_of([tensor(values, DType.C64), in_memory(TensorInfo.of(DTYPES["QI8"], (3,)), bytes(3))])
    assert found == [Stats(nan=1, inf=1, zeros=1), None]


def test_tied_tensors_are_read_once_and_progress_ends_at_the_whole() -> None:
    reads = []

    def read(start: int, stop: int) -> memoryview:
        reads.append((start, stop))
        return memoryview(bytes(stop - start))

    info = TensorInfo.of(DType.F32, (10,))
    tied = [LazyTensor(info, read, alias="a"), LazyTensor(info, read, alias="a")]
    seen: list[tuple[int, int]] = []
    assert stats_of(tied, lambda done, total: seen.append((done, total))) == [Stats(0.0, 0.0, 0.0, 0.0, zeros=10)] * 2
    assert reads == [(0, 40)]
    assert seen == [(40, 40)]


@pytest.mark.parametrize("values", [[5e199], [1e200, 1e200], [-3e300] * 3, [9.99e202] * 300_000])
def test_numbers_whose_squares_are_past_f64_spread_by_nothing_where_they_are_equal(values: list[float]) -> None:
    found = stats(tensor(np.array(values), DType.F64))
    assert found is not None
    assert (found.min, found.mean, found.std) == (values[0], values[0], 0.0)
