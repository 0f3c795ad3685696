"""The transformers of Flux and of Stable Diffusion 3, with diffusers' names.

    double_blocks.0.img_attn.qkv [3w, w]   → transformer_blocks.0.attn.to_q, to_k, to_v
    single_blocks.0.linear1 [3w + m, w]    → single_transformer_blocks.0.attn.to_q, to_k, to_v, proj_mlp
    joint_blocks.0.context_block.attn.qkv  → transformer_blocks.0.attn.add_q_proj, add_k_proj, add_v_proj
    final_layer.adaLN_modulation.1         → norm_out.linear          shift and scale, which change places

Stable Diffusion 3's last block gives nothing back to the text: its context_block has shift and scale alone, which
change places as well. Sources: black-forest-labs/flux, model.py and modules/layers.py; Stability-AI/sd3-ref, mmdit.py;
diffusers' convert_flux_transformer_checkpoint_to_diffusers, convert_sd3_transformer_checkpoint_to_diffusers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, inverse
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]

_FINAL = "final_layer.adaLN_modulation.1"
_SCALED = (".query_norm", ".key_norm")
"""Flux' norms, whose weights it calls scales."""

_OWN, _ADDED = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_DOUBLE = {
    "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
    "img_attn.norm.query_norm": "attn.norm_q", "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q", "txt_attn.norm.key_norm": "attn.norm_added_k",
}  # fmt: skip
_SINGLE = {
    "modulation.lin": "norm.linear", "linear2": "proj_out", "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}  # fmt: skip
_JOINT = {
    "x_block.attn.proj": "attn.to_out.0", "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn.ln_q": "attn.norm_q", "x_block.attn.ln_k": "attn.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q", "context_block.attn.ln_k": "attn.norm_added_k",
    "x_block.attn2.proj": "attn2.to_out.0", "x_block.attn2.ln_q": "attn2.norm_q", "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.mlp.fc1": "ff.net.0.proj", "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj", "context_block.mlp.fc2": "ff_context.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear", "context_block.adaLN_modulation.1": "norm1_context.linear",
}  # fmt: skip
_CONTEXT = "context_block.adaLN_modulation.1"


@dataclass(frozen=True, slots=True)
class _Release:
    """What a release calls things, and what diffusers does.

    stems:  modules outside of the blocks.
    blocks: by the release's word for a stack of blocks, what diffusers calls it, and the modules in each.
    fused:  several projections in one, of which all have as many rows.
    """

    stems: Mapping[str, str]
    blocks: Mapping[str, tuple[str, Mapping[str, str]]]
    fused: Mapping[str, tuple[str, ...]]


def _embedders(called: Mapping[str, str], layers: tuple[str, str]) -> dict[str, str]:
    """The two linear layers of each embedder of times, texts and guidance."""
    return {
        f"{own}.{layer}": f"time_text_embed.{embedder}.linear_{number}"
        for own, embedder in called.items()
        for number, layer in enumerate(layers, 1)
    }


_FLUX = _Release(
    {
        "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
        **_embedders(
            {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"},
            ("in_layer", "out_layer"),
        ),
    },
    {"double": ("transformer_blocks", _DOUBLE), "single": ("single_transformer_blocks", _SINGLE)},
    {"img_attn.qkv": _OWN, "txt_attn.qkv": _ADDED},
)  # fmt: skip
_SD3 = _Release(
    {
        "context_embedder": "context_embedder", "x_embedder.proj": "pos_embed.proj", "final_layer.linear": "proj_out",
        **_embedders({"t_embedder": "timestep_embedder", "y_embedder": "text_embedder"}, ("mlp.0", "mlp.2")),
    },
    {"joint": ("transformer_blocks", _JOINT)},
    {
        "x_block.attn.qkv": _OWN,
        "context_block.attn.qkv": _ADDED,
        "x_block.attn2.qkv": tuple(name.replace("attn.", "attn2.") for name in _OWN),
    },
)  # fmt: skip
_BLOCK = re.compile(r"(double|single|joint)_blocks\.([0-9]{1,4})\.([\w.]+)\.(weight|bias|scale)")
_OF_DIFFUSERS = re.compile(r"((?:single_)?transformer_blocks)\.([0-9]{1,4})\.([\w.]+)\.(weight|bias)")
_LINEAR1 = (*_OWN, "proj_mlp")


def flux(tensors: Tensors) -> dict[str, Change]:
    """What becomes of the tensors of Flux' transformer. Raises EditError for a fused one of another shape."""
    return _translated(tensors, _FLUX)


def sd3(tensors: Tensors) -> dict[str, Change]:
    """What becomes of the tensors of Stable Diffusion 3's transformer. Raises as `flux`."""
    return {
        **_translated(tensors, _SD3),
        **{name: Change.to("pos_embed.pos_embed") for name in tensors if name == "pos_embed"},
    }


def _translated(tensors: Tensors, release: _Release) -> dict[str, Change]:
    found = {name: _change(name, info, tensors, release) for name, info in tensors.items()}
    return {name: change for name, change in found.items() if change is not None}


def _change(name: str, info: TensorInfo, tensors: Tensors, release: _Release) -> Change | None:
    stem, _, word = name.rpartition(".")
    if stem == _FINAL:
        return Change.swapped(f"norm_out.linear.{word}", name, info)
    if stem in release.stems:
        return Change.to(f"{release.stems[stem]}.{word}")
    match = _BLOCK.fullmatch(name)
    if match is None or match[1] not in release.blocks:
        return None
    kind, number, part, word = match.groups()
    stack, parts = release.blocks[kind]
    before, word = f"{stack}.{number}.", "weight" if word == "scale" else word
    if part in release.fused:
        return Change.cut([f"{before}{each}.{word}" for each in release.fused[part]], name, info)
    if kind == "single" and part == "linear1":
        width = _inputs(name, tensors)
        names = [f"{before}{each}.{word}" for each in _LINEAR1]
        return Change.cut(names, name, info, (width, width, width, (info.shape or (0,))[0] - 3 * width))
    if part not in parts:
        return None
    if part == _CONTEXT and _is_halves(name, tensors):
        return Change.swapped(f"{before}{parts[part]}.{word}", name, info)
    return Change.to(f"{before}{parts[part]}.{word}")


def flux_originals(tensors: Tensors) -> dict[str, Change]:
    """What Flux' release has for tensors of diffusers' transformer. Raises EditError for one that is of no halves."""
    return _originals(tensors, _FLUX)


def sd3_originals(tensors: Tensors) -> dict[str, Change]:
    """What the releases of Stable Diffusion 3 have, likewise."""
    return {
        **_originals(tensors, _SD3),
        **{name: Change.to("pos_embed") for name in tensors if name == "pos_embed.pos_embed"},
    }


def _originals(tensors: Tensors, release: _Release) -> dict[str, Change]:
    stems = inverse(release.stems)
    stacks = {stack: (kind, inverse(parts)) for kind, (stack, parts) in release.blocks.items()}
    found = {name: _original(name, info, tensors, stems, stacks, release) for name, info in tensors.items()}
    return {name: change for name, change in found.items() if change is not None}


def _original(
    name: str, info: TensorInfo, tensors: Tensors, stems: Mapping[str, str],
    stacks: Mapping[str, tuple[str, Mapping[str, str]]], release: _Release,
) -> Change | None:  # fmt: skip
    stem, _, word = name.rpartition(".")
    if stem == "norm_out.linear":
        return Change.swapped(f"{_FINAL}.{word}", name, info)
    if stem in stems:
        return Change.to(f"{stems[stem]}.{word}")
    match = _OF_DIFFUSERS.fullmatch(name)
    if match is None or match[1] not in stacks:
        return None
    kind, parts = stacks[match[1]]
    before, part = f"{kind}_blocks.{match[2]}.", match[3]
    fused = {"linear1": _LINEAR1} if kind == "single" else release.fused
    for whole, pieces in fused.items():
        if part in pieces:
            return Change.piece(f"{before}{whole}.{word}", pieces.index(part), len(pieces))
    if part not in parts:
        return None
    if parts[part] == _CONTEXT and _is_halves(name, tensors):
        return Change.swapped(f"{before}{_CONTEXT}.{word}", name, info)
    return Change.to(f"{before}{parts[part]}.{'scale' if parts[part].endswith(_SCALED) else word}")


def _is_halves(name: str, tensors: Tensors) -> bool:
    """Whether there are a shift and a scale alone for what normalizes the text, as in the last block."""
    return _rows(name, tensors) == 2 * _inputs(name, tensors)


def _matrix(name: str, tensors: Tensors) -> tuple[int, ...]:
    """The shape of the weight that a tensor is, or is the bias of. Raises EditError where there is none."""
    weight = f"{name.rpartition('.')[0]}.weight"
    if weight not in tensors or len(tensors[weight].shape) != 2:
        raise EditError(f"--translate ldm: {name!r} is not understood without a matrix {weight!r}", hint="select both")
    return tensors[weight].shape


def _inputs(name: str, tensors: Tensors) -> int:
    return _matrix(name, tensors)[1]


def _rows(name: str, tensors: Tensors) -> int:
    return _matrix(name, tensors)[0]
