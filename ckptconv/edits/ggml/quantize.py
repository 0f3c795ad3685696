"""Quantizes tensors to ggml's block types, block by block while they are read.

The bytes of a block are computed by the `gguf` package of ggml's authors (``gguf.quants.quantize``); those of K-quants,
which it can only unpack, by `edits.ggml.kquants`; those of Q8_0, for which it is slow, by `edits.ggml.q8`. Blocks do
not depend on each other, so pieces give the same bits as the whole tensor. Elements become F32 first, as in llama.cpp's
converter (``convert_hf_to_gguf.py``).

Refused: all other types (IQ1 to IQ3, and those that ggml uses for activations); tensors of fewer than two dimensions,
and rows that are not a whole number of blocks, which ggml does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.core.text import plural
from ckptconv.edits.computed import Computed
from ckptconv.edits.ggml.kquants import KQUANTS
from ckptconv.edits.ggml.q8 import q8_0
from ckptconv.edits.rounding import Loss
from ckptconv.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType

OURS: dict[str, Callable[[Array], Array]] = {"Q8_0": q8_0, **KQUANTS}
"""What makes blocks without the `gguf` package, which makes all others."""

QUANTIZED = ("Q8_0", *KQUANTS, "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4", "TQ2_0", "TQ1_0")
"""The types that can be quantized to."""


PART = 1 << 17
"""Elements that are quantized at a time. Each is processed some hundred times, by calls that take a microsecond: with
fewer elements, that is most of the time; with more, each process takes more memory and gains little.
"""


Part = tuple[int, memoryview]
"""The index of the first element, and the bytes of some elements."""

Quantized = tuple[bytes, Loss]
"""The blocks, and what was lost."""


def quantized_here(parts: Iterable[Part], before: DType, after: DType) -> Iterator[tuple[int, Quantized]]:
    """The blocks of each part, in order."""
    return ((first, quantized_bytes(data, before, after)) for first, data in parts)


@dataclass
class Quantizer(Computed):
    """A reader of a tensor in blocks of `dtype`. Takes memory for the range and one more piece.

    quantize: makes blocks of parts; may be done by other processes (`edits.ggml.processes`).
    last:     the piece that was made last, for a read that continues in it.
    """

    quantize: Callable[[Iterable[Part], DType, DType], Iterator[tuple[int, Quantized]]] = quantized_here
    last: tuple[int, bytes] = field(default=(-1, b""), init=False)

    @property
    def quantized_as(self) -> str:
        """The type of the blocks."""
        return self.dtype.name

    def __call__(self, start: int, stop: int) -> memoryview:
        width = self.piece // self.dtype.block * self.dtype.bits // 8
        first, last = start // width, -(-stop // width)
        known, data = self.last
        result = bytearray(data if known == first else b"")
        next_piece = first + 1 if known == first else first
        for at, (blocks, loss) in self.quantize(self._parts(next_piece, last), self.source.info.dtype, self.dtype):
            result += blocks
            self.note(at, at + len(blocks) * 8 // self.dtype.bits * self.dtype.block, loss)
        if stop == self.dtype.nbytes(self.source.info.numel):
            self.last = -1, b""  # pieces of hundreds of tensors would take some megabytes each
        elif next_piece < last:
            self.last = last - 1, bytes(result[(last - 1 - first) * width :])
        return memoryview(result)[start - first * width : stop - first * width]

    def _parts(self, first: int, last: int) -> Iterator[Part]:
        """Pieces [first, last). A piece is read at once and is always the same, so that its loss is counted once."""
        bits, numel = self.source.info.dtype.bits, self.source.info.numel
        for at in range(first * self.piece, min(last * self.piece, numel), self.piece):
            stop = min(at + self.piece, numel)
            data = self.source.read(at * bits // 8, -(-stop * bits // 8))
            for low in range(at, stop, PART):
                high = min(low + PART, stop)
                yield low, data[(low - at) * bits // 8 : -(-(high - at) * bits // 8)]


def quantized_bytes(data: memoryview, before: DType, after: DType) -> Quantized:
    """Elements of type `before`, given as bytes, as blocks of `after`."""
    from ckptconv.core.arrays import from_bytes

    blocks, loss = quantized_array(from_bytes(data, before, len(data) * 8 // before.bits), after)
    return blocks.tobytes(), loss


def quantized_array(values: Array, dtype: DType) -> tuple[Array, Loss]:
    """The bytes of the blocks of some values, which are a whole number of blocks; and what was lost."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[dtype.name]
    with np.errstate(all="ignore"):
        wide = values.astype(np.float32, copy=False).reshape(1, -1)  # one row, as gguf computes 16 rows at a time
        blocks = OURS[dtype.name](wide) if dtype.name in OURS else quants.quantize(wide, kind)
        blocks = blocks.reshape(1, -1)
        return blocks, loss_between(wide, quants.dequantize(blocks, kind))


def loss_between(wide: Array, back: Array) -> Loss:
    """The loss from `wide` to `back`. NaNs, infinities, and what a too large F16 scale spoiled count as overflows."""
    import numpy as np

    flushed = int(np.count_nonzero((back == 0) & (wide != 0)))
    squares = back - wide
    squares *= squares
    error, power = float(squares.sum(dtype=np.float64)), float(np.square(wide).sum(dtype=np.float64))
    if error < float("inf") and power < float("inf"):
        return Loss(0, flushed, error=error, power=power)
    good = np.isfinite(wide) & np.isfinite(back)
    exact, rest = wide[good].astype(np.float64), back[good].astype(np.float64)
    return Loss(
        wide.size - exact.size, int(np.count_nonzero(exact[rest == 0])),
        error=float(np.square(rest - exact).sum()), power=float(np.square(exact).sum()),
    )  # fmt: skip


def check_quantizes(dtype: DType) -> None:
    """Raise UnsupportedError for a type that cannot be quantized to, MissingExtraError without the `gguf` package."""
    if dtype.name not in QUANTIZED:
        raise UnsupportedError(
            f"quantizing to {dtype} is not supported",
            hint=f"one of {', '.join(QUANTIZED)}; or F16, and llama.cpp's llama-quantize makes {dtype} of that",
        )
    try:
        from gguf import quants

        _try(dtype, quants)
    except ModuleNotFoundError as error:
        raise MissingExtraError("gguf", "gguf") from error
    except (NotImplementedError, KeyError) as error:  # an older release of the package, without this type
        raise UnsupportedError(
            f"the gguf package that is installed does not know {dtype}", hint="pip install -U gguf"
        ) from error


@cache
def _try(dtype: DType, _package: object) -> None:
    """Quantize a block of zeros, once for all tensors: the search for a scale takes half a millisecond."""
    import numpy as np

    quantized_array(np.zeros(dtype.block, np.float32), dtype)


def unfit(info: TensorInfo, dtype: DType) -> str:
    """Why a tensor cannot have this block type: ``has 1 dimension``; "" if it can."""
    if len(info.shape) < 2:
        return f"has {plural(len(info.shape), 'dimension')}"
    if not info.numel:
        return "has no elements"
    if info.shape[-1] % dtype.block:
        return f"has rows of {info.shape[-1]:,}, no whole number of blocks of {dtype.block}"
    return ""


def quantized(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor in blocks of `dtype`. Raises UnsupportedError if that is not possible, and as `check_quantizes`."""
    check_quantizes(dtype)
    if why := unfit(tensor.info, dtype):
        raise UnsupportedError(f"a tensor that {why} cannot be {dtype}", hint="leave it as it is")
    return LazyTensor(TensorInfo.of(dtype, tensor.info.shape), Quantizer(tensor, dtype), depends=tensor.depends)
