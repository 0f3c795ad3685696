"""The UNet, the ControlNet and the VAE of latent diffusion (ldm, sgm), translated to diffusers' names.

    input_blocks.4.0.in_layers.2     → down_blocks.1.resnets.0.conv1         a block that ends a level has an op
    input_blocks.4.1.*               → down_blocks.1.attentions.0.*
    output_blocks.2.1.conv           → up_blocks.0.upsamplers.0.conv         so does one that has a conv of its own
    encoder.down.1.block.0           → encoder.down_blocks.1.resnets.0
    decoder.up.3.block.0             → decoder.up_blocks.0.resnets.0         levels are counted from the other end
    encoder.mid.attn_1.q [o, i, 1, 1] → encoder.mid_block.attentions.0.to_q [o, i]

Blocks are numbered through all levels, so a level's number is only known if all blocks are there. label_emb.0 embeds
sizes and the pooled text in SDXL (add_embedding), and the picture's embedding in unCLIP (class_embedding); SDXL is
recognized by having several transformer layers in a block.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]

UNET = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out", "label_emb": "class_embedding",
    "middle_block_out.0": "controlnet_mid_block",
    "input_hint_block.0": "controlnet_cond_embedding.conv_in",
    "input_hint_block.14": "controlnet_cond_embedding.conv_out",
    **{f"input_hint_block.{2 * i + 2}": f"controlnet_cond_embedding.blocks.{i}" for i in range(6)},
}  # fmt: skip
RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_BLOCK = re.compile(r"(input|output)_blocks\.([0-9]{1,4})\.([0-9])\.(.+)")
_IN_MIDDLE = re.compile(r"middle_block\.([0-9])\.(.+)")
_ZERO = re.compile(r"zero_convs\.([0-9]{1,4})\.0\.(weight|bias)")
_LABEL = re.compile(r"label_emb\.0\.([02])\.(weight|bias)")

VAE = {"norm_out": "conv_norm_out", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_LEVEL = re.compile(
    r"(encoder\.down|decoder\.up)\.([0-9]{1,4})\.(?:block\.([0-9]{1,4})\.(\w+)|(down|up)sample\.conv)\.(weight|bias)"
)
_MID = re.compile(r"(encoder|decoder)\.mid\.(block_([12])|attn_1)\.(\w+)\.(weight|bias)")
_ENDS = re.compile(
    r"(?:encoder|decoder)\.(conv_in|norm_out|conv_out)\.(?:weight|bias)|(?:post_)?quant_conv\.(?:weight|bias)"
)


def unet(tensors: Tensors) -> dict[str, Change]:
    """The changes of the UNet's tensors. Raises EditError if blocks are missing, which are needed to count levels."""
    return _network(tensors, ("input_blocks", "output_blocks"))


def controlnet(tensors: Tensors) -> dict[str, Change]:
    """The changes of a ControlNet's tensors: the UNet's way down, followed by convolutions."""
    return _network(tensors, ("input_blocks",))


def _network(tensors: Tensors, ways: Sequence[str]) -> dict[str, Change]:
    for way in ways:
        _refuse_gaps(way, tensors)
    downs = _level_ends(tensors, re.compile(r"input_blocks\.([0-9]{1,4})\.0\.op\.weight"))
    ups = _level_ends(tensors, re.compile(r"output_blocks\.([0-9]{1,4})\.[12]\.conv\.weight"))
    label = "add" if any(".transformer_blocks.1." in name for name in tensors) else "class"
    found = {name: _unet_name(name, downs, ups, label) for name in tensors}
    return {name: Change.to(new) for name, new in found.items() if new}


def _refuse_gaps(way: str, tensors: Iterable[str]) -> None:
    pattern = re.compile(rf"{way}\.([0-9]{{1,4}})\..+")
    numbers = {int(match[1]) for name in tensors if (match := pattern.fullmatch(name))}
    if not numbers or len(numbers) != max(numbers) + 1:
        gap = min(set(range(len(numbers) + 1)) - numbers)
        raise EditError(
            f"--translate ldm: {way}.{gap} is missing, and blocks are counted to know their levels",
            hint="a --select of model.diffusion_model.* takes them all",
        )


