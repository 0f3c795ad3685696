"""Which tensors of a checkpoint are quantized weights, as edits of kind dequantize.

Names say which tensors belong together, types and shapes which scheme they are of:

    X, X_scale_inv                             scaled: DeepSeek's and transformers' fp8, in blocks
    X, X_scale, X_zero_point?                  scaled, of F8 or I8; with X_scale_2 and X of U8: fp4
    M.weight, M.scale_weight                   scaled: ComfyUI's, whose markers (`comfy`) go with them
    X_packed, X_scale, …                       compressed-tensors: packed (I32), fp4 (U8)
    X_blocks, X_scales                         mxfp4, where they have its shapes
    M.qweight, M.scales, M.qzeros, M.g_idx?    gptq or awq, by shape
    X, X.absmax, X.quant_state.bitsandbytes__* bnb-4bit
    M.weight, M.SCB, M.weight_format?          bnb-int8
    M.weight, M.scales, M.biases?              mlx, where the weight is U32
    M.W_q, M.scale, M.zero, M.shape, …         hqq

Of torch's and TensorFlow Lite's own quantized tensors the checkpoint knows the parts: they are affine. So it does of
weights that a graph computes (`QuantizedWeight`), of which several may have a scale or a zero point in common, and of
those that torchao's classes hold.

What a configuration says besides (`config.Said`) has to agree. Scales of activations go with the weight.
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
    from ckptconv.edits.quantized.config import Said

    Infos = Mapping[str, TensorInfo]

STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))

ACTIVATIONS = (
    "input_scale", "input_scale_ub", "input_zero_point", "input_global_scale", "activation_scale", "output_scale",
    "output_zero_point", "q_scale", "k_scale", "v_scale", "prob_output_scale", "k_zero_point", "v_zero_point",
    "scale_input",
)  # fmt: skip
"""How a module's inputs, outputs and caches were to be quantized: nothing of its weight."""

SMOOTHED = ("pre_quant_scale", "_smooth_scale")
"""By what the inputs have to be multiplied where the weights were divided by it: they would not be the model's."""


