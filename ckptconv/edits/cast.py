"""Other element types: rounding to nearest, ties to even, and what that cost.

Casts are those of ``ml_dtypes`` and numpy, block by block while a tensor is read: memory for a block, at any size.
What was lost on the way is noted by block, so that reading twice counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

FLOATS = (
    DType.F64, DType.F32, DType.F16, DType.BF16, DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ,
    DType.F8_E8M0, DType.F6_E2M3, DType.F6_E3M2, DType.F4,
)  # fmt: skip

BLOCK = 1 << 16
"""Elements that are cast at a time: some hundred kilobytes, which stay in a core's cache."""


MOST_E4M3, PAST_E4M3 = 448.0, 464.0
"""The largest F8_E4M3, and where rounding to nearest would go past it. It has no infinity: torch makes all that is
beyond the largest, infinities too, as Hopper's and later GPUs do it; ml_dtypes would make NaN of it.
"""


@dataclass(slots=True)
class Loss:
    """What a cast lost: finite values that became infinite or NaN, values that became 0, the largest relative error."""

    overflowed: int = 0
    flushed: int = 0
    max_rel: float = 0.0

    def add(self, other: Loss) -> None:
        """Count another block too."""
        self.overflowed += other.overflowed
        self.flushed += other.flushed
        self.max_rel = max(self.max_rel, other.max_rel)


@dataclass
class CastReader:
    """Reads ranges of a tensor's image as another element type."""

    source: LazyTensor
    dtype: DType
    blocks: dict[int, Loss] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def __call__(self, start: int, stop: int) -> memoryview:
        bits = self.dtype.bits
        # whole bytes of both sides: blocks of 8 elements are
        first = start * 8 // bits // 8 * 8
        last = min(-(-stop * 8 // bits // 8) * 8, self.source.info.numel)
        made = bytearray()
        for at in range(first, last, BLOCK):
            made += self._block(at, min(at + BLOCK, last))
        base = first * bits // 8
        return memoryview(made)[start - base : stop - base]

    def _block(self, first: int, last: int) -> bytes:
        from ckptconv.core.arrays import from_bytes, to_bytes

        source = self.source
        bits = source.info.dtype.bits
        data = source.read(first * bits // 8, -(-last * bits // 8))
        values = from_bytes(data, source.info.dtype, last - first)
        cast, loss = cast_array(values, source.info.dtype, self.dtype)
        with self.lock:
            self.blocks[first] = loss
        return to_bytes(cast, self.dtype)

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.source.span is not None

    @property
    def loss(self) -> Loss:
        """What was lost in all that has been read."""
        total = Loss()
        for one in self.blocks.values():
            total.add(one)
        return total


def cast_tensor(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor as `dtype`. Raises UnsupportedError where one of the types has no numbers to round."""
    for one in (tensor.info.dtype, dtype):
        if one.kind not in ("float", "int", "uint", "bool"):
            raise UnsupportedError(f"{one} is not cast to or from", hint="leave these tensors as they are")
    info = TensorInfo.of(dtype, tensor.info.shape)
    return LazyTensor(info, CastReader(tensor, dtype), depends=tensor.depends)


def loss_of(tensor: LazyTensor) -> Loss | None:
    """What casting this tensor has lost so far; None where it is no cast."""
    return tensor.reader.loss if isinstance(tensor.reader, CastReader) else None


def cast_array(values: np.ndarray[Any, Any], before: DType, after: DType) -> tuple[np.ndarray[Any, Any], Loss]:
    """The values as `after`, and what that lost."""
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    target = numpy_dtype(after)
    with np.errstate(all="ignore"):
        wide = (
            values if values.dtype in (np.float32, np.float64) or before.kind != "float" else values.astype(np.float32)
        )
        if after.kind in ("int", "uint", "bool"):
            return wide.astype(target), Loss()
        if after is DType.F8_E4M3:
            clipped = np.clip(wide, -MOST_E4M3, MOST_E4M3)
            cast = clipped.astype(target)
            loss = _loss(clipped, cast)
            loss.overflowed = int((np.isfinite(wide) & (np.abs(wide) > PAST_E4M3)).sum())
            return cast, loss
        cast = wide.astype(target)
        if before.kind == "float" and after.bits >= before.bits and after not in (DType.F16, DType.BF16):
            return cast, Loss()
        return cast, _loss(wide, cast)


def _loss(wide: np.ndarray[Any, Any], cast: np.ndarray[Any, Any]) -> Loss:
    import numpy as np

    exact = wide if wide.dtype in (np.float32, np.float64) else wide.astype(np.float64)
    back = cast.astype(exact.dtype)
    error = np.abs(back - exact)
    size = np.abs(exact)
    np.divide(error, size, out=error, where=size > 0)
    worst = float(error.max(initial=0.0))
    if worst < 1.0:  # NaN compares as false: nothing overflowed and nothing vanished
        return Loss(0, 0, worst)
    finite = np.isfinite(exact)
    lost = finite & ~np.isfinite(back)
    flushed = finite & (back == 0) & (exact != 0)
    kept = finite & ~lost & ~flushed
    return Loss(int(lost.sum()), int(flushed.sum()), float(error[kept].max(initial=0.0)))
