"""The parts of torchao's classes: which tensors hold a weight's values, scales and zero points, and in which layout.

How a value is computed, where s is its block's scale and z its zero point:

    Int8Tensor, IntxUnpackedToInt8Tensor   (q - z) · s         I8, for Intx also with fewer bits; z integers or floats
    Float8Tensor                           q · s               8-bit floats
    Int4Tensor                             q · s + z           signed, two in a byte, the first in the low bits; s and z
                                                               have the shape [groups, rows]
    Int4TilePackedTo4dTensor               (q - 8) · s + z     in tiles (`layouts`); s and z in pairs [groups, rows]
    MXTensor                               q · 2^(e - 127)     8-bit floats, 4-bit floats two in a byte, 6-bit floats
    NVFP4Tensor                            q · (s · S)         4-bit floats, s in F8_E4M3, S for all or for each expert
    NF4Tensor                              t[q] · (c / f + m)  the first of two in the high bits; some c share an f

Before 0.13, an AffineQuantizedTensor held a tensor_impl for its layout: plain, q_dq, float8, uintx (1 to 7 bits in
slabs), tensor_core_tiled. If inputs are quantized too, a LinearActivationQuantizedTensor held the weight. With a
zero_point_domain of INT or NONE a value is (q - z) · s, with FLOAT it is (q - the middle of the range) · s + z.

Everything is computed in the type that the weight stands for, and each step is rounded as in torchao's dequantize().
Int4Tensor and Int4TilePackedTo4dTensor have no such function: they are computed in F32 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.quantized.torchao.wrapped import dtype_name, number_of, sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.quantized.torchao.wrapped import Wrapped

    Infos = Mapping[str, TensorInfo]

SCHEME = "torchao"

FLOAT = 2
"""The member of ZeroPointDomain for zero points that are added."""

SHARDS = {
    1: ("int1_shard",), 2: ("int2_shard",), 3: ("int2_shard", "int1_shard"), 4: ("int4_shard",),
    5: ("int4_shard", "int1_shard"), 6: ("int4_shard", "int2_shard"), 7: ("int4_shard", "int2_shard", "int1_shard"),
}  # fmt: skip
"""The tensors that the bits of an element are split into, the lowest bits first, by the number of bits."""

SHARD_PARTS = ("values", "shard_2", "shard_3")

_FLOATS_OF_MX = {
    "float8_e4m3fn": "plain", "float8_e5m2": "plain", "float4_e2m1fn_x2": "fp4", "fp6_e2m3": "fp6_e2m3",
    "fp6_e3m2": "fp6_e3m2",
}  # fmt: skip


class UnknownLayout(Exception):  # noqa: N818
    """A tensor that is not read; the message says why."""


@dataclass(frozen=True, slots=True)
class Description:
    """A weight's parts and details, as in an edit of kind dequantize, and its tensors for activations (`beside`)."""

    parts: dict[str, str]
    details: dict[str, Json]
    beside: list[str] = field(default_factory=list)


def describe(wrapped: Wrapped, infos: Infos) -> Description:
    """Describe the weight. Raises UnknownLayout, which says why it is not read."""
    if why := UNREADABLE.get(wrapped.kind):
        raise UnknownLayout(why)
    if wrapped.kind not in _READERS:
        raise UnknownLayout("which is not a class that is known here")
    if "act_pre_scale" in wrapped.tensors:
        raise UnknownLayout("whose inputs are scaled by an act_pre_scale that the weight was divided by")
    if wrapped.is_transposed:
        raise UnknownLayout("which is a transposed view")
    return _READERS[wrapped.kind](wrapped, infos)


