"""OpenCLIP's text transformer, translated to transformers' names, and back.

    transformer.resblocks.0.attn.in_proj_weight [3w, w] → text_model.encoder.layers.0.self_attn.q_proj, k_proj, v_proj
    text_projection [w, p]                              → text_projection.weight [p, w]
    ln_1, mlp.c_fc, ln_final, positional_embedding …    → layer_norm1, mlp.fc1, final_layer_norm …

logit_scale keeps its name. Stable Diffusion 2 uses neither the last layer nor the projection; both are translated.
Sources: mlfoundations/open_clip, transformer.py; diffusers' convert_open_clip_checkpoint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, inverse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

_ROOT = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight", "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}  # fmt: skip
_LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_IN_LAYER = re.compile(r"transformer\.resblocks\.([0-9]{1,4})\.(?:([\w.]+)\.|attn\.in_proj_)(weight|bias)")
_IN_ENCODER = re.compile(r"text_model\.encoder\.layers\.([0-9]{1,4})\.([\w.]+)\.(weight|bias)")
_ROOT_BACK, _LAYER_BACK = inverse(_ROOT), inverse(_LAYER)
_PROJECTIONS = tuple(f"self_attn.{each}_proj" for each in "qkv")
POSITIONS = "text_model.embeddings.position_ids"
"""A buffer of transformers' that holds 0, 1, 2 and so on."""


def text(tensors: Mapping[str, TensorInfo]) -> dict[str, Change]:
    """The changes of the text encoder's tensors. Raises EditError if a fused projection does not divide into three."""
    found = {name: _change(name, info) for name, info in tensors.items()}
    return {name: change for name, change in found.items() if change is not None}


def _change(name: str, info: TensorInfo) -> Change | None:
    if name in _ROOT:
        return Change.to(_ROOT[name])
    if name == "text_projection":
        return Change.to("text_projection.weight", axes=(1, 0))
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return None
    layer, part, word = match.groups()
    before = f"text_model.encoder.layers.{layer}."
    if part is None:
        return Change.cut([f"{before}{each}.{word}" for each in _PROJECTIONS], name, info)
    return Change.to(f"{before}{_LAYER[part]}.{word}") if part in _LAYER else None


def originals(tensors: Mapping[str, TensorInfo]) -> dict[str, Change]:
    """The changes that give the tensors of transformers' text encoder OpenCLIP's names. Drops the positions."""
    found = {name: _original(name) for name in tensors}
    return {name: change for name, change in found.items() if change is not None}


def _original(name: str) -> Change | None:
    if name in _ROOT_BACK:
        return Change.to(_ROOT_BACK[name])
    if name == "text_projection.weight":
        return Change.to("text_projection", axes=(1, 0))
    if name == POSITIONS:
        return Change(names=(name,), dropped=True)
    match = _IN_ENCODER.fullmatch(name)
    if match is None:
        return None
    layer, part, word = match.groups()
    before = f"transformer.resblocks.{layer}."
    if part in _PROJECTIONS:
        return Change.piece(f"{before}attn.in_proj_{word}", _PROJECTIONS.index(part), len(_PROJECTIONS))
    return Change.to(f"{before}{_LAYER_BACK[part]}.{word}") if part in _LAYER_BACK else None
