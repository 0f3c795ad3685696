"""The state_dicts of torch's own quantized modules (``torch.ao.nn.quantized``), as plain ones.

    M._packed_params._packed_params    a pair: the weight, quantized or not, and the bias or None → M.weight, M.bias
    M._packed_params._packed_weight    an Embedding's weight → M.weight
    M._packed_params.dtype             a plain value, left out
    M.weight                           that of a convolution keeps its name
    M.scale, M.zero_point              how outputs are quantized, a number each: left out

Recurrent layers are in `eager_recurrent`.
The tensors of the pair are called by their places in it, ``….0`` and ``….1``. A scale and a zero point count only in a
checkpoint that has quantized weights.
Source: torch/ao/nn/quantized/modules/linear.py, embedding_ops.py, conv.py (`_save_to_state_dict`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.composite import Quantized
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.edits.quantized.eager_recurrent import ENTRY, recurrent_names
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.composite import Composite
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import TensorInfo

    Infos = Mapping[str, TensorInfo]

_PACKED = re.compile(r"((?:.+\.)?)_packed_params\._packed_(?:params\.([01])|(weight))")
_ENTRY = re.compile(r"(?:(.+)\.)?_packed_params\.(?:dtype|_packed_params|_packed_weight)")
_HOLDER = "_packed_params"


def plain_names(infos: Infos) -> dict[str, str]:
    """The plain names of the tensors that are packed."""
    matches = {name: _PACKED.fullmatch(name) for name in infos if _HOLDER in name}
    plain = {name: f"{match[1]}{'bias' if match[2] == '1' else 'weight'}" for name, match in matches.items() if match}
    return plain | recurrent_names(infos)[0]


def twice_there(infos: Infos) -> list[str]:
    """The biases that recurrent layers have twice. Raises EditError if it is not certain what such a layer's are."""
    _, twice, unclear = recurrent_names(infos)
    if unclear:
        raise EditError(
            f"--dequantize: nothing says whether {unclear!r} has two layers, or one in both directions",
            hint="name its tensors with --rename, and leave it out here with --drop",
        )
    return twice


def for_outputs(infos: Infos, composites: Mapping[str, Composite]) -> list[str]:
    """The scales and zero points of modules' outputs."""
    if not plain_names(infos) and not any(isinstance(whole, Quantized) for whole in composites.values()):
        return []
    found = []
    for name, info in infos.items():
        module, _, word = name.rpartition(".")
        other = infos.get(f"{module}.scale")
        if word == "zero_point" and _is_number(info, DType.I64) and other is not None and _is_number(other, DType.F32):
            found += [f"{module}.scale", name]
    return found


def _is_number(info: TensorInfo, dtype: DType) -> bool:
    return info.dtype is dtype and info.numel == 1


def without_packed(node: MetaNode, made: Collection[str]) -> MetaNode:
    """The metadata without the packed pairs and values of modules that have plain tensors now.

    made: the plain names of tensors that were packed.
    """
    modules = {name.rpartition(".")[0] for name in made}
    match node:
        case StateDict():
            kept = tuple(entry for entry in node.plain if _module_of_packed(node.prefix + entry[1]) not in modules)
            return replace(node, plain=kept)
        case dict():
            changed = node.copy()
            changed.update({key: without_packed(value, made) for key, value in node.items()})
            return changed
    return node


def _module_of_packed(key: str) -> str | None:
    """The module whose packed weight an entry of a state_dict belongs to; None for all other entries."""
    match = _ENTRY.fullmatch(key) or ENTRY.fullmatch(key)
    return match[1] or "" if match else None
