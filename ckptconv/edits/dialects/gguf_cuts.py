"""Cuts tensors of transformers that llama.cpp has in pieces, or in another order: the inverse of the table's rows
`join`.

    self_attn.kv_b_proj         → attn_k_b, attn_v_b               DeepSeek: k and v of each head, k transposed
    experts.gate_up_proj        → ffn_gate_exps, ffn_up_exps       Llama 4: two halves; gpt-oss: alternating
    shared_mlp.input_linear     → ffn_gate, ffn_up                 Granite

The dimension to be cut is moved to the front first, since a `Change` cuts along that one.

Source: llama.cpp's conversion/ (`modify_tensors` of DeepseekV2Model, GptOssModel, Llama4Model, GraniteMoeModel).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change
from ckptconv.edits.dialects.gguf_config import whole_number
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Permutation, Shape
    from ckptconv.edits.dialects.gguf_table import Joining


_EXPERTS = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")


def argsort(axes: Sequence[int]) -> Shape:
    """The order of axes that undoes this one."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def inverse_permutation(permutation: Permutation) -> Permutation:
    """The permutation of rows that undoes this one."""
    shape, axes = permutation
    return tuple(shape[axis] for axis in axes), argsort(axes)


def cut(name: str, info: TensorInfo, joining: Joining, names: Sequence[str]) -> Change:
    """Cuts a tensor into equal parts, one for each name. Raises EditError if it does not divide into them."""
    rank = len(joining.axes) if joining.axes is not None else len(info.shape)
    axes = argsort(joining.axes) if joining.axes is not None else tuple(range(rank))
    at = joining.axis if joining.merge is None else joining.merge
    fits = at < rank == len(info.shape)
    parted = axes[at] if fits else 0
    rows = info.shape[parted] if fits else 0
    if not rows or rows % len(names):
        raise EditError(
            f"{name!r} is {list(info.shape)}, which are no {len(names)} equal parts",
            hint="ckptconv inspect shows its shape",
        )
    size = rows // len(names)
    inner = (size, len(names)) if joining.kind == "stack" else (len(names), size)
    shape = (*info.shape[:parted], *inner, *info.shape[parted + 1 :])
    which = parted + (joining.kind == "stack")
    kept = [axis + (axis > parted) + (axis == parted and joining.kind == "concat") for axis in axes]
    return Change(names=tuple(names), shape=shape, axes=(which, *kept))


def cut_heads(
    name: str, info: TensorInfo, names: Sequence[str], heads: int, sizes: Shape, axes_of_parts: Sequence[Shape]
) -> Change:
    """Cuts each head's rows into parts, and moves the dimension of heads to the front; then each part's dimensions are
    transposed as `axes_of_parts` says. Raises EditError if the tensor does not divide into them.
    """
    if len(info.shape) != 2 or info.shape[0] != heads * sum(sizes) or 0 in sizes:
        raise EditError(
            f"{name!r} is {list(info.shape)}, which are no {heads} heads of {' + '.join(map(str, sizes))} rows",
            hint="ckptconv inspect shows its shape",
        )
    transposed = {
        part: tuple((1, 0, 2)[axis] for axis in axes) for part, axes in zip(names, axes_of_parts, strict=True)
    }
    shape = (heads, sum(sizes), info.shape[1])
    return Change(names=tuple(names), shape=shape, axes=(1, 0, 2), sizes=sizes, transposed=transposed)


def has_inputs_first(tensors: Mapping[str, TensorInfo], config: Mapping[object, object]) -> bool:
    """Whether stacked experts have inputs before outputs, as Qwen3-VL's on the hub do. Found by the width in the
    configuration, if exactly one of an expert's dimensions has it.
    """
    width = whole_number(config, ("hidden_size",))
    for name, info in tensors.items():
        if len(info.shape) == 3 and name.endswith(_EXPERTS) and (info.shape[1] == width) != (info.shape[2] == width):
            return (info.shape[2] == width) == name.endswith(_EXPERTS[0])
    return True
