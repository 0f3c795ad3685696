"""The names that diffusers' UNets have in their own releases (ldm, sgm); adapters for SDXL use them.

    down_blocks.1.attentions.0.*    input_blocks.4.1.*      up_blocks.0.resnets.1.conv1   output_blocks.1.0.in_layers.2
    mid_block.attentions.0.*        middle_block.1.*        time_embedding.linear_1       time_embed.0

`edits.dialects.latent_back` explains how blocks are numbered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.latent_back import released

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "unet."
_END = ".weight"


def released_names(weights: Iterable[str]) -> dict[str, str]:
    """A UNet's weights: the module's name in the release → the weight's name here."""
    names = [name for name in weights if name.endswith(_END)]
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return {own.removesuffix(_END): prefix + name for name, own in released(inner).items()}
