"""``--dequantize``: the edits and their types, what to report, and what the configuration may no longer say."""

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
from ckptconv.edits.dialects.keras_quantized import SCHEME as KERAS
from ckptconv.edits.quantized import comfy, eager
from ckptconv.edits.quantized.config import HQQ, KEYS, MLX, MLX_KEY, mlx_settings, read_settings
from ckptconv.edits.quantized.dequantize import dequantize_edits
from ckptconv.edits.quantized.keras import listed_names, with_plain_policies, without_names
from ckptconv.edits.quantized.packing import AFFINE
from ckptconv.edits.quantized.torchao.bookkeeping import Changes
from ckptconv.edits.quantized.torchao.classes import SCHEME as TORCHAO
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

_SCHEME_LABELS = {
    "scaled": "scaled 8-bit numbers", "fp4": "scaled 4-bit floats", "mxfp4": "MXFP4", "packed": "packed integers",
    "affine": "affine integers", "gptq": "GPTQ's", "awq": "AWQ's", "bnb-4bit": "bitsandbytes' of 4 bits",
    "bnb-int8": "bitsandbytes' of 8 bits", "mlx": "MLX's", "hqq": "HQQ's", "torchao": "torchao's",
    "nbits": "MatMulNBits'", "sparse": "sparse", KERAS: "Keras'",
}  # fmt: skip
"""How messages call the weights of each scheme."""

_SCALE_PART = {MLX: "scales", HQQ: "scale", "nbits": "scale", "affine": "scale", KERAS: "scale", "sparse": "values"}
"""For each scheme, the part whose type is the one that the library computes in."""

_CODEBOOK = "codebook"
"""The part whose type counts if there is no scale."""

_TYPES_BY_CONFIG_NAME = {"bfloat16": DType.BF16, "float16": DType.F16, "float32": DType.F32}
_TYPES_BY_DTYPE_NAME = {dtype.name: dtype for dtype in _TYPES_BY_CONFIG_NAME.values()}
_CONFIG_NAMES = {dtype: name for name, dtype in _TYPES_BY_CONFIG_NAME.items()} | {DType.F64: "float64"}
_TYPE_KEYS = ("dtype", "torch_dtype")
"""Keys of a configuration that state the type; the second is from before transformers 5."""


def edits_for(
    tensors: Mapping[str, LazyTensor],
    stated: Mapping[object, MetaNode],
    composites: Mapping[str, Composite],
    notes: Notes,
) -> list[Edit]:
    """The edits that ``--dequantize`` stands for. Raises EditError, UnsupportedError."""
    comfy.check(tensors, stated)
    complete = {name: whole for name, whole in composites.items() if tensors.keys() >= set(whole.parts.values())}
    return dequantize_edits(infos_of(tensors), read_settings(stated), complete, notes)


def stated_type(stated: Mapping[object, MetaNode]) -> DType:
    """The type that a configuration states for the weights; F32 if it states none."""
    text_config = stated.get("text_config")
    for config in (stated, text_config if isinstance(text_config, dict) else {}):
        for key in _TYPE_KEYS:
            dtype = _TYPES_BY_CONFIG_NAME.get(str(config.get(key)).removeprefix("torch."))
            if dtype is not None:
                return dtype
    return DType.F32


def type_name(tensors: Mapping[str, LazyTensor]) -> str | None:
    """A configuration's name for the type of most of the tensors' bytes, as it was before quantizing; None if
    configurations have no name for it.
    """
    sizes: Counter[DType] = Counter()
    for tensor in tensors.values():
        sizes[before_quantizing(tensor)] += tensor.info.nbytes
    most_common = sizes.most_common(1)
    return _CONFIG_NAMES.get(most_common[0][0]) if most_common else None


def result_types(
    tensors: Mapping[str, LazyTensor],
    origins: Mapping[str, Sequence[str]],
    edits: Sequence[Edit],
    dtype: DType,
    sources: Mapping[str, LazyTensor],
) -> dict[str, DType]:
    """The type for every F32 tensor that was made of a dequantized weight.

    It is the type that the weight's library computes in, if its scales tell, else `dtype`.

    origins: for each tensor, the names in the source that it was made of.
    edits:   the edits that dequantized.
    sources: the source's tensors.
    """
    tied = {step.targets[0]: step.sources[0] for edit in edits if edit.kind == "tie" for step in edit.steps}
    by_source = {
        name: _compute_type(edit, step, sources, tied) or dtype
        for edit in edits
        if edit.kind == "dequantize"
        for step in edit.steps
        for name in step.sources
    }
    return {
        name: next(by_source[origin] for origin in origins[name] if origin in by_source)
        for name, tensor in tensors.items()
        if tensor.info.dtype is DType.F32 and not by_source.keys().isdisjoint(origins[name])
    }


