"""The names that a UNet of diffusers' has in its own release (ldm, sgm), which adapters of SDXL have.

    down_blocks.1.attentions.0.*    input_blocks.4.1.*      up_blocks.0.resnets.1.conv1   output_blocks.1.0.in_layers.2
    mid_block.attentions.0.*        middle_block.1.*        time_embedding.linear_1       time_embed.0

Blocks are numbered through all levels: a level of the way down has a block for each resnet and one for its downsampler,
one of the way up a block for each resnet. Source: as of `edits.dialects.latent`, which does the opposite.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.latent import RESNET, UNET

if TYPE_CHECKING:
    from collections.abc import Iterable

    Levels = dict[tuple[str, int], int]

_BLOCK = re.compile(
    r"(.*?)(down|up)_blocks\.([0-9]{1,4})\.(resnets|attentions|downsamplers|upsamplers)\.([0-9]{1,4})\.(.+)"
)
_MIDDLE = re.compile(r"(.*?)mid_block\.(resnets|attentions)\.([01])\.(.+)")
_LABELS = {f"{kind}_embedding.linear_{1 + n // 2}": f"label_emb.0.{n}" for kind in ("add", "class") for n in (0, 2)}
_OTHERS = {new: old for old, new in UNET.items()} | _LABELS
_INSIDE = {new: old for old, new in RESNET.items()}


def released_names(weights: Iterable[str]) -> dict[str, str]:
    """The module's name in the release, and the weight's name here, of all weights of a UNet."""
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    counts = _blocks(names, "resnets")
    attended = _blocks(names, "attentions")
    found = {_released(name, counts, attended): f"{name}.weight" for name in names}
    found.pop("", None)
    return found


def _blocks(names: Iterable[str], part: str) -> Levels:
    """How many of a part each level has."""
    counts: Levels = defaultdict(int)
    for name in names:
        match = _BLOCK.fullmatch(name)
        if match and match[4] == part:
            level = (match[2], int(match[3]))
            counts[level] = max(counts[level], int(match[5]) + 1)
    return counts


def _released(name: str, counts: Levels, attended: Levels) -> str:
    if match := _MIDDLE.fullmatch(name):
        place = 1 if match[2] == "attentions" else 2 * int(match[3])
        return f"middle_block.{place}.{_inside(match[2], match[4])}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return next((old for new, old in _OTHERS.items() if name == new or name.endswith(f".{new}")), "")
    way, level, part, number, rest = match[2], int(match[3]), match[4], int(match[5]), match[6]
    if any((way, before) not in counts for before in range(level + 1)):
        return ""
    sizes = [counts[way, before] for before in range(level + 1)]
    if way == "down":
        start = 1 + sum(sizes[:-1]) + level
        if part == "downsamplers":
            return f"input_blocks.{start + sizes[-1]}.0.op"
        return f"input_blocks.{start + number}.{0 if part == 'resnets' else 1}.{_inside(part, rest)}"
    start = sum(sizes[:-1])
    if part == "upsamplers":
        return f"output_blocks.{start + sizes[-1] - 1}.{2 if (way, level) in attended else 1}.conv"
    return f"output_blocks.{start + number}.{0 if part == 'resnets' else 1}.{_inside(part, rest)}"


def _inside(part: str, rest: str) -> str:
    return rest if part == "attentions" else _INSIDE.get(rest, rest)
