"""How a quantized layer of Keras can be read, by the types and shapes of its variables in their order.

    int8      kernel [in, out] I8, bias?, scale [out]                  kernel / scale
    int4      kernel [in, out/2] I8, bias?, scale [out]                the first of two elements in the low bits
              …of a Dense before Keras 3.14: [in/2, out]
              kernel [in, out/2] I8, bias?, scale [G, out], zero [G, out] I8, order [in]       (kernel - zero) * scale
    gptq      bias?, kernel [out/2 or out, in] U8, scale [out, G], zero [out, G] U8, order [in]
    awq       the same, and a factor for each input before the order, by which the weight is divided
    float8    kernel and bias? as floats, and six variables for training: three times a number and its history
    Embedding embeddings [N, D] or [N, D/2] I8, scale [N], or scale [N, G], zero [N, G], order [D]; one that has a
              weight of its own for the way back has the same again, transposed and without an order

``order`` says which group an input is in. The kernel of an EinsumDense has any number of dimensions in int8 and float8,
else it is a matrix: what is summed × what is kept.
Source: keras/src/layers/core, `variable_serialization_spec` and `quantized_build` of each; 3.4 to 3.15.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.notes import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo

    Shape = tuple[int, ...]
    Infos = Sequence[TensorInfo]

DIVIDED, GROUPED, TURNED, KEPT = "divided", "grouped", "turned", "kept"
"""How a weight is stored: to be divided by its scales; in groups along a dimension; so, and transposed; as floats."""

INT8, INT4, FLOAT8, GPTQ, AWQ = "int8", "int4", "float8", "gptq", "awq"

_FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
_TRAINING = 6
"""How many variables float8 adds."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One weight of a layer.

    form:    DIVIDED, GROUPED, TURNED or KEPT.
    roles:   which variable is which part, by number; the first is the weight's own.
    size:    the shape of its elements, unpacked and, if TURNED, transposed; None if the variables do not say it.
    details: what else is needed: bits, the axis of groups, how many scales there are along each dimension (counts).
    why:     why it cannot be read; "" if it can.
    """

    form: str
    roles: Mapping[str, int]
    size: Shape | None
    details: Mapping[str, Json] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a layer: Keras' name for its mode, its weights, and whether only Keras before 3.14 has it."""

    mode: str
    weights: tuple[Stored, ...]
    old: bool = False


def dense_readings(infos: Infos, inputs: int | None) -> Iterator[Reading]:
    """The ways to read a Dense. inputs: how many it has, if that is stated."""
    yield from _float8(infos)
    yield from _turned(infos)
    if infos[0].dtype is not DType.I8 or len(infos[0].shape) != 2:
        return
    yield from _grouped(infos)
    scale, (rows, columns) = infos[-1].shape, infos[0].shape
    roles = {VALUES: 0, "scale": len(infos) - 1}
    if len(infos) not in (2, 3) or len(scale) != 1 or any(info.shape != scale for info in infos[1:]):
        return
    if scale == (columns,):
        yield Reading(INT8, (Stored(DIVIDED, roles, (rows, columns), {"bits": 8, "counts": [1, columns]}),))
        if inputs is None or _half(inputs) == rows:
            size = None if inputs is None else (inputs, columns)
            yield Reading(INT4, (Stored(DIVIDED, roles, size, {"bits": 4, "counts": [1, columns]}),), old=True)
    if _half(scale[0]) == columns:
        counts: list[Json] = [1, scale[0]]
        yield Reading(INT4, (Stored(DIVIDED, roles, (rows, scale[0]), {"bits": 4, "counts": counts}),))


def einsum_readings(infos: Infos, kept: Sequence[int] | None) -> Iterator[Reading]:
    """The ways to read an EinsumDense. kept: the kernel's dimensions that the output has too, if they are known."""
    yield from _float8(infos)
    yield from _turned(infos)
    if infos[0].dtype is not DType.I8:
        return
    yield from _grouped(infos)
    if len(infos) not in (2, 3) or infos[-1].dtype not in _FLOATS:
        return
    shape, scale = infos[0].shape, infos[-1].shape
    roles = {VALUES: 0, "scale": len(infos) - 1}
    if kept is not None and [shape[place] for place in kept if shape[place] != 1] == [
        size for size in scale if size != 1
    ]:
        counts: list[Json] = [size if place in kept else 1 for place, size in enumerate(shape)]
        yield Reading(INT8, (Stored(DIVIDED, roles, shape, {"bits": 8, "counts": counts}),))
        yield Reading(INT4, (Stored(DIVIDED, roles, None),), old=True)
    if len(shape) == 2 and len(scale) == 1 and _half(scale[0]) == shape[1]:
        counts = [1, scale[0]]
        yield Reading(INT4, (Stored(DIVIDED, roles, (shape[0], scale[0]), {"bits": 4, "counts": counts}),))