def _level_ends(tensors: Iterable[str], pattern: re.Pattern[str]) -> list[int]:
    return sorted(int(match[1]) for name in tensors if (match := pattern.fullmatch(name)))


def _unet_name(name: str, downs: Sequence[int], ups: Sequence[int], label: str) -> str:
    stem, _, word = name.rpartition(".")
    if stem in UNET:
        return f"{UNET[stem]}.{word}"
    if match := _LABEL.fullmatch(name):
        return f"{label}_embedding.linear_{1 + int(match[1]) // 2}.{match[2]}"
    if match := _ZERO.fullmatch(name):
        return f"controlnet_down_blocks.{match[1]}.{match[2]}"
    if match := _IN_MIDDLE.fullmatch(name):
        part = MIDDLE.get(match[1], "")
        return f"mid_block.{part}.{_inside(part, match[2])}" if part else ""
    match = _BLOCK.fullmatch(name)
    return (
        _block_name(match[1], int(match[2]), match[3], match[4], downs if match[1] == "input" else ups) if match else ""
    )


def _block_name(way: str, number: int, place: str, rest: str, ends: Sequence[int]) -> str:
    level = bisect_left(ends, number)
    start = ends[level - 1] + 1 if level else 1 if way == "input" else 0
    block = f"{'down' if way == 'input' else 'up'}_blocks.{level}"
    kind, _, word = rest.partition(".")
    if way == "input" and kind == "op":
        return f"{block}.downsamplers.0.conv.{word}"
    if way == "output" and kind == "conv" and place != "0":
        return f"{block}.upsamplers.0.conv.{word}"
    part = f"{'resnets' if place == '0' else 'attentions'}.{number - start}"
    return f"{block}.{part}.{_inside(part, rest)}"


def _inside(part: str, rest: str) -> str:
    if part.startswith("attentions"):
        return rest
    stem, _, word = rest.rpartition(".")
    return f"{RESNET.get(stem, stem)}.{word}"


def vae(tensors: Tensors) -> dict[str, Change]:
    """The changes of the VAE's tensors. Raises EditError if the decoder's levels cannot be counted."""
    ups = {int(match[2]) for name in tensors if (match := _LEVEL.fullmatch(name)) and match[1] == "decoder.up"}
    if ups and (len(ups) != max(ups) + 1 or not any(name.startswith("decoder.conv_in.") for name in tensors)):
        raise EditError(
            "--translate ldm: a part of the decoder is missing, and its levels are counted from the last",
            hint="a --select of first_stage_model.* takes them all",
        )
    if not any(_LEVEL.fullmatch(name) for name in tensors):
        return {}  # by the names of what is around the levels it may as well be diffusers'
    found = {name: _vae_change(name, info, len(ups)) for name, info in tensors.items()}
    return {name: change for name, change in found.items() if change is not None}


def _vae_change(name: str, info: TensorInfo, levels: int) -> Change | None:
    if match := _ENDS.fullmatch(name):
        return Change.to(name.replace("norm_out", "conv_norm_out") if match[1] else name)
    if match := _MID.fullmatch(name):
        coder, _, block, part, word = match.groups()
        if block:
            return Change.to(f"{coder}.mid_block.resnets.{int(block) - 1}.{VAE.get(part, part)}.{word}")
        # What was a convolution over one pixel is a linear layer.
        flat = info.shape[:2] if info.shape[2:] in ((1,), (1, 1)) else None
        if part not in ATTENTION:
            return None
        new = f"{coder}.mid_block.attentions.0.{ATTENTION[part]}.{word}"
        return Change(names=(new,), shape=flat, unpack=flat is not None and info.dtype.kind == "block")
    match = _LEVEL.fullmatch(name)
    if match is None:
        return None
    way, number, block, part, sampled, word = match.groups()
    level = int(number) if way == "encoder.down" else levels - 1 - int(number)
    inner = f"resnets.{block}.{VAE.get(part, part)}" if block else f"{sampled}samplers.0.conv"
    return Change.to(f"{way}_blocks.{level}.{inner}.{word}")