def _compute_type(edit: Edit, step: Step, sources: Mapping[str, LazyTensor], tied: Mapping[str, str]) -> DType | None:
    """The type that the library of a quantized weight computes in, as a graph or the weight's scales say it."""
    computed = _TYPES_BY_DTYPE_NAME.get(str(edit.details.get("computed")))
    if computed is not None:
        return computed
    parts, scale = edit.details["parts"], _SCALE_PART.get(str(edit.details["scheme"]))
    if scale is None or not isinstance(parts, list):
        return None
    telling = [part for part in (scale, _CODEBOOK) if part in parts]
    if not telling:
        return None
    name = step.sources[parts.index(telling[0])]
    dtype = sources[tied.get(name, name)].info.dtype
    # scales that are stored as exponents may have any type, which tells nothing
    return dtype if dtype in _CONFIG_NAMES and dtype is not DType.F64 else None


def findings_about(edits: Sequence[Edit], stated: Mapping[object, MetaNode]) -> list[Finding]:
    """What was dequantized, what was left out, and that the configuration is no longer true."""
    dequantizing = [edit for edit in edits if edit.kind == "dequantize"]
    count = sum(len(edit.steps) for edit in dequantizing)
    schemes = ", ".join(dict.fromkeys(map(_scheme_label, dequantizing)))
    message = f"{plural(count, 'weight is', 'weights are')} dequantized ({schemes}), computed in F32"
    if not count:
        renamed = sum(len(edit.steps) for edit in edits if edit.kind == "rename")
        message = f"{plural(renamed, 'tensor gets its plain name', 'tensors get their plain names')}"
    if any(edit.details.get("mode") == AFFINE or edit.details["scheme"] == HQQ for edit in dequantizing):
        message += ", each step rounded to the scales' type"
    elif any(edit.details["scheme"] == TORCHAO for edit in dequantizing):
        message += ", each step rounded to the weights' type"
    dropped = [step.sources[0] for edit in edits if edit.kind == "drop" for step in edit.steps]
    activations = [name for name in dropped if not name.endswith(comfy.MARKERS)]
    left_out = sum(len(step.sources) - 1 for edit in dequantizing for step in edit.steps)
    left_out += len(dropped) - len(activations)
    left_out -= sum(len(edit.steps) for edit in edits if edit.kind == "tie")
    message += f"; left out: {plural(left_out, 'tensor')} of scales and the like"
    if any("g_idx" in parts for edit in dequantizing if isinstance(parts := edit.details["parts"], list)):
        message += ", the order of the groups among them"
    if activations:
        message += f", and {len(activations):,} for activations (as {activations[0]!r})"
    findings = [Finding("dequantized", "info", "", message, None, str(count))]
    if any(key in stated for key in KEYS) or mlx_settings(stated) is not None:
        message = "the configuration says that the weights are quantized: the result goes with one that does not"
        findings.append(Finding("quantization-config", "info", "", message))
    return findings


