"""Transformers with two streams, translated to diffusers' names: Flux, Flux.2, Chroma, HunyuanVideo, Stable Diffusion
3.

    double_blocks.0.img_attn.qkv [3w, w]   → transformer_blocks.0.attn.to_q, to_k, to_v
    single_blocks.0.linear1 [3w + m, w]    → single_transformer_blocks.0.attn.to_q, to_k, to_v, proj_mlp
    joint_blocks.0.context_block.attn.qkv  → transformer_blocks.0.attn.add_q_proj, add_k_proj, add_v_proj
    final_layer.adaLN_modulation.1         → norm_out.linear          with shift and scale swapped

Flux.2 keeps linear1 as one, attn.to_qkv_mlp_proj. Stable Diffusion 3's last block returns nothing to the text: its
context_block has only a shift and a scale, which are swapped too. Sources: black-forest-labs/flux and flux2, model.py
and modules/layers.py; Stability-AI/sd3-ref, mmdit.py; Tencent/HunyuanVideo, hyvideo/modules/models.py; ComfyUI's
comfy/ldm/chroma/model.py; diffusers' loaders/single_file_utils.py, which does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.released import OWN, Release, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_FINAL = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
_LINEAR1 = {"linear1": (*OWN, "proj_mlp")}


def _embedders(called: Mapping[str, str], layers: tuple[str, str], where: str = "time_text_embed") -> dict[str, str]:
    """The two linear layers of each embedder of times, texts and guidance."""
    return {
        f"{own}.{layer}": f"{where}.{embedder}.linear_{number}"
        for own, embedder in called.items()
        for number, layer in enumerate(layers, 1)
    }


_LAYERS, _MLPS = ("in_layer", "out_layer"), ("mlp.0", "mlp.2")
_ENDS = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
_ATTENTION = {
    "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight", "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}  # fmt: skip
_MLP = {
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
}  # fmt: skip
_NORMS = {"norm.query_norm.scale": "attn.norm_q.weight", "norm.key_norm.scale": "attn.norm_k.weight"}
_QKV = {"img_attn.qkv": OWN, "txt_attn.qkv": _ADDED}


FLUX = Release(
    {
        **_ENDS,
        **_embedders(
            {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}, _LAYERS
        ),
    },
    {
        "double_blocks": Stack(
            theirs="transformer_blocks",
            parts={"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear", **_ATTENTION, **_MLP},
            fused=_QKV,
        ),
        "single_blocks": Stack(
            theirs="single_transformer_blocks",
            parts={"modulation.lin": "norm.linear", "linear2": "proj_out", **_NORMS},
            wide=_LINEAR1,
        ),
    },
    _FINAL,
)
CHROMA = Release(
    {
        **_ENDS,
        **{f"distilled_guidance_layer.{part}": f"distilled_guidance_layer.{part}" for part in ("in_proj", "out_proj")},
    },
    {
        "distilled_guidance_layer.layers": Stack(
            theirs="distilled_guidance_layer.layers", parts={"in_layer": "linear_1", "out_layer": "linear_2"}
        ),
        "distilled_guidance_layer.norms": Stack(theirs="distilled_guidance_layer.norms", parts={"scale": "weight"}),
        "double_blocks": Stack(theirs="transformer_blocks", parts={**_ATTENTION, **_MLP}, fused=_QKV),
        "single_blocks": Stack(
            theirs="single_transformer_blocks", parts={"linear2": "proj_out", **_NORMS}, wide=_LINEAR1
        ),
    },
    called="Chroma's transformer",
)
FLUX2 = Release(
    {
        **_ENDS,
        **_embedders(
            {"time_in": "timestep_embedder", "guidance_in": "guidance_embedder"}, _LAYERS, "time_guidance_embed"
        ),
        **{
            f"{name}.lin": f"{name}.linear"
            for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
        },
    },
    {
        "double_blocks": Stack(
            theirs="transformer_blocks",
            parts={
                **_ATTENTION, "img_mlp.0": "ff.linear_in", "img_mlp.2": "ff.linear_out",
                "txt_mlp.0": "ff_context.linear_in", "txt_mlp.2": "ff_context.linear_out",
            },
            fused=_QKV,
        ),
        "single_blocks": Stack(
            theirs="single_transformer_blocks",
            parts={"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out", **_NORMS},
        ),
    },
    _FINAL,
    called="Flux.2's transformer",
)  # fmt: skip
HUNYUAN = Release(
    {
        "img_in.proj": "x_embedder.proj", "final_layer.linear": "proj_out",
        "txt_in.input_embedder": "context_embedder.proj_in",
        **_embedders({"vector_in": "text_embedder"}, _LAYERS),
        **_embedders({"time_in": "timestep_embedder", "guidance_in": "guidance_embedder"}, _MLPS),
        **_embedders({"txt_in.t_embedder": "timestep_embedder"}, _MLPS, "context_embedder.time_text_embed"),
        **_embedders(
            {"txt_in.c_embedder": "text_embedder"}, ("linear_1", "linear_2"), "context_embedder.time_text_embed"
        ),
    },
    {
        "double_blocks": Stack(
            theirs="transformer_blocks",
            parts={
                "img_mod.linear": "norm1.linear", "txt_mod.linear": "norm1_context.linear",
                "img_attn_q_norm": "attn.norm_q", "img_attn_k_norm": "attn.norm_k", "img_attn_proj": "attn.to_out.0",
                "txt_attn_q_norm": "attn.norm_added_q", "txt_attn_k_norm": "attn.norm_added_k",
                "txt_attn_proj": "attn.to_add_out", "img_mlp.fc1": "ff.net.0.proj", "img_mlp.fc2": "ff.net.2",
                "txt_mlp.fc1": "ff_context.net.0.proj", "txt_mlp.fc2": "ff_context.net.2",
            },
            fused={"img_attn_qkv": OWN, "txt_attn_qkv": _ADDED},
        ),
        "single_blocks": Stack(
            theirs="single_transformer_blocks",
            parts={
                "modulation.linear": "norm.linear", "linear2": "proj_out",
                "q_norm": "attn.norm_q", "k_norm": "attn.norm_k",
            },
            wide=_LINEAR1,
        ),
        "txt_in.individual_token_refiner.blocks": Stack(
            theirs="context_embedder.token_refiner.refiner_blocks",
            parts={
                "norm1": "norm1", "norm2": "norm2", "self_attn_proj": "attn.to_out.0", "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2", "adaLN_modulation.1": "norm_out.linear",
            },
            fused={"self_attn_qkv": OWN},
        ),
    },
    _FINAL,
    called="HunyuanVideo's transformer",
)  # fmt: skip
SD3 = Release(
    {
        "context_embedder": "context_embedder", "x_embedder.proj": "pos_embed.proj", "final_layer.linear": "proj_out",
        "pos_embed": "pos_embed.pos_embed",
        **_embedders({"t_embedder": "timestep_embedder", "y_embedder": "text_embedder"}, _MLPS),
    },
    {
        "joint_blocks": Stack(
            theirs="transformer_blocks",
            parts={
                "x_block.attn.proj": "attn.to_out.0", "context_block.attn.proj": "attn.to_add_out",
                "x_block.attn.ln_q": "attn.norm_q", "x_block.attn.ln_k": "attn.norm_k",
                "context_block.attn.ln_q": "attn.norm_added_q", "context_block.attn.ln_k": "attn.norm_added_k",
                "x_block.attn2.proj": "attn2.to_out.0", "x_block.attn2.ln_q": "attn2.norm_q",
                "x_block.attn2.ln_k": "attn2.norm_k",
                "x_block.mlp.fc1": "ff.net.0.proj", "x_block.mlp.fc2": "ff.net.2",
                "context_block.mlp.fc1": "ff_context.net.0.proj", "context_block.mlp.fc2": "ff_context.net.2",
                "x_block.adaLN_modulation.1": "norm1.linear",
                "context_block.adaLN_modulation.1": "norm1_context.linear",
            },
            fused={
                "x_block.attn.qkv": OWN,
                "context_block.attn.qkv": _ADDED,
                "x_block.attn2.qkv": tuple(name.replace("attn.", "attn2.") for name in OWN),
            },
            halves="context_block.adaLN_modulation.1",
        )
    },
    _FINAL,
)  # fmt: skip
