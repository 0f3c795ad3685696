"""The UNet, the ControlNet and the VAE of diffusers, translated to latent diffusion's names: the reverse of `latent`.

    down_blocks.1.resnets.0.conv1   → input_blocks.4.0.in_layers.2       blocks are numbered through all levels: a
    down_blocks.1.downsamplers.0    → input_blocks.6.0.op                downsampler counts as a block of its own,
    up_blocks.0.upsamplers.0        → output_blocks.2.1.conv             an upsampler belongs to the block before it
    decoder.up_blocks.0.resnets.0   → decoder.up.3.block.0
    mid_block.attentions.0.to_q [o, i] → mid.attn_1.q [o, i, 1, 1]       a convolution over one pixel

VAEs published with the first versions of diffusers call projections query, key, value and proj_attn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, inverse
from ckptconv.edits.dialects.latent import ATTENTION, MIDDLE, RESNET, UNET, VAE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]

_DEPRECATED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(rf"((?:en|de)coder\.mid_block\.attentions\.0)\.({'|'.join(_DEPRECATED)})\.(weight|bias)")

_STEMS, _RESNET, _PLACES = inverse(UNET), inverse(RESNET), inverse(MIDDLE)
_BLOCK = re.compile(r"(down|up)_blocks\.([0-9]{1,4})\.(resnets|attentions)\.([0-9]{1,4})\.(.+)")
_SAMPLER = re.compile(r"(down|up)_blocks\.([0-9]{1,4})\.(?:down|up)samplers\.0\.conv\.(weight|bias)")
_IN_MIDDLE = re.compile(r"mid_block\.((?:resnets|attentions)\.[0-9])\.(.+)")
_LABEL = re.compile(r"(?:add|class)_embedding\.linear_([12])\.(weight|bias)")
_ZERO = re.compile(r"controlnet_down_blocks\.([0-9]{1,4})\.(weight|bias)")

_VAE, _ATTENTION = inverse(VAE), inverse(ATTENTION)
_LEVEL = re.compile(
    r"(encoder\.down|decoder\.up)_blocks\.([0-9]{1,4})\."
    r"(?:resnets\.([0-9]{1,4})\.(\w+)|(down|up)samplers\.0\.conv)\.(weight|bias)"
)
_MID = re.compile(r"(encoder|decoder)\.mid_block\.(?:resnets\.([01])\.(\w+)|attentions\.0\.([\w.]+))\.(weight|bias)")
_ENDS = re.compile(
    r"(?:encoder|decoder)\.(conv_in|conv_norm_out|conv_out)\.(?:weight|bias)|(?:post_)?quant_conv\.(?:weight|bias)"
)


def current(name: str) -> str:
    """The name that diffusers uses today for a tensor of the VAE, if it has renamed it."""
    match = _OLD.fullmatch(name)
    return f"{match[1]}.{_DEPRECATED[match[2]]}.{match[3]}" if match else name


@dataclass(frozen=True, slots=True)
class _UNetHalf:
    """One half of a UNet: its blocks on the way down, or those on the way up.

    starts:  the number of each level's first block.
    ends:    the number of the block that is the level's sampler, or contains it.
    crossed: the levels whose last block has attention.
    """

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    crossed: frozenset[int]

    @classmethod
    def of(cls, way: str, names: Collection[str]) -> _UNetHalf:
        found = [match for name in names if (match := _BLOCK.fullmatch(name)) and match[1] == way]
        sampled = {int(match[2]) for name in names if (match := _SAMPLER.fullmatch(name)) and match[1] == way}
        blocks: dict[int, int] = {}
        for match in found:
            blocks[int(match[2])] = max(blocks.get(int(match[2]), 0), int(match[4]) + 1)
        crossed = {int(m[2]) for m in found if m[3] == "attentions" and int(m[4]) + 1 == blocks[int(m[2])]}
        starts, ends = {}, {}
        number = 1 if way == "down" else 0
        for level in range(max(blocks, default=-1) + 1):
            starts[level] = number
            number += blocks.get(level, 0)
            ends[level] = number if way == "down" else number - 1
            number += way == "down" and level in sampled
        return cls(starts, ends, frozenset(crossed))


def unet(tensors: Tensors) -> dict[str, Change]:
    """The changes that give the tensors of a UNet or ControlNet the names of the original releases."""
    return {name: Change.to(new) for name, new in released(tensors).items()}


def released(names: Collection[str]) -> dict[str, str]:
    """The same names, without tensors; those that no release has are left out."""
    ways = {way: _UNetHalf.of(way, names) for way in ("down", "up")}
    found = {name: _unet_name(name, ways) for name in names}
    return {name: new for name, new in found.items() if new}


def _unet_name(name: str, ways: Mapping[str, _UNetHalf]) -> str:
    stem, _, word = name.rpartition(".")
    if stem in _STEMS:
        return f"{_STEMS[stem]}.{word}"
    if match := _LABEL.fullmatch(name):
        return f"label_emb.0.{2 * int(match[1]) - 2}.{match[2]}"
    if match := _ZERO.fullmatch(name):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := _IN_MIDDLE.fullmatch(name):
        inner = _inside(match[1], match[2])
        return f"middle_block.{_PLACES[match[1]]}.{inner}" if match[1] in _PLACES and inner else ""
    if match := _SAMPLER.fullmatch(name):
        return _sampler(ways[match[1]], match[1], int(match[2]), match[3])
    match = _BLOCK.fullmatch(name)
    if match is None or not (inner := _inside(match[3], match[5])):
        return ""
    at = ways[match[1]].starts[int(match[2])] + int(match[4])
    return f"{'input' if match[1] == 'down' else 'output'}_blocks.{at}.{int(match[3] == 'attentions')}.{inner}"


def _sampler(way: _UNetHalf, called: str, level: int, word: str) -> str:
    if level not in way.ends:
        return ""
    if called == "down":
        return f"input_blocks.{way.ends[level]}.0.op.{word}"
    return f"output_blocks.{way.ends[level]}.{1 + (level in way.crossed)}.conv.{word}"


def _inside(part: str, rest: str) -> str:
    if part.startswith("attentions"):
        return rest
    stem, _, word = rest.rpartition(".")
    return f"{_RESNET[stem]}.{word}" if stem in _RESNET else ""


def vae(tensors: Tensors) -> dict[str, Change]:
    """The changes that give the tensors of a VAE the names of the original releases."""
    levels = [int(m[2]) for name in tensors if (m := _LEVEL.fullmatch(name)) and m[1] == "decoder.up"]
    found = {name: _vae_change(name, info, max(levels, default=0)) for name, info in tensors.items()}
    return {name: change for name, change in found.items() if change is not None}


def _vae_change(name: str, info: TensorInfo, last: int) -> Change | None:
    if match := _ENDS.fullmatch(name):
        return Change.to(name.replace("conv_norm_out", "norm_out"))
    if match := _MID.fullmatch(name):
        coder, block, part, projection, word = match.groups()
        if block:
            return Change.to(f"{coder}.mid.block_{int(block) + 1}.{_VAE.get(part, part)}.{word}")
        if projection not in _ATTENTION:
            return None
        pixel = (*info.shape, 1, 1) if len(info.shape) == 2 else None
        return Change.to(f"{coder}.mid.attn_1.{_ATTENTION[projection]}.{word}", shape=pixel)
    match = _LEVEL.fullmatch(name)
    if match is None:
        return None
    way, number, block, part, sampled, word = match.groups()
    level = int(number) if way == "encoder.down" else last - int(number)
    inner = f"block.{block}.{_VAE.get(part, part)}" if block else f"{sampled}sample.conv"
    return Change.to(f"{way}.{level}.{inner}.{word}")
