"""Statistics of a tensor's values, in one pass and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_NAMES, from_bytes
from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.io.stream import chunks

if TYPE_CHECKING:
    import numpy as np

    from ckptconv.core.tensor import LazyTensor

CHUNK = 3 << 18
"""Bytes at a time: divisible by 48, so that no element of 6, 8, … 128 bits is cut."""


@dataclass(slots=True)
class Stats:
    """Minimum, maximum, mean and population standard deviation of the finite values, and counts.

    `inf` counts both signs. The four figures are None for a complex tensor, and where no value is finite.
    """

    min: float | int | None = None
    max: float | int | None = None
    mean: float | None = None
    std: float | None = None
    nan: int = 0
    inf: int = 0
    zeros: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def stats(tensor: LazyTensor) -> Stats | None:
    """The statistics of a tensor; reads all of it. None for element types that are not numbers in their own right."""
    dtype = tensor.info.dtype
    if dtype not in NUMPY_NAMES and dtype not in COMPONENT:
        return None
    import numpy as np

    result, count, spread = Stats(), 0, 0.0
    for chunk in chunks(tensor, memoryview(bytearray(CHUNK))):
        values = _numbers(chunk, dtype)
        result.zeros += int((values == 0).sum())
        finite = _finite(values, result)
        if dtype.kind == "complex" or finite.size == 0:
            continue
        low, high = finite.min().item(), finite.max().item()
        result.min = low if result.min is None else min(result.min, low)
        result.max = high if result.max is None else max(result.max, high)
        mean, here = float(finite.mean(dtype="f8")), finite.size
        with np.errstate(over="ignore"):  # a spread beyond F64 is inf
            squares = float(((finite.astype("f8") - mean) ** 2).sum())
        # Chan, Golub and LeVeque's update of mean and squared deviations by a further group of values
        delta, total = mean - (result.mean or 0.0), count + here
        result.mean = (result.mean or 0.0) + delta * here / total
        spread += squares + delta * delta * count * here / total
        count = total
    result.std = sqrt(spread / count) if count else None
    return result


def _numbers(chunk: memoryview, dtype: DType) -> np.ndarray:
    """The chunk's elements as a numpy type that can be counted with."""
    import numpy as np

    if dtype is DType.C32:
        pairs = from_bytes(chunk, DType.F16, len(chunk) // 2).astype(np.float32)
        return pairs[0::2] + 1j * pairs[1::2]
    values = from_bytes(chunk, dtype, len(chunk) * 8 // dtype.bits)
    if dtype.kind == "float" and dtype.bits < 32:
        return values.astype(np.float32)
    return values.astype(np.int64) if dtype.kind == "bool" or dtype.bits < 8 else values


def _finite(values: np.ndarray, result: Stats) -> np.ndarray:
    import numpy as np

    if values.dtype.kind not in "fc":
        return values
    nan, inf = np.isnan(values), np.isinf(values)
    result.nan += int(nan.sum())
    result.inf += int(inf.sum())
    return values[~(nan | inf)] if nan.any() or inf.any() else values
