"""The names that a UNet of diffusers' has in its own release (ldm, sgm), which adapters of SDXL have.

    down_blocks.1.attentions.0.*    input_blocks.4.1.*      up_blocks.0.resnets.1.conv1   output_blocks.1.0.in_layers.2
    mid_block.attentions.0.*        middle_block.1.*        time_embedding.linear_1       time_embed.0

`edits.dialects.latent_back` says how blocks are numbered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.dialects.latent_back import released

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "unet."
_END = ".weight"


def released_names(weights: Iterable[str]) -> dict[str, str]:
    """The module's name in the release, and the weight's name here, of all weights of a UNet."""
    names = [name for name in weights if name.endswith(_END)]
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return {own.removesuffix(_END): prefix + name for name, own in released(inner).items()}
