"""Finds a checkpoint's quantized weights, and makes the edits (of kind dequantize) that make plain ones of them.

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

The checkpoint itself knows the parts of torch's and TensorFlow Lite's own quantized tensors, which are affine, and
those of weights that a graph computes (`QuantizedWeight`), several of which may share a scale or a zero point.
The same goes for weights that torchao's classes hold.

A configuration (`config.Settings`) has to agree with what is found. Scales of activations are dropped with the weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.composite import Quantized
from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Edit, Step
from ckptconv.core.names import module_of, numbered
from ckptconv.core.notes import UNREAD
from ckptconv.edits.quantized import comfy
from ckptconv.edits.quantized.config import HINT, MLX
from ckptconv.edits.quantized.packing import packings
from ckptconv.edits.quantized.schemes import BYTES, ROLES
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptconv.core.composite import Composite
    from ckptconv.core.notes import Notes, QuantizedWeight
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.quantized.config import Settings

    Infos = Mapping[str, TensorInfo]

STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))

ACTIVATIONS = (
    "input_scale", "input_scale_ub", "input_zero_point", "input_global_scale", "activation_scale", "output_scale",
    "output_zero_point", "q_scale", "k_scale", "v_scale", "prob_output_scale", "k_zero_point", "v_zero_point",
    "scale_input",
)  # fmt: skip
"""How a module's inputs, outputs and caches were to be quantized, which does not concern its weight."""

SMOOTHED = ("pre_quant_scale", "_smooth_scale")
"""Factors for the inputs, by which the weights were divided: without them, plain weights would not be the model's."""


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


def dequantize_edits(infos: Infos, settings: Settings, composites: Mapping[str, Composite], notes: Notes) -> list[Edit]:
    """The edits that make plain tensors of all quantized ones, and drop what was meant for activations.

    Raises EditError if nothing is quantized, a part is missing, or the configuration states another scheme.
    """
    if smoothed := [name for name in infos if name.endswith(SMOOTHED)]:
        raise EditError(
            f"--dequantize: {smoothed[0]!r} is a scale of the inputs that the weight was divided by",
            hint="the plain weight alone would not compute the same",
        )
    by_key: dict[str, list[Group]] = {}
    from_graph = [_graph_group(infos, weight) for weight in notes.quantized if weight.values in infos]
    shared = _unshare(from_graph, infos)
    for group in (*_affine_groups(composites), *from_graph):
        by_key.setdefault(group.key, []).append(group)
    known = {part for same in by_key.values() for group in same for part in group.parts.values()} | set(notes.between)
    for group in _find_groups({name: info for name, info in infos.items() if name not in known}, settings):
        settings.check(group.scheme, group.target)
        by_key.setdefault(group.key, []).append(group)
    found = [group for same in by_key.values() for group in same]
    if not found:
        method = f", though the configuration says {settings.method!r}" if settings.method else ""
        raise EditError(
            f"--dequantize finds no quantized weight{method}",
            hint="ckptconv inspect --list shows the tensors; GGUF's blocks are unpacked by --dtype alone",
        )
    edits = [*shared, *(_edit(same) for same in by_key.values())]
    used = {name for group in found for name in group.parts.values()}
    between = [name for name in notes.between if name in infos]
    left_out = (*between, *_activation_scales(infos, found), *comfy.markers(infos))
    if dropped := list(dict.fromkeys(name for name in left_out if name not in used)):
        edits.append(Edit("drop", (dropped[0],), (), {}, tuple(Step((name,), ()) for name in dropped)))
    return edits


def _graph_group(infos: Infos, weight: QuantizedWeight) -> Group:
    """A weight that a graph computes, or that its class holds; called as its values if another tensor has its name.

    Raises UnsupportedError for one that is not read.
    """
    if weight.scheme == UNREAD:
        raise UnsupportedError(f"{weight.name!r} is {weight.called}, {weight.details.get('why')}", hint=HINT)
    parts = dict(weight.parts)
    target = weight.values if weight.name in infos.keys() - parts.values() else weight.name
    return _group(infos, weight.scheme, target, parts, len(parts), **weight.details)


def _unshare(groups: list[Group], infos: Infos) -> list[Edit]:
    """Give parts that several groups share further names, and return the edit that makes these."""
    seen: set[str] = set()
    known: set[str] = set(infos)
    ties: list[Step] = []
    for group in groups:
        for role, name in group.parts.items():
            if name in seen:
                free = numbered(f"{group.target}.{role}", known)
                ties.append(Step((name,), (free,)))
                known.add(free)
                group.parts[role] = name = free
            seen.add(name)
    return [Edit("tie", ties[0].sources, ties[0].targets, {}, tuple(ties))] if ties else []


def _edit(groups: list[Group]) -> Edit:
    """The edit that dequantizes groups of the same key."""
    first = groups[0]
    details: dict[str, Json] = {"scheme": first.scheme, "parts": list(first.parts), **first.details}
    steps = tuple(Step(tuple(group.parts.values()), (group.target,)) for group in groups)
    return Edit("dequantize", steps[0].sources, steps[0].targets, details, steps)


def _activation_scales(infos: Infos, found: list[Group]) -> Iterator[str]:
    """Scales of the inputs and outputs of quantized modules, and of the attention modules that these are in."""
    modules = {module_of(group.target) for group in found}
    near = modules | {module.rpartition(".")[0] for module in modules}
    for name in infos:
        module, _, last = name.rpartition(".")
        if last in ACTIVATIONS and module in near:
            yield name
    for group in found:
        yield from (name for name in (f"{group.target}_activation_scale", f"{group.target}_scale_ub") if name in infos)


