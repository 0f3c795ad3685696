"""Transformers with one stream, translated to diffusers' names: Wan, LTX-Video, Z-Image, Lumina 2; and Wan's VAE.

    blocks.0.self_attn.q, cross_attn.k_img       → blocks.0.attn1.to_q, attn2.add_k_proj           Wan
    blocks.0.norm3                               → blocks.0.norm2           the only norm that has weights
    transformer_blocks.0.attn1.q_norm            → transformer_blocks.0.attn1.norm_q               LTX-Video
    layers.0.attention.qkv [q + 2 kv, w]         → layers.0.attention.to_q, to_k, to_v             Z-Image
                                                 → layers.0.attn.to_q, to_k, to_v                  Lumina 2

Wan's VAE, which is also Qwen-Image's, numbers the blocks of its decoder through all levels:

    decoder.upsamples.4.residual.2               → decoder.up_blocks.1.resnets.0.conv1
    decoder.upsamples.3.resample.1               → decoder.up_blocks.0.upsamplers.0.resample.1

Sources: Wan-Video/Wan2.1, wan/modules/model.py and vae.py; Lightricks/LTX-Video; Alpha-VLLM/Lumina-Image-2.0,
models/model.py; ComfyUI's comfy/ldm/lumina/model.py; diffusers' loaders/single_file_utils.py, which does the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, inverse
from ckptconv.edits.dialects.released import OWN, Release, Stack, renamed
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]

_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_WAN_BLOCK = {
    "modulation": "scale_shift_table", "norm3": "norm2", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
    "cross_attn.k_img": "attn2.add_k_proj", "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    **{f"self_attn.{own}": f"attn1.{theirs}" for own, theirs in _PROJECTIONS.items()},
    **{f"cross_attn.{own}": f"attn2.{theirs}" for own, theirs in _PROJECTIONS.items()},
}  # fmt: skip
WAN = Release(
    {
        "patch_embedding": "patch_embedding", "vace_patch_embedding": "vace_patch_embedding",
        "head.head": "proj_out", "head.modulation": "scale_shift_table",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    },
    {
        "blocks": Stack(theirs="blocks", parts=_WAN_BLOCK),
        "vace_blocks": Stack(
            theirs="vace_blocks", parts={**_WAN_BLOCK, "before_proj": "proj_in", "after_proj": "proj_out"}
        ),
    },
    called="Wan's transformer",
)  # fmt: skip
_BOTH = ("to_q", "to_k", "to_v", "to_out.0")
LTX = Release(
    {
        "patchify_proj": "proj_in", "proj_out": "proj_out", "scale_shift_table": "scale_shift_table",
        "adaln_single.linear": "time_embed.linear",
        **{f"adaln_single.emb.timestep_embedder.linear_{i}": f"time_embed.emb.timestep_embedder.linear_{i}"
           for i in (1, 2)},
        **{f"caption_projection.linear_{i}": f"caption_projection.linear_{i}" for i in (1, 2)},
    },
    {
        "transformer_blocks": Stack(
            theirs="transformer_blocks",
            parts={
                "scale_shift_table": "scale_shift_table", "ff.net.0.proj": "ff.net.0.proj", "ff.net.2": "ff.net.2",
                **{f"{attn}.{part}": f"{attn}.{part}" for attn in ("attn1", "attn2") for part in _BOTH},
                **{f"{attn}.{part}_norm": f"{attn}.norm_{part}" for attn in ("attn1", "attn2") for part in "qk"},
            },
        )
    },
    called="LTX-Video's transformer",
)  # fmt: skip
_GATED = {f"feed_forward.w{i}": f"feed_forward.w{i}" for i in (1, 2, 3)}
_AROUND = {name: name for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")}
_Z_BLOCK = {
    **_GATED, **_AROUND, "adaLN_modulation.0": "adaLN_modulation.0", "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q", "attention.k_norm": "attention.norm_k",
}  # fmt: skip
Z_IMAGE = Release(
    {
        "x_embedder": "all_x_embedder.2-1", "final_layer.linear": "all_final_layer.2-1.linear",
        "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
        **{name: name for name in ("x_pad_token", "cap_pad_token", "t_embedder.mlp.0", "t_embedder.mlp.2",
                                   "cap_embedder.0", "cap_embedder.1")},
    },
    {
        stack: Stack(
            theirs=stack, parts=_Z_BLOCK,
            fused={"attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v")},
        )
        for stack in ("layers", "noise_refiner", "context_refiner")
    },
    unused=("norm_final.weight",),
    called="Z-Image's transformer",
)  # fmt: skip
_LUMINA_BLOCK = {
    **{f"feed_forward.w{i}": f"feed_forward.linear_{i}" for i in (1, 2, 3)},
    "attention.out": "attn.to_out.0", "attention.q_norm": "attn.norm_q", "attention.k_norm": "attn.norm_k",
    "attention_norm2": "norm2", "ffn_norm1": "ffn_norm1", "ffn_norm2": "ffn_norm2",
}  # fmt: skip
_TIMED = {**_LUMINA_BLOCK, "attention_norm1": "norm1.norm", "adaLN_modulation.1": "norm1.linear"}
LUMINA2 = Release(
    {
        "x_embedder": "x_embedder", "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.linear": "norm_out.linear_2",
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "cap_embedder.0": "time_caption_embed.caption_embedder.0",
        "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    },
    {
        stack: Stack(theirs=stack, parts=parts, fused={"attention.qkv": OWN}, grouped=True)
        for stack, parts in (
            ("layers", _TIMED),
            ("noise_refiner", _TIMED),
            ("context_refiner", {**_LUMINA_BLOCK, "attention_norm1": "norm1"}),
        )
    },
    unused=("norm_final.weight",),
    called="Lumina 2's transformer",
)  # fmt: skip

_RESIDUAL = {
    "residual.0.gamma": "norm1.gamma", "residual.2": "conv1", "residual.3.gamma": "norm2.gamma", "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}  # fmt: skip
_BACK = inverse(_RESIDUAL)
_VAE = {
    "conv1": "quant_conv", "conv2": "post_quant_conv",
    **{
        f"{coder}.{own}": f"{coder}.{theirs}"
        for coder in ("encoder", "decoder")
        for own, theirs in {
            "conv1": "conv_in", "head.0.gamma": "norm_out.gamma", "head.2": "conv_out",
            "middle.1.norm.gamma": "mid_block.attentions.0.norm.gamma",
            "middle.1.to_qkv": "mid_block.attentions.0.to_qkv", "middle.1.proj": "mid_block.attentions.0.proj",
            **{f"middle.{2 * i}.{part}": f"mid_block.resnets.{i}.{new}" for part, new in _RESIDUAL.items()
               for i in (0, 1)},
        }.items()
    },
}  # fmt: skip
_VAE_BACK = inverse(_VAE)
_FLAT = re.compile(r"(encoder\.downsamples|decoder\.upsamples)\.([0-9]{1,4})\.(.+)", re.DOTALL)
_LEVELS = re.compile(
    r"(?:(encoder\.down_blocks)\.([0-9]{1,4})|(decoder\.up_blocks)\.([0-9]{1,4})\.(resnets|upsamplers)\.([0-9]{1,4}))"
    r"\.(.+)",
    re.DOTALL,
)


def wan_vae(tensors: Tensors) -> dict[str, Change]:
    """The changes of the tensors of Wan 2.1's VAE. Raises EditError if the decoder's levels cannot be counted,
    UnsupportedError for Wan 2.2's.
    """
    if any(name.startswith("decoder.upsamples.0.upsamples.") for name in tensors):
        raise UnsupportedError(
            "--translate ldm does not take the VAE of Wan 2.2 apart", hint="diffusers' own folder of it has its names"
        )
    count = _blocks_per_level(tensors)
    found = {name: _vae_name(name, count) for name in tensors}
    return {name: Change.to(new) for name, new in found.items() if new}


def _blocks_per_level(tensors: Tensors) -> int:
    """How many blocks a level of the decoder has, including the one that enlarges it."""
    ends = [
        int(match[2])
        for name in tensors
        if (match := _FLAT.fullmatch(name)) and match[1] == "decoder.upsamples" and match[3] == "resample.1.weight"
    ]
    first = min(ends, default=-1) + 1
    if not first or any((end + 1) % first for end in ends):
        raise EditError(
            "--translate ldm: a part of the decoder is missing, and its levels are counted by what makes them larger",
            hint="a --select of the whole VAE takes them all",
        )
    return first


def _vae_name(name: str, level: int) -> str:
    match = _FLAT.fullmatch(name)
    if match is None:
        return renamed(name, _VAE)
    number, inner = int(match[2]), renamed(match[3], _RESIDUAL)
    if match[1] == "encoder.downsamples":
        return f"encoder.down_blocks.{number}.{inner or match[3]}"
    kind = f"resnets.{number % level}.{inner}" if inner else f"upsamplers.0.{match[3]}"
    return f"decoder.up_blocks.{number // level}.{kind}"


def wan_vae_originals(tensors: Tensors) -> dict[str, Change]:
    """The changes back from diffusers' names of that VAE to those of Wan 2.1's release."""
    places = [match for name in tensors if (match := _LEVELS.fullmatch(name)) and match[5] == "resnets"]
    level = max((int(match[6]) for match in places if match[4] == "0"), default=0) + 2
    found = {name: _vae_original(name, level) for name in tensors}
    return {name: Change.to(new) for name, new in found.items() if new}


def _vae_original(name: str, level: int) -> str:
    match = _LEVELS.fullmatch(name)
    if match is None:
        return renamed(name, _VAE_BACK)
    inner = renamed(match[7], _BACK) or match[7]
    if match[1]:
        return f"encoder.downsamples.{match[2]}.{inner}"
    place = int(match[6]) if match[5] == "resnets" else level - 1
    return f"decoder.upsamples.{int(match[4]) * level + place}.{inner}"
