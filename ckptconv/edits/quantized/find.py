"""Finds quantized weights that are stored as several tensors.

Names show which tensors belong together, types and shapes which scheme they have:

    X, X_scale_inv                             scaled: DeepSeek's and transformers' fp8, in blocks
    X, X_scale, X_zero_point?                  scaled, of F8 or I8; with X_scale_2 and X of U8: fp4
    M.weight, M.scale_weight                   scaled: ComfyUI's, whose markers (`comfy`) are dropped
    X_packed, X_scale, …                       compressed-tensors: packed (I32), fp4 (U8)
    X_blocks, X_scales                         mxfp4, if they have its shapes
    M.qweight, M.scales, M.qzeros, M.g_idx?    gptq or awq, by shape
    X, X.absmax, X.quant_state.bitsandbytes__* bnb-4bit
    M.weight, M.SCB, M.weight_format?          bnb-int8
    M.weight, M.scales, M.biases?              mlx, if the weight is U32
    M.W_q, M.scale, M.zero, M.shape, …         hqq

Weights whose parts the checkpoint itself knows are not looked for (`dequantize`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.names import module_of
from ckptconv.edits.quantized.config import MLX
from ckptconv.edits.quantized.packing import packings
from ckptconv.edits.quantized.schemes import BYTES, ROLES
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.quantized.config import Settings

    Infos = Mapping[str, TensorInfo]

STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))


@dataclass
class Group:
    """A quantized weight: its scheme, its plain name, and the tensors that it is stored as (role → name)."""

    scheme: str
    target: str
    parts: dict[str, str]
    details: dict[str, Json] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for weights that one edit can dequantize."""
        return repr((self.scheme, tuple(self.parts), sorted(self.details.items())))


def find_groups(infos: Infos, settings: Settings) -> Iterator[Group]:
    """The quantized weights that names, types and shapes show."""
    for name in infos:
        find = next((find for end, find in _FINDERS.items() if name.endswith(end)), None)
        if find is not None:
            yield from find(infos, name, settings)


def group_of(infos: Infos, scheme: str, target: str, parts: dict[str, str], needed: int, **details: Json) -> Group:
    """The group of those parts that are there. Raises EditError if one of the first `needed` is not."""
    for part in list(parts)[:needed]:
        if parts[part] not in infos:
            anchor = next(name for name in parts.values() if name in infos)
            raise EditError(
                f"--dequantize: {anchor!r} is there, and {parts[part]!r} is not",
                hint="both are parts of one weight; select them together",
            )
    return Group(scheme, target, {part: name for part, name in parts.items() if name in infos}, details)


