"""MLX's quantized weights (`schemes`): words of 32 bits along each row, and values that groups of columns share.

    mode    bits               group         scales            a value
    affine  1 2 3 4 5 6 8      32, 64, 128   floats, + biases  code · scale + bias, each rounded to the scales' type
    mxfp4   4 (E2M1)           32            U8, exponents     code · 2^(scale - 127)
    mxfp8   8 (F8_E4M3)        32            U8, exponents     code · 2^(scale - 127)
    nvfp4   4 (E2M1)           16            U8, F8_E4M3       code · scale, or · (scale · (global_scale / 2688))

A row of C columns takes C · bits / 32 words, a stream of bits starting with the lowest; codes of 3, 5 and 6 bits cross
words. Scales and biases have C / group columns. The dimensions before the last are the weight's: of an embedding, a
layer, or a stack of experts. global_scale is the largest absolute value of the weight, or of each expert's weight.

Shapes show only bits · group: 4 bits in groups of 64 have the same shapes as 8 bits in groups of 32. For the modes
without biases that is enough (`packing`).

Source: mlx 0.32.4, mlx/ops.cpp (quantize, dequantize), mlx/backend/cpu/quantized.cpp, and what mx.dequantize computes
on a CPU; mlx-lm 0.32, mlx_lm/models/switch_layers.py (global_scale) and utils.py (the configuration).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.quantized.elements import E2M1, E8M0_BIAS, Packed, Plain
from ckptconv.edits.quantized.matrix import Grid, Matrix, Product, Scaled
from ckptconv.edits.quantized.packing import AFFINE, USUAL, Packing, packings
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

NVFP4_RANGE = 448.0 * 6.0
"""The largest scale times the largest code; a global scale is divided by it."""


def weight(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """The weight of any mode, and its shape. Raises ValueError, saying what does not fit."""
    words, scales, biases = parts["weight"], parts["scales"], parts.get("biases")
    packing = _packing(details)
    check_dtype(words, "weight", (DType.U32,))
    if packing not in packings(words.info, scales.info, biased=packing.mode == AFFINE):
        raise ValueError(
            f"a weight of shape {list(words.info.shape)} and scales of {list(scales.info.shape)} are not of {packing}"
        )
    shape = (*words.info.shape[:-1], scales.info.shape[-1] * packing.group)
    rows, columns = prod(shape[:-1]), shape[-1]
    grid = Grid(max(rows, 1), 1, packing.group, max(rows, 1))
    if packing.mode != AFFINE:
        if biases is not None:
            raise ValueError(f"{packing.mode} has no biases")
        return Product(_codes(words, packing, (rows, columns)), _scales(parts, packing, rows), grid), shape
    check_dtype(scales, "scales", FLOATS)
    if "global_scale" in parts:
        raise ValueError("a global_scale goes with nvfp4 alone")
    if biases is None:
        raise ValueError("affine needs the part 'biases'")
    if biases.info != scales.info:
        raise ValueError(f"biases are {biases.info.dtype} {list(biases.info.shape)}, and not as the scales are")
    size, dtype = (rows, scales.info.shape[-1]), scales.info.dtype
    codes = Packed(words, (rows, columns), packing.bits, 1, tuple(float(code) for code in range(1 << packing.bits)))
    rounded = None if dtype is DType.F32 else dtype
    return Product(codes, Plain(scales, size), grid, biases=Plain(biases, size), rounded=rounded), shape


def _packing(details: Mapping[str, Json]) -> Packing:
    mode = details.get("mode", AFFINE)
    if not isinstance(mode, str) or mode not in USUAL:
        raise ValueError(f"mode is {', '.join(USUAL)}, and not {mode!r}")
    bits, group = (details.get(key, usual) for key, usual in zip(("bits", "group_size"), USUAL[mode], strict=True))
    if type(bits) is not int or type(group) is not int:
        raise ValueError("bits and group_size are numbers")
    packing = Packing(mode, bits, group)
    if not packing.known:
        raise ValueError(f"MLX has no {mode} weights of {packing.bits} bits in groups of {packing.group}")
    return packing


def _codes(words: LazyTensor, packing: Packing, size: tuple[int, int]) -> Matrix:
    if packing.bits == 4:
        return Packed(words, size, 4, 1, E2M1)
    return Plain(_reinterpreted(words, DType.F8_E4M3, size), size)


def _scales(parts: Parts, packing: Packing, rows: int) -> Matrix:
    """Exponents, or F8_E4M3, which are multiplied by a factor of the weight or of each expert."""
    scales, whole = parts["scales"], parts.get("global_scale")
    check_dtype(scales, "scales", (DType.U8,))
    size = (rows, scales.info.shape[-1])
    if packing.mode != "nvfp4":
        if whole is not None:
            raise ValueError("a global_scale goes with nvfp4 alone")
        return Plain(scales, size, E8M0_BIAS)
    found = Plain(_reinterpreted(scales, DType.F8_E4M3, size), size)
    if whole is None:
        return found
    check_dtype(whole, "global_scale", (DType.F32,))
    lead = scales.info.shape[:-2]
    if whole.info.shape not in ((), (1,), lead) or not whole.info.numel:
        raise ValueError(f"global_scale has the shape {list(whole.info.shape)}, and the scales {list(size)}")
    many = whole.info.numel
    height = max(rows // many, 1)
    by = Scaled(Plain(whole, (many, 1)), NVFP4_RANGE, divides=True)
    return Product(found, by, Grid(height, height, max(size[1], 1), 1))


def _reinterpreted(tensor: LazyTensor, dtype: DType, size: tuple[int, int]) -> LazyTensor:
    """The same bytes as elements of another type of 8 bits."""
    return replace(tensor, info=TensorInfo.of(dtype, size))
