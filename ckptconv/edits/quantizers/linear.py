"""Which of a model's tensors are quantized: the weights of linear layers, as far as names and shapes show them.

These are matrices called ``….weight``, except for what quantizers leave alone: embeddings, the output layer and other
heads, routers, and vision and audio towers with their projectors. Tensors tied to another name are left alone, too.
Layers that an engine computes as one (q, k and v; gate and up) are quantized together or not at all.

Refused: GPT-2's Conv1D, whose weights are transposed, as the length of the bias shows.

Sources: transformers 5.24, quantizers/base.py (`get_keys_to_not_convert`); llm-compressor's examples; vLLM's
packed_modules_mapping, and quantization/utils/quant_utils.py (`is_layer_skipped`).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.names import module_of
from ckptconv.core.text import plural
from ckptconv.edits.dialects.mlx import is_changed
from ckptconv.edits.quantized.parts import FLOATS
from ckptconv.edits.quantizers.configs import EXPERT
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.edits.quantizers.schemes import Scheme

    Tensors = Mapping[str, LazyTensor]

WEIGHT = ".weight"

HEAD = "lm_head"
"""The output layer. It is not quantized, even if it is tied and not in the file."""

_HEADS = (HEAD, "embed_out", "output", "output_layer", "score", "classifier", "qa_outputs", "decoder")
_KEPT = re.compile(
    r"(?:.*\.)?(?:\w*embed\w*|\w*embd\w*|wte|wpe|emb|shared|relative_attention_bias"
    r"|gate|router|shared_expert_gate"
    r"|visual|vision_tower|vision_model|vision_encoder|vit|audio_tower|audio_model"
    r"|multi_modal_projector|mm_projector|mlp1|connector|aligner)\..*"
)
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))


def is_kept(name: str) -> bool:
    """Whether a weight of this name is quantized only if it is asked for by name."""
    return module_of(name).rpartition(".")[2] in _HEADS or _KEPT.fullmatch(name) is not None


def linear_weights(tensors: Tensors, scheme: Scheme, kind: object = None) -> tuple[list[str], dict[str, str]]:
    """The weights to quantize; and those that do not fit by shape or type, with the reason.

    kind: the model_type, if known. Raises EditError for transposed weights, and for a model that does not load with
    quantized weights.
    """
    _check_loads_in_mlx(tensors, scheme, kind)
    shared = Counter(tensor.alias for tensor in tensors.values() if tensor.alias is not None)
    found, unfit = [], {}
    for name, tensor in tensors.items():
        if not name.endswith(WEIGHT) or len(tensor.info.shape) != 2 or tensor.info.dtype.kind != "float":
            continue
        if is_kept(name) or shared[tensor.alias] > 1:
            continue
        _check_not_transposed(name, tensor.info, tensors)
        why = scheme.unfit(tensor.info)
        if not why and _is_excluded_expert(name, scheme):
            why = f"is an expert's, {scheme.experts}"
        if why:
            unfit[name] = why
        else:
            found.append(name)
    for name in found:
        if excluded := [other for other in _computed_with(name) if other in unfit]:
            unfit.setdefault(name, f"is computed together with {excluded[0]!r}")
    return [name for name in found if name not in unfit], unfit


def _is_excluded_expert(name: str, scheme: Scheme) -> bool:
    return bool(scheme.experts) and EXPERT.search(module_of(name)) is not None


def _computed_with(name: str) -> Iterable[str]:
    """The weights that engines fuse with this one."""
    module = module_of(name)
    parent, _, last = module.rpartition(".")
    for several in _TOGETHER:
        if last in several:
            yield from (f"{parent}.{sibling}{WEIGHT}".removeprefix(".") for sibling in several if sibling != last)


def _check_loads_in_mlx(tensors: Tensors, scheme: Scheme, kind: object) -> None:
    """Raise EditError for a model whose weights mlx-lm changes as it loads them: it needs plain ones."""
    if not scheme.name.startswith("mlx"):
        return
    experts = next((name for name in tensors if EXPERT.search(name)), None)
    if experts is not None or is_changed(kind):
        what = f"as {experts!r}" if experts is not None else f"of a {kind}"
        raise EditError(
            f"--quantize {scheme.name}: mlx-lm changes weights {what} when it loads them, which takes plain ones",
            hint="mlx_lm.convert quantizes such models",
        )


def _check_not_transposed(name: str, info: TensorInfo, tensors: Tensors) -> None:
    bias = tensors.get(f"{module_of(name)}.bias")
    rows, columns = info.shape
    if bias is not None and bias.info.shape == (columns,) and rows != columns:
        raise EditError(
            f"--quantize: {name!r} is {rows:,} × {columns:,} and has a bias of {columns:,}: it lies the other way "
            "round than a linear layer's, as GPT-2's Conv1D does",
            hint="quantizers leave such layers as they are",
        )


def stacked_experts(tensors: Tensors) -> list[str]:
    """Weights of experts stacked in a tensor of three dimensions, which are not quantized."""
    return [
        name
        for name, tensor in tensors.items()
        if len(tensor.info.shape) == 3 and tensor.info.dtype in FLOATS and "expert" in name
    ]


def kept_modules(tensors: Tensors, done: Container[str]) -> list[str]:
    """The modules that a configuration must list as not quantized: those of other matrices, and of experts."""
    matrices = [
        name
        for name, tensor in tensors.items()
        if len(tensor.info.shape) == 2 and name.endswith(WEIGHT) and name not in done
    ]
    return list(dict.fromkeys([*(module_of(name) for name in (*matrices, *stacked_experts(tensors))), HEAD]))


def nothing_to_do(scheme: Scheme, unfit: Mapping[str, str]) -> EditError:
    """The error if no weight is quantized."""
    if unfit:
        name, why = next(iter(unfit.items()))
        return EditError(
            f"--quantize {scheme.name}: none of {plural(len(unfit), 'weight')} of linear layers fits: {name!r} {why}",
            hint="fp8 takes matrices of any shape" if scheme.name != "fp8" else "--dtype BF16 casts them first",
        )
    return EditError(
        f"--quantize {scheme.name} finds no weight of a linear layer: a matrix called ….weight",
        hint=f"--quantize 'NAME={scheme.name}' asks for one by its full name; ckptconv inspect --list shows them",
    )