def _find_scaled(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A weight by its scale. Other things have scales too."""
    target = name.removesuffix("_inv").removesuffix("_scale")
    if name.endswith(_COMFY_SCALE):
        target = f"{name.removesuffix(_COMFY_SCALE)}.weight"
    weight = infos.get(target)
    if weight is None:
        if name.endswith("weight_scale_inv"):
            yield group_of(infos, "scaled", target, {"weight": target, "scale": name}, 2)
        return
    if weight.dtype in BYTES or (weight.dtype is DType.I8 and not name.endswith("_inv")):
        parts = {"weight": target, "scale": name, "zero_point": f"{target}_zero_point"}
        yield group_of(infos, "scaled", target, parts, 2, **_block(infos[name], weight, settings, name))
    elif weight.dtype is DType.U8 and f"{target}_scale_2" in infos:
        parts = {"packed": target, "scale": name, "scale_2": f"{target}_scale_2"}
        yield group_of(infos, "fp4", target, parts, 3)
    elif name.endswith("weight_scale_inv"):
        raise EditError(
            f"--dequantize: {target!r} has a scale, and is {weight.dtype}, which is not known to go with it",
            hint="it takes 8-bit floats",
        )


def _block(scale: TensorInfo, weight: TensorInfo, settings: Settings, name: str) -> dict[str, Json]:
    """The block size in the configuration; if it has none and the name is DeepSeek's, DeepSeek's."""
    if scale.numel == 1 or len(scale.shape) != len(weight.shape) or scale.shape == (*weight.shape[:-1], 1):
        return {}
    if settings.block is not None:
        return {"block": list(settings.block)}
    return {"block": [128, 128]} if name.endswith("_scale_inv") else {}


def _find_packed(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    stem = name.removesuffix("_packed")
    parts = {"packed": name, "scale": f"{stem}_scale"}
    if infos[name].dtype is DType.U8:
        yield group_of(infos, "fp4", stem, parts | {"global_scale": f"{stem}_global_scale"}, 2)
        return
    parts |= {part: f"{stem}_{part}" for part in ("shape", "zero_point", "g_idx")}
    yield group_of(infos, "packed", stem, parts, 2, **({} if settings.bits is None else {"bits": settings.bits}))


def _find_mxfp4(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    stem, info = name.removesuffix("_blocks"), infos[name]
    scales = infos.get(f"{stem}_scales")
    if info.dtype is DType.U8 and scales is not None and info.shape == (*scales.shape, 16):
        yield group_of(infos, "mxfp4", stem, {"blocks": name, "scales": f"{stem}_scales"}, 2)


def _find_gptq_or_awq(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """GPTQ packs along inputs and AWQ along outputs, which the shape of the scales shows."""
    module, info = name.removesuffix("qweight"), infos[name]
    parts = {part: module + part for part in ("qweight", "scales", "qzeros", "g_idx")}
    scales = infos.get(parts["scales"])
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    if len(info.shape) == 2 and outputs and info.shape[1] * 8 == outputs and parts["g_idx"] not in infos:
        del parts["g_idx"]
        yield group_of(infos, "awq", module + "weight", parts, 3)
        return
    settings.need_gptq()
    order = infos.get(parts["g_idx"])
    bits: int | None = settings.bits
    if bits is None and order is not None and info.shape and order.numel:
        bits = info.shape[0] * 32 // order.numel
    if bits is None:
        raise EditError(
            f"--dequantize: nothing says of how many bits {name!r} is", hint="a config.json beside the file does"
        )
    yield group_of(infos, "gptq", module + "weight", parts, 3, bits=bits, zeros=settings.zeros)


def _find_bnb_int8(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    module = name.removesuffix("SCB")
    parts = {part: module + part for part in ("weight", "SCB", "weight_format")}
    yield group_of(infos, "bnb-int8", module + "weight", parts, 2)


def _find_bnb_4bit(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    stem = name[: name.index(".quant_state.")]
    parts = {"weight": stem, "absmax": f"{stem}.absmax", "quant_map": f"{stem}.quant_map", "quant_state": name}
    nested = {part: f"{stem}.{part}" for part in ("nested_absmax", "nested_quant_map")}
    yield group_of(infos, "bnb-4bit", stem, parts | nested, 4)


def _find_hqq(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A layer as hqq saves it, without its bias. If the settings are not saved as tensors, the weight is unknown."""
    module = name.removesuffix("W_q")
    needed, more = ROLES["hqq"]
    if f"{module}shape" not in infos:
        raise EditError(
            f"--dequantize: {name!r} is hqq's, and no tensor says its shape and how it is packed",
            hint="save it with hqq's encoded_state_dict, as is usual: then tensors do",
        )
    yield group_of(infos, "hqq", module + "weight", {part: module + part for part in needed + more}, len(needed))


def _find_mlx(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A weight of words of 32 bits; if these are missing, only a configuration shows that it is MLX's."""
    module = module_of(name)
    parts = {part: f"{module}.{part}" for part in ROLES["mlx"][0] + ROLES["mlx"][1]}
    weight, scales = infos.get(parts["weight"]), infos.get(parts["scales"])
    is_mlx = settings.method == MLX if weight is None else weight.dtype is DType.U32
    if not is_mlx:
        return
    if weight is None or scales is None:
        group_of(infos, "mlx", parts["weight"], parts, 2)
    elif name == parts["scales"]:
        possible = packings(weight, scales, biased=parts["biases"] in infos)
        packing = settings.packing_of(module, possible, f"{list(weight.shape)}, scales of {list(scales.shape)}")
        details: dict[str, Json] = {"mode": packing.mode, "bits": packing.bits, "group_size": packing.group}
        yield group_of(infos, "mlx", parts["weight"], parts, 2, **details)


def _find_mlx_weight(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A weight whose scales are missing, if a configuration shows that it is MLX's."""
    if infos[name].dtype is DType.U32 and settings.method == MLX:
        yield from _find_mlx(infos, name, settings)


_COMFY_SCALE = ".scale_weight"

_FINDERS: dict[str | tuple[str, ...], Callable[[Infos, str, Settings], Iterator[Group]]] = {
    ("_scale_inv", "_scale", _COMFY_SCALE): _find_scaled,
    "_packed": _find_packed,
    "_blocks": _find_mxfp4,
    ".qweight": _find_gptq_or_awq,
    ".SCB": _find_bnb_int8,
    STATES: _find_bnb_4bit,
    ".W_q": _find_hqq,
    (".scales", ".biases"): _find_mlx,
    ".weight": _find_mlx_weight,
}
"""Endings of names → what finds the weight that such a tensor is a part of, if it is one."""
