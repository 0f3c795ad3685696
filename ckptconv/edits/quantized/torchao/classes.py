"""Which tensors of one of torchao's classes are which part of a weight, and what its attributes say besides.

What a value is; s is its block's scale, z its zero point:

    Int8Tensor, IntxUnpackedToInt8Tensor   (q - z) · s         I8; Intx of fewer bits too; z of integers or floats
    Float8Tensor                           q · s               8-bit floats
    Int4Tensor                             q · s + z           two in a byte, the first in the low bits, signed; s and z
                                                               lie [groups, rows]
    Int4TilePackedTo4dTensor               (q - 8) · s + z     in tiles (`layouts`); s and z lie in pairs [groups, rows]
    MXTensor                               q · 2^(e - 127)     8-bit floats, 4-bit floats two in a byte, 6-bit floats
    NVFP4Tensor                            q · (s · S)         4-bit floats, s of F8_E4M3, S one for all or an expert's
    NF4Tensor                              t[q] · (c / f + m)  the first of two in the high bits; some c share an f

Before 0.13 there was a LinearActivationQuantizedTensor, where inputs are quantized too, around an
AffineQuantizedTensor, around a tensor_impl of its layout: plain, q_dq, float8, uintx (1 to 7 bits in slabs),
tensor_core_tiled. Where its zero_point_domain is INT or NONE a value is (q - z) · s, where it is FLOAT
(q - the middle of the range) · s + z.

Everything is computed in the type that the weight says it is of, each step rounded as torchao's dequantize() does it.
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
"""Of ZeroPointDomain: zero points that are added."""

SHARDS = {
    1: ("int1_shard",), 2: ("int2_shard",), 3: ("int2_shard", "int1_shard"), 4: ("int4_shard",),
    5: ("int4_shard", "int1_shard"), 6: ("int4_shard", "int2_shard"), 7: ("int4_shard", "int2_shard", "int1_shard"),
}  # fmt: skip
"""By the bits of an element, the tensors that they are split into, the lowest ones first."""

SHARD_PARTS = ("values", "shard_2", "shard_3")

_FLOATS_OF_MX = {
    "float8_e4m3fn": "plain", "float8_e5m2": "plain", "float4_e2m1fn_x2": "fp4", "fp6_e2m3": "fp6_e2m3",
    "fp6_e3m2": "fp6_e3m2",
}  # fmt: skip


class UnknownLayout(Exception):  # noqa: N818
    """A tensor that is not read: why."""


@dataclass(frozen=True, slots=True)
class Described:
    """The parts and details of a weight, as an edit of kind dequantize has them; `beside`: tensors for activations."""

    parts: dict[str, str]
    details: dict[str, Json]
    beside: list[str] = field(default_factory=list)


def described(one: Wrapped, infos: Infos) -> Described:
    """What the weight is made of. Raises UnknownLayout, saying why it is not read."""
    if why := UNREADABLE.get(one.kind):
        raise UnknownLayout(why)
    if one.kind not in _READERS:
        raise UnknownLayout("which is not a class that is known here")
    if "act_pre_scale" in one.tensors:
        raise UnknownLayout("whose inputs are scaled by an act_pre_scale that the weight was divided by")
    if one.turned:
        raise UnknownLayout("which is a transposed view")
    return _READERS[one.kind](one, infos)


def _counted(shape: tuple[int, ...], blocks: object) -> list[Json]:
    """How many blocks there are along each dimension."""
    each = sizes(blocks)
    if each is None:
        raise UnknownLayout("which does not say its block_size")
    if not each:
        return [1] * len(shape)
    each = tuple(size if one == -1 else one for one, size in zip(each, shape, strict=False))
    if len(each) != len(shape) or any(one < 1 or size % one for one, size in zip(each, shape, strict=True)):
        raise UnknownLayout(f"whose blocks {list(each)} do not fit its shape {list(shape)}")
    return [size // one for one, size in zip(each, shape, strict=True)]


def _details(form: str, one: Wrapped, **more: Json) -> dict[str, Json]:
    if not one.dtype:
        raise UnknownLayout("which does not say the type that it stands for")
    return {"form": form, **more, "computed": one.dtype}


def _info(one: Wrapped, part: str, infos: Infos) -> TensorInfo:
    name = one.tensors.get(part)
    if name is None or name not in infos:
        raise UnknownLayout(f"of which {part} is not there")
    return infos[name]


def _parts(one: Wrapped, **names: str) -> dict[str, str]:
    """Of those parts that are there, the tensors."""
    return {part: one.tensors[name] for part, name in names.items() if name in one.tensors}


def _integers(one: Wrapped, infos: Infos) -> Described:
    """Int8Tensor, IntxUnpackedToInt8Tensor."""
    counts = _counted(_info(one, "qdata", infos).shape, one.said.get("block_size"))
    parts = _parts(one, values="qdata", scale="scale", zero_point="zero_point")
    beside = _parts(one, scale="act_quant_scale", zero_point="act_quant_zero_point")
    return Described(parts, _details("plain", one, counts=counts), list(beside.values()))


def _float8(one: Wrapped, infos: Infos) -> Described:
    """Float8Tensor: blocks are what the shape of the scales makes of them. PrototypeFloat8Tensor has more scales."""
    counts = _by_scale(_info(one, "qdata", infos).shape, _info(one, "scale", infos))
    parts = _parts(one, values="qdata", scale="scale")
    beside = _parts(one, scale="act_quant_scale", other="output_act_quant_scale")
    return Described(parts, _details("plain", one, counts=counts), list(beside.values()))


def _by_scale(shape: tuple[int, ...], scale: TensorInfo) -> list[Json]:
    if scale.numel == 1:
        return [1] * len(shape)
    if len(scale.shape) != len(shape):
        raise UnknownLayout(f"whose scale of shape {list(scale.shape)} does not go with {list(shape)}")
    return list(scale.shape)


def _int4(one: Wrapped, infos: Infos) -> Described:
    *lead, half = _info(one, "qdata", infos).shape or (0,)
    dtype = _info(one, "scale", infos).dtype.name
    counts = _counted((*lead, 2 * half), one.said.get("block_size"))
    parts = _parts(one, values="qdata", scale="scale", zero_point="zero_point")
    return Described(parts, {"form": "int4", "counts": counts, "computed": dtype})


def _tiles(one: Wrapped, infos: Infos) -> Described:
    """Int4TilePackedTo4dTensor, which is always of BF16."""
    _info(one, "qdata", infos)
    parts = _parts(one, values="qdata", pairs="scale_and_zero")
    return Described(parts, {**_tiled(one.shape, one.said.get("block_size")), "computed": "BF16"})


def _tiled(shape: tuple[int, ...] | None, blocks: object) -> dict[str, Json]:
    each = sizes(blocks)
    if shape is None or len(shape) != 2 or each is None or len(each) != 2 or each[0] != 1 or each[1] < 1:
        raise UnknownLayout("which is not a matrix in groups along its rows")
    return {"form": "tiles", "shape": list(shape), "block": each[1]}


def _mx(one: Wrapped, infos: Infos) -> Described:
    kind = _FLOATS_OF_MX.get(dtype_name(one.said.get("elem_dtype")))
    if kind is None:
        raise UnknownLayout("of an elem_dtype that is not known")
    return _floats(one, infos, kind)


def _nvfp4(one: Wrapped, infos: Infos) -> Described:
    return _floats(one, infos, "fp4")


def _floats(one: Wrapped, infos: Infos, form: str) -> Described:
    _info(one, "qdata", infos)
    block = one.said.get("block_size")
    if type(block) is not int or block < 1:
        raise UnknownLayout("which does not say its block_size")
    more: dict[str, Json] = {"swizzled": True} if one.said.get("is_swizzled_scales") is True else {}
    parts = _parts(one, values="qdata", scale="scale", factor="per_tensor_scale")
    beside = list(_parts(one, factor="act_per_tensor_scale").values())
    return Described(parts, _details(f"blocks of {form}", one, block=block, **more), beside)


def _nf4(one: Wrapped, infos: Infos) -> Described:
    block, scalers = one.said.get("block_size"), one.said.get("scaler_block_size")
    if type(block) is not int or type(scalers) is not int or one.shape is None:
        raise UnknownLayout("which does not say its block_size and its shape")
    parts = _parts(
        one, values="quantized_data", scale="quantized_scalers", factor="quantization_factor",
        zero_point="scaler_mean", codebook="nf4",
    )  # fmt: skip
    return Described(parts, _details("nf4", one, shape=list(one.shape), block=block, columns=scalers))


def _activation(one: Wrapped, infos: Infos) -> Described:
    """Around the weight what is done to inputs; tensors for that are left out."""
    inner = one.inside.get("original_weight_tensor")
    if inner is None:
        raise UnknownLayout("which holds no weight that is known")
    found = described(inner, infos)
    return Described(found.parts, found.details, [*found.beside, *one.tensors.values()])


def _affine(one: Wrapped, infos: Infos) -> Described:
    impl = one.inside.get("tensor_impl", one.inside.get("layout_tensor"))
    if impl is None:
        raise UnknownLayout("which holds no layout that is known")
    kind = impl.kind.replace("AQTLayout", "AQTTensorImpl")  # what they were called before 0.7
    if kind not in _LAYOUTS:
        raise UnknownLayout(f"in the layout of {impl.kind}, which is not known here")
    if impl.said.get("transposed") is True or impl.turned:
        raise UnknownLayout("which is a transposed view")
    return _LAYOUTS[kind](one, impl, infos)


def _plain_layout(one: Wrapped, impl: Wrapped, infos: Infos) -> Described:
    parts = _parts(impl, values="int_data", scale="scale", zero_point="zero_point")
    return Described(parts, _plain(one, _info(impl, "int_data", infos)))


def _plain(one: Wrapped, info: TensorInfo) -> dict[str, Json]:
    if one.shape != info.shape:
        raise UnknownLayout(f"of shape {list(one.shape or ())}, around values of {list(info.shape)}")
    details = _details("plain", one, counts=_counted(info.shape, one.said.get("block_size")))
    return details | _middle(one, {"I8": (-128, 127), "U8": (0, 255)}.get(info.dtype.name))


def _middle(one: Wrapped, usual: tuple[int, int] | None) -> dict[str, Json]:
    """What is subtracted first where zero points are floats, which are added."""
    if number_of(one.said.get("zero_point_domain")) != FLOAT:
        return {}
    low, high = one.said.get("quant_min"), one.said.get("quant_max")
    low, high = usual if usual and low is high is None else (low, high)
    if type(low) is not int or type(high) is not int or (high + low + 1) % 2 or not 0 <= high + low + 1 < 512:
        raise UnknownLayout(f"of values from {low} to {high}")
    return {"middle": (high + low + 1) // 2}


def _float8_layout(one: Wrapped, impl: Wrapped, infos: Infos) -> Described:
    info, scale = _info(impl, "float8_data", infos), _info(impl, "scale", infos)
    parts = _parts(impl, values="float8_data", scale="scale")
    blocks = one.said.get("block_size")
    counts = [1] * len(info.shape) if scale.numel == 1 else _counted(info.shape, blocks)
    return Described(parts, _details("plain", one, counts=counts))


def _uintx_layout(one: Wrapped, impl: Wrapped, infos: Infos) -> Described:
    data = impl.inside.get("int_data")
    bits, along = (data.said.get("bit_width"), data.said.get("pack_dim")) if data else (None, None)
    shape = data.shape if data else None
    if data is None or not isinstance(bits, int) or bits not in SHARDS or shape is None or shape != one.shape:
        raise UnknownLayout("whose values are not of 1 to 7 bits")
    if along not in (-1, len(shape) - 1) or "scale" not in impl.tensors:
        raise UnknownLayout(f"packed along dimension {along}")
    shards = SHARDS[bits]
    for shard in shards:
        _info(data, shard, infos)
    parts = {part: data.tensors[shard] for part, shard in zip(SHARD_PARTS, shards, strict=False)}
    parts |= _parts(impl, scale="scale", zero_point="zero_point")
    counts = _counted(shape, one.said.get("block_size"))
    details = _details("shards", one, bits=bits, shape=list(shape), counts=counts)
    return Described(parts, details | _middle(one, (0, 255)))


def _tiled_layout(one: Wrapped, impl: Wrapped, infos: Infos) -> Described:
    _info(impl, "packed_weight", infos)
    parts = _parts(impl, values="packed_weight", pairs="scale_and_zero")
    details = _details("tiles", one) | _tiled(one.shape, one.said.get("block_size"))
    return Described(parts, details | {"each": True})


_LAYOUTS: dict[str, Callable[[Wrapped, Wrapped, Infos], Described]] = {
    "PlainAQTTensorImpl": _plain_layout, "QDQTensorImpl": _plain_layout, "q_dq_layout._Impl": _plain_layout,
    "Float8AQTTensorImpl": _float8_layout, "UintxAQTTensorImpl": _uintx_layout,
    "TensorCoreTiledAQTTensorImpl": _tiled_layout,
}  # fmt: skip

_READERS: dict[str, Callable[[Wrapped, Infos], Described]] = {
    "Int8Tensor": _integers, "IntxUnpackedToInt8Tensor": _integers, "IntxUnpackedTensor": _integers,
    "Float8Tensor": _float8, "PrototypeFloat8Tensor": _float8, "Int4Tensor": _int4,
    "Int4TilePackedTo4dTensor": _tiles, "MXTensor": _mx, "NVFP4Tensor": _nvfp4, "NF4Tensor": _nf4,
    "AffineQuantizedTensor": _affine, "LinearActivationQuantizedTensor": _activation,
    "WeightTensorWithLinearActivationQuantizationMetadata": _activation,
}  # fmt: skip

_OWN_ORDER = "in an order that only a kernel for certain processors understands"

UNREADABLE = {
    **dict.fromkeys(
        ("Int4PreshuffledTensor", "IntxOpaqueTensor", "Int4OpaqueTensor", "Float8OpaqueTensor", "MarlinQQQTensor",
         "Int4PlainInt32Tensor", "Int4MarlinSparseTensor", "Float8Sparse2x4_1DData1DMetadataTensor",
         "Float8Sparse2x4_2DData2DMetadataTensor"), _OWN_ORDER,
    ),
    "UIntxBitPackedTensor": "packed by gemlite, whose order is not known here",
    "WeightTensorWithLinearActivationScaleMetadata": "whose inputs are scaled, and the weight was divided by that",
}  # fmt: skip
"""Classes whose values are not told by what a file says of them, and why."""