@dataclass
class Group:
    """A weight: its name, and the tensors that it is stored as."""

    scheme: str
    target: str
    parts: dict[str, str]
    details: dict[str, Json] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for weights that one edit may be made of."""
        return repr((self.scheme, tuple(self.parts), sorted(self.details.items())))


def dequantize_edits(infos: Infos, said: Said, composites: Mapping[str, Composite], notes: Notes) -> list[Edit]:
    """The edits that make plain tensors of all quantized ones, and drop what was for activations.

    Raises EditError where there is nothing to do, where a part is missing, and where the configuration says another
    scheme.
    """
    if smoothed := [name for name in infos if name.endswith(SMOOTHED)]:
        raise EditError(
            f"--dequantize: {smoothed[0]!r} is a scale of the inputs that the weight was divided by",
            hint="the plain weight alone would not compute the same",
        )
    groups: dict[str, list[Group]] = {}
    stated, shared = _apart([_of_graph(infos, one) for one in notes.quantized if one.values in infos], infos)
    for one in (*_affine(composites), *stated):
        groups.setdefault(one.key, []).append(one)
    known = {name for alike in groups.values() for one in alike for name in one.parts.values()} | set(notes.between)
    for one in _groups({name: info for name, info in infos.items() if name not in known}, said):
        said.check(one.scheme, one.target)
        groups.setdefault(one.key, []).append(one)
    found = [one for alike in groups.values() for one in alike]
    if not found:
        method = f", though the configuration says {said.method!r}" if said.method else ""
        raise EditError(
            f"--dequantize finds no quantized weight{method}",
            hint="ckptconv inspect --list shows the tensors; GGUF's blocks are unpacked by --dtype alone",
        )
    edits = [*shared, *(_edit(alike) for alike in groups.values())]
    used = {name for one in found for name in one.parts.values()}
    between = [name for name in notes.between if name in infos]
    left_out = (*between, *_of_activations(infos, found), *comfy.markers(infos))
    if dropped := list(dict.fromkeys(name for name in left_out if name not in used)):
        edits.append(Edit("drop", (dropped[0],), (), {}, tuple(Step((name,), ()) for name in dropped)))
    return edits


def _of_graph(infos: Infos, one: QuantizedWeight) -> Group:
    """A weight that a graph computes, or its class holds, under a name that nothing else has. Raises UnsupportedError
    for one that is not read.
    """
    if one.scheme == UNREAD:
        raise UnsupportedError(f"{one.name!r} is {one.called}, {one.details.get('why')}", hint=HINT)
    parts = dict(one.parts)
    target = one.values if one.name in infos.keys() - parts.values() else one.name
    return _group(infos, one.scheme, target, parts, len(parts), **one.details)


def _apart(groups: list[Group], infos: Infos) -> tuple[list[Group], list[Edit]]:
    """The groups with parts of their own, and the edit by which those that several have get further names."""
    seen: set[str] = set()
    known: set[str] = set(infos)
    again: list[Step] = []
    for one in groups:
        for role, name in one.parts.items():
            if name in seen:
                free = numbered(f"{one.target}.{role}", known)
                again.append(Step((name,), (free,)))
                known.add(free)
                one.parts[role] = name = free
            seen.add(name)
    if not again:
        return groups, []
    return groups, [Edit("tie", again[0].sources, again[0].targets, {}, tuple(again))]


def _edit(alike: list[Group]) -> Edit:
    first = alike[0]
    details: dict[str, Json] = {"scheme": first.scheme, "parts": list(first.parts), **first.details}
    steps = tuple(Step(tuple(one.parts.values()), (one.target,)) for one in alike)
    return Edit("dequantize", steps[0].sources, steps[0].targets, details, steps)


def _of_activations(infos: Infos, found: list[Group]) -> Iterator[str]:
    """Scales of the inputs and outputs of quantized modules, and of the attentions that these are in."""
    modules = {module_of(one.target) for one in found}
    near = modules | {module.rpartition(".")[0] for module in modules}
    for name in infos:
        module, _, last = name.rpartition(".")
        if last in ACTIVATIONS and module in near:
            yield name
    for one in found:
        yield from (name for name in (f"{one.target}_activation_scale", f"{one.target}_scale_ub") if name in infos)


def _affine(composites: Mapping[str, Composite]) -> Iterator[Group]:
    for name, one in composites.items():
        if not isinstance(one, Quantized):
            continue
        if one.dtype.bits < 8:
            raise EditError(
                f"--dequantize: {name!r} is {one.summary}, of which several share a byte: that is not unpacked",
                hint=f"--drop '{name}' leaves it out",
            )
        details: dict[str, Json] = {} if one.axis is None else {"axis": one.axis}
        yield Group("affine", name, dict(one.parts), details)


def _groups(infos: Infos, said: Said) -> Iterator[Group]:
    for name in infos:
        find = next((find for end, find in _FINDERS.items() if name.endswith(end)), None)
        if find is not None:
            yield from find(infos, name, said)


def _group(infos: Infos, scheme: str, target: str, parts: dict[str, str], needed: int, **details: Json) -> Group:
    """The group of the parts that are there. Raises EditError where one of the first `needed` is not."""
    for part in list(parts)[:needed]:
        if parts[part] not in infos:
            anchor = next(name for name in parts.values() if name in infos)
            raise EditError(
                f"--dequantize: {anchor!r} is there, and {parts[part]!r} is not",
                hint="both are parts of one weight; select them together",
            )
    return Group(scheme, target, {part: name for part, name in parts.items() if name in infos}, details)


def _of_scale(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    """A scale of a tensor that is there under its own name; there are scales of other things."""
    target = name.removesuffix("_inv").removesuffix("_scale")
    if name.endswith(_COMFYS):
        target = f"{name.removesuffix(_COMFYS)}.weight"
    weight = infos.get(target)
    if weight is None:
        if name.endswith("weight_scale_inv"):
            yield _group(infos, "scaled", target, {"weight": target, "scale": name}, 2)
        return
    if weight.dtype in BYTES or (weight.dtype is DType.I8 and not name.endswith("_inv")):
        parts = {"weight": target, "scale": name, "zero_point": f"{target}_zero_point"}
        yield _group(infos, "scaled", target, parts, 2, **_block(infos[name], weight, said, name))
    elif weight.dtype is DType.U8 and f"{target}_scale_2" in infos:
        parts = {"packed": target, "scale": name, "scale_2": f"{target}_scale_2"}
        yield _group(infos, "fp4", target, parts, 3)
    elif name.endswith("weight_scale_inv"):
        raise EditError(
            f"--dequantize: {target!r} has a scale, and is {weight.dtype}, which is not known to go with it",
            hint="it takes 8-bit floats",
        )


def _block(scale: TensorInfo, weight: TensorInfo, said: Said, name: str) -> dict[str, Json]:
    """The blocks that the configuration says; where it says nothing, and the name is DeepSeek's, theirs."""
    if scale.numel == 1 or len(scale.shape) != len(weight.shape) or scale.shape == (*weight.shape[:-1], 1):
        return {}
    if said.block is not None:
        return {"block": list(said.block)}
    return {"block": [128, 128]} if name.endswith("_scale_inv") else {}