def left_quantized(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """Warnings about numbers of 8 bits or less for which no scale is known. They stay as they are, and nothing in the
    result says that they are quantized. Integers count only if they have more than one dimension, as weights do.
    """
    small = {name: tensor.info for name, tensor in tensors.items() if tensor.info.dtype.bits <= 8}
    floats = [name for name, info in small.items() if info.dtype.kind == "float"]
    integers = [name for name, info in small.items() if info.dtype.kind in ("int", "uint") and len(info.shape) > 1]
    findings = []
    for names, advice in ((floats, "--dtype casts"), (integers, "if they are weights, they are still quantized")):
        if names:
            stay = plural(len(names), "tensor stays", "tensors stay")
            kind = small[names[0]].dtype.name
            message = f"{stay} {kind}, without a known scale; {advice}: {listed(names, 4)}"
            findings.append(Finding("left-quantized", "warning", names[0], message))
    return findings


def _scheme_label(edit: Edit) -> str:
    details, parts = edit.details, edit.details["parts"]
    if isinstance(parts, list) and _CODEBOOK in parts:
        return "palettes"
    block, bits = details.get("block"), details.get("bits")
    suffix = ""
    if isinstance(block, list):
        suffix = f" in blocks of {block[0]} × {block[1]}"
    elif bits:
        suffix = f" of {bits} bits"
    if details["scheme"] == MLX and details["mode"] != AFFINE:
        suffix = f" {details['mode']}"
    elif details["scheme"] == MLX:
        suffix += f" in groups of {details['group_size']}"
    return _SCHEME_LABELS[str(details["scheme"])] + suffix


def with_type_name(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration with this type wherever it names one, also in its parts, such as a `text_config`; but not in
    what it says about quantization.
    """
    changed = dict(document)
    for key, value in document.items():
        if isinstance(value, dict) and key not in (*KEYS, MLX_KEY):
            changed[key] = with_type_name(value, name)
        elif key in _TYPE_KEYS and str(value).removeprefix("torch.") in _CONFIG_NAMES.values():
            changed[key] = name
    return changed


def without_quantization_keys(node: MetaNode) -> MetaNode:
    """The metadata without what says that the weights are quantized, also in strings that are JSON."""
    if isinstance(node, dict):
        removed = _quantization_keys(node)
        changed = node.copy()  # keeps the class, such as OrderedDict
        changed.clear()
        changed.update({key: without_quantization_keys(value) for key, value in node.items() if key not in removed})
        return changed
    if isinstance(node, str) and node.lstrip().startswith("{") and any(f'"{key}"' in node for key in (*KEYS, MLX_KEY)):
        try:
            document: Json = strict_json.loads(node)
        except ValueError:
            return node
        if isinstance(document, dict) and (removed := _quantization_keys(document)):
            return json.dumps({key: value for key, value in document.items() if key not in removed})
    return node


def without_keras_marks(checkpoint: Checkpoint, edits: Sequence[Edit]) -> Checkpoint:
    """The checkpoint without what Keras says about quantized layers, if these edits made their weights plain; older
    files list variables by layer, which are in that order.
    """
    if not any(edit.details.get("scheme") == KERAS for edit in edits):
        return checkpoint
    gone = {name for edit in edits for step in edit.steps for name in step.sources} - checkpoint.keys()
    root = without_names(with_plain_policies(checkpoint.root), gone)
    ordered = dict.fromkeys(name for name in (*listed_names(root), *checkpoint) if name in checkpoint)
    return checkpoint.replaced(root=root, tensors={name: checkpoint[name] for name in ordered})


def without_packed_parts(checkpoint: Checkpoint, edits: Sequence[Edit]) -> Checkpoint:
    """The checkpoint without metadata and findings about packed bytes that these edits have made weights of."""
    root = checkpoint.root
    packed = root.get(PACKED_KEY) if isinstance(root, dict) else None
    parts = {name for edit in edits if edit.kind == "dequantize" for step in edit.steps for name in step.sources}
    if not isinstance(root, dict) or not isinstance(packed, dict) or parts.isdisjoint(packed):
        return checkpoint
    left = {name: value for name, value in packed.items() if name not in parts}
    kept = {key: left if key == PACKED_KEY else value for key, value in root.items() if key != PACKED_KEY or left}
    findings = [finding for finding in checkpoint.findings if finding.code != READ_AS]
    return checkpoint.replaced(
        root=next(iter(kept.values())) if len(kept) == 1 else kept,
        findings=(*findings, *read_as_bytes(map(str, left))),
    )


def without_torchao_objects(
    checkpoint: Checkpoint, edits: Sequence[Edit], selected: Mapping[str, LazyTensor]
) -> Checkpoint:
    """The checkpoint without torchao's objects in its metadata for weights that the edits make plain, and for tensors
    that are not selected.
    """
    plain = {
        name: step.targets[0]
        for edit in edits
        if edit.kind == "dequantize" and edit.details["scheme"] == TORCHAO
        for step in edit.steps
        for name in step.sources
    }
    if not plain:
        return checkpoint
    changes = Changes(plain, checkpoint.keys() - selected.keys())
    return checkpoint.replaced(root=changes.applied_to(checkpoint.root))


def without_packed_pairs(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what torch's quantized modules keep their tensors in, which have plain names now."""
    plain = eager.plain_names(infos_of(checkpoint))
    return checkpoint.replaced(root=eager.without_packed(checkpoint.root, plain.values())) if plain else checkpoint


def _quantization_keys(document: Mapping[Any, Any]) -> set[str]:
    """The document's keys that say that weights are quantized."""
    keys = {key for key in (*KEYS, comfy.METADATA) if key in document}
    if mlx_settings({MLX_KEY: document.get(MLX_KEY)}) is not None:
        keys.add(MLX_KEY)
    return keys
