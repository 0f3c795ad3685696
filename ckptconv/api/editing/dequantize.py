"""Plain weights of quantized ones: what is asked of the configuration, what is told, and what it may no longer say."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed, plural
from ckptconv.edits.computed import before_quantizing
from ckptconv.edits.quantized import comfy
from ckptconv.edits.quantized.config import HQQ, KEYS, MLX, MLX_KEY, mlx_said, said_in
from ckptconv.edits.quantized.find import dequantize_edits
from ckptconv.edits.quantized.packing import AFFINE
from ckptconv.formats.graphs.notes import PACKED_KEY, READ_AS, read_as_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import Notes
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

_KINDS = {
    "scaled": "scaled 8-bit numbers", "fp4": "scaled 4-bit floats", "mxfp4": "MXFP4", "packed": "packed integers",
    "affine": "affine integers", "gptq": "GPTQ's", "awq": "AWQ's", "bnb-4bit": "bitsandbytes' of 4 bits",
    "bnb-int8": "bitsandbytes' of 8 bits", "mlx": "MLX's", "hqq": "HQQ's",
    "nbits": "MatMulNBits'", "sparse": "sparse",
}  # fmt: skip
"""What weights of each scheme are called."""

_SCALES = {MLX: "scales", HQQ: "scale", "nbits": "scale", "affine": "scale", "sparse": "values"}
"""By scheme the part that is of the type in which the library computes."""

_CODEBOOK = "codebook"
"""The part whose type counts where there is no scale."""

_TYPES = {"bfloat16": DType.BF16, "float16": DType.F16, "float32": DType.F32}
_TYPES_OF_GRAPHS = {dtype.name: dtype for dtype in _TYPES.values()}
_CALLED = {dtype: name for name, dtype in _TYPES.items()} | {DType.F64: "float64"}
_TYPE_KEYS = ("dtype", "torch_dtype")
"""Where a configuration says the type; the second is the word of transformers before 5."""


def edits_for(
    tensors: Mapping[str, LazyTensor],
    said: Mapping[object, MetaNode],
    composites: Mapping[str, Composite],
    notes: Notes,
) -> list[Edit]:
    """The edits that ``--dequantize`` stands for. Raises EditError, UnsupportedError."""
    comfy.check(tensors, said)
    inside = {name: one for name, one in composites.items() if tensors.keys() >= set(one.parts.values())}
    return dequantize_edits(infos_of(tensors), said_in(said), inside, notes)


def type_said(said: Mapping[object, MetaNode]) -> DType:
    """The type that a configuration has for the weights; F32 where it says none."""
    inside = said.get("text_config")
    for part in (said, inside if isinstance(inside, dict) else {}):
        for key in _TYPE_KEYS:
            found = _TYPES.get(str(part.get(key)).removeprefix("torch."))
            if found is not None:
                return found
    return DType.F32


def type_name(tensors: Mapping[str, LazyTensor]) -> str | None:
    """What a configuration calls the type that most of the tensors' bytes are of, or were before they were quantized;
    None where it is none of its.
    """
    sizes: Counter[DType] = Counter()
    for tensor in tensors.values():
        sizes[before_quantizing(tensor)] += tensor.info.nbytes
    most = sizes.most_common(1)
    return _CALLED.get(most[0][0]) if most else None


def wanted_types(
    tensors: Mapping[str, LazyTensor],
    origins: Mapping[str, Sequence[str]],
    edits: Sequence[Edit],
    dtype: DType,
    sources: Mapping[str, LazyTensor],
) -> dict[str, DType]:
    """That type for every tensor that is of a dequantized one and has not got another; where the type of the scales is
    the one that the library computes in, that.
    """
    tied = {step.targets[0]: step.sources[0] for edit in edits if edit.kind == "tie" for step in edit.steps}
    made = {
        name: _computed_in(edit, step, sources, tied) or dtype
        for edit in edits
        if edit.kind == "dequantize"
        for step in edit.steps
        for name in step.sources
    }
    return {
        name: next(made[one] for one in origins[name] if one in made)
        for name, tensor in tensors.items()
        if tensor.info.dtype is DType.F32 and not made.keys().isdisjoint(origins[name])
    }


def _computed_in(edit: Edit, step: Step, sources: Mapping[str, LazyTensor], tied: Mapping[str, str]) -> DType | None:
    parts, scales = edit.details["parts"], _SCALES.get(str(edit.details["scheme"]))
    computed = _TYPES_OF_GRAPHS.get(str(edit.details.get("computed")))
    known = [part for part in (scales, _CODEBOOK) if isinstance(parts, list) and part in parts]
    if computed is not None or not isinstance(parts, list) or not known or scales is None:
        return computed
    name = step.sources[parts.index(known[0])]
    dtype = sources[tied.get(name, name)].info.dtype
    return dtype if dtype in _CALLED and dtype is not DType.F64 else None  # exponents are of all types


def findings_of(edits: Sequence[Edit], said: Mapping[object, MetaNode]) -> list[Finding]:
    """What was done, what was left out, and what the configuration says that is true no longer."""
    made = [edit for edit in edits if edit.kind == "dequantize"]
    count = sum(len(edit.steps) for edit in made)
    kinds = ", ".join(dict.fromkeys(map(_kind, made)))
    message = f"{plural(count, 'weight is', 'weights are')} dequantized ({kinds}), computed in F32"
    if any(edit.details.get("mode") == AFFINE or edit.details["scheme"] == HQQ for edit in made):
        message += ", each step rounded to the scales' type"
    dropped = [step.sources[0] for edit in edits if edit.kind == "drop" for step in edit.steps]
    activations = [name for name in dropped if not name.endswith(comfy.MARKERS)]
    gone = sum(len(step.sources) - 1 for edit in made for step in edit.steps) + len(dropped) - len(activations)
    gone -= sum(len(edit.steps) for edit in edits if edit.kind == "tie")
    message += f"; left out: {plural(gone, 'tensor')} of scales and the like"
    if any("g_idx" in parts for edit in made if isinstance(parts := edit.details["parts"], list)):
        message += ", the order of the groups among them"
    if activations:
        message += f", and {len(activations):,} for activations (as {activations[0]!r})"
    found = [Finding("dequantized", "info", "", message, None, str(count))]
    if any(key in said for key in KEYS) or mlx_said(said) is not None:
        message = "the configuration says that the weights are quantized: the result goes with one that does not"
        found.append(Finding("quantization-config", "info", "", message))
    return found


def left_quantized(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """What is told of small numbers that stay, since no scale is known for them: nothing says any more that they are
    quantized. Of integers, matrices and the like alone can be weights.
    """
    small = {name: tensor.info for name, tensor in tensors.items() if tensor.info.dtype.bits <= 8}
    floats = [name for name, info in small.items() if info.dtype.kind == "float"]
    integers = [name for name, info in small.items() if info.dtype.kind in ("int", "uint") and len(info.shape) > 1]
    found = []
    for names, advice in ((floats, "--dtype casts"), (integers, "if they are weights, they are still quantized")):
        if names:
            stay = plural(len(names), "tensor stays", "tensors stay")
            kind = small[names[0]].dtype.name
            message = f"{stay} {kind}, without a known scale; {advice}: {listed(names, 4)}"
            found.append(Finding("left-quantized", "warning", names[0], message))
    return found


def _kind(edit: Edit) -> str:
    details, parts = edit.details, edit.details["parts"]
    if isinstance(parts, list) and _CODEBOOK in parts:
        return "palettes"
    block, bits = details.get("block"), details.get("bits")
    more = f" in blocks of {block[0]} × {block[1]}" if isinstance(block, list) else f" of {bits} bits" if bits else ""
    if details["scheme"] == MLX:
        more = f" {details['mode']}" if details["mode"] != AFFINE else f"{more} in groups of {details['group_size']}"
    return _KINDS[str(details["scheme"])] + more


def retyped(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration that names this type wherever it names one, for itself or for one of its parts, such as a
    `text_config`; how weights are quantized is not part.
    """
    made = dict(document)
    for key, value in document.items():
        if isinstance(value, dict) and key not in (*KEYS, MLX_KEY):
            made[key] = retyped(value, name)
        elif key in _TYPE_KEYS and str(value).removeprefix("torch.") in _CALLED.values():
            made[key] = name
    return made


