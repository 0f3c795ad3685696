"""Tensors of transformers' that llama.cpp has as several, or in another order: the rows of `join` in the table, undone.

    self_attn.kv_b_proj         → attn_k_b, attn_v_b               DeepSeek: k and v of each head, k turned
    experts.gate_up_proj        → ffn_gate_exps, ffn_up_exps       Llama 4: one half and the other; gpt-oss: in turn
    shared_mlp.input_linear     → ffn_gate, ffn_up                 Granite

The dimension that is cut becomes the first, along which a `Change` cuts.

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
    """The order that undoes an order."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def undone(permutation: Permutation) -> Permutation:
    """The order of rows that undoes one."""
    shape, axes = permutation
    return tuple(shape[axis] for axis in axes), argsort(axes)


def cut(name: str, info: TensorInfo, joining: Joining, names: Sequence[str]) -> Change:
    """Equal parts, one for each name. Raises EditError where the tensor has no such."""
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
    name: str, info: TensorInfo, names: Sequence[str], heads: int, sizes: Shape, turns: Sequence[Shape]
) -> Change:
    """Parts of each head's rows, heads first, and then with their dimensions as `turns` says. Raises as `cut`."""
    if len(info.shape) != 2 or info.shape[0] != heads * sum(sizes) or 0 in sizes:
        raise EditError(
            f"{name!r} is {list(info.shape)}, which are no {heads} heads of {' + '.join(map(str, sizes))} rows",
            hint="ckptconv inspect shows its shape",
        )
    turned = {part: tuple((1, 0, 2)[axis] for axis in turn) for part, turn in zip(names, turns, strict=True)}
    shape = (heads, sum(sizes), info.shape[1])
    return Change(names=tuple(names), shape=shape, axes=(1, 0, 2), sizes=sizes, turned=turned)


def lies_turned(tensors: Mapping[str, TensorInfo], config: Mapping[object, object]) -> bool:
    """Whether experts in one tensor have inputs before outputs, as Qwen3-VL's on the hub: by the width that the
    configuration says, if one of them has it once.
    """
    width = whole_number(config, ("hidden_size",))
    for name, info in tensors.items():
        if len(info.shape) == 3 and name.endswith(_EXPERTS) and (info.shape[1] == width) != (info.shape[2] == width):
            return (info.shape[2] == width) == name.endswith(_EXPERTS[0])
    return True