def _of_packed(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    stem = name.removesuffix("_packed")
    parts = {"packed": name, "scale": f"{stem}_scale"}
    if infos[name].dtype is DType.U8:
        yield _group(infos, "fp4", stem, parts | {"global_scale": f"{stem}_global_scale"}, 2)
        return
    parts |= {part: f"{stem}_{part}" for part in ("shape", "zero_point", "g_idx")}
    yield _group(infos, "packed", stem, parts, 2, **({} if said.bits is None else {"bits": said.bits}))


def _of_blocks(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    stem, info = name.removesuffix("_blocks"), infos[name]
    scales = infos.get(f"{stem}_scales")
    if info.dtype is DType.U8 and scales is not None and info.shape == (*scales.shape, 16):
        yield _group(infos, "mxfp4", stem, {"blocks": name, "scales": f"{stem}_scales"}, 2)


def _of_qweight(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    """GPTQ packs inputs and AWQ outputs, which the scales tell apart."""
    module, info = name.removesuffix("qweight"), infos[name]
    parts = {part: module + part for part in ("qweight", "scales", "qzeros", "g_idx")}
    scales = infos.get(parts["scales"])
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    if len(info.shape) == 2 and outputs and info.shape[1] * 8 == outputs and parts["g_idx"] not in infos:
        del parts["g_idx"]
        yield _group(infos, "awq", module + "weight", parts, 3)
        return
    said.need_gptq()
    order = infos.get(parts["g_idx"])
    bits: int | None = said.bits
    if bits is None and order is not None and info.shape and order.numel:
        bits = info.shape[0] * 32 // order.numel
    if bits is None:
        raise EditError(
            f"--dequantize: nothing says of how many bits {name!r} is", hint="a config.json beside the file does"
        )
    yield _group(infos, "gptq", module + "weight", parts, 3, bits=bits, zeros=said.zeros)


def _of_bnb_int8(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    module = name.removesuffix("SCB")
    parts = {part: module + part for part in ("weight", "SCB", "weight_format")}
    yield _group(infos, "bnb-int8", module + "weight", parts, 2)


def _of_state(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    stem = name[: name.index(".quant_state.")]
    parts = {"weight": stem, "absmax": f"{stem}.absmax", "quant_map": f"{stem}.quant_map", "quant_state": name}
    nested = {part: f"{stem}.{part}" for part in ("nested_absmax", "nested_quant_map")}
    yield _group(infos, "bnb-4bit", stem, parts | nested, 4)


def _of_hqq(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    """All that hqq saves of a layer but its bias. Where that is not tensors, no more is known of the weight."""
    module = name.removesuffix("W_q")
    needed, more = ROLES["hqq"]
    if f"{module}shape" not in infos:
        raise EditError(
            f"--dequantize: {name!r} is hqq's, and no tensor says its shape and how it is packed",
            hint="save it with hqq's encoded_state_dict, as is usual: then tensors do",
        )
    yield _group(infos, "hqq", module + "weight", {part: module + part for part in needed + more}, len(needed))


def _of_mlx(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    """What shares words of 32 bits; where these are missing, a configuration alone says that it was MLX's."""
    module = module_of(name)
    parts = {part: f"{module}.{part}" for part in ROLES["mlx"][0] + ROLES["mlx"][1]}
    weight, scales = infos.get(parts["weight"]), infos.get(parts["scales"])
    if said.method != MLX if weight is None else weight.dtype is not DType.U32:
        return
    if weight is None or scales is None:
        _group(infos, "mlx", parts["weight"], parts, 2)
    elif name == parts["scales"]:
        ways = packings(weight, scales, biased=parts["biases"] in infos)
        way = said.packing_of(module, ways, f"{list(weight.shape)}, scales of {list(scales.shape)}")
        how: dict[str, Json] = {"mode": way.mode, "bits": way.bits, "group_size": way.group}
        yield _group(infos, "mlx", parts["weight"], parts, 2, **how)


def _of_mlx_weight(infos: Infos, name: str, said: Said) -> Iterator[Group]:
    """A weight without its scales, where the configuration says that it was MLX's."""
    if infos[name].dtype is DType.U32 and said.method == MLX:
        yield from _of_mlx(infos, name, said)


_COMFYS = ".scale_weight"

_FINDERS: dict[str | tuple[str, ...], Callable[[Infos, str, Said], Iterator[Group]]] = {
    ("_scale_inv", "_scale", _COMFYS): _of_scale,
    "_packed": _of_packed,
    "_blocks": _of_blocks,
    ".qweight": _of_qweight,
    ".SCB": _of_bnb_int8,
    STATES: _of_state,
    ".W_q": _of_hqq,
    (".scales", ".biases"): _of_mlx,
    ".weight": _of_mlx_weight,
}
"""By what a name ends in: the weight whose part it is, if it is one."""