def unclaimed(node: MetaNode) -> MetaNode:
    """The metadata without what says that the weights are quantized, texts in JSON included."""
    if isinstance(node, dict):
        made = node.copy()
        made.clear()
        made.update({key: unclaimed(value) for key, value in node.items() if key not in _claims(node)})
        return made
    if isinstance(node, str) and node.lstrip().startswith("{") and any(f'"{key}"' in node for key in (*KEYS, MLX_KEY)):
        try:
            document: Json = strict_json.loads(node)
            if isinstance(document, dict) and (claims := _claims(document)):
                return json.dumps({key: value for key, value in document.items() if key not in claims})
        except ValueError:
            return node
    return node


def unpacked(made: Checkpoint, edits: Sequence[Edit]) -> Checkpoint:
    """The checkpoint, of which no bytes are told any more that have become weights."""
    root = made.root
    said = root.get(PACKED_KEY) if isinstance(root, dict) else None
    parts = {name for edit in edits if edit.kind == "dequantize" for step in edit.steps for name in step.sources}
    if not isinstance(root, dict) or not isinstance(said, dict) or parts.isdisjoint(said):
        return made
    left = {name: value for name, value in said.items() if name not in parts}
    kept = {key: left if key == PACKED_KEY else value for key, value in root.items() if key != PACKED_KEY or left}
    alone = list(kept.values()) if len(kept) == 1 else []
    findings = (*(one for one in made.findings if one.code != READ_AS), *read_as_bytes(map(str, left)))
    return made.replaced(root=alone[0] if alone else kept, findings=findings)


def _claims(document: Mapping[Any, Any]) -> set[str]:
    """Its keys under which it says that weights are quantized."""
    found = {key for key in (*KEYS, comfy.METADATA) if key in document}
    return found | {MLX_KEY} if mlx_said({MLX_KEY: document.get(MLX_KEY)}) is not None else found