def embedding_readings(infos: Infos, width: int | None) -> Iterator[Reading]:
    """The ways to read an Embedding. width: how wide its vectors are, if that is stated."""
    if infos[0].dtype is not DType.I8 or len(infos[0].shape) != 2:
        return
    rows, columns = infos[0].shape
    scale = infos[1].shape
    back: tuple[Shape, ...] = tuple(info.shape for info in infos[2:])
    if len(infos) in (2, 4) and scale == (rows,) and back in ((), ((columns, rows), (rows,))):
        for mode, bits, wide in ((INT8, 8, columns), (INT4, 4, width)):
            if wide is not None and columns != (wide if bits == 8 else _half(wide)):
                continue
            size = None if wide is None else (rows, wide)
            found = [Stored(DIVIDED, {VALUES: 0, "scale": 1}, size, {"bits": bits, "counts": [rows, 1]})]
            if back:
                size = None if wide is None else (wide, rows)
                found.append(Stored(DIVIDED, {VALUES: 2, "scale": 3}, size, {"bits": bits, "counts": [1, rows]}))
            yield Reading(mode, tuple(found))
    if len(infos) in (4, 7) and len(scale) == 2 and back[0] == scale and len(back[1]) == 1:
        groups, (wide,) = scale[1], back[1]
        if (
            scale[0] != rows
            or _half(wide) != columns
            or back[2:] not in ((), ((columns, rows), *2 * ((groups, rows),)))
        ):
            return
        parts = {VALUES: 0, "scale": 1, "zero_point": 2, "g_idx": 3}
        found = [Stored(GROUPED, parts, (rows, wide), {"bits": 4, "axis": 1})]
        if len(infos) == 7:
            parts = {VALUES: 4, "scale": 5, "zero_point": 6, "g_idx": 3}
            found.append(Stored(GROUPED, parts, (wide, rows), {"bits": 4, "axis": 0}))
        yield Reading(INT4, tuple(found))


def _grouped(infos: Infos) -> Iterator[Reading]:
    """A kernel of 4 bits with zero points."""
    if len(infos) not in (4, 5) or infos[-2].dtype is not DType.I8 or len(infos[-3].shape) != 2:
        return
    (_, columns), (rows,) = infos[-3].shape, infos[-1].shape or (0,)
    if infos[0].shape == (rows, _half(columns)) and infos[-2].shape == infos[-3].shape:
        last = len(infos) - 1
        roles = {VALUES: 0, "scale": last - 2, "zero_point": last - 1, "g_idx": last}
        yield Reading(INT4, (Stored(GROUPED, roles, (rows, columns), {"bits": 4, "axis": 0}),))


def _turned(infos: Infos) -> Iterator[Reading]:
    """GPTQ's and AWQ's kernels. Keras 3.14 and 3.15 do not save their zero points, without which they are lost."""
    at = next((number for number, info in enumerate(infos[:2]) if info.dtype is DType.U8), None)
    rest = infos[at + 1 :] if at is not None else ()
    if at is None or len(rest) not in (2, 3, 4) or len(infos[at].shape) != 2 or len(rest[0].shape) != 2:
        return
    has_zeros = rest[1].dtype is DType.U8
    factors = [
        number for number, info in enumerate(infos) if number > at + 1 + has_zeros and info.shape == rest[-1].shape
    ]
    packed, rows = infos[at].shape
    columns = rest[0].shape[0]
    if len(factors) != len(rest) - 1 - has_zeros or rest[-1].shape != (rows,) or len(factors) > 2:
        return
    if has_zeros and rest[1].shape != rest[0].shape:
        return
    roles = {VALUES: at, "scale": at + 1, "g_idx": factors[-1]}
    roles |= {"zero_point": at + 2} if has_zeros else {}
    roles |= {"factor": factors[0]} if len(factors) == 2 else {}
    why = "" if has_zeros else "whose zero points are not in the file (Keras 3.14 and 3.15 do not save them)"
    mode = AWQ if len(factors) == 2 else GPTQ
    for bits in (4, 8) if mode == GPTQ else (4,):
        if packed == (_half(columns) if bits == 4 else columns):
            yield Reading(mode, (Stored(TURNED, roles, (rows, columns), {"bits": bits, "axis": 0}, why),))


def _float8(infos: Infos) -> Iterator[Reading]:
    training = [info.shape for info in infos[-_TRAINING:]]
    if len(infos) not in (_TRAINING + 1, _TRAINING + 2) or any(info.dtype not in _FLOATS for info in infos):
        return
    if training == 3 * [(), training[1]] and len(training[1]) == 1 and len(infos[0].shape) > 1:
        roles = {VALUES: 0, "scale": len(infos) - 4}
        yield Reading(FLOAT8, (Stored(KEPT, roles, infos[0].shape),))


def _half(size: int) -> int:
    return -(-size // 2)