def _block_counts(shape: tuple[int, ...], block_size: object) -> list[Json]:
    """How many blocks there are along each dimension."""
    block = sizes(block_size)
    if block is None:
        raise UnknownLayout("which does not say its block_size")
    if not block:
        return [1] * len(shape)
    block = tuple(size if length == -1 else length for length, size in zip(block, shape, strict=False))
    if len(block) != len(shape) or any(length < 1 or size % length for length, size in zip(block, shape, strict=True)):
        raise UnknownLayout(f"whose blocks {list(block)} do not fit its shape {list(shape)}")
    return [size // length for length, size in zip(block, shape, strict=True)]


def _details(form: str, wrapped: Wrapped, **more: Json) -> dict[str, Json]:
    if not wrapped.dtype:
        raise UnknownLayout("which does not say the type that it stands for")
    return {"form": form, **more, "computed": wrapped.dtype}


def _info(wrapped: Wrapped, part: str, infos: Infos) -> TensorInfo:
    name = wrapped.tensors.get(part)
    if name is None or name not in infos:
        raise UnknownLayout(f"of which {part} is not there")
    return infos[name]


def _parts(wrapped: Wrapped, **names: str) -> dict[str, str]:
    """The tensors of those parts that the weight has."""
    return {part: wrapped.tensors[name] for part, name in names.items() if name in wrapped.tensors}


def _integers(wrapped: Wrapped, infos: Infos) -> Description:
    """Int8Tensor, IntxUnpackedToInt8Tensor."""
    counts = _block_counts(_info(wrapped, "qdata", infos).shape, wrapped.attributes.get("block_size"))
    parts = _parts(wrapped, values="qdata", scale="scale", zero_point="zero_point")
    beside = _parts(wrapped, scale="act_quant_scale", zero_point="act_quant_zero_point")
    return Description(parts, _details("plain", wrapped, counts=counts), list(beside.values()))


def _float8(wrapped: Wrapped, infos: Infos) -> Description:
    """Float8Tensor; the shape of the scales gives the blocks. PrototypeFloat8Tensor has more scales."""
    counts = _counts_by_scale(_info(wrapped, "qdata", infos).shape, _info(wrapped, "scale", infos))
    parts = _parts(wrapped, values="qdata", scale="scale")
    beside = _parts(wrapped, scale="act_quant_scale", other="output_act_quant_scale")
    return Description(parts, _details("plain", wrapped, counts=counts), list(beside.values()))


def _counts_by_scale(shape: tuple[int, ...], scale: TensorInfo) -> list[Json]:
    if scale.numel == 1:
        return [1] * len(shape)
    if len(scale.shape) != len(shape):
        raise UnknownLayout(f"whose scale of shape {list(scale.shape)} does not go with {list(shape)}")
    return list(scale.shape)


def _int4(wrapped: Wrapped, infos: Infos) -> Description:
    *lead, half = _info(wrapped, "qdata", infos).shape or (0,)
    dtype = _info(wrapped, "scale", infos).dtype.name
    counts = _block_counts((*lead, 2 * half), wrapped.attributes.get("block_size"))
    parts = _parts(wrapped, values="qdata", scale="scale", zero_point="zero_point")
    return Description(parts, {"form": "int4", "counts": counts, "computed": dtype})


def _tiles(wrapped: Wrapped, infos: Infos) -> Description:
    """Int4TilePackedTo4dTensor, which is always of BF16."""
    _info(wrapped, "qdata", infos)
    parts = _parts(wrapped, values="qdata", pairs="scale_and_zero")
    return Description(parts, {**_tiled(wrapped.shape, wrapped.attributes.get("block_size")), "computed": "BF16"})


def _tiled(shape: tuple[int, ...] | None, block_size: object) -> dict[str, Json]:
    block = sizes(block_size)
    if shape is None or len(shape) != 2 or block is None or len(block) != 2 or block[0] != 1 or block[1] < 1:
        raise UnknownLayout("which is not a matrix in groups along its rows")
    return {"form": "tiles", "shape": list(shape), "block": block[1]}


def _mx(wrapped: Wrapped, infos: Infos) -> Description:
    kind = _FLOATS_OF_MX.get(dtype_name(wrapped.attributes.get("elem_dtype")))
    if kind is None:
        raise UnknownLayout("of an elem_dtype that is not known")
    return _floats(wrapped, infos, kind)


def _nvfp4(wrapped: Wrapped, infos: Infos) -> Description:
    return _floats(wrapped, infos, "fp4")


def _floats(wrapped: Wrapped, infos: Infos, form: str) -> Description:
    _info(wrapped, "qdata", infos)
    block = wrapped.attributes.get("block_size")
    if type(block) is not int or block < 1:
        raise UnknownLayout("which does not say its block_size")
    more: dict[str, Json] = {"swizzled": True} if wrapped.attributes.get("is_swizzled_scales") is True else {}
    parts = _parts(wrapped, values="qdata", scale="scale", factor="per_tensor_scale")
    beside = list(_parts(wrapped, factor="act_per_tensor_scale").values())
    return Description(parts, _details(f"blocks of {form}", wrapped, block=block, **more), beside)


def _nf4(wrapped: Wrapped, infos: Infos) -> Description:
    block, scalers = wrapped.attributes.get("block_size"), wrapped.attributes.get("scaler_block_size")
    if type(block) is not int or type(scalers) is not int or wrapped.shape is None:
        raise UnknownLayout("which does not say its block_size and its shape")
    parts = _parts(
        wrapped, values="quantized_data", scale="quantized_scalers", factor="quantization_factor",
        zero_point="scaler_mean", codebook="nf4",
    )  # fmt: skip
    return Description(parts, _details("nf4", wrapped, shape=list(wrapped.shape), block=block, columns=scalers))


def _activation(wrapped: Wrapped, infos: Infos) -> Description:
    """A weight whose inputs are quantized or scaled as well. Tensors for these are left out."""
    inner = wrapped.inner.get("original_weight_tensor")
    if inner is None:
        raise UnknownLayout("which holds no weight that is known")
    found = describe(inner, infos)
    return Description(found.parts, found.details, [*found.beside, *wrapped.tensors.values()])


def _affine(wrapped: Wrapped, infos: Infos) -> Description:
    impl = wrapped.inner.get("tensor_impl", wrapped.inner.get("layout_tensor"))
    if impl is None:
        raise UnknownLayout("which holds no layout that is known")
    kind = impl.kind.replace("AQTLayout", "AQTTensorImpl")  # the names before 0.7
    if kind not in _LAYOUTS:
        raise UnknownLayout(f"in the layout of {impl.kind}, which is not known here")
    if impl.attributes.get("transposed") is True or impl.is_transposed:
        raise UnknownLayout("which is a transposed view")
    return _LAYOUTS[kind](wrapped, impl, infos)


def _plain_layout(wrapped: Wrapped, impl: Wrapped, infos: Infos) -> Description:
    parts = _parts(impl, values="int_data", scale="scale", zero_point="zero_point")
    return Description(parts, _plain(wrapped, _info(impl, "int_data", infos)))


def _plain(wrapped: Wrapped, info: TensorInfo) -> dict[str, Json]:
    if wrapped.shape != info.shape:
        raise UnknownLayout(f"of shape {list(wrapped.shape or ())}, around values of {list(info.shape)}")
    details = _details("plain", wrapped, counts=_block_counts(info.shape, wrapped.attributes.get("block_size")))
    return details | _middle(wrapped, {"I8": (-128, 127), "U8": (0, 255)}.get(info.dtype.name))


def _middle(wrapped: Wrapped, usual: tuple[int, int] | None) -> dict[str, Json]:
    """What is subtracted from values first, if zero points are floats, which are added."""
    if number_of(wrapped.attributes.get("zero_point_domain")) != FLOAT:
        return {}
    low, high = wrapped.attributes.get("quant_min"), wrapped.attributes.get("quant_max")
    low, high = usual if usual and low is high is None else (low, high)
    if type(low) is not int or type(high) is not int or (high + low + 1) % 2 or not 0 <= high + low + 1 < 512:
        raise UnknownLayout(f"of values from {low} to {high}")
    return {"middle": (high + low + 1) // 2}


def _float8_layout(wrapped: Wrapped, impl: Wrapped, infos: Infos) -> Description:
    info, scale = _info(impl, "float8_data", infos), _info(impl, "scale", infos)
    parts = _parts(impl, values="float8_data", scale="scale")
    blocks = wrapped.attributes.get("block_size")
    counts = [1] * len(info.shape) if scale.numel == 1 else _block_counts(info.shape, blocks)
    return Description(parts, _details("plain", wrapped, counts=counts))


def _uintx_layout(wrapped: Wrapped, impl: Wrapped, infos: Infos) -> Description:
    data = impl.inner.get("int_data")
    bits, along = (data.attributes.get("bit_width"), data.attributes.get("pack_dim")) if data else (None, None)
    shape = data.shape if data else None
    if data is None or not isinstance(bits, int) or bits not in SHARDS or shape is None or shape != wrapped.shape:
        raise UnknownLayout("whose values are not of 1 to 7 bits")
    if along not in (-1, len(shape) - 1) or "scale" not in impl.tensors:
        raise UnknownLayout(f"packed along dimension {along}")
    shards = SHARDS[bits]
    for shard in shards:
        _info(data, shard, infos)
    parts = {part: data.tensors[shard] for part, shard in zip(SHARD_PARTS, shards, strict=False)}
    parts |= _parts(impl, scale="scale", zero_point="zero_point")
    counts = _block_counts(shape, wrapped.attributes.get("block_size"))
    details = _details("shards", wrapped, bits=bits, shape=list(shape), counts=counts)
    return Description(parts, details | _middle(wrapped, (0, 255)))


def _tiled_layout(wrapped: Wrapped, impl: Wrapped, infos: Infos) -> Description:
    _info(impl, "packed_weight", infos)
    parts = _parts(impl, values="packed_weight", pairs="scale_and_zero")
    details = _details("tiles", wrapped) | _tiled(wrapped.shape, wrapped.attributes.get("block_size"))
    return Description(parts, details | {"each": True})


_LAYOUTS: dict[str, Callable[[Wrapped, Wrapped, Infos], Description]] = {
    "PlainAQTTensorImpl": _plain_layout, "QDQTensorImpl": _plain_layout, "q_dq_layout._Impl": _plain_layout,
    "Float8AQTTensorImpl": _float8_layout, "UintxAQTTensorImpl": _uintx_layout,
    "TensorCoreTiledAQTTensorImpl": _tiled_layout,
}  # fmt: skip

_READERS: dict[str, Callable[[Wrapped, Infos], Description]] = {
    "Int8Tensor": _integers, "IntxUnpackedToInt8Tensor": _integers, "IntxUnpackedTensor": _integers,
    "Float8Tensor": _float8, "PrototypeFloat8Tensor": _float8, "Int4Tensor": _int4,
    "Int4TilePackedTo4dTensor": _tiles, "MXTensor": _mx, "NVFP4Tensor": _nvfp4, "NF4Tensor": _nf4,
    "AffineQuantizedTensor": _affine, "LinearActivationQuantizedTensor": _activation,
    "WeightTensorWithLinearActivationQuantizationMetadata": _activation,
}  # fmt: skip

_KERNEL_ORDER = "in an order that only a kernel for certain processors understands"

UNREADABLE = {
    **dict.fromkeys(
        ("Int4PreshuffledTensor", "IntxOpaqueTensor", "Int4OpaqueTensor", "Float8OpaqueTensor", "MarlinQQQTensor",
         "Int4PlainInt32Tensor", "Int4MarlinSparseTensor", "Float8Sparse2x4_1DData1DMetadataTensor",
         "Float8Sparse2x4_2DData2DMetadataTensor"), _KERNEL_ORDER,
    ),
    "UIntxBitPackedTensor": "packed by gemlite, whose order is not known here",
    "WeightTensorWithLinearActivationScaleMetadata": "whose inputs are scaled, and the weight was divided by that",
}  # fmt: skip
"""Classes that cannot be read from what a file says about them, and why."""
