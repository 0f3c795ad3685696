"""Whisper as OpenAI releases it and whisper.cpp has it, translated to the names of WhisperForConditionalGeneration.

    encoder.blocks.0.attn.query, key, value, out   model.encoder.layers.0.self_attn.q_proj, k_proj, v_proj, out_proj
    decoder.blocks.0.cross_attn.query              model.decoder.layers.0.encoder_attn.q_proj
    attn_ln, cross_attn_ln, mlp_ln                 self_attn_layer_norm, encoder_attn_layer_norm, final_layer_norm
    mlp.0, mlp.2                                   fc1, fc2
    encoder.conv1, conv2                           model.encoder.conv1, conv2
    encoder.ln_post, decoder.ln                    model.encoder.layer_norm, model.decoder.layer_norm
    encoder.positional_embedding                   model.encoder.embed_positions.weight; likewise the decoder's
    decoder.token_embedding                        model.decoder.embed_tokens, and proj_out, which shares it

Layouts are the same. Tensors that Whisper does not have keep their names. MLX's Whisper is refused: it has some of
these names, but transposes convolutions.

Sources: openai/whisper, whisper/model.py; transformers' convert_openai_to_hf.py and modeling_whisper.py; whisper.cpp's
convert-pt-to-ggml.py, which keeps OpenAI's names; mlx-examples' whisper/convert.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
_IN_BLOCK = {
    **{f"attn.{old}": f"self_attn.{new}" for old, new in _PROJECTIONS.items()},
    **{f"cross_attn.{old}": f"encoder_attn.{new}" for old, new in _PROJECTIONS.items()},
    "attn_ln": "self_attn_layer_norm", "cross_attn_ln": "encoder_attn_layer_norm", "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1", "mlp.2": "fc2",
}  # fmt: skip
_OUTSIDE = {
    "encoder.conv1": "encoder.conv1", "encoder.conv2": "encoder.conv2", "encoder.ln_post": "encoder.layer_norm",
    "decoder.ln": "decoder.layer_norm", "decoder.token_embedding": "decoder.embed_tokens",
}  # fmt: skip
_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.([0-9]{1,4})\.(.+)")
_POSITIONS = re.compile(r"(encoder|decoder)\.positional_embedding")
_EMBEDDING, _OUTPUT = "decoder.token_embedding", "proj_out.weight"
_OF_MLX = ("mlp1", "mlp2")


def known(names: Iterable[str]) -> bool:
    """Whether one of these names is that of an attention in a block of Whisper."""
    parts = (block[3] for block in map(_BLOCK.fullmatch, names) if block)
    return any(module in _IN_BLOCK and "attn." in module for module in (part.rpartition(".")[0] for part in parts))


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor; none changes if no block is Whisper's. Raises UnsupportedError for MLX's Whisper."""
    if not known(tensors):  # convolutions and positions many networks have
        return {name: Change.to(name) for name in tensors}
    if mlx := [name for name in tensors if (block := _BLOCK.fullmatch(name)) and block[3].startswith(_OF_MLX)]:
        raise UnsupportedError(
            f"--translate whisper: {mlx[0]!r} is a name of MLX's Whisper, whose convolutions have another layout",
            hint="translate what it was made from, or --rules FILE",
        )
    return {name: _change(name) for name in tensors}


def _change(name: str) -> Change:
    new = _new_name(name)
    if new is None:
        return Change(names=(name,), note="Whisper has no such tensor, which keeps its name")
    shared = (_OUTPUT,) if name == f"{_EMBEDDING}.weight" else ()
    return Change(names=(f"model.{new}",), shared=shared)


def _new_name(name: str) -> str | None:
    """WhisperModel's name for it; None for a tensor that it does not have."""
    if positions := _POSITIONS.fullmatch(name):
        return f"{positions[1]}.embed_positions.weight"
    module, _, kind = name.rpartition(".")
    block = _BLOCK.fullmatch(module)
    if kind not in ("weight", "bias"):
        return None
    if block is None:
        return f"{_OUTSIDE[module]}.{kind}" if module in _OUTSIDE else None
    return f"{block[1]}.layers.{block[2]}.{_IN_BLOCK[block[3]]}.{kind}" if block[3] in _IN_BLOCK else None