def _affine_groups(composites: Mapping[str, Composite]) -> Iterator[Group]:
    """Torch's and TensorFlow Lite's own quantized tensors."""
    for name, composite in composites.items():
        if not isinstance(composite, Quantized):
            continue
        if composite.dtype.bits < 8:
            raise EditError(
                f"--dequantize: {name!r} is {composite.summary}, of which several share a byte: that is not unpacked",
                hint=f"--drop '{name}' leaves it out",
            )
        details: dict[str, Json] = {} if composite.axis is None else {"axis": composite.axis}
        yield Group("affine", name, dict(composite.parts), details)


def _find_groups(infos: Infos, settings: Settings) -> Iterator[Group]:
    """The quantized weights that names, types and shapes show."""
    for name in infos:
        find = next((find for end, find in _FINDERS.items() if name.endswith(end)), None)
        if find is not None:
            yield from find(infos, name, settings)


def _group(infos: Infos, scheme: str, target: str, parts: dict[str, str], needed: int, **details: Json) -> Group:
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
            yield _group(infos, "scaled", target, {"weight": target, "scale": name}, 2)
        return
    if weight.dtype in BYTES or (weight.dtype is DType.I8 and not name.endswith("_inv")):
        parts = {"weight": target, "scale": name, "zero_point": f"{target}_zero_point"}
        yield _group(infos, "scaled", target, parts, 2, **_block(infos[name], weight, settings, name))
    elif weight.dtype is DType.U8 and f"{target}_scale_2" in infos:
        parts = {"packed": target, "scale": name, "scale_2": f"{target}_scale_2"}
        yield _group(infos, "fp4", target, parts, 3)
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
        yield _group(infos, "fp4", stem, parts | {"global_scale": f"{stem}_global_scale"}, 2)
        return
    parts |= {part: f"{stem}_{part}" for part in ("shape", "zero_point", "g_idx")}
    yield _group(infos, "packed", stem, parts, 2, **({} if settings.bits is None else {"bits": settings.bits}))


def _find_mxfp4(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    stem, info = name.removesuffix("_blocks"), infos[name]
    scales = infos.get(f"{stem}_scales")
    if info.dtype is DType.U8 and scales is not None and info.shape == (*scales.shape, 16):
        yield _group(infos, "mxfp4", stem, {"blocks": name, "scales": f"{stem}_scales"}, 2)


def _find_gptq_or_awq(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """GPTQ packs along inputs and AWQ along outputs, which the shape of the scales shows."""
    module, info = name.removesuffix("qweight"), infos[name]
    parts = {part: module + part for part in ("qweight", "scales", "qzeros", "g_idx")}
    scales = infos.get(parts["scales"])
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    if len(info.shape) == 2 and outputs and info.shape[1] * 8 == outputs and parts["g_idx"] not in infos:
        del parts["g_idx"]
        yield _group(infos, "awq", module + "weight", parts, 3)
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
    yield _group(infos, "gptq", module + "weight", parts, 3, bits=bits, zeros=settings.zeros)


def _find_bnb_int8(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    module = name.removesuffix("SCB")
    parts = {part: module + part for part in ("weight", "SCB", "weight_format")}
    yield _group(infos, "bnb-int8", module + "weight", parts, 2)


def _find_bnb_4bit(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    stem = name[: name.index(".quant_state.")]
    parts = {"weight": stem, "absmax": f"{stem}.absmax", "quant_map": f"{stem}.quant_map", "quant_state": name}
    nested = {part: f"{stem}.{part}" for part in ("nested_absmax", "nested_quant_map")}
    yield _group(infos, "bnb-4bit", stem, parts | nested, 4)


def _find_hqq(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A layer as hqq saves it, without its bias. If the settings are not saved as tensors, the weight is unknown."""
    module = name.removesuffix("W_q")
    needed, more = ROLES["hqq"]
    if f"{module}shape" not in infos:
        raise EditError(
            f"--dequantize: {name!r} is hqq's, and no tensor says its shape and how it is packed",
            hint="save it with hqq's encoded_state_dict, as is usual: then tensors do",
        )
    yield _group(infos, "hqq", module + "weight", {part: module + part for part in needed + more}, len(needed))


def _find_mlx(infos: Infos, name: str, settings: Settings) -> Iterator[Group]:
    """A weight of words of 32 bits; if these are missing, only a configuration shows that it is MLX's."""
    module = module_of(name)
    parts = {part: f"{module}.{part}" for part in ROLES["mlx"][0] + ROLES["mlx"][1]}
    weight, scales = infos.get(parts["weight"]), infos.get(parts["scales"])
    is_mlx = settings.method == MLX if weight is None else weight.dtype is DType.U32
    if not is_mlx:
        return
    if weight is None or scales is None:
        _group(infos, "mlx", parts["weight"], parts, 2)
    elif name == parts["scales"]:
        possible = packings(weight, scales, biased=parts["biases"] in infos)
        packing = settings.packing_of(module, possible, f"{list(weight.shape)}, scales of {list(scales.shape)}")
        details: dict[str, Json] = {"mode": packing.mode, "bits": packing.bits, "group_size": packing.group}
        yield _group(infos, "mlx", parts["weight"], parts, 2, **details)


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
