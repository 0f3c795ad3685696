"""bitsandbytes: 4-bit codes with a quant_state, and 8-bit integers (`schemes`).

quant_state is U8, UTF-8 JSON: {"quant_type": "nf4" | "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [R, C]}, and
if the scales are quantized too, {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.04}. absmax is
F32, a scale for each block of elements; if nested, it is U8, codes of nested_quant_map, times nested_absmax, plus the
offset. quant_map is F32, the values of the 16 codes. fp4's second zero is 0 in it; some of bitsandbytes' kernels make
it -0.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, prod
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.quantized.elements import Packed, Plain
from ckptconv.edits.quantized.matrix import Grid, Matrix, Product
from ckptconv.edits.quantized.parts import Parts, check_dtype
from ckptconv.io.limits import MAX_DIM, MAX_RANK, is_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

MOST_BYTES = 1 << 16
"""The most bytes of a quant_state; an honest one has some 200."""

ONE_127TH = 7.874015718698502e-3
"""What bitsandbytes multiplies by, instead of dividing by 127."""


def four_bits(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """nf4 and fp4."""
    state = _state(parts["quant_state"])
    shape, size = _shape(state.get("shape")), _size(state, "blocksize")
    count = prod(shape)
    weight = parts["weight"]
    if weight.info.nbytes != -(-count // 2) or weight.info.dtype.kind == "block":
        raise ValueError(f"{weight.info.nbytes:,} bytes are not {list(shape)} elements of 4 bits")
    codes = replace(weight, info=TensorInfo.of(DType.U8, (weight.info.nbytes,)), placement=None)
    table = _table(parts["quant_map"], "quant_map", 16)
    scales = _absmax(parts, state, -(-count // size))
    # the first of two elements is in the high bits
    values = Packed(codes, (1, count), 4, 1, table, order=(1, 0))
    return Product(values, scales, Grid(1, 1, size, 1)), shape


def _absmax(parts: Parts, state: Mapping[str, object], blocks: int) -> Matrix:
    absmax = parts["absmax"]
    if absmax.info.numel != blocks:
        raise ValueError(f"absmax has {absmax.info.numel:,} elements for {blocks:,} blocks")
    nested = parts.get("nested_absmax")
    if nested is None:
        check_dtype(absmax, "absmax", (DType.F32,))
        return Plain(absmax, (1, blocks))
    if "nested_quant_map" not in parts:
        raise ValueError("nested_absmax needs the part 'nested_quant_map'")
    check_dtype(absmax, "absmax", (DType.U8,))
    check_dtype(nested, "nested_absmax", (DType.F32,))
    size, offset = _size(state, "nested_blocksize"), state.get("nested_offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not isfinite(offset):
        raise ValueError(f"quant_state has a nested_offset of {offset!r}")
    if nested.info.numel != -(-blocks // size):
        raise ValueError(f"nested_absmax has {nested.info.numel:,} elements for {blocks:,} scales in blocks of {size}")
    codes = Packed(absmax, (1, blocks), 8, 1, _table(parts["nested_quant_map"], "nested_quant_map", 256))
    return Product(codes, Plain(nested, (1, nested.info.numel)), Grid(1, 1, size, 1), shift=float(offset))


def eight_bits(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """LLM.int8(): a scale for each row."""
    weight, scale, form = parts["weight"], parts["SCB"], parts.get("weight_format")
    check_dtype(weight, "weight", (DType.I8,))
    check_dtype(scale, "SCB", (DType.F32,))
    if len(weight.info.shape) != 2 or scale.info.shape != weight.info.shape[:1]:
        raise ValueError(f"SCB of shape {list(scale.info.shape)} is not for the rows of {list(weight.info.shape)}")
    if form is not None and (form.info.numel != 1 or bytes(form.read()).strip(b"\0")):
        raise ValueError("weight_format says a layout other than rows, which is a GPU's own")
    rows, columns = weight.info.shape
    grid = Grid(max(rows, 1), 1, max(columns, 1), max(rows, 1))
    return Product(Plain(weight, (rows, columns)), Plain(scale, (rows, 1)), grid, factor=ONE_127TH), (rows, columns)


def _state(tensor: LazyTensor) -> dict[str, object]:
    check_dtype(tensor, "quant_state", (DType.U8,))
    if tensor.info.nbytes > MOST_BYTES:
        raise ValueError(f"quant_state has {tensor.info.nbytes:,} bytes, and at most {MOST_BYTES:,} are read")
    try:
        state = strict_json.loads(bytes(tensor.read()))
    except ValueError as error:
        raise ValueError(f"quant_state is not JSON: {error}") from error
    if not isinstance(state, dict) or state.get("quant_type") not in ("nf4", "fp4"):
        raise ValueError("quant_state is of neither nf4 nor fp4")
    return state


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, list) and all(map(is_size, value)):
        shape = tuple(value)
        if len(shape) <= MAX_RANK and prod(shape) <= MAX_DIM:
            return shape
    raise ValueError("quant_state says no shape")


def _size(state: Mapping[str, object], key: str) -> int:
    value = state.get(key)
    if not is_size(value) or not value:
        raise ValueError(f"quant_state has a {key} of {value!r}")
    return value


def _table(tensor: LazyTensor, part: str, length: int) -> tuple[float, ...]:
    check_dtype(tensor, part, (DType.F32,))
    if tensor.info.numel != length:
        raise ValueError(f"{part} has {tensor.info.numel:,} elements, and not {length}")
    return tuple(float(value) for value in tensor.numpy().reshape(-1))
