"""Joining the slices that tensor-parallel ranks have of a tensor; `ranks` has the table of how each one is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, depends_of
from ckptconv.edits.joined import joined as side_by_side
from ckptconv.edits.views import sliced
from ckptconv.errors import CorruptFileError, UnsupportedError
from ckptconv.formats.sets.same_values import SameInAll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Parts = dict[str, LazyTensor]
"""A tensor's slices, by the names of the ranks, in order."""

ROWS, COLUMNS, GATED, WHOLE = "rows", "columns", "gated", "whole"

_COLUMN_PARALLEL = (
    "linear_qkv", "linear_fc1", "query_key_value", "dense_h_to_4h", "word_embeddings", "output_layer",
    "word_embeddings_for_head",
)  # fmt: skip
_ROW_PARALLEL = ("linear_proj", "linear_fc2", "dense_4h_to_h", "attention.dense")
_FIRST, _SECOND = ("linear_fc1", "dense_h_to_4h"), ("linear_fc2", "dense_4h_to_h")
_NORMS = ("layernorm", "_norm")
_EMBEDDINGS = ("position_embeddings", "tokentype_embeddings")


def join_slices(name: str, parts: Parts, shapes: Mapping[str, tuple[int, ...]], hint: str) -> LazyTensor:
    """The whole tensor. `shapes` are those of all tensors of a rank.

    Raises UnsupportedError if it is not known how the tensor is cut, CorruptFileError if the slices do not fit
    together.
    """
    (first_rank, first), *others = parts.items()
    for other, tensor in others:
        if tensor.info != first.info:
            mine, its = (f"{info.dtype} {list(info.shape)}" for info in (tensor.info, first.info))
            raise CorruptFileError(
                f"{other}: {name!r} is {mine}, and in {first_rank} {its}: slices are of one size",
                hint="the ranks are not of one model",
            )
    how = cut_of(name, shapes)
    if how is None:
        raise UnsupportedError(f"nothing is known of how {name!r} is cut into slices", hint=hint)
    tensors = list(parts.values())
    if how == WHOLE:
        depends = depends_of(tensors)
        return LazyTensor(first.info, SameInAll(name, tuple(parts.items())), depends=depends)
    if len(first.info.shape) <= (how == COLUMNS):
        raise CorruptFileError(f"{name!r} has the shape {list(first.info.shape)}", hint="the ranks are damaged")
    if how == GATED:
        return side_by_side(_halves(name, tensors, 0) + _halves(name, tensors, 1), 0)
    return side_by_side(tensors, int(how == COLUMNS))


def cut_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """How a tensor is cut, by its name, and for gated layers by the shapes; None if that is not known."""
    module, _, kind = name.rpartition(".")
    last = module.rpartition(".")[2]
    if kind in ("layer_norm_weight", "layer_norm_bias"):
        return WHOLE
    if kind not in ("weight", "bias"):
        return WHOLE if name.endswith("rotary_pos_emb.inv_freq") else None
    if last in _FIRST:
        return _first_of_mlp(module, last, shapes)
    if last in _COLUMN_PARALLEL:
        return ROWS
    if module.endswith(_ROW_PARALLEL):
        return COLUMNS if kind == "weight" else WHOLE
    return WHOLE if last.endswith(_NORMS) or last in _EMBEDDINGS else None


def _first_of_mlp(module: str, last: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """How the first layer of an MLP is cut. It is gated if it has twice as many rows as the second has columns."""
    home = module.removesuffix(last)
    first, second = shapes.get(f"{module}.weight", ()), shapes.get(home + _SECOND[_FIRST.index(last)] + ".weight", ())
    if len(first) != 2 or len(second) != 2:
        return None
    return {second[1]: ROWS, 2 * second[1]: GATED}.get(first[0])


def _halves(name: str, tensors: Sequence[LazyTensor], which: int) -> list[LazyTensor]:
    """The first (0) or second (1) half of each rank's rows."""
    halves = []
    for tensor in tensors:
        half = tensor.info.shape[0] // 2
        part = sliced(tensor, 0, which * half, (which + 1) * half)
        if part is None:
            raise UnsupportedError(f"{name!r} is of {tensor.info.dtype}, which is not cut", hint="name one rank's file")
        halves.append(part)
    return halves
