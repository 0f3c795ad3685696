"""The quantization schemes: what tensors each stores a weight as, and the weight that they give.

    scaled    weight, scale, zero_point?
              [.., R, C] of 8-bit floats or I8; a scale for all, for each row, for each row and group of columns, or for
              each `block` of rows × columns
    fp4       packed, scale, global_scale or scale_2
              [.., R, C] of 4-bit floats, the first of two in the low bits of U8; a scale for 16 columns (F8_E4M3,
              divided by one more for all or times it: NVFP4) or for 32 (U8, exponents: MXFP4)
    mxfp4     blocks, scales
              [E, C, R] of blocks [E, R, C/32, 16] and scales [E, R, C/32], U8 both, as gpt-oss has them
    packed    packed, scale, shape?, zero_point?, g_idx?
              [R, C] of `bits` bits minus half their range, along columns in I32; zero points too, but along rows
    gptq      qweight, scales, qzeros, g_idx?
              [O, I] of qweight [I·bits/32, O], scales [G, O], qzeros [G, O·bits/32]; `zeros` v1: stored less one
    awq       qweight, scales, qzeros
              [O, I] of qweight [I, O/8], scales [G, O], qzeros [G, O/8]; elements 0 to 7 lie at 0, 4, 1, 5, 2, 6, 3, 7
    bnb-4bit  weight, absmax, quant_map, quant_state, nested_absmax?, nested_quant_map?
              flat, in the shape of the state, the first of two in the high bits; a scale (or a code of one) for
              `blocksize` elements
    bnb-int8  weight, SCB, weight_format?
              [R, C] of I8, times SCB[R], times 1/127
    mlx       weight, scales, biases?, global_scale?
              [.., R, C] of `bits` bits along columns in U32, what shares a scale by `group_size`, in the `mode` affine
              (with biases), mxfp4, mxfp8 or nvfp4 (`mlx`)
    hqq       W_q, scale, zero, shape, axis, nbits, packing, and hqq's other settings (`hqq`)
              [O, I] of 1 to 8 bits in slabs of rows of U8 or I32, minus a float for each row or column, times another
    torchao   values, and what else its classes have (`torchao`)
              of any shape, stored in the `form` of one of torchao's classes
    nbits     values, scale, zero_point?
              [N, K] of `bits` bits, in blocks of `block` columns of U8 each, as onnxruntime's MatMulNBits has them
    affine    values, scale?, zero_point?, factor?, codebook?; axis and shape from the edit
              of any shape, integers or what they stand for in a codebook, minus a zero point, times a scale: a single
              one, one for each index of `axis`, or one for each block (`blocks`)
    keras     values, scale, zero_point?, g_idx?, factor?
              of any shape, in one of the layouts of Keras' own quantizing (`keras`)
    sparse    values, mask; shape from the edit
              of the `shape`, zero except where the bits of the mask are set (`lookups`)

Sources: transformers 5.24, integrations/finegrained_fp8.py, fbgemm_fp8.py, mxfp4.py, bitsandbytes.py;
compressed-tensors 0.20, compressors/ and quantization/lifecycle/forward_helpers.py; GPTQModel 7.7,
nn_modules/qlinear/__init__.py and utils/model.py; AutoAWQ 0.2.9, awq/utils/packing_utils.py; bitsandbytes 0.50,
functional.py; NVIDIA's modelopt, torch/quantization/qtensor/nvfp4_tensor.py; onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NoReturn

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.edits.quantized import blocks, hqq, integers, keras, lookups, mlx, state
from ckptconv.edits.quantized.elements import E2M1, E8M0_BIAS, Packed, Plain
from ckptconv.edits.quantized.matrix import Grid, Matrix, MatrixReader, Product, Scaled
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype, folded, scalar, swap_last_axes
from ckptconv.edits.quantized.torchao import weights as torchao

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json

ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "scaled": (("weight", "scale"), ("zero_point",)),
    "fp4": (("packed", "scale"), ("global_scale", "scale_2")),
    "mxfp4": (("blocks", "scales"), ()),
    "packed": (("packed", "scale"), ("shape", "zero_point", "g_idx")),
    "gptq": (("qweight", "scales", "qzeros"), ("g_idx",)),
    "awq": (("qweight", "scales", "qzeros"), ()),
    "bnb-4bit": (("weight", "absmax", "quant_map", "quant_state"), ("nested_absmax", "nested_quant_map")),
    "bnb-int8": (("weight", "SCB"), ("weight_format",)),
    "mlx": (("weight", "scales"), ("biases", "global_scale")),
    "hqq": (
        ("W_q", "scale", "zero", "shape", "axis", "nbits", "packing"),
        ("compute_dtype", "view_as_float", "quant_scale", "quant_zero", "group_size", "unpack_view_dtype",
         "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise", "optimize", "round_zero"),
    ),
    "torchao": (("values",), ("scale", "zero_point", "pairs", "factor", "codebook", "shard_2", "shard_3")),
    "nbits": (("values", "scale"), ("zero_point",)),
    "keras": (("values", "scale"), ("zero_point", "g_idx", "factor")),
    "sparse": (("values", "mask"), ("shape",)),
    "affine": (("values",), ("scale", "zero_point", "factor", "codebook", "axis", "shape")),
}  # fmt: skip
"""For each scheme, the parts that it needs, and those that it may have."""

BYTES = (DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ)

GROUP_OF = {DType.F8_E4M3: 16, DType.U8: 32, DType.F8_E8M0: 32}
"""How many columns of 4-bit floats share a scale, by the type of the scales."""


def dequantized(tensors: tuple[LazyTensor, ...], details: Mapping[str, Json]) -> LazyTensor:
    """The weight that the tensors stand for, as F32.

    Reads only parts of a few bytes, the order of groups, and shapes. `details` has the scheme, the names of the parts,
    and the scheme's other settings. Raises ValueError, saying what does not fit.
    """
    scheme = details.get("scheme")
    if not isinstance(scheme, str) or scheme not in ROLES:
        raise ValueError(f"there is no scheme {scheme!r}")
    parts = _parts(scheme, tensors, details.get("parts"))
    matrix, shape = _MAKERS[scheme](parts, details)
    depends = depends_of(tensors)
    return LazyTensor(TensorInfo.of(DType.F32, shape), MatrixReader(matrix), depends=depends)


def _parts(scheme: str, tensors: tuple[LazyTensor, ...], names: Json) -> dict[str, LazyTensor]:
    """The tensors by role."""
    needed, optional = ROLES[scheme]
    known = needed + optional
    names = list(known[: len(tensors)]) if names is None else names
    if not isinstance(names, list) or len(names) != len(tensors) or len({str(name) for name in names}) < len(names):
        raise ValueError(f"{len(tensors)} sources are not the parts {names}")
    result = {str(name): tensor for name, tensor in zip(names, tensors, strict=True)}
    if wrong := [name for name in result if name not in known]:
        raise ValueError(f"{scheme} has no part {wrong[0]!r}, but {', '.join(known)}")
    if missing := [name for name in needed if name not in result]:
        raise ValueError(f"{scheme} needs the part {missing[0]!r}")
    return result


def _scaled(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    weight, scale, zero = parts["weight"], parts["scale"], parts.get("zero_point")
    shape = weight.info.shape
    check_dtype(weight, "weight", (*BYTES, DType.I8))
    if scale.info.dtype is DType.U8:
        check_dtype(weight, "weight of a U8 scale", BYTES)
    else:
        check_dtype(scale, "scale", (*FLOATS, DType.F8_E8M0))
    grid, size = _grid(shape, scale.info.shape, details.get("block"))
    zeros = None
    if zero is not None:
        check_dtype(weight, "weight with a zero point", (DType.I8,))
        check_dtype(zero, "zero_point", (DType.I8,))
        if zero.info.shape != scale.info.shape:
            _unfit("zero_point", zero, f"the scale is {list(scale.info.shape)}")
        zeros = Plain(zero, size)
    scales = Plain(scale, size, E8M0_BIAS if scale.info.dtype is DType.U8 else 0)
    return Product(Plain(weight, folded(shape)), scales, grid, zeros), shape


def _grid(shape: tuple[int, ...], scale: tuple[int, ...], block: Json) -> tuple[Grid, tuple[int, int]]:
    """Which scale is for which values, and the scales' rows and columns."""
    rows, columns = (1, 1, *shape)[-2:]
    whole = prod(shape[:-2]) * rows
    if prod(scale) == 1 and block is None:
        return Grid(max(whole, 1), max(whole, 1), max(columns, 1), 1), (1, 1)
    if scale == shape[:-1]:
        scale = (*scale, 1)
    if len(scale) != len(shape) or len(shape) < 2 or scale[:-2] != shape[:-2] or not prod(scale):
        raise ValueError(f"a scale of shape {list(scale)} does not go with a weight of {list(shape)}")
    lines, across = scale[-2:]
    if block is None:
        high = {1: rows, rows: 1}.get(lines, 0)
        wide = columns // across if columns % across == 0 else 0
        if not high or not wide or (high > 1 and wide > 1 and across > 1):
            raise ValueError(
                f"a scale of shape {list(scale)} does not say alone of which blocks of {list(shape)} it is for"
            )
    else:
        high, wide = _block(block)
        if (lines, across) != (-(-rows // high), -(-columns // wide)):
            raise ValueError(
                f"a scale of shape {list(scale)} is not for blocks of {high} × {wide} of a weight of {list(shape)}"
            )
    return Grid(rows, high, wide, lines), (prod(scale[:-1]), across)


def _block(value: Json) -> tuple[int, int]:
    match value:
        case [int() as high, int() as wide] if high > 0 < wide and bool not in (type(high), type(wide)):
            return high, wide
    raise ValueError(f"block is two sizes, as [128, 128], not {value!r}")


def _fp4(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    packed, scale = parts["packed"], parts["scale"]
    check_dtype(packed, "packed", (DType.U8,))
    check_dtype(scale, "scale", tuple(GROUP_OF))
    *lead, half = packed.info.shape or (0,)
    shape, group = (*lead, 2 * half), GROUP_OF[scale.info.dtype]
    if len(shape) < 2 or scale.info.shape != (*lead, shape[-1] // group) or shape[-1] % group:
        _unfit("scale", scale, f"the weight is {list(shape)}, with a scale for every {group} columns")
    rows = max(prod(lead), 1)
    scales: Matrix = Plain(scale, (rows, shape[-1] // group), E8M0_BIAS if scale.info.dtype is DType.U8 else 0)
    more = [name for name in ("global_scale", "scale_2") if name in parts]
    if len(more) != (group == 16):
        raise ValueError("scales of F8_E4M3 go with either a global_scale or a scale_2, others with none")
    if more:
        scales = Scaled(scales, scalar(parts[more[0]], more[0]), divides=more[0] == "global_scale")
    values = Packed(packed, folded(shape), 4, 1, E2M1)
    return Product(values, scales, Grid(rows, 1, group, rows)), shape


def _mxfp4(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    blocks, scales = parts["blocks"], parts["scales"]
    check_dtype(blocks, "blocks", (DType.U8,))
    check_dtype(scales, "scales", (DType.U8,))
    shape = blocks.info.shape
    if len(shape) != 4 or shape[3] != 16 or scales.info.shape != shape[:3]:
        raise ValueError(
            f"blocks of shape {list(shape)} and scales of {list(scales.info.shape)} are not [E, R, G, 16] and [E, R, G]"
        )
    experts, rows, groups, _ = shape
    size, result = (experts * groups * 32, rows), (experts, groups * 32, rows)
    codes = swap_last_axes(blocks, (experts, rows, groups * 16))
    values = Packed(codes, size, 4, 0, E2M1)
    # Half of each scale, and then twice the product, gives what ldexp gives: 0 · 2^128 is 0, because 2^127 is finite.
    by = Plain(swap_last_axes(scales, shape[:3]), (experts * groups, rows), E8M0_BIAS + 1)
    return Product(values, by, Grid(max(groups * 32, 1), 32, 1, groups), factor=2.0), result


def _unfit(part: str, tensor: LazyTensor, why: str) -> NoReturn:
    raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, but {why}")


_MAKERS = {
    "scaled": _scaled, "fp4": _fp4, "mxfp4": _mxfp4, "packed": integers.packed, "gptq": integers.gptq,
    "awq": integers.awq, "bnb-4bit": state.four_bits, "bnb-int8": state.eight_bits, "mlx": mlx.weight,
    "hqq": hqq.weight, "torchao": torchao.weight, "nbits": integers.nbits, "affine": blocks.affine,
    "sparse": lookups.sparse, "keras": keras.weight,
}  # fmt: skip
