"""How weights are quantized, as far as endings of names and types of tensors show it, for `inspect`.

It needs no configuration. `find` looks more closely.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import infos_of
from ckptconv.edits.quantized import eager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo

_MARKS: tuple[tuple[str, str, str, tuple[DType, ...]], ...] = (
    (".scales", ".weight", "MLX's", (DType.U32,)),
    (".scales", ".qweight", "GPTQ's or AWQ's", (DType.I32,)),
    ("_scale", "", "8-bit floats or integers with scales", (DType.F8_E4M3, DType.F8_E5M2, DType.I8)),
    (".scale_weight", ".weight", "8-bit floats or integers with scales", (DType.F8_E4M3, DType.F8_E5M2, DType.I8)),
    ("_scale_inv", "", "8-bit floats with scales", (DType.F8_E4M3, DType.F8_E5M2)),
    ("_scale", "_packed", "compressed-tensors'", (DType.I32, DType.U8)),
    ("_scale_2", "", "NVFP4", (DType.U8,)),
    ("_scales", "_blocks", "MXFP4", (DType.U8,)),
    (".zero", ".W_q", "HQQ's", (DType.U8, DType.I32, DType.F16, DType.BF16, DType.F32)),
    (".SCB", ".weight", "bitsandbytes' of 8 bits", (DType.I8,)),
    (".absmax", "", "bitsandbytes' of 4 bits", (DType.U8,)),
)
"""(ending, ending of the weight beside it, what such weights are called, the weight's types)."""


TORCH_MODULES = "torch's quantized modules"
"""What checkpoints of `eager` are called."""

KERAS = ("hdf5", "keras", "keras-sharded")
"""The formats whose quantized weights `keras` finds."""


def kinds_in(checkpoint: Checkpoint) -> dict[str, int]:
    """How many weights are quantized in each way: as a graph says, and for the others, as names and types show."""
    stated = checkpoint.notes.quantized
    known = {part for weight in stated for part in weight.parts.values()}.union(checkpoint.notes.between)
    found = Counter(weight.called for weight in stated)
    if outputs := eager.for_outputs(infos_of(checkpoint), checkpoint.composites):
        found[TORCH_MODULES] = len(outputs) // 2
    elif packed := eager.plain_names(infos_of(checkpoint)):
        found[TORCH_MODULES] = len(packed)
    found.update(quantized_in({name: info for name, info in infos_of(checkpoint).items() if name not in known}))
    return dict(found.most_common())


def quantized_in(infos: Mapping[str, TensorInfo]) -> dict[str, int]:
    """How many weights are quantized in each way, as names and types show."""
    found: Counter[str] = Counter()
    for name in infos:
        for end, other, called, dtypes in _MARKS:
            weight = infos.get(name.removesuffix(end) + other) if name.endswith(end) else None
            if weight is not None and weight.dtype in dtypes:
                found[called] += 1
                break
    return dict(found.most_common())
